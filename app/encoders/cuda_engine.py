"""CUDA: runs a tower on a GPU in half precision, all of its kernels launched at once.

A small tower is over before the processor has asked for its next kernel. A CUDA graph asks for all of them in one call,
but for inputs of one size only: a tower is captured at a few sizes when it is loaded, and inputs are padded to the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

# In bfloat16 the default bundle's photos fall to a cosine of .9977; float16 is as fast and keeps three more bits.
# Where its range does not do, the comparison with PyTorch says so.
PRECISIONS = (torch.float16, torch.bfloat16, torch.float32)

PHOTOS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TITLES = (1, 8, 64, 256)
TOKENS = (8, 16, 24, 32, 48, 64, 128)
_WARM_UP = 3

Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Graph:
    """One size: where the inputs must lie, what computes, and where the output will lie."""

    inputs: tuple[Tensor, ...]
    replay: Callable[[], None]
    output: Tensor


class Captured:
    """A module on the GPU that is captured at some sizes. May be called from several threads.

    Calls wait for each other on the GPU, and on the processor only for as long as it takes to ask.
    """

    def __init__(self, module: nn.Module, like: Sequence[Tensor], sizes: Sequence[Sizes]) -> None:
        """Captures every combination of the sizes.

        Args:
            module: in evaluation mode, on the GPU; its output is `(n, dim)`.
            like: inputs on the GPU, of whatever size in their first dimensions.
            sizes: for each of the first dimensions of all inputs, those to capture, in ascending order.

        Raises:
            RuntimeError: the module cannot be captured, or memory does not suffice.
        """
        self._module, self._sizes = module, sizes
        self._lock = threading.Lock()
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        pool = torch.cuda.graph_pool_handle()
        # the largest first: the others find room in its memory
        self._graphs = {size: self._capture(like, size, pool) for size in reversed(list(product(*sizes)))}

    def _capture(self, like: Sequence[Tensor], size: Sizes, pool: Any) -> _Graph:
        inputs = tuple(one.new_zeros(size + one.shape[len(size) :]) for one in like)
        with torch.inference_mode():
            return _Graph(inputs, *record(lambda: self._run(*inputs), pool))

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Returns `(n, dim)` for inputs on the GPU, without waiting for it. Raises RuntimeError."""
        wanted = inputs[0].shape[: len(self._sizes)]
        size = next_size(wanted, self._sizes)
        if size is None:
            return self._run(*inputs)
        chosen = self._graphs[size]
        with self._lock:
            stream = torch.cuda.current_stream()
            stream.wait_event(self._done)
            for place, one in zip(chosen.inputs, inputs, strict=True):
                fill(place, one, wanted)
            chosen.replay()
            rows = chosen.output[: wanted[0]].clone()  # the next call overwrites the output
            self._done.record(stream)
        return rows

    def _run(self, *inputs: Tensor) -> Tensor:
        rows: Tensor = self._module(*inputs)
        return rows


def record(run: Callable[[], Tensor], pool: Any) -> tuple[Callable[[], None], Tensor]:
    """Captures what `run` does on the GPU.

    Args:
        run: reads from the same memory every time.
        pool: of memory that graphs share which never run at the same time.

    Returns:
        What does it again, and where its output lies afterwards.

    Raises:
        RuntimeError: it waits for the GPU, say, which a graph cannot do.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with _fastest_convolutions():
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):  # libraries choose their kernels, and take their memory
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # what other threads do meanwhile is none of its business
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            output = run()
    return graph.replay, output


@contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Lets cuDNN time its kernels instead of guessing, which pays where sizes are few."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def next_size(wanted: Sequence[int], sizes: Sequence[Sizes]) -> Sizes | None:
    """Returns the smallest of the captured sizes that holds what is wanted, None if none does."""
    found = tuple(next((one for one in some if one >= many), 0) for many, some in zip(wanted, sizes, strict=True))
    return found if all(found) else None


def fill(place: Tensor, given: Tensor, size: Sequence[int]) -> None:
    """Copies an input to where a graph reads it, with zeros around it where it is smaller."""
    if place.shape != given.shape:
        place.zero_()
    place[tuple(slice(many) for many in size)].copy_(given)


def up_to(sizes: Sizes, most: int) -> Sizes:
    """Returns the sizes below the largest that occurs, and that one: `(8, 16, 32)` up to 20 is `(8, 16, 20)`."""
    largest = min(most, sizes[-1])
    return (*(one for one in sizes if one < largest), largest)
