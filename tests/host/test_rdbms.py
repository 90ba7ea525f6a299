"""Connections that guests keep, on each kind of server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.sql_guests import Connected, failed
from wasm_gateway.component.values import Err
from wasm_gateway.component.wit import parse_interface
from wasm_gateway.errors import DeadlineExceeded, Trap
from wasm_gateway.host.base import Deadline
from wasm_gateway.host.limits import Held
from wasm_gateway.host.mysql import MySql
from wasm_gateway.host.network import Network
from wasm_gateway.host.postgres import Postgres
from wasm_gateway.host.rdbms import INTERFACES, RdbmsTypes

pytestmark = pytest.mark.services

# Interface, with what its functions have behind their names -> its family, the fixture of a server, what
# a connection is called by, what sleeps, how many do.
PG_ASLEEP = "count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
MYSQL_ASLEEP = "COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'"
KINDS: dict[str, tuple[Any, str, str, str, str]] = {
    "fermyon:spin/postgres@2": (
        Postgres,
        "postgres_server",
        "pg_backend_pid()",
        "SELECT pg_sleep(60)",
        PG_ASLEEP,
    ),
    "spin:postgres/postgres@4": (
        Postgres,
        "postgres_server",
        "pg_backend_pid()",
        "SELECT pg_sleep(60)",
        PG_ASLEEP,
    ),
    "spin:postgres/postgres@4 -async": (
        Postgres,
        "postgres_server",
        "pg_backend_pid()",
        "SELECT pg_sleep(60)",
        PG_ASLEEP,
    ),
    "fermyon:spin/mysql@2": (MySql, "mariadb_server", "CONNECTION_ID()", "SELECT SLEEP(60)", MYSQL_ASLEEP),
    "spin:mysql/mysql@3": (MySql, "mariadb_server", "CONNECTION_ID()", "SELECT SLEEP(60)", MYSQL_ASLEEP),
}


class Kind:
    """One kind of server, and guests of it."""

    def __init__(self, interface: str, address: str, family: Any, context: Callable[..., Any]) -> None:
        self.interface = interface
        self.address = address
        self.family = family
        self._context = context
        self._called, self.sleep, self.asleep = KINDS[interface][2:]

    @property
    def later(self) -> bool:
        """Whether its functions are asynchronous."""
        return self.interface.endswith(("-async", "mysql@3"))

    def context(self, **options: Any) -> Any:
        return self._context(allowed=[f"{self.address.partition(':')[0]}://127.0.0.1:*"], **options)

    def open(self, ctx: Any = None, address: str | None = None) -> Connected:
        interface, _, suffix = self.interface.partition(" ")
        return Connected(self.family, interface, ctx or self.context(), address or self.address, suffix)

    def name(self, guest: Connected) -> int:
        name: int = guest.value(self._called)[1]
        return name


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, network: Network, context: Callable[..., Any]) -> Iterator[Kind]:
    make, server, *_ = KINDS[request.param]
    family = make(network)
    yield Kind(request.param, request.getfixturevalue(server), family, context)
    family.close()


def test_the_types_are_an_interface() -> None:
    for name, text in INTERFACES.items():
        assert parse_interface(name.replace("@2", "@2.0.0"), text).types["row-set"]
        assert RdbmsTypes().functions(name) == {}


def test_a_connection_keeps_what_is_done_to_it(kind: Kind) -> None:
    guest = kind.open()
    guest.execute("CREATE TEMPORARY TABLE mine (a INTEGER)")
    assert not isinstance(guest.execute("INSERT INTO mine VALUES (5)"), Err)
    assert guest.value("a FROM mine") == ("int32", 5)


def test_what_is_done_to_a_connection_ends_with_it(kind: Kind) -> None:
    """Also where the guest leaves that to the end of its instance."""
    guest = kind.open()
    name = kind.name(guest)
    guest.execute("CREATE TEMPORARY TABLE mine (a INTEGER)")
    guest.drop()
    for leave in (Connected.drop, lambda guest: guest.ctx.run_closers()):
        guest = kind.open()
        assert kind.name(guest) == name  # the same one
        assert "mine" in str(failed(guest.query("SELECT * FROM mine")))
        guest.execute("CREATE TEMPORARY TABLE mine (a INTEGER)")
        leave(guest)


def test_connections_of_one_guest_are_different_ones(kind: Kind) -> None:
    ctx = kind.context()
    one, two = kind.open(ctx), kind.open(ctx)
    assert kind.name(one) != kind.name(two)
    one.drop()
    assert kind.name(two)
    with pytest.raises(Trap):
        one.query("SELECT 1")


def test_addresses_are_denied_by_default(kind: Kind, context: Callable[..., Any]) -> None:
    for ctx in (context(), context(allowed=["*://127.0.0.2:*"])):
        assert "not permitted" in failed(kind.open(ctx).conn, "connection-failed")
    failed(kind.open(address="nonsense").conn, "connection-failed")
    failed(kind.open(address=kind.address.replace("secret", "wrong")).conn, "connection-failed")
    failed(kind.open(address=kind.address + "?" + "a=b&" * 20_000).conn, "connection-failed")


def test_connections_are_limited(kind: Kind, network: Network) -> None:
    kind.family = type(kind.family)(network, max_connections=2)
    kind.family.client._pool._wait = 0.05
    one, two = kind.open(), kind.open()
    assert kind.open().conn == Err(("connection-failed", "too many connections"))
    one.drop()
    assert isinstance(kind.open(two.ctx).conn, int)
    two.ctx.run_closers()
    assert isinstance(kind.open().conn, int)
    kind.family.close()


def test_connections_of_an_instance_are_limited(kind: Kind) -> None:
    kind.family._connections = Held(kind.family._give, 2)
    ctx = kind.context()
    one = kind.open(ctx)
    kind.open(ctx)
    assert kind.open(ctx).conn == Err(("connection-failed", "too many connections"))
    assert isinstance(kind.open().conn, int)
    one.drop()
    assert isinstance(kind.open(ctx).conn, int)


def test_a_connection_that_broke_stays_so(kind: Kind) -> None:
    for seconds in (0.3, 3, 30):  # where nothing was even asked in that time there is more of it
        guest = kind.open()
        name = kind.name(guest)
        guest.ctx.deadline = Deadline(seconds)
        with pytest.raises(DeadlineExceeded):
            guest.query(kind.sleep)
        guest.ctx.deadline = Deadline(60)
        answer = None if kind.later else guest.query("SELECT 1")
        assert guest.ctx.run_closers() == []
        other = kind.name(kind.open())
        if other != name:
            break
    assert other != name
    assert kind.later or "closed" in str(failed(answer))


def test_a_call_that_is_cancelled_ends(kind: Kind) -> None:
    """As does its connection, in whose midst it was."""
    if not kind.later:
        pytest.skip("its calls cannot be cancelled")
    guest = kind.open()
    name, loop = kind.name(guest), guest.ctx.loop
    query = guest.functions["[method]connection.query" + guest.suffix]
    other = loop.spawn(guest.ctx.patient())
    # another test may have left one that sleeps
    sleep, asleep = kind.sleep.replace("(60)", "(61)"), kind.asleep.replace("%'", "(61)'")
    hosted = loop.spawn(query(guest.ctx, guest.conn, sleep, []))
    assert loop.step()
    watcher = kind.open()
    while watcher.value(asleep)[1] == 0:
        time.sleep(0.005)
    hosted.close()
    other.close()
    assert "closed" in str(failed(guest.query("SELECT 1")))
    guest.drop()
    assert kind.name(kind.open()) != name
    # PostgreSQL is told; MySQL notices some time that nobody is there any more
    while isinstance(kind.family, Postgres) and watcher.value(asleep)[1]:
        time.sleep(0.005)


def test_an_error_of_the_server_breaks_nothing(kind: Kind) -> None:
    guest = kind.open()
    failed(guest.query("SELEC"))
    failed(guest.execute("SELEC"))
    assert kind.name(guest)


def test_threads_have_connections_of_their_own(kind: Kind) -> None:
    names: list[int] = []
    together = threading.Barrier(4)

    def work() -> None:
        guest = kind.open()
        together.wait(60)
        names.append(kind.name(guest))
        guest.drop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 4
