# wasi:cli 0.3: as in 0.2, but that a standard stream is one of the Component Model.

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from ..base import HostContext, Stream
from ..wasi.cli import StdinStream, exit_, exit_with_code, get_environment
from ..wasi.io import IoError, SinkOutput
from .streams import given, taken

_TEXT = """
package wasi:cli@0.3.0;
interface environment {
  get-environment: func() -> list<tuple<string, string>>;
  get-arguments: func() -> list<string>;
  get-initial-cwd: func() -> option<string>;
}
interface exit {
  exit: func(status: result);
  exit-with-code: func(status-code: u8);
}
interface types { enum error-code { io, illegal-byte-sequence, pipe } }
interface stdin {
  use types.{error-code};
  read-via-stream: func() -> tuple<stream<u8>, future<result<_, error-code>>>;
}
interface stdout {
  use types.{error-code};
  write-via-stream: func(data: stream<u8>) -> future<result<_, error-code>>;
}
interface stderr {
  use types.{error-code};
  write-via-stream: func(data: stream<u8>) -> future<result<_, error-code>>;
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
    f"wasi:cli/{name}@0.3": _TEXT
    for name in (
        *("environment", "exit", "types", "stdin", "stdout", "stderr", "terminal-input"),
        *("terminal-output", "terminal-stdin", "terminal-stdout", "terminal-stderr"),
    )
}


def code(error: IoError | None) -> str:
    """The error-code of a standard stream."""
    return "pipe" if error is None else "io"


def read_stdin(ctx: HostContext) -> Any:
    return given(StdinStream(ctx.wasi.stdin), code)


def write_to(name: Stream, ctx: HostContext, data: Any) -> Any:
    sink = ctx.wasi.stdout if name == "stdout" else ctx.wasi.stderr
    return taken(ctx, data, SinkOutput(sink or partial(ctx.log, name)), code)


class Cli:
    """wasi:cli 0.3, but for `run`, which guests export."""

    FUNCTIONS: ClassVar[dict[str, dict[str, Callable[..., Any]]]] = {
        "wasi:cli/environment@0.3": {
            "get-environment": get_environment,
            "get-arguments": lambda ctx: list(ctx.wasi.arguments),
            "get-initial-cwd": lambda ctx: None,
        },
        "wasi:cli/exit@0.3": {"exit": exit_, "exit-with-code": exit_with_code},
        "wasi:cli/types@0.3": {},
        "wasi:cli/stdin@0.3": {"read-via-stream": read_stdin},
        "wasi:cli/stdout@0.3": {"write-via-stream": partial(write_to, "stdout")},
        "wasi:cli/stderr@0.3": {"write-via-stream": partial(write_to, "stderr")},
        "wasi:cli/terminal-input@0.3": {},
        "wasi:cli/terminal-output@0.3": {},
        "wasi:cli/terminal-stdin@0.3": {"get-terminal-stdin": lambda ctx: None},
        "wasi:cli/terminal-stdout@0.3": {"get-terminal-stdout": lambda ctx: None},
        "wasi:cli/terminal-stderr@0.3": {"get-terminal-stderr": lambda ctx: None},
    }

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return self.FUNCTIONS[interface]

    def close(self) -> None:
        pass
