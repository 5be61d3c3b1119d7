"""Whole files at once: indexing, matching, embedding everything again for another model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from app.bulk import CHUNK, index_rows, match_rows, reembed
from app.catalog.base import Stored
from app.catalog.data_folder import DataFolder
from app.catalog.local import LocalCatalog
from app.catalog.reembed import Reembedding
from app.core.answer import Answer
from app.core.fusion import Fusion
from app.core.product import Embedding, Floats, Pixels, ProductDraft, Query, Scalar
from app.embedding import embed
from app.errors import (
    AppError,
    CatalogError,
    DuplicateIds,
    EncodingFailed,
    InvalidImage,
    InvalidInput,
    InvalidTitle,
    ModelMismatch,
)
from app.judge import Judge
from app.listings import BadRow, Listing
from app.matcher import Matcher, MatchOptions
from tests.conftest import THRESHOLDS
from tests.fakes import POISON, FakeEncoder, photo
from tests.integration.oracle import Oracle

Open = Callable[..., Matcher]
RED, GREEN, BLUE = photo((255, 0, 0)), photo((0, 255, 0)), photo((0, 0, 255))
NEW = "0123456789abcdef"
NEW_FUSION = Fusion(weight=0.5, image_dim=3, title_dim=8)


class NewEncoder(FakeEncoder):
    """Another model: its vectors are turned by one dimension."""

    def embed_photos(self, pixels: Sequence[Pixels]) -> Floats:
        return np.roll(super().embed_photos(pixels), 1, axis=1)

    def embed_titles(self, titles: Sequence[str]) -> Floats:
        return np.roll(super().embed_titles(titles), 1, axis=1)


def row(number: int, product_id: str, title: str | None = None, *images: bytes, **attributes: Scalar) -> Listing:
    return Listing(number, product_id, title, images, attributes)


def titles_embedded(matcher: Matcher) -> int:
    assert isinstance(matcher.encoder, FakeEncoder)
    return sum(matcher.encoder.batches)


# -- index -----------------------------------------------------------------------------------------------------


def test_bad_rows_are_skipped_and_reported_and_the_rest_is_indexed(matcher: Matcher) -> None:
    rows: list[Listing | BadRow] = [
        row(1, "a", "aaa"),
        BadRow(2, None, InvalidInput("unreadable")),
        row(3, "c", "  "),
        row(4, "d", None, b"no photo"),
        row(5, "bad/", "eee"),
        row(6, "f"),
        row(7, "g", None, RED, GREEN),
    ]
    ticks: list[int] = []
    summary = index_rows(matcher, rows, "default", ticks.append)
    assert (summary.created, summary.replaced, summary.unchanged) == (2, 0, 0)
    assert [(bad.row, bad.id, bad.error.code) for bad in summary.bad] == [
        (2, None, "invalid_input"),
        (3, "c", "invalid_title"),
        (4, "d", "invalid_image"),
        (5, "bad/", "invalid_input"),
        (6, "f", "empty_product"),
    ]
    assert [product.id for product in matcher.catalog.page("default", 0, 10).products] == ["a", "g"]
    assert sum(ticks) == len(rows)


def test_an_id_that_stands_twice_in_the_file_counts_once(matcher: Matcher) -> None:
    rows = [row(n, "same" if n in (2, CHUNK + 5) else f"p{n}", f"title {n}") for n in range(1, CHUNK + 10)]
    summary = index_rows(matcher, rows, "default", lambda _: None)
    assert summary.created == len(rows) - 1
    (bad,) = summary.bad
    assert (bad.row, bad.id, type(bad.error)) == (CHUNK + 5, "same", DuplicateIds)
    assert matcher.catalog.get("default", "same").title == "title 2"


def test_a_bad_first_row_does_not_block_a_good_one_with_the_same_id(matcher: Matcher) -> None:
    summary = index_rows(matcher, [row(1, "a", "  "), row(2, "a", "aaa")], "default", lambda _: None)
    assert len(summary.bad) + summary.created == 2
    assert summary.bad[0].row == 1


def test_running_again_embeds_only_what_has_changed(matcher: Matcher) -> None:
    rows = [
        row(1, "a", "aaa", RED, size=1),
        row(2, "b", "bbb"),
        row(3, "c", None, GREEN),
        row(4, "d", "ddd", BLUE),
        row(5, "e", "eee", size=1),
    ]
    assert index_rows(matcher, rows, "new", lambda _: None).created == 5
    before = titles_embedded(matcher)
    assert index_rows(matcher, rows, "new", lambda _: None).unchanged == 5
    assert titles_embedded(matcher) == before
    changed = [rows[0], row(2, "b", "other"), row(3, "c", None, BLUE), row(4, "d", "ddd"), row(5, "e", "eee", size=2)]
    summary = index_rows(matcher, changed, "new", lambda _: None)
    assert (summary.created, summary.replaced, summary.unchanged) == (0, 4, 1)
    assert titles_embedded(matcher) == before + 3
    assert matcher.catalog.get("new", "b").title == "other"
    assert dict(matcher.catalog.get("new", "e").attributes) == {"size": 2}


def test_a_number_that_becomes_true_is_a_change(matcher: Matcher) -> None:
    index_rows(matcher, [row(1, "a", "aaa", size=1)], "default", lambda _: None)
    assert index_rows(matcher, [row(1, "a", "aaa", size=True)], "default", lambda _: None).replaced == 1
    assert matcher.catalog.get("default", "a").attributes["size"] is True


def test_an_interrupted_run_is_resumed_by_running_it_again(matcher: Matcher) -> None:
    rows = [row(n, f"p{n}", f"title {n}") for n in range(1, 2 * CHUNK + 11)]

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_rows(matcher, rows, "default", interrupt)
    stored = matcher.catalog.size("default")
    assert stored in (CHUNK, 2 * CHUNK)  # whole chunks: the second may have begun
    summary = index_rows(matcher, rows, "default", lambda _: None)
    assert (summary.created, summary.unchanged) == (len(rows) - stored, stored)


# -- match -----------------------------------------------------------------------------------------------------


def test_matched_rows_come_in_order_with_their_errors(matcher: Matcher) -> None:
    index_rows(matcher, [row(1, "a", "aaa"), row(2, "b", "bbb", BLUE)], "default", lambda _: None)
    queries: list[Listing | BadRow] = [
        row(1, "q1", "bbb", BLUE),
        BadRow(2, "q2", InvalidInput("unreadable")),
        row(3, "q3", None, b"no photo"),
        row(4, "q4", "\0"),
        row(5, "q5", "aaa"),
        row(6, "q6", "ccc"),
    ]
    queries += [row(n, f"q{n}", "aaa") for n in range(7, CHUNK + 9)]
    results = list(match_rows(matcher, queries, MatchOptions(), lambda _: None))
    assert [(one.row, one.id) for one in results] == [(query.row, query.id) for query in queries]
    assert shown(results[0].result) == ["b"]
    errors = [one.result for one in results[1:4]]
    assert [type(error) for error in errors] == [InvalidInput, InvalidImage, InvalidTitle]
    assert [shown(one.result) for one in results[4:6]] == [["a"], []]
    assert all(shown(one.result) == ["a"] for one in results[6:])


def shown(result: Answer | AppError) -> list[str]:
    assert isinstance(result, Answer), result
    return [match.product.id for match in result.matches]


# -- embed again -----------------------------------------------------------------------------------------------


def stock(matcher: Matcher, count: int = 0) -> None:
    rows = [
        row(1, "a", "aab", RED, GREEN, size=1),
        row(2, "b", "bcd"),
        row(3, "c", None, BLUE),
        row(4, "d", "ddd", photo((9, 99, 200))),
        *(row(n, f"p{n}", f"title {n}") for n in range(5, 5 + count)),
    ]
    index_rows(matcher, rows, "default", lambda _: None)
    index_rows(matcher, rows[:2], "other", lambda _: None)
    matcher.close()


def embed_again(folder: Path, tick: Callable[[int], None] = lambda _: None) -> list[tuple[str, str]]:
    data = DataFolder(folder)
    try:
        work = Reembedding(data, NEW_FUSION, NEW)
        failed = reembed(NewEncoder(), work, data.photos, tick)
        return [(product.id, error.code) for product, error in failed]
    finally:
        data.close()


def left(folder: Path) -> int:
    data = DataFolder(folder)
    count = Reembedding(data, NEW_FUSION, NEW).count()
    data.close()
    return count


def open_new(folder: Path) -> Matcher:
    catalog = LocalCatalog(DataFolder(folder), NEW_FUSION, NEW)
    return Matcher(NewEncoder(), catalog, Judge(NEW_FUSION, THRESHOLDS, None), f"new@{NEW}")


def new_embedding(title: str | None, *images: bytes) -> Embedding:
    encoder = NewEncoder()
    photos = encoder.embed_photos([encoder.read_photo(image)[1] for image in images])
    return Embedding(photos, None if title is None else encoder.embed_titles([title])[0])


def test_after_embedding_again_the_new_model_answers_as_the_oracle_says(open_matcher: Open, tmp_path: Path) -> None:
    stock(open_matcher())
    folder = tmp_path / "data"
    assert left(folder) == 6
    assert embed_again(folder) == []
    assert left(folder) == 0
    matcher = open_new(folder)
    oracle = Oracle(NEW_FUSION)
    for catalog in ("default", "other"):
        oracle.put(catalog, "a", new_embedding("aab", RED, GREEN), {"size": 1})
        oracle.put(catalog, "b", new_embedding("bcd"), {})
    oracle.put("default", "c", new_embedding(None, BLUE), {})
    oracle.put("default", "d", new_embedding("ddd", photo((9, 99, 200))), {})
    for title, image in (("aab", RED), ("bcd", None), (None, BLUE), ("ddd", GREEN)):
        prepared = matcher.read_query(image, title)
        embedding = embed(matcher.encoder, [prepared])[0]
        for catalog in ("default", "other"):
            for threshold in (-1.0, 0.3, 0.9):
                query = Query(embedding, threshold, 3)
                oracle.check(catalog, query, matcher.search(catalog, [query])[0])
    matcher.close()


def test_embedding_again_goes_on_where_it_was_interrupted(open_matcher: Open, tmp_path: Path) -> None:
    stock(open_matcher(), count=2 * CHUNK)
    folder = tmp_path / "data"
    whole = left(folder)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_again(folder, interrupt)
    assert left(folder) == whole - CHUNK
    data = DataFolder(folder)
    with pytest.raises(ModelMismatch):
        LocalCatalog(data, NEW_FUSION, NEW)  # half of it is still the old model's
    data.close()
    done: list[int] = []
    assert embed_again(folder, done.append) == []
    assert sum(done) == whole - CHUNK
    matcher = open_new(folder)
    assert shown(matcher.match([matcher.read_query(None, "aab")], MatchOptions(0.99))[0]) == ["a"]
    matcher.close()


def test_lost_and_damaged_photos_are_reported_and_everything_else_is_embedded(open_matcher: Open, tmp_path: Path) -> None:
    stock(open_matcher())
    folder = tmp_path / "data"
    photos = [file for file in (folder / "photos").rglob("*") if file.is_file()]
    for file in photos:
        if file.read_bytes() == BLUE:
            file.unlink()  # the only thing that c has
        elif file.read_bytes() == GREEN:
            file.write_bytes(b"damaged")  # the second photo of a
    failed = embed_again(folder)
    assert sorted(failed) == [("a", "photo_not_found"), ("a", "photo_not_found"), ("c", "photo_not_found")]
    matcher = open_new(folder)
    by_title = matcher.match([matcher.read_query(None, "aab")], MatchOptions(0.99))[0]
    assert shown(by_title) == ["a"]
    assert shown(matcher.match([matcher.read_query(RED, "aab")], MatchOptions(0.99))[0]) == ["a"]
    assert shown(matcher.match([matcher.read_query(BLUE, None)], MatchOptions(0.99))[0]) == []
    assert matcher.catalog.get("default", "c").photos
    assert matcher.catalog.size("default") == 4
    matcher.close()


def test_a_product_that_is_left_without_vectors_can_be_asked_for_its_matches(open_matcher: Open, tmp_path: Path) -> None:
    stock(open_matcher())
    folder = tmp_path / "data"
    for file in (folder / "photos").rglob("*"):
        if file.is_file():
            file.unlink()
    embed_again(folder)
    matcher = open_new(folder)
    with suppress(AppError):  # a clear refusal would do as well
        assert matcher.matches_of("c", MatchOptions(-1)).matches == ()
    index_rows(matcher, [row(1, "c", None, BLUE)], "default", lambda _: None)
    assert shown(matcher.match([matcher.read_query(BLUE, None)], MatchOptions(0.99))[0]) == ["c"]
    matcher.close()


def test_a_row_without_an_id_is_skipped_by_indexing_and_answered_by_matching(matcher: Matcher) -> None:
    nameless = Listing(1, None, "aaa", ())
    summary = index_rows(matcher, [nameless, row(2, "b", "aaa")], "default", lambda _: None)
    assert (summary.created, ["has no id" in str(bad.error) for bad in summary.bad]) == (1, [True])
    (answered,) = match_rows(matcher, [nameless], MatchOptions(), lambda _: None)
    assert isinstance(answered.result, Answer)
    assert answered.result.total == 1


# -- the pipeline ----------------------------------------------------------------------------------------------


def test_titles_that_clean_to_one_text_and_equal_photos_are_embedded_once(matcher: Matcher) -> None:
    rows = [row(1, "a", "Blue  shoe", RED), row(2, "b", " Blue shoe ", RED), row(3, "c", "Blue shoe", GREEN)]
    assert index_rows(matcher, rows, "default", lambda _: None).created == 3
    assert titles_embedded(matcher) == 1
    one, other, third = (matcher.catalog.embedding("default", name) for name in "abc")
    assert one.title is not None
    assert other.title is not None
    assert (one.title == other.title).all()
    assert (one.images == other.images).all()
    assert not (one.images == third.images).all()


def test_rows_before_the_place_where_a_table_breaks_off_are_kept(matcher: Matcher) -> None:
    def broken() -> Iterator[Listing]:
        yield from (row(n, f"p{n}", f"title {n}") for n in range(1, 2 * CHUNK + 11))
        raise InvalidInput("damaged")

    with pytest.raises(InvalidInput, match="damaged"):
        index_rows(matcher, broken(), "default", lambda _: None)
    assert matcher.catalog.size("default") == 2 * CHUNK + 10


def test_a_chunk_that_breaks_the_model_leaves_the_ones_before_committed(matcher: Matcher) -> None:
    rows = [row(n, f"p{n}", POISON if n == 2 * CHUNK + 3 else f"title {n}") for n in range(1, 4 * CHUNK)]
    with pytest.raises(EncodingFailed):
        index_rows(matcher, rows, "default", lambda _: None)
    assert matcher.catalog.size("default") == 2 * CHUNK


def test_a_commit_that_fails_ends_the_run_and_later_chunks_are_not_stored(
    matcher: Matcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, calls = matcher.catalog.put, []

    def failing(catalog: str, drafts: Sequence[ProductDraft]) -> list[Stored]:
        calls.append(len(drafts))
        if len(calls) == 2:
            raise CatalogError("the disk is full")
        return put(catalog, drafts)

    monkeypatch.setattr(matcher.catalog, "put", failing)
    ticks: list[int] = []
    rows = [row(n, f"p{n}", f"title {n}") for n in range(1, 4 * CHUNK)]
    with pytest.raises(CatalogError):
        index_rows(matcher, rows, "default", ticks.append)
    assert (calls, ticks) == ([CHUNK, CHUNK], [CHUNK])
    assert matcher.catalog.size("default") == CHUNK


def test_a_tick_means_committed_and_rows_are_taken_three_chunks_ahead(matcher: Matcher) -> None:
    taken = 0

    def rows() -> Iterator[Listing]:
        nonlocal taken
        for taken in range(1, 6 * CHUNK + 1):
            yield row(taken, f"p{taken}", f"title {taken}")

    seen: list[tuple[int, int]] = []
    index_rows(matcher, rows(), "default", lambda _: seen.append((matcher.catalog.size("default"), taken)))
    assert [stored for stored, _ in seen] == [CHUNK * n for n in range(1, 7)]
    assert all(ahead <= stored + 3 * CHUNK for stored, ahead in seen)  # one embedded, one in the towers, one being read


def test_what_follows_a_chunk_is_read_before_the_towers_are_asked(matcher: Matcher) -> None:
    read: list[str] = []
    rows = [row(n, f"q{n}", f"title {n}") for n in range(2 * CHUNK)]

    def watched() -> Iterator[Listing]:
        for one in rows:
            read.append(one.id or "")
            yield one

    index_rows(matcher, [row(1, "a", "aaa")], "default", lambda _: None)
    next(iter(match_rows(matcher, watched(), MatchOptions(), lambda _: None)))
    assert len(read) == 2 * CHUNK
