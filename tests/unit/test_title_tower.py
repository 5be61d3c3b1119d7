"""The title tower reads a batch in parts of similar length; nobody must be able to tell from its vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.core.spec import EncoderSpec, FusionSpec
from app.encoders import pretrained
from app.encoders.multimodal import load_title_tower
from app.encoders.title import _CALL_TOKENS, TitleTokens, TitleTower, _sizes, by_length
from tests import tiny


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[TitleTower, TitleTokens]:
    folder = tmp_path_factory.mktemp("title")
    options = pretrained.TitleOptions("", 48)
    spec = pretrained.title_tower(str(tiny.title_encoder(folder)), options, folder, "fp32")
    tower = load_title_tower(EncoderSpec(image=None, title=spec, fusion=FusionSpec(weight=0.0)), folder)
    return tower.eval(), TitleTokens(spec, folder / spec.tokenizer)


def titles(count: int) -> list[str]:
    """Of one to twenty words, in no order."""
    return [" ".join(f"{'abcdefgh'[(n + k) % 8]}{k}" for k in range(1 + (n * 17) % 20)) for n in range(count)]


def counted(tower: TitleTower, read: list[int]) -> torch.utils.hooks.RemovableHandle:
    def note(_: object, __: object, inputs: dict[str, torch.Tensor]) -> None:
        read.append(inputs["input_ids"].numel())

    return tower.backbone.register_forward_pre_hook(note, with_kwargs=True)


@pytest.mark.parametrize("count", [1, 16, 17, 50])
def test_features_are_those_of_each_title_alone(parts: tuple[TitleTower, TitleTokens], count: int) -> None:
    tower, tokens = parts
    with torch.no_grad():
        together = tower.features(tokens(titles(count)))
        alone = torch.cat([tower.features(tokens([title])) for title in titles(count)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_short_titles_do_not_pay_for_long_ones(parts: tuple[TitleTower, TitleTokens]) -> None:
    tower, tokens = parts
    batch, read = tokens(titles(64)), list[int]()
    handle = counted(tower, read)
    with torch.no_grad():
        tower.features(batch)
    handle.remove()
    assert int(batch.mask.sum()) <= sum(read) < 0.8 * batch.ids.numel()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 4))
def test_parts_come_back_in_order_and_are_cut_to_their_longest(lengths: list[int], at_once: int) -> None:
    mask = (torch.arange(60)[None, : max(lengths)] < torch.tensor(lengths)[:, None]).long()
    ids = torch.arange(1, len(lengths) + 1)[:, None] * mask
    sizes = list[int]()

    def read(parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
        for part, known in parts:
            assert part.shape == known.shape
            assert int(known.sum(1).max()) == part.shape[1]
            sizes.append(len(part))
        return [torch.stack([part.amax(1), known.sum(1)], dim=1) for part, known in parts]

    rows = by_length(ids, mask, read, at_once)
    assert rows.tolist() == [[n + 1, length] for n, length in enumerate(lengths)]
    assert sum(sizes) == len(lengths)


@pytest.mark.parametrize(
    ("lengths", "at_once", "wanted"),
    [
        ([20] * 8, 1, [8]),
        ([20] * 8, 2, [4, 4]),
        ([20] * 7, 2, [3, 4]),
        ([5] * 8, 2, [8]),  # 40 tokens are not worth two calls
        ([30, 30, 10, 10], 1, [2, 2]),  # 40 of padding are dearer than a call
        ([30, 30, 10], 1, [3]),  # 20 are not
    ],
)
def test_titles_are_cut_where_it_pays(lengths: list[int], at_once: int, wanted: list[int]) -> None:
    assert _sizes(lengths, at_once) == wanted


@given(st.lists(st.integers(1, 60), min_size=1, max_size=9))
def test_no_cut_is_cheaper(lengths: list[int]) -> None:
    lengths.sort(reverse=True)

    def cost(ends: tuple[int, ...]) -> int:
        return sum(_CALL_TOKENS + lengths[start] * (end - start) for start, end in pairwise((0, *ends, len(lengths))))

    every = [ends for count in range(len(lengths)) for ends in combinations(range(1, len(lengths)), count)]
    assert cost(tuple(accumulate(_sizes(lengths, 1)))[:-1]) == min(map(cost, every))
