"""Checks of training data, and what is said about rows that fail them."""

from __future__ import annotations

import hashlib
import io

from PIL import Image

from app.encoders.preprocess import FORMATS, InputLimits, clean_title
from app.errors import AppError, InvalidImage, InvalidInput, InvalidListings, InvalidTitle
from app.listings import WHOLE_TABLE, BadRow, PhotoRef

LIMITS = InputLimits()


class Problems:
    """What is wrong with one table, row by row. In strict reading the first problem is raised.

    Attributes:
        file: name of the table, for messages.
        strict: whether to stop at the first problem.
        opened: photos that could be opened so far, whatever they hold.
    """

    def __init__(self, file: str, strict: bool) -> None:
        self.file, self.strict = file, strict
        self.opened = 0
        self._found: list[BadRow] = []
        self._absent: list[BadRow] = []

    def __len__(self) -> int:
        """Problems so far."""
        return len(self._found) + len(self._absent)

    def add(self, row: int, row_id: str | None, error: AppError | str) -> None:
        """Notes a problem of a row, or of the table as a whole. Raises InvalidListings if reading is strict."""
        self._found.append(BadRow(row, row_id, self._located(row, error)))

    def title(self, row: int, row_id: str | None, text: str | None) -> str | None:
        """Returns a clean title; None if there is none or, after noting why, if it cannot be used."""
        try:
            return None if text is None else clean_title(text, LIMITS)
        except InvalidTitle as error:
            self.add(row, row_id, error)
            return None

    def photo(self, row: int, row_id: str | None, photo: PhotoRef) -> str | None:
        """Returns the SHA-256 of a photo's bytes in hexadecimal; None, after noting why, if it cannot be used."""
        try:
            data = photo.read()
        except InvalidInput as error:
            self._absent.append(BadRow(row, row_id, self._located(row, error)))
            return None
        self.opened += 1
        try:
            check_photo(data)
        except InvalidImage as error:
            self.add(row, row_id, error)
            return None
        return hashlib.sha256(data).hexdigest()

    def rows(self) -> list[BadRow]:
        """Returns all problems by row. Photos of which not one could be opened are one problem of the table."""
        absent = self._absent
        if absent and not self.opened:
            text = f"none of the {len(absent):,} photos it names can be read, only titles are used. {absent[0].error}"
            absent = [BadRow(WHOLE_TABLE, None, self._located(WHOLE_TABLE, text))]
        return sorted([*self._found, *absent], key=lambda problem: problem.row)

    def _located(self, row: int, error: AppError | str) -> InvalidListings:
        text = str(error)
        if not text.startswith(f"{self.file}, line "):  # such a line is named already
            text = f"{self.file}: {text}" if row == WHOLE_TABLE else f"{self.file}, row {row}: {text}"
        located = InvalidListings(text)
        if self.strict:
            raise located
        return located


def check_photo(data: bytes) -> None:
    """Checks a photo by its header, which is much cheaper than decoding it and finds most of what is wrong.

    Raises:
        InvalidImage: not a photo in a known format, or one that is too large or too small for `open_image`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            image.verify()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImage(f"the photo has more than {LIMITS.image_pixels:,} pixels: scale it down.") from error
    except Exception as error:  # decoders raise anything from OSError to struct.error on damaged files
        raise InvalidImage(
            f"the photo is damaged, or none of {', '.join(FORMATS)}: replace it, or leave the cell empty."
        ) from error
    if len(data) > LIMITS.image_bytes or width * height > LIMITS.image_pixels:
        raise InvalidImage(
            f"the photo has {len(data):,} bytes and {width} x {height} pixels, at most {LIMITS.image_bytes:,} bytes "
            f"and {LIMITS.image_pixels:,} pixels are taken: scale it down."
        )
    if min(width, height) < LIMITS.image_side_px:
        raise InvalidImage(
            f"the photo is {width} x {height} pixels, its shortest side must have {LIMITS.image_side_px} or more: "
            "replace it, or leave the cell empty."
        )
