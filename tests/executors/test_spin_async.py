"""Whole components of Spin 4: its asynchronous interfaces, called asynchronously and synchronously."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.executors.test_spin_resources import Text, Texts
from wasm_gateway.engine import Engine, wat2wasm
from wasm_gateway.errors import GuestError, LimitExceeded
from wasm_gateway.executors.component import Linked, link_component
from wasm_gateway.host import limits
from wasm_gateway.host.application import Hosts
from wasm_gateway.host.base import Deadline, Grants
from wasm_gateway.host.outbound import AllowedHosts
from wasm_gateway.instance import Instance, Limits
from wasm_gateway.manifest import Variable
from wasm_gateway.runtime_config import RuntimeConfig
from wasm_gateway.variables import ComponentVariables, Variables

KEY_VALUE = "spin:key-value/key-value@3.0.0"
VARIABLES = "spin:variables/variables@3.0.0"
SQLITE = "spin:sqlite/sqlite@3.1.0"
REDIS = "spin:redis/redis@3.0.0"
MQTT = "spin:mqtt/mqtt@3.0.0"
MYSQL = "spin:mysql/mysql@3.0.0"
POSTGRES = "spin:postgres/postgres@4.2.0"

# Addresses: 16 to 511 results, 512 to 1023 parameters, 1024 texts.
# Where the result at {at} is an error: the number of its case.
FAIL = """(if (i32.load8_u (i32.const {at})) (then
  (i32.store8 (i32.const 900) (i32.add (i32.const 48) (i32.load8_u (i32.const {error}))))
  (call $task.return (i32.const 900) (i32.const 1)) (return (i32.const 0))))"""
ENDS = '(alias export $i0 "error" (type $error)) (type $end (future (result (error $error))))'


def fail(at: int, error: int | None = None) -> str:
    return FAIL.format(at=at, error=at + 4 if error is None else error)


def awaited(call: str) -> str:
    return f"(call $await {call})"


def arguments(at: int, *values: str | Text) -> str:
    """Where a call has more arguments than an asynchronous one takes: they are put into memory, as i32."""
    flat = [
        part for value in values for part in ([value.at, value.size] if isinstance(value, Text) else [value])
    ]
    return " ".join(f"(i32.store (i32.const {at + 4 * i}) {part})" for i, part in enumerate(flat))


class Guests:
    """Makes and runs components with a function `run`."""

    def __init__(self, components: Any) -> None:
        self.components = components
        self.hosts = Hosts(RuntimeConfig())

    def link(self, body: str, uses: Any, text: Texts | None = None, **more: Any) -> Linked:
        wasm = self.components.task(body, uses, "" if text is None else text.data, **more)
        return link_component(wasm, Engine.shared(), None, self.hosts)

    def instance(self, linked: Linked, seconds: float = 120.0, **grants: Any) -> Instance:
        granted = Grants("guest", **grants)
        return Instance(linked.program, granted, Deadline(seconds), Limits(1 << 24, 10_000), None)  # type: ignore[arg-type]

    def run(self, body: str, uses: Any, text: Texts | None = None, *, grants: Any = None, **more: Any) -> Any:
        linked = self.link(body, uses, text, **more)
        with self.instance(linked, **(grants or {})) as instance:
            return linked.functions["", "run"](instance)


@pytest.fixture
def guests(components: Any) -> Iterator[Guests]:
    made = Guests(components)
    yield made
    made.hosts.close()


def beneath(url: str) -> dict[str, Any]:
    """The grant of the server at `url`."""
    scheme, _, rest = url.partition("://")
    return {"outbound": AllowedHosts([f"{scheme}://127.0.0.1:{rest.rpartition(':')[2].partition('/')[0]}"])}


def names(resource: str, *methods: str, later: bool = True) -> tuple[str, ...]:
    mark = "async " if later else ""
    return tuple(
        mark + (f"[static]{resource}.open" if name == "open" else f"[method]{resource}.{name}")
        for name in methods
    )


@pytest.mark.parametrize("later", [True, False])
def test_key_value(guests: Guests, tmp_path: Path, later: bool) -> None:
    """A value, and the keys: a stream, and what is at its end."""
    guests.hosts = Hosts(RuntimeConfig(), state_dir=tmp_path)
    text = Texts()
    label, key, value = text("default"), text("the key"), text("a value")
    on = "async." if later else ""

    def call(name: str, rest: str, result: int) -> str:
        called = f"(call ${on}store.{name} {rest} (i32.const {result}))"
        return awaited(called) if later else called

    body = f"""(local $store i32)
      {call("open", str(label), 16)}
      {fail(16)}
      (local.set $store (i32.load (i32.const 20)))
      {
        f'''{arguments(512, "(local.get $store)", key, value)}
      (call $await (call $async.store.set (i32.const 512) (i32.const 32)))'''
        if later
        else call("set", f"(local.get $store) {key} {value}", 32)
    }
      {fail(32)}
      {call("exists", f"(local.get $store) {key}", 48)}
      {fail(48)}
      (if (i32.eqz (i32.load8_u (i32.const 52))) (then unreachable))
      {call("get-keys", "(local.get $store)", 64)}
      (if (i32.ne (call $read.keys (i32.load (i32.const 64)) (i32.const 80) (i32.const 4)) (i32.const 16))
        (then unreachable))
      (if (i32.ne (call $read.keys (i32.load (i32.const 64)) (i32.const 96) (i32.const 4)) (i32.const 1))
        (then unreachable))
      (if (call $read.end (i32.load (i32.const 68)) (i32.const 112)) (then unreachable))
      (if (i32.load8_u (i32.const 112)) (then unreachable))
      {call("get", "(local.get $store) (i32.load (i32.const 80)) (i32.load (i32.const 84))", 128)}
      {fail(128)}
      (call $task.return (i32.load (i32.const 136)) (i32.load (i32.const 140)))"""
    uses = {KEY_VALUE: names("store", "open", "set", "exists", "get-keys", "get", later=later)}
    types = f"(type $keys (stream string)) {ENDS}"
    reads = {"stream": ("keys",), "future": ("end",)}
    granted = {"key_value_stores": frozenset({"default"})}
    assert guests.run(body, uses, text, types=types, reads=reads, grants=granted) == "a value"
    assert guests.run(body, uses, text, types=types, reads=reads) == "2"


@pytest.mark.parametrize("waits", [True, False])
def test_arguments_of_calls_under_way_are_kept(
    guests: Guests, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, waits: bool
) -> None:
    """A guest that begins 200 calls with 64 KiB each and waits for none, or for each."""
    guests.hosts = Hosts(RuntimeConfig(), state_dir=tmp_path)
    monkeypatch.setattr(limits, "MAX_KEPT_BYTES", 4 << 20)
    text = Texts()
    label, key = text("default"), text("the key")
    begin = "(call $async.store.set (i32.const 512) (i32.const 32))"
    body = f"""(local $i i32)
      (call $await (call $async.store.open {label} (i32.const 16)))
      {arguments(512, "(i32.load (i32.const 20))", key, "(i32.const 0)", "(i32.const 65536)")}
      (loop $more
        {awaited(begin) if waits else f"(drop {begin})"}
        (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 200))))
      (call $task.return (i32.const 0) (i32.const 1))"""
    uses = {KEY_VALUE: names("store", "open", "set")}
    grants = {"key_value_stores": frozenset({"default"})}
    if waits:
        assert guests.run(body, uses, text, grants=grants) == "\0"
    else:
        with pytest.raises(LimitExceeded, match="are kept for the guest"):
            guests.run(body, uses, text, grants=grants)


@pytest.mark.parametrize("later", [True, False])
def test_variables(guests: Guests, later: bool) -> None:
    text = Texts()
    name = text("color")
    called = f"(call ${'async.' if later else ''}get {name} (i32.const 16))"
    body = f"""{awaited(called) if later else called}
      {fail(16)}
      (call $task.return (i32.load (i32.const 20)) (i32.load (i32.const 24)))"""
    uses = {VARIABLES: ("async get" if later else "get",)}
    variables = ComponentVariables(Variables({"c": Variable("c", default="red")}), {"color": "{{ c }}"})
    assert guests.run(body, uses, text, grants={"variables": variables}) == "red"
    assert guests.run(body, uses, text) == "1"


def test_sqlite(guests: Guests, tmp_path: Path) -> None:
    """Rows come as a stream, and a mistake at its end; synchronous functions share the connection."""
    guests.hosts = Hosts(RuntimeConfig(), state_dir=tmp_path)
    text = Texts()
    label, wrong = text("default"), text("SELEC")
    create, select = text("CREATE TABLE t AS SELECT 'a row' AS a"), text("SELECT a FROM t UNION SELECT 'b'")

    def execute(statement: Text, result: int) -> str:
        return f"""{arguments(512, "(local.get $db)", statement, "(i32.const 0)", "(i32.const 0)")}
      (call $await (call $async.connection.execute-async (i32.const 512) (i32.const {result})))
      {fail(result)}"""

    body = f"""(local $db i32) (local $row i32)
      {awaited(f"(call $async.connection.open-async {label} (i32.const 16))")}
      {fail(16)}
      (local.set $db (i32.load (i32.const 20)))
      (call $connection.execute (local.get $db) {create} (i32.const 0) (i32.const 0) (i32.const 32))
      {fail(32)}
      {execute(wrong, 64)}
      (if (i32.load (i32.const 72)) (then unreachable))
      (if (i32.ne (call $read.rows (i32.load (i32.const 76)) (i32.const 96) (i32.const 4)) (i32.const 1))
        (then unreachable))
      (if (call $read.end (i32.load (i32.const 80)) (i32.const 112)) (then unreachable))
      (if (i32.ne (i32.load8_u (i32.const 112)) (i32.const 1)) (then unreachable))
      (if (i32.ne (i32.load8_u (i32.const 116)) (i32.const 4)) (then unreachable))
      {execute(select, 64)}
      (if (i32.ne (i32.load (i32.const 72)) (i32.const 1)) (then unreachable))
      (if (i32.ne (call $read.rows (i32.load (i32.const 76)) (i32.const 96) (i32.const 1)) (i32.const 16))
        (then unreachable))
      (if (i32.ne (call $read.rows (i32.load (i32.const 76)) (i32.const 104) (i32.const 9)) (i32.const 16))
        (then unreachable))
      (if (call $read.end (i32.load (i32.const 80)) (i32.const 112)) (then unreachable))
      (if (i32.load8_u (i32.const 112)) (then unreachable))
      (call $await (call $async.connection.changes-async (local.get $db) (i32.const 128)))
      (call $await (call $async.connection.last-insert-rowid-async (local.get $db) (i32.const 136)))
      (local.set $row (i32.load (i32.const 96)))
      (if (i32.ne (i32.load8_u (local.get $row)) (i32.const 2)) (then unreachable))
      (call $drop.connection (local.get $db))
      (call $task.return (i32.load offset=8 (local.get $row)) (i32.load offset=12 (local.get $row)))"""
    later = names("connection", "execute-async", "last-insert-rowid-async", "changes-async")
    uses = {
        SQLITE: (
            "async [static]connection.open-async",
            "[method]connection.execute",
            *later,
            "[resource-drop]connection",
        )
    }
    types = f'(alias export $i0 "row-result" (type $row)) (type $rows (stream $row)) {ENDS}'
    reads = {"stream": ("rows",), "future": ("end",)}
    granted = {"sqlite_databases": frozenset({"default"})}
    assert guests.run(body, uses, text, types=types, reads=reads, grants=granted) == "a row"
    assert guests.run(body, uses, text, types=types, reads=reads) == "1"


services = pytest.mark.services


@services
@pytest.mark.parametrize("later", [True, False])
def test_redis(guests: Guests, redis_server: str, later: bool) -> None:
    text = Texts()
    address, key, value = text(redis_server), text("spin-4"), text("a value")
    on = "async." if later else ""

    def call(name: str, rest: str, result: int) -> str:
        called = f"(call ${on}connection.{name} {rest} (i32.const {result}))"
        return awaited(called) if later else called

    body = f"""(local $redis i32)
      {call("open", str(address), 16)}
      {fail(16)}
      (local.set $redis (i32.load (i32.const 20)))
      {
        f'''{arguments(512, "(local.get $redis)", key, value)}
      (call $await (call $async.connection.set (i32.const 512) (i32.const 32)))'''
        if later
        else call("set", f"(local.get $redis) {key} {value}", 32)
    }
      {fail(32)}
      {call("get", f"(local.get $redis) {key}", 48)}
      {fail(48)}
      (if (i32.eqz (i32.load8_u (i32.const 52))) (then unreachable))
      (call $drop.connection (local.get $redis))
      (call $task.return (i32.load (i32.const 56)) (i32.load (i32.const 60)))"""
    uses = {REDIS: (*names("connection", "open", "set", "get", later=later), "[resource-drop]connection")}
    assert guests.run(body, uses, text, grants=beneath(redis_server)) == "a value"
    assert guests.run(body, uses, text) == "0"


@services
def test_calls_of_one_guest_are_under_way_together(guests: Guests, redis_server: str) -> None:
    """One waits for what the other brings."""
    text = Texts()
    address, key, value = text(redis_server), text("spin-4-list"), text("brought")
    pop, push = text("BLPOP"), text("RPUSH")
    body = f"""(local $one i32) (local $two i32) (local $popping i32)
      {awaited(f"(call $async.connection.open {address} (i32.const 16))")}
      {fail(16)}
      (local.set $one (i32.load (i32.const 20)))
      {awaited(f"(call $async.connection.open {address} (i32.const 16))")}
      {fail(16)}
      (local.set $two (i32.load (i32.const 20)))
      (i32.store8 (i32.const 600) (i32.const 1))
      (i32.store (i32.const 608) {key.at}) (i32.store (i32.const 612) {key.size})
      {arguments(512, "(local.get $one)", pop, "(i32.const 600)", "(i32.const 2)")}
      (local.set $popping (call $async.connection.execute (i32.const 512) (i32.const 32)))
      (i32.store8 (i32.const 640) (i32.const 1))
      (i32.store (i32.const 648) {key.at}) (i32.store (i32.const 652) {key.size})
      (i32.store8 (i32.const 656) (i32.const 1))
      (i32.store (i32.const 664) {value.at}) (i32.store (i32.const 668) {value.size})
      {arguments(512, "(local.get $two)", push, "(i32.const 640)", "(i32.const 2)")}
      (call $await (call $async.connection.execute (i32.const 512) (i32.const 48)))
      {fail(48)}
      (call $await (local.get $popping))
      {fail(32)}
      (local.set $one (i32.load (i32.const 36)))
      (call $task.return (i32.load offset=24 (local.get $one)) (i32.load offset=28 (local.get $one)))"""
    uses = {REDIS: names("connection", "open", "execute")}
    assert guests.run(body, uses, text, grants=beneath(redis_server)) == "brought"


@services
@pytest.mark.parametrize(
    ("interface", "server", "suffix", "statement", "case"),
    [
        (POSTGRES, "postgres_server", "-async", "SELECT 'a ' || $1::text", 7),
        (MYSQL, "mariadb_server", "", "SELECT CONCAT('a ', ?)", 11),
    ],
)
def test_relational_databases(
    guests: Guests,
    request: pytest.FixtureRequest,
    interface: str,
    server: str,
    suffix: str,
    statement: str,
    case: int,
) -> None:
    """Rows come as a stream; the connection is left to the end of the instance."""
    url: str = request.getfixturevalue(server)
    text = Texts()
    address, select, value = text(url), text(statement), text("string")

    def call(name: str, statement: Text, result: int) -> str:
        return f"""{arguments(512, "(local.get $db)", statement, "(i32.const 600)", "(i32.const 1)")}
      (call $await (call $async.connection.{name}{suffix} (i32.const 512) (i32.const {result})))"""

    columns = 208
    body = f"""(local $db i32) (local $row i32)
      {awaited(f"(call $async.connection.open{suffix} {address} (i32.const 16))")}
      {fail(16)}
      (local.set $db (i32.load (i32.const 20)))
      (i32.store8 (i32.const 600) (i32.const {case}))
      (i32.store (i32.const 608) {value.at}) (i32.store (i32.const 612) {value.size})
      {call("execute", select, 96)}
      {fail(96, 104 if suffix else 100)}
      {call("query", select, 200)}
      (if (i32.load8_u (i32.const 200)) (then unreachable))
      (if (i32.ne (i32.load (i32.const {columns})) (i32.const 1)) (then unreachable))
      (if (i32.ne (call $read.rows (i32.load (i32.const {columns + 4})) (i32.const 304) (i32.const 4))
        (i32.const 16)) (then unreachable))
      (if (call $read.end (i32.load (i32.const {columns + 8})) (i32.const 320)) (then unreachable))
      (if (i32.load8_u (i32.const 320)) (then unreachable))
      (local.set $row (i32.load (i32.const 304)))
      (call $task.return (i32.load offset=8 (local.get $row)) (i32.load offset=12 (local.get $row)))"""
    uses = {
        interface: names("connection", "open" if not suffix else "", f"query{suffix}", f"execute{suffix}")
    }
    if suffix:
        uses = {
            interface: (
                "async [static]connection.open-async",
                *names("connection", "query-async", "execute-async"),
            )
        }
    types = f'(alias export $i0 "db-value" (type $value)) (type $rows (stream (list $value))) {ENDS}'
    reads = {"stream": ("rows",), "future": ("end",)}
    assert guests.run(body, uses, text, types=types, reads=reads, grants=beneath(url)) == "a string"
    assert guests.run(body, uses, text, types=types, reads=reads) == "0"


@services
def test_mqtt(guests: Guests, mosquitto_server: str, mqtt_messages: Any) -> None:
    text = Texts()
    address, topic, payload = text(mosquitto_server), text("spin/4"), text("a payload")
    nothing = ("(i32.const 0)", "(i32.const 0)")
    body = f"""(local $mqtt i32)
      {arguments(512, address, *nothing, *nothing)} (i64.store (i32.const 536) (i64.const 30))
      (call $await (call $async.connection.open (i32.const 512) (i32.const 16)))
      {fail(16)}
      (local.set $mqtt (i32.load (i32.const 20)))
      {arguments(512, "(local.get $mqtt)", topic, payload, "(i32.const 2)")}
      (call $await (call $async.connection.publish (i32.const 512) (i32.const 32)))
      {fail(32)}
      (call $task.return {topic})"""
    uses = {MQTT: names("connection", "open", "publish")}
    assert guests.run(body, uses, text, grants=beneath(mosquitto_server)) == "spin/4"
    assert mqtt_messages.get(timeout=60) == ("spin/4", b"a payload", 2)
    assert guests.run(body, uses, text) == "2"


# What an older minor version calls


@pytest.mark.parametrize("version", ["3.0.0", "3.1.0"])
def test_guests_of_older_versions_of_sqlite(guests: Guests, version: str) -> None:
    text = Texts()
    label = text("default")
    body = f"""(call $connection.open {label} (i32.const 16))
      {fail(16)}
      (call $task.return (i32.const 0) (i32.const 0))"""
    uses = {f"spin:sqlite/sqlite@{version}": ("[static]connection.open",)}
    assert guests.run(body, uses, text) == "1"


# Calls that end early

POPPING = """(local $redis i32) (local $popping i32)
  {open}
  {fail}
  (local.set $redis (i32.load (i32.const 20)))
  (i32.store8 (i32.const 600) (i32.const 1))
  (i32.store (i32.const 608) {key.at}) (i32.store (i32.const 612) {key.size})
  (i64.store (i32.const 624) (i64.const 0))
  {arguments}
  (local.set $popping (call $async.connection.execute (i32.const 512) (i32.const 32)))
  {rest}
  (call $task.return (i32.const 0) (i32.const 0))"""
CANCEL = """(if (i32.ne (call $subtask.cancel (i32.shr_u (local.get $popping) (i32.const 4))) (i32.const 4))
    (then unreachable))
  (call $subtask.drop (i32.shr_u (local.get $popping) (i32.const 4)))
  (call $drop.connection (local.get $redis))"""


@services
@pytest.mark.parametrize("rest", [CANCEL, ""], ids=["cancelled", "left"])
def test_a_call_that_nobody_waits_for_ends(guests: Guests, redis_server: str, rest: str) -> None:
    """And its connection with it: the guest cancels the call, or it ends itself meanwhile."""
    text = Texts()
    address, key, pop = text(redis_server), text("spin-4-nothing"), text("BLPOP")
    body = POPPING.format(
        open=awaited(f"(call $async.connection.open {address} (i32.const 16))"),
        fail=fail(16),
        key=key,
        arguments=arguments(512, "(local.get $redis)", pop, "(i32.const 600)", "(i32.const 2)"),
        rest=rest,
    )
    uses = {REDIS: (*names("connection", "open", "execute"), "[resource-drop]connection")}
    assert guests.run(body, uses, text, grants=beneath(redis_server)) == ""
    (entry,) = guests.hosts._families["redis"].client._pool._entries.values()
    give_up = time.monotonic() + 60
    while entry.used and time.monotonic() < give_up:
        time.sleep(0.001)
    assert (entry.used, entry.idle) == (0, [])


# Messages of Redis

MESSAGES = """
[[trigger.redis]]
channel = "a"
component = "a"
address = "redis://127.0.0.1:1"
"""


@pytest.mark.parametrize("later", [True, False])
def test_a_handler_of_redis_messages(application: Any, components: Any, later: bool) -> None:
    """It refuses what begins with "x"; also one that is lifted synchronously."""
    given = "(i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)"
    refused = "(i32.const 1) (i32.const 3) (i32.const 8) (i32.const 4)"
    is_x = "(i32.eq (i32.load8_u (local.get 0)) (i32.const 120))"
    if later:
        body = f"""(if {is_x} (then (call $task.return {refused})) (else (call $task.return {given})))
          (i32.const 0)"""
    else:
        body = f"""(i32.store8 (i32.const 16) {is_x}) (i32.store8 (i32.const 20) (i32.const 3))
          (i32.store (i32.const 24) (i32.const 8)) (i32.store (i32.const 28) (i32.const 4)) (i32.const 16)"""
    core = f"""(data (i32.const 8) "what")
      (func (export "back") (param i32 i32 i32) (result i32) unreachable)
      (func (export "handle") (param i32 i32) (result i32) {body})"""
    types = """(alias export $i0 "error" (type $error))
      (core func $task.return (canon task.return (result (result (error $error))) (memory $memory)))"""
    options = "async (callback $callback)" if later else ""
    export = f"""(alias core export $core "handle" (core func $exported))
      (alias core export $core "back" (core func $callback))
      (func $lifted async (param "message" (list u8)) (result (result (error $error)))
        (canon lift (core func $exported) (memory $memory) (realloc $realloc) {options}))
      (instance $handler (export "handle-message" (func $lifted)))
      (export "spin:redis/inbound-redis@3.0.0" (instance $handler))"""
    signatures = {"task.return": "(param i32 i32 i32 i32)"}
    uses = {REDIS: ("async [method]connection.publish",)}
    wasm = wat2wasm(components.text(core, uses, export, builtins=types, signatures=signatures).encode())
    gateway = application(a=application.part(wasm, triggers=MESSAGES))
    gateway.handle_redis("a", b"a message")
    with pytest.raises(GuestError, match=r"refused the message: \('other', 'what'\)"):
        gateway.handle_redis("a", b"x")
    [statistics] = gateway.stats()
    assert (statistics.dialect, statistics.started, statistics.failed) == ("spin-redis", 2, 1)
