"""A run on all listings decides by what its sister has learned from those that she kept apart."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.adopting import adopt
from app.bundling import Recipe, create
from app.commands import bundle as commands
from app.encoders.pretrained import TitleOptions
from app.errors import InvalidInput
from app.model_store import Bundle, Manifest, load_bundle, write_bundle
from tests import tiny

TRAINING = {"epochs": 3, "seed": 1, "workers": 0}
POINTS = {"title": [(10, 0.4), (1000, 0.6)]}


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    create(Recipe(None, str(tiny.title_encoder(folder)), title=TitleOptions("title: ", 16)), folder / "plain")
    return folder / "plain"


def run(towers: Path, out: Path, training: Mapping[str, object], **changes: object) -> Path:
    """A run that ended at these towers."""
    found = load_bundle(towers)

    def fill(folder: Path) -> Manifest:
        for name in found.manifest.files:
            shutil.copyfile(towers / name, folder / name)
        return found.manifest.model_copy(update={"name": out.name, "training": dict(training), **changes})

    return write_bundle(out, fill).folder


def sisters(towers: Path, folder: Path) -> tuple[Path, Path]:
    everything = run(towers, folder / "all", {**TRAINING, "run": "a"}, data={"training": {"listings": 9}})
    data = {"training": {"listings": 7}, "calibration": {"listings": 2}}
    return everything, run(towers, folder / "sister", {**TRAINING, "run": "b", "workers": 2}, thresholds=POINTS, data=data)


def test_a_run_takes_its_sisters_thresholds_and_keeps_its_vectors(towers: Path, tmp_path: Path) -> None:
    everything, sister = sisters(towers, tmp_path)
    before, given = load_bundle(everything), load_bundle(sister)
    after = adopt(everything, sister)
    assert after.fingerprint == before.fingerprint
    assert after.manifest.thresholds == POINTS != before.manifest.thresholds
    assert after.manifest.data == {
        "training": {"listings": 9}, "calibration": {"listings": 2}, "decisions_of": given.label,
    }  # fmt: skip
    assert after.manifest.training == before.manifest.training
    assert load_bundle(sister).manifest == given.manifest


def test_the_command_says_what_was_taken(towers: Path, tmp_path: Path) -> None:
    everything, sister = sisters(towers, tmp_path)
    said = CliRunner().invoke(commands.app, ["adopt", str(everything), str(sister)])
    assert said.exit_code == 0, said.output
    assert "decides by the thresholds of" in said.output
    assert load_bundle(everything).manifest.thresholds == POINTS


def other_recipe(towers: Path, folder: Path) -> Path:
    return run(towers, folder / "other", {**TRAINING, "epochs": 4})


def untrained(towers: Path, folder: Path) -> Path:
    return run(towers, folder / "other", {})


def other_towers(towers: Path, folder: Path) -> Path:
    title = load_bundle(towers).manifest.title
    assert title is not None
    return run(towers, folder / "other", TRAINING, title=title.model_copy(update={"prefix": "query: "}))


@pytest.mark.parametrize(
    ("make", "message"),
    [(other_recipe, "one recipe"), (untrained, "one recipe"), (other_towers, "not built alike")],
)
def test_strangers_are_refused(make: object, message: str, towers: Path, tmp_path: Path) -> None:
    assert callable(make)
    everything = run(towers, tmp_path / "all", TRAINING)
    stranger = make(towers, tmp_path)
    with pytest.raises(InvalidInput, match=message):
        adopt(everything, stranger)


def test_a_bundle_is_not_its_own_sister(towers: Path, tmp_path: Path) -> None:
    everything: Bundle = load_bundle(run(towers, tmp_path / "all", TRAINING))
    with pytest.raises(InvalidInput, match="itself"):
        adopt(everything.folder, everything.folder)
