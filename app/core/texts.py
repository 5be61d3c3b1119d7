"""How alike two titles are written: features of the pair model that need no tower.

Distances are rapidfuzz's, all scaled to [0, 1] where 1 is equal; case is ignored.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz, process
from rapidfuzz.distance import Levenshtein

Doubles = NDArray[np.float64]

TEXT_FEATURES = ("set", "sort", "partial", "edit", "tokens", "contained", "trigrams", "shorter", "length_ratio")
_KEPT = 65_536  # titles whose tokens are remembered
_SCORERS = (("set", fuzz.token_set_ratio), ("sort", fuzz.token_sort_ratio), ("partial", fuzz.partial_ratio))


def compare_texts(title: str, others: Sequence[str]) -> dict[str, Doubles]:
    """Compares one title with others.

    Returns:
        `(m,)` for each of `TEXT_FEATURES`: rapidfuzz's token set, token sort and partial ratios and the normalised edit
        similarity; Jaccard index and containment of the words; Jaccard index of the character trigrams; characters of the
        shorter title, and its share of the longer one.
    """
    low, lows = title.lower(), [other.lower() for other in others]
    found: dict[str, Doubles] = {
        name: process.cdist([low], lows, scorer=scorer, dtype=np.float64)[0] / 100 for name, scorer in _SCORERS
    }
    found["edit"] = process.cdist([low], lows, scorer=Levenshtein.normalized_similarity, dtype=np.float64)[0]
    words, pieces = _sets(low)
    both = [_sets(other) for other in lows]
    shared, sizes = _overlap(words, [one[0] for one in both])
    found["tokens"] = shared / (len(words) + sizes - shared)
    found["contained"] = shared / np.minimum(len(words), sizes)
    shared, sizes = _overlap(pieces, [one[1] for one in both])
    found["trigrams"] = shared / (len(pieces) + sizes - shared)
    lengths = np.array([len(other) for other in lows], np.float64)
    found["shorter"] = np.minimum(lengths, len(low))
    found["length_ratio"] = found["shorter"] / np.maximum(lengths, len(low))
    return found


def rare_overlap(title: str, others: Sequence[str], context: Sequence[str]) -> Doubles:
    """Returns the Jaccard index of the words, each counted by how rare it is in the context.

    What all neighbours say tells nothing; the words that only some of them use make the difference. The weight of a word is
    its inverse document frequency among the titles of the context (Spaerck Jones, 1972).

    Args:
        title: of the query.
        others: `m` titles.
        context: of the query and its best candidates.
    """
    frequency = Counter(word for one in context for word in words_of(one))
    by_count = [math.log((len(context) + 1) / (count + 0.5)) for count in range(len(context) + 1)]
    weight = {word: by_count[min(count, len(context))] for word, count in frequency.items()}
    unknown = by_count[0]
    asked = words_of(title)
    own = math.fsum(weight.get(word, unknown) for word in asked)
    found = np.zeros(len(others))
    for n, other in enumerate(others):
        theirs = words_of(other)
        shared = math.fsum(weight.get(word, unknown) for word in asked & theirs)
        rest = math.fsum(weight.get(word, unknown) for word in theirs - asked)
        found[n] = shared / max(own + rest, 1e-9)
    return found


def words_of(title: str) -> frozenset[str]:
    """Returns the words of a title in lower case."""
    return _sets(title.lower())[0]


@lru_cache(_KEPT)
def _sets(low: str) -> tuple[frozenset[str], frozenset[str]]:
    """Returns the words, and the character trigrams with a blank at either end."""
    padded = f" {low} "
    return frozenset(low.split()), frozenset(padded[n : n + 3] for n in range(len(padded) - 2))


def _overlap(one: frozenset[str], others: Sequence[frozenset[str]]) -> tuple[Doubles, Doubles]:
    shared = np.array([len(one & other) for other in others], np.float64)
    return shared, np.array([len(other) for other in others], np.float64)
