"""Whatever a stranger sends: a problem that says what is wrong, nothing changed, and the next caller served."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from app.encoders.preprocess import InputLimits
from tests.api.calls import (
    BATCH_CALLS,
    RED,
    ask,
    check_problem,
    csv_file,
    jsonl_file,
    lines,
    put,
    without_time,
    zip_file,
)
from tests.api.conftest import Serve, Start, make_app
from tests.fakes import FakeEncoder, photo

BIG_NUMBER = "1" * 5000  # more digits than Python converts
SURROGATE = '"\\ud800"'


def huge_header() -> bytes:
    """A PNG of 30,000 x 30,000 pixels that holds none of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


BAD_PHOTOS: dict[str, tuple[bytes, int, str]] = {
    "not an image": (b"hello", 422, "invalid_image"),
    "an SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "invalid_image"),
    "truncated": (photo((1, 2, 3), (400, 400), "JPEG")[:300], 422, "invalid_image"),
    "1x1": (photo((1, 2, 3), (1, 1)), 422, "invalid_image"),
    "30000x30000": (huge_header(), 413, "payload_too_large"),
    "empty": (b"", 422, "invalid_image"),
}
BAD_TITLES: dict[str, str] = {
    "blank": " \t ",
    "empty": "",
    "100 kB": "a" * 100_000,
    "NUL": "a\0b",
    "invisible": "\u200b\u2060",
}
BAD_IDS = ["", " ", "a ", "a\n", "a\0b", "\u202ea", "x" * 201, "a/", "/a", ".", "..", "a/image", "a/matches"]
BAD_OPTIONS = [
    ("threshold", "1.5"),
    ("threshold", "-2"),
    ("threshold", "nan"),
    ("threshold", "inf"),
    ("threshold", "abc"),
    ("limit", "0"),
    ("limit", "-1"),
    ("limit", "100000"),
    ("limit", "1.5"),
    ("limit", BIG_NUMBER),
]
BAD_FILTERS = [
    "{",
    "[]",
    "null",
    '"a"',
    '{"a": null}',
    '{"a": []}',
    '{"a": {"b": 1}}',
    '{"a": [[1]]}',
    '{"a": NaN}',
    '{"a": 1e999}',
    '{"": 1}',
    f'{{"a": {SURROGATE}}}',
    f"{{{SURROGATE}: 1}}",
    '{"a": ' + BIG_NUMBER + "}",
    '{"a":' * 10_000,
    json.dumps({"a": list(range(101))}),
    json.dumps({str(n): n for n in range(65)}),
    json.dumps({"a": "x" * 501}),
]
BAD_ATTRIBUTES = [
    *(f for f in BAD_FILTERS if "[" not in f or f == "[]"),
    '{"a": [1]}',
    '{"a": "b\\u0000"}',
    '{"a": 9007199254740993}',
]
BAD_JSON: dict[str, Any] = {
    "no JSON": b"{",
    "no UTF-8": b'{"items": ["\xff"]}',
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "items not a list": b'{"items": {"id": "a"}}',
    "no items": b'{"catalog": "default"}',
    "empty batch": b'{"items": []}',
    "unknown field": b'{"items": [{"id": "a", "title": "x"}], "colour": 1}',
    "bad catalog": b'{"items": [{"id": "a", "title": "x"}], "catalog": "../x"}',
    "lone surrogate": b'{"items": [{"id": "a", "title": "\\ud800"}]}',
    "too deep": b'{"items": ' + b"[" * 100_000,
    "an id twice": b'{"items": [{"id": "a", "title": "x"}, {"id": "a", "title": "y"}]}',
    "a number too long": b'{"items": [{"id": "a", "title": "x", "attributes": {"n": ' + BIG_NUMBER.encode() + b"}}]}",
}
BAD_MATCH_JSON = [
    ("limit", 0),
    ("limit", 1001),
    ("limit", "x"),
    ("threshold", 2),
    ("limit", True),
    ("threshold", "x"),
    ("threshold", True),
    ("min_probability", False),
    ("filter", []),
    ("filter", {"a": []}),
]
BAD_FORMS: dict[str, dict[str, Any]] = {
    "nothing": {"catalog": (None, "default")},
    "manifest as text": {"manifest": (None, "id,title\na,b")},
    "empty CSV": {"manifest": ("m.csv", b"")},
    "only a header": {"manifest": ("m.csv", b"id,title\n")},
    "no usable column": {"manifest": ("m.csv", b"id,name\n1,x\n")},
    "Latin-1": {"manifest": ("m.csv", "id,title\na,\xe9".encode("latin-1"))},
    "only bad JSON lines": {"manifest": ("m.jsonl", b"[1]\n{\n")},
    "a column that is no text": {"manifest": csv_file("id,title,a\x07b", "a,x,y")},
    "an id twice in CSV": {"manifest": csv_file("id,title", "a,x", "b,y", "a,z")},
    "an id twice in JSON lines": {"manifest": jsonl_file({"id": 1, "title": "x"}, {"id": "1", "title": "y"})},
    "a broken id twice": {"manifest": jsonl_file({"id": "\ud800", "title": "x"}, {"id": "\ud800", "title": "y"})},
    "broken zip": {"manifest": csv_file("id,title", "a,x"), "photos": ("p.zip", b"PK\x03\x04 not really")},
    "zip cut off": {"manifest": csv_file("id,title", "a,x"), "photos": ("p.zip", zip_file({"a.png": RED})[1][:-30])},
    "photos as text": {"manifest": csv_file("id,title", "a,x"), "photos": (None, "a.png")},
    "unknown field": {"manifest": csv_file("id,title", "a,x"), "colour": (None, "red")},
}
TYPES = ["application/json", "text/plain", "", "image/png"]


