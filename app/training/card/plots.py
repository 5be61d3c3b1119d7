"""The plots of a model card. Each is drawn on a figure of its own: no pyplot, no display, no state that others share.

A plot function writes its file and returns True, or returns False where there is too little to show.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from app.evaluation.results import Evaluation, Sample
from app.labelled.listings import Item
from app.training.card.sheets import printable

DPI = 110
POINTS = 400  # of a loss curve
MAPPED = 2000
FEWEST_MAPPED = 30
NAMED = 12
NAME_CHARS = 34

# Okabe and Ito, "Color Universal Design", 2008: told apart with any kind of colour vision
BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER)
MARKERS = ("o", "^")
GREY = "#8c8c8c"
_SIZES = {"title": 12, "label": 10.5, "tick": 9.5, "legend": 9.5}

Doubles = NDArray[np.float64]


def loss(file: Path, history: Sequence[Mapping[str, float]]) -> bool:
    """Losses of every head over epochs, with the learning rates and the margin below."""
    epochs = _column(history, "epoch")
    found = {key for record in history for key in record if key.startswith("loss_")}
    names = sorted(found, key=lambda name: (name.startswith("loss_distil"), name))
    if not names or not np.isfinite(epochs).any():
        return False
    figure = _figure(7.5, 6.4)
    top, rates, margin = figure.subplots(3, 1, sharex=True, height_ratios=[3.2, 1, 1])
    for number, name in enumerate(names):
        label = printable(name.removeprefix("loss_").replace("_", " "))
        _course(top, epochs, _column(history, name), PALETTE[number % len(PALETTE)], label, number)
    top.set_ylim(bottom=0)
    _label(top, "Loss of each head while training", "", "loss (cross-entropy: nats)")
    _legend(top)
    backbone, heads = _column(history, "learning_rate"), _column(history, "head_rate")
    highest = float(np.nan_to_num([*backbone, *heads], posinf=0).max())
    exponent = math.floor(math.log10(highest)) if highest > 0 else 0
    scale = 10.0**-exponent
    _course(rates, epochs, heads * scale, PURPLE, "heads", 0, smooth=False)
    _course(rates, epochs, backbone * scale, BLUE, "backbones", 1, smooth=False)
    _label(rates, "", "", f"learning rate\n(1e{exponent})")
    _legend(rates)
    _course(margin, epochs, _column(history, "margin"), ORANGE, "margin", 0, smooth=False)
    _label(margin, "", "epoch", "margin\n(radians)")
    for axes in (rates, margin):
        axes.set_ylim(0, 1.2 * axes.dataLim.ymax if axes.dataLim.ymax > 0 else 1)
    top.set_xlim(left=0)
    return _save(figure, file)


def f1(file: Path, found: Evaluation) -> bool:
    """F1, precision and recall over the threshold."""
    curve = found.f1_curve
    if not curve.threshold:
        return False
    figure = _figure(7.5, 4.4)
    axes = figure.subplots()
    for name, values, colour, style in (
        ("F1", curve.f1, BLUE, "-"),
        ("precision", curve.precision, ORANGE, "--"),
        ("recall", curve.recall, GREEN, "-."),
    ):
        axes.plot(curve.threshold, values, style, color=colour, linewidth=2 if name == "F1" else 1.5, label=name)
    if math.isfinite(found.threshold):
        axes.axvline(found.threshold, color="black", linewidth=1, label=f"threshold {found.threshold:.3f}")
        axes.plot([found.threshold], [found.f1_at_threshold], "o", color="black", markersize=6)
    best = f"best {found.best_threshold:.3f} (optimistic)"
    axes.plot([found.best_threshold], [found.f1_best], "*", color=AMBER, markersize=14, markeredgecolor="black", label=best)
    first, last = curve.threshold[0], curve.threshold[-1]
    if first < found.exact_from < math.inf:
        label = "recall not exact: candidate lists end above"
        axes.axvspan(first, min(found.exact_from, last), color="#eeeeee", label=label)
    axes.set_ylim(0, 1.03)
    axes.set_xlim(min(first, 0.0), max(last, 1.0) + 0.01)
    _label(axes, f"What each threshold would give, {found.modality} queries", "threshold (cosine)", "mean over queries")
    _legend_below(figure, 3)
    return _save(figure, file)


def scores(file: Path, found: Evaluation) -> bool:
    """Histograms of the scores of pairs."""
    counted = found.scores
    kinds = (
        ("different, random pairs", counted.different, GREY, 0.25),
        ("different, but near (candidates)", counted.near, ORANGE, 0.12),
        ("same product", counted.same, BLUE, 0.2),
    )
    if not any(counted.same) and not any(counted.near):
        return False
    figure = _figure(7.5, 4.4)
    axes = figure.subplots()
    for name, counts, colour, alpha in kinds:
        if any(counts):
            bars = np.maximum(np.array(counts, np.float64), 0.5)  # an empty bin has no logarithm
            axes.stairs(bars, counted.edges, baseline=0.5, fill=True, color=colour, alpha=alpha)
            axes.stairs(bars, counted.edges, baseline=0.5, color=colour, lw=1.6, label=f"{name}: {sum(counts):,}")
    marks: list[float] = []
    if math.isfinite(found.threshold):
        marks.append(found.threshold)
        axes.axvline(found.threshold, color="black", linewidth=1.2, label=f"threshold {found.threshold:.3f}")
    axes.set_yscale("log")
    axes.set_ylim(0.7, max(15.0, 2.0 * max(*counted.same, *counted.different, *counted.near)))
    used = np.flatnonzero(np.array([counted.same, counted.different, counted.near]).sum(axis=0))
    marks += [counted.edges[used[0]], counted.edges[used[-1] + 1]]
    axes.set_xlim(min(marks) - 0.02, max(marks) + 0.02)
    _label(axes, "How well scores separate same from different", "score (cosine)", "pairs per bin (log)")
    _legend_below(figure, 2)
    return _save(figure, file)


def precision_recall(file: Path, found: Evaluation) -> bool:
    """Precision over recall, where the curve is exact."""
    curve = found.f1_curve
    threshold, precision, recall = (np.array(v) for v in (curve.threshold, curve.precision, curve.recall))
    exact = threshold >= found.exact_from
    if exact.sum() < 2:
        return False
    figure = _figure(5.8, 4.8)
    axes = figure.subplots()
    axes.plot(recall[exact], precision[exact], color=BLUE, linewidth=2)
    if math.isfinite(found.threshold):
        x, y, label = found.recall_at_threshold, found.precision_at_threshold, f"threshold {found.threshold:.3f}"
        axes.plot([x], [y], "o", color="black", markersize=7, label=label, clip_on=False)
    best = int(np.abs(threshold - found.best_threshold).argmin())
    label = f"best {found.best_threshold:.3f} (optimistic)"
    axes.plot([recall[best]], [precision[best]], "*", color=AMBER, ms=14, mec="black", label=label, clip_on=False)
    lowest = min(0.5, float(min(recall[exact].min(), precision[exact].min())))
    axes.set_xlim(lowest - 0.02, 1.01)
    axes.set_ylim(lowest - 0.02, 1.01)
    _label(axes, "What precision costs in recall", "recall (mean over queries)", "precision (mean over queries)")
    _legend(axes, "lower left")
    return _save(figure, file)


def gallery(file: Path, found: Evaluation) -> bool:
    """F1 over the size of the gallery."""
    points = [point for point in found.f1_by_gallery if math.isfinite(point.f1_best)]
    if len(points) < 2:
        return False
    figure = _figure(7.0, 4.2)
    axes = figure.subplots()
    sizes = [point.gallery for point in points]
    best, own = [point.f1_best for point in points], [point.f1_at_threshold for point in points]
    label = "at the best threshold (optimistic)"
    axes.plot(sizes, best, "--*", color=AMBER, markersize=11, markeredgecolor="black", label=label)
    axes.plot(sizes, own, "-o", color=BLUE, label="at the bundle's threshold, written below")
    for point in points:
        if math.isfinite(point.threshold):
            place = (point.gallery, point.f1_at_threshold)
            axes.annotate(
                f"{point.threshold:.3f}", place, (0, -14), textcoords="offset points", ha="center", fontsize=8.5, color=BLUE
            )
    axes.set_xscale("log")
    ticks = _apart(sizes)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{size:,.0f}" for size in ticks])
    axes.margins(x=0.08)
    low, high = min(own), max(best)
    spare = max(0.02, 0.06 - (high - low) / 2)  # a difference of nothing must not look like a cliff
    axes.set_ylim(low - spare, high + spare)
    _label(axes, "What a larger gallery costs", "gallery (listings, log)", "F1, mean over queries")
    _legend(axes)
    return _save(figure, file)


def embedding_map(file: Path, sample: Sample, items: Mapping[str, Item]) -> bool:
    """A t-SNE map of embeddings (van der Maaten and Hinton, JMLR 2008), with the largest groups in colour."""
    vectors, labels, ids = sample.vectors[:MAPPED], sample.labels[:MAPPED], sample.ids[:MAPPED]
    distinct = len(np.unique(vectors, axis=0)) if vectors.size else 0
    if distinct < FEWEST_MAPPED or vectors.shape[1] < 2:  # of equal points there is no map
        return False
    perplexity = min(30.0, (len(vectors) - 1) / 4)
    places = TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=0).fit_transform(vectors)
    largest = [label for label, _ in Counter(labels.tolist()).most_common(NAMED)]
    figure = _figure(9.6, 6.0)
    axes = figure.subplots()
    others = ~np.isin(labels, largest)
    if others.any():
        axes.scatter(places[others, 0], places[others, 1], s=8, color="#c4c4c4", linewidths=0)
    for number, label in enumerate(largest):
        colour, marker = PALETTE[number % len(PALETTE)], MARKERS[number // len(PALETTE) % len(MARKERS)]
        rows = np.flatnonzero(labels == label)
        name = _escaped(f"{_group_name([ids[row] for row in rows], items)} ({len(rows)})")
        axes.scatter(
            places[rows, 0],
            places[rows, 1],
            s=42,
            color=colour,
            marker=marker,
            edgecolors="white",
            linewidths=0.5,
            label=name,
        )
    axes.set_xticks([])
    axes.set_yticks([])
    title = f"Map of {len(vectors):,} embeddings: equal colour and shape, same product"
    _label(axes, title, "t-SNE of cosines: only nearness means something, axes have no unit", "")
    axes.spines[:].set(visible=True, color="#cccccc")
    figure.legend(loc="outside right center", fontsize=8.5, frameon=False, title="largest groups", alignment="left")
    return _save(figure, file)


def _group_name(ids: Sequence[str], items: Mapping[str, Item]) -> str:
    known = [items[one] for one in ids if one in items]
    title = next((item.title for item in known if item.title), None)
    name = title or next((item.group for item in known if item.group), None) or ids[0]
    text = printable(name)
    return text if len(text) <= NAME_CHARS else text[: NAME_CHARS - 1].rstrip() + "…"


def _escaped(text: str) -> str:
    """Keeps legends from reading dollars as formulas and a leading underline as "do not show"."""
    return text.replace("$", r"\$") if not text.startswith("_") else " " + text.replace("$", r"\$")


def _apart(sizes: Sequence[int]) -> list[float]:
    """Leaves out ticks whose labels would touch the next larger one's."""
    span = math.log(sizes[-1] / sizes[0]) or 1.0
    kept: list[float] = []
    for size in reversed(sizes):
        if not kept or math.log(kept[-1] / size) / span > 0.09:
            kept.append(float(size))
    return kept[::-1]


