# wasi:filesystem 0.2 over the sandboxes of files.py.
#
# Rule 1: paths, links and rights are files.py's business; here is what WASI 0.2 says of
# descriptors, and its names for what went wrong.
# Rule 2: every host function that may fail is wrapped by `fallible`: an OSError becomes
# an error-code. What a guest leaves open is closed with its instance.
# Rule 3: files are always ready: a read or write of one is done at once.

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from functools import wraps
from hashlib import blake2b
from typing import Any, ClassVar

from ...component.values import Err
from ...errors import Trap
from ..base import HostContext
from ..files import MAX_ENTRIES, Directory, Entry, File
from .io import MAX_READ, InputStream, IoError, OutputStream, StreamClosed, StreamFailed

# What 0.2 and 0.3 have alike: types, and cases of error-code.
TEXT_OF_TYPES = """\
  type filesize = u64;
  flags descriptor-flags {
    read, write, file-integrity-sync, data-integrity-sync, requested-write-sync, mutate-directory,
  }
  type link-count = u64;
  flags path-flags { symlink-follow }
  flags open-flags { create, directory, exclusive, truncate }
  enum advice { normal, sequential, random, will-need, dont-need, no-reuse }
  record metadata-hash-value { lower: u64, upper: u64 }"""
TEXT_OF_ERRORS = """\
    already, bad-descriptor, busy, deadlock, quota, exist, file-too-large, illegal-byte-sequence,
    in-progress, interrupted, invalid, io, is-directory, loop, too-many-links, message-size,
    name-too-long, no-device, no-entry, no-lock, insufficient-memory, insufficient-space, not-directory,
    not-empty, not-recoverable, unsupported, no-tty, no-such-device, overflow, not-permitted, pipe,
    read-only, invalid-seek, text-file-busy, cross-device,"""
_TEXT = """
package wasi:filesystem@0.2.0;
interface types {
  use wasi:io/streams@0.2.0.{input-stream, output-stream, error};
  use wasi:clocks/wall-clock@0.2.0.{datetime};
%TYPES
  enum descriptor-type {
    unknown, block-device, character-device, directory, fifo, symbolic-link, regular-file, socket,
  }
  record descriptor-stat {
    %type: descriptor-type,
    link-count: link-count,
    size: filesize,
    data-access-timestamp: option<datetime>,
    data-modification-timestamp: option<datetime>,
    status-change-timestamp: option<datetime>,
  }
  variant new-timestamp { no-change, now, timestamp(datetime) }
  record directory-entry { %type: descriptor-type, name: string }
  enum error-code {
    access, would-block,
%ERRORS
  }
  resource descriptor {
    read-via-stream: func(offset: filesize) -> result<input-stream, error-code>;
    write-via-stream: func(offset: filesize) -> result<output-stream, error-code>;
    append-via-stream: func() -> result<output-stream, error-code>;
    advise: func(offset: filesize, length: filesize, advice: advice) -> result<_, error-code>;
    sync-data: func() -> result<_, error-code>;
    get-flags: func() -> result<descriptor-flags, error-code>;
    get-type: func() -> result<descriptor-type, error-code>;
    set-size: func(size: filesize) -> result<_, error-code>;
    set-times: func(data-access-timestamp: new-timestamp, data-modification-timestamp: new-timestamp)
      -> result<_, error-code>;
    read: func(length: filesize, offset: filesize) -> result<tuple<list<u8>, bool>, error-code>;
    write: func(buffer: list<u8>, offset: filesize) -> result<filesize, error-code>;
    read-directory: func() -> result<directory-entry-stream, error-code>;
    sync: func() -> result<_, error-code>;
    create-directory-at: func(path: string) -> result<_, error-code>;
    stat: func() -> result<descriptor-stat, error-code>;
    stat-at: func(path-flags: path-flags, path: string) -> result<descriptor-stat, error-code>;
    set-times-at: func(path-flags: path-flags, path: string, data-access-timestamp: new-timestamp,
      data-modification-timestamp: new-timestamp) -> result<_, error-code>;
    link-at: func(old-path-flags: path-flags, old-path: string, new-descriptor: borrow<descriptor>,
      new-path: string) -> result<_, error-code>;
    open-at: func(path-flags: path-flags, path: string, open-flags: open-flags, %flags: descriptor-flags)
      -> result<descriptor, error-code>;
    readlink-at: func(path: string) -> result<string, error-code>;
    remove-directory-at: func(path: string) -> result<_, error-code>;
    rename-at: func(old-path: string, new-descriptor: borrow<descriptor>, new-path: string)
      -> result<_, error-code>;
    symlink-at: func(old-path: string, new-path: string) -> result<_, error-code>;
    unlink-file-at: func(path: string) -> result<_, error-code>;
    is-same-object: func(other: borrow<descriptor>) -> bool;
    metadata-hash: func() -> result<metadata-hash-value, error-code>;
    metadata-hash-at: func(path-flags: path-flags, path: string) -> result<metadata-hash-value, error-code>;
  }
  resource directory-entry-stream {
    read-directory-entry: func() -> result<option<directory-entry>, error-code>;
  }
  filesystem-error-code: func(err: borrow<error>) -> option<error-code>;
}
interface preopens {
  use types.{descriptor};
  get-directories: func() -> list<tuple<descriptor, string>>;
}
""".replace("%TYPES", TEXT_OF_TYPES).replace("%ERRORS", TEXT_OF_ERRORS)
TYPES, PREOPENS = "wasi:filesystem/types@0.2", "wasi:filesystem/preopens@0.2"
INTERFACES = {TYPES: _TEXT, PREOPENS: _TEXT}

