"""`python -m app group`: matches and groups of a whole table."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.__main__ import cli
from app.errors import AppError, InvalidInput
from tests.integration.labelled import GROUPS, Titles, rows_of
from tests.toys import EACH
from tests.training import run

STEPS = ("pair-model", "vetoes", "geometry", "blending", "mutual", "grouping")
IDS = {str(n) for n in range(GROUPS * EACH)}


def group(titles: Titles, out: Path, *options: str | Path, table: Path | None = None, bundle: Path | None = None) -> str:
    given = ("--listings", table or titles.table, "--bundle", bundle or titles.pairs)
    return run("group", *given, "--out", out, *options)


def matches_of(file: Path) -> dict[str, list[str]]:
    return {row["posting_id"]: row["matches"].split() for row in rows_of(file)}


def refused(*arguments: str | Path) -> AppError:
    outcome = CliRunner().invoke(cli, ["group", *(str(one) for one in arguments)])
    assert isinstance(outcome.exception, AppError), outcome.output
    return outcome.exception


def f1_in(said: str) -> float:
    found = re.search(r"F1 of matches\W+([01]\.\d+)", said)
    assert found is not None, said
    return float(found[1])


def test_matches_are_written_as_the_competition_wants_them(titles: Titles, tmp_path: Path) -> None:
    out = tmp_path / "new" / "matches.csv"
    said = group(titles, out)
    assert out.read_text("utf-8").splitlines()[0] == "posting_id,matches"
    found = matches_of(out)
    assert set(found) == IDS
    assert list(found) == sorted(found)
    for one, others in found.items():
        assert others[0] == one
        assert len(set(others)) == len(others)
        assert set(others) <= IDS
    assert any(len(others) > 1 for others in found.values())
    assert f1_in(said) > 0.8
    assert "B-cubed F1" in said


def test_groups_are_named_after_their_first_listing(titles: Titles, tmp_path: Path) -> None:
    group(titles, tmp_path / "matches.csv")
    group(titles, tmp_path / "groups.csv", "--format", "groups")
    found, rows = matches_of(tmp_path / "matches.csv"), rows_of(tmp_path / "groups.csv")
    assert list(rows[0]) == ["id", "group", "size", "probability", "nearest", "reasons"]
    assert {row["id"] for row in rows} == IDS
    members: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        members[row["group"]].add(row["id"])
    for row in rows:
        own = members[row["group"]]
        assert (row["group"], int(row["size"])) == (min(own), len(own))
        assert set(found[row["id"]]) == own
        assert (row["probability"] == "") == (len(own) == 1)
        assert row["probability"] == "" or 0 <= float(row["probability"]) <= 1
    assert any(len(own) > 1 for own in members.values())


def test_the_order_of_the_rows_does_not_matter(titles: Titles, tmp_path: Path) -> None:
    shuffled = titles.shuffled(tmp_path / "shuffled.csv")
    assert shuffled.read_bytes() != titles.table.read_bytes()
    for form in ("matches", "groups"):
        files = [tmp_path / f"{form}-{n}.csv" for n in range(2)]
        for file, table in zip(files, (titles.table, shuffled), strict=True):
            group(titles, file, "--format", form, "--min2", table=table)
        assert files[0].read_bytes() == files[1].read_bytes()


def test_every_listing_gets_a_match_where_that_is_known(titles: Titles, tmp_path: Path) -> None:
    group(titles, tmp_path / "strict.csv", "--bound", "1")
    group(titles, tmp_path / "pairs.csv", "--bound", "1", "--min2")
    strict, pairs = matches_of(tmp_path / "strict.csv"), matches_of(tmp_path / "pairs.csv")
    assert any(len(others) == 1 for others in strict.values())
    assert all(len(others) >= 2 for others in pairs.values())
    assert all(pairs[one] == others for one, others in strict.items() if len(others) > 1)


@pytest.mark.parametrize("bundle", ["pairs", "plain"])
@pytest.mark.parametrize("step", STEPS)
def test_each_step_can_be_left_out(titles: Titles, tmp_path: Path, step: str, bundle: str) -> None:
    folder = titles.pairs if bundle == "pairs" else titles.plain
    said = group(titles, tmp_path / "out.csv", "--without", step, bundle=folder)
    found = matches_of(tmp_path / "out.csv")
    assert set(found) == IDS
    assert all(others[0] == one for one, others in found.items())
    assert ("has no pair model" in said) == (bundle == "plain" and step != "pair-model")
    assert ("B-cubed F1" in said) == (step != "grouping")


def test_all_steps_can_be_left_out(titles: Titles, tmp_path: Path) -> None:
    steps = [one for step in STEPS for one in ("--without", step)]
    group(titles, tmp_path / "out.csv", *steps)
    assert set(matches_of(tmp_path / "out.csv")) == IDS


def test_expansion_can_be_added(titles: Titles, tmp_path: Path) -> None:
    said = group(titles, tmp_path / "out.csv", "--with", "expansion")
    found = matches_of(tmp_path / "out.csv")
    assert set(found) == IDS
    assert f1_in(said) > 0.8
    given = ("--listings", titles.table, "--bundle", titles.pairs, "--out", tmp_path / "x.csv")
    assert "--with takes expansion, not 'mutual'" in str(refused(*given, "--with", "mutual"))


def test_the_pair_model_is_worth_something(titles: Titles, tmp_path: Path) -> None:
    with_model = f1_in(group(titles, tmp_path / "a.csv"))
    assert with_model > f1_in(group(titles, tmp_path / "b.csv", "--without", "pair-model"))


def test_an_unknown_step_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    given = ("--listings", tmp_path / "none.csv", "--out", tmp_path / "out.csv")
    error = refused(*given, "--without", "magic")
    assert isinstance(error, InvalidInput)
    assert "magic" in str(error)
    assert "mutual" in str(error)
    assert not (tmp_path / "out.csv").exists()


def test_folds_are_those_of_training(titles: Titles, tmp_path: Path) -> None:
    parts = []
    for fold in ("0/2", "1/2"):
        group(titles, tmp_path / "part.csv", "--fold", fold)
        parts.append(matches_of(tmp_path / "part.csv"))
    assert parts[0]
    assert parts[1]
    assert not set(parts[0]) & set(parts[1])
    assert set(parts[0]) | set(parts[1]) == IDS
    assert all(set(others) <= set(part) for part in parts for others in part.values())
    label = {row["id"]: row["group"] for row in rows_of(titles.table)}
    sides: dict[str, set[int]] = defaultdict(set)
    for side, part in enumerate(parts):
        for one in part:
            sides[label[one]].add(side)
    assert all(len(found) == 1 for found in sides.values())  # no group is split
    given = ("--listings", titles.table, "--bundle", titles.pairs, "--out", tmp_path / "x.csv")
    assert isinstance(refused(*given, "--fold", "2/2"), InvalidInput)


@pytest.mark.parametrize("cap", [2, 3])
def test_no_group_is_larger_than_the_cap(titles: Titles, tmp_path: Path, cap: int) -> None:
    group(titles, tmp_path / "out.csv", "--format", "groups", "--cap", str(cap), "--bound", "0.01")
    sizes = Counter(row["group"] for row in rows_of(tmp_path / "out.csv"))
    assert max(sizes.values()) == cap


def test_a_smaller_bound_joins_more(titles: Titles, tmp_path: Path) -> None:
    counts = []
    for bound in ("0.01", "0.5", "1"):
        group(titles, tmp_path / "out.csv", "--format", "groups", "--bound", bound)
        counts.append(len({row["group"] for row in rows_of(tmp_path / "out.csv")}))
    assert counts[0] < counts[-1]
    assert counts == sorted(counts)


def test_a_table_without_groups_is_grouped_and_not_measured(titles: Titles, tmp_path: Path) -> None:
    table = tmp_path / "bare.csv"
    rows = rows_of(titles.table)
    table.write_text("id,title\n" + "".join(f"{row['id']},{row['title']}\n" for row in rows), "utf-8")
    said = group(titles, tmp_path / "out.csv", table=table)
    group(titles, tmp_path / "labelled.csv")
    assert "F1" not in said
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "labelled.csv").read_bytes()


def test_hashes_alone_make_no_groups(titles: Titles, tmp_path: Path) -> None:
    given = ("--listings", titles.table, "--bundle", titles.pairs, "--out", tmp_path / "out.csv")
    assert "add title or image" in str(refused(*given, "--signals", "phash"))
