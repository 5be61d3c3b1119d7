"""Photos of whole tables on a GPU machine: processes decode them, the GPU frames and hashes them.

The towers of a GPU take more photos than the threads of one Python process can decode, as these wait for each other's lock.
So files go to processes, which send pixels back through shared memory; resizing, most of the work, is left to the GPU. Every
photo has the same pixels and the same hash as if it had been read alone.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from app.core.product import Photo, Pixels, Upload
from app.encoders.ahead import Outcome, readers
from app.encoders.framings import Framings
from app.encoders.preprocess import HASHED_SIDE, InputLimits, perceptual_hashes
from app.encoders.raw_photos import Cuts, RawDataset, RawPhotos
from app.encoders.resampling import BICUBIC, LANCZOS, Kernel, resized
from app.errors import AppError, EncodingFailed

BATCH = 128  # photos that a process reads together; measured in docs/performance.md
_AHEAD = 2  # batches a process


class PhotoReader:
    """Reads photos in processes and on a device. What it is asked for and what it returns is the same as `in_threads`."""

    def __init__(self, framings: Framings, limits: InputLimits, device: torch.device, processes: int | None = None) -> None:
        """Starts nothing yet.

        Args:
            framings: of the model.
            limits: what is accepted.
            device: where photos are framed.
            processes: that decode; None: one for each core.
        """
        self._framings, self._limits, self._device = framings, limits, device
        self._processes = processes or readers()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __call__(self, chunks: Iterable[Sequence[bytes]]) -> Iterator[list[Outcome]]:
        """Reads chunks of files ahead of who takes them.

        Yields:
            For each chunk, what became of each of its files.

        Raises:
            EncodingFailed: a process ended, for lack of memory say.
        """
        sizes, sent = deque[int](), deque[Sequence[bytes]]()

        def batches() -> Iterator[Sequence[bytes]]:
            for chunk in chunks:
                sizes.append(len(chunk))
                for at in range(0, max(1, len(chunk)), BATCH):  # an empty one, too: the loader asks for so many, not more
                    sent.append(chunk[at : at + BATCH])
                    yield sent[-1]

        loader: DataLoader[RawPhotos] = DataLoader(
            RawDataset(self._framings.kinds, self._limits), batch_sampler=batches(), collate_fn=_as_read,  # type: ignore[arg-type]
            num_workers=self._processes, prefetch_factor=_AHEAD, pin_memory=self._device.type == "cuda",
            multiprocessing_context=_context(),
        )  # fmt: skip
        read: list[Outcome] = []
        for raw in _checked(loader):
            read += self._finish(sent.popleft(), raw)
            while sizes and len(read) >= sizes[0]:
                chunk, read = read[: sizes[0]], read[sizes.popleft() :]
                yield chunk

    def _finish(self, files: Sequence[bytes], raw: RawPhotos) -> list[Outcome]:
        """Frames and hashes a batch."""
        with torch.cuda.stream(self._stream), torch.inference_mode():
            sizes = [how.size for how in self._framings.kinds]
            resizing = [self._resized(cuts, size, BICUBIC) for cuts, size in zip(raw.frames, sizes, strict=True)]
            resizing.append(self._resized(raw.greys, HASHED_SIDE, LANCZOS))
            arrays = [one.numpy() for one in self._fetched(resizing)]
        framed: Iterator[Sequence[Pixels]] = iter(zip(*arrays[:-1], strict=True))
        hashes = iter(perceptual_hashes(arrays[-1][..., 0]))
        found: list[Outcome] = []
        for data, one in zip(files, raw.found, strict=True):
            if isinstance(one, AppError):
                found.append(one)
                continue
            phash = next(hashes) if one.framed is None else one.phash
            frames = next(framed, ()) if one.framed is None else one.framed
            photo = Photo(one.sha256, one.media_type, one.width, one.height, phash)
            found.append((Upload(data, photo), self._framings.pack(frames)))
        return found

    def _resized(self, cuts: Cuts, size: int, kernel: Kernel) -> Tensor:
        pixels = cuts.pixels.to(self._device, non_blocking=True)
        sides, boxes, turned = (torch.from_numpy(part).to(self._device) for part in cuts[1:])
        found = resized(pixels, sides, boxes, size, kernel)
        return torch.where(turned[:, None, None, None], found.transpose(1, 2), found)

    def _fetched(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Returns tensors of the device in memory, when they are there."""
        if self._stream is None:
            return list(parts)
        fetched = [
            torch.empty(part.shape, dtype=part.dtype, pin_memory=True).copy_(part, non_blocking=True) for part in parts
        ]
        self._stream.synchronize()
        return fetched


def _as_read(raw: RawPhotos) -> RawPhotos:
    return raw


def _checked(loader: DataLoader[RawPhotos]) -> Iterator[RawPhotos]:
    try:
        yield from loader
    except RuntimeError as error:
        raise EncodingFailed(
            "a process that reads photos ended: see the log. Where memory is short, let the container have more of it, "
            "shared memory included (shm_size)."
        ) from error


def _context() -> Any:
    """Processes that are not copies of this one: it has threads, and a GPU."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([RawDataset.__module__])
    return context
