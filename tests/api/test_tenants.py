"""One service, several tenants: each gets the answers that it would get if it were alone.

The same calls go to a service that all share, and to one that the tenant has for itself, where the catalogs of the others
have never existed. If the answers are equal, nothing of the others can be in them: not their products, not their number, not
whether they are there.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from fastapi import FastAPI
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.api.calls import BLUE, GREEN, RED, Response, check_problem, csv_file, photos, zip_file
from tests.api.keys import Caller, Guarded, guarded_app
from tests.photo_server import LOOPBACK, Names, PhotoServer, answer, may_fetch, photo_server

TENANTS = ("ann", "bob", "cid")
UNSTABLE = {"created_at", "updated_at", "at", "took_ms", "request_id"}  # differ between two equal calls of one tenant, too
UNSTABLE_HEADERS = {"x-request-id", "content-length"}

Call = Callable[[Caller], Response]


def stable(value: Any) -> Any:
    """A JSON value without what differs between two equal calls."""
    if isinstance(value, dict):
        return {name: stable(part) for name, part in value.items() if name not in UNSTABLE}
    return [stable(part) for part in value] if isinstance(value, list) else value


def seen(answer: Response) -> tuple[Any, ...]:
    """All that a caller sees of an answer, but for what is never the same."""
    headers = {name: value for name, value in answer.headers.items() if name not in UNSTABLE_HEADERS}
    kind = answer.headers.get("content-type", "")
    body: Any = answer.content
    if "ndjson" in kind:
        body = [stable(json.loads(line)) for line in answer.text.splitlines()]
    elif "json" in kind and body:
        body = stable(answer.json())
    return answer.status_code, headers, body


@contextmanager
def written() -> Iterator[list[str]]:
    """What the service logs meanwhile, each line with all its fields."""
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name != "app.api.keyring":  # whichever call comes first after a key was made notices it
                found.append(f"{record.getMessage()} {vars(record)}")

    handler, log = Keep(), logging.getLogger("app")
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield found
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def labels(guarded: Guarded) -> set[tuple[str, ...]]:
    """The labels of all metrics, but for those that only an operator's key is shown: see `/metrics` below."""
    metrics = cast("FastAPI", guarded.app.app).state.metrics
    samples = [sample for metric in metrics.registry.collect() for sample in metric.samples]
    return {(one.name, *(f"{name}={value}" for name, value in sorted(one.labels.items()))) for one in samples}


@pytest.fixture(scope="module")
def server() -> Iterator[PhotoServer]:
    """A machine that the services fetch photos from."""
    with photo_server({"/red.png": answer(RED), "/green.png": answer(GREEN)}) as one:
        yield one


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory, server: PhotoServer) -> Iterator[dict[str, Guarded]]:
    """The service that all share, and one of their own for each tenant."""
    folder, names = tmp_path_factory.mktemp("worlds"), Names({"photos.test": [LOOPBACK]})
    settings = {"resolve": names} | may_fetch(server, "photos.test")
    with ExitStack() as stack:
        yield {name: stack.enter_context(guarded_app(folder / name, **settings)) for name in ("shared", *TENANTS)}


IDS = st.sampled_from(["p0", "p1", "a/b"])
TITLES = st.sampled_from([None, "abc", "abd", "hgh", ""])
PHOTOS = st.lists(st.sampled_from([RED, GREEN, BLUE]), max_size=2)
PATHS = st.sampled_from(["/red.png", "/green.png", "/missing.png"])
WHO = st.sampled_from(TENANTS)
WHERE = st.sampled_from(["own", "own", "own", "second", "ann", "bob", "cid", "nowhere", "default"])


