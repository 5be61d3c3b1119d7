"""All settings, from the environment, built once and passed down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024
Positive = Annotated[int, Field(gt=0)]


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
        log_level, log_format: `json` for machines, `console` for people.
        max_image_bytes, max_image_pixels: of one photo.
        min_image_side_px: shortest side of a photo.
        max_title_chars: of one title.
        max_request_bytes: body of any call but the batches.
        max_batch_bytes: body of a batch call.
        max_batch_items: products or queries in one batch call.
        max_batch_size: items that the towers and the index take at once.
        batch_wait_ms: how long an incomplete batch waits for company while the worker is idle.
        index_precision: of the vectors in the search index; `float16` takes half the memory and moves scores by less than
            0.001.
        index_search: `flat` reads all vectors, `auto` reads their 8-bit codes first where that is faster; both are exact.
            `approximate` may miss products.
        max_queue: items that may wait for the towers, and for the index; more is answered with 429.
        decode_threads: photos decoded at the same time.
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
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    max_image_bytes: Positive = 20 * MIB
    max_image_pixels: Positive = 50_000_000
    min_image_side_px: Positive = 16
    max_title_chars: Positive = 2000
    max_request_bytes: Positive = 64 * MIB
    max_batch_bytes: Positive = 1024 * MIB
    max_batch_items: Positive = 20_000
    max_batch_size: Positive = 32
    batch_wait_ms: Annotated[float, Field(ge=0, le=1000)] = 0.0
    index_precision: Literal["float32", "float16"] = "float32"
    index_search: Literal["auto", "flat", "approximate"] = "auto"
    max_queue: Positive = 512
    decode_threads: Positive = 4
    ready_cache_s: Annotated[float, Field(ge=0)] = 3.0
