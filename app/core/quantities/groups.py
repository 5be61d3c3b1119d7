"""A number and what hangs on it: "500 g", "2 x 100 ml", "17-40mm", "100/250/500 ml", "1/2 kg", "20 x 30 cm"."""

from __future__ import annotations

from collections.abc import Set
from itertools import pairwise
from typing import NamedTuple

from app.core.quantities.facts import Value, tidy, written
from app.core.quantities.following import at, unit_after
from app.core.quantities.tokens import Token, number
from app.core.quantities.words import FOOT_MARK, LINKS, OUNCE, RATE, TIMES, UNITS, Unit

_INCH, _FLUID_OUNCE, _FOOT = UNITS["inch"], UNITS["floz"], UNITS["ft"]
_WEIGHT_OUNCE = Unit("mass", 28.3495, "oz", True)
_FRACTIONS = frozenset({(1, 2), (1, 3), (1, 4), (1, 8), (2, 3), (3, 4)})
_BROKEN_KINDS = frozenset({"mass", "volume", "length", "ounce", "mark"})
_ADDED_KINDS = frozenset({"mass", "volume", "dose", "storage", "ounce"})
_LONGEST_SHORT = 3  # "pcs" has no singular here
_MAX_MULTIPLE = 1000


class Term(NamedTuple):
    """A number with its unit; `link` says how it hangs on the term before ("" for the first)."""

    text: str
    unit: Unit | None
    link: str

    @property
    def amount(self) -> float | None:
        """The number, None if it is none."""
        return number(self.text, self.unit.name if self.unit else "")


class Group(NamedTuple):
    """The terms that belong together, and the token after them."""

    terms: list[Term]
    end: int


def read_group(tokens: list[Token], position: int, words: Set[str]) -> Group:
    """Reads the number at a position and the numbers that are linked to it."""
    unit, after = unit_after(tokens, position + 1, words)
    terms = [Term(tokens[position].text, unit, "")]
    while True:
        link, following = _link(tokens, after, terms[-1])
        if not link:
            return Group(_spread(terms), after)
        unit, end = unit_after(tokens, following + 1, words)
        further = at(tokens, following + 1)
        if unit is None and further.glued and further.text[0].isalpha() and further.text != "x":
            return Group(_spread(terms), after)
        terms.append(Term(tokens[following].text, unit, link))
        after = end


def _link(tokens: list[Token], position: int, term: Term) -> tuple[str, int]:
    """Returns how the next number hangs on the one before, and where it is; "" if it does not."""
    unit = term.unit
    if unit is TIMES and at(tokens, position).is_number:
        return "x", position
    sign = at(tokens, position)
    if sign.text == "s" and [at(tokens, position + n).text for n in (1, 2)] == ["/", "d"]:
        return ("-", position + 3) if at(tokens, position + 3).is_number else ("", position)
    if sign.is_number and unit is None and not sign.glued:  # 1 1/2 kg
        slash, below = at(tokens, position + 1), at(tokens, position + 2)
        fraction = slash.text == "/" and slash.glued and below.glued and _known_fraction(sign.text, below.text)
        return ("-", position) if fraction else ("", position)
    link = LINKS.get(sign.text, "")
    second = at(tokens, position + 1)
    if not link or not second.is_number or unit is TIMES:
        return "", position
    if link == "-" and second.glued and at(tokens, position - 2).text == "/" and at(tokens, position - 3).text == "f":
        return link, position + 1  # f/4 -5.6
    if link in "-/+&" and len(sign.text) == 1 and sign.glued != second.glued and not term.link == link == "/":
        return "", position
    return link, position + 1


def _spread(terms: list[Term]) -> list[Term]:
    """Gives terms without a unit the one of the next: "100/250 ml", "17-40 mm", "20 x 30 cm"."""
    if any(one.link == other.link == "-" for one, other in pairwise(terms)):  # a code: 417190-002-5pack
        return terms[-1:]
    for place in range(len(terms) - 2, -1, -1):
        term, following = terms[place], terms[place + 1]
        if term.unit is not None or following.unit is None or following.unit is TIMES:
            continue
        listed = following.link in "-/" or (following.link in "&+" and following.unit.kind in _ADDED_KINDS)
        if listed or (following.link == "x" and following.unit.kind in ("length", "mark")):
            terms[place] = term._replace(unit=following.unit)
    return terms


def values_of(terms: list[Term]) -> list[Value]:
    """Returns what linked terms say, without those that have no unit and are no dimensions."""
    terms = _fractions(terms)
    values: list[Value] = []
    start = 0
    for end in range(1, len(terms) + 1):
        if end == len(terms) or terms[end].link in "/&+":
            values += _alternative(terms[start:end])
            start = end
    return values + _sum(terms)


def _sum(terms: list[Term]) -> list[Value]:
    """Returns the total of "200 + 30 ml"."""
    first = terms[0].unit
    if len(terms) < 2 or first is None or first.kind not in _ADDED_KINDS or first.rough:
        return []
    if any(term.link != "+" or term.unit != first for term in terms[1:]):
        return []
    amounts = [term.amount for term in terms]
    return [] if None in amounts else measured(first, sum(amount or 0.0 for amount in amounts), text="")


