"""Writing to disk so that a power cut or a killed process leaves the old state or the new one, never half."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_CHUNK_BYTES = 1 << 20
MANY = 16  # files or folders that are synced in one go, with whatever else is new on their file system


def sha256_of(file: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Makes a file's bytes, or a folder's entries, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Makes everything in a folder survive a power cut, at any depth. Raises OSError if some of it could not be written."""
    if not _sync_file_system(folder):
        for path in (*folder.rglob("*"), folder):
            sync(path)


def _sync_all(paths: Collection[Path]) -> None:
    """Makes files or folders of one file system survive a power cut."""
    if len(paths) < MANY or not _sync_file_system(next(iter(paths))):
        for path in paths:
            sync(path)


def _sync_file_system(place: Path) -> bool:
    """Makes all that is on a file system survive a power cut, with Linux's syncfs; False where that is not to be had.

    A sync of each of 100,000 photos takes minutes, and most of its time the disk waits for the next one.

    Raises:
        OSError: some of it could not be written.
    """
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        return False
    handle = os.open(place, os.O_RDONLY)
    try:
        if syncfs(handle):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(place))
    finally:
        os.close(handle)
    return True


@contextmanager
def locked(file: Path, *, shared: bool = False) -> Iterator[bool]:
    """Holds a lock against other processes, and other holders in this one; yields False, at once, if it is taken.

    Args:
        file: made if it is not there, and left there. The lock ends with the process, however it ends.
        shared: with other sharers; waits for one who does not share.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def write_file(file: Path, data: bytes) -> None:
    """Writes a file whole or not at all, and durably."""
    write_files({file: data})


def write_files(files: Mapping[Path, bytes]) -> None:
    """Writes files of one file system durably, each whole or not at all; if it fails, some may have been written."""
    scratches = {file.with_name(f".{file.name}.{uuid.uuid4().hex}"): file for file in files}
    try:
        for scratch, file in scratches.items():
            scratch.write_bytes(files[file])
        _sync_all(scratches)
        for scratch, file in scratches.items():
            scratch.rename(file)
    except BaseException:
        for scratch in scratches:
            scratch.unlink(missing_ok=True)
        raise
    _sync_all({file.parent for file in files})


def replace_folder(new: Path, folder: Path) -> None:
    """Puts the folder `new` in the place of `folder`, which need not exist; what was there is removed.

    The files in `new` are synced first. Both must be on one file system.
    """
    folder = folder.resolve()
    for file in new.iterdir():
        sync(file)
    sync(new)
    if not folder.exists():
        new.rename(folder)
    elif _exchange(new, folder):
        shutil.rmtree(new, ignore_errors=True)
    else:  # a file system without an atomic exchange: for a moment only `.old` has the content
        old = new.with_name(new.name + ".old")
        folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    sync(folder.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two paths in one step with Linux's renameat2; False where that is not to be had."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    at_cwd, exchange = -100, 2
    return renameat2 is not None and renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) == 0
