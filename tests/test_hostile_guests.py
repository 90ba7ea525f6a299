"""Hostile guests, hostile clients, and what is left when they are gone: nothing.

Each ends with the next request being served. For the client: the right status, and no word more. For
the operator: one record that names the component and the reason. The cost is bounded by what was done,
counted, never by the clock.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wasm_gateway import Gateway
from wasm_gateway.engine import POOL_SLOTS, Engine, EngineOptions
from wasm_gateway.errors import ComponentError, RequestError, Saturated
from wasm_gateway.executors.guest import MAX_RESPONSE_HEADERS
from wasm_gateway.guest_logs import BURST, RATE
from wasm_gateway.host import descriptors

DIALECTS = ["flat", "spin"]

GOOD = '(call $text (i32.const 200) (str "good"))'


# The time of a guest that uses it up; what fails otherwise has the usual time to do so.
SHORT = {"timeout": "50ms"}


class Expectation:
    """`fails(wasm, reason)`: a request to this guest fails as it should, and others are served."""

    def __init__(self, application: Any, wat: Any, ask: Any, caplog: pytest.LogCaptureFixture) -> None:
        self.application, self.wat, self.ask, self.caplog = application, wat, ask, caplog

    def open(self, wasm: bytes, **settings: Any) -> Gateway:
        options = settings.pop("options", None)
        gateway: Gateway = self.application(
            options=options, bad=self.application.part(wasm, **settings), good=self.wat.flat(GOOD)
        )
        return gateway

    def __call__(
        self,
        wasm: bytes,
        reason: str,
        status: int = 500,
        *,
        request: tuple[Any, ...] = ("/bad",),
        body: Callable[[], Any] = tuple,
        **settings: Any,
    ) -> Gateway:
        gateway = self.open(wasm, **settings)
        for _ in range(2):
            self.caplog.clear()
            self.refused(gateway, reason, status, request, body)
        return gateway

    def refused(
        self,
        gateway: Gateway,
        reason: str,
        status: int,
        request: tuple[Any, ...] = ("/bad",),
        body: Any = tuple,
    ) -> None:
        assert self.ask(gateway, *request, body=body()) == (status, b"")
        records = [record for record in self.caplog.records if record.name == "wasm_gateway"]
        assert [getattr(record, "component", None) for record in records] == ["bad"]
        assert records[0].levelname == ("ERROR" if status >= 500 else "INFO")
        message = records[0].getMessage()
        assert "component bad: " in message
        assert re.search(reason, message), message
        self.served(gateway)

    def served(self, gateway: Gateway) -> None:
        assert self.ask(gateway, "/good") == (200, b"good")
        assert not Engine.shared().ticker.running


@pytest.fixture
def fails(application: Any, wat: Any, ask: Any, caplog: pytest.LogCaptureFixture) -> Expectation:
    caplog.set_level(logging.INFO)
    return Expectation(application, wat, ask, caplog)


# Guests that fail by themselves


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("unreachable", "Trap: .*unreachable"),
        ("(i32.load (i32.const -4))", "Trap: out of bounds memory access"),
        ("(i32.div_u (i32.const 1) (i32.const 0))", "Trap: integer divide by zero"),
        ("(call $deep (i32.const 0))", "Trap: call stack exhausted"),
        ("(call_indirect (result i32) (i32.const 0))", "Trap: .*undefined element"),
    ],
)
def test_a_guest_that_traps(fails: Expectation, wat: Any, dialect: str, body: str, reason: str) -> None:
    more = "(table 0 funcref) (func $deep (param i32) (result i32) (call $deep (i32.const 1)))"
    fails(wat.http(dialect, body, more), reason)


# Waits for the monotonic clock, an hour; the subscription lies at 1024.
SLEEP = "(drop (call $poll_oneoff (i32.const 1024) (i32.const 512) (i32.const 1) (i32.const 8)))"
HOUR = "".join(f"\\{byte:02x}" for byte in (3600 * 10**9).to_bytes(8, "little"))
SUBSCRIPTION = f'(data (i32.const 1048) "{HOUR}") (data (i32.const 1040) "\\01")'


@pytest.mark.parametrize(
    "body",
    [
        "(loop $l (br $l)) (i32.const 0)",
        "(loop $l (call $out_number (i32.const 1)) (global.set $end (i32.const 0)) (br $l)) (i32.const 0)",
        '(loop $l (call $config_get (str "x") (i32.const 64)) (br $l)) (i32.const 0)',
        f"(loop $l {SLEEP} (br $l)) (i32.const 0)",
    ],
    ids=["alone", "calls", "host-calls", "sleeps"],
)
def test_a_guest_that_never_ends(fails: Expectation, wat: Any, body: str) -> None:
    fails(wat.spin(body, SUBSCRIPTION), "DeadlineExceeded: .*0.05 s", 504, tool=SHORT)


def test_a_wagi_guest_that_sleeps_for_an_hour(fails: Expectation, wat: Any) -> None:
    fails(wat.command(SLEEP, SUBSCRIPTION), "DeadlineExceeded", 504, wagi=True, tool=SHORT)


def test_memory_ends_at_its_limit(fails: Expectation, wat: Any) -> None:
    grow = "(loop $l (br_if $l (i32.ne (i32.const -1) (memory.grow (i32.const 1)))))"
    gateway = fails.open(
        wat.flat(f"{grow} (call $out_number (memory.size)) (call $respond (i32.const 200))"),
        tool={"max_memory": "4MiB"},
    )
    assert fails.ask(gateway, "/bad") == (200, b"64")
    fails.served(gateway)


def test_a_table_ends_at_its_limit(fails: Expectation, wat: Any) -> None:
    grow = "(loop $l (br_if $l (i32.ne (i32.const -1) (table.grow $t (ref.null func) (i32.const 1)))))"
    gateway = fails.open(
        wat.flat(
            f"{grow} (call $out_number (table.size $t)) (call $respond (i32.const 200))",
            "(table $t 0 funcref)",
        ),
        tool={"max_table_elements": 100},
    )
    assert fails.ask(gateway, "/bad") == (200, b"100")


def test_a_guest_that_takes_what_it_does_not_get(fails: Expectation, wat: Any) -> None:
    body = "(loop $l (drop (call $take (i32.const 65536))) (br $l)) (i32.const 0)"
    fails(wat.spin(body), "Trap: .*unreachable", tool={"max_memory": "4MiB"})


@pytest.mark.parametrize(
    ("more", "tool"), [("", {"max_memory": "1MiB"}), ("(table 101 funcref)", {"max_table_elements": 100})]
)
def test_a_guest_that_begins_over_its_limits(fails: Expectation, wat: Any, more: str, tool: Any) -> None:
    fails(wat.flat(GOOD, more), "LimitExceeded: .*exceeds", tool=tool)


def test_a_guest_has_some_memories(fails: Expectation, wat: Any) -> None:
    """With a pool it cannot be loaded, without one not be started."""
    wasm = wat.flat(GOOD, "(memory 1)" * 17)
    with pytest.raises(ComponentError, match="exceeds the per-instance limit of 16"):
        fails.open(wasm)
    fails(wasm, "LimitExceeded: .*memory count", options={"engine": EngineOptions(pooling=False)})


def test_a_shared_memory_is_none_that_a_limit_could_miss(fails: Expectation, wat: Any) -> None:
    text = wat.handler("flat", GOOD)
    fields = text.replace('(memory (export "memory") 17)', '(memory (export "memory") 17 99 shared)')
    assert fields != text
    wasm = wat.assemble(f"(module {fields})")
    with pytest.raises(ComponentError, match="memory is shared"):
        fails.open(wasm)
    fails(wasm, "shared memory support is disabled", options={"engine": EngineOptions(pooling=False)})


def test_garbage_of_a_guest_counts_as_its_memory(fails: Expectation, wat: Any) -> None:
    body = """
      (local $kept (ref null $list))
      (loop $l (local.set $kept (struct.new $list (local.get $kept))) (br $l)) (i32.const 0)"""
    more = "(type $list (struct (field (ref null $list))))"
    fails(wat.flat(body, more), "Trap: GC heap out of memory", tool={"max_memory": "2MiB"})


@pytest.mark.parametrize(
    ("start", "reason", "status"),
    [
        ("(loop $l (br $l))", "DeadlineExceeded", 504),
        ("unreachable", "Trap: .*unreachable", 500),
        ("(call $proc_exit (i32.const 0))", "GuestExit: guest exited with code 0", 500),
        ('(call $kv_open (str "default") (i32.const 64))', "Trap: key-value.*memory is not there yet", 500),
    ],
)
def test_a_start_function(fails: Expectation, wat: Any, start: str, reason: str, status: int) -> None:
    reason = reason.replace("key-value", "fermyon:spin/key-value#open: the guest's")
    more = f"(func $start {start}) (start $start)"
    fails(wat.flat(GOOD, more), reason, status, tool=SHORT if status == 504 else {})
    assert "error of the gateway" not in fails.caplog.text


def test_a_start_function_may_call_wasi(fails: Expectation, wat: Any) -> None:
    """Whose functions say that there is no memory, in their own way: fault."""
    more = """(func $start
        (global.set $errno (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
      (global $errno (mut i32) (i32.const 0)) (start $start)"""
    gateway = fails.open(
        wat.flat("(call $out_number (global.get $errno)) (call $respond (i32.const 200))", more)
    )
    assert fails.ask(gateway, "/bad") == (200, b"21")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_reactor_is_initialized_once_before_its_handler(fails: Expectation, wat: Any, dialect: str) -> None:
    more = """(global $count (mut i32) (i32.const 0))
      (func (export "_initialize") (global.set $count (i32.add (global.get $count) (i32.const 1))))
      (func (export "_start") unreachable)"""
    gateway = fails.open(
        wat.http(dialect, "(call $out_number (global.get $count)) (call $respond (i32.const 200))", more)
    )
    assert [fails.ask(gateway, "/bad") for _ in range(2)] == [(200, b"1")] * 2


def test_an_initialization_that_fails(fails: Expectation, wat: Any) -> None:
    fails(wat.spin(GOOD, '(func (export "_initialize") unreachable)'), "Trap: .*unreachable")


@pytest.mark.parametrize(("code", "wagi"), [(0, False), (3, False), (3, True)])
def test_a_guest_that_exits(fails: Expectation, wat: Any, code: int, wagi: bool) -> None:
    exit_ = f"(call $proc_exit (i32.const {code}))"
    wasm = (
        wat.command(f'(call $print (str "content-type: a/b\\n\\n")) {exit_}')
        if wagi
        else wat.spin(exit_ + GOOD)
    )
    fails(wasm, f"GuestExit: guest exited with code {code}", wagi=wagi)


def test_a_command_that_exits_with_0_has_answered(fails: Expectation, wat: Any) -> None:
    body = '(call $print (str "content-type: a/b\\n\\nbye")) (call $proc_exit (i32.const 0)) unreachable'
    gateway = fails.open(wat.command(body), wagi=True)
    assert fails.ask(gateway, "/bad") == (200, b"bye")


# After the answer


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("after", "reason", "status"),
    [
        ("unreachable", "Trap: .*unreachable", 500),
        ("(loop $l (br $l))", "DeadlineExceeded", 504),
        ("(call $proc_exit (i32.const 0))", "GuestExit", 500),
        ('(call $kv_open (str "default") (i32.const 64))', "Trap: .*cannot be left now", 500),
    ],
)
def test_a_guest_that_fails_after_it_answered(
    fails: Expectation, wat: Any, dialect: str, after: str, reason: str, status: int
) -> None:
    name = "handle-http-request" if dialect == "flat" else "fermyon:spin/inbound-http#handle-request"
    more = f'(func (export "cabi_post_{name}") (param i32) {after})'
    fails(wat.http(dialect, GOOD, more), reason, status, tool=SHORT if status == 504 else {})


def test_what_a_guest_frees_after_it_answered_is_read_before(fails: Expectation, wat: Any) -> None:
    more = """(func (export "cabi_post_handle-http-request") (param i32)
      (memory.fill (i32.const 0) (i32.const 255) (i32.const 65536)))"""
    gateway = fails.open(wat.flat(GOOD, more))
    assert fails.ask(gateway, "/bad") == (200, b"good")


# What it answers


def answers(*stores: tuple[str, int, int], pointer: int = 128) -> str:
    """A handler that says 200 with the body "good" and no headers, but for `stores`: width, offset, value."""
    changes = " ".join(
        f"(i32.store{width} (i32.const {128 + offset}) (i32.const {value}))"
        for width, offset, value in stores
    )
    return f"(drop {GOOD}) {changes} (i32.const {pointer})"


PAGE_END = 17 << 16  # where the memory of these guests ends

OUTSIDE = "Trap: .*out of bounds memory access"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (answers(pointer=-16), OUTSIDE),
        (answers(pointer=PAGE_END), OUTSIDE),
        (answers(pointer=PAGE_END - 24), OUTSIDE),
        (answers(pointer=130), "Trap: .*pointer 0x82 is not aligned to 4"),
        # body
        (answers(("", 20, -1)), OUTSIDE),
        (answers(("", 24, -1)), "Trap: .*(out of bounds|too long)"),
        (answers(("", 24, 0x0FFFFFFF)), OUTSIDE),
        (answers(("", 20, -1), ("", 24, -1)), "Trap: .*(out of bounds|too long)"),
        (answers(("", 20, PAGE_END - 3)), OUTSIDE),
        (answers(("8", 16, 2)), "Trap: .*2 is not a case of option"),
        (answers(("8", 16, 255)), "Trap: .*255 is not a case of option"),
        # headers
        (answers(("8", 4, 7)), "Trap: .*7 is not a case of option"),
        (answers(("8", 4, 1), ("", 8, -16), ("", 12, 1)), OUTSIDE),
        (answers(("8", 4, 1), ("", 8, 513), ("", 12, 1)), "Trap: .*not aligned to 4"),
        (answers(("8", 4, 1), ("", 8, 512), ("", 12, -1)), "Trap: .*(out of bounds|too long)"),
        (answers(("8", 4, 1), ("", 8, 512), ("", 12, 0x01000000)), "Trap: .*(out of bounds|too long)"),
        (answers(("8", 4, 1), ("", 8, 512), ("", 12, 1), ("", 384, -1), ("", 388, 9)), OUTSIDE),
        (
            answers(("8", 4, 1), ("", 8, 512), ("", 12, 1), ("", 384, 9), ("", 388, -1)),
            "Trap: .*list holds more",
        ),
        # status
        (answers(("16", 0, 0)), "GuestError: .*status 0"),
        (answers(("16", 0, 99)), "GuestError: .*status 99"),
        (answers(("16", 0, 601)), "GuestError: .*status 601"),
        (answers(("16", 0, 65535)), "GuestError: .*status 65535"),
    ],
)
def test_an_answer_that_is_none(fails: Expectation, wat: Any, dialect: str, body: str, reason: str) -> None:
    fails(wat.http(dialect, body), reason)


@pytest.mark.parametrize("status", [100, 200, 599, 600])
def test_every_status_that_spin_passes_on(fails: Expectation, wat: Any, status: int) -> None:
    gateway = fails.open(wat.flat(answers(("16", 0, status))))
    assert fails.ask(gateway, "/bad") == (status, b"good")


def with_headers(count: int, name: str, value: str) -> str:
    """An answer that has the same header `count` times, or that many entries at the same few bytes."""
    return f"""
      (local $at i32) (local $left i32)
      (local.set $at (call $take (i32.const {16 * count})))
      (local.set $i (local.get $at))
      (local.set $left (i32.const {count}))
      (loop $next
        (call $pair (local.get $i) (str "{name}") (str "{value}"))
        (local.set $i (i32.add (local.get $i) (i32.const 16)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br_if $next (local.get $left)))
      (drop {GOOD})
      (i32.store8 (i32.const 132) (i32.const 1))
      (i32.store (i32.const 136) (local.get $at))
      (i32.store (i32.const 140) (i32.const {count}))
      (i32.const 128)"""


PAIR = """(func $pair (param $at i32) (param i32 i32 i32 i32)
  (i32.store (local.get $at) (local.get 1)) (i32.store offset=4 (local.get $at) (local.get 2))
  (i32.store offset=8 (local.get $at) (local.get 3)) (i32.store offset=12 (local.get $at) (local.get 4)))"""


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("\\ff\\fe", "x", "Trap: .*not utf8"),
        ("x", "\\c3\\28", "Trap: .*not utf8"),
        ("x", "\\ed\\a0\\80", "Trap: .*not utf8"),  # a lone surrogate
        ("x", "a\\r\\nset-cookie: stolen=1", "GuestError: .*invalid header 'x'"),
        ("x\\r\\ny", "z", "GuestError: .*invalid header"),
        ("x", "a\\00b", "GuestError: .*invalid header"),
        ("", "x", "GuestError: .*invalid header"),
        ("two words", "x", "GuestError: .*invalid header"),
    ],
)
def test_headers_that_http_does_not_allow(
    fails: Expectation, wat: Any, dialect: str, name: str, value: str, reason: str
) -> None:
    fails(wat.http(dialect, with_headers(1, name, value), PAIR), reason)


def test_headers_that_http_allows(fails: Expectation, wat: Any, answer: Any) -> None:
    gateway = fails.open(wat.spin(with_headers(2, "X-Caf", "caf\\c3\\a9"), PAIR))
    assert list(answer(gateway, "/bad").headers) == [("x-caf", "caf\xc3\xa9")]


@pytest.mark.parametrize(
    ("count", "reason"),
    [(MAX_RESPONSE_HEADERS // 11 + 1, "LimitExceeded: response headers"), (1_000_000, "Trap: .*too long")],
)
def test_a_million_headers(fails: Expectation, wat: Any, count: int, reason: str) -> None:
    """All of them at the same few bytes, so that the guest's memory does not bound them."""
    fails(wat.spin(with_headers(count, "x", "0123456789"), PAIR), reason)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_response_over_its_limit(fails: Expectation, wat: Any, dialect: str) -> None:
    limits = {"max_response_body": "1KiB"}
    just = fails.open(wat.http(dialect, answers(("", 20, 0), ("", 24, 1024))), tool=limits)
    assert fails.ask(just, "/bad")[0] == 200
    reason = "LimitExceeded: response body is longer than 1024 bytes"
    fails(wat.http(dialect, answers(("", 20, 0), ("", 24, 1025))), reason, tool=limits)


def test_a_command_that_never_stops_printing(fails: Expectation, wat: Any) -> None:
    """It ends at the limit of its response, long before its deadline."""
    body = "(loop $l (call $print (i32.const 0x10000) (i32.const 0x10000)) (br $l))"
    fails(
        wat.command(body),
        "LimitExceeded: .*longer than 1048576",
        wagi=True,
        tool={"max_response_body": "1MiB"},
    )


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (b"content-type: \xff\n\n", "GuestError: .*not UTF-8"),
        (b"content-type: a\x01b\n\n", "GuestError: .*invalid header"),
        (
            b"content-type: a/b\n" + b"".join(b"x-%d: %s\n" % (n, b"v" * 100) for n in range(1500)) + b"\n",
            "LimitExceeded",
        ),
    ],
)
def test_a_command_that_prints_no_response(fails: Expectation, wat: Any, output: bytes, reason: str) -> None:
    fails(wat.wagi(output), reason, wagi=True)


# What it does to its host functions


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("(call $kv_open (i32.const -8) (i32.const 4) (i32.const 64))", "key-value#open: out of bounds"),
        ("(call $kv_open (i32.const 1024) (i32.const -1) (i32.const 64))", "key-value#open: (out of|string)"),
        ('(call $kv_open (str "default") (i32.const -16))', "key-value#open: out of bounds"),
        ('(call $kv_open (str "default") (i32.const 65))', "key-value#open: pointer 0x41 is not aligned"),
        ('(call $kv_open (str "\\ff\\ff") (i32.const 64))', "key-value#open: string is not utf8"),
        (
            '(call $kv_set (i32.const 0) (str "k") (i32.const 0) (i32.const 0x0fffffff) (i32.const 64))',
            "key-value#set: out of bounds",
        ),
        (
            '(call $sql_execute (i32.const 0) (str "x") (i32.const 0) (i32.const 0x0fffffff) (i32.const 64))',
            "sqlite#execute: (out of bounds|list)",
        ),
        (
            """(i32.store8 (i32.const 512) (i32.const 9))
            (call $sql_execute (i32.const 0) (str "x") (i32.const 512) (i32.const 1) (i32.const 64))""",
            "sqlite#execute: 9 is not a case of",
        ),
        (
            f'(call $http_send (i32.const 9) (str "/") {"(i32.const 0)" * 7} (i32.const 64))',
            "http#send-request: 9 is not a case of",
        ),
        (
            f"""(call $http_send (i32.const 0) (str "/") {"(i32.const 0)" * 4}
            (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 64))""",
            "http#send-request: 2 is not a case of option",
        ),
        (
            f"""(call $http_send (i32.const 0) (str "/") (i32.const 0x10000) (i32.const 0x01000000)
            {"(i32.const 0)" * 5} (i32.const 64))""",
            "http#send-request: (out of|list)",
        ),
    ],
)
def test_arguments_that_are_none(fails: Expectation, wat: Any, dialect: str, call: str, reason: str) -> None:
    fails(
        wat.http(dialect, f"{call} {GOOD}"),
        f"Trap: fermyon:spin/{reason}",
        key_value_stores=["default"],
        sqlite_databases=["default"],
    )


