"""What a photo and a title cost in PyTorch and in OpenVINO, on one thread, and where the time goes.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.engines [BUNDLE] [--rounds 9] [--other HUGGING_FACE_FOLDER]

The engines take turns within each round, in one process, on the photos and titles of samples/. Reported are milliseconds of
processor time per item, which other programs on the machine disturb less than the time on the clock: median over the rounds
(lowest to highest), and the ratio of the two engines within a round. `--other` compares the bundle's title tower in OpenVINO
with another transformer in PyTorch. Prints Markdown.
"""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import transformers
import typer
from transformers import AutoModel

from app.bootstrap import build_encoder
from app.core.product import Pixels
from app.encoders.multimodal import MultimodalEncoder
from app.encoders.title import TitleTokens
from app.model_store import Bundle, load_bundle
from app.settings import Settings
from tests.benchmarks.report import table_text

ROOT = Path(__file__).parent.parent.parent
SIZES = (1, 16)

Work = Callable[[], object]
Times = dict[str, list[float]]


def main(
    bundle: Annotated[Path, typer.Argument()] = ROOT / "model_store" / "default",
    rounds: Annotated[int, typer.Option(min=3)] = 9,
    other: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Measures and prints."""
    torch.set_num_threads(1)
    loaded = load_bundle(bundle)
    with tempfile.TemporaryDirectory() as cache:
        starts = [start(loaded, "openvino", cache), start(loaded, "openvino", cache), start(loaded, "torch", cache)]
    names = ["OpenVINO, converting", "OpenVINO, converted before", "PyTorch"]
    rows = [[name, f"{cpu:.1f}", f"{memory:.0f}"] for name, (_, cpu, memory) in zip(names, starts, strict=True)]
    quick, plain = starts[1][0], starts[2][0]
    photos, titles = samples(plain)
    out = [
        table_text(["start of the towers", "processor s", "MB more"], rows),
        table_text(["", "PyTorch ms", "OpenVINO ms", "ratio"], compare(quick, plain, photos, titles, rounds)),
        table_text(["of one item", "ms"], shares(quick, photos, titles, rounds)),
    ]
    if other is not None:
        head = ["titles together", "other transformer in PyTorch, ms", "the bundle's in OpenVINO, ms", "ratio"]
        out.append(table_text(head, against(other, loaded, quick, titles, rounds)))
    sys.stdout.write("\n\n".join(out) + "\n")


def start(bundle: Bundle, engine: str, cache: str) -> tuple[MultimodalEncoder, float, float]:
    """Loads the towers; returns them, the processor time in seconds, and the private memory that they added in MB."""
    settings = Settings(device="cpu", engine=engine, engine_cache=Path(cache), engine_threads=1)
    before, begun = private_mb(), time.process_time()
    encoder = build_encoder(settings, bundle)
    return encoder, time.process_time() - begun, private_mb() - before


def private_mb() -> float:
    """Returns the memory that is this process's own, in MB: mapped files are not."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000


def samples(encoder: MultimodalEncoder) -> tuple[list[bytes], list[str]]:
    """Returns the photos and the clean titles of the sample catalog."""
    with (ROOT / "samples" / "catalog.csv").open(encoding="utf-8", newline="") as stream:
        titles = [encoder.read_title(row["title"]) for row in csv.DictReader(stream) if row["title"]]
    return [file.read_bytes() for file in sorted((ROOT / "samples" / "catalog").iterdir())], titles


def take_turns(works: dict[str, Work], rounds: int, items: int) -> Times:
    """Returns the processor time per item in ms, of every round after the first."""
    times: Times = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            begun = time.process_time()
            work()
            if number:  # the first one prepares
                times[name].append((time.process_time() - begun) * 1000 / items)
    return times


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Returns median, lowest and highest."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def compared(times: Times) -> list[str]:
    """Returns the two columns of times, and their ratio within the rounds."""
    one, other = times.values()
    return [spread(one), spread(other), spread([a / b for a, b in zip(one, other, strict=True)], 2)]


def compare(
    quick: MultimodalEncoder, plain: MultimodalEncoder, photos: Sequence[bytes], titles: Sequence[str], rounds: int
) -> list[list[str]]:
    """Returns one row per kind and number of items. Every round reads other items, the same for both engines."""
    pixels: list[Pixels] = [plain.read_photo(data)[1] for data in photos]
    out = []
    for size in SIZES:
        repeats = 16 // size  # a single item is over too soon to be timed
        kinds: dict[str, tuple[Callable[[MultimodalEncoder, int], object], int]] = {
            "photo": (lambda encoder, at, n=size: encoder.embed_photos(pixels[at : at + n]), len(pixels)),  # type: ignore[misc]
            "title": (lambda encoder, at, n=size: encoder.embed_titles(titles[at : at + n]), len(titles)),  # type: ignore[misc]
        }
        for what, (embed, count) in kinds.items():
            works: dict[str, Work] = {}
            for name, encoder in (("torch", plain), ("openvino", quick)):
                places = cycle(range(0, count - size + 1, size))
                works[name] = lambda e=encoder, p=places, f=embed, r=repeats: [f(e, next(p)) for _ in range(r)]  # type: ignore[misc]
            out.append([f"{what}, {size} together", *compared(take_turns(works, rounds, size * repeats))])
    return out


def shares(encoder: MultimodalEncoder, photos: Sequence[bytes], titles: Sequence[str], rounds: int) -> list[list[str]]:
    """Returns where the time of single photos and titles goes, tokens and n-grams apart from the tower."""
    some, pixels = photos[:8], [encoder.read_photo(data)[1] for data in photos[:8]]
    words = titles[:8]
    tokens = encoder._titles[0].tokens
    batches = [tokens([title]) for title in words]
    tower = encoder._titles[0].tower
    works: dict[str, Work] = {
        "photo: check, decode, frame, hash": lambda: [encoder.read_photo(data) for data in some],
        "photo: tower": lambda: [encoder.embed_photos([one]) for one in pixels],
        "title: clean": lambda: [encoder.read_title(title) for title in words],
        "title: tokens and n-grams read": lambda: [tokens([title]) for title in words],
        "title: tower and n-grams": lambda: [tower(batch) for batch in batches],
        "title: all of embedding": lambda: [encoder.embed_titles([title]) for title in words],
    }
    with torch.inference_mode():
        times = take_turns(works, rounds, len(words))
    return [[name, spread(values, 2)] for name, values in times.items()]


def against(folder: Path, bundle: Bundle, quick: MultimodalEncoder, titles: Sequence[str], rounds: int) -> list[list[str]]:
    """Returns rows of another transformer in PyTorch against the bundle's title tower, both from clean titles."""
    spec = bundle.manifest.spec().title
    if spec is None:
        raise SystemExit("the bundle has no title tower")
    plain = spec.model_copy(update={"ngrams": None})
    tokens = TitleTokens(plain, folder / "tokenizer.json")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    backbone = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def read(n: int) -> None:
        for at in range(0, 16, n):
            batch = tokens(titles[at : at + n])
            backbone(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state.mean(1)

    out = []
    for n in SIZES:
        works: dict[str, Work] = {
            "other": lambda n=n: read(n),  # type: ignore[misc]
            "bundle": lambda n=n: [quick.embed_titles(titles[at : at + n]) for at in range(0, 16, n)],  # type: ignore[misc]
        }
        with torch.inference_mode():
            out.append([str(n), *compared(take_turns(works, rounds, 16))])
    return out


if __name__ == "__main__":
    typer.run(main)
