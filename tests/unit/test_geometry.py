"""Photos of doubtful pairs of a table are laid over each other: which pairs, what it makes of them, and what is told."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from app.commands.group_output import Subjects, groups_csv
from app.core.grouping import Edges, edges_of
from app.encoders.preprocess import InputLimits
from app.errors import InvalidInput
from app.evaluation.geometry import CHECKED, CONFIRMED, Photos, check
from app.evaluation.groups import Grouped, Steps, group_listings
from app.verifying import SURE
from tests.evidence import BOUNDS, clusters
from tests.unit.photos import saved, scene
from tests.unit.test_groups import THRESHOLDS, Opinions, Says, all_near, both_ways, matches


def coloured(colour: tuple[int, int, int]) -> Image.Image:
    image = scene(1)
    ImageDraw.Draw(image).rectangle((90, 70, 200, 170), fill=colour)
    return image


BLUE, RED = (40, 70, 190), (190, 60, 40)
PICTURES: dict[str, Callable[[], Image.Image]] = {
    "blue": lambda: coloured(BLUE),
    "blue, cropped": lambda: coloured(BLUE).crop((30, 20, 280, 225)),
    "red": lambda: coloured(RED),
    "other": lambda: scene(2),
}


class Album:
    """Photos by name, `None` for none; counts how often each is read."""

    def __init__(self, *names: str | None) -> None:
        self.names = names
        self.read: list[int] = []
        there = np.array([name is not None for name in names], np.bool_)
        self.photos = Photos(there, self._bytes, InputLimits())

    def _bytes(self, row: int) -> bytes:
        self.read.append(row)
        name = self.names[row]
        assert name is not None
        if name == "gone":
            raise InvalidInput("the photo is gone")
        return b"no photo" if name == "broken" else saved(PICTURES[name](), "PNG")


class Bars:
    """Remembers what was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, int | None]] = []
        self.done = 0

    @contextmanager
    def __call__(self, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        self.shown.append((what, total))
        yield self._tick

    def _tick(self, done: int) -> None:
        self.done += done


def edges(opinions: Opinions) -> Edges:
    given = both_ways(opinions)
    rows, others = np.array(list(given), np.int64).T
    return edges_of(rows, others, np.array(list(given.values())))


def checked(album: Album, opinions: Opinions) -> tuple[list[float], dict[tuple[int, int], str]]:
    given = edges(opinions)
    found = check(given, given.probability, np.ones(len(given), np.bool_), album.photos)
    return found.probability.tolist(), {pair: reason.code for pair, reason in found.reasons.items()}


def test_one_picture_confirms_and_other_colours_refuse() -> None:
    album = Album("blue", "blue, cropped", "red", "other")
    opinions = {(0, 1): 0.2, (0, 2): 0.9, (0, 3): 0.4, (1, 2): 0.5}
    probability, reasons = checked(album, opinions)
    assert probability == [CONFIRMED, 0.0, 0.4, 0.0]
    assert reasons == {(0, 1): "photos_align", (0, 2): "recoloured", (1, 2): "recoloured"}
    assert sorted(album.read) == [0, 1, 2, 3]  # once each


def test_a_likelier_pair_stays_as_likely() -> None:
    assert checked(Album("blue", "blue"), {(0, 1): 0.99})[0] == [0.99]


@pytest.mark.parametrize("name", [None, "gone", "broken"])
def test_pairs_whose_photos_cannot_be_seen_are_left_out(name: str | None) -> None:
    album = Album("blue", name, "blue, cropped")
    probability, reasons = checked(album, {(0, 1): 0.5, (0, 2): 0.5, (1, 2): 0.5})
    assert probability == [0.5, CONFIRMED, 0.5]
    assert reasons == {(0, 2): "photos_align"}
    assert sorted(album.read) == ([0, 2] if name is None else [0, 1, 2])


def test_without_photos_nothing_is_read_or_shown() -> None:
    album, bars = Album(None, None), Bars()
    given = edges({(0, 1): 0.5})
    found = check(given, given.probability, np.ones(1, np.bool_), album.photos, bars)
    assert (found.probability.tolist(), found.reasons, album.read, bars.shown) == ([0.5], {}, [], [])


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(0, 1000), st.floats(0, 1))
def test_checks_are_few_and_go_to_the_closest(n: int, seed: int, density: float) -> None:
    random = np.random.default_rng(seed)
    opinions = {(a, b): float(random.random()) for a in range(n) for b in range(a + 1, n) if random.random() <= density}
    opinions[0, 1] = 0.5
    given, album, bars = edges(opinions), Album(*["broken"] * n), Bars()
    doubtful = random.random(len(given)) < 0.8
    check(given, given.probability, doubtful, album.photos, bars)
    allowed = [(a, b) for a, b, may in zip(given.left.tolist(), given.right.tolist(), doubtful.tolist(), strict=True) if may]
    wanted = set()
    for row in range(n):
        own = sorted((pair for pair in allowed if row in pair), key=lambda pair: -opinions[pair])
        wanted |= set(own[:CHECKED])
    assert bars.shown == ([("Laying photos over each other", len(wanted))] if wanted else [])
    assert bars.done == len(wanted)
    assert len(wanted) <= CHECKED * n
    assert sorted(set(album.read)) == sorted({row for pair in wanted for row in pair})