def test_handles_of_nothing(fails: Expectation, wat: Any) -> None:
    body = """
      (call $kv_close (i32.const -1))
      (call $sql_execute (i32.const 77) (str "SELECT 1") (i32.const 0) (i32.const 0) (i32.const 64))
      (call $out_number (i32.load8_u (i32.const 68)))
      (call $respond (i32.const 200))"""
    gateway = fails.open(wat.spin(body), key_value_stores=["default"], sqlite_databases=["default"])
    assert fails.ask(gateway, "/bad") == (200, b"2")  # invalid-connection
    # Spin: host interfaces, 4: this one traps
    fails(wat.spin(f'(call $kv_get (i32.const 77) (str "k") (i32.const 64)) {GOOD}'), "Trap: .*handle 77")


def test_a_guest_that_opens_handles_without_end(fails: Expectation, wat: Any) -> None:
    body = """
      (block $full (loop $l
        (call $kv_open (str "default") (i32.const 64))
        (br_if $full (i32.load8_u (i32.const 64)))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $l)))
      (call $out_number (local.get $i)) (call $out_byte (i32.const 32))
      (call $out_number (i32.load8_u (i32.const 68)))
      (call $respond (i32.const 200))"""
    gateway = fails.open(wat.spin(body), key_value_stores=["default"])
    assert fails.ask(gateway, "/bad") == (200, b"4096 0")  # store-table-full


