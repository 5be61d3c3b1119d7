"""What `python -m app group` writes and shows."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from app.commands.common import results
from app.core.group_metrics import group_metrics
from app.core.pairs import FEATURES
from app.core.ranking import f1_of_matches
from app.core.reasons import reasons_for
from app.evaluation.features import Features
from app.evaluation.geometry import Photos
from app.evaluation.groups import Grouped


@dataclass(frozen=True, slots=True)
class Subjects:
    """Who is grouped: `n` listings or products by id.

    Attributes:
        ids: their names.
        titles: clean titles.
        features: vectors and hashes.
        labels: `(n,)` int64 true groups, -1 for none.
        asked: `(n,)` bool: whom the answer is about; the others only fill up the gallery.
        photos: of those that have one.
    """

    ids: Sequence[str]
    titles: Sequence[str | None]
    features: Features
    labels: NDArray[np.int64]
    asked: NDArray[np.bool_]
    photos: Photos


def matches_csv(found: Grouped, who: Subjects) -> str:
    """Returns one row per listing that asks: itself and its matches, as the competition wants it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["posting_id", "matches"])
    for n, rows in enumerate(found.matches()):
        if who.asked[n]:
            writer.writerow([who.ids[n], " ".join(who.ids[other] for other in rows)])
    return text.getvalue()


def groups_csv(found: Grouped, who: Subjects, bounds: Mapping[str, float]) -> str:
    """Returns one row per listing that asks: its group by the id of the first in it, and why it belongs there.

    `probability` is the mean over all others of the group; `reasons` are those of the pair with the likeliest of them, and
    last whom photos in other colours have kept out.
    """
    n = len(who.ids)
    sizes = np.bincount(found.labels, minlength=n)
    table = found.table
    inside = np.flatnonzero(found.labels[table.rows] == found.labels[table.others])
    sums = np.bincount(table.rows[inside], found.probability[inside], minlength=n)
    best: dict[int, int] = {}
    for pair in inside[np.argsort(-found.probability[inside], kind="stable")].tolist():
        best.setdefault(int(table.rows[pair]), pair)
    siblings = _siblings(found, who)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "group", "size", "probability", "nearest", "reasons"])
    for row in np.flatnonzero(who.asked).tolist():
        size = int(sizes[found.labels[row]])
        sure = "" if size == 1 else f"{sums[row] / (size - 1):.4f}"
        nearest, why = ("", []) if row not in best else _why(found, who, best[row], bounds)
        why += siblings.get(row, [])[:1]
        writer.writerow([who.ids[row], who.ids[found.labels[row]], size, sure, nearest, "; ".join(why)])
    return text.getvalue()


def _siblings(found: Grouped, who: Subjects) -> dict[int, list[str]]:
    """Returns for each listing whom photos have kept out of its group, and why."""
    kept_out: dict[int, list[str]] = defaultdict(list)
    for (left, right), reason in sorted(found.checks.items()):
        if reason.code == "recoloured" and found.labels[left] != found.labels[right]:
            for row, other in ((left, right), (right, left)):
                kept_out[row].append(f"not {who.ids[other]}: {reason.text}")
    return kept_out


def _why(found: Grouped, who: Subjects, pair: int, bounds: Mapping[str, float]) -> tuple[str, list[str]]:
    left, right = int(found.table.rows[pair]), int(found.table.others[pair])
    values = dict(zip(FEATURES, found.table.evidence[pair].tolist(), strict=True))
    photos = sum(bool(who.features.hashed[n]) for n in (left, right))
    reasons = reasons_for(who.titles[left], who.titles[right], photos, values, bounds)
    seen = found.checks.get((min(left, right), max(left, right)))
    return who.ids[right], [reason.text for reason in (*([] if seen is None else [seen]), *reasons)]


def show_groups(found: Grouped, who: Subjects, *, grouped: bool) -> None:
    """Prints how many groups there are, and how right they are where the true ones are known."""
    table = Table("", "", title="Groups", title_justify="left", show_header=False)
    table.add_row("listings", f"{len(found.labels):,}")
    if grouped:
        sizes = np.bincount(np.bincount(found.labels)[np.unique(found.labels)])
        table.add_row("groups", f"{int(sizes.sum()):,}")
        table.add_row("of them with two or more", f"{int(sizes[2:].sum()):,}")
        table.add_row("largest", f"{len(sizes) - 1:,}")
    for name, value in _figures(found, who, grouped):
        table.add_row(name, f"{value:.4f}")
    results.print(table)


def _figures(found: Grouped, who: Subjects, grouped: bool) -> list[tuple[str, float]]:
    if not (who.labels[who.asked] >= 0).all() or not who.asked.any():
        return []
    matches = found.matches()
    rows = np.repeat(np.arange(len(matches)), [len(one) - 1 for one in matches])
    others = np.concatenate([one[1:] for one in matches]) if matches else rows
    f1 = f1_of_matches(rows, others, who.labels, who.asked)
    figures = [("F1 of matches", f1)]
    if grouped and who.asked.all():
        metrics = group_metrics(found.labels, who.labels)
        figures += [
            ("B-cubed F1", metrics.bcubed_f1),
            ("B-cubed precision", metrics.bcubed_precision),
            ("B-cubed recall", metrics.bcubed_recall),
            ("pairwise precision", metrics.pair_precision),
            ("pairwise recall", metrics.pair_recall),
        ]
    return figures
