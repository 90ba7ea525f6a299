# WASI 0.1: the 46 functions of wasi_snapshot_preview1.
#
# Rule 1: a function takes the context and the core values, unsigned, and returns an
# errno (proc_exit alone returns nothing). A pointer outside of the guest's memory is
# errno fault; no Python exception comes out but what ends the guest: GuestExit,
# DeadlineExceeded, and whatever the host's own sinks and sources raise.
# Rule 2: nothing is allocated, copied or looped over as far as the guest merely
# claims: each size is first compared with its memory or with a limit below.
# Rule 3: the files are those of files.py, and so is every rule about paths.
# Rule 4: rights are those of wasmtime: a descriptor has all that its type allows and
# its directory passes on, but read and write only if asked for. They can be
# given up (fd_fdstat_set_rights), never gained. Not a guard: files.py is.
#
# Names, numbers and layouts are those of the specification's typenames.witx and
# wasi_snapshot_preview1.witx; errors where it leaves a choice are wasmtime's.

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from struct import Struct, unpack_from
from typing import Any, NamedTuple, Protocol

from ...component.memory import Memory
from ...errors import GuestExit, Trap
from .. import files
from ..base import Deadline
from ..files import MAX_PATH, Directory, Entry, File, Root
from .state import Input, Sink, WasiState, WasiTemplate

__all__ = ["FUNCTIONS", "MODULE", "Preview1", "Signature", "WasiState", "WasiTemplate"]

MODULE = "wasi_snapshot_preview1"

# Open descriptors of one instance, the standard streams and the mounts included:
# - POSIX: at least 20; wasi-libc: no limit of its own
MAX_DESCRIPTORS = 128
MAX_VECTORS = 1024  # IOV_MAX of Linux
MAX_SUBSCRIPTIONS = 1024
# What one call reads or writes at the most; more is a short read or write.
MAX_IO = 64 << 20
# What is copied at once, for a sink or of random bytes.
PIECE = 1 << 20


class Context(Protocol):
    """What these functions need of an instance; a HostContext with a WasiState has it."""

    memories: list[Memory]
    deadline: Deadline
    wasi: Any  # a WasiState

    def on_close(self, callback: Callable[[], object]) -> None: ...

    def log(self, stream: str, data: bytes) -> None: ...


class Signature(NamedTuple):
    """The core type of a function: a letter for each value, "i" for i32 and "l" for i64."""

    params: str
    results: str


# errno, in the order of typenames.witx
_ERRNO_NAMES = (
    "success", "2big", "acces", "addrinuse", "addrnotavail", "afnosupport", "again", "already", "badf",
    "badmsg", "busy", "canceled", "child", "connaborted", "connrefused", "connreset", "deadlk",
    "destaddrreq", "dom", "dquot", "exist", "fault", "fbig", "hostunreach", "idrm", "ilseq", "inprogress",
    "intr", "inval", "io", "isconn", "isdir", "loop", "mfile", "mlink", "msgsize", "multihop",
    "nametoolong", "netdown", "netreset", "netunreach", "nfile", "nobufs", "nodev", "noent", "noexec",
    "nolck", "nolink", "nomem", "nomsg", "noprotoopt", "nospc", "nosys", "notconn", "notdir", "notempty",
    "notrecoverable", "notsock", "notsup", "notty", "nxio", "overflow", "ownerdead", "perm", "pipe",
    "proto", "protonosupport", "prototype", "range", "rofs", "spipe", "srch", "stale", "timedout",
    "txtbsy", "xdev", "notcapable",
)  # fmt: skip
_ERRNO = {name: number for number, name in enumerate(_ERRNO_NAMES)}
SUCCESS = _ERRNO["success"]
BADF = _ERRNO["badf"]
FAULT = _ERRNO["fault"]
INVAL = _ERRNO["inval"]
IO = _ERRNO["io"]
MFILE = _ERRNO["mfile"]
NAMETOOLONG = _ERRNO["nametoolong"]
NOTCAPABLE = _ERRNO["notcapable"]
NOTDIR = _ERRNO["notdir"]
NOTSOCK = _ERRNO["notsock"]
NOTSUP = _ERRNO["notsup"]
SPIPE = _ERRNO["spipe"]
_FROM_HOST = {
    getattr(errno, "E" + name.upper()): number
    for name, number in _ERRNO.items()
    if hasattr(errno, "E" + name.upper())
} | {errno.EOPNOTSUPP: NOTSUP, errno.EWOULDBLOCK: _ERRNO["again"]}


class _Refused(Exception):
    """Ends a function with `code`."""

    def __init__(self, code: int) -> None:
        self.code = code


FUNCTIONS: dict[str, Signature] = {}
_guarded: dict[str, Callable[..., int | None]] = {}
_Function = Callable[..., Any]


