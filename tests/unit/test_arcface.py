"""The heads, against pytorch-metric-learning and against the papers written out in NumPy."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pytorch_metric_learning.losses import ArcFaceLoss, SubCenterArcFaceLoss

from app.errors import InvalidInput
from app.training.arcface import EPSILON, ArcFaceHead, CurricularHead, HeadKind, make_head, margin_shares, with_margin

KINDS: tuple[HeadKind, ...] = ("arcface", "subcenter", "curricular")
Doubles = NDArray[np.float64]


def random_case(seed: int, rows: int, dim: int, groups: int, centres: int = 1) -> tuple[torch.Tensor, ...]:
    """Embeddings of any length, labels, and centres."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = 3 * torch.randn(rows, dim, generator=generator)
    labels = torch.randint(groups, (rows,), generator=generator)
    return embeddings, labels, torch.randn(groups * centres, dim, generator=generator)


def with_centres(head: ArcFaceHead, weight: torch.Tensor) -> ArcFaceHead:
    head.weight.data.copy_(weight)
    return head


cases = given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 12),
    dim=st.integers(4, 64),
    groups=st.integers(2, 40),
    margin=st.floats(0, 1.5),
    scale=st.floats(1, 64),
)


@cases
def test_the_loss_is_that_of_pytorch_metric_learning(
    seed: int, rows: int, dim: int, groups: int, margin: float, scale: float
) -> None:
    embeddings, labels, weight = random_case(seed, rows, dim, groups)
    oracle = ArcFaceLoss(groups, dim, margin=math.degrees(margin), scale=scale)
    oracle.W.data = weight.T.double()
    ours = with_centres(ArcFaceHead(dim, groups, margin, scale), weight)(embeddings, labels)
    assert ours.item() / scale == pytest.approx(oracle(embeddings.double(), labels).item() / scale, abs=1e-5)


@cases
def test_the_loss_with_several_centres_is_that_of_pytorch_metric_learning(
    seed: int, rows: int, dim: int, groups: int, margin: float, scale: float
) -> None:
    embeddings, labels, weight = random_case(seed, rows, dim, groups, centres=3)
    oracle = SubCenterArcFaceLoss(
        num_classes=groups, embedding_size=dim, margin=math.degrees(margin), scale=scale, sub_centers=3
    )
    oracle.W.data = weight.T.double()
    ours = with_centres(make_head("subcenter", dim, groups, margin, scale, centres=3), weight)(embeddings, labels)
    assert ours.item() / scale == pytest.approx(oracle(embeddings.double(), labels).item() / scale, abs=1e-5)


def test_gradients_are_those_of_pytorch_metric_learning() -> None:
    embeddings, labels, weight = random_case(7, 16, 24, 9)
    ours, theirs = embeddings.clone().requires_grad_(), embeddings.double().requires_grad_()
    head, oracle = with_centres(ArcFaceHead(24, 9, 0.4, 30.0), weight), ArcFaceLoss(9, 24, math.degrees(0.4), 30.0)
    oracle.W.data = weight.T.double()
    head(ours, labels).backward()
    oracle(theirs, labels).backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert head.weight.grad is not None
    assert oracle.W.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad.float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(head.weight.grad, oracle.W.grad.T.float(), rtol=1e-4, atol=1e-6)


def curricular(embeddings: Doubles, weight: Doubles, labels: NDArray[np.int64], t: float, m: float, s: float) -> float:
    """Equations 8 to 10 of the paper, listing by listing."""
    losses = []
    for x, label in zip(embeddings, labels, strict=True):
        cosines = [float(x @ w) / math.sqrt(x @ x) / math.sqrt(w @ w) for w in weight]
        target = math.cos(math.acos(cosines[label]) + m)
        terms = []
        for j, cosine in enumerate(cosines):
            if j == label:
                terms.append(math.exp(s * target))
            elif target - cosine >= 0:
                terms.append(math.exp(s * cosine))
            else:
                terms.append(math.exp(s * cosine * (t + cosine)))
        losses.append(-math.log(terms[label] / sum(terms)))
    return float(np.mean(losses))


@given(seed=st.integers(0, 2**31), groups=st.integers(2, 20), margin=st.floats(0, 0.9), scale=st.floats(1, 30))
def test_curricular_is_the_paper_written_out(seed: int, groups: int, margin: float, scale: float) -> None:
    head, t = CurricularHead(16, groups, margin, scale, momentum=0.1), 0.0
    for step in range(3):
        embeddings, labels, weight = random_case(seed + step, 6, 16, groups)
        with_centres(head, weight)
        rows, centres = embeddings.double().numpy(), weight.double().numpy()
        own = [x @ centres[n] / np.linalg.norm(x) / np.linalg.norm(centres[n]) for x, n in zip(rows, labels, strict=True)]
        if min(own) < -0.6:  # angle and margin beyond pi: the paper does not say
            continue
        t = 0.1 * float(np.mean(own)) + 0.9 * t
        expected = curricular(rows, centres, labels.numpy(), t, margin, scale)
        assert head(embeddings, labels).item() / scale == pytest.approx(expected / scale, abs=1e-5)
        assert float(head.t) == pytest.approx(t, abs=1e-6)


