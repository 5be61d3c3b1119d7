"""Towers in OpenVINO: the same vectors as in PyTorch, or PyTorch."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from app.bootstrap import build_encoder
from app.bundling import Recipe, create
from app.core.product import Floats, Pixels
from app.encoders import engines
from app.encoders.engine_cache import EngineCache
from app.encoders.multimodal import MultimodalEncoder
from app.encoders.pretrained import ImageOptions, TitleOptions
from app.ensembling import combine
from app.errors import DimensionMismatch
from app.model_store import load_bundle
from app.settings import Settings
from tests import tiny
from tests.fakes import photo

engine = pytest.importorskip("app.encoders.openvino_engine", exc_type=ImportError)

ROOT = Path(__file__).parent.parent.parent
PHOTOS = [photo((200, 40, 90)), photo((10, 200, 30)), photo((0, 0, 255))]
TITLES = [" ".join(["apple", "pear 3", "500 g", "x"][: 1 + n % 4] * (1 + n % 7)) for n in range(30)]


@dataclass(frozen=True, slots=True)
class Shelf:
    """A bundle, and where its converted towers are kept."""

    bundle: Path
    cache: Path

    def open(self, name: str, bundle: Path | None = None, threads: int = 1) -> MultimodalEncoder:
        settings = Settings(device="cpu", engine=name, engine_cache=self.cache, engine_threads=threads)
        return build_encoder(settings, load_bundle(bundle or self.bundle))

    @property
    def entries(self) -> list[Path]:
        return sorted((self.cache / f"{self.bundle.name}.engines").iterdir())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A small bundle with colours and words in 8 bits, converted."""
    folder = tmp_path_factory.mktemp("engines")
    shelf = Shelf(tiny.bundle(folder, "query: "), folder / "cache")
    shelf.open("openvino")
    return shelf


@pytest.fixture
def shelf(made: Shelf, tmp_path: Path) -> Shelf:
    """A copy of it that a test may spoil."""
    shutil.copytree(made.cache, tmp_path / "cache")
    return Shelf(made.bundle, tmp_path / "cache")


def pixels(encoder: MultimodalEncoder) -> list[Pixels]:
    return [encoder.read_photo(data)[1] for data in PHOTOS]


def both(encoder: MultimodalEncoder) -> tuple[Floats, Floats]:
    return encoder.embed_photos(pixels(encoder)), encoder.embed_titles(TITLES)


def converted(encoder: MultimodalEncoder) -> list[bool]:
    towers = [*(one.tower for one in encoder._images), *(one.tower for one in encoder._titles)]
    return [not isinstance(tower, nn.Module) for tower in towers]


