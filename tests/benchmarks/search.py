"""Search alone: what one question and 32 cost, against reading the same memory and against FAISS as it comes.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.search [--rows 10000 --rows 100000] [--rounds 7] [--json docs/search.json]

The rows are made up like a shop: products of 300 kinds, four listings each, of which most score above the threshold with
each other. Questions are further listings of some of the products, asked as the service asks: the nearest 102 and everything
at .5 or above. Whatever is compared takes turns, and gives the same answers or the benchmark stops. Prints medians of the
rounds, and ratios within a round as median (lowest to highest); on a machine that others use, only the ratios say something.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import faiss
import numpy as np
import typer

from app.catalog import blocks
from app.catalog.row_index import RowIndex
from app.catalog.rows import Found, IndexOptions, RowSet
from app.core.fusion import HAS_BOTH
from app.core.product import Floats
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.report import table_text

IMAGE_DIM, TITLE_DIM, WEIGHT = 512, 896, 0.35  # those of the default bundle
DIM = IMAGE_DIM + TITLE_DIM
KINDS, EACH = 300, 4
AT_ONCE = 8192
THRESHOLD, NEAREST = 0.5, 102
TOGETHER = 32
SMALL = 200_000  # rows that can be held three times, for comparisons


@dataclass
class Shop:
    """Made-up rows and questions; the same for the same number of rows."""

    rows: int
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(11))

    def parts(self) -> Iterator[Floats]:
        """Yields the rows, `(AT_ONCE, DIM)` float32 at a time."""
        kinds = [self._directions(KINDS, dim) for dim in (IMAGE_DIM, TITLE_DIM)]
        for start in range(0, self.rows, AT_ONCE):
            of = self.random.integers(KINDS, size=AT_ONCE // EACH)
            halves = []
            for centres, dim in zip(kinds, (IMAGE_DIM, TITLE_DIM), strict=True):
                products = 0.5 * centres[of] + 0.7 * self._directions(len(of), dim)
                halves.append(unit(np.repeat(products, EACH, axis=0) + 0.5 * self._directions(AT_ONCE, dim)))
            yield fused(*halves)[: self.rows - start]

    def questions(self, index: RowIndex, count: int) -> Floats:
        """Returns further listings of products, `(count, DIM)`."""
        keys = np.arange(count) * (self.rows // count // EACH * EACH)
        rows = index.rows(index.slots_of(keys.tolist())).vectors
        noise = fused(self._directions(count, IMAGE_DIM), self._directions(count, TITLE_DIM))
        return unit(rows + 0.4 * noise)

    def _directions(self, count: int, dim: int) -> Floats:
        return unit(self.random.standard_normal((count, dim), dtype=np.float32))


def unit(rows: Floats) -> Floats:
    """Returns rows of length 1."""
    scaled: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def fused(image: Floats, title: Floats) -> Floats:
    """Returns both halves as one row each."""
    return np.hstack([np.float32(np.sqrt(WEIGHT)) * image, np.float32(np.sqrt(1 - WEIGHT)) * title])


def filled(shop: Shop, options: IndexOptions) -> tuple[RowIndex, float]:
    """Returns an index of the shop's rows with all the codes it will have, and its bytes of memory per row."""
    before = resident_bytes()
    index, start = RowIndex(DIM, options), 0
    for part in shop.parts():
        index.add(RowSet(np.arange(start, start + len(part)), np.full(len(part), HAS_BOTH, np.uint8), part))
        start += len(part)
    for _ in range(shop.rows // blocks.BLOCK + 1):  # each search makes the codes of one block
        ask(index, part[:1])
    return index, (resident_bytes() - before) / shop.rows


def resident_bytes() -> int:
    """Returns how much memory this process has now."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096


def ask(index: RowIndex, questions: Floats, allowed: Any = None) -> list[Found]:
    """Asks as the service does."""
    return index.candidates(questions, [THRESHOLD] * len(questions), allowed, NEAREST)


@contextmanager
def without_codes() -> Iterator[None]:
    """Makes every search read all rows."""
    kept, blocks.BLAS_FROM = blocks.BLAS_FROM, 0
    try:
        yield
    finally:
        blocks.BLAS_FROM = kept


def take_turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Returns the milliseconds of each in each round, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            begun = time.perf_counter()
            work()
            if turn:
                times[name].append((time.perf_counter() - begun) * 1000)
    return times


def one_by_one(search: Callable[[Floats], object], questions: Floats) -> None:
    """Asks one question after the other."""
    for n in range(len(questions)):
        search(questions[n : n + 1])


def same_answers(one: Sequence[Found], other: Sequence[Found], index: RowIndex, questions: Floats) -> None:
    """Stops unless two searches found the same, up to rounding at the last place."""
    for left, right, question in zip(one, other, questions, strict=True):
        for slots in (np.setdiff1d(left.slots, right.slots), np.setdiff1d(right.slots, left.slots)):
            scores = index.rows(slots).vectors @ question
            least = min((index.rows(left.slots).vectors @ question).min(), THRESHOLD)
            if (abs(scores - least) > 1e-4).any():
                raise SystemExit("a search by codes and one of all rows gave different answers")


def measure(rows: int, rounds: int) -> dict[str, Any]:
    """Measures a catalog of that size."""
    shop = Shop(rows)
    index, size = filled(shop, IndexOptions())
    questions = shop.questions(index, TOGETHER)
    half = np.arange(0, rows, 2)
    matrices = [part.vectors.reshape(-1) for part in index.export()]

    def flat(asked: Floats, allowed: Any = None) -> list[Found]:
        with without_codes():
            return ask(index, asked, allowed)

    single = questions[:1]
    works: dict[str, Callable[[], object]] = {
        "reading": lambda: [np.dot(matrix, matrix) for matrix in matrices],
        "all rows": lambda: flat(single),
        "codes": lambda: ask(index, single),
        "all rows, 32 together": lambda: ask(index, questions),
        "all rows, 32 in turn": lambda: one_by_one(flat, questions),
        "codes, 32 in turn": lambda: one_by_one(lambda asked: ask(index, asked), questions),
        "half allowed": lambda: ask(index, single, half),
        "half allowed, 32 together": lambda: ask(index, questions, half),
    }
    if rows <= SMALL:
        plain = faiss.IndexFlatIP(DIM)
        for part in index.export():
            plain.add(part.vectors)
        halves, _ = filled(Shop(rows), IndexOptions("float16"))
        works["plain FAISS"] = lambda: plain.search(single, NEAREST)
        works["plain FAISS, 32 together"] = lambda: plain.search(questions, NEAREST)
        works["float16"] = lambda: ask(halves, single)
        works["float16, 32 together"] = lambda: ask(halves, questions)
    same_answers(
        [one for n in range(TOGETHER) for one in ask(index, questions[n : n + 1])], flat(questions), index, questions
    )
    blas_threshold = faiss.cvar.distance_compute_blas_threshold
    times = take_turns(works, rounds)
    faiss.cvar.distance_compute_blas_threshold = blas_threshold
    return {"rows": rows, "bytes_per_row": size, "raw_bytes_per_row": 4 * DIM, "ms": times}


def spread(values: Sequence[float]) -> str:
    """Returns median, lowest and highest."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def table(results: Sequence[dict[str, Any]]) -> str:
    """Returns the figures as Markdown."""

    def ratio(result: dict[str, Any], over: str, under: str) -> str:
        ms = result["ms"]
        if over not in ms or under not in ms:
            return ""
        return spread([one / other for one, other in zip(ms[over], ms[under], strict=True)])

    def time_of(name: str) -> Callable[[dict[str, Any]], str]:
        return lambda result: f"{median(result['ms'][name]):.1f}" if name in result["ms"] else ""

    lines: dict[str, Callable[[dict[str, Any]], str]] = {
        "one question, all rows, ms": time_of("all rows"),
        "share of the memory's speed": lambda one: ratio(one, "reading", "all rows"),
        "one question by codes, ms": time_of("codes"),
        "all rows / codes": lambda one: ratio(one, "all rows", "codes"),
        "plain FAISS / codes": lambda one: ratio(one, "plain FAISS", "codes"),
        "all rows / float16": lambda one: ratio(one, "all rows", "float16"),
        "32 together, ms": time_of("all rows, 32 together"),
        "32 in turn, all rows / 32 together": lambda one: ratio(one, "all rows, 32 in turn", "all rows, 32 together"),
        "32 in turn, codes / 32 together": lambda one: ratio(one, "codes, 32 in turn", "all rows, 32 together"),
        "plain FAISS, 32 / 32 together": lambda one: ratio(one, "plain FAISS, 32 together", "all rows, 32 together"),
        "float16, 32 / 32 together": lambda one: ratio(one, "float16, 32 together", "all rows, 32 together"),
        "half allowed / all rows": lambda one: ratio(one, "half allowed", "all rows"),
        "half allowed, 32 / 32 together": lambda one: ratio(one, "half allowed, 32 together", "all rows, 32 together"),
        "memory per row / its vector": lambda one: f"{one['bytes_per_row'] / one['raw_bytes_per_row']:.3f}",
    }
    head = ["rows", *(f"{one['rows']:,}" for one in results)]
    return table_text(head, [[name, *(line(one) for one in results)] for name, line in lines.items()])


def main(
    rows: Annotated[list[int] | None, typer.Option(help="Sizes of the catalog; may be given several times.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where to write all figures.")] = None,
) -> None:
    """Measures, prints a table, and writes the figures."""
    results = [measure(size, rounds) for size in rows or [10_000, 100_000]]
    sys.stdout.write(table(results) + "\n")
    if json_file is not None:
        json_file.write_text(json.dumps({"machine": describe_machine(), "results": results}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    typer.run(main)
