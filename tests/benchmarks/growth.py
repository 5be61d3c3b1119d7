"""What grows with the catalog: start, memory, search, ingest.

    python -m tests.benchmarks.growth [BUNDLE] [--sizes 0,10000,100000] [--json FILE] [--plot docs/growth.svg]

A catalog is filled from size to size with made-up vectors of the bundle's dimensions, as products with a photo's and a
title's half, so that no tower takes part. At each size, in processes of their own: how fast the last products went in; how
long the service takes until `/readyz` says yes; how long the catalog alone takes to open, from its snapshot, after a crash
and without a snapshot, beside plainly reading the snapshot's files; what one search takes; and what memory it all takes once
it was searched. What was just written is still in the cache of the system: the disk is warm. Prints Markdown.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, TypeVar

import numpy as np
import typer
from matplotlib.figure import Figure

from app.catalog.data_folder import DataFolder
from app.catalog.local import LocalCatalog
from app.core.fusion import Fusion
from app.core.pairs import CONTEXT
from app.core.product import DEFAULT_CATALOG, Embedding, ProductDraft, Query
from app.model_store import load_bundle
from tests.benchmarks import processes
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.report import table_text
from tests.benchmarks.stats import SAMESKU

ROOT = Path(__file__).parent.parent.parent
AT_ONCE = 500  # products of one commit
LAST = 5000  # products whose ingest is timed
SEARCHES = 30
TURNS = 7
CHANGED = 1000  # products that are replaced before the crash
READ_BYTES = 1 << 20
THRESHOLD = 0.535
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Model:
    """What of a bundle the catalog needs."""

    bundle: Path
    fusion: Fusion
    fingerprint: str

    def open(self, data: Path) -> LocalCatalog:
        """Opens the catalog of a data folder."""
        return LocalCatalog(DataFolder(data), self.fusion, self.fingerprint)


@dataclass(frozen=True, slots=True)
class Opening:
    """What opening from a snapshot takes, and plainly reading its files: medians of turns, and of their ratios."""

    open_s: float
    files_s: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Opened:
    """How long one opening takes, and how much larger the process is after some searches.

    Before them a catalog from a snapshot has hardly any memory: its rows are mapped, and come when they are looked at.
    """

    open_s: float
    grown_bytes: int
    search_ms: float


@dataclass(frozen=True, slots=True)
class Row:
    """One size. `ingest_per_s` is None where nothing was added; `of_raw` is memory over that of the bare vectors.

    `crashed_s` is what opening takes after a crash, the check of the database included.
    """

    products: int
    ready_s: float
    service_bytes: int
    ingest_per_s: float | None
    opening: Opening
    from_snapshot: Opened
    crashed_s: float
    rebuilt: Opened
    of_raw: float | None


def main(
    bundle: Annotated[Path, typer.Argument()] = ROOT / "model_store" / "default",
    sizes: Annotated[str, typer.Option(help="Products, rising, with commas.")] = "0,10000,100000",
    raw: Annotated[Path | None, typer.Option("--json", help="File for all figures.")] = None,
    plot: Annotated[Path | None, typer.Option(help="File of the plot, SVG or PNG.")] = None,
) -> None:
    """Measures and prints."""
    loaded = load_bundle(bundle)
    model = Model(bundle.resolve(), loaded.manifest.encoder_fusion(), loaded.fingerprint)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="samesku-bench-") as scratch:
        for size in map(int, sizes.split(",")):
            rows.append(measure(model, Path(scratch), rows[-1].products if rows else 0, size))
            sys.stderr.write(f"{rows[-1]}\n")
    sys.stdout.write(table(rows) + "\n")
    if plot is not None:
        draw(rows, plot)
    if raw is not None:
        figures = {"machine": describe_machine(), "dim": model.fusion.dim, "rows": [asdict(row) for row in rows]}
        raw.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


def measure(model: Model, scratch: Path, before: int, size: int) -> Row:
    """Fills up to a size and measures."""
    data = scratch / "data"
    rate = in_fresh_process(fill, model, data, before, size)
    ready_s, service_bytes = start_service(model, data, scratch)
    turns = in_fresh_process(opening, model, data)
    found = in_fresh_process(opened, model, data, size)
    process = multiprocessing.get_context("spawn").Process(target=crash, args=(model, data, size))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError("the process that was to crash failed before")
    crashed = in_fresh_process(opened, model, data, size)
    shutil.rmtree(data / "snapshots", ignore_errors=True)
    rebuilt = in_fresh_process(opened, model, data, size)
    of_raw = found.grown_bytes / (size * 4 * model.fusion.dim) if size else None
    return Row(size, ready_s, service_bytes, rate, turns, found, crashed.open_s, rebuilt, of_raw)


def in_fresh_process(work: Callable[..., Result], *given: object) -> Result:
    """Runs a function where nothing else has taken memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def fill(model: Model, data: Path, before: int, size: int) -> float | None:
    """Adds products up to a size; returns how many a second the last ones were."""
    catalog = model.open(data)
    begun, timed = time.perf_counter(), 0
    for start in range(before, size, AT_ONCE):
        if start >= size - LAST and not timed:
            begun, timed = time.perf_counter(), size - start
        catalog.put(DEFAULT_CATALOG, drafts(model.fusion, start, min(size, start + AT_ONCE)))
    took = time.perf_counter() - begun
    catalog.close()
    return timed / took if timed else None