class Tenants(RuleBasedStateMachine):
    """Random calls by three tenants whose products have the same ids, titles and photos."""

    worlds: ClassVar[dict[str, Guarded]]
    port: ClassVar[int]  # of the machine with photos
    at_once = False
    runs: ClassVar[Iterator[int]] = count()

    @initialize()
    def arrive(self) -> None:
        self.run = next(self.runs)  # catalogs of runs before stay: there is always something of others
        self.callers: dict[str, tuple[Caller, Caller]] = {}
        for tenant in TENANTS:
            bound = (f"{tenant}-{self.run}", f"{tenant}-{self.run}-second")
            role = "read" if tenant == "cid" and self.run % 3 == 2 else "write"
            self.callers[tenant] = (self.worlds["shared"].new(role, *bound), self.worlds[tenant].new(role, *bound))
        for tenant in TENANTS:
            self.put(tenant, "own", "p0", "abc", [RED])
            self.put_many(tenant, "second", "abd")

    def catalog(self, who: str, where: str) -> str:
        names = {
            "own": f"{who}-{self.run}",
            "second": f"{who}-{self.run}-second",
            "nowhere": "nowhere",
            "default": "default",
        }
        return names.get(where, f"{where}-{self.run}")

    def same(self, who: str, call: Call) -> Response:
        """Makes a call in both worlds; the answers are the same, and what is logged of it is about nobody else."""
        in_all, in_own = self.callers[who]
        with written() as log:
            shared = call(in_all)
        alone = call(in_own)
        assert seen(shared) == seen(alone)
        others = [one for one in TENANTS if one != who]
        if not self.at_once:
            strangers = [f"{other}-" for other in others] + [f"of {other}" for other in others]
            strangers += [self.callers[other][0].key_id for other in others]
            assert log
            assert not [line for line in log if any(stranger in line for stranger in strangers)]
        if shared.status_code < 400:
            assert not any(f"{other}-" in shared.text or f"of {other}" in shared.text for other in others)
        return shared

    @rule(who=WHO, where=WHERE, id=IDS, title=TITLES, images=PHOTOS)
    def put(self, who: str, where: str, id: str, title: str | None, images: list[bytes]) -> None:  # noqa: A002
        fields = {"id": id, "catalog": self.catalog(who, where), "attributes": json.dumps({"owner": f"of {who}"})}
        fields |= {} if title is None else {"title": title}
        self.same(who, lambda caller: caller.post("/catalog", data=fields, files=photos(*images) or None))

    @rule(who=WHO, where=WHERE, id=IDS, path=PATHS)
    def put_fetched(self, who: str, where: str, id: str, path: str) -> None:  # noqa: A002
        fields = {"id": id, "catalog": self.catalog(who, where), "image_url": f"http://photos.test:{self.port}{path}"}
        self.same(who, lambda caller: caller.post("/catalog", data=fields))

    @rule(who=WHO, where=WHERE, path=PATHS)
    def match_fetched(self, who: str, where: str, path: str) -> None:
        fields = {"catalog": self.catalog(who, where), "image_url": f"http://photos.test:{self.port}{path}"}
        self.same(who, lambda caller: caller.post("/match", data=fields | {"threshold": "-1"}))

    @rule(who=WHO, where=WHERE, title=TITLES)
    def put_many(self, who: str, where: str, title: str | None) -> None:
        items = [{"id": f"p{n}", "title": title, "attributes": {"owner": f"of {who}", "n": n}} for n in range(3)]
        body = {"items": items, "catalog": self.catalog(who, where)}
        self.same(who, lambda caller: caller.post("/catalog/batch", json=body))

    @rule(who=WHO, where=WHERE, id=IDS)
    def delete(self, who: str, where: str, id: str) -> None:  # noqa: A002
        place = {"catalog": self.catalog(who, where)}
        self.same(who, lambda caller: caller.delete(f"/catalog/{id}", params=place))

    @rule(who=WHO, where=WHERE, title=TITLES, images=PHOTOS, by=st.sampled_from(TENANTS))
    def match(self, who: str, where: str, title: str | None, images: list[bytes], by: str) -> None:
        fields = {"catalog": self.catalog(who, where), "threshold": "-1", "filter": json.dumps({"owner": f"of {by}"})}
        fields |= {} if title is None else {"title": title}
        if by == who:
            del fields["filter"]
        self.same(who, lambda caller: caller.post("/match", data=fields, files=photos(*images[:1]) or None))

    @rule(who=WHO, where=WHERE)
    def match_many(self, who: str, where: str) -> None:
        items = [{"title": "abc"}, {"title": "hgh"}, {"title": ""}]
        body = {"items": items, "catalog": self.catalog(who, where), "threshold": -1}
        self.same(who, lambda caller: caller.post("/match/batch", json=body))

    @rule(where=WHERE, title=st.sampled_from(["abc", "abd"]))
    def all_match_at_once(self, where: str, title: str) -> None:
        """They share batches of the towers and of the index."""

        def ask(who: str) -> None:
            fields = {"catalog": self.catalog(who, where), "threshold": "-1", "title": title}
            self.same(who, lambda caller: caller.post("/match", data=fields))

        self.at_once = True  # their lines are mixed then
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(ask, TENANTS))
        self.at_once = False

    @rule(who=WHO, where=WHERE, id=IDS, what=st.sampled_from(["", "/image", "/image?position=1", "/matches?threshold=-1"]))
    def look(self, who: str, where: str, id: str, what: str) -> None:  # noqa: A002
        path = f"/catalog/{id}{what}{'&' if '?' in what else '?'}catalog={self.catalog(who, where)}"
        self.same(who, lambda caller: caller.get(path))

    @rule(who=WHO, where=WHERE, limit=st.integers(1, 3))
    def browse(self, who: str, where: str, limit: int) -> None:
        place: dict[str, Any] = {"catalog": self.catalog(who, where), "limit": limit}
        while True:
            answer = self.same(who, lambda caller: caller.get("/catalog", params=place))
            cursor = answer.json().get("cursor")
            if cursor is None:
                return
            place["cursor"] = cursor

    @rule(who=WHO, where=WHERE, id=IDS, same=st.booleans())
    def say(self, who: str, where: str, id: str, same: bool) -> None:  # noqa: A002
        sides = [{"id": id}, {"title": "abc"}]
        body = {"sides": sides, "same": same, "by": f"of {who}", "catalog": self.catalog(who, where)}
        self.same(who, lambda caller: caller.post("/feedback", json=body))

    @rule(who=WHO, where=WHERE, what=st.sampled_from(["/feedback?limit=1&", "/feedback?", "/feedback/contradictions?"]))
    def hear(self, who: str, where: str, what: str) -> None:
        self.same(who, lambda caller: caller.get(f"{what}catalog={self.catalog(who, where)}"))

    @rule(who=WHO, path=st.sampled_from(["/model", "/metrics", "/nowhere", "/catalog"]))
    def look_around(self, who: str, path: str) -> None:
        self.same(who, lambda caller: caller.get(path))


