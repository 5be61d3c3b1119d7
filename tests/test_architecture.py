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


def test_one_file_imports_numkong() -> None:
    assert importers("numkong") == {"app/catalog/byte_codes.py"}


def test_the_catalog_can_be_opened_before_pytorch_is_imported() -> None:
    code = "import sys, app.bootstrap, app.api.app, app.catalog.local; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_two_files_import_faiss() -> None:
    assert importers("faiss") == {"app/catalog/faiss_index.py", "app/catalog/faiss_lists.py"}


def test_one_file_imports_openvino() -> None:
    assert importers("openvino") == {"app/encoders/openvino_engine.py"}


@pytest.mark.parametrize("package", ["torch", "timm", "transformers"])
def test_models_are_loaded_by_encoders_training_and_bundling_only(package: str) -> None:
    allowed = ("app/encoders/", "app/training/", "app/bundling.py", "app/averaging.py")
    assert all(name.startswith(allowed) for name in importers(package))


# what makes objects, or code, of a file's bytes; FAISS's own files are read without any check of what they say
DANGEROUS_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "imp", "runpy"}
DANGEROUS_CALLS = re.compile(
    r"eval|exec|__import__|(torch|scipy\.io)\.(load|loadmat)|torch\.(hub|jit|export|package)\..*|"
    r"(lib\.format|np\.lib\.format)\.read_array|yaml\.(load|load_all|full_load|unsafe_load)|(pd|pandas)\.read_pickle|"
    r"faiss\.(read_|deserialize_|clone_).*|.*\.(load_state|load_pickle|read_index)"
)
DANGEROUS_ARGUMENTS = {"trust_remote_code=True", "allow_pickle=True", "weights_only=False", "use_safetensors=False"}
WANTED_ARGUMENTS = {  # where the default would do more than is wanted
    "np.load": {"allow_pickle=False"},
    "numpy.load": {"allow_pickle=False"},
    "AutoModel.from_pretrained": {"trust_remote_code=False", "use_safetensors=True"},
    "AutoModel.from_config": {"trust_remote_code=False"},
    "AutoTokenizer.from_pretrained": {"trust_remote_code=False"},
    "AutoConfig.from_pretrained": {"trust_remote_code=False"},
}


def dangers(source: str) -> list[str]:
    """What in a source could run what a file says."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in DANGEROUS_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in names if name.split(".")[0] in DANGEROUS_MODULES or DANGEROUS_CALLS.fullmatch(name)]
        elif isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), {ast.unparse(one) for one in node.keywords}
            found += [called] if DANGEROUS_CALLS.fullmatch(called) else []
            found += sorted(DANGEROUS_ARGUMENTS & given)
            found += sorted(f"{called} without {one}" for one in WANTED_ARGUMENTS.get(called, set()) - given)
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from joblib import load", "import cloudpickle as c", "torch.load(f)", "from torch import load",
        "np.load(f)", "numpy.load(f, allow_pickle=yes)", "f(allow_pickle=True)", "faiss.read_index(name)",
        "faiss.deserialize_index(a)", "yaml.load(text)", "yaml.unsafe_load(text)", "AutoModel.from_pretrained(name)",
        "AutoModel.from_pretrained(n, trust_remote_code=False)", "AutoModel.from_pretrained(n, use_safetensors=True)",
        "AutoModel.from_config(c)", "AutoTokenizer.from_pretrained(n)", "f(trust_remote_code=True)", "f(weights_only=False)",
        "eval(text)", "exec(text)", "torch.jit.load(f)", "torch.hub.load(a, b)", "accelerator.load_state(folder)",
        "from torch.hub import load_state_dict_from_url", "np.lib.format.read_array(f)", "marshal.loads(b); import marshal",
    ],
)  # fmt: skip
def test_what_could_unpickle_is_noticed(source: str) -> None:
    assert dangers(source)


def test_nothing_can_unpickle() -> None:
    assert {str(file): found for file in SOURCES if (found := dangers(file.read_text("utf-8")))} == {}
    asking = [file for file in SOURCES if any(f"{name}(" in file.read_text("utf-8") for name in WANTED_ARGUMENTS)]
    assert asking  # else the names above are out of date


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_files_stay_short(file: Path) -> None:
    assert len(file.read_text("utf-8").splitlines()) <= 300


def test_no_conflict_of_a_merge_was_committed() -> None:
    texts = [file for kind in ("*.md", "*.toml", "*.yml", "Makefile", "Dockerfile") for file in ROOT.glob(kind)]
    texts += [file for folder in ("app", "tests", "docs", "deploy") for file in (ROOT / folder).rglob("*") if file.is_file()]
    assert ROOT / "CHANGELOG.md" in texts
    marks = re.compile(rb"^(<{7} |>{7} |={7}$)", re.MULTILINE)
    assert [file for file in texts if marks.search(file.read_bytes())] == []


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