# Its allocator


def allocator(dialect: str, body: str) -> str:
    name = "canonical_abi_realloc" if dialect == "flat" else "cabi_realloc"
    return f'(func (export "{name}") (param i32 i32 i32 i32) (result i32) {body})'


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("body", "reason", "status"),
    [
        ("unreachable", "Trap: .*unreachable", 500),
        ("(loop $l (br $l)) (i32.const 0)", "DeadlineExceeded", 504),
        ("(i32.const -1)", OUTSIDE, 500),
        ("(i32.const -8)", OUTSIDE, 500),
        (f"(i32.const {PAGE_END})", OUTSIDE, 500),
        ("(i32.add (i32.const 0x10001) (i32.const 0))", "Trap: .*not aligned", 500),
        ("(call $proc_exit (i32.const 0)) (i32.const 0)", "GuestExit", 500),
        (
            '(call $kv_open (str "default") (i32.const 64)) (i32.const 0x10000)',
            "Trap: .*cannot be left now",
            500,
        ),
        ("(call $deep (i32.const 0))", "call stack exhausted", 500),
    ],
)
def test_an_allocator(
    fails: Expectation, wat: Any, dialect: str, body: str, reason: str, status: int
) -> None:
    more = "(func $deep (param i32) (result i32) (call $deep (i32.const 1)))"
    wasm = wat.http(dialect, GOOD, more, allocator=allocator(dialect, body))
    headers = [("x-header", "value"), ("x-other", "value")]
    tool = SHORT if status == 504 else {}
    fails(wasm, reason, status, request=("/bad", "GET", headers), tool=tool)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_allocator_that_gives_the_same_place_to_all(fails: Expectation, wat: Any, dialect: str) -> None:
    """Overwritten by each other, the guest's own arguments are its own concern."""
    echo = "(call $text (i32.const 200) (local.get $body) (local.get $body_len))"
    wasm = wat.http(dialect, echo, allocator=allocator(dialect, "(i32.const 0x20000)"))
    gateway = fails.open(wasm)
    assert fails.ask(gateway, "/bad", "POST", [("a", "b")], (b"body",)) == (200, b"body")
    fails.served(gateway)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_allocator_that_grows_the_memory_at_each_call(fails: Expectation, wat: Any, dialect: str) -> None:
    """What it hands out lies in pages that were not there a moment ago; the memory never moves."""
    grow = "(i32.shl (memory.grow (i32.const 1)) (i32.const 16))"
    echo = """(call $out_headers (local.get $headers) (local.get $headers_len))
      (call $out (local.get $body) (local.get $body_len)) (call $respond (i32.const 200))"""
    gateway = fails.open(wat.http(dialect, echo, allocator=allocator(dialect, grow)))
    for _ in range(3):
        status, body = fails.ask(gateway, "/bad", "POST", [("x-a", "1"), ("x-b", "2")], (b"body",))
        assert (status, body[:12], body[-4:]) == (200, b"x-a=1\nx-b=2\n", b"body")
    fails(
        wat.http(dialect, echo, allocator=allocator(dialect, grow)),
        OUTSIDE,  # memory.grow says -1, which is no address
        tool={"max_memory": f"{18 * 65536}"} | {"max_memory": 18 * 65536},
    )


