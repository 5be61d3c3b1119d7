"""Which key a request carries: what is kept in memory, and for how long."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from app.api.keyring import NOBODY, STALE_S, Keyring
from app.core.access import ANONYMOUS, ApiKey, Role, digest_of, new_key
from app.errors import NotReady, Unauthenticated
from tests.fakes import Clock

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


class Store:
    """Keys in memory; fails as long as it is told to."""

    def __init__(self) -> None:
        self.kept: list[ApiKey] = []
        self.uses: dict[str, datetime] = {}
        self.reads, self.fails = 0, False

    def add(self, *catalogs: str) -> str:
        text, key_id = new_key()
        self.kept.append(ApiKey(key_id, "k", Role.READ, catalogs or None, digest_of(text), WHEN))
        return text

    def revoke(self) -> None:
        self.kept = [replace(key, revoked_at=WHEN) for key in self.kept]

    def stored(self) -> list[ApiKey]:
        self.reads += 1
        if self.fails:
            raise OSError("the disk is gone")
        return self.kept

    def used(self, when: dict[str, datetime]) -> None:
        if self.fails:
            raise OSError("the disk is gone")
        self.uses |= when


def refused(keyring: Keyring, *sent: str) -> bool:
    try:
        asyncio.run(keyring.caller(sent))
    except Unauthenticated:
        return True
    return False


def test_a_new_key_and_a_revoked_one_are_noticed_once_the_copy_is_old() -> None:
    store, clock = Store(), Clock()
    keyring = Keyring(store, 2, anonymous=False, clock=clock)
    first = store.add()
    assert not refused(keyring, first)
    second = store.add()
    clock.now += 1.9
    assert refused(keyring, second)
    clock.now += 0.1
    assert not refused(keyring, second)
    store.revoke()
    clock.now += 1.9
    assert not refused(keyring, second)
    clock.now += 0.1
    assert refused(keyring, second)
    assert store.reads == 3


def test_a_caller_is_what_the_key_says() -> None:
    store = Store()
    text = store.add("b", "a")
    caller = asyncio.run(Keyring(store, 1, anonymous=True).caller([text]))
    assert (caller.key, caller.role, caller.catalogs) == (store.kept[0].id, Role.READ, frozenset("ab"))
    assert [caller.sees(name) for name in ("a", "b", "c", "")] == [True, True, False, False]


@pytest.mark.parametrize("anonymous", [True, False])
def test_everybody_is_anonymous_until_the_first_key_if_that_is_allowed(anonymous: bool) -> None:
    store, clock = Store(), Clock()
    keyring = Keyring(store, 1, anonymous=anonymous, clock=clock)
    if anonymous:
        assert asyncio.run(keyring.caller([])) is ANONYMOUS
    else:
        assert refused(keyring)
    store.add()
    store.revoke()
    clock.now += 1
    assert refused(keyring)


def test_keys_that_cannot_be_read_hold_for_half_a_minute() -> None:
    store, clock = Store(), Clock()
    keyring = Keyring(store, 1, anonymous=True, clock=clock)
    text = store.add()
    assert not refused(keyring, text)
    store.fails = True
    clock.now += STALE_S
    assert not refused(keyring, text)
    clock.now += 1
    with pytest.raises(NotReady) as caught:
        asyncio.run(keyring.caller([text]))
    assert "disk" not in str(caught.value)
    store.fails = False
    clock.now += 1
    assert not refused(keyring, text)


def test_keys_that_were_never_read_let_nobody_in() -> None:
    store = Store()
    store.fails = True
    with pytest.raises(NotReady):
        asyncio.run(Keyring(store, 1, anonymous=True).caller([]))


def test_many_callers_at_once_read_the_keys_once() -> None:
    store = Store()
    text = store.add()
    keyring = Keyring(store, 1, anonymous=False, clock=Clock())

    async def all_at_once() -> None:
        await asyncio.gather(*(keyring.caller([text]) for _ in range(50)))

    asyncio.run(all_at_once())
    assert store.reads == 1


def test_uses_that_cannot_be_written_are_not_forgotten() -> None:
    store = Store()
    text, unused = store.add(), store.add()
    keyring = Keyring(store, 1, anonymous=False, clock=Clock())
    assert not refused(keyring, text)
    assert refused(keyring, unused[:-1])
    store.fails = True
    asyncio.run(keyring.note_uses())
    store.fails = False
    asyncio.run(keyring.note_uses())
    assert list(store.uses) == [store.kept[0].id]


@pytest.mark.parametrize("text", ["", "samesku_" + "0" * 12 + "_" + "0" * 64])
def test_nobody_is_admitted_by_no_key(text: str) -> None:
    assert not NOBODY.admits(text)