def drafts(fusion: Fusion, start: int, end: int) -> list[ProductDraft]:
    """Returns products `start` to `end`, always the same ones."""
    random = np.random.default_rng(start)
    halves = [random.standard_normal((end - start, dim), np.float32) for dim in (fusion.image_dim, fusion.title_dim)]
    image, title = (half / np.linalg.norm(half, axis=1, keepdims=True) for half in halves)
    return [
        ProductDraft(f"p{start + n:08d}", f"product {start + n}", (), {"size": n % 50}, Embedding(image[n, None], title[n]))
        for n in range(end - start)
    ]


def start_service(model: Model, data: Path, scratch: Path) -> tuple[float, int]:
    """Returns how long the service takes to be ready, and its memory then."""
    environment = {"SAMESKU_BUNDLE": str(model.bundle), "SAMESKU_DATA_DIR": str(data)}
    begun = time.perf_counter()
    with processes.running(SAMESKU, ["app", "serve", "--host", "127.0.0.1"], environment, scratch) as service:
        return time.perf_counter() - begun, memory_bytes(service.process.pid)


def opening(model: Model, data: Path) -> Opening:
    """Reads the files of a snapshot and opens the catalog from it, in turns."""
    turns = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        for file in sorted(file for file in (data / "snapshots").rglob("*") if file.is_file()):
            with file.open("rb", buffering=0) as stream:
                buffer = bytearray(READ_BYTES)
                while stream.readinto(buffer):
                    pass
        read = time.perf_counter()
        catalog = model.open(data)
        turns.append((time.perf_counter() - read, read - begun))
        catalog.close()
    open_s, files_s = (median(times) for times in zip(*turns, strict=True))
    return Opening(open_s, files_s, median(one / other for one, other in turns))


def opened(model: Model, data: Path, size: int) -> Opened:
    """Opens a catalog and searches it."""
    before = memory_bytes()
    begun = time.perf_counter()
    catalog = model.open(data)
    open_s = time.perf_counter() - begun
    asked = drafts(model.fusion, 0, min(size, AT_ONCE))[:SEARCHES]
    times = [search_ms(catalog, draft.embedding) for draft in asked]
    grown = memory_bytes() - before
    catalog.close()
    return Opened(open_s, grown, median(times) if times else 0.0)


def crash(model: Model, data: Path, size: int) -> None:
    """Replaces products, and ends the process without closing anything."""
    catalog = model.open(data)
    for start in range(0, min(CHANGED, size), AT_ONCE):
        catalog.put(DEFAULT_CATALOG, drafts(model.fusion, start, min(size, start + AT_ONCE)))
    os._exit(0)


def search_ms(catalog: LocalCatalog, embedding: Embedding) -> float:
    """Returns what one question takes, the reading of its candidates' records included."""
    begun = time.perf_counter()
    catalog.search(DEFAULT_CATALOG, [Query(embedding, THRESHOLD, 20, context=CONTEXT)])
    return (time.perf_counter() - begun) * 1000


def memory_bytes(pid: int | None = None) -> int:
    """Returns the resident memory of a process, of this one by default."""
    lines = Path(f"/proc/{pid or 'self'}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024


def table(rows: list[Row]) -> str:
    """Returns the Markdown table."""
    head = [
        "products", "service ready s", "its memory MB", "catalog open s", "reading its files s", "times as long",
        "after a crash s", "rebuilt without them s", "memory after searches, times the vectors", "one search ms",
        "ingest products/s",
    ]  # fmt: skip
    body = []
    for row in rows:
        found = row.from_snapshot
        cells = [f"{row.products:,}", f"{row.ready_s:.1f}", f"{row.service_bytes / 1e6:.0f}", f"{row.opening.open_s:.2f}"]
        cells += [f"{row.opening.files_s:.2f}", f"{row.opening.ratio:.2f}" if row.products else ""]
        cells += [f"{row.crashed_s:.2f}", f"{row.rebuilt.open_s:.2f}", "" if row.of_raw is None else f"{row.of_raw:.2f}"]
        cells += [f"{found.search_ms:.2f}", "" if row.ingest_per_s is None else f"{row.ingest_per_s:.0f}"]
        body.append(cells)
    return table_text(head, body)


def draw(rows: list[Row], file: Path) -> None:
    """Draws what grows, on logarithmic scales: a line as steep as the dotted one is linear."""
    some = [row for row in rows if row.products]
    sizes = [row.products for row in some]
    curves = {
        "catalog open, s": [row.opening.open_s for row in some],
        "memory of the catalog, MB": [row.from_snapshot.grown_bytes / 1e6 for row in some],
        "one search, ms": [row.from_snapshot.search_ms for row in some],
        "ingest, products/s": [row.ingest_per_s or float("nan") for row in some],
    }
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(curves)), curves.items(), strict=True):
        axes.loglog(sizes, values, "o-", color="#2b6cb0")
        if name.startswith("ingest"):
            axes.set_yscale("linear")
            axes.set_ylim(0, 1.1 * max(values))
        else:
            axes.loglog(sizes, [values[0] * size / sizes[0] for size in sizes], ":", color="#a0aec0")
        axes.set(title=name, xlabel="products")
    figure.savefig(file)


if __name__ == "__main__":
    typer.run(main)
