"""What a GPU embeds a second: the towers by themselves on ready tensors, and products from bytes in memory.

    python -m tests.benchmarks.gpu [--bundle DIR] [--random] [--seconds N] [--limit N] [--compile] [--json OUT]

`--random` makes up the weights that DIR lacks: enough for throughput, as the shapes are the same. Needs no catalog and no
server; without a GPU it runs the same code on a few items, to see that it runs. What fails is reported and skipped. Every
line is printed as soon as it is known, a table of all of them at the end; with `--json` they are also written.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from app.core.spec import EncoderSpec
from app.embedding import Item, embed, read
from app.embedding_ahead import embed_ahead
from app.encoders.ahead import in_threads
from app.encoders.base import Encoder
from app.encoders.multimodal import MultimodalEncoder
from app.encoders.runtime import choose
from app.model_store import load_bundle, read_manifest
from tests.benchmarks import gpu_towers, made_up
from tests.benchmarks.gpu_towers import NAMED_PEAK, Batch
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.timed import Bench, Figures

CHUNKS = 15  # that are read at least
PHOTOS, FEW = 4096, 24  # that differ, on a GPU and without one

Pair = tuple[bytes, str]


def chunk_of(bench: Bench, encoder: Encoder) -> int:
    """Returns how many products go together, as in `index`."""
    return 2 * encoder.batch if bench.on_gpu else 8


def from_bytes(bench: Bench, encoder: Encoder, pairs: list[Pair]) -> float:
    """Returns products per second as `index` makes them: some are read while others are embedded."""
    size, marks = chunk_of(bench, encoder), list[tuple[int, float]]()

    def until_the_end() -> Iterator[Pair]:
        for number, pair in enumerate(cycle(pairs)):
            if number > CHUNKS * size and marks and time.perf_counter() > marks[0][1] + 4 * bench.seconds:
                return
            yield pair

    for chunk in embed_ahead(encoder, until_the_end(), lambda pair: Item(pair[:1], pair[1]), size):
        marks.append((len(chunk), time.perf_counter()))
    # neither while processes begin, nor while nothing is left to begin with
    first, last = len(marks) // 3, len(marks) - CHUNKS // 3
    return sum(count for count, _ in marks[first + 1 : last + 1]) / (marks[last][1] - marks[first][1])


def in_threads_only(encoder: MultimodalEncoder) -> MultimodalEncoder:
    """Returns an encoder that reads photos in threads, as on a CPU."""
    other = copy(encoder)
    other.read_photos = lambda chunks: in_threads(encoder.read_photo, chunks)  # type: ignore[method-assign]
    return other


def whole(bench: Bench, encoder: MultimodalEncoder, items: list[Pair], alone: Figures, flops: float) -> None:
    """Measures products from bytes, and what share of the towers' own throughput that is."""
    for name, one in {"as indexed": encoder, "read in threads": in_threads_only(encoder)}.items():

        def measure(one: MultimodalEncoder = one) -> Figures:
            rate = from_bytes(bench, one, items)
            towers = alone.get("products/s", float("nan"))
            return {"products/s": rate, "% of the towers": 100 * rate / towers, "% of peak": 100 * rate * flops / NAMED_PEAK}

        bench.attempt("from bytes", name, measure)


def stages(bench: Bench, encoder: MultimodalEncoder, items: list[Pair]) -> None:
    """Measures what the whole is made of, each by itself; and small batches, which graphs are for."""
    some = items[: chunk_of(bench, encoder)]
    prepared = [read(encoder, item[:1], item[1])[0] for item in some]
    titles, pictures = [title for _, title in some], [one.photos[0] for one in prepared]
    works: dict[str, tuple[Callable[[], object], int]] = {
        "cutting titles": (lambda: encoder._titles[0].tokens(titles), len(some)),
        "towers, photos from pixels on the host": (lambda: encoder.embed_photos(pictures), len(some)),
        "towers, titles from text": (lambda: encoder.embed_titles(titles), len(some)),
        "towers, both": (lambda: embed(encoder, prepared), len(some)),
        "towers, both, one product alone": (lambda: embed(encoder, prepared[:1]), 1),
    }
    for what, (work, count) in works.items():
        bench.attempt("stages", what, lambda w=work, n=count: {"products/s": bench.rate(w, n)})  # type: ignore[misc]


