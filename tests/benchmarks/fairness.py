"""Single requests while the bulk runs: how much longer one client waits while another sends thousands of items.

    python -m tests.benchmarks.fairness [BUNDLE] [--items 10000] [--requests 100] [--rounds 3] [--gallery 2000] [--json FILE]

One client asks question after question (photo and title), first of an idle service, then while a batch of `items` photos and
titles runs through `/match/batch`, then while one runs through `/catalog/batch`; and so on for some rounds, every idle run
beside the busy runs that it is compared with. A batch is cut off once enough questions have been answered. Prints Markdown:
medians of the rounds, ratios as median (lowest to highest).
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import httpx
import typer

from app.model_store import load_bundle
from tests.benchmarks import gallery, processes
from tests.benchmarks.load import read_catalog, read_requests
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.processes import BenchmarkFailed, Service
from tests.benchmarks.report import table_text
from tests.benchmarks.stats import SAMESKU, percentile

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_S = 120.0
IDLE = "nothing else"
BULKS = {"/match/batch": "a batch of queries", "/catalog/batch": "a batch of products"}


@dataclass(frozen=True, slots=True)
class Run:
    """What one client saw beside one kind of company; `bulk_per_s` are items of the batch, 0 without one."""

    beside: str
    p50_ms: float
    p99_ms: float
    bulk_per_s: float


def main(
    bundle: Annotated[Path, typer.Argument()] = ROOT / "model_store" / "default",
    items: Annotated[int, typer.Option(min=100, help="Of each batch.")] = 10_000,
    requests: Annotated[int, typer.Option(min=10, help="Of the one client, per run.")] = 100,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    products: Annotated[int, typer.Option("--gallery", min=100)] = 2000,
    raw: Annotated[Path | None, typer.Option("--json", help="File for all figures.")] = None,
) -> None:
    """Measures and prints."""
    loaded = load_bundle(bundle)
    with tempfile.TemporaryDirectory(prefix="samesku-bench-") as scratch:
        data = Path(scratch) / "data"
        gallery.fill_samesku(loaded, data, gallery.make_filler(loaded, products - len(read_catalog())))
        environment = {
            "SAMESKU_BUNDLE": str(bundle.resolve()),
            "SAMESKU_DATA_DIR": str(data),
            "SAMESKU_MAX_MANIFEST_BYTES": str(1 << 30),
        }
        serving = ["app", "serve", "--host", "127.0.0.1"]
        with processes.running(SAMESKU, serving, environment, Path(scratch)) as service:
            gallery.index_samples(service, lambda: None)
            runs = [run for number in range(rounds) for run in one_round(service, number, requests, items)]
    sys.stdout.write(table(runs) + "\n")
    if raw is not None:
        figures = {
            "machine": describe_machine(),
            "items": items,
            "requests": requests,
            "runs": [asdict(one) for one in runs],
        }
        raw.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


def one_round(service: Service, number: int, requests: int, items: int) -> list[Run]:
    """Measures one client alone, then beside each kind of bulk."""
    first = number * (1 + len(BULKS)) * 10 * requests
    runs = [singles(service, IDLE, first, requests)]
    for place, (path, name) in enumerate(BULKS.items(), start=1):
        with bulk(service, path, items, number) as done:
            begun, before = time.perf_counter(), len(done)
            run = singles(service, name, first + place * 10 * requests, requests)
            rate = (len(done) - before) / (time.perf_counter() - begun)
        runs.append(Run(run.beside, run.p50_ms, run.p99_ms, rate))
    return runs


def singles(service: Service, beside: str, first: int, requests: int) -> Run:
    """Measures one client that asks one question after the other."""
    found = processes.measure(service, 1, 1, requests, first)
    return Run(beside, percentile(found.latencies_ms, 50), percentile(found.latencies_ms, 99), 0.0)


@contextmanager
def bulk(service: Service, path: str, items: int, number: int) -> Iterator[list[str]]:
    """Sends a batch in a thread; yields the lines of its answer, which grow, and cuts it off at the end.

    Raises:
        BenchmarkFailed: the batch was refused, an item of it failed, or it ended before it was cut off.
    """
    body = json.dumps({"items": batch_items(items, path == "/catalog/batch", number)}).encode()
    done: list[str] = []
    failed: list[str] = []
    enough = threading.Event()
    started = threading.Event()

    def send() -> None:
        headers = {"Content-Type": "application/json"}
        try:
            address = f"{service.url}{path}"
            with httpx.stream("POST", address, content=body, headers=headers, timeout=TIMEOUT_S) as answer:
                if answer.status_code != 200:
                    failed.append(f"status {answer.status_code}")
                for line in answer.iter_lines():
                    done.append(line)
                    started.set()
                    if enough.is_set():
                        return
            failed.append("it ended before the single requests did: use more --items")
        except httpx.HTTPError as error:
            failed.append(type(error).__name__)
        finally:
            started.set()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    started.wait(TIMEOUT_S)
    yield done
    enough.set()
    thread.join(TIMEOUT_S)
    failed += [line for line in done if '"error"' in line][:1]
    if failed:
        raise BenchmarkFailed(f"the batch to {path}: {failed[0][:300]}")


def batch_items(count: int, products: bool, number: int) -> list[dict[str, Any]]:
    """Returns items with photo and title, going round the samples; no two titles and no two files are equal."""
    samples = [one for one in read_requests() if one.photo and one.title]
    found: list[dict[str, Any]] = []
    for n in range(count):
        sample = samples[n % len(samples)]
        photo = base64.b64encode(sample.photo + (number * count + n).to_bytes(8, "big")).decode()
        item = {"title": f"{sample.title} bulk {number} {n}", "image": photo}
        found.append(item | ({"id": f"bulk-{n}"} if products else {}))
    return found


def table(runs: list[Run]) -> str:
    """Returns the Markdown table."""
    idle = [run for run in runs if run.beside == IDLE]
    rows = []
    for beside in (IDLE, *BULKS.values()):
        some = [run for run in runs if run.beside == beside]
        ratios = [busy.p99_ms / quiet.p99_ms for busy, quiet in zip(some, idle, strict=True)]
        row = [beside, f"{median(run.p50_ms for run in some):.0f}", f"{median(run.p99_ms for run in some):.0f}"]
        row.append("" if beside == IDLE else f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        row.append("" if beside == IDLE else f"{median(run.bulk_per_s for run in some):.1f}")
        rows.append(row)
    return table_text(["beside", "p50 ms", "p99 ms", "p99, times that of an idle service", "items of the batch per s"], rows)


if __name__ == "__main__":
    typer.run(main)