@pytest.fixture(scope="module")
def shared_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One app with a product, for all of these tests: none of them may leave a trace."""
    app = make_app(tmp_path_factory.mktemp("shared"), None, max_batch_size=8, max_queue=64, ready_cache_s=0)
    with TestClient(app, raise_server_exceptions=False) as client:
        assert put(client, "p1", "red abc", RED).status_code == 201
        yield client


@pytest.fixture
def stocked(shared_app: TestClient) -> Iterator[TestClient]:
    """The app with a product; after the test nothing has changed, and good requests succeed."""
    before = state(shared_app)
    yield shared_app
    assert state(shared_app) == before
    assert ask(shared_app, "red abc", RED).status_code == 200
    assert shared_app.get("/readyz").status_code == 200


def state(client: TestClient) -> list[Any]:
    answer = without_time(ask(client, "red abc", RED, threshold=-1).json())
    return [answer, client.get("/catalog").json(), client.get("/model").json()["catalogs"]]


@pytest.mark.parametrize("title", [None, "a good title"])
@pytest.mark.parametrize(("data", "status", "code"), BAD_PHOTOS.values(), ids=BAD_PHOTOS.keys())
def test_a_bad_photo_is_refused(stocked: TestClient, data: bytes, status: int, code: str, title: str | None) -> None:
    check_problem(ask(stocked, title, data), [status], code)
    check_problem(put(stocked, "new", title, data), [status], code)
    check_problem(put(stocked, "p1", title, RED, data), [status], code)


@pytest.mark.parametrize("title", BAD_TITLES.values(), ids=BAD_TITLES.keys())
def test_a_bad_title_is_refused(stocked: TestClient, title: str) -> None:
    for image in (None, RED):
        check_problem(ask(stocked, title, image), [422], "invalid_title")
        check_problem(put(stocked, "p1", title, *([image] if image else [])), [422], "invalid_title")


def test_a_title_of_megabytes_is_refused(stocked: TestClient) -> None:
    check_problem(ask(stocked, "a" * 3_000_000, RED), [400, 413, 422])


@pytest.mark.parametrize("product_id", BAD_IDS, ids=ascii)
def test_a_bad_id_is_refused(stocked: TestClient, product_id: str) -> None:
    check_problem(put(stocked, product_id, "title"), [422], "invalid_input")
    for one in lines(stocked.post("/catalog/batch", json={"items": [{"id": product_id, "title": "title"}]})):
        assert one["error"]["code"] == "invalid_input"


@pytest.mark.parametrize("product_id", ["a/../b", "a/./b", "a/..", "../a", "a//b", "%2e%2e", "a%", "a?b=1", "a\\b", "a;b"])
def test_an_id_is_refused_or_found_at_its_own_address(serve: Serve, product_id: str) -> None:
    client = serve()  # TestClient decodes addresses twice
    made = put(client, product_id, "title", RED)
    if made.status_code == 422:
        return
    assert made.status_code == 201, made.text
    assert client.get(made.json()["image_urls"][0]).content == RED


@pytest.mark.parametrize(("field", "value"), BAD_OPTIONS, ids=lambda value: str(value)[:12])
def test_an_option_out_of_range_is_refused(stocked: TestClient, field: str, value: str) -> None:
    check_problem(ask(stocked, "red", RED, **{field: value}), [422], "invalid_input")
    check_problem(stocked.get("/catalog/p1/matches", params={field: value}), [422], "invalid_input")


@pytest.mark.parametrize("text", BAD_FILTERS, ids=lambda text: ascii(text[:16]))
def test_a_bad_filter_is_refused(stocked: TestClient, text: str) -> None:
    check_problem(ask(stocked, "red", filter=text), [422], "invalid_filter")
    form: dict[str, Any] = {"manifest": csv_file("id,title", "a,x"), "filter": (None, text)}
    check_problem(stocked.post("/match/batch", files=form), [422], "invalid_filter")
    if len(text) < 10_000:
        check_problem(stocked.get("/catalog/p1/matches", params={"filter": text}), [422], "invalid_filter")


@pytest.mark.parametrize("text", BAD_ATTRIBUTES, ids=lambda text: ascii(text[:16]))
def test_bad_attributes_are_refused(stocked: TestClient, text: str) -> None:
    check_problem(put(stocked, "p1", "red", attributes=text), [422], "invalid_input")


def test_neither_photo_nor_title_is_refused(stocked: TestClient) -> None:
    check_problem(ask(stocked, limit=5), [422], "empty_product")
    check_problem(put(stocked, "p1"), [422], "empty_product")


def test_too_many_photos_are_refused(stocked: TestClient) -> None:
    check_problem(put(stocked, "p1", None, *[RED] * 21), [422], "invalid_input")


@pytest.mark.parametrize("call", ["/match", "/catalog", *BATCH_CALLS])
@pytest.mark.parametrize("kind", TYPES)
def test_a_body_of_another_type_is_refused(stocked: TestClient, call: str, kind: str) -> None:
    if call in BATCH_CALLS and kind == "application/json":
        kind = "application/x-www-form-urlencoded"
    headers = {"content-type": kind} if kind else {}
    check_problem(
        stocked.post(call, content=b'{"id": "p1", "title": "x"}', headers=headers), [415], "unsupported_media_type"
    )


@pytest.mark.parametrize(
    ("call", "field"), [("/match", "titel"), ("/match", "id"), ("/catalog", "images"), ("/catalog", "limit")]
)
def test_an_unknown_field_is_refused_by_name(stocked: TestClient, call: str, field: str) -> None:
    fields = {"title": "x", field: "y"} | ({"id": "p1"} if call == "/catalog" else {})
    answer = stocked.post(call, data=fields)
    check_problem(answer, [422], "invalid_input")
    assert field in answer.json()["detail"]


@pytest.mark.parametrize("field", ["title", "threshold", "limit", "catalog"])
def test_a_repeated_field_is_refused(stocked: TestClient, field: str) -> None:
    values = {"title": "red", "threshold": "0.5", "limit": "3", "catalog": "default"}
    check_problem(stocked.post("/match", data=values | {field: [values[field]] * 2}), [422], "invalid_input")


@pytest.mark.parametrize("field", ["manifest", "catalog"])
def test_a_repeated_field_of_a_batch_form_is_refused(client: TestClient, field: str) -> None:
    fields: dict[str, Any] = {"manifest": csv_file("id,title", "p1,other"), "catalog": (None, "default")}
    form = [*fields.items(), (field, fields[field])]
    check_problem(client.post("/catalog/batch", files=form), [422], "invalid_input")
    assert client.get("/catalog").json()["total"] == 0


@pytest.mark.parametrize("call", ["/match", "/catalog"])
def test_an_image_sent_as_text_is_refused(stocked: TestClient, call: str) -> None:
    fields = {"title": "x", "image": base64.b64encode(RED).decode()} | ({"id": "p1"} if call == "/catalog" else {})
    check_problem(stocked.post(call, data=fields), [422], "invalid_input")


@pytest.mark.parametrize("charset", ["unicode_escape", "idna", "rot13", "nonsense"])
def test_an_odd_charset_is_no_server_error(stocked: TestClient, charset: str) -> None:
    for field in ("title", "catalog", "\\ud800"):
        body = f'--x\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n\\ud800.\xe9\r\n--x--\r\n'
        headers = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
        answer = stocked.post("/match", content=body.encode(), headers=headers)
        assert answer.status_code < 500, answer.text


@pytest.mark.parametrize("body", [b"", b"--x\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--", b"nonsense"])
@pytest.mark.parametrize("call", ["/match", "/catalog", *BATCH_CALLS])
def test_a_broken_form_is_refused(stocked: TestClient, call: str, body: bytes) -> None:
    answer = stocked.post(call, content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    check_problem(answer, [400, 422])


def test_a_form_without_a_boundary_is_refused(stocked: TestClient) -> None:
    for call in ("/match", "/catalog", *BATCH_CALLS):
        check_problem(stocked.post(call, content=b"x", headers={"content-type": "multipart/form-data"}), [400, 422])


def test_an_unknown_catalog_is_not_found(stocked: TestClient) -> None:
    check_problem(ask(stocked, "red", catalog="nowhere"), [404], "catalog_not_found")
    for path in ("/catalog", "/catalog/p1", "/catalog/p1/image", "/catalog/p1/matches"):
        check_problem(stocked.get(path, params={"catalog": "nowhere"}), [404], "catalog_not_found")
    check_problem(stocked.delete("/catalog/p1", params={"catalog": "nowhere"}), [404], "catalog_not_found")
    body = {"items": [{"title": "x"}], "catalog": "nowhere"}
    check_problem(stocked.post("/match/batch", json=body), [404], "catalog_not_found")


@pytest.mark.parametrize("name", ["../etc", "a b", ".hidden", "x" * 65, "\u00e9"])
def test_a_bad_catalog_name_is_refused(stocked: TestClient, name: str) -> None:
    check_problem(put(stocked, "new", "title", catalog=name), [422], "invalid_input")
    check_problem(ask(stocked, "title", catalog=name), [404, 422])


@pytest.mark.parametrize("query", ["cursor=x", "cursor=-1", "limit=0", "limit=1001", "limit=x", "cursor=" + "9" * 19])
def test_a_bad_page_is_refused(stocked: TestClient, query: str) -> None:
    check_problem(stocked.get(f"/catalog?{query}"), [422], "invalid_input")


@pytest.mark.parametrize(
    "path", ["/catalog/nobody", "/catalog/nobody/image", "/catalog/nobody/matches", "/catalog/%00", "/catalog/"]
)
def test_an_unknown_product_is_not_found(stocked: TestClient, path: str) -> None:
    check_problem(stocked.get(path), [404], "product_not_found")


def test_an_unknown_photo_is_not_found(stocked: TestClient) -> None:
    check_problem(stocked.get("/catalog/p1/image?position=1"), [404], "photo_not_found")
    check_problem(stocked.get("/catalog/p1/image?position=-1"), [422], "invalid_input")


def test_unknown_addresses_and_methods_are_problems_too(stocked: TestClient) -> None:
    check_problem(stocked.get("/nowhere"), [404], "not_found")
    check_problem(stocked.put("/match"), [405], "method_not_allowed")


# -- batches as a whole ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", BATCH_CALLS)
@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON.keys())
def test_a_bad_json_batch_is_refused_whole(stocked: TestClient, call: str, body: bytes) -> None:
    answer = stocked.post(call, content=body, headers={"content-type": "application/json"})
    check_problem(answer, [404, 422])
    if b'"y"' in body:
        assert answer.json()["code"] == "duplicate_ids"


@pytest.mark.parametrize(("field", "value"), BAD_MATCH_JSON, ids=str)
def test_a_match_batch_with_a_bad_option_is_refused_whole(stocked: TestClient, field: str, value: object) -> None:
    check_problem(stocked.post("/match/batch", json={"items": [{"title": "x"}], field: value}), [422])


@pytest.mark.parametrize("call", BATCH_CALLS)
@pytest.mark.parametrize("form", BAD_FORMS.values(), ids=BAD_FORMS.keys())
def test_a_bad_form_batch_is_refused_whole(stocked: TestClient, call: str, form: dict[str, Any]) -> None:
    answer = stocked.post(call, files=form)
    check_problem(answer, [422])
    if "twice" in json.dumps(answer.json()):
        assert answer.json()["code"] == "duplicate_ids"


@pytest.mark.parametrize("call", BATCH_CALLS)
def test_too_many_items_are_refused(start: Start, call: str) -> None:
    client = start(max_batch_items=3)
    items = [{"id": f"p{n}", "title": "x"} for n in range(4)]
    check_problem(client.post(call, json={"items": items}), [413], "payload_too_large")
    manifest = csv_file("id,title", *(f"p{n},x" for n in range(4)))
    check_problem(client.post(call, files={"manifest": manifest}), [413], "payload_too_large")
    assert client.get("/catalog").json()["total"] == 0
    assert len(lines(client.post(call, json={"items": items[:3]}))) == 3


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(start: Start, chunked: bool) -> None:
    client = start(max_request_bytes=20_000, max_batch_bytes=40_000)
    form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + b"\0" * 50_000
    body = b'{"items": [{"id": "a", "title": "' + b"x" * 50_000 + b'"}]}'
    for call in ("/match", "/catalog", *BATCH_CALLS):
        for kind, data in (("multipart/form-data; boundary=x", form), ("application/json", body)):
            content = iter([data[:100], data[100:]]) if chunked else data
            answer = client.post(call, content=content, headers={"content-type": kind})
            if call in BATCH_CALLS or kind != "application/json":
                check_problem(answer, [413], "payload_too_large")
            else:
                check_problem(answer, [413, 415])
    assert put(client, "p1", "red", RED).status_code == 201
    middle = {"items": [{"id": "p2", "title": "x" * 1500}, *({"id": f"q{n}", "title": "y" * 1500} for n in range(15))]}
    assert len(lines(client.post("/catalog/batch", json=middle))) == 16  # over one limit, under the other


def test_a_photo_over_the_limit_is_refused(start: Start) -> None:
    client = start(FakeEncoder(InputLimits(image_bytes=1000, image_pixels=10_000)), max_image_bytes=1000)
    noise = Image.frombytes("RGB", (40, 40), random.Random(1).randbytes(4800))
    stream = io.BytesIO()
    noise.save(stream, "PNG")
    check_problem(ask(client, None, stream.getvalue()), [413], "payload_too_large")
    check_problem(put(client, "p", None, photo((1, 2, 3), (101, 100))), [413], "payload_too_large")
    (line,) = lines(client.post("/match/batch", json={"items": [{"image": base64.b64encode(stream.getvalue()).decode()}]}))
    assert line["error"]["status"] == 413


# -- items of batches ------------------------------------------------------------------------------------------


def encrypted_zip() -> bytes:
    """A zip whose entry says that it needs a password."""
    data = bytearray(zip_file({"a.png": RED})[1])
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def newer_zip() -> bytes:
    """A zip that says it needs a newer unzip."""
    data = bytearray(zip_file({"a.png": RED})[1])
    data[data.index(b"PK\x01\x02") + 6] = 99
    return bytes(data)


def damaged_zip(compression: int) -> bytes:
    data = bytearray(zip_file({"a.png": RED * 3}, compression)[1])
    start = data.index(b"a.png") + 5
    data[start + 4 : start + 40] = b"\xff" * 36
    return bytes(data)


BAD_ZIPS: dict[str, bytes] = {
    "no such entry": zip_file({"b.png": RED})[1],
    "empty zip": zip_file({})[1],
    "a path out of the zip": zip_file({"../a.png": RED})[1],
    "password": encrypted_zip(),
    "damaged, deflate": damaged_zip(zipfile.ZIP_DEFLATED),
    "damaged, bzip2": damaged_zip(zipfile.ZIP_BZIP2),
    "damaged, lzma": damaged_zip(zipfile.ZIP_LZMA),
    "zip bomb": zip_file({"a.png": b"\0" * (21 << 20)})[1],
    "not a photo": zip_file({"a.png": b"hello"})[1],
    "a folder": zip_file({"a.png/": b""})[1],
}


def item_problem(answer: Any, index: int = 0) -> dict[str, Any]:
    problem: dict[str, Any] = lines(answer)[index]["error"]
    assert 400 <= problem["status"] < 500, problem
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["code"] != "internal_error"
    return problem


@pytest.mark.parametrize("call", BATCH_CALLS)
@pytest.mark.parametrize("archive", BAD_ZIPS.values(), ids=BAD_ZIPS.keys())
def test_a_photo_that_cannot_be_unpacked_costs_its_item(stocked: TestClient, call: str, archive: bytes) -> None:
    form = {"manifest": csv_file("id,title,image", "p1,other,a.png"), "photos": ("p.zip", archive)}
    item_problem(stocked.post(call, files=form))


@pytest.mark.parametrize("call", BATCH_CALLS)
def test_a_zip_for_a_newer_program_is_no_server_error(stocked: TestClient, call: str) -> None:
    form = {"manifest": csv_file("id,title,image", "p1,other,a.png"), "photos": ("p.zip", newer_zip())}
    check_problem(stocked.post(call, files=form), [422])


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a.png\0", "\ud800.png", "C:\\a.png"])
def test_a_photo_name_is_never_a_path(stocked: TestClient, name: str) -> None:
    archives: list[dict[str, Any]] = [{"photos": zip_file({"a.png": RED})}, {}]
    for archive in archives:
        form: dict[str, Any] = {"manifest": jsonl_file({"id": "p1", "title": "x", "image": name})} | archive
        item_problem(stocked.post("/catalog/batch", files=form))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb_is_never_unpacked(stocked: TestClient, compression: int) -> None:
    form = {
        "manifest": csv_file("id,image", "p1,a.png"),
        "photos": zip_file({"a.png": b"\0" * (96 << 20)}, compression),
    }
    tracemalloc.start()
    try:
        item_problem(stocked.post("/catalog/batch", files=form))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_no_damage_to_a_zip_is_a_server_error(client: TestClient) -> None:
    whole = zip_file({"a.png": RED, "b.png": photo((1, 2, 3))})[1]
    chance = random.Random(7)
    manifest = csv_file("id,image", "a,a.png", "b,b.png")
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        answer = client.post("/match/batch", files={"manifest": manifest, "photos": ("p.zip", bytes(data))})
        assert answer.status_code in (200, 422), answer.text
        if answer.status_code == 200:
            problems = [one.get("error", {"status": 0}) for one in lines(answer)]
            assert [p for p in problems if p["status"] >= 500] == []


BAD_ITEMS: dict[str, Any] = {
    "not an object": 7,
    "null": None,
    "unknown field": {"id": "p1", "title": "x", "colour": "red"},
    "number as id": {"id": 1, "title": "x"},
    "number as title": {"id": "p1", "title": 5},
    "nothing": {"id": "p1"},
    "not base64": {"id": "p1", "image": "data:image/png;base64,AAAA"},
    "not a photo": {"id": "p1", "image": "AAAA"},
    "NUL in title": {"id": "p1", "title": "a\0b"},
    "blank title": {"id": "p1", "title": "  "},
    "empty title": {"id": "p1", "title": ""},
    "nested attributes": {"id": "p1", "title": "x", "attributes": {"a": {"b": 1}}},
    "NUL in attribute": {"id": "p1", "title": "x", "attributes": {"a": "\0"}},
    "attributes as a list": {"id": "p1", "title": "x", "attributes": []},
    "images as text": {"id": "p1", "images": "AAAA"},
}


@pytest.mark.parametrize("call", BATCH_CALLS)
@pytest.mark.parametrize("item", BAD_ITEMS.values(), ids=BAD_ITEMS.keys())
def test_a_bad_item_costs_one_line(stocked: TestClient, call: str, item: Any) -> None:
    answer = stocked.post(call, json={"items": [{"id": "other", "title": "\0"}, item]})
    item_problem(answer, 1)
    assert len(lines(answer)) == 2


@pytest.mark.parametrize("call", BATCH_CALLS)
@pytest.mark.parametrize(
    "row",
    [
        '{"id": "\\ud800", "title": "\\ud800"}',
        '{"id": "p1", "title": "\\udfff"}',
        '{"id": "p1", "title": "x", "a": "\\ud800"}',
        '{"id": "p1", "title": "x", "\\ud800": 1, "b": {}}',
        '{"id": "p1", "title": "x", "image": "\\ud800"}',
        '{"id": "p1", "title": "x", "n": ' + BIG_NUMBER + "}",
        '{"id": "p1", "title": ["x"]}',
        "[" * 100_000,
        "7",
    ],
    ids=lambda row: ascii(row[:40]),
)
def test_a_bad_json_line_costs_one_line(stocked: TestClient, call: str, row: str) -> None:
    manifest = ("m.jsonl", f'{{"id": "first", "title": "\\u0000"}}\n{row}\n{{"id": "last", "title": "\\u0000"}}\n'.encode())
    answer = stocked.post(call, files={"manifest": manifest})
    read = lines(answer)
    assert [one["index"] for one in read] == [0, 1, 2]
    if not (call == "/match/batch" and '"title": "x"' in row and "error" not in read[1]):  # a query needs no attributes
        item_problem(answer, 1)


def test_items_without_an_id_and_with_an_empty_one_are_not_the_same(client: TestClient) -> None:
    answer = client.post("/match/batch", json={"items": [{"title": "x"}, {"id": "", "title": "y"}]})
    assert len(lines(answer)) == 2
