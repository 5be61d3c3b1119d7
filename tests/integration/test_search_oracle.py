"""Random changes and random questions: the catalog on FAISS and SQLite answers like the oracle, always."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.catalog.data_folder import DataFolder
from app.catalog.local import LocalCatalog
from app.catalog.rows import CODES_FROM, IndexOptions
from app.core.product import Embedding, Floats, ProductDraft, Query, Scalar
from tests.fakes import FINGERPRINT, FUSION
from tests.integration.oracle import Oracle

CATALOGS = ("default", "other")
IDS = [f"p{n}" for n in range(14)]


def directions(count: int, dim: int, seed: int) -> list[Floats]:
    """A few unit vectors, with opposites and near-duplicates among them: small pools make ties and close calls."""
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    rows = np.concatenate([rows, -rows[:2], rows[:3] + 1e-4])
    return [(row / np.linalg.norm(row)).astype(np.float32) for row in rows]


IMAGES = st.lists(st.sampled_from(directions(7, FUSION.image_dim, 1)), max_size=3)
TITLES = st.none() | st.sampled_from(directions(7, FUSION.title_dim, 2))
SIZES: list[Scalar] = [1, 1.0, 2, "1", True, 0, 0.5]
BRANDS: list[Scalar] = ["Acme", "Apex", "", "acme"]
ATTRIBUTES = st.fixed_dictionaries({}, optional={"size": st.sampled_from(SIZES), "brand": st.sampled_from(BRANDS)})
ANY_OF = {
    "size": st.lists(st.sampled_from(SIZES), min_size=1, max_size=3).map(tuple),
    "brand": st.lists(st.sampled_from(BRANDS), min_size=1, max_size=3).map(tuple),
}
FILTERS: st.SearchStrategy[dict[str, tuple[Scalar, ...]]] = st.just({}) | st.fixed_dictionaries({}, optional=ANY_OF)


@st.composite
def embeddings(draw: st.DrawFn) -> Embedding:
    images, title = draw(st.tuples(IMAGES, TITLES).filter(lambda both: bool(both[0]) or both[1] is not None))
    return Embedding(np.array(images, np.float32).reshape(-1, FUSION.image_dim), title)


class Machine(RuleBasedStateMachine):
    @initialize(codes_from=st.sampled_from([0, CODES_FROM]))
    def open(self, codes_from: int) -> None:
        self.options = IndexOptions(codes_from=codes_from)
        self.root = Path(tempfile.mkdtemp(prefix="oracle."))
        self.folder = self.root / "0"
        self.copies = 0
        self.catalog = LocalCatalog(DataFolder(self.folder), FUSION, FINGERPRINT, self.options)
        self.oracle = Oracle(FUSION, {"default": {}})

    @rule(catalog=st.sampled_from(CATALOGS), ids=st.lists(st.sampled_from(IDS), min_size=1, unique=True), data=st.data())
    def put(self, catalog: str, ids: list[str], data: st.DataObject) -> None:
        drafts = [ProductDraft(one, None, (), data.draw(ATTRIBUTES), data.draw(embeddings())) for one in ids]
        known = set(self.oracle.catalogs.get(catalog, {}))
        stored = self.catalog.put(catalog, drafts)
        assert [one.created for one in stored] == [one not in known for one in ids]
        for draft in drafts:
            self.oracle.put(catalog, draft.id, draft.embedding, draft.attributes)

    @rule(ids=st.lists(st.sampled_from(IDS), min_size=2, max_size=5, unique=True), embedding=embeddings())
    def put_identical_products(self, ids: list[str], embedding: Embedding) -> None:
        self.catalog.put("default", [ProductDraft(one, None, (), {}, embedding) for one in ids])
        for one in ids:
            self.oracle.put("default", one, embedding, {})

    @precondition(lambda self: any(self.oracle.catalogs.values()))
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        catalog = data.draw(st.sampled_from([name for name, entries in self.oracle.catalogs.items() if entries]))
        product_id = data.draw(st.sampled_from(sorted(self.oracle.catalogs[catalog])))
        self.catalog.delete(catalog, product_id)
        self.oracle.delete(catalog, product_id)

    @rule()
    def stop_cleanly_and_open_again(self) -> None:
        self.catalog.close()
        self.catalog = LocalCatalog(DataFolder(self.folder), FUSION, FINGERPRINT, self.options)

    @rule()
    def crash_and_open_what_is_on_disk(self) -> None:
        self.copies += 1
        copy = self.root / str(self.copies)
        shutil.copytree(self.folder, copy)
        self.catalog.close()
        self.folder = copy
        self.catalog = LocalCatalog(DataFolder(self.folder), FUSION, FINGERPRINT, self.options)

    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        catalog = data.draw(st.sampled_from(sorted(self.oracle.catalogs)))
        queries = [self._draw_query(data, catalog) for _ in range(data.draw(st.integers(1, 6)))]
        for query, answer in zip(queries, self.catalog.search(catalog, queries), strict=True):
            self.oracle.check(catalog, query, answer)

    def _draw_query(self, data: st.DataObject, catalog: str) -> Query:
        embedding, where = data.draw(embeddings()), data.draw(FILTERS)
        entries = sorted(self.oracle.catalogs[catalog])
        exclude = data.draw(st.none() | st.sampled_from(entries)) if entries else None
        scores = [line[1] for line in self.oracle.lines(catalog, Query(embedding, -1, 1))]
        thresholds = st.sampled_from([-1.0, 0.0, 1.0, *scores]) | st.floats(-1, 1)
        return Query(embedding, data.draw(thresholds), data.draw(st.integers(1, 16)), where, exclude)

    @invariant()
    def everything_is_found(self) -> None:
        for catalog in self.oracle.catalogs:
            asked = Embedding(
                np.array([directions(7, FUSION.image_dim, 1)[0]], np.float32), directions(7, FUSION.title_dim, 2)[0]
            )
            queries = [
                Query(asked, -1, 100),
                Query(Embedding(asked.images), 0.5, 3),
                Query(Embedding(asked.images[:0], asked.title), 0.25, 100),
            ]
            for query, answer in zip(queries, self.catalog.search(catalog, queries), strict=True):
                self.oracle.check(catalog, query, answer)

    def teardown(self) -> None:
        if hasattr(self, "root"):
            self.catalog.close()
            shutil.rmtree(self.root)


Machine.TestCase.settings = settings(max_examples=20, stateful_step_count=14)
TestSearchAnswersLikeTheOracle = Machine.TestCase


def test_thousands_of_rows_in_one_batch_of_questions_answer_like_the_oracle(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    images, titles = directions(300, FUSION.image_dim, 4), directions(300, FUSION.title_dim, 5)
    catalog = LocalCatalog(DataFolder(tmp_path), FUSION, FINGERPRINT)
    oracle = Oracle(FUSION, {"default": {}})
    drafts = []
    for n in range(1500):
        photos = [images[i] for i in rng.integers(len(images), size=n % 3)]
        title = titles[rng.integers(len(titles))] if n % 3 == 0 or rng.random() < 0.7 else None
        embedding = Embedding(np.array(photos, np.float32).reshape(-1, FUSION.image_dim), title)
        drafts.append(ProductDraft(f"p{n}", None, (), {"third": n % 3}, embedding))
        oracle.put("default", f"p{n}", embedding, {"third": n % 3})
    catalog.put("default", drafts)
    queries = [
        Query(draft.embedding, threshold, 50, {"third": (0, 1)} if n % 2 else {}, draft.id if n % 3 else None)
        for n, (draft, threshold) in enumerate(zip(drafts[::100], [0.2, 0.7, 0.95] * 5, strict=True))
    ]
    for query, answer in zip(queries, catalog.search("default", queries), strict=True):
        oracle.check("default", query, answer)
    catalog.close()
