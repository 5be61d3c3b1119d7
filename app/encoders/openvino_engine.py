"""OpenVINO: runs a converted tower on a CPU. The only file that imports it.

A model is converted from PyTorch in memory, by tracing; what is kept on disk is OpenVINO's own format (a graph in XML, its
weights as plain numbers), which holds no code.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app.core.product import Floats

# OpenVINO reports its use to its maker unless this package is missing; a service that is fed product data calls nobody
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino  # noqa: E402

_MODEL = "model.xml"  # its weights are model.bin


class CannotConvert(Exception):
    """OpenVINO cannot run this tower, or runs it with another result."""


class Compiled:
    """A model, ready to run. May be called from several threads: each call has a request of its own.

    Attributes:
        streams: so many calls run at the same time, each with its share of the threads; others wait.
    """

    def __init__(self, model: Any, threads: int, streams: int, together: int = 0) -> None:
        """Compiles.

        Args:
            model: what `convert` or `read` returned.
            threads: of all streams.
            streams: see the class.
            together: rows of a call; more are cut into several calls. 0: as many as there are.
        """
        self.streams, self._together = streams, together
        if together == 1:  # with nothing left open, steps from element to element are joined: a photo takes a fifth less
            model = model.clone()
            model.reshape({one.any_name: [1, *list(one.partial_shape)[1:]] for one in model.inputs})
        how = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": threads,
            # left to itself it takes bfloat16 where the CPU has it, and scores change by a hundredth
            "INFERENCE_PRECISION_HINT": "f32",
            # a pinned thread waits for its core while another is free: there are other programs, and other workers
            "ENABLE_CPU_PINNING": False,
        }
        self._compiled = openvino.Core().compile_model(model, "CPU", how)
        self._idle: deque[Any] = deque()

    def __call__(self, *inputs: NDArray[Any]) -> Floats:
        """Returns the model's one output for C-contiguous inputs of any number of rows. Raises RuntimeError."""
        rows, together = len(inputs[0]), self._together or len(inputs[0])
        return np.concatenate(self.each([[one[at : at + together] for one in inputs] for at in range(0, rows, together)]))

    def each(self, calls: Sequence[Sequence[NDArray[Any]]]) -> list[Floats]:
        """Returns the outputs of several calls, on all streams. Raises RuntimeError if one of them fails."""
        running: deque[Any] = deque()
        found: list[Floats] = []
        try:
            for inputs in calls:
                if len(running) == self.streams:
                    found.append(self._ended(running.popleft()))
                request = self._request()
                request.start_async(tuple(inputs), share_inputs=True)
                running.append(request)
            while running:
                found.append(self._ended(running.popleft()))
        finally:
            for request in running:  # one has failed, and the others still read their inputs
                with suppress(RuntimeError):
                    request.wait()
        return found

    def _request(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return self._compiled.create_infer_request()

    def _ended(self, request: Any) -> Floats:
        request.wait()
        found: Floats = request.get_output_tensor().data.copy()  # the request may be taken at once
        self._idle.append(request)
        return found


def version() -> str:
    """Returns the version, with its build: converted models are kept apart by it."""
    return str(openvino.get_version())


def convert(module: torch.nn.Module, example: Sequence[torch.Tensor], shapes: Sequence[Sequence[int]]) -> Any:
    """Converts a module with one output.

    Args:
        module: in evaluation mode.
        example: inputs to trace it with.
        shapes: of the inputs; -1 where any size is allowed.

    Raises:
        CannotConvert: the module does something that cannot be traced, or that OpenVINO does not know.
    """
    inputs = [openvino.PartialShape(list(shape)) for shape in shapes]
    try:
        with _own_logging(), warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")  # of values that a trace fixes; the result is compared afterwards
            return openvino.convert_model(module, example_input=tuple(example), input=inputs)
    except Exception as error:  # a tracer, and a converter, raise whatever they come upon
        raise CannotConvert(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    finally:
        gc.collect()  # a trace is a circle of references that holds all weights


@contextmanager
def _own_logging() -> Iterator[None]:
    """Leaves logging as it was: the converter makes itself at home at its root, for good."""
    root, chatty = logging.getLogger(), logging.getLogger("transformers")
    before = root.level, list(root.filters), list(root.handlers), chatty.level
    chatty.setLevel(logging.ERROR)  # a trace reads every property, also those it advises against
    try:
        yield
    finally:
        root.setLevel(before[0])
        root.filters[:], root.handlers[:] = before[1], before[2]
        chatty.setLevel(before[3])


def save(model: Any, folder: Path) -> None:
    """Writes a model into a folder, in float32."""
    openvino.save_model(model, os.fspath(folder / _MODEL), compress_to_fp16=False)


def read(folder: Path) -> Any:
    """Reads what `save` wrote; weights are mapped, not copied. Raises RuntimeError."""
    return openvino.Core().read_model(os.fspath(folder / _MODEL))
