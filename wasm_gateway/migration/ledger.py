# What all processes of a site share about its migration: the dials that people turn while
# it runs, who turned them, and where guests and views differed.
#
# Rule 1: a ledger is read seldom (each process asks for its stamp twice a second) and written
# seldom; nothing of it is on the way of a request.
# Rule 2: what it keeps is bounded: the oldest mismatches and changes go first.
# Rule 3: it holds no secrets: who records a mismatch has redacted it (compare.py).

from __future__ import annotations

import getpass
import json
import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .. import forks
from ..errors import HostError, ManifestError
from .counters import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator

# Kept of each component.
MAX_MISMATCHES = 200
MAX_CHANGES = 500

# The name of a counter that says since when the others count.
SINCE = "since"


@dataclass(frozen=True, slots=True)
class Change:
    """A dial that was turned: `values` are the fields of a rule, None when the manifest's count again."""

    name: str  # of a component, or the pattern of a route
    values: Mapping[str, object] | None
    by: str
    at: float = field(default_factory=time.time)


def operator(command: str) -> str:
    """Who is said to have turned a dial by a command."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):  # as in a container whose user has no name
        name = f"user {os.getuid()}" if hasattr(os, "getuid") else "somebody"
    return f"{name} ({command})"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A request that the guest and the site answered differently. Times are in seconds.

    `differences` are for people, one a line; `native` and `guest` are what was compared of either answer.
    """

    component: str
    route: str
    method: str
    target: str
    differences: tuple[str, ...]
    native: Mapping[str, Any]
    guest: Mapping[str, Any]
    native_seconds: float
    guest_seconds: float
    at: float = field(default_factory=time.time)


Dials = Mapping[str, Mapping[str, object]]


class Ledger(Protocol):
    """Shared by all processes. Safe for any number of threads; each may raise HostError."""

    def stamp(self) -> object:
        """Something that is different once a dial has been turned; cheap."""
        ...

    def dials(self) -> Dials:
        """What is turned now, by the name of a component or the pattern of a route."""
        ...

    def turn(self, change: Change) -> None:
        """Set a dial to these values, which are whole, or give it back."""
        ...

    def note(self, name: str, values: Mapping[str, object]) -> None:
        """The same where nobody has turned it: no stamp and no change tells of it."""
        ...

    def changes(self, limit: int = 50) -> list[Change]:
        """The last changes, the newest first."""
        ...

    def record(self, mismatch: Mismatch) -> None: ...

    def mismatches(self, component: str | None = None, limit: int = 50) -> list[Mismatch]:
        """The last ones, the newest first."""
        ...

    def add(self, counts: Counts) -> None:
        """Add to what all processes have counted; each component has SINCE beside that."""
        ...

    def counters(self) -> dict[str, dict[str, int]]:
        """What all processes have counted, by component and name."""
        ...

    def forget(self, component: str | None = None) -> None:
        """Begin to count anew, and forget the mismatches: of one component, or of all."""
        ...

    def close(self) -> None: ...


def open_ledger(place: str | Path) -> Ledger:
    """The ledger at a URL (`redis://`), or in a SQLite file; ManifestError."""
    if str(place).startswith(_REDIS):
        try:
            from .redis_ledger import RedisLedger
        except ImportError as error:
            raise ManifestError(
                "a ledger in Redis needs its driver: pip install 'wasm-gateway[redis]'", key="LEDGER"
            ) from error
        return RedisLedger(str(place))
    return SqliteLedger(place)


