"""Small real file systems, for what happens when a disk is full, read-only, or loses its power.

They take the right to mount; where there is none, `pytest.skip` says so.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def run(*command: str) -> None:
    """Runs a command that this machine may not be allowed to run."""
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"{command[0]} is not possible here: {error}")


@contextmanager
def small_disk(place: Path, size_bytes: int) -> Iterator[Path]:
    """Mounts a file system of that size, in memory, at `place`."""
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(folder: Path, left_bytes: int = 0) -> Path:
    """Fills the disk of a folder but for some bytes; returns the file that takes them."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            pass
        stream.truncate(max(0, stream.tell() - left_bytes))
    return filler


class Disk:
    """An ext4 file system in a file: what the file holds is what the disk holds, and dirty pages are not in it.

    A copy of the file, made after the programs that use the disk were killed, is the disk after a power cut: what was synced
    is on it, and of what was not synced whatever the kernel had happened to write.
    """

    def __init__(self, image: Path, size_bytes: int = 64 << 20) -> None:
        self.image = image
        with image.open("wb") as stream:
            stream.truncate(size_bytes)
        run("mkfs.ext4", "-q", "-F", str(image))

    @contextmanager
    def mounted(self, place: Path) -> Iterator[Path]:
        """Mounts it. Its journal is written every minute unless a program asks for it."""
        place.mkdir(exist_ok=True)
        self._mount(place)
        try:
            yield place
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)

    def cut_power(self, place: Path) -> None:
        """Puts the mounted disk into the state after a power cut and a start: what is only in memory is gone."""
        after = self.image.with_suffix(".after")
        shutil.copyfile(self.image, after)
        subprocess.run(["umount", str(place)], check=True)
        after.replace(self.image)
        self._mount(place)

    def _mount(self, place: Path) -> None:
        run("mount", "-o", "loop,commit=60", str(self.image), str(place))

    @staticmethod
    def break_down(place: Path) -> None:
        """Has the kernel find an error, so that the mounted file system is read-only from now on, for open files too."""
        run("mount", "-o", "remount,abort", str(place))
