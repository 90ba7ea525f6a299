# The files that guests see: directories of the host, each of them a sandbox.
#
# Rule 1: a path is resolved here, one name at a time. The kernel is only ever given
# a single name below a directory that is already open, and told to follow no link;
# so nothing that happens to the tree in between leads out of the sandbox.
# Rule 2: symbolic links are read and followed by hand. An absolute path or link, and
# a `..` past the root, are EPERM, wherever they would have led.
# Rule 3: below a root that is not writable nothing is created, changed or opened for
# writing: EPERM, before the path is looked at.
# Rule 4: only regular files and directories are given out. A FIFO, device or socket
# is EACCES, and cannot block: all is opened with O_NONBLOCK, looked at, and closed.
# Rule 5: what guests have open is counted (descriptors.py); EMFILE beyond that.
# Rule 6: whatever changes what is on the disk is counted (disk.py), and is done here only;
# ENOSPC beyond what the component may add.
# Rule 7: whatever goes wrong is an OSError with an errno; each dialect of WASI
# translates from there. Paths are bytes as the guest gave them, in UTF-8.
#
# Where the platform has no openat (Windows), PathDirectory does the same with whole
# paths and realpath: a process of the host that changes the tree at the very moment
# can win there, a guest alone cannot.

from __future__ import annotations

import errno
import os
import stat
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import NamedTuple, Protocol

from . import descriptors
from .disk import ENTRY, Disk

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# The longest path, and the most links in one, as Linux has them (PATH_MAX, MAXSYMLINKS).
MAX_PATH = 4096
MAX_LINKS = 40
# Each directory on the way to a file is held open while the path is walked, for `..`.
MAX_DEPTH = 64
# A directory is listed at once, so that files may be removed while a guest reads the list.
MAX_ENTRIES = 100_000

# Windows and macOS lack some of these.
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_SAFE = _NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_STEP = getattr(os, "O_PATH", os.O_RDONLY) | _DIRECTORY | _NOFOLLOW
_LIST = os.O_RDONLY | _DIRECTORY | _NOFOLLOW
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

# What open(2) says of a link that it must not follow, with and without O_DIRECTORY (BSDs: EMLINK).
_PERHAPS_A_LINK = frozenset((errno.ELOOP, errno.ENOTDIR, errno.EMLINK))
_DOTS = frozenset((b".", b".."))


class MountPoint(Protocol):
    """A directory of the host at `host_path`, which guests see as `guest_path` (assets.Mount)."""

    @property
    def guest_path(self) -> str: ...

    @property
    def host_path(self) -> os.PathLike[str]: ...

    @property
    def writable(self) -> bool: ...


class Entry(NamedTuple):
    """One name in a directory: `kind` as stat.S_IFMT gives it (0: unknown), `inode` of the entry itself."""

    name: bytes
    kind: int
    inode: int


def _failure(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def check_path(path: bytes) -> None:
    """EPERM when absolute, EINVAL for a NUL, EILSEQ when not UTF-8, ENAMETOOLONG past MAX_PATH bytes."""
    if path.startswith(b"/"):
        raise _failure(errno.EPERM)
    if len(path) > MAX_PATH:
        raise _failure(errno.ENAMETOOLONG)
    if not path.isascii():
        try:
            path.decode()
        except UnicodeDecodeError:
            raise _failure(errno.EILSEQ) from None
    if b"\0" in path:
        raise _failure(errno.EINVAL)


class Root:
    """One mounted directory, shared by all requests of the process.

    Opened at the first use, and closed when nothing refers to it any more: its descriptor is in use by
    requests under way, so that closing it at a given moment would hand its number to another file.
    `disk` counts what is changed below it, None where it is not writable.
    """

    __slots__ = ("__weakref__", "_fd", "_lock", "disk", "guest_path", "host_path", "writable")

    def __init__(
        self,
        guest_path: str,
        host_path: str | os.PathLike[str],
        writable: bool = False,
        disk: Disk | None = None,
    ) -> None:
        self.guest_path = guest_path.encode()
        self.host_path = os.fsencode(host_path)
        self.writable = writable
        self.disk = (disk or Disk(None)) if writable else None
        self._fd: int | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, mounts: Iterable[MountPoint], max_disk: int | None = None) -> tuple[Root, ...]:
        """One for each mount; to all of them together guests may add `max_disk` bytes."""
        mounts = tuple(mounts)
        writable = [os.fsencode(mount.host_path) for mount in mounts if mount.writable]
        disk = Disk(max_disk, writable) if writable else None
        return tuple(cls(mount.guest_path, mount.host_path, mount.writable, disk) for mount in mounts)

    def read_only(self) -> Root:
        """The same folder, below which nothing can be changed."""
        return Root(self.guest_path.decode(), os.fsdecode(self.host_path))

    def directory(self) -> Directory:
        """The root itself; OSError when the host has no such directory (any more)."""
        if not HAS_OPENAT:
            return PathDirectory(self, os.path.realpath(self.host_path))
        fd = self._fd
        if fd is None:
            with self._lock:
                fd = self._fd
                if fd is None:
                    fd = self._fd = os.open(self.host_path, _STEP & ~_NOFOLLOW)
                    # not at exit, when daemon threads may still use it: the number would be another file's
                    weakref.finalize(self, os.close, fd).atexit = False
        return Directory(self, fd, owned=False)


