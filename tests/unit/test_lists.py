"""Approximate search: what it finds of what it should, through inserts, deletes and filters."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from app.catalog import blocks, faiss_lists
from app.catalog.row_index import RowIndex
from app.catalog.rows import IndexOptions, RowSet
from app.core.fusion import HAS_BOTH
from app.core.product import Floats

DIM, EACH, THRESHOLD = 128, 4, 0.6
OPTIONS = IndexOptions(search="approximate", lists_from=2000)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists so small that reading some of them is not reading all rows."""
    monkeypatch.setattr(faiss_lists, "LISTS", 64)
    monkeypatch.setattr(faiss_lists, "PROBES", 16)
    monkeypatch.setattr(blocks, "FEW_ROWS", 100)
    monkeypatch.setattr(blocks, "MISJUDGED", np.float32(0.25))  # the fewer dimensions, the worse are estimates


def unit(rows: Floats) -> Floats:
    scaled: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


class Shop:
    """Listings of products of some kinds, four each, and an index of them."""

    def __init__(self, kinds: int = 40) -> None:
        self.random = np.random.default_rng(2)
        self.kinds = unit(self.random.standard_normal((kinds, DIM), dtype=np.float32))
        self.index = RowIndex(DIM, OPTIONS)
        self.rows: dict[int, Floats] = {}

    def listings(self, products: int) -> Floats:
        """Returns rows `(4 * products, DIM)`; those of one product are neighbours."""
        of = self.kinds[self.random.integers(len(self.kinds), size=products)]
        centres = unit(0.6 * of + 0.8 * unit(self.random.standard_normal((products, DIM), dtype=np.float32)))
        noise = unit(self.random.standard_normal((EACH * products, DIM), dtype=np.float32))
        return unit(np.repeat(centres, EACH, axis=0) + 0.6 * noise)

    def add(self, products: int) -> None:
        vectors, start = self.listings(products), max(self.rows, default=-1) + 1
        keys = np.arange(start, start + len(vectors))
        self.index.add(RowSet(keys, np.full(len(keys), 3, np.uint8), vectors))
        self.index.prepare()
        self.rows |= dict(zip(keys.tolist(), vectors, strict=True))

    def remove(self, keys: list[int]) -> None:
        self.index.remove(keys)
        self.index.prepare()
        for key in keys:
            del self.rows[key]

    def recall(self, allowed: NDArray[np.int64] | None = None) -> float:
        """Returns the share of true matches that are found, of questions near 100 of the rows."""
        keys = np.array(sorted(self.rows))
        matrix = np.stack([self.rows[key] for key in keys.tolist()])
        asked = self.random.choice(len(keys), 100, replace=False)
        questions = unit(matrix[asked] + 0.3 * unit(self.random.standard_normal((100, DIM), dtype=np.float32)))
        found = self.index.candidates(questions, [THRESHOLD] * 100, allowed, nearest=20)
        hit = wanted = 0
        for question, one in zip(questions, found, strict=True):
            true = keys[matrix @ question >= THRESHOLD]
            if allowed is not None:
                true = np.intersect1d(true, allowed)
            got = self.index.rows(one.slots).keys
            assert allowed is None or np.isin(got, allowed).all()
            assert len(got) >= min(20, len(keys) if allowed is None else len(allowed))
            hit, wanted = hit + len(np.intersect1d(true, got)), wanted + len(true)
        assert wanted > 100  # there is something to find
        return hit / wanted


def test_nearly_all_matches_are_found_whatever_comes_and_goes() -> None:
    shop = Shop()
    shop.add(250)
    assert shop.index.exact  # too few rows for lists
    shop.add(1250)
    assert not shop.index.exact
    assert shop.recall() >= 0.99
    for _ in range(4):  # until no row is left of those that the lists were made with
        shop.remove(shop.random.choice(sorted(shop.rows), 3000, replace=False).tolist())
        shop.add(750)
    assert shop.recall() >= 0.99
    everything = np.array(sorted(shop.rows), np.int64)
    assert shop.recall(everything[::2]) >= 0.99
    assert shop.recall(everything[:3000]) >= 0.99
    shop.remove(sorted(shop.rows)[:5500])
    assert shop.index.exact


def test_other_rows_than_before_get_lists_of_their_own(lists_made: list[int]) -> None:
    shop = Shop()
    shop.add(600)
    shop.add(1000)
    assert lists_made == [2400]  # they grow
    shop.kinds = unit(shop.random.standard_normal((40, DIM), dtype=np.float32))
    shop.add(900)
    assert lists_made == [2400, 10_000]
    assert shop.recall() >= 0.99


def test_a_bound_that_many_rows_reach_is_answered_by_all_rows() -> None:
    shop = Shop()
    shop.add(700)
    question = shop.rows[5][None]
    (found,) = shop.index.candidates(question, [-1.0], nearest=5)
    assert len(found.slots) == 2800
    assert found.beyond == -np.inf


@pytest.mark.parametrize("half", ["photo", "title"])
def test_questions_about_one_half_find_what_is_near_in_that_half(half: str) -> None:
    shop = Shop()
    photos, titles = shop.listings(1000), shop.listings(1000)  # who has the same title has another photo
    rows = np.hstack([np.float32(0.6) * photos, np.float32(0.8) * titles[shop.random.permutation(len(titles))]])
    index = RowIndex(2 * DIM, OPTIONS, DIM)
    keys = np.arange(len(rows))
    index.add(RowSet(keys, np.full(len(rows), HAS_BOTH, np.uint8), rows))
    index.prepare()
    assert not index.exact
    columns = slice(DIM) if half == "photo" else slice(DIM, None)
    questions = np.zeros((100, 2 * DIM), np.float32)
    noise = 0.3 * unit(shop.random.standard_normal((100, DIM), dtype=np.float32))
    questions[:, columns] = unit(unit(rows[:100, columns]) + noise)
    bound = THRESHOLD * (0.6 if half == "photo" else 0.8)
    found = index.candidates(questions, [bound] * 100, nearest=20)
    true = rows @ questions.T >= bound
    assert true.sum() > 200
    hit = sum(true[index.rows(one.slots).keys, n].sum() for n, one in enumerate(found))
    assert hit / true.sum() >= 0.99


def test_lists_that_are_taken_over_answer_as_before_and_go_on() -> None:
    shop = Shop()
    shop.add(1500)
    shop.remove(sorted(shop.rows)[:100:3])
    again = RowIndex(DIM, OPTIONS)
    for part in shop.index.export():
        again.add(part)
    again.adopt_auxiliary(exported(shop.index))
    assert not again.prepare()
    questions = np.stack(list(shop.rows.values()))[:50]
    one, other = (index.candidates(questions, [THRESHOLD] * 50, nearest=20) for index in (shop.index, again))
    assert [found.slots.tolist() for found in one] == [found.slots.tolist() for found in other]
    shop.index = again
    for _ in range(4):
        shop.remove(shop.random.choice(sorted(shop.rows), 3000, replace=False).tolist())
        shop.add(750)
    assert shop.recall() >= 0.99


def test_lists_of_other_rows_are_refused() -> None:
    shop = Shop()
    shop.add(600)
    lists = exported(shop.index)
    with pytest.raises(ValueError, match="shorter"):
        shop.index.adopt_auxiliary(2 * lists)
    shop.remove([5])
    with pytest.raises(ValueError, match="2400 rows, not of 2399"):
        shop.index.adopt_auxiliary(lists)


def exported(index: RowIndex) -> list[tuple[int, NDArray[np.uint8]]]:
    return [(flags, np.frombuffer(data, np.uint8)) for flags, data in index.export_auxiliary()]
