"""Everything that can go wrong, as one tree. Knows no HTTP: `app.api.errors` maps classes to statuses.

    AppError
    |-- InvalidInput            the caller sent something that cannot be used
    |   |-- InvalidImage        bytes that are not a photo this service can decode
    |   |-- InvalidTitle        a title that is empty, too long or not text
    |   |-- EmptyProduct        neither a usable photo nor a title
    |   |-- InvalidFilter       an attribute filter that cannot be read
    |   |-- DuplicateIds        one batch names the same id twice
    |   |-- ImageUrlRefused     an address that photos are not fetched from
    |   |-- ImageUrlUnreachable a photo that could not be fetched
    |   `-- InvalidListings     a table of listings that cannot be read (file, row and remedy in the message)
    |-- UnsupportedMedia        a body of a content type that the call does not take
    |-- PayloadTooLarge         more bytes, pixels or rows than the limits allow
    |-- NotFound
    |   |-- ProductNotFound     no product with that id in that catalog
    |   |-- CatalogNotFound     no catalog of that name
    |   `-- PhotoNotFound       the product has no photo at that position, or its file is missing or damaged
    |-- Unauthenticated         no API key where one is needed, or one that is unknown or revoked
    |-- Forbidden               an API key whose role does not cover the call
    |-- KeyNotFound             no API key with that id
    |-- Overloaded              a bounded queue is full; carries `retry_after_s`
    |   `-- RateLimited         a key asks more often than it may
    |-- NotReady                starting, stopping, or a worker that does not answer
    |   |-- ShuttingDown        the service stops, and takes nothing new
    |   `-- WorkerStuck         the worker did not come back from what it was given
    |-- DeadlineExceeded        the time that a request was given is over
    |-- StorageUnavailable      the disk or the database does not take or give data just now; carries `retry_after_s`
    |-- EncodingFailed          the towers failed on input that had passed every check
    |-- TrainingInterrupted     a run that was asked to stop; its checkpoint is written
    |-- TrainingFailed          a run whose loss is no number any more
    |-- BundleError             a model bundle that must not be served; stops start-up
    |   |-- ManifestMissing     no `bundle.json`
    |   |-- ManifestInvalid     a `bundle.json` that does not describe a bundle of this version
    |   |-- ChecksumMismatch    a file whose bytes are not those the manifest names
    |   `-- DimensionMismatch   weights whose shapes contradict the manifest
    |-- BackupError             a backup that cannot be made, or must not be restored
    `-- CatalogError            a data folder that must not be served; stops start-up
        |-- ModelMismatch       vectors made by another bundle
        |-- DataFolderInUse     another process holds the data folder
        `-- SchemaMismatch      a database written by a newer version

Every message names the remedy. `code` is stable: clients may switch on it.
"""

from __future__ import annotations


class AppError(Exception):
    """Base of every error raised on purpose. `code` is a stable, machine-readable name."""

    code = "internal_error"


class InvalidInput(AppError):
    """The caller sent something that cannot be used."""

    code = "invalid_input"


class InvalidImage(InvalidInput):
    """Bytes that are not a photo this service can decode."""

    code = "invalid_image"


class InvalidTitle(InvalidInput):
    """A title that is empty, too long or not text."""

    code = "invalid_title"


class EmptyProduct(InvalidInput):
    """Neither a usable photo nor a title."""

    code = "empty_product"


class InvalidFilter(InvalidInput):
    """An attribute filter that cannot be read."""

    code = "invalid_filter"


class DuplicateIds(InvalidInput):
    """One batch names the same id twice."""

    code = "duplicate_ids"


class ImageUrlRefused(InvalidInput):
    """An address that photos are not fetched from, by how it is written."""

    code = "image_url_refused"


class ImageUrlUnreachable(InvalidInput):
    """A photo that could not be fetched; one text, whatever the reason, since reasons tell of the network."""

    code = "image_url_unreachable"


