"""Which listings belong together, and folds that never separate them.

Listings of one group, and listings with the same photo, must not be split between training and test: a model that has
seen one knows the other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from app.errors import InvalidInput
from app.labelled.listings import Item

_FOLD = re.compile("([0-9]{1,6})/([0-9]{1,6})")


def connected(count: int, left: ArrayLike, right: ArrayLike) -> NDArray[np.int64]:
    """Finds what is joined by edges, directly or over others.

    Args:
        count: nodes, numbered from 0.
        left: `(edges,)`, one end of each edge.
        right: `(edges,)`, the other end.

    Returns:
        `(count,)` numbers from 0, equal for nodes that are joined.
    """
    one, other = np.asarray(left, np.int64), np.asarray(right, np.int64)
    graph = coo_matrix((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
    labels: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels


def components(*keys: Sequence[Hashable | None]) -> NDArray[np.int64]:
    """Joins rows that share a key.

    Args:
        *keys: one sequence for each kind of key, all with `n` entries; None joins nothing. Only keys of the same kind
            are compared.

    Returns:
        `(n,)` numbers from 0, equal for rows that are joined, directly or over others.
    """
    rows = len(keys[0]) if keys else 0
    nodes: dict[tuple[int, Hashable], int] = {}
    edges: list[tuple[int, int]] = []
    for kind, column in enumerate(keys):
        for row, key in zip(range(rows), column, strict=True):
            if key is not None:
                edges.append((row, rows + nodes.setdefault((kind, key), len(nodes))))
    ends = np.array(edges, np.int64).reshape(-1, 2)
    return connected(rows + len(nodes), ends[:, 0], ends[:, 1])[:rows]


def component_of(items: Sequence[Item]) -> NDArray[np.int64]:
    """Returns `(n,)` numbers from 0, equal for listings that must stay together.

    They are joined by an equal group, an equal photo (its perceptual hash or its bytes) and an equal family.
    """
    return components(
        [item.group for item in items],
        [item.phash for item in items],
        [item.digest for item in items],
        [item.family for item in items],
    )


def fold_of(items: Sequence[Item], folds: int) -> NDArray[np.int64]:
    """Deals listings into folds, whole components at a time.

    The fold of a component follows from the SHA-256 of the smallest group label in it (of its smallest title and photo,
    if no listing has a group), so it is the same on every machine and in every order of the rows.

    Args:
        items: the listings, all of them: a part of them may fall into other components.
        folds: how many, 1 or more.

    Returns:
        `(n,)` fold of each listing, 0 to `folds - 1`.

    Raises:
        InvalidInput: `folds` is less than 1.
    """
    if folds < 1:
        raise InvalidInput(f"there must be at least one fold, not {folds}.")
    labels = component_of(items)
    smallest: dict[int, tuple[bool, str]] = {}
    for label, item in zip(labels.tolist(), items, strict=True):
        key = _key(item)
        smallest[label] = min(smallest.get(label, key), key)
    fold = {label: _draw(key, folds) for label, key in smallest.items()}
    return np.array([fold[label] for label in labels.tolist()], np.int64)


def parse_fold(text: str) -> tuple[int, int]:
    """Reads `0/5` as (0, 5): the fold to keep apart, and how many there are. Raises InvalidInput for anything else."""
    found = _FOLD.fullmatch(text.strip())
    fold, folds = (int(found[1]), int(found[2])) if found else (0, 0)
    if folds < 2 or fold >= folds:
        raise InvalidInput(
            f"{text[:40]!a} is no fold: write 0/5 for the first of five, 4/5 for the last, with 2 folds or more."
        )
    return fold, folds


def _key(item: Item) -> tuple[bool, str]:
    """Sorts groups first: a listing without one must not name the component of those that have one."""
    if item.group is not None:
        return False, item.group
    return True, f"{item.title or ''}\0{item.digest or ''}\0{item.phash or ''}"


def _draw(key: tuple[bool, str], folds: int) -> int:
    kind = "content" if key[0] else "group"
    digest = hashlib.sha256(f"{kind}\0{key[1]}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % folds