def test_a_guest_whose_memory_grows_within_a_host_function(fails: Expectation, wat: Any) -> None:
    """The result is allocated by a guest that grows; so is the one after it."""
    body = """
      (call $kv_open (str "default") (i32.const 64))
      (local.set $i (i32.load (i32.const 68)))
      (call $kv_set (local.get $i) (str "key") (str "value") (i32.const 64))
      (call $kv_get (local.get $i) (str "key") (i32.const 64))
      (call $out (i32.load (i32.const 68)) (i32.load (i32.const 72)))
      (call $kv_keys (local.get $i) (i32.const 64))
      (call $out (i32.load (i32.load (i32.const 68))) (i32.load offset=4 (i32.load (i32.const 68))))
      (call $respond (i32.const 200))"""
    grow = allocator("spin", "(i32.shl (memory.grow (i32.const 1)) (i32.const 16))")
    gateway = fails.open(wat.spin(body, allocator=grow), key_value_stores=["default"])
    assert fails.ask(gateway, "/bad") == (200, b"valuekey")


# Its output


def test_a_flood_of_output_is_cut(fails: Expectation, wat: Any) -> None:
    """125 MiB of output: what is over the component's budget is dropped, which is said but now and then."""
    flood = """
      (memory.fill (i32.const 0x10000) (i32.const 120) (i32.const 0xffff))
      (i32.store8 (i32.const 0x1ffff) (i32.const 10))
      (loop $l
        (call $print (i32.const 0x10000) (i32.const 0x10000))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $i) (i32.const 2000))))"""
    logging.getLogger("wasm_gateway.guest").setLevel(logging.CRITICAL)
    try:
        gateway = fails.open(wat.spin(flood + GOOD), tool={"timeout": "60s"})
        assert fails.ask(gateway, "/bad") == (200, b"good")
    finally:
        logging.getLogger("wasm_gateway.guest").setLevel(logging.NOTSET)
    written = (fails.application.folder / ".spin" / "logs" / "bad_stdout.txt").stat().st_size
    assert written <= BURST + 60 * RATE
    assert written < 2000 * 65536
    assert 1 <= fails.caplog.text.count("dropping it") < 60
    fails.served(gateway)


