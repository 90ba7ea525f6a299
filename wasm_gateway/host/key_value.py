# fermyon:spin/key-value (Spin: host interfaces, 4), and the stores behind it and behind its
# later versions (key_value_resources.py).
#
# Rule 1: a label that the component was not granted is denied before anything is looked at.
# Rule 2: a store knows neither components nor WIT: strings to bytes, StoreError when
# something behind it fails. A site may bring its own, by the protocol `Store`.
# Rule 3: data belongs to a label and is shared by the whole application; handles
# belong to an instance.
#
# Reading one key is the hot path of many guests: SqliteStore.get takes about 5 us, of
# which SQLite's locks and lookups are 4.

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .. import forks
from ..component.values import Err
from ..errors import HostError, Trap
from .base import Deadline, HostContext
from .limits import MAX_FILE_BYTES, MAX_HOST_BUFFERED_BYTES, RESULT_TOO_LARGE, VALUE_OVERHEAD, Budget, Handles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .addresses import Address
    from .redis import RedisClient

INTERFACES = {
    "fermyon:spin/key-value": """
package fermyon:spin;
interface key-value {
  type store = u32;
  variant error { store-table-full, no-such-store, access-denied, invalid-store, no-such-key, io(string) }
  open: func(name: string) -> result<store, error>;
  get: func(store: store, key: string) -> result<list<u8>, error>;
  set: func(store: store, key: string, value: list<u8>) -> result<_, error>;
  delete: func(store: store, key: string) -> result<_, error>;
  exists: func(store: store, key: string) -> result<bool, error>;
  get-keys: func(store: store) -> result<list<string>, error>;
  close: func(store: store);
}
""",
}

# Handles of one instance. Spin's command line sets no limit; this one is far above what one request
# opens, and keeps a guest that opens in a loop from filling our memory.
MAX_HANDLES = 4096

# How long a writer waits for another one, in seconds (SQLite allows one at a time), unless the guest's
# deadline comes first.
BUSY_SECONDS = 5.0

I64_MIN, I64_MAX = -(1 << 63), (1 << 63) - 1


class StoreError(HostError):
    """The store, or what is behind it, failed; a guest sees the text."""


class Store(Protocol):
    """What a key-value store has to do, for any number of threads at once.

    All may raise StoreError, and DeadlineExceeded when they would outlast `deadline`.
    """

    def get(self, key: str, deadline: Deadline | None = None) -> bytes | None:
        """The value, None when there is no such key."""
        ...

    def set(self, key: str, value: bytes, deadline: Deadline | None = None) -> None: ...

    def delete(self, key: str, deadline: Deadline | None = None) -> None:
        """Make sure that there is no such key."""
        ...

    def exists(self, key: str, deadline: Deadline | None = None) -> bool: ...

    def keys(self, deadline: Deadline | None = None) -> list[str]:
        """All keys, in any order."""
        ...

    def get_many(self, keys: list[str], deadline: Deadline | None = None) -> list[tuple[str, bytes]]:
        """Those of `keys` that exist, with their values, in any order."""
        ...

    def set_many(self, pairs: Iterable[tuple[str, bytes]], deadline: Deadline | None = None) -> None:
        """Set all of them, or none."""
        ...

    def delete_many(self, keys: list[str], deadline: Deadline | None = None) -> None: ...

    def increment(self, key: str, delta: int, deadline: Deadline | None = None) -> int:
        """Add `delta` in one step and return the sum; a missing key is 0."""
        ...

    def compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, deadline: Deadline | None = None
    ) -> bool:
        """Set in one step, if the value is still `expected` (None: there is still none); whether it was."""
        ...

    def close(self) -> None: ...


def _pause(seconds: float) -> None:
    """Sleep for half of this to all of it, by chance, or those who wait would all come back at once."""
    import random

    time.sleep(seconds * random.uniform(0.5, 1))


def _add(value: bytes | None, delta: int) -> tuple[bytes, int]:
    """The sum as it is stored, 8 bytes little-endian (Spin: host interfaces, 4.2), and as a number."""
    if value is not None and len(value) != 8:
        raise StoreError(f"increment: the value has {len(value)} bytes, a counter has 8")
    total = delta if value is None else delta + int.from_bytes(value, "little", signed=True)
    if not I64_MIN <= total <= I64_MAX:
        raise StoreError("increment: overflow")
    return total.to_bytes(8, "little", signed=True), total


