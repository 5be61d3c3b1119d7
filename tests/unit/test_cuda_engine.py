"""Towers as CUDA graphs, as far as it can be told without a GPU: sizes, padding, and in which precision a tower runs.

A stand-in for the graph computes again on the same memory, and what a GPU would do in half precision is done on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from app.core.spec import EncoderSpec
from app.encoders import cuda_engine, engines
from app.encoders.cuda_engine import TOKENS, Captured, fill, next_size, up_to
from app.encoders.title import TitleTokens
from app.encoders.towers import build_image_tower, build_title_tower
from app.model_store import load_bundle
from tests import tiny

CPU = torch.device("cpu")
SIZES = ((1, 4, 8), (8, 12))


@dataclass(slots=True)
class Recorder:
    """Stands for CUDA: keeps the outputs' memory as a graph does."""

    replays: int = 0
    outputs: list[Tensor] = field(default_factory=list)

    def record(self, run: Callable[[], Tensor], _pool: object) -> tuple[Callable[[], None], Tensor]:
        output = run()
        self.outputs.append(output)

        def replay() -> None:
            self.replays += 1
            with torch.inference_mode():
                output.copy_(run())

        return replay, output


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    stand_in = Recorder()
    stream = SimpleNamespace(wait_event=lambda _: None)
    monkeypatch.setattr(cuda_engine, "record", stand_in.record)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda _: None))
    return stand_in


