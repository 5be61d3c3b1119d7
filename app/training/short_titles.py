"""Short titles for the pair model to learn from: what people type when they look for something.

Labelled listings have the titles of sellers, which are long. Whoever learns from them alone takes a title whose words all
stand in another one for the same product: `milk` would be `Arla standard milk 1l` with a probability of .95. So a few words
are cut out of titles: *vague* ones, which stand in the titles of several groups and therefore name none of them, and
*telling* ones, which stand in the titles of a single group: `WH-1000XM4`. Every other one comes once more, in another order
perhaps or with a slip: equal titles are the same product, however short they are. Where a script puts no spaces between
words, there are none.
"""

from __future__ import annotations

import string
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from app.training.augment.title import TitleAugmentation, augment_title

VAGUE_SHARE, TELLING_SHARE = 1 / 8, 1 / 4  # of the listings
VAGUE_WORDS, TELLING_WORDS = 3, 4  # at most
VAGUE_GROUPS = 3  # at least, that words stand in to be vague
LEAST_LETTERS = 3
COUNTED = 30_000  # listings that words are counted in: memory stays bounded
AGAIN = TitleAugmentation(promo=0, drop=0, shorten=0, typo=0.4)  # how it is written once more: the same words
AROUND = string.punctuation + string.whitespace
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ShortTitle:
    """A title cut out of another one; `group` is the label of the group that it names, a new one if it is vague."""

    text: str
    group: int


def short_titles(titles: Sequence[str | None], labels: NDArray[np.int64], seed: int = 0) -> list[ShortTitle]:
    """Cuts short titles out of those of labelled listings.

    Args:
        titles: of `n` listings.
        labels: `(n,)` int64 groups, from 0.
        seed: of the draw.

    Returns:
        At most `VAGUE_SHARE * n` vague and `TELLING_SHARE * n` telling ones, every other of them once more. None is the
        whole title of a listing. How many words one has is drawn first: a single word is as likely as four.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(titles))[:COUNTED].tolist()
    groups = defaultdict[int, set[str]](set)
    for row in order:
        groups[int(labels[row])].update(key for key, _ in _phrases(titles[row], TELLING_WORDS))
    spread = Counter(key for keys in groups.values() for key in keys)
    taken = {title.lower() for title in titles if title is not None}
    unused = count(int(labels.max(initial=-1)) + 1)

    def drawn(wanted: Callable[[int], bool], longest: int, most: int, *, tells: bool) -> Iterator[ShortTitle]:
        for row in order:
            if most <= 0:
                return
            choice = defaultdict[int, list[tuple[str, str]]](list)
            for key, text in _phrases(titles[row], longest):
                if wanted(spread[key]) and key not in taken:
                    choice[key.count(" ")].append((key, text))
            if choice:
                key, text = _any(_any(list(choice.values()), random), random)
                taken.add(key)
                most -= 1
                group = int(labels[row]) if tells else next(unused)
                yield ShortTitle(text, group)
                if most % 2:
                    yield ShortTitle(augment_title(text, AGAIN, random), group)

    vague = drawn(lambda groups: groups >= VAGUE_GROUPS, VAGUE_WORDS, int(VAGUE_SHARE * len(order)), tells=False)
    telling = drawn(lambda groups: groups == 1, TELLING_WORDS, int(TELLING_SHARE * len(order)), tells=True)
    return [*vague, *telling]


def _phrases(title: str | None, longest: int) -> Iterator[tuple[str, str]]:
    """Yields runs of up to so many words, without the punctuation around words: in lower case, and as they are written."""
    words = [word for word in (one.strip(AROUND) for one in (title or "").split()) if word]
    for length in range(1, longest + 1):
        for start in range(len(words) - length + 1):
            text = " ".join(words[start : start + length])
            if len(text) >= LEAST_LETTERS and any(letter.isalpha() for letter in text):
                yield text.lower(), text


def _any(choice: Sequence[T], random: np.random.Generator) -> T:
    return choice[int(random.integers(len(choice)))]
