"""The parts of the benchmark that need no server and no clock."""

from __future__ import annotations

import csv
import http.client
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from app.encoders.preprocess import InputLimits, open_image
from tests.benchmarks import full, load, report
from tests.benchmarks.gallery import Agreement
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.processes import read_stages, warmup_for
from tests.benchmarks.stats import (
    REFERENCE,
    SAMESKU,
    Measurement,
    counted,
    latency_ratio,
    median_stages,
    percentile,
    ratios,
    summarise,
    throughput_ratio,
)

STAGES = {"queue_ms": 1.0, "encode_ms": 6.0, "search_ms": 2.0, "took_ms": 10.0, "batch_size": 3.0}


def measured(service: str, number: int, clients: int, latency_ms: float) -> Measurement:
    stages = STAGES if service == SAMESKU else {}
    return Measurement(service, number, clients, latency_ms / 10, [latency_ms] * 100, 0, latency_ms / 20, 0.01, 0.5, stages)


@pytest.fixture
def race() -> report.Race:
    latencies = [(SAMESKU, 1, 10.0), (REFERENCE, 1, 40.0), (SAMESKU, 2, 20.0), (REFERENCE, 2, 40.0)]
    latencies += [(SAMESKU, 3, 10.0), (REFERENCE, 3, 30.0)]
    runs = [measured(service, number, clients, ms) for clients in (1, 16) for service, number, ms in latencies]
    setup = {
        "bundle": "b@1", "products": 100, "filler": 12, "rounds": 3, "requests_text": "some", "device": "cpu",
        "settings": ["max_batch_size=4"],
    }  # fmt: skip
    return report.Race(setup, describe_machine(), Agreement(27, 27, 26, 1e-7, ("q01",)), runs)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 100))
def test_percentile_is_that_of_numpy(values: list[float], share: float) -> None:
    assert percentile(values, share) == pytest.approx(float(np.percentile(values, share)), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("values", "share"), [([], 50), ([1.0], -1), ([1.0], 101)])
def test_percentile_refuses_what_has_none(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, share)


def test_ratios_compare_within_a_round_and_above_one_means_samesku_is_better(race: report.Race) -> None:
    latency = latency_ratio(race.measurements, 1)
    assert latency.rounds == (4.0, 2.0, 3.0)
    assert (latency.median, latency.low, latency.high) == (3.0, 2.0, 4.0)
    assert throughput_ratio(race.measurements, 16).rounds == pytest.approx((4.0, 2.0, 3.0))
    assert [one.what for one in ratios(race.measurements, [1, 16])] == [
        "median latency, 1 client",
        "throughput, 16 clients",
        "CPU time per request, 1 client",
        "CPU time per request, 16 clients",
    ]


def test_a_round_without_its_pair_is_refused(race: report.Race) -> None:
    with pytest.raises(ValueError, match="both services"):
        latency_ratio(race.measurements[:1], 1)
    with pytest.raises(ValueError, match="both services"):
        latency_ratio([], 1)
    with pytest.raises(ValueError, match="no measurement"):
        summarise(race.measurements, SAMESKU, 7)


def test_summary_takes_the_median_of_the_rounds(race: report.Race) -> None:
    one = summarise(race.measurements, SAMESKU, 1)
    assert (one.p50, one.p95, one.p99) == (10.0, 10.0, 10.0)
    assert one.throughput == pytest.approx(100.0)
    assert one.cpu_ms == pytest.approx(5.0)
    assert median_stages(race.measurements, 16) == STAGES
    assert median_stages([replace(m, stages={}) for m in race.measurements], 16) == {}


def test_markers_keep_what_is_around_them() -> None:
    page = f"# Title\n\nbefore\n\n{report.BEGIN}\nold\n{report.END}\n\nafter\n"
    once = report.replace_between_markers(page, "new\n")
    assert once == f"# Title\n\nbefore\n\n{report.BEGIN}\nnew\n{report.END}\n\nafter\n"
    assert report.replace_between_markers(once, "new") == once
    assert report.replace_between_markers("text\n", "new") == f"text\n\n{report.BEGIN}\nnew\n{report.END}\n"


@pytest.mark.parametrize("page", [report.BEGIN, report.END + report.BEGIN, report.BEGIN * 2 + report.END])
def test_broken_markers_are_refused(page: str) -> None:
    with pytest.raises(ValueError, match="must hold"):
        report.replace_between_markers(page, "new")


