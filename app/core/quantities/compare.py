"""Compares what two titles say in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

from app.core.quantities.codes import is_variant, similarity
from app.core.quantities.facts import KINDS, Facts, Value, text_of
from app.core.quantities.read import read_facts
from app.core.quantities.sizes import ALL
from app.core.remembering import remembered

_EXACT = 1e-6
_TOLERANCE = 0.006
_ROUGH = 0.021  # 16 oz and 473 ml, 1 lb and 454 g
_TOLERANCES = {"storage": 0.03, "count": _EXACT, "age": _EXACT, "size": _EXACT, "number": _EXACT, "ply": _EXACT}
_UNKNOWN_UNITS = (1.0, 10.0, 25.4)  # what dimensions without a unit may be in, in mm
_INCH = 25.4
_MEMORY_SHARE = 8
_LONGEST = 512
_KEPT = 4096  # pairs of titles that are remembered: evidence is collected first, and reasons are given for some of it

# A conflict is firm if the closest amounts are not closer than this. Nearer ones are often another label of the same
# product: a new recipe, gross and net, a misprint.
_FIRM_BELOW = {
    "mass": 0.9,
    "volume": 0.9,
    "dose": 0.94,
    "length": 0.94,
    "dimensions": 0.94,
    "storage": 0.85,
    "power": 0.88,
    "voltage": 0.9,
    "charge": 0.94,
    "pixels": 0.94,
    "aperture": 0.85,
    "count": 0.94,
    "percent": 0.94,
    "spf": 0.94,
}


class Verdict(IntEnum):
    """What two titles say of one kind."""

    CONFLICT = -1
    ABSENT = 0
    AGREE = 1


class Comparison(NamedTuple):
    """What two titles say of one kind. A tuple, for it is made some hundred times per request.

    Attributes:
        kind: one of `KINDS`.
        verdict: AGREE if any of the values are the same, CONFLICT if both have values and none are, else ABSENT. Model
            codes of which one is the other with something added are ABSENT too: a sibling, or the same with a suffix.
        left, right: what the titles say, written for people; "" if nothing.
        similarity: how close the closest values are, in [0, 1]: smaller over larger amount, or what codes share.
        firm: a conflict that two listings of one product do not have: such a pair is vetoed.
    """

    kind: str
    verdict: Verdict
    left: str
    right: str
    similarity: float = 0.0
    firm: bool = False


_CONFLICT, _ABSENT, _AGREE = Verdict  # looking a member up takes longer than comparing two facts
_NOTHING = {kind: Comparison(kind, _ABSENT, "", "") for kind in KINDS}


@remembered(_KEPT, _LONGEST)
def compare_titles(left: str, right: str) -> Mapping[str, Comparison]:
    """Reads two clean titles and compares what they say, for each of `KINDS`; see `compare_facts`."""
    return MappingProxyType(compare_facts(read_facts(left), read_facts(right)))


def compare_facts(left: Facts, right: Facts) -> dict[str, Comparison]:
    """Compares what two titles say, for each of `KINDS`; swapping the titles swaps `left` and `right` and nothing else."""
    compared = _NOTHING.copy()
    if left.codes or right.codes:
        compared["model"] = _compare_codes(left, right)
    for kind in left.by_kind.keys() | right.by_kind.keys():
        ours, theirs = left.by_kind.get(kind, ()), right.by_kind.get(kind, ())
        texts = left.texts.get(kind, ""), right.texts.get(kind, "")
        if not ours or not theirs:
            compared[kind] = Comparison(kind, _ABSENT, *texts)
            continue
        if kind == "storage":
            ours, theirs = _without_memory(ours, theirs)
            texts = text_of(ours), text_of(theirs)
        verdict, close = _compare(kind, ours, theirs)
        firm = verdict is _CONFLICT and _is_firm(kind, ours, theirs, close)
        compared[kind] = Comparison(kind, verdict, *texts, close, firm)
    return compared


def _without_memory(ours: Sequence[Value], theirs: Sequence[Value]) -> tuple[Sequence[Value], Sequence[Value]]:
    """Leaves the working memory out where both sides name it beside the storage: 4/128 GB is not 4/64 GB."""
    both = (ours, theirs)
    if any(len(values) != 2 or values[1].low < _MEMORY_SHARE * values[0].low for values in both):
        return both
    return ours[1:], theirs[1:]


def _compare(kind: str, ours: Sequence[Value], theirs: Sequence[Value]) -> tuple[Verdict, float]:
    comparable, best = False, 0.0
    for one in ours:
        for other in theirs:
            if ALL in (one.label, other.label):
                return _AGREE, 1.0
            if kind == "dimensions":
                close = _close_sides(one, other)
            elif kind == "variant":
                close = float(one.label == other.label)
            elif one.label != other.label:
                continue
            else:
                close = _closeness(one, other)
                if close < 1.0 and not (one.text and other.text):  # a total close to something else is chance
                    continue
            comparable, best = True, max(best, close)
            if best == 1.0:
                return _AGREE, 1.0
    return (_CONFLICT if comparable else _ABSENT), best


def _is_firm(kind: str, ours: Sequence[Value], theirs: Sequence[Value], close: float) -> bool:
    if close >= _FIRM_BELOW.get(kind, 0.0):
        return False
    if kind == "count":  # "1 pcs" says how the price is meant
        return all(any(value.high > 1 for value in values) for values in (ours, theirs))
    if kind == "length":  # thickness in mm, size in inches
        return not {value.rough for value in ours}.isdisjoint({value.rough for value in theirs})
    return True


def _closeness(one: Value, other: Value) -> float:
    """Returns 1 for ranges that meet within the tolerance, else the smaller over the larger of their near ends."""
    if one.kind == "length" and one.low < one.high and other.low < other.high:  # of a zoom lens, say
        close = min(_ratio(one.low, other.low), _ratio(one.high, other.high))
        return 1.0 if close > 1 - _ROUGH else close
    smaller, larger = (one.high, other.low) if one.high < other.low else (other.high, one.low)
    if smaller >= larger:
        return 1.0
    tolerance = _TOLERANCES.get(one.kind, _ROUGH if one.rough or other.rough else _TOLERANCE)
    if smaller >= larger * (1 - tolerance) or (one.rough and other.rough and _rounded(one, other)):
        return 1.0
    if one.kind == "pixels" and _whole(smaller, larger):
        return 1.0
    return min(0.999, _ratio(smaller, larger))


def _ratio(one: float, other: float) -> float:
    if one == other:
        return 1.0
    return max(0.0, min(one, other) / max(one, other)) if max(one, other) > 0 else 0.0


def _rounded(one: Value, other: Value) -> bool:
    return one.kind == "length" and _whole(one.high / _INCH, other.high / _INCH)


def _whole(amount: float, other: float) -> bool:
    """Whether one amount is the other rounded to a whole number: 13 and 13.3, 10 and 10.1."""
    for short, long in ((amount, other), (other, amount)):
        if abs(short - round(short)) < _EXACT and round(short) in (int(long + _EXACT), round(long)):
            return True
    return False


def _close_sides(one: Value, other: Value) -> float:
    if one.label and other.label:
        return _fit(one.sides, other.sides, _TOLERANCE)
    if not one.label and not other.label:
        return _fit(one.sides, other.sides, _ROUGH if one.rough or other.rough else _TOLERANCE)
    bare, known = (one, other) if one.label else (other, one)
    return max(_fit(tuple(side * factor for side in bare.sides), known.sides, _ROUGH) for factor in _UNKNOWN_UNITS)


def _fit(sides: tuple[float, ...], others: tuple[float, ...], tolerance: float) -> float:
    """Returns how well the sides fit, the shorter list anywhere within the longer; 1 within the tolerance."""
    short, long = sorted((sides, others), key=len)
    best = 0.0
    for skipped in range(len(long) if len(long) > len(short) else 1):
        kept = long[:skipped] + long[skipped + 1 :] if len(long) > len(short) else long
        ratios = [_ratio(a, b) for a, b in zip(short, kept, strict=True)]
        best = max(best, 1.0 if min(ratios) >= 1 - tolerance else min(0.999, min(ratios)))
    return best


def _compare_codes(left: Facts, right: Facts) -> Comparison:
    ours, theirs = left.texts.get("model", ""), right.texts.get("model", "")
    same = {*left.codes, *left.joined} & {*right.codes, *right.joined}
    if any(code in left.codes or code in right.codes for code in same):
        return Comparison("model", _AGREE, ours, theirs, 1.0)
    if not left.codes or not right.codes:
        return Comparison("model", _ABSENT, ours, theirs)
    pairs = [(code, other) for code in left.codes for other in right.codes]
    close = min(0.999, max(similarity(*pair) for pair in pairs))
    near = any(is_variant(*pair) for pair in pairs)
    return Comparison("model", _ABSENT if near else _CONFLICT, ours, theirs, close)
