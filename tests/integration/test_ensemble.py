"""Ensembles of small real encoders: what they answer follows from what their parts answer."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from app.__main__ import cli
from app.api.app import create_app
from app.bootstrap import build_encoder, build_matcher
from app.bundling import Recipe, create
from app.core.product import Floats
from app.encoders.multimodal import MultimodalEncoder
from app.encoders.pretrained import ImageOptions, TitleOptions
from app.ensembling import combine
from app.errors import AppError, BundleError, ChecksumMismatch, InvalidInput, ManifestMissing
from app.model_store import MANIFEST, Bundle, load_bundle
from app.settings import Settings
from tests import tiny
from tests.api.calls import ask, put

TITLES = ["apple pear 3", "melon", "pear apple 3 new", "leek and onion soup, 500 g"]
THRESHOLDS = {"one": [[1, 0.5], [100, 0.7]], "two": [[10, 0.9]], "photos": [[1, 0.8]], "titles": [[1, 0.6]]}
WEIGHTS = {"one": 0.3, "two": 0.5}


def pictures() -> list[bytes]:
    """Photos of several shapes, full of detail: every framing sees something else in them."""
    rng = np.random.default_rng(5)
    out = []
    for height, width in ((40, 60), (90, 50), (64, 64), (120, 70)):
        coarse = rng.integers(0, 255, (height // 8, width // 8, 3), np.uint8)
        stream = io.BytesIO()
        Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST).save(stream, "PNG")
        out.append(stream.getvalue())
    return out


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four bundles: `one` and `two` with both towers, of different sizes, framings and prefixes; `photos`; `titles`."""
    folder = tmp_path_factory.mktemp("store")
    small, large = (str(tiny.image_encoder(folder, f"mobilenetv3_small_{width}")) for width in ("050", "075"))
    title = str(tiny.title_encoder(folder))
    recipes = {
        "one": Recipe(small, title, WEIGHTS["one"], ImageOptions("avg", framing="crop", size=64), TitleOptions("query: ")),
        "two": Recipe(large, title, WEIGHTS["two"], ImageOptions("gem", framing="pad", size=96), TitleOptions("", 8)),
        "photos": Recipe(large, None, image=ImageOptions("avg", framing="stretch", size=64)),
        "titles": Recipe(None, title, title=TitleOptions("title: ")),
    }
    for name, recipe in recipes.items():
        create(recipe, folder / name)
        described = json.loads((folder / name / MANIFEST).read_text())
        described["thresholds"] = dict.fromkeys(described["thresholds"], THRESHOLDS[name])
        (folder / name / MANIFEST).write_text(json.dumps(described))
    return folder


def encoder_of(folder: Path) -> MultimodalEncoder:
    return build_encoder(Settings(device="cpu"), load_bundle(folder))


def image_half(folder: Path) -> Floats:
    encoder = encoder_of(folder)
    return encoder.embed_photos([encoder.read_photo(data)[1] for data in pictures()])


def title_half(folder: Path) -> Floats:
    return encoder_of(folder).embed_titles(TITLES)


def cosines(half: Floats) -> Floats:
    return half @ half.T


def run(*arguments: str | Path) -> str:
    outcome = CliRunner().invoke(cli, [str(one) for one in arguments], catch_exceptions=False, env={"COLUMNS": "200"})
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


# -- vectors --------------------------------------------------------------------------------------------------


def test_cosines_are_the_weighted_means_of_the_parts(store: Path, tmp_path: Path) -> None:
    shares = {"one": 0.5, "two": 0.3, "photos": 0.2}
    out = combine([store / name for name in shares], tmp_path / "all", shares=list(shares.values())).folder
    images, titles = image_half(out), title_half(out)
    for half in (images, titles):
        np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-5)
    parts = {name: cosines(image_half(store / name)) for name in shares}
    assert all(float(np.abs(parts[a] - parts[b]).max()) > 1e-3 for a, b in combinations(parts, 2))
    np.testing.assert_allclose(cosines(images), sum(share * parts[name] for name, share in shares.items()), atol=1e-5)
    one, two = cosines(title_half(store / "one")), cosines(title_half(store / "two"))
    assert float(np.abs(one - two).max()) > 1e-3
    np.testing.assert_allclose(cosines(titles), 0.625 * one + 0.375 * two, atol=1e-5)


