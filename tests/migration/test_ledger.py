"""What all processes share, in a SQLite file and in a Redis: bounds, order, and what goes wrong."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from tests.services import free_port
from wasm_gateway.errors import HostError, ManifestError
from wasm_gateway.migration import ledger as module
from wasm_gateway.migration.ledger import (
    MAX_CHANGES,
    MAX_MISMATCHES,
    SINCE,
    Change,
    Ledger,
    Mismatch,
    SqliteLedger,
    open_ledger,
)

Opened = Callable[[], Ledger]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many that write at once one may be the last each time."""
    monkeypatch.setattr(module, "BUSY_SECONDS", 60.0)


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.services)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "ledger.db")
    return f"{request.getfixturevalue('redis_server')}/2?prefix={uuid4()}"


@pytest.fixture
def opened(place: str) -> Iterator[Opened]:
    made: list[Ledger] = []

    def make() -> Ledger:
        made.append(open_ledger(place))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def ledger(opened: Opened) -> Ledger:
    return opened()


def mismatch(number: int, component: str = "a") -> Mismatch:
    return Mismatch(
        component, "/a/...", "GET", f"/a/{number}", ("one", "two"), {"status": 200}, {"status": 500}, 0.1, 0.2
    )


def test_an_empty_one(ledger: Ledger) -> None:
    assert ledger.dials() == {}
    assert ledger.changes() == []
    assert ledger.mismatches() == ledger.mismatches("a") == []
    assert ledger.counters() == {}
    assert ledger.stamp() == ledger.stamp()


def test_dials(ledger: Ledger, opened: Opened) -> None:
    other = opened()
    stamps = [ledger.stamp()]
    first = Change("a", {"mode": "canary", "percent": 5.0, "groups": ["x"]}, "ada")
    second = Change("/a/...", {"mode": "wasm"}, "bob")
    third = Change("a", None, "ada")
    for change in (first, second, third):
        ledger.turn(change)
        stamps.append(other.stamp())
    assert len(set(stamps)) == 4
    assert other.dials() == {"/a/...": {"mode": "wasm"}}
    assert other.changes() == [third, second, first]
    assert other.changes(2) == [third, second]


def test_notes(ledger: Ledger, opened: Opened) -> None:
    change = Change("a", {"mode": "wasm"}, "ada")
    ledger.turn(change)
    other, stamp = opened(), ledger.stamp()
    for values in ({"digest": "x"}, {"digest": "y", "before": None}):
        ledger.note("served:a", values)
        assert other.dials() == {"a": {"mode": "wasm"}, "served:a": values}
    assert (other.stamp(), other.changes()) == (stamp, [change])


def test_mismatches(ledger: Ledger, opened: Opened) -> None:
    all_ = [mismatch(number, "ab"[number % 2]) for number in range(6)]
    for each in all_:
        ledger.record(each)
    other = opened()
    assert other.mismatches() == all_[::-1]
    assert other.mismatches(limit=2) == all_[:3:-1]
    assert other.mismatches("a") == all_[4::-2]
    assert other.mismatches("a", 1) == [all_[4]]
    assert other.mismatches("c") == []
    assert other.mismatches(limit=0) == []


