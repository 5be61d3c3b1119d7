"""Half an hour of mixed traffic with churn against the real service: flat memory, flat latency, no error.

    make soak ARGS="-k mixed"                         half an hour
    SAMESKU_SOAK_MINUTES=5 make soak ARGS="-k mixed"  less

The first third is for warming up: allocators, caches, and the towers' engine meet every size of a batch. That takes some
12,000 calls; a run that is too short for them (ten minutes on a busy machine) sees memory rise by more than is allowed.
Prints a table and draws `docs/soak.svg` (SAMESKU_SOAK_PLOT: elsewhere).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.benchmarks.stats import percentile
from tests.mixed import KEPT_ERRORS, Call, Record, sample, traffic
from tests.server import ROOT, running_service

pytestmark = pytest.mark.soak
MINUTES = float(os.environ.get("SAMESKU_SOAK_MINUTES", "30"))
PLOT = Path(os.environ.get("SAMESKU_SOAK_PLOT", ROOT / "docs" / "soak.svg"))
WARM = 1 / 3  # of the time
WINDOWS = 30
SINGLE = "match"
GROWTH = 0.02  # of memory over what is left of the time, by a line through all samples
MORE = 2  # open files, and threads: those of the event loop's pool come and go
SLOWER = 1.5  # p99 of the last third, times that of the one before


def test_half_an_hour_of_mixed_traffic(tmp_path: Path) -> None:
    whole_s = MINUTES * 60
    with running_service(tmp_path, ROOT / "model_store" / "default") as url:
        with traffic(url) as record:
            sample(url, record, every_s=whole_s / 360, for_s=whole_s)
        idle = Record()
        sample(url, idle, every_s=1.0, for_s=3.0)
    windows = latencies(record.calls, whole_s)
    print(table(record, windows))
    draw(record, windows, PLOT)
    logged = [line for line in (tmp_path / "service.log").read_text("utf-8").splitlines() if is_error(line)]
    assert record.errors[:KEPT_ERRORS] == []
    assert logged[:KEPT_ERRORS] == []
    assert idle.samples[-1].in_flight == 1  # the scrape itself
    warm = [one for one in record.samples if one.at_s >= WARM * whole_s]
    assert growth([one.resident_bytes for one in warm]) < GROWTH
    half = len(warm) // 2
    for counted in ([one.files for one in warm], [one.threads for one in warm]):
        assert median(counted[half:]) <= median(counted[:half]) + MORE
    before, after = (median(part) for part in (windows[WINDOWS // 3 : 2 * WINDOWS // 3], windows[2 * WINDOWS // 3 :]))
    assert after < SLOWER * before


def is_error(line: str) -> bool:
    """True for a line of the log that nobody should see, or that is none."""
    try:
        return json.loads(line)["level"] not in ("debug", "info", "warning")
    except (ValueError, KeyError, TypeError):
        return True


def growth(values: Sequence[float]) -> float:
    """By which share of their mean values rise, on a line through them."""
    slope = np.polyfit(np.arange(len(values)), values, 1)[0]
    return float(slope * len(values) / np.mean(values))


def latencies(calls: Sequence[Call], whole_s: float) -> list[float]:
    """The 99th percentile of single requests in each window, in ms; NaN for a window without any."""
    windows: list[list[float]] = [[] for _ in range(WINDOWS)]
    for call in calls:
        if call.kind == SINGLE and call.at_s < whole_s:
            windows[int(call.at_s / whole_s * WINDOWS)].append(call.took_s * 1000)
    return [percentile(window, 99) if window else float("nan") for window in windows]


def table(record: Record, windows: Sequence[float]) -> str:
    """What happened, as text."""
    counts = Counter(call.kind for call in record.calls)
    lines = [f"{sum(counts.values()):,} calls in {MINUTES:g} minutes, {len(record.errors)} errors"]
    for kind, count in counts.most_common():
        lines.append(f"  {kind:12}{count:8,}{median(of(record, kind)):10.1f} ms in the middle")
    lines.append(f"{'':22}{'first third':>14}{'second':>14}{'last':>14}")
    for name, values in shown(record).items():
        thirds = [values[len(values) * n // 3 :][: len(values) // 3] for n in range(3)]
        lines.append(f"{name:22}" + "".join(f"{median(third):14,.1f}" for third in thirds))
    ends = [windows[WINDOWS * n // 3 : WINDOWS * (n + 1) // 3] for n in range(3)]
    lines.append(f"{'p99 of a match, ms':22}" + "".join(f"{np.nanmedian(part):14,.1f}" for part in ends))
    return "\n".join(lines)


def shown(record: Record) -> dict[str, list[float]]:
    """What the service's gauges said, in the units of people."""
    return {
        "memory, MB": [one.resident_bytes / 1e6 for one in record.samples],
        "open files": [one.files for one in record.samples],
        "threads": [one.threads for one in record.samples],
    }


def of(record: Record, kind: str) -> list[float]:
    """How long calls of a kind took, in ms."""
    return [call.took_s * 1000 for call in record.calls if call.kind == kind]


def draw(record: Record, windows: Sequence[float], file: Path) -> None:
    """Draws memory, latency, and files and threads over the time."""
    minutes = [one.at_s / 60 for one in record.samples]
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    memory, latency, handles = figure.subplots(1, 3)
    gauges = shown(record)
    memory.plot(minutes, gauges["memory, MB"], color="#2b6cb0")
    memory.set(title="memory, MB", ylim=(0, None))
    latency.plot([(n + 0.5) * MINUTES / WINDOWS for n in range(WINDOWS)], windows, "o-", color="#2b6cb0", markersize=3)
    latency.set(title="p99 of a match, ms", ylim=(0, None))
    for name, colour in (("open files", "#2b6cb0"), ("threads", "#a0aec0")):
        handles.plot(minutes, gauges[name], color=colour, label=name)
    handles.set(title="open files and threads", ylim=(0, None))
    handles.legend()
    for axes in (memory, latency, handles):
        axes.axvspan(0, MINUTES * WARM, color="#edf2f7")
        axes.set_xlabel("minutes")
    figure.savefig(file)