def _function(params: str, results: str = "i") -> Callable[[_Function], _Function]:
    def register(function: _Function) -> _Function:
        def guarded(ctx: Context, *args: int) -> int | None:
            try:
                result: int | None = function(ctx, *args)
                return result
            except OSError as error:
                return _FROM_HOST.get(error.errno, IO)
            except _Refused as refused:
                return refused.code
            except Trap:  # of Memory: a pointer outside
                return FAULT

        name = function.__name__
        FUNCTIONS[name] = Signature(params, results)
        guarded.__name__ = guarded.__qualname__ = name
        guarded.__doc__ = function.__doc__
        _guarded[name] = guarded
        return guarded

    return register


class Preview1:
    """The family; one per application, though it keeps nothing."""

    def functions(self) -> dict[str, Callable[..., int | None]]:
        """Every function of the module by its name; FUNCTIONS has their core types."""
        return dict(_guarded)

    def close(self) -> None:
        pass


# Descriptors

# filetype
(
    UNKNOWN,
    BLOCK_DEVICE,
    CHARACTER_DEVICE,
    DIRECTORY,
    REGULAR_FILE,
    SOCKET_DGRAM,
    SOCKET_STREAM,
    SYMBOLIC_LINK,
) = range(8)
_FILETYPES = {
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFCHR: CHARACTER_DEVICE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFREG: REGULAR_FILE,
    stat.S_IFSOCK: SOCKET_STREAM,
    stat.S_IFLNK: SYMBOLIC_LINK,
}

# rights
(
    FD_DATASYNC, FD_READ, FD_SEEK, FD_FDSTAT_SET_FLAGS, FD_SYNC, FD_TELL, FD_WRITE, FD_ADVISE, FD_ALLOCATE,
    PATH_CREATE_DIRECTORY, PATH_CREATE_FILE, PATH_LINK_SOURCE, PATH_LINK_TARGET, PATH_OPEN, FD_READDIR,
    PATH_READLINK, PATH_RENAME_SOURCE, PATH_RENAME_TARGET, PATH_FILESTAT_GET, PATH_FILESTAT_SET_SIZE,
    PATH_FILESTAT_SET_TIMES, FD_FILESTAT_GET, FD_FILESTAT_SET_SIZE, FD_FILESTAT_SET_TIMES, PATH_SYMLINK,
    PATH_REMOVE_DIRECTORY, PATH_UNLINK_FILE, POLL_FD_READWRITE,
) = (1 << bit for bit in range(28))  # fmt: skip

DIRECTORY_RIGHTS = (
    PATH_CREATE_DIRECTORY | PATH_CREATE_FILE | PATH_LINK_SOURCE | PATH_LINK_TARGET | PATH_OPEN | FD_READDIR
    | PATH_READLINK | PATH_RENAME_SOURCE | PATH_RENAME_TARGET | PATH_FILESTAT_GET | PATH_FILESTAT_SET_SIZE
    | PATH_FILESTAT_SET_TIMES | FD_FILESTAT_GET | FD_FILESTAT_SET_TIMES | PATH_SYMLINK | PATH_REMOVE_DIRECTORY
    | PATH_UNLINK_FILE
)  # fmt: skip
FILE_RIGHTS = (
    FD_DATASYNC | FD_READ | FD_SEEK | FD_FDSTAT_SET_FLAGS | FD_SYNC | FD_TELL | FD_WRITE | FD_ADVISE
    | FD_ALLOCATE | FD_FILESTAT_GET | FD_FILESTAT_SET_SIZE | FD_FILESTAT_SET_TIMES | POLL_FD_READWRITE
)  # fmt: skip
READ_WRITE = FD_READ | FD_WRITE

# fdflags
APPEND, DSYNC, NONBLOCK, RSYNC, SYNC = (1 << bit for bit in range(5))
_OPEN_FLAGS = {
    APPEND: os.O_APPEND,
    DSYNC: getattr(os, "O_DSYNC", 0),
    RSYNC: getattr(os, "O_RSYNC", 0),
    SYNC: getattr(os, "O_SYNC", 0),
}

_VECTOR = Struct("<II")
_FDSTAT = Struct("<BxH4xQQ")
_FILESTAT = Struct("<QQB7xQQQQQ")
_PRESTAT = Struct("<B3xI")
_DIRENT = Struct("<QQIB3x")
_SUBSCRIPTION = Struct("<QB7xI4xQQH6x")
_EVENT = Struct("<QHB5xQH6x")

U64 = (1 << 64) - 1
# The largest offset of a file (off_t); beyond it, Python could not pass it on.
MAX_OFFSET = (1 << 63) - 1

Vectors = Sequence[tuple[int, int]]


