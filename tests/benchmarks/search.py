"""Search alone: what one question and 32 cost, against reading the same memory and against FAISS as it comes.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.search [--rows 30000 --rows 100000] [--rounds 7] [--json docs/search.json]

The rows are made up like a shop: products of 100 kinds, four listings each, of which most score above the threshold with
each other. Questions are further listings of some of the products, asked as the service asks: the nearest 102 and everything
at .5 or above. Whatever is compared takes turns, and gives the same answers or the benchmark stops. Prints medians of the
rounds, and ratios within a round as median (lowest to highest). Times are the processor's, so use one thread; on a machine
that others use, they take a share of the memory's speed, too, and only the ratios say something.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import faiss
import numpy as np
import typer

from app.catalog.blocks import Blocks
from app.catalog.row_index import RowIndex
from app.catalog.rows import LISTS_FROM, Found, IndexOptions, RowSet
from app.core.fusion import HAS_BOTH
from app.core.product import Floats
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.report import table_text

IMAGE_DIM, TITLE_DIM, WEIGHT = 512, 896, 0.35  # those of the default bundle
DIM = IMAGE_DIM + TITLE_DIM
KINDS, EACH = 100, 4
AT_ONCE = 8192
THRESHOLD, NEAREST = 0.5, 102
TOGETHER, BEST = 32, 51
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
    ask(_warm_index(), np.ones((1, DIM), np.float32))  # what libraries take once
    before = resident_bytes()
    index, start = RowIndex(DIM, options), 0
    for part in shop.parts():
        index.add(RowSet(np.arange(start, start + len(part)), np.full(len(part), HAS_BOTH, np.uint8), part))
        start += len(part)
    index.prepare()
    del part
    return index, (resident_bytes() - before) / shop.rows


def _warm_index() -> RowIndex:
    index = RowIndex(DIM)
    index.add(RowSet(np.arange(64), np.full(64, HAS_BOTH, np.uint8), np.ones((64, DIM), np.float32)))
    return index


def resident_bytes() -> int:
    """Returns how much memory this process has now, less what it has given back but is kept for it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096


def ask(index: RowIndex, questions: Floats, allowed: Any = None) -> list[Found]:
    """Asks as the service does."""
    return index.candidates(questions, [THRESHOLD] * len(questions), allowed, NEAREST)


@contextmanager
def without_codes() -> Iterator[None]:
    """Makes every search read all rows."""
    helpful, by_lists = Blocks._codes_help, Blocks._by_lists

    def nothing(_: Blocks, __: object, questions: Floats, *___: object) -> list[None]:
        return [None] * len(questions)

    try:
        Blocks._codes_help, Blocks._by_lists = (lambda *_: False), nothing  # type: ignore[method-assign,assignment]
        yield
    finally:
        Blocks._codes_help, Blocks._by_lists = helpful, by_lists  # type: ignore[method-assign]


def take_turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Returns the milliseconds of processor time of each in each round, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            begun = time.process_time()
            work()
            if turn:
                times[name].append((time.process_time() - begun) * 1000)
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


