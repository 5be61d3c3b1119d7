"""Writes the Grafana dashboard.

    python deploy/monitoring/dashboard.py

A test compares what it writes with what is in the repository, and every query with the metrics of the program.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "grafana" / "dashboards" / "samesku.json"
SOURCE = {"type": "prometheus", "uid": "${source}"}
COLUMNS, HEIGHT = 3, 8
WHOLE = 24  # units of width that Grafana divides a row into
HERE = 'job="$job", instance=~"$instance"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph.

    Attributes:
        title: what it shows.
        unit: Grafana's name of it.
        queries: PromQL and the legend of its lines; `HERE` becomes the choice at the top of the page.
        stacked: whether lines are laid upon each other.
        about: what a reader should know.
    """

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    stacked: bool = False
    about: str = ""


def rate(metric: str, by: str, more: str = "") -> str:
    """The rate of a counter, summed."""
    return f"sum by ({by}) (rate({metric}{{HERE{more}}}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str, more: str = "") -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({share}, {rate(metric + '_bucket', by + ', le', more)})"


def mean(metric: str, by: str) -> str:
    """The mean of a histogram."""
    return f"{rate(metric + '_sum', by)} / {rate(metric + '_count', by)}"


ROWS: dict[str, tuple[Panel, ...]] = {
    "Traffic": (
        Panel("requests by call", "reqps", ((rate("samesku_requests_total", "route"), "{{route}}"),), stacked=True),
        Panel("requests in flight", "short", (("samesku_requests_in_flight{HERE}", "{{instance}}"),)),
        Panel("items of batches", "ops", ((rate("samesku_batch_items_total", "route"), "{{route}}"),), stacked=True),
    ),
    "Latency by stage": (
        Panel(
            "a match", "s",
            tuple(
                (quantile(share, "samesku_request_seconds", "job", ', route="/match"'), f"p{share * 100:g}")
                for share in (0.5, 0.95, 0.99)
            ),
        ),
        Panel("work, mean of a batch", "s", ((mean("samesku_stage_seconds", "stage"), "{{stage}}"),),
              about="search includes judge; decode, store and verify are of one item."),
        Panel("waiting, p95 of an item", "s", ((quantile(0.95, "samesku_queue_seconds", "stage"), "{{stage}}"),)),
        Panel("other calls, p99", "s", ((quantile(0.99, "samesku_request_seconds", "route"), "{{route}}"),)),
    ),
    "Queues and batches": (
        Panel("items waiting", "short", (("samesku_queue_depth{HERE}", "{{stage}}"),)),
        Panel("size of a batch, mean", "short", ((mean("samesku_batch_size", "stage"), "{{stage}}"),)),
        Panel("threads at work", "short", (
            ("samesku_stage_threads_busy{HERE}", "{{stage}}"), ("samesku_decode_threads{HERE}", "threads that decode"),
        )),
    ),
    "Catalog": (
        Panel("products", "short", (("samesku_products{HERE}", "{{catalog}}"),), stacked=True),
        Panel("database", "bytes", (("samesku_database_bytes{HERE}", "{{instance}}"),)),
        Panel("catalogs by how they were opened", "short", (("samesku_catalogs{HERE}", "{{opened}}"),), stacked=True,
              about="From the snapshot, or (slower) from the database."),
        Panel("feedback", "ops", ((rate("samesku_feedback_total", "verdict"), "{{verdict}}"),)),
    ),
    "Errors and rejections": (
        Panel("answers that are none", "reqps", (
            (rate("samesku_requests_total", "status", ', status=~"[45].."'), "{{status}}"),), stacked=True),
        Panel("rejected, by code", "ops", ((rate("samesku_rejected_total", "code"), "{{code}}"),), stacked=True),
        Panel("ready, and workers replaced", "short", (
            ("samesku_ready{HERE}", "ready"), ("increase(samesku_worker_restarts_total{HERE}[1h])", "{{worker}} in an hour"),
        )),
    ),
    "Resources": (
        Panel("memory", "bytes", (("process_resident_memory_bytes{HERE}", "{{instance}}"),)),
        Panel("processors in use", "short", (("rate(process_cpu_seconds_total{HERE}[$__rate_interval])", "{{instance}}"),)),
        Panel("files and threads", "short", (
            ("process_open_fds{HERE}", "open files"), ("samesku_threads{HERE}", "threads"),
        )),
        Panel("disk of the data folder", "bytes", (
            ("samesku_data_free_bytes{HERE}", "free"), ("samesku_data_size_bytes{HERE}", "of"),
        )),
        Panel("memory of the GPU", "bytes", (("samesku_gpu_memory_bytes{HERE}", "{{kind}}"),)),
        Panel("since the start, and how long it took", "s", (
            ("time() - process_start_time_seconds{HERE}", "running"), ("samesku_start_seconds{HERE}", "start"),
        )),
    ),
}  # fmt: skip


def dashboard() -> dict[str, Any]:
    """Returns the dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, members in ROWS.items():
        panels.append(_row(title, len(panels) + 1, y))
        y += 1
        for start in range(0, len(members), COLUMNS):
            line = members[start : start + COLUMNS]
            for column, panel in enumerate(line):
                width = WHOLE // COLUMNS
                panels.append(_graph(panel, len(panels) + 1, {"x": column * width, "y": y, "w": width, "h": HEIGHT}))
            y += HEIGHT
    return {
        "uid": "samesku",
        "title": "samesku",
        "tags": ["samesku"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": _choices()},
        "panels": panels,
    }


def _choices() -> list[dict[str, Any]]:
    values = 'label_values(samesku_model_info{job="$job"}, instance)'
    return [
        {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        _choice("job", "label_values(samesku_model_info, job)", many=False),
        _choice("instance", values, many=True),
    ]


def _choice(name: str, query: str, *, many: bool) -> dict[str, Any]:
    return {
        "name": name, "type": "query", "datasource": SOURCE, "query": {"query": query, "refId": name},
        "refresh": 2, "sort": 1, "multi": many, "includeAll": many,
        "current": {"text": "All", "value": "$__all"} if many else {},
    }  # fmt: skip


def _row(title: str, number: int, y: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": WHOLE, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _graph(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + n), "datasource": SOURCE, "expr": expr.replace("HERE", HERE), "legendFormat": legend}
        for n, (expr, legend) in enumerate(panel.queries)
    ]
    custom = {"fillOpacity": 20 if panel.stacked else 5, "stacking": {"mode": "normal" if panel.stacked else "none"}}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": custom}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(dashboard(), indent=1) + "\n", "utf-8")
