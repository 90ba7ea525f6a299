"""Orders to all processes about their guests: what a ledger says of them, and when a process obeys."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.test_gateway import say
from tests.test_swap import put, until
from wasm_gateway import Gateway
from wasm_gateway.cli import cli
from wasm_gateway.errors import ComponentError, HostError, ManifestError
from wasm_gateway.migration import pilot as pilots
from wasm_gateway.migration.ledger import Change, SqliteLedger
from wasm_gateway.migration.orders import NOTE, Act, Back, Order, note, orders, rollback

# What is ordered


ONE, TWO, THREE = (digit * 64 for digit in "123")


def test_an_order_is_a_dial(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.db")
    given = [
        Order(Act.ROLLBACK, "b", 3, {"b": Back(TWO, ONE), "b-for-x": Back(THREE, ONE)}),
        Order(Act.RELOAD, "c", 2),
        Order(Act.RELOAD, "a", 1),
    ]
    for order in given:
        ledger.turn(order.change("ada"))
    assert list(orders(ledger.dials())) == given[::-1]
    ledger.turn(Order(Act.ROLLBACK, "a", 4).change("ada"))
    assert [order.generation for order in orders(ledger.dials())] == [2, 3, 4]
    assert ledger.changes()[0].by == "ada"
    ledger.turn(Order(Act.RELOAD, None, 5).change("ada"))  # and all before it is past
    ledger.turn(Order(Act.ROLLBACK, "c", 6).change("ada"))
    assert [order.generation for order in orders(ledger.dials())] == [5, 6]
    ledger.close()


@pytest.mark.parametrize(
    "values",
    [{}, {"act": "dance", "generation": 1}, {"act": "reload"}, {"act": ["reload"], "generation": "x"}],
)
def test_what_another_version_has_written(values: Any) -> None:
    assert list(orders({"guest:a": values, "a": {"act": "reload", "generation": 1}})) == []


@pytest.mark.parametrize(
    "back", [None, [], {"a": None}, {"a": [ONE]}, {"a": [ONE, "../" * 20]}, {"a": [ONE, 2]}], ids=str
)
def test_a_rollback_that_another_version_has_written(back: Any) -> None:
    values = {"act": "rollback", "generation": 1, "back": back}
    assert list(orders({"guest:a": values})) == [Order(Act.ROLLBACK, "a", 1)]


def test_a_rollback_is_made_of_notes() -> None:
    dials: dict[str, Any] = {}

    def noted(id: str, digest: str, before: str | None) -> bool:
        values = note(dials, "a", id, digest, before)
        if values is not None:
            dials[NOTE + id] = values
        return values is not None

    def refused() -> bool:
        with pytest.raises(HostError, match="'a' has no earlier guest"):
            rollback(dials, "a")
        return True

    assert refused()
    assert noted("a", ONE, None)
    assert refused()
    assert noted("a", TWO, ONE)
    assert not noted("a", TWO, ONE)  # as the next process says
    assert not noted("a", TWO, TWO)  # it was loaded again
    assert rollback(dials, "a").back == {"a": Back(TWO, ONE)}
    assert noted("b", THREE, TWO)
    dials[NOTE + "b"]["component"] = "b"
    order = rollback(dials, "a")
    assert order.back == {"a": Back(TWO, ONE)}
    dials[order.name] = order.change("ada").values
    assert refused()
    reload = Order(Act.RELOAD, None)
    dials[reload.name] = reload.change("ada").values
    assert rollback(dials, "a").back == order.back
    assert noted("a", TWO, None)  # under another manifest
    assert refused()


# Who obeys


@pytest.fixture
def several(
    application: Any, wat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Gateway]]:
    """A function that gives one more gateway of the same folder and ledger, as other processes are."""
    monkeypatch.setattr(pilots, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(pilots, "FIRST_LOOK_SECONDS", 60.0)
    made: list[Gateway] = []
    manifest = application.manifest({"a": wat.flat(say("old")), "b": wat.flat(say("b"))})

    def make(**options: Any) -> Gateway:
        options = {"disable_cache": False, "cache_dir": tmp_path / "cache", **options}
        made.append(application.gateway(manifest, ledger=tmp_path / "ledger.db", **options).open())
        return made[-1]

    yield make
    for gateway in made:
        gateway.close()


def counted(gateway: Gateway, name: str) -> int:
    assert gateway.pilot is not None
    return gateway.pilot.counts().get("a", {}).get(f"order {name}", 0)


def test_all_obey(several: Any, application: Any, wat: Any, ask: Any) -> None:
    gateways = [several() for _ in range(3)]
    for gateway in gateways:
        gateway.follow()
    put(application.folder / "a.wasm", wat.spin(say("new")))
    gateways[0].reload("a", by="ada")
    until(lambda: all(ask(gateway, "/a") == (200, b"new") for gateway in gateways))
    assert all(ask(gateway, "/b") == (200, b"b") for gateway in gateways)
    gateways[1].rollback("a", by="ada")
    until(lambda: all(ask(gateway, "/a") == (200, b"old") for gateway in gateways))
    put(application.folder / "b.wasm", wat.spin(say("newer")))
    gateways[2].reload(by="bob")
    until(lambda: all(ask(gateway, "/b") == (200, b"newer") for gateway in gateways))
    until(lambda: all(counted(gateway, "obeyed") == 3 for gateway in gateways))
    assert [each.by for each in gateways[0].pilot.ledger.changes()] == ["bob", "ada", "ada"]


def test_a_guest_that_cannot_be_loaded_leaves_the_old_ones(
    several: Any, application: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateways = [several(), several()]
    for gateway in gateways:
        gateway.follow()
    (application.folder / "a.wasm").write_bytes(b"garbage")
    gateways[0].reload("a", by="ada")
    until(lambda: all(counted(gateway, "failed") == 1 for gateway in gateways))
    assert [ask(gateway, "/a") for gateway in gateways] == [(200, b"old")] * 2
    assert "order to reload a failed, the guest before goes on" in caplog.text
    with pytest.raises(HostError, match="no earlier guest"):
        gateways[1].rollback("a", by="ada")


def test_one_that_begins_to_serve_later_has_obeyed_before_its_first_answer(
    several: Any, application: Any, wat: Any, ask: Any
) -> None:
    """As the children of a server that has loaded everything before it forked."""
    idle, other = several(), several()
    put(application.folder / "a.wasm", wat.spin(say("new")))
    other.reload("a", by="ada")  # neither serves yet
    assert ask(idle, "/a") == (200, b"old")
    idle.follow()
    assert ask(idle, "/a") == (200, b"new")


@pytest.fixture
def rolled_back(several: Any, application: Any, wat: Any) -> Gateway:
    """A gateway that has gone back from "new" to "old"; "new" lies there."""
    first: Gateway = several()
    first.follow()
    put(application.folder / "a.wasm", wat.spin(say("new")))
    first.reload("a", by="ada")
    until(lambda: counted(first, "obeyed") == 1)
    first.rollback("a", by="ada")
    until(lambda: counted(first, "obeyed") == 2)
    return first


def late(several: Any, **options: Any) -> Gateway:
    """A process that starts now, and gets a request."""
    gateway: Gateway = several(**options)
    gateway.follow()
    return gateway


def test_one_that_starts_later_goes_back_too(
    several: Any, rolled_back: Gateway, application: Any, wat: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    for watch in (False, True):
        gateway = late(several, watch=watch)
        assert ask(gateway, "/a") == (200, b"old")
        assert gateway._entries["a"].swaps == 1
        assert (counted(gateway, "obeyed"), counted(gateway, "failed")) == (1, 0)
        assert ask(gateway, "/b") == (200, b"b")
    with pytest.raises(HostError, match="no earlier guest"):
        rolled_back.rollback("a", by="ada")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    # until another file comes, or somebody wants it all the same
    put(application.folder / "a.wasm", wat.flat(say("newer")))
    gateway = late(several)
    assert ask(gateway, "/a") == (200, b"newer")
    assert (counted(gateway, "obeyed"), counted(gateway, "failed")) == (0, 0)
    put(application.folder / "a.wasm", wat.spin(say("new")))
    assert ask(late(several), "/a") == (200, b"old")
    rolled_back.reload(by="ada")
    until(lambda: ask(rolled_back, "/a") == (200, b"new"))
    assert ask(late(several), "/a") == (200, b"new")


def test_one_that_has_none_in_memory_goes_back_too(
    several: Any, application: Any, wat: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first, idle = late(several), several()  # the one loads it, the other begins to serve last of all
    put(application.folder / "a.wasm", wat.spin(say("new")))
    first.reload("a", by="ada")
    until(lambda: counted(first, "obeyed") == 1)
    second = late(several)
    assert ask(second, "/a") == (200, b"new")
    second.rollback("a", by="ada")
    until(lambda: ask(first, "/a") == ask(second, "/a") == (200, b"old"))
    idle.follow()
    assert (ask(idle, "/a"), counted(idle, "obeyed")) == ((200, b"old"), 1)
    assert idle._entries["a"].rejected == first._entries["a"].rejected is not None
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_what_was_rolled_back_does_not_come_with_a_manifest(
    several: Any, rolled_back: Gateway, application: Any, wat: Any, ask: Any
) -> None:
    part = application.part(wat.spin(say("new")), environment={"A": "b"})
    application.manifest({"a": part, "b": wat.flat(say("b"))})
    rolled_back.swaps.reload(None)  # by hand it does
    assert ask(rolled_back, "/a") == (200, b"new")
    gateway = late(several, watch=True)
    gateway._watcher.stop()
    assert ask(gateway, "/a") == (200, b"old")
    part = application.part(wat.spin(say("new")), environment={"A": "c"})
    application.manifest({"a": part, "b": wat.flat(say("b"))})
    for _ in range(2):
        gateway.swaps.look()
    entry = gateway._entries["a"]
    assert entry.component.environment == {"A": "c"}
    assert ask(gateway, "/a") == (200, b"old")
    with pytest.raises(HostError):
        gateway.rollback("a")
    assert ask(late(several), "/a") == (200, b"old")


def test_one_that_cannot_go_back(
    several: Any, rolled_back: Gateway, ask: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    for gateway in (late(several, disable_cache=True), late(several, cache_dir=tmp_path / "other")):
        assert ask(gateway, "/a") == (200, b"new")
        assert counted(gateway, "failed") == 1
        assert "was rolled back, and the one before it cannot be had" in gateway.describe()[0]["refused"]
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2
    assert "THE ONE THAT WAS ROLLED BACK ANSWERS" in caplog.text


def test_the_site_answers_for_one_that_cannot_go_back(
    several: Any, rolled_back: Gateway, application: Any, wat: Any, ask: Any, tmp_path: Path
) -> None:
    site = {"cache_dir": tmp_path / "other", "rules": {"a": {"fallback": ["link"]}}}
    gateway = late(several, watch=True, **site)
    gateway._watcher.stop()
    assert gateway._entries["a"].problem is not None
    assert (ask(gateway, "/a")[0], counted(gateway, "failed")) == (500, 1)  # who asks for it offers no other
    put(application.folder / "a.wasm", wat.spin(say("new")))
    for _ in range(2):
        gateway.swaps.look()
    assert ask(gateway, "/a")[0] == 500
    put(application.folder / "a.wasm", wat.flat(say("newer")))
    for _ in range(2):
        gateway.swaps.look()
    assert ask(gateway, "/a") == (200, b"newer")


def test_one_with_a_third_guest(
    several: Any, rolled_back: Gateway, application: Any, wat: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody has noted it: it was there when the process started."""
    put(application.folder / "a.wasm", wat.flat(say("third")))
    gateway = late(several)
    rolled_back.reload("b", by="ada")
    gateway.swaps.obey(next(order for order in orders(gateway.pilot.ledger.dials()) if order.back)).wait(60)
    assert "a has another guest than the one that was rolled back" in caplog.text
    assert (ask(gateway, "/a"), counted(gateway, "failed")) == ((200, b"third"), 1)


