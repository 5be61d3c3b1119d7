"""Dashboard, alerts and scrape configuration: queries that can be read, of metrics that exist; alerts that are explained."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import promql_parser
import pytest
import yaml

from app.core.access import Role
from app.telemetry import Metrics

ROOT = Path(__file__).parent.parent
MONITORING = ROOT / "deploy" / "monitoring"
RULES: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "grafana" / "dashboards" / "samesku.json").read_text("utf-8"))
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
OF_PROMETHEUS = {"up"}
PROMTOOL = shutil.which("promtool")


def samples() -> dict[str, set[str]]:
    """What can be queried: the names of series, with their labels."""
    found: dict[str, set[str]] = {}
    metrics = Metrics()
    for family in vars(metrics).values():
        if not hasattr(family, "_labelnames"):
            continue
        ends = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}[family._type]
        for end in ends:
            found[family._name + end] = {*family._labelnames, *({"le"} if end == "_bucket" else ())}
    for family in metrics.registry.collect():
        if family.name.startswith("process_"):
            found[f"{family.name}_total" if family.type == "counter" else family.name] = set()
    return found


def selectors(node: Any) -> Iterator[Any]:
    """Every selector of a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector"):
        if (child := getattr(node, name, None)) is not None:
            yield from selectors(child)
    for child in getattr(node, "args", None) or ():
        yield from selectors(child)


def check(query: str) -> None:
    """Fails unless the query can be parsed and asks for series and labels that exist."""
    known = samples()
    asked = list(selectors(promql_parser.parse(query)))
    assert asked, query
    for one in asked:
        assert one.name in known.keys() | OF_PROMETHEUS, one.name
        labels = {matcher.name for matcher in one.matchers.matchers}
        assert labels <= known.get(one.name, set()) | {"job", "instance"}, query


def grouped(query: str) -> set[str]:
    """Labels that a query groups by."""
    return {name.strip() for part in re.findall(r"by \(([^)]*)\)", query) for name in part.split(",")}


def dashboard_queries() -> list[str]:
    """Every query, with Grafana's variables filled in."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    filled = {"$__rate_interval": "1m", "$job": "samesku", "$instance": ".*"}
    for name, value in filled.items():
        found = [query.replace(name, value) for query in found]
    return found


@pytest.mark.parametrize("query", dashboard_queries())
def test_the_dashboard_asks_for_what_there_is(query: str) -> None:
    check(query)
    assert "$" not in query
    assert grouped(query) <= {label for labels in samples().values() for label in labels} | {"job"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_ask_for_what_there_is_and_are_explained(rule: dict[str, Any]) -> None:
    check(rule["expr"])
    assert grouped(rule["expr"]) <= {label for labels in samples().values() for label in labels} | {"job", "instance"}
    assert rule["labels"]["severity"] in ("page", "ticket", "info")
    assert rule["annotations"]["summary"]
    assert f"| `{rule['alert']}` |" in OPERATIONS


def test_no_alert_is_explained_that_there_is_not() -> None:
    assert set(re.findall(r"^\| `(Samesku\w+)` \|", OPERATIONS, re.MULTILINE)) == {rule["alert"] for rule in RULES}


def test_queries_that_are_none_are_noticed() -> None:
    with pytest.raises(ValueError, match="unclosed"):
        check("sum by (route) (rate(samesku_requests_total[5m])")
    with pytest.raises(AssertionError):
        check("rate(samesku_request_total[5m])")
    with pytest.raises(AssertionError):
        check('samesku_products{tenant="a"}')


def test_the_dashboard_is_what_its_program_writes() -> None:
    program = runpy.run_path(str(MONITORING / "dashboard.py"))
    assert program["dashboard"]() == DASHBOARD


def test_every_metric_is_on_the_dashboard_or_in_an_alert() -> None:
    text = " ".join([*dashboard_queries(), *(rule["expr"] for rule in RULES)])
    left_out = {"process_virtual_memory_bytes", "samesku_model_info"}  # the second chooses what is shown
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in samples()}
    assert {name for name in families if name not in text} == left_out & families


def test_panels_do_not_lie_upon_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_scraper_sends_a_key_for_metrics_alone() -> None:
    (scraped,) = yaml.safe_load((MONITORING / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    assert scraped["job_name"] == "samesku"  # as alerts and dashboard say
    assert scraped["metrics_path"] == "/metrics"
    assert scraped["authorization"] == {"type": "Bearer", "credentials_file": "metrics.key"}
    assert f"--role {Role.METRICS.value}" in (MONITORING / "prometheus.yml").read_text("utf-8")
    assert "metrics.key" in (ROOT / ".gitignore").read_text("utf-8")


def test_compose_mounts_what_there_is_and_tells_nobody_outside() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    for name in ("prometheus", "grafana"):
        assert services[name]["profiles"] == ["monitoring"]
        assert all(port.startswith("127.0.0.1:") for port in services[name]["ports"])
        for mount in services[name]["volumes"]:
            if mount.startswith("./"):
                assert (ROOT / mount.split(":")[0]).exists(), mount
    assert "api:8000" in (MONITORING / "prometheus.yml").read_text("utf-8")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: promql-parser alone has read the queries")
def test_promtool_takes_rules_and_their_tests() -> None:
    assert PROMTOOL is not None
    for what in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run([PROMTOOL, *what], cwd=MONITORING, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


class Prometheus(BaseHTTPRequestHandler):
    """Answers every query with one line."""

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        check(query["query"][0])
        start, end = float(query["start"][0]), float(query["end"][0])
        line = {"metric": {"instance": "a:1"}, "values": [[start, "1"], [end, "2"]]}
        body = json.dumps({"data": {"result": [line]}}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - likewise
        pass


def test_the_dashboard_can_be_drawn_without_grafana(tmp_path: Path) -> None:
    drawing = runpy.run_path(str(MONITORING / "draw.py"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Prometheus) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            drawing["main"]([f"http://127.0.0.1:{server.server_port}", "--out", str(tmp_path / "drawn.svg")])
        finally:
            server.shutdown()
            thread.join()
    text = (tmp_path / "drawn.svg").read_text("utf-8")
    assert all(f"<!-- {panel['title']}" in text for panel in DASHBOARD["panels"] if panel["type"] != "row")
