"""Bulk ingest: products a second of `python -m app index` against the plain service's way.

    python -m tests.benchmarks.ingest [BUNDLE] [--products 384] [--rounds 3] [--engine openvino] [--threads 0]

The plain service adds one product at a time: eager PyTorch, everything in memory. samesku reads ahead, embeds in batches,
and has every product on disk before it counts. Each is a process of its own, called without HTTP, and they take turns within
each round, on the same products: sample photos, cropped anew so that no two are alike, and their titles with a number. In
the second row every photo and title stands under two ids, as colours and sizes do in shops. Prints Markdown.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import IO, Annotated, Literal

import typer
from PIL import Image

from app.commands.cores import share_cores
from app.listings import Listing
from tests.benchmarks.load import Sample, read_catalog
from tests.benchmarks.report import table_text

ROOT = Path(__file__).parent.parent.parent
PLAIN, SAMESKU = "plain", "samesku"

Work = Callable[[Sequence[Sample]], None]


def main(
    bundle: Annotated[Path, typer.Argument()] = ROOT / "model_store" / "default",
    products: Annotated[int, typer.Option(min=2)] = 384,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    engine: Annotated[Literal["torch", "openvino"], typer.Option()] = "openvino",
    threads: Annotated[int, typer.Option(min=0, help="Of the towers of both; 0: as many as each takes by itself.")] = 0,
    worker: Annotated[Literal["plain", "samesku"] | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measures and prints."""
    if worker is not None:
        obey(worker, bundle, products, engine, threads)
        return
    options = [str(bundle), "--products", str(products), "--engine", engine, "--threads", str(threads)]
    with ExitStack() as stack:
        workers = {name: stack.enter_context(started(name, options)) for name in (PLAIN, SAMESKU)}
        take_turns(workers, 0, 1)  # the first time prepares
        rows = []
        for kind, copies in (("all different", 1), ("each under two ids", 2)):
            turns = [take_turns(workers, 1 + number, copies) for number in range(rounds)]
            rows.append([kind, *(f"{products / median(turn[name][0] for turn in turns):.1f}" for name in workers)])
            rows[-1] += [spread([turn[PLAIN][place] / turn[SAMESKU][place] for turn in turns]) for place in (0, 1)]
    columns = ["plain, products/s", f"samesku ({engine}), products/s", "times as fast", "processor time, plain / samesku"]
    sys.stdout.write(table_text(["products", *columns], rows) + "\n")


# -- the two processes ----------------------------------------------------------------------------------------


def started(name: str, options: Sequence[str]) -> subprocess.Popen[str]:
    """Returns a process that does its work whenever it is told to, and ends when its input does."""
    command = [sys.executable, "-m", "tests.benchmarks.ingest", *options, "--worker", name]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def take_turns(workers: dict[str, subprocess.Popen[str]], turn: int, copies: int) -> dict[str, tuple[float, float]]:
    """Returns the seconds on the clock and of the processor that each takes."""
    times: dict[str, tuple[float, float]] = {}
    for name, process in workers.items():
        print(turn, copies, file=_pipe(process.stdin), flush=True)
        answer = _pipe(process.stdout).readline()
        if not answer:
            raise SystemExit(f"{name} ended before it was done")
        times[name] = tuple(json.loads(answer))
    return times


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise ValueError("the process has no such pipe")
    return stream


def obey(name: str, bundle: Path, products: int, engine: Literal["torch", "openvino"], threads: int) -> None:
    """Adds products whenever a line with turn and copies comes; prints seconds on the clock and of the processor."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        work = plain(bundle, threads) if name == PLAIN else ours(bundle, engine, threads, Path(folder), stack)
        for line in sys.stdin:
            some = drawn(products, *map(int, line.split()))
            begun, busy = time.perf_counter(), time.process_time()
            work(some)
            sys.stdout.write(json.dumps([time.perf_counter() - begun, time.process_time() - busy]) + "\n")
            sys.stdout.flush()


def plain(bundle: Path, threads: int) -> Work:
    """One after the other, as the plain service does."""
    import torch

    from tests.benchmarks.reference_service import PlainMatcher

    if threads:
        torch.set_num_threads(threads)
    matcher = PlainMatcher(bundle, "cpu")

    def add(products: Sequence[Sample]) -> None:
        for one in products:
            matcher.add(one.id, one.title, one.photo)

    return add


def ours(bundle: Path, engine: Literal["torch", "openvino"], threads: int, folder: Path, stack: ExitStack) -> Work:
    """What the command `index` does with a table."""
    share_cores()
    from app.bootstrap import build_matcher
    from app.bulk import index_rows
    from app.settings import Settings

    matcher = build_matcher(Settings(data_dir=folder, bundle=bundle, device="cpu", engine=engine, engine_threads=threads))
    stack.callback(matcher.close)

    def add(products: Sequence[Sample]) -> None:
        rows = [Listing(number, one.id, one.title, (one.photo,)) for number, one in enumerate(products, 1)]
        summary = index_rows(matcher, rows, "default", lambda _: None)
        if summary.created != len(products):
            raise SystemExit(f"{len(products)} products were to be created, not {summary.created}")

    return add


def drawn(count: int, turn: int, copies: int) -> list[Sample]:
    """Returns products that no other turn returns; each photo and title is that of `copies` neighbours."""
    samples = [one for one in read_catalog() if one[1] and one[2][0]]
    out = []
    for number in range(count):
        serial = turn * count + number // copies
        _, title, photos = samples[serial % len(samples)]
        photo = cropped(photos[0], 1 + serial // len(samples))
        out.append(Sample(f"{turn}-{copies}-{number}", f"{title} {copies} {serial}", photo))
    return out


def cropped(photo: bytes, pixels: int) -> bytes:
    """Returns a JPEG of the photo without its first columns."""
    with Image.open(BytesIO(photo)) as image:
        stream = BytesIO()
        image.convert("RGB").crop((pixels, 0, image.width, image.height)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def spread(ratios: Sequence[float]) -> str:
    """Returns median, lowest and highest."""
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    typer.run(main)