def test_a_line_without_end_is_not_kept(fails: Expectation, wat: Any) -> None:
    body = """(loop $l (call $print (str "xxxxxxxxxxxxxxxx"))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $l (i32.lt_u (local.get $i) (i32.const 2000))))"""
    gateway = fails.open(wat.spin(body + GOOD))
    assert fails.ask(gateway, "/bad") == (200, b"good")
    lines = [len(r.getMessage()) for r in fails.caplog.records if r.name == "wasm_gateway.guest.bad"]
    assert len(lines) > 1
    assert max(lines) < 5000


def test_names_of_functions_cannot_forge_records(fails: Expectation, wat: Any) -> None:
    name = "\\n2026-01-01 ERROR forged\\1b[31m" + "x" * 50_000
    more = f'(func $"{name}" (result i32) unreachable)'
    gateway = fails.open(wat.flat(f'(call $"{name}")', more))
    assert fails.ask(gateway, "/bad") == (500, b"")
    (record,) = fails.caplog.records
    lines = record.getMessage().split("\n")
    assert "forged" in record.getMessage()
    assert all(line.startswith(("component bad: ", "    ")) for line in lines)
    assert "\x1b" not in record.getMessage()
    assert len(record.getMessage()) < 20_000


@pytest.mark.parametrize("request_", [("/bad/\n2026 forged", "GET"), ("/bad", "GET\n2026 forged")])
def test_clients_cannot_forge_records(fails: Expectation, wat: Any, request_: tuple[str, str]) -> None:
    gateway = fails.open(wat.command("unreachable"), wagi=True)
    assert fails.ask(gateway, *request_)[0] == 500
    (record,) = fails.caplog.records
    assert "\n2026" not in record.getMessage()


# Requests


def pieces(taken: list[int], count: int, size: int) -> Iterator[bytes]:
    piece = bytes(size)
    for number in range(count):
        taken.append(number)
        yield piece


@pytest.mark.parametrize("kind", ["flat", "spin", "wagi"])
def test_a_body_of_10_gb_is_read_to_its_limit_and_no_further(fails: Expectation, wat: Any, kind: str) -> None:
    wagi = kind == "wagi"
    taken: list[int] = []
    fails(
        wat.wagi(b"content-type: a/b\n\n") if wagi else wat.http(kind, GOOD),
        "BodyTooLarge: request body is longer than 1048576 bytes",
        413,
        request=("/bad", "POST"),
        body=lambda: pieces(taken, 10 * 1024 * 16, 65536),
        wagi=wagi,
        tool={"max_request_body": "1MiB"},
    )
    assert len(taken) == 2 * 17


@pytest.mark.parametrize("length", ["1048577", "10737418240", "9" * 30, "9" * 5000])
def test_a_body_that_says_that_it_is_too_long_is_not_read(fails: Expectation, wat: Any, length: str) -> None:
    taken: list[int] = []
    gateway = fails(
        wat.spin(GOOD),
        "BodyTooLarge",
        413,
        request=("/bad", "POST", [("Content-Length", length)]),
        body=lambda: pieces(taken, 10, 1),
        tool={"max_request_body": "1MiB"},
    )
    assert taken == []
    assert gateway.stats()[0].started == 0


@pytest.mark.parametrize("length", ["", "-1", "x", "1e9", "\xb2", "0x10", "1048576"])
def test_other_lengths_are_what_they_are(fails: Expectation, wat: Any, length: str) -> None:
    gateway = fails.open(
        wat.command('(call $print (str "content-type: a/b\\n\\ngood"))'),
        wagi=True,
        tool={"max_request_body": "1MiB"},
    )
    assert fails.ask(gateway, "/bad", "POST", [("content-length", length)], (b"x",)) == (200, b"good")


class Gone(RequestError):
    pass


def test_a_client_that_goes_away_while_its_body_is_read(fails: Expectation, wat: Any) -> None:
    def body() -> Iterator[bytes]:
        yield b"x"
        raise Gone("connection reset")

    fails(wat.flat(GOOD), "Gone: connection reset", 400, request=("/bad", "POST"), body=body)


def test_a_body_that_breaks_is_one_failed_request(fails: Expectation, wat: Any) -> None:
    def body() -> Iterator[bytes]:
        yield b"x"
        raise OSError("broken")

    gateway = fails.open(wat.flat(GOOD))
    assert fails.ask(gateway, "/bad", "POST", body=body()) == (500, b"")
    assert "component bad" in fails.caplog.text
    assert gateway.stats()[0].failed == 1
    fails.served(gateway)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_header_value_that_is_not_utf8(fails: Expectation, wat: Any, dialect: str) -> None:
    request = ("/bad", "GET", [("x-bad", "\xff")])
    fails(wat.http(dialect, GOOD), "UndecodableHeader: .*'x-bad' is not UTF-8", request=request)