def test_curricular_learns_nothing_in_evaluation() -> None:
    embeddings, labels, _ = random_case(1, 8, 16, 5)
    head = CurricularHead(16, 5).eval()
    head(embeddings, labels)
    assert float(head.t) == 0
    head.train()(embeddings, labels)
    assert float(head.t) != 0


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("margin", [0.0, 0.5, 1.5])
def test_parallel_opposite_and_zero_vectors_give_finite_losses_and_gradients(
    kind: HeadKind, margin: float, bf16: bool
) -> None:
    head = make_head(kind, 48, 6, margin, 64.0, centres=2)
    rows = torch.cat([head.weight.detach()[:6] * 3, -head.weight.detach()[:6], torch.zeros(2, 48)]).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = head(rows.bfloat16() if bf16 else rows, torch.tensor([*range(6), *range(6), 0, 1]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert rows.grad is not None
    assert head.weight.grad is not None
    assert all(bool(tensor.isfinite().all()) for tensor in (loss, rows.grad, head.weight.grad))


def test_cosines_stay_strictly_inside_and_in_float32_under_autocast() -> None:
    head = ArcFaceHead(33, 200)
    rows = head.weight.detach() * torch.linspace(0.01, 900, 200)[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        cosines = head.cosines(torch.cat([rows, -rows])).detach()
    assert cosines.dtype == torch.float32
    assert float(cosines.max()) == pytest.approx(1 - EPSILON, abs=1e-7)
    assert float(cosines.max()) < 1
    assert float(cosines.min()) > -1
    exact = torch.nn.functional.normalize(torch.cat([rows, -rows]).double()) @ torch.nn.functional.normalize(rows.double()).T
    assert float((cosines - exact).abs().max()) < 2e-6


@given(st.floats(0, 1.57), st.lists(st.floats(-0.9999, 0.9999), min_size=2, max_size=50))
def test_with_margin_rises_with_the_cosine_and_never_above_it(margin: float, cosines: list[float]) -> None:
    rising = torch.tensor(sorted(cosines), dtype=torch.float64)
    moved = with_margin(rising, torch.tensor(margin, dtype=torch.float64))
    assert bool((moved.diff() >= -1e-12).all())
    assert bool((moved <= rising + 1e-12).all())
    inside = rising > math.cos(math.pi - margin)
    torch.testing.assert_close(moved[inside], (rising.acos() + margin).cos()[inside])


def test_with_margin_falls_on_past_pi() -> None:
    angles = torch.linspace(3.1, 0.1, 400, dtype=torch.float64)
    assert bool((with_margin(angles.cos(), torch.tensor(1.0)).diff() > 0).all())


@pytest.mark.parametrize("kind", ["arcface", "subcenter"])
def test_the_loss_falls_with_the_margin(kind: HeadKind) -> None:
    embeddings, labels, _ = random_case(3, 20, 16, 8)
    head = make_head(kind, 16, 8, 0.0, 30.0, centres=2)
    losses = []
    for margin in (0.0, 0.2, 0.5, 1.0):
        head.margin = margin
        losses.append(head(embeddings, labels).item())
    assert all(small < large for small, large in pairwise(losses))


def test_margins_fall_with_the_size_of_the_group() -> None:
    sizes = torch.tensor([1, 2, 3, 32, 10**9])
    margins = 0.7 * margin_shares(sizes, 0.7, 0.6)
    torch.testing.assert_close(margins[:2], torch.full((2,), 0.7))
    assert float(margins[3]) == pytest.approx(0.7 - 0.6 / 2)
    assert float(margins[4]) == pytest.approx(0.1, abs=0.01)
    assert bool((margins[1:].diff() < 0).all())
    assert margin_shares(sizes, 0.0, 0.0).tolist() == [1.0] * 5


@pytest.mark.parametrize("kind", KINDS)
def test_every_group_has_its_share_of_the_margin(kind: HeadKind) -> None:
    embeddings, _, _ = random_case(5, 4, 16, 8)
    head = make_head(kind, 16, 4, 0.6, 30.0, centres=2).eval()
    head.shares.copy_(torch.tensor([1.0, 0.5, 0.25, 0.0]))
    own = head.logits(embeddings, torch.arange(4)).diagonal()
    cosines = head.cosines(embeddings).diagonal()
    expected = 30 * torch.stack([with_margin(c, torch.tensor(m)) for c, m in zip(cosines, (0.6, 0.3, 0.15, 0), strict=True)])
    torch.testing.assert_close(own, expected)
    assert "shares" not in head.state_dict()  # they follow from the data


def test_a_margin_in_degrees_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"in radians in .* not 28.6: is it in degrees\? .* 0.499 radians"):
        ArcFaceHead(8, 3, margin=28.6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"margin": -0.1}, "radians"),
        ({"margin": math.pi / 2}, "radians"),
        ({"margin": math.nan}, "radians"),
        ({"scale": 0}, "scale above 0"),
        ({"groups": 1}, "two groups"),
        ({"centres": 0}, "one centre or more"),
    ],
)
def test_an_argument_outside_its_range_is_refused(changed: dict[str, float], message: str) -> None:
    arguments: dict[str, float] = {"dim": 8, "groups": 3} | changed
    with pytest.raises(InvalidInput, match=message):
        ArcFaceHead(**arguments)  # type: ignore[arg-type]
