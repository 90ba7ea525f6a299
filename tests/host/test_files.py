"""The sandbox: nothing outside of a root is seen or changed, and what is inside works as POSIX says."""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wasm_gateway.host import files
from wasm_gateway.host.files import Directory, File, PathDirectory, Root

EPERM, ELOOP, ENOENT, ENOTDIR, EEXIST = errno.EPERM, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EEXIST
SECRET = b"secret"

# Links of the sandbox, where `OUT` is the real path of what lies outside.
LINKS = {
    "l": "hello",
    "chain": "l",
    "ld": "dir",
    "ld_slash": "dir/",
    "ld_dot": "dir/.",
    "l_slash": "hello/",
    "around": "dir/../hello",
    "dir/back": "../hello",
    "dir/deep/home": "../..",
    "dangling": "nothing",
    "self": "self",
    "ping": "pong",
    "pong": "ping",
    "absolute": "OUT/secret",
    "absolute_directory": "OUT",
    "root": "/",
    "up": "..",
    "upup": "dir/../..",
    "sideways": "../outside/secret",
    "to_sideways": "sideways",
    "dangling_outside": "../outside/nothing",
    "dir/up2": "../../outside",
    "proc": "/proc/self/root",
}


@pytest.fixture(params=["openat", "paths"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With openat, and as on a platform that lacks it."""
    if request.param == "paths":
        monkeypatch.setattr(files, "HAS_OPENAT", False)
    return str(request.param)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    (outside / "empty").mkdir(parents=True)
    (outside / "secret").write_bytes(SECRET)
    root = tmp_path / "root"
    (root / "dir" / "deep").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "hello").write_bytes(b"hello")
    (root / "dir" / "inner").write_bytes(b"inner")
    for name, target in LINKS.items():
        (root / name).symlink_to(target.replace("OUT", str(outside)))
    return root


def facts(folder: Path) -> list[tuple[Any, ...]]:
    """All that could be changed below `folder`."""
    found = []
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found.append((str(path), status.st_ino, status.st_mode, status.st_nlink, status.st_mtime_ns, content))
    return found


@pytest.fixture
def outside(tree: Path) -> Iterator[Path]:
    folder = tree.parent / "outside"
    before = facts(folder)
    yield folder
    assert facts(folder) == before


@pytest.fixture
def sandbox(kind: str, tree: Path, outside: Path) -> Directory:
    return Root("/", tree, writable=True).directory()


@pytest.fixture
def read_only(kind: str, tree: Path, outside: Path) -> Directory:
    return Root("/", tree).directory()


@pytest.fixture(autouse=True)
def nothing_stays_open(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """Whatever a test does, and however it fails, it leaves no descriptor behind."""
    yield
    for name in ("sandbox", "read_only"):
        request.node.funcargs.pop(name, None)
    gc.collect()
    assert open_files(tmp_path) == []


def open_files(below: Path) -> list[str]:
    names = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the listing's own
            pass
    return [name for name in names if name.startswith(str(below))]


@pytest.fixture
def alarm() -> Iterator[None]:
    """A test that blocks fails."""

    def stuck(*_: object) -> None:
        raise AssertionError("it blocks")

    before = signal.signal(signal.SIGALRM, stuck)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def failure(operation: Callable[..., Any], *arguments: Any, **more: Any) -> int:
    """The errno of what must fail."""
    with pytest.raises(OSError) as caught:
        close(operation(*arguments, **more))
    assert caught.value.errno is not None
    return caught.value.errno


def close(what: Any) -> None:
    if isinstance(what, File | Directory):
        what.close()


def content(directory: Directory, path: bytes, **more: Any) -> bytes:
    file = directory.open(path, **more)
    assert isinstance(file, File)
    buffer = bytearray(100)
    with memoryview(buffer) as view:
        size = file.read([view])
    file.close()
    return bytes(buffer[:size])


def write(directory: Directory, path: bytes, data: bytes, flags: int = os.O_CREAT | os.O_TRUNC) -> None:
    file = directory.open(path, os.O_WRONLY | flags)
    assert isinstance(file, File)
    assert file.write([memoryview(data)]) == len(data)
    file.close()


# Ways out

OUTWARD = [
    *(b"..", b"../", b"../..", b"../outside", b"../outside/secret", b"../root/hello", b"./..", b".//../x"),
    *(
        b"dir/../..",
        b"dir/../../outside/secret",
        b"dir/deep/../../../outside/secret",
        b"empty/../../root/hello",
    ),
    *(b"/", b"/etc/passwd", b"//etc/passwd", b"/hello", b"/../x"),
    *(b"up/outside/secret", b"upup/outside/secret", b"up/root/hello", b"dir/up2/secret", b"ld/up2/secret"),
    *(b"dir/deep/home/../outside/secret", b"ld/../../outside/secret", b"up/../x", b"sideways/", b"up/"),
    *(
        b"absolute_directory/secret",
        b"root/etc/passwd",
        b"proc/etc/passwd",
        b"absolute_directory/",
        b"root/.",
    ),
]
# Those whose last name is the link that leads out: only following it does.
OUTWARD_LINKS = [
    *(b"absolute", b"absolute_directory", b"root", b"up", b"upup", b"sideways", b"to_sideways", b"proc"),
    *(b"dangling_outside", b"dir/up2", b"ld/up2", b"dir/../sideways"),
]


@pytest.mark.parametrize("path", OUTWARD)
def test_no_path_leads_out(sandbox: Directory, path: bytes) -> None:
    for follow in (True, False):
        assert failure(sandbox.open, path, follow=follow) == EPERM
        assert failure(sandbox.open, path, follow=follow, directory=True) == EPERM
        assert failure(sandbox.stat, path, follow=follow) == EPERM
    assert failure(sandbox.set_times, path, 1, 1, True) == EPERM


@pytest.mark.parametrize("path", OUTWARD_LINKS)
def test_no_link_leads_out(sandbox: Directory, path: bytes) -> None:
    assert failure(sandbox.open, path) == EPERM
    assert failure(sandbox.open, path, directory=True) == EPERM
    assert failure(sandbox.stat, path) == EPERM
    assert failure(sandbox.set_times, path, 1, 1, True) == EPERM
    assert failure(sandbox.open, path, os.O_WRONLY | os.O_CREAT) == EPERM
    assert failure(sandbox.open, path, os.O_RDWR | os.O_TRUNC) == EPERM
    assert failure(sandbox.remove_directory, path + b"/") == EPERM
    assert failure(sandbox.open, path, follow=False) == ELOOP
    assert failure(sandbox.open, path, follow=False, directory=True) in (ELOOP, ENOTDIR)
    assert failure(sandbox.open, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) == EEXIST
    assert stat.S_ISLNK(sandbox.stat(path, follow=False).st_mode)


@pytest.mark.parametrize("path", [p for p in OUTWARD if not p.endswith((b"/", b"/."))])
def test_nothing_outside_is_changed(sandbox: Directory, path: bytes) -> None:
    """The fixture `outside` compares it all afterwards."""
    for flags in (os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_APPEND):
        assert failure(sandbox.open, path, os.O_WRONLY | flags) == EPERM
    assert failure(sandbox.create_directory, path) == EPERM
    assert failure(sandbox.remove_directory, path) == EPERM
    assert failure(sandbox.unlink, path) == EPERM
    assert failure(sandbox.symlink, b"hello", path) == EPERM
    assert failure(sandbox.read_link, path) == EPERM
    for move in (sandbox.rename, sandbox.link):
        assert failure(move, path, sandbox, b"new") == EPERM
        assert failure(move, b"hello", sandbox, path) == EPERM
    assert content(sandbox, b"hello") == b"hello"


@pytest.mark.parametrize("path", [b"absolute_directory/", b"dir/up2/", b"../outside/empty/", b"sideways/"])
def test_a_slash_at_the_end_follows_no_link_when_something_is_changed(
    sandbox: Directory, path: bytes
) -> None:
    for change in (sandbox.create_directory, sandbox.remove_directory, sandbox.unlink):
        assert failure(change, path) in (EPERM, EEXIST, ENOTDIR, errno.EISDIR)
    assert failure(sandbox.rename, path, sandbox, b"new") in (EPERM, ENOTDIR)
    assert failure(sandbox.rename, b"empty", sandbox, path) in (EPERM, ENOTDIR)
    assert failure(sandbox.link, b"hello", sandbox, path) in (EPERM, EEXIST, ENOTDIR)
    assert failure(sandbox.symlink, b"x", path) in (EPERM, EEXIST, ENOTDIR)


def test_no_link_is_made_that_others_might_follow_out(sandbox: Directory) -> None:
    assert failure(sandbox.symlink, b"/etc/passwd", b"new") == EPERM
    sandbox.symlink(b"../outside/secret", b"new")  # a relative one may dangle, and leads nowhere here
    assert failure(sandbox.open, b"new") == EPERM
    assert failure(sandbox.open, b"new", os.O_WRONLY | os.O_TRUNC) == EPERM


def test_what_an_absolute_link_says_is_not_told(sandbox: Directory) -> None:
    assert failure(sandbox.read_link, b"absolute") == EPERM
    assert sandbox.read_link(b"up") == b".."


def test_moving_a_link_or_a_directory_opens_no_way_out(sandbox: Directory) -> None:
    sandbox.symlink(b"../..", b"dir/deep/link")  # the root itself: harmless there
    assert content(sandbox, b"dir/deep/link/hello") == b"hello"
    sandbox.rename(b"dir/deep/link", sandbox, b"link")
    assert failure(sandbox.open, b"link/outside/secret") == EPERM
    deep = sandbox.open(b"dir/deep")
    assert isinstance(deep, Directory)
    if isinstance(deep, PathDirectory):
        return
    sandbox.rename(b"dir/deep", sandbox, b"moved")
    # What was opened keeps its own bounds wherever it is now.
    assert failure(deep.open, b"..") == EPERM
    assert failure(deep.open, b"../hello") == EPERM
    deep.close()


def test_an_open_directory_is_a_sandbox_too(sandbox: Directory) -> None:
    directory = sandbox.open(b"dir")
    assert isinstance(directory, Directory)
    assert content(directory, b"inner") == b"inner"
    assert content(directory, b"deep/../inner") == b"inner"
    for path in (b"..", b"../hello", b"back", b"deep/home", b"/inner"):
        assert failure(directory.open, path) == EPERM
    assert failure(directory.rename, b"inner", directory, b"../inner") == EPERM
    directory.close()


def test_what_is_closed_is_no_other_directory(tree: Path) -> None:
    sandbox = Root("/", tree, writable=True).directory()
    directory = sandbox.open(b"dir")
    assert isinstance(directory, Directory)
    directory.close()
    sandbox.close()
    for closed in (directory, sandbox):
        for operation in (closed.open, closed.stat, closed.create_directory, closed.unlink):
            assert failure(operation, b"new") == failure(operation, b"dir/x") == errno.EBADF
        assert failure(closed.entries) == failure(closed.status) == errno.EBADF
        closed.close()


def test_links_of_proc_are_no_magic(tmp_path: Path, kind: str) -> None:
    with (tmp_path / "file").open("wb") as held:
        process = Root("/", "/proc/self").directory()
        for path in (b"root", b"root/etc/passwd", b"cwd", b"exe", b"fd/%d" % held.fileno()):
            assert failure(process.open, path) == EPERM
            assert failure(process.stat, path) == EPERM


def test_a_directory_that_becomes_a_link_between_two_calls(sandbox: Directory, tree: Path) -> None:
    before = sandbox.open(b"dir")
    assert isinstance(before, Directory)
    (tree / "dir").rename(tree / "elsewhere")
    (tree / "dir").symlink_to(tree.parent / "outside")
    assert failure(sandbox.open, b"dir/secret") == EPERM
    assert failure(sandbox.open, b"dir") == EPERM
    assert failure(before.open, b"secret") in (ENOENT, EPERM)
    if not isinstance(before, PathDirectory):
        assert content(before, b"inner") == b"inner"
    before.close()


def test_a_directory_that_becomes_a_link_during_a_call(tree: Path, outside: Path) -> None:
    """The race itself, with openat only: the fallback does not claim to win it."""
    sandbox = Root("/", tree, writable=True).directory()
    (tree / "dir" / "secret").write_bytes(b"inside")
    link, directory, done = tree / "link", tree / "dir", threading.Event()
    link.symlink_to(outside)

    def swap() -> None:
        while not done.is_set():
            directory.rename(tree / "kept")
            link.rename(directory)
            directory.rename(link)
            (tree / "kept").rename(directory)

    thread = threading.Thread(target=swap)
    thread.start()
    seen: set[bytes] = set()
    errors: set[int | None] = set()
    try:
        for _ in range(3000):
            try:
                seen.add(content(sandbox, b"dir/secret"))
                sandbox.set_times(b"dir/secret", 1, 1, True)
            except OSError as error:
                errors.add(error.errno)
    finally:
        done.set()
        thread.join()
    assert seen == {b"inside"}
    assert errors <= {EPERM, ENOENT, ENOTDIR, ELOOP}


def test_hard_links_are_made_inside_only(sandbox: Directory, tree: Path, tmp_path: Path, kind: str) -> None:
    sandbox.link(b"hello", sandbox, b"dir/again")
    assert (tree / "dir" / "again").samefile(tree / "hello")
    (tmp_path / "second").mkdir()
    other = Root("/", tmp_path / "second", writable=True).directory()
    sandbox.link(b"hello", other, b"hello")  # both are the guest's
    sandbox.rename(b"dir/inner", other, b"inner")
    assert content(other, b"inner") == b"inner"
    closed = Root("/", tmp_path / "second").directory()
    for move in (sandbox.link, sandbox.rename):
        assert failure(move, b"hello", closed, b"new") == EPERM
    for move in (closed.link, closed.rename):
        assert failure(move, b"hello", sandbox, b"new") == EPERM
    assert failure(sandbox.link, b"dir", sandbox, b"new") == EPERM
    assert failure(sandbox.link, b"hello", sandbox, b"dir") == EEXIST
    assert failure(sandbox.link, b"absolute/", sandbox, b"new") in (EPERM, ENOTDIR)


def test_a_link_is_linked_and_not_its_target(tree: Path, outside: Path) -> None:
    sandbox = Root("/", tree, writable=True).directory()
    sandbox.link(b"sideways", sandbox, b"new")
    assert (tree / "new").is_symlink()
    sandbox.set_times(b"sideways", 1, 2, False)
    assert (tree / "sideways").lstat().st_mtime_ns == 2


# Read only


def test_a_read_only_root_is_not_changed(read_only: Directory, tree: Path) -> None:
    before = facts(tree)
    for path in (b"hello", b"l", b"new", b"dir", b"dangling", b"", b"..", b"\xff", b"x" * 300):
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_WRONLY | os.O_CREAT | os.O_EXCL):
            assert failure(read_only.open, path, flags) == EPERM
        assert failure(read_only.create_directory, path) == EPERM
        assert failure(read_only.remove_directory, path) == EPERM
        assert failure(read_only.unlink, path) == EPERM
        assert failure(read_only.symlink, b"hello", path) == EPERM
        assert failure(read_only.set_times, path, 1, 1, True) == EPERM
        assert failure(read_only.rename, path, read_only, b"new") == EPERM
        assert failure(read_only.link, path, read_only, b"new") == EPERM
    directory = read_only.open(b"dir")
    assert isinstance(directory, Directory)
    assert failure(directory.unlink, b"inner") == EPERM
    assert failure(directory.set_times, b".", 1, 1, False) == EPERM
    directory.close()
    file = read_only.open(b"hello")
    assert isinstance(file, File)
    assert failure(file.write, [memoryview(b"x")]) == errno.EBADF
    assert failure(file.set_size, 0) == EPERM
    assert failure(file.set_times, 1, 1) == EPERM
    file.sync()
    file.close()
    assert facts(tree) == before


# What is inside

INSIDE: dict[bytes, bytes] = {
    **dict.fromkeys([b"hello", b"./hello", b".//hello", b"dir/../hello", b"dir/deep/../../hello"], b"hello"),
    **dict.fromkeys(
        [b"l", b"chain", b"around", b"dir/back", b"ld/back", b"ld/../hello", b"ld/../l"], b"hello"
    ),
    **dict.fromkeys([b"dir/deep/home/hello", b"dir/deep/home/dir/back", b"ld_dot/../hello"], b"hello"),
    **dict.fromkeys(
        [b"dir/inner", b"ld/inner", b"ld_slash/inner", b"ld_dot/inner", b"dir//deep/..//inner"], b"inner"
    ),
}


@pytest.mark.parametrize("path", INSIDE)
def test_paths_inside(sandbox: Directory, path: bytes) -> None:
    assert content(sandbox, path) == INSIDE[path]
    assert sandbox.stat(path).st_size == 5
    assert failure(sandbox.open, path, directory=True) == ENOTDIR
    assert failure(sandbox.open, path + b"/") == ENOTDIR
    assert failure(sandbox.open, path + b"/x") == ENOTDIR
    assert failure(sandbox.stat, path + b"/") == ENOTDIR
    assert failure(sandbox.open, path + b"/", os.O_WRONLY | os.O_CREAT) in (errno.EISDIR, ENOTDIR)


@pytest.mark.parametrize(
    "path",
    [
        b".",
        b"./",
        b"dir",
        b"dir/",
        b"dir/.",
        b"dir//",
        b"ld",
        b"ld/",
        b"ld/.",
        b"ld_slash",
        b"dir/..",
        b"dir/deep/..",
    ],
)
def test_directories_inside(sandbox: Directory, path: bytes) -> None:
    for directory in (True, False):
        opened = sandbox.open(path, directory=directory)
        assert isinstance(opened, Directory)
        assert opened.status().st_ino == sandbox.stat(path).st_ino
        opened.close()
    assert failure(sandbox.open, path, os.O_RDWR) == errno.EISDIR
    assert failure(sandbox.open, path, os.O_RDONLY | os.O_CREAT) == errno.EISDIR
    assert failure(sandbox.open, path, os.O_CREAT, directory=True) == errno.EINVAL
    if path not in (b"ld", b"ld_slash"):
        assert failure(sandbox.read_link, path) == errno.EINVAL


def test_missing_names(sandbox: Directory) -> None:
    for path in (
        b"nothing",
        b"",
        b"dangling",
        b"dir/nothing",
        b"nothing/x",
        b"dangling/x",
        b"nothing/../hello",
    ):
        for operation in (sandbox.open, sandbox.stat):
            assert failure(operation, path) == ENOENT
    for change in (sandbox.unlink, sandbox.remove_directory, sandbox.read_link):
        assert failure(change, b"") == failure(change, b"nothing") == failure(change, b"nothing/x") == ENOENT
    assert failure(sandbox.create_directory, b"") == failure(sandbox.symlink, b"x", b"") == ENOENT


@pytest.mark.parametrize("path", [b"self", b"ping", b"self/x", b"ping/x"])
def test_loops(sandbox: Directory, path: bytes) -> None:
    assert failure(sandbox.open, path) == ELOOP
    assert failure(sandbox.open, path, os.O_WRONLY | os.O_CREAT) == ELOOP
    assert failure(sandbox.stat, path) == ELOOP


def test_a_chain_of_links_has_an_end(tree: Path) -> None:
    sandbox = Root("/", tree).directory()
    for index in range(files.MAX_LINKS + 1):
        (tree / f"chain{index}").symlink_to(f"chain{index - 1}" if index else "hello")
    assert content(sandbox, b"chain%d" % (files.MAX_LINKS - 1)) == b"hello"
    assert failure(sandbox.open, b"chain%d" % files.MAX_LINKS) == ELOOP
    assert failure(sandbox.open, b"ld/../" * files.MAX_LINKS + b"ld/inner") == ELOOP


def test_creating_through_a_link_that_dangles(sandbox: Directory, tree: Path) -> None:
    write(sandbox, b"dangling", b"made")
    assert (tree / "nothing").read_bytes() == b"made"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"hello\0", errno.EINVAL),
        (b"\0", errno.EINVAL),
        (b"hello\0/../../outside/secret", errno.EINVAL),
        (b"\xff", errno.EILSEQ),
        (b"dir/\xc0\xaf..", errno.EILSEQ),  # an overlong "/"
        (b"\xed\xa0\x80", errno.EILSEQ),  # half of a surrogate pair
        (b"x" * 256, errno.ENAMETOOLONG),
        (b"dir/" + b"x" * 256 + b"/y", errno.ENAMETOOLONG),
        (b"x/" * 2048 + b"x", errno.ENAMETOOLONG),
        (b"x" * 10_000_000, errno.ENAMETOOLONG),
    ],
)
def test_impossible_names(sandbox: Directory, path: bytes, expected: int) -> None:
    operations: list[Callable[..., Any]] = [
        *(sandbox.open, sandbox.stat, sandbox.create_directory, sandbox.remove_directory, sandbox.unlink),
        *(sandbox.read_link, lambda path: sandbox.set_times(path, 1, 1, True)),
        *(lambda path: sandbox.symlink(b"hello", path), lambda path: sandbox.rename(path, sandbox, b"new")),
        *(
            lambda path: sandbox.link(b"hello", sandbox, path),
            lambda path: sandbox.link(path, sandbox, b"new"),
        ),
    ]
    for operation in operations:
        assert failure(operation, path) == expected
    if expected != errno.ENAMETOOLONG:
        assert failure(sandbox.symlink, path, b"new") == expected


@pytest.mark.parametrize(
    "name", ["é", "日本", "a b", "-", "...", "..x", ".hidden", "%2e%2e", "\n", "a\\b", "~", "x" * 255]
)
def test_odd_names(sandbox: Directory, tree: Path, name: str) -> None:
    path = name.encode()
    write(sandbox, path, b"1")
    assert content(sandbox, b"dir/../" + path) == b"1"
    sandbox.rename(path, sandbox, b"dir/" + path)
    assert (tree / "dir" / name).read_bytes() == b"1"
    directory = sandbox.open(b"dir")
    assert isinstance(directory, Directory)
    assert path in [entry.name for entry in directory.entries()]
    directory.close()


def test_a_tree_deeper_than_is_walked(tree: Path) -> None:
    sandbox = Root("/", tree, writable=True).directory()
    at: Any = sandbox
    for _ in range(files.MAX_DEPTH + 1):
        at.create_directory(b"n")
        below = at.open(b"n")
        if at is not sandbox:
            at.close()
        at = below
    at.close()
    deepest = b"n/" * files.MAX_DEPTH
    assert stat.S_ISDIR(sandbox.stat(deepest + b".").st_mode)
    write(sandbox, deepest + b"file", b"deep")
    assert failure(sandbox.open, deepest + b"n/file") == errno.ENAMETOOLONG
    assert content(sandbox, (b"n/../" * 800)[:-5] + b"hello") == b"hello"


# What is neither file nor directory


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_CREAT])
def test_fifos_and_sockets_are_not_opened(
    sandbox: Directory, tree: Path, flags: int, alarm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tree / "fifo")
    monkeypatch.chdir(tree)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    for name in (b"fifo", b"socket"):
        assert failure(sandbox.open, name, flags) in (errno.EACCES, errno.ENXIO)
        assert failure(sandbox.open, name, directory=True) == ENOTDIR
        assert failure(sandbox.open, name + b"/") == ENOTDIR
    (tree / "link").symlink_to("fifo")
    assert failure(sandbox.open, b"link", flags) in (errno.EACCES, errno.ENXIO)


def test_devices_are_not_opened(kind: str, alarm: None) -> None:
    devices = Root("/", "/dev").directory()
    for name in (b"null", b"zero", b"tty"):
        assert failure(devices.open, name) in (errno.EACCES, errno.ENXIO)


# Changing things


def test_slashes_at_the_end_as_linux_has_them(sandbox: Directory, tree: Path) -> None:
    sandbox.create_directory(b"new/")
    sandbox.rename(b"new/", sandbox, b"new2")
    sandbox.rename(b"new2", sandbox, b"new/")
    sandbox.remove_directory(b"new//")
    assert failure(sandbox.remove_directory, b"hello/") == ENOTDIR
    assert failure(sandbox.unlink, b"hello/") == ENOTDIR
    assert failure(sandbox.unlink, b"dir/") == failure(sandbox.unlink, b"dir") == errno.EISDIR
    assert failure(sandbox.unlink, b"nothing/") == ENOENT
    assert failure(sandbox.rename, b"hello/", sandbox, b"x") == ENOTDIR
    assert failure(sandbox.rename, b"hello", sandbox, b"x/") == ENOTDIR
    assert failure(sandbox.rename, b"ld/", sandbox, b"x") == ENOTDIR
    assert failure(sandbox.symlink, b"x", b"nothing/") == ENOENT
    assert failure(sandbox.symlink, b"x", b"dir/") == EEXIST
    assert failure(sandbox.symlink, b"x", b"hello/") == ENOTDIR
    assert failure(sandbox.link, b"hello", sandbox, b"nothing/") == ENOENT
    assert failure(sandbox.link, b"hello/", sandbox, b"x") == ENOTDIR
    assert failure(sandbox.read_link, b"l/") == ENOTDIR
    assert failure(sandbox.read_link, b"ld/") == failure(sandbox.read_link, b"dir/") == errno.EINVAL
    assert failure(sandbox.set_times, b"hello/", 1, 1, True) == ENOTDIR
    assert failure(sandbox.open, b"nothing/", os.O_WRONLY | os.O_CREAT) == errno.EISDIR
    assert not (tree / "nothing").exists()


def test_dots_are_neither_removed_nor_moved(sandbox: Directory, tree: Path) -> None:
    before = facts(tree)
    for path in (b".", b"dir/.", b"dir/..", b"dir/deep/.."):
        for change in (sandbox.unlink, sandbox.remove_directory, sandbox.create_directory):
            failure(change, path)
        failure(sandbox.rename, path, sandbox, b"new")
        failure(sandbox.rename, b"empty", sandbox, path)
        failure(sandbox.symlink, b"hello", path)
    assert facts(tree) == before


def test_renaming(sandbox: Directory, tree: Path) -> None:
    sandbox.rename(b"hello", sandbox, b"dir/inner")
    assert (tree / "dir" / "inner").read_bytes() == b"hello"
    sandbox.rename(b"sideways", sandbox, b"moved")  # the link, not what it points to
    assert (tree / "moved").is_symlink()
    assert failure(sandbox.rename, b"dir", sandbox, b"dir/deep/x") == errno.EINVAL
    assert failure(sandbox.rename, b"empty", sandbox, b"dir") == errno.ENOTEMPTY
    assert failure(sandbox.remove_directory, b"dir") == errno.ENOTEMPTY
    assert failure(sandbox.remove_directory, b"ld") == ENOTDIR
    assert failure(sandbox.remove_directory, b"ld/") == ENOTDIR


def test_exclusive_creation_follows_nothing(sandbox: Directory, tree: Path) -> None:
    for path in (b"dangling", b"l", b"hello", b"self", b"ld"):
        assert failure(sandbox.open, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) == EEXIST
    assert not (tree / "nothing").exists()


def test_new_files_are_not_executable(sandbox: Directory, tree: Path) -> None:
    write(sandbox, b"new", b"")
    assert not (tree / "new").stat().st_mode & 0o111


def test_times(sandbox: Directory, tree: Path) -> None:
    os.utime(tree / "hello", ns=(1, 2))
    for path, times, expected in (
        (b"hello", (None, None), (1, 2)),
        (b"hello", (3, None), (3, 2)),
        (b"l", (None, 4), (3, 4)),
        (b"dir/back", (5, 6), (5, 6)),
    ):
        sandbox.set_times(path, *times, follow=True)
        status = (tree / "hello").stat()
        assert (status.st_atime_ns, status.st_mtime_ns) == expected
    sandbox.set_times(b".", 7, 8, follow=False)
    assert tree.stat().st_mtime_ns == 8


# Listing


def test_entries(sandbox: Directory, tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    (tree / os.fsdecode(b"not-utf8-\xff")).touch()
    entries = {entry.name: entry for entry in sandbox.entries()}
    assert entries.keys() == {os.fsencode(name) for name in os.listdir(tree)} - {b"not-utf8-\xff"}
    for name, entry in entries.items():
        status = os.lstat(os.path.join(os.fsencode(tree), name))
        assert (entry.kind, entry.inode) == (stat.S_IFMT(status.st_mode), status.st_ino)


def test_a_listing_is_bounded(sandbox: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    count = len(sandbox.entries())
    monkeypatch.setattr(files, "MAX_ENTRIES", count)
    assert len(sandbox.entries()) == count
    monkeypatch.setattr(files, "MAX_ENTRIES", count - 1)
    assert failure(sandbox.entries) == errno.EOVERFLOW


def test_a_root_is_listed_by_many_at_once(sandbox: Directory, tree: Path) -> None:
    for index in range(300):
        (tree / "empty" / f"{index}").touch()
    root = Root("/", tree / "empty")
    lengths: list[int] = []

    def listing() -> None:
        for _ in range(20):
            lengths.append(len(root.directory().entries()))

    threads = [threading.Thread(target=listing) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == [300] * 120


# Roots and files


def test_a_root_is_opened_once_and_closed_when_nobody_has_it(tree: Path) -> None:
    root = Root("/", tree)
    assert open_files(tree) == []
    one, two = root.directory(), root.directory()
    assert open_files(tree) == [str(tree)]
    one.close()
    assert content(two, b"hello") == b"hello"
    inner = two.open(b"dir")
    del root, one, two
    assert open_files(tree) == [str(tree), str(tree / "dir")] or len(open_files(tree)) == 2
    assert isinstance(inner, Directory)
    inner.close()
    inner.close()
    del inner
    assert open_files(tree) == []


def test_a_root_that_is_not_there(tmp_path: Path, tree: Path) -> None:
    assert failure(Root("/", tmp_path / "nothing").directory) == ENOENT
    assert failure(Root("/", tree / "hello").directory) == ENOTDIR


def test_a_root_may_be_a_link_of_the_operators(tmp_path: Path, tree: Path, kind: str) -> None:
    (tmp_path / "current").symlink_to("root")
    assert content(Root("/", tmp_path / "current").directory(), b"hello") == b"hello"


@pytest.mark.parametrize("native", [True, False])
def test_reading_and_writing(
    sandbox: Directory, tree: Path, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By vectored calls, and as on platforms that have none."""
    if not native:
        monkeypatch.setattr(files, "read_into", files._fill)
        monkeypatch.setattr(files, "write_from", files._drain)
        monkeypatch.setattr(files, "read_into_at", files._fill_at)
        monkeypatch.setattr(files, "write_from_at", files._drain_at)
    file = sandbox.open(b"new", os.O_RDWR | os.O_CREAT)
    assert isinstance(file, File)
    assert file.write([memoryview(b"01"), memoryview(b""), memoryview(b"234")]) == 5
    assert file.write_at([memoryview(b"AB")], 1) == 2
    assert file.seek(0, os.SEEK_CUR) == 5
    assert file.seek(0, os.SEEK_SET) == 0
    first, second = bytearray(2), bytearray(9)
    assert file.read([memoryview(first), memoryview(second)]) == 5
    assert (first, second) == (b"0A", b"B34" + bytes(6))
    assert file.read([memoryview(first)]) == 0
    assert file.read_at([memoryview(first), memoryview(second)], 3) == 2
    assert first == b"34"
    assert file.seek(-1, os.SEEK_END) == 4
    file.set_append(True)
    file.write([memoryview(b"5")])
    file.set_append(False)
    file.seek(0, os.SEEK_SET)
    file.write([memoryview(b"X")])
    file.set_size(4)
    file.set_times(1, None)
    file.set_times(None, 2)
    status = file.stat()
    assert (status.st_size, status.st_atime_ns, status.st_mtime_ns) == (4, 1, 2)
    file.sync()
    file.sync(data_only=True)
    file.close()
    file.close()
    assert (tree / "new").read_bytes() == b"XAB3"
    assert failure(file.stat) == errno.EBADF


def test_the_descriptor_of_a_root_is_not_closed_while_threads_may_use_it(tmp_path: Path) -> None:
    """Those of a server may go on while the process exits; another file would get the number."""
    if not files.HAS_OPENAT:
        pytest.skip("no descriptors")
    (tmp_path / "mounted").mkdir()
    (tmp_path / "mounted" / "inside").touch()
    script = """
import atexit, os, sys

def late():
    os.open(sys.argv[1], os.O_RDONLY)
    print([entry.name for entry in root.directory().entries()])

atexit.register(late)
from wasm_gateway.host.files import Root
root = Root("/", sys.argv[1] + "/mounted")
root.directory()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("[b'inside']\n", "")