def test_files_are_written_and_only_the_section_of_an_existing_page_changes(race: report.Race, tmp_path: Path) -> None:
    page, raw = report.write(race, tmp_path / "docs")
    first = page.read_text("utf-8")
    assert first.startswith("# Performance")
    assert "| median latency, 1 client | 3.00 x | 2.00 x | 4.00 x |" in first
    assert "| 16 clients | plain service | 40 | 40 | 40 | 25.0 | 20 |" in first
    assert "| 1 client | 1.0 | 6.0 | 2.0 | 1.0 | 10.0 | 3 |" in first
    assert "`max_batch_size=4`" in first
    assert "q01" in first
    page.write_text(first.replace("# Performance", "# Mine"), "utf-8")
    report.write(race, tmp_path / "docs")
    assert page.read_text("utf-8") == first.replace("# Performance", "# Mine")
    numbers = json.loads(raw.read_text("utf-8"))
    assert len(numbers["measurements"]) == 12
    assert numbers["ratios"][0]["median"] == 3.0
    assert str(tmp_path) not in raw.read_text("utf-8")


def test_every_table_row_has_as_many_cells_as_its_head(race: report.Race) -> None:
    assert {len(row) for row in report.ratio_rows(race)} == {len(report.RATIO_HEAD)}
    assert {len(row) for row in report.absolute_rows(race)} == {len(report.ABSOLUTE_HEAD)}
    assert {len(row) for row in report.stage_rows(race)} == {len(report.STAGE_HEAD)}
    printed = io.StringIO()
    report.show(race, Console(file=printed, width=100))
    assert "3.00 x" in printed.getvalue()


def test_sections_of_other_benchmarks_are_kept(race: report.Race, tmp_path: Path) -> None:
    report.write(race, tmp_path)
    full.write("growth", "| a | b |", {"rows": [1]}, tmp_path)
    full.write("growth", "| a | c |", {"rows": [2]}, tmp_path)
    page, raw = (tmp_path / name for name in (report.MARKDOWN, report.RAW))
    before = page.read_text("utf-8")
    assert before.count("| a | c |") == 1
    assert "| a | b |" not in before
    report.write(race, tmp_path)
    assert page.read_text("utf-8") == before
    figures = json.loads(raw.read_text("utf-8"))
    assert figures[report.FULL] == {"growth": {"rows": [2]}}
    assert figures["setup"] == race.setup


def test_every_benchmark_of_the_full_run_has_a_section_of_its_own() -> None:
    names = [part.name for part in full.parts(1000, "0,100", Path("out"))]
    assert len(set(names)) == len(names)
    assert report.BENCH not in names


def test_stages_are_read_from_the_last_requests_of_a_log() -> None:
    lines = [json.dumps({"path": "/match", "encode_ms": ms, "took_ms": ms + 1}) for ms in (500, 10, 20, 30)]
    lines += ["Traceback", "[1]", json.dumps({"path": "/catalog", "encode_ms": 9000}), json.dumps({"path": "/match"})]
    assert read_stages(lines, 4) == {"encode_ms": 20.0, "took_ms": 21.0}
    assert read_stages(["no JSON"], 3) == {}


def test_no_two_requests_are_alike_and_photos_still_decode() -> None:
    samples = load.read_requests()
    with (load.SAMPLES / "queries.csv").open(encoding="utf-8", newline="") as stream:
        assert len(samples) > len(list(csv.DictReader(stream)))
    made = list(load.bodies(samples, 2 * len(samples), first=5))
    assert len(set(made)) == len(made)
    photo = next(sample.photo for sample in samples if sample.photo)
    limits = InputLimits()
    longer = open_image(photo + (7).to_bytes(8, "big"), limits)
    assert isinstance(longer, Image.Image)
    assert np.array_equal(np.asarray(longer), np.asarray(open_image(photo, limits)))


class _Connection:
    """Stands in for a connection to a service that always answers alike."""

    status = 200

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self.where = host, port, timeout

    def request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
        assert (method, path) == ("POST", "/match")
        assert body.rstrip().endswith(headers["Content-Type"].partition("boundary=")[2].encode() + b"--")

    def getresponse(self) -> _Connection:
        return self

    def read(self) -> bytes:
        return b"{}"

    def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize("status", [200, 503])
def test_the_load_generator_counts_every_request(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http.client, "HTTPConnection", _Connection)
    monkeypatch.setattr(_Connection, "status", status)
    seen = load.measure("http://127.0.0.1:80", clients=3, requests=20, warmup=6, first=0)
    assert len(seen.latencies_ms) == (20 if status == 200 else 0)
    assert seen.errors == (0 if status == 200 else 26)
    assert seen.first_error == ("" if status == 200 else "status 503: {}")


def test_an_address_where_nobody_listens_is_all_errors() -> None:
    assert load.measure("http://127.0.0.1:1", clients=2, requests=3, warmup=0, first=0).errors == 3


def test_words() -> None:
    assert (counted(1), counted(16)) == ("1 client", "16 clients")
    assert (warmup_for(1, 80), warmup_for(16, 48)) == (16, 32)