def _column(history: Sequence[Mapping[str, float]], name: str) -> Doubles:
    return np.array([record.get(name, math.nan) for record in history], np.float64)


def _course(
    axes: Axes, epochs: Doubles, values: Doubles, colour: str, label: str, number: int, *, smooth: bool = True
) -> None:
    """Draws means of up to `POINTS` stretches; where they hide much, what they are means of stands faintly behind."""
    known = np.isfinite(values) & np.isfinite(epochs)
    x, y = epochs[known], values[known]
    if not len(x):
        return
    if smooth and len(x) > POINTS // 4:
        axes.plot(x[:: max(1, len(x) // 4000)], y[:: max(1, len(y) // 4000)], color=colour, alpha=0.2, linewidth=0.7)
        stretches = min(POINTS, len(x) // 10)
    else:
        stretches = min(POINTS, len(x))
    x, y = ([float(part.mean()) for part in np.array_split(v, stretches)] for v in (x, y))  # type: ignore[assignment]
    style = ("-", "--", "-.", ":")[number % 4]
    marker = "o" if len(x) < 20 else ""
    axes.plot(x, y, style, color=colour, marker=marker, markersize=4, linewidth=1.8, label=label)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=_SIZES["title"], loc="left", fontweight="bold")
    axes.set_xlabel(x, fontsize=_SIZES["label"])
    axes.set_ylabel(y, fontsize=_SIZES["label"])
    axes.tick_params(labelsize=_SIZES["tick"])
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Axes, place: Literal["best", "lower left"] = "best") -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, fontsize=_SIZES["legend"], framealpha=0.9, edgecolor="#cccccc")


def _legend_below(figure: Figure, columns: int) -> None:
    figure.legend(loc="outside lower center", ncols=columns, fontsize=_SIZES["legend"], frameon=False)


def _save(figure: Figure, file: Path) -> bool:
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return True
