"""`python -m app match`: a table of queries against the catalog."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.common import (
    BundleDir,
    GroupColumn,
    IdColumn,
    ImageColumn,
    Images,
    PhashColumn,
    TitleColumn,
    columns,
    console,
    progress,
)
from app.commands.cores import share_cores
from app.core.answer import Answer, Match
from app.core.product import DEFAULT_CATALOG
from app.errors import InvalidInput
from app.settings import Settings

FIELDS = ("row", "query", "rank", "id", "score", "image_score", "title_score", "title", "total", "threshold", "error")
PARQUET_ROWS = 10_000


def match(
    file: Annotated[Path, typer.Argument(help="CSV, JSON lines, Parquet, or a folder of photos.")],
    out: Annotated[Path, typer.Option(help=".csv, .ndjson or .parquet: one row per match, one per query without any.")],
    catalog: Annotated[str, typer.Option(help="Which catalog to search.")] = DEFAULT_CATALOG,
    threshold: Annotated[float | None, typer.Option(help="Smallest score; default: the bundle's own.")] = None,
    limit: Annotated[int, typer.Option(help="Matches per query.")] = 20,
    images: Images = None,
    id_column: IdColumn = None,
    title_column: TitleColumn = None,
    image_column: ImageColumn = None,
    group_column: GroupColumn = None,
    phash_column: PhashColumn = None,
    bundle: BundleDir = None,
) -> None:
    """Match a table of queries. A query that cannot be read gets a row with the error; the rest goes on."""
    share_cores()
    from app.bootstrap import build_matcher, product_limits
    from app.bulk import match_rows
    from app.listings import count_rows, read_table
    from app.matcher import MatchOptions

    writer = _WRITERS.get(out.suffix)
    if writer is None:
        raise InvalidInput(f"--out must end in {', '.join(_WRITERS)}, not '{out.suffix}'.")
    options = MatchOptions(threshold, limit, catalog=catalog)
    settings = Settings() if bundle is None else Settings(bundle=bundle)
    named = columns(id_column, title_column, image_column, group_column, phash_column)
    rows = read_table(file, named, images, product_limits(settings))
    matcher = build_matcher(settings)
    counts = {"queries": 0, "matched": 0, "failed": 0}

    def records() -> Iterator[dict[str, Any]]:
        for one in match_rows(matcher, rows, options, tick):
            counts["queries"] += 1
            base = {"row": one.row, "query": one.id}
            if isinstance(one.result, Answer):
                counts["matched"] += bool(one.result.matches)
                yield from _answer_records(base, one.result)
            else:
                counts["failed"] += 1
                yield base | {"error": str(one.result)}

    scratch = out.with_name(f".{out.name}.part")
    try:
        with progress("Matching", count_rows(file)) as tick:
            writer(scratch, records())
        scratch.rename(out)
    finally:
        scratch.unlink(missing_ok=True)
        matcher.close()
    done = f"{counts['queries']} queries, {counts['matched']} with a match, {counts['failed']} could not be read"
    console.print(f"{done}. Written to {out}.")


def _answer_records(base: dict[str, Any], answer: Answer) -> Iterator[dict[str, Any]]:
    about = {"total": answer.total, "threshold": answer.threshold}
    for rank, one in enumerate(answer.matches, start=1):
        yield base | {"rank": rank} | _match_record(one) | about
    if not answer.matches:
        yield base | about


def _match_record(one: Match) -> dict[str, Any]:
    scores = {"score": one.score, "image_score": one.image_score, "title_score": one.title_score}
    return {"id": one.product.id, "title": one.product.title} | scores


def _write_csv(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        writer.writeheader()
        writer.writerows(records)


def _write_ndjson(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for record in records:
            stream.write(json.dumps({field: record.get(field) for field in FIELDS}, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, records: Iterable[dict[str, Any]]) -> None:
    from itertools import islice

    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"row": pa.int64(), "rank": pa.int64(), "total": pa.int64()}
    kinds |= {name: pa.float64() for name in ("score", "image_score", "title_score", "threshold")}
    schema = pa.schema([(field, kinds.get(field, pa.string())) for field in FIELDS])
    source = iter(records)
    with pq.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(source, PARQUET_ROWS)):
            writer.write_table(pa.Table.from_pylist(chunk, schema))


_WRITERS = {".csv": _write_csv, ".ndjson": _write_ndjson, ".jsonl": _write_ndjson, ".parquet": _write_parquet}