def test_every_part_sees_the_pixels_that_it_would_see_alone(store: Path, tmp_path: Path) -> None:
    together = encoder_of(combine([store / name for name in ("one", "two", "photos")], tmp_path / "all").folder)
    alone = [encoder_of(store / name) for name in ("one", "two", "photos")]
    for data in pictures():
        packed = together.read_photo(data)[1]
        assert packed.dtype == np.uint8
        expected = np.concatenate([one.read_photo(data)[1].ravel() for one in alone])
        np.testing.assert_array_equal(packed, expected)


def test_towers_with_the_same_framing_share_it(store: Path, tmp_path: Path) -> None:
    create(Recipe(str(store / "mobilenetv3_small_050.safetensors"), None,
                  image=ImageOptions("avg", framing="stretch", size=64)), tmp_path / "other")  # fmt: skip
    out = combine([store / "photos", tmp_path / "other"], tmp_path / "all").folder
    assert encoder_of(out).read_photo(pictures()[0])[1].shape == (64, 64, 3)
    expected = (cosines(image_half(store / "photos")) + cosines(image_half(tmp_path / "other"))) / 2
    np.testing.assert_allclose(cosines(image_half(out)), expected, atol=1e-5)
    assert load_bundle(out).manifest.spec().modalities() == {"image"}
    assert load_bundle(out).manifest.fusion.weight == 1


def test_parts_need_no_modality_in_common(store: Path, tmp_path: Path) -> None:
    out = combine([store / "titles", store / "one"], tmp_path / "all").folder
    np.testing.assert_array_equal(image_half(out), image_half(store / "one"))
    expected = (cosines(title_half(store / "titles")) + cosines(title_half(store / "one"))) / 2
    np.testing.assert_allclose(cosines(title_half(out)), expected, atol=1e-5)


def test_an_image_and_a_title_tower_become_an_ordinary_bundle(store: Path, tmp_path: Path) -> None:
    bundle = combine([store / "titles", store / "photos"], tmp_path / "joined", weight=0.4)
    manifest = bundle.manifest
    assert manifest.parts == ()
    assert manifest.fusion.weight == 0.4
    assert set(manifest.files) == {
        "README.md", "image.safetensors", "title.safetensors", "title_config.json", "tokenizer.json",
    }  # fmt: skip
    assert (manifest.image, manifest.title) == (
        load_bundle(store / "photos").manifest.image,
        load_bundle(store / "titles").manifest.title,
    )
    np.testing.assert_array_equal(image_half(bundle.folder), image_half(store / "photos"))
    np.testing.assert_array_equal(title_half(bundle.folder), title_half(store / "titles"))
    assert manifest.thresholds == {"fused": [(1, 0.68)], "image": [(1, 0.8)], "title": [(1, 0.6)]}
    assert "trained apart" in (bundle.folder / "README.md").read_text()


def test_an_ensemble_of_ensembles_has_the_parts_of_both(store: Path, tmp_path: Path) -> None:
    inner = combine([store / "one", store / "two"], tmp_path / "inner", shares=[1, 3])
    outer = combine([inner.folder, store / "photos"], tmp_path / "outer", shares=[0.8, 0.2]).manifest
    assert [part.name for part in outer.parts] == ["one", "two", "photos"]
    assert [part.fingerprint for part in outer.parts] == [load_bundle(store / part.name).fingerprint for part in outer.parts]
    np.testing.assert_allclose([part.image_share for part in outer.parts], [0.2, 0.6, 0.2])
    np.testing.assert_allclose([part.title_share for part in outer.parts], [0.25, 0.75, 0])
    assert "2-image.safetensors" in outer.files
    flat = combine([store / name for name in ("one", "two", "photos")], tmp_path / "flat", shares=[0.2, 0.6, 0.2])
    np.testing.assert_allclose(image_half(tmp_path / "outer"), image_half(flat.folder), atol=1e-6)
    assert outer.origin["parts"][0]["origin"]["parts"][1]["name"] == "two"


# -- what the manifest says -----------------------------------------------------------------------------------