def grouped(album: Album, opinions: Opinions, steps: Steps | None = None) -> Grouped:
    features = all_near(len(album.names))
    judge = Says(features, both_ways(opinions))
    return group_listings(features, [None] * len(features), THRESHOLDS, judge, 0.5, steps, photos=album.photos)


def test_groups_follow_the_photos() -> None:
    names, opinions = ("blue", "blue, cropped", "red", "other"), {(0, 1): 0.2, (0, 2): 0.9, (1, 2): 0.9, (2, 3): 0.6}
    assert matches(grouped(Album(*names), opinions)) == [[0, 1], [1, 0], [2, 3], [3, 2]]
    without = Album(*names)
    assert grouped(without, opinions, Steps(geometry=False)).labels.tolist() == [0, 0, 0, 3]
    assert without.read == []


@pytest.mark.parametrize(("probability", "looked"), [(0.0, False), (0.01, False), (0.02, True), (0.98, True), (0.99, False)])
def test_only_doubtful_pairs_are_checked(probability: float, looked: bool) -> None:
    album = Album("blue", "blue")
    grouped(album, {(0, 1): probability})
    assert bool(album.read) == looked == (SURE[0] <= probability <= SURE[1])


def test_photos_do_not_speak_for_amounts_that_contradict_each_other() -> None:
    features, titles = all_near(2), ["kopi 500 g", "kopi 1 kg"]
    for steps, labels in ((Steps(), [0, 1]), (Steps(vetoes=False), [0, 0])):
        judge = Says(features, {(0, 1): 0.6, (1, 0): 0.6})
        album = Album("blue", "blue")
        found = group_listings(features, titles, THRESHOLDS, judge, 0.5, steps, photos=album.photos)
        assert found.labels.tolist() == labels
        assert bool(album.read) == (labels == [0, 0])


def test_without_a_pair_model_scores_near_the_threshold_are_doubtful() -> None:
    features, titles, _ = clusters(groups=12, each=2, seed=2, noise=0.6)
    n = len(features)
    features.hashed[:] = False
    seen: set[tuple[int, int]] = set()
    album = Album(*["blue"] * n)
    found = group_listings(features, titles, THRESHOLDS, None, 0.5, Steps(vetoes=False, blending=False), photos=album.photos)
    for row in range(n):
        scores, _ = features.score(row, np.arange(n))
        near = (scores >= BOUNDS["fused"] - 0.15) & (scores <= BOUNDS["fused"] + 0.1)
        seen |= {(row, other) for other in np.flatnonzero(near).tolist() if other > row}
    assert 0 < len(found.checks) <= len(seen)
    assert set(found.checks) <= seen
    assert {row for pair in seen for row in pair} == set(album.read)
    positions = zip(found.table.rows.tolist(), found.table.others.tolist(), found.probability.tolist(), strict=True)
    assert all(value >= CONFIRMED for a, b, value in positions if (min(a, b), max(a, b)) in found.checks)


def written(found: Grouped, album: Album) -> Sequence[dict[str, str]]:
    n = len(found.labels)
    features = all_near(n)
    labels = np.full(n, -1, np.int64)
    who = Subjects([f"p{row}" for row in range(n)], [None] * n, features, labels, np.ones(n, np.bool_), album.photos)
    return list(csv.DictReader(groups_csv(found, who, BOUNDS).splitlines()))


def test_what_photos_say_is_written() -> None:
    album = Album("blue", "blue, cropped", "red")
    rows = written(grouped(album, {(0, 1): 0.2, (0, 2): 0.9}), album)
    assert [(row["group"], row["nearest"]) for row in rows] == [("p0", "p1"), ("p0", "p0"), ("p2", "")]
    assert rows[0]["reasons"].startswith("the photos lie over each other (")
    assert rows[0]["reasons"].endswith("not p2: the same picture in other colours: a sibling")
    assert "not p" not in rows[1]["reasons"]
    assert rows[2]["reasons"] == "not p0: the same picture in other colours: a sibling"
    assert rows[0]["probability"] == f"{CONFIRMED:.4f}"
