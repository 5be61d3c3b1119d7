"""What people read: the table in the terminal, the section of docs/performance.md, docs/performance.json."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.gallery import Agreement
from tests.benchmarks.stats import REFERENCE, SAMESKU, Measurement, counted, median_stages, ratios, summarise

MARKDOWN, RAW = "performance.md", "performance.json"
BENCH, FULL = "bench", "full"  # the section of the race, and the place of all other benchmarks' figures


def markers(name: str) -> tuple[str, str]:
    """Returns the lines between which a section stands."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


BEGIN, END = markers(BENCH)

INTRODUCTION = f"""# Performance

How fast is samesku, and faster than what? `make bench` answers both questions on your machine.

**What is measured.** `POST /match` with a photo and a title (a few of the samples have only one of them), from the first
byte sent to the last byte received: how long it takes when one client asks, and how many a second are answered when many
ask at once.

**Against what.** [The plain service](../tests/benchmarks/reference_service.py) that a reader of the article would write
in an afternoon: FastAPI, one request at a time, PyTorch as it comes, a flat FAISS index, everything in memory. Both
services load the same bundle, hold the same products, and are first asked the same queries: only if they give the same
answers is the race fair. Note that samesku keeps its catalog on disk and checks its input, the plain service does neither.

**How.** The services take turns, several rounds each; the one whose turn it is not is stopped (`SIGSTOP`). The load
generator is a process of its own that sends the sample photos and titles, no request twice, so that no cache can answer.
Any answer but 200 fails the benchmark. Compared are two runs that followed each other; the median of these ratios counts,
with the lowest and the highest beside it. The raw figures are in [performance.json](performance.json).

{BEGIN}
{END}
"""


@dataclass(frozen=True, slots=True)
class Race:
    """Everything that one run of the benchmark found.

    Attributes:
        setup: how it was run: bundle, products, photos, rounds, requests, settings.
        machine: where.
        agreement: of the answers.
        measurements: all of them, in the order they were made.
    """

    setup: dict[str, Any]
    machine: dict[str, str]
    agreement: Agreement
    measurements: Sequence[Measurement]

    @property
    def loads(self) -> list[int]:
        """Numbers of clients, smallest first."""
        return sorted({m.clients for m in self.measurements})


Rows = list[list[str]]


def ratio_rows(race: Race) -> Rows:
    """Returns one row per comparison: what, times better, lowest, highest."""
    return [
        [one.what, f"{one.median:.2f} x", f"{one.low:.2f} x", f"{one.high:.2f} x"]
        for one in ratios(race.measurements, race.loads)
    ]


def absolute_rows(race: Race) -> Rows:
    """Returns one row per load and service: clients, service, p50, p95, p99, throughput, CPU time per request."""
    rows = []
    for clients in race.loads:
        for service in (SAMESKU, REFERENCE):
            one = summarise(race.measurements, service, clients)
            times = [f"{value:,.0f}" for value in (one.p50, one.p95, one.p99)]
            name = "samesku" if service == SAMESKU else "plain service"
            rows.append([counted(clients), name, *times, f"{one.throughput:.1f}", f"{one.cpu_ms:.0f}"])
    return rows


def stage_rows(race: Race) -> Rows:
    """Returns one row per load: clients, queue, encode, search, the rest, all of it in ms, and the batch size."""
    rows = []
    for clients in race.loads:
        stages = median_stages(race.measurements, clients)
        if not stages:
            continue
        queue, encode, took = (stages.get(name, 0.0) for name in ("queue_ms", "encode_ms", "took_ms"))
        search = stages.get("search_ms", 0.0) + stages.get("judge_ms", 0.0)
        rest = max(0.0, took - queue - encode - search)
        times = [f"{value:,.1f}" for value in (queue, encode, search, rest, took)]
        rows.append([counted(clients), *times, f"{stages.get('batch_size', 1):.0f}"])
    return rows


RATIO_HEAD = ["samesku is better by", "median", "lowest", "highest"]
ABSOLUTE_HEAD = ["load", "service", "p50 ms", "p95 ms", "p99 ms", "answers/s", "CPU ms"]
STAGE_HEAD = ["load", "waiting", "towers", "search", "rest", "whole", "batch size"]


