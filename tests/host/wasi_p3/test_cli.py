"""wasi:cli 0.3: standard streams that are streams, for host functions alone and for whole commands."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.host.giving import give
from tests.wasi_p3_wat import BYTES, CommandToolkit, pipes
from wasm_gateway.component.streams import HostStream, Promise, SharedStream
from wasm_gateway.component.types import U8Type
from wasm_gateway.component.values import Err, Ok
from wasm_gateway.errors import GatewayError, LimitExceeded
from wasm_gateway.host.wasi.io import IoError, OutputStream, StreamFailed
from wasm_gateway.host.wasi.state import WasiTemplate
from wasm_gateway.host.wasi_p3.cli import Cli
from wasm_gateway.host.wasi_p3.streams import taken

STDIN, STDOUT, STDERR, ENVIRONMENT, EXIT, CLOCK = (
    f"wasi:{name}@0.3.0"
    for name in (
        *("cli/stdin", "cli/stdout", "cli/stderr", "cli/environment", "cli/exit"),
        "clocks/monotonic-clock",
    )
)
READ_STDIN = Cli.FUNCTIONS["wasi:cli/stdin@0.3"]["read-via-stream"]
WRITE_STDOUT = Cli.FUNCTIONS["wasi:cli/stdout@0.3"]["write-via-stream"]
RC = "0.3.0-rc-2026-03-15"


def told(promise: Promise) -> list[Any]:
    """Where the value of the promise comes in."""
    found: list[Any] = []
    promise.then(found.append)
    return found


# Host functions alone


@pytest.fixture
def guest(context: Callable[..., Any]) -> Callable[..., Any]:
    """`guest(stdin=..., stdout=...)` is an instance with these standard streams."""

    def guest(**streams: Any) -> Any:
        ctx = context()
        ctx.wasi = WasiTemplate({"A": "1"}, (), ("tool", "x")).state(**streams)
        return ctx

    return guest


def test_what_is_written_is_there_at_once(guest: Any) -> None:
    written: list[bytes] = []
    ctx = guest(stdout=written.append)
    stream = SharedStream(U8Type())
    end = told(WRITE_STDOUT(ctx, stream))
    for data in (b"one", b"two", bytes(3 << 20)):
        before = sum(map(len, written))
        ctx.run(give(stream, data))
        assert sum(map(len, written)) == before + len(data)
    assert max(map(len, written)) <= 1 << 20
    assert end == []
    stream.drop()
    ctx.loop.run_until(lambda: bool(end))
    assert end == [Ok()]
    assert ctx.loop.idle


def test_a_writer_that_came_first(guest: Any) -> None:
    written: list[bytes] = []
    ctx = guest(stdout=written.append)
    stream = SharedStream(U8Type())
    gave: list[bool] = []
    ctx.loop.spawn(give(stream, b"early"), gave.append)
    assert gave == []
    WRITE_STDOUT(ctx, stream)
    assert written == [b"early"]
    ctx.loop.run_until(lambda: gave == [True])


def test_a_stream_that_ended_before(guest: Any) -> None:
    ctx = guest()
    stream = SharedStream(U8Type())
    stream.drop()
    end = told(WRITE_STDOUT(ctx, stream))
    ctx.loop.run_until(lambda: bool(end))
    assert end == [Ok()]


def test_a_sink_that_is_full_ends_the_guest(guest: Any) -> None:
    def full(data: bytes) -> None:
        raise LimitExceeded("too long", "max_response_body")

    ctx = guest(stdout=full)
    stream = SharedStream(U8Type())
    WRITE_STDOUT(ctx, stream)
    with pytest.raises(LimitExceeded):
        ctx.run(give(stream, b"x"))


def test_an_output_that_fails(context: Any) -> None:
    class Failing(OutputStream):
        closed = 0

        def write(self, ctx: Any, data: bytes) -> None:
            raise StreamFailed(IoError("no"))

        def close(self, ctx: Any) -> None:
            self.closed += 1

    ctx, output, stream = context(), Failing(), SharedStream(U8Type())
    end = told(taken(ctx, stream, output, lambda error: error and error.debug))
    assert [gave for _, gave in ctx.run(give(stream, b"x"))] == [True]
    ctx.loop.run_until(lambda: bool(end))
    assert end == [Err("no")]
    assert output.closed == 1
    assert [gave for _, gave in ctx.run(give(stream, b"x"))] == [False]


def test_standard_input(guest: Any) -> None:
    ctx = guest(stdin=iter([b"one", b"", b"two"]))
    source, promise = READ_STDIN(ctx)
    end = told(promise)
    stream = HostStream(ctx.loop, U8Type(), source)
    got = [ctx.run(stream.take(2))[0][1] for _ in range(4)]
    assert b"".join(got) == b"onetwo"
    assert end == []
    assert ctx.run(stream.take(2)) == [(0, b"")]
    assert end == [Ok()]


def test_standard_input_that_is_dropped(guest: Any) -> None:
    ctx = guest(stdin=b"abc")
    source, promise = READ_STDIN(ctx)
    end = told(promise)
    source.close(ctx)
    assert end == [Ok()]
    again, _ = READ_STDIN(ctx)
    assert again.read(ctx, 10) == b"abc"


def test_input_passed_on_to_output(guest: Any) -> None:
    written: list[bytes] = []
    ctx = guest(stdin=iter([b"one", b"two"]), stdout=written.append)
    source, _ = READ_STDIN(ctx)
    end = told(WRITE_STDOUT(ctx, HostStream(ctx.loop, U8Type(), source)))
    ctx.loop.run_until(lambda: bool(end))
    assert (b"".join(written), end) == (b"onetwo", [Ok()])


def test_the_end_of_an_instance_ends_what_is_under_way(guest: Any) -> None:
    ctx = guest(stdout=lambda data: None)
    WRITE_STDOUT(ctx, SharedStream(U8Type()))
    assert not ctx.loop.idle
    assert ctx.run_closers() == []
    assert ctx.loop.idle


# Whole commands, by WAGI

HEADER = 26
DATA = r"""(data (i32.const 0) "content-type: text/plain\0a\0a") (data (i32.const 40) "oh no")""" + pipes(1)
OPEN = "(local $end i32) (call $open) (local.set $end (call $write-via-stream (global.get $rx)))"
HEAD = f"(call $write (i32.const 0) (i32.const {HEADER}))"
CLOSE = "(call $end) (call $check (local.get $end))"
DONE = "(call $return (i32.const 0)) (i32.const 0)"
OUT = {STDOUT: ("write-via-stream",)}
IN = {STDIN: ("read-via-stream",)}

Serve = Callable[..., Any]


@pytest.fixture(scope="module")
def toolkit() -> CommandToolkit:
    return CommandToolkit()


@pytest.fixture
def serve(application: Any, toolkit: CommandToolkit) -> Serve:
    """`serve(body, uses)` is a gateway with a command `a`."""

    def serve(body: str, uses: Any = OUT, *, settings: Any = None, data: str = DATA, **more: Any) -> Any:
        wasm = toolkit.command(body, uses, ends=BYTES, data=data, **more)
        return application(a=application.part(wasm, **{"wagi": True, **(settings or {})}))

    return serve


@pytest.mark.parametrize("version", ["0.3.0", "0.3.4", RC])
def test_a_command(serve: Serve, ask: Any, version: str) -> None:
    body = f"{OPEN} {HEAD} (call $write (i32.const 40) (i32.const 5)) {CLOSE} {DONE}"
    gateway = serve(body, version=version)
    for _ in range(2):
        assert ask(gateway, "/a") == (200, b"oh no")


ECHO = f"""(local $n i32) {OPEN} {HEAD}
  (call $read-via-stream (i32.const 64))
  (loop $more
    (local.set $n (call $body.read (i32.load (i32.const 64)) (i32.const 8192) (i32.const 32768)))
    (call $write (i32.const 8192) (i32.shr_u (local.get $n) (i32.const 4)))
    (br_if $more (i32.eqz (i32.and (local.get $n) (i32.const 15)))))
  (call $body.drop-readable (i32.load (i32.const 64)))
  (call $check (i32.load (i32.const 68)))
  {CLOSE} {DONE}"""


def test_standard_input_to_its_end(serve: Serve, ask: Any) -> None:
    gateway = serve(ECHO, IN | OUT)
    for body in ((), (b"one", b"two"), (bytes(range(256)) * 2000,)):
        assert ask(gateway, "/a", "POST", body=body) == (200, b"".join(body))


def test_standard_input_given_to_standard_output(serve: Serve, ask: Any) -> None:
    body = f"""{OPEN} {HEAD} {CLOSE} (call $read-via-stream (i32.const 64))
      (call $check (call $write-via-stream (i32.load (i32.const 64))))
      (call $check (i32.load (i32.const 68))) {DONE}"""
    assert ask(serve(body, IN | OUT), "/a", "POST", body=(b"one", b"two")) == (200, b"onetwo")


def test_nobody_has_to_wait_for_the_end(serve: Serve, ask: Any) -> None:
    """What a guest has written is there, whether it ends its stream or not, asks how that went or not."""
    body = f"{OPEN} {HEAD} (call $write (i32.const 40) (i32.const 5))"
    assert ask(serve(f"{body} {DONE}"), "/a") == (200, b"oh no")
    assert ask(serve(f"{body} (call $done.drop-readable (local.get $end)) {DONE}"), "/a") == (200, b"oh no")
    assert ask(serve(f"{body} (call $return (i32.const 1)) (i32.const 0)"), "/a") == (200, b"oh no")
    exits = {EXIT: ("exit", "exit-with-code")}
    assert ask(serve(f"{body} (call $exit (i32.const 0)) unreachable", exits | OUT), "/a") == (200, b"oh no")
    code = f"{body} (call $exit-with-code (i32.const 3)) unreachable"
    assert ask(serve(code, exits | OUT), "/a") == (500, b"")


def test_what_a_guest_says_before_it_traps_is_in_the_log(serve: Serve, ask: Any, caplog: Any) -> None:
    body = f"{OPEN} (call $write (i32.const 40) (i32.const 5)) unreachable"
    with caplog.at_level(logging.INFO):
        assert ask(serve(body, {STDERR: ("write-via-stream",)}), "/a") == (500, b"")
    assert ("wasm_gateway.guest.a", "oh no") in [(r.name, r.getMessage()) for r in caplog.records]


def test_output_that_is_too_long(serve: Serve, ask: Any, caplog: Any) -> None:
    body = f"{OPEN} {HEAD} (call $write (i32.const 8192) (i32.const 100000)) {CLOSE} {DONE}"
    limit = {"tool.wasm-gateway": {"max_response_body": 1000}}
    assert ask(serve(body, settings=limit), "/a") == (500, b"")
    assert "max_response_body" in caplog.text or "longer than 1000 bytes" in caplog.text


def test_a_callback_goes_on(serve: Serve, ask: Any) -> None:
    """The guest leaves its code to wait for a clock, and is called back."""
    body = f"""(local $set i32) {OPEN} {HEAD} (i32.store (i32.const 100) (local.get $end))
      (local.set $set (call $set.new))
      (call $join (i32.shr_u (call $wait-for~ (i64.const 1000000)) (i32.const 4)) (local.get $set))
      (i32.or (i32.const 2) (i32.shl (local.get $set) (i32.const 4)))"""
    callback = f"""(call $join (local.get $waitable) (i32.const 0)) (call $subtask.drop (local.get $waitable))
      (call $write (i32.const 40) (i32.const 5))
      (call $end) (call $check (i32.load (i32.const 100))) {DONE}"""
    gateway = serve(body, OUT, async_uses={CLOCK: ("wait-for",)}, callback=callback)
    assert ask(gateway, "/a") == (200, b"oh no")


def test_the_deadline_ends_a_command(serve: Serve, ask: Any) -> None:
    """It waits for a stream to which nobody writes."""
    body = f"""{OPEN} (call $wait-for (i64.const -1)) {DONE}"""
    settings = {"tool.wasm-gateway": {"timeout": "50ms"}}
    assert ask(serve(body, {CLOCK: ("wait-for",)} | OUT, settings=settings), "/a")[0] in (500, 504)


def test_a_deadlock_is_a_trap(serve: Serve, ask: Any, caplog: Any) -> None:
    """The end of its own output, which it does not end."""
    assert ask(serve(f"{OPEN} (call $check (local.get $end)) {DONE}"), "/a") == (500, b"")
    assert "deadlock" in caplog.text


def test_facts(serve: Serve, ask: Any) -> None:
    body = f"""(local $list i32) {OPEN} {HEAD} (call $get-arguments (i32.const 64))
      (local.set $list (i32.load (i32.const 64)))
      (call $write (i32.load offset=8 (local.get $list)) (i32.load offset=12 (local.get $list)))
      (i32.store8 (i32.const 64) (i32.const 9)) (call $get-initial-cwd (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then unreachable))
      (i32.store8 (i32.const 64) (i32.const 9)) (call $get-terminal-stdout (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then unreachable))
      {CLOSE} {DONE}"""
    uses = {
        ENVIRONMENT: ("get-arguments", "get-initial-cwd"),
        "wasi:cli/terminal-stdout@0.3.0": ("get-terminal-stdout",),
    }
    assert ask(serve(body, uses | OUT, settings={"wagi": "tool ${ARGS}"}), "/a?x=1") == (200, b"x=1")


def test_a_result_pointer_out_of_bounds(serve: Serve, ask: Any, recwarn: Any) -> None:
    body = f"(call $read-via-stream (i32.const -8)) {DONE}"
    assert ask(serve(body, IN | OUT), "/a") == (500, b"")
    assert not list(recwarn)


def test_run_of_another_type(application: Any, toolkit: CommandToolkit) -> None:
    wasm = toolkit.command(DONE, OUT, ends=BYTES, data=DATA, answer="u8")
    with pytest.raises(GatewayError, match="run"):
        application(a=application.part(wasm, wagi=True))
