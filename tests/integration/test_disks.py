"""Disks that are full, read-only or gone, and a database that somebody else holds: clean problems, and nothing lost.

With real file systems where this machine may mount them. The last kind of full disk, a database that may not grow, works
everywhere.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from app.bootstrap import build_matcher
from app.bulk import reembed
from app.catalog import connections
from app.catalog.data_folder import DataFolder
from app.catalog.local import LocalCatalog
from app.catalog.reembed import Reembedding
from app.catalog.row_index import RowIndex
from app.catalog.rows import RowSet
from app.errors import CatalogError, ChecksumMismatch, StorageUnavailable
from app.judge import Judge
from app.matcher import Matcher, MatchOptions
from app.settings import Settings
from tests.api.calls import BLUE, GREEN, RED, ask, check_problem, csv_file, found, lines, put, zip_file
from tests.api.conftest import make_app
from tests.conftest import ROOT, THRESHOLDS
from tests.crashing import check_folder
from tests.disks import Disk, fill, small_disk
from tests.fakes import FINGERPRINT, FUSION, FakeEncoder, photo

SIZE = 2 << 20


@contextmanager
def serving(folder: Path) -> Iterator[TestClient]:
    with TestClient(make_app(folder, None), raise_server_exceptions=False) as client:
        yield client


def stock(client: TestClient) -> None:
    assert put(client, "a", "aaa", RED).status_code == 201
    assert put(client, "b", "bbb", GREEN).status_code == 201


def check_unavailable(answer: Any) -> None:
    check_problem(answer, [503], "storage_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert "/" not in answer.json()["detail"]  # no path of ours


def check_reads_go_on(client: TestClient) -> None:
    assert found(ask(client, "aaa", RED)) == ["a"]
    assert found(ask(client, "bbb", GREEN)) == ["b"]
    assert client.get("/catalog/a").json()["title"] == "aaa"
    assert client.get("/catalog/a/image").content == RED
    assert client.get("/catalog").json()["total"] == 2
    assert client.get("/readyz").status_code == 200


def check_nothing_can_be_written(client: TestClient) -> None:
    check_unavailable(put(client, "a", "ccc", BLUE))
    check_unavailable(put(client, "new", "ddd"))
    check_unavailable(put(client, "new", "ddd", catalog="other"))
    check_unavailable(client.delete("/catalog/b"))
    statement = {"sides": [{"id": "a"}, {"id": "b"}], "same": True, "by": "ana"}
    check_unavailable(client.post("/feedback", json=statement))
    answers = lines(client.post("/catalog/batch", json={"items": [{"id": "x", "title": "x"}, {"id": "y", "title": "y"}]}))
    assert [one["error"]["code"] for one in answers] == ["storage_unavailable"] * 2
    assert client.get("/catalog/new").status_code == 404
    assert client.get("/catalog/new", params={"catalog": "other"}).status_code == 404


def check_writes_work_again(client: TestClient) -> None:
    assert put(client, "a", "ccc", BLUE).status_code == 200
    assert found(ask(client, "ccc", BLUE)) == ["a"]
    assert found(ask(client, "aaa", RED)) == []
    assert client.delete("/catalog/b").status_code == 204
    assert put(client, "new", "ddd", catalog="other").status_code == 201
    assert found(ask(client, "ddd", catalog="other")) == ["new"]


# -- full ------------------------------------------------------------------------------------------------------


def test_a_full_disk_costs_the_writes_and_nothing_else(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", SIZE) as disk:
        with serving(disk / "data") as client:
            stock(client)
            filler = fill(disk)
            check_nothing_can_be_written(client)
            check_reads_go_on(client)
            filler.unlink()
            check_writes_work_again(client)
        assert check_folder(disk / "data") == 2


def test_a_disk_that_fills_up_at_any_point_of_a_write_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    """The room that is left ends within the photo, the database's log, or its index; what was answered is what is there."""
    outcomes = set()
    with small_disk(tmp_path / "disk", SIZE) as disk:
        with serving(disk / "data") as client:
            put(client, "p", "a", RED)
            kept: tuple[str, bytes] = "a", RED
            for n, left in enumerate(range(0, 200 << 10, 8 << 10)):
                filler = fill(disk, left)
                title, image = "abcdefgh"[n % 8] * (n + 1), photo((n, 255 - n, 7), size=(40, 40), kind="BMP")
                answer = put(client, "p", title, image)
                outcomes.add(answer.status_code)
                if answer.status_code == 200:
                    kept = title, image
                else:
                    check_unavailable(answer)
                filler.unlink()
                assert client.get("/catalog/p").json()["title"] == kept[0]
                assert client.get("/catalog/p/image").content == kept[1]
                assert found(ask(client, *kept, threshold=0.9999)) == ["p"]
                assert len([f for f in (disk / "data" / "photos").rglob("*") if f.is_file()]) == 1
        assert check_folder(disk / "data") == 1
    assert outcomes == {200, 503}


