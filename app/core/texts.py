"""How alike two titles are written: features of the pair model that need no tower.

Distances are rapidfuzz's, all scaled to [0, 1] where 1 is equal; case is ignored.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz, process
from rapidfuzz.distance import Levenshtein

from app.core.remembering import remembered

Doubles = NDArray[np.float64]

TEXT_FEATURES = ("set", "sort", "partial", "edit", "tokens", "contained", "trigrams", "shorter", "length_ratio")
_KEPT, _LONGEST = 8192, 128  # titles whose tokens are remembered: 50 MB of usual ones, 140 MB at most
_SCORERS = (("set", fuzz.token_set_ratio), ("sort", fuzz.token_sort_ratio), ("partial", fuzz.partial_ratio))


def compare_texts(title: str, others: Sequence[str]) -> dict[str, Doubles]:
    """Compares one title with others.

    Returns:
        `(m,)` for each of `TEXT_FEATURES`: rapidfuzz's token set, token sort and partial ratios and the normalised edit
        similarity; Jaccard index and containment of the words; Jaccard index of the character trigrams; characters of the
        shorter title, and its share of the longer one.
    """
    own, both = _read(title), [_read(other) for other in others]
    low, lows = own.low, [one.low for one in both]
    found: dict[str, Doubles] = {
        name: process.cdist([low], lows, scorer=scorer, dtype=np.float64)[0] / 100 for name, scorer in _SCORERS
    }
    found["edit"] = process.cdist([low], lows, scorer=Levenshtein.normalized_similarity, dtype=np.float64)[0]
    shared, sizes = _overlap(own.words, [one.words for one in both])
    found["tokens"] = shared / (len(own.words) + sizes - shared)
    found["contained"] = shared / np.minimum(len(own.words), sizes)
    shared, sizes = _overlap(own.trigrams, [one.trigrams for one in both])
    found["trigrams"] = shared / (len(own.trigrams) + sizes - shared)
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
    frequency = Counter(chain.from_iterable(words_of(one) for one in context))
    by_count = [_whole(math.log((len(context) + 1) / (count + 0.5))) for count in range(len(context) + 1)]
    weights = defaultdict(lambda: by_count[0], {word: by_count[count] for word, count in frequency.items()})
    weight = weights.__getitem__
    asked, theirs = words_of(title), [words_of(other) for other in others]
    shared = np.array([sum(map(weight, asked & words)) for words in theirs], np.float64)
    either = np.array([sum(map(weight, words)) for words in theirs], np.float64) + sum(map(weight, asked)) - shared
    return shared / np.maximum(either, 1)


def _whole(weight: float) -> int:
    """Returns a whole number of billionths: sums of those do not depend on the order of words in a set."""
    return round(weight * 1e9)


def words_of(title: str) -> frozenset[str]:
    """Returns the words of a title in lower case."""
    return _read(title).words


@dataclass(frozen=True, slots=True)
class _Text:
    """A title in lower case, its words, and its character trigrams with a blank at either end."""

    low: str
    words: frozenset[str]
    trigrams: frozenset[str]


@remembered(_KEPT, _LONGEST)
def _read(title: str) -> _Text:
    low = title.lower()
    padded = f" {low} "
    return _Text(low, frozenset(low.split()), frozenset(padded[n : n + 3] for n in range(len(padded) - 2)))


def _overlap(one: frozenset[str], others: Sequence[frozenset[str]]) -> tuple[Doubles, Doubles]:
    shared = np.array([len(one & other) for other in others], np.float64)
    return shared, np.array([len(other) for other in others], np.float64)
