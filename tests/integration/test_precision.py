"""Halves instead of floats: the same answers, but for scores within 0.001."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np

from app.catalog.data_folder import DataFolder
from app.catalog.local import LocalCatalog
from app.catalog.rows import IndexOptions
from app.core.fusion import Fusion
from app.core.product import Embedding, Floats, ProductDraft, Query
from tests.fakes import FINGERPRINT

FUSION = Fusion(0.35, 32, 64)
TOLERANCE = 1e-3
HALF = IndexOptions("float16")


def unit(rows: Floats) -> Floats:
    scaled: Floats = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return scaled


def drafts() -> list[ProductDraft]:
    """Groups of five, so that there is something at every threshold; some lack the photo or the title."""
    random = np.random.default_rng(8)
    images, titles = (random.standard_normal((60, dim), dtype=np.float32) for dim in (32, 64))
    made = []
    for n in range(300):
        image = unit(images[n // 5] + 0.6 * random.standard_normal(32, dtype=np.float32))
        title = unit(titles[n // 5] + 0.6 * random.standard_normal(64, dtype=np.float32))
        photos = np.zeros((0, 32), np.float32) if n % 7 == 1 else image[None]
        made.append(ProductDraft(f"p{n}", None, (), {}, Embedding(photos, None if n % 7 == 2 else title)))
    return made


@contextmanager
def opened(folder: Path, options: IndexOptions) -> Iterator[LocalCatalog]:
    with closing(LocalCatalog(DataFolder(folder), FUSION, FINGERPRINT, options)) as catalog:
        yield catalog


def test_halves_give_the_same_answers(tmp_path: Path) -> None:
    products = drafts()
    with ExitStack() as stack:
        whole = stack.enter_context(opened(tmp_path / "whole", IndexOptions()))
        half = stack.enter_context(opened(tmp_path / "half", HALF))
        for catalog in (whole, half):
            catalog.put("default", products)
        queries = [Query(one.embedding, 0.1 * (n % 10), 300, context=20) for n, one in enumerate(products[::3])]
        moved = 0
        for query, one, other in zip(
            queries, whole.search("default", queries), half.search("default", queries), strict=True
        ):
            scores = {match.product.id: match.score for match in one.matches}
            others = {match.product.id: match.score for match in other.matches}
            assert all(abs(scores[name] - others[name]) < TOLERANCE for name in scores.keys() & others.keys())
            assert all(abs((scores | others)[name] - query.threshold) < TOLERANCE for name in scores.keys() ^ others.keys())
            moved += sum(scores[name] != others[name] for name in scores.keys() & others.keys())
        assert moved  # they are stored as halves


def test_a_snapshot_is_read_in_the_precision_that_it_has(tmp_path: Path) -> None:
    products = drafts()
    sizes: list[int] = []
    for options in (HALF, IndexOptions(), HALF):
        with opened(tmp_path, options) as catalog:
            if not sizes:
                catalog.put("default", products)
            (answer,) = catalog.search("default", [Query(products[0].embedding, 0.9, 10)])
            assert [match.product.id for match in answer.matches][:1] == ["p0"]
            if options is not HALF:  # from the database, and not what is left of it in halves
                stored = catalog.embedding("default", "p0")
                np.testing.assert_allclose(stored.images, products[0].embedding.images, rtol=2e-7)
            catalog.put("default", products[:1])  # a change, so that a snapshot is written
        (file,) = tmp_path.glob("snapshots/*/vectors.npy")
        sizes.append(file.stat().st_size)
    assert sizes[0] == sizes[2] == 128 + (sizes[1] - 128) // 2