def test_stopping_on_a_full_disk_costs_the_snapshot_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk", SIZE) as disk:
        with serving(disk / "data") as client:
            stock(client)
            filler = fill(disk)
        assert "no snapshot could be written" in caplog.text
        assert not (disk / "data" / "running").exists()
        filler.unlink()
        with serving(disk / "data") as client:
            check_reads_go_on(client)
            check_writes_work_again(client)


def test_starting_on_a_full_disk_works_or_says_what_to_do(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", SIZE) as disk:
        with serving(disk / "data") as client:
            stock(client)
        shutil.copytree(disk / "data", disk / "crashed")
        (disk / "crashed" / "running").touch()
        filler = fill(disk)
        for folder in ("data", "crashed", "new"):
            with pytest.raises((CatalogError, StorageUnavailable), match=r"space|full|disk"):
                DataFolder(disk / folder)
        filler.unlink()
        for folder in ("data", "crashed"):
            with serving(disk / folder) as client:
                check_reads_go_on(client)


def test_a_database_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    data = DataFolder(tmp_path)
    catalog = LocalCatalog(data, FUSION, FINGERPRINT)
    matcher = Matcher(FakeEncoder(), catalog, Judge(FUSION, THRESHOLDS, None), "fake")
    matcher.add("default", [matcher.read_product("a", "aaa", [RED], {})])
    limit = "PRAGMA max_page_count = 1"  # at least as many as there are

    def bound(connection: Any, _record: object) -> None:
        connection.execute(limit)

    event.listen(data.records.engine, "connect", bound)
    data.records.engine.dispose()
    many = [matcher.read_product(f"p{n}", "abc" * n, [photo((n, n, n))], {"n": n}) for n in range(1, 200)]
    with pytest.raises(StorageUnavailable, match="disk is full"):
        matcher.add("default", many)
    assert matcher.catalog.size("default") == 1
    assert len([f for f in (tmp_path / "photos").rglob("*") if f.is_file()]) == 1
    limit = "PRAGMA max_page_count = 1000000"
    data.records.engine.dispose()
    matcher.add("default", many)
    matcher.close()
    assert check_folder(tmp_path) == 200


def test_a_full_disk_for_temporary_files_costs_the_large_uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = photo((1, 2, 3), size=(900, 900), kind="BMP")
    bundle = zip_file({"l.bmp": large}, zipfile.ZIP_STORED)
    with small_disk(tmp_path / "disk", 1 << 20) as disk, serving(tmp_path / "data") as client:
        stock(client)
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        filler = fill(disk)
        check_unavailable(put(client, "large", "ddd", large))
        files = {"manifest": csv_file("id,image", "x,l.bmp"), "photos": bundle}
        check_unavailable(client.post("/catalog/batch", files=files))
        check_reads_go_on(client)
        filler.unlink()
        monkeypatch.setattr(tempfile, "tempdir", None)
        assert put(client, "large", "ddd", large).status_code == 201


# -- read-only -------------------------------------------------------------------------------------------------


def test_a_read_only_data_folder_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", SIZE) as disk:
        with serving(disk / "data") as client:
            stock(client)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(CatalogError, match=r"cannot be written .*check its permissions"):
            DataFolder(disk / "data")
        with pytest.raises(CatalogError, match="cannot be written"):
            DataFolder(disk / "new")


def test_a_disk_that_turns_read_only_costs_the_writes_and_nothing_else(tmp_path: Path) -> None:
    """As a kernel does when it finds an error; the service is started again once the disk is mended."""
    disk = Disk(tmp_path / "image", 32 << 20)
    with disk.mounted(tmp_path / "disk") as place, serving(place / "data") as client:
        stock(client)
        Disk.break_down(place)
        check_nothing_can_be_written(client)
        check_reads_go_on(client)
    subprocess.run(["e2fsck", "-fy", str(disk.image)], check=False, capture_output=True)
    with disk.mounted(tmp_path / "disk") as place, serving(place / "data") as client:
        check_reads_go_on(client)
        check_writes_work_again(client)


# -- held by somebody else -------------------------------------------------------------------------------------

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


@contextmanager
def held(database: Path) -> Iterator[None]:
    """Another process holds the database's write lock."""
    command = [sys.executable, "-c", HOLDER, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait() == 0


def test_a_database_that_is_held_too_long_costs_the_writes_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BUSY_TIMEOUT_MS", 50)
    with serving(tmp_path / "data") as client:
        stock(client)
        with held(tmp_path / "data" / "catalog.sqlite"):
            check_nothing_can_be_written(client)
            check_reads_go_on(client)
        check_writes_work_again(client)
    assert check_folder(tmp_path / "data") == 2


def test_a_database_that_is_held_at_the_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BUSY_TIMEOUT_MS", 50)
    (tmp_path / "data").mkdir()
    with held(tmp_path / "data" / "catalog.sqlite"), pytest.raises(StorageUnavailable, match="another process"):
        DataFolder(tmp_path / "data")
    with serving(tmp_path / "data") as client:
        stock(client)


# -- photos ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["missing", "damaged", "torn"])
def test_a_lost_photo_costs_itself_alone_and_is_healed_by_indexing(tmp_path: Path, fault: str) -> None:
    with serving(tmp_path / "data") as client:
        stock(client)
        put(client, "twin", "aaa", RED)
        file = photo_of(tmp_path / "data", RED)
        lose(file, fault)
        for name in ("a", "twin"):
            check_problem(client.get(f"/catalog/{name}/image"), [404], "photo_not_found")
        assert "index the product again" in client.get("/catalog/a/image").json()["detail"]
        assert str(tmp_path) not in client.get("/catalog/a/image").text
        assert found(ask(client, "aaa", RED)) == found(ask(client, "aaa", RED, verify="true")) == ["a", "twin"]
        assert client.get("/catalog/b/image").content == GREEN
        assert put(client, "a", "aaa", RED).status_code == 200
        assert client.get("/catalog/twin/image").content == RED


def test_photos_that_a_crash_has_cost_are_counted_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving(tmp_path / "data") as client:
        stock(client)
        shutil.copytree(tmp_path / "data", tmp_path / "crashed")
    photo_of(tmp_path / "crashed", RED).unlink()
    with caplog.at_level(logging.INFO, "app.catalog"), serving(tmp_path / "crashed") as client:
        (said,) = [one for one in caplog.records if one.getMessage().startswith("the last process did not stop cleanly")]
        assert (said.__dict__["missing_photos"], said.__dict__["orphaned_photos_removed"]) == (1, 0)
        (lost,) = [one for one in caplog.records if one.getMessage().startswith("photos are missing")]
        assert lost.__dict__["products"] == ["a"]
        assert found(ask(client, "aaa", RED)) == ["a"]
        check_problem(client.get("/catalog/a/image"), [404], "photo_not_found")


def photo_of(folder: Path, image: bytes) -> Path:
    (file,) = [f for f in (folder / "photos").rglob("*") if f.is_file() and f.read_bytes() == image]
    return file


def lose(file: Path, fault: str) -> None:
    content = file.read_bytes()
    if fault == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:20] if fault == "torn" else content[:-9] + bytes(9))