_REDIS = ("redis://", "rediss://", "unix://")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS dials (name TEXT PRIMARY KEY, vals TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (id INTEGER PRIMARY KEY AUTOINCREMENT, change TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS mismatches (
  id INTEGER PRIMARY KEY AUTOINCREMENT, component TEXT NOT NULL, mismatch TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS mismatches_of ON mismatches (component, id);
CREATE TABLE IF NOT EXISTS counters (
  component TEXT NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (component, name)
) WITHOUT ROWID;
"""
BUSY_SECONDS = 5.0


class SqliteLedger:
    """A ledger in a SQLite file, which is made when it is not there."""

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self._start_over()
        forks.watch(self)

    def _start_over(self) -> None:
        self._lock = threading.Lock()  # guards the connection
        self._connection: sqlite3.Connection | None = None

    def after_fork(self) -> None:
        if self._connection is not None:
            forks.abandon(self._connection)
        self._start_over()

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                if self._connection is None:
                    self._connection = self._open()
                yield self._connection
        except sqlite3.Error as error:
            raise HostError(f"the ledger {self._path}: {error}") from error

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    def stamp(self) -> object:
        with self._opened() as connection:
            return connection.execute("SELECT max(id) FROM changes").fetchone()[0]

    def dials(self) -> Dials:
        with self._opened() as connection:
            rows = connection.execute("SELECT name, vals FROM dials").fetchall()
        return {name: json.loads(values) for name, values in rows}

    def turn(self, change: Change) -> None:
        with self._opened() as connection, _transaction(connection):
            if change.values is None:
                connection.execute("DELETE FROM dials WHERE name = ?", (change.name,))
            else:
                row = change.name, json.dumps(dict(change.values))
                connection.execute("INSERT OR REPLACE INTO dials VALUES (?, ?)", row)
            text = json.dumps(plain(change))
            last = connection.execute("INSERT INTO changes (change) VALUES (?)", (text,)).lastrowid or 0
            connection.execute("DELETE FROM changes WHERE id <= ?", (last - MAX_CHANGES,))

    def note(self, name: str, values: Mapping[str, object]) -> None:
        with self._opened() as connection:
            row = name, json.dumps(dict(values))
            connection.execute("INSERT OR REPLACE INTO dials VALUES (?, ?)", row)

    def changes(self, limit: int = 50) -> list[Change]:
        query = "SELECT change FROM changes ORDER BY id DESC LIMIT ?"
        with self._opened() as connection:
            rows = connection.execute(query, (limit,)).fetchall()
        return [Change(**json.loads(text)) for (text,) in rows]

    def record(self, mismatch: Mismatch) -> None:
        row = mismatch.component, json.dumps(plain(mismatch))
        with self._opened() as connection, _transaction(connection):
            connection.execute("INSERT INTO mismatches (component, mismatch) VALUES (?, ?)", row)
            connection.execute(
                "DELETE FROM mismatches WHERE component = ? AND id <= (SELECT id FROM mismatches "
                "WHERE component = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
                (mismatch.component, mismatch.component, MAX_MISMATCHES),
            )

    def mismatches(self, component: str | None = None, limit: int = 50) -> list[Mismatch]:
        query = "SELECT mismatch FROM mismatches WHERE ?1 IS NULL OR component = ?1 ORDER BY id DESC LIMIT ?2"
        with self._opened() as connection:
            rows = connection.execute(query, (component, limit)).fetchall()
        return [mismatch_of(json.loads(text)) for (text,) in rows]

    def add(self, counts: Counts) -> None:
        if not counts:
            return
        with self._opened() as connection, _transaction(connection):
            connection.executemany(
                "INSERT INTO counters VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                [(component, SINCE, now()) for component in counts],
            )
            connection.executemany(
                "INSERT INTO counters VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET value = value + excluded.value",
                [(component, *item) for component, values in counts.items() for item in values.items()],
            )

    def counters(self) -> dict[str, dict[str, int]]:
        with self._opened() as connection:
            rows = connection.execute("SELECT component, name, value FROM counters").fetchall()
        found: dict[str, dict[str, int]] = {}
        for component, name, value in rows:
            found.setdefault(component, {})[name] = value
        return found

    def forget(self, component: str | None = None) -> None:
        with self._opened() as connection, _transaction(connection):
            for table in ("counters", "mismatches"):
                query = f"DELETE FROM {table} WHERE ?1 IS NULL OR component = ?1"
                connection.execute(query, (component,))

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def now() -> int:
    """The seconds since 1970, for SINCE."""
    return int(time.time())


def plain(record: Change | Mismatch) -> dict[str, Any]:
    """A record as JSON has it."""
    return asdict(record)


def mismatch_of(values: Mapping[str, Any]) -> Mismatch:
    """A mismatch from what JSON had of it."""
    return Mismatch(**{**values, "differences": tuple(values["differences"])})
