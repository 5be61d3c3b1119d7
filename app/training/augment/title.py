"""Augmentation of titles: what sellers do to the words when they list the same thing again.

Sizes and model numbers decide what is the same product, so words with digits are never misspelt or shortened and
almost never dropped. Every edit takes a title and a generator that makes all choices, and returns a title that
`clean_title` accepts if it accepted the one it got; where there is nothing to edit it returns the title as it is.
Dropping, swapping and adding words are the edits of Wei and Zou, "EDA: Easy Data Augmentation Techniques for Boosting
Performance on Text Classification Tasks", EMNLP 2019 (arXiv 1901.11196).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from types import MappingProxyType

import numpy as np

from app.encoders.preprocess import InputLimits, clean_title
from app.errors import InvalidTitle
from app.training.augment.chances import EditChances
from app.training.augment.photo_edits import pick

TitleEdit = Callable[[str, np.random.Generator], str]

_LIMITS = InputLimits()
_DIGIT = re.compile(r"\d")
_UNITS = (
    "kg|kgs|gr|gram|grams|g|mg|ltr|liter|litre|l|ml|cl|oz|lb|lbs|cm|mm|m|meter|yard|inch|in|ft|gb|tb|mb|mah|watt|w|v|hz|"
    "pcs|pc|pack|packs|sachet|lembar|tablet|kapsul|ct|克|千克|毫升|升|ชิ้น|กรัม"
)
_NUMBER_AND_UNIT = re.compile(rf"(?<![\w.,])(\d+(?:[.,]\d+)?)(\s*)({_UNITS})(?!\w)", re.IGNORECASE)
_BARE_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
_UNIT = re.compile(_UNITS, re.IGNORECASE)
_SEPARATORS = ("-", "/", "|", ",", "–", "+", "•", "~")
_BETWEEN_LETTERS = re.compile(r"(?<=[^\W\d_])[-/](?=[^\W\d_])")
_BRACKETS = re.compile(r"[\[\](){}【】「」★☆*!\"]+")

_PROMO = (
    "PROMO", "READY STOCK", "ready", "ORIGINAL", "ori", "100% ORIGINAL", "murah", "termurah", "TERLARIS", "gratis ongkir",
    "COD", "bisa COD", "bayar di tempat", "grosir", "best seller", "free shipping", "SALE", "new", "NEW ARRIVAL", "HOT",
    "diskon", "cuci gudang", "bergaransi", "garansi resmi", "terbaru", "import", "premium", "kualitas terbaik", "viral",
    "limited", "fast delivery", "in stock", "official store", "authentic", "best price", "flash sale", "ready stok",
    "siap kirim", "top quality", "special offer", "cheap",
)  # fmt: skip
_PROMO_ABROAD = (
    "oferta", "envío gratis", "nuevo", "promoção", "frete grátis", "original", "livraison gratuite", "promo", "neuf",
    "Angebot", "kostenloser Versand", "NEU", "giá rẻ", "chính hãng", "freeship", "murah gila", "sulit", "orijinal", "акция",
)  # fmt: skip
_PROMO_CHINESE = ("包邮", "正品", "特价", "现货", "热卖", "新款", "官方", "促销")
_PROMO_THAI = ("ส่งฟรี", "พร้อมส่ง", "ของแท้", "ราคาถูก", "ลดราคา", "ขายดี")
_CHINESE = re.compile("[\u3400-\u9fff]")
_THAI = re.compile("[\u0e00-\u0e7f]")
_DECORATIONS = (
    "[{}]", "({})", "【{}】", "{}!", "{}!!!", "★{}★", "🔥{}🔥", "*{}*", "{} -", "- {}", "|{}|", "✨{}", "{} ✅", "⚡ {}",
)  # fmt: skip


def _accepted(title: str) -> bool:
    try:
        clean_title(title, _LIMITS)
    except InvalidTitle:
        return False
    return True


def _checked(edit: TitleEdit) -> TitleEdit:
    """Keeps an edit from making a title too long or leaving nothing of it that can be seen."""

    @wraps(edit)
    def checked(title: str, random: np.random.Generator) -> str:
        changed = edit(title, random)
        return changed if _accepted(changed) else title

    return checked


def _words(title: str) -> list[str]:
    """Splits at white space, but keeps a number with its unit: "Kopi 500 g" -> ["Kopi", "500 g"]."""
    words: list[str] = []
    for word in title.split():
        if words and _UNIT.fullmatch(word) and _BARE_NUMBER.fullmatch(words[-1]):
            words[-1] += f" {word}"
        else:
            words.append(word)
    return words


@_checked
def order(title: str, random: np.random.Generator) -> str:
    """Swaps two neighbours, moves up to three words elsewhere, or (one time in ten) shuffles all words."""
    words, kind = _words(title), random.random()
    if len(words) < 2:
        return title
    if kind < 0.45:
        n = int(random.integers(len(words) - 1))
        words[n], words[n + 1] = words[n + 1], words[n]
    elif kind < 0.9:
        size = int(random.integers(1, min(3, len(words) - 1) + 1))
        start = int(random.integers(len(words) - size + 1))
        chunk, rest = words[start : start + size], words[:start] + words[start + size :]
        places = [n for n in range(len(rest) + 1) if n != start]
        place = pick(random, places)
        words = rest[:place] + chunk + rest[place:]
    else:
        words = [words[n] for n in random.permutation(len(words))]
    return " ".join(words)


@_checked
def promo(title: str, random: np.random.Generator) -> str:
    """Adds one to three promo words, in the title's script or a seller's lingua franca, some of them decorated.

    They go in front, to the end, or (rarely) between words.
    """
    words = _words(title)
    for _ in range(1 + int(random.geometric(0.65) > 1) + int(random.random() < 0.1)):
        extra = pick(random, _promo_list(title, random))
        style = random.random()
        extra = extra.upper() if style < 0.25 else extra.title() if style < 0.35 else extra
        if random.random() < 0.4:
            extra = pick(random, _DECORATIONS).format(extra)
        place = random.random()
        words.insert(0 if place < 0.45 else len(words) if place < 0.9 else int(random.integers(len(words) + 1)), extra)
    return " ".join(words)


def _promo_list(title: str, random: np.random.Generator) -> Sequence[str]:
    foreign = random.random()
    if foreign < 0.7 and _CHINESE.search(title):
        return _PROMO_CHINESE
    if foreign < 0.7 and _THAI.search(title):
        return _PROMO_THAI
    return _PROMO_ABROAD if foreign > 0.85 else _PROMO


@_checked
def case(title: str, random: np.random.Generator) -> str:
    """Writes all in lower case, all in capitals, or every word with a capital."""
    kind = random.random()
    if kind < 0.4:
        return title.lower()
    if kind < 0.7:
        return title.upper()
    # not str.title, which makes Men'S and 500Ml
    return " ".join(word[:1].upper() + word[1:].lower() for word in title.split())


@_checked
def drop(title: str, random: np.random.Generator) -> str:
    """Drops up to a quarter of the words, at least one and never all; one with a digit only one time in twenty."""
    words = _words(title)
    if len(words) < 2:
        return title
    count = int(random.integers(1, max(1, len(words) // 4) + 1))
    chosen = [int(n) for n in random.permutation(len(words))[:count]]
    gone = {n for n in chosen if not _DIGIT.search(words[n]) or random.random() < 0.05}
    return " ".join(word for n, word in enumerate(words) if n not in gone)


@_checked
def spacing(title: str, random: np.random.Generator) -> str:
    """Joins a number and its unit, or parts them: "500 g", "500g". All of them in the title, as one writer would."""
    return _NUMBER_AND_UNIT.sub(lambda found: f"{found[1]}{'' if found[2] else ' '}{found[3]}", title)


@_checked
def typo(title: str, random: np.random.Generator) -> str:
    """Swaps, drops or doubles a letter inside one word (seldom two) of five letters or more in a cased alphabet."""
    return _reworded(title, random, 0.2, _long_word, _misspelt)


def _reworded(
    title: str,
    random: np.random.Generator,
    second: float,
    fits: Callable[[str], bool],
    change: Callable[[str, np.random.Generator], str],
) -> str:
    """Changes one word of those that fit, and with the chance `second` another (or the same one again)."""
    words = title.split(" ")
    for _ in range(1 + int(random.random() < second)):
        able = [n for n, word in enumerate(words) if fits(word)]
        if able:
            n = pick(random, able)
            words[n] = change(words[n], random)
    return " ".join(words)


def _long_word(word: str) -> bool:
    # scripts without capitals have no letters to swap: two Chinese characters are two words
    return len(word) > 4 and word.isalpha() and word.lower() != word.upper()


def _misspelt(word: str, random: np.random.Generator) -> str:
    kind = int(random.integers(3))
    n = int(random.integers(1, len(word) - 1))  # the first letter is the one that people get right
    if kind == 0:
        apart = [k for k in range(1, len(word) - 1) if word[k] != word[k + 1]]
        if apart:
            n = pick(random, apart)
            return word[:n] + word[n + 1] + word[n] + word[n + 2 :]
    return word[:n] + word[n + 1 :] if kind == 1 else word[:n] + word[n] + word[n:]


@_checked
def punctuation(title: str, random: np.random.Generator) -> str:
    """Adds a separator between two words, changes or drops those that are there, or drops brackets and apostrophes."""
    words = _words(title)
    standing = [n for n, word in enumerate(words) if word in _SEPARATORS]
    if standing and random.random() < 0.45:
        n = pick(random, standing)
        instead = [] if random.random() < 0.5 else [pick(random, [mark for mark in _SEPARATORS if mark != words[n]])]
        return " ".join([*words[:n], *instead, *words[n + 1 :]])
    if random.random() < 0.6:
        bare = _BRACKETS.sub(" ", title) if random.random() < 0.5 else title
        if random.random() < 0.5:
            bare = _BETWEEN_LETTERS.sub(pick(random, (" ", "")), bare)
        bare = " ".join(bare.replace("'", "").replace("’", "").split())
        if bare != title:
            return bare
    if len(words) < 2:
        return f"{title}{pick(random, ('.', '!', ' -', ','))}"
    n = int(random.integers(1, len(words)))
    mark = pick(random, _SEPARATORS)
    if words[n - 1] not in _SEPARATORS and (mark == "," or random.random() < 0.15):
        return " ".join([*words[: n - 1], words[n - 1] + mark, *words[n:]])
    return " ".join([*words[:n], mark, *words[n:]])


@_checked
def shorten(title: str, random: np.random.Generator) -> str:
    """Cuts one or two words of seven letters or more to their first three to five: "Chocolate" -> "Choc."."""
    return _reworded(title, random, 0.25, lambda word: len(word) > 6 and _long_word(word), _cut)


def _cut(word: str, random: np.random.Generator) -> str:
    return word[: int(random.integers(3, 6))] + ("." if random.random() < 0.4 else "")


# words first, decorations last: what was added is not dropped again
TITLE_EDITS: Mapping[str, TitleEdit] = MappingProxyType({
    "drop": drop, "order": order, "shorten": shorten, "typo": typo, "spacing": spacing, "promo": promo,
    "punctuation": punctuation, "case": case,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class TitleAugmentation(EditChances):
    """Which edits, how likely. Every probability is multiplied by `strength` and cut at 1.

    Attributes:
        strength: 0 leaves titles as they are, 1 is what the probabilities say; >= 0.
        order, promo, case, drop, spacing, typo, punctuation, shorten: probability of the edit of that name.

    Raises:
        InvalidInput: a negative strength, or a probability outside [0, 1].
    """

    order: float = 0.3
    promo: float = 0.4
    case: float = 0.4
    drop: float = 0.3
    spacing: float = 0.3
    typo: float = 0.15
    punctuation: float = 0.25
    shorten: float = 0.08


def augment_title(title: str, how: TitleAugmentation, random: np.random.Generator) -> str:
    """Returns the title as another seller might have written it.

    Args:
        title: best as `clean_title` returns it; edits may break escapes and entities that it would decode.
        how: which edits, how likely. With strength 0 the title comes back as it is.
        random: makes every choice: the same state gives the same title.

    Returns:
        A title that `clean_title` accepts (default limits) if it accepts `title`, so never an empty one.
    """
    if how.strength == 0:
        return title
    # all dice first: whether one edit happens does not depend on the choices inside another
    dice = random.random(len(TITLE_EDITS))
    for (name, edit), die in zip(TITLE_EDITS.items(), dice, strict=True):
        if die < how.chance(name):
            title = edit(title, random)
    return title
