"""What the tests send."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tests.fakes import photo

RED, GREEN, BLUE = photo((255, 0, 0)), photo((0, 255, 0)), photo((0, 0, 255))
BATCH_CALLS = ("/match/batch", "/catalog/batch")


class Response(Protocol):
    """What the answers of TestClient and httpx have in common."""

    status_code: int

    @property
    def text(self) -> str: ...
    @property
    def content(self) -> bytes: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    def json(self) -> Any: ...


class Client(Protocol):
    """What TestClient and httpx.Client have in common."""

    def get(self, url: str, /) -> Any: ...
    def post(self, url: str, /, *, data: Any = ..., files: Any = ..., json: Any = ...) -> Any: ...


def photos(*images: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    """The `image` field, once per photo."""
    return [("image", (f"{n}.png", image)) for n, image in enumerate(images)]


def put(client: Client, product_id: str, title: str | None = None, *images: bytes, **fields: str) -> Response:
    """POST /catalog."""
    data = {"id": product_id} | ({} if title is None else {"title": title}) | fields
    answer: Response = client.post("/catalog", data=data, files=photos(*images) or None)
    return answer


def ask(client: Client, title: str | None = None, image: bytes | None = None, **fields: Any) -> Response:
    """POST /match."""
    data = ({} if title is None else {"title": title}) | {name: str(value) for name, value in fields.items()}
    answer: Response = client.post("/match", data=data, files=photos(image) if image is not None else None)
    return answer


def found(answer: Response) -> list[str]:
    """The ids of an answer."""
    assert answer.status_code == 200, answer.text
    return [match["id"] for match in answer.json()["matches"]]


def lines(answer: Response) -> list[dict[str, Any]]:
    """The lines of a batch answer."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def csv_file(*rows: str, name: str = "m.csv") -> tuple[str, bytes]:
    """A manifest."""
    return name, "\n".join(rows).encode("utf-8", "surrogatepass")


def jsonl_file(*rows: object) -> tuple[str, bytes]:
    """A manifest."""
    return "m.jsonl", "\n".join(json.dumps(row) for row in rows).encode()


def zip_file(entries: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> tuple[str, bytes]:
    """A zip of photos."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return "photos.zip", stream.getvalue()


def without_time(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without the only field that differs between two equal calls."""
    return {name: value for name, value in answer.items() if name != "took_ms"}


def check_problem(answer: Response, statuses: Sequence[int], code: str | None = None) -> None:
    """Asserts that an answer is a problem as RFC 9457 and our own rules want it."""
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code
    assert code in (None, body["code"]), body
    assert body["type"] == f"urn:samesku:error:{body['code']}"
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == answer.headers["x-request-id"]