class InvalidListings(InvalidInput):
    """A table of listings that cannot be read; the message names file, row and remedy."""

    code = "invalid_listings"


class UnsupportedMedia(AppError):
    """A body of a content type that the call does not take."""

    code = "unsupported_media_type"


class PayloadTooLarge(AppError):
    """More bytes, pixels or rows than the limits allow."""

    code = "payload_too_large"


class NotFound(AppError):
    """Something that was asked for by name does not exist."""

    code = "not_found"


class ProductNotFound(NotFound):
    """No product with that id in that catalog."""

    code = "product_not_found"


class CatalogNotFound(NotFound):
    """No catalog of that name, for this caller: one that a key is not for looks exactly like one that does not exist."""

    code = "catalog_not_found"

    @classmethod
    def named(cls, catalog: str) -> CatalogNotFound:
        """Returns the one error that says so, whatever the reason."""
        return cls(f"there is no catalog '{catalog}': index a product into it first, or ask with a key that is for it.")


class PhotoNotFound(NotFound):
    """The product has no photo at that position, or its file is missing or damaged."""

    code = "photo_not_found"


class Overloaded(AppError):
    """A bounded queue is full. `retry_after_s` is a hint in whole seconds, at least 1."""

    code = "overloaded"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = max(1, retry_after_s)


class RateLimited(Overloaded):
    """A key asks more often than it may."""

    code = "rate_limited"


class Unauthenticated(AppError):
    """No API key where one is needed, or one that is unknown or revoked."""

    code = "unauthenticated"


class Forbidden(AppError):
    """An API key whose role does not cover the call."""

    code = "forbidden"


class KeyNotFound(AppError):
    """No API key with that id."""

    code = "key_not_found"


class NotReady(AppError):
    """Starting, stopping, or a worker that does not answer."""

    code = "not_ready"


class ShuttingDown(NotReady):
    """The service stops, and takes nothing new."""

    code = "shutting_down"

    def __init__(self, message: str = "the service is stopping: send this again, to another one or in a moment.") -> None:
        super().__init__(message)


class WorkerStuck(NotReady):
    """The worker did not come back from what it was given."""

    code = "worker_stuck"


class DeadlineExceeded(AppError):
    """The time that a request was given is over."""

    code = "deadline_exceeded"


class StorageUnavailable(AppError):
    """The disk or the database does not take or give data just now: full, read-only, or held by another process.

    What failed has changed nothing. `retry_after_s` is a hint in whole seconds.
    """

    code = "storage_unavailable"
    retry_after_s = 10


class EncodingFailed(AppError):
    """The towers failed on input that had passed every check."""

    code = "encoding_failed"


class TrainingInterrupted(AppError):
    """A run was asked to stop; its checkpoint is written."""

    code = "training_interrupted"


class TrainingFailed(AppError):
    """A run whose loss is no number any more."""

    code = "training_failed"


class BundleError(AppError):
    """A model bundle that must not be served."""

    code = "bundle_error"


class ManifestMissing(BundleError):
    """The folder holds no `bundle.json`."""

    code = "manifest_missing"


class ManifestInvalid(BundleError):
    """`bundle.json` does not describe a bundle that this version can load."""

    code = "manifest_invalid"


class ChecksumMismatch(BundleError):
    """A file's bytes are not those that the manifest names."""

    code = "checksum_mismatch"


class DimensionMismatch(BundleError):
    """Weights whose shapes contradict the manifest."""

    code = "dimension_mismatch"


class BackupError(AppError):
    """A backup that cannot be made, or must not be restored."""

    code = "backup_error"


class CatalogError(AppError):
    """A data folder that must not be served as it is."""

    code = "catalog_error"


class ModelMismatch(CatalogError):
    """The catalog's vectors were made by another bundle."""

    code = "model_mismatch"


class DataFolderInUse(CatalogError):
    """Another process holds the data folder."""

    code = "data_folder_in_use"


class SchemaMismatch(CatalogError):
    """The database was written by a newer version of this program."""

    code = "schema_mismatch"