def _within_limit(pairs: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """`pairs` as a list; StoreError when they are more than may be buffered for a guest."""
    budget = Budget()
    found = []
    for pair in pairs:
        if not budget.spend(VALUE_OVERHEAD + len(pair[0]) + len(pair[1])):
            raise StoreError(RESULT_TOO_LARGE)
        found.append(pair)
    return found


def _keys_within_limit(keys: Iterable[str]) -> list[str]:
    budget = Budget()
    found = []
    for key in keys:
        if not budget.spend(VALUE_OVERHEAD + len(key)):
            raise StoreError(RESULT_TOO_LARGE)
        found.append(key)
    return found


# -- in memory ---------------------------------------------------------------------------------------


class MemoryStore:
    """Keeps everything in this process, at most `max_bytes` of keys and values together."""

    def __init__(self, max_bytes: int = MAX_HOST_BUFFERED_BYTES) -> None:
        self._max = max_bytes
        self._data: dict[str, bytes] = {}
        self._size = 0
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()  # guards _data and _size together

    def get(self, key: str, deadline: Deadline | None = None) -> bytes | None:
        return self._data.get(key)

    def set(self, key: str, value: bytes, deadline: Deadline | None = None) -> None:
        with self._lock:
            self._set(key, value)

    def _set(self, key: str, value: bytes) -> None:
        old = self._data.get(key)
        size = self._size + len(value) - len(old or b"")
        if old is None:
            size += VALUE_OVERHEAD + len(key)
        if size > self._max:
            raise StoreError(f"the in-memory store is full ({self._max} bytes)")
        self._data[key] = value
        self._size = size

    def delete(self, key: str, deadline: Deadline | None = None) -> None:
        with self._lock:
            self._delete(key)

    def _delete(self, key: str) -> None:
        value = self._data.pop(key, None)
        if value is not None:
            self._size -= VALUE_OVERHEAD + len(key) + len(value)

    def exists(self, key: str, deadline: Deadline | None = None) -> bool:
        return key in self._data

    def keys(self, deadline: Deadline | None = None) -> list[str]:
        with self._lock:
            return list(self._data)

    def get_many(self, keys: list[str], deadline: Deadline | None = None) -> list[tuple[str, bytes]]:
        with self._lock:
            return _within_limit((key, self._data[key]) for key in dict.fromkeys(keys) if key in self._data)

    def set_many(self, pairs: Iterable[tuple[str, bytes]], deadline: Deadline | None = None) -> None:
        with self._lock:
            data, size = self._data.copy(), self._size
            try:
                for key, value in pairs:
                    self._set(key, value)
            except StoreError:
                self._data, self._size = data, size
                raise

    def delete_many(self, keys: list[str], deadline: Deadline | None = None) -> None:
        with self._lock:
            for key in keys:
                self._delete(key)

    def increment(self, key: str, delta: int, deadline: Deadline | None = None) -> int:
        with self._lock:
            value, total = _add(self._data.get(key), delta)
            self._set(key, value)
            return total

    def compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, deadline: Deadline | None = None
    ) -> bool:
        with self._lock:
            if self._data.get(key) != expected:
                return False
            self._set(key, value)
            return True

    def close(self) -> None:
        with self._lock:
            self._data, self._size = {}, 0


# -- a SQLite file, as Spin lays it out ----------------------------------------------------------------

_GET = "SELECT value FROM spin_key_value WHERE store=? AND key=?"
_SET = (
    "INSERT INTO spin_key_value (store, key, value) VALUES (?, ?, ?)"
    " ON CONFLICT (store, key) DO UPDATE SET value=excluded.value"
)
_DELETE = "DELETE FROM spin_key_value WHERE store=? AND key=?"
_EXISTS = "SELECT 1 FROM spin_key_value WHERE store=? AND key=?"
_KEYS = "SELECT key FROM spin_key_value WHERE store=?"
_SWAP = "UPDATE spin_key_value SET value=? WHERE store=? AND key=? AND value=?"
_INSERT = "INSERT INTO spin_key_value (store, key, value) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
# Spin: host interfaces, 4.3. The same table and columns, or Spin could not read what we write.
_TABLE = (
    "CREATE TABLE IF NOT EXISTS spin_key_value"
    " (store TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (store, key))"
)


