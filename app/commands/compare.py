"""`python -m app compare`: are the two products of each row the same?"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.common import BundleDir, Images, console, progress
from app.errors import AppError
from app.settings import Settings

if TYPE_CHECKING:
    from app.core.product import Prepared
    from app.encoders.base import Encoder
    from app.judge import Judge, Verdict
    from app.labelled.pairs import Sides

CHUNK = 64
FIELDS = ("row", "score", "image_score", "title_score", "probability", "decision", "reasons", "error")

Outcome = Mapping[str, Any]


def compare(
    pairs: Annotated[
        Path, typer.Argument(help="CSV, JSON lines or Parquet with left_title, right_title, left_image, right_image.")
    ],
    out: Annotated[Path, typer.Option(help="CSV to write: the titles, and what is thought of them.")],
    bundle: BundleDir = None,
    images: Images = None,
) -> None:
    """Judge pairs of products, each by itself. A row that cannot be read gets an error; the rest goes on."""
    from app.bootstrap import build_encoder, build_judge
    from app.files import write_file
    from app.labelled.pairs import read_sides
    from app.listings import count_rows
    from app.model_store import load_bundle

    settings = Settings()
    loaded = load_bundle(bundle or settings.bundle)
    encoder, judge = build_encoder(settings, loaded), build_judge(loaded)
    text = io.StringIO()
    writer = csv.DictWriter(text, ("left_title", "right_title", *FIELDS), lineterminator="\n")
    writer.writeheader()
    counts: Counter[str] = Counter()
    rows = enumerate(read_sides(pairs, images or pairs.parent), start=1)
    with progress("Comparing", count_rows(pairs)) as tick:
        while chunk := list(islice(rows, CHUNK)):
            for (number, row), outcome in zip(chunk, _outcomes([row for _, row in chunk], encoder, judge), strict=True):
                titles = {} if isinstance(row, AppError) else {"left_title": row.left_title, "right_title": row.right_title}
                writer.writerow({**titles, "row": number, **outcome})
                counts[outcome.get("decision", "not read")] += 1
            tick(len(chunk))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_file(out, text.getvalue().encode())
    said = ", ".join(f"{name}: {count:,}" for name, count in counts.most_common())
    console.print(f"{counts.total():,} pairs ({said}). Written: {out}")


def _outcomes(rows: Sequence[Sides | AppError], encoder: Encoder, judge: Judge) -> Iterator[Outcome]:
    """Yields what is thought of each pair, or why it could not be read; all good ones are embedded together."""
    from app.embedding import embed
    from app.judge import ProductSide

    read = [_read(row, encoder) for row in rows]
    sides = [side for one in read if not isinstance(one, AppError) for side in one]
    embeddings = iter(embed(encoder, sides))
    for one in read:
        if isinstance(one, AppError):
            yield {"error": str(one)}
        else:
            left, right = (ProductSide(next(embeddings), side.title, side.phash) for side in one)
            yield _record(judge.compare(left, right))


def _read(row: Sides | AppError, encoder: Encoder) -> tuple[Prepared, Prepared] | AppError:
    from app.embedding import read
    from app.matcher import reading_side

    if isinstance(row, AppError):
        return row
    found = []
    for side, photo, title in (("left", row.left_photo, row.left_title), ("right", row.right_photo, row.right_title)):
        try:
            with reading_side(side):
                found.append(read(encoder, [] if photo is None else [photo.read()], title)[0])
        except AppError as error:
            return error
    return found[0], found[1]


def _record(verdict: Verdict) -> Outcome:
    return {
        "score": verdict.score,
        "image_score": verdict.image_score,
        "title_score": verdict.title_score,
        "probability": verdict.probability,
        "decision": verdict.decision,
        "reasons": "; ".join(reason.text for reason in verdict.reasons),
    }
