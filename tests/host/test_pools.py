from __future__ import annotations

import multiprocessing
import threading
from typing import Any

import pytest

from wasm_gateway.errors import DeadlineExceeded
from wasm_gateway.host import descriptors
from wasm_gateway.host.base import Deadline
from wasm_gateway.host.descriptors import Descriptors
from wasm_gateway.host.pools import Places, Pool, PoolFull


class Connection:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def pool(**options: Any) -> Pool[Connection]:
    return Pool(Connection.close, **{"per_key": 2, "keys": 2, "wait": 0.05, **options})


def long() -> Deadline:
    return Deadline(120)


def test_a_connection_comes_back() -> None:
    made = pool()
    assert made.take("a", long()) is None
    connection = Connection()
    made.give("a", connection)
    assert made.take("b", long()) is None
    assert made.take("a", long()) is connection
    made.give("a", None)
    assert made.take("a", long()) is None
    assert not connection.closed


def test_a_fresh_one_leaves_the_others() -> None:
    made = pool()
    made.take("a", long())
    connection = Connection()
    made.give("a", connection)
    assert made.take("a", long(), fresh=True) is None
    assert made.take("a", long()) is connection


def test_fewer_are_kept_than_used() -> None:
    made = pool(per_key=3, idle=1)
    first, second = Connection(), Connection()
    for _ in range(3):
        assert made.take("a", long()) is None
    for connection in (first, second, None):
        made.give("a", connection)
    assert (first.closed, second.closed) == (False, True)
    assert made.take("a", long()) is first


def test_all_that_are_kept_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "kept", Descriptors(descriptors.KEPT))
    descriptors.kept.limit = 2
    one, other = pool(), pool(keys=1)
    connections = [Connection() for _ in range(3)]
    for key, made in (("a", one), ("b", one), ("a", other)):
        made.take(key, long())
        made.give(key, connections[descriptors.kept.used])
    assert [connection.closed for connection in connections] == [False, False, True]
    assert one.take("a", long()) is connections[0]
    assert descriptors.kept.used == 1
    for key, used in (("a", 2), ("b", 1)):  # the second comes to nothing, and has the first forgotten
        other.take(key, long())
        other.give(key, Connection())
        assert descriptors.kept.used == used
    one.close()
    other.close()
    assert descriptors.kept.used == 0
    one.give("a", connections[0])
    assert (connections[0].closed, descriptors.kept.used) == (True, 0)


def test_connections_of_a_key_are_limited() -> None:
    made = pool(per_key=1)
    made.take("a", long())
    made.take("b", long())
    with pytest.raises(PoolFull):
        made.take("a", long())
    with pytest.raises(DeadlineExceeded):
        made.take("a", Deadline(0.01))
    made.give("a", None)
    assert made.take("a", long()) is None


def test_connections_of_all_keys_are_limited() -> None:
    made = pool(per_key=5, places=Places(2))
    made.take("a", long())
    made.take("b", long())
    with pytest.raises(PoolFull):
        made.take("c", long())
    made.give("a", Connection())
    assert made.take("c", long()) is None


def test_who_gets_no_place_keeps_nothing() -> None:
    places = Places(1)
    made, other = pool(per_key=1, places=places), pool(per_key=1, places=Places(5, places))
    made.take("a", long())
    for _ in range(3):
        with pytest.raises(PoolFull):
            other.take("b", long())
    made.give("a", None)
    assert other.take("b", long()) is None


def test_places_within_others() -> None:
    outer = Places(2)
    inner, unlimited = Places(1, outer), Places(None, outer)
    one, two = inner.take(), unlimited.take()
    assert one is not None
    assert two is not None
    assert unlimited.take() is inner.take() is outer.take() is None
    two()
    assert inner.take() is None
    one()
    # what was refused took nothing
    taken = [place.take() for place in (inner, unlimited, unlimited)]
    assert [place is None for place in taken] == [False, False, True]
    assert Places().take() is not None


@pytest.mark.parametrize("total", [None, 1])
def test_who_waits_gets_the_next(total: int | None) -> None:
    made = pool(per_key=1, places=Places(total), wait=60)
    made.take("a", long())
    connection = Connection()
    timer = threading.Timer(0.05, made.give, ["a", connection])
    timer.start()
    assert made.take("a", long()) is connection
    timer.join()


def test_idle_connections_of_old_keys_are_closed() -> None:
    made = pool(keys=2)
    connections = {}
    for key in "abc":
        made.take(key, long())
        connections[key] = Connection()
    for key in "abc":
        made.give(key, connections[key])
    assert [key for key in "abc" if connections[key].closed] == ["a"]
    assert made.take("c", long()) is connections["c"]
    assert made.take("a", long()) is None


def test_keys_in_use_are_kept() -> None:
    made = pool(keys=1)
    for key in "abc":
        made.take(key, long())
    connection = Connection()
    made.give("b", connection)
    assert connection.closed
    made.give("a", None)
    last = Connection()
    made.give("c", last)
    assert made.take("c", long()) is last


def test_a_closed_pool_keeps_nothing() -> None:
    made = pool()
    made.take("a", long())
    made.take("a", long())
    idle, used = Connection(), Connection()
    made.give("a", idle)
    made.close()
    assert idle.closed
    made.give("a", used)
    assert used.closed


def test_a_forked_child_has_an_empty_pool() -> None:
    made = pool(per_key=1, places=Places(1))
    made.take("a", long())
    connection = Connection()
    made.give("a", connection)
    made.take("b", long())  # of the parent

    def child() -> None:
        assert made.take("a", long()) is None
        made.give("a", None)
        made.give("b", connection)  # abandoned, not closed
        assert not connection.closed
        assert made.take("b", long()) is None

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    made.give("b", None)
    assert made.take("a", long()) is connection


def test_many_threads() -> None:
    """No more connections than allowed, and nobody is forgotten."""
    made = pool(per_key=3, wait=60)
    lock = threading.Lock()
    used = most = rounds = 0

    def work() -> None:
        nonlocal used, most, rounds
        for _ in range(50):
            connection = made.take("a", long()) or Connection()
            with lock:
                used += 1
                most = max(most, used)
            with lock:
                used -= 1
                rounds += 1
            made.give("a", connection)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rounds == 400
    assert most <= 3
