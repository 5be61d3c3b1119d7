"""What the service is about: products, what is asked of them, and what is answered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidFilter, InvalidInput

Scalar = str | int | float | bool
Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

DEFAULT_CATALOG = "default"
MAX_ID_CHARS = 200

_CATALOG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVED_ID_ENDINGS = ("/image", "/matches")


@dataclass(frozen=True, slots=True)
class ProductLimits:
    """What a product, a filter, and a table of products may hold.

    Attributes:
        photos: of one product.
        attributes: of one product, or of a filter.
        attribute_chars: of an attribute that is text.
        filter_values: that a filter accepts of one attribute.
        table_columns: of a table of products.
    """

    photos: int = 20
    attributes: int = 64
    attribute_chars: int = 500
    filter_values: int = 100
    table_columns: int = 1000


DEFAULT_LIMITS = ProductLimits()


@dataclass(frozen=True, slots=True)
class Prepared:
    """Checked, decoded input of one product or query, ready for the towers.

    Attributes:
        photos: one uint8 array per photo, framed as the bundle says: `(size, size, 3)` RGB, or flat with all the framings
            that an ensemble's parts want, see `app.encoders.framings`.
        title: clean text, or None.
        phash: perceptual hash of the first photo, or None.
    """

    photos: tuple[Pixels, ...] = ()
    title: str | None = None
    phash: int | None = None

    @property
    def empty(self) -> bool:
        """True if there is nothing for the towers."""
        return not self.photos and self.title is None


@dataclass(frozen=True, slots=True)
class Embedding:
    """What the towers say about one product or query.

    Attributes:
        images: `(photos, image_dim)` float32, unit rows; `(0, image_dim)` without a photo.
        title: `(title_dim,)` float32 unit vector, or None without a title.
    """

    images: Floats
    title: Floats | None = None

    @property
    def modality(self) -> str:
        """`fused`, `image` or `title`: which halves there are. Raises ValueError if there are none."""
        if len(self.images):
            return "image" if self.title is None else "fused"
        if self.title is None:
            raise ValueError("an embedding needs at least one modality")
        return "title"


@dataclass(frozen=True, slots=True)
class Photo:
    """A stored photo: `sha256` of the uploaded bytes is also its file name.

    `phash` is its perceptual hash, see `app.core.phash`; None if an older version stored it.
    """

    sha256: str
    media_type: str
    width: int
    height: int
    phash: int | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """A photo on its way in: the bytes as they were sent, and what decoding found."""

    data: bytes
    photo: Photo


@dataclass(frozen=True, slots=True)
class ProductDraft:
    """A product to index or replace, embedded."""

    id: str
    title: str | None
    uploads: tuple[Upload, ...]
    attributes: Mapping[str, Scalar]
    embedding: Embedding


@dataclass(frozen=True, slots=True)
class Product:
    """A catalog entry as it is stored."""

    id: str
    title: str | None
    photos: tuple[Photo, ...]
    attributes: Mapping[str, Scalar]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Query:
    """One question to a catalog.

    Attributes:
        embedding: of the query, with at most one photo row where it comes from outside.
        threshold: smallest score that counts, in [-1, 1], inclusive.
        partial: thresholds for products that share only a photo (`image`) or only a title (`title`) with the query,
            where they differ from `threshold`: a cosine of two photos means something else than a fused one.
        limit: how many matches to return, best first, >= 1.
        where: attribute -> accepted values (any of); every attribute must agree.
        exclude: id of a product to leave out (the one that asks).
        context: how many of the best candidates to return, whatever they score.
        if_any: candidates are wanted only if there is a match. Others may come, too, or not.
        title: clean title of the query, for those who judge the candidates.
        phash: perceptual hash of its photo, likewise.
    """

    embedding: Embedding
    threshold: float
    limit: int
    where: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    exclude: str | None = None
    partial: Mapping[str, float] = field(default_factory=dict)
    context: int = 0
    if_any: bool = False
    title: str | None = None
    phash: int | None = None

    def bound(self, modality: str) -> float:
        """The threshold for products that share `modality` with the query."""
        return self.partial.get(modality, self.threshold)


def is_unicode(value: str) -> bool:
    """False for text with lone surrogates, which JSON can carry and no database can store."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def check_id(value: str) -> str:
    """Returns a product id that can be stored, put in a URL and found again.

    Raises:
        InvalidInput: empty, longer than 200 characters, with control characters, surrounded by blanks or
            slashes, or ending like one of the product's own addresses.
    """
    if not value or len(value) > MAX_ID_CHARS:
        raise InvalidInput(f"id must have 1 to {MAX_ID_CHARS} characters, this one has {len(value)}.")
    if value != value.strip() or not value.isprintable():
        raise InvalidInput("id must be printable text without blanks around it: trim it and remove control characters.")
    if {".", ".."} & set(value.split("/")) or value.startswith("/") or value.endswith(("/", *_RESERVED_ID_ENDINGS)):
        raise InvalidInput("id must not be '.' or '..', start or end with '/', or end with '/image' or '/matches'.")
    return value


