"""A small real pair model for the computable towers of `tests/fakes.py`, and listings whose truth it can learn.

Products come in families: one name and one colour, in two amounts. Cosines tell families apart and cannot tell the amounts
of a family; what the titles say in numbers can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from app.core.decision import Thresholds
from app.core.product import DEFAULT_CATALOG
from app.labelled.listings import Item
from app.listings import PhotoRef
from app.matcher import Matcher
from app.pair_model import PairModel
from app.training.labelled_features import embed_labelled
from app.training.pair_model import fit_pair_model
from tests.fakes import FUSION, FakeEncoder

LETTERS = "abcdefgh"
NOISE = ("new", "big", "hot")
AMOUNTS = (("500 g", "0.5 kg", "500g"), ("1 kg", "1000 g", "1kg"))
EACH = 4  # listings of a product
ROUNDS = 60
FAMILIES = 24


@dataclass(frozen=True, slots=True)
class Made:
    """A listing: its id, the product that it shows, title and photo, one of which may be None."""

    id: str
    group: str
    title: str | None
    photo: bytes | None


def printed(colour: Sequence[int], seed: int) -> bytes:
    """A PNG with that mean colour, about; every seed is another picture, with another perceptual hash."""
    random = np.random.default_rng(seed)
    blocks = np.clip(np.asarray(colour) + random.integers(-60, 61, (8, 8, 1)), 0, 255).astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(np.kron(blocks, np.ones((5, 5, 1), np.uint8))).save(stream, "PNG")
    return stream.getvalue()


def listings(families: int, seed: int) -> list[Made]:
    """Makes listings of `2 * families` products; every seventh has no photo, every ninth no title."""
    random = np.random.default_rng(seed)
    made: list[Made] = []
    for family in range(families):
        name = ["".join(random.choice(list(LETTERS), int(random.integers(3, 7)))) for _ in range(2)]
        colour = random.integers(60, 196, 3).tolist()
        for product, amounts in enumerate(AMOUNTS):
            for n in range(EACH):
                words = [*random.permutation(name), str(random.choice(amounts)), *random.choice(NOISE, n % 2)]
                number = len(made)
                title = None if number % 9 == 8 else " ".join(words)
                photo = None if title and number % 7 == 6 else printed(colour, int(random.integers(1 << 30)))
                made.append(Made(f"{family}-{product}-{n}", f"{family}-{product}", title, photo))
    return made


def fit_small_pair_model(thresholds: Thresholds) -> PairModel:
    """Fits a real pair model to `FAMILIES` families, by the way that `calibrate` goes."""
    encoder = FakeEncoder()
    items = [
        Item(row, one.id, one.group, one.title, None if one.photo is None else PhotoRef(one.photo))
        for row, one in enumerate(listings(FAMILIES, 1), start=1)
    ]
    data, bad = embed_labelled(items, encoder, FUSION, lambda _: None)
    assert not bad
    found = data.candidate_pairs(thresholds, lambda _: None)
    fitted = fit_pair_model(found.table, found.labels, rounds=ROUNDS)
    return PairModel(fitted.spec, fitted.texts)


def store(matcher: Matcher, made: Sequence[Made], catalog: str = DEFAULT_CATALOG) -> None:
    """Indexes listings as products."""
    matcher.add(
        catalog,
        [matcher.read_product(one.id, one.title, [one.photo] if one.photo else [], {"group": one.group}) for one in made],
    )
