"""What is sent to exhaust memory, time or disk: refused with a problem, and the next caller is served."""

from __future__ import annotations

import io
import json
import socket
import struct
import threading
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api.archives import ENTRY_BYTES, SMALL_BYTES
from app.api.server import make_server
from tests.api.calls import BATCH_CALLS, RED, ask, check_problem, csv_file, found, jsonl_file, lines, put, zip_file
from tests.api.conftest import PATIENCE_S, Start, make_app

FORM_CALLS = ("/match", "/catalog", "/compare", *BATCH_CALLS)
DEEP = '{"a":' * 500 + "1" + "}" * 500
DEEPER = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def served(client: TestClient) -> Iterator[TestClient]:
    """An app that still answers after the test, and holds what it held before."""
    assert put(client, "p1", "red abc", RED).status_code == 201
    yield client
    assert found(ask(client, "red abc", RED)) == ["p1"]
    assert client.get("/catalog").json()["total"] == 1


# -- zips ------------------------------------------------------------------------------------------------------


def zipped(client: TestClient, archive: bytes, *names: str) -> Any:
    """POST /match/batch with the photos of a zip."""
    manifest = csv_file("id,image", *(f"q{n},{name}" for n, name in enumerate(names)))
    return client.post("/match/batch", files={"manifest": manifest, "photos": ("p.zip", archive)})


def test_more_entries_than_the_limit_are_refused(start: Start) -> None:
    client = start(max_zip_entries=20)
    check_problem(zipped(client, zip_file({f"{n}.png": RED for n in range(21)})[1], "0.png"), [413], "payload_too_large")
    (line,) = lines(zipped(client, zip_file({f"{n}.png": RED for n in range(20)})[1], "0.png"))
    assert "error" not in line


