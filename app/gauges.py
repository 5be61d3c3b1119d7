"""Gauges that are read when somebody asks for them: catalogs, disk, threads, memory of the GPU."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from app.catalog.base import CatalogInfo
from app.telemetry import Metrics

MAX_CATALOGS = 100  # that have a label of their own: tenants make catalogs, and each label costs whoever scrapes
OTHERS = "(others)"  # no name of a catalog

_TASKS = Path("/proc/self/task")


def show_catalogs(metrics: Metrics, catalogs: Iterable[CatalogInfo]) -> None:
    """Shows the sizes of the largest catalogs, and the sum of the others."""
    known = sorted(catalogs, key=lambda info: (-info.products, info.name))
    metrics.products.clear()  # those that have gone, and those that are not among the largest any more
    for info in known[:MAX_CATALOGS]:
        metrics.products.labels(info.name).set(info.products)
    if known[MAX_CATALOGS:]:
        metrics.products.labels(OTHERS).set(sum(info.products for info in known[MAX_CATALOGS:]))
    metrics.catalogs.clear()
    for opened, count in Counter(info.opened for info in known).items():
        metrics.catalogs.labels(opened).set(count)


def show_resources(metrics: Metrics, data_dir: Path, gpu_memory: Callable[[], Mapping[str, int]] | None) -> None:
    """Shows what is left of the machine.

    Args:
        metrics: where.
        data_dir: the data folder.
        gpu_memory: returns bytes by kind; None where the towers run on a CPU.
    """
    if data_dir.is_dir():
        disk = shutil.disk_usage(data_dir)
        metrics.disk_free.set(disk.free)
        metrics.disk_size.set(disk.total)
    metrics.database.set(sum(_size(data_dir / f"catalog.sqlite{end}") for end in ("", "-wal")))
    if _TASKS.is_dir():
        metrics.threads.set(sum(1 for _ in _TASKS.iterdir()))
    for kind, size in ({} if gpu_memory is None else gpu_memory()).items():
        metrics.gpu.labels(kind).set(size)


def show_start(metrics: Metrics, now_s: float) -> None:
    """Shows how long the start took, where the system tells when the process began; `now_s` is seconds since 1970."""
    began = metrics.registry.get_sample_value("process_start_time_seconds")
    if began is not None:
        metrics.start.set(max(0.0, now_s - began))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
