"""What comes in: forms checked for typing errors, and batches as JSON or as a manifest with a zip of photos."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from fastapi import Request, UploadFile
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData
from starlette.datastructures import UploadFile as StarletteUpload

from app.api.archives import ArchiveLimits, PhotoArchive
from app.api.schemas import BatchItemIn, first_problem
from app.core.product import ProductLimits, check_attributes
from app.errors import (
    DuplicateIds,
    ImageUrlRefused,
    InvalidFilter,
    InvalidInput,
    InvalidListings,
    InvalidTitle,
    PayloadTooLarge,
    UnsupportedMedia,
)
from app.listings import BadRow, Columns, Listing, csv_rows, jsonl_rows, read_row, row_id, with_checked_header
from app.settings import Settings

FORM_TYPES = ("multipart/form-data", "application/x-www-form-urlencoded")
IMAGE_URL_COLUMN = "image_url"
Load = Callable[[], Listing | BadRow]
Schema = TypeVar("Schema", bound=BaseModel)


def content_type(request: Request) -> str:
    """Returns the media type of a request's body, in lower case and without parameters."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


class FormFields:
    """A dependency: refuses bodies that are no form, unknown or repeated fields, and titles sent empty."""

    def __init__(self, *single: str, many: Sequence[str] = ()) -> None:
        self._single, self._many = single, many

    async def __call__(self, request: Request) -> None:
        """Raises UnsupportedMedia, InvalidInput or InvalidTitle."""
        if content_type(request) not in FORM_TYPES:
            raise UnsupportedMedia("send the fields as multipart/form-data (curl: -F title=... -F image=@photo.jpg).")
        form = await request.form()
        known = (*self._single, *self._many)
        for field in form:
            if field not in known:
                raise InvalidInput(f"unknown field '{field[:40]}': this call takes {', '.join(known)}.")
            if field in self._single and len(form.getlist(field)) > 1:
                raise InvalidInput(f"field '{field}' is given more than once.")
        for field in form:
            if field.endswith("title") and form[field] == "":
                raise InvalidTitle(f"the {field.replace('_', ' ')} is empty: leave the field out, or send some text.")
            if field.endswith("image_url") and "" in form.getlist(field):
                raise ImageUrlRefused(f"{field} is empty: leave the field out, or send an address.")


def read_json_object(text: str | None, field: str, error: type[InvalidInput] = InvalidInput) -> dict[str, Any]:
    """Returns a JSON object from a form field, {} if the field is absent. Raises `error`."""
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # ValueError: no JSON, or a number of thousands of digits
        value = None
    if not isinstance(value, dict):
        raise error(f'{field} must be a JSON object such as {{"brand": "Acme"}}.')
    return value


async def read_json(request: Request, schema: type[Schema], most_bytes: int) -> Schema:
    """Reads a JSON body. Raises UnsupportedMedia, PayloadTooLarge, and InvalidInput that says which field is wrong."""
    if content_type(request) != "application/json":
        raise UnsupportedMedia("send the fields as JSON, with the header Content-Type: application/json.")
    body = await request.body()
    if len(body) > most_bytes:
        raise PayloadTooLarge(f"the JSON has {len(body):,} bytes, at most {most_bytes:,} are taken.")
    try:
        return await asyncio.to_thread(schema.model_validate_json, body)
    except ValidationError as error:
        raise first_problem(error, "body") from None