# Open files and directories of one instance, as in preview 1; and as many streams of files.
MAX_DESCRIPTORS = 128
# Entries of directories that are listed for one instance, some 200 bytes each.
MAX_LISTED = 4 * MAX_ENTRIES
_SECOND = 10**9

READ, WRITE, FILE_SYNC, DATA_SYNC, _, MUTATE = (1 << i for i in range(6))
CREATE, DIRECTORY, EXCLUSIVE, TRUNCATE = (1 << i for i in range(4))
FOLLOW = 1

_CODES = {
    "EACCES": "access",
    "EAGAIN": "would-block",
    "EALREADY": "already",
    "EBADF": "bad-descriptor",
    "EBUSY": "busy",
    "EDEADLK": "deadlock",
    "EDQUOT": "quota",
    "EEXIST": "exist",
    "EFBIG": "file-too-large",
    "EILSEQ": "illegal-byte-sequence",
    "EINPROGRESS": "in-progress",
    "EINTR": "interrupted",
    "EINVAL": "invalid",
    "EIO": "io",
    "EISDIR": "is-directory",
    "ELOOP": "loop",
    "EMLINK": "too-many-links",
    "EMSGSIZE": "message-size",
    "EMFILE": "insufficient-memory",
    "ENAMETOOLONG": "name-too-long",
    "ENODEV": "no-device",
    "ENOENT": "no-entry",
    "ENOLCK": "no-lock",
    "ENOMEM": "insufficient-memory",
    "ENOSPC": "insufficient-space",
    "ENOTDIR": "not-directory",
    "ENOTEMPTY": "not-empty",
    "ENOTRECOVERABLE": "not-recoverable",
    "ENOTSUP": "unsupported",
    "ENOSYS": "unsupported",
    "EOPNOTSUPP": "unsupported",
    "ENOTTY": "no-tty",
    "ENXIO": "no-such-device",
    "EOVERFLOW": "overflow",
    "EPERM": "not-permitted",
    "EPIPE": "pipe",
    "EROFS": "read-only",
    "ESPIPE": "invalid-seek",
    "ETXTBSY": "text-file-busy",
    "EXDEV": "cross-device",
}
CODES = {getattr(errno, name): code for name, code in _CODES.items() if hasattr(errno, name)}

