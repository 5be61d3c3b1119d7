"""Training from a table to a served bundle, through the command that people use. Only the towers are tiny and random."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from fastapi.testclient import TestClient

from app.api.app import create_app
from app.bootstrap import build_encoder, build_matcher
from app.errors import AppError, BundleError, InvalidInput, InvalidListings, TrainingFailed
from app.model_store import Bundle, load_bundle
from app.settings import Settings
from app.training.config import TrainingConfig
from app.training.history import HISTORY
from app.training.schedule import margin_at, rate_factor
from tests.api.calls import ask, found, put
from tests.conftest import ROOT
from tests.toys import EACH, as_parquet, toy_photo, toy_table, toy_title
from tests.training import EVERYTHING, GROUPS, SHORT, SIZES, UPDATES, Place, course, run, weights


def measured(bundle: Path, table: Path) -> dict[str, float]:
    report = bundle.with_name(f"{bundle.name}.json")
    run("evaluate", "--bundle", bundle, "--listings", table, "--fold", "0/4", "--json", report)
    numbers: dict[str, float] = json.loads(report.read_text("utf-8"))
    return numbers


# --- what a run is for


def test_the_loss_falls(trained: Bundle) -> None:
    records = course(trained.folder)
    assert [one["update"] for one in records] == list(range(1, len(records) + 1))
    for name in ("loss", "loss_fused", "loss_image", "loss_title"):
        losses = [one[name] for one in records]
        assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5]), name
    assert records[-1]["epoch"] == 10


def test_every_update_has_the_rates_and_the_margin_of_the_schedule(whole: Path) -> None:
    config, records = TrainingConfig(), course(whole)
    factors = [rate_factor(update, UPDATES, config.warm_up) for update in range(UPDATES)]
    for name, peak in (("learning_rate", config.learning_rate), ("head_rate", config.head_rate)):
        assert [one[name] for one in records] == [peak * factor for factor in factors]
    assert [one["margin"] for one in records] == [margin_at(update, UPDATES, config) for update in range(UPDATES)]


def test_products_kept_apart_are_told_apart_better_than_before_training(place: Place, trained: Bundle) -> None:
    untrained = place.folder / "untrained"
    run("bundle", "create", *place.towers, "--image-size", "32", "--out", untrained)
    start = place.folder / "start"  # projections, n-grams and fusion as trained, but no training
    still = ("--epochs", "1", "--batch-size", "24", "--learning-rate", "1e-12", "--head-rate", "1e-12")
    place.train(start, "--listings", place.large, *place.towers, *SIZES, "--test-fold", "0/4", *still)
    before, begun, after = (measured(one, place.large) for one in (untrained, start, trained.folder))
    assert after["f1_best"] > before["f1_best"] + 0.1
    assert after["f1_best"] > begun["f1_best"] + 0.02
    assert after["f1_at_threshold"] > before["f1_at_threshold"] + 0.1
    metrics = trained.manifest.metrics  # `evaluate` meets exactly the listings that training kept apart
    for name in ("listings", "groups", "threshold", "f1_best", "f1_at_threshold"):
        assert metrics[name] == pytest.approx(after[name], abs=1e-6), name
    assert metrics["groups"] * EACH == metrics["listings"]


def test_the_card_and_the_manifest_say_what_was_done(place: Place, trained: Bundle) -> None:
    training, data = trained.manifest.training, trained.manifest.data
    assert (training["epochs"], training["head"], training["margin"]) == (10, "arcface", 0.2)
    assert sum(data[part]["listings"] for part in ("training", "calibration", "test")) == GROUPS * EACH
    assert trained.manifest.origin == {"image_encoder": place.image.stem, "title_encoder": "tiny-title-encoder"}
    assert set(trained.manifest.thresholds) == {"fused", "image", "title"}
    assert trained.manifest.thresholds["fused"] != [(1, 0.5)]  # fitted
    assert (trained.folder / "README.md").read_text("utf-8").startswith("#")


def test_the_real_api_serves_it(trained: Bundle, tmp_path: Path) -> None:
    settings = Settings(bundle=trained.folder, data_dir=tmp_path / "data", device="cpu")
    random = np.random.default_rng(123)
    groups = range(0, 40, 2)
    with TestClient(create_app(build_matcher(settings), settings)) as client:
        assert client.get("/model").json()["name"] == "trained"
        shown = {group: (toy_title(group, random), toy_photo(group, random)) for group in groups}
        for group, (title, photo) in shown.items():
            assert put(client, str(group), title, photo).status_code in (200, 201)
        for group, (title, photo) in shown.items():
            best = ask(client, title, photo, limit=1).json()["matches"][0]
            assert (best["id"], best["score"]) == (str(group), 1.0)
        # another photo and other words of the same product, seen neither in training nor in the catalog
        again = [found(ask(client, toy_title(g, random), toy_photo(g, random), threshold=-1, limit=1))[0] for g in groups]
        assert np.mean([best == str(group) for best, group in zip(again, groups, strict=True)]) > 0.6


# --- what may be missing


@pytest.mark.parametrize(
    ("photos", "titles", "gaps", "encoders", "modalities"),
    [
        (False, True, False, "title", {"title"}),
        (True, False, False, "image", {"image"}),
        (True, True, True, "both", {"image", "title", "fused"}),
        (True, True, True, "title", {"title"}),
        (True, True, True, "image", {"image"}),
        (False, True, False, "both", {"image", "title", "fused"}),
        (True, False, False, "both", {"image", "title", "fused"}),
    ],
)  # fmt: skip
def test_photos_or_titles_may_be_missing(
    place: Place, tmp_path: Path, photos: bool, titles: bool, gaps: bool, encoders: str, modalities: set[str]
) -> None:
    table = toy_table(tmp_path / "data", 5, photos=photos, titles=titles, gaps=gaps)
    towers = {"both": place.towers, "image": place.towers[:2], "title": place.towers[2:]}[encoders]
    # batches of two: many hold one photo, one title, or none
    options = (*SIZES, *EVERYTHING, "--epochs", "1", "--batch-size", "2")
    bundle = place.train(tmp_path / "out", "--listings", table, *towers, *options)
    assert bundle.manifest.spec().modalities() == modalities
    assert all(np.isfinite(list(record.values())).all() for record in course(tmp_path / "out"))
    encoder = build_encoder(Settings(device="cpu"), bundle)
    assert encoder.embed_titles(["melon plum"]).shape == (1 if "title" in modalities else 0, encoder.title_dim)


def test_the_same_listings_as_parquet_give_the_same_bundle(place: Place, whole: Path, tmp_path: Path) -> None:
    parquet = place.train(tmp_path / "out", "--listings", as_parquet(place.small), *place.towers, *SHORT)
    assert course(tmp_path / "out") == course(whole)
    assert parquet.fingerprint == load_bundle(whole).fingerprint


def test_worker_processes_change_nothing(place: Place, whole: Path, tmp_path: Path) -> None:
    assert place.short(tmp_path / "out", "--workers", "1").fingerprint == load_bundle(whole).fingerprint


def test_groups_of_two_tables_of_one_name_are_different(place: Place, tmp_path: Path) -> None:
    one, other = (toy_table(tmp_path / name, 4, photos=False) for name in ("a", "b"))
    bundle = place.train(
        tmp_path / "out", "--listings", one, "--listings", other, *place.towers[2:], *SIZES, *EVERYTHING, "--epochs", "1",
        "--batch-size", "8",
    )  # fmt: skip
    assert bundle.manifest.data["training"]["groups"] == 8


# --- variants


@pytest.mark.parametrize(
    "options",
    [
        ("--head", "arcface", "--accumulate", "2"),
        ("--head", "subcenter", "--centres", "2"),
        ("--head", "curricular", "--fusion", "concat-norm"),
        ("--fusion", "concat-norm", "--ngram-dim", "0"),
        ("--distil", "2", "--title-layers", "0", "--int8-words", "--colours", "--teacher-prefix", "query: "),
    ],
    ids=" ".join,
)
def test_every_variant_runs(place: Place, tmp_path: Path, options: tuple[str, ...]) -> None:
    short = (*SIZES, *EVERYTHING, "--epochs", "1", "--batch-size", "16", "--scale", "16")
    bundle = place.train(tmp_path / "out", "--listings", place.small, *place.towers, *short, *options)
    records = course(tmp_path / "out")
    assert len(records) == (2 if "--accumulate" in options else 3)
    assert all(np.isfinite(list(record.values())).all() for record in records)
    assert ("loss_distil_title" in records[0]) == ("--distil" in options)
    weight = bundle.manifest.fusion.weight
    assert (weight != 0.5) == ("concat-norm" in options)
    assert 0.05 <= weight <= 0.95
    build_encoder(Settings(device="cpu"), bundle)


@pytest.fixture
def other_precision() -> Iterator[None]:
    """Accelerate keeps the precision of a process's first run."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.mark.usefixtures("other_precision")
