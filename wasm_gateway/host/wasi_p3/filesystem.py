# wasi:filesystem 0.3: descriptors and policy are those of 0.2 (wasi/filesystem.py), streams
# those of the Component Model.
#
# Rule 1: nothing is decided here about paths, links and rights. What 0.2 says is translated:
# its error codes and types of descriptors became variants.
# Rule 2: files are always ready, so that none of the functions waits, asynchronous or not.

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ...component.values import Err
from ..base import HostContext
from ..files import Directory, Entry, File
from ..wasi.filesystem import (
    CREATE,
    EXCLUSIVE,
    FOLLOW,
    MUTATE,
    PREOPENS,
    READ,
    TEXT_OF_ERRORS,
    TEXT_OF_TYPES,
    TYPES,
    WRITE,
    Descriptor,
    Opened,
    WasiFilesystem,
    fallible,
    kind_of,
    opened_by,
)
from ..wasi.filesystem import open_at as open_before
from ..wasi.filesystem import read_via_stream as open_input
from ..wasi.filesystem import write_via_stream as open_output
from ..wasi.io import IoError
from .streams import Elements, given, refused, taken

_TEXT = """
package wasi:filesystem@0.3.0;
interface types {
  use wasi:clocks/system-clock@0.3.0.{instant};
%TYPES
  variant descriptor-type {
    block-device, character-device, directory, fifo, symbolic-link, regular-file, socket,
    other(option<string>),
  }
  record descriptor-stat {
    %type: descriptor-type,
    link-count: link-count,
    size: filesize,
    data-access-timestamp: option<instant>,
    data-modification-timestamp: option<instant>,
    status-change-timestamp: option<instant>,
  }
  variant new-timestamp { no-change, now, timestamp(instant) }
  record directory-entry { %type: descriptor-type, name: string }
  variant error-code {
    access,
%ERRORS
    other(option<string>),
  }
  resource descriptor {
    read-via-stream: func(offset: filesize) -> tuple<stream<u8>, future<result<_, error-code>>>;
    write-via-stream: func(data: stream<u8>, offset: filesize) -> future<result<_, error-code>>;
    append-via-stream: func(data: stream<u8>) -> future<result<_, error-code>>;
    advise: async func(offset: filesize, length: filesize, advice: advice) -> result<_, error-code>;
    sync-data: async func() -> result<_, error-code>;
    get-flags: async func() -> result<descriptor-flags, error-code>;
    get-type: async func() -> result<descriptor-type, error-code>;
    set-size: async func(size: filesize) -> result<_, error-code>;
    set-times: async func(data-access-timestamp: new-timestamp, data-modification-timestamp: new-timestamp)
      -> result<_, error-code>;
    read-directory: func() -> tuple<stream<directory-entry>, future<result<_, error-code>>>;
    sync: async func() -> result<_, error-code>;
    create-directory-at: async func(path: string) -> result<_, error-code>;
    stat: async func() -> result<descriptor-stat, error-code>;
    stat-at: async func(path-flags: path-flags, path: string) -> result<descriptor-stat, error-code>;
    set-times-at: async func(path-flags: path-flags, path: string, data-access-timestamp: new-timestamp,
      data-modification-timestamp: new-timestamp) -> result<_, error-code>;
    link-at: async func(old-path-flags: path-flags, old-path: string, new-descriptor: borrow<descriptor>,
      new-path: string) -> result<_, error-code>;
    open-at: async func(path-flags: path-flags, path: string, open-flags: open-flags,
      %flags: descriptor-flags) -> result<descriptor, error-code>;
    readlink-at: async func(path: string) -> result<string, error-code>;
    remove-directory-at: async func(path: string) -> result<_, error-code>;
    rename-at: async func(old-path: string, new-descriptor: borrow<descriptor>, new-path: string)
      -> result<_, error-code>;
    symlink-at: async func(old-path: string, new-path: string) -> result<_, error-code>;
    unlink-file-at: async func(path: string) -> result<_, error-code>;
    is-same-object: async func(other: borrow<descriptor>) -> bool;
    metadata-hash: async func() -> result<metadata-hash-value, error-code>;
    metadata-hash-at: async func(path-flags: path-flags, path: string)
      -> result<metadata-hash-value, error-code>;
  }
}
interface preopens {
  use types.{descriptor};
  get-directories: func() -> list<tuple<descriptor, string>>;
}
""".replace("%TYPES", TEXT_OF_TYPES).replace("%ERRORS", TEXT_OF_ERRORS)
TYPES_P3, PREOPENS_P3 = "wasi:filesystem/types@0.3", "wasi:filesystem/preopens@0.3"
INTERFACES = {TYPES_P3: _TEXT, PREOPENS_P3: _TEXT}

_SECOND = 10**9
# What 0.2 has and 0.3 has not.
_OTHER = frozenset(("would-block", "unknown"))