def test_weight_and_thresholds_are_means_of_the_parts(store: Path, tmp_path: Path) -> None:
    manifest = combine([store / "one", store / "two", store / "photos"], tmp_path / "all", shares=[2, 1, 1]).manifest
    assert manifest.fusion.weight == 0.4
    both = [(1, round((2 * 0.5 + 0.9) / 3, 6)), (10, round((2 * 0.6 + 0.9) / 3, 6)), (100, round((2 * 0.7 + 0.9) / 3, 6))]
    assert manifest.thresholds["fused"] == both
    assert manifest.thresholds["title"] == both
    assert manifest.thresholds["image"] == [(1, 0.675), (10, 0.725), (100, 0.775)]


def test_the_manifest_tells_where_the_parts_came_from(store: Path, tmp_path: Path) -> None:
    bundle = combine([store / "one", store / "two"], tmp_path / "all")
    marks = [load_bundle(store / name).fingerprint for name in ("one", "two")]
    for told in (bundle.manifest.origin, bundle.manifest.training):
        assert [(one["name"], one["fingerprint"]) for one in told["parts"]] == list(zip(("one", "two"), marks, strict=True))
    assert bundle.manifest.training["parts"][0]["training"] == {"trained": False}
    card = (bundle.folder / "README.md").read_text()
    for text in (f"one@{marks[0]}", f"two@{marks[1]}", "64 px crop", "96 px pad", "0.500", "calibrate --bundle"):
        assert text in card
    fusion = bundle.manifest.encoder_fusion()
    assert f"{fusion.image_dim} dimensions for photos, {fusion.title_dim} for titles" in card


# -- commands and service -------------------------------------------------------------------------------------


