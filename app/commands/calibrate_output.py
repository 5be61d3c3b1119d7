"""What `python -m app calibrate` shows and stores."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from app.commands.common import console
from app.training.calibrate import Point
from app.training.pair_model import PairMetrics


def rounded(value: float | str) -> float | str | None:
    """Returns a figure as a manifest stores it; None where there is none."""
    if isinstance(value, float):
        return round(value, 4) if value == value else None
    return value


def show_points(title: str, points: Sequence[Point]) -> None:
    """Prints thresholds and what they are worth."""
    table = Table(title=title, title_justify="left")
    for column in ("query has", "gallery", "threshold", "decision", "F1", "precision", "recall"):
        table.add_column(column, justify="left" if column == "query has" else "right")
    for p in points:
        numbers = [f"{value:.3f}" for value in (p.threshold, p.decision, p.f1, p.precision, p.recall)]
        table.add_row(p.modality, f"{p.gallery:,}", *numbers)
    console.print(table)


def show_pairs(title: str, models: dict[str, PairMetrics]) -> None:
    """Prints what pair models are worth, narrow enough for 80 columns.

    `error` is the calibration error, `right` the precision of the pairs above a bound, `found` the recall.
    """
    table = Table(title=title, title_justify="left")
    named = ("", "pairs", "same", "error", "right\nat .95", "right\nat .99", "match:\nright", "match:\nfound")
    for column in named:
        table.add_column(column, justify="right" if column else "left")
    for name, m in models.items():
        numbers = (m.calibration_error, m.precision_at_95, m.precision_at_99, m.match_precision, m.match_recall)
        table.add_row(name, f"{m.pairs:,}", f"{m.same:,}", *(f"{value:.3f}" if value == value else "-" for value in numbers))
    console.print(table)
