"""The targets of `tests.fuzzing` without a fuzzer: their seeds, damage of those, and what was ever found."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.api.calls import RED, zip_file
from tests.fuzzing.targets import TARGETS, close
from tests.mutants import damaged

MUTANTS = 300


def nameless_and_encrypted() -> bytes:
    """zipfile wants to name the entry in its error, and looks at the last letter of the name."""
    data = bytearray(zip_file({"a": RED})[1])
    at = data.index(b"PK\x01\x02")
    for start, flags, name in ((0, 6, 26), (at, 8, 28)):
        data[start + flags] |= 1
        data[start + name], data[start + name + 2] = 0, 1  # the letter becomes the extra field
    return bytes(data)


LAST_LINE_IN_THE_FILE = (
    b'\xff--samesku\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc--samesku--\r\n'
)
FOUND: dict[str, list[bytes]] = {"zip": [nameless_and_encrypted()], "form": [LAST_LINE_IN_THE_FILE]}


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    close()


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_damage_of_them_are_read_or_refused(name: str) -> None:
    fuzzed, chance = TARGETS[name], random.Random(3)
    for data in (b"", b"\0", b"\xff" * 5, *fuzzed.seeds, *FOUND.get(name, [])):
        fuzzed.target(data)
    for _ in range(MUTANTS):
        fuzzed.target(damaged(chance.choice(fuzzed.seeds), chance, fuzzed.seeds))
