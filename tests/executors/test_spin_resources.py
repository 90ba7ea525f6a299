"""Whole components that use the stores, databases and variables of the application, and servers outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wasm_gateway import Gateway
from wasm_gateway.messages import Headers, Request
from wasm_gateway.runtime_config import OutboundMqtt, RuntimeConfig

KEY_VALUE = "fermyon:spin/key-value@2.0.0"
WASI_STORE = "wasi:keyvalue/store@0.2.0-draft2"
WASI_BATCH = "wasi:keyvalue/batch@0.2.0-draft2"
WASI_ATOMICS = "wasi:keyvalue/atomics@0.2.0-draft2"
VARIABLES = "fermyon:spin/variables@2.0.0"
WASI_CONFIG = "wasi:config/store@0.2.0-draft-2024-09-27"
LLM = "fermyon:spin/llm@2.0.0"

# Addresses: 16 to 511 results, 512 to 1023 parameters, 1024 texts.
SAY = "(call $answer (local.get $out) (i32.const 200) {} {})"
FAIL = """(if (i32.load8_u (i32.const {at})) (then
  (call $answer (local.get $out) (i32.add (i32.const 400) (i32.load8_u (i32.const {error})))
    (i32.const 0) (i32.const 0)) (return)))"""


def fail(at: int, error: int | None = None) -> str:
    """Where the result at `at` is an error, answer with 400 and the number of its case."""
    return FAIL.format(at=at, error=at + 4 if error is None else error)


class Text:
    """As an argument its address and length: `{text}`."""

    def __init__(self, at: int, size: int) -> None:
        self.at = f"(i32.const {at})"
        self.size = f"(i32.const {size})"

    def __str__(self) -> str:
        return f"{self.at} {self.size}"


class Texts:
    """Data segments: `texts("abc")` makes one."""

    def __init__(self) -> None:
        self.data = ""
        self.top = 1024

    def __call__(self, text: str) -> Text:
        at, self.top = self.top, self.top + len(text)
        self.data += f'(data (i32.const {at}) "{text}")'
        return Text(at, len(text))


Serve = Callable[..., Gateway]


@pytest.fixture
def serve(application: Any, components: Any) -> Serve:
    """`serve(body, uses, texts, keys of the component)` is a gateway with a component `a`."""

    def serve(
        body: str, uses: Any, text: Texts, *, extra: str = "", options: Any = None, **keys: Any
    ) -> Gateway:
        wasm = components.http(body, uses, data=text.data)
        gateway: Gateway = application(extra, options, a=application.part(wasm, **keys))
        return gateway

    return serve


def get(gateway: Gateway) -> tuple[int, bytes]:
    response = gateway.handle(Request("GET", "/a", None, Headers(), (), authority="x"))
    assert response is not None
    return response.status, b"".join(response.body)


def key_value_guest(text: Texts) -> str:
    """Sets "seen" to what "preset" is, and answers with "seen"."""
    label, preset, seen = text("default"), text("preset"), text("seen")
    return f"""(local $store i32)
      (call $store.open {label} (i32.const 16))
      {fail(16)}
      (local.set $store (i32.load (i32.const 20)))
      (call $store.get (local.get $store) {preset} (i32.const 32))
      {fail(32)}
      (if (i32.eqz (i32.load8_u (i32.const 36))) (then unreachable))
      (call $store.set (local.get $store) {seen} (i32.load (i32.const 40)) (i32.load (i32.const 44))
        (i32.const 48))
      {fail(48)}
      (call $store.get (local.get $store) {seen} (i32.const 64))
      (call $drop.store (local.get $store))
      {SAY.format("(i32.load (i32.const 72))", "(i32.load (i32.const 76))")}"""


KEY_VALUE_USES = {
    KEY_VALUE: (*("[static]store.open", "[method]store.get", "[method]store.set", "[resource-drop]store"),)
}


def test_key_value(serve: Serve) -> None:
    text = Texts()
    gateway = serve(
        key_value_guest(text),
        KEY_VALUE_USES,
        text,
        options={"key_value": {"preset": "a value"}},
        key_value_stores=["default"],
    )
    assert get(gateway) == (200, b"a value")
    assert get(gateway) == (200, b"a value")


def test_key_value_is_denied_by_default(serve: Serve) -> None:
    text = Texts()
    assert get(serve(key_value_guest(text), KEY_VALUE_USES, text)) == (402, b"")


def test_wasi_keyvalue(serve: Serve) -> None:
    """A swap that another write comes before, one that is not disturbed; a counter; a batch."""
    text = Texts()
    label, key, counter = text("default"), text("k"), text("n")
    other, mine = text("other"), text("mine")
    body = f"""(local $bucket i32) (local $cas i32)
      (call $open {label} (i32.const 16))
      {fail(16)}
      (local.set $bucket (i32.load (i32.const 20)))
      (call $cas.new (local.get $bucket) {key} (i32.const 32))
      {fail(32)}
      (local.set $cas (i32.load (i32.const 36)))
      (call $cas.current (local.get $cas) (i32.const 48))
      {fail(48)}
      (call $bucket.set (local.get $bucket) {key} {other} (i32.const 64))
      (call $swap (local.get $cas) {mine} (i32.const 80))
      (if (i32.ne (i32.load8_u (i32.const 84)) (i32.const 1)) (then unreachable))
      (local.set $cas (i32.load (i32.const 88)))
      (call $cas.current (local.get $cas) (i32.const 96))
      (if (i32.ne (i32.load8_u (i32.load (i32.const 104))) (i32.const {ord("o")})) (then unreachable))
      (call $swap (local.get $cas) {mine} (i32.const 112))
      {fail(112)}
      (call $increment (local.get $bucket) {counter} (i64.const 40) (i32.const 128))
      (call $increment (local.get $bucket) {counter} (i64.const 2) (i32.const 128))
      (if (i64.ne (i64.load (i32.const 136)) (i64.const 42)) (then unreachable))
      (i32.store (i32.const 512) {key.at})
      (i32.store (i32.const 516) {key.size})
      (call $get-many (local.get $bucket) (i32.const 512) (i32.const 1) (i32.const 144))
      {fail(144)}
      (if (i32.ne (i32.load (i32.const 152)) (i32.const 1)) (then unreachable))
      (call $drop.bucket (local.get $bucket))
      {
        SAY.format(
            "(i32.load offset=12 (i32.load (i32.const 148)))",
            "(i32.load offset=16 (i32.load (i32.const 148)))",
        )
    }"""
    uses = {
        WASI_STORE: ("open", "[method]bucket.set", "[resource-drop]bucket"),
        WASI_ATOMICS: ("[static]cas.new", "[method]cas.current", "swap", "increment"),
        WASI_BATCH: ("get-many",),
    }
    assert get(serve(body, uses, text, key_value_stores=["default"])) == (200, b"mine")
    assert get(serve(body, uses, text)) == (401, b"")


def sqlite_guest(text: Texts, version: int) -> str:
    label, create = text("default"), text("CREATE TABLE IF NOT EXISTS t (a TEXT)")
    insert, select = text("INSERT INTO t VALUES (?)"), text("SELECT a FROM t")
    value = text("from a guest")
    counts = """
      (if (i64.ne (call $connection.last-insert-rowid (local.get $db)) (i64.const 1)) (then unreachable))
      (if (i64.ne (call $connection.changes (local.get $db)) (i64.const 1)) (then unreachable))"""
    return f"""(local $db i32)
      (call $connection.open {label} (i32.const 16))
      {fail(16)}
      (local.set $db (i32.load (i32.const 20)))
      (call $connection.execute (local.get $db) {create} (i32.const 0) (i32.const 0) (i32.const 32))
      {fail(32)}
      (i32.store8 (i32.const 512) (i32.const 2))
      (i32.store (i32.const 520) {value.at})
      (i32.store (i32.const 524) {value.size})
      (call $connection.execute (local.get $db) {insert} (i32.const 512) (i32.const 1) (i32.const 64))
      {fail(64)}
      {counts if version == 3 else ""}
      (call $connection.execute (local.get $db) {select} (i32.const 0) (i32.const 0) (i32.const 96))
      {fail(96)}
      (call $drop.connection (local.get $db))
      {
        SAY.format(
            "(i32.load offset=8 (i32.load (i32.load (i32.const 108))))",
            "(i32.load offset=12 (i32.load (i32.load (i32.const 108))))",
        )
    }"""


SQLITE = ("[static]connection.open", "[method]connection.execute", "[resource-drop]connection")
COUNTS = ("[method]connection.last-insert-rowid", "[method]connection.changes")


@pytest.mark.parametrize(
    ("interface", "functions"),
    [
        ("fermyon:spin/sqlite@2.0.0", SQLITE),
        ("spin:sqlite/sqlite@3.0.0", SQLITE + COUNTS),
        ("spin:sqlite/sqlite@3.1.0", SQLITE + COUNTS),
    ],
)
def test_sqlite(serve: Serve, tmp_path: Path, interface: str, functions: tuple[str, ...]) -> None:
    text = Texts()
    body = sqlite_guest(text, 3 if functions is not SQLITE else 2)
    uses = {interface: functions}
    state = {"state_dir": tmp_path / "state"}
    gateway = serve(body, uses, text, sqlite_databases=["default"], options=state)
    assert get(gateway) == (200, b"from a guest")
    gateway.close()
    assert (tmp_path / "state" / "sqlite_db.db").stat().st_size
    assert get(serve(body, uses, text)) == (401, b"")


def test_variables(serve: Serve) -> None:
    text = Texts()
    name = text("greeting")
    body = f"""(call $get {name} (i32.const 16)) {fail(16)}
      {SAY.format("(i32.load (i32.const 20))", "(i32.load (i32.const 24))")}"""
    extra = '[variables]\nwho = { default = "you" }\n'
    uses = {VARIABLES: ("get",)}
    gateway = serve(body, uses, text, extra=extra, variables={"greeting": "hello {{ who }}"})
    assert get(gateway) == (200, b"hello you")
    assert get(serve(body, uses, text)) == (401, b"")  # undefined


def test_wasi_config(serve: Serve) -> None:
    text = Texts()
    name, missing = text("greeting"), text("No-Such-Name")
    body = f"""(local $pair i32)
      (call $get {missing} (i32.const 16)) {fail(16)}
      (if (i32.load8_u (i32.const 20)) (then unreachable))
      (call $get-all (i32.const 64)) {fail(64)}
      (if (i32.ne (i32.load (i32.const 72)) (i32.const 1)) (then unreachable))
      (local.set $pair (i32.load (i32.const 68)))
      (if (i32.ne (i32.load offset=4 (local.get $pair)) (i32.const {len("greeting")})) (then unreachable))
      (call $get {name} (i32.const 32)) {fail(32)}
      {SAY.format("(i32.load (i32.const 40))", "(i32.load (i32.const 44))")}"""
    uses = {WASI_CONFIG: ("get", "get-all")}
    assert get(serve(body, uses, text, variables={"greeting": "hello"})) == (200, b"hello")


@pytest.mark.parametrize(
    ("models", "answer"), [(["m"], b"Local LLM operations"), ([], b"The component does not have access")]
)
def test_llm(serve: Serve, models: list[str], answer: bytes) -> None:
    text = Texts()
    body = f"""(call $infer {text("m")} {text("hello")} (i32.const 0) (i32.const 0) (f32.const 0)
        (i32.const 0) (f32.const 0) (i32.const 0) (f32.const 0) (i32.const 16))
      (if (i32.eqz (i32.load8_u (i32.const 16))) (then unreachable))
      {SAY.format("(i32.load (i32.const 24))", "(i32.load (i32.const 28))")}"""
    status, found = get(serve(body, {LLM: ("infer",)}, text, ai_models=models))
    assert (status, found[: len(answer)]) == (200, answer)


# Servers.

services = pytest.mark.services


def kept(address: str, **keys: Any) -> dict[str, Any]:
    """The component may connect to the server there."""
    scheme, _, rest = address.partition("://")
    return {"allowed_outbound_hosts": [f"{scheme}://{rest.rpartition('@')[2].partition('/')[0]}"], **keys}


def connection_of(*methods: str) -> tuple[str, ...]:
    """Functions of the resource connection; a method with more than a name is taken as it is."""
    named = [name if name.startswith("[") else f"[method]connection.{name}" for name in methods]
    return ("[static]connection.open", *named, "[resource-drop]connection")


@services
def test_redis(serve: Serve, redis_server: str) -> None:
    text = Texts()
    address, key, value = text(redis_server), text("from-a-component"), text("a value")
    body = f"""(local $redis i32)
      (call $connection.open {address} (i32.const 16))
      {fail(16)}
      (local.set $redis (i32.load (i32.const 20)))
      (call $connection.set (local.get $redis) {key} {value} (i32.const 32))
      {fail(32)}
      (call $connection.get (local.get $redis) {key} (i32.const 48))
      {fail(48)}
      (if (i32.eqz (i32.load8_u (i32.const 52))) (then unreachable))
      (i32.store (i32.const 512) {key.at})
      (i32.store (i32.const 516) {key.size})
      (call $connection.del (local.get $redis) (i32.const 512) (i32.const 1) (i32.const 64))
      {fail(64)}
      (if (i32.ne (i32.load (i32.const 68)) (i32.const 1)) (then unreachable))
      (call $drop.connection (local.get $redis))
      {SAY.format("(i32.load (i32.const 56))", "(i32.load (i32.const 60))")}"""
    uses = {"fermyon:spin/redis@2.0.0": connection_of("get", "set", "del")}
    gateway = serve(body, uses, text, **kept(redis_server))
    assert get(gateway) == get(gateway) == (200, b"a value")
    assert get(serve(body, uses, text)) == (400, b"")


# Parameters: a string as the only one, in both versions of its variant.
STR = "(i32.store8 (i32.const 512) (i32.const {case})) (i32.store (i32.const 520) {at}) "
STR += "(i32.store (i32.const 524) {size})"


@services
@pytest.mark.parametrize(
    ("interface", "server", "statement", "case"),
    [
        ("fermyon:spin/postgres@2.0.0", "postgres_server", "SELECT 'a ' || $1::text", 11),
        ("spin:postgres/postgres@3.0.0", "postgres_server", "SELECT 'a ' || $1::text", 7),
        ("spin:postgres/postgres@4.0.0", "postgres_server", "SELECT 'a ' || $1::text", 7),
        ("spin:postgres/postgres@4.1.0", "postgres_server", "SELECT 'a ' || $1::text", 7),
        ("fermyon:spin/mysql@2.0.0", "mariadb_server", "SELECT CONCAT('a ', ?)", 11),
    ],
)
def test_relational_databases(
    serve: Serve, request: pytest.FixtureRequest, interface: str, server: str, statement: str, case: int
) -> None:
    """The connection is left to the end of the instance."""
    url: str = request.getfixturevalue(server)
    text = Texts()
    address, select, value = text(url), text(statement), text("string")
    body = f"""(local $db i32)
      (call $connection.open {address} (i32.const 16))
      {fail(16)}
      (local.set $db (i32.load (i32.const 20)))
      {STR.format(case=case, at=value.at, size=value.size)}
      (call $connection.execute (local.get $db) {select} (i32.const 512) (i32.const 1) (i32.const 32))
      {fail(32)}
      (call $connection.query (local.get $db) {select} (i32.const 512) (i32.const 1) (i32.const 96))
      {fail(96)}
      {
        SAY.format(
            "(i32.load offset=8 (i32.load (i32.load (i32.const 108))))",
            "(i32.load offset=12 (i32.load (i32.load (i32.const 108))))",
        )
    }"""
    uses = {interface: connection_of("query", "execute")}
    gateway = serve(body, uses, text, **kept(url))
    assert get(gateway) == get(gateway) == (200, b"a string")
    assert get(serve(body, uses, text)) == (400, b"")


BUILDER = ("[constructor]connection-builder", "[method]connection-builder.build")


@services
def test_postgres_values_and_errors(serve: Serve, postgres_server: str) -> None:
    """A builder; an array with a null, both ways; the code of an error."""
    text = Texts()
    address, wrong = text(postgres_server), text("SELEC")
    select = text("SELECT $1::int8[], 'kept'::text")
    body = f"""(local $db i32) (local $value i32)
      (call $connection-builder.build (call $connection-builder {address}) (i32.const 16))
      {fail(16)}
      (local.set $db (i32.load (i32.const 20)))
      (i32.store8 (i32.const 512) (i32.const 20))
      (i32.store (i32.const 520) (i32.const 640)) (i32.store (i32.const 524) (i32.const 2))
      (i32.store8 (i32.const 640) (i32.const 1)) (i64.store (i32.const 648) (i64.const -5))
      (call $connection.query (local.get $db) {select} (i32.const 512) (i32.const 1) (i32.const 96))
      {fail(96)}
      (local.set $value (i32.load (i32.load (i32.const 108))))
      (if (i32.ne (i32.load8_u (local.get $value)) (i32.const 20)) (then unreachable))
      (if (i32.ne (i32.load offset=12 (local.get $value)) (i32.const 2)) (then unreachable))
      (if (i32.ne (i32.load8_u offset=56 (local.get $value)) (i32.const 7)) (then unreachable))
      (local.set $value (i32.load offset=8 (local.get $value)))
      (if (i64.ne (i64.load offset=8 (local.get $value)) (i64.const -5)) (then unreachable))
      (if (i32.load8_u offset=16 (local.get $value)) (then unreachable))
      (call $connection.query (local.get $db) {wrong} (i32.const 0) (i32.const 0) (i32.const 96))
      (if (i32.ne (i32.load8_u (i32.const 96)) (i32.const 1)) (then unreachable))
      (if (i32.ne (i32.load8_u (i32.const 100)) (i32.const 2)) (then unreachable))
      (if (i32.ne (i32.load8_u (i32.const 104)) (i32.const 1)) (then unreachable))
      {SAY.format("(i32.load (i32.const 124))", "(i32.load (i32.const 128))")}"""
    uses = {"spin:postgres/postgres@4.2.0": (*connection_of("query"), *BUILDER)}
    assert get(serve(body, uses, text, **kept(postgres_server))) == (200, b"42601")
    assert get(serve(body, uses, text)) == (400, b"")


@services
def test_mqtt(serve: Serve, mosquitto_server: str, mqtt_messages: Any) -> None:
    text = Texts()
    address, topic, payload = text(mosquitto_server), text("a/topic"), text("a payload")
    nothing = "(i32.const 0) (i32.const 0)"
    body = f"""(local $mqtt i32)
      (call $connection.open {address} {nothing} {nothing} (i64.const 30) (i32.const 16))
      {fail(16)}
      (local.set $mqtt (i32.load (i32.const 20)))
      (call $connection.publish (local.get $mqtt) {topic} {payload} (i32.const 2) (i32.const 32))
      {fail(32)}
      {SAY.format(topic.at, topic.size)}"""
    uses = {"fermyon:spin/mqtt@2.0.0": connection_of("publish")}
    config = RuntimeConfig(outbound_mqtt=OutboundMqtt(max_payload_size_bytes=5))
    assert get(serve(body, uses, text, **kept(mosquitto_server))) == (200, b"a/topic")
    assert mqtt_messages.get(timeout=60) == ("a/topic", b"a payload", 2)
    assert get(serve(body, uses, text)) == (402, b"")
    assert get(serve(body, uses, text, options={"runtime_config": config}, **kept(mosquitto_server))) == (
        403,
        b"",
    )
