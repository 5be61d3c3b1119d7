"""The service as it is shipped, in a process of its own with the sample catalog, and what the system says of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks import processes
from tests.benchmarks.gallery import index_samples
from tests.benchmarks.processes import ROOT, Service

SERVING = ["app", "serve", "--host", "127.0.0.1"]


@contextmanager
def shipped(folder: Path, **settings: object) -> Iterator[Service]:
    """Runs it with the default bundle; `settings` are those of SAMESKU_*."""
    given = {"bundle": ROOT / "model_store" / "default", "data_dir": folder / "data", "log_level": "warning"} | settings
    environment = {f"SAMESKU_{name.upper()}": str(value) for name, value in given.items()}
    environment["OMP_NUM_THREADS"] = str(os.cpu_count())  # tests have one thread each, the service has the machine
    with processes.running("samesku", SERVING, environment, folder) as service:
        index_samples(service, lambda: None)
        yield service


def resident_mb(service: Service) -> float:
    """Memory of the process."""
    return _status(service, "VmRSS") / 1024


def threads(service: Service) -> int:
    """Threads of the process."""
    return _status(service, "Threads")


def open_files(service: Service) -> int:
    """Files and sockets that the process has open."""
    return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))


def _status(service: Service, name: str) -> int:
    text = Path(f"/proc/{service.process.pid}/status").read_text("ascii")
    return int(text.partition(f"\n{name}:")[2].split()[0])