class Descriptor:
    """What a number in a guest's table stands for."""

    __slots__ = ("flags", "inheriting", "rights")

    filetype = UNKNOWN

    rights: int
    inheriting: int
    flags: int

    def read(self, ctx: Context, memory: Memory, vectors: Vectors) -> int:
        raise _Refused(BADF)

    def write(self, ctx: Context, memory: Memory, vectors: Vectors) -> int:
        raise _Refused(BADF)

    def stat(self) -> os.stat_result | None:
        return None

    def close(self) -> None:
        pass


class InputStream(Descriptor):
    __slots__ = ("source",)

    def __init__(self, source: Input) -> None:
        self.rights = FD_READ
        self.inheriting = self.flags = 0
        self.source = source

    def read(self, ctx: Context, memory: Memory, vectors: Vectors) -> int:
        total = sum(size for _, size in vectors)
        if not total:
            return 0
        waiting = self.source.waiting
        data = self.source.read(total)
        if not waiting:
            ctx.deadline.remaining()  # the source may have taken its time
        at = 0
        for pointer, size in vectors:
            piece = data[at : at + size]
            memory.write(pointer, piece)
            at += size
            if at >= len(data):
                break
        return len(data)


class OutputStream(Descriptor):
    __slots__ = ("sink",)

    def __init__(self, sink: Sink) -> None:
        self.rights = FD_WRITE
        self.inheriting = self.flags = 0
        self.sink = sink

    def write(self, ctx: Context, memory: Memory, vectors: Vectors) -> int:
        total = 0
        for pointer, size in vectors:
            total += size
            if size <= PIECE:
                self.sink(memory.read(pointer, size))
                continue
            end = pointer + size
            for at in range(pointer, end, PIECE):
                self.sink(memory.read(at, min(PIECE, end - at)))
                ctx.deadline.remaining()
        return total


class OpenFile(Descriptor):
    __slots__ = ("file",)

    filetype = REGULAR_FILE

    def __init__(self, file: File, rights: int, flags: int) -> None:
        self.file = file
        self.rights = rights
        self.inheriting = 0
        self.flags = flags

    def read(self, ctx: Context, memory: Memory, vectors: Vectors) -> int:
        return _transfer(self.file.read, memory, vectors)

    def write(self, ctx: Context, memory: Memory, vectors: Vectors) -> int:
        return _transfer(self.file.write, memory, vectors)

    def stat(self) -> os.stat_result:
        return self.file.stat()

    def close(self) -> None:
        self.file.close()


class OpenDirectory(Descriptor):
    """A directory; `name` is what the guest knows a preopened one by, None for one that it opened."""

    __slots__ = ("_directory", "listing", "name", "root")

    filetype = DIRECTORY

    def __init__(
        self,
        root: Root,
        rights: int,
        inheriting: int,
        directory: Directory | None = None,
        name: bytes | None = None,
    ) -> None:
        self.rights = rights
        self.inheriting = inheriting
        self.flags = 0
        self.root = root
        self.name = name
        self._directory = directory
        # of fd_readdir: names with their filetype and inode, as the first call found them
        self.listing: list[tuple[bytes, int, int]] | None = None

    @property
    def directory(self) -> Directory:
        if self._directory is None:
            self._directory = self.root.directory()
        return self._directory

    def stat(self) -> os.stat_result:
        return self.directory.status()

    def close(self) -> None:
        if self._directory is not None:
            self._directory.close()


def _transfer(operation: Callable[[Sequence[memoryview]], int], memory: Memory, vectors: Vectors) -> int:
    """Let `operation` read or write guest memory in place; the views are gone when this returns."""
    view = memory.view
    buffers = [view[pointer : pointer + size] for pointer, size in vectors]
    try:
        return operation(buffers)
    finally:
        for buffer in buffers:
            buffer.release()


def _table(ctx: Context) -> dict[int, Descriptor]:
    wasi: WasiState = ctx.wasi
    table = wasi.table
    if table is None:
        table = wasi.table = {
            0: InputStream(wasi.stdin),
            1: OutputStream(wasi.stdout or partial(ctx.log, "stdout")),
            2: OutputStream(wasi.stderr or partial(ctx.log, "stderr")),
        }
        for fd, root in enumerate(wasi.roots, 3):
            table[fd] = OpenDirectory(
                root, DIRECTORY_RIGHTS, DIRECTORY_RIGHTS | FILE_RIGHTS, name=root.guest_path
            )
        ctx.on_close(wasi.close)
    return table


def _add(ctx: Context, descriptor: Descriptor) -> int:
    """Give `descriptor` the lowest free number (POSIX)."""
    table = _table(ctx)
    fd = 0
    while fd in table:
        fd += 1
    table[fd] = descriptor
    return fd


def _get(ctx: Context, fd: int) -> Descriptor:
    table: dict[int, Descriptor] = ctx.wasi.table or _table(ctx)
    try:
        return table[fd]
    except KeyError:
        raise _Refused(BADF) from None


