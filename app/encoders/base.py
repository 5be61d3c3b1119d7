"""What an encoder promises. Imports no PyTorch: whoever only uses an encoder need not wait for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from app.core.product import Floats, Pixels, Upload
from app.encoders.ahead import Outcome
from app.encoders.preprocess import InputLimits


class Encoder(Protocol):
    """What the matcher needs of a model. Real towers here, a small computable fake in the tests."""

    image_dim: int
    title_dim: int
    limits: InputLimits
    batch: int  # photos or titles that the towers take at once
    at_once: int  # batches of different callers that are embedded at the same time: more are no faster

    def read_photo(self, data: bytes) -> tuple[Upload, Pixels]:
        """Checks, decodes and frames a photo; a model without an image tower returns no pixels.

        Raises InvalidImage or PayloadTooLarge.
        """

    def read_photos(self, chunks: Iterable[Sequence[bytes]]) -> Iterator[list[Outcome]]:
        """Reads many photos as `read_photo` does, ahead of who takes them.

        Args:
            chunks: files that are wanted together.

        Yields:
            For each chunk what `read_photo` returns for each of its files, or the error that it raises.

        Raises:
            EncodingFailed: photos can be read no further.
        """

    def read_title(self, text: str) -> str:
        """Checks and cleans a title. Raises InvalidTitle."""

    def embed_photos(self, pixels: Sequence[Pixels]) -> Floats:
        """Returns `(n, image_dim)` unit rows. Raises EncodingFailed."""

    def embed_titles(self, titles: Sequence[str]) -> Floats:
        """Returns `(n, title_dim)` unit rows. Raises EncodingFailed."""

    def embed(self, photos: Sequence[Pixels], titles: Sequence[str]) -> tuple[Floats, Floats]:
        """Returns what `embed_photos` and `embed_titles` return, sooner than one after the other where that is possible."""