_KINDS = {
    stat.S_IFBLK: "block-device",
    stat.S_IFCHR: "character-device",
    stat.S_IFDIR: "directory",
    stat.S_IFIFO: "fifo",
    stat.S_IFLNK: "symbolic-link",
    stat.S_IFREG: "regular-file",
    stat.S_IFSOCK: "socket",
}


def error_code(error: OSError) -> str:
    return CODES.get(error.errno or 0, "io")


class FileError(IoError):
    """An io error of a file's stream; `code` is a filesystem error-code."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def fallible(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapped(*args: Any) -> Any:
        try:
            return function(*args)
        except OSError as error:
            return Err(error_code(error))
        except OverflowError:  # an offset or a time that the platform cannot have
            return Err("overflow")

    return wrapped


def fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class Descriptor:
    """The resource descriptor: an open file or directory, with the rights that it was opened for.

    Of those, `untold` are the ones that get-flags keeps to itself.
    """

    __slots__ = ("flags", "untold", "what")

    def __init__(self, what: File | Directory, flags: int) -> None:
        self.what = what
        self.flags = flags
        self.untold = 0

    @property
    def file(self) -> File:
        if isinstance(self.what, Directory):
            raise fail(errno.EBADF)
        return self.what

    @property
    def directory(self) -> Directory:
        if isinstance(self.what, File):
            raise fail(errno.ENOTDIR)
        return self.what

    def readable(self) -> File:
        if not self.flags & READ:
            raise fail(errno.EBADF)
        return self.file

    def writable(self) -> File:
        if not self.flags & WRITE:
            raise fail(errno.EBADF)
        return self.file

    def entries(self) -> list[Entry]:
        if not self.flags & READ:
            raise fail(errno.EBADF)
        return self.directory.entries()

    def status(self) -> os.stat_result:
        what = self.what
        return what.stat() if isinstance(what, File) else what.status()


class Opened:
    """What one instance has open."""

    def __init__(self) -> None:
        self.descriptors: set[Descriptor] = set()
        self.streams: set[FileInput | FileOutput] = set()
        self.listed = 0

    def entries(self, descriptor: Descriptor) -> list[Entry]:
        """Those of a directory, until they are given back: `listed` counts them."""
        entries = descriptor.entries()
        if self.listed + len(entries) > MAX_LISTED:
            raise fail(errno.ENOMEM)
        self.listed += len(entries)
        return entries

    def stream(self, stream: FileInput | FileOutput) -> FileInput | FileOutput:
        if len(self.streams) >= MAX_DESCRIPTORS:
            stream.release()
            raise fail(errno.EMFILE)
        self.streams.add(stream)
        return stream

    def add(self, descriptor: Descriptor) -> Descriptor:
        if len(self.descriptors) >= MAX_DESCRIPTORS:
            descriptor.what.close()
            raise fail(errno.EMFILE)
        self.descriptors.add(descriptor)
        return descriptor

    def drop(self, descriptor: Descriptor) -> None:
        self.descriptors.discard(descriptor)
        try:
            descriptor.what.close()
        except OSError:
            pass  # a failed close has closed it all the same

    def close(self) -> None:
        for descriptor in list(self.descriptors):
            self.drop(descriptor)
        for stream in self.streams:
            stream.release()
        self.streams.clear()


def opened_by(ctx: HostContext) -> Opened:
    found: Opened | None = ctx.state.get(Opened)
    if found is None:
        found = ctx.state[Opened] = Opened()
        ctx.on_close(found.close)
    return found


def get_directories(ctx: HostContext) -> list[tuple[Descriptor, str]]:
    """The mounts of the component; one whose folder is gone is left out."""
    found = []
    for root in ctx.wasi.roots:
        try:
            directory = root.directory()
        except OSError:
            continue
        descriptor = Descriptor(directory, READ | (MUTATE if root.writable else 0))
        try:
            found.append((opened_by(ctx).add(descriptor), root.guest_path.decode()))
        except OSError:
            raise Trap(f"more than {MAX_DESCRIPTORS} files and directories are open") from None
    return found


# Streams.


class FileInput(InputStream):
    """A file from an offset on; its descriptor of its own outlives the guest's."""

    def __init__(self, file: File, offset: int) -> None:
        self._file = file.duplicate()
        self._offset = offset

    def read(self, ctx: HostContext, length: int) -> bytes:
        if self._file.fd < 0:
            raise StreamClosed
        try:
            data = os.pread(self._file.fd, length, self._offset)
        except OSError as error:
            raise StreamFailed(FileError(error_code(error))) from None
        except OverflowError:  # what the system would say of an offset below 0
            raise StreamFailed(FileError("invalid")) from None
        if not data and length:
            raise StreamClosed
        self._offset += len(data)
        return data

    def close(self, ctx: HostContext) -> None:
        opened_by(ctx).streams.discard(self)
        self.release()

    def release(self) -> None:
        self._file.close()


