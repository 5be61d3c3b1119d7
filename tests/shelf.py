"""A query and products around it, as a catalog would find them: what the judge is tested with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from app.core.answer import Answer, Candidate, Match
from app.core.decision import Thresholds
from app.core.judging import PairSpec
from app.core.pairs import CONTEXT
from app.core.product import Embedding, Floats, Photo, Product, Query
from app.judge import Judge, ProductSide, Rule
from app.pair_model import PairModel
from tests.evidence import BOUNDS, TWO_TOWERS, fitted, small_model, unit_rows

THRESHOLDS = Thresholds({modality: [(1, bound)] for modality, bound in BOUNDS.items()})
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
GALLERY = 500
BITS = 0x0F0F_F0F0_1234_5678


def toward(first: Floats, other: NDArray[np.float64], cosine: float) -> Floats:
    """A unit vector with that cosine to the first one."""
    rest = other - (other @ first) * first
    turned: Floats = (cosine * first + np.sqrt(1 - cosine**2) * rest / np.linalg.norm(rest)).astype(np.float32)
    return turned


class Shelf:
    """A query, and products with given cosines of photo and title to it."""

    def __init__(
        self, cosines: Sequence[tuple[float | None, float | None]], hashes: Sequence[int | None] | None = None
    ) -> None:
        random = np.random.default_rng(0)
        image, title = unit_rows(random, 1, TWO_TOWERS.image_dim), unit_rows(random, 1, TWO_TOWERS.title_dim)[0]
        self.query = Query(Embedding(image, title), BOUNDS["fused"], 10, context=CONTEXT, title="madu hutan", phash=BITS)
        self.candidates = [
            self._candidate(n, random, *pair, (hashes or [None] * len(cosines))[n]) for n, pair in enumerate(cosines)
        ]
        self.candidates.sort(key=lambda one: -one.match.score)

    def _candidate(
        self, n: int, random: np.random.Generator, image: float | None, title: float | None, phash: int | None
    ) -> Candidate:
        asked = self.query.embedding
        photos, words = np.zeros((0, TWO_TOWERS.image_dim), np.float32), None
        if image is not None:
            photos = toward(asked.images[0], random.normal(size=TWO_TOWERS.image_dim), image)[None]
        if title is not None and asked.title is not None:
            words = toward(asked.title, random.normal(size=TWO_TOWERS.title_dim), title)
        rows, flags = TWO_TOWERS.fuse(Embedding(photos, words))
        fused, asking = TWO_TOWERS.fuse(asked)
        scores = TWO_TOWERS.score_rows(fused[0], int(asking[0]), rows, flags)
        shown = () if image is None else (Photo("0" * 64, "image/png", 8, 8, phash),)
        product = Product(f"p{n}", None if title is None else f"kopi {n}", shown, {}, WHEN, WHEN)
        return Candidate(Match(product, float(scores.score[0]), image, title), rows[0], int(flags[0]))

    def answer(self) -> Answer:
        """What the catalog says: the matches by the threshold, and all candidates."""
        found = tuple(one.match for one in self.candidates if one.match.score >= self.query.threshold)
        shown = found[: self.query.limit]
        unseen = self.candidates[CONTEXT - 1].match.score if len(self.candidates) >= CONTEXT else -math.inf
        return Answer(
            shown, self.query.threshold, len(found), GALLERY, bound=0.53, candidates=tuple(self.candidates), unseen=unseen
        )

    def judged(self, rule: Rule | None = None, model: PairModel | None = None) -> Answer:
        judge = Judge(TWO_TOWERS, THRESHOLDS, model or small_model())
        return judge.judge(self.query, self.answer(), rule or Rule())


def sides(image: float | None, title: float | None, phash: int | None = None) -> tuple[ProductSide, ProductSide]:
    shelf = Shelf([(image, title)], [phash])
    one = shelf.candidates[0]
    right = (
        TWO_TOWERS.unfuse(one.vector[None], np.array([one.flags], np.uint8))
        if one.flags
        else Embedding(np.zeros((0, TWO_TOWERS.image_dim), np.float32))
    )
    return ProductSide(shelf.query.embedding, "madu hutan", BITS), ProductSide(right, one.match.product.title, phash)


def flat(probability: float) -> PairModel:
    """A model that gives every pair the same probability."""
    odds = max(probability, 1e-12) / max(1 - probability, 1e-12)
    same = {"slope": 1e-12, "offset": math.log(odds)}
    calibration = {"context": same, "alone": same}
    return PairModel(PairSpec.model_validate({**fitted().spec.model_dump(), "calibration": calibration}), fitted().texts)
