"""What runs each tower of a bundle: PyTorch, or the engine that the runtime asks for where that can.

An engine must give the vectors that PyTorch gives. Every converted tower is compared with PyTorch on a few probes whenever
it is loaded, and a tower that does not agree, or cannot be converted, runs in PyTorch. On a GPU a tower runs in the first
precision whose vectors agree.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from app.core.product import Floats
from app.core.spec import ImageSpec, TitleSpec
from app.encoders.cuda_engine import PHOTOS, PRECISIONS, TITLES, TOKENS, Captured, Sizes, up_to
from app.encoders.engine_cache import EngineCache
from app.encoders.image import ImageTower
from app.encoders.ngrams import NgramPart
from app.encoders.quantise import QuantisedWords
from app.encoders.runtime import Runtime
from app.encoders.title import TitleBatch, TitleTokens, TitleTower, by_length, joined
from app.encoders.towers import build_image_tower, build_title_tower

if TYPE_CHECKING:
    from app.encoders.openvino_engine import Compiled

LEAST_COSINE = 0.999  # between a converted tower and PyTorch

_PROBE_TITLES = ("a", "Sepatu lari pria 42", "Rice 1kg, 2 x 500 ml \u7c73", "long title " * 200)

Inputs = tuple[NDArray[Any], ...]
OnDevice = Callable[..., Tensor]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Source:
    """A tower to convert.

    Attributes:
        name: unique within the bundle.
        build: makes the module, in evaluation mode; its output is `(n, dim)`, and its tower is its `tower`.
        example: inputs to trace it with.
        shapes: of its inputs, -1 where any size is allowed.
        probes: inputs whose outputs are compared, of other sizes than `example`.
        sizes: of the inputs' first dimensions, for an engine that has to know them.
        alone: on one thread, rows together are no faster, and every new number of them must be prepared.
    """

    name: str
    build: Callable[[], nn.Module]
    example: Inputs
    shapes: tuple[tuple[int, ...], ...]
    probes: tuple[Inputs, ...]
    sizes: tuple[Sizes, ...] = ()
    alone: bool = False


class _Pixels(nn.Module):
    """The image tower from pixels as they lie in memory, `(n, size, size, 3)` uint8."""

    def __init__(self, tower: ImageTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor) -> Tensor:
        vectors: Tensor = self.tower(pixels.permute(0, 3, 1, 2))
        return vectors


class _Words(nn.Module):
    """The transformer's part of the title tower, of ids and mask."""

    def __init__(self, tower: TitleTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.tower.own(ids, mask)


class _ConvertedImage:
    """`(n, 3, size, size)` uint8 pixels -> `(n, dim)` float32 unit vectors, like `ImageTower`."""

    def __init__(self, run: Compiled) -> None:
        self._run = run

    def __call__(self, pixels: Tensor) -> Tensor:
        return torch.from_numpy(self._run(np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())))