def test_each_tenant_gets_the_answers_it_would_get_alone(worlds: dict[str, Guarded], server: PhotoServer) -> None:
    Tenants.worlds, Tenants.port = worlds, server.port
    few = hypothesis_settings(max_examples=12, stateful_step_count=25)
    run_state_machine_as_test(Tenants, settings=few)
    shared, *own = (labels(worlds[name]) for name in ("shared", *TENANTS))
    assert shared == set().union(*own)  # nothing that is only there because they share it
    assert not [one for one in shared for value in one if any(tenant in value for tenant in TENANTS)]


# -- what exists and what does not -----------------------------------------------------------------------------


def calls_with_a_catalog(name: str) -> dict[str, Call]:
    """Every call that takes the name of a catalog, made with one name."""
    place = {"catalog": name}
    manifest = {"manifest": csv_file("id,title,image", "p,abc,a.png"), "photos": zip_file({"a.png": RED})}
    form = manifest | {"catalog": (None, name)}
    said = {"sides": [{"id": "p"}, {"title": "abc"}], "same": True, "by": "ann"} | place
    return {
        "POST /match": lambda c: c.post("/match", data={"title": "abc"} | place),
        "POST /match, bad": lambda c: c.post("/match", data={"title": ""} | place),
        "POST /match/batch": lambda c: c.post("/match/batch", json={"items": [{"title": "abc"}]} | place),
        "POST /match/batch, form": lambda c: c.post("/match/batch", files=form),
        "POST /catalog": lambda c: c.post("/catalog", data={"id": "p", "title": "abc"} | place),
        "POST /catalog/batch": lambda c: c.post("/catalog/batch", json={"items": [{"id": "p", "title": "abc"}]} | place),
        "POST /catalog/batch, form": lambda c: c.post("/catalog/batch", files=form),
        "GET /catalog": lambda c: c.get("/catalog", params=place),
        "GET /catalog/{product_id}": lambda c: c.get("/catalog/p", params=place),
        "GET /catalog/{product_id}/image": lambda c: c.get("/catalog/p/image", params=place),
        "GET /catalog/{product_id}/matches": lambda c: c.get("/catalog/p/matches", params=place),
        "DELETE /catalog/{product_id}": lambda c: c.delete("/catalog/p", params=place),
        "POST /feedback": lambda c: c.post("/feedback", json=said),
        "GET /feedback": lambda c: c.get("/feedback", params=place),
        "GET /feedback/contradictions": lambda c: c.get("/feedback/contradictions", params=place),
    }


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A service with a product in the catalog `theirs`."""
    with guarded_app(tmp_path_factory.mktemp("shop")) as guarded:
        owner = guarded.new("write", "theirs")
        data = {"id": "p", "title": "abc", "catalog": "theirs"}
        assert owner.post("/catalog", data=data, files=photos(RED)).status_code == 201
        yield guarded


@pytest.mark.parametrize("call", calls_with_a_catalog(""))
def test_a_forbidden_catalog_looks_like_one_that_does_not_exist(shop: Guarded, call: str) -> None:
    stranger = shop.new("write", "mine")
    forbidden, unknown = (calls_with_a_catalog(name)[call](stranger) for name in ("theirs", "nobodys"))
    if call != "POST /match, bad":
        check_problem(forbidden, [404], "catalog_not_found")
    as_if = json.loads(forbidden.text.replace("theirs", "nobodys"))
    assert stable(as_if) == stable(unknown.json())
    assert forbidden.status_code == unknown.status_code
    owner = shop.new("read", "theirs")
    assert owner.get("/catalog/p/image", params={"catalog": "theirs"}).content == RED  # still there
    assert owner.get("/catalog", params={"catalog": "theirs"}).json()["total"] == 1


def test_the_calls_above_are_all_that_take_a_catalog(shop: Guarded) -> None:
    schema = shop.app.get("/openapi.json").json()
    taking = set()
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            asked = json.dumps([operation.get("parameters"), operation.get("requestBody")])
            bodies = re.findall(r'"#/components/schemas/(Body_\w+)"', asked)
            if '"catalog"' in asked + json.dumps([schema["components"]["schemas"][name] for name in bodies]):
                taking.add(f"{method.upper()} {path.replace(':path', '')}")
    assert taking == {call.split(",")[0] for call in calls_with_a_catalog("")}


def test_a_key_for_some_catalogs_is_told_of_no_others(shop: Guarded) -> None:
    assert shop.new("read", "theirs", "later").get("/model").json()["catalogs"] == {"theirs": 1}
    assert shop.new("read", "mine").get("/model").json()["catalogs"] == {}
    assert set(shop.new("read").get("/model").json()["catalogs"]) >= {"default", "theirs"}
    check_problem(shop.new("write", "theirs").get("/metrics"), [403], "forbidden")


def test_a_read_key_cannot_write_into_its_own_catalog(shop: Guarded) -> None:
    reader = shop.new("read", "theirs")
    for call in ("POST /catalog", "POST /catalog/batch", "DELETE /catalog/{product_id}", "POST /feedback"):
        check_problem(calls_with_a_catalog("theirs")[call](reader), [403], "forbidden")
    assert reader.get("/catalog", params={"catalog": "theirs"}).json()["total"] == 1


def test_a_photo_that_two_tenants_have_stays_with_one_when_the_other_deletes_it(tmp_path: Path) -> None:
    with guarded_app(tmp_path / "photos") as guarded:
        callers = {name: guarded.new("write", name) for name in ("one", "other")}
        for name, caller in callers.items():
            caller.post("/catalog", data={"id": "p", "catalog": name}, files=photos(RED))
        assert callers["one"].delete("/catalog/p", params={"catalog": "one"}).status_code == 204
        assert callers["other"].get("/catalog/p/image", params={"catalog": "other"}).content == RED
