"""The n-gram part of a title's vector, against TF-IDF and against the hashing written out."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer

from app.core.spec import NgramSpec
from app.encoders.ngrams import NgramPart, NgramReader
from app.training.start import RARE, inverse_document_frequency

Doubles = NDArray[np.float64]
SPEC = NgramSpec()
MANY = [
    "x",
    "Nike Air Max 90",
    "สบู่เหลวอาบน้ำ 500 มล",
    "康师傅 红烧牛肉面 5包",
    "🍎🍏",
    "ß",
    "İstanbul",
    "a b c",
    "12",
    "👟 sepatu",
]
BRANDS = ["acme", "zenith", "kappa", "luma", "orion", "delta", "vega", "nexo"]
THINGS = ["kettle", "toaster", "blender", "drill", "lamp", "fan", "iron", "mixer"]
TITLES = [
    f"{BRANDS[n % 8]} {THINGS[n * 3 // 8 % 8]} {1000 + 37 * n} {('black', 'white', 'red')[n % 3]} {n % 5 + 1}l"
    for n in range(60)
]


def murmur3(data: bytes) -> int:
    """MurmurHash3, 32 bits, seed 0, signed: Appleby's reference, written out."""

    def mix(k: int) -> int:
        k = k * 0xCC9E2D51 & 0xFFFFFFFF
        return (k << 15 | k >> 17) * 0x1B873593 & 0xFFFFFFFF

    h, whole = 0, len(data) // 4 * 4
    for start in range(0, whole, 4):
        h ^= mix(int.from_bytes(data[start : start + 4], "little"))
        h = (h << 13 | h >> 19) & 0xFFFFFFFF
        h = (h * 5 + 0xE6546B64) & 0xFFFFFFFF
    if data[whole:]:
        h ^= mix(int.from_bytes(data[whole:], "little"))
    h ^= len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h = (h ^ h >> shift) * factor & 0xFFFFFFFF
    return h - (1 << 32) if h >> 31 else h


def ngrams_of(title: str, spec: NgramSpec) -> list[str]:
    """Runs of characters within words; a word has a space at either end."""
    found = []
    for word in title.lower().split():
        padded = f" {word} "
        for n in range(spec.shortest, spec.longest + 1):
            if len(padded) <= n:
                found.append(padded)  # a word that is not longer counts once
                break
            found += [padded[start : start + n] for start in range(len(padded) - n + 1)]
    return found


def hashed(title: str, weight: torch.Tensor, spec: NgramSpec) -> Doubles:
    counts = Counter(abs(murmur3(one.encode())) % spec.buckets for one in ngrams_of(title, spec))
    vector = np.zeros(spec.dim)
    for bucket, count in counts.items():
        sign = 1 if bucket >= spec.buckets // 2 else -1
        vector[bucket % spec.dim] += sign * (1 + math.log(count)) * float(weight[bucket])
    return vector / np.linalg.norm(vector)


def vectors(titles: list[str], part: NgramPart) -> torch.Tensor:
    return part(NgramReader(part.spec)(titles))  # type: ignore[no-any-return]


@pytest.mark.parametrize("spec", [SPEC, NgramSpec(shortest=1, longest=3, buckets=1024, dim=16)])
def test_vectors_are_the_hashing_written_out(spec: NgramSpec) -> None:
    part = NgramPart(spec)
    part.weight.data.uniform_(0.5, 2, generator=torch.Generator().manual_seed(0))
    titles = [*MANY, *TITLES[:5], "aaaa aaaa aaaa"]
    expected = [hashed(title, part.weight.detach(), spec) for title in titles]
    np.testing.assert_allclose(vectors(titles, part).detach().numpy(), expected, atol=1e-5)


@given(
    titles=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=5),
    sizes=st.sampled_from([(1, 1), (2, 5), (3, 4), (5, 6)]),
)
def test_ngrams_are_those_of_scikit_learn(titles: list[str], sizes: tuple[int, int]) -> None:
    spec = NgramSpec(shortest=sizes[0], longest=sizes[1])
    found = NgramReader(spec)(titles)
    assert found.titles == len(titles)
    oracle = HashingVectorizer(
        analyzer="char_wb", ngram_range=sizes, n_features=spec.buckets, norm=None, alternate_sign=False, dtype=np.float32
    )
    wanted = oracle.transform(titles or [""])
    rows = np.repeat(np.arange(wanted.shape[0]), np.diff(wanted.indptr))
    assert found.rows.tolist() == rows.tolist()
    assert found.buckets.tolist() == wanted.indices.tolist()
    np.testing.assert_allclose(found.counts.numpy(), 1 + np.log(wanted.data), rtol=1e-6)