class FileOutput(OutputStream):
    """A file from an offset on, or its end (None)."""

    def __init__(self, file: File, offset: int | None) -> None:
        self._file = file.duplicate()
        self._offset = offset

    def write(self, ctx: HostContext, data: bytes) -> None:
        file, left = self._file, memoryview(data)
        if file.fd < 0:
            raise StreamClosed
        try:
            while left:
                if self._offset is None:
                    written = file.append([left])
                else:
                    written = file.write_at([left], self._offset)
                    self._offset += written
                left = left[written:]
        except OSError as error:
            raise StreamFailed(FileError(error_code(error))) from None
        except OverflowError:  # what the system would say of an offset below 0
            raise StreamFailed(FileError("invalid")) from None

    def close(self, ctx: HostContext) -> None:
        opened_by(ctx).streams.discard(self)
        self.release()

    def release(self) -> None:
        self._file.close()


@fallible
def read_via_stream(ctx: HostContext, descriptor: Descriptor, offset: int) -> Any:
    return opened_by(ctx).stream(FileInput(descriptor.readable(), offset))


@fallible
def write_via_stream(ctx: HostContext, descriptor: Descriptor, offset: int | None = None) -> Any:
    """Also append-via-stream, without an offset."""
    return opened_by(ctx).stream(FileOutput(descriptor.writable(), offset))


# Descriptors.


@fallible
def advise(ctx: HostContext, descriptor: Descriptor, offset: int, length: int, advice: str) -> Any:
    descriptor.file  # noqa: B018  # EBADF for a directory; there is nothing else to do
    return None


@fallible
def sync_data(ctx: HostContext, descriptor: Descriptor) -> Any:
    if isinstance(descriptor.what, File):
        descriptor.what.sync(data_only=True)
    return None


@fallible
def sync(ctx: HostContext, descriptor: Descriptor) -> Any:
    if isinstance(descriptor.what, File):
        descriptor.what.sync()
    return None


def get_flags(ctx: HostContext, descriptor: Descriptor) -> int:
    return descriptor.flags & ~descriptor.untold


@fallible
def get_type(ctx: HostContext, descriptor: Descriptor) -> Any:
    return kind_of(descriptor.status().st_mode)


@fallible
def set_size(ctx: HostContext, descriptor: Descriptor, size: int) -> Any:
    try:
        descriptor.writable().set_size(size)
    except OverflowError:
        raise fail(errno.EFBIG) from None
    return None


def _time(when: tuple[str, Any]) -> int | None:
    match when:
        case ("now", _):
            return time.time_ns()
        case ("timestamp", (seconds, nanoseconds)):
            if nanoseconds >= _SECOND:
                raise fail(errno.EINVAL)
            return int(seconds) * _SECOND + int(nanoseconds)
    return None


@fallible
def set_times(ctx: HostContext, descriptor: Descriptor, accessed: Any, modified: Any) -> Any:
    times = _time(accessed), _time(modified)
    if isinstance(descriptor.what, File):
        descriptor.what.set_times(*times)
    else:
        descriptor.what.set_times(b".", *times, follow=True)
    return None


