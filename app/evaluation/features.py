"""What is known of listings when they are compared: fused vectors, perceptual hashes, and the score of a pair."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from app.core import phash
from app.core.fusion import HAS_BOTH, HAS_IMAGE, HAS_TITLE, MODALITY_OF, SCORE_DECIMALS, Fusion
from app.core.neighbourhood import HASH_ONLY
from app.core.product import Floats
from app.embedding import Item as ToEmbed
from app.embedding_ahead import Embedded, Found, embed_ahead
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
    wanted = _Wanted(encoder, "title" in signals, "image" in signals, "phash" in signals)
    for chunk in _found(items, wanted):
        for row, found in chunk:
            if isinstance(found, AppError):
                bad.append(BadRow(items[row.position].row, items[row.position].id, found))
                continue
            n, value = len(kept), row.phash
            if isinstance(found, Embedded) and fusion is not None:
                fused, seen = fusion.fuse(found.embedding)
                vectors[n], flags[n] = fused[0], seen[0]
                if value is None and wanted.phash:
                    value = found.known.phash
            if value is not None:
                hashes[n], hashed[n] = value, True
            kept.append(row.position)
        tick(len(chunk))
    n = len(kept)
    return Features(fusion, vectors[:n], flags[:n], hashes[:n], hashed[:n]), np.array(kept, np.int64), bad


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is read of listings: by the towers, if there are any, and hashes."""

    encoder: Encoder | None
    title: bool
    image: bool
    phash: bool

    @property
    def pixels(self) -> bool:
        """Whether towers read photos."""
        return self.image and self.encoder is not None and self.encoder.image_dim > 0


@dataclass(frozen=True, slots=True)
class _Row:
    """A listing whose photo was opened: what towers are to read of it, and its hash if no tower has to read it for that."""

    position: int
    data: bytes | None = None
    title: str | None = None
    phash: int | None = None
    error: AppError | None = None


def _found(items: Sequence[Item], wanted: _Wanted) -> Iterator[list[tuple[_Row, Found]]]:
    """Yields the rows in chunks, embedded where there is something to embed, or with the reason why they cannot be read."""
    rows = (_opened(position, item, wanted) for position, item in enumerate(items))
    if wanted.encoder is None:
        while chunk := list(islice(rows, CHUNK)):
            yield [(row, row.error) for row in chunk]
        return

    def asked(row: _Row) -> ToEmbed | None:
        images = [] if row.data is None else [row.data]
        return ToEmbed(images, row.title, clean=True) if images or row.title is not None else None

    for embedded in embed_ahead(wanted.encoder, rows, asked, CHUNK):
        yield [(row, found if row.error is None else row.error) for row, found in embedded]


def _opened(position: int, item: Item, wanted: _Wanted) -> _Row:
    """Opens what is wanted of a listing; the hash of a photo that no tower reads is computed here."""
    hashed = item.phash if wanted.phash else None
    title = item.title if wanted.title and wanted.encoder is not None and wanted.encoder.title_dim else None
    missing = wanted.phash and item.phash is None
    try:
        data = item.photo.read() if item.photo is not None and (missing or wanted.pixels) else None
        if data is not None and missing and not wanted.pixels:
            hashed = perceptual_hash(open_image(data, LIMITS))
    except AppError as error:
        return _Row(position, error=error)
    return _Row(position, data if wanted.pixels else None, title, hashed)


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
