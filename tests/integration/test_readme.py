"""Every command of the README runs, in its order, and answers as the README shows."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import time
from contextlib import chdir, closing
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from app.__main__ import cli
from app.catalog.keys import open_keys
from tests import tiny
from tests.server import PATIENCE_S, running_service

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
CARRIED = ("app", "model_store", "samples")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(kind: str) -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks(kind) for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a fresh clone, for what the commands write."""
    clone = tmp_path_factory.mktemp("clone")
    for name in CARRIED:
        (clone / name).symlink_to(ROOT / name)
    return clone


def run(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"}
    outcome = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, f"{command}\n{outcome.stdout}\n{outcome.stderr}"
    return outcome.stdout


def run_app(command: str, folder: Path) -> None:
    """Runs `python -m app ...` in this process: a new one takes longer to import the towers than most commands to run."""
    *start, app, name, rest = command.split(" ", 4)
    assert (*start, app) == ("python", "-m", "app"), command
    with chdir(folder):
        outcome = CliRunner().invoke(cli, [name, *shlex.split(rest)], catch_exceptions=False, env={"HF_HUB_OFFLINE": "1"})
    assert outcome.exit_code == 0, f"{command}\n{outcome.output}"


@pytest.mark.real
def test_the_command_line_then_the_api(folder: Path) -> None:
    every = commands("bash")
    local = [command for command in every if command.startswith("python -m app")]
    calls = [command for command in every if command.startswith("curl")]
    assert sorted([*local, *calls, "make demo", "make test"]) == sorted(every)
    for command in local:
        start = run if "inspect" in command else run_app
        start(command, folder)
    with (folder / "matches.csv").open(encoding="utf-8", newline="") as stream:
        answered = {row["query"] for row in csv.DictReader(stream)}
    assert answered >= {"q01", "q08e"}
    with running_service(folder, ROOT / "model_store" / "default") as url:
        answers = [run(command.replace("http://127.0.0.1:8000", url), folder) for command in calls]
        check_that_a_first_key_closes_the_door(url, folder)
    shown = iter(blocks("json"))
    for command, answer in zip(calls, answers, strict=True):
        if "DELETE" in command:
            assert answer == ""
        else:
            same_shape(documents(next(shown)), documents(answer))


def check_that_a_first_key_closes_the_door(url: str, folder: Path) -> None:
    """Makes a key with the command line while the service runs; every call needs it within seconds."""
    key = run("python -m app keys create --role admin", folder).strip()
    deadline = time.monotonic() + PATIENCE_S
    while httpx.get(f"{url}/model").status_code != 401:
        assert time.monotonic() < deadline
    assert httpx.get(f"{url}/model", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert httpx.get(f"{url}/readyz", timeout=PATIENCE_S).status_code == 200


def documents(text: str) -> list[object]:
    """The JSON documents that follow each other in a text."""
    found, rest = [], text.strip()
    while rest:
        document, end = json.JSONDecoder().raw_decode(rest)
        found.append(document)
        rest = rest[end:].lstrip()
    return found


def same_shape(shown: object, given: object) -> None:
    """The README's answer has the fields, ids and roughly the scores of the real one."""
    assert type(shown) is type(given), (shown, given)
    if isinstance(shown, dict) and isinstance(given, dict):
        assert shown.keys() == given.keys()
        for key, value in shown.items():
            if key in ("id", "code", "status", "detail", "title", "total", "attributes"):
                assert value == given[key]
            else:
                same_shape(value, given[key])
            if key.endswith("score") and value is not None:
                assert given[key] == pytest.approx(value, abs=0.01)
    elif isinstance(shown, list) and isinstance(given, list):
        assert len(shown) == len(given)
        for one, other in zip(shown, given, strict=True):
            same_shape(one, other)


def test_keys(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMESKU_DATA_DIR", str(tmp_path / "data"))
    for command in commands("shell"):
        run_app(command, folder)
    with closing(open_keys(tmp_path / "data")) as keys:
        assert [(key.name, key.catalogs) for key in keys.stored()] == [("me", None), ("import of shop A", ("shop-a",))]


def test_ones_own_model(folder: Path, tmp_path: Path) -> None:
    with (folder / "my-labelled-listings.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "title", "group"])
        writer.writerows([n, f"product {n // 2} {'new' * (n % 2)}", n // 2] for n in range(400))
    places = {
        "tf_efficientnet_b0": str(tiny.image_encoder(tmp_path, "tf_efficientnet_b0")),
        "intfloat/multilingual-e5-base": str(tiny.title_encoder(tmp_path)),
        "model_store/mine": str(tmp_path / "mine"),
        "model_store/plain": str(tmp_path / "plain"),
    }
    train, *others, serve, create, calibrate = [c for c in commands("console") if "docker" not in c]
    for command in (f"{train} --epochs 1", *others, create, calibrate):
        for name, place in places.items():
            command = command.replace(name, place)
        run_app(command, folder)
    assert serve == "SAMESKU_BUNDLE=model_store/mine make serve"
    with running_service(folder, tmp_path / "mine"):
        pass  # it became ready with the new model


def test_make_knows_its_targets() -> None:
    for target in ("demo", "test", "serve", "lint", "bench"):
        run(f"make -n {target} VENV={sys.prefix}", ROOT)


def test_docker_commands_name_services_of_the_compose_file() -> None:
    services = (ROOT / "docker-compose.yml").read_text("utf-8")
    for command in commands("console"):
        if "docker" in command:
            for word in re.findall(r"(?:up|--rm) ([a-z-]+)", command):
                assert f"  {word}:" in services


@pytest.mark.real
def test_the_demo_finds_every_expected_match() -> None:
    printed = run(f"{sys.executable} samples/demo.py --once", ROOT)
    assert re.search(r"(\d+) of \1 expected products found", printed), printed
