"""Metrics: where time goes, what waits, what is refused, and what is left of the machine; few labels, all documented."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from app.api.app import create_app
from app.catalog.base import CatalogInfo
from app.gauges import MAX_CATALOGS, OTHERS, show_catalogs, show_resources, show_start
from app.matcher import Matcher
from app.settings import Settings
from app.telemetry import Metrics
from tests.api.calls import RED, ask, csv_file, put, zip_file
from tests.api.conftest import GATED, BrokenEncoder, GatedEncoder, Serve, Start, make_app
from tests.fakes import POISON

ROOT = Path(__file__).parent.parent.parent


def value(client: TestClient, name: str, **labels: str) -> float:
    """The sample's value now; 0 if there is none."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    return next((one.value for one in samples if (one.name, one.labels) == (name, labels)), 0.0)


def exposed_names(metrics: Metrics) -> set[str]:
    """Every metric under the name that queries use."""
    return {f"{one.name}_total" if one.type == "counter" else one.name for one in metrics.registry.collect()}


def test_every_metric_is_documented() -> None:
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    table = text[text.index("## Metrics") :].split("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z_]+)`", table, re.MULTILINE)) == exposed_names(Metrics())


def test_names_and_units_are_as_prometheus_wants_them() -> None:
    for family in Metrics().registry.collect():
        assert re.fullmatch(r"(samesku|process)_[a-z_]+", family.name)
        assert not re.search(r"_(ms|kb|mb|minutes)$", family.name)
        assert family.documentation.endswith((".", "data.")), family.name


@pytest.mark.parametrize("stage", ["decode", "encode", "search"])
def test_a_match_is_seen_in_every_stage(client: TestClient, stage: str) -> None:
    put(client, "p", "aaa", RED)
    before = value(client, "samesku_stage_seconds_count", stage=stage)
    ask(client, "aaa", RED)
    assert value(client, "samesku_stage_seconds_count", stage=stage) == before + 1
    assert value(client, "samesku_queue_seconds_count", stage=stage) >= 1
    assert value(client, "samesku_stage_threads_busy", stage=stage) == 0
    assert value(client, "samesku_queue_depth", stage=stage) == 0


def test_judging_and_storing_are_stages_of_their_own(client: TestClient) -> None:
    put(client, "p", "aaa", RED)
    assert value(client, "samesku_stage_seconds_count", stage="store") == 1
    ask(client, "aaa", RED)
    assert value(client, "samesku_stage_seconds_count", stage="judge") == 1
    client.post("/compare", data={"left_title": "aaa", "right_title": "aab"})
    assert value(client, "samesku_stage_seconds_count", stage="judge") == 2
    client.post("/match", data={"verify": "true"}, files={"image": ("p.png", RED)})
    assert value(client, "samesku_stage_seconds_count", stage="verify") == 1


def test_what_is_under_way_and_what_waits_is_seen(serve: Serve) -> None:
    encoder = GatedEncoder()
    client = serve(encoder)
    with ThreadPoolExecutor(3) as callers:
        try:
            first = callers.submit(client.post, "/match", data={"title": GATED})
            assert encoder.reached.wait(60)
            rest = [callers.submit(client.post, "/match", data={"title": "aaa"}) for _ in range(2)]
            while 'samesku_queue_depth{stage="encode"} 2.0' not in client.get("/metrics").text:
                pass
            assert "samesku_requests_in_flight 4.0" in client.get("/metrics").text  # and this one
        finally:
            encoder.gate.set()
        assert {one.result().status_code for one in (first, *rest)} == {200}
    assert "samesku_requests_in_flight 1.0" in client.get("/metrics").text


def test_items_of_batches_count_with_their_refusals(client: TestClient) -> None:
    client.post("/match/batch", json={"items": [{"title": "aaa"}, {"title": ""}, {"title": POISON}]})
    assert value(client, "samesku_batch_items_total", route="/match/batch") == 3
    assert value(client, "samesku_rejected_total", code="invalid_title") == 1
    assert value(client, "samesku_rejected_total", code="encoding_failed") == 1
    client.post("/catalog/batch", json={"items": [{"id": "p", "title": "aaa"}, {"id": "q", "title": ""}]})
    assert value(client, "samesku_batch_items_total", route="/catalog/batch") == 2
    assert value(client, "samesku_rejected_total", code="invalid_title") == 2