class SqliteFile:
    """The file of one or more SqliteStores: a pool of connections to it, a connection to a thread at a time.

    It is opened at the first use; StoreError then, when it cannot be. It grows to `max_size` bytes.
    """

    def __init__(self, path: str | Path, max_size: int = MAX_FILE_BYTES) -> None:
        self.path = Path(path)
        self._max_size = max_size
        self._begin()
        forks.watch(self)

    def _begin(self) -> None:
        # Lists, whose pop and append are atomic, so that the hot path needs no lock.
        self.idle: list[sqlite3.Cursor] = []
        self._all: list[sqlite3.Connection] = []

    def after_fork(self) -> None:
        for connection in self._all:
            forks.abandon(connection)
        self._begin()

    def open(self) -> sqlite3.Cursor:
        """A cursor of a new connection; whoever has used it puts it into `idle`."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Autocommit; and no waiting in SQLite, since it would not look at the deadline.
            connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot open the store: {_short(error)}") from error
        try:
            cursor = connection.cursor()
            self._retry(lambda: self._set_up(cursor), None)
        except BaseException:
            connection.close()
            raise
        self._all.append(connection)
        return cursor

    def _set_up(self, cursor: sqlite3.Cursor) -> None:
        # A write-ahead log lets readers and a writer work side by side, and stays readable for Spin. It
        # cannot be had while others are busy with the file (the next connection will ask again), nor
        # where there is no shared memory (network file systems): slower then, but as good.
        try:
            cursor.execute("PRAGMA journal_mode=WAL").fetchall()
        except sqlite3.OperationalError:
            pass
        # With a log: a crash of the machine may lose the last writes, but never damages the file.
        cursor.execute("PRAGMA synchronous=NORMAL")
        (page,) = cursor.execute("PRAGMA page_size").fetchone()
        cursor.execute(f"PRAGMA max_page_count={max(self._max_size // page, 1)}").fetchall()
        cursor.execute(_TABLE)

    def run(self, work: Callable[[sqlite3.Cursor], Any], deadline: Deadline | None) -> Any:
        """`work(cursor)`, again while another process holds the lock."""
        try:
            cursor = self.idle.pop()
        except IndexError:
            cursor = self.open()
        try:
            return self._retry(lambda: work(cursor), deadline)
        finally:
            self.idle.append(cursor)

    def transaction(
        self, begin: str, work: Callable[[sqlite3.Cursor], Any], deadline: Deadline | None
    ) -> Any:
        """`work(cursor)` between `begin` and COMMIT, as a whole or not at all."""

        def attempt(cursor: sqlite3.Cursor) -> Any:
            cursor.execute(begin)
            try:
                result = work(cursor)
                cursor.execute("COMMIT")
            except BaseException:
                if cursor.connection.in_transaction:
                    cursor.execute("ROLLBACK")
                raise
            return result

        return self.run(attempt, deadline)

    def _retry(self, attempt: Callable[[], Any], deadline: Deadline | None) -> Any:
        give_up = time.monotonic() + BUSY_SECONDS
        pause = 0.0005
        while True:
            try:
                return attempt()
            except sqlite3.Error as error:
                if deadline is not None:
                    deadline.remaining()
                if not _is_busy(error) or time.monotonic() >= give_up:
                    raise StoreError(_short(error)) from error
            _pause(pause)
            pause = min(pause * 2, 0.02)

    def close(self) -> None:
        connections, self._all, self.idle = self._all, [], []
        for connection in connections:
            connection.close()


class SqliteStore:
    """One label in a SqliteFile."""

    def __init__(self, file: SqliteFile | str | Path, label: str = "default") -> None:
        self._file = file if isinstance(file, SqliteFile) else SqliteFile(file)
        self.label = label

    def get(self, key: str, deadline: Deadline | None = None) -> bytes | None:
        idle = self._file.idle
        try:
            cursor = idle.pop()
        except IndexError:
            cursor = self._file.open()
        try:
            row = cursor.execute(_GET, (self.label, key)).fetchone()
        except sqlite3.Error:  # busy, most likely: take the long way
            row = self._file.run(lambda other: other.execute(_GET, (self.label, key)).fetchone(), deadline)
        finally:
            idle.append(cursor)
        if row is None:
            return None
        value = row[0]
        if type(value) is not bytes:
            value = _as_bytes(value)
        if len(value) > MAX_HOST_BUFFERED_BYTES:
            raise StoreError(RESULT_TOO_LARGE)
        return value

    def set(self, key: str, value: bytes, deadline: Deadline | None = None) -> None:
        self._file.run(lambda cursor: cursor.execute(_SET, (self.label, key, value)), deadline)

    def delete(self, key: str, deadline: Deadline | None = None) -> None:
        self._file.run(lambda cursor: cursor.execute(_DELETE, (self.label, key)), deadline)

    def exists(self, key: str, deadline: Deadline | None = None) -> bool:
        found = self._file.run(lambda cursor: cursor.execute(_EXISTS, (self.label, key)).fetchone(), deadline)
        return found is not None

    def keys(self, deadline: Deadline | None = None) -> list[str]:
        def work(cursor: sqlite3.Cursor) -> list[str]:
            try:
                return _keys_within_limit(str(row[0]) for row in cursor.execute(_KEYS, (self.label,)))
            finally:
                cursor.execute("SELECT 1 WHERE 0")  # ends the query above, should it not have ended

        found: list[str] = self._file.run(work, deadline)
        return found

    def get_many(self, keys: list[str], deadline: Deadline | None = None) -> list[tuple[str, bytes]]:
        def work(cursor: sqlite3.Cursor) -> list[tuple[str, bytes]]:
            return _within_limit(rows(cursor))

        def rows(cursor: sqlite3.Cursor) -> Iterator[tuple[str, bytes]]:
            for key in dict.fromkeys(keys):
                row = cursor.execute(_GET, (self.label, key)).fetchone()
                if row is not None:
                    yield key, _as_bytes(row[0])

        found: list[tuple[str, bytes]] = self._file.transaction("BEGIN", work, deadline)
        return found

    def set_many(self, pairs: Iterable[tuple[str, bytes]], deadline: Deadline | None = None) -> None:
        rows = [(self.label, key, value) for key, value in pairs]
        self._write(lambda cursor: cursor.executemany(_SET, rows), deadline)

    def delete_many(self, keys: list[str], deadline: Deadline | None = None) -> None:
        rows = [(self.label, key) for key in keys]
        self._write(lambda cursor: cursor.executemany(_DELETE, rows), deadline)

    def increment(self, key: str, delta: int, deadline: Deadline | None = None) -> int:
        def work(cursor: sqlite3.Cursor) -> int:
            row = cursor.execute(_GET, (self.label, key)).fetchone()
            value, total = _add(None if row is None else _as_bytes(row[0]), delta)
            cursor.execute(_SET, (self.label, key, value))
            return total

        total: int = self._write(work, deadline)
        return total

    def compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, deadline: Deadline | None = None
    ) -> bool:
        values: tuple[str | bytes, ...]
        if expected is None:
            statement, values = _INSERT, (self.label, key, value)
        else:
            statement, values = _SWAP, (value, self.label, key, expected)
        changed: int = self._file.run(lambda cursor: cursor.execute(statement, values).rowcount, deadline)
        return changed == 1

    def _write(self, work: Callable[[sqlite3.Cursor], Any], deadline: Deadline | None) -> Any:
        """`work` in a transaction that holds the lock from its start, so that what it reads stays true."""
        return self._file.transaction("BEGIN IMMEDIATE", work, deadline)

    def close(self) -> None:
        self._file.close()


def _is_busy(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _short(error: BaseException) -> str:
    """The text of an error without the paths that an OSError has."""
    return error.strerror or "error" if isinstance(error, OSError) else str(error)


def _as_bytes(value: Any) -> bytes:
    """A value as Spin or another program may have stored it."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise StoreError(f"the value is not a blob but {type(value).__name__}")