def test_an_ensemble_is_made_inspected_and_verified_by_commands(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "all"
    made = run("bundle", "ensemble", store / "one", store / "two", "--out", out, "--weight", "0.6", "--shares", "3,1")
    assert "an ensemble of 2 parts" in made
    assert f"calibrate --bundle {out} --listings FILE" in made
    shown = run("bundle", "inspect", out)
    for text in ("w = 0.6", f"one@{load_bundle(store / 'one').fingerprint}", "share 0.750: mobilenetv3_small_050, 64 px",
                 "share 0.250: mobilenetv3_small_075, 96 px", "prefix 'query: '", "1-tokenizer.json"):  # fmt: skip
        assert text in shown
    checked = run("bundle", "verify", out)
    assert "9 files have the bytes" in checked
    assert "the towers of 2 parts" in checked
    assert "fused vectors of length 1" in checked


def test_towers_are_joined_by_the_command(store: Path, tmp_path: Path) -> None:
    made = run("bundle", "ensemble", store / "photos", store / "titles", "--out", tmp_path / "joined")
    assert "a bundle of both towers" in made
    assert "w = 0.5" in run("bundle", "inspect", tmp_path / "joined")
    assert "fused vectors of length 1" in run("bundle", "verify", tmp_path / "joined")


def test_thresholds_of_an_ensemble_are_fitted_without_changing_its_vectors(store: Path, tmp_path: Path) -> None:
    before = combine([store / "one", store / "titles"], tmp_path / "all")
    for number, data in enumerate(pictures()):
        (tmp_path / f"{number}.png").write_bytes(data)
    with (tmp_path / "listings.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "title", "image", "group"])
        writer.writerows([n, f"{TITLES[n // 2 % 4]} {n // 2}", f"{n // 2 % 4}.png", n // 2] for n in range(60))
    run("calibrate", "--bundle", tmp_path / "all", "--listings", tmp_path / "listings.csv")
    after = load_bundle(tmp_path / "all")
    assert after.fingerprint == before.fingerprint
    assert after.manifest.parts == before.manifest.parts
    assert after.manifest.thresholds != before.manifest.thresholds


def test_an_ensemble_is_served_like_any_bundle(store: Path, tmp_path: Path) -> None:
    bundle = combine([store / name for name in ("one", "two", "photos")], tmp_path / "all")
    images = np.mean([cosines(image_half(store / name)) for name in ("one", "two", "photos")], axis=0)
    titles = (cosines(title_half(store / "one")) + cosines(title_half(store / "two"))) / 2
    settings = Settings(bundle=bundle.folder, data_dir=tmp_path / "data", device="cpu")
    photos = pictures()
    with TestClient(create_app(build_matcher(settings), settings)) as client:
        for number in (1, 2, 3):
            assert put(client, str(number), TITLES[number], photos[number]).status_code in (200, 201)
        answer = ask(client, TITLES[0], photos[0], threshold=-1).json()
        one_half = ask(client, None, photos[0], threshold=-1).json()
        assert client.get("/readyz").status_code == 200
    assert answer["model"] == bundle.label
    assert {match["id"] for match in answer["matches"]} == {"1", "2", "3"}
    for match in answer["matches"]:
        row = int(match["id"])
        assert match["image_score"] == pytest.approx(images[0, row], abs=1e-5)
        assert match["title_score"] == pytest.approx(titles[0, row], abs=1e-5)
        assert match["score"] == pytest.approx(0.4 * images[0, row] + 0.6 * titles[0, row], abs=1e-5)
    assert [m["score"] for m in one_half["matches"]] == pytest.approx(sorted(images[0, 1:], reverse=True), abs=1e-5)


# -- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("one",), {}, "two bundles or more"),
        ((), {}, "two bundles or more"),
        (("one", "one"), {}, "the same model"),
        (("one", "two"), {"weight": 1.0}, r"must lie in \(0, 1\)"),
        (("one", "two"), {"weight": 0.0}, r"must lie in \(0, 1\)"),
        (("one", "two"), {"shares": [1.0]}, "2 bundles and 1 shares"),
        (("one", "two"), {"shares": [1.0, 0.0]}, "above 0"),
        (("one", "two"), {"shares": [1.0, float("nan")]}, "above 0"),
        (("photos", "photos2"), {"weight": 0.5}, "read photos only"),
        (("photos", "titles"), {"shares": [0.5, 0.5]}, "one of each"),
    ],
)
def test_bundles_that_do_not_go_together_are_refused(
    store: Path, tmp_path: Path, names: tuple[str, ...], options: dict[str, object], message: str
) -> None:
    if "photos2" in names and not (store / "photos2").exists():
        small = str(store / "mobilenetv3_small_050.safetensors")
        create(Recipe(small, None, image=ImageOptions(size=64)), store / "photos2")
    with pytest.raises(InvalidInput, match=message):
        combine([store / name for name in names], tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_part_that_comes_twice_by_way_of_an_ensemble_is_refused(store: Path, tmp_path: Path) -> None:
    inner = combine([store / "one", store / "two"], tmp_path / "inner")
    with pytest.raises(InvalidInput, match="'two' and 'two' are the same model"):
        combine([inner.folder, store / "two"], tmp_path / "outer")


def test_a_bundle_is_never_replaced_by_its_own_ensemble(store: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="one of the bundles"):
        combine([store / "one", store / "two"], store / "one")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="is no bundle"):
        combine([store / "one", store / "two"], tmp_path / "mine")
    with pytest.raises(ManifestMissing):
        combine([store / "one", tmp_path / "mine"], tmp_path / "out")


def test_shares_that_are_no_numbers_are_a_usage_error(store: Path, tmp_path: Path) -> None:
    arguments = ["bundle", "ensemble", str(store / "one"), str(store / "two"), "--out", str(tmp_path / "x")]
    outcome = CliRunner().invoke(cli, [*arguments, "--shares", "half,half"])
    assert outcome.exit_code == 2
    assert not (tmp_path / "x").exists()


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["0-image.safetensors", "1-image.safetensors", "1-tokenizer.json", "0-title_config.json"])
def test_a_changed_file_of_any_part_is_refused(store: Path, tmp_path: Path, name: str) -> None:
    bundle = combine([store / "one", store / "two"], tmp_path / "all")
    flip(bundle.folder / name)
    calls: tuple[Callable[[], object], ...] = (
        lambda: load_bundle(bundle.folder),
        lambda: combine([bundle.folder, store / "photos"], tmp_path / "more"),
        lambda: build_matcher(Settings(bundle=bundle.folder, data_dir=tmp_path / "data", device="cpu")),
    )
    for call in calls:
        with pytest.raises(ChecksumMismatch, match=name):
            call()
    assert not (tmp_path / "more").exists()


def test_weights_of_another_part_are_refused(store: Path, tmp_path: Path) -> None:
    bundle: Bundle = combine([store / "one", store / "two"], tmp_path / "all")
    first, second = bundle.manifest.parts
    assert first.image is not None
    assert second.image is not None
    swapped = first.model_copy(update={"image": first.image.model_copy(update={"weights": second.image.weights})})
    bundle.manifest = bundle.manifest.model_copy(update={"parts": (swapped, second)})
    with pytest.raises(AppError, match="does not fit"):
        build_encoder(Settings(device="cpu"), bundle)
