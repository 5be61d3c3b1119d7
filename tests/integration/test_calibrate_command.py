"""`python -m app calibrate`: thresholds and the pair model of a bundle; and what `train` writes of both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.__main__ import cli
from app.bootstrap import build_pair_model
from app.core.pairs import FEATURES
from app.errors import InvalidInput, InvalidListings
from app.model_store import load_bundle
from tests.integration.labelled import Titles, rows_of
from tests.toys import toy_table
from tests.training import SIZES, run

HELD_OUT = {
    "pairs", "same", "calibration_error", "precision_at_95", "precision_at_99", "match_precision", "match_recall"
}  # fmt: skip


def copy(bundle: Path, to: Path) -> Path:
    shutil.copytree(bundle, to / bundle.name)
    return to / bundle.name


def test_a_pair_model_is_written_into_the_bundle(titles: Titles) -> None:
    before, after = load_bundle(titles.plain), load_bundle(titles.pairs)
    assert before.manifest.pairs is None
    spec = after.manifest.pairs
    assert spec is not None
    assert spec.features == FEATURES
    assert set(spec.weights.values()) <= set(after.manifest.files)
    assert 0 <= spec.review <= spec.match <= 1
    assert 0 < spec.group <= 1
    assert build_pair_model(after) is not None
    assert after.fingerprint == before.fingerprint  # nothing has to be indexed again
    assert after.manifest.thresholds != before.manifest.thresholds
    assert [one["file"] for one in after.manifest.data["calibration"]] == [titles.table.name]
    said = " ".join(titles.said.split())
    assert "trees that had not seen the groups" in said
    assert f"fingerprint {before.fingerprint} as before" in said


def test_the_same_listings_make_the_same_pair_model(titles: Titles, tmp_path: Path) -> None:
    again = copy(titles.plain, tmp_path)
    run("calibrate", "--bundle", again, "--listings", titles.table)
    one, other = load_bundle(titles.pairs), load_bundle(again)
    assert other.manifest.pairs == one.manifest.pairs
    assert other.manifest.thresholds == one.manifest.thresholds
    assert (again / "pair_model.txt").read_bytes() == (titles.pairs / "pair_model.txt").read_bytes()


def test_no_pair_model_leaves_what_there_is(titles: Titles, tmp_path: Path) -> None:
    for bundle in (titles.plain, titles.pairs):
        mine = copy(bundle, tmp_path)
        run("calibrate", "--bundle", mine, "--listings", titles.few, "--no-pair-model")
        before, after = load_bundle(bundle), load_bundle(mine)
        assert after.manifest.pairs == before.manifest.pairs
        assert after.manifest.thresholds != before.manifest.thresholds
        build_pair_model(after)


def test_a_report_prints_and_stores_figures(titles: Titles, tmp_path: Path) -> None:
    mine = copy(titles.pairs, tmp_path)
    said = run("calibrate", "--bundle", mine, "--listings", titles.table, "--report", titles.few)
    assert "Before, on the other listings" in said
    assert "After, on the other listings" in said
    assert "Pair model, candidate pairs of the other listings" in said
    *points, last = load_bundle(mine).manifest.metrics["held_out"]
    assert [point["modality"] for point in points] == ["title"] * len(points)
    assert set(last["pair_model"]) == HELD_OUT
    assert last["pair_model"]["same"] > 0
    assert json.loads((mine / "bundle.json").read_text("utf-8"))["metrics"]["held_out"][-1] == last


def test_without_a_pair_model_the_report_has_thresholds_alone(titles: Titles, tmp_path: Path) -> None:
    mine = copy(titles.plain, tmp_path)
    said = run("calibrate", "--bundle", mine, "--listings", titles.table, "--report", titles.few, "--no-pair-model")
    assert "Pair model" not in said
    assert all("modality" in one for one in load_bundle(mine).manifest.metrics["held_out"])


def test_few_listings_fit_thresholds_alone_and_say_why(titles: Titles, tmp_path: Path) -> None:
    for bundle in (titles.plain, titles.pairs):
        mine = copy(bundle, tmp_path)
        small = tmp_path / "small.csv"
        rows = [f"{n},apple {'melon ' * (n % 3)}{n},{n // 2 if n < 40 else n}\n" for n in range(60)]  # 20 pairs, both ways
        small.write_text("id,title,group\n" + "".join(rows), "utf-8")
        said = " ".join(run("calibrate", "--bundle", mine, "--listings", small).split())
        assert "No new pair model: a pair model needs 50 candidate pairs" in said
        assert "give it more labelled listings" in said
        before, after = load_bundle(bundle), load_bundle(mine)
        assert after.manifest.pairs == before.manifest.pairs
        assert after.manifest.thresholds != before.manifest.thresholds


def test_a_gallery_makes_thresholds_and_probabilities_for_a_larger_catalog(titles: Titles, tmp_path: Path) -> None:
    mine = copy(titles.plain, tmp_path)
    more = toy_table(tmp_path / "others", 40, photos=False)
    said = run("calibrate", "--bundle", mine, "--listings", titles.table, "--gallery", more)
    without, found = load_bundle(titles.pairs).manifest, load_bundle(mine).manifest
    assert "already in the gallery" in said  # the tables use the same ids
    assert without.pairs is not None
    assert found.pairs is not None
    assert found.thresholds["title"][-1][0] > without.thresholds["title"][-1][0]
    assert found.pairs.calibration["context"] != without.pairs.calibration["context"]
    assert found.pairs.calibration["alone"] == without.pairs.calibration["alone"]
    assert [one["file"] for one in found.data["calibration"]] == [titles.table.name, more.name]


def test_a_gallery_without_listings_is_refused(titles: Titles) -> None:
    outcome = CliRunner().invoke(cli, ["calibrate", "--bundle", str(titles.plain), "--gallery", str(titles.table)])
    assert isinstance(outcome.exception, InvalidInput)


def test_nothing_to_fit_to_is_refused(titles: Titles) -> None:
    outcome = CliRunner().invoke(cli, ["calibrate", "--bundle", str(titles.plain)])
    assert isinstance(outcome.exception, InvalidInput)
    assert "--listings" in str(outcome.exception)


def test_pairs_teach_the_pair_model_and_leave_the_thresholds(titles: Titles, tmp_path: Path) -> None:
    mine = copy(titles.plain, tmp_path)
    rows = rows_of(titles.table)
    pairs = [(one, other) for n, one in enumerate(rows) for other in rows[n + 1 : n + 6]]
    table = tmp_path / "pairs.csv"
    lines = [f"{one['title']},{other['title']},{int(one['group'] == other['group'])}\n" for one, other in pairs]
    table.write_text("left_title,right_title,label\n" + "".join(lines), "utf-8")
    run("calibrate", "--bundle", mine, "--pairs", table)
    before, after = load_bundle(titles.plain), load_bundle(mine)
    assert before.manifest.pairs is None
    assert after.manifest.pairs is not None
    assert after.manifest.thresholds == before.manifest.thresholds
    assert [one["file"] for one in after.manifest.data["calibration"]] == ["pairs.csv"]


def test_listings_without_groups_change_nothing(titles: Titles, tmp_path: Path) -> None:
    mine = copy(titles.plain, tmp_path)
    empty = tmp_path / "empty.csv"
    empty.write_text("id,title,group\na,apple,\n", "utf-8")
    before = (mine / "bundle.json").read_bytes()
    outcome = CliRunner().invoke(cli, ["calibrate", "--bundle", str(mine), "--listings", str(empty)])
    assert isinstance(outcome.exception, InvalidListings)
    assert (mine / "bundle.json").read_bytes() == before


@pytest.mark.parametrize(("fold", "fitted"), [("1/2", True), ("", False)])
def test_training_writes_a_pair_model_where_the_calibration_fold_is_large_enough(
    titles: Titles, tmp_path: Path, fold: str, *, fitted: bool
) -> None:
    options = ("--epochs", "1", "--batch-size", "32", "--calibration-fold", fold)
    out = tmp_path / "trained"
    run("train", "--listings", titles.table, "--title-encoder", titles.encoder, "--out", out, *SIZES, *options)
    bundle = load_bundle(out)
    assert (bundle.manifest.pairs is not None) == fitted
    assert (build_pair_model(bundle) is not None) == fitted