# -- Redis -------------------------------------------------------------------------------------------

# Compares and sets in one step, which a WATCH could only with a connection of its own.
_COMPARE_AND_SET = (
    "local v = redis.call('GET', KEYS[1]) "
    "if v == false and ARGV[1] == '0' or v == ARGV[2] and ARGV[1] == '1' "
    "then redis.call('SET', KEYS[1], ARGV[3]) return 1 end return 0"
)
_SCAN_COUNT = 1000
# A Redis store that is used without a deadline (presets) waits this long, in seconds.
_PATIENCE = 30.0


class RedisStore:
    """Keys of a Redis database, as they are: labels with the same URL share them, as with Spin.

    Counters of `increment` are decimal text, Redis' own (not 8 bytes as in the other stores). The store
    has a client of its own where `client` is None: the operator, who wrote `url`, is not bound by what
    is forbidden to guests (blocked networks, limits of connections).
    """

    def __init__(self, client: RedisClient | None, url: str) -> None:
        from . import redis
        from .network import Network

        self._failure = redis.RedisFailure
        try:
            self._address: Address = redis.parse(url)
        except redis.RedisFailure as error:
            raise StoreError(f"invalid Redis URL: {error}") from error
        self._client = client or redis.RedisClient(Network())
        self._owns_client = client is None

    def _call(self, deadline: Deadline | None, *command: str | int | bytes) -> Any:
        try:
            return self._client.call(self._address, deadline or Deadline(_PATIENCE), *command)
        except self._failure as error:
            raise StoreError(str(error) or error.case) from error

    def get(self, key: str, deadline: Deadline | None = None) -> bytes | None:
        value: bytes | None = self._call(deadline, "GET", key)
        return value

    def set(self, key: str, value: bytes, deadline: Deadline | None = None) -> None:
        self._call(deadline, "SET", key, value)

    def delete(self, key: str, deadline: Deadline | None = None) -> None:
        self._call(deadline, "DEL", key)

    def exists(self, key: str, deadline: Deadline | None = None) -> bool:
        return bool(self._call(deadline, "EXISTS", key))

    def keys(self, deadline: Deadline | None = None) -> list[str]:
        def scan() -> Iterator[str]:
            seen: set[bytes] = set()  # SCAN may say a key twice
            cursor: bytes | str = "0"
            while True:
                cursor, found = self._call(deadline, "SCAN", cursor, "COUNT", _SCAN_COUNT)
                for key in found:
                    if key not in seen:
                        seen.add(key)
                        yield _text(key)
                if cursor == b"0":
                    return

        return _keys_within_limit(scan())

    def get_many(self, keys: list[str], deadline: Deadline | None = None) -> list[tuple[str, bytes]]:
        keys = list(dict.fromkeys(keys))
        if not keys:
            return []
        values = self._call(deadline, "MGET", *keys)
        return [(key, value) for key, value in zip(keys, values, strict=True) if value is not None]

    def set_many(self, pairs: Iterable[tuple[str, bytes]], deadline: Deadline | None = None) -> None:
        flat = [part for pair in pairs for part in pair]
        if flat:
            self._call(deadline, "MSET", *flat)

    def delete_many(self, keys: list[str], deadline: Deadline | None = None) -> None:
        if keys:
            self._call(deadline, "DEL", *keys)

    def increment(self, key: str, delta: int, deadline: Deadline | None = None) -> int:
        total: int = self._call(deadline, "INCRBY", key, delta)
        return total

    def compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, deadline: Deadline | None = None
    ) -> bool:
        known, old = ("0", b"") if expected is None else ("1", expected)
        return bool(self._call(deadline, "EVAL", _COMPARE_AND_SET, 1, key, known, old, value))

    def close(self) -> None:
        if self._owns_client:
            self._client.close()


