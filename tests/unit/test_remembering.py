"""What is remembered of texts: results stay the same, and memory is bounded whatever is sent."""

from __future__ import annotations

import tracemalloc

from app.core import texts
from app.core.quantities import read_facts
from app.core.quantities.compare import compare_titles
from app.core.remembering import remembered

LONG = "x" * 2000
MOST_BYTES = 5_000_000


def test_short_texts_are_read_once_and_long_ones_each_time() -> None:
    read: list[tuple[str, ...]] = []

    @remembered(kept=2, longest=4)
    def joined(*parts: str) -> str:
        read.append(parts)
        return "".join(parts)

    assert [joined("ab", "cd"), joined("ab", "cd"), joined("abcde"), joined("abcde")] == ["abcd", "abcd", "abcde", "abcde"]
    assert read == [("ab", "cd"), ("abcde",), ("abcde",)]
    joined("a"), joined("b"), joined("ab", "cd")
    assert read[3:] == [("a",), ("b",), ("ab", "cd")]


def test_thousands_of_long_titles_leave_nothing_behind() -> None:
    """Each of them is some 250 KB of words and trigrams, 100 are 25 MB."""
    tracemalloc.start()
    try:
        for n in range(100):
            title = "".join(chr(0x4E00 + (n * 2000 + k) % 20_000) for k in range(1990))
            texts.compare_texts(title, [LONG])
            read_facts(title + " 500 g")
            compare_titles(title, LONG)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < MOST_BYTES
