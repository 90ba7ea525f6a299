"""wasi:filesystem 0.3: the words and streams of 0.3 over the sandboxes, whose own tests are test_files.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.host.giving import give
from tests.wasi_p3_wat import BYTES, CommandToolkit, pipes
from wasm_gateway.component.streams import HostStream, SharedStream
from wasm_gateway.component.types import U8Type
from wasm_gateway.component.values import Err, Ok
from wasm_gateway.errors import DeadlineExceeded, Trap
from wasm_gateway.host.base import Deadline
from wasm_gateway.host.wasi import filesystem as wasi_filesystem
from wasm_gateway.host.wasi.filesystem import (
    CREATE,
    DIRECTORY,
    EXCLUSIVE,
    FOLLOW,
    MUTATE,
    READ,
    TRUNCATE,
    WRITE,
)
from wasm_gateway.host.wasi.state import WasiTemplate
from wasm_gateway.host.wasi_p3.filesystem import PREOPENS_P3, TYPES_P3, Filesystem

PREOPENS, TYPES = "wasi:filesystem/preopens@0.3.0", "wasi:filesystem/types@0.3.0"
SECOND = 10**9


def error(code: str) -> Err:
    return Err((code, None))


NOT_PERMITTED = error("not-permitted")


@dataclass
class Mount:
    guest_path: str
    host_path: Path
    writable: bool


class Files:
    """The functions for one instance, called by their names."""

    def __init__(self, ctx: Any) -> None:
        self.ctx = ctx
        family = Filesystem()
        self.table = family.functions(TYPES_P3)
        [(self.root, name)] = family.functions(PREOPENS_P3)["get-directories"](ctx)
        assert name == "/files"

    def __call__(self, name: str, descriptor: Any, *arguments: Any) -> Any:
        return self.table[f"[method]descriptor.{name}"](self.ctx, descriptor, *arguments)

    def open(self, path: str, flags: int = READ, create: int = 0, follow: int = FOLLOW) -> Any:
        return self("open-at", self.root, follow, path, create, flags)

    def drop(self, descriptor: Any) -> None:
        self.table["[resource-drop]descriptor"](self.ctx, descriptor)

    # Streams

    def take(self, given: Any, size: int = 1 << 16) -> tuple[list[Any], Any]:
        """All chunks of a stream that the host gave, and how it ended."""
        source, promise = given
        stream = HostStream(self.ctx.loop, U8Type(), source)
        chunks = []
        while chunk := self.ctx.run(stream.take(size))[0][1]:
            chunks.append(chunk)
        stream.drop()
        return chunks, self.end(promise)

    def give(self, name: str, descriptor: Any, chunks: Any, *arguments: Any) -> tuple[list[bool], Any]:
        """Give chunks to a function that writes: which of them it took, and how it ended."""
        stream = SharedStream(U8Type())
        promise = self(name, descriptor, stream, *arguments)
        took = [self.ctx.run(give(stream, chunk))[0][1] for chunk in chunks]
        stream.drop()
        return took, self.end(promise)

    def end(self, promise: Any) -> Any:
        if isinstance(promise, Err):
            return promise
        found: list[Any] = []
        promise.then(found.append)
        self.ctx.loop.run_until(lambda: bool(found))
        return found[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "sub").mkdir(parents=True)
    (folder / "text").write_bytes(b"Hello, world!")
    (folder / "sub" / "inner").write_bytes(b"inner")
    (folder / "out").symlink_to(tmp_path)
    (folder / "link").symlink_to("text")
    (tmp_path / "secret").write_bytes(b"secret")
    return folder


@pytest.fixture
def files(context: Callable[..., Any], folder: Path) -> Callable[..., Files]:
    def files(*, writable: bool = True) -> Files:
        ctx = context()
        ctx.wasi = WasiTemplate({}, [Mount("/files", folder, writable)]).state()
        return Files(ctx)

    return files


Make = Callable[..., Files]


# Streams


@pytest.mark.parametrize(
    ("offset", "expected"), [(0, b"Hello, world!"), (7, b"world!"), (13, b""), (99, b"")]
)
def test_reading(files: Make, offset: int, expected: bytes) -> None:
    do = files()
    chunks, end = do.take(do("read-via-stream", do.open("text"), offset), 4)
    assert (b"".join(chunks), end) == (expected, Ok())
    assert all(len(chunk) <= 4 for chunk in chunks)


def test_what_is_read_at_once_is_bounded(files: Make, folder: Path) -> None:
    (folder / "big").write_bytes(bytes(3 << 20))
    do = files()
    chunks, end = do.take(do("read-via-stream", do.open("big"), 0), 1 << 28)
    assert (sum(map(len, chunks)), end) == (3 << 20, Ok())
    assert max(map(len, chunks)) == 1 << 20


def test_a_stream_outlives_the_descriptor(files: Make) -> None:
    do = files()
    file = do.open("text", READ | WRITE)
    given = do("read-via-stream", file, 0)
    stream = SharedStream(U8Type())
    promise = do("write-via-stream", file, stream, 0)
    do.drop(file)
    do.ctx.run(give(stream, b"J"))
    stream.drop()
    assert do.end(promise) == Ok()
    assert do.take(given) == ([b"Jello, world!"], Ok())


def test_dropping_a_stream_is_no_error(files: Make) -> None:
    do = files()
    source, promise = do("read-via-stream", do.open("text"), 0)
    assert source.read(do.ctx, 1) == b"H"
    source.close(do.ctx)
    assert do.end(promise) == Ok()


def test_writing(files: Make, folder: Path) -> None:
    do = files()
    file = do.open("text", WRITE)
    assert do.give("write-via-stream", file, [b"J", b"ELLO"], 0) == ([True] * 2, Ok())
    assert do.give("write-via-stream", file, [b"!!"], 15) == ([True], Ok())
    assert (folder / "text").read_bytes() == b"JELLO, world!\0\0!!"
    assert do.give("append-via-stream", file, [b"end", b"."]) == ([True] * 2, Ok())
    assert (folder / "text").read_bytes() == b"JELLO, world!\0\0!!end."


def test_what_cannot_be_read(files: Make) -> None:
    do = files()
    for descriptor, offset, code in (
        (do.root, 0, "is-directory"),
        (do.open("text", WRITE), 0, "bad-descriptor"),
        (do.open("text"), (1 << 64) - 1, "invalid"),
    ):
        assert do.take(do("read-via-stream", descriptor, offset)) == ([], error(code))


def test_what_cannot_be_written(files: Make, folder: Path) -> None:
    do = files()
    read_only = files(writable=False)
    for guest, descriptor, offset, code in (
        (do, do.root, 0, "bad-descriptor"),
        (do, do.open("text"), 0, "bad-descriptor"),
        (read_only, read_only.open("text"), 0, "not-permitted"),
    ):
        assert guest.give("write-via-stream", descriptor, [b"x"], offset) == ([False], error(code))
        assert guest.give("append-via-stream", descriptor, [b"x"]) == ([False], error(code))
    assert (folder / "text").read_bytes() == b"Hello, world!"


def test_an_error_midway(files: Make, folder: Path) -> None:
    """The first chunk is written, the second one in part; the future says why, and nobody reads the third."""
    resource = pytest.importorskip("resource")
    do = files()
    file = do.open("text", WRITE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    try:
        took, end = do.give("write-via-stream", file, [b"x" * 10, b"y" * 10, b"z"], 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (took, end) == ([True, True, False], error("file-too-large"))
    assert (folder / "text").read_bytes() == b"x" * 10 + b"y" * 6


def test_a_file_given_to_itself(files: Make, folder: Path) -> None:
    """From its beginning to its own end, which goes on until the deadline."""
    do = files()
    do.ctx.deadline = Deadline(0.02)
    file = do.open("text", READ | WRITE)
    source, _ = do("read-via-stream", file, 0)
    with pytest.raises(DeadlineExceeded):
        do("append-via-stream", file, HostStream(do.ctx.loop, U8Type(), source))


def test_a_file_given_to_another_one(files: Make, folder: Path) -> None:
    do = files()
    (folder / "text").write_bytes(bytes(range(256)) * 9000)
    source, reading = do("read-via-stream", do.open("text"), 0)
    stream = HostStream(do.ctx.loop, U8Type(), source)
    writing = do("write-via-stream", do.open("copy", WRITE, CREATE), stream, 0)
    assert do.end(writing) == do.end(reading) == Ok()
    assert (folder / "copy").read_bytes() == (folder / "text").read_bytes()


def test_streams_are_bounded_in_number(files: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wasi_filesystem, "MAX_DESCRIPTORS", 4)
    do = files()
    file = do.open("text")
    streams = [do("read-via-stream", file, 0) for _ in range(4)]
    assert do.take(do("read-via-stream", file, 0)) == ([], error("insufficient-memory"))
    streams[0][0].close(do.ctx)
    assert do.take(do("read-via-stream", file, 0)) == ([b"Hello, world!"], Ok())


def test_the_end_of_an_instance_closes_what_is_open(files: Make) -> None:
    before = os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else []
    do = files()
    for _ in range(10):
        do("read-via-stream", do.open("text"), 0)
        do("write-via-stream", do.open("text", WRITE), SharedStream(U8Type()), 0)
    assert do.ctx.run_closers() == []
    after = os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else []
    assert len(after) <= len(before) + 1  # the root stays open for the next one


def test_a_directory(files: Make, folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    do = files()
    for size in (1, 100):
        chunks, end = do.take(do("read-directory", do.root), size)
        assert end == Ok()
        assert max(map(len, chunks)) <= size
        assert sorted(entry for chunk in chunks for entry in chunk) == [
            (("directory", None), "sub"),
            (("fifo", None), "fifo"),
            (("regular-file", None), "text"),
            (("symbolic-link", None), "link"),
            (("symbolic-link", None), "out"),
        ]
    assert do.take(do("read-directory", do.open("text"))) == ([], error("not-directory"))


def test_a_directory_too_large(files: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wasm_gateway.host.files.MAX_ENTRIES", 2)
    do = files()
    assert do.take(do("read-directory", do.root)) == ([], error("overflow"))


def test_what_is_listed_is_bounded(files: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wasi_filesystem, "MAX_LISTED", 9)
    do = files()
    kept = [do("read-directory", do.root) for _ in range(2)]
    assert do.take(do("read-directory", do.root)) == ([], error("insufficient-memory"))
    kept[0][0].close(do.ctx)
    assert do.end(kept[0][1]) == Ok()
    chunks, end = do.take(do("read-directory", do.root))
    assert (len(chunks[0]), end) == (4, Ok())
    # nor in 0.2
    read = wasi_filesystem.WasiFilesystem.FUNCTIONS[wasi_filesystem.TYPES]
    read_directory = read["[method]descriptor.read-directory"]
    stream = read_directory(do.ctx, do.root)
    assert read_directory(do.ctx, do.root) == Err("insufficient-memory")
    read["[resource-drop]directory-entry-stream"](do.ctx, stream)
    assert not isinstance(read_directory(do.ctx, do.root), Err)


def test_mounts_asked_for_without_end(files: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wasi_filesystem, "MAX_DESCRIPTORS", 4)
    do = files()
    get_directories = Filesystem().functions(PREOPENS_P3)["get-directories"]
    for _ in range(3):
        get_directories(do.ctx)
    with pytest.raises(Trap, match="more than 4 files"):
        get_directories(do.ctx)


# Descriptors


def test_opening(files: Make) -> None:
    do = files()
    flags = {
        "text": [(0, 0, READ), (READ, 0, READ), (WRITE, 0, WRITE), (0, EXCLUSIVE, READ)],
        "link": [(0, 0, READ), (READ, TRUNCATE, READ | WRITE)],
        "sub": [(0, 0, READ), (READ | MUTATE, DIRECTORY, READ | MUTATE)],
    }
    for path, cases in flags.items():
        for asked, how, told in cases:
            assert do("get-flags", do.open(path, asked, how)) == told, (path, asked, how)
    made = [do("get-flags", do.open(f"new{asked}", asked, CREATE | EXCLUSIVE)) for asked in (0, READ, WRITE)]
    assert made == [READ | WRITE, READ | WRITE, WRITE]
    assert do("get-flags", do.root) == READ | MUTATE


def test_a_directory_opened_without_more_can_be_changed_in(files: Make, folder: Path) -> None:
    """As wasmtime has it: what counts is the mount."""
    do = files()
    sub = do.open("sub", 0)
    assert do("create-directory-at", sub, "made") is None
    assert not isinstance(do("open-at", sub, 0, "file", CREATE, WRITE), Err)
    assert sorted(path.name for path in (folder / "sub").iterdir()) == ["file", "inner", "made"]


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "out/secret", "sub/../../secret", "out/."])
def test_nothing_outside(files: Make, path: str) -> None:
    do = files()
    root = do.root
    assert do.open(path) == NOT_PERMITTED
    assert do.open(path, WRITE, CREATE) == NOT_PERMITTED
    assert do("stat-at", root, FOLLOW, path) == NOT_PERMITTED
    assert do("metadata-hash-at", root, FOLLOW, path) == NOT_PERMITTED
    assert do("set-times-at", root, FOLLOW, path, ("now", None), ("now", None)) == NOT_PERMITTED
    assert do("create-directory-at", root, path) == NOT_PERMITTED
    assert do("unlink-file-at", root, path) == NOT_PERMITTED
    assert do("remove-directory-at", root, path) == NOT_PERMITTED
    assert do("rename-at", root, "text", root, path) == NOT_PERMITTED
    assert do("rename-at", root, path, root, "x") == NOT_PERMITTED
    assert do("link-at", root, 0, path, root, "x") == NOT_PERMITTED
    assert do("symlink-at", root, path, "x") == NOT_PERMITTED or not path.startswith("/")
    assert do("readlink-at", root, path) == NOT_PERMITTED


def test_nothing_is_changed_on_a_mount_that_is_read_only(files: Make) -> None:
    do = files(writable=False)
    root, text, now = do.root, do.open("text"), ("now", None)
    assert (
        do.open("text", WRITE) == do.open("new", 0, CREATE) == do.open("text", 0, TRUNCATE) == NOT_PERMITTED
    )
    for name, *arguments in (
        ("create-directory-at", "x"),
        ("unlink-file-at", "text"),
        ("remove-directory-at", "sub"),
        ("rename-at", "text", root, "x"),
        ("link-at", 0, "text", root, "x"),
        ("symlink-at", "text", "x"),
        ("set-times-at", 0, "text", now, now),
        ("set-times", now, now),
    ):
        assert do(name, root, *arguments) == NOT_PERMITTED, name
    assert do("set-times", text, now, now) == NOT_PERMITTED
    assert isinstance(do("set-size", text, 0), Err)
    assert do("get-flags", root) == READ


def test_facts(files: Make, folder: Path) -> None:
    do = files()
    text = do.open("text", READ | WRITE)
    assert do("get-type", text) == ("regular-file", None)
    assert do("get-type", do.root) == ("directory", None)
    before = (-5, 250_000_000), (7, 1)
    assert do("set-times", text, *(("timestamp", when) for when in before)) is None
    kind, links, size, *times = do("stat", text)
    assert (kind, links, size, tuple(times[:2])) == (("regular-file", None), 1, 13, before)
    assert do("stat-at", do.root, FOLLOW, "link")[:3] == (("regular-file", None), 1, 13)
    assert do("stat-at", do.root, 0, "link")[0] == ("symbolic-link", None)
    assert do("stat-at", do.root, 0, "none") == error("no-entry")
    assert do("set-times", text, ("timestamp", (0, SECOND)), ("no-change", None)) == error("invalid")
    assert do("readlink-at", do.root, "link") == "text"
    assert do("set-size", text, 5) is None
    assert (folder / "text").read_bytes() == b"Hello"
    assert do("set-size", text, (1 << 64) - 1) == error("file-too-large")
    assert do("advise", text, 0, 1, "random") is None
    assert do("advise", do.root, 0, 1, "random") == error("bad-descriptor")
    assert do("sync", text) is do("sync-data", text) is None
    assert do("is-same-object", text, do.open("link")) is True
    assert do("is-same-object", text, do.root) is False
    assert do("metadata-hash", text) == do("metadata-hash-at", do.root, FOLLOW, "link")


# A whole command, by WAGI

METHOD = "[method]descriptor."
DATA = """(data (i32.const 0) "text") (data (i32.const 8) "copy")
  (data (i32.const 40) "content-type: text/plain")""" + pipes(4)
# Where open-at puts what it gives: the descriptor goes to `at`.
OPENED = """(if (i32.load8_u (i32.const 64)) (then unreachable))
  (i32.store (i32.const {at}) (i32.load (i32.const 68)))"""
# Copies "text" from its 7th byte on to "copy" from its 1st. The first is opened synchronously; the arguments
# of the asynchronous call lie at 128: descriptor, path-flags, path, open-flags create, flags write.
COPY = f"""(local $root i32) (local $end i32) (local $n i32)
  (call $get-directories (i32.const 64))
  (local.set $root (i32.load (i32.load (i32.const 64))))
  (call $descriptor.open-at (local.get $root) (i32.const 1) (i32.const 0) (i32.const 4) (i32.const 0)
    (i32.const 1) (i32.const 64))
  {OPENED.format(at=100)}
  (i32.store (i32.const 128) (local.get $root)) (i32.store (i32.const 136) (i32.const 8))
  (i32.store (i32.const 140) (i32.const 4)) (i32.store8 (i32.const 144) (i32.const 1))
  (i32.store8 (i32.const 145) (i32.const 2))
  (if (i32.ne (call $descriptor.open-at~ (i32.const 128) (i32.const 64)) (i32.const 2)) (then unreachable))
  {OPENED.format(at=104)}
  (call $descriptor.read-via-stream (i32.load (i32.const 100)) (i64.const 7) (i32.const 80))
  (call $open)
  (local.set $end
    (call $descriptor.write-via-stream (i32.load (i32.const 104)) (global.get $rx) (i64.const 1)))
  (loop $more
    (local.set $n (call $body.read (i32.load (i32.const 80)) (i32.const 8192) (i32.const 4)))
    (call $write (i32.const 8192) (i32.shr_u (local.get $n) (i32.const 4)))
    (br_if $more (i32.eqz (i32.and (local.get $n) (i32.const 15)))))
  (call $end)
  (call $check (i32.load (i32.const 84)))
  (call $check (local.get $end))"""
# A directory is no file (is-directory is the 14th error-code), and its entries are a stream of records.
LIST = """
  (call $descriptor.read-via-stream (local.get $root) (i64.const 0) (i32.const 80))
  (if (i32.ne (call $failed (i32.load (i32.const 84))) (i32.const 13)) (then unreachable))
  (call $descriptor.read-directory (local.get $root) (i32.const 80))
  (local.set $n (call $entries.read (i32.load (i32.const 80)) (i32.const 8192) (i32.const 100)))
  (i32.store (i32.const 200) (i32.shr_u (local.get $n) (i32.const 4)))
  (if (i32.ne (call $entries.read (i32.load (i32.const 80)) (i32.const 8192) (i32.const 9)) (i32.const 1))
    (then unreachable))
  (call $check (i32.load (i32.const 84)))
  (call $exit-with-code (i32.add (i32.const 100) (i32.load (i32.const 200)))) unreachable"""


@pytest.fixture(scope="module")
def toolkit() -> CommandToolkit:
    return CommandToolkit()


@pytest.mark.parametrize("version", ["0.3.0", "0.3.0-rc-2026-03-15"])
def test_a_command(
    application: Any, toolkit: CommandToolkit, ask: Any, folder: Path, version: str, caplog: Any
) -> None:
    functions = [f"{METHOD}{name}" for name in ("open-at", "read-via-stream", "write-via-stream")]
    uses = {
        PREOPENS: ("get-directories",),
        "wasi:cli/exit@0.3.0": ("exit-with-code",),
        TYPES: (*functions, f"{METHOD}read-directory"),
    }
    ends = {**BYTES, "entries": ("stream", "$directory-entry")}
    wasm = toolkit.command(
        COPY + LIST,
        uses,
        '(alias export $last "directory-entry" (type $directory-entry))',
        ends,
        data=DATA,
        async_uses={TYPES: functions[:1]},
        version=version,
    )
    part = application.part(wasm, wagi=True, files=[{"source": str(folder), "destination": "/"}])
    gateway = application(a=part, options={"direct_mounts": True, "allow_transient_write": True})
    (folder / "copy").write_bytes(b"abcdefghij")
    assert ask(gateway, "/a") == (500, b"")
    assert "exited with code 105" in caplog.text  # there are 5 entries
    assert (folder / "copy").read_bytes() == b"aworld!hij"
