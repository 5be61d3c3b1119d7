"""All settings, from the environment, built once and passed down."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024
Positive = Annotated[int, Field(gt=0)]
Origin = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.\-\[\]:]+$")]
Host = Annotated[str, Field(pattern=r"^(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseSettings):
    """Read from `SAMESKU_<NAME>`; `DEVICE` and `ENGINE` work without the prefix too.

    Attributes:
        bundle: folder of the model to serve.
        data_dir: where products, photos and snapshots are kept.
        device: `auto` takes a GPU if there is one.
        engine: what runs the towers on a CPU; `auto` takes OpenVINO if it is installed.
        engine_threads: of the towers on a CPU; 0 takes what `OMP_NUM_THREADS` says, else all cores.
        engine_cache: where towers converted for OpenVINO are kept; by default next to the bundle, or in the data folder
            where that cannot be written.
        host, port: where to listen.
        allow_anonymous: serve whoever reaches the service as long as there is no API key, on any address; otherwise it
            listens on the loopback address only until there is one.
        keys_cache_s: how long a new or revoked key may go unnoticed.
        rate_limit_per_s: requests and batch items per key and second; 0 for no limit.
        rate_limit_burst: of them at once.
        cors_origins: of web pages that may call, as a JSON list.
        log_level, log_format: `json` for machines, `console` for people.
        max_image_bytes, max_image_pixels: of one photo.
        min_image_side_px: shortest side of a photo.
        max_title_chars: of one title.
        max_photos: of one product.
        max_attributes, max_attribute_chars: of one product, and of a filter; of an attribute that is text.
        max_filter_values: that a filter accepts of one attribute.
        max_table_columns: of a manifest, or of a table that `index` or `match` reads.
        max_feedback_bytes: body of one statement.
        max_request_bytes: body of any call but the batches.
        max_batch_bytes: body of a batch call.
        max_batch_items: products or queries in one batch call.
        max_manifest_bytes: JSON body or manifest of a batch call.
        max_header_bytes: address and headers of a request.
        max_form_parts, max_field_bytes: files, and other fields, of a form; of one field that is no file.
        max_zip_entries: in the zip of a batch, whether they are asked for or not.
        max_zip_ratio: how many times as large as its packed form a photo of more than 1 MiB may be.
        max_unpacked_bytes: of all photos of a batch, each as often as it is named.
        image_urls: take `image_url` instead of an uploaded photo, and fetch it.
        image_url_hosts: that are asked for photos, in lower case; `*.shop.example` for all below it. Empty: all.
        image_url_networks: asked although they are not public, if the host is named in `image_url_hosts`, and not by a `*`.
        image_url_ports: that are asked; 443 alone leaves https alone.
        image_url_timeout_s: for the photos of one product or query.
        image_url_fetches: products or queries whose photos are fetched at the same time, and half as many items of batches.
        max_batch_size: items that the towers and the index take at once.
        batch_wait_ms: how long an incomplete batch waits for company while the worker is idle.
        index_precision: of the vectors in the search index; `float16` takes half the memory and moves scores by less than
            0.001.
        index_search: `flat` reads all vectors, `auto` reads their 8-bit codes first where that is faster; both are exact.
            `approximate` may miss products.
        max_queue: items that may wait for the towers, and for the index; more is answered with 429.
        max_slowdown: how many times as long as alone a request may take before others are answered with 429.
        max_at_work: requests at work at the same time, whatever they take; 0 to go by `max_slowdown`.
        max_batches: batch calls at the same time.
        max_body_bytes: bodies in the house, of all requests together.
        request_timeout_s: that a request may take from when all of it has come; batches have no limit.
        stuck_s: how long one piece of work may take before its thread is given up.
        shutdown_s: how long requests may take to finish when the service stops.
        max_connections: that are open at the same time.
        keep_alive_s: how long a connection may be without a request.
        header_timeout_s: from the first byte of a request to the end of its headers.
        body_grace_s: that a body may take, and a second more for every `min_body_bytes_per_s`.
        min_body_bytes_per_s: how slowly a body may be sent, and an answer read.
        write_timeout_s: how long a client may read its answer more slowly than that.
        decode_threads: photos decoded at the same time.
        record_cache_bytes: of products that were read lately and are kept in memory; 0 keeps none.
        ready_cache_s: how long an answer of `/readyz` is reused.
    """

    model_config = SettingsConfigDict(env_prefix="SAMESKU_", frozen=True, extra="ignore")

    bundle: Path = Path("model_store/default")
    data_dir: Path = Path("data")
    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", validation_alias=AliasChoices("device", "SAMESKU_DEVICE", "DEVICE")
    )
    engine: Literal["auto", "torch", "openvino"] = Field(
        "auto", validation_alias=AliasChoices("engine", "SAMESKU_ENGINE", "ENGINE")
    )
    engine_threads: Annotated[int, Field(ge=0, le=256)] = 0
    engine_cache: Path | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    allow_anonymous: bool = False
    keys_cache_s: Annotated[float, Field(ge=0, le=30)] = 1.0
    rate_limit_per_s: Annotated[float, Field(ge=0)] = 0.0
    rate_limit_burst: Positive = 100
    cors_origins: tuple[Origin, ...] = ()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    max_image_bytes: Positive = 20 * MIB
    max_image_pixels: Positive = 50_000_000
    min_image_side_px: Positive = 16
    max_title_chars: Positive = 2000
    max_photos: Annotated[int, Field(gt=0, le=1000)] = 20
    max_attributes: Annotated[int, Field(gt=0, le=1000)] = 64
    max_attribute_chars: Annotated[int, Field(gt=0, le=10_000)] = 500
    max_filter_values: Annotated[int, Field(gt=0, le=10_000)] = 100
    max_table_columns: Positive = 1000
    max_feedback_bytes: Annotated[int, Field(ge=1024)] = 256 * 1024
    max_request_bytes: Positive = 64 * MIB
    max_batch_bytes: Positive = 1024 * MIB
    max_batch_items: Positive = 20_000
    max_manifest_bytes: Positive = 64 * MIB
    max_header_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024
    max_form_parts: Annotated[int, Field(ge=20)] = 64
    max_field_bytes: Positive = MIB
    max_zip_entries: Positive = 100_000
    max_zip_ratio: Positive = 200
    max_unpacked_bytes: Positive = 8 * 1024 * MIB
    image_urls: bool = False
    image_url_hosts: tuple[Host, ...] = ()
    image_url_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    image_url_ports: Annotated[tuple[Port, ...], Field(min_length=1)] = (80, 443)
    image_url_timeout_s: Annotated[float, Field(gt=0, le=300)] = 15.0
    image_url_fetches: Annotated[int, Field(gt=0, le=256)] = 8
    max_batch_size: Positive = 32
    batch_wait_ms: Annotated[float, Field(ge=0, le=1000)] = 0.0
    index_precision: Literal["float32", "float16"] = "float32"
    index_search: Literal["auto", "flat", "approximate"] = "auto"
    max_queue: Positive = 512
    max_slowdown: Annotated[float, Field(ge=1, le=1000)] = 3.0
    max_at_work: Annotated[int, Field(ge=0)] = 0
    max_batches: Positive = 8
    max_body_bytes: Positive = 2048 * MIB
    request_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    stuck_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    shutdown_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    max_connections: Positive = 1000
    keep_alive_s: Annotated[int, Field(ge=1, le=3600)] = 5
    header_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    body_grace_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    min_body_bytes_per_s: Positive = 1000
    write_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    decode_threads: Positive = 4
    record_cache_bytes: Annotated[int, Field(ge=0)] = 64 * MIB
    ready_cache_s: Annotated[float, Field(ge=0)] = 3.0

    @model_validator(mode="after")
    def _private_hosts_are_named(self) -> Self:
        """Names that anybody may have made must not lead into a private network."""
        if self.image_url_networks and not any(not host.startswith("*") for host in self.image_url_hosts):
            raise ValueError("SAMESKU_IMAGE_URL_NETWORKS needs SAMESKU_IMAGE_URL_HOSTS to name the hosts in them in full")
        return self
