"""The towers by themselves, on tensors that lie on the device: as they are served, and in other ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from app.core.product import Pixels
from app.core.spec import EncoderSpec, ImageSpec, TitleSpec
from app.encoders.multimodal import MultimodalEncoder
from app.encoders.title import TitleBatch
from app.encoders.towers import build_image_tower, build_title_tower
from tests.benchmarks.timed import Bench, Figures

NAMED_PEAK = 989e12  # operations a second of an H100 or H200 SXM in half precision, dense, by its data sheet

Batch = tuple[Tensor, TitleBatch]


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to run the towers: both of them, the arithmetic around them, and whether photos lie channels last."""

    name: str
    image: Callable[[Tensor], Tensor]
    title: Callable[[TitleBatch], Tensor]
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    last: bool = True


def served(encoder: MultimodalEncoder) -> Variant:
    """Returns the towers as the service has placed them."""
    return Variant("as served", encoder._images[0].tower, encoder._titles[0].tower)


def variants(spec: EncoderSpec, folder: Path, compiled: bool) -> Iterator[tuple[str, Callable[[], Variant]]]:
    """Yields names, and what makes the variant: PyTorch kernel by kernel; at last `torch.compile`, which takes long."""
    half, brain, full = torch.float16, torch.bfloat16, torch.float32
    ways = [
        ("float32, channels last", full, True, False),
        ("bf16 autocast, channels last: as before", brain, True, True),
        ("bf16 weights", brain, False, False),
        ("bf16 weights, channels last", brain, True, False),
        ("fp16 weights, channels last", half, True, False),
    ]
    for name, precision, last, autocast in ways:
        yield name, lambda n=name, p=precision, c=last, a=autocast: plain(n, spec, folder, p, last=c, autocast=a)  # type: ignore[misc]
    if compiled:
        yield "fp16 weights, torch.compile", lambda: _compiled(plain("", spec, folder, half, last=True, autocast=False))


def plain(name: str, spec: EncoderSpec, folder: Path, precision: torch.dtype, *, last: bool, autocast: bool) -> Variant:
    """Returns the towers in PyTorch on the GPU."""
    image, title = build_image_tower(image_of(spec), folder), build_title_tower(title_of(spec), folder)
    if not autocast:
        image.narrow(precision)
        title.narrow(precision)
    layout = torch.channels_last if last else torch.contiguous_format
    for tower in (image, title):
        tower.eval().requires_grad_(False).to("cuda").to(memory_format=layout)
    around = (lambda: torch.autocast("cuda", dtype=precision)) if autocast else nullcontext
    return Variant(name, image, title, around, last)


def _compiled(one: Variant) -> Variant:
    image: Any = torch.compile(one.image, mode="reduce-overhead", dynamic=False)
    title: Any = torch.compile(one.title, mode="reduce-overhead", dynamic=False)
    return Variant("fp16 weights, torch.compile", lambda x: image(x).clone(), lambda b: title(b).clone())


def measure(bench: Bench, variant: Variant, batches: list[Batch], flops: tuple[float, float]) -> Figures:
    """Returns photos, titles and products (one of each) per second on ready tensors, and their shares of the peak."""
    if not variant.last:
        batches = [(photos.contiguous(), titles) for photos, titles in batches]
    count, turn = len(batches[0][0]), cycle(batches)

    def both() -> tuple[Tensor, Tensor]:
        photos, titles = next(turn)
        return variant.image(photos), variant.title(titles)

    works: list[Callable[[], object]] = [lambda: variant.image(next(turn)[0]), lambda: variant.title(next(turn)[1]), both]
    with torch.inference_mode(), variant.around():
        rates = [bench.rate(work, count) for work in works]
    found: Figures = {}
    for what, rate, cost in zip(("photos", "titles", "products"), rates, (*flops, sum(flops)), strict=True):
        found |= {f"{what}/s": rate, f"{what} % of peak": 100 * rate * cost / NAMED_PEAK}
    return found


def count_flops(spec: EncoderSpec, folder: Path, batch: Batch) -> tuple[float, float]:
    """Returns the operations (matrix products, convolutions) of a photo, and of a title of the batch with its padding."""
    photos, titles = batch
    image = build_image_tower(image_of(spec), folder).eval().to(photos.device)
    title = build_title_tower(title_of(spec), folder).eval().to(photos.device)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as of_photo:
            image(photos[:1])
        with FlopCounterMode(display=False) as of_titles:
            title.own(titles.ids[:8], titles.mask[:8])
    return of_photo.get_total_flops(), of_titles.get_total_flops() / min(8, len(titles.ids))


def peak(bench: Bench, precision: torch.dtype) -> Figures:
    """Returns what the chip does at best, in a large matrix product of random numbers."""
    left, right = (torch.randn(8192, 8192, device="cuda", dtype=precision) for _ in range(2))
    rate = bench.rate(lambda: left @ right, 2 * 8192**3)
    return {"TFLOP/s": rate / 1e12, "% of the data sheet": 100 * rate / NAMED_PEAK}


def vectors(variant: Variant, pixels: list[Pixels], titles: TitleBatch, wanted: tuple[Any, Any]) -> Figures:
    """Returns how far a variant's vectors are from those that are wanted, photos and titles."""
    photos = stacked(pixels, titles.ids.device)
    with torch.inference_mode(), variant.around():
        rows = variant.image(photos).float().cpu().numpy(), variant.title(titles).float().cpu().numpy()
    found: Figures = {}
    for what, got, right in zip(("photos", "titles"), rows, wanted, strict=True):
        each = (got * right).sum(1)
        found[f"{what}: lowest cosine"] = f"{each.min():.6f}, mean {each.mean():.6f}"
        found[f"{what}: scores move by"] = f"{np.abs(got @ got.T - right @ right.T).max():.1e}"
    return found


def stacked(pixels: list[Pixels], device: torch.device) -> Tensor:
    """Returns `(n, 3, size, size)` on a device, channels last."""
    return torch.from_numpy(np.stack(pixels)).to(device).permute(0, 3, 1, 2)


def image_of(spec: EncoderSpec) -> ImageSpec:
    """Returns the image tower's. Raises ValueError."""
    if spec.image is None or spec.title is None:
        raise ValueError("the benchmark wants a bundle with one image tower and one title tower")
    return spec.image


def title_of(spec: EncoderSpec) -> TitleSpec:
    """Returns the title tower's. Raises ValueError."""
    if spec.title is None:
        raise ValueError("the benchmark wants a bundle with one image tower and one title tower")
    return spec.title
