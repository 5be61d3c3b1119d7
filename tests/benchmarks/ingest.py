"""Bulk ingest: products a second of `python -m app index` against the plain service's way, on one thread.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.ingest [BUNDLE] [--products 96] [--rounds 3] [--engine openvino]

The plain service adds one product at a time: eager PyTorch, everything in memory. samesku reads ahead, embeds in batches,
and has every product on disk before it counts. Both are called without HTTP and take turns within each round, on the same
products: sample photos, cropped anew so that no two are alike, and their titles with a number. In the second row every photo
and title stands under two ids, as colours and sizes do in shops. Prints Markdown.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import torch
import typer
from PIL import Image

from app.bootstrap import build_matcher
from app.bulk import index_rows
from app.listings import Listing
from app.matcher import Matcher
from app.settings import Settings
from tests.benchmarks.load import Sample, read_catalog
from tests.benchmarks.reference_service import PlainMatcher
from tests.benchmarks.report import table_text

ROOT = Path(__file__).parent.parent.parent

Work = Callable[[Sequence[Sample]], None]


def main(
    bundle: Annotated[Path, typer.Argument()] = ROOT / "model_store" / "default",
    products: Annotated[int, typer.Option(min=2)] = 96,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    engine: Annotated[Literal["torch", "openvino"], typer.Option()] = "openvino",
) -> None:
    """Measures and prints."""
    torch.set_num_threads(1)
    plain = PlainMatcher(bundle, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), bundle=bundle, device="cpu", engine=engine, engine_threads=1)
        matcher = build_matcher(settings)
        works: dict[str, Work] = {
            "plain": lambda some: add_plainly(plain, some),
            "samesku": lambda some: index(matcher, some),
        }
        take_turns(works, drawn(products, 0, 1))  # the first time prepares
        rows = []
        for kind, copies in (("all different", 1), ("each under two ids", 2)):
            turns = [take_turns(works, drawn(products, 1 + number, copies)) for number in range(rounds)]
            rows.append([kind, *(f"{products / median(turn[name][0] for turn in turns):.1f}" for name in works)])
            rows[-1] += [spread([turn["plain"][place] / turn["samesku"][place] for turn in turns]) for place in (0, 1)]
        matcher.close()
    head = [
        "products",
        "plain, products/s",
        f"samesku ({engine}), products/s",
        "times as fast",
        "processor time, plain / samesku",
    ]
    sys.stdout.write(table_text(head, rows) + "\n")


def add_plainly(plain: PlainMatcher, products: Sequence[Sample]) -> None:
    """One after the other, as the plain service does."""
    for one in products:
        plain.add(one.id, one.title, one.photo)


def index(matcher: Matcher, products: Sequence[Sample]) -> None:
    """What the command `index` does with a table."""
    rows = [Listing(number, one.id, one.title, (one.photo,)) for number, one in enumerate(products, 1)]
    summary = index_rows(matcher, rows, "default", lambda _: None)
    if summary.created != len(products):
        raise SystemExit(f"{len(products)} products were to be created, not {summary.created}")


def take_turns(works: dict[str, Work], products: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """Returns the seconds on the clock and of the processor that each takes."""
    times: dict[str, tuple[float, float]] = {}
    for name, work in works.items():
        begun, busy = time.perf_counter(), time.process_time()
        work(products)
        times[name] = time.perf_counter() - begun, time.process_time() - busy
    return times


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