@pytest.mark.parametrize("method", ["BREW", "get", "CONNECT", ""])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_method_that_the_interface_does_not_have(
    fails: Expectation, wat: Any, dialect: str, method: str
) -> None:
    gateway = fails.open(wat.http(dialect, GOOD))
    assert fails.ask(gateway, "/bad", method) == (405, b"")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_request_with_ten_thousand_headers(fails: Expectation, wat: Any, dialect: str) -> None:
    """Bounded by the server in front; here they are given to the guest, all of them."""
    count = "(call $out_number (local.get $headers_len)) (call $respond (i32.const 200))"
    gateway = fails.open(wat.http(dialect, count))
    headers = [(f"x-{number}", "v") for number in range(10_000)]
    assert fails.ask(gateway, "/bad", "GET", headers) == (200, b"10007")


# Too many at once


def test_more_requests_than_a_component_may_serve_at_once(fails: Expectation, wat: Any, answer: Any) -> None:
    inner: list[Any] = []

    def body() -> Iterator[bytes]:
        """Read while the first request has its place; asks for one more."""
        inner.append(answer(gateway, "/bad"))
        inner.append(fails.ask(gateway, "/good"))
        yield b""

    gateway = fails.open(wat.spin(GOOD), tool={"max_concurrency": 1})
    for _ in range(3):
        inner.clear()
        fails.caplog.clear()
        assert fails.ask(gateway, "/bad", "POST", body=body()) == (200, b"good")
        refused, other = inner
        assert (refused.status, refused.body) == (503, ())
        assert refused.headers.get("retry-after") == "1"
        assert other == (200, b"good")
        assert "component bad: GET '/bad': Saturated: all 1 instances are busy" in fails.caplog.text
    assert gateway.stats()[0].started == 3


def test_a_pool_without_a_free_slot(fails: Expectation, wat: Any, answer: Any) -> None:
    gateway = fails.open(wat.spin(GOOD))
    executor = gateway._entries["bad"].http  # type: ignore[index]
    guest: Any = executor.guest  # type: ignore[union-attr]
    if not guest.program.engine.pooling:
        pytest.skip("no pool in a small address space")
    taken: list[Any] = []

    def take_all() -> None:
        for _ in range(POOL_SLOTS + 1):
            taken.append(guest.instantiate().__enter__())

    try:
        with pytest.raises(Saturated):
            take_all()
        assert len(taken) == POOL_SLOTS
        for path in ("/bad", "/good"):
            response = answer(gateway, path)
            assert (response.status, response.body) == (503, ())
            assert response.headers.get("retry-after") == "1"
    finally:
        for instance in taken:
            instance.close()
    assert fails.ask(gateway, "/bad") == (200, b"good")
    fails.served(gateway)


# Exceptions from anywhere