class File:
    """An open regular file; a reader and a writer of bytes at its own offset or at a given one.

    `flags` are those that it was opened with; `disk` is that of its root. Where there is one, its lock is
    held while this is made.
    """

    __slots__ = ("_append", "_disk", "_key", "fd", "mutable", "writable")

    def __init__(self, fd: int, flags: int, disk: Disk | None, status: os.stat_result) -> None:
        self.fd = fd
        self.writable = bool(flags & (os.O_WRONLY | os.O_RDWR))  # opened for writing
        self.mutable = disk is not None  # its root is writable
        self._append = bool(flags & os.O_APPEND)
        self._disk = disk
        self._key = status.st_dev, status.st_ino
        if disk is not None:
            disk.opened(self._key, self)

    def duplicate(self) -> File:
        """The same file at the same offset, to be closed on its own."""
        flags = (os.O_RDWR if self.writable else 0) | (os.O_APPEND if self._append else 0)
        descriptors.files.take()
        try:
            fd = os.dup(self.fd)
        except BaseException:
            descriptors.files.give()
            raise
        with _lock_of(self._disk):
            return File(fd, flags, self._disk, os.fstat(fd))

    def read(self, buffers: Sequence[memoryview]) -> int:
        """Fill `buffers` from the current offset; the number of bytes, 0 at the end."""
        return read_into(self.fd, buffers)

    def read_at(self, buffers: Sequence[memoryview], offset: int) -> int:
        return read_into_at(self.fd, buffers, offset)

    def write(self, buffers: Sequence[memoryview]) -> int:
        """Write `buffers` at the current offset, or the end; the number of bytes."""
        return self._write(buffers, None, lambda: write_from(self.fd, buffers))

    def write_at(self, buffers: Sequence[memoryview], offset: int) -> int:
        return self._write(buffers, offset, lambda: write_from_at(self.fd, buffers, offset))

    def append(self, buffers: Sequence[memoryview]) -> int:
        return self._write(buffers, -1, lambda: write_from_at(self.fd, buffers, self.stat().st_size))

    def _write(self, buffers: Sequence[memoryview], offset: int | None, write: Callable[[], int]) -> int:
        disk, size = self._disk, sum(map(len, buffers))
        if disk is None or not self.writable or not size:
            return write()  # the system knows what is wrong
        with disk.changing(self.fd) as end:
            if offset is None:
                offset = os.lseek(self.fd, 0, os.SEEK_CUR)
            # Linux: who has it opened to append does so whatever the offset is
            disk.want(size if self._append or offset == -1 else offset + size - end)
            return write()

    def seek(self, offset: int, whence: int) -> int:
        """Move the offset as lseek does; the new one."""
        return os.lseek(self.fd, offset, whence)

    def stat(self) -> os.stat_result:
        return os.fstat(self.fd)

    def set_append(self, append: bool) -> None:
        """Write at the end, or at the offset again; ENOTSUP where the platform cannot change that."""
        if fcntl is None:
            raise _failure(errno.ENOTSUP)
        flags = fcntl.fcntl(self.fd, fcntl.F_GETFL)
        flags = flags | os.O_APPEND if append else flags & ~os.O_APPEND
        fcntl.fcntl(self.fd, fcntl.F_SETFL, flags)
        self._append = append

    def set_size(self, size: int) -> None:
        if self._disk is None:
            raise _failure(errno.EPERM)
        with self._disk.changing(self.fd) as before:
            self._disk.want(size - before)
            os.ftruncate(self.fd, size)

    def set_times(self, accessed: int | None, modified: int | None) -> None:
        """Set the times (ns since 1970); None leaves one as it is."""
        if not self.mutable:
            raise _failure(errno.EPERM)
        if accessed is None or modified is None:
            now = os.fstat(self.fd)
            accessed = now.st_atime_ns if accessed is None else accessed
            modified = now.st_mtime_ns if modified is None else modified
        os.utime(self.fd, ns=(accessed, modified))

    def sync(self, data_only: bool = False) -> None:
        if self.writable:
            (_fdatasync if data_only else os.fsync)(self.fd)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            if self._disk is not None:
                with self._disk.lock:
                    self._disk.closing(self._key, self, fd)
            descriptors.files.give()
            os.close(fd)


