"""Groups of a whole catalog: from judged pairs to sets of listings that are the same product.

Chains of doubtful pairs must not join half of a catalog, so groups are grown by average linkage (Sokal and Michener, 1958):
two groups are joined as long as the mean probability over *all* pairs between them reaches a bound. A pair that nobody
proposed counts as impossible. Equal choices are settled by position: callers who sort their listings by id get the same
groups from a catalog in any order.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]

SIZE_CAP = 100  # of a group; the largest of Shopee - Price Match Guarantee has 51 listings


@dataclass(frozen=True, slots=True)
class Edges:
    """Judged pairs of `n` listings, each once.

    Attributes:
        left, right: `(e,)` int64 positions, `left < right`; sorted by both.
        probability: `(e,)` float64 in [0, 1], the mean of what both sides say.
        mutual: `(e,)` bool, whether each side is among the candidates of the other.
    """

    left: Rows
    right: Rows
    probability: Doubles
    mutual: Flags

    def __len__(self) -> int:
        """Pairs."""
        return len(self.left)

    def kept(self, mask: Flags) -> Edges:
        """Returns some of the pairs, `mask` is `(e,)`."""
        return Edges(self.left[mask], self.right[mask], self.probability[mask], self.mutual[mask])


def edges_of(rows: Rows, others: Rows, probability: Doubles) -> Edges:
    """Joins what both sides of a pair say.

    Args:
        rows: `(p,)` who asked.
        others: `(p,)` whom it was asked about; never `rows`, and no pair twice in one direction.
        probability: `(p,)` of each.
    """
    n = int(max(rows.max(initial=-1), others.max(initial=-1))) + 1
    keys = np.minimum(rows, others) * n + np.maximum(rows, others)
    unique, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    mean = np.bincount(inverse, probability, minlength=len(unique)) / counts
    return Edges(unique // max(n, 1), unique % max(n, 1), mean, counts == 2)


def average_linkage(edges: Edges, n: int, bound: float, cap: int = SIZE_CAP) -> Rows:
    """Joins listings to groups.

    Args:
        edges: judged pairs; others count as probability 0.
        n: listings.
        bound: smallest mean probability over all pairs between two groups that are joined, above 0.
        cap: largest size of a group.

    Returns:
        `(n,)` int64: for each listing the smallest position in its group.
    """
    links = _Links(edges, n)
    pairs = zip(edges.left.tolist(), edges.right.tolist(), edges.probability.tolist(), strict=True)
    queue = [(-p, a, b, 0, 0) for a, b, p in pairs if p >= bound]
    heapq.heapify(queue)
    while queue:
        _, a, b, version_a, version_b = heapq.heappop(queue)
        if links.versions.get(a) != version_a or links.versions.get(b) != version_b:
            continue  # one of them has grown or is gone: what it is now stands elsewhere in the queue
        if links.sizes[a] + links.sizes[b] > cap:
            continue
        for other, mean in links.join(a, b):
            if mean >= bound:
                first, second = min(a, other), max(a, other)
                heapq.heappush(queue, (-mean, first, second, links.versions[first], links.versions[second]))
    return links.labels()


class _Links:
    """Groups under construction, each named by its smallest position, and the sums of probabilities between them."""

    def __init__(self, edges: Edges, n: int) -> None:
        self.sizes = dict.fromkeys(range(n), 1)
        self.versions = dict.fromkeys(range(n), 0)
        self._members = {row: [row] for row in range(n)}
        self._sums: dict[int, dict[int, float]] = {row: {} for row in range(n)}
        for a, b, p in zip(edges.left.tolist(), edges.right.tolist(), edges.probability.tolist(), strict=True):
            self._sums[a][b] = self._sums[b][a] = p

    def join(self, a: int, b: int) -> Iterator[tuple[int, float]]:
        """Puts group `b` into group `a < b`; yields the groups that are linked to it now, with the mean probability."""
        sums, gone = self._sums[a], self._sums.pop(b)
        sums.pop(b)
        for other, value in gone.items():
            if other != a:
                self._sums[other].pop(b)
                sums[other] = self._sums[other][a] = sums.get(other, 0.0) + value
        self._members[a] += self._members.pop(b)
        self.sizes[a] += self.sizes.pop(b)
        self.versions.pop(b)
        self.versions[a] += 1
        for other, value in sorted(sums.items()):
            yield other, value / (self.sizes[a] * self.sizes[other])

    def labels(self) -> Rows:
        """See `average_linkage`."""
        found = np.empty(sum(self.sizes.values()), np.int64)
        for name, members in self._members.items():
            found[members] = name
        return found


def with_one_more(rows: Rows, others: Rows, probability: Doubles, taken: Flags, n: int) -> Flags:
    """Gives every listing without a match its best candidate ("min2"): right only where every listing has a match.

    Args:
        rows: `(p,)` who asked, as in `edges_of`.
        others: `(p,)` whom it was asked about.
        probability: `(p,)` of each.
        taken: `(p,)`, the pairs that are matches already.
        n: listings.

    Returns:
        `(p,)`, `taken` and the pairs that were added.
    """
    lonely = np.ones(n, np.bool_)
    lonely[rows[taken]] = False
    order = np.lexsort((others, -probability, rows))
    first = np.ones(len(order), np.bool_)
    first[1:] = rows[order][1:] != rows[order][:-1]
    best = order[first]
    out = taken.copy()
    out[best[lonely[rows[best]]]] = True
    return out