def check_same(one: MultimodalEncoder, other: MultimodalEncoder) -> None:
    for rows, wanted in zip(both(one), both(other), strict=True):
        np.testing.assert_allclose(rows, wanted, atol=1e-4)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes OpenVINO know none of the towers."""

    def refuse(*_: object) -> None:
        raise engine.CannotConvert("an operation that it does not know")

    monkeypatch.setattr(engine, "convert", refuse)


# -- vectors --------------------------------------------------------------------------------------------------


def test_the_vectors_are_those_of_torch(made: Shelf) -> None:
    quick, plain = made.open("openvino"), made.open("torch")
    assert converted(quick) == [True, True]
    assert converted(plain) == [False, False]
    check_same(quick, plain)


def test_an_ensemble_is_converted_tower_by_tower(made: Shelf, tmp_path: Path) -> None:
    small = create(Recipe(None, str(tiny.title_encoder(tmp_path)), title=TitleOptions("title: ", 8)), tmp_path / "two")
    shelf = Shelf(combine([made.bundle, small.folder], tmp_path / "all").folder, tmp_path / "cache")
    quick = shelf.open("openvino")
    assert converted(quick) == [True, True, True]
    assert [entry.name.rpartition("-")[0] for entry in shelf.entries] == ["0-image", "0-title", "1-title"]
    check_same(quick, shelf.open("torch"))


def test_a_vector_does_not_depend_on_its_company_or_on_threads(made: Shelf) -> None:
    encoder = made.open("openvino")
    photos, titles = pixels(encoder), TITLES
    alone = np.concatenate([encoder.embed_photos([one]) for one in photos])
    calls: list[Callable[[], Floats]] = [
        lambda n=n: encoder.embed_titles(titles[n:] + titles[:n])  # type: ignore[misc]
        for n in range(16)
    ]
    with ThreadPoolExecutor(8) as pool:
        seen = [pool.submit(encoder.embed_photos, photos) for _ in range(16)]
        read = [pool.submit(call) for call in calls]
    for one in seen:
        np.testing.assert_allclose(one.result(), alone, atol=1e-5)
    wanted = np.concatenate([encoder.embed_titles([one]) for one in titles])
    for n, rows in enumerate(read):
        np.testing.assert_allclose(rows.result(), np.roll(wanted, -n, axis=0), atol=1e-5)


def test_two_streams_give_what_one_gives(made: Shelf) -> None:
    before = torch.get_num_threads()
    try:
        one, two = made.open("openvino"), made.open("openvino", threads=2)
    finally:
        torch.set_num_threads(before)
    assert (one.at_once, two.at_once) == (1, 2)
    check_same(one, two)
    seen, read = two.embed(pixels(two) * 5, TITLES * 3)
    np.testing.assert_allclose(seen, np.tile(one.embed_photos(pixels(one)), (5, 1)), atol=1e-5)
    np.testing.assert_allclose(read, np.tile(one.embed_titles(TITLES), (3, 1)), atol=1e-5)


def test_a_call_that_fails_leaves_the_others_of_its_kind_alone() -> None:
    rows = np.random.default_rng(0).random((8, 4), np.float32)
    model = engine.convert(_Doubling().eval(), [torch.rand(2, 4)], [(-1, 4)])
    run = engine.Compiled(model, 2, 2)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            run.each([(rows[:1],), (rows[:2],), (rows[:2, :3].copy(),), (rows[2:],)])
        found = run.each([(rows[:1],), (rows[1:2],), (rows[2:],)])
        np.testing.assert_allclose(np.concatenate(found), 2 * rows)
    assert run.each([]) == []


class _Doubling(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return 2 * rows


@pytest.mark.real
def test_the_shipped_bundle_gives_the_same_answers(tmp_path: Path) -> None:
    bundle = load_bundle(ROOT / "model_store" / "default")
    quick, plain = (
        build_encoder(Settings(device="cpu", engine=name, engine_cache=tmp_path), bundle) for name in ("openvino", "torch")
    )
    assert converted(quick) == [True, True]
    photos = [plain.read_photo(file.read_bytes())[1] for file in sorted((ROOT / "samples" / "catalog").iterdir())]
    with (ROOT / "samples" / "catalog.csv").open(encoding="utf-8", newline="") as stream:
        titles = [plain.read_title(row["title"]) for row in csv.DictReader(stream) if row["title"]]
    pairs = (
        (quick.embed_photos(photos), plain.embed_photos(photos)),
        (quick.embed_titles(titles), plain.embed_titles(titles)),
    )
    for rows, wanted in pairs:
        assert len(wanted) > 50
        assert float((rows * wanted).sum(1).min()) >= 0.999
        np.testing.assert_allclose(rows @ rows.T, wanted @ wanted.T, atol=1e-3)


# -- the cache ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("refusing")
def test_a_second_start_converts_nothing(made: Shelf) -> None:
    quick = made.open("openvino")
    assert converted(quick) == [True, True]
    check_same(quick, made.open("torch"))


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize("name", ["model.bin", "model.xml", "wanted.npy", "entry.json"])
def test_a_damaged_entry_is_not_used(shelf: Shelf, name: str, caplog: pytest.LogCaptureFixture) -> None:
    file = shelf.entries[0] / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    assert converted(shelf.open("openvino")) == [False, True]
    assert "damaged" in caplog.text


def test_a_damaged_entry_is_made_again(shelf: Shelf) -> None:
    entry = shelf.entries[1]
    (entry / "model.bin").write_bytes(b"")
    assert converted(shelf.open("openvino")) == [True, True]
    assert shelf.entries[1] == entry
    assert (entry / "model.bin").stat().st_size > 0


def test_an_entry_that_gives_other_vectors_is_made_again(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    bundle = load_bundle(shelf.bundle)
    cache = EngineCache((shelf.entries[0].parent,), bundle.fingerprint)
    how = f"openvino {engine.version()} fp32"
    entry = cache.find("image", how)
    assert entry is not None
    model = engine.read(entry.folder)
    cache.store("image", how, np.roll(entry.wanted, 1, axis=1), lambda folder: engine.save(model, folder))
    quick = shelf.open("openvino")
    assert "made again" in caplog.text
    assert converted(quick) == [True, True]
    check_same(quick, shelf.open("torch"))


@pytest.mark.usefixtures("refusing")
def test_another_bundle_of_that_name_does_not_use_it(made: Shelf, tmp_path: Path) -> None:
    recipe = Recipe(str(tiny.image_encoder(tmp_path)), None, image=ImageOptions("avg", size=64))
    other = create(recipe, tmp_path / made.bundle.name)
    assert converted(made.open("openvino", other.folder)) == [False]


def test_without_a_place_to_write_it_still_runs(made: Shelf, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    quick = Shelf(made.bundle, tmp_path / "file").open("openvino")
    assert converted(quick) == [True, True]
    assert "every start converts it" in caplog.text
    check_same(quick, made.open("torch"))


def test_torch_writes_no_cache(made: Shelf, tmp_path: Path) -> None:
    Shelf(made.bundle, tmp_path / "cache").open("torch")
    assert not (tmp_path / "cache").exists()


# -- what cannot be converted ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("refusing")
def test_towers_that_cannot_be_converted_run_in_torch(made: Shelf, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "app"):
        encoder = Shelf(made.bundle, tmp_path / "cache").open("openvino")
    assert converted(encoder) == [False, False]
    assert caplog.text.count("runs in PyTorch, as OpenVINO cannot run it") == 2
    check_same(encoder, made.open("torch"))


class _Unknown(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        values: Tensor = torch.linalg.eigvalsh(rows @ rows.T)
        return values[:, None] * rows


class _Raising(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        raise ValueError("not this")


class _Branching(nn.Module):
    """Does what a trace cannot keep."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows.flip(1) if len(rows) > 2 else rows