def test_a_table_of_contents_is_not_read_if_it_is_too_long(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the zip says of its own size is a lie here; what counts is what would be read."""
    client = start(max_zip_entries=1)
    longest = SMALL_BYTES + ENTRY_BYTES
    archive = zip_file({f"{'x' * 60_000}{n}": b"" for n in range(20)})[1]
    assert len(archive) > 2 * longest
    monkeypatch.setattr("zipfile.ZipInfo.__init__", lambda *_: pytest.fail("an entry was made"))
    check_problem(zipped(client, archive, "a.png"), [413], "payload_too_large")


def test_a_photo_that_is_packed_too_well_is_refused(served: TestClient) -> None:
    bomb = zip_file({"bomb.png": b"\0" * (2 << 20), "good.png": RED})[1]
    bad, good = lines(zipped(served, bomb, "bomb.png", "good.png"))
    assert (bad["error"]["status"], bad["error"]["code"]) == (413, "payload_too_large")
    assert "packed" in bad["error"]["detail"]
    assert good["matches"][0]["id"] == "p1"


def test_a_size_that_is_a_lie_is_not_believed(served: TestClient) -> None:
    archive = bytearray(zip_file({"bomb.png": b"\0" * (30 << 20)})[1])
    entry = archive.index(b"PK\x01\x02")
    archive[entry + 24 : entry + 28] = struct.pack("<I", 1000)
    archive[22:26] = struct.pack("<I", 1000)
    (bad,) = lines(zipped(served, bytes(archive), "bomb.png"))
    assert 400 <= bad["error"]["status"] < 500


def test_the_same_bomb_many_times_is_unpacked_a_few_times(start: Start) -> None:
    client = start(max_unpacked_bytes=3 * 100_000)
    answers = lines(zipped(client, zip_file({"a.png": b"\0" * 100_000})[1], *["a.png"] * 10))
    codes = [one["error"]["code"] for one in answers]
    assert sorted(codes) == ["invalid_image"] * 3 + ["payload_too_large"] * 7


def test_overlapping_entries_unpack_to_no_more(start: Start) -> None:
    """A table of contents whose entries all point at one and the same file."""
    one = zip_file({"a": b"\0" * 60_000})[1]
    at = one.index(b"PK\x01\x02")
    entry, end = one[at : one.index(b"PK\x05\x06")], one[one.index(b"PK\x05\x06") :]
    many = b"".join(entry[:-1] + bytes([97 + n]) for n in range(20))
    end = end[:8] + struct.pack("<HHII", 20, 20, len(many), at) + end[20:]
    client = start(max_unpacked_bytes=100_000)
    answers = lines(zipped(client, one[:at] + many + end, *(chr(97 + n) for n in range(20))))
    assert all(400 <= answer["error"]["status"] < 500 for answer in answers)


@pytest.mark.parametrize(
    "name", ["../../../tmp/samesku-evil.png", "/tmp/samesku-evil.png", "a/../../b.png", "C:\\evil.png", "con"]
)
def test_a_name_in_a_zip_is_no_place_on_the_disk(served: TestClient, name: str, tmp_path: Path) -> None:
    before = {path for path in tmp_path.rglob("*") if path.suffix == ".png"}
    (line,) = lines(zipped(served, zip_file({name: RED})[1], name))
    assert line["matches"][0]["id"] == "p1"  # it is a name like any other
    assert not Path("/tmp/samesku.png").exists()
    assert {path for path in tmp_path.rglob("*") if path.suffix == ".png"} == before


def test_a_zip_of_a_zip_is_no_photo(served: TestClient) -> None:
    inner = zip_file({"a.png": b"\0" * (5 << 20)})[1]
    (bad,) = lines(zipped(served, zip_file({"a.zip": inner})[1], "a.zip"))
    assert bad["error"]["code"] == "invalid_image"


def test_a_link_in_a_zip_is_its_text(served: TestClient) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    (bad,) = lines(zipped(served, stream.getvalue(), "link.png"))
    assert bad["error"]["code"] == "invalid_image"


def test_a_name_that_is_in_a_zip_twice_is_nobody_s_guess(served: TestClient) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings(action="ignore"):
        for name, data in (("a.png", RED), ("a.png", b"other"), ("b.png", RED)):
            archive.writestr(name, data)
    bad, good = lines(zipped(served, stream.getvalue(), "a.png", "b.png"))
    assert bad["error"]["code"] == "invalid_input"
    assert "more than once" in bad["error"]["detail"]
    assert good["matches"][0]["id"] == "p1"


def with_entry(archive: bytes, extra: bytes = b"", **fields: int) -> bytes:
    """A zip of one entry whose table of contents says something else; `extra` goes behind the name."""
    at, end = archive.index(b"PK\x01\x02"), archive.index(b"PK\x05\x06")
    entry = bytearray(archive[at:end])
    places = {"packed": (20, "<I"), "size": (24, "<I"), "flags": (8, "<H"), "disk": (34, "<H"), "offset": (42, "<I")}
    for name, value in fields.items():
        struct.pack_into(places[name][1], entry, places[name][0], value)
    struct.pack_into("<H", entry, 30, len(extra))
    entry += extra
    tail = bytearray(archive[end:])
    struct.pack_into("<I", tail, 12, len(entry))
    return archive[:at] + bytes(entry) + bytes(tail)


def zip64(*sizes: int) -> bytes:
    """The extra field that holds what does not fit into 32 bits: size, packed size, offset."""
    return struct.pack(f"<HH{len(sizes)}Q", 1, 8 * len(sizes), *sizes)


FULL = 0xFFFFFFFF
LYING: dict[str, dict[str, Any]] = {
    "8 EiB": {"size": FULL, "extra": zip64(2**63 - 1)},
    "16 EiB, packed into as many": {"size": FULL, "packed": FULL, "extra": zip64(2**64 - 1, 2**64 - 1)},
    "far away": {"offset": FULL, "extra": zip64(2**62)},
    "before the start": {"offset": FULL, "extra": zip64(2**64 - 1)},
    "large numbers that are not there": {"size": FULL, "packed": FULL, "extra": b""},
    "half a number": {"size": FULL, "extra": zip64(5)[:-4]},
    "an extra field that is longer than itself": {"extra": struct.pack("<HH", 1, 60_000)},
    "on another disk": {"disk": 7},
    "encrypted": {"flags": 1},
    "strongly encrypted": {"flags": 0x41},
    "a patch": {"flags": 0x20},
    "packed into nothing": {"packed": 0},
    "longer than the file": {"packed": 10_000_000, "size": 10_000_000},
}


@pytest.mark.parametrize("fields", LYING.values(), ids=LYING)
def test_a_table_of_contents_that_lies_is_no_server_error(served: TestClient, fields: dict[str, Any]) -> None:
    archive = with_entry(zip_file({"a.png": RED})[1], **fields)
    answer = zipped(served, archive, "a.png")
    if answer.status_code != 200:
        check_problem(answer, [422], "invalid_input")
    elif "error" in (line := lines(answer)[0]):
        assert line["error"]["status"] in (413, 422)
    else:
        assert line["matches"][0]["id"] == "p1"  # it lied about what nobody needs


def test_a_zip64_end_that_lies_is_no_server_error(served: TestClient) -> None:
    archive = zip_file({"a.png": RED})[1]
    at = archive.index(b"PK\x05\x06")
    for entries, size, start in ((2**63, 46, 0), (1, 2**63, 0), (1, 46, 2**63), (2**64 - 1, 2**64 - 1, 2**64 - 1)):
        end = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, entries, entries, size, start)
        for where in (at, 2**63):
            locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, where, 1)
            tail = archive[at : at + 8] + b"\xff" * 12 + archive[at + 20 :]
            check_problem(zipped(served, archive[:at] + end + locator + tail, "a.png"), [413, 422])


@pytest.mark.parametrize(
    "name", ["f\xfcr.png", "\u00e9\u0301.png", "\u202egnp.a", "a\nb.png", "a" * 5000, " ", "a/", "\u212b"]
)
def test_odd_names_in_a_zip_are_names(served: TestClient, name: str) -> None:
    manifest = jsonl_file({"title": "red abc", "image": name})
    (line,) = lines(served.post("/match/batch", files={"manifest": manifest, "photos": zip_file({name: RED})}))
    assert "matches" in line or line["error"]["status"] == 422


def test_a_name_that_claims_to_be_utf8_and_is_not(served: TestClient) -> None:
    archive = zip_file({"f\xfcr.png": RED})[1].replace("f\xfcr".encode(), b"f\xff\xfe\xfd"[:4])
    check_problem(zipped(served, archive, "a.png"), [422], "invalid_input")


# -- manifests and JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", BATCH_CALLS)
def test_manifests_and_json_bodies_have_a_limit_of_their_own(start: Start, call: str) -> None:
    client = start(max_manifest_bytes=1000)
    rows = ["id,title", *(f"p{n},{'x' * 90}" for n in range(20))]
    check_problem(client.post(call, files={"manifest": csv_file(*rows)}), [413], "payload_too_large")
    items = [{"id": str(n), "title": "x" * 90} for n in range(20)]
    check_problem(client.post(call, json={"items": items}), [413], "payload_too_large")
    assert len(lines(client.post(call, json={"items": items[:3]}))) == 3


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_a_manifest_is_read_no_further_than_the_limit(start: Start, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client, read = start(max_batch_items=5), []
    for reader in ("csv_rows", "jsonl_rows"):
        whole = getattr(__import__("app.listings", fromlist=[reader]), reader)

        def counted(*arguments: Any, whole: Any = whole) -> Iterator[Any]:
            for row in whole(*arguments):
                read.append(row)
                yield row

        monkeypatch.setattr(f"app.api.uploads.{reader}", counted)
    rows = [{"id": str(n), "title": "x"} for n in range(1000)]
    text = csv_file("id,title", *(f"{n},x" for n in range(1000)))[1] if name == "m.csv" else jsonl_file(*rows)[1]
    check_problem(client.post("/match/batch", files={"manifest": (name, text)}), [413], "payload_too_large")
    assert len(read) == 6


def test_a_table_of_very_many_columns_is_refused_in_few_words(served: TestClient) -> None:
    header = ",".join(["id", "title", *(f"column{n}" for n in range(100_000))])
    answer = served.post("/catalog/batch", files={"manifest": csv_file(header, header)})
    check_problem(answer, [422], "invalid_listings")
    assert len(answer.content) < 1000


@pytest.mark.parametrize("text", [DEEP, DEEPER], ids=["deep", "deeper"])
def test_deeply_nested_json_is_refused(served: TestClient, text: str) -> None:
    kind = {"content-type": "application/json"}
    for call in (*BATCH_CALLS, "/feedback"):
        check_problem(served.post(call, content=text, headers=kind), [413, 422])
        check_problem(served.post(call, content=f'{{"items": [{text}]}}', headers=kind), [413, 422])
    check_problem(ask(served, "red", filter=text), [422], "invalid_filter")
    check_problem(put(served, "p2", "red", attributes=text), [422], "invalid_input")
    answer = served.post(
        "/match/batch", files={"manifest": ("m.jsonl", f'{{"title": {text}}}\n{{"title": "abc"}}'.encode())}
    )
    bad, good = lines(answer)
    assert bad["error"]["status"] == 422
    assert "error" not in good


def test_json_of_some_depth_costs_its_item(served: TestClient) -> None:
    nested: Any = "x"
    for _ in range(100):
        nested = [nested]
    items = [{"id": "a", "title": nested}, {"id": "b", "title": "\0", "attributes": {"a": nested}}, nested]
    for answer in lines(served.post("/catalog/batch", json={"items": items})):
        assert answer["error"]["status"] == 422


def test_feedback_of_megabytes_is_refused(served: TestClient) -> None:
    body = {"sides": [{"id": "p1"}, {"title": "x"}], "same": True, "by": "a", "note": "x" * 300_000}
    check_problem(served.post("/feedback", json=body), [413], "payload_too_large")


# -- forms -----------------------------------------------------------------------------------------------------


def parts(count: int, kind: str) -> tuple[bytes, str]:
    """A form with many parts, and its content type."""
    if kind == "urlencoded":
        return "&".join(f"f{n}=x" for n in range(count)).encode(), "application/x-www-form-urlencoded"
    name = 'name="image"; filename="a.png"' if kind == "files" else 'name="title"'
    part = f"--x\r\nContent-Disposition: form-data; {name}\r\n\r\nx\r\n"
    return (part * count + "--x--\r\n").encode(), "multipart/form-data; boundary=x"


@pytest.mark.parametrize("call", FORM_CALLS)
@pytest.mark.parametrize("kind", ["files", "fields", "urlencoded"])
def test_thousands_of_parts_are_refused(served: TestClient, call: str, kind: str) -> None:
    body, content_type = parts(20_000, kind)
    check_problem(served.post(call, content=body, headers={"content-type": content_type}), [400, 415])


def test_a_form_has_as_many_parts_as_the_setting_says(start: Start) -> None:
    client = start(max_form_parts=20)
    body, content_type = parts(21, "fields")
    answer = client.post("/match", content=body, headers={"content-type": content_type})
    check_problem(answer, [400], "bad_request")
    body, _ = parts(20, "fields")
    check_problem(client.post("/match", content=body, headers={"content-type": content_type}), [422])
    assert put(client, "p", None, *[RED] * 20).status_code == 201


def test_a_field_is_as_long_as_the_setting_says(start: Start) -> None:
    client = start(max_field_bytes=5000)
    check_problem(ask(client, "x" * 5001), [400], "bad_request")
    check_problem(ask(client, "x" * 4900), [422], "invalid_title")


@pytest.mark.parametrize(
    "header",
    [
        "X-Long: " + "x" * 100_000,
        "Content-Disposition: form-data; name=title; x=" + "x" * 100_000,
        "\r\n".join(["A: b"] * 5000),
    ],
    ids=["value", "disposition", "many"],
)
@pytest.mark.parametrize("call", FORM_CALLS)
def test_huge_headers_of_a_part_are_refused(served: TestClient, call: str, header: str) -> None:
    body = f'--x\r\nContent-Disposition: form-data; name="title"\r\n{header}\r\n\r\nabc\r\n--x--\r\n'.encode()
    check_problem(served.post(call, content=body, headers={"content-type": "multipart/form-data; boundary=x"}), [400])


@pytest.mark.parametrize("call", FORM_CALLS)
@pytest.mark.parametrize("missing", [1, 3, 9, 30, 60])
def test_a_form_that_is_cut_off_is_refused(served: TestClient, call: str, missing: int) -> None:
    """The parser would take what is there, and leave out the photo in whose middle the form ends."""
    body = b'--edge\r\nContent-Disposition: form-data; name="id"\r\n\r\np1\r\n--edge\r\n'
    body += b'Content-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + RED + b"\r\n--edge--"
    kind = {"content-type": "multipart/form-data; boundary=edge"}
    answer = served.post(call, content=body[:-missing], headers=kind)
    check_problem(answer, [400], "bad_request")
    assert "cut off" in answer.json()["detail"]
    pieces = iter([body[:-5], body[-5:], b"an epilogue"])
    assert served.post("/catalog", content=pieces, headers=kind).status_code == 200
    assert put(served, "p1", "red abc", RED).status_code == 200


@pytest.mark.parametrize("before_the_end", [b"", b"\r", b"\n", b"x", b"\n\r"], ids=ascii)
@pytest.mark.parametrize("call", FORM_CALLS)
def test_a_last_line_that_is_part_of_a_photo_ends_no_form(served: TestClient, call: str, before_the_end: bytes) -> None:
    body = b'--edge\r\nContent-Disposition: form-data; name="id"\r\n\r\np1\r\n--edge\r\n'
    body += (
        b'Content-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + RED + before_the_end + b"--edge--\r\n"
    )
    kind = {"content-type": "multipart/form-data; boundary=edge"}
    check_problem(served.post(call, content=body, headers=kind), [400], "bad_request")
    check_problem(served.post(call, content=b"--edge--\r\n", headers=kind), [422])  # a form without a field, but whole


# -- headers ---------------------------------------------------------------------------------------------------


def test_headers_over_the_limit_are_refused(start: Start) -> None:
    client = start(max_header_bytes=2000)
    check_problem(client.get("/healthz", headers={"X-Long": "x" * 2000}), [431], "headers_too_large")
    check_problem(client.get("/healthz", headers={f"X-{n}": "x" for n in range(400)}), [431], "headers_too_large")
    check_problem(client.get("/healthz?" + "x" * 2000), [431], "headers_too_large")
    assert client.get("/healthz", headers={"X-Long": "x" * 1000}).status_code == 200


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A service on a port of this machine, with the protocol of `serve` and room for 20 kB of headers."""
    app = make_app(tmp_path_factory.mktemp("bounded"), None, max_header_bytes=20_000)
    listening = socket.create_server(("127.0.0.1", 0))
    server = make_server(app, app.state.settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        listening.close()


def pour(port: int, start: bytes, piece: bytes, most: int) -> tuple[int, bytes]:
    """Sends a piece again and again until the service has enough; returns the bytes it took, and what it said."""
    sent, said = 0, b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        try:
            connection.sendall(start)
            while sent < most:
                connection.sendall(piece)
                sent += len(piece)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has closed the connection
        try:
            while part := connection.recv(65536):
                said += part
        except OSError:
            pass
    return sent, said


CHUNKED = b"POST /match HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "a header": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ", b"x" * 4096),
    "headers": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"X-Some: thing\r\n" * 300),
    "an address": (b"GET /healthz?", b"x" * 4096),
    "a trailer": (
        CHUNKED + b"0\r\n", b"A: b\r\n" * 700
    ),
    "a chunk's extension": (
        CHUNKED + b"5;", b"x" * 4096
    ),
}  # fmt: skip