def test_bf16_stays_close_to_fp32(place: Place, tmp_path: Path) -> None:
    titles = ("--listings", place.small, *place.towers[2:], *SIZES, *EVERYTHING, "--epochs", "2", "--batch-size", "16")
    losses = []
    for precision in ("fp32", "bf16"):
        AcceleratorState._reset_state(True)
        place.train(tmp_path / precision, *titles, "--precision", precision)
        losses.append([one["loss"] for one in course(tmp_path / precision)])
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.1)


def test_frozen_parts_do_not_change_and_the_rest_does(place: Place, tmp_path: Path) -> None:
    frozen = ("--freeze-words", "--freeze-title-layers", "1", "--freeze-image-stages", "2")
    place.short(tmp_path / "out", *frozen)
    before, after = weights(tmp_path / "out.run" / "start"), weights(tmp_path / "out")
    same = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    held = ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.", "embeddings.word_embeddings.", "encoder.layer.0.")
    starts = tuple(f"{tower}.backbone.{part}" for tower in (0, 1) for part in held)
    expected = {name for name in before if name.startswith(starts)}
    statistics = {name for name in before if "running_" in name or "num_batches" in name}  # of a photo backbone never move
    assert {part for part in held if any(part in name for name in expected)} == set(held)
    assert expected | statistics == same


