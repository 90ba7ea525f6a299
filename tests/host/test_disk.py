"""host/disk.py: what guests may add to the folders that they may write to, by every way that there is."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wasm_gateway.assets import Mount
from wasm_gateway.component.values import Err
from wasm_gateway.forks import _watched
from wasm_gateway.host import disk, files
from wasm_gateway.host.disk import ENTRY, Disk
from wasm_gateway.host.files import Directory, File, Root
from wasm_gateway.host.wasi.filesystem import (
    CREATE,
    PREOPENS,
    READ,
    TYPES,
    WRITE,
    FileError,
    WasiFilesystem,
)
from wasm_gateway.host.wasi.io import StreamFailed
from wasm_gateway.host.wasi.state import WasiTemplate

LIMIT = 1 << 20
NEW = os.O_RDWR | os.O_CREAT


@pytest.fixture(params=["openat", "paths"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "paths":
        monkeypatch.setattr(files, "HAS_OPENAT", False)
    return tmp_path


@pytest.fixture
def root(folder: Path) -> Root:
    return Root.of([Mount("/", folder, True)], LIMIT)[0]


@pytest.fixture
def sandbox(root: Root) -> Directory:
    return root.directory()


def make(at: Directory, name: bytes, flags: int = NEW) -> File:
    file = at.open(name, flags)
    assert isinstance(file, File)
    return file


def counted(at: Directory) -> Disk:
    assert at.root.disk is not None
    return at.root.disk


def full(operation: Callable[..., Any], *arguments: Any) -> bool:
    """Whether that fails for want of room."""
    return failure(operation, *arguments) == errno.ENOSPC


def failure(operation: Callable[..., Any], *arguments: Any) -> int:
    try:
        operation(*arguments)
    except OSError as error:
        return error.errno or -1
    return 0


def room(at: Directory) -> int:
    return LIMIT - counted(at).used


def data(size: int) -> list[memoryview]:
    return [memoryview(bytes(size))]


ALL = LIMIT - ENTRY


@pytest.mark.parametrize(
    "grow",
    [
        lambda file, size: file.write(data(size)),
        lambda file, size: file.write_at(data(size), 0),
        lambda file, size: file.write_at([*data(size // 2), *data(size - size // 2)], 0),
        lambda file, size: file.append(data(size)),
        lambda file, size: file.write_at(data(1), size - 1),
        lambda file, size: file.seek(size - 1, os.SEEK_SET) < 0 or file.write(data(1)),
        lambda file, size: file.set_size(size),
    ],
    ids=["write", "pwrite", "vectors", "append", "far", "seek", "set-size"],
)
def test_a_file_grows_so_far(sandbox: Directory, folder: Path, grow: Callable[[File, int], Any]) -> None:
    file = make(sandbox, b"a")
    assert full(grow, file, ALL + 1)
    assert (folder / "a").stat().st_size == 0
    assert not full(grow, file, ALL)
    assert full(file.append, data(1))
    assert file.write_at(data(ALL), 0) == ALL  # over what is there
    assert full(sandbox.create_directory, b"d")
    file.close()
    assert (folder / "a").stat().st_size == ALL


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_who_appends_does_so_at_any_offset(folder: Path, sandbox: Directory, when: str) -> None:
    """Linux looks at no offset then, not even at that of pwrite."""
    file = make(sandbox, b"a", NEW | (os.O_APPEND if when == "at the start" else 0))
    file.set_append(True)
    file.set_size(ALL - 10)
    for write in (file.write, lambda more: file.write_at(more, 0)):
        assert full(write, data(11))
    file.seek(0, os.SEEK_SET)
    assert file.write_at(data(10), 0) == 10
    assert full(file.write_at, data(1), 0)
    file.close()


@pytest.mark.parametrize(
    "add",
    [
        lambda at, name: make(at, name).close(),
        Directory.create_directory,
        lambda at, name: at.symlink(b"target", name),
        lambda at, name: at.link(b"first", at, name),
        lambda at, name: make(at, name, NEW | os.O_EXCL).close(),
    ],
    ids=["file", "folder", "symlink", "link", "exclusive"],
)
def test_small_things_count(sandbox: Directory, folder: Path, add: Callable[..., Any]) -> None:
    make(sandbox, b"first").close()
    made = 1
    while not full(add, sandbox, b"%d" % made):
        made += 1
    assert made == LIMIT // ENTRY == len(os.listdir(folder))
    # what is there already may be opened
    make(sandbox, b"first").close()


def test_what_goes_makes_room(sandbox: Directory) -> None:
    file = make(sandbox, b"a")
    file.set_size(ALL)
    file.set_size(10)
    assert file.append(data(ALL - 10)) == ALL - 10
    file.close()
    make(sandbox, b"a", os.O_WRONLY | os.O_TRUNC).close()
    assert room(sandbox) == ALL

    # over another one: its name and its size are gone
    file = make(sandbox, b"b")
    file.set_size(ALL - ENTRY)
    file.close()
    assert room(sandbox) == 0
    sandbox.rename(b"a", sandbox, b"b")
    assert room(sandbox) == ALL
    sandbox.unlink(b"b")

    sandbox.create_directory(b"d")
    sandbox.create_directory(b"e")
    sandbox.rename(b"d", sandbox, b"e")
    sandbox.remove_directory(b"e")
    sandbox.symlink(b"x", b"s")
    sandbox.unlink(b"s")
    assert room(sandbox) == LIMIT


def test_a_file_takes_room_until_it_is_closed(sandbox: Directory, folder: Path) -> None:
    file = make(sandbox, b"a")
    file.write(data(ALL))
    again, copy = sandbox.open(b"a"), file.duplicate()
    sandbox.unlink(b"a")
    assert room(sandbox) == ENTRY
    assert full(file.append, data(ENTRY + 1))
    assert file.append(data(ENTRY)) == ENTRY
    for each in (file, again):
        each.close()
        assert full(sandbox.create_directory, b"d")
    copy.close()
    copy.close()
    assert room(sandbox) == LIMIT

    # the same where another file takes its name
    file = make(sandbox, b"a")
    file.set_size(ALL - ENTRY)
    make(sandbox, b"b").close()
    sandbox.rename(b"b", sandbox, b"a")
    assert room(sandbox) == ENTRY
    file.close()
    assert room(sandbox) == ALL


def test_a_file_takes_room_until_its_last_name_is_gone(sandbox: Directory) -> None:
    file = make(sandbox, b"a")
    file.write(data(ALL - 2 * ENTRY))
    file.close()
    sandbox.link(b"a", sandbox, b"b")
    sandbox.link(b"a", sandbox, b"c")
    assert room(sandbox) == 0
    sandbox.rename(b"a", sandbox, b"b")  # two names of one file: neither goes
    assert room(sandbox) == 0
    sandbox.unlink(b"a")
    sandbox.unlink(b"b")
    assert room(sandbox) == 2 * ENTRY
    sandbox.unlink(b"c")
    assert room(sandbox) == LIMIT


def test_what_was_there_is_nobodys_room(sandbox: Directory, folder: Path) -> None:
    for name in ("kept", "gone", "cut"):
        (folder / name).write_bytes(bytes(2 * LIMIT))
    sandbox.unlink(b"gone")
    make(sandbox, b"cut", os.O_RDWR | os.O_TRUNC).close()
    file = make(sandbox, b"kept", os.O_RDWR)
    assert full(file.append, data(LIMIT + 1))
    assert not full(file.append, data(LIMIT))
    file.close()


def test_what_fails_takes_no_room(sandbox: Directory, folder: Path) -> None:
    make(sandbox, b"a").close()
    for failing in (
        lambda: sandbox.create_directory(b"a"),
        lambda: sandbox.symlink(b"x", b"a"),
        lambda: sandbox.link(b"a", sandbox, b"a"),
        lambda: sandbox.link(b"b", sandbox, b"c"),
        lambda: sandbox.remove_directory(b"a"),
        lambda: sandbox.unlink(b"b"),
        lambda: sandbox.rename(b"a", sandbox, b"no/b"),
        lambda: sandbox.rename(b"b", sandbox, b"a"),
        lambda: sandbox.open(b"no/a", NEW),
        lambda: sandbox.open(b"a", NEW | os.O_EXCL),
    ):
        with pytest.raises(OSError):
            failing()
        assert room(sandbox) == ALL


def test_mounts_share_the_room(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
    mounts = [Mount(f"/{name}", folder / name, True) for name in ("a", "b")]
    a, b = (root.directory() for root in Root.of(mounts, LIMIT))
    file = make(a, b"file")
    file.write(data(ALL - ENTRY))
    file.close()
    a.rename(b"file", b, b"file")
    make(b, b"other").close()
    assert full(make, a, b"third")
    b.unlink(b"file")
    assert room(a) == ALL


def test_reading_is_not_counted(folder: Path) -> None:
    (folder / "a").write_bytes(b"text")
    [root] = Root.of([Mount("/", folder, False)], LIMIT)
    assert root.disk is None
    file = root.directory().open(b"a")
    with pytest.raises(OSError):
        file.write(data(1))  # type: ignore[union-attr]
    file.close()


def test_one_by_one_what_is_counted_is_there(sandbox: Directory, folder: Path) -> None:
    """At every step, after whatever was done before."""
    rng = random.Random(1)
    names = [b"a", b"b", b"c", b"d/a", b"d/b"]
    open_files: list[File] = []

    def there() -> int:
        sizes = {}
        for path in folder.rglob("*"):
            status = path.lstat()
            sizes[path] = (status.st_ino, status.st_size if path.is_file() and not path.is_symlink() else 0)
        unnamed = {os.fstat(file.fd).st_ino: os.fstat(file.fd).st_size for file in open_files}
        return len(sizes) * ENTRY + sum((unnamed | dict(sizes.values())).values())

    def name() -> bytes:
        return rng.choice(names)

    def opening() -> None:
        flags = NEW | rng.choice([0, os.O_TRUNC, os.O_EXCL, os.O_APPEND])
        opened = sandbox.open(name(), flags)
        assert isinstance(opened, File)
        open_files.append(opened)

    def of_file(operation: Callable[[File], Any]) -> Callable[[], Any]:
        return lambda: open_files and operation(rng.choice(open_files))

    def close(file: File) -> None:
        open_files.remove(file)
        file.close()

    steps: list[Callable[[], Any]] = [
        opening,
        opening,
        lambda: sandbox.unlink(name()),
        lambda: sandbox.rename(name(), sandbox, name()),
        lambda: sandbox.rename(b"d", sandbox, b"e"),
        lambda: sandbox.rename(b"e", sandbox, b"d"),
        lambda: sandbox.create_directory(b"d"),
        lambda: sandbox.remove_directory(b"d"),
        lambda: sandbox.link(name(), sandbox, name()),
        lambda: sandbox.symlink(rng.choice([b"a", b"b"]), name()),
        of_file(lambda file: file.write(data(rng.randrange(9000)))),
        of_file(lambda file: file.write_at(data(rng.randrange(9000)), rng.randrange(LIMIT))),
        of_file(lambda file: file.append(data(rng.randrange(9000)))),
        of_file(lambda file: file.set_size(rng.randrange(LIMIT // 2))),
        of_file(lambda file: open_files.append(file.duplicate())),
        of_file(close),
        of_file(close),
    ]
    outcomes = set()
    for _ in range(2000):
        outcomes.add(failure(rng.choice(steps)))
        assert counted(sandbox).used == there() <= LIMIT
    assert {0, errno.ENOSPC, errno.EEXIST, errno.ENOENT} <= outcomes
    for file in open_files:
        file.close()


def test_requests_side_by_side_share_the_room(sandbox: Directory, folder: Path) -> None:
    def fill(file: File) -> None:
        while not full(file.append, data(700)):
            pass
        file.close()

    threads = [threading.Thread(target=fill, args=(make(sandbox, b"%d" % n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    size = sum(path.stat().st_size for path in folder.iterdir()) + 8 * ENTRY
    assert LIMIT - 700 < size == counted(sandbox).used <= LIMIT


# What others do


def test_what_others_remove_is_found(
    sandbox: Directory, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "before").write_bytes(bytes(1000))
    sandbox.create_directory(b"d")
    for name in (b"a", b"d/b"):
        make(sandbox, name).close()
    sandbox.link(b"a", sandbox, b"c")
    file = make(sandbox, b"a", os.O_RDWR)
    file.set_size(LIMIT - 4 * ENTRY)
    assert full(file.append, data(1))
    (folder / "d" / "b").unlink()
    assert full(file.append, data(1))  # nobody looks all the time
    monkeypatch.setattr(counted(sandbox), "_next_look", 0.0)
    assert file.append(data(ENTRY)) == ENTRY
    assert full(file.append, data(1))
    # what is open has no name any more, and is there
    sandbox.unlink(b"a")
    sandbox.unlink(b"c")
    assert room(sandbox) == 2 * ENTRY
    monkeypatch.setattr(counted(sandbox), "_next_look", 0.0)
    assert full(file.append, data(2 * ENTRY + 1))
    file.close()
    assert room(sandbox) == LIMIT - ENTRY  # of the folder


def test_what_others_add_takes_no_room(
    sandbox: Directory, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(sandbox, b"a").close()
    (folder / "theirs").write_bytes(bytes(LIMIT))
    file = make(sandbox, b"a", os.O_RDWR)
    assert not full(file.append, data(ALL))
    file.close()


def test_folders_that_are_too_large_to_look_at(
    sandbox: Directory, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "MAX_LOOKED_AT", 1)
    for name in ("one", "two"):
        (folder / name).write_bytes(b"")
    file = make(sandbox, b"a")
    assert full(file.append, data(LIMIT))
    assert not full(file.append, data(ALL))
    (folder / "a").unlink()
    assert full(file.append, data(1))
    file.close()


def test_a_child_begins_with_a_lock_of_its_own(sandbox: Directory) -> None:
    counting = counted(sandbox)
    make(sandbox, b"a").close()
    assert counting in _watched
    with counting.lock:
        counting.after_fork()
        make(sandbox, b"b").close()
    assert counting.used == 2 * ENTRY


# As guests are told


def test_streams_of_0_2(context: Callable[..., Any], tmp_path: Path) -> None:
    table, ctx = WasiFilesystem.FUNCTIONS[TYPES], context()
    ctx.wasi = WasiTemplate(mounts=[Mount("/", tmp_path, True)], max_disk=LIMIT).state()
    [(folder, _)] = WasiFilesystem.FUNCTIONS[PREOPENS]["get-directories"](ctx)

    def call(name: str, of: Any, *arguments: Any) -> Any:
        return table[f"[method]descriptor.{name}"](ctx, of, *arguments)

    file = call("open-at", folder, 0, "a", CREATE, READ | WRITE)
    for stream, size in (
        (call("write-via-stream", file, 0), ALL - 9),
        (call("append-via-stream", file), 9),
    ):
        stream.write(ctx, bytes(size))
        with pytest.raises(StreamFailed) as failed:
            stream.write(ctx, bytes(10))
        assert isinstance(failed.value.error, FileError)
        assert failed.value.error.code == "insufficient-space"
        stream.close(ctx)
    assert call("write", file, b"x", ALL) == Err("insufficient-space")
    assert call("write", file, b"x", ALL - 1) == 1
    assert call("set-size", file, 1 << 40) == Err("insufficient-space")
    for name in ("create-directory-at", "symlink-at", "link-at"):
        arguments = {"symlink-at": ("x", "b"), "link-at": (0, "a", folder, "b")}.get(name, ("b",))
        assert call(name, folder, *arguments) == Err("insufficient-space")
    assert call("open-at", folder, 0, "b", CREATE, READ | WRITE) == Err("insufficient-space")
    stream = call("read-via-stream", file, 0)
    assert call("unlink-file-at", folder, "a") is None
    table["[resource-drop]descriptor"](ctx, file)
    assert call("open-at", folder, 0, "b", CREATE, READ | WRITE).file.mutable  # the room of the name
    assert call("create-directory-at", folder, "c") == Err("insufficient-space")
    stream.close(ctx)
    assert call("create-directory-at", folder, "c") is None
    assert ctx.run_closers() == []
