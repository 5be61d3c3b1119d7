"""The measured part of a model card: numbers and tables in Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from app.evaluation.results import Evaluation

NONE = "-"

_MEANS = (
    'F1, precision and recall are means over queries, and count the query itself as found. "Optimistic" is the '
    "threshold that is best on these very listings: nobody could have known it."
)

# label, field of `Evaluation`, what it means
_RATES = (
    ("recall@1", "recall_at_1", "the best candidate is the same product"),
    ("recall@20", "recall_at_20", "share of the other members among the first 20"),
    ("mAP@20", "map_at_20", "average precision, cut at 20"),
    ("mAP@R", "map_at_r", "precision at each member among the first R, R being the number of members"),
    ("ROC AUC, random pairs", "roc_auc", "true against random false pairs: near 1 for any model, most pairs are easy"),
    ("ROC AUC, hard pairs", "roc_auc_hard", "true against false pairs among the candidates"),
    ("PR AUC", "pr_auc", "average precision over all pairs"),
    ("recall at precision 0.950", "recall_at_precision_95", "share of true pairs that one threshold finds"),
    ("recall at precision 0.990", "recall_at_precision_99", "the same, stricter"),
)


_DIGITS = re.compile(r"-?[\d,.]+")


def rate(value: float | None) -> str:
    """Returns a number with 3 decimals, or a dash for what could not be measured."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{round(value, 3) + 0.0:.3f}"  # + 0.0: no minus before zero


def count(value: Any) -> str:
    """Returns a whole number with thousands separators, or a dash for anything else."""
    return f"{value:,}" if isinstance(value, int) else NONE


def cell(text: str) -> str:
    """Returns text that cannot break out of a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Returns a table whose columns after the first `left` are aligned right if they hold numbers only."""
    numeric = [
        place >= left and all(row[place] == NONE or _DIGITS.fullmatch(row[place]) for row in rows)
        for place in range(len(header))
    ]
    rule = ["---:" if right else "---" for right in numeric]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def verdict(found: Evaluation | None) -> str:
    """Returns the sentence that a card begins with."""
    if found is None:
        return "**Not measured**: no listings were kept apart for a test, so nothing is known of how good this bundle is."
    return (
        f"**F1 {rate(found.f1_at_threshold)}**, recall@1 {rate(found.recall_at_1)}: {count(found.queries)} queries, gallery "
        f"{count(found.gallery)}, none of which was used for fitting."
    )


def results(found: Evaluation | None) -> list[str]:
    """Returns the paragraphs of the results: decisions, rates, and what larger galleries cost."""
    if found is None:
        return ["There are none: no test fold was kept apart (`--test-fold K/N` does), or nothing in it could be compared."]
    said = [_sizes(found), _decisions(found), _MEANS]
    if not found.exact:
        said.append("Not all pairs above the threshold fitted into memory: what lies beyond the lists is not counted.")
    rates = [(label, rate(getattr(found, name)), meaning) for label, name, meaning in _RATES]
    said += [table(("", "rate", "meaning"), rates), _unmatchable(found)]
    return [*said, "### Larger galleries", *_galleries(found)]


def _sizes(found: Evaluation) -> str:
    sizes = f"{count(found.queries)} queries of {count(found.groups)} groups, {count(found.listings)} listings"
    return f"{sizes}, gallery {count(found.gallery)}; compared: {', '.join(found.signals)}."


def _decisions(found: Evaluation) -> str:
    rows = [
        (
            "the bundle's threshold",
            *map(rate, (found.threshold, found.f1_at_threshold, found.precision_at_threshold, found.recall_at_threshold)),
        )
    ]
    curve = found.f1_curve
    if curve.threshold:
        best = min(range(len(curve.threshold)), key=lambda n: abs(curve.threshold[n] - found.best_threshold))
        values = (found.best_threshold, found.f1_best, curve.precision[best], curve.recall[best])
        rows.append(("the best one: optimistic", *map(rate, values)))
    return table(("at", "threshold", "F1", "precision", "recall"), rows)


def _unmatchable(found: Evaluation) -> str:
    if not found.unmatchable:
        return "Every query had its product in the gallery; what happens to one that has none was not measured."
    share, mean = found.false_matches_unmatchable, found.false_matches_unmatchable_mean
    return (
        f"Queries without their product in the gallery: {count(found.unmatchable)}. A share of {rate(share)} of them got a "
        f"false match all the same; false matches per query: {rate(mean)}."
    )


def _galleries(found: Evaluation) -> list[str]:
    rows = [
        (count(p.gallery), *map(rate, (p.threshold, p.f1_at_threshold, p.best_threshold, p.f1_best, p.recall_at_1)))
        for p in found.f1_by_gallery
    ]
    if not rows:
        return ["This was not measured."]
    header = ("gallery", "threshold", "F1", "best threshold", "best F1", "recall@1")
    return ["The same queries among more and more other listings.", table(header, rows, left=0)]