def test_frozen_projections_stay_what_they_begin_as(place: Place, tmp_path: Path) -> None:
    """They follow from the features alone, so that two runs that learn differently have the same ones."""
    found = []
    for rate in ("1e-3", "1e-4"):
        options = ("--freeze-projections", "--learning-rate", rate)
        place.short(tmp_path / rate, *options)
        found.append(weights(tmp_path / rate))
    one, other = found
    projections = [name for name in one if ".projection." in name]
    assert len(projections) == 4
    for name in projections:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-6)
    assert any(not torch.equal(tensor, other[name]) for name, tensor in one.items() if ".backbone." in name)


def test_keep_blends_the_starting_weights_back_in_exactly(place: Place, whole: Path, tmp_path: Path) -> None:
    place.short(tmp_path / "out", "--keep", "0.25")
    before, after, blended = weights(tmp_path / "out.run" / "start"), weights(whole), weights(tmp_path / "out")
    moved = 0
    for name, tensor in after.items():
        if "backbone." in name and tensor.is_floating_point():
            moved += not torch.equal(tensor, before[name])
            assert torch.equal(blended[name], tensor.lerp(before[name], 0.25)), name
        else:
            assert torch.equal(blended[name], tensor), name
    assert moved > 20


def test_two_processes_train_one_bundle(place: Place, tmp_path: Path) -> None:
    table = toy_table(tmp_path / "data", 8, gaps=True)
    options = ("--listings", table, *place.towers, *SIZES, *EVERYTHING, "--epochs", "1", "--batch-size", "4")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = [str(one) for one in (*torchrun, "-m", "app", "train", "--out", tmp_path / "out", *options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    build_encoder(Settings(device="cpu"), load_bundle(tmp_path / "out"))
    assert [one["update"] for one in course(tmp_path / "out")] == list(range(1, 32 // 8 + 1))
    assert len(list(tmp_path.rglob("bundle.json"))) == 1
    assert done.stderr.count("Written: out@") == 1


# --- what is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (("--margin", "28.6"), InvalidInput, "radians"),
        (("--margin-start", "0.4", "--margin", "0.3"), InvalidInput, "margin rises"),
        (("--epochs", "0"), InvalidInput, "--epochs: "),
        (("--head", "softmax"), InvalidInput, "--head: .*arcface"),
        (("--precision", "fp16"), InvalidInput, "fp16 needs a GPU"),
        (("--weight", "1.5"), InvalidInput, r"--weight .*\(0, 1\)"),
        (("--weight", "1"), InvalidInput, r"--weight .*\(0, 1\)"),
        (("--image-dim", "0"), InvalidInput, "--image-dim"),
        (("--title-dim", "-3"), InvalidInput, "--title-dim"),
        (("--ngram-dim", "100"), InvalidInput, "powers of two"),
        (("--ngram-share", "1"), InvalidInput, "--ngram-share"),
        (("--max-tokens", "1"), InvalidInput, "max_tokens"),
        (("--image-size", "7"), InvalidInput, "size cannot be 7"),
        (("--title-layers", "one"), InvalidInput, "no list of numbers"),
        (("--title-layers", "5"), InvalidInput, "has the layers 0 to 0"),
        (("--test-fold", "3"), InvalidInput, "is no fold"),
        (("--calibration-fold", "0/1"), InvalidInput, "is no fold"),
        (("--image-encoder", "no_such_backbone"), InvalidInput, "no image encoder"),
        (("--listings", "nowhere.csv"), InvalidListings, "nowhere.csv"),
        (("--out", "."), BundleError, "is no bundle"),
        (("--out", "/"), InvalidInput, "1 to 100 characters"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_option_is_one_line_and_costs_no_training(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    error: type[AppError],
    message: str,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(place.folder)
    given: list[str | Path] = ["--out", tmp_path / "out", "--listings", place.small, *place.towers, *SHORT, *options]
    with pytest.raises(error, match=message) as caught:
        run("train", *given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob(HISTORY))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said(place: Place, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="sees no GPU"):
        place.short(tmp_path / "out", "--device", "cuda")


def test_there_must_be_something_to_train_on_and_with(place: Place, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    with pytest.raises(InvalidInput, match="--listings, --pairs or both"):
        run("train", *out, *place.towers)
    with pytest.raises(InvalidInput, match="--image-encoder, --title-encoder or both"):
        run("train", *out, "--listings", place.small, "--device", "cpu")
    with pytest.raises(InvalidListings, match="fewer than two groups"):
        run("train", *out, *place.towers, "--listings", toy_table(tmp_path / "one", 1), *SHORT)
    with pytest.raises(InvalidListings, match="fewer than two groups have a photo or a title"):
        run("train", *out, *place.towers[:2], "--listings", toy_table(tmp_path / "two", 3, photos=False), *SHORT)


def test_a_loss_that_is_no_number_ends_the_run(place: Place, tmp_path: Path) -> None:
    options = ("--learning-rate", "1", "--head-rate", "1", "--warm-up", "0", "--clip", "1e30", "--scale", "1000")
    monstrous = ("--epochs", "40", "--weight-decay", "1")
    with pytest.raises(TrainingFailed, match=r"lower --learning-rate"):
        place.short(tmp_path / "out", *options, *monstrous)
    assert not (tmp_path / "out").exists()