async def read_upload(upload: UploadFile, limit: int) -> bytes:
    """Returns the bytes of an uploaded photo. Raises PayloadTooLarge."""
    if upload.size is not None and upload.size > limit:
        raise PayloadTooLarge(f"the photo has {upload.size:,} bytes, at most {limit:,} are taken: scale it down.")
    return await upload.read()


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What is taken in one batch: items, bytes of a JSON body or a manifest, what is unpacked, what products hold."""

    items: int
    manifest_bytes: int
    archive: ArchiveLimits
    product: ProductLimits

    @classmethod
    def of(cls, settings: Settings, product: ProductLimits) -> BatchLimits:
        """As the settings say."""
        archive = ArchiveLimits(
            settings.max_image_bytes, settings.max_zip_entries, settings.max_zip_ratio, settings.max_unpacked_bytes
        )
        return cls(settings.max_batch_items, settings.max_manifest_bytes, archive, product)


@dataclass(frozen=True, slots=True)
class BatchItem:
    """An item of a batch.

    Attributes:
        index: its position.
        id: if it has one.
        load: reads it, not on the loop, since that decodes.
        remote: it may have photos that are to be fetched.
    """

    index: int
    id: str | None
    load: Load
    remote: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """The items of a batch call, in order, and its other fields as they were sent; `close` it after the last item."""

    items: list[BatchItem]
    options: dict[str, Any]
    form: FormData | None = None

    async def close(self) -> None:
        """Gives back the temporary files of the uploads."""
        if self.form is not None:
            await self.form.close()


@asynccontextmanager
async def closed_on_error(owner: FormData | Batch) -> AsyncIterator[None]:
    """Closes a form or a batch if what is done with it fails; otherwise whoever gets it next closes it."""
    try:
        yield
    except BaseException:
        await owner.close()
        raise


async def read_batch(request: Request, schema: type[BaseModel], limits: BatchLimits) -> Batch:
    """Reads a batch as JSON, or as a form with `manifest` (CSV or JSON lines) and `photos` (zip).

    Raises:
        UnsupportedMedia: neither of the two.
        InvalidInput: it cannot be read as a whole; DuplicateIds if an id occurs twice.
        PayloadTooLarge: more items or bytes than the limits.
    """
    kind = content_type(request)
    if kind == "application/json":
        body = await request.body()
        _check_manifest(len(body), limits)
        batch = await asyncio.to_thread(_json_batch, body, schema, limits.product)
    elif kind == "multipart/form-data":
        form = await request.form(max_files=2, max_fields=16)
        async with closed_on_error(form):
            batch = await asyncio.to_thread(_form_batch, form, schema, limits)
    else:
        raise UnsupportedMedia("send application/json with items, or multipart/form-data with manifest and photos.")
    async with closed_on_error(batch):
        _check_items(batch.items, limits.items)
    return batch


def _check_manifest(size_bytes: int, limits: BatchLimits) -> None:
    if size_bytes > limits.manifest_bytes:
        raise PayloadTooLarge(
            f"the items have {size_bytes:,} bytes, at most {limits.manifest_bytes:,} are taken: split them, or zip photos."
        )


def _check_items(items: Sequence[BatchItem], max_items: int) -> None:
    if len(items) > max_items:
        raise PayloadTooLarge(f"the batch has more than {max_items:,} items: split it.")
    if not items:
        raise InvalidInput("the batch has no items: send at least one.")
    counts = Counter(item.id for item in items if item.id is not None)
    twice = sorted(one for one, count in counts.items() if count > 1)
    if twice:
        shown = ", ".join(f"'{one[:60]}'" for one in twice[:5])
        raise DuplicateIds(f"{len(twice)} ids occur more than once ({shown}): nothing was done. Send each id once.")


def _json_batch(body: bytes, schema: type[BaseModel], limits: ProductLimits) -> Batch:
    try:
        fields = schema.model_validate_json(body).model_dump()
    except ValidationError as error:
        raise first_problem(error, "body") from None
    items = [_json_item(index, item, limits) for index, item in enumerate(fields.pop("items"))]
    return Batch(items, fields)


def _json_item(index: int, item: Any, limits: ProductLimits) -> BatchItem:
    named = item.get("id") if isinstance(item, dict) else None
    item_id = named if isinstance(named, str) else None

    def load() -> Listing | BadRow:
        try:
            read = BatchItemIn.read(item)
            photos = tuple(read.photos())
            attributes = check_attributes(read.attributes, limits)
            return Listing(index + 1, read.id, read.title, photos, attributes, image_urls=read.addresses())
        except InvalidInput as error:
            return BadRow(index + 1, item_id, error)

    return BatchItem(index, item_id, load, isinstance(item, dict) and bool(item.get("image_url") or item.get("image_urls")))


def _form_batch(form: FormData, schema: type[BaseModel], limits: BatchLimits) -> Batch:
    for field in form:
        if len(form.getlist(field)) > 1:
            raise InvalidInput(f"field '{field[:40]}' is given more than once.")
    fields: dict[str, Any] = dict(form)
    manifest, photos = fields.pop("manifest", None), fields.pop("photos", None)
    if not isinstance(manifest, StarletteUpload):
        raise InvalidInput("send the manifest as a file: -F manifest=@products.csv (CSV or JSON lines).")
    if photos is not None and not isinstance(photos, StarletteUpload):
        raise InvalidInput("send the photos as a zip file: -F photos=@photos.zip.")
    if "filter" in fields:
        fields["filter"] = read_json_object(str(fields["filter"]), "filter", InvalidFilter)
    try:
        options = schema.model_validate({"items": [], **fields}).model_dump()
    except ValidationError as error:
        raise first_problem(error, "body") from None
    options.pop("items")
    _check_manifest(manifest.size or 0, limits)
    open_photo = _photo_opener(photos, limits)
    return Batch(_manifest_items(manifest, open_photo, limits), options, form)


def _manifest_items(manifest: StarletteUpload, open_photo: Callable[[str], bytes], limits: BatchLimits) -> list[BatchItem]:
    name = manifest.filename or "manifest"
    text = io.TextIOWrapper(manifest.file, "utf-8-sig", newline="")
    columns = Columns(image_url=IMAGE_URL_COLUMN)
    if name.lower().endswith(".csv"):
        every = with_checked_header(csv_rows(text, name), columns, name, limits=limits.product)
    else:
        every = jsonl_rows(text, name)
    rows = list(islice(every, limits.items + 1))  # one too many is enough to refuse it
    if not any(isinstance(row, Mapping) for row in rows):
        raise rows[0] if rows and isinstance(rows[0], InvalidListings) else InvalidInput(f"{name} has no rows.")
    return [
        BatchItem(
            index, row_id(row, columns), partial(read_row, index + 1, row, columns, open_photo, limits.product),
            isinstance(row, Mapping) and bool(row.get(IMAGE_URL_COLUMN)),
        )
        for index, row in enumerate(rows)
    ]  # fmt: skip


def _photo_opener(photos: StarletteUpload | None, limits: BatchLimits) -> Callable[[str], bytes]:
    """Returns a reader of photos by the names that a manifest gives them."""
    if photos is not None:
        return PhotoArchive(photos.file, limits.archive).read

    def refuse(name: str) -> bytes:
        raise InvalidInput(f"the manifest names photo '{name[:80]}', but no zip was sent: add -F photos=@photos.zip.")

    return refuse
