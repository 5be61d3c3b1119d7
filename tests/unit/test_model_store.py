from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file

from app.core.spec import EncoderSpec, FusionSpec, ImageSpec, PartSpec, Preprocessing, TitleSpec
from app.errors import BundleError, ChecksumMismatch, DimensionMismatch, ManifestInvalid, ManifestMissing
from app.model_store import MANIFEST, Bundle, FileEntry, Manifest, load_bundle, new_manifest, read_manifest, write_bundle

PREPROCESSING = Preprocessing(size=32, framing="pad", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
IMAGE = ImageSpec(
    architecture="tiny",
    weights="image.safetensors",
    pooling="avg",
    features=6,
    dim=4,
    projection=True,
    preprocessing=PREPROCESSING,
)
TITLE = TitleSpec(
    config="title_config.json", tokenizer="tokenizer.json", weights="title.safetensors", prefix="query: ", max_tokens=8,
    pad_id=1, features=3, dim=3, projection=False,
)  # fmt: skip
THRESHOLDS = {"fused": [(1, 0.5)], "image": [(1, 0.5)], "title": [(1, 0.5)]}
FILES = ["README.md", "bundle.json", "image.safetensors", "title.safetensors", "title_config.json", "tokenizer.json"]


class Killed(BaseException):
    """Stands for a process that ends in the middle."""


def fill_with(value: float = 1.0, readme: str = "# Tiny\n", shape: tuple[int, int] = (4, 6)) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        image = {"backbone.weight": np.full((2, 2), value, np.float32), "projection.weight": np.zeros(shape, np.float32)}
        save_file(image, folder / "image.safetensors")
        save_file({"backbone.weight": np.ones((3, 3), np.float32)}, folder / "title.safetensors")
        (folder / "title_config.json").write_text("{}")
        (folder / "tokenizer.json").write_text("{}")
        (folder / "README.md").write_text(readme)

    return fill


def manifest_of(
    image: ImageSpec | None = IMAGE,
    title: TitleSpec | None = TITLE,
    weight: float = 0.36,
    thresholds: dict[str, list[tuple[int, float]]] | None = None,
    **texts: dict[str, Any],
) -> Callable[[], Manifest]:
    spec = EncoderSpec(image=image, title=title, fusion=FusionSpec(weight=weight))
    return lambda: new_manifest("tiny", spec, thresholds or THRESHOLDS, None, **texts)


def filled(manifest: Callable[[], Manifest], fill: Callable[[Path], object]) -> Callable[[Path], Manifest]:
    def both(folder: Path) -> Manifest:
        fill(folder)
        return manifest()

    return both


def write(folder: Path, **changes: Any) -> Bundle:
    return write_bundle(folder, filled(manifest_of(**changes), fill_with()))


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    described = json.loads((folder / MANIFEST).read_text())
    change(described)
    (folder / MANIFEST).write_text(json.dumps(described))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "store" / "tiny").folder


# -- writing --------------------------------------------------------------------------------------------------


def test_a_bundle_is_written_whole_and_can_be_loaded(tmp_path: Path) -> None:
    written = write(tmp_path / "store" / "tiny", training={"trained": False})
    loaded = load_bundle(tmp_path / "store" / "tiny")
    assert names(tmp_path / "store") == ["tiny"]
    assert names(written.folder) == FILES
    assert loaded.manifest == written.manifest
    assert loaded.label == f"tiny@{written.fingerprint}"
    assert loaded.size_bytes == sum((written.folder / name).stat().st_size for name in FILES if name != MANIFEST)
    assert loaded.manifest.training == {"trained": False}
    assert loaded.manifest.decision().at("fused", 10) == 0.5


def test_a_bundle_takes_the_place_of_another(tmp_path: Path) -> None:
    old = write(tmp_path / "tiny")
    (old.folder / "forgotten").write_text("by an older version")
    new = write_bundle(tmp_path / "tiny", filled(manifest_of(), fill_with(value=2.0)))
    assert new.fingerprint != old.fingerprint
    assert names(tmp_path / "tiny") == FILES
    assert names(tmp_path) == ["tiny"]


def test_a_bundle_may_be_written_into_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    assert names(write(tmp_path / "tiny").folder) == FILES
    assert names(tmp_path) == ["tiny"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, Killed])
