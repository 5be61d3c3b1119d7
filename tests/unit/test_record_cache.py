"""What the cache of records keeps, and that it stays within its size."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from app.catalog.record_cache import RecordCache, size_of
from app.core.product import Photo, Product

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def product(number: int, title: str = "", photos: int = 0, **attributes: str) -> Product:
    return Product(f"p{number}", title, (Photo("0" * 64, "image/png", 1, 1),) * photos, attributes, NOW, NOW)


ONE = size_of(product(0))


def test_it_returns_what_was_put_and_nothing_else() -> None:
    cache = RecordCache()
    cache.put({1: product(1), 2: product(2)})
    assert cache.get([2, 3]) == {2: product(2)}


def test_what_was_dropped_is_gone_and_its_place_is_free() -> None:
    cache = RecordCache()
    cache.put({1: product(1), 2: product(2)})
    cache.drop([1, 7])
    assert cache.get([1, 2]) == {2: product(2)}
    assert cache.size_bytes == ONE


def test_a_later_product_takes_the_place_of_an_earlier_one() -> None:
    cache = RecordCache()
    cache.put({1: product(1, "old")})
    cache.put({1: product(1, "new")})
    assert cache.get([1]) == {1: product(1, "new")}
    assert len(cache) == 1


def test_the_least_recently_used_go_first() -> None:
    cache = RecordCache(3 * ONE)
    cache.put({1: product(1), 2: product(2), 3: product(3)})
    cache.get([1])
    cache.put({4: product(4)})
    assert set(cache.get([1, 2, 3, 4])) == {1, 3, 4}


def test_without_room_nothing_is_kept() -> None:
    cache = RecordCache(0)
    cache.put({1: product(1)})
    assert cache.get([1]) == {}


def test_a_product_larger_than_everything_pushes_nobody_out() -> None:
    cache = RecordCache(2 * ONE)
    cache.put({1: product(1)})
    cache.put({2: product(2, "long " * 1000)})
    assert set(cache.get([1, 2])) == {1}


def test_long_texts_photos_and_attributes_count() -> None:
    plain = size_of(product(1))
    assert size_of(product(1, "x" * 500)) >= plain + 499
    assert size_of(product(1, photos=3)) > plain + 3 * 64
    assert size_of(product(1, brand="y" * 400)) > plain + 400


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 9), st.integers(0, 3000)),
        st.tuples(st.just("drop"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("get"), st.integers(0, 9), st.just(0)),
    )
)


@given(STEPS)
def test_whatever_happens_it_answers_with_the_latest_and_stays_within_its_size(steps: list[tuple[str, int, int]]) -> None:
    cache = RecordCache(4 * ONE)
    truth: dict[int, Product] = {}
    for step, key, length in steps:
        if step == "put":
            truth[key] = product(key, "x" * length)
            cache.put({key: truth[key]})
        elif step == "drop":
            truth.pop(key, None)
            cache.drop([key])
        for found, value in cache.get(range(10)).items():
            assert truth[found] == value
        assert cache.size_bytes == sum(size_of(value) for value in cache.get(range(10)).values()) <= 4 * ONE
