"""The list of what is installed: valid, complete, with the weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from app.files import sha256_of
from tests import tiny
from tests.server import ROOT


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def text(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("sbom") / "sbom.cdx.json"
    command = [ROOT / "deploy" / "sbom.sh", Path(sys.prefix), bundle, file]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return file.read_text("utf-8")


def test_the_list_is_valid(text: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    broken = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"type": "unheard-of", "name": "x"}]}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(broken)) is not None


def test_packages_are_listed_at_the_versions_that_are_installed(text: str) -> None:
    found: dict[str, Any] = {one["name"].lower(): one for one in json.loads(text)["components"]}
    lines = (ROOT / "constraints.txt").read_text("utf-8").lower().splitlines()
    wanted = dict(line.split("==") for line in lines if "==" in line)
    for name in ("torch", "faiss-cpu", "fastapi", "pillow", "safetensors", "openvino", "sqlalchemy"):
        assert found[name]["version"] == wanted[name]
        assert found[name]["purl"].startswith(f"pkg:pypi/{name}@")
        assert found[name]["licenses"], name
    assert json.loads(text)["metadata"]["component"]["name"] == "samesku"


def test_weights_are_listed_with_their_digests(text: str, bundle: Path) -> None:
    (model,) = (one for one in json.loads(text)["components"] if one["type"] == "machine-learning-model")
    digests = {part["name"]: part["hashes"][0]["content"] for part in model["components"]}
    assert digests["image.safetensors"] == sha256_of(bundle / "image.safetensors")
    assert model["licenses"]


def test_no_path_of_this_machine_is_in_it(text: str, bundle: Path) -> None:
    assert str(ROOT) not in text
    assert str(bundle.parent) not in text


def test_make_and_the_image_write_it_with_the_same_script() -> None:
    assert "deploy/sbom.sh $(VENV) model_store/default" in (ROOT / "Makefile").read_text("utf-8")
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    assert "deploy/sbom.sh /opt/venv model_store/default /samesku/sbom.cdx.json" in dockerfile