def test_an_interrupted_write_leaves_the_old_bundle_whole(folder: Path, error: type[BaseException]) -> None:
    def fill(scratch: Path) -> None:
        fill_with(value=2.0)(scratch)
        raise error

    before = load_bundle(folder)
    with pytest.raises(error):
        write_bundle(folder, filled(manifest_of(), fill))
    assert load_bundle(folder).manifest == before.manifest
    assert names(folder.parent) == ["tiny"]


def test_an_interrupted_first_write_leaves_nothing(tmp_path: Path) -> None:
    def fill(scratch: Path) -> None:
        fill_with()(scratch)
        raise Killed

    with pytest.raises(Killed):
        write_bundle(tmp_path / "tiny", filled(manifest_of(), fill))
    assert names(tmp_path) == []


def test_a_manifest_that_cannot_be_made_leaves_the_old_bundle_whole(folder: Path) -> None:
    before = load_bundle(folder)
    with pytest.raises(ValidationError, match="w must lie in"):
        write_bundle(folder, filled(manifest_of(weight=1), fill_with(value=2.0)))
    assert load_bundle(folder).manifest == before.manifest
    assert names(folder.parent) == ["tiny"]


def test_a_bundle_that_would_not_load_is_not_put_in_place(folder: Path) -> None:
    before = load_bundle(folder)
    with pytest.raises(DimensionMismatch):
        write_bundle(folder, filled(manifest_of(), fill_with(shape=(5, 6))))
    with pytest.raises(ManifestInvalid, match="checksum"):
        write_bundle(folder, filled(manifest_of(), lambda scratch: (scratch / "README.md").touch()))
    assert load_bundle(folder).manifest == before.manifest
    assert names(folder.parent) == ["tiny"]


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"precious")
    with pytest.raises(BundleError, match="is no bundle"):
        write(tmp_path / "photos")
    assert names(tmp_path) == ["photos"]
    assert (tmp_path / "photos" / "a.jpg").read_bytes() == b"precious"


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tiny").write_text("precious")
    with pytest.raises(BundleError, match="is no bundle"):
        write(tmp_path / "tiny")
    assert (tmp_path / "tiny").read_text() == "precious"


# -- loading: the manifest ------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["missing", "empty", "a_file"])
def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a_file").touch()
    with pytest.raises(ManifestMissing, match="bundle create"):
        load_bundle(tmp_path / place)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b'{"format": 1}'])
def test_a_manifest_that_is_no_description_is_refused(folder: Path, text: bytes) -> None:
    (folder / MANIFEST).write_bytes(text)
    with pytest.raises(ManifestInvalid):
        load_bundle(folder)