def test_what_is_refused_at_the_door_is_counted(start: Start) -> None:
    client = start(max_header_bytes=1024, max_request_bytes=2048, rate_limit_per_s=0.001, rate_limit_burst=6)
    client.get("/catalog", headers={"X-Long": "x" * 2000})
    client.post("/feedback", content=b"x" * 3000)
    assert value(client, "samesku_rejected_total", code="headers_too_large") == 1
    assert value(client, "samesku_rejected_total", code="payload_too_large") == 1
    assert client.get("/catalog").status_code == 200
    assert value(client, "samesku_rejected_total", code="rate_limited") == 0
    assert client.get("/catalog").status_code == 200
    assert client.get("/catalog").status_code == 429
    registry = client.app.state.metrics.registry  # type: ignore[attr-defined]
    assert registry.get_sample_value("samesku_rejected_total", {"code": "rate_limited"}) == 1


def test_the_state_of_the_service_is_seen(client: TestClient) -> None:
    assert value(client, "samesku_ready") == 0  # nobody has asked yet
    client.get("/readyz")
    assert value(client, "samesku_ready") == 1
    assert value(client, "samesku_start_seconds") > 0
    assert value(client, "samesku_threads") > 3
    assert value(client, "process_resident_memory_bytes") > 1e6
    assert value(client, "process_open_fds") > 3
    assert value(client, "samesku_queue_limit") == 64
    assert value(client, "samesku_decode_threads") == 4
    assert value(client, "samesku_catalogs", opened="new") == 1


def test_a_probe_that_fails_is_seen(start: Start) -> None:
    encoder = BrokenEncoder()
    client = start(encoder, ready_cache_s=0)
    for failure, ready in ((None, 1), (ValueError(), 0), (None, 1)):
        encoder.failure = failure
        client.get("/readyz")
        assert value(client, "samesku_ready") == ready


def test_a_start_tells_where_each_index_came_from(tmp_path: Path) -> None:
    for opened in ("new", "snapshot"):
        with TestClient(make_app(tmp_path, None)) as client:
            assert value(client, "samesku_catalogs", opened=opened) == 1
            put(client, "p", "aaa")
            assert value(client, "samesku_database_bytes") > 0
            assert value(client, "samesku_data_size_bytes") >= value(client, "samesku_data_free_bytes") > 0
    for file in (tmp_path / "snapshots").rglob("*.npy"):
        file.write_bytes(b"")
    with TestClient(make_app(tmp_path, None)) as client:
        assert value(client, "samesku_catalogs", opened="database") == 1


def test_catalogs_have_a_bounded_number_of_labels() -> None:
    metrics = Metrics()
    infos = [CatalogInfo(f"shop-{n}", n) for n in range(MAX_CATALOGS + 50)]
    show_catalogs(metrics, infos)
    (family,) = metrics.products.collect()
    assert len(family.samples) == MAX_CATALOGS + 1
    assert sum(sample.value for sample in family.samples) == sum(info.products for info in infos)
    assert {sample.labels["catalog"] for sample in family.samples} >= {OTHERS, "shop-149"}
    show_catalogs(metrics, infos[:1])
    (family,) = metrics.products.collect()
    assert [sample.labels for sample in family.samples] == [{"catalog": "shop-0"}]


def test_memory_of_a_gpu_is_shown_where_there_is_one(matcher: Matcher, tmp_path: Path) -> None:
    matcher.gpu_memory = lambda: {"total": 80_000, "free": 60_000, "reserved": 15_000}
    with TestClient(create_app(matcher, Settings(data_dir=tmp_path))) as client:
        assert value(client, "samesku_gpu_memory_bytes", kind="reserved") == 15_000
    metrics = Metrics()
    show_resources(metrics, tmp_path / "missing", dict)
    assert metrics.registry.get_sample_value("samesku_gpu_memory_bytes", {"kind": "total"}) is None


def test_the_start_is_counted_from_the_process() -> None:
    metrics = Metrics()
    began = metrics.registry.get_sample_value("process_start_time_seconds")
    assert began is not None
    show_start(metrics, began + 7.5)
    assert metrics.registry.get_sample_value("samesku_start_seconds") == 7.5


def test_photos_in_a_zip_are_decoded_by_the_bulk_and_counted(client: TestClient) -> None:
    files = {"manifest": csv_file("id,image", "p,a.png"), "photos": zip_file({"a.png": RED})}
    client.post("/catalog/batch", files=files)
    assert value(client, "samesku_stage_seconds_count", stage="decode") == 1