def _get_file(ctx: Context, fd: int, right: int) -> File:
    descriptor = _get(ctx, fd)
    if not isinstance(descriptor, OpenFile):
        raise _Refused(BADF)
    if not descriptor.rights & right:
        raise _Refused(BADF if right & READ_WRITE else NOTCAPABLE)
    return descriptor.file


def _get_directory(ctx: Context, fd: int, right: int) -> OpenDirectory:
    descriptor = _get(ctx, fd)
    if not isinstance(descriptor, OpenDirectory):
        raise _Refused(NOTDIR)
    if not descriptor.rights & right:
        raise _Refused(NOTCAPABLE)
    return descriptor


def _path(memory: Memory, pointer: int, size: int) -> bytes:
    if size > MAX_PATH:
        raise _Refused(NAMETOOLONG)
    return memory.read(pointer, size)


def _vectors(memory: Memory, pointer: int, count: int) -> Vectors:
    """The iovec_array at `pointer`, every buffer checked, together at most MAX_IO bytes."""
    if count == 1:
        if pointer + 8 > memory.size:
            memory.ensure(pointer + 8)
        at, size = _VECTOR.unpack_from(memory.view, pointer)
        if at + size > memory.size:
            memory.ensure(at + size)
        return ((at, min(size, MAX_IO)),)
    if count > MAX_VECTORS:
        raise _Refused(INVAL)
    memory.ensure(pointer + 8 * count)
    numbers = unpack_from(f"<{2 * count}I", memory.view, pointer)
    vectors, left = [], MAX_IO
    for at, size in zip(numbers[::2], numbers[1::2], strict=True):
        memory.ensure(at + size)
        if size and left:
            size = min(size, left)
            left -= size
            vectors.append((at, size))
    return vectors


def _offset(offset: int) -> int:
    if offset > MAX_OFFSET:
        raise _Refused(INVAL)
    return offset


# Arguments and environment


@_function("ii")
def args_sizes_get(ctx: Context, count: int, size: int) -> int:
    strings = ctx.wasi.argument_strings()
    memory = ctx.memories[0]
    memory.store_u32(count, strings.count)
    memory.store_u32(size, len(strings.block))
    return SUCCESS


@_function("ii")
def args_get(ctx: Context, pointers: int, block: int) -> int:
    return _give_strings(ctx, ctx.wasi.argument_strings(), pointers, block)


@_function("ii")
def environ_sizes_get(ctx: Context, count: int, size: int) -> int:
    strings = ctx.wasi.environment_strings()
    memory = ctx.memories[0]
    memory.store_u32(count, strings.count)
    memory.store_u32(size, len(strings.block))
    return SUCCESS


@_function("ii")
def environ_get(ctx: Context, pointers: int, block: int) -> int:
    return _give_strings(ctx, ctx.wasi.environment_strings(), pointers, block)


def _give_strings(ctx: Context, strings: Any, pointers: int, block: int) -> int:
    memory = ctx.memories[0]
    memory.ensure(block + len(strings.block))
    memory.write(pointers, strings.pointers(block))
    memory.write(block, strings.block)
    return SUCCESS


# Clocks

# clockid
REALTIME, MONOTONIC, PROCESS_CPUTIME, THREAD_CPUTIME = range(4)
# A guest has the thread of its request to itself, and is no process: both CPU clocks are the thread's.
_CLOCKS = (time.time_ns, time.monotonic_ns, time.thread_time_ns, time.thread_time_ns)
_RESOLUTIONS = tuple(
    max(1, round(time.get_clock_info(name).resolution * 1e9))
    for name in ("time", "monotonic", "thread_time", "thread_time")
)


@_function("ii")
def clock_res_get(ctx: Context, clock: int, resolution: int) -> int:
    if clock > THREAD_CPUTIME:
        return INVAL
    ctx.memories[0].store_u64(resolution, _RESOLUTIONS[clock])
    return SUCCESS


@_function("ili")
def clock_time_get(ctx: Context, clock: int, precision: int, now: int) -> int:
    if clock > THREAD_CPUTIME:
        return INVAL
    ctx.memories[0].store_u64(now, _CLOCKS[clock]())
    return SUCCESS


# Descriptors: functions on what is open


@_function("illi")
def fd_advise(ctx: Context, fd: int, offset: int, size: int, advice: int) -> int:
    """Advice is about the host's caches; it is checked and not taken."""
    _get_file(ctx, fd, FD_ADVISE)
    return INVAL if advice > 5 or offset > MAX_OFFSET or size > MAX_OFFSET else SUCCESS


@_function("ill")
def fd_allocate(ctx: Context, fd: int, offset: int, size: int) -> int:
    """Not supported, as in wasmtime: it would reserve the host's disk for nothing."""
    _get_file(ctx, fd, FD_ALLOCATE)
    return NOTSUP


@_function("i")
def fd_close(ctx: Context, fd: int) -> int:
    descriptor = _table(ctx).pop(fd, None)
    if descriptor is None:
        return BADF
    descriptor.close()
    return SUCCESS


