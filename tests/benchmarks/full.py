"""`make bench-full`: every benchmark, one after the other; an hour or more on a small machine.

    python -m tests.benchmarks.full [--gallery 100000] [--sizes 0,10000,100000,1000000] [--only growth] [--out docs]

Each runs in processes of its own. What it prints goes between markers named after it in `performance.md`, its figures under
that name in `performance.json`, as soon as it has ended: one that fails costs nobody else theirs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tests.benchmarks import report
from tests.benchmarks.machine import describe_machine

ROOT = Path(__file__).parent.parent.parent
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Part:
    """A benchmark: its module and options, the variables it wants, and whether it writes its figures with `--json`."""

    module: str
    options: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    figures: bool = False

    @property
    def name(self) -> str:
        """Of its section."""
        return self.module.rpartition(".")[2]


def parts(gallery: int, sizes: str, out: Path) -> list[Part]:
    """Returns what runs after the race with the plain service, in order."""
    alone = tuple(ONE_THREAD.items())
    rows = [option for size in sizes.split(",") if int(size) for option in ("--rows", size)]
    return [
        Part("tests.benchmarks.search", tuple(rows), alone, figures=True),
        Part("tests.benchmarks.growth", ("--sizes", sizes, "--plot", str(out / "growth.svg")), figures=True),
        Part("tests.benchmarks.fairness", ("--gallery", str(min(gallery, 10_000))), figures=True),
        Part("tests.benchmarks.ingest"),
        Part("tests.benchmarks.engines", (), alone),
        Part("tests.benchmarks.judging", (), alone),
    ]


def main(
    gallery: Annotated[int, typer.Option(help="Products of the race with the plain service.")] = 100_000,
    sizes: Annotated[str, typer.Option(help="Of growth and search, rising, with commas.")] = "0,10000,100000,1000000",
    only: Annotated[list[str] | None, typer.Option(help="Names of benchmarks; default: all.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = ROOT / "docs",
) -> None:
    """Runs the benchmarks; the exit code says whether all of them ended well."""
    failed = []
    if only is None or "bench" in only:
        command = [sys.executable, "-m", "tests.benchmarks", "--gallery", str(gallery), "--out", str(out)]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append("bench")
    for part in parts(gallery, sizes, out):
        if only is None or part.name in only:
            sys.stderr.write(f"{part.name} ...\n")
            if not run(part, out):
                failed.append(part.name)
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
        raise typer.Exit(1)


def run(part: Part, out: Path) -> bool:
    """Runs a benchmark and writes its section; returns whether it ended well."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "figures.json"
        command = [sys.executable, "-m", part.module, *part.options, *(["--json", str(file)] if part.figures else [])]
        environment = os.environ | dict(part.environment)
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            return False
        figures = {"machine": describe_machine(), "text": done.stdout.splitlines()}
        if part.figures:
            figures = json.loads(file.read_text("utf-8"))
    write(part.name, done.stdout, figures, out)
    return True


def write(name: str, text: str, figures: dict[str, Any], folder: Path) -> None:
    """Writes one section of the page, and its figures into the file beside it; the rest of both stays."""
    folder.mkdir(parents=True, exist_ok=True)
    page, raw = folder / report.MARKDOWN, folder / report.RAW
    machine = describe_machine()
    where = f"Measured on {machine.pop('date')}: " + ", ".join(f"{what} {value}" for what, value in machine.items()) + "."
    before = page.read_text("utf-8") if page.exists() else report.INTRODUCTION
    page.write_text(report.replace_between_markers(before, f"{where}\n\n{text.strip()}", name), "utf-8")
    known: dict[str, Any] = json.loads(raw.read_text("utf-8")) if raw.exists() else {}
    known.setdefault(report.FULL, {})[name] = figures
    raw.write_text(report.json_text(known), "utf-8")


if __name__ == "__main__":
    typer.run(main)