def test_an_order_of_an_earlier_version(several: Any, application: Any, wat: Any, ask: Any) -> None:
    gateway = late(several)
    put(application.folder / "a.wasm", wat.spin(say("new")))
    gateway.reload("a")
    gateway.pilot.ledger.turn(Order(Act.ROLLBACK, "a").change("ada"))
    until(lambda: ask(gateway, "/a") == (200, b"old"))


def test_a_ledger_that_takes_no_notes_for_a_while(
    several: Any,
    application: Any,
    wat: Any,
    ask: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway = late(several)
    put(application.folder / "a.wasm", wat.spin(say("new")))
    monkeypatch.delattr(SqliteLedger, "note")
    gateway.reload("a")
    assert ask(gateway, "/a") == (200, b"new")
    assert "component a cannot be rolled back to the guest before, for now" in caplog.text
    with pytest.raises(HostError):
        gateway.rollback("a", by="ada")
    monkeypatch.undo()
    gateway.pilot.flush()
    gateway.rollback("a", by="ada")
    until(lambda: ask(gateway, "/a") == (200, b"old"))


def test_the_ledger_is_followed_while_a_guest_compiles(several: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = several()
    gateway.follow()
    go = threading.Event()
    monkeypatch.setattr(gateway.swaps, "reload", lambda component: go.wait(60))
    gateway.reload("a", by="ada")
    other = SqliteLedger(gateway.options.ledger)
    other.turn(Change("a", {"mode": "native"}, "ada"))
    until(lambda: gateway.pilot.rule("a", "/a").mode == "native")
    go.set()
    other.close()


def test_a_gateway_that_closes_meanwhile(several: Any, caplog: pytest.LogCaptureFixture) -> None:
    gateway, other = several(), several()
    for each in (gateway, other):
        each.follow()
    other.reload("a", by="ada")
    gateway.close()
    assert gateway._entries is None
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_gateway_that_is_closed_by_the_thread_which_follows(several: Any) -> None:
    """As the garbage collector does it with one that nobody has any more."""
    gateway = several()
    gateway.follow()
    ended = threading.Event()

    def collecting() -> None:
        gateway.close()
        ended.set()

    gateway.pilot.look = collecting
    assert ended.wait(60)


def test_who_cannot_be_told(several: Any, application: Any, wat: Any) -> None:
    gateway = several()
    for act in (gateway.reload, gateway.rollback):
        with pytest.raises(ManifestError, match="no such component"):
            act("nobody", by="ada")
    alone = application(c=wat.flat(say("c")))
    with pytest.raises(HostError, match="there is none"):
        alone.reload("c", by="ada")
    # what cannot be loaded here is not ordered
    (application.folder / "a.wasm").write_bytes(b"garbage")
    gateway.close()
    with pytest.raises(ComponentError):
        gateway.reload("a", by="ada")


# The command, for a site whose own are not at hand


def test_wasm_gateway_reload_and_rollback(several: Any, application: Any, wat: Any, ask: Any) -> None:
    gateway = several()
    gateway.follow()
    put(application.folder / "a.wasm", wat.spin(say("new")))
    site = ["-f", str(gateway.manifest.path), "--ledger", str(gateway.options.ledger)]
    for command, expected in ((["reload", "a"], b"new"), (["rollback", "a"], b"old"), (["reload"], b"new")):
        result = CliRunner().invoke(cli, [*command, *site])
        assert (result.exit_code, "each process obeys" in result.output) == (0, True)
        until(lambda: ask(gateway, "/a") == (200, expected))  # noqa: B023
    none = CliRunner().invoke(cli, ["rollback", "b", *site])
    assert (none.exit_code, "'b' has no earlier guest" in none.output) == (1, True)
    result = CliRunner().invoke(cli, ["rollback", "c", *site])
    assert (result.exit_code, "no component 'c' (there are: a, b)" in result.output) == (1, True)
    nowhere = CliRunner().invoke(cli, ["reload", *site[:2], "--ledger", "nowhere.db"])
    assert (nowhere.exit_code, "there is no ledger" in nowhere.output) == (1, True)