def test_counters(ledger: Ledger, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    other = opened()
    monkeypatch.setattr("wasm_gateway.migration.redis_ledger.now", lambda: 7)
    monkeypatch.setattr(module, "now", lambda: 7)
    ledger.add({})
    ledger.add({"a": {"one": 1, "two": 2}, "b": {"one": 1}})
    monkeypatch.setattr("wasm_gateway.migration.redis_ledger.now", lambda: 9)
    monkeypatch.setattr(module, "now", lambda: 9)
    other.add({"a": {"two": 3, "three": 1}})
    assert ledger.counters() == {
        "a": {"one": 1, "two": 5, "three": 1, SINCE: 7},
        "b": {"one": 1, SINCE: 7},
    }


def test_what_is_forgotten(ledger: Ledger) -> None:
    for component in "abc":
        ledger.record(mismatch(1, component))
        ledger.add({component: {"one": 1}})
    ledger.turn(Change("a", {"mode": "native"}, "me"))
    ledger.forget("a")
    assert ledger.mismatches("a") == []
    assert sorted(ledger.counters()) == ["b", "c"]
    ledger.forget()
    assert ledger.mismatches() == []
    assert ledger.counters() == {}
    # who decided what is no mismatch
    assert ledger.dials()
    assert ledger.changes()


def test_it_is_bounded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_CHANGES < 10_000
    assert MAX_MISMATCHES < 10_000
    for owner in (module, __import__("wasm_gateway.migration.redis_ledger", fromlist=["x"])):
        monkeypatch.setattr(owner, "MAX_CHANGES", 5)
        monkeypatch.setattr(owner, "MAX_MISMATCHES", 3)
    for number in range(8):
        ledger.turn(Change("a", {"percent": float(number)}, "me"))
        ledger.record(mismatch(number))
        ledger.record(mismatch(number, "b"))
    assert [change.values for change in ledger.changes()] == [{"percent": float(n)} for n in (7, 6, 5, 4, 3)]
    for component in "ab":
        assert [each.target for each in ledger.mismatches(component)] == ["/a/7", "/a/6", "/a/5"]
    assert len(ledger.mismatches()) == 6


# Several at once


def _turn(place: str, who: int, barrier: Any) -> None:
    mine = open_ledger(place)
    barrier.wait(60)
    for number in range(20):
        mine.turn(Change("a", {"percent": float(number)}, str(who)))
        mine.add({"a": {"turns": 1}})
        mine.record(mismatch(number))
    mine.close()


def test_processes_at_once(place: str, ledger: Ledger) -> None:
    """All of what they do is there, and the last change is what the dial says."""
    before = ledger.stamp()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    processes = [context.Process(target=_turn, args=(place, who, barrier)) for who in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    changes = ledger.changes(200)
    assert len(changes) == 80
    assert ledger.dials()["a"] == changes[0].values
    assert ledger.counters()["a"]["turns"] == 80
    assert len(ledger.mismatches(limit=200)) == 80
    assert ledger.stamp() != before
    for who in range(4):
        mine = [change.values for change in changes if change.by == str(who)]
        assert mine == [{"percent": float(number)} for number in range(19, -1, -1)]


def test_threads_at_once(ledger: Ledger) -> None:
    threads = [
        threading.Thread(target=lambda: [ledger.add({"a": {"n": 1}}) for _ in range(25)]) for _ in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ledger.counters()["a"]["n"] == 100


def test_a_forked_child_has_a_connection_of_its_own(ledger: Ledger) -> None:
    ledger.turn(Change("a", {"mode": "native"}, "parent"))

    def child() -> None:
        assert ledger.changes()[0].by == "parent"
        ledger.turn(Change("a", None, "child"))
        ledger.close()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert ledger.changes()[0].by == "child"
    ledger.turn(Change("b", None, "parent"))
    assert ledger.changes()[0].by == "parent"


def test_it_can_be_used_after_it_was_closed(ledger: Ledger) -> None:
    ledger.add({"a": {"n": 1}})
    ledger.close()
    assert ledger.counters()["a"]["n"] == 1


# What goes wrong

CALLS: dict[str, Callable[[Ledger], object]] = {
    "stamp": lambda ledger: ledger.stamp(),
    "dials": lambda ledger: ledger.dials(),
    "turn": lambda ledger: ledger.turn(Change("a", None, "me")),
    "changes": lambda ledger: ledger.changes(),
    "record": lambda ledger: ledger.record(mismatch(1)),
    "mismatches": lambda ledger: ledger.mismatches(),
    "add": lambda ledger: ledger.add({"a": {"n": 1}}),
    "counters": lambda ledger: ledger.counters(),
    "forget": lambda ledger: ledger.forget(),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_file_that_is_none(tmp_path: Path, call: str) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is no database, and it is long enough to be told from an empty file" * 20)
    with closing(SqliteLedger(path)) as broken, pytest.raises(HostError, match=r"ledger\.db"):
        CALLS[call](broken)
    with closing(SqliteLedger(tmp_path)) as broken, pytest.raises(HostError):
        CALLS[call](broken)


def test_a_file_that_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading goes on; writing fails after a while, and works again when the lock is gone."""
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.05)
    with closing(SqliteLedger(tmp_path / "ledger.db")) as ledger:
        ledger.turn(Change("a", {"mode": "native"}, "me"))
        with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert ledger.dials() == {"a": {"mode": "native"}}
            for call in ("turn", "record", "add", "forget"):
                with pytest.raises(HostError, match="locked"):
                    CALLS[call](ledger)
            other.execute("ROLLBACK")
        ledger.turn(Change("a", None, "me"))
        assert ledger.dials() == {}


@pytest.mark.parametrize("call", CALLS)
def test_a_redis_that_is_not_there(call: str) -> None:
    with closing(open_ledger(f"redis://user:t0psecret@127.0.0.1:{free_port()}")) as ledger:
        with pytest.raises(HostError, match=r"redis://127\.0\.0\.1") as caught:
            CALLS[call](ledger)
        assert "t0psecret" not in str(caught.value)


@pytest.mark.services
def test_a_redis_with_something_else_in_it(redis_server: str) -> None:
    url = f"{redis_server}/3"
    with closing(redis.Redis.from_url(url)) as client, closing(open_ledger(f"{url}?prefix=x")) as ledger:
        for key in ("x:dials", "x:changes", "x:stamp", "x:recorded"):
            client.sadd(key, "something")
        for call in ("stamp", "dials", "turn", "changes", "record"):
            with pytest.raises(HostError, match="WRONGTYPE"):
                CALLS[call](ledger)
        client.flushdb()
        ledger.turn(Change("a", {"mode": "native"}, "me"))
        assert ledger.dials() == {"a": {"mode": "native"}}
        # another site in the same Redis
        with closing(open_ledger(f"{url}?prefix=y")) as other:
            assert other.dials() == {}
        client.flushdb()


def test_an_url_that_is_none() -> None:
    with pytest.raises(ManifestError, match="LEDGER"):
        open_ledger("redis://127.0.0.1:notaport/")
