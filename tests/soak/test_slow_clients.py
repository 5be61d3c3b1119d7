"""10,000 slow and vanishing clients: others are served within the bound of a flood, and nothing is left.

The others are one client who asks a question every quarter of a second. Its 99th percentile while the swarm is there is
compared with that at half of the sustained load before, in the same run, as in `test_overload`. The swarm is
a process of its own, with twice as many connections as the service takes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import uvloop

from tests import swarm
from tests.benchmarks.processes import ROOT, Service
from tests.benchmarks.stats import percentile
from tests.soak.open_loop import run as ask
from tests.soak.service import open_files, resident_mb, shipped, threads
from tests.soak.test_overload import Loads

pytestmark = pytest.mark.soak

CLIENTS = 10_000
AT_ONCE = 2000  # of which the service takes half
HOLD_S = 40.0  # longer than the service waits for a reader
QUIET_S, RATE = 30.0, 4.0
RATIO = 3.0
GROWTH_MB, GROWTH_THREADS, GROWTH_FILES = 200.0, 8, 10
PATIENCE_S = 120.0


def test_ten_thousand_slow_and_vanishing_clients(tmp_path: Path) -> None:
    with shipped(tmp_path) as service:
        loads = Loads(service)
        before = loads.send("half of what is sustained", loads.sustained() / 2, QUIET_S)
        memory, had_threads, had_files = resident_mb(service), threads(service), open_files(service)
        with subprocess.Popen([sys.executable, "-m", "tests.soak.test_slow_clients", service.url], cwd=ROOT) as crowd:
            accepted: list[float] = []
            statuses: dict[int, int] = {}
            first, highest_mb, most_files = 10_000, 0.0, 0
            while crowd.poll() is None:
                seen = uvloop.run(ask(service.url, RATE, 5, first, first))
                accepted += [ms for _, ms in seen.accepted_ms]
                statuses = {
                    status: statuses.get(status, 0) + seen.statuses[status] for status in {*statuses, *seen.statuses}
                }
                highest_mb, most_files = max(highest_mb, resident_mb(service)), max(most_files, open_files(service))
                first += 1000
            assert crowd.returncode == 0
        settle(service, had_files)
        quiet_ms, busy_ms = before.at(99), percentile(accepted, 99)
        ratio, grown_mb = busy_ms / quiet_ms, highest_mb - memory
        print(f"\nthe others: p99 {busy_ms:.0f} ms, {ratio:.2f} times the {quiet_ms:.0f} ms at {before.rate:.0f}/s before")
        print(f"their answers: {statuses}")
        print(
            f"memory {grown_mb:+.0f} MB at most, {resident_mb(service) - memory:+.0f} MB after; {most_files} files at most"
        )
        print(f"threads {threads(service) - had_threads:+d}, files {open_files(service) - had_files:+d}")
        assert set(statuses) <= {200, 429}
        assert grown_mb < GROWTH_MB
        assert threads(service) - had_threads <= GROWTH_THREADS  # pools of the frameworks that begin when they are needed
        assert open_files(service) - had_files <= GROWTH_FILES
        text = httpx.get(f"{service.url}/metrics").text
        for stage in ("encode", "search", "decode"):
            assert f'samesku_queue_depth{{stage="{stage}"}} 0.0' in text
        assert httpx.get(f"{service.url}/readyz", timeout=PATIENCE_S).status_code == 200
        assert ratio <= RATIO


def settle(service: Service, files: int) -> None:
    """Waits until connections that were left are closed."""
    deadline = time.monotonic() + PATIENCE_S
    while open_files(service) - files > GROWTH_FILES and time.monotonic() < deadline:
        time.sleep(0.5)


def main() -> None:
    """The swarm."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    where = urlsplit(parser.parse_args().url)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, AT_ONCE + 256) if hard > 0 else AT_ONCE + 256, hard))
    began = time.monotonic()
    host, port = where.hostname or "127.0.0.1", where.port or 80
    played = asyncio.run(swarm.run(host, port, CLIENTS, at_once=AT_ONCE, seed=1, hold_s=HOLD_S))
    print(f"\nswarm: {json.dumps(played)} in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
