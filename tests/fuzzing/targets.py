"""One function a parser: takes any bytes, and fails if the parser does what it promises not to."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from app.api.archives import ArchiveLimits, PhotoArchive
from app.api.connections import ConnectionLimits, Connections
from app.api.http_get import FRAME_BYTES, FetchFailed, get
from app.api.middleware import WholeForms
from app.api.protocol import guarded_protocol
from app.api.schemas import BatchItemIn
from app.api.uploads import read_json_object
from app.core.photo_address import FetchRules, PhotoAddress
from app.core.product import check_attributes, check_filter, is_unicode
from app.core.quantities.read import read_facts
from app.encoders.preprocess import InputLimits, clean_title
from app.errors import AppError, ImageUrlRefused, InvalidInput, InvalidListings, InvalidTitle, PayloadTooLarge
from app.listings import Columns, csv_rows, jsonl_rows, read_row, with_checked_header
from tests.api.calls import RED, csv_file, jsonl_file, zip_file
from tests.photo_server import answer, redirect

Target = Callable[[bytes], None]

ZIP = ArchiveLimits(photo_bytes=4000, entries=20, ratio=50, unpacked_bytes=10_000)
RULES = FetchRules(True, (), ())
ADDRESS = PhotoAddress.read("https://shop.example/a/b.jpg", RULES)
HEADER_BYTES = 2000
EDGE = "samesku"


def zip_target(data: bytes) -> None:
    """No more is unpacked than the limits allow, whatever the archive says."""
    unpacked = 0
    try:
        archive = PhotoArchive(io.BytesIO(data), ZIP)
    except (InvalidInput, PayloadTooLarge):
        return
    for name in [*zipfile.ZipFile(io.BytesIO(data)).namelist(), "missing"]:
        with suppress(InvalidInput, PayloadTooLarge):
            unpacked += len(archive.read(name))
    assert unpacked <= ZIP.unpacked_bytes


def manifest_target(data: bytes) -> None:
    """Each row is a listing or says what is wrong with it; the first byte says which kind of table it is."""
    name, columns = ("m.csv" if data[:1] < b"\x80" else "m.jsonl"), Columns(image_url="image_url")
    text = io.TextIOWrapper(io.BytesIO(data[1:]), "utf-8-sig", newline="")
    try:
        rows = list(with_checked_header(csv_rows(text, name), columns, name) if name == "m.csv" else jsonl_rows(text, name))
    except InvalidListings:
        return
    for number, row in enumerate(rows, 1):
        read_row(number, row, columns, lambda _: RED)


def title_target(data: bytes) -> None:
    """A clean title is text that a database can store, and the quantities in it are read."""
    try:
        clean = clean_title(data.decode("utf-8", "surrogatepass" if data[:1] == b"\xed" else "replace"), InputLimits())
    except (InvalidTitle, UnicodeDecodeError):
        return
    assert is_unicode(clean)
    assert "\0" not in clean
    assert clean == clean.strip()
    read_facts(clean)


def address_target(data: bytes) -> None:
    """What is read has one meaning, also where it is written down again, and leads where it could be named."""
    text = data.decode("latin-1")
    for read in (partial(PhotoAddress.read, text, RULES), partial(ADDRESS.redirected, text, RULES)):
        try:
            one = read()
        except ImageUrlRefused:
            continue
        assert one.port in RULES.ports
        assert f"{one.authority}{one.target}".isascii()
        assert f"{one.authority}{one.target}".isprintable()
        assert not {" ", "\\", "@"} & set(one.authority)
        assert PhotoAddress.read(f"{one.scheme}://{one.authority}{one.target}", RULES) == one


class _Sent:
    """The writing side of a connection that nobody is at."""

    def write(self, data: bytes) -> None:
        assert data.count(b"\r\n\r\n") == 1

    async def drain(self) -> None:
        return


def answer_target(data: bytes) -> None:
    """An answer is a photo of no more bytes than came, a redirect, or no photo."""

    async def fetch() -> bytes | str:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await get(reader, cast("asyncio.StreamWriter", _Sent()), ADDRESS, 3000)

    try:
        found = _run(fetch())
    except (FetchFailed, PayloadTooLarge):
        return
    assert len(found) <= min(3000, len(data)) if isinstance(found, bytes) else len(found) <= FRAME_BYTES


def form_target(data: bytes) -> None:
    """A form is read whole, with every file that it began, or refused, however its bytes arrive."""
    step = 1 + data[0] * 4 if data else 1
    body = data[1:]
    pieces = [body[at : at + step] for at in range(0, len(body), step)] or [b""]

    async def receive() -> Message:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        parser = MultiPartParser(request.headers, request.stream(), max_files=4, max_fields=8, max_part_size=500)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise HTTPException(400) from error
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        await form.close()
        assert len(files) == len(parser._files_to_close_on_error) <= 4
        assert len(form.multi_items()) <= 12

    async def send(message: Message) -> None:
        raise AssertionError("nobody answers here")

    kind = f"multipart/form-data; boundary={EDGE}".encode()
    scope: Scope = {"type": "http", "method": "POST", "path": "/match", "headers": [(b"content-type", kind)]}
    _run(_refused(WholeForms(app)(scope, receive, send), 400))


class _Wire:
    """The transport of a connection; what is written is counted."""

    def __init__(self) -> None:
        self.closed, self.written = False, 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        return

    resume_reading = pause_reading

    def set_protocol(self, protocol: object) -> None:
        raise AssertionError("the service speaks HTTP alone")


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body", False):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def protocol_target(data: bytes) -> None:
    """Bytes of any kind raise nothing, and headers without end close the connection."""
    step = 1 + data[0] * 8 if data else 1

    async def talk() -> None:
        guarded = guarded_protocol(HEADER_BYTES, Connections(ConnectionLimits()))
        config = Config(_echo, log_config=None, access_log=False, ws="none", http=guarded)
        config.load()
        wire, tasks = _Wire(), set(asyncio.all_tasks())
        protocol = guarded(config, ServerState(), {})
        protocol.connection_made(cast("asyncio.Transport", wire))
        for at in range(1, len(data), step):
            if wire.closed:
                break
            protocol.data_received(data[at : at + step])
            assert vars(protocol).get("_pending", 0) <= HEADER_BYTES or wire.closed
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        await asyncio.gather(*(set(asyncio.all_tasks()) - tasks))

    _run(talk())


def json_target(data: bytes) -> None:
    """Attributes, filters and items are read, or it is said what is wrong with them."""
    text = data.decode("utf-8", "replace")
    readings: Iterable[Callable[[], object]] = (
        lambda: check_attributes(read_json_object(text, "attributes")),
        lambda: check_filter(read_json_object(text, "filter")),
        lambda: BatchItemIn.read(json.loads(text)).photos(),
    )
    for read in readings if _is_json(text) else ():
        with suppress(AppError):
            read()


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


async def _refused(call: Awaitable[None], status: int) -> None:
    """Waits for a call that may be refused with one status, and with no other."""
    refused = status
    try:
        await call
    except HTTPException as error:
        refused = error.status_code
    assert refused == status


_loops: list[asyncio.AbstractEventLoop] = []


def _run(one: Any) -> Any:
    if not _loops:
        _loops.append(asyncio.new_event_loop())
    return _loops[0].run_until_complete(one)


def close() -> None:
    """Closes what the targets keep."""
    while _loops:
        _loops.pop().close()


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """A target and what it starts from."""

    target: Target
    seeds: tuple[bytes, ...]


def _part(name: str, data: bytes, more: str = "") -> bytes:
    return f'--{EDGE}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + data + b"\r\n"


_FORM = _part("title", b"carrots") + _part("image", RED, '; filename="a.png"') + f"--{EDGE}--\r\n".encode()
_CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nabcde\r\n3\r\nfgh\r\n0\r\nA: b\r\n\r\n"
_GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Some: thing\r\n\r\n"
_POST = b"POST /match HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nabcde\r\n0\r\nA: b\r\n\r\n"

TARGETS: Mapping[str, Fuzzed] = {
    "zip": Fuzzed(zip_target, (zip_file({"a.png": RED, "b/c.png": b"\0" * 3000})[1], zip_file({"a": b""}, 0)[1])),
    "manifest": Fuzzed(
        manifest_target,
        (
            b"\0" + csv_file("id,title,image,image_url,brand", '"a",b,x.png|y.png,http://x,"c""d"', "e,f,,,")[1],
            b"\xff"
            + jsonl_file({"id": "a", "title": "b", "image": ["x"], "n": 1.5, "t": True}, {"id": 2, "title": None})[1],
        ),
    ),
    "title": Fuzzed(
        title_target,
        tuple(
            one.encode()
            for one in (
                "Möhren 500 g x 2",
                "\\xe2\\x98\\x85 sale &amp; &#9733; 1,5kg",
                "2x250ml 3.000 pcs 10%",
                "ＡＢ\u200b １２ｇ ½ kg",
                'iPhone 12 Pro 256GB 6.1"',
                "ร้องเท้า 38-42",
                "12pcs/box M8x1.25x20mm",
                "A4 80gsm 500's",
            )
        ),
    ),
    "address": Fuzzed(
        address_target,
        (
            b"https://shop.example:443/a.jpg?x=1#y",
            b"http://[2606:4700::1111]/",
            b"//8.8.8.8/a",
            b"../b.jpg",
            b"http://0x7f.1/",
        ),
    ),
    "answer": Fuzzed(
        answer_target, (answer(RED), _CHUNKS, redirect("/b"), b"HTTP/1.1 103 A\r\n\r\nHTTP/1.0 200 OK\r\n\r\nabc")
    ),
    "form": Fuzzed(form_target, (b"\x01" + _FORM, b"\xff" + _FORM)),
    "protocol": Fuzzed(protocol_target, (b"\x01" + _GET + _POST, b"\xff" + _POST + _GET, b"\x10" + _GET * 3)),
    "json": Fuzzed(
        json_target, (b'{"a": [1, "b", true], "c": 1e5}', b'{"id": "a", "title": "b", "images": ["AAAA"], "attributes": {}}')
    ),
}