def test_a_manifest_that_is_a_folder_is_refused(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()
    with pytest.raises(ManifestInvalid):
        load_bundle(folder)


def changed(*path: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    def change(described: dict[str, Any]) -> None:
        part: Any = described
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed("format", to=2),
        changed("surprise", to=1),
        changed("image", "surprise", to=1),
        changed("name", to=""),
        changed("fusion", "weight", to=1),
        changed("fusion", "weight", to="half"),
        changed("fusion", "method", to="sum"),
        changed("image", to=None),
        changed("image", "dim", to=0),
        changed("image", "preprocessing", "framing", to="guess"),
        changed("title", "dim", to=2),
        changed("thresholds", to={"fused": [[1, 0.5]]}),
        changed("thresholds", "sound", to=[[1, 0.5]]),
        changed("thresholds", "fused", to=[[10, 0.5], [5, 0.5]]),
        changed("thresholds", "fused", to=[[1, 1.5]]),
        changed("files", "README.md", "sha256", to="abc"),
        changed("files", "README.md", "size_bytes", to=-1),
        lambda described: described["files"].pop("tokenizer.json"),
        lambda described: described.pop("thresholds"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    edit(folder, change)
    with pytest.raises(ManifestInvalid, match=r"bundle\.json"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["../image.safetensors", "/etc/passwd", "a/b", "./a", ".", "..", "", "bundle.json"])
def test_a_file_name_that_leads_out_of_the_bundle_is_refused(folder: Path, name: str) -> None:
    edit(folder, lambda described: described["files"].update({name: described["files"]["README.md"]}))
    with pytest.raises(ManifestInvalid, match="plain file name"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("tower", "part"), [("image", "weights"), ("title", "weights"), ("title", "config"), ("title", "tokenizer")]
)
def test_a_tower_cannot_be_read_from_outside_the_bundle(folder: Path, tower: str, part: str) -> None:
    edit(folder, changed(tower, part, to="../secret"))
    with pytest.raises(ManifestInvalid, match="plain file name"):
        load_bundle(folder)


def test_the_manifest_can_be_read_without_the_other_files(folder: Path) -> None:
    (folder / "image.safetensors").unlink()
    assert read_manifest(folder).name == "tiny"


# -- loading: the files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FILES if name != MANIFEST])
def test_one_flipped_bit_in_any_file_is_found(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ChecksumMismatch, match=name):
        load_bundle(folder)


@pytest.mark.parametrize("name", [name for name in FILES if name != MANIFEST])
def test_a_file_that_is_cut_off_or_missing_is_found(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(ChecksumMismatch, match="cut off"):
        load_bundle(folder)
    (folder / name).unlink()
    with pytest.raises(ChecksumMismatch, match="missing"):
        load_bundle(folder)


def test_a_file_that_the_manifest_does_not_name_is_ignored(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    assert load_bundle(folder).manifest.name == "tiny"


@pytest.mark.parametrize(("projection", "dim", "features"), [(True, 5, 6), (True, 4, 7), (True, 6, 4), (False, 6, 6)])
def test_a_projection_of_another_shape_than_the_manifest_says_is_refused(
    folder: Path, projection: bool, dim: int, features: int
) -> None:
    edit(folder, lambda described: described["image"].update(projection=projection, dim=dim, features=features))
    with pytest.raises(DimensionMismatch, match=r"\(4, 6\)"):
        load_bundle(folder)


def test_a_projection_that_is_missing_is_refused(folder: Path) -> None:
    edit(folder, changed("title", "projection", to=True))
    with pytest.raises(DimensionMismatch, match="None"):
        load_bundle(folder)


def test_weights_in_another_format_are_refused(tmp_path: Path) -> None:
    def fill(scratch: Path) -> None:
        fill_with()(scratch)
        (scratch / "title.safetensors").write_bytes(b"pickle" * 100)

    with pytest.raises(DimensionMismatch, match="not a safetensors file"):
        write_bundle(tmp_path / "tiny", filled(manifest_of(), fill))


# -- the fingerprint ------------------------------------------------------------------------------------------


def test_the_fingerprint_names_the_vectors(tmp_path: Path) -> None:
    first = write(tmp_path / "a")
    assert len(first.fingerprint) == 16
    assert write(tmp_path / "b").fingerprint == first.fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": 0.37},
        {"image": IMAGE.model_copy(update={"preprocessing": PREPROCESSING.model_copy(update={"framing": "crop"})})},
        {"image": IMAGE.model_copy(update={"preprocessing": PREPROCESSING.model_copy(update={"mean": (0.5, 0.5, 0.4)})})},
        {"image": IMAGE.model_copy(update={"pooling": "gem"})},
        {"title": TITLE.model_copy(update={"prefix": ""})},
        {"title": TITLE.model_copy(update={"max_tokens": 9})},
        {"title": None, "weight": 1},
    ],
)
def test_the_fingerprint_changes_with_all_that_a_vector_depends_on(
    folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert write(tmp_path / "other", **changes).fingerprint != load_bundle(folder).fingerprint


def test_the_fingerprint_changes_with_the_weights(folder: Path, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", filled(manifest_of(), fill_with(value=1.5)))
    assert other.fingerprint != load_bundle(folder).fingerprint


def test_the_fingerprint_survives_new_thresholds_and_texts(folder: Path, tmp_path: Path) -> None:
    described = manifest_of(
        thresholds={modality: [(1, 0.7), (9, 0.8)] for modality in THRESHOLDS}, metrics={"f1": 0.9}, data={"rows": 5}
    )
    other = write_bundle(tmp_path / "other", filled(described, fill_with(readme="# Another card\n")))
    assert other.fingerprint == load_bundle(folder).fingerprint


def test_a_bundle_without_parts_has_the_fingerprint_that_it_had_before_there_were_ensembles() -> None:
    names = ("image.safetensors", "title.safetensors", "title_config.json", "tokenizer.json")
    files = {name: FileEntry(sha256=str(number) * 64, size_bytes=1) for number, name in enumerate(names)}
    assert manifest_of()().model_copy(update={"files": files}).fingerprint() == "8b765de6bd6993d7"


# -- ensembles ------------------------------------------------------------------------------------------------


def renamed(part: PartSpec, number: int) -> PartSpec:
    """The part with the file names that it has in an ensemble."""
    image = part.image and part.image.model_copy(update={"weights": f"{number}-{part.image.weights}"})
    new = {field: f"{number}-{getattr(TITLE, field)}" for field in ("weights", "config", "tokenizer")}
    return part.model_copy(update={"image": image, "title": part.title and part.title.model_copy(update=new)})


BOTH = PartSpec(name="both", fingerprint="0" * 16, image=IMAGE, title=TITLE, image_share=0.75, title_share=1)
PHOTOS = PartSpec(name="photos", fingerprint="1" * 16, image=IMAGE, title=None, image_share=0.25, title_share=0)


def write_ensemble(folder: Path, *parts: PartSpec, **changes: Any) -> Bundle:
    given = tuple(renamed(part, number) for number, part in enumerate(parts or (BOTH, PHOTOS)))

    def fill(scratch: Path) -> Manifest:
        for number in range(len(given)):
            (scratch / "whole").mkdir()
            fill_with(**changes)(scratch / "whole")
            for file in (scratch / "whole").iterdir():
                file.rename(scratch / ("README.md" if file.name == "README.md" else f"{number}-{file.name}"))
            (scratch / "whole").rmdir()
        spec = EncoderSpec(image=None, title=None, fusion=FusionSpec(weight=0.36), parts=given)
        return new_manifest("ensemble", spec, THRESHOLDS)

    return write_bundle(folder, fill)


@pytest.fixture
def together(tmp_path: Path) -> Path:
    return write_ensemble(tmp_path / "together").folder


def test_an_ensemble_has_the_dimensions_and_files_of_all_its_parts(together: Path) -> None:
    manifest = load_bundle(together).manifest
    fusion = manifest.encoder_fusion()
    assert (fusion.image_dim, fusion.title_dim) == (8, 3)
    assert manifest.spec().modalities() == {"image", "title", "fused"}
    assert sorted(manifest.vector_files()) == [
        "0-image.safetensors", "0-title.safetensors", "0-title_config.json", "0-tokenizer.json", "1-image.safetensors",
    ]  # fmt: skip


def test_the_fingerprint_of_an_ensemble_covers_shares_towers_and_bytes_but_not_where_parts_came_from(
    together: Path, tmp_path: Path
) -> None:
    own = load_bundle(together).fingerprint
    halved = [part.model_copy(update={"image_share": 0.5}) for part in (BOTH, PHOTOS)]
    padded = PHOTOS.model_copy(update={"image": IMAGE.model_copy(update={"pooling": "gem"})})
    moved = PHOTOS.model_copy(update={"name": "other", "fingerprint": "2" * 16})
    others = [write_ensemble(tmp_path / "halved", *halved), write_ensemble(tmp_path / "padded", BOTH, padded)]
    others += [write_ensemble(tmp_path / "turned", PHOTOS, BOTH), write_ensemble(tmp_path / "filled", value=2.0)]
    assert len({own, *(one.fingerprint for one in others)}) == 5
    assert write_ensemble(tmp_path / "moved", BOTH, moved).fingerprint == own


@pytest.mark.parametrize(
    "change",
    [
        changed("image", to=IMAGE.model_dump()),
        changed("parts", to=[]),
        changed("parts", 0, "image_share", to=0.5),
        changed("parts", 0, "title_share", to=0),
        changed("parts", 1, "title_share", to=0.5),
        changed("parts", 1, "image", to=None),
        changed("parts", 1, "name", to=""),
        changed("parts", 1, "fingerprint", to="none"),
        changed("parts", 1, "surprise", to=1),
        changed("fusion", "weight", to=1),
        changed("parts", 1, "image", "weights", to="../secret"),
        lambda described: described["files"].pop("1-image.safetensors"),
    ],
)
def test_an_ensemble_that_contradicts_itself_is_refused(together: Path, change: Callable[[dict[str, Any]], None]) -> None:
    edit(together, change)
    with pytest.raises(ManifestInvalid, match=r"bundle\.json"):
        load_bundle(together)


def test_the_projections_of_all_parts_are_checked(together: Path) -> None:
    edit(together, changed("parts", 1, "image", "dim", to=5))
    with pytest.raises(DimensionMismatch, match=r"1-image.safetensors has a projection of shape \(4, 6\)"):
        load_bundle(together)