def test_inner_products_estimate_tf_idf_cosines() -> None:
    oracle = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True).fit(TITLES)
    frequency = np.asarray((oracle.transform(TITLES) > 0).sum(0)).ravel()
    oracle.idf_ = 1 - np.log(frequency / len(TITLES) + RARE)
    rows = oracle.transform(TITLES)
    exact = (rows @ rows.T).toarray()
    errors = {}
    for dim, agreement in ((512, 0.85), (4096, 0.97)):
        spec = SPEC.model_copy(update={"dim": dim})
        part = NgramPart(spec)
        part.weight.data.copy_(inverse_document_frequency(TITLES, spec))
        found = vectors(TITLES, part).detach().numpy()
        off = ~np.eye(len(TITLES), dtype=bool)
        error = (found @ found.T - exact)[off]
        errors[dim] = float(error.std())
        assert abs(float(error.mean())) < 0.02  # unbiased, but errors share what is common
        assert np.corrcoef((found @ found.T)[off], exact[off])[0, 1] > agreement
    assert errors[512] < 1.2 / math.sqrt(512)
    assert errors[4096] < errors[512] / 2


def test_document_frequency_counts_titles_and_not_occurrences() -> None:
    spec = NgramSpec(shortest=2, longest=2)
    weights = NgramReader(spec).document_frequency(["aa aa aaaa", "aa", "b"], spec.buckets)
    assert float(weights[abs(murmur3(b"aa")) % spec.buckets]) == 2
    assert float(weights.sum()) == 2 * 3 + 2  # " a", "aa", "a " twice; " b", "b "


def test_rare_ngrams_weigh_more_and_unknown_ones_about_as_much_as_rare_ones() -> None:
    weights = inverse_document_frequency([*TITLES, *TITLES], SPEC)
    assert bool((weights > 0).all())
    common, rare, unknown = (weights[abs(murmur3(one.encode())) % SPEC.buckets] for one in (" 1", "kettl", "zzzqq"))
    assert float(common) < float(rare) < float(unknown) < 3 * float(rare)
    assert bool(inverse_document_frequency([], SPEC).isfinite().all())
    torch.testing.assert_close(weights, inverse_document_frequency(TITLES, SPEC))  # repeated titles count once


def test_rows_are_unit_vectors_for_titles_of_every_script() -> None:
    found = vectors(MANY, NgramPart(SPEC))
    assert found.shape == (len(MANY), SPEC.dim)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(MANY)))
    assert float((found @ found.T).detach().fill_diagonal_(0).abs().max()) < 0.9


def test_case_is_ignored_and_batches_change_nothing() -> None:
    part = NgramPart(SPEC)
    together = vectors(MANY, part)
    torch.testing.assert_close(together, vectors(MANY, part), rtol=0, atol=0)
    torch.testing.assert_close(together, torch.cat([vectors([title], part) for title in MANY]))
    loud = vectors(["NIKE AIR MAX 90", "nike air max 90"], part)
    torch.testing.assert_close(loud[0], loud[1], rtol=0, atol=0)


def test_a_title_without_characters_is_a_zero_row_and_not_nan() -> None:
    found = vectors(["", "a"], NgramPart(SPEC)).detach()
    torch.testing.assert_close(found.norm(dim=1), torch.tensor([0.0, 1.0]))


def test_no_titles_give_no_rows() -> None:
    assert vectors([], NgramPart(SPEC)).shape == (0, SPEC.dim)


def test_gradients_reach_the_weights_of_the_ngrams_that_occur_and_no_others() -> None:
    part = NgramPart(SPEC)
    one, other = vectors(["acme kettle 100", "acme lamp 100"], part)
    (one @ other).backward()
    assert part.weight.grad is not None
    touched = set(part.weight.grad.nonzero().ravel().tolist())
    occurring = set(NgramReader(SPEC)(["acme kettle 100", "acme lamp 100"]).buckets.tolist())
    assert touched
    assert touched <= occurring
    shared, alone = (abs(murmur3(one.encode())) % SPEC.buckets for one in (" acme", "kettl"))
    assert float(part.weight.grad[shared]) > 0 > float(part.weight.grad[alone])