def measure_lists(rows: int, rounds: int) -> dict[str, Any]:
    """Measures an approximate search in a catalog of that size: times, recall, and what it costs to begin with."""
    index, size = filled(shop := Shop(rows), IndexOptions(search="approximate", lists_from=sys.maxsize))
    for kind in index._kinds.values():
        kind._options = replace(kind._options, lists_from=1)
    before, begun = resident_bytes(), time.perf_counter()
    index.prepare()
    seconds, more = time.perf_counter() - begun, (resident_bytes() - before) / rows
    questions = shop.questions(index, 4 * TOGETHER)
    with without_codes():
        exact = ask(index, questions)
    found = ask(index, questions)
    hit = wanted = near = 0
    for question, all_rows, some in zip(questions, exact, found, strict=True):
        scores = index.rows(all_rows.slots).vectors @ question
        got = np.isin(all_rows.slots, some.slots)
        hit, wanted = hit + int(got[scores >= THRESHOLD].sum()), wanted + int((scores >= THRESHOLD).sum())
        near += int(got[np.argsort(-scores)[:BEST]].sum())

    def flat(asked: Floats) -> list[Found]:
        with without_codes():
            return ask(index, asked)

    few = questions[:TOGETHER]
    works: dict[str, Callable[[], object]] = {
        "all rows, one question": lambda: flat(questions[:1]),
        "lists, 32 in turn": lambda: one_by_one(lambda asked: ask(index, asked), few),
        "all rows, together": lambda: flat(few),
        "lists, together": lambda: ask(index, few),
    }
    times = take_turns(works, rounds)
    of_best = near / (len(questions) * min(BEST, rows))
    return {
        "recall": hit / wanted,
        "recall_of_best": of_best,
        "matches": wanted / len(questions),
        "seconds_to_make": seconds,
        "bytes_per_row": size + more,
        "ms": times,
    }


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
        "32 together": lambda: ask(index, questions),
        "all rows, 32 together": lambda: flat(questions),
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
    times = take_turns(works, rounds)
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
        "32 together, ms": time_of("32 together"),
        "32 in turn, all rows / 32 together": lambda one: ratio(one, "all rows, 32 in turn", "32 together"),
        "32 in turn, all rows / all rows, 32 together": lambda one: ratio(
            one, "all rows, 32 in turn", "all rows, 32 together"
        ),
        "32 in turn, codes / 32 together": lambda one: ratio(one, "codes, 32 in turn", "32 together"),
        "plain FAISS, 32 / 32 together": lambda one: ratio(one, "plain FAISS, 32 together", "32 together"),
        "float16, 32 / 32 together": lambda one: ratio(one, "float16, 32 together", "32 together"),
        "half allowed / all rows": lambda one: ratio(one, "half allowed", "all rows"),
        "half allowed, 32 / 32 together": lambda one: ratio(one, "half allowed, 32 together", "32 together"),
        "memory per row / its vector": lambda one: f"{one['bytes_per_row'] / one['raw_bytes_per_row']:.3f}",
    }
    in_lists: dict[str, Callable[[dict[str, Any]], str]] = {
        "approximate: recall of the matches": lambda one: f"{one['lists']['recall']:.4f}",
        "approximate: recall of the best 51": lambda one: f"{one['lists']['recall_of_best']:.3f}",
        "one question approximately, ms": lambda one: f"{median(one['lists']['ms']['lists, 32 in turn']) / TOGETHER:.2f}",
        "all rows / approximately": lambda one: spread(
            [
                TOGETHER * whole / some
                for whole, some in zip(
                    one["lists"]["ms"]["all rows, one question"], one["lists"]["ms"]["lists, 32 in turn"], strict=True
                )
            ]
        ),
        "32 together, all rows / approximately": lambda one: ratio(one["lists"], "all rows, together", "lists, together"),
        "making the lists, s": lambda one: f"{one['lists']['seconds_to_make']:.0f}",
        "approximate: memory per row / its vector": lambda one: f"{one['lists']['bytes_per_row'] / (4 * DIM):.3f}",
    }
    head = ["rows", *(f"{one['rows']:,}" for one in results)]
    cells = [[name, *(line(one) for one in results)] for name, line in lines.items()]
    cells += [[name, *(line(one) if "lists" in one else "" for one in results)] for name, line in in_lists.items()]
    return table_text(head, cells)


def main(
    rows: Annotated[list[int] | None, typer.Option(help="Sizes of the catalog; may be given several times.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where to write all figures.")] = None,
) -> None:
    """Measures, prints a table, and writes the figures."""
    results = []
    for size in rows or [30_000, 100_000]:
        results.append(measure(size, rounds))
        if size >= LISTS_FROM:
            results[-1]["lists"] = measure_lists(size, rounds)
    sys.stdout.write(table(results) + "\n")
    if json_file is not None:
        json_file.write_text(json.dumps({"machine": describe_machine(), "results": results}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    typer.run(main)