def _text(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise StoreError("a key is not UTF-8") from None


# -- a cache of the site -------------------------------------------------------------------------------


class Cache(Protocol):
    """What CacheStore needs of a cache: Django's cache API."""

    def get(self, key: str, /) -> Any: ...

    def set(self, key: str, value: Any, /, *, timeout: int | None) -> Any: ...

    def delete(self, key: str, /) -> Any: ...

    def __contains__(self, key: str, /) -> bool: ...


# A key that every cache takes: memcached allows 250 characters, none of them white space or control.
_PLAIN_LIMIT = 100
# A writer that died holds its lock no longer than this, in seconds.
_LOCK_SECONDS = 5
# An index of so many keys is freed of evicted ones for the first time.
_PURGE_AT = 64


class CacheStore:
    """The entries of a cache of the site, e.g. `CacheStore(django.core.cache.caches["default"])`.

    A cache cannot list its keys, so an index is kept under one key of it. Where the cache has Django's
    `add`, that is the lock under which the index changes, also between processes; else the lock is this
    process' own. What the cache evicts is gone, from the index too. Entries do not expire by default;
    `timeout` (seconds) goes to the cache as it is.
    """

    def __init__(
        self,
        cache: Cache,
        label: str = "default",
        *,
        prefix: str = "wasm_gateway",
        timeout: int | None = None,
    ) -> None:
        self._cache = cache
        self._prefix = f"{prefix}:{label}:"
        self._timeout = timeout
        self._index_key = f"{prefix}:{label}::index"
        self._lock_key = f"{prefix}:{label}::lock"
        self._add: Callable[..., bool] | None = getattr(cache, "add", None)
        self._purge_at = _PURGE_AT
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        self._mutex = threading.Lock()  # guards the index within this process

    def _name(self, key: str) -> str:
        """The cache's key of `key`; the letter keeps plain keys and digests apart."""
        if len(key) <= _PLAIN_LIMIT and key.isascii() and key.isprintable() and " " not in key:
            return f"{self._prefix}k{key}"
        import hashlib  # slow to import, as is random, and only needed now and then

        return f"{self._prefix}h{hashlib.sha256(key.encode()).hexdigest()}"

    @contextmanager
    def _locked(self, deadline: Deadline | None) -> Iterator[None]:
        give_up = time.monotonic() + _LOCK_SECONDS * 2
        if not self._mutex.acquire(timeout=deadline.remaining() if deadline else _LOCK_SECONDS * 2):
            if deadline:
                deadline.remaining()
            raise StoreError("the index of the store stays locked")
        try:
            add = self._add
            if add is None:
                yield
                return
            token = os.urandom(8)
            while not add(self._lock_key, token, timeout=_LOCK_SECONDS):
                if deadline is not None:
                    deadline.remaining()
                if time.monotonic() > give_up:
                    raise StoreError("the index of the store stays locked")
                _pause(0.004)
            try:
                yield
            finally:
                if self._cache.get(self._lock_key) == token:
                    self._cache.delete(self._lock_key)
        finally:
            self._mutex.release()

    def _index(self) -> dict[str, None]:
        return dict.fromkeys(self._cache.get(self._index_key) or ())

    def _save(self, index: dict[str, None]) -> None:
        self._cache.set(self._index_key, list(index), timeout=self._timeout)

    def get(self, key: str, deadline: Deadline | None = None) -> bytes | None:
        value = self._cache.get(self._name(key))
        return None if value is None else bytes(value)

    def set(self, key: str, value: bytes, deadline: Deadline | None = None) -> None:
        name = self._name(key)
        if name in self._cache:  # so it is in the index
            self._cache.set(name, value, timeout=self._timeout)
        else:
            self.set_many([(key, value)], deadline)

    def delete(self, key: str, deadline: Deadline | None = None) -> None:
        self.delete_many([key], deadline)

    def exists(self, key: str, deadline: Deadline | None = None) -> bool:
        return self._name(key) in self._cache

    def keys(self, deadline: Deadline | None = None) -> list[str]:
        return _keys_within_limit(key for key in self._index() if self._name(key) in self._cache)

    def get_many(self, keys: list[str], deadline: Deadline | None = None) -> list[tuple[str, bytes]]:
        def pairs() -> Iterator[tuple[str, bytes]]:
            for key in dict.fromkeys(keys):
                value = self.get(key)
                if value is not None:
                    yield key, value

        return _within_limit(pairs())

    def set_many(self, pairs: Iterable[tuple[str, bytes]], deadline: Deadline | None = None) -> None:
        pairs = list(pairs)
        with self._locked(deadline):
            index = self._index()
            new = [key for key, _ in pairs if key not in index]
            if new:
                # what was evicted goes now, or an index of short-lived keys would grow for ever
                if len(index) >= self._purge_at:
                    index = {key: None for key in index if self._name(key) in self._cache}
                    self._purge_at = max(_PURGE_AT, 2 * len(index))
                self._save(index | dict.fromkeys(new))
            for key, value in pairs:
                self._cache.set(self._name(key), value, timeout=self._timeout)

    def delete_many(self, keys: list[str], deadline: Deadline | None = None) -> None:
        with self._locked(deadline):
            index = self._index()
            if any(key in index for key in keys):
                self._save({key: None for key in index if key not in keys})
            for key in keys:
                self._cache.delete(self._name(key))

    def increment(self, key: str, delta: int, deadline: Deadline | None = None) -> int:
        with self._locked(deadline):
            value, total = _add(self.get(key), delta)
            self._put(key, value)
            return total

    def compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, deadline: Deadline | None = None
    ) -> bool:
        with self._locked(deadline):
            if self.get(key) != expected:
                return False
            self._put(key, value)
            return True

    def _put(self, key: str, value: bytes) -> None:
        index = self._index()
        if key not in index:
            self._save(index | {key: None})
        self._cache.set(self._name(key), value, timeout=self._timeout)

    def close(self) -> None:
        """The cache belongs to the site."""


