# What a WASI guest finds around itself: arguments, environment, standard streams,
# directories. One for all dialects of WASI (preview 1, 0.2, 0.3).
#
# Rule 1: what a component always has is encoded once, in its WasiTemplate. A request
# adds to that and copies nothing; a guest that never asks costs nothing.
# Rule 2: nothing here is inherited from the process of the host.
# Rule 3: a WasiState belongs to one instance and one thread. Its `table` belongs to
# the dialect, which puts there what has to be closed.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from struct import pack
from typing import Any

from ..files import MountPoint, Root

Sink = Callable[[bytes], object]


class Strings:
    """Arguments or variables as preview 1 hands them out: `block`, each ended by a NUL, and their `count`.

    A NUL within a string ends it there, as it would for any C program.
    """

    __slots__ = ("block", "count")

    def __init__(self, strings: Iterable[str]) -> None:
        parts = list(strings)
        # Bytes of the host's environment that are not UTF-8 come back as they were.
        block = "\0".join(parts).encode(errors="surrogateescape") + b"\0" if parts else b""
        if block.count(b"\0") != len(parts):
            block = b"".join(
                part.partition("\0")[0].encode(errors="surrogateescape") + b"\0" for part in parts
            )
        self.block = block
        self.count = len(parts)

    @classmethod
    def joined(cls, first: Strings, second: Strings) -> Strings:
        both = cls.__new__(cls)
        both.block = first.block + second.block
        both.count = first.count + second.count
        return both

    def pointers(self, at: int) -> bytes:
        """An array of u32 that point to each string when `block` lies at `at`."""
        sizes = [len(part) + 1 for part in self.block.split(b"\0")]
        return (
            pack(f"<{self.count}I", *accumulate(sizes[: max(0, self.count - 1)], initial=at))
            if self.count
            else b""
        )


def _assignments(environment: Mapping[str, str]) -> Iterable[str]:
    return [f"{name}={value}" for name, value in environment.items()]


class Input:
    """A stream of bytes for a guest, from bytes or from an iterable of chunks that is read as needed."""

    __slots__ = ("_at", "_chunk", "_chunks")

    def __init__(self, source: bytes | Iterable[bytes]) -> None:
        self._at = 0
        if isinstance(source, bytes):
            self._chunk = source
            self._chunks: Iterator[bytes] = iter(())
        else:
            self._chunk = b""
            self._chunks = iter(source)

    @property
    def waiting(self) -> int:
        """How many bytes can be read without asking the source; the source may block."""
        return max(len(self._chunk) - self._at, 0)

    def read(self, limit: int) -> bytes:
        """The next bytes, 1 to `limit` (> 0) of them; none at the end."""
        chunk, at = self._chunk, self._at
        while at >= len(chunk):
            following = next(self._chunks, None)
            if following is None:
                self._chunk, self._at = b"", 0
                return b""
            self._chunk = chunk = following
            self._at = at = 0
        self._at = at + limit
        if not at and len(chunk) <= limit:
            return chunk
        return chunk[at : at + limit]


class WasiTemplate:
    """What every instance of one component finds; made when the component is loaded.

    `mounts` become the preopened directories, in that order; to the writable ones guests may add `max_disk`
    bytes.
    """

    __slots__ = ("arguments", "environment", "roots", "strings")

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        mounts: Iterable[MountPoint] = (),
        arguments: Sequence[str] = (),
        max_disk: int | None = None,
    ) -> None:
        self.environment = dict(environment or {})
        self.strings = Strings(_assignments(self.environment))
        self.arguments = tuple(arguments)
        self.roots = Root.of(mounts, max_disk)

    def read_only(self) -> WasiTemplate:
        """The same, where nothing can be written to."""
        template = WasiTemplate(self.environment, (), self.arguments)
        template.roots = tuple(root.read_only() if root.writable else root for root in self.roots)
        return template

    def state(
        self,
        *,
        arguments: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        stdin: bytes | Iterable[bytes] = b"",
        stdout: Sink | None = None,
        stderr: Sink | None = None,
    ) -> WasiState:
        """The world of one instance.

        `environment` goes over the component's own. A sink takes bytes and may raise (LimitExceeded);
        without one the stream goes to the log of the component.
        """
        return WasiState(self, arguments, environment, stdin, stdout, stderr)


class WasiState:
    """See WasiTemplate.state."""

    __slots__ = (
        "_arguments",
        "_environment",
        "_input",
        "_stdin",
        "_strings",
        "stderr",
        "stdout",
        "table",
        "template",
    )

    def __init__(
        self,
        template: WasiTemplate,
        arguments: Sequence[str] | None,
        environment: Mapping[str, str] | None,
        stdin: bytes | Iterable[bytes],
        stdout: Sink | None,
        stderr: Sink | None,
    ) -> None:
        self.template = template
        self._arguments = arguments
        self._environment = environment
        self._stdin = stdin
        self._input: Input | None = None
        self._strings: Strings | None = None
        self.stdout = stdout
        self.stderr = stderr
        # the open descriptors of preview 1, None until the guest first uses one
        self.table: dict[int, Any] | None = None

    def narrowed(self, environment: Mapping[str, str], *, files: bool) -> WasiState:
        """The same standard streams and arguments, with another environment, and with no files if so said."""
        template = WasiTemplate(environment, (), self.template.arguments)
        if files:
            template.roots = self.template.roots
        narrowed = WasiState(template, self._arguments, None, b"", self.stdout, self.stderr)
        narrowed._input = self.stdin
        return narrowed

    @property
    def arguments(self) -> Sequence[str]:
        return self.template.arguments if self._arguments is None else self._arguments

    @property
    def environment(self) -> Mapping[str, str]:
        own = self.template.environment
        return {**own, **self._environment} if self._environment else own

    @property
    def roots(self) -> tuple[Root, ...]:
        return self.template.roots

    @property
    def stdin(self) -> Input:
        if self._input is None:
            self._input = Input(self._stdin)
        return self._input

    def argument_strings(self) -> Strings:
        return Strings(self.arguments)

    def environment_strings(self) -> Strings:
        strings = self._strings
        if strings is None:
            template, more = self.template, self._environment
            if not more:
                strings = template.strings
            elif template.environment.keys().isdisjoint(more):
                strings = Strings.joined(template.strings, Strings(_assignments(more)))
            else:
                strings = Strings(_assignments(self.environment))
            self._strings = strings
        return strings

    def close(self) -> None:
        """Close every descriptor that the guest left open. Safe to call twice."""
        table, self.table = self.table, None
        for descriptor in (table or {}).values():
            try:
                descriptor.close()
            except OSError:
                pass  # a failed close has closed it all the same
