"""The command line, as far as it needs no model: help, refusals, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app import __version__
from app.__main__ import cli
from app.errors import AppError, InvalidInput, InvalidListings, ManifestInvalid, ManifestMissing
from tests.conftest import ROOT

COMMANDS = ("serve", "index", "match", "compare", "group", "train", "evaluate", "calibrate", "bundle", "keys", "version")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)


def refusal(*arguments: str) -> AppError:
    result = CliRunner().invoke(cli, arguments)
    assert isinstance(result.exception, AppError), result.output
    return result.exception


def test_help_names_every_command() -> None:
    output = CliRunner().invoke(cli, ["--help"]).output
    assert all(command in output for command in COMMANDS)


@pytest.mark.parametrize(
    "command",
    [
        *COMMANDS,
        "bundle create",
        "bundle ensemble",
        "bundle inspect",
        "bundle verify",
        "keys create",
        "keys list",
        "keys revoke",
    ],
)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(cli, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_version_prints_the_version() -> None:
    assert CliRunner().invoke(cli, ["version"]).output.strip() == __version__


@pytest.mark.parametrize("arguments", [["index"], ["index", "file.csv", "--reembed"], ["match"], ["nonsense"]])
def test_a_wrong_call_is_a_usage_error(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli, arguments).exit_code == 2


def test_match_refuses_an_output_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("title\ncarrots\n")
    error = refusal("match", str(tmp_path / "q.csv"), "--out", str(tmp_path / "x.txt"))
    assert isinstance(error, InvalidInput)
    assert ".csv" in str(error)
    assert not (tmp_path / "x.txt").exists()


@pytest.mark.parametrize("option", [("--threshold", "1.5"), ("--limit", "0")])
def test_match_refuses_options_out_of_range(tmp_path: Path, option: tuple[str, str]) -> None:
    (tmp_path / "q.csv").write_text("title\ncarrots\n")
    assert isinstance(refusal("match", str(tmp_path / "q.csv"), "--out", str(tmp_path / "x.csv"), *option), InvalidInput)


@pytest.mark.parametrize("name", ["missing.csv", "table.xlsx"])
def test_match_and_index_refuse_tables_they_cannot_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "table.xlsx").write_bytes(b"PK")
    bundle = ("--bundle", str(tmp_path / "no-bundle"))
    table = str(tmp_path / name)
    assert isinstance(refusal("index", table, *bundle), InvalidListings)
    assert isinstance(refusal("match", table, "--out", str(tmp_path / "x.csv"), *bundle), InvalidListings)


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path, command: str) -> None:
    assert isinstance(refusal("bundle", command, str(tmp_path)), ManifestMissing)
    assert isinstance(refusal("bundle", command, str(tmp_path / "nowhere")), ManifestMissing)
    for text in ("{", "[]", '{"format": 99}'):
        (tmp_path / "bundle.json").write_text(text)
        assert isinstance(refusal("bundle", command, str(tmp_path)), ManifestInvalid)


def test_indexing_without_a_bundle_touches_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMESKU_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "p.csv").write_text("id,title\na,carrots\n")
    assert isinstance(refusal("index", str(tmp_path / "p.csv"), "--bundle", str(tmp_path)), ManifestMissing)
    assert isinstance(refusal("index", "--reembed", "--bundle", str(tmp_path)), ManifestMissing)
    assert not (tmp_path / "data").exists()


def test_an_error_on_purpose_is_one_line_and_exit_code_2() -> None:
    result = run("bundle", "inspect", "/nonexistent/and/a/rather/long/path/so/that/a/narrow/terminal/would/wrap/the/line")
    assert result.returncode == 2
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("manifest_missing: ")


@pytest.mark.parametrize(
    ("name", "value"), [("MAX_QUEUE", "none"), ("CORS_ORIGINS", "https://shop.example"), ("CORS_ORIGINS", '["*"]')]
)
def test_a_bad_setting_is_named_without_a_traceback(tmp_path: Path, name: str, value: str) -> None:
    result = run("index", "--reembed", **{f"SAMESKU_{name}": value, "SAMESKU_DATA_DIR": str(tmp_path / "data")})
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert name.lower() in result.stderr.lower()
