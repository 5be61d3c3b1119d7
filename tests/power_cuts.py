"""Folders as a power cut may leave them, made by hand; and what must be true of them afterwards."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from app.catalog.data_folder import DataFolder
from app.catalog.local import LocalCatalog
from app.core.product import ProductDraft, Query
from app.errors import CatalogError
from tests.crashing import check_folder, embedding_of, photo_of, title_of
from tests.fakes import FINGERPRINT, FUSION, FakeEncoder

State = dict[str, int]  # version by product id
PAGE = 4096
FRAME = 24 + PAGE


def draft(name: str, version: int) -> ProductDraft:
    upload, _ = FakeEncoder().read_photo(photo_of(version))
    return ProductDraft(name, title_of(version), (upload,), {"n": version}, embedding_of(version))


def open_catalog(folder: Path) -> LocalCatalog:
    data = DataFolder(folder)
    try:
        return LocalCatalog(data, FUSION, FINGERPRINT)
    except BaseException:
        data.close()
        raise


def state_of(folder: Path) -> State:
    """Opens a folder and returns what it holds; fails if its parts contradict each other or search finds anything else."""
    with closing(open_catalog(folder)) as catalog:
        products = catalog.page("default", 0, 1000).products
        state = {product.id: int(product.attributes["n"]) for product in products}
        for product in products:
            version = state[product.id]
            assert product.title == title_of(version)
            assert catalog.photo("default", product.id, 0)[0] == photo_of(version)
            answer = catalog.search("default", [Query(embedding_of(version), 0.999999, 1000)])[0]
            assert product.id in {match.product.id for match in answer.matches}
        everything = Query(embedding_of(1), -1.0, 1000)
        answers = catalog.search("default", [everything])[0].matches
        assert {match.product.id: match.product.attributes["n"] for match in answers} == state
    check_folder(folder)
    return state


@dataclass(frozen=True)
class History:
    """A folder as a crash left it, the states after its commits, and how long the log was after each of them."""

    folder: Path
    states: Sequence[State]
    ends: Sequence[int]

    def copy(self, folder: Path) -> Path:
        shutil.copytree(self.folder, folder)
        return folder


def make_history(folder: Path) -> History:
    """A clean stop, a start, then commits that are in the log alone."""
    live, crashed = folder / "live", folder / "crashed"
    with closing(open_catalog(live)) as catalog:
        catalog.put("default", [draft(f"p{n}", 100 + n) for n in range(30)])
    state: State = {f"p{n}": 100 + n for n in range(30)}
    states, ends = [dict(state)], [0]
    with closing(open_catalog(live)) as catalog:
        for version in range(1, 13):
            name = f"p{version * 7 % 40}"
            if version % 4 == 0:
                gone = sorted(state)[version]
                catalog.delete("default", gone)
                del state[gone]
            else:
                catalog.put("default", [draft(name, version), draft(f"q{version}", 50 + version)])
                state |= {name: version, f"q{version}": 50 + version}
            states.append(dict(state))
            ends.append((live / "catalog.sqlite-wal").stat().st_size)
        shutil.copytree(live, crashed)
    assert ends == sorted(set(ends))
    return History(crashed, states, ends)


# -- damage ----------------------------------------------------------------------------------------------------


def lengths(history: History) -> list[int]:
    """The log ends within a frame, at its border, before its last byte; near commits and anywhere."""
    chance = random.Random(3)
    near = [end + off for end in history.ends[1:] for off in (-FRAME // 2, -1, 0)]
    return sorted({0, 7, 32, *near, *(chance.randrange(history.ends[-1]) for _ in range(8))})


def photos_come_back(history: History, folder: Path) -> None:
    """Photos that later commits removed: to go back behind these, the files must have been lost with the log."""
    for version in {version for state in history.states for version in state.values()}:
        upload, _ = FakeEncoder().read_photo(photo_of(version))
        file = folder / "photos" / upload.photo.sha256[:2] / upload.photo.sha256
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(upload.data)


def check_torn_log(history: History, scratch: Path, ends: Iterable[int]) -> None:
    """The log ends at each of `ends`: the state is that of the last commit that is whole in it."""
    for length in ends:
        folder = history.copy(scratch / str(length))
        os.truncate(folder / "catalog.sqlite-wal", length)
        photos_come_back(history, folder)
        whole = max(n for n, end in enumerate(history.ends) if end <= length)
        assert state_of(folder) == history.states[whole], length
        shutil.rmtree(folder)


def check_flipped_log(history: History, scratch: Path, places: Iterable[int]) -> None:
    """A bit of the log is flipped at each of `places`: the state is that of the last commit before it."""
    for at in places:
        folder = history.copy(scratch / str(at))
        flip(folder / "catalog.sqlite-wal", at, at % 8)
        photos_come_back(history, folder)
        whole = max(n for n, end in enumerate(history.ends) if end <= at)
        assert state_of(folder) == history.states[whole], at
        shutil.rmtree(folder)


def check_torn_pages(history: History, scratch: Path, pages: Iterable[int], kept_bytes: int) -> int:
    """Each of `pages` of the database has lost its end: refused, with what to do, or nothing is lost. Returns how many."""
    whole = (history.folder / "catalog.sqlite").read_bytes()
    refused = 0
    for page in pages:
        folder = history.copy(scratch / str(page))
        start = page * PAGE
        torn = whole[: start + kept_bytes] + bytes(PAGE - kept_bytes) + whole[start + PAGE :]
        (folder / "catalog.sqlite").write_bytes(torn)
        refused += refused_or_complete(history, folder)
        shutil.rmtree(folder)
    return refused


def refused_or_complete(history: History, folder: Path) -> bool:
    """True if a folder is refused with the remedy; else it must hold everything."""
    try:
        state = state_of(folder)
    except CatalogError as error:
        if "backup" not in str(error):
            raise
        return True
    assert state == history.states[-1], folder
    return False


def flip(file: Path, at: int = -5, bit: int = 2) -> None:
    """Flips a bit of a byte of a file."""
    content = bytearray(file.read_bytes())
    content[at] ^= 1 << bit
    file.write_bytes(content)
