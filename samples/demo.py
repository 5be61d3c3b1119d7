"""`make demo`: starts the service, indexes the sample catalog, matches the sample queries, shows what came out.

    python samples/demo.py [--once] [--hard]

--once   stop afterwards; exit code 0 only if every expected product was found
--hard   also ask the queries that the shipped model is known to get wrong (never counted)
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

SAMPLES = Path(__file__).parent
ROOT = SAMPLES.parent
START_TIMEOUT_S = 300
SHOWN = 3
Row = dict[str, str]

console = Console(width=None if sys.stdout.isatty() else 140)


def main() -> int:
    """Runs the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="stop afterwards")
    parser.add_argument("--hard", action="store_true", help="also ask what is known to go wrong")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="samesku-demo-") as data, service(Path(data)) as client:
        index(client)
        queries = read("queries.csv")
        first, rest = queries[:6], queries[6:]
        console.print("\n[bold]One at a time[/], POST /match:")
        found = show(first, [match(client, query) for query in first])
        console.print("\n[bold]Many at once[/], POST /match/batch (CSV manifest and a zip of photos):")
        found += show(rest, match_batch(client, rest))
        if options.hard:
            hard = read("hard.csv")
            console.print("\n[bold]Known to go wrong[/] (not counted):")
            show(hard, match_batch(client, hard))
        expected = sum(1 for query in queries if query["expected"])
        colour = "green" if found == expected else "red"
        console.print(
            f"\n[{colour}]{found} of {expected} expected products found[/], in a catalog of {len(read('catalog.csv'))}."
        )
        if not options.once:
            stay(client)
        return 0 if found == expected else 1


@contextmanager
def service(data: Path) -> Iterator[httpx.Client]:
    """Starts the service on a free port and stops it at the end; yields a client for it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"SAMESKU_DATA_DIR": str(data / "data"), "SAMESKU_LOG_FORMAT": "console"}
    environment.setdefault("SAMESKU_BUNDLE", str(ROOT / "model_store" / "default"))
    log = data / "service.log"
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "app", "serve", "--port", str(port)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stream, stderr=stream)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            with console.status("Loading the model ..."):
                wait_until_ready(client, process, log)
            model = client.get("/model").json()
            console.print(f"Model [bold]{model['name']}[/] is ready on {client.base_url}")
            yield client
    finally:
        process.terminate()
        process.wait(timeout=60)


def wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits for the first real answer; stops with the service's own words if it ends before."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"The service stopped:\n{log.read_text()}")
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    sys.exit(f"The service was not ready within {START_TIMEOUT_S} s:\n{log.read_text()}")


def read(name: str) -> list[Row]:
    """Reads one of the sample tables."""
    with (SAMPLES / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def pack(rows: list[Row], columns: list[str]) -> dict[str, tuple[str, bytes]]:
    """Returns the two files of a batch call: a CSV manifest, and a zip with the photos that it names."""
    manifest, photos = io.StringIO(), io.BytesIO()
    writer = csv.DictWriter(manifest, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    with zipfile.ZipFile(photos, "w") as archive:
        for row in rows:
            for name in filter(None, row["image"].split("|")):
                archive.write(SAMPLES / name, name)
    return {"manifest": ("manifest.csv", manifest.getvalue().encode()), "photos": ("photos.zip", photos.getvalue())}


def index(client: httpx.Client) -> None:
    """Indexes the sample catalog with one call, and follows its answer line by line."""
    rows = read("catalog.csv")
    files = pack(rows, ["id", "title", "image", "category", "source"])
    with client.stream("POST", "/catalog/batch", files=files) as response:
        lines = (json.loads(line) for line in response.iter_lines())
        for line in track(lines, "Indexing the sample catalog", total=len(rows), console=console):
            if "error" in line:
                sys.exit(f"{line['id']}: {line['error']['detail']}")


def match(client: httpx.Client, query: Row) -> dict[str, Any]:
    """Asks for one query."""
    data = {"title": query["title"]} if query["title"] else {}
    files = {"image": (SAMPLES / query["image"]).read_bytes()} if query["image"] else None
    answer = client.post("/match", data=data, files=files or {"limit": (None, "20")})
    answer.raise_for_status()
    result: dict[str, Any] = answer.json()
    return result


def match_batch(client: httpx.Client, queries: list[Row]) -> list[dict[str, Any]]:
    """Asks for many queries with one call."""
    with client.stream("POST", "/match/batch", files=pack(queries, ["query", "title", "image"])) as response:
        return [json.loads(line) for line in response.iter_lines()]


def show(queries: list[Row], answers: list[dict[str, Any]]) -> int:
    """Prints queries beside their matches; returns how many expected products were found."""
    table = Table(header_style="bold")
    for column in ("photo", "title asked", "", "best matches"):
        table.add_column(column, overflow="fold")
    for column in ("score", "image", "title"):
        table.add_column(column, justify="right", no_wrap=True)
    found = 0
    for query, answer in zip(queries, answers, strict=True):
        if "error" in answer:
            sys.exit(f"{query['query']}: {answer['error']['detail']}")
        matches = answer["matches"]
        ids = [one["id"] for one in matches]
        right = query["expected"] in ids if query["expected"] else not ids
        found += bool(query["expected"]) and right
        mark = "[green]ok[/]" if right else "[red]missed[/]" if query["expected"] else "[yellow]too many[/]"
        asked = [Path(query["image"]).name or "(none)", escape(query["title"] or "(none)"), mark]
        for one in matches[:SHOWN]:
            scores = [number(one[field]) for field in ("score", "image_score", "title_score")]
            table.add_row(*asked, escape(f"{one['title']} ({one['id']})"), *scores)
            asked = ["", "", ""]
        if not matches or answer["total"] > SHOWN:
            table.add_row(*asked, f"[italic]and {answer['total'] - SHOWN} more[/]" if matches else "[italic]no match[/]")
    console.print(table)
    return found


def number(score: float | None) -> str:
    """Returns a score for people."""
    return "-" if score is None else f"{score:.3f}"


def stay(client: httpx.Client) -> None:
    """Leaves the service running until Ctrl-C, and says what to try."""
    url = str(client.base_url).rstrip("/")
    console.print(
        f"""
[bold]The service keeps running.[/] In another terminal, from this folder:

  curl -F image=@samples/queries/q01.jpg -F title="apple juice" {url}/match
  curl -F id=mine-1 -F title="My own product" -F image=@PHOTO.jpg {url}/catalog
  curl {url}/catalog/mine-1/matches

Every call, to try in a browser: {url}/docs
The catalog of this demo is thrown away at the end; [bold]make serve[/] keeps one in ./data. Stop with Ctrl-C.""",
        highlight=False,
        soft_wrap=True,
    )
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("\nStopped.")


if __name__ == "__main__":
    sys.exit(main())