@_function("i")
def fd_datasync(ctx: Context, fd: int) -> int:
    _get_file(ctx, fd, FD_DATASYNC).sync(data_only=True)
    return SUCCESS


@_function("i")
def fd_sync(ctx: Context, fd: int) -> int:
    _get_file(ctx, fd, FD_SYNC).sync()
    return SUCCESS


@_function("ii")
def fd_fdstat_get(ctx: Context, fd: int, buffer: int) -> int:
    d = _get(ctx, fd)
    ctx.memories[0].write(buffer, _FDSTAT.pack(d.filetype, d.flags, d.rights, d.inheriting))
    return SUCCESS


@_function("ii")
def fd_fdstat_set_flags(ctx: Context, fd: int, flags: int) -> int:
    file = _get_file(ctx, fd, FD_FDSTAT_SET_FLAGS)
    descriptor = _get(ctx, fd)
    if (flags ^ descriptor.flags) & ~(APPEND | NONBLOCK):
        return INVAL
    file.set_append(bool(flags & APPEND))
    descriptor.flags = flags
    return SUCCESS


@_function("ill")
def fd_fdstat_set_rights(ctx: Context, fd: int, rights: int, inheriting: int) -> int:
    descriptor = _get(ctx, fd)
    if rights & ~descriptor.rights or inheriting & ~descriptor.inheriting:
        return NOTCAPABLE
    descriptor.rights = rights
    descriptor.inheriting = inheriting
    return SUCCESS


@_function("ii")
def fd_filestat_get(ctx: Context, fd: int, buffer: int) -> int:
    descriptor = _get(ctx, fd)
    status = descriptor.stat()
    if status is None:  # a stream
        ctx.memories[0].write(buffer, bytes(_FILESTAT.size))
        return SUCCESS
    if not descriptor.rights & FD_FILESTAT_GET:
        return NOTCAPABLE
    _give_status(ctx, status, buffer)
    return SUCCESS


def _give_status(ctx: Context, status: os.stat_result, buffer: int) -> None:
    ctx.memories[0].write(
        buffer,
        _FILESTAT.pack(
            status.st_dev & U64,
            status.st_ino & U64,
            _FILETYPES.get(stat.S_IFMT(status.st_mode), UNKNOWN),
            status.st_nlink,
            status.st_size,
            max(status.st_atime_ns, 0),
            max(status.st_mtime_ns, 0),
            max(status.st_ctime_ns, 0),
        ),
    )


@_function("il")
def fd_filestat_set_size(ctx: Context, fd: int, size: int) -> int:
    _get_file(ctx, fd, FD_FILESTAT_SET_SIZE).set_size(_offset(size))
    return SUCCESS


@_function("illi")
def fd_filestat_set_times(ctx: Context, fd: int, accessed: int, modified: int, flags: int) -> int:
    descriptor = _get(ctx, fd)
    times = _times(accessed, modified, flags)
    if not isinstance(descriptor, OpenFile | OpenDirectory):
        return BADF
    if not descriptor.rights & FD_FILESTAT_SET_TIMES:
        return NOTCAPABLE
    if isinstance(descriptor, OpenFile):
        descriptor.file.set_times(*times)
    else:
        descriptor.directory.set_times(b".", *times, follow=False)
    return SUCCESS


def _times(accessed: int, modified: int, flags: int) -> tuple[int | None, int | None]:
    """fstflags: bits for atim, now instead, mtim, now instead."""
    if flags & 3 == 3 or flags & 12 == 12 or flags > 15:
        raise _Refused(INVAL)
    now = time.time_ns()
    return (
        now if flags & 2 else accessed if flags & 1 else None,
        now if flags & 8 else modified if flags & 4 else None,
    )


@_function("iiii")
def fd_read(ctx: Context, fd: int, iovs: int, count: int, size: int) -> int:
    descriptor = _get(ctx, fd)
    if not descriptor.rights & FD_READ:
        return BADF
    memory = ctx.memories[0]
    memory.store_u32(size, descriptor.read(ctx, memory, _vectors(memory, iovs, count)))
    return SUCCESS


@_function("iiii")
def fd_write(ctx: Context, fd: int, iovs: int, count: int, size: int) -> int:
    descriptor = _get(ctx, fd)
    if not descriptor.rights & FD_WRITE:
        return BADF
    memory = ctx.memories[0]
    memory.store_u32(size, descriptor.write(ctx, memory, _vectors(memory, iovs, count)))
    return SUCCESS


@_function("iiili")
def fd_pread(ctx: Context, fd: int, iovs: int, count: int, offset: int, size: int) -> int:
    file = _at_offset(ctx, fd, FD_READ, offset)
    memory = ctx.memories[0]
    vectors = _vectors(memory, iovs, count)
    memory.store_u32(size, _transfer(partial(file.read_at, offset=offset), memory, vectors))
    return SUCCESS