@fallible
def read(ctx: HostContext, descriptor: Descriptor, length: int, offset: int) -> Any:
    data = os.pread(descriptor.readable().fd, min(length, MAX_READ), offset)
    return data, not data and length > 0


@fallible
def write(ctx: HostContext, descriptor: Descriptor, data: bytes, offset: int) -> Any:
    return descriptor.writable().write_at([memoryview(data)], offset)


class EntryStream:
    """The resource directory-entry-stream."""

    def __init__(self, opened: Opened, entries: list[Entry]) -> None:
        self._opened = opened
        self._entries = iter(entries)
        self._size = len(entries)

    def next(self, ctx: HostContext) -> Any:
        entry = next(self._entries, None)
        return None if entry is None else (kind_of(entry.kind), entry.name.decode())

    def close(self) -> None:
        self._opened.listed -= self._size
        self._entries, self._size = iter(()), 0


@fallible
def read_directory(ctx: HostContext, descriptor: Descriptor) -> Any:
    opened = opened_by(ctx)
    return EntryStream(opened, opened.entries(descriptor))


@fallible
def create_directory_at(ctx: HostContext, descriptor: Descriptor, path: str) -> Any:
    descriptor.directory.create_directory(path.encode())
    return None


@fallible
def stat_(ctx: HostContext, descriptor: Descriptor) -> Any:
    return _stat(descriptor.status())


@fallible
def stat_at(ctx: HostContext, descriptor: Descriptor, flags: int, path: str) -> Any:
    return _stat(descriptor.directory.stat(path.encode(), bool(flags & FOLLOW)))


@fallible
def set_times_at(
    ctx: HostContext, descriptor: Descriptor, flags: int, path: str, accessed: Any, modified: Any
) -> Any:
    descriptor.directory.set_times(path.encode(), _time(accessed), _time(modified), bool(flags & FOLLOW))
    return None


@fallible
def link_at(
    ctx: HostContext, descriptor: Descriptor, flags: int, path: str, other: Descriptor, new_path: str
) -> Any:
    if flags & FOLLOW:
        raise fail(errno.EINVAL)  # as wasmtime
    descriptor.directory.link(path.encode(), other.directory, new_path.encode())
    return None


@fallible
def open_at(
    ctx: HostContext, descriptor: Descriptor, path_flags: int, path: str, open_flags: int, flags: int
) -> Any:
    parent = descriptor.directory
    writing = bool(flags & WRITE or open_flags & TRUNCATE)
    if (writing or open_flags & CREATE or flags & MUTATE) and not descriptor.flags & MUTATE:
        raise fail(errno.EPERM)
    mode = os.O_RDONLY
    if writing:
        mode = os.O_RDWR if flags & READ else os.O_WRONLY
    for bit, value in ((CREATE, os.O_CREAT), (EXCLUSIVE, os.O_EXCL), (TRUNCATE, os.O_TRUNC)):
        if open_flags & bit:
            mode |= value
    if open_flags & EXCLUSIVE and not open_flags & CREATE:
        raise fail(errno.EINVAL)
    opened = parent.open(
        path.encode(), mode, follow=bool(path_flags & FOLLOW), directory=bool(open_flags & DIRECTORY)
    )
    if isinstance(opened, Directory):
        granted = READ | (descriptor.flags & MUTATE)
    else:
        granted = flags & ~MUTATE | (WRITE if writing else 0)
    return opened_by(ctx).add(Descriptor(opened, granted))


@fallible
def readlink_at(ctx: HostContext, descriptor: Descriptor, path: str) -> Any:
    try:
        return descriptor.directory.read_link(path.encode()).decode()
    except UnicodeDecodeError:
        raise fail(errno.EILSEQ) from None


@fallible
def remove_directory_at(ctx: HostContext, descriptor: Descriptor, path: str) -> Any:
    descriptor.directory.remove_directory(path.encode())
    return None


