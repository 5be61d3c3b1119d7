"""Writers, a service that is killed under them, and a ledger of what it had acknowledged.

Every product has one writer, so what may be stored is known: what was acknowledged last, or something that was sent
afterwards and not answered. Title, attribute and photo of a version say the same number: a mixture would show.
"""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from app.catalog.data_folder import DataFolder
from app.catalog.local import LocalCatalog
from app.catalog.rows import Precision
from app.core.product import Embedding, Query
from tests.fakes import FINGERPRINT, FUSION, FakeEncoder, colour_vector, letter_vector, photo
from tests.integration.oracle import Oracle

ROOT = Path(__file__).parent.parent
WRITERS, EACH = 4, 6
THRESHOLD = 0.9
Name = tuple[str, str]  # catalog, id
Row = tuple[int, int, bytes]


def title_of(version: int) -> str:
    return "".join(random.Random(version).choices("abcdefgh", k=9)) + f" {version}"


def photo_of(version: int) -> bytes:
    """Every third version has a photo that others have, too."""
    number = version % 5 if version % 3 == 0 else version * 7919
    return photo((number % 251, number // 251 % 251, number // 63001 % 251), size=(16, 16))


def embedding_of(version: int) -> Embedding:
    pixels = FakeEncoder().read_photo(photo_of(version))[1]
    return Embedding(colour_vector(pixels)[None], letter_vector(title_of(version)))


@dataclass
class Entry:
    """What a product may be: None stands for not there."""

    sure: int | None = None
    maybe: list[int | None] = field(default_factory=list)

    def acknowledge(self, version: int | None) -> None:
        self.sure, self.maybe = version, []


@dataclass
class Counts:
    """What happened, over all rounds."""

    rounds: int = 0
    clean_stops: int = 0
    killed_while_starting: int = 0
    acknowledged: int = 0
    deletions: int = 0
    unanswered: int = 0
    unanswered_but_done: int = 0
    matches: int = 0
    products: int = 0


class Nursery:
    """Starts and kills services; see `tests.fake_service`."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fake_service"], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def tell(self, line: str) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().split()

    def serve(self, folder: Path, log: Path) -> tuple[int, str]:
        """Returns process id and address."""
        pid, port = self.tell(f"serve {folder} {log}")
        return int(pid), f"http://127.0.0.1:{port}"

    def end(self, pid: int, how: signal.Signals) -> int:
        """Returns the exit status."""
        return int(self.tell(f"kill {pid} {how.value}")[0])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def nursery() -> Iterator[Nursery]:
    opened = Nursery()
    try:
        yield opened
    finally:
        opened.close()


class Crashes:
    """Rounds of writing, killing, starting again and checking, all on one data folder."""

    def __init__(
        self,
        services: Nursery,
        folder: Path,
        seed: int,
        data: Path | None = None,
        power_cut: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes an empty place.

        Args:
            services: start and kill.
            folder: for the log, and for the data unless that is elsewhere; made.
            seed: of what is written and when it is killed.
            data: the data folder.
            power_cut: what happens to the disk after a kill; nothing, if it is not given.
        """
        folder.mkdir()
        self.folder, self.data, self.log = folder, data or folder / "data", folder / "service.log"
        self._after_kill = power_cut
        self.counts = Counts()
        self._services, self._chance = services, random.Random(seed)
        self._ledger: dict[Name, Entry] = {
            (catalog, f"{writer}-{n}"): Entry()
            for writer in range(WRITERS) for n in range(EACH) for catalog in ("default", "other")
        }  # fmt: skip
        self._versions, self._lock = iter(range(1, 1_000_000_000)), threading.Lock()

    def _version(self) -> int:
        with self._lock:
            return next(self._versions)

    # -- one round ---------------------------------------------------------------------------------------------

    def round(self) -> None:
        """Writes until the service is killed; then starts it again and checks everything."""
        pid, address = self._services.serve(self.data, self.log)
        if self._chance.random() < 0.2:  # killed in the middle of starting, or of recovering
            threading.Event().wait(self._chance.uniform(0, 0.4))
            self.counts.killed_while_starting += 1
        else:
            self._write_until_killed(pid, address)
            pid = 0
        if pid:
            assert self._services.end(pid, signal.SIGKILL) == -signal.SIGKILL, self.log.read_text()
        self._after_kill()
        self._check_copy()
        pid, address = self._services.serve(self.data, self.log)
        with httpx.Client(base_url=address, timeout=120) as client:
            self._check_answers(client)
        self._check_photos()
        if self._chance.random() < 0.3:
            assert self._services.end(pid, signal.SIGTERM) == -signal.SIGTERM, self.log.read_text()  # uvicorn passes it on
            assert not (self.data / "running").exists()
            self.counts.clean_stops += 1
        else:
            assert self._services.end(pid, signal.SIGKILL) == -signal.SIGKILL, self.log.read_text()
        self.counts.rounds += 1

    def _write_until_killed(self, pid: int, address: str) -> None:
        with ThreadPoolExecutor(WRITERS) as pool:
            seeds = [self._chance.random() for _ in range(WRITERS)]
            writers = [pool.submit(self._write, writer, address, random.Random(seeds[writer])) for writer in range(WRITERS)]
            with httpx.Client(base_url=address, timeout=120) as client:
                assert client.get("/readyz").status_code == 200, self.log.read_text()
            threading.Event().wait(self._chance.uniform(0, 0.8))
            assert self._services.end(pid, signal.SIGKILL) == -signal.SIGKILL, self.log.read_text()
            for one in writers:
                one.result()

    # -- writing -----------------------------------------------------------------------------------------------

    def _write(self, writer: int, address: str, chance: random.Random) -> None:
        """Changes its own products until the service is gone."""
        mine = [name for name in self._ledger if name[1].startswith(f"{writer}-")]
        with httpx.Client(base_url=address, timeout=120) as client:
            try:
                while True:
                    what = chance.random()
                    if what < 0.2:
                        catalog = chance.choice(("default", "other"))
                        batch = chance.sample([name for name in mine if name[0] == catalog], chance.randint(2, EACH))
                        self._put_batch(client, catalog, batch)
                    elif what < 0.7:
                        self._put(client, chance.choice(mine))
                    else:
                        self._delete(client, chance.choice(mine))
            except httpx.TransportError:
                return

    def _put(self, client: httpx.Client, name: Name) -> None:
        version, entry = self._version(), self._ledger[name]
        entry.maybe.append(version)
        fields = {"catalog": name[0], "id": name[1], "title": title_of(version), "attributes": json.dumps({"n": version})}
        answer = client.post("/catalog", data=fields, files={"image": ("p.png", photo_of(version))})
        assert answer.status_code == (201 if entry.sure is None else 200), answer.text
        self._acknowledged(entry, version)

    def _delete(self, client: httpx.Client, name: Name) -> None:
        entry = self._ledger[name]
        entry.maybe.append(None)
        answer = client.delete(f"/catalog/{name[1]}", params={"catalog": name[0]})
        assert answer.status_code == (404 if entry.sure is None else 204), answer.text
        self._acknowledged(entry, None)

    def _put_batch(self, client: httpx.Client, catalog: str, names: list[Name]) -> None:
        versions = [self._version() for _ in names]
        items: list[dict[str, Any]] = []
        for name, version in zip(names, versions, strict=True):
            self._ledger[name].maybe.append(version)
            image = base64.b64encode(photo_of(version)).decode()
            items.append({"id": name[1], "title": title_of(version), "images": [image], "attributes": {"n": version}})
        with client.stream("POST", "/catalog/batch", json={"catalog": catalog, "items": items}) as answer:
            assert answer.status_code == 200, answer.read()
            lines = 0
            for text in answer.iter_lines():
                line = json.loads(text)
                assert line.get("status") in ("created", "replaced"), line
                self._acknowledged(self._ledger[names[line["index"]]], versions[line["index"]])
                lines += 1
        assert lines == len(names)

    def _acknowledged(self, entry: Entry, version: int | None) -> None:
        entry.acknowledge(version)
        with self._lock:
            self.counts.acknowledged += 1
            self.counts.deletions += version is None

    # -- checking ----------------------------------------------------------------------------------------------

    def _check_copy(self) -> None:
        """Opens a copy of what the crash left: the search index holds exactly the rows of the database, photos are whole."""
        copy = self.folder / "copy"
        if not self.data.exists():  # killed before it had made anything
            return
        shutil.copytree(self.data, copy)
        check_folder(copy)
        shutil.rmtree(copy)

    def _check_answers(self, client: httpx.Client) -> None:
        stored = {catalog: self._listed(client, catalog) for catalog in ("default", "other")}
        oracle = Oracle(FUSION, {"default": {}, "other": {}})
        for (catalog, product_id), entry in self._ledger.items():
            found = stored[catalog].get(product_id)
            version = None if found is None else int(found["attributes"]["n"])
            assert version in {entry.sure, *entry.maybe}, (catalog, product_id, version, entry)
            self.counts.unanswered += bool(entry.maybe)
            self.counts.unanswered_but_done += bool(entry.maybe) and version != entry.sure
            if found is not None and version is not None:
                assert found["title"] == title_of(version)
                image = client.get(f"/catalog/{product_id}/image", params={"catalog": catalog})
                assert (image.status_code, image.content) == (200, photo_of(version)), (catalog, product_id)
        for catalog, products in stored.items():
            for product_id, found in products.items():  # in the order of the catalog, which equal scores keep
                oracle.put(catalog, product_id, embedding_of(found["attributes"]["n"]), {})
        for name, entry in self._ledger.items():
            self._check_match(client, oracle, stored, name, entry)
        self.counts.products = sum(map(len, stored.values()))

    def _check_match(
        self, client: httpx.Client, oracle: Oracle, stored: dict[str, dict[str, Any]], name: Name, entry: Entry
    ) -> None:
        """Asks with what a product is, or last was: the answer is what the oracle says of what is stored."""
        catalog, product_id = name
        found = stored[catalog].get(product_id)
        gone = [version for version in (entry.sure, *entry.maybe) if version is not None]
        entry.acknowledge(None if found is None else int(found["attributes"]["n"]))
        version = entry.sure or (gone[-1] if gone else 1)
        if not stored[catalog]:  # nothing was ever stored in it
            return
        fields = {"catalog": catalog, "title": title_of(version), "threshold": THRESHOLD, "limit": 1000}
        answer = client.post("/match", data=fields, files={"image": ("q.png", photo_of(version))})
        assert answer.status_code == 200, answer.text
        shown = [(m["id"], m["score"], m["image_score"], m["title_score"]) for m in answer.json()["matches"]]
        assert shown == oracle.lines(catalog, Query(embedding_of(version), THRESHOLD, 1000))
        assert found is None or product_id in {one[0] for one in shown}
        assert all(m["title"] == stored[catalog][m["id"]]["title"] for m in answer.json()["matches"])
        self.counts.matches += 1

    def _listed(self, client: httpx.Client, catalog: str) -> dict[str, Any]:
        answer = client.get("/catalog", params={"catalog": catalog, "limit": 1000})
        if answer.status_code == 404:  # nothing was ever stored in it
            assert all(entry.sure is None for (name, _), entry in self._ledger.items() if name == catalog)
            return {}
        assert answer.status_code == 200, answer.text
        assert answer.json()["total"] == len(answer.json()["products"])
        return {product["id"]: product for product in answer.json()["products"]}

    def _check_photos(self) -> None:
        """On the disk of the service that has recovered are the photos that are named, and no other file."""
        with closing(sqlite3.connect(self.data / "catalog.sqlite")) as connection:
            named = {digest for (digest,) in connection.execute("SELECT sha256 FROM photos")}
        assert {file.name for file in (self.data / "photos").rglob("*") if file.is_file()} == named


def rows_searched(catalog: LocalCatalog, name: str) -> list[Row]:
    """What the index of a catalog holds: keys, flags and vectors, sorted."""
    return sorted(
        (int(key), int(flags), np.asarray(vector, "<f4").tobytes())
        for part in catalog._shelves[name].index.export()
        for key, flags, vector in zip(part.keys, part.flags, part.vectors, strict=True)
    )


def rows_stored(folder: Path, name: str, precision: Precision = "float32") -> list[Row]:
    """What the database holds of a catalog, with vectors as exact as an index of that precision has them."""
    query = "SELECT product_pk, flags, vector FROM vectors JOIN catalogs ON catalogs.pk = catalog_pk WHERE name = ?"
    with closing(sqlite3.connect(folder / "catalog.sqlite")) as connection:
        found = connection.execute(query, (name,)).fetchall()
    return sorted(
        (key, flags, np.frombuffer(vector, "<f4").astype(precision).astype("<f4").tobytes()) for key, flags, vector in found
    )


def check_folder(folder: Path) -> int:
    """Opens a data folder: its index holds exactly the rows of the database, its photos are whole. Returns its products."""
    catalog = LocalCatalog(DataFolder(folder), FUSION, FINGERPRINT)
    try:
        with closing(sqlite3.connect(folder / "catalog.sqlite")) as connection:
            names = dict(connection.execute("SELECT name, pk FROM catalogs"))
            assert set(names) == {info.name for info in catalog.catalogs()}
            for name, pk in names.items():
                rows = rows_stored(folder, name)
                assert rows_searched(catalog, name) == rows
                owners = {key for key, _, _ in rows}
                products = {pk for (pk,) in connection.execute("SELECT pk FROM products WHERE catalog_pk = ?", (pk,))}
                assert owners == products
                assert catalog.size(name) == len(products)
            for (digest,) in connection.execute("SELECT DISTINCT sha256 FROM photos").fetchall():
                assert catalog._data.photos.get(digest)
            orphans = connection.execute("SELECT count(*) FROM photos WHERE product_pk NOT IN (SELECT pk FROM products)")
            assert orphans.fetchone()[0] == 0
        return sum(info.products for info in catalog.catalogs())
    finally:
        catalog.close()