@pytest.mark.parametrize(("start", "piece"), ENDLESS.values(), ids=ENDLESS.keys())
def test_what_never_ends_is_cut_off(port: int, start: bytes, piece: bytes) -> None:
    most = 64 << 20
    sent, said = pour(port, start, piece, most)
    assert sent < most
    assert not said or said.startswith(b"HTTP/1.1 4")
    assert b'"status": 431' in said or not said or b"415" in said.split(b"\r\n")[0]


def test_long_bodies_and_many_requests_on_one_connection_are_no_headers(port: int) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Some: " + b"x" * 1000 + b"\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection,
        connection.makefile("rb") as answers,
    ):
        for _ in range(100):
            connection.sendall(request)
            assert answers.readline().startswith(b"HTTP/1.1 200")
            length = 0
            while (line := answers.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            assert json.loads(answers.read(length)) == {"status": "alive"}
        body = b'--x\r\nContent-Disposition: form-data; name="title"\r\n\r\nabc\r\n--x\r\n'
        body += b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + b"x" * 3_000_000 + b"\r\n--x--\r\n"
        head = f"Host: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: {len(body)}"
        connection.sendall(f"POST /match HTTP/1.1\r\n{head}\r\n\r\n".encode() + body)
        assert answers.readline().startswith(b"HTTP/1.1 422")
