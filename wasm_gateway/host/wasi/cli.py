# wasi:cli 0.2: what a guest finds around itself. The facts are those of its WasiState,
# the same that preview 1 tells.

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from ...component.values import Err
from ...errors import GuestExit
from ..base import HostContext
from .io import InputStream, OutputStream, SinkOutput, StreamClosed
from .state import Input

_TEXT = """
package wasi:cli@0.2.0;
interface environment {
  get-environment: func() -> list<tuple<string, string>>;
  get-arguments: func() -> list<string>;
  initial-cwd: func() -> option<string>;
}
interface exit {
  exit: func(status: result);
  exit-with-code: func(status-code: u8);
}
interface stdin {
  use wasi:io/streams@0.2.0.{input-stream};
  get-stdin: func() -> input-stream;
}
interface stdout {
  use wasi:io/streams@0.2.0.{output-stream};
  get-stdout: func() -> output-stream;
}
interface stderr {
  use wasi:io/streams@0.2.0.{output-stream};
  get-stderr: func() -> output-stream;
}
interface terminal-input { resource terminal-input; }
interface terminal-output { resource terminal-output; }
interface terminal-stdin {
  use terminal-input.{terminal-input};
  get-terminal-stdin: func() -> option<terminal-input>;
}
interface terminal-stdout {
  use terminal-output.{terminal-output};
  get-terminal-stdout: func() -> option<terminal-output>;
}
interface terminal-stderr {
  use terminal-output.{terminal-output};
  get-terminal-stderr: func() -> option<terminal-output>;
}
"""
INTERFACES = {
    f"wasi:cli/{name}@0.2": _TEXT
    for name in (
        *("environment", "exit", "stdin", "stdout", "stderr", "terminal-input", "terminal-output"),
        *("terminal-stdin", "terminal-stdout", "terminal-stderr"),
    )
}


class StdinStream(InputStream):
    """Standard input, from its WasiState."""

    def __init__(self, source: Input) -> None:
        self._source = source

    def read(self, ctx: HostContext, length: int) -> bytes:
        if not length:
            return b""
        data = self._source.read(length)
        if not data:
            raise StreamClosed
        return data


def get_environment(ctx: HostContext) -> list[tuple[str, str]]:
    # what is not UTF-8 in the host's own environment is not for a guest that takes text
    return [
        (name, value.encode(errors="surrogateescape").decode(errors="replace"))
        for name, value in ctx.wasi.environment.items()
    ]


def exit_(ctx: HostContext, status: Any) -> None:
    raise GuestExit(1 if isinstance(status, Err) else 0)


def exit_with_code(ctx: HostContext, code: int) -> None:
    raise GuestExit(code)


def get_stdin(ctx: HostContext) -> InputStream:
    return StdinStream(ctx.wasi.stdin)


def get_stdout(ctx: HostContext) -> OutputStream:
    return SinkOutput(ctx.wasi.stdout or partial(ctx.log, "stdout"))


def get_stderr(ctx: HostContext) -> OutputStream:
    return SinkOutput(ctx.wasi.stderr or partial(ctx.log, "stderr"))


class WasiCli:
    """wasi:cli, but for `run`, which guests export."""

    FUNCTIONS: ClassVar[dict[str, dict[str, Callable[..., Any]]]] = {
        "wasi:cli/environment@0.2": {
            "get-environment": get_environment,
            "get-arguments": lambda ctx: list(ctx.wasi.arguments),
            "initial-cwd": lambda ctx: None,
        },
        "wasi:cli/exit@0.2": {"exit": exit_, "exit-with-code": exit_with_code},
        "wasi:cli/stdin@0.2": {"get-stdin": get_stdin},
        "wasi:cli/stdout@0.2": {"get-stdout": get_stdout},
        "wasi:cli/stderr@0.2": {"get-stderr": get_stderr},
        "wasi:cli/terminal-input@0.2": {},
        "wasi:cli/terminal-output@0.2": {},
        "wasi:cli/terminal-stdin@0.2": {"get-terminal-stdin": lambda ctx: None},
        "wasi:cli/terminal-stdout@0.2": {"get-terminal-stdout": lambda ctx: None},
        "wasi:cli/terminal-stderr@0.2": {"get-terminal-stderr": lambda ctx: None},
    }

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return self.FUNCTIONS[interface]

    def close(self) -> None:
        pass
