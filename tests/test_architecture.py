"""The house keeps its shape: imports go one way, files stay short, documents stay complete."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "app").rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def importers(package: str) -> set[str]:
    found = (file for file in SOURCES if any(name.split(".")[0] == package for name in imports(file)))
    return {file.relative_to(ROOT).as_posix() for file in found}


def test_imports_go_one_way() -> None:
    script = Path(sys.executable).with_name("lint-imports")
    outcome = subprocess.run([script, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout


def test_two_files_import_faiss() -> None:
    assert importers("faiss") == {"app/catalog/faiss_index.py", "app/catalog/faiss_lists.py"}


def test_one_file_imports_openvino() -> None:
    assert importers("openvino") == {"app/encoders/openvino_engine.py"}


@pytest.mark.parametrize("package", ["torch", "timm", "transformers"])
def test_models_are_loaded_by_encoders_training_and_bundling_only(package: str) -> None:
    allowed = ("app/encoders/", "app/training/", "app/bundling.py", "app/averaging.py")
    assert all(name.startswith(allowed) for name in importers(package))


def test_nothing_can_unpickle() -> None:
    assert not importers("pickle")
    assert not importers("joblib")
    assert not [f for f in SOURCES if re.search(r"torch\.load\(|trust_remote_code=True|allow_pickle=True", f.read_text())]


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_files_stay_short(file: Path) -> None:
    assert len(file.read_text("utf-8").splitlines()) <= 300


def test_every_setting_is_documented() -> None:
    documented = set(re.findall(r"`SAMESKU_([A-Z_]+)`", (ROOT / "docs" / "settings.md").read_text("utf-8")))
    assert documented == {name.upper() for name in Settings.model_fields}


def test_every_error_code_is_documented() -> None:
    text = (ROOT / "app" / "errors.py").read_text("utf-8")
    codes = set(re.findall(r'code = "([a-z_]+)"', text))
    start_up = {c for c in codes if c in ("bundle_error", "manifest_missing", "manifest_invalid", "checksum_mismatch")}
    start_up |= {"dimension_mismatch", "model_mismatch", "data_folder_in_use", "schema_mismatch"}
    training = {"training_interrupted", "training_failed", "key_not_found", "backup_error"}  # and other commands
    documented = set(re.findall(r"`([a-z_]+)`", (ROOT / "docs" / "api.md").read_text("utf-8")))
    assert codes - start_up - training <= documented


def test_every_proof_of_a_guarantee_exists() -> None:
    file, proofs = "", 0
    for named, test in re.findall(
        r"`(tests/[\w/]+\.py)?(?:::(\w+))?`", (ROOT / "docs" / "guarantees.md").read_text("utf-8")
    ):
        file = named or file
        assert (ROOT / file).is_file(), file
        assert not test or f"def {test}(" in (ROOT / file).read_text("utf-8"), test
        proofs += 1
    assert proofs > 10


def test_make_and_the_image_install_with_the_same_script() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    assert re.search(r"^RUN .*deploy/install\.sh /opt/venv ", dockerfile, re.MULTILINE)
    assert "deploy/install.sh $(VENV) $(EXTRAS)" in (ROOT / "Makefile").read_text("utf-8")
    assert not re.search(r"pip install", dockerfile)


def test_the_image_copies_only_what_exists_and_is_let_in() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    for sources in re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert any(f"!{part}" in ignored for part in (source, source.split("/")[0])), source


def test_compose_serves_and_trains_from_the_same_build() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    assert services["api"]["build"] == services["train"]["build"]
    assert services["api"]["command"] == ["serve"]
    assert services["train"]["profiles"] == ["train"]
    assert services["api-gpu"]["profiles"] == ["gpu"]
    assert services["api-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert "/readyz" in " ".join(services["api"]["healthcheck"]["test"])


def test_ci_runs_make_test() -> None:
    assert (ROOT / ".ci" / "run").read_text("utf-8").rstrip().endswith("exec make test")