class _Place:
    """Where a path led: `name`, a single name in the open directory `at`.

    `slash`: the path ended in "/", so that only a directory will do. Entered with `with`, which closes
    what was opened on the way.
    """

    __slots__ = ("at", "held", "name", "slash")

    def __init__(self, at: int | None, name: bytes, slash: bool = False, held: Sequence[int] = ()) -> None:
        self.at = at
        self.name = name
        self.slash = slash
        self.held = held

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self.held:
            os.close(fd)

    def stat(self) -> os.stat_result:
        return os.stat(self.name, dir_fd=self.at, follow_symlinks=False)

    def look(self) -> os.stat_result | None:
        """The status, None where there is nothing."""
        try:
            return self.stat()
        except FileNotFoundError:
            return None

    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.stat().st_mode)

    def must_be_directory(self) -> None:
        """ENOTDIR when the path ended in a slash and leads to something else."""
        if self.slash and not self.is_directory():
            raise _failure(errno.ENOTDIR)

    def must_not_have_slash(self) -> None:
        """What Linux says when a link is to be made at a path that ends in a slash."""
        if self.slash:
            raise _failure(errno.EEXIST if self.is_directory() else errno.ENOTDIR)


def _names(path: bytes) -> list[bytes]:
    """The names in `path`, last first, without those that say nothing: "" and, but for the last one, "."."""
    names = [name for name in path.split(b"/") if name and name != b"."]
    if path.endswith(b"/.") or path == b".":
        names.append(b".")
    names.reverse()
    return names


def _is_followed(path: bytes, follow: bool) -> bool:
    """Whether a link as the last name of `path` is followed: POSIX, also when more than a name is there."""
    return follow or path.endswith(b"/") or path.rpartition(b"/")[2] in _DOTS