def ready(bench: Bench, encoder: MultimodalEncoder, items: list[Pair]) -> list[Batch]:
    """Returns three batches on the device, different ones so that no cache holds them."""
    count, batches = encoder.batch if bench.on_gpu else 8, []
    for start in range(0, 3 * count, count):
        some = items[start : start + count]
        pixels = [encoder.read_photo(photo)[1] for photo, _ in some]
        titles = encoder._titles[0].tokens([title for _, title in some]).to(bench.device)
        batches.append((gpu_towers.stacked(pixels, bench.device), titles))
    return batches


def measure(bench: Bench, spec: EncoderSpec, folder: Path, encoder: MultimodalEncoder, compiled: bool) -> None:
    """Measures everything, the most wanted first."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        photos = made_up.photos(PHOTOS if bench.on_gpu else FEW, lambda edit, numbers: list(pool.map(edit, numbers)))
    items = list(zip(photos, made_up.titles(len(photos)), strict=True))
    batches = ready(bench, encoder, items)
    flops = gpu_towers.count_flops(spec, folder, batches[0])
    bench.note(
        "inputs",
        f"{len(items)} photos of {sum(map(len, photos)) / len(photos) / 1000:.1f} KB",
        {"GFLOP a photo": flops[0] / 1e9, f"GFLOP a title of {batches[0][1].ids.shape[1]} tokens": flops[1] / 1e9},
    )
    served = gpu_towers.served(encoder)
    alone = bench.attempt("towers", served.name, lambda: gpu_towers.measure(bench, served, batches, flops))
    if bench.on_gpu:
        for kind in (torch.bfloat16, torch.float16):
            bench.attempt("peak", f"matrix product, {kind}", lambda k=kind: gpu_towers.peak(bench, k))  # type: ignore[misc]
    whole(bench, encoder, items, alone, sum(flops))
    stages(bench, encoder, items)
    few = items[: 96 if bench.on_gpu else 8]
    pixels = [encoder.read_photo(photo)[1] for photo, _ in few]
    titles = [title for _, title in few]
    wanted = MultimodalEncoder(spec, folder, choose("cpu", "torch")).embed(pixels, titles)
    words = encoder._titles[0].tokens(titles).to(bench.device)
    bench.attempt("vectors", served.name, lambda: gpu_towers.vectors(served, pixels, words, wanted))
    for name, make in gpu_towers.variants(spec, folder, compiled) if bench.on_gpu else ():

        def both(make: Callable[[], gpu_towers.Variant] = make) -> Figures:
            variant = make()
            found = gpu_towers.measure(bench, variant, batches, flops)
            return found | gpu_towers.vectors(variant, pixels, words, wanted)

        bench.attempt("towers", name, both)


def ran(tower: object) -> Figures:
    """Says how a placed tower runs."""
    module: Any = getattr(getattr(tower, "_run", None), "_module", tower)
    backbone = getattr(module, "tower", module).backbone
    return {
        "runs": "kernel by kernel" if module is tower else "in graphs",
        "in": next(backbone.parameters()).dtype.__str__(),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("model_store/default"))
    parser.add_argument("--random", action="store_true", help="make up the weights that the bundle lacks")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement")
    parser.add_argument("--limit", type=float, default=110.0, help="seconds after which no measurement begins")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes a minute")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    runtime = choose("auto", "torch")
    bench = Bench(runtime.device, given.seconds, given.limit, given.json)
    device = torch.cuda.get_device_name() if bench.on_gpu else "no GPU: a few items on the CPU, figures of no value"
    bench.note("machine", device, dict(describe_machine()))
    with tempfile.TemporaryDirectory() as scratch:
        folder, spec = Path(scratch), read_manifest(given.bundle).spec()
        made = made_up.complete(spec, given.bundle, folder) if given.random else []
        if not given.random:
            folder = load_bundle(given.bundle).folder
        bench.note("bundle", given.bundle.name, {"made-up weights": ", ".join(made) or "none"})
        start = time.perf_counter()
        encoder = MultimodalEncoder(spec, folder, runtime)
        bench.note("start", "towers loaded, captured, compared", {"seconds": time.perf_counter() - start})
        bench.note("start", "the image tower", ran(encoder._images[0].tower))
        bench.note("start", "the title tower", ran(encoder._titles[0].tower))
        measure(bench, spec, folder, encoder, given.compile)
    bench.table()


if __name__ == "__main__":
    main()