@_function("iiili")
def fd_pwrite(ctx: Context, fd: int, iovs: int, count: int, offset: int, size: int) -> int:
    file = _at_offset(ctx, fd, FD_WRITE, offset)
    memory = ctx.memories[0]
    vectors = _vectors(memory, iovs, count)
    memory.store_u32(size, _transfer(partial(file.write_at, offset=offset), memory, vectors))
    return SUCCESS


def _at_offset(ctx: Context, fd: int, right: int, offset: int) -> File:
    descriptor = _get(ctx, fd)
    if isinstance(descriptor, InputStream | OutputStream):
        raise _Refused(SPIPE)
    _offset(offset)
    return _get_file(ctx, fd, right)


@_function("ilii")
def fd_seek(ctx: Context, fd: int, offset: int, whence: int, position: int) -> int:
    if isinstance(_get(ctx, fd), InputStream | OutputStream):
        return SPIPE
    file = _get_file(ctx, fd, FD_SEEK)
    if whence > 2:
        return INVAL
    signed = ((offset + (1 << 63)) & U64) - (1 << 63)
    ctx.memories[0].store_u64(position, file.seek(signed, whence))
    return SUCCESS


@_function("ii")
def fd_tell(ctx: Context, fd: int, position: int) -> int:
    if isinstance(_get(ctx, fd), InputStream | OutputStream):
        return SPIPE
    ctx.memories[0].store_u64(position, _get_file(ctx, fd, FD_TELL).seek(0, os.SEEK_CUR))
    return SUCCESS


@_function("ii")
def fd_prestat_get(ctx: Context, fd: int, buffer: int) -> int:
    name = getattr(_get(ctx, fd), "name", None)
    if name is None:
        return BADF
    ctx.memories[0].write(buffer, _PRESTAT.pack(0, len(name)))
    return SUCCESS


@_function("iii")
def fd_prestat_dir_name(ctx: Context, fd: int, buffer: int, size: int) -> int:
    name = getattr(_get(ctx, fd), "name", None)
    if name is None:
        return BADF
    if size < len(name):
        return NAMETOOLONG
    ctx.memories[0].write(buffer, name)
    return SUCCESS


@_function("iiili")
def fd_readdir(ctx: Context, fd: int, buffer: int, size: int, cookie: int, used: int) -> int:
    descriptor = _get(ctx, fd)
    if not isinstance(descriptor, OpenDirectory):
        return BADF
    if not descriptor.rights & FD_READDIR:
        return NOTCAPABLE
    memory = ctx.memories[0]
    memory.ensure(buffer + size)
    listing = descriptor.listing
    if listing is None or not cookie:
        descriptor.listing = None
        listing = descriptor.listing = _list(ctx, descriptor.directory)
    written, at = bytearray(), cookie
    while at < len(listing) and len(written) < size:
        name, filetype, inode = listing[at]
        at += 1
        written += _DIRENT.pack(at, inode, len(name), filetype)
        written += name
    if len(written) < size:
        descriptor.listing = None  # that was the end
    del written[size:]
    memory.write(buffer, written)
    memory.store_u32(used, len(written))
    return SUCCESS


def _list(ctx: Context, directory: Directory) -> list[tuple[bytes, int, int]]:
    """All lists that an instance is reading have room for MAX_ENTRIES together."""
    others = sum(len(getattr(other, "listing", None) or ()) for other in _table(ctx).values())
    own = directory.status().st_ino
    return [
        (name, _FILETYPES.get(kind, UNKNOWN), inode & U64)
        for name, kind, inode in chain(
            (Entry(b".", stat.S_IFDIR, own), Entry(b"..", stat.S_IFDIR, own)),
            directory.entries(max(0, files.MAX_ENTRIES - others)),
        )
    ]


@_function("ii")
def fd_renumber(ctx: Context, fd: int, to: int) -> int:
    table = _table(ctx)
    if fd not in table or to not in table:
        return BADF
    if fd != to:
        replaced = table[to]
        table[to] = table.pop(fd)
        replaced.close()
    return SUCCESS


# Paths

_FOLLOW = 1  # lookupflags: symlink_follow
_CREAT, _DIRECTORY, _EXCL, _TRUNC = 1, 2, 4, 8  # oflags


