"""Few photos are read in one way, many in another, and nobody sees the seam."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from hypothesis import given
from hypothesis import strategies as st

from app.encoders.ahead import Outcome, few_or_many, in_threads
from app.errors import InvalidImage
from tests.fakes import FakeEncoder, photo

GOOD, BAD = photo((200, 10, 10)), b"no photo"
CHUNKS = st.lists(st.lists(st.sampled_from([GOOD, BAD]), max_size=4), max_size=6)


def noting(seen: list[list[bytes]]) -> Callable[[Iterable[Sequence[bytes]]], Iterator[list[Outcome]]]:
    def read(chunks: Iterable[Sequence[bytes]]) -> Iterator[list[Outcome]]:
        def noted() -> Iterator[Sequence[bytes]]:
            for chunk in chunks:
                seen.append(list(chunk))
                yield chunk

        return in_threads(FakeEncoder().read_photo, noted())

    return read


def told(outcomes: Iterable[list[Outcome]]) -> list[list[str]]:
    return [["bad" if isinstance(one, InvalidImage) else one[0].photo.sha256 for one in chunk] for chunk in outcomes]  # type: ignore[index]


@given(CHUNKS, st.integers(0, 8))
def test_it_reads_what_one_way_would_read_and_goes_over_once(chunks: list[list[bytes]], most: int) -> None:
    few, many = list[list[bytes]](), list[list[bytes]]()
    found = told(few_or_many(iter(chunks), noting(few), noting(many), most))
    assert found == told(in_threads(FakeEncoder().read_photo, chunks))
    assert few + many == chunks
    assert sum(map(len, few)) <= most
    if many:
        assert sum(map(len, few)) + len(many[0]) > most


def test_the_other_way_is_not_begun_where_it_is_not_needed() -> None:
    def never(chunks: Iterable[Sequence[bytes]]) -> Iterator[list[Outcome]]:
        raise AssertionError(list(chunks))

    assert told(few_or_many([[], [GOOD], []], noting([]), never, 1)) == [[], told([[FakeEncoder().read_photo(GOOD)]])[0], []]
