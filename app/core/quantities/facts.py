"""What a title says in numbers: the values, their kinds, and how they are written for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

KINDS: tuple[str, ...] = (
    "mass",  # g
    "volume",  # ml
    "dose",  # mg of an active substance
    "length",  # mm
    "dimensions",  # mm, two or three sides
    "storage",  # GB
    "power",  # W
    "voltage",  # V
    "charge",  # mAh
    "frequency",  # MHz
    "rotation",  # turns per minute
    "pixels",  # millions
    "zoom",
    "aperture",
    "count",  # pieces, sheets, capsules ...
    "ply",
    "percent",
    "spf",
    "karat",
    "age",  # months
    "size",  # of clothes and shoes
    "model",  # a maker's or seller's code
    "variant",  # a short code: i5, S7, V2
    "number",  # what is left
)
MAX_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Value:
    """One thing that a title says; two are equal if they mean the same, however it was written.

    Attributes:
        kind: one of `KINDS`.
        low, high: the range in the unit of the kind, equal for a single amount.
        text: as written for people, "" for a total that follows from another value.
        label: what numbers of a kind cannot be compared across, as the system of a size, or a short code itself.
        sides: the sides of dimensions in mm, smallest first.
        rough: written in a unit that is often converted and rounded (ounce, pound, inch).
    """

    kind: str
    low: float
    high: float
    text: str = field(compare=False)
    label: str = ""
    sides: tuple[float, ...] = ()
    rough: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Facts:
    """All that one title says in numbers.

    Attributes:
        values: without repetitions, in a fixed order: titles that say the same have equal facts.
        codes: model codes, lower case without separators, in alphabetical order.
        joined: codes that arise if the word before is part of them ("KDL 46V4100"); they can agree but not conflict.
        by_kind: the values, by kind.
        texts: what is said, by kind, written for people: a title is read once and compared often.
    """

    values: tuple[Value, ...] = ()
    codes: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    by_kind: Mapping[str, Sequence[Value]] = field(init=False, compare=False, repr=False)
    texts: Mapping[str, str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Sorts the values by kind."""
        by_kind: dict[str, list[Value]] = {}
        for value in self.values:
            by_kind.setdefault(value.kind, []).append(value)
        texts = {kind: text_of(values) for kind, values in by_kind.items()}
        if self.codes:
            texts["model"] = ", ".join(code.upper() for code in self.codes[:MAX_SHOWN])
        object.__setattr__(self, "by_kind", by_kind)
        object.__setattr__(self, "texts", texts)


def text_of(values: Iterable[Value]) -> str:
    """Returns what values say, written for people; the first of them if there are many."""
    texts = list(dict.fromkeys(value.text for value in values if value.text))
    return ", ".join(texts[:MAX_SHOWN]) + (" ..." if len(texts) > MAX_SHOWN else "")


def tidy(amount: float) -> float:
    """Returns the amount with 7 significant digits: 0.3 kg and 300 g must be equal."""
    return float(f"{amount:.7g}")


def written(amount: float) -> str:
    """Returns a number as people write it: 1000000, 0.5, 12.9."""
    return str(int(amount)) if amount == int(amount) else f"{amount:.6g}"