# -- the interface -----------------------------------------------------------------------------------


class Refused(Exception):
    """A store that a guest may not have; `case` is that of the interfaces' error."""

    def __init__(self, case: str) -> None:
        super().__init__(case)
        self.case = case


def set_value(store: Store, key: str, value: bytes, deadline: Deadline | None) -> None:
    """Set what a guest gives; StoreError."""
    _check_size(value)
    store.set(key, value, deadline)


def set_values(store: Store, pairs: list[tuple[str, bytes]], deadline: Deadline | None) -> None:
    """Set all of them, or none; StoreError."""
    for _, value in pairs:
        _check_size(value)
    store.set_many(pairs, deadline)


def _check_size(value: bytes) -> None:
    if len(value) > MAX_HOST_BUFFERED_BYTES:  # nobody could get it again
        raise StoreError(f"value exceeds limit of {MAX_HOST_BUFFERED_BYTES} bytes")


_NO_SUCH_KEY = Err(("no-such-key", None))


def _io(error: StoreError) -> Err:
    return Err(("io", str(error)))


# -- beside the site -----------------------------------------------------------------------------------


class ScratchStore:
    """The store `below` as one instance would have changed it, whose writes are kept here and end with it."""

    def __init__(self, below: Store, max_bytes: int = MAX_HOST_BUFFERED_BYTES) -> None:
        self._below = below
        self._max = max_bytes
        self._size = 0
        self._changed: dict[str, bytes | None] = {}  # None: deleted
        self._lock = threading.RLock()  # guards what changes

    @classmethod
    def of(cls, ctx: HostContext, label: str, below: Store) -> ScratchStore:
        """That of an instance for the store that it knows as `label`."""
        stores: dict[str, ScratchStore] | None = ctx.state.get(cls)
        if stores is None:
            stores = ctx.state[cls] = {}
        found = stores.get(label)
        if found is None:
            found = stores[label] = cls(below)
        return found

    def _put(self, key: str, value: bytes | None) -> None:
        with self._lock:
            size = VALUE_OVERHEAD + len(key) + len(value or b"")
            if key in self._changed:
                size -= VALUE_OVERHEAD + len(key) + len(self._changed[key] or b"")
            if self._size + size > self._max:
                raise StoreError(f"more than {self._max} bytes were written beside the site")
            self._size += size
            self._changed[key] = value

    def get(self, key: str, deadline: Deadline | None = None) -> bytes | None:
        return self._changed[key] if key in self._changed else self._below.get(key, deadline)

    def set(self, key: str, value: bytes, deadline: Deadline | None = None) -> None:
        self._put(key, value)

    def delete(self, key: str, deadline: Deadline | None = None) -> None:
        self._put(key, None)

    def exists(self, key: str, deadline: Deadline | None = None) -> bool:
        if key in self._changed:
            return self._changed[key] is not None
        return self._below.exists(key, deadline)

    def keys(self, deadline: Deadline | None = None) -> list[str]:
        found = dict.fromkeys(self._below.keys(deadline))
        for key, value in self._changed.items():
            if value is None:
                found.pop(key, None)
            else:
                found[key] = None
        return _keys_within_limit(found)

    def get_many(self, keys: list[str], deadline: Deadline | None = None) -> list[tuple[str, bytes]]:
        wanted = dict.fromkeys(keys)
        own = [(key, self._changed[key]) for key in wanted if key in self._changed]
        others = [key for key in wanted if key not in self._changed]
        found = self._below.get_many(others, deadline) if others else []
        return _within_limit([*found, *((key, value) for key, value in own if value is not None)])

    def set_many(self, pairs: Iterable[tuple[str, bytes]], deadline: Deadline | None = None) -> None:
        with self._lock:
            before = dict(self._changed), self._size
            try:
                for key, value in pairs:
                    self._put(key, value)
            except StoreError:
                self._changed, self._size = before
                raise

    def delete_many(self, keys: list[str], deadline: Deadline | None = None) -> None:
        for key in keys:
            self._put(key, None)

    def increment(self, key: str, delta: int, deadline: Deadline | None = None) -> int:
        with self._lock:
            value, total = _add(self.get(key, deadline), delta)
            self._put(key, value)
            return total

    def compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, deadline: Deadline | None = None
    ) -> bool:
        with self._lock:
            if self.get(key, deadline) != expected:
                return False
            self._put(key, value)
            return True

    def close(self) -> None:
        """Forget what was written; the store below belongs to the application."""
        self._changed, self._size = {}, 0