class Directory:
    """An open directory of a sandbox. Every path is relative to it and stays below it."""

    __slots__ = ("fd", "owned", "root", "writable")

    def __init__(self, root: Root, fd: int | None, owned: bool = True) -> None:
        self.root = root  # keeps the root's descriptor open
        self.fd = fd
        self.owned = owned
        self.writable = root.writable

    def close(self) -> None:
        fd = self.fd
        if fd is not None and fd >= 0:
            self.fd = -1  # and not None, which would be the folder of the process
            if self.owned:
                descriptors.files.give()
                os.close(fd)

    def _may_write(self) -> Disk:
        disk = self.root.disk
        if disk is None:
            raise _failure(errno.EPERM)
        return disk

    def _find(self, path: bytes, follow: bool = False) -> _Place:
        check_path(path)
        if b"/" not in path and path not in _DOTS and not follow:
            return _Place(self.fd, path)
        return self._walk(path, follow)

    def _walk(self, path: bytes, follow: bool) -> _Place:
        """Resolve `path` but for its last name; that one too, when it is a link, with `follow`."""
        if not path:
            raise _failure(errno.ENOENT)
        names, slash, links = _names(path), path.endswith(b"/"), 0
        held: list[int] = []
        at = self.fd
        try:
            while names:
                name = names.pop()
                if name == b"." and names:
                    continue
                if name == b"..":
                    if not held:
                        raise _failure(errno.EPERM)
                    os.close(held.pop())
                    at = held[-1] if held else self.fd
                    continue
                target = None
                if names:
                    try:
                        fd = os.open(name, _STEP, dir_fd=at)
                    except OSError as error:
                        if error.errno not in _PERHAPS_A_LINK:
                            raise
                        target = _link_target(name, at)
                        if target is None:
                            raise
                    else:
                        held.append(fd)
                        if len(held) > MAX_DEPTH:
                            raise _failure(errno.ENAMETOOLONG)
                        at = fd
                        continue
                elif follow:
                    target = _link_target(name, at)
                if target is None:
                    return _Place(at, name, slash, held)
                links += 1
                if links > MAX_LINKS:
                    raise _failure(errno.ELOOP)
                if target.startswith(b"/"):
                    raise _failure(errno.EPERM)
                slash = slash or (not names and target.endswith(b"/"))
                names += _names(target)
            return _Place(at, b".", False, held)
        except BaseException:
            for fd in held:
                os.close(fd)
            raise

    # Opening

    def open(
        self, path: bytes, flags: int = os.O_RDONLY, *, follow: bool = True, directory: bool = False
    ) -> File | Directory:
        """Open what `path` leads to. `flags` are those of os.open that concern access, creation and writing.

        `follow`: also when the last name is a link. `directory`: ENOTDIR for anything else.
        """
        if flags & _WRITING and not self.writable:
            raise _failure(errno.EPERM)
        check_path(path)
        if directory:
            if flags & os.O_CREAT:
                raise _failure(errno.EINVAL)
            flags |= _DIRECTORY
        if flags & os.O_EXCL:
            follow = False  # POSIX, open: the last name is no link then, it is there
        try:
            if b"/" not in path and path not in _DOTS:
                return self._open_at(_Place(self.fd, path), flags)
            with self._walk(path, False) as place:
                follow = follow or place.slash
                return self._open_at(place, flags)
        except OSError as error:
            if not follow or error.errno not in _PERHAPS_A_LINK:
                raise
        with self._walk(path, True) as place:
            return self._open_at(place, flags)

    def _open_at(self, place: _Place, flags: int) -> File | Directory:
        if place.slash:
            if flags & os.O_CREAT:
                raise _failure(errno.EISDIR)
            flags |= _DIRECTORY
        disk = self.root.disk
        if disk is None:
            return self._opened(os.open(place.name, flags | _SAFE, 0o666, dir_fd=place.at), flags)
        with disk.lock:
            before = place.look() if flags & (os.O_CREAT | os.O_TRUNC) else None
            made = before is None and flags & os.O_CREAT
            if made:
                disk.want(ENTRY)
            fd = os.open(place.name, flags | _SAFE, 0o666, dir_fd=place.at)
            if made:
                disk.count(ENTRY)
            elif before is not None and flags & os.O_TRUNC:
                disk.count(-before.st_size)
            return self._opened(fd, flags)

    def _opened(self, fd: int, flags: int) -> File | Directory:
        try:
            status = os.fstat(fd)
            mode = status.st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise _failure(errno.EACCES)
            descriptors.files.take()
        except BaseException:
            os.close(fd)
            raise
        if stat.S_ISDIR(mode):
            return Directory(self.root, fd)
        return File(fd, flags, self.root.disk, status)

    # Looking

    def stat(self, path: bytes, follow: bool = True) -> os.stat_result:
        """The status of what `path` leads to, of the link itself without `follow`."""
        follow = follow or path.endswith(b"/")
        with self._find(path) as place:
            status = place.stat()
            if not (follow and stat.S_ISLNK(status.st_mode)):
                if place.slash and not stat.S_ISDIR(status.st_mode):
                    raise _failure(errno.ENOTDIR)
                return status
        with self._find(path, follow) as place:
            status = place.stat()
            if stat.S_ISLNK(status.st_mode):
                raise _failure(errno.ELOOP)  # it was no link a moment ago
            if place.slash and not stat.S_ISDIR(status.st_mode):
                raise _failure(errno.ENOTDIR)
            return status

    def status(self) -> os.stat_result:
        """The status of the directory itself."""
        assert self.fd is not None
        return os.fstat(self.fd)

    def entries(self, limit: int | None = None) -> list[Entry]:
        """What is in the directory, without "." and "..", and without names that are not UTF-8.

        EOVERFLOW when there is more than `limit`, MAX_ENTRIES if that is not given.
        """
        # A descriptor of its own: the position in the directory is shared by all that use one.
        fd = os.open(b".", _LIST, dir_fd=self.fd)
        try:
            return _entries(fd, limit)
        finally:
            os.close(fd)

    def read_link(self, path: bytes) -> bytes:
        """The text of a link; EINVAL when it is none, EPERM when it is absolute: that tells of the host."""
        with self._find(path) as place:
            if place.slash:
                self.stat(path)
                raise _failure(errno.EINVAL)
            target = os.readlink(place.name, dir_fd=place.at)
        if target.startswith(b"/"):
            raise _failure(errno.EPERM)
        return target

    # Changing

    def create_directory(self, path: bytes) -> None:
        disk = self._may_write()
        with self._find(path) as place, disk.adding(ENTRY):
            os.mkdir(place.name, dir_fd=place.at)

    def remove_directory(self, path: bytes) -> None:
        disk = self._may_write()
        with self._find(path) as place:
            if place.slash and not place.is_directory():
                with self._find(path, True) as target:  # EPERM for a link that leads out
                    target.must_be_directory()
            with disk.adding(-ENTRY):
                os.rmdir(place.name, dir_fd=place.at)

    def unlink(self, path: bytes) -> None:
        disk = self._may_write()
        with self._find(path) as place:
            if place.slash:
                raise _failure(errno.EISDIR if place.is_directory() else errno.ENOTDIR)
            with disk.removing(place.stat):
                os.unlink(place.name, dir_fd=place.at)

    def rename(self, path: bytes, other: Directory, new_path: bytes) -> None:
        """Move what is at `path` to `new_path` in `other`, over what is there."""
        disk = self._may_write()
        other._may_write()
        with self._find(path) as old, other._find(new_path) as new:
            old.slash = old.slash or new.slash
            old.must_be_directory()

            def replaced() -> os.stat_result | None:
                moved, there = old.stat(), new.look()
                # of two names of one file none goes (POSIX)
                return there if there is None or not os.path.samestat(moved, there) else None

            with disk.removing(replaced):
                os.replace(old.name, new.name, src_dir_fd=old.at, dst_dir_fd=new.at)

    def link(self, path: bytes, other: Directory, new_path: bytes) -> None:
        """Another name for the file at `path`: `new_path` in `other`."""
        disk = self._may_write()
        other._may_write()
        with self._find(path) as old, other._find(new_path) as new:
            old.must_be_directory()
            new.must_not_have_slash()
            with disk.adding(ENTRY):
                self._link(old, new)

    def _link(self, old: _Place, new: _Place) -> None:
        os.link(old.name, new.name, src_dir_fd=old.at, dst_dir_fd=new.at, follow_symlinks=False)

    def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symbolic link; EPERM for an absolute target, which some other program might follow."""
        disk = self._may_write()
        check_path(target)
        with self._find(path) as place:
            place.must_not_have_slash()
            with disk.adding(ENTRY):
                os.symlink(target, place.name, dir_fd=place.at)

    def set_times(self, path: bytes, accessed: int | None, modified: int | None, follow: bool) -> None:
        """Set the times (ns since 1970) of what `path` leads to; None leaves one as it is."""
        self._may_write()
        with self._find(path, _is_followed(path, follow)) as place:
            place.must_be_directory()
            if accessed is None or modified is None:
                now = place.stat()
                accessed = now.st_atime_ns if accessed is None else accessed
                modified = now.st_mtime_ns if modified is None else modified
            self._utime(place, (accessed, modified))

    def _utime(self, place: _Place, times: tuple[int, int]) -> None:
        os.utime(place.name, ns=times, dir_fd=place.at, follow_symlinks=False)


def _link_target(name: bytes, at: int | None) -> bytes | None:
    """Where the link `name` points, None when it is no link or is not there."""
    try:
        return os.readlink(name, dir_fd=at)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


def _entries(directory: int | bytes, limit: int | None) -> list[Entry]:
    found: list[Entry] = []
    limit = MAX_ENTRIES if limit is None else limit
    with os.scandir(directory) as names:
        for item in names:
            name = os.fsencode(item.name)
            try:
                name.decode()
            except UnicodeDecodeError:
                continue
            if len(found) >= limit:
                raise _failure(errno.EOVERFLOW)
            found.append(Entry(name, _kind(item), item.inode()))
    return found


def _kind(item: os.DirEntry[str] | os.DirEntry[bytes]) -> int:
    if item.is_symlink():
        return stat.S_IFLNK
    if item.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if item.is_file(follow_symlinks=False):
        return stat.S_IFREG
    try:
        return stat.S_IFMT(item.stat(follow_symlinks=False).st_mode)
    except OSError:
        return 0  # gone meanwhile


# Without openat


class PathDirectory(Directory):
    """A Directory by its real path `path`, for platforms that cannot open names below a descriptor."""

    __slots__ = ("path",)

    def __init__(self, root: Root, path: bytes) -> None:
        super().__init__(root, None)
        self.path = path

    def _find(self, path: bytes, follow: bool = False) -> _Place:
        check_path(path)
        if not path:
            raise _failure(errno.ENOENT)
        names = _names(path)
        at, root = self.path, os.path.normcase(self.path)
        while names:
            name = names.pop()
            # Windows: a drive, a stream of a file, another separator
            if os.name == "nt" and (b":" in name or b"\\" in name):
                raise _failure(errno.EPERM)
            if not names and not follow and name not in _DOTS:
                return _Place(None, os.path.join(at, name), path.endswith(b"/"))
            at = os.path.realpath(os.path.join(at, name))
            if os.path.commonpath([os.path.normcase(at), root]) != root:
                raise _failure(errno.EPERM)
            if os.path.islink(at):
                raise _failure(errno.ELOOP)  # realpath gives up on a loop
            if names and not stat.S_ISDIR(os.stat(at).st_mode):
                raise _failure(errno.ENOTDIR)
        if not follow:
            raise _failure(errno.EINVAL)  # what would change "." or ".."
        return _Place(None, at, path.endswith(b"/"))

    def open(
        self, path: bytes, flags: int = os.O_RDONLY, *, follow: bool = True, directory: bool = False
    ) -> File | Directory:
        if flags & _WRITING and not self.writable:
            raise _failure(errno.EPERM)
        if directory and flags & os.O_CREAT:
            raise _failure(errno.EINVAL)
        place = self._find(path, _is_followed(path, follow and not flags & os.O_EXCL))
        try:
            mode = place.stat().st_mode
        except FileNotFoundError:
            mode = 0
        if stat.S_ISLNK(mode):
            raise _failure(errno.EEXIST if flags & os.O_EXCL else errno.ELOOP)
        if stat.S_ISDIR(mode):
            if flags & _WRITING:
                raise _failure(errno.EISDIR)
            return PathDirectory(self.root, place.name)
        if place.slash and flags & os.O_CREAT:
            raise _failure(errno.EISDIR)
        if mode and (directory or place.slash):
            raise _failure(errno.ENOTDIR)
        return self._open_at(place, flags)

    def stat(self, path: bytes, follow: bool = True) -> os.stat_result:
        place = self._find(path, _is_followed(path, follow))
        place.must_be_directory()
        return place.stat()

    def status(self) -> os.stat_result:
        return os.stat(self.path)

    def entries(self, limit: int | None = None) -> list[Entry]:
        return _entries(self.path, limit)

    def _link(self, old: _Place, new: _Place) -> None:
        if stat.S_ISLNK(old.stat().st_mode):
            raise _failure(errno.ENOTSUP)
        os.link(old.name, new.name)

    def _utime(self, place: _Place, times: tuple[int, int]) -> None:
        if stat.S_ISLNK(place.stat().st_mode):
            raise _failure(errno.ENOTSUP)
        os.utime(place.name, ns=times)


def _lock_of(disk: Disk | None) -> AbstractContextManager[object]:
    return nullcontext() if disk is None else disk.lock


HAS_OPENAT = {os.open, os.stat, os.mkdir, os.rmdir, os.unlink, os.readlink, os.rename} <= os.supports_dir_fd


def _fill(fd: int, buffers: Sequence[memoryview]) -> int:
    total = 0
    for buffer in buffers:
        data = os.read(fd, len(buffer))
        buffer[: len(data)] = data
        total += len(data)
        if len(data) < len(buffer):
            break
    return total


def _drain(fd: int, buffers: Sequence[memoryview]) -> int:
    return sum(os.write(fd, buffer) for buffer in buffers)


def _fill_at(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
    before = os.lseek(fd, 0, os.SEEK_CUR)
    try:
        os.lseek(fd, offset, os.SEEK_SET)
        return _fill(fd, buffers)
    finally:
        os.lseek(fd, before, os.SEEK_SET)


def _drain_at(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
    before = os.lseek(fd, 0, os.SEEK_CUR)
    try:
        os.lseek(fd, offset, os.SEEK_SET)
        return _drain(fd, buffers)
    finally:
        os.lseek(fd, before, os.SEEK_SET)


read_into: Callable[[int, Sequence[memoryview]], int] = getattr(os, "readv", _fill)
write_from: Callable[[int, Sequence[memoryview]], int] = getattr(os, "writev", _drain)
read_into_at: Callable[[int, Sequence[memoryview], int], int] = getattr(os, "preadv", _fill_at)
write_from_at: Callable[[int, Sequence[memoryview], int], int] = getattr(os, "pwritev", _drain_at)
_fdatasync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
