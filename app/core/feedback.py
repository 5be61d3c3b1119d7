"""What people say about pairs, taken together: where they contradict each other, and what is settled.

Of each person and pair the latest statement counts. Statements of several catalogs may be mixed: a pair lies in one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from app.core.statements import Key, Pair, Side, Statement

Graph = Mapping[Key, Sequence[Key]]
Reason = Literal["replaced", "outvoted", "tie"]


@dataclass(frozen=True, slots=True)
class Opinion:
    """What people agree on about one pair.

    Attributes:
        first, second: as they were in the last of the statements.
        same: the verdict.
        statements: one per person, at least one, oldest first; earlier ones of the same person left out.
    """

    first: Side
    second: Side
    same: bool
    statements: tuple[Statement, ...]

    def __str__(self) -> str:
        people = ", ".join(statement.by for statement in self.statements)
        return f"{self.first} {'is' if self.same else 'is not'} {self.second} ({people})"


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two that are said to differ, and the shortest chain of "the same" that leads from one to the other.

    A chain of one link is a direct contradiction: people disagree about the pair itself.
    """

    differ: Opinion
    chain: tuple[Opinion, ...]

    @property
    def direct(self) -> bool:
        """True if people disagree about the pair itself."""
        return len(self.chain) == 1

    def __str__(self) -> str:
        return f"{self.differ}, but {', '.join(map(str, self.chain))}."


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A statement that supports no verdict, and why.

    Attributes:
        reason: `replaced` by a later one of the same person, `outvoted`, or `tie` between equally many people.
    """

    statement: Statement
    reason: Reason


@dataclass(frozen=True, slots=True)
class Settled:
    """The verdicts in the order of their pairs, and every statement that supports none of them, oldest first."""

    verdicts: tuple[Opinion, ...]
    left_out: tuple[LeftOut, ...]


def latest(statements: Iterable[Statement]) -> list[Statement]:
    """Returns the last statement of each person about each pair, oldest first."""
    found: dict[tuple[Pair, str], Statement] = {}
    for statement in sorted(statements, key=lambda one: one.number):
        found[statement.pair, statement.by] = statement
    return sorted(found.values(), key=lambda one: one.number)


def settled(statements: Iterable[Statement]) -> Settled:
    """Returns what most people say about each pair; pairs with as many voices for as against have no verdict.

    Contradictions that take several pairs are not looked at, see `contradictions`.
    """
    everything = list(statements)
    counting = latest(everything)
    said = _by_verdict(counting)
    verdicts = []
    reasons: dict[int, Reason] = {one.number: "replaced" for one in everything}
    for pair in sorted(said[True].keys() | said[False].keys()):
        yes, no = said[True].get(pair, []), said[False].get(pair, [])
        lost: Reason = "tie" if len(yes) == len(no) else "outvoted"
        reasons |= {one.number: lost for one in (*yes, *no)}
        if lost == "outvoted":
            verdicts.append(_opinion(pair, max(yes, no, key=len)))
    for opinion in verdicts:
        for statement in opinion.statements:
            del reasons[statement.number]
    left_out = [LeftOut(one, reasons[one.number]) for one in everything if one.number in reasons]
    return Settled(tuple(verdicts), tuple(sorted(left_out, key=lambda one: one.statement.number)))


def contradictions(statements: Iterable[Statement]) -> Iterator[Contradiction]:
    """Yields every pair that is said to differ although a chain of "the same" joins it, each pair once.

    Pairs that people disagree about directly come first; then in the order of pairs. The order of the statements does not
    matter, also where several chains are the shortest. Each chain is searched for when it is asked for.
    """
    said = _by_verdict(latest(statements))
    graph = _graph(said[True])
    island = _islands(graph)
    for pair in sorted(said[False], key=lambda one: (one not in said[True], one)):
        start, end = pair
        if start in island and island[start] == island.get(end):
            path = _shortest(graph, start, end)
            links = [_opinion((a, b), said[True][min((a, b), (b, a))]) for a, b in pairwise(path)]
            yield Contradiction(_opinion(pair, said[False][pair]), tuple(links))


def _by_verdict(counting: Iterable[Statement]) -> dict[bool, dict[Pair, list[Statement]]]:
    said: dict[bool, dict[Pair, list[Statement]]] = {True: defaultdict(list), False: defaultdict(list)}
    for statement in counting:
        said[statement.same][statement.pair].append(statement)
    return {same: dict(pairs) for same, pairs in said.items()}


def _opinion(pair: Pair, statements: Sequence[Statement]) -> Opinion:
    """Joins statements that agree; `pair` says which side is named first."""
    last = statements[-1]
    sides = {(last.catalog, *side.key): side for side in (last.first, last.second)}
    return Opinion(sides[pair[0]], sides[pair[1]], last.same, tuple(statements))


def _graph(pairs: Iterable[Pair]) -> Graph:
    """Returns the neighbours of each side, by name."""
    graph: dict[Key, list[Key]] = defaultdict(list)
    for one, other in sorted(pairs):
        graph[one].append(other)
        graph[other].append(one)
    return dict(graph)


def _islands(graph: Graph) -> dict[Key, int]:
    """Returns a number for each side; those that hang together have the same."""
    island: dict[Key, int] = {}
    for number, start in enumerate(graph):
        waiting = [] if start in island else [start]
        while waiting:
            key = waiting.pop()
            island[key] = number
            waiting += [one for one in graph[key] if one not in island]
    return island


def _shortest(graph: Graph, start: Key, end: Key) -> list[Key]:
    """Returns a shortest path between two sides that hang together, by breadth-first search from both of its ends."""
    came_from: tuple[dict[Key, Key], dict[Key, Key]] = {start: start}, {end: end}
    fronts = [[start], [end]]
    while True:
        which = 0 if len(fronts[0]) <= len(fronts[1]) else 1
        mine, theirs = came_from[which], came_from[1 - which]
        following = []
        for key in fronts[which]:
            for one in graph[key]:
                if one in theirs:
                    near, far = (key, one) if which == 0 else (one, key)
                    return _way(came_from[0], near)[::-1] + _way(came_from[1], far)
                if one not in mine:
                    mine[one] = key
                    following.append(one)
        fronts[which] = following


def _way(came_from: Mapping[Key, Key], key: Key) -> list[Key]:
    """Returns the way from a side back to where the search began."""
    way = [key]
    while came_from[way[-1]] != way[-1]:
        way.append(came_from[way[-1]])
    return way
