"""Real photos and real requests, damaged at random; each damage can be made again from its seed."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from PIL import Image, ImageDraw

from app.encoders.preprocess import InputLimits
from tests.api.calls import ask, check_problem, found, lines, zip_file
from tests.fakes import FakeEncoder
from tests.photo_server import LOOPBACK, Names, PhotoServer, answer, may_fetch, redirect

SAMPLES = Path(__file__).parent.parent / "samples"
HOST = "photos.test"
BATCH = 50
WHOLE = (200, 201, 204)


def real_photos() -> list[bytes]:
    """Photos of the sample catalog as they are, and a small one in every format that is taken."""
    files = sorted((SAMPLES / "catalog").glob("*.jpg"), key=lambda file: file.stat().st_size)[:6]
    with Image.open(files[0]) as opened:
        photo = opened.convert("RGB").resize((96, 72))
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("JPEG", photo, {"progressive": True}),
        ("JPEG", photo.convert("CMYK"), {}),
        ("PNG", photo, {}),
        ("PNG", photo.quantize(16), {"transparency": 3}),
        ("PNG", photo.convert("I;16"), {}),
        ("WEBP", photo, {"lossless": True}),
        ("WEBP", photo, {"quality": 60}),
        ("AVIF", photo, {"speed": 10}),
        ("GIF", photo.convert("P"), {"save_all": True, "append_images": [_turned(photo, n) for n in range(3)]}),
        ("BMP", photo, {}),
        ("TIFF", photo, {"compression": "tiff_lzw"}),
        ("TIFF", photo, {"compression": "jpeg"}),
        ("TIFF", photo.convert("F"), {}),
    ]
    return [file.read_bytes() for file in files] + [_saved(image, kind, **how) for kind, image, how in kinds]


def _turned(photo: Image.Image, step: int) -> Image.Image:
    turned = photo.copy()
    ImageDraw.Draw(turned).ellipse((step * 20, 10, step * 20 + 30, 60), fill=(step * 80, 10, 200))
    return turned.convert("P")


def _saved(image: Image.Image, kind: str, **how: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    stream = io.BytesIO()
    image.save(stream, kind, **({"exif": exif} if kind in ("JPEG", "WEBP", "PNG") else {}), **how)
    return stream.getvalue()


def damaged(data: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    """Damages bytes in one to four ways."""
    for _ in range(chance.randint(1, 4)):
        data = chance.choice(WAYS)(data, chance, others)
    return data


def _flip(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _n in range(chance.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[_near_the_start(len(changed), chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _number(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    """Puts a number that programs trip over where one may be read: sizes, offsets, counts."""
    width = chance.choice((1, 2, 4, 8))
    value = chance.choice((0, 1, -1, 2 ** (8 * width - 1), 2 ** (8 * width - 1) - 1, 0x7F, 0xFFFF, 1000))
    at = _near_the_start(len(data), chance)
    order: Any = chance.choice(("big", "little"))
    number: bytes = (value % 2 ** (8 * width)).to_bytes(width, order)
    return data[:at] + number + data[at + width :]


def _cut(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _remove(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    at = _near_the_start(len(data), chance)
    return data[:at] + data[at + chance.choice((1, 2, 16, 500)) :]


def _repeat(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    at, length = _near_the_start(len(data), chance), chance.choice((1, 8, 100, 3000))
    return data[:at] + data[at : at + length] * chance.choice((2, 3, 20)) + data[at + length :]


def _graft(data: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    other = chance.choice(others)
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def _near_the_start(length: int, chance: random.Random) -> int:
    """Half of the damage goes to the first bytes, where headers are."""
    if chance.random() < 0.5:
        return min(int(chance.expovariate(1 / 60)), max(0, length - 1))
    return chance.randrange(max(1, length))


Way = Callable[[bytes, random.Random, Sequence[bytes]], bytes]
WAYS: tuple[Way, ...] = (_flip, _flip, _number, _number, _cut, _remove, _repeat, _graft)


@dataclass(frozen=True, slots=True)
class Request:
    """A POST, ready to be sent."""

    path: str
    body: bytes
    content_type: str


def whole_requests(photos: Sequence[bytes], url: bytes) -> list[Request]:
    """Requests that succeed: forms with every kind of field, both forms of a batch, JSON; photos uploaded and at a URL."""
    kind = "multipart/form-data; boundary=samesku"
    manifest = b"id,title,image,brand\nm0,carrots,a.jpg,Acme\nm1,tomatoes,b.png|a.jpg,\n"
    archive = zip_file({"a.jpg": photos[0], "b.png": photos[8]})[1]
    batch = _form({"limit": b"3", "catalog": b"default"}, {"manifest": ("m.csv", manifest), "photos": ("p.zip", archive)})
    stored = _form({}, {"manifest": ("m.csv", manifest), "photos": ("p.zip", archive)})
    query = {"title": b"carrots", "limit": b"3", "filter": b'{"brand": ["Acme", 1, true]}', "threshold": b"-0.5"}
    product = {"id": b"mutant", "title": "Möhren 500 g".encode(), "attributes": b'{"brand": "Acme", "price": 9.5}'}
    sides = {"left_image": ("l", photos[7]), "right_image": ("r", photos[9])}
    pair = _form({"left_title": b"a", "right_title": b"b"}, sides)
    asked = b'{"items": [{"id": "a", "title": "x", "image": null}, {"title": "y"}], "limit": 2}'
    items = b'{"items": [{"id": "mutant", "title": "x", "attributes": {"n": 1.5}}]}'
    remote = b'{"items": [{"id": "mutant", "title": "x", "image_url": "%s", "image_urls": ["%s"]}]}' % (url, url)
    table = b"id,title,image_url\nm0,carrots,%s\nm1,tomatoes,%s|%s\n" % (url, url, url)
    said = b'{"sides": [{"id": "good"}, {"title": "Carrots"}], "same": false, "by": "ana", "note": "n"}'
    return [
        Request("/match", _form(query, {"image": ("q.jpg", photos[0])}), kind),
        Request("/catalog", _form(product, {"image": ("p.png", photos[8])}), kind),
        Request("/compare", pair, kind),
        Request("/match/batch", batch, kind),
        Request("/catalog/batch", stored, kind),
        Request("/match/batch", asked, "application/json"),
        Request("/catalog/batch", items, "application/json"),
        Request("/feedback", said, "application/json"),
        Request("/match", _form(query | {"image_url": url}, {}), kind),
        Request("/catalog", _form(product | {"image_url": url}, {"image": ("p.png", photos[8])}), kind),
        Request("/catalog/batch", remote, "application/json"),
        Request("/catalog/batch", _form({}, {"manifest": ("m.csv", table)}), kind),
        Request("/match", b"title=carrots+%C3%A4&limit=3&catalog=default", "application/x-www-form-urlencoded"),
    ]


def _form(fields: dict[str, bytes], files: dict[str, tuple[str, bytes]]) -> bytes:
    body = b""
    for name, value in fields.items():
        body += b'--samesku\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value)
    for name, (filename, data) in files.items():
        disposition = b'form-data; name="%s"; filename="%s"' % (name.encode(), filename.encode())
        body += b"--samesku\r\nContent-Disposition: %s\r\nContent-Type: image/x\r\n\r\n%s\r\n" % (disposition, data)
    return body + b"--samesku--\r\n"


def mill_settings(server: PhotoServer) -> dict[str, Any]:
    """What the app must be made with: photos are small, and may be fetched."""
    names = Names({HOST: [LOOPBACK]})
    small = {"encoder": FakeEncoder(InputLimits(image_pixels=4_000_000)), "max_image_pixels": 4_000_000}
    return small | may_fetch(server, HOST) | {"resolve": names}


class Mill:
    """Sends damaged things and looks at the answers; so does the server that the client's app may fetch photos from."""

    def __init__(self, client: TestClient, server: PhotoServer) -> None:
        self.client, self.server, self.photos = client, server, real_photos()
        self.requests = whole_requests(self.photos, self._url("/whole").encode())
        self.answers = [
            *(answer(photo) for photo in self.photos),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
            % (len(self.photos[6]), self.photos[6]),
            redirect(self._url("/whole")),
        ]
        server.answers["/whole"] = answer(self.photos[6])
        for photo in self.photos:
            assert ask(client, "good", photo).status_code == 200
        self.good = {"title": "good", "image": self.photos[0]}
        made = client.post("/catalog", data={"id": "good", "title": "good"}, files={"image": ("g.jpg", self.photos[0])})
        assert made.status_code == 201
        for request in self.requests:
            assert self._send(request, request.body) in WHOLE, request.path

    def run(self, mutants: int, seed: int) -> Iterator[int]:
        """Sends so many; yields how many have been sent after each batch, when a good request has succeeded."""
        chance = random.Random(seed)
        for number in range(1, mutants + 1):
            kind = chance.random()
            if kind < 0.45:
                self._photo(chance)
            elif kind < 0.6:
                self._fetched(chance, f"seed {seed}, mutant {number}")
            else:
                request = chance.choice(self.requests)
                parts = [one.body for one in self.requests]
                self._send(request, damaged(request.body, chance, parts), f"seed {seed}, mutant {number}")
            if number % BATCH == 0 or number == mutants:
                assert "good" in found(ask(self.client, "good", self.photos[0]))
                yield number

    def _photo(self, chance: random.Random) -> None:
        image = damaged(chance.choice(self.photos), chance, self.photos)
        answer = ask(self.client, None, image)
        if answer.status_code != 200:
            check_problem(answer, [413, 422])

    def _fetched(self, chance: random.Random, name: str) -> None:
        self.server.requests.clear()
        self.server.answers["/mutant"] = damaged(chance.choice(self.answers), chance, self.answers)
        fetched = ask(self.client, None, image_url=self._url("/mutant"))
        if fetched.status_code != 200:
            check_problem(fetched, [413, 422])
        assert self.server.requests, name

    def _url(self, path: str) -> str:
        return f"http://{HOST}:{self.server.port}{path}"

    def _send(self, request: Request, body: bytes, name: str = "") -> int:
        headers = {"content-type": request.content_type}
        answer = self.client.post(request.path, content=body, headers=headers)
        assert answer.status_code < 500, f"{name}: {answer.text}"
        if answer.status_code >= 400:
            check_problem(answer, [400, 404, 413, 415, 422])
        elif "ndjson" in answer.headers["content-type"]:
            assert [one for one in lines(answer) if one.get("error", {"status": 0})["status"] >= 500] == [], name
        return answer.status_code