class Store:
    """A key-value store of the site whose reads raise."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def get(self, key: str, deadline: Any = None) -> bytes | None:
        raise self.error

    def close(self) -> None:
        pass


READ = f"""
  (call $kv_open (str "site") (i32.const 64))
  (call $kv_get (i32.load (i32.const 68)) (str "key") (i32.const 64))
  {GOOD}"""


def test_a_mistake_of_the_host_is_one_failed_request(fails: Expectation, wat: Any) -> None:
    store = Store(ZeroDivisionError("in the site's own code"))
    gateway = fails.open(wat.spin(READ), key_value_stores=["site"], options={"stores": {"site": store}})
    assert fails.ask(gateway, "/bad") == (500, b"")
    (record,) = [record for record in fails.caplog.records if record.levelname == "ERROR"]
    assert "component bad" in record.getMessage()
    assert record.exc_info is not None
    assert "in the site's own code" in str(record.exc_info[1])
    fails.served(gateway)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_process_is_not_swallowed(
    fails: Expectation, wat: Any, error: type[BaseException]
) -> None:
    """gunicorn raises SystemExit in a worker that takes too long."""
    gateway = fails.open(
        wat.spin(READ), key_value_stores=["site"], options={"stores": {"site": Store(error())}}
    )
    with pytest.raises(error):
        fails.ask(gateway, "/bad")
    fails.served(gateway)
    assert gateway.stats()[0].failed == 1
    assert gateway._entries["bad"]._places.free == 64  # type: ignore[index]  # its place is free again


def test_requests_near_pythons_recursion_limit(fails: Expectation, wat: Any) -> None:
    """A site whose own stack is deep: the answer, or a failure, and nothing that Python could not report."""
    write = """
      (call $kv_open (str "default") (i32.const 64))
      (local.set $i (i32.load (i32.const 68)))
      (call $kv_set (local.get $i) (str "key") (str "value") (i32.const 64))
      (call $kv_get (local.get $i) (str "key") (i32.const 64))
      (call $text (i32.const 200) (i32.load (i32.const 68)) (i32.load (i32.const 72)))"""
    gateway = fails.open(wat.spin(write), key_value_stores=["default"], options={"state_dir": ""})
    assert fails.ask(gateway, "/bad") == (200, b"value")
    logging.disable()
    unraisable: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    outcomes = set()

    def deep(left: int) -> Any:
        return deep(left - 1) if left else fails.ask(gateway, "/bad")

    depth = len(__import__("inspect").stack())
    try:
        for left in range(sys.getrecursionlimit() - depth - 80, sys.getrecursionlimit() - depth + 5):
            try:
                outcomes.add(deep(left))
            except RecursionError:
                outcomes.add("RecursionError")
    finally:
        sys.unraisablehook = hook
        logging.disable(logging.NOTSET)
    assert {(200, b"value"), "RecursionError"} <= outcomes
    assert outcomes <= {(200, b"value"), (500, b""), "RecursionError"}
    assert unraisable == []
    fails.served(gateway)


# Binaries


def loads_or_not(fails: Expectation, gateway: Gateway, wasm: bytes) -> int:
    """The bytes are refused as they should be, or they are a guest that answers; the status."""
    (fails.application.folder / "bad.wasm").write_bytes(wasm)
    gateway.close()
    problems = gateway.check()
    assert all(isinstance(problem, ComponentError) and problem.component == "bad" for problem in problems)
    status: int = fails.ask(gateway, "/bad")[0]
    assert status in ((500,) if problems else (200, 500, 504)), (problems, wasm)
    return 0 if problems else status


@pytest.mark.parametrize("kind", ["flat", "spin", "wagi"])
def test_a_binary_cut_anywhere(fails: Expectation, wat: Any, kind: str) -> None:
    wasm = wat.wagi(b"content-type: a/b\n\n") if kind == "wagi" else wat.http(kind, GOOD)
    gateway = fails.open(wasm, wagi=kind == "wagi")
    logging.disable()
    try:
        every = max(1, len(wasm) // 150)
        statuses = [loads_or_not(fails, gateway, wasm[:size]) for size in range(0, len(wasm), every)]
    finally:
        logging.disable(logging.NOTSET)
    assert statuses.count(0) > len(statuses) * 0.9
    assert loads_or_not(fails, gateway, wasm) == 200
    fails.served(gateway)


@pytest.mark.parametrize("kind", ["flat", "spin", "wagi"])
def test_a_binary_changed_anywhere(fails: Expectation, wat: Any, kind: str) -> None:
    wasm = wat.wagi(b"content-type: a/b\n\n") if kind == "wagi" else wat.http(kind, GOOD)
    gateway = fails.open(wasm, wagi=kind == "wagi", tool={**SHORT, "max_memory": "4MiB"})
    chance = random.Random(kind)
    logging.disable()
    statuses = []
    try:
        for _ in range(150):
            changed = bytearray(wasm)
            for _ in range(chance.choice([1, 1, 1, 5])):
                changed[chance.randrange(8, len(wasm))] = chance.randrange(256)
            statuses.append(loads_or_not(fails, gateway, bytes(changed)))
    finally:
        logging.disable(logging.NOTSET)
    assert {0, 200} <= set(statuses)
    gateway.close()
    gateway = fails.open(wasm, wagi=kind == "wagi")
    assert fails.ask(gateway, "/bad")[0] == 200
    fails.served(gateway)


# Nothing survives a request


def always(fails: Expectation, gateway: Gateway, times: int, expected: bytes) -> None:
    for _ in range(times):
        assert fails.ask(gateway, "/bad") == (200, expected)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_memory_globals_and_tables_begin_anew(fails: Expectation, wat: Any, dialect: str) -> None:
    more = "(global $kept (mut i32) (i32.const 0)) (table $t 1 100 funcref) (elem declare func $take)"
    body = """
      (global.set $kept (i32.add (global.get $kept) (i32.const 1)))
      (i32.store (i32.const 512) (i32.add (i32.load (i32.const 512)) (i32.const 1)))
      (call $out_number (global.get $kept)) (call $out_number (i32.load (i32.const 512)))
      (call $out_number (table.size $t)) (call $out_number (ref.is_null (table.get $t (i32.const 0))))
      (call $out_number (memory.size))
      (call $out_number (i32.load (i32.const 0x10fffc)))
      (table.set $t (i32.const 0) (ref.func $take))
      (drop (table.grow $t (ref.null func) (i32.const 1)))
      (drop (memory.grow (i32.const 1)))
      (memory.fill (i32.const 0x20000) (i32.const 255) (i32.const 0x100000))
      (call $respond (i32.const 200))"""
    gateway = fails.open(wat.http(dialect, body, more))
    always(fails, gateway, 1000, b"1111170")


def test_what_a_failed_request_wrote_is_gone_too(fails: Expectation, wat: Any) -> None:
    body = """
      (call $out_number (i32.load (i32.const 0x100000)))
      (memory.fill (i32.const 0x20000) (i32.const 255) (i32.const 0xf0000))
      (if (i32.eq (local.get $method) (i32.const 1)) (then unreachable))
      (call $respond (i32.const 200))"""
    gateway = fails.open(wat.flat(body, allocator=allocator("flat", "(i32.const 0x18000)")))
    logging.disable()
    try:
        for _ in range(200):
            assert fails.ask(gateway, "/bad", "POST") == (500, b"")
            assert fails.ask(gateway, "/bad") == (200, b"0")
    finally:
        logging.disable(logging.NOTSET)


def test_handles_begin_anew(fails: Expectation, wat: Any) -> None:
    body = """
      (call $kv_open (str "default") (i32.const 64)) (call $out_number (i32.load (i32.const 68)))
      (call $kv_open (str "default") (i32.const 64)) (call $out_number (i32.load (i32.const 68)))
      (call $sql_execute (i32.const 0) (str "SELECT 1") (i32.const 0) (i32.const 0) (i32.const 64))
      (call $out_number (i32.load8_u (i32.const 64))) (call $out_number (i32.load8_u (i32.const 68)))
      (call $sql_open (str "default") (i32.const 64)) (call $out_number (i32.load (i32.const 68)))
      (call $respond (i32.const 200))"""
    gateway = fails.open(wat.spin(body), key_value_stores=["default"], sqlite_databases=["default"])
    # handles 0 and 1; no such connection (1, invalid-connection 2); handle 0
    always(fails, gateway, 1000, b"01" + b"12" + b"0")
    stale = wat.flat(
        f"""(if (i32.eq (local.get $method) (i32.const 1))
          (then (call $kv_open (str "default") (i32.const 64)))
          (else (call $kv_get (i32.const 0) (str "key") (i32.const 64)))) {GOOD}"""
    )
    gateway = fails.open(stale, key_value_stores=["default"])
    for _ in range(100):
        assert fails.ask(gateway, "/bad", "POST") == (200, b"good")
        assert fails.ask(gateway, "/bad") == (500, b"")


def executes(*statements: str) -> str:
    """Runs these; answers for each with its case (0 ok), and the number of rows."""
    calls = "".join(
        f"""(call $sql_execute (local.get $i) (str "{statement}") (i32.const 0) (i32.const 0) (i32.const 64))
        (call $out_number (i32.load8_u (i32.const 64)))
        (if (i32.eqz (i32.load8_u (i32.const 64))) (then (call $out_number (i32.load (i32.const 80)))))
        (call $out_byte (i32.const 32))"""
        for statement in statements
    )
    return f"""(call $sql_open (str "default") (i32.const 64)) (local.set $i (i32.load (i32.const 68)))
      {calls} (call $respond (i32.const 200))"""


@pytest.mark.parametrize("state", [None, ""], ids=["file", "memory"])
def test_temporary_tables_transactions_and_settings_begin_anew(
    fails: Expectation, wat: Any, state: str | None
) -> None:
    body = executes(
        "SELECT * FROM sqlite_temp_master WHERE name = 'kept'",
        "CREATE TEMP TABLE kept AS SELECT 1",
        "SELECT * FROM kept",
        "CREATE TABLE IF NOT EXISTS t (v)",
        "BEGIN",
        "SELECT * FROM t",
        "INSERT INTO t VALUES (1)",
        "SELECT * FROM t",
    )
    gateway = fails.open(wat.spin(body), sqlite_databases=["default"], options={"state_dir": state})
    always(fails, gateway, 300, b"00 00 01 00 00 00 00 01 ")


def test_files_are_not_a_way_to_keep_something(fails: Expectation, wat: Any) -> None:
    """Create a file, and say with which errno that ends; nothing is granted but reading."""
    body = """
      (local $i i32)
      (local.set $i (call $path_open (i32.const 3) (i32.const 0) (str "kept.txt")
        (i32.const 1) (i64.const -1) (i64.const -1) (i32.const 0) (i32.const 16)))
      (call $print (str "content-type: a/b\\n\\n"))
      (call $out_number (local.get $i))
      (call $print (i32.const 0x10000) (i32.const 2))"""
    (fails.application.folder / "page.txt").write_text("a page")
    gateway = fails.open(wat.command(body), wagi=True, files=["page.txt"])
    status, first = fails.ask(gateway, "/bad")
    assert (status, first[:1] in b"1234567") == (200, True)
    always(fails, gateway, 1000, first)
    assert sorted(path.name for path in (gateway.work_dir / "assets" / "bad").iterdir()) == ["page.txt"]


def test_a_guest_that_opens_files_without_end_leaves_some_to_others(
    fails: Expectation, wat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says with which errno that ends, and how many it has got."""
    gc.collect()  # what other tests have left
    files = descriptors.files
    monkeypatch.setattr(files, "limit", files.used + 7)
    body = """
      (local $i i32) (local $errno i32)
      (loop $l
        (local.set $errno (call $path_open (i32.const 3) (i32.const 0) (str "page.txt")
          (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)))
        (local.set $i (i32.add (local.get $i) (i32.eqz (local.get $errno))))
        (br_if $l (i32.eqz (local.get $errno))))
      (call $print (str "content-type: a/b\\n\\n"))
      (call $out_number (local.get $errno)) (call $out_number (local.get $i))
      (call $print (i32.const 0x10000) (i32.const 3))"""
    (fails.application.folder / "page.txt").write_text("a page")
    gateway = fails.open(wat.command(body), wagi=True, files=["page.txt"])
    always(fails, gateway, 300, b"337")  # mfile