@pytest.mark.parametrize("module", [_Unknown(), _Raising()])
def test_what_cannot_be_traced_or_is_not_known_cannot_be_converted(module: nn.Module) -> None:
    with pytest.raises(engine.CannotConvert):
        engine.convert(module.eval(), [torch.rand(2, 4)], [(-1, 4)])


def test_a_tower_whose_trace_gives_other_vectors_runs_in_torch(made: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    rows = np.random.default_rng(0).random((3, 4), dtype=np.float32)
    source = engines._Source("branching", lambda: _Branching().eval(), (rows[:2],), ((-1, 4),), ((rows[:1],), (rows,)))
    assert engines._open(source, made.open("openvino").runtime, None) is None
    assert "not those of PyTorch" in caplog.text
    fine = engines._Source("fine", lambda: _Branching().eval(), (rows[:2],), ((-1, 4),), ((rows[:1],), (rows[:2],)))
    assert engines._open(fine, made.open("openvino").runtime, None) is not None


def test_converting_leaves_logging_as_it_was() -> None:
    root = logging.getLogger()
    before = root.level, list(root.filters), list(root.handlers), logging.getLogger("transformers").level
    engine.convert(_Branching().eval(), [torch.rand(2, 4)], [(-1, 4)])
    assert before == (root.level, root.filters, root.handlers, logging.getLogger("transformers").level)


def test_weights_that_do_not_fit_are_still_refused(made: Shelf, tmp_path: Path) -> None:
    bundle = load_bundle(made.bundle)
    spec = bundle.manifest.spec()
    assert spec.image is not None
    wrong = spec.image.model_copy(update={"architecture": "mobilenetv3_small_075"})
    with pytest.raises(DimensionMismatch):
        engines.place_image(wrong, bundle.folder, made.open("openvino").runtime, None)
