"""Two towers, one vector: how image and title embeddings become one inner product, and are read back.

`z = [sqrt(w) * image, sqrt(1 - w) * title]`: with unit halves, `z_a . z_b = w * cos_image + (1 - w) * cos_title`.
A missing half is zeros and is not renormalised, so one index answers three questions:

    question   vector                       its inner product with a row is     finds exactly
    fused      [sqrt(w) i, sqrt(1-w) t]     the score, where both have both     products with photo and title
    image      [i / sqrt(w), 0]             cos_image                           products with only a photo
    title      [0, t / sqrt(1-w)]           cos_title                           products with only a title

Questions are scaled so that one bound, the threshold itself, serves all three.
"Normalise, then concatenate" is the order that won Shopee - Price Match Guarantee (Kaggle, 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.core.product import Embedding, Floats

SCORE_DECIMALS = 6  # float32 dot products jitter by 5e-7 between code paths; rounding makes comparisons repeatable
BLOCK_ROWS = 4096

HAS_IMAGE = 1
HAS_TITLE = 2
HAS_BOTH = HAS_IMAGE | HAS_TITLE
LENGTH_SLACK = 5e-3  # of squared lengths: towers in half precision end within 1e-3
MODALITY_OF = {HAS_BOTH: "fused", HAS_IMAGE: "image", HAS_TITLE: "title"}


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one query against `n` rows, rounded to 6 decimals and clamped to [-1, 1].

    Attributes:
        score: `(n,)` float64; -inf where the two sides share no modality.
        image: `(n,)` float64; NaN where a side has no photo.
        title: `(n,)` float64; NaN where a side has no title.
    """

    score: NDArray[np.float64]
    image: NDArray[np.float64]
    title: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fusion:
    """The fusion rule of one bundle.

    Attributes:
        weight: w, the share of the image cosine in the fused score; 1 or 0 if the bundle has only one tower.
        image_dim: columns of the image half, 0 without an image tower.
        title_dim: columns of the title half, 0 without a title tower.
    """

    weight: float
    image_dim: int
    title_dim: int

    def __post_init__(self) -> None:
        allowed = {(True, True): 0 < self.weight < 1, (True, False): self.weight == 1, (False, True): self.weight == 0}
        if not allowed.get((self.image_dim > 0, self.title_dim > 0), False):
            raise ValueError("w must lie in (0, 1) for two towers, be 1 for an image tower and 0 for a title tower")

    @property
    def dim(self) -> int:
        """Columns of the fused vector."""
        return self.image_dim + self.title_dim

    def fuse(self, embedding: Embedding) -> tuple[Floats, NDArray[np.uint8]]:
        """Returns the index rows of one product: one per photo, or one if it has only a title.

        Returns:
            `(rows, dim)` float32 and `(rows,)` uint8 flags HAS_IMAGE | HAS_TITLE.
        """
        rows = max(1, len(embedding.images))
        z = np.zeros((rows, self.dim), np.float32)
        flags = np.zeros(rows, np.uint8)
        if len(embedding.images):
            z[:, : self.image_dim] = np.sqrt(self.weight) * embedding.images
            flags |= HAS_IMAGE
        if embedding.title is not None:
            z[:, self.image_dim :] = np.sqrt(1 - self.weight) * embedding.title
            flags |= HAS_TITLE
        return z, flags

    def sound(self, rows: Floats, flags: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Says which index rows can be what `fuse` made: numbers, no half too long, and nothing where there is no half.

        Args:
            rows: `(n, dim)` float32.
            flags: `(n,)`.

        Returns:
            `(n,)`. True proves nothing: a flipped sign changes no length, and halves may be too short (a tower that counts
            n-grams has none to count in some titles).
        """
        image, title = rows[:, : self.image_dim], rows[:, self.image_dim :]
        with np.errstate(all="ignore"):  # what is not sound may be anything
            image_over = np.einsum("nd,nd->n", image, image) - self.weight * (flags & HAS_IMAGE != 0)
            title_over = np.einsum("nd,nd->n", title, title) - (1 - self.weight) * (flags & HAS_TITLE != 0)
            sound: NDArray[np.bool_] = (image_over < LENGTH_SLACK) & (title_over < LENGTH_SLACK)
        return sound

    def unfuse(self, rows: Floats, flags: NDArray[np.uint8]) -> Embedding:
        """Reads the embedding of one product back from its index rows, `(rows, dim)` and `(rows,)`, at least one."""
        images = np.zeros((0, self.image_dim), np.float32)
        if flags[0] & HAS_IMAGE:
            images = (rows[:, : self.image_dim] / np.sqrt(self.weight)).astype(np.float32)
        title = (rows[0, self.image_dim :] / np.sqrt(1 - self.weight)).astype(np.float32) if flags[0] & HAS_TITLE else None
        return Embedding(images, title)

    def questions(self, embedding: Embedding, kinds: set[int]) -> list[tuple[str, Floats]]:
        """Returns the question vectors whose answers together hold every match of a query.

        Args:
            embedding: of the query; every photo asks for itself.
            kinds: flags of the rows that the gallery holds; questions that none of them could answer are left out.

        Returns:
            `fused`, `image` or `title`, each with its `(questions, dim)` float32 vectors. A row that shares that
            modality with the query scores at or above a threshold only if its inner product with one of them is,
            up to float32 rounding.
        """
        fused, flags = self.fuse(embedding)
        asked = int(flags[0])
        out: list[tuple[str, Floats]] = []
        if asked == HAS_BOTH and HAS_BOTH in kinds:
            out.append(("fused", fused))
        if asked & HAS_IMAGE and (kinds & ({HAS_IMAGE, HAS_BOTH} if asked == HAS_IMAGE else {HAS_IMAGE})):
            out.append(("image", self._only(fused / self.weight, HAS_IMAGE)))
        if asked & HAS_TITLE and (kinds & ({HAS_TITLE, HAS_BOTH} if asked == HAS_TITLE else {HAS_TITLE})):
            out.append(("title", self._only(fused[:1] / (1 - self.weight), HAS_TITLE)))
        return out

    def _only(self, z: Floats, half: int) -> Floats:
        kept = z.copy()
        if half == HAS_IMAGE:
            kept[:, self.image_dim :] = 0
        else:
            kept[:, : self.image_dim] = 0
        return kept.astype(np.float32)

    def score_rows(self, query: Floats, query_flags: int, rows: Floats, row_flags: NDArray[np.uint8]) -> Scores:
        """Scores one fused query against fused rows, always in float64 and in one way.

        Args:
            query: `(dim,)` float32 as made by `fuse`.
            query_flags: HAS_IMAGE | HAS_TITLE of the query.
            rows: `(n, dim)` float32.
            row_flags: `(n,)` uint8.
        """
        dots = np.empty((2, len(rows)))
        wide = query.astype(np.float64)
        cut = self.image_dim
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS].astype(np.float64)
            dots[0, start : start + len(block)] = (block[:, :cut] * wide[:cut]).sum(axis=1)
            dots[1, start : start + len(block)] = (block[:, cut:] * wide[cut:]).sum(axis=1)
        shared = row_flags & query_flags
        with np.errstate(divide="ignore", invalid="ignore"):
            image = np.where(shared & HAS_IMAGE, dots[0] / self.weight, np.nan)
            title = np.where(shared & HAS_TITLE, dots[1] / (1 - self.weight), np.nan)
        score = np.where(shared == HAS_BOTH, dots[0] + dots[1], np.where(shared == HAS_IMAGE, image, title))
        score = np.where(shared == 0, -np.inf, score)
        return Scores(_tidy(score), _tidy(image), _tidy(title))


def _tidy(values: NDArray[np.float64]) -> NDArray[np.float64]:
    clamped = np.where(np.isneginf(values), values, np.clip(values, -1.0, 1.0))
    return (np.round(clamped, SCORE_DECIMALS) + 0.0).astype(np.float64)  # + 0.0 turns -0.0 into 0.0