def test_a_photo_that_cannot_be_removed_fails_no_change(matcher: Matcher, tmp_path: Path) -> None:
    """A folder is in the place of its file."""
    matcher.add("default", [matcher.read_product("a", "aaa", [RED], {})])
    file = photo_of(tmp_path / "data", RED)
    file.unlink()
    file.mkdir()
    matcher.catalog.delete("default", "a")
    assert matcher.catalog.size("default") == 0
    file.rmdir()
    file.write_bytes(RED)
    matcher.add("default", [matcher.read_product("b", "bbb", [], {})])
    assert not file.exists()


# -- damage in the database ------------------------------------------------------------------------------------


def scribble(database: Path, change: Callable[[bytearray], None], where: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        key, vector = connection.execute(f"SELECT pk, vector FROM vectors WHERE product_pk = {where}").fetchone()
        scribbled = bytearray(vector)
        change(scribbled)
        connection.execute("UPDATE vectors SET vector = ? WHERE pk = ?", (bytes(scribbled), key))
        connection.commit()


def exponent(vector: bytearray) -> None:
    vector[7] ^= 0x40


def not_a_number(vector: bytearray) -> None:
    vector[4:8] = b"\xff\xff\xff\xff"


@pytest.mark.parametrize("change", [exponent, not_a_number])
def test_vectors_that_no_tower_can_have_made_are_refused(
    matcher: Matcher, open_matcher: Callable[..., Matcher], tmp_path: Path, change: Callable[[bytearray], None]
) -> None:
    matcher.add("default", [matcher.read_product(name, name * 3, [RED], {}) for name in "ab"])
    matcher.close()
    shutil.rmtree(tmp_path / "data" / "snapshots")
    scribble(tmp_path / "data" / "catalog.sqlite", change, "2")
    with pytest.raises(CatalogError, match=r"'b'.*index --reembed"), closing(DataFolder(tmp_path / "data")) as data:
        LocalCatalog(data, FUSION, FINGERPRINT)
    with closing(DataFolder(tmp_path / "data")) as data:
        work = Reembedding(data, FUSION, FINGERPRINT)
        assert (work.drop_damaged(), work.count()) == (1, 1)
        assert reembed(FakeEncoder(), work, data.photos, lambda _: None) == []
        assert (work.drop_damaged(), work.count()) == (0, 0)
    mended = open_matcher()
    answer = mended.match([mended.read_query(RED, "bbb")], MatchOptions(0.99))[0]
    assert [match.product.id for match in answer.matches] == ["b"]


# -- the index, after the commit -------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [1, 2])
def test_an_index_that_fails_after_a_commit_is_made_anew_before_it_is_searched(
    matcher: Matcher, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """There is no memory left, for the change itself or for making the index anew, too."""
    matcher.add("default", [matcher.read_product("a", "aaa", [RED], {}), matcher.read_product("b", "bbb", [], {})])
    add, left = RowIndex.add, failures

    def add_or_fail(index: RowIndex, rows: RowSet) -> None:
        nonlocal left
        if left:
            left -= 1
            raise MemoryError
        add(index, rows)

    with monkeypatch.context() as patch:
        patch.setattr(RowIndex, "add", add_or_fail)
        with pytest.raises(MemoryError):
            matcher.add("default", [matcher.read_product("a", "ccc", [BLUE], {}), matcher.read_product("n", "ddd", [], {})])
    everything = matcher.match([matcher.read_query(None, "abcd")], MatchOptions(-1.0, 10))[0]
    assert {match.product.id: match.product.title for match in everything.matches} == {"a": "ccc", "b": "bbb", "n": "ddd"}
    answer = matcher.match([matcher.read_query(BLUE, "ccc")], MatchOptions(0.99))[0]
    assert [match.product.id for match in answer.matches] == ["a"]
    assert matcher.catalog.size("default") == 3
    assert matcher.catalog.photo("default", "a", 0)[0] == BLUE
    matcher.add("default", [matcher.read_product("z", "zzz", [], {})])
    assert matcher.catalog.size("default") == 4


# -- the bundle ------------------------------------------------------------------------------------------------


def test_a_damaged_bundle_is_refused_before_the_data_folder_is_touched(tmp_path: Path) -> None:
    for file in (ROOT / "model_store" / "default").iterdir():
        target = tmp_path / "bundle" / file.name
        target.parent.mkdir(exist_ok=True)
        if file.name != "image.safetensors":
            target.symlink_to(file)
        else:
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            target.write_bytes(content)
    settings = Settings(bundle=tmp_path / "bundle", data_dir=tmp_path / "data")
    with pytest.raises(ChecksumMismatch, match=r"image\.safetensors"):
        build_matcher(settings)
    assert not (tmp_path / "data").exists()
