"""What is known of listings when they are compared: fused vectors, perceptual hashes, and the score of a pair."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.core import phash
from app.core.fusion import HAS_BOTH, HAS_IMAGE, HAS_TITLE, MODALITY_OF, SCORE_DECIMALS, Fusion
from app.core.neighbourhood import HASH_ONLY
from app.core.product import Floats, Prepared
from app.embedding import embed
from app.encoders.base import Encoder
from app.encoders.preprocess import InputLimits, open_image, perceptual_hash
from app.errors import AppError
from app.labelled.listings import Item
from app.listings import BadRow

SIGNALS = ("title", "image", "phash")
CHUNK = 256
LIMITS = InputLimits()
KINDS = 5
NAME_OF = {**MODALITY_OF, HASH_ONLY: "phash"}


@dataclass(frozen=True, slots=True)
class Features:
    """`n` listings, ready to be compared.

    Attributes:
        fusion: of the bundle; None where only hashes are compared.
        vectors: `(n, dim)` float32 fused rows; `(n, 0)` without a bundle.
        flags: `(n,)` uint8, HAS_IMAGE | HAS_TITLE.
        hashes: `(n,)` uint64 perceptual hashes.
        hashed: `(n,)` bool, which rows have one.
    """

    fusion: Fusion | None
    vectors: Floats
    flags: NDArray[np.uint8]
    hashes: phash.Hashes
    hashed: NDArray[np.bool_]

    def __len__(self) -> int:
        """Listings."""
        return len(self.flags)

    def of(self, rows: NDArray[np.int64]) -> Features:
        """Returns some of the listings."""
        return Features(self.fusion, self.vectors[rows], self.flags[rows], self.hashes[rows], self.hashed[rows])

    def and_also(self, other: Features) -> Features:
        """Returns the listings of both, these first."""
        parts = ("vectors", "flags", "hashes", "hashed")
        return Features(self.fusion, *(np.concatenate([getattr(self, part), getattr(other, part)]) for part in parts))

    def top(self) -> float:
        """The largest score that a pair can have."""
        return 1 + phash.WEIGHT if self.hashed.any() and self.flags.any() else 1.0

    def score(self, row: int, others: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """Scores one listing against others: always in one way, whatever found them.

        Returns:
            `(m,)` float64: the fused cosine of `Fusion.score_rows`, raised by `phash.evidence` where both have a hash;
            the hash kernel alone where they share nothing else; -inf where they share nothing. Rounded to 6 decimals.
            `(m,)` uint8: what they share, HAS_IMAGE | HAS_TITLE, or HASH_ONLY, or 0.
        """
        kinds = self.flags[others] & self.flags[row]
        scores = np.full(len(others), -np.inf)
        if self.fusion is not None:
            rows = self.vectors[others]
            scores = self.fusion.score_rows(self.vectors[row], int(self.flags[row]), rows, self.flags[others]).score
        if self.hashed[row]:
            both = self.hashed[others]
            distance = phash.distances(self.hashes[others], self.hashes[row : row + 1])
            only = both & (kinds == 0)
            scores = np.where(both, phash.evidence(scores, distance), scores)
            scores = np.where(only, phash.kernel(distance), scores).round(SCORE_DECIMALS)
            kinds = np.where(only, HASH_ONLY, kinds).astype(np.uint8)
        return scores, kinds


def embed_items(
    items: Sequence[Item],
    signals: Collection[str],
    encoder: Encoder | None,
    fusion: Fusion | None,
    tick: Callable[[int], None],
) -> tuple[Features, NDArray[np.int64], list[BadRow]]:
    """Computes the features of listings.

    Args:
        items: the listings; a hash that the table lacks is computed from the photo.
        signals: some of `SIGNALS`; nothing else is read.
        encoder: of the bundle; None if only hashes are asked for.
        fusion: of the bundle, None likewise.
        tick: called with the number of listings just done.

    Returns:
        The features of those that could be read, their positions among `items`, and the others. A listing with none of
        the signals is kept: it has no match but itself.
    """
    vectors = np.zeros((len(items), fusion.dim if fusion else 0), np.float32)
    flags = np.zeros(len(items), np.uint8)
    hashes = np.zeros(len(items), np.uint64)
    hashed = np.zeros(len(items), np.bool_)
    kept: list[int] = []
    bad: list[BadRow] = []
    for start in range(0, len(items), CHUNK):
        chunk = items[start : start + CHUNK]
        read: list[tuple[int, Prepared]] = []
        for position, item in enumerate(chunk, start):
            try:
                prepared, value = _read(item, signals, encoder)
            except AppError as error:
                bad.append(BadRow(item.row, item.id, error))
                continue
            if not prepared.empty:
                read.append((len(kept), prepared))
            if value is not None:
                hashes[len(kept)], hashed[len(kept)] = value, True
            kept.append(position)
        if encoder is not None and fusion is not None and read:
            for (row, _), embedding in zip(read, embed(encoder, [one for _, one in read]), strict=True):
                fused, seen = fusion.fuse(embedding)
                vectors[row], flags[row] = fused[0], seen[0]
        tick(len(chunk))
    n = len(kept)
    return Features(fusion, vectors[:n], flags[:n], hashes[:n], hashed[:n]), np.array(kept, np.int64), bad


def _read(item: Item, signals: Collection[str], encoder: Encoder | None) -> tuple[Prepared, int | None]:
    """Returns what the towers take of a listing, and its hash."""
    wants_hash = "phash" in signals and item.phash is None
    wants_pixels = encoder is not None and encoder.image_dim > 0 and "image" in signals
    data = item.photo.read() if item.photo is not None and (wants_hash or wants_pixels) else None
    value = item.phash if "phash" in signals else None
    if data is not None and wants_hash:
        value = perceptual_hash(open_image(data, LIMITS))
    if encoder is None:
        return Prepared(), value
    photos = (encoder.read_photo(data)[1],) if data is not None and wants_pixels else ()
    return Prepared(photos, item.title if encoder.title_dim and "title" in signals else None), value


def halves(features: Features, rows: NDArray[np.int64], shared: int) -> Floats:
    """Returns the vectors of listings whose inner products are the score of what two sides share.

    Args:
        features: the listings.
        rows: `(m,)` which of them; each has at least what is shared.
        shared: HAS_IMAGE, HAS_TITLE or HAS_BOTH.
    """
    fusion = features.fusion
    if fusion is None:
        raise ValueError("there are no vectors without a bundle")
    cut = fusion.image_dim
    columns = {HAS_BOTH: slice(None), HAS_IMAGE: slice(cut), HAS_TITLE: slice(cut, None)}[shared]
    share = {HAS_BOTH: 1.0, HAS_IMAGE: fusion.weight, HAS_TITLE: 1 - fusion.weight}[shared]
    everything = len(rows) == len(features)  # spares a copy of all vectors
    part = features.vectors[:, columns] if everything else features.vectors[rows, columns]
    scaled = part if share == 1 else part / np.float32(np.sqrt(share))
    return np.ascontiguousarray(scaled, np.float32)