def test_a_guest_that_fills_the_disk(fails: Expectation, wat: Any) -> None:
    """It writes to one file, and makes others, until an errno ends that; so do those that come after it."""
    made = """(call $path_open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 1)
          (i32.const 1) (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 16))"""
    body = f"""
      (local $fd i32) (local $errno i32)
      (i32.store8 (i32.const 512) (i32.const 65))
      (drop {made})
      (local.set $fd (i32.load (i32.const 16)))
      (i32.store (i32.const 524) (i32.const 60000))
      (loop $l
        (local.set $errno
          (call $fd_write (local.get $fd) (i32.const 520) (i32.const 1) (i32.const 16)))
        (br_if $l (i32.eqz (local.get $errno))))
      (call $print (str "content-type: a/b\\n\\n"))
      (call $out_number (local.get $errno))
      (loop $l
        (i32.store8 (i32.const 512) (i32.add (i32.load8_u (i32.const 512)) (i32.const 1)))
        (local.set $errno {made})
        (br_if $l (i32.eqz (local.get $errno))))
      (call $out_number (local.get $errno))
      (call $print (i32.const 0x10000) (i32.const 4))"""
    (fails.application.folder / "page.txt").write_text("a page")
    gateway = fails.open(
        wat.command(body),
        wagi=True,
        files=["page.txt"],
        tool={"max_disk": "1MiB"},
        options={"allow_transient_write": True},
    )
    always(fails, gateway, 20, b"5151")  # nospc
    files = [path for path in (gateway.work_dir / "assets" / "bad").iterdir() if path.name != "page.txt"]
    assert sum(4096 + path.stat().st_size for path in files) <= 1 << 20
    assert len(files) == 6  # 17 writes and 6 names


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
def test_a_thousand_requests_of_all_kinds_leave_nothing_behind(fails: Expectation, wat: Any) -> None:
    application = fails.application
    (application.folder / "page.txt").write_text("a page")
    read = """
      (drop (call $path_open (i32.const 3) (i32.const 0) (str "page.txt")
        (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)))"""
    hold = """(call $kv_open (str "default") (i32.const 64)) (call $sql_open (str "default") (i32.const 64))
      (call $sql_execute (i32.load (i32.const 68)) (str "CREATE TEMP TABLE t (v)") (i32.const 0) (i32.const 0)
        (i32.const 64))"""
    state = {"key_value_stores": ["default"], "sqlite_databases": ["default"], "files": ["*.txt"]}
    gateway = application(
        good=application.part(wat.spin(read + hold + GOOD), **state),
        traps=application.part(wat.spin(read + hold + "unreachable"), **state),
        loops=application.part(
            wat.flat(read + hold + "(loop $l (br $l)) (i32.const 0)"), tool={"timeout": "10ms"}, **state
        ),
        exits=application.part(
            wat.command(read + "(call $proc_exit (i32.const 7))"), wagi=True, files=["*.txt"]
        ),
        prints=application.part(wat.command(read + '(call $print (str "status: 200\\n\\n"))'), wagi=True),
        lies=application.part(wat.spin(answers(("", 20, -1))), **state),
        chains=application.part(
            wat.flat(
                f'(call $http_send (i32.const 0) (str "http://traps.spin.internal/") {"(i32.const 0)" * 7}'
                f" (i32.const 64)) {GOOD}"
            ),
            allowed_outbound_hosts=["http://traps.spin.internal"],
        ),
    )
    expected = {"good": 200, "traps": 500, "exits": 500, "prints": 200, "lies": 500, "chains": 200}

    def work(rounds: int) -> None:
        for number in range(rounds):
            for id, status in expected.items():
                assert fails.ask(gateway, f"/{id}")[0] == status
            if number % 20 == 0:
                assert fails.ask(gateway, "/loops")[0] == 504

    def left() -> Counter[str]:
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        files = [os.path.realpath(link) for link in links if os.path.lexists(link)]
        return Counter([*files, *(thread.name for thread in threading.enumerate())])

    def resident_kib() -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    logging.disable()
    try:
        work(60)
        gc.collect()
        before, resident = left(), resident_kib()
        work(200)
        gc.collect()
        assert left() <= before  # what other tests have left may go meanwhile
        assert resident_kib() - resident < 4 << 10
        assert not Engine.shared().ticker.running
        gateway.close()
        assert not [name for name in left() if str(application.folder) in name]
    finally:
        logging.disable(logging.NOTSET)