@_function("iiiiillii")
def path_open(
    ctx: Context,
    fd: int,
    lookup: int,
    path: int,
    path_size: int,
    oflags: int,
    rights: int,
    inheriting: int,
    flags: int,
    opened: int,
) -> int:
    parent = _get_directory(ctx, fd, PATH_OPEN)
    memory = ctx.memories[0]
    name = _path(memory, path, path_size)
    memory.ensure(opened + 4)
    if len(ctx.wasi.table) >= MAX_DESCRIPTORS:
        return MFILE
    granted = parent.inheriting
    if not rights & READ_WRITE:
        rights |= FD_READ & granted  # as wasmtime: what can do nothing is of no use
    if rights & READ_WRITE & ~granted:
        return NOTCAPABLE
    mode = os.O_RDONLY
    if rights & FD_WRITE:
        mode = os.O_RDWR if rights & FD_READ else os.O_WRONLY
    if oflags or flags:
        mode |= _open_flags(parent, oflags, flags)
    result = parent.directory.open(
        name, mode, follow=bool(lookup & _FOLLOW), directory=bool(oflags & _DIRECTORY)
    )
    descriptor: Descriptor
    if isinstance(result, File):
        descriptor = OpenFile(result, granted & FILE_RIGHTS & (rights | ~READ_WRITE), flags)
    else:
        descriptor = OpenDirectory(parent.root, granted & DIRECTORY_RIGHTS, granted, result)
    memory.store_u32(opened, _add(ctx, descriptor))
    return SUCCESS


def _open_flags(parent: OpenDirectory, oflags: int, flags: int) -> int:
    if oflags > 15 or flags > 31:
        raise _Refused(INVAL)
    mode = 0
    if oflags & _CREAT:
        if not parent.rights & PATH_CREATE_FILE:
            raise _Refused(NOTCAPABLE)
        mode |= os.O_CREAT
    if oflags & _EXCL:
        mode |= os.O_EXCL
    if oflags & _TRUNC:
        if not parent.rights & PATH_FILESTAT_SET_SIZE:
            raise _Refused(NOTCAPABLE)
        mode |= os.O_TRUNC
    for flag, value in _OPEN_FLAGS.items():
        if flags & flag:
            mode |= value
    return mode


@_function("iii")
def path_create_directory(ctx: Context, fd: int, path: int, size: int) -> int:
    parent = _get_directory(ctx, fd, PATH_CREATE_DIRECTORY)
    parent.directory.create_directory(_path(ctx.memories[0], path, size))
    return SUCCESS


@_function("iiiii")
def path_filestat_get(ctx: Context, fd: int, lookup: int, path: int, size: int, buffer: int) -> int:
    parent = _get_directory(ctx, fd, PATH_FILESTAT_GET)
    status = parent.directory.stat(_path(ctx.memories[0], path, size), bool(lookup & _FOLLOW))
    _give_status(ctx, status, buffer)
    return SUCCESS


@_function("iiiilli")
def path_filestat_set_times(
    ctx: Context, fd: int, lookup: int, path: int, size: int, accessed: int, modified: int, flags: int
) -> int:
    parent = _get_directory(ctx, fd, PATH_FILESTAT_SET_TIMES)
    times = _times(accessed, modified, flags)
    parent.directory.set_times(_path(ctx.memories[0], path, size), *times, follow=bool(lookup & _FOLLOW))
    return SUCCESS


@_function("iiiiiii")
def path_link(
    ctx: Context, fd: int, lookup: int, path: int, size: int, new_fd: int, new_path: int, new_size: int
) -> int:
    old = _get_directory(ctx, fd, PATH_LINK_SOURCE)
    new = _get_directory(ctx, new_fd, PATH_LINK_TARGET)
    if lookup & _FOLLOW:
        return INVAL
    memory = ctx.memories[0]
    old.directory.link(_path(memory, path, size), new.directory, _path(memory, new_path, new_size))
    return SUCCESS


@_function("iiiiii")
def path_readlink(
    ctx: Context, fd: int, path: int, size: int, buffer: int, buffer_size: int, used: int
) -> int:
    parent = _get_directory(ctx, fd, PATH_READLINK)
    memory = ctx.memories[0]
    target = parent.directory.read_link(_path(memory, path, size))[:buffer_size]
    memory.write(buffer, target)
    memory.store_u32(used, len(target))
    return SUCCESS


@_function("iii")
def path_remove_directory(ctx: Context, fd: int, path: int, size: int) -> int:
    parent = _get_directory(ctx, fd, PATH_REMOVE_DIRECTORY)
    parent.directory.remove_directory(_path(ctx.memories[0], path, size))
    return SUCCESS


@_function("iiiiii")
def path_rename(
    ctx: Context, fd: int, path: int, size: int, new_fd: int, new_path: int, new_size: int
) -> int:
    old = _get_directory(ctx, fd, PATH_RENAME_SOURCE)
    new = _get_directory(ctx, new_fd, PATH_RENAME_TARGET)
    memory = ctx.memories[0]
    old.directory.rename(_path(memory, path, size), new.directory, _path(memory, new_path, new_size))
    return SUCCESS


@_function("iiiii")
def path_symlink(ctx: Context, target: int, target_size: int, fd: int, path: int, size: int) -> int:
    parent = _get_directory(ctx, fd, PATH_SYMLINK)
    memory = ctx.memories[0]
    parent.directory.symlink(_path(memory, target, target_size), _path(memory, path, size))
    return SUCCESS


