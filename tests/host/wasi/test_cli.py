"""wasi:cli, as commands find it that answer by WAGI."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.component_wat import STREAMS

STDIN, STDOUT, STDERR = (f"wasi:cli/{name}@0.2.0" for name in ("stdin", "stdout", "stderr"))
ENVIRONMENT, EXIT = "wasi:cli/environment@0.2.0", "wasi:cli/exit@0.2.0"
WRITE = "[method]output-stream.blocking-write-and-flush"

# Addresses: 0 the header, 32 a line feed, 64 results. $print writes to stdout, $print_all the strings of the
# list that a result at 64 is, whose elements are of so many bytes: each a line of one string or two.
HEADER = r"content-type: text/plain\n\n"
DATA = f"""(data (i32.const 0) "{HEADER}") (data (i32.const 32) "\\n") (data (i32.const 40) "oh no")
    (func $print (param $at i32) (param $size i32)
      (call $output-stream.blocking-write-and-flush (call $get-stdout) (local.get $at) (local.get $size)
        (i32.const 64)))
    (func $print_all (param $size i32) (local $at i32) (local $end i32)
      (local.set $at (i32.load (i32.const 64)))
      (local.set $end (i32.add (local.get $at) (i32.mul (local.get $size) (i32.load (i32.const 68)))))
      (block $done (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (call $print (i32.load (local.get $at)) (i32.load offset=4 (local.get $at)))
        (if (i32.eq (local.get $size) (i32.const 16)) (then
          (call $print (i32.load offset=8 (local.get $at)) (i32.load offset=12 (local.get $at)))))
        (call $print (i32.const 32) (i32.const 1))
        (local.set $at (i32.add (local.get $at) (local.get $size)))
        (br $next))))"""
USES = {STDOUT: ("get-stdout",), STREAMS: (WRITE,)}
BEGIN = "(call $print (i32.const 0) (i32.const 26))"

Serve = Callable[..., Any]


@pytest.fixture
def serve(application: Any, components: Any) -> Serve:
    """`serve(body, uses)` is a gateway with a command `a`, of this version of WASI."""

    def serve(body: str, uses: Any = None, *, version: str = "0.2.0", **settings: Any) -> Any:
        wasm = components.command(
            f"(local $in i32) {BEGIN} {body}", USES | (uses or {}), DATA, version=version
        )
        return application(a=application.part(wasm, **{"wagi": True, **settings}))

    return serve


@pytest.mark.parametrize("version", ["0.2.0", "0.2.6", "0.2.12"])
def test_arguments(serve: Serve, ask: Any, version: str) -> None:
    gateway = serve(
        "(call $get-arguments (i32.const 64)) (call $print_all (i32.const 8)) (i32.const 0)",
        {ENVIRONMENT: ("get-arguments",)},
        version=version,
        wagi="tool ${ARGS}",
    )
    assert ask(gateway, "/a?x=1&y=%20") == (200, b"tool\nx=1\ny=%20\n")


def test_environment(serve: Serve, ask: Any) -> None:
    gateway = serve(
        "(call $get-environment (i32.const 64)) (call $print_all (i32.const 16)) (i32.const 0)",
        {ENVIRONMENT: ("get-environment",)},
        environment={"MODE": "manifest"},
    )
    status, body = ask(gateway, "/a", "POST", [("x-a", "b")], (b"12345",))
    assert status == 200
    lines = body.decode().splitlines()
    assert {"MODEmanifest", "REQUEST_METHODPOST", "CONTENT_LENGTH5", "HTTP_X_Ab"} <= set(lines)


READ = """(local.set $in (call $get-stdin))
  (block $done (loop $more
    (call $input-stream.blocking-read (local.get $in) (i64.const 1000) (i32.const 80))
    (br_if $done (i32.load8_u (i32.const 80)))
    (call $print (i32.load (i32.const 84)) (i32.load (i32.const 88)))
    (br $more)))
  (i32.ne (i32.load8_u (i32.const 84)) (i32.const 1))"""  # it has to be `closed`


def test_standard_input_to_its_end(serve: Serve, ask: Any) -> None:
    uses = {STDIN: ("get-stdin",), STREAMS: (WRITE, "[method]input-stream.blocking-read")}
    gateway = serve(READ, uses)
    for body in ((), (b"one", b"two"), (bytes(5000),)):
        assert ask(gateway, "/a", "POST", body=body) == (200, b"".join(body))


def test_standard_error_goes_to_the_log(serve: Serve, ask: Any, caplog: pytest.LogCaptureFixture) -> None:
    gateway = serve(
        """(call $output-stream.blocking-write-and-flush (call $get-stderr) (i32.const 40) (i32.const 5)
          (i32.const 64)) (i32.const 0)""",
        {STDERR: ("get-stderr",)},
    )
    assert ask(gateway, "/a") == (200, b"")
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("wasm_gateway.guest.a", "oh no")
    ]


OK, ERROR = "(i32.const 0)", "(i32.const 1)"


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (f"(call $exit {OK}) unreachable", 200),
        (f"(call $exit {ERROR}) unreachable", 500),
        ("(call $exit-with-code (i32.const 0)) unreachable", 200),
        ("(call $exit-with-code (i32.const 3)) unreachable", 500),
        ("unreachable", 500),
    ],
)
def test_how_a_command_ends(serve: Serve, ask: Any, end: str, status: int) -> None:
    gateway = serve(f"(call $print (i32.const 40) (i32.const 5)) {end}", {EXIT: ("exit", "exit-with-code")})
    assert ask(gateway, "/a") == (status, b"oh no" if status == 200 else b"")


def test_an_error_of_run_is_no_exit(serve: Serve, ask: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Spin logs it, and takes what there is on stdout."""
    with caplog.at_level(logging.ERROR):
        assert ask(serve(ERROR), "/a") == (200, b"")
    assert "component a: run returned an error" in caplog.text


def test_there_is_no_terminal_and_no_working_directory(serve: Serve, ask: Any) -> None:
    uses = {ENVIRONMENT: ("initial-cwd",)}
    names = [f"get-terminal-{stream}" for stream in ("stdin", "stdout", "stderr")]
    uses |= {f"wasi:cli/{name.removeprefix('get-')}@0.2.0": (name,) for name in names}
    body = ""
    for name in (*names, "initial-cwd"):
        body += f"""(i32.store8 (i32.const 64) (i32.const 9)) (call ${name} (i32.const 64))
          (if (i32.load8_u (i32.const 64)) (then unreachable))"""
    assert ask(serve(f"{body} {OK}", uses), "/a") == (200, b"")