def check_catalog(value: str) -> str:
    """Returns a catalog name. Raises InvalidInput unless it is 1 to 64 letters, digits, `.`, `_` or `-`."""
    if not _CATALOG_NAME.fullmatch(value):
        raise InvalidInput("catalog must be 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit.")
    return value


def _check_scalar(name: str, value: object, error: type[InvalidInput], most_chars: int) -> Scalar:
    if isinstance(value, str):
        if len(value) > most_chars or "\0" in value or not is_unicode(value):
            raise error(f"attribute '{name}': text must be valid Unicode of at most {most_chars:,} characters without NUL.")
        return value
    if isinstance(value, bool | int | float):
        if not abs(value) < 2**53:  # also refuses NaN and infinities; larger integers do not survive JSON
            raise error(f"attribute '{name}': numbers must be finite and smaller than 2^53.")
        return value
    raise error(f"attribute '{name}' must be text, a number or true/false, not {type(value).__name__}.")


def _check_name(name: str, error: type[InvalidInput]) -> str:
    if not name or len(name) > MAX_ID_CHARS or not name.isprintable():
        raise error(f"attribute names must be printable and have 1 to {MAX_ID_CHARS} characters.")
    return name


def check_attributes(values: Mapping[str, object], limits: ProductLimits = DEFAULT_LIMITS) -> dict[str, Scalar]:
    """Returns attributes as they are stored: a flat mapping of text, numbers and booleans.

    Raises:
        InvalidInput: too many attributes, nested values, nulls, overlong text, or numbers JSON cannot carry.
    """
    if len(values) > limits.attributes:
        raise InvalidInput(f"at most {limits.attributes} attributes per product, got {len(values)}.")
    return {
        _check_name(name, InvalidInput): _check_scalar(name, value, InvalidInput, limits.attribute_chars)
        for name, value in values.items()
    }


def check_filter(values: Mapping[str, object], limits: ProductLimits = DEFAULT_LIMITS) -> dict[str, tuple[Scalar, ...]]:
    """Returns a filter: attribute -> accepted values. A single value means equality, a list means any of.

    Raises:
        InvalidFilter: too many attributes or values, an empty list, or values that no attribute can have.
    """
    if len(values) > limits.attributes:
        raise InvalidFilter(f"a filter takes at most {limits.attributes} attributes, got {len(values)}.")
    where: dict[str, tuple[Scalar, ...]] = {}
    for name, value in values.items():
        accepted = value if isinstance(value, list) else [value]
        if not 1 <= len(accepted) <= limits.filter_values:
            raise InvalidFilter(f"filter '{name}': give 1 to {limits.filter_values} accepted values, got {len(accepted)}.")
        where[_check_name(name, InvalidFilter)] = tuple(
            _check_scalar(name, one, InvalidFilter, limits.attribute_chars) for one in accepted
        )
    return where


def canonical(value: Scalar) -> str:
    """Returns the text by which attribute values are compared: `1` and `1.0` are equal, `1`, `"1"` and `true` are not."""
    if isinstance(value, bool):
        return f"b:{value}"
    if isinstance(value, int | float):
        return f"n:{float(value) + 0.0!r}"
    return f"s:{value}"


def agrees(attributes: Mapping[str, Scalar], where: Mapping[str, tuple[Scalar, ...]]) -> bool:
    """True if every attribute of the filter has one of its accepted values in `attributes`."""
    return all(
        name in attributes and canonical(attributes[name]) in {canonical(value) for value in accepted}
        for name, accepted in where.items()
    )