def _fractions(terms: list[Term]) -> list[Term]:
    """Joins "1/2 kg" to half a kilogram."""
    joined: list[Term] = []
    for term in terms:
        before = joined[-1] if joined else None
        if before and term.link == "/" and term.unit and before.unit == term.unit and _is_fraction(before, term):
            part = int(before.text) / int(term.text)
            whole = joined[-2] if before.link == "-" and len(joined) > 1 else None
            if whole and whole.text.isdigit() and int(whole.text) > part:  # 22-1/2 inch
                joined[-2:] = [Term(written(int(whole.text) + part), term.unit, whole.link)]
            else:
                joined[-1] = Term(written(part), term.unit, before.link)
        else:
            joined.append(term)
    return joined


def _is_fraction(above: Term, below: Term) -> bool:
    known = below.unit is not None and (below.unit.kind in _BROKEN_KINDS or below.unit.factor in (12, 20))
    return known and _known_fraction(above.text, below.text)


def _known_fraction(above: str, below: str) -> bool:
    return len(above) == len(below) == 1 and below.isdigit() and (int(above), int(below)) in _FRACTIONS


def _alternative(terms: list[Term]) -> list[Value]:
    links = [term.link for term in terms[1:]]
    amounts = [term.amount for term in terms]
    if None in amounts or (not links and terms[0].unit is None):
        return []
    if links == ["-"]:
        return _range(terms)
    if links and set(links) == {"x"}:
        return _product(terms)
    return [value for term in terms if term.unit for value in measured(term.unit, term.amount or 0.0)]


def _range(terms: list[Term]) -> list[Value]:
    (low, high), (first, last) = [term.amount or 0.0 for term in terms], [term.unit for term in terms]
    if last is None or first is None or (first.kind == last.kind and low * first.factor >= high * last.factor):
        return measured(last or first or RATE, high if last else low)
    if first.kind != last.kind:
        return measured(first, low) + measured(last, high)
    return measured(last, high, low * first.factor / last.factor)


def _product(terms: list[Term]) -> list[Value]:
    """Reads what is linked by x: dimensions, or a number of amounts and their total."""
    amounts = [term.amount or 0.0 for term in terms]
    units = [term.unit for term in terms]
    if all(unit is None or unit.kind in ("length", "mark", "times") for unit in units):
        return _dimensions(amounts, units)
    main = [place for place, unit in enumerate(units) if unit and unit.kind not in ("count", "times", "length", "")]
    counted = [
        value for place, unit in enumerate(units) if unit and place not in main for value in measured(unit, amounts[place])
    ]
    multiple = 1.0
    for place, amount in enumerate(amounts):
        multiple *= 1 if place in main else amount
    values = [value for place in main for value in measured(units[place] or RATE, amounts[place])]
    if (
        not 1 < multiple <= _MAX_MULTIPLE
        or multiple != int(multiple)
        or any(unit and unit.kind == "length" for unit in units)
    ):
        return values + counted
    if len(main) == 1:
        total = measured(units[main[0]] or RATE, amounts[main[0]] * multiple, text="")
        return [*values, *total, Value("count", multiple, multiple, f"{written(multiple)} pcs")]
    return (
        [*values, *counted, Value("count", multiple, multiple, f"{written(multiple)} pcs")] if not main else values + counted
    )


def _dimensions(amounts: list[float], units: list[Unit | None]) -> list[Value]:
    known = next((unit for unit in reversed(units) if unit and unit.kind != "times"), None)
    if not 2 <= len(amounts) <= 3 or not all(amounts):
        return []
    if known is FOOT_MARK:
        known = _INCH
    text = " x ".join(map(written, amounts))
    if known is None:
        return [Value("dimensions", 0, 0, text, "?", tuple(sorted(map(tidy, amounts))))]
    factors = [unit.factor if unit and unit.kind == "length" else known.factor for unit in units]
    sides = sorted(tidy(amount * factor) for amount, factor in zip(amounts, factors, strict=True))
    return [Value("dimensions", 0, 0, f"{text} {known.name}", "", tuple(sides), known.rough)]


def measured(unit: Unit, high: float, low: float | None = None, text: str | None = None) -> list[Value]:
    """Returns an amount, or a range, in the unit of its kind: two readings where the unit has two."""
    low = high if low is None else low
    if unit is RATE or unit is TIMES or (high <= 0 and unit.kind != "percent"):
        return []
    if text is None:
        one = low == high == 1 and unit.kind in ("age", "count") and len(unit.name) > _LONGEST_SHORT
        name = unit.name.removesuffix("s") if one else unit.name
        text = f"{written(high) if low == high else f'{written(low)}-{written(high)}'} {name}"
    if unit is OUNCE:
        return [_value(_WEIGHT_OUNCE, low, high, text), _value(_FLUID_OUNCE, low, high, text)]
    if unit is FOOT_MARK:
        return [_value(_INCH, low, high, text), _value(_FOOT, low, high, text)]
    if unit.container and high <= 1:
        return []
    if unit.name == "pairs":
        return [_value(unit, low, high, text), _value(unit, 2 * low, 2 * high, "")]
    return [_value(unit, low, high, text.replace(" %", "%"))]


def _value(unit: Unit, low: float, high: float, text: str) -> Value:
    return Value(unit.kind, tidy(low * unit.factor), tidy(high * unit.factor), text, rough=unit.rough)
