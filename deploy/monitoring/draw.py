"""Draws what the dashboard shows, from a running Prometheus: the same queries, without Grafana.

python deploy/monitoring/draw.py http://localhost:9090 [--minutes 30] [--out dashboard.svg]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

FILE = Path(__file__).parent / "grafana" / "dashboards" / "samesku.json"
COLUMNS, POINTS = 4, 120
UNITS = {"bytes": (1e6, "MB"), "s": (1, "s"), "reqps": (1, "a second"), "ops": (1, "a second")}


@dataclass(frozen=True, slots=True)
class Source:
    """A Prometheus, and the time that is asked for, in seconds since 1970."""

    url: str
    start: float
    end: float

    def lines(self, query: str) -> list[dict[str, Any]]:
        """Returns the series of a query of the dashboard."""
        step = max(1.0, (self.end - self.start) / POINTS)
        for name, value in (("$__rate_interval", f"{4 * step:.0f}s"), ("$job", "samesku"), ("$instance", ".*")):
            query = query.replace(name, value)
        asked = urllib.parse.urlencode({"query": query, "start": self.start, "end": self.end, "step": step})
        with urllib.request.urlopen(f"{self.url}/api/v1/query_range?{asked}") as answer:  # noqa: S310 - the operator's own
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found


def draw(source: Source, file: Path) -> None:
    """Draws all panels."""
    panels = [panel for panel in json.loads(FILE.read_text("utf-8"))["panels"] if panel["type"] != "row"]
    rows = math.ceil(len(panels) / COLUMNS)
    figure = Figure(figsize=(4.6 * COLUMNS, 1.9 * rows), dpi=65, layout="constrained")
    grid = figure.subplots(rows, COLUMNS).flat
    for axes, panel in zip(grid, panels, strict=False):
        _panel(axes, panel, source)
    for axes in list(figure.axes)[len(panels) :]:
        axes.set_visible(False)
    figure.savefig(file)


def _panel(axes: Axes, panel: dict[str, Any], source: Source) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    scale, shown = UNITS.get(unit, (1, ""))
    for target in panel["targets"]:
        for line in source.lines(target["expr"]):
            name = target["legendFormat"]
            for label, value in line["metric"].items():
                name = name.replace("{{" + label + "}}", value)
            times = [(at - source.end) / 60 for at, _ in line["values"]]
            axes.plot(times, [float(value) / scale for _, value in line["values"]], label=name, linewidth=1)
    axes.set_title(panel["title"] + (f", {shown}" if shown else ""), fontsize=9)
    axes.set_ylim(0, None)
    axes.tick_params(labelsize=7)
    if axes.lines:
        axes.legend(fontsize=5, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of Prometheus")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--out", type=Path, default=Path("dashboard.svg"))
    options = parser.parse_args(arguments)
    now = time.time()
    draw(Source(options.url, now - options.minutes * 60, now), options.out)


if __name__ == "__main__":
    main(sys.argv[1:])