class Sums(nn.Module):
    """Ids and mask -> the sum of what is not padding, and how many they are."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return torch.stack([(ids * mask).sum(1), mask.sum(1)], dim=1).float()


LIKE = [torch.zeros(2, 3, dtype=torch.long)] * 2


@given(st.integers(1, 8), st.integers(1, 12))
def test_the_next_size_is_the_smallest_that_holds_it(rows: int, tokens: int) -> None:
    found = next_size((rows, tokens), SIZES)
    assert found is not None
    for many, size, some in zip((rows, tokens), found, SIZES, strict=True):
        assert size == min(one for one in some if one >= many)


@pytest.mark.parametrize("wanted", [(9, 8), (1, 13), (9, 13)])
def test_what_is_larger_than_any_has_no_size(wanted: tuple[int, int]) -> None:
    assert next_size(wanted, SIZES) is None


def test_sizes_end_where_titles_end() -> None:
    assert up_to((8, 16, 32), 20) == (8, 16, 20)
    assert up_to((8, 16, 32), 16) == (8, 16)
    assert up_to((8, 16, 32), 99) == (8, 16, 32)
    assert up_to((8, 16), 4) == (4,)
    assert up_to(TOKENS, 48)[-1] == 48


def test_nothing_of_an_earlier_input_is_left_around_a_smaller_one() -> None:
    place = torch.full((4, 6), 9)
    fill(place, torch.ones(2, 3, dtype=torch.long), (2, 3))
    wanted = torch.zeros(4, 6, dtype=torch.long)
    wanted[:2, :3] = 1
    assert torch.equal(place, wanted)


def test_every_size_gives_the_rows_of_the_module(recorder: Recorder) -> None:
    captured = Captured(Sums(), LIKE, SIZES)
    generator = torch.Generator().manual_seed(0)
    for rows in range(1, 9):
        for tokens in range(1, 13):
            ids = torch.randint(1, 99, (rows, tokens), generator=generator)
            mask = (torch.arange(tokens) < 1 + torch.arange(rows)[:, None]).long()
            torch.testing.assert_close(captured(ids, mask), Sums()(ids, mask))
    assert recorder.replays == 8 * 12
    assert len(recorder.outputs) == 3 * 2


def test_a_larger_input_is_computed_without_a_graph(recorder: Recorder) -> None:
    captured = Captured(Sums(), LIKE, SIZES)
    ids = torch.ones(9, 12, dtype=torch.long)
    torch.testing.assert_close(captured(ids, ids), Sums()(ids, ids))
    assert recorder.replays == 0


@pytest.mark.usefixtures("recorder")
def test_rows_are_the_callers_own_and_threads_do_not_mix_them_up() -> None:
    captured = Captured(Sums(), LIKE, SIZES)

    def call(number: int) -> bool:
        ids = torch.full((4, 8), number)
        rows = captured(ids, torch.ones_like(ids))
        return torch.equal(rows, torch.tensor([[8.0 * number, 8.0]] * 4))

    kept = captured(torch.full((4, 8), 7), torch.ones(4, 8, dtype=torch.long))
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(400)))
    assert torch.equal(kept, torch.tensor([[56.0, 8.0]] * 4))


# -- towers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Made:
    """A small bundle."""

    folder: Path
    spec: EncoderSpec


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("cuda")
    made = tiny.bundle(folder, "query: ")
    return Made(made, load_bundle(made).manifest.spec())


def sources(made: Made) -> tuple[engines._Source, engines._Source]:
    assert made.spec.image is not None
    assert made.spec.title is not None
    tokens = TitleTokens(made.spec.title, made.folder / made.spec.title.tokenizer)
    image, title = (
        engines._image_source(made.spec.image, made.folder),
        engines._title_source(made.spec.title, made.folder, tokens),
    )
    return replace(image, sizes=((1, 4),)), replace(title, sizes=((1, 8), (8, 32)))


def precision_of(placed: engines.OnDevice | None) -> torch.dtype:
    module: Any = getattr(placed, "_module", placed)
    found: torch.dtype = next(module.tower.backbone.parameters()).dtype
    return found


@pytest.mark.usefixtures("recorder")
def test_towers_run_in_half_precision_and_what_follows_them_does_not(made: Made) -> None:
    assert made.spec.image is not None
    assert made.spec.title is not None
    image, title = (engines._capture(source, CPU) for source in sources(made))
    assert precision_of(image) == precision_of(title) == torch.float16
    assert image is not None
    assert title is not None
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    tokens = TitleTokens(made.spec.title, made.folder / made.spec.title.tokenizer)
    batch = tokens(["apple", "pear 3 500 g", "x"])
    with torch.inference_mode():
        photos, words = engines._CapturedImage(image)(pixels), engines._CapturedTitle(title, made.spec.title, None)(batch)
        plain_photos = build_image_tower(made.spec.image, made.folder).eval()(pixels)
        plain_words = build_title_tower(made.spec.title, made.folder).eval()(batch)
    for rows, wanted in ((photos, plain_photos), (words, plain_words)):
        assert rows.dtype == torch.float32
        assert float((rows * wanted).sum(1).min()) >= 0.999
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))


@pytest.mark.usefixtures("recorder")
def test_a_precision_whose_vectors_do_not_agree_is_passed_over(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    agrees = engines.agrees
    answers = iter([False, True])
    monkeypatch.setattr(engines, "agrees", lambda *given: next(answers) and agrees(*given))
    assert precision_of(engines._capture(sources(made)[1], CPU)) == torch.bfloat16
    assert "torch.float16: the vectors are not those of float32" in caplog.text


@pytest.mark.usefixtures("recorder")
def test_every_captured_size_is_compared(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def note(_model: object, probes: list[tuple[Any, ...]], wanted: Any, _least: float) -> bool:
        compared.extend(len(probe[0]) for probe in probes)
        assert len(wanted) == sum(compared)
        return True

    monkeypatch.setattr(engines, "agrees", note)
    engines._capture(sources(made)[0], CPU)
    assert compared[-2:] == [1, 4]


@pytest.mark.usefixtures("recorder")
def test_a_tower_that_cannot_be_captured_runs_kernel_by_kernel(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_engine, "record", refuse)
    found = engines._capture(sources(made)[0], CPU)
    assert isinstance(found, nn.Module)
    assert precision_of(found) == torch.float16
    assert "kernel by kernel: operation not permitted" in caplog.text


@pytest.mark.usefixtures("recorder")
def test_a_tower_that_agrees_in_no_precision_is_left_to_torch(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engines, "agrees", lambda *_: False)
    assert engines._capture(sources(made)[1], CPU) is None
    assert caplog.text.count("does not run in") == 3


@pytest.mark.parametrize("spoiled", [[[0.0] * 4] * 3, [[float("nan")] * 4] * 3, [[1.0] * 4] * 2])
def test_vectors_agree_only_with_vectors(spoiled: list[list[float]]) -> None:
    rows = np.ones((3, 4), np.float32)
    assert engines.agrees(lambda given: given, [(rows,)], rows, 0.999)
    assert not engines.agrees(lambda given: given, [(np.array(spoiled, np.float32),)], rows, 0.999)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_a_graph_gives_the_rows_of_the_module() -> None:
    device = torch.device("cuda")
    torch.manual_seed(0)
    module = nn.Linear(4, 3).eval().requires_grad_(False).to(device)
    captured = Captured(module, [torch.zeros(1, 4, device=device)], ((1, 8),))
    for rows in (1, 3, 8, 11):
        given = torch.rand(rows, 4, device=device)
        with torch.inference_mode():
            torch.testing.assert_close(captured(given), module(given), atol=1e-5, rtol=1e-4)