# Functions of 0.2 that are told in the words of 0.3, and are the same apart from that.
_SAME = (
    *("advise", "sync-data", "get-flags", "set-size", "set-times", "sync", "create-directory-at"),
    *("set-times-at", "link-at", "readlink-at", "remove-directory-at", "rename-at", "symlink-at"),
    *("unlink-file-at", "is-same-object", "metadata-hash", "metadata-hash-at"),
)


def variant(case: str) -> tuple[str, None]:
    """A case of the enums of 0.2 among the variants of 0.3."""
    return "other" if case in _OTHER else case, None


def code(error: IoError | None) -> tuple[str, None]:
    """The error-code of a file's stream."""
    return variant(getattr(error, "code", "io"))


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose error codes are those of 0.2, for 0.3."""

    def call(*arguments: Any) -> Any:
        result = function(*arguments)
        return Err(variant(result.value)) if isinstance(result, Err) else result

    return call


# Streams


def read_via_stream(ctx: HostContext, descriptor: Descriptor, offset: int) -> Any:
    if isinstance(descriptor.what, Directory):
        return refused(("is-directory", None))
    stream = open_input(ctx, descriptor, offset)
    return refused(variant(stream.value)) if isinstance(stream, Err) else given(stream, code)


def write_via_stream(ctx: HostContext, descriptor: Descriptor, data: Any, offset: int | None = None) -> Any:
    """Also append-via-stream, without an offset."""
    what = descriptor.what
    read_only = isinstance(what, File) and not what.mutable
    stream: Any = Err("not-permitted") if read_only else open_output(ctx, descriptor, offset)
    if isinstance(stream, Err):
        data.drop()
        return Err(variant(stream.value))
    return taken(ctx, data, stream, code)


class Listing(Elements):
    """The entries of a directory."""

    def __init__(self, opened: Opened, entries: list[Entry]) -> None:
        super().__init__([(variant(kind_of(entry.kind)), entry.name.decode()) for entry in entries])
        self._opened = opened
        self._size = len(entries)

    def close(self, ctx: HostContext) -> None:
        self._opened.listed -= self._size
        self._values, self._size = [], 0


def read_directory(ctx: HostContext, descriptor: Descriptor) -> Any:
    listing = _listing(ctx, descriptor)
    return refused(variant(listing.value)) if isinstance(listing, Err) else given(listing, code)


@fallible
def _listing(ctx: HostContext, descriptor: Descriptor) -> Any:
    opened = opened_by(ctx)
    return Listing(opened, opened.entries(descriptor))


# Descriptors


def open_at(
    ctx: HostContext, descriptor: Descriptor, path_flags: int, path: str, open_flags: int, flags: int
) -> Any:
    # as wasmtime has it: who creates writes, who does not say that he writes reads,
    # and to be the only one means something to who creates
    wanted = flags if flags & WRITE else flags | READ
    if open_flags & CREATE:
        wanted |= WRITE
    else:
        open_flags &= ~EXCLUSIVE
    opened = open_before(ctx, descriptor, path_flags, path, open_flags, wanted)
    if isinstance(opened, Descriptor) and isinstance(opened.what, Directory):
        opened.untold = MUTATE & ~flags
    return opened


@fallible
def get_type(ctx: HostContext, descriptor: Descriptor) -> Any:
    return variant(kind_of(descriptor.status().st_mode))


@fallible
def stat(ctx: HostContext, descriptor: Descriptor) -> Any:
    return _fields(descriptor.status())


@fallible
def stat_at(ctx: HostContext, descriptor: Descriptor, flags: int, path: str) -> Any:
    return _fields(descriptor.directory.stat(path.encode(), bool(flags & FOLLOW)))


def _fields(status: os.stat_result) -> tuple[Any, ...]:
    times = status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns
    return (
        variant(kind_of(status.st_mode)),
        status.st_nlink,
        status.st_size,
        *(divmod(ns, _SECOND) for ns in times),
    )


class Filesystem:
    """wasi:filesystem 0.3; it shares nothing among instances."""

    def __init__(self) -> None:
        before = WasiFilesystem.FUNCTIONS[TYPES]
        own: dict[str, Callable[..., Any]] = {
            "read-via-stream": read_via_stream,
            "write-via-stream": write_via_stream,
            "append-via-stream": write_via_stream,
            "read-directory": read_directory,
            "open-at": told(open_at),
            "get-type": told(get_type),
            "stat": told(stat),
            "stat-at": told(stat_at),
        }
        own |= {name: told(before[f"[method]descriptor.{name}"]) for name in _SAME}
        drop = "[resource-drop]descriptor"
        self._functions: dict[str, dict[str, Callable[..., Any]]] = {
            TYPES_P3: {drop: before[drop]}
            | {f"[method]descriptor.{name}": function for name, function in own.items()},
            PREOPENS_P3: WasiFilesystem.FUNCTIONS[PREOPENS],
        }

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return self._functions[interface]

    def close(self) -> None:
        pass