class KeyValue:
    """The key-value stores of an application, by label, and the functions that guests import."""

    def __init__(self, stores: Mapping[str, Store]) -> None:
        self.stores = dict(stores)

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        if interface != "fermyon:spin/key-value":
            return {}
        return {
            "open": self.open,
            "get": self.get,
            "set": self.set,
            "delete": self.delete,
            "exists": self.exists,
            "get-keys": self.get_keys,
            "close": self.close_store,
        }

    def close(self) -> None:
        failure: Exception | None = None
        for store in self.stores.values():
            try:
                store.close()
            except Exception as error:
                failure = error
        if failure is not None:
            raise failure

    def store(self, ctx: HostContext, label: str) -> Store:
        """The store that the component knows as `label`; Refused when it may not."""
        if label not in ctx.component.key_value_stores:
            raise Refused("access-denied")
        store = self.stores.get(label)
        if store is None:
            raise Refused("no-such-store")
        if ctx.component.scratch:
            return ScratchStore.of(ctx, label, store)
        return store

    # Unversioned, handles are numbers, and a bad one traps (Spin: host interfaces, 4.2); later, resources
    # that these numbers represent.

    def open(self, ctx: HostContext, name: str) -> Any:
        try:
            store = self.store(ctx, name)
        except Refused as refused:
            return Err((refused.case, None))
        handles: Handles[Store] | None = ctx.state.get(self)
        if handles is None:
            handles = ctx.state[self] = Handles(MAX_HANDLES)
        handle = handles.push(store)
        return Err(("store-table-full", None)) if handle is None else handle

    def is_open(self, ctx: HostContext, handle: int) -> bool:
        handles: Handles[Store] | None = ctx.state.get(self)
        return handles is not None and handle in handles.items

    def opened(self, ctx: HostContext, handle: int) -> Store:
        """The store behind a handle of the instance."""
        handles: Handles[Store] | None = ctx.state.get(self)
        store = None if handles is None else handles.items.get(handle)
        if store is None:
            raise Trap(f"key-value: no store has the handle {handle}")
        return store

    def get(self, ctx: HostContext, store: int, key: str) -> Any:
        found = self.opened(ctx, store)
        try:
            value = found.get(key, ctx.deadline)
        except StoreError as error:
            return _io(error)
        return _NO_SUCH_KEY if value is None else value

    def set(self, ctx: HostContext, store: int, key: str, value: bytes) -> Any:
        found = self.opened(ctx, store)
        try:
            set_value(found, key, value, ctx.deadline)
        except StoreError as error:
            return _io(error)

    def delete(self, ctx: HostContext, store: int, key: str) -> Any:
        found = self.opened(ctx, store)
        try:
            found.delete(key, ctx.deadline)
        except StoreError as error:
            return _io(error)

    def exists(self, ctx: HostContext, store: int, key: str) -> Any:
        found = self.opened(ctx, store)
        try:
            return found.exists(key, ctx.deadline)
        except StoreError as error:
            return _io(error)

    def get_keys(self, ctx: HostContext, store: int) -> Any:
        found = self.opened(ctx, store)
        try:
            return found.keys(ctx.deadline)
        except StoreError as error:
            return _io(error)

    def close_store(self, ctx: HostContext, store: int) -> None:
        handles: Handles[Store] | None = ctx.state.get(self)
        if handles is not None:
            handles.items.pop(store, None)