@_function("iii")
def path_unlink_file(ctx: Context, fd: int, path: int, size: int) -> int:
    parent = _get_directory(ctx, fd, PATH_UNLINK_FILE)
    parent.directory.unlink(_path(ctx.memories[0], path, size))
    return SUCCESS


# Waiting

# eventtype
CLOCK, READABLE, WRITABLE = range(3)
_ABSOLUTE = 1  # subclockflags: subscription_clock_abstime
_HANGUP = 1  # eventrwflags: fd_readwrite_hangup


@_function("iiii")
def poll_oneoff(ctx: Context, subscriptions: int, events: int, count: int, occurred: int) -> int:
    """Files and streams are ready at once: what reads from stdin may wait there, within the deadline.

    A sleep that would outlast the deadline ends with DeadlineExceeded, at the deadline.
    """
    if not 0 < count <= MAX_SUBSCRIPTIONS:
        return INVAL
    memory = ctx.memories[0]
    size = _SUBSCRIPTION.size * count
    memory.ensure(max(subscriptions + size, events + _EVENT.size * count))
    happened: list[bytes] = []
    clocks: list[tuple[float, bytes]] = []
    for userdata, kind, subject, timeout, _, flags in _SUBSCRIPTION.iter_unpack(
        memory.read(subscriptions, size)
    ):
        if kind > WRITABLE:
            return INVAL
        if kind != CLOCK:
            happened.append(_EVENT.pack(userdata, *_readiness(ctx, subject, kind)))
        elif subject > MONOTONIC:  # the others stand still while nothing runs
            happened.append(
                _EVENT.pack(userdata, NOTSUP if subject <= THREAD_CPUTIME else INVAL, CLOCK, 0, 0)
            )
        else:
            delay = timeout - _CLOCKS[subject]() if flags & _ABSOLUTE else timeout
            clocks.append((max(delay, 0) / 1e9, _EVENT.pack(userdata, SUCCESS, CLOCK, 0, 0)))
    shortest = 0.0
    if not happened:
        shortest = min(delay for delay, _ in clocks)
        _sleep(ctx.deadline, shortest)
    happened += [event for delay, event in clocks if delay <= shortest]
    memory.write(events, b"".join(happened))
    memory.store_u32(occurred, len(happened))
    return SUCCESS


def _readiness(ctx: Context, fd: int, kind: int) -> tuple[int, int, int, int]:
    """error, type, nbytes and flags of the event."""
    descriptor = (ctx.wasi.table or _table(ctx)).get(fd)
    if descriptor is None or not descriptor.rights & (FD_READ if kind == READABLE else FD_WRITE):
        return BADF, kind, 0, 0
    size = 0
    if kind == READABLE:
        if isinstance(descriptor, InputStream):
            size = descriptor.source.waiting
        elif isinstance(descriptor, OpenFile):
            size = max(0, descriptor.stat().st_size - descriptor.file.seek(0, os.SEEK_CUR))
    return SUCCESS, kind, size, 0


def _sleep(deadline: Deadline, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, deadline.remaining()))


# The rest


@_function("i", "")
def proc_exit(ctx: Context, code: int) -> None:
    raise GuestExit(code)


@_function("i")
def proc_raise(ctx: Context, signal: int) -> int:
    return NOTSUP


@_function("")
def sched_yield(ctx: Context) -> int:
    time.sleep(0)
    return SUCCESS


@_function("ii")
def random_get(ctx: Context, buffer: int, size: int) -> int:
    memory = ctx.memories[0]
    if size <= PIECE:
        memory.ensure(buffer + size)
        memory.write(buffer, os.urandom(size))
        return SUCCESS
    end = buffer + size
    memory.ensure(end)
    for at in range(buffer, end, PIECE):
        memory.write(at, os.urandom(min(PIECE, end - at)))
        ctx.deadline.remaining()
    return SUCCESS


# There are no sockets; these tell what else the descriptor is.


def _not_a_socket(ctx: Context, fd: int) -> int:
    _get(ctx, fd)
    return NOTSOCK


@_function("iii")
def sock_accept(ctx: Context, fd: int, flags: int, opened: int) -> int:
    return _not_a_socket(ctx, fd)


@_function("iiiiii")
def sock_recv(ctx: Context, fd: int, iovs: int, count: int, flags: int, size: int, out_flags: int) -> int:
    return _not_a_socket(ctx, fd)


@_function("iiiii")
def sock_send(ctx: Context, fd: int, iovs: int, count: int, flags: int, size: int) -> int:
    return _not_a_socket(ctx, fd)


@_function("ii")
def sock_shutdown(ctx: Context, fd: int, how: int) -> int:
    return _not_a_socket(ctx, fd)
