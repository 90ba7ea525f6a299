"""Orders to all processes about their guests: what a ledger says of them, and when a process obeys."""

from __future__ import annotations

import logging
import threading
import time
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
from wasm_gateway.migration.orders import Act, Order, orders

# What is ordered


def test_an_order_is_a_dial(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.db")
    given = [Order(Act.ROLLBACK, "b", 3), Order(Act.RELOAD, None, 2), Order(Act.RELOAD, "a", 1)]
    for order in given:
        ledger.turn(order.change("ada"))
    assert list(orders(ledger.dials())) == given[::-1]
    ledger.turn(Order(Act.ROLLBACK, "a", 4).change("ada"))
    assert [order.generation for order in orders(ledger.dials())] == [2, 3, 4]
    assert ledger.changes()[0].by == "ada"
    ledger.close()


@pytest.mark.parametrize(
    "values",
    [{}, {"act": "dance", "generation": 1}, {"act": "reload"}, {"act": ["reload"], "generation": "x"}],
)
def test_what_another_version_has_written(values: Any) -> None:
    assert list(orders({"guest:a": values, "a": {"act": "reload", "generation": 1}})) == []


# Who obeys


@pytest.fixture
def several(
    application: Any, wat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Gateway]]:
    """A function that gives one more gateway of the same folder and ledger, as other processes are."""
    monkeypatch.setattr(pilots, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(pilots, "FIRST_LOOK_SECONDS", 60.0)
    made: list[Gateway] = []
    manifest = application.manifest({"a": wat.flat(say("old")), "b": wat.flat(say("b"))})

    def make() -> Gateway:
        made.append(application.gateway(manifest, ledger=tmp_path / "ledger.db").open())
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
    gateways[1].rollback("a", by="ada")
    until(lambda: all(counted(gateway, "failed") == 2 for gateway in gateways))
    assert "no earlier guest" in caplog.text


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


def test_one_that_starts_later_does_not_obey_what_is_past(
    several: Any, application: Any, wat: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first = several()
    first.follow()
    put(application.folder / "a.wasm", wat.spin(say("new")))
    first.reload("a", by="ada")
    until(lambda: counted(first, "obeyed") == 1)
    first.rollback("a", by="ada")
    until(lambda: counted(first, "obeyed") == 2)
    caplog.clear()
    late = several()
    late.follow()
    assert (counted(late, "obeyed"), counted(late, "failed")) == (0, 0)
    assert "component a was rolled back, and this process" in caplog.text
    # the old file is back, and nothing is to be said
    time.sleep(0.01)
    put(application.folder / "a.wasm", wat.flat(say("old")))
    caplog.clear()
    several().follow()
    assert "rolled back" not in caplog.text


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
    result = CliRunner().invoke(cli, ["rollback", "c", *site])
    assert (result.exit_code, "no component 'c' (there are: a, b)" in result.output) == (1, True)
    nowhere = CliRunner().invoke(cli, ["reload", *site[:2], "--ledger", "nowhere.db"])
    assert (nowhere.exit_code, "there is no ledger" in nowhere.output) == (1, True)
