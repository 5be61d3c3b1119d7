"""The audit of versions: what is known is found, what is accepted ends, and a source without advisories is none."""

from __future__ import annotations

import json
import runpy
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.server import ROOT

AUDIT = runpy.run_path(str(ROOT / "deploy" / "audit.py"))
BAD = AUDIT["KNOWN_BAD"].partition("==")[0]


class Source(ThreadingHTTPServer):
    """A source of advisories that knows those of some packages. Speaks as much of OSV's protocol as is asked."""

    def __init__(self, *bad: str, status: int = 200) -> None:
        self.bad, self.status = bad, status
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Source)
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["package"]["name"]
        found = [vulnerability(asked)] if asked in self.server.bad else []
        body = json.dumps({"vulns": found} if found else {}).encode()
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - likewise
        pass


def vulnerability(name: str) -> dict[str, Any]:
    events = [{"introduced": "0"}, {"fixed": "99"}]
    package = {"name": name, "ecosystem": "PyPI"}
    affected = [{"package": package, "ranges": [{"type": "ECOSYSTEM", "events": events}]}]
    return {"id": f"TEST-{name}", "aliases": ["CVE-1"], "summary": "bad", "affected": affected, "schema_version": "1.6.0",
            "modified": "2026-01-01T00:00:00Z", "published": "2026-01-01T00:00:00Z"}  # fmt: skip


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    file = tmp_path / "constraints.txt"
    file.write_text("good==1.0\nworse==2.0\n", "utf-8")
    return file


@pytest.fixture
def ignored(tmp_path: Path) -> Path:
    file = tmp_path / "ignored.toml"
    file.write_text("", "utf-8")
    return file


def audit(source: Source, *arguments: object) -> int:
    """The exit code."""
    with source:
        thread = threading.Thread(target=source.serve_forever)
        thread.start()
        try:
            code: int = AUDIT["main"](["--osv-url", source.url, *map(str, arguments)])
        finally:
            source.shutdown()
            thread.join()
        return code


def test_what_is_known_is_found_and_named(versions: Path, ignored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(Source(BAD, "worse"), "--file", versions, "--ignored", ignored) == 1
    assert "worse 2.0: CVE-1, fixed in 99" in capsys.readouterr().out


def test_nothing_known_is_well(versions: Path, ignored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(Source(BAD), "--file", versions, "--ignored", ignored) == 0
    assert "2 versions, nothing known against them" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["TEST-worse", "CVE-1"])
@pytest.mark.parametrize(("day", "code"), [(date(2027, 1, 31), 0), (date(2027, 2, 1), 1)])
def test_what_is_accepted_is_accepted_until_its_day(
    ignored: Path, name: str, day: date, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    ignored.write_text(f'[[ignored]]\nid = "{name}"\nuntil = 2027-01-31\nreason = "not reached"\n', "utf-8")
    found = {"id": "CVE-1", "aliases": ["TEST-worse"], "fix_versions": []}
    packages = [{"name": "worse", "version": "2.0", "vulns": [found]}]
    assert AUDIT["report"](packages, AUDIT["read_ignored"](ignored), day) == code
    assert ("not reached" in capsys.readouterr().out) == (code == 0)


def test_a_version_that_the_source_does_not_know_fails() -> None:
    packages = [{"name": "ours", "version": "1.0", "skip_reason": "Dependency not found"}]
    assert AUDIT["report"](packages, [], date(2027, 1, 1)) == 1


@pytest.mark.parametrize("status", [200, 404])
def test_a_source_without_advisories_is_none(versions: Path, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(Source(status=status), "--required", "--file", versions) == 2
    assert "audit SKIPPED" in capsys.readouterr().out


def test_nobody_there_is_said(versions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert AUDIT["main"](["--osv-url", "http://127.0.0.1:9/", "--file", str(versions)]) == 0
    assert "audit SKIPPED" in capsys.readouterr().out


def exact_versions() -> Iterator[str]:
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            yield line


def test_every_version_is_exact_and_the_gate_audits_them() -> None:
    assert all("==" in line for line in exact_versions())
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "test: lint types audit unit" in makefile
    assert "deploy/audit.py" in makefile
    assert AUDIT["read_ignored"](AUDIT["IGNORED"]) == []
