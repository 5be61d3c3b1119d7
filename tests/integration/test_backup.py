"""Backups: made while others write, whole or not at all, and put back without losing what was there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.__main__ import cli
from app.catalog import backup as backup_module
from app.catalog.backup import backup
from app.catalog.backup_files import MANIFEST, verify
from app.catalog.data_folder import DataFolder
from app.catalog.keys import open_keys
from app.catalog.restore import restore
from app.core.access import Role
from app.errors import AppError, BackupError, CatalogError, DataFolderInUse, ProductNotFound
from app.files import locked
from app.matcher import Matcher, MatchOptions
from tests.disks import fill, small_disk
from tests.fakes import FINGERPRINT, photo
from tests.power_cuts import flip

Open = Callable[..., Matcher]
RED, GREEN, BLUE = photo((255, 0, 0)), photo((0, 255, 0)), photo((0, 0, 255))


def index(matcher: Matcher, product_id: str, title: str, *photos: bytes, catalog: str = "default") -> None:
    matcher.add(catalog, [matcher.read_product(product_id, title, photos, {"title": title})])


def listed(matcher: Matcher, catalog: str = "default") -> list[str]:
    return [product.id for product in matcher.catalog.page(catalog, 0, 1000).products]


def found(matcher: Matcher, title: str) -> list[str]:
    return [m.product.id for m in matcher.match([matcher.read_query(None, title)], MatchOptions(0.99, 100))[0].matches]


def files_in(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "one"


@pytest.fixture
def stocked(open_matcher: Open, data: Path) -> Matcher:
    """Three products in two catalogs, a statement and an API key; open."""
    matcher = open_matcher()
    index(matcher, "a", "aaa", RED, GREEN)
    index(matcher, "b", "bbb", RED)
    index(matcher, "a", "ccc", BLUE, catalog="other")
    with closing(open_keys(data)) as keys:
        keys.create("k", Role.ADMIN, None)
    return matcher


# -- making ----------------------------------------------------------------------------------------------------


def test_what_is_put_back_is_what_was_copied(stocked: Matcher, open_matcher: Open, data: Path, there: Path) -> None:
    made = backup(data, there)
    assert made.manifest == verify(there)
    assert (made.copied, made.reused) == (3, 0)
    assert made.manifest.bundles == {FINGERPRINT: 4}
    assert {name: (c.products, c.generation) for name, c in made.manifest.catalogs.items()} == {
        "default": (2, 2), "other": (1, 1),
    }  # fmt: skip
    assert sorted(entry.name for entry in there.iterdir()) == [MANIFEST, "catalog.sqlite", "photos"]
    assert sorted(entry.name for entry in there.parent.iterdir()) == [".one.lock", "one"]
    restored = restore(there, data.parent / "again")
    assert restored.kept is None
    again = open_matcher(data.parent / "again")
    assert listed(again) == listed(stocked) == ["a", "b"]
    for catalog, name in (("default", "a"), ("default", "b"), ("other", "a")):
        assert again.catalog.get(catalog, name) == stocked.catalog.get(catalog, name)
        for position in range(len(stocked.catalog.get(catalog, name).photos)):
            assert again.catalog.photo(catalog, name, position) == stocked.catalog.photo(catalog, name, position)
    assert found(again, "aaa") == ["a"]
    with closing(open_keys(data)) as keys, closing(open_keys(data.parent / "again")) as others:
        assert keys.stored() == others.stored() != []


def test_a_second_backup_copies_only_what_is_new(stocked: Matcher, data: Path, there: Path) -> None:
    backup(data, there)
    inodes = {name: (there / name).stat().st_ino for name in files_in(there) if name.startswith("photos/")}
    stocked.catalog.delete("other", "a")
    index(stocked, "d", "ddd", photo((9, 9, 9)))
    made = backup(data, there)
    assert (made.copied, made.reused) == (1, 2)
    assert made.manifest == verify(there)
    kept = [name for name in inodes if (there / name).exists()]
    assert len(kept) == 2
    assert all((there / name).stat().st_ino == inodes[name] for name in kept)
    assert sorted(entry.name for entry in there.parent.iterdir()) == [".one.lock", "one"]


def test_a_backup_is_of_one_moment_while_others_write(
    open_matcher: Open, data: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products are replaced and deleted all the time; in each backup every photo of every product is there."""
    monkeypatch.setattr(backup_module, "PAGES", 1)  # so that others write between any two of them
    matcher = open_matcher()
    done, turns = threading.Event(), [0, 0, 0]

    def churn(n: int) -> None:
        while not done.is_set():
            index(matcher, f"p{n}", "abc", photo((n, turns[n] % 256, turns[n] // 256)))
            if turns[n] % 5 == 4:
                matcher.catalog.delete("default", f"p{n}")
            turns[n] += 1

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(churn, n) for n in range(3)]
        try:
            backups = 0
            while backups < 6 or min(turns) < 10:
                assert not any(writer.done() for writer in writers)
                backup(data, there)
                verify(there)
                backups += 1
        finally:
            done.set()
        for writer in writers:
            writer.result()
    matcher.close()
    backup(data, there)
    held = {f.name for f in (data / "photos").rglob("*") if f.is_file()}
    assert held == verify(there).photos.keys()  # what could not be removed during a backup was removed afterwards


def test_no_photo_is_removed_while_a_backup_copies(
    stocked: Matcher, data: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All products are deleted between the copy of the database and the copies of the photos."""
    copy = backup_module._copy_photos

    def copy_late(*arguments: object) -> object:
        for catalog, name in (("default", "a"), ("default", "b"), ("other", "a")):
            stocked.catalog.delete(catalog, name)
        return copy(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(backup_module, "_copy_photos", copy_late)
    assert len(backup(data, there).manifest.photos) == 3
    assert verify(there).products == 3
    index(stocked, "new", "nnn")  # the next change removes what was kept for the backup
    assert not [f for f in (data / "photos").rglob("*") if f.is_file()]


def test_photos_kept_for_a_backup_are_removed_even_if_the_service_stops_first(
    stocked: Matcher, open_matcher: Open, data: Path
) -> None:
    with locked(data / "photos.lock", shared=True):
        stocked.catalog.delete("other", "a")
        stocked.close()
    assert len([f for f in (data / "photos").rglob("*") if f.is_file()]) == 3
    open_matcher()
    assert len([f for f in (data / "photos").rglob("*") if f.is_file()]) == 2


def test_a_lost_photo_stops_a_backup_unless_the_one_before_has_it(
    stocked: Matcher, open_matcher: Open, data: Path, there: Path
) -> None:
    (file,) = (data / "photos").rglob(stocked.catalog.get("other", "a").photos[0].sha256)
    file.write_bytes(b"damaged")
    with pytest.raises(BackupError, match=r"1 photos .* 'a' .*--allow-missing"):
        backup(data, there)
    assert not there.exists()
    made = backup(data, there, allow_missing=True)
    assert made.manifest.missing == (file.name,)
    assert verify(there) == made.manifest
    restore(there, data.parent / "again")
    assert open_matcher(data.parent / "again").catalog.size("other") == 1
    index(stocked, "a", "ccc", BLUE, catalog="other")
    backup(data, there)
    file.unlink()
    made = backup(data, there)
    assert made.manifest.missing == ()
    assert verify(there) == made.manifest


def test_a_backup_that_fails_leaves_the_one_before(
    stocked: Matcher, data: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(data, there)
    before = files_in(there)
    index(stocked, "d", "ddd", photo((1, 2, 3)))

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    for step in ("_copy_photos", "sync_tree", "write_file", "replace_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(backup_module, step, fail)
            with pytest.raises(BackupError, match="Input/output error"):
                backup(data, there)
        assert files_in(there) == before
        assert [entry.name for entry in there.parent.iterdir() if entry.name not in ("one", ".one.lock")] == []


def test_a_full_disk_leaves_the_backup_before(stocked: Matcher, data: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2 << 20) as disk:
        backup(data, disk / "one")
        before = files_in(disk / "one")
        filler = fill(disk, left_bytes=64 << 10)
        with pytest.raises(BackupError):
            backup(data, disk / "one")
        assert files_in(disk / "one") == before
        filler.unlink()
        assert backup(data, disk / "one").reused == 3


def test_what_an_interrupted_backup_left_is_removed_by_the_next(stocked: Matcher, data: Path, there: Path) -> None:
    backup(data, there)
    shutil.copytree(there, there.with_name(".one.unfinished"))
    (there.with_name(".one.unfinished") / MANIFEST).unlink()
    backup(data, there)
    assert sorted(entry.name for entry in there.parent.iterdir()) == [".one.lock", "one"]


def test_two_backups_into_one_folder_do_not_mix(stocked: Matcher, data: Path, there: Path) -> None:
    backup(data, there)
    with locked(there.with_name(".one.lock")), pytest.raises(BackupError, match="another backup"):
        backup(data, there)
    verify(there)


def test_the_folder_may_be_the_one_that_one_is_in(
    stocked: Matcher, data: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(data, there)
    monkeypatch.chdir(there)
    assert backup(data, Path()).reused == 3
    verify(there)


def test_no_folder_is_replaced_that_is_no_backup(stocked: Matcher, data: Path, there: Path) -> None:
    there.mkdir(parents=True)
    (there / "thesis.txt").write_text("years of work")
    with pytest.raises(BackupError, match="no backup"):
        backup(data, there)
    (there / "thesis.txt").unlink()
    backup(data, there)
    link = there.with_name("link")
    link.symlink_to(there)
    for wrong in (data, data / "inside", data.parent, link):
        with pytest.raises(BackupError):
            backup(data, wrong)
    with pytest.raises(BackupError, match="SAMESKU_DATA_DIR"):
        backup(data.parent / "nowhere", there)


def test_a_damaged_database_does_not_replace_a_backup(stocked: Matcher, data: Path, there: Path) -> None:
    for n in range(60):
        index(stocked, f"p{n}", "abc")
    stocked.close()
    backup(data, there)
    before = files_in(there)
    whole = (data / "catalog.sqlite").read_bytes()
    (data / "catalog.sqlite").write_bytes(whole[: 5 * 4096] + b"\xa5" * (len(whole) - 5 * 4096))
    with pytest.raises(AppError, match=r"damaged|copied"):
        backup(data, there)
    assert files_in(there) == before


def test_a_crashed_folder_can_be_copied(stocked: Matcher, data: Path, there: Path, open_matcher: Open) -> None:
    shutil.copytree(data, data.parent / "crashed")
    assert backup(data.parent / "crashed", there).manifest.products == 3


# -- verifying -------------------------------------------------------------------------------------------------


def edit(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | changes))


def a_photo(folder: Path) -> Path:
    return min(file for file in (folder / "photos").rglob("*") if file.is_file())


def other_database(folder: Path) -> None:
    """A sound database with its right checksum, but of another moment."""
    with closing(sqlite3.connect(folder / "catalog.sqlite")) as connection:
        connection.execute("DELETE FROM photos")
        connection.commit()
    digest = hashlib.sha256((folder / "catalog.sqlite").read_bytes()).hexdigest()
    edit(folder, database_sha256=digest)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "manifest missing": lambda folder: (folder / MANIFEST).unlink(),
    "manifest torn": lambda folder: os.truncate(folder / MANIFEST, 100),
    "manifest empty": lambda folder: (folder / MANIFEST).write_bytes(b""),
    "manifest not text": lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe\x00"),
    "manifest of a newer format": lambda folder: edit(folder, format=2),
    "manifest with other counts": lambda folder: edit(folder, catalogs={}),
    "manifest with other bundles": lambda folder: edit(folder, bundles={FINGERPRINT: 5}),
    "manifest without photos": lambda folder: edit(folder, photos={}),
    "manifest with a path": lambda folder: edit(folder, photos={"../../../etc/passwd": 1}),
    "database missing": lambda folder: (folder / "catalog.sqlite").unlink(),
    "database flipped": lambda folder: flip(folder / "catalog.sqlite", 5000),
    "database torn": lambda folder: os.truncate(folder / "catalog.sqlite", 8192),
    "database of another moment": other_database,
    "photo missing": lambda folder: a_photo(folder).unlink(),
    "photo flipped": lambda folder: flip(a_photo(folder)),
    "photo torn": lambda folder: os.truncate(a_photo(folder), 10),
    "photo emptied": lambda folder: a_photo(folder).write_bytes(b""),
    "folder gone": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_backup_is_refused_and_nothing_is_touched(
    stocked: Matcher, data: Path, there: Path, damage: Callable[[Path], object]
) -> None:
    backup(data, there)
    stocked.close()
    damage(there)
    before = files_in(data)
    with pytest.raises(BackupError, match=r"use another one|newer"):
        verify(there)
    with pytest.raises(BackupError):
        restore(there, data, force=True)
    assert files_in(data) == before
    with pytest.raises(BackupError):
        restore(there, data.parent / "new")
    assert not (data.parent / "new" / "catalog.sqlite").exists()


# -- putting back ----------------------------------------------------------------------------------------------


def test_a_folder_in_use_is_not_touched(stocked: Matcher, data: Path, there: Path) -> None:
    backup(data, there)
    with pytest.raises(DataFolderInUse):
        restore(there, data, force=True)
    stocked.close()
    with locked(data / "photos.lock", shared=True), pytest.raises(DataFolderInUse):
        restore(there, data, force=True)
    assert restore(there, data, force=True).kept is not None


@pytest.mark.parametrize("content", ["products", "an API key", "a damaged database"])
def test_a_folder_with_something_in_it_takes_force_and_keeps_it(
    stocked: Matcher, open_matcher: Open, data: Path, there: Path, content: str
) -> None:
    backup(data, there)
    new = data.parent / "new"
    if content == "products":
        other = open_matcher(new)
        index(other, "old", "ooo", photo((7, 7, 7)))
        other.close()
    elif content == "an API key":
        with closing(open_keys(new)) as keys:
            keys.create("old", Role.ADMIN, None)
    else:
        new.mkdir()
        (new / "catalog.sqlite").write_bytes(b"what is left of it")
    before = {n: b for n, b in files_in(new).items() if not n.endswith("lock")}
    with pytest.raises(BackupError, match="--force"):
        restore(there, new)
    kept = restore(there, new, force=True).kept
    assert kept is not None
    assert files_in(kept) == before
    assert listed(open_matcher(new)) == ["a", "b"]


def test_an_empty_folder_takes_no_force(stocked: Matcher, open_matcher: Open, data: Path, there: Path) -> None:
    backup(data, there)
    open_matcher(data.parent / "new").close()
    restore(there, data.parent / "new")
    assert listed(open_matcher(data.parent / "new")) == ["a", "b"]


def test_a_backup_of_a_newer_version_is_refused(stocked: Matcher, data: Path, there: Path) -> None:
    stocked.close()
    with closing(sqlite3.connect(data / "catalog.sqlite")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    backup(data, there)
    with pytest.raises(BackupError, match="upgrade first"):
        restore(there, data.parent / "new")


class PowerCut(BaseException):
    """Nothing may run after it."""


@pytest.mark.parametrize("steps", range(18))
def test_a_restore_that_is_cut_off_is_noticed_and_finished_by_the_next(
    stocked: Matcher, open_matcher: Open, data: Path, there: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    backup(data, there)
    index(stocked, "late", "lll", photo((3, 3, 3)))
    stocked.close()
    before = {n: b for n, b in files_in(data).items() if not n.endswith("lock")}
    left = steps

    def cut(change: Callable[..., object]) -> Callable[..., object]:
        def changed(*arguments: object, **named: object) -> object:
            nonlocal left
            if left == 0:
                raise PowerCut
            left -= 1
            return change(*arguments, **named)

        return changed

    with monkeypatch.context() as patch:
        for name in ("rename", "mkdir", "unlink", "rmdir"):
            patch.setattr(Path, name, cut(getattr(Path, name)))
        try:
            restore(there, data, force=True)
        except PowerCut:
            was_cut = True
        else:
            was_cut = False
    torn = ("restoring.files", ".restoring.")
    now = {n: b for n, b in files_in(data).items() if not n.endswith("lock") and not n.startswith(torn)}
    if now == before:
        assert sorted(listed(open_matcher())) == ["a", "b", "late"]  # nothing had been touched yet
        return
    if was_cut and (data / "restoring").exists():
        with pytest.raises(CatalogError, match="interrupted: run"):
            open_matcher()
        with pytest.raises(CatalogError, match="interrupted: run"):
            open_keys(data)
        with pytest.raises(CatalogError, match="interrupted: run"):
            backup(data, there.with_name("two"))
        restore(there, data)  # needs no --force: that was given
    again = open_matcher()
    assert listed(again) == ["a", "b"]
    with pytest.raises(ProductNotFound):
        again.catalog.get("default", "late")
    (kept,) = data.glob("before-restore-*")
    assert files_in(kept) == before
    again.close()
    assert not (data / "restoring").exists()
    assert not (data / "restoring.files").exists()


def test_a_disk_that_is_too_small_for_a_restore_keeps_what_is_there(stocked: Matcher, data: Path, there: Path) -> None:
    index(stocked, "d", "ddd")
    backup(data, there)
    with small_disk(data.parent / "disk", 3 << 20) as disk:
        shutil.copytree(there.parent, disk / "backups")
        with closing(DataFolder(disk / "data")):
            pass
        before = files_in(disk / "data")
        filler = fill(disk, left_bytes=32 << 10)
        with pytest.raises(CatalogError, match="space"):
            restore(disk / "backups" / "one", disk / "data")
        assert files_in(disk / "data") == before | {"photos.lock": b""}
        filler.unlink()
        assert restore(disk / "backups" / "one", disk / "data").manifest.products == 4


# -- the command line ------------------------------------------------------------------------------------------


def test_the_commands_say_what_they_did(stocked: Matcher, data: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(cli, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    monkeypatch.setenv("SAMESKU_DATA_DIR", str(data))
    assert "3 photos copied, 0 taken over" in run("backup", str(there))
    assert "0 photos copied, 3 taken over" in run("backup", str(there))
    said = run("backup", "--verify", str(there))
    assert "is whole" in said
    assert "3 products in 2 catalogs" in said
    monkeypatch.setenv("SAMESKU_DATA_DIR", str(data.parent / "new"))
    assert "3 products in 2 catalogs and 3 photos are in" in run("restore", str(there))
    assert "is kept in" in run("restore", "--force", str(there))
