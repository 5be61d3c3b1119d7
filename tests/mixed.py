"""Mixed traffic with churn: a few callers who index, replace, delete, match, compare, judge and browse, each in its catalog.

Every caller knows what it has stored, so every answer has one right status, and some have one right content. What is not as
expected is an error, and so is a refusal: the callers think between two calls, and a service that keeps up refuses nothing.
"""

from __future__ import annotations

import csv
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.api.calls import photos, zip_file

SAMPLES = Path(__file__).parent.parent / "samples"
CALLERS = 4
THINKING_S = 0.2  # on average
OWN = 40  # products of a caller: older ones are replaced and deleted
TIMEOUT_S = 60.0
KEPT_ERRORS = 20
GAUGES = {
    "process_resident_memory_bytes": "resident_bytes",
    "process_open_fds": "files",
    "samesku_threads": "threads",
    "samesku_requests_in_flight": "in_flight",
}


@dataclass(frozen=True, slots=True)
class Call:
    """One answered call: when it ended, in seconds from the start, what it was, and how long it took."""

    at_s: float
    kind: str
    took_s: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What `/metrics` said at one moment."""

    at_s: float
    resident_bytes: float
    files: float
    threads: float
    in_flight: float


@dataclass(slots=True)
class Record:
    """What came of the traffic."""

    calls: list[Call] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Caller:
    """One of them, with a catalog of its own that others do not touch. Repeatable from its seed, but for the timing."""

    def __init__(self, url: str, number: int, record: Record, started: float) -> None:
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False)
        self._random = random.Random(number)
        self._catalog, self._record, self._started = f"caller-{number}", record, started
        self._stored: dict[str, tuple[str, bytes]] = {}
        with (SAMPLES / "catalog.csv").open(encoding="utf-8", newline="") as stream:
            self._titles = [row["title"] for row in csv.DictReader(stream)]
        self._photos = [file.read_bytes() for file in sorted((SAMPLES / "catalog").glob("*.jpg"))]
        self._kinds = {
            self.put: 20, self.match: 40, self.match_many: 4, self.put_many: 3, self.delete: 14, self.compare: 6,
            self.judge: 5, self.browse: 14, self.misbehave: 10, self.watch: 3,
        }  # fmt: skip

    def run(self, until: threading.Event) -> None:
        """Calls and thinks, until told to stop."""
        kinds, weights = list(self._kinds), list(self._kinds.values())
        self.put()
        while not until.wait(self._random.expovariate(1 / THINKING_S)):
            self._random.choices(kinds, weights)[0]()
        self._client.close()

    def _call(self, kind: str, expected: int | set[int], method: str, path: str, **sent: Any) -> httpx.Response | None:
        began = time.monotonic()
        try:
            answer = self._client.request(method, path, **sent)
        except httpx.HTTPError as error:
            self._wrong(f"{kind}: {error!r}")
            return None
        ended = time.monotonic()
        self._record.calls.append(Call(ended - self._started, kind, ended - began))
        if answer.status_code not in (expected if isinstance(expected, set) else {expected}):
            self._wrong(f"{kind}: {answer.status_code} instead of {expected}: {answer.text[:300]}")
            return None
        return answer

    def _wrong(self, what: str) -> None:
        self._record.errors.append(f"at {time.monotonic() - self._started:.0f} s: {what}")

    def _check(self, true: bool, what: str) -> None:
        if not true:
            self._wrong(what)

    def _product(self, product_id: str = "") -> tuple[str, bytes]:
        """A title and a photo; of one product one of two photos. Few enough for every cache to be full within minutes."""
        words = self._random.choice(self._titles).split()
        photo = self._random.randrange(2) + 2 * (int(product_id[1:]) if product_id else self._random.randrange(40))
        return " ".join([*words, str(self._random.randrange(10))]), self._photos[photo % len(self._photos)]

    def _known(self) -> str:
        return self._random.choice(list(self._stored))

    # -- what they do ------------------------------------------------------------------------------------------

    def put(self) -> None:
        """Indexes a product, or replaces one if there are enough."""
        free = [product_id for n in range(OWN) if (product_id := f"p{n}") not in self._stored]
        new = bool(free) and (not self._stored or self._random.random() < 0.8)
        product_id = self._random.choice(free) if new else self._known()
        title, photo = self._product(product_id)
        data = {"id": product_id, "title": title, "catalog": self._catalog, "attributes": json.dumps({"own": product_id})}
        if self._call("put", 201 if new else 200, "POST", "/catalog", data=data, files=photos(photo)):
            self._stored[product_id] = title, photo

    def match(self) -> None:
        """Asks for a product by its own photo and title, which must be found; or for anything."""
        product_id = self._known()
        title, photo = self._stored[product_id]
        data = {"title": title, "catalog": self._catalog, "filter": json.dumps({"own": [product_id]})}
        if self._random.random() < 0.4:
            data["verify"] = "true"
        answer = self._call("match", 200, "POST", "/match", data=data, files=photos(photo))
        if answer:
            found = [one["id"] for one in answer.json()["matches"]]
            self._check(found == [product_id], f"match: {product_id} found {found}")

    def match_many(self) -> None:
        """A batch of titles, one of which is none."""
        items = [{"title": self._product()[0]} for _ in range(8)] + [{"title": ""}]
        answer = self._call("match_many", 200, "POST", "/match/batch", json={"items": items, "catalog": self._catalog})
        if answer:
            lines = [json.loads(line) for line in answer.text.splitlines()]
            self._check(["error" in one for one in lines] == [False] * 8 + [True], f"match_many: {answer.text[:300]}")

    def put_many(self) -> None:
        """A batch of products with a zip of their photos, which replace one product again and again."""
        title, photo = self._product()
        rows = [f'many-{n},"{title} {n}",p.jpg' for n in range(5)]
        manifest = "\n".join(["id,title,image", *rows]).encode()
        files = {"manifest": ("m.csv", manifest), "photos": zip_file({"p.jpg": photo})}
        answer = self._call("put_many", 200, "POST", "/catalog/batch", data={"catalog": self._catalog}, files=files)
        if answer:
            self._check(answer.text.count('"status"') == 5, f"put_many: {answer.text[:300]}")

    def delete(self) -> None:
        """Removes a product, which must be gone then."""
        if len(self._stored) < OWN // 2:
            return
        product_id = self._known()
        where = {"params": {"catalog": self._catalog}}
        if self._call("delete", 204, "DELETE", f"/catalog/{product_id}", **where):
            del self._stored[product_id]
            self._call("read", 404, "GET", f"/catalog/{product_id}", **where)

    def compare(self) -> None:
        """Two products by themselves."""
        (left, photo), (right, _) = self._product(), self._product()
        data = {"left_title": left, "right_title": right}
        self._call("compare", 200, "POST", "/compare", data=data, files={"left_image": ("l.jpg", photo)})

    def judge(self) -> None:
        """Says that a product is what a title says."""
        product_id = self._known()
        sides = [{"id": product_id}, {"title": self._stored[product_id][0]}]
        sent = {"sides": sides, "same": True, "by": self._catalog, "catalog": self._catalog}
        self._call("judge", 201, "POST", "/feedback", json=sent)

    def browse(self) -> None:
        """A page, a product, its photo, its matches, what people say."""
        product_id, where = self._known(), {"params": {"catalog": self._catalog}}
        for path in ("/catalog", f"/catalog/{product_id}", f"/catalog/{product_id}/matches", "/feedback", "/model"):
            self._call("browse", 200, "GET", path, **where)
        answer = self._call("browse", 200, "GET", f"/catalog/{product_id}/image", **where)
        if answer:
            self._check(answer.content == self._stored[product_id][1], f"browse: another photo of {product_id}")

    def misbehave(self) -> None:
        """What must be refused, and cost nobody anything."""
        bad = self._photos[0][:2000]
        refused: list[tuple[int | set[int], str, dict[str, Any]]] = [
            (422, "/match", {"files": photos(bad)}),
            (422, "/match", {"data": {"title": ""}}),
            (422, "/match", {"data": {"title": "x", "threshold": "7"}}),
            (404, "/match", {"data": {"title": "x", "catalog": "nobodys"}}),
            (422, "/catalog", {"data": {"id": "bad", "title": "x", "attributes": "{"}}),
            (422, "/feedback", {"content": b"{", "headers": {"content-type": "application/json"}}),
            ({400, 422}, "/match", {"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}}),
        ]
        status, path, sent = self._random.choice(refused)
        self._call("misbehave", status, "POST", path, **sent)

    def watch(self) -> None:
        """What orchestrators and scrapers do."""
        for path in ("/metrics", "/readyz", "/healthz"):
            self._call("watch", 200, "GET", path)


@contextmanager
def traffic(url: str) -> Iterator[Record]:
    """Lets the callers call as long as the context is open; yields the record, to which `sample` adds."""
    record, stop, started = Record(), threading.Event(), time.monotonic()
    callers = [Caller(url, number, record, started) for number in range(CALLERS)]
    threads = [threading.Thread(target=_guarded, args=(one, stop, record)) for one in callers]
    for thread in threads:
        thread.start()
    try:
        yield record
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _guarded(caller: Caller, stop: threading.Event, record: Record) -> None:
    try:
        caller.run(stop)
    except Exception as error:  # noqa: BLE001 - a caller that breaks is an error of the test, and must be seen
        record.errors.append(f"a caller broke: {error!r}")


def sample(url: str, record: Record, every_s: float, for_s: float) -> None:
    """Reads the service's own gauges, again and again."""
    started = time.monotonic()
    with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
        while (at_s := time.monotonic() - started) < for_s:
            read = {}
            for line in client.get("/metrics").text.splitlines():
                name, _, value = line.partition(" ")
                if name in GAUGES:
                    read[GAUGES[name]] = float(value)
            record.samples.append(Sample(at_s, **read))
            time.sleep(every_s)