@fallible
def rename_at(ctx: HostContext, descriptor: Descriptor, path: str, other: Descriptor, new_path: str) -> Any:
    descriptor.directory.rename(path.encode(), other.directory, new_path.encode())
    return None


@fallible
def symlink_at(ctx: HostContext, descriptor: Descriptor, target: str, path: str) -> Any:
    descriptor.directory.symlink(target.encode(), path.encode())
    return None


@fallible
def unlink_file_at(ctx: HostContext, descriptor: Descriptor, path: str) -> Any:
    descriptor.directory.unlink(path.encode())
    return None


def is_same_object(ctx: HostContext, descriptor: Descriptor, other: Descriptor) -> bool:
    a, b = descriptor.status(), other.status()
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


@fallible
def metadata_hash(ctx: HostContext, descriptor: Descriptor) -> Any:
    return _hash(descriptor.status())


@fallible
def metadata_hash_at(ctx: HostContext, descriptor: Descriptor, flags: int, path: str) -> Any:
    return _hash(descriptor.directory.stat(path.encode(), bool(flags & FOLLOW)))


def _hash(status: os.stat_result) -> tuple[int, int]:
    """Changes when the file does, and tells nothing of the host."""
    facts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    digest = blake2b(repr(facts).encode(), digest_size=16, key=_HASH_KEY).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


_HASH_KEY = b"wasi:filesystem metadata-hash"


def kind_of(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "unknown")


def _stat(status: os.stat_result) -> tuple[Any, ...]:
    return (
        kind_of(status.st_mode),
        status.st_nlink,
        status.st_size,
        *(divmod(max(ns, 0), _SECOND) for ns in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)),
    )


class WasiFilesystem:
    """wasi:filesystem; it shares nothing among instances."""

    FUNCTIONS: ClassVar[dict[str, dict[str, Callable[..., Any]]]] = {
        PREOPENS: {"get-directories": get_directories},
        TYPES: {
            "[method]descriptor.read-via-stream": read_via_stream,
            "[method]descriptor.write-via-stream": write_via_stream,
            "[method]descriptor.append-via-stream": write_via_stream,
            "[method]descriptor.advise": advise,
            "[method]descriptor.sync-data": sync_data,
            "[method]descriptor.get-flags": get_flags,
            "[method]descriptor.get-type": get_type,
            "[method]descriptor.set-size": set_size,
            "[method]descriptor.set-times": set_times,
            "[method]descriptor.read": read,
            "[method]descriptor.write": write,
            "[method]descriptor.read-directory": read_directory,
            "[method]descriptor.sync": sync,
            "[method]descriptor.create-directory-at": create_directory_at,
            "[method]descriptor.stat": stat_,
            "[method]descriptor.stat-at": stat_at,
            "[method]descriptor.set-times-at": set_times_at,
            "[method]descriptor.link-at": link_at,
            "[method]descriptor.open-at": open_at,
            "[method]descriptor.readlink-at": readlink_at,
            "[method]descriptor.remove-directory-at": remove_directory_at,
            "[method]descriptor.rename-at": rename_at,
            "[method]descriptor.symlink-at": symlink_at,
            "[method]descriptor.unlink-file-at": unlink_file_at,
            "[method]descriptor.is-same-object": is_same_object,
            "[method]descriptor.metadata-hash": metadata_hash,
            "[method]descriptor.metadata-hash-at": metadata_hash_at,
            "[resource-drop]descriptor": lambda ctx, descriptor: opened_by(ctx).drop(descriptor),
            "[method]directory-entry-stream.read-directory-entry": lambda ctx, stream: stream.next(ctx),
            "[resource-drop]directory-entry-stream": lambda ctx, stream: stream.close(),
            "filesystem-error-code": lambda ctx, error: getattr(error, "code", None),
        },
    }

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return self.FUNCTIONS[interface]

    def close(self) -> None:
        pass
