"""The order in which an epoch visits its listings, cut into batches. A pure function of seed and epoch.

Large groups are cut down to a few listings an epoch, differently every time, so that every group counts about alike.
Titles of like length share a batch, so that little is computed on padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

_POOL = 32  # batches whose listings are sorted by length together: enough to save padding, few enough to stay random

Visit = tuple[int, int]  # listing, epoch: the dataset augments by both


def epoch_order(labels: NDArray[np.int64], max_per_group: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Returns the listings of an epoch in random order, at most `max_per_group` of each group.

    Args:
        labels: `(n,)` group of each listing.
        max_per_group: 1 or more.
        seed: decides the draw.
        epoch: likewise.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(labels))
    by_group = order[np.argsort(labels[order], kind="stable")]
    sorted_labels = labels[by_group]
    starts = np.flatnonzero(np.r_[True, sorted_labels[1:] != sorted_labels[:-1]])
    rank = np.arange(len(labels)) - np.repeat(starts, np.diff(np.r_[starts, len(labels)]))
    kept = np.zeros(len(labels), bool)
    kept[by_group[rank < max_per_group]] = True
    return order[kept[order]]


class EpochBatches(Sampler[list[Visit]]):
    """Batches of one epoch for one process of several; all processes get equally many, all of full size.

    What does not fill a last batch for every process is left to the next epoch, whose order is another one; where there
    is less than one batch in all, listings are repeated.
    """

    def __init__(
        self, labels: NDArray[np.int64], lengths: Sequence[int], batch_size: int, max_per_group: int, seed: int,
        process: int = 0, processes: int = 1,
    ) -> None:  # fmt: skip
        """Takes the group and the title's length of every listing; `set_epoch` says which epoch comes."""
        self.labels, self.lengths = labels, np.asarray(lengths)
        self.batch_size, self.max_per_group, self.seed = batch_size, max_per_group, seed
        self.process, self.processes = process, processes
        self.epoch, self.skip = 0, 0
        visited = np.minimum(np.bincount(labels), max_per_group).sum()
        self.batches = max(1, int(visited) // (batch_size * processes))

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Chooses the epoch, and how many of its batches were done before an interruption."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        """Batches of this epoch that are left."""
        return self.batches - self.skip

    def __iter__(self) -> Iterator[list[Visit]]:
        """Yields the batches of this process."""
        order = np.resize(
            epoch_order(self.labels, self.max_per_group, self.seed, self.epoch),
            self.batches * self.processes * self.batch_size,
        )
        pool = _POOL * self.processes * self.batch_size
        parts = [part[np.argsort(self.lengths[part], kind="stable")] for part in _cut(order, pool)]
        batches = np.concatenate(parts).reshape(-1, self.batch_size)
        np.random.default_rng([self.seed, self.epoch, 1]).shuffle(batches)
        mine = batches[self.process :: self.processes]
        for batch in mine[self.skip :]:
            yield [(int(listing), self.epoch) for listing in batch]


def _cut(order: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [order[start : start + size] for start in range(0, len(order), size)]