class _ConvertedTitle:
    """A batch of `n` titles -> `(n, dim)` float32 unit vectors, like `TitleTower`; n-grams stay with PyTorch."""

    def __init__(self, run: Compiled, spec: TitleSpec, ngrams: NgramPart | None) -> None:
        self._run, self._spec, self._ngrams = run, spec, ngrams

    def __call__(self, batch: TitleBatch) -> Tensor:
        own = by_length(batch.ids, batch.mask, self._words, self._run.streams)
        return joined(self._spec, own, None if self._ngrams is None else self._ngrams(batch.ngrams))

    def _words(self, parts: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        calls = [(ids.contiguous().numpy(), mask.contiguous().numpy()) for ids, mask in parts]
        return [torch.from_numpy(rows) for rows in self._run.each(calls)]


class _CapturedImage:
    """`(n, 3, size, size)` uint8 pixels on the GPU -> `(n, dim)` float32 unit vectors, like `ImageTower`."""

    def __init__(self, run: OnDevice) -> None:
        self._run = run

    def __call__(self, pixels: Tensor) -> Tensor:
        return self._run(pixels.permute(0, 2, 3, 1))


class _CapturedTitle:
    """A batch of `n` titles on the GPU -> `(n, dim)` float32 unit vectors, like `TitleTower`; n-grams stay outside."""

    def __init__(self, run: OnDevice, spec: TitleSpec, ngrams: NgramPart | None) -> None:
        self._run, self._spec, self._ngrams = run, spec, ngrams

    def __call__(self, batch: TitleBatch) -> Tensor:
        own = self._run(batch.ids, batch.mask)
        return joined(self._spec, own, None if self._ngrams is None else self._ngrams(batch.ngrams))


def place_image(spec: ImageSpec, folder: Path, runtime: Runtime, cache: EngineCache | None) -> Callable[[Tensor], Tensor]:
    """Returns an image tower that runs where `runtime` says. Raises DimensionMismatch."""
    if runtime.engine == "openvino":
        source = _image_source(spec, folder)
        run = _open(source, runtime, cache)
        if run is not None:
            return _ConvertedImage(run)
    if runtime.device.type == "cuda":
        captured = _capture(_image_source(spec, folder), runtime.device)
        if captured is not None:
            return _CapturedImage(captured)
    return runtime.place(build_image_tower(spec, folder))


def place_title(
    spec: TitleSpec, folder: Path, tokens: TitleTokens, runtime: Runtime, cache: EngineCache | None
) -> Callable[[TitleBatch], Tensor]:
    """Returns a title tower that runs where `runtime` says. Raises DimensionMismatch."""
    if runtime.engine == "openvino":
        run = _open(_title_source(spec, folder, tokens), runtime, cache)
        if run is not None:
            return _ConvertedTitle(run, spec, _read_ngrams(spec, folder))
    if runtime.device.type == "cuda":
        captured = _capture(_title_source(spec, folder, tokens), runtime.device)
        if captured is not None:
            ngrams = _read_ngrams(spec, folder)
            return _CapturedTitle(captured, spec, None if ngrams is None else ngrams.to(runtime.device))
    return runtime.place(build_title_tower(spec, folder))


def _image_source(spec: ImageSpec, folder: Path) -> _Source:
    size = spec.preprocessing.size
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    where = np.arange(size) * 8 // size
    photos = np.ascontiguousarray(coarse[:, where][:, :, where])  # squares of colour: all of noise looks alike
    return _Source(
        Path(spec.weights).stem,
        lambda: _Pixels(build_image_tower(spec, folder)).eval().requires_grad_(False),
        (photos[:2],), ((-1, size, size, 3),), ((photos[2:],), (photos,)), (PHOTOS,), alone=True,
    )  # fmt: skip


def _title_source(spec: TitleSpec, folder: Path, tokens: TitleTokens) -> _Source:
    def inputs(titles: Sequence[str]) -> Inputs:
        batch = tokens(titles)
        return batch.ids.numpy(), batch.mask.numpy()

    def build() -> nn.Module:
        tower = build_title_tower(spec, folder).eval().requires_grad_(False)
        QuantisedWords.replace(tower.backbone)
        return _Words(tower)

    probes = inputs(_PROBE_TITLES[:1]), inputs(_PROBE_TITLES)
    example, shapes = inputs(_PROBE_TITLES[1:3]), ((-1, -1), (-1, -1))
    return _Source(Path(spec.weights).stem, build, example, shapes, probes, (TITLES, up_to(TOKENS, spec.max_tokens)))


def _read_ngrams(spec: TitleSpec, folder: Path) -> NgramPart | None:
    if spec.ngrams is None:
        return None
    part = NgramPart(spec.ngrams).requires_grad_(False)
    with safe_open(folder / spec.weights, framework="pt") as weights:
        part.load_state_dict({"weight": weights.get_tensor("ngrams.weight").float()})
    return part


def agrees(model: Callable[..., Floats], probes: Sequence[Inputs], wanted: Floats, least: float) -> bool:
    """Says whether a model gives the rows that are wanted of the probes, one after the other, up to a cosine of `least`."""
    found = np.concatenate([model(*probe) for probe in probes])
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return False
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    return bool(((found * wanted).sum(1) >= least * lengths).all() and (lengths > 0).all())


def _wanted(source: _Source, module: nn.Module) -> Floats:
    """Returns what PyTorch makes of the probes on the CPU, in float32."""
    with torch.inference_mode():
        return np.concatenate([module(*map(torch.from_numpy, probe)).numpy() for probe in source.probes])


def _capture(source: _Source, device: torch.device) -> OnDevice | None:
    """Returns a tower on the GPU in the first precision that agrees, None if none does: the log says why."""
    wanted = _wanted(source, source.build())
    whole = source.probes[-1]
    rows = wanted[-len(whole[0]) :]
    probes = [*source.probes, *(_repeated(whole, count) for count in source.sizes[0])]  # every graph is looked at
    wanted = np.concatenate([wanted, *(_repeated((rows,), count)[0] for count in source.sizes[0])])
    for precision in PRECISIONS:
        try:
            found = _captured(source, precision, device)
            if agrees(_on_device(found, device), probes, wanted, LEAST_COSINE):
                return found
            why = f"the vectors are not those of float32 on the CPU (cosine below {LEAST_COSINE})"
        except RuntimeError as error:
            why = str(error)
        log.warning("the tower '%s' does not run in %s: %s", source.name, precision, why)
    return None


def _captured(source: _Source, precision: torch.dtype, device: torch.device) -> OnDevice:
    module: Any = source.build()
    module.tower.narrow(precision)
    placed: nn.Module = module.to(device, memory_format=torch.channels_last)
    try:
        return Captured(placed, [torch.from_numpy(one).to(device) for one in source.example], source.sizes)
    except RuntimeError as error:
        log.warning("the tower '%s' is no CUDA graph and runs kernel by kernel: %s", source.name, error)
        return placed


def _repeated(inputs: Inputs, count: int) -> Inputs:
    """Returns `count` rows of the inputs, over and over."""
    return tuple(np.resize(one, (count, *one.shape[1:])) for one in inputs)


def _on_device(model: OnDevice, device: torch.device) -> Callable[..., Floats]:
    def run(*inputs: NDArray[Any]) -> Floats:
        with torch.inference_mode():
            rows: Floats = model(*(torch.from_numpy(one).to(device) for one in inputs)).float().cpu().numpy()
        return rows

    return run


def _open(source: _Source, runtime: Runtime, cache: EngineCache | None) -> Compiled | None:
    """Returns a converted tower, or None where PyTorch must do: the log says why."""
    from app.encoders import openvino_engine as engine  # not everybody has it

    how = f"openvino {engine.version()} fp32"

    together = runtime.threads // runtime.streams if source.alone else 0

    def compiled(model: Any, wanted: Floats) -> Compiled:
        found = engine.Compiled(model, runtime.threads, runtime.streams, together)
        if not agrees(found, source.probes, wanted, LEAST_COSINE):
            raise engine.CannotConvert(f"the vectors are not those of PyTorch (cosine below {LEAST_COSINE})")
        return found

    entry = cache.find(source.name, how) if cache else None
    if entry is not None:
        try:
            return compiled(engine.read(entry.folder), entry.wanted)
        except (RuntimeError, engine.CannotConvert) as error:
            log.warning("the converted tower '%s' in the cache cannot be used and is made again: %s", source.name, error)
    module = source.build()
    try:
        wanted = _wanted(source, module)
        model = engine.convert(module, [torch.from_numpy(one) for one in source.example], source.shapes)
        found = compiled(model, wanted)
    except (RuntimeError, engine.CannotConvert) as error:
        log.warning("the tower '%s' runs in PyTorch, as OpenVINO cannot run it: %s", source.name, error)
        return None
    kept = cache.store(source.name, how, wanted, lambda folder: engine.save(model, folder)) if cache else None
    if cache and kept is None:
        log.warning("the converted tower '%s' cannot be kept: every start converts it", source.name)
    # read again, its weights are pages of a file that the system may drop and other workers share
    return compiled(engine.read(kept.folder), wanted) if kept else found