def show(race: Race, console: Console) -> None:
    """Prints the tables."""
    titled = (
        ("The race", RATIO_HEAD, ratio_rows(race)),
        ("Medians over the rounds", ABSOLUTE_HEAD, absolute_rows(race)),
        ("Where samesku's time goes, median ms from its log", STAGE_HEAD, stage_rows(race)),
    )
    for title, head, rows in titled:
        table = Table(title=title, title_justify="left", title_style="bold")
        for number, column in enumerate(head):
            table.add_column(column, justify="left" if number == 0 or column == "service" else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(agreement_text(race.agreement))


def agreement_text(agreement: Agreement) -> str:
    """Returns one or two sentences."""
    n = agreement.queries
    text = (
        f"Both services name the same best candidate for {agreement.same_best} of {n} sample queries and give the same "
        f"matches for {agreement.same_matches} of {n}; their scores differ by at most {agreement.score_difference:.1e}."
    )
    return text + (f" They differ for {', '.join(agreement.differing)}." if agreement.differing else "")


def section(race: Race) -> str:
    """Returns the generated Markdown that goes between the markers."""
    machine, setup = race.machine, race.setup
    others = [f"{name} {found}" for name, found in machine.items() if name not in ("date", "processor", "cores", "memory")]
    load = max((m.load_average for m in race.measurements), default=0.0)
    where = (
        f"Measured on {machine['date']}: {machine['processor']}, {machine['cores']} cores, {machine['memory']}; "
        f"{', '.join(others)}; device {setup['device']}."
    )
    how = (
        f"Bundle `{setup['bundle']}`, {setup['products']:,} products ({setup['filler']:,} of them "
        f"made-up vectors, more or less like those of the samples), "
        f"{setup['rounds']} round{'' if setup['rounds'] == 1 else 's'}; per round {setup['requests_text']}."
    )
    if setup.get("settings"):
        how += " Settings other than the defaults: " + ", ".join(f"`{one}`" for one in setup["settings"]) + "."
    note = (
        "Times are medians over the rounds, per request and as the client sees them. *CPU ms* is the processor time of the "
        "service per request, over all cores: what other programs on the machine take away shows in the latencies, hardly "
        f"there. The highest load average at the start of a run was {load:.1f}."
    )
    stages = (
        "*Waiting* is for a thread to decode, the towers and the index; *towers* and *search* are those of the whole batch "
        "that the request was part of; *rest* is reading the form, decoding the photo and writing the answer."
    )
    intro = "Where samesku's time goes, from its own log (median ms per request):"
    tables = [table_text(RATIO_HEAD, ratio_rows(race)), table_text(ABSOLUTE_HEAD, absolute_rows(race))]
    parts = [where, how, agreement_text(race.agreement), *tables, note]
    if stage_rows(race):
        parts += [intro, table_text(STAGE_HEAD, stage_rows(race)), stages]
    return "\n\n".join(parts)


def table_text(head: Sequence[str], rows: Rows) -> str:
    """Returns a Markdown table; columns of numbers are set to the right."""
    marks = ["---" if number == 0 or name == "service" else "---:" for number, name in enumerate(head)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(head), marks, *rows])


def replace_between_markers(text: str, content: str, name: str = BENCH) -> str:
    """Returns the text with the part between the markers of a section replaced; without markers, they go to its end.

    Raises:
        ValueError: only one of the markers is there, one is there twice, or they are in the wrong order.
    """
    begin, end = markers(name)
    if begin not in text and end not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n".lstrip()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the page must hold {begin} once and {end} once behind it")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{content.strip()}\n{end}{rest.partition(end)[2]}"


def figures(race: Race) -> dict[str, Any]:
    """Returns all figures, ready for JSON."""
    compared = [asdict(one) | {"median": one.median} for one in ratios(race.measurements, race.loads)]
    summaries = [asdict(summarise(race.measurements, s, n)) for n in race.loads for s in (SAMESKU, REFERENCE)]
    return {
        "machine": race.machine,
        "setup": race.setup,
        "agreement": asdict(race.agreement),
        "ratios": compared,
        "summaries": summaries,
        "measurements": [asdict(m) for m in race.measurements],
    }


def json_text(everything: dict[str, Any]) -> str:
    """Returns figures as JSON, lists of numbers on one line."""
    text = json.dumps(everything, indent=2, ensure_ascii=False)
    return re.sub(r"\[[-\d\s.,e]+\]", lambda numbers: " ".join(numbers.group().split()), text) + "\n"


def write(race: Race, folder: Path) -> list[Path]:
    """Writes both files into a folder; of an existing page only the part between the markers changes.

    Figures of other benchmarks stay in the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page, raw = folder / MARKDOWN, folder / RAW
    text = page.read_text("utf-8") if page.exists() else INTRODUCTION
    page.write_text(replace_between_markers(text, section(race)), "utf-8")
    others = {FULL: known[FULL]} if raw.exists() and FULL in (known := json.loads(raw.read_text("utf-8"))) else {}
    raw.write_text(json_text(figures(race) | others), "utf-8")
    return [page, raw]
