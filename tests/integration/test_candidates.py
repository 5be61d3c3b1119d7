"""The candidates of a query: the best products by exact score, whatever the threshold, and matches as they were."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.catalog import blocks
from app.catalog.data_folder import DataFolder
from app.catalog.local import LocalCatalog
from app.catalog.rows import SLACK, IndexOptions
from app.core.answer import Answer
from app.core.product import Embedding, ProductDraft, Query
from tests.fakes import FINGERPRINT, FUSION
from tests.integration.oracle import Oracle
from tests.integration.test_search_oracle import directions

IMAGES, TITLES = directions(80, FUSION.image_dim, 11), directions(80, FUSION.title_dim, 12)
PRODUCTS = 90


class Shop:
    """A catalog and the oracle, which hold the same."""

    def __init__(self, folder: Path, options: IndexOptions | None = None) -> None:
        self.catalog = LocalCatalog(DataFolder(folder), FUSION, FINGERPRINT, options)
        self.oracle = Oracle(FUSION, {"default": {}})
        self.random = np.random.default_rng(6)

    def embedding(self, photos: int, *, title: bool) -> Embedding:
        images = [IMAGES[n] for n in self.random.integers(len(IMAGES), size=photos)]
        words = TITLES[self.random.integers(len(TITLES))] if title else None
        return Embedding(np.array(images, np.float32).reshape(-1, FUSION.image_dim), words)

    def fill(self, count: int, photos: tuple[int, ...], titles: tuple[bool, ...]) -> None:
        drafts = []
        for n in range(count):
            embedding = self.embedding(photos[n % len(photos)], title=titles[n % len(titles)])
            drafts.append(ProductDraft(f"p{n}", None, (), {"third": n % 3}, embedding))
            self.oracle.put("default", f"p{n}", embedding, {"third": n % 3})
        self.catalog.put("default", drafts)

    def add(self, one: str, embedding: Embedding) -> None:
        self.catalog.put("default", [ProductDraft(one, None, (), {}, embedding)])
        self.oracle.put("default", one, embedding, {})

    def remove(self, *ids: str) -> None:
        for one in ids:
            self.catalog.delete("default", one)
            self.oracle.delete("default", one)

    def check(self, query: Query) -> Answer:
        """Asserts that candidates and matches are those of the oracle; matches as without any candidates."""
        (answer,) = self.catalog.search("default", [query])
        self.oracle.check("default", query, answer)
        everything = self.oracle.lines("default", replace(query, threshold=-1.0))
        wanted = max(query.context, min(query.limit, answer.total)) if query.context else 0
        shown = lines(answer)
        assert shown == everything[:wanted]
        if query.context:
            rest = [score for one, score, *_ in everything if one not in {name for name, *_ in shown}]
            assert max(rest, default=-math.inf) <= answer.unseen
            last = shown[query.context - 1][1] if len(shown) >= query.context else -math.inf
            assert answer.unseen <= last
        (bare,) = self.catalog.search("default", [replace(query, context=0)])
        assert replace(bare, unseen=0) == replace(answer, candidates=(), unseen=0)
        (lazy,) = self.catalog.search("default", [replace(query, if_any=True)])
        assert replace(lazy, candidates=(), unseen=0) == replace(answer, candidates=(), unseen=0)
        assert lines(lazy) == shown or not answer.total
        fused, flags = FUSION.fuse(query.embedding)
        for one in answer.candidates:
            rows, kinds = one.vector[None], np.array([one.flags], np.uint8)
            best = max(float(FUSION.score_rows(z, int(f), rows, kinds).score[0]) for z, f in zip(fused, flags, strict=True))
            assert best == one.match.score
        return answer


def lines(answer: Answer) -> list[tuple[str, float, float | None, float | None]]:
    """Returns candidates as the oracle does."""
    return [(c.match.product.id, c.match.score, c.match.image_score, c.match.title_score) for c in answer.candidates]


@pytest.fixture(params=[IndexOptions(), IndexOptions(codes_from=1)], ids=["rows", "codes"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setattr(blocks, "MOST_LOOKED_UP", 1)
    one = Shop(tmp_path, request.param)
    yield one
    one.catalog.close()


KINDS: dict[str, tuple[tuple[int, ...], tuple[bool, ...]]] = {
    "photo and title": ((1,), (True,)),
    "up to two photos": ((1, 2), (True,)),
    "photos only": ((2, 1), (False,)),
    "titles only": ((0,), (True,)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [1, 7, 50, 200])
def test_candidates_are_the_best_products_by_exact_score(shop: Shop, kind: str, context: int) -> None:
    photos, titles = KINDS[kind]
    shop.fill(PRODUCTS, photos, titles)
    for threshold in (-1.0, 0.2, 0.6, 0.95, 1.0):
        for limit in (1, 20, 1000):
            asked = shop.embedding(1 if photos != (0,) else 0, title=titles[0])
            shop.check(Query(asked, threshold, limit, context=context))


@pytest.mark.parametrize("options", [{"where": {"third": (1,)}}, {"exclude": "p4"}, {"where": {"third": (9,)}}], ids=str)
def test_filters_and_the_product_that_asks_leave_candidates_out(shop: Shop, options: dict[str, Any]) -> None:
    shop.fill(PRODUCTS, (1, 2), (True,))
    shop.remove(*(f"p{n}" for n in range(10, 30)))
    for threshold in (0.1, 0.9):
        answer = shop.check(Query(shop.embedding(1, title=True), threshold, 5, context=12, **options))
        assert "p4" not in [one.match.product.id for one in answer.candidates] or "exclude" not in options
    if options.get("where") == {"third": (9,)}:
        assert answer.candidates == ()


def test_a_product_asks_with_all_of_its_photos(shop: Shop) -> None:
    shop.fill(PRODUCTS, (1, 2), (True,))
    for n in range(1, 20, 2):
        asked = shop.catalog.embedding("default", f"p{n}")
        assert len(asked.images) == 2
        shop.check(Query(asked, 0.7, 20, exclude=f"p{n}", context=10))


def test_what_has_only_a_photo_or_only_a_title_is_a_candidate_too(shop: Shop) -> None:
    shop.fill(36, (1, 0, 2, 1), (True, True, False))
    for photos, title in ((1, True), (1, False), (0, True)):
        shop.check(Query(shop.embedding(photos, title=title), 0.6, 20, context=36))


MANY: dict[str, tuple[tuple[int, ...], tuple[bool, ...]]] = {
    "three photos each": ((3,), (True,)),
    "one to twenty photos": ((1, 20, 5), (True, False)),
    "photos and titles missing": ((1, 0, 2, 1, 1), (True, True, False)),
    "a few without a title": ((1,), (True,) * 19 + (False,)),
    "mostly titles only": ((0, 0, 0, 0, 1), (True,)),
}


@pytest.mark.parametrize("kind", MANY)
def test_neither_more_photos_nor_other_modalities_push_products_out(shop: Shop, kind: str) -> None:
    shop.fill(260, *MANY[kind])
    shop.remove(*(f"p{n}" for n in range(20, 40)))
    for photos, title in ((1, True), (1, False), (0, True), (3, True)):
        for threshold in (0.6, 0.97):
            shop.check(Query(shop.embedding(photos, title=title), threshold, 20, context=50))
            shop.check(Query(shop.embedding(photos, title=title), threshold, 20, context=50, where={"third": (1,)}))


def test_a_photo_that_all_other_products_show_too_does_not_hide_the_one_with_nothing_else(shop: Shop) -> None:
    asked = Embedding(IMAGES[0][None], TITLES[0])
    near = (IMAGES[0] + 0.1 * IMAGES[1]) / np.linalg.norm(IMAGES[0] + 0.1 * IMAGES[1])
    shop.add("alone", Embedding(near.astype(np.float32)[None], None))
    for n in range(150):
        shop.add(f"other {n}", Embedding(IMAGES[0][None], -TITLES[0]))
    answer = shop.check(Query(asked, 0.999, 20, context=50))
    assert answer.candidates[0].match.product.id == "alone"
    assert answer.total == 0


def test_what_stays_unseen_is_told(shop: Shop) -> None:
    """So many products score the same that no search looks at all of them."""
    same = shop.embedding(1, title=True)
    shop.catalog.put("default", [ProductDraft(f"p{n}", None, (), {}, same) for n in range(120)])
    (answer,) = shop.catalog.search("default", [Query(shop.embedding(1, title=True), 1.0, 20, context=3)])
    score = answer.candidates[-1].match.score
    assert len(answer.candidates) == 3
    assert score <= answer.unseen <= score + 2 * SLACK


def test_many_questions_at_once_get_the_candidates_that_each_wants(shop: Shop) -> None:
    shop.fill(PRODUCTS, (1,), (True,))
    queries = [Query(shop.embedding(1, title=True), 0.1 * n, 3, context=5 * (n % 3)) for n in range(9)]
    for query, answer in zip(queries, shop.catalog.search("default", queries), strict=True):
        alone = shop.check(query)
        assert replace(answer, candidates=(), unseen=0) == replace(alone, candidates=(), unseen=0)
        assert [one.match for one in answer.candidates] == [one.match for one in alone.candidates]


def test_an_empty_catalog_has_no_candidates(shop: Shop) -> None:
    (answer,) = shop.catalog.search("default", [Query(shop.embedding(1, title=True), 0.5, 3, context=5)])
    assert (answer.candidates, answer.matches) == ((), ())
