# fermyon:spin/sqlite, spin:sqlite: databases inside this process (Spin: host interfaces, 5).
#
# Rule 1: SQL of a guest runs under an authorizer. What reaches out of the database
# (other files, this process' settings) is denied; the pragmas that a guest may use
# are listed, all others are denied.
# Rule 2: nothing that a guest did to a connection outlives its instance. Opening a
# file costs SQLite some 130 us and using an open connection 5, so connections are
# kept, and this is the proof obligation:
# - the authorizer sees every action of every statement when it is compiled; one that
#   is not in KEEPS_STATE_OUT may leave something behind on the connection (pragmas,
#   temporary tables, attached files ...), and such a connection is closed;
# - an open transaction is rolled back;
# - last_insert_rowid() and changes() are set to 0 by a statement on a temporary table
#   that guests cannot touch, total_changes() is ours and counts from where we took over;
# - the deadline and limits are set anew for each instance.
# Rule 3: an EXPLAIN is compiled each time, never taken from the sqlite3 module's cache of
# statements. SQLite checks that the schema is still that of the compiled statement when
# it runs it, and explaining is not running: it would read the names of tables from memory
# that is free (after DROP TABLE, VACUUM, or another connection's change of the schema).
# Rule 4: statements end at the deadline (progress handler, Watch), also while they wait for
# a lock (busy timeout); results are bounded while they come. SQLite looks where the program
# of its machine jumps, so that functions that may take long are made anew
# (sqlite_functions.py), and the others get the smaller values the more of them a statement
# has, and the longer they take (_WEIGHTS).
# Rule 5: a file grows to a given size, and so does its log: where readers keep that from
# being emptied, nobody begins anything until they are done. (What one transaction writes
# there is no more than the file.)
#
# Spin opens a new connection for each `open`, so nothing is shared between handles
# there either, except the file.

from __future__ import annotations

import itertools
import math
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .. import forks
from ..component.values import Err, Ok
from ..errors import HostError, Trap
from . import descriptors, sqlite_functions
from .base import Deadline, HostContext
from .limits import MAX_FILE_BYTES, MAX_HOST_BUFFERED_BYTES, RESULT_TOO_LARGE, VALUE_OVERHEAD, Handles
from .offload import Elements, Turns, Workers, share_of

_TYPES = """
  variant error { no-such-database, access-denied, invalid-connection, database-full, io(string) }
  variant value { integer(s64), real(f64), text(string), blob(list<u8>), null }
  record row-result { values: list<value> }
  record query-result { columns: list<string>, rows: list<row-result> }
"""
_CONNECTION = """
    open: static func(database: string) -> result<connection, error>;
    execute: func(statement: string, parameters: list<value>) -> result<query-result, error>;
"""
INTERFACES = {
    "fermyon:spin/sqlite": f"""
package fermyon:spin;
interface sqlite {{
  type connection = u32;
{_TYPES}
  open: func(database: string) -> result<connection, error>;
  execute: func(conn: connection, statement: string, parameters: list<value>) -> result<query-result, error>;
  close: func(conn: connection);
}}
""",
    "fermyon:spin/sqlite@2": f"""
package fermyon:spin@2.0.0;
interface sqlite {{
{_TYPES}
  resource connection {{ {_CONNECTION} }}
}}
""",
    "spin:sqlite/sqlite@3": f"""
package spin:sqlite@3.1.0;
interface sqlite {{
{_TYPES}
  resource connection {{
{_CONNECTION}
    last-insert-rowid: func() -> s64;
    changes: func() -> u64;
    open-async: static async func(database: string) -> result<connection, error>;
    execute-async: async func(statement: string, parameters: list<value>)
      -> result<tuple<list<string>, stream<row-result>, future<result<_, error>>>, error>;
    last-insert-rowid-async: async func() -> s64;
    changes-async: async func() -> u64;
  }}
}}
""",
}

# Spin: host interfaces, 5
MAX_CONNECTIONS = 256
TOO_MANY_CONNECTIONS = "too many connections opened"
# Idle connections kept for each file; one is about 100 KB with its page cache in use.
MAX_IDLE = 16
# How long a statement waits for a lock, in seconds: the default of Spin's SQLite binding.
BUSY_SECONDS = 5.0
# A database in memory, or attached for the time being, takes no more than this.
MAX_MEMORY_BYTES = 128 << 20
# The temporary tables of one connection, which are a file.
MAX_TEMP_BYTES = 1 << 30
# SQLite limits single values, and a statement may hold many. So values are small at first; a statement for
# which that is too small is run again with what its share of MAX_STATEMENT_BYTES allows, up to Spin's limit
# of a result.
SMALL_VALUE_BYTES = 256 << 10
MAX_STATEMENT_BYTES = 1 << 30
# SQL text is kept with a connection; one that has seen longer text is not kept itself.
MAX_KEPT_SQL = 64 << 10
# Files behind a connection: the database, its log, and the index of that.
FILES = 3
# What the functions of a statement may go through from one jump of its program to the next, at the worst:
# bytes, times what they weigh. A byte takes some 10 ns for a function that weighs 1.
MAX_WEIGHED_BYTES = 128 << 20
# What weighs no more than that may have small values, without a look at it.
SMALL_WEIGHT = MAX_WEIGHED_BYTES // SMALL_VALUE_BYTES
# SQLite's machine asks for the deadline after so many instructions, 0.1 to 1 ms; what takes longer is
# interrupted by one who looks every so many seconds.
_PROGRESS_STEPS = 10_000
WATCH_SECONDS = 0.05
# Between two looks of a connection at how long the log of its file is.
LOG_SECONDS = 0.05

# A guest that writes to the tables behind a full-text index itself could damage it, and the code of SQLite
# that reads it has had bugs there (Python 3.12 and later).
_DEFENSIVE: int | None = getattr(sqlite3, "SQLITE_DBCONFIG_DEFENSIVE", None)

OK, DENY, IGNORE = sqlite3.SQLITE_OK, sqlite3.SQLITE_DENY, sqlite3.SQLITE_IGNORE

# The table of Rule 2; its name is as good as a reserved word.
_OWN = "wasm_gateway_own"

# Actions after which a connection, its transaction rolled back, is as it was. What they change is
# in the database, or nowhere.
KEEPS_STATE_OUT = frozenset(
    {
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_RECURSIVE,
        sqlite3.SQLITE_INSERT,
        sqlite3.SQLITE_UPDATE,
        sqlite3.SQLITE_DELETE,
        sqlite3.SQLITE_TRANSACTION,
        sqlite3.SQLITE_SAVEPOINT,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_CREATE_TABLE,
        sqlite3.SQLITE_CREATE_INDEX,
        sqlite3.SQLITE_CREATE_VIEW,
        sqlite3.SQLITE_CREATE_TRIGGER,
        sqlite3.SQLITE_DROP_TABLE,
        sqlite3.SQLITE_DROP_INDEX,
        sqlite3.SQLITE_DROP_VIEW,
        sqlite3.SQLITE_DROP_TRIGGER,
        sqlite3.SQLITE_ALTER_TABLE,
        sqlite3.SQLITE_REINDEX,
        sqlite3.SQLITE_ANALYZE,
    }
)

# Pragmas about the database or the guest's own connection. Not here, so denied: those that name files
# (temp_store_directory, data_store_directory), that set limits of the whole process (hard_heap_limit,
# soft_heap_limit: they can only ever be lowered), that let a guest damage the file or trust what is in it
# (writable_schema, trusted_schema), that start threads, or that debug.
_FREE = """
analysis_limit application_id auto_vacuum automatic_index cache_spill case_sensitive_like
cell_size_check checkpoint_fullfsync collation_list compile_options data_version database_list
defer_foreign_keys empty_result_callbacks encoding foreign_key_check foreign_key_list foreign_keys
freelist_count full_column_names fullfsync function_list ignore_check_constraints incremental_vacuum
index_info index_list index_xinfo integrity_check journal_mode journal_size_limit legacy_alter_table
locking_mode module_list optimize page_count pragma_list query_only quick_check read_uncommitted
recursive_triggers reverse_unordered_selects secure_delete short_column_names shrink_memory synchronous
table_info table_list table_xinfo user_version wal_autocheckpoint wal_checkpoint
"""
_PRAGMAS_FREE = frozenset(_FREE.split())
# A guest may ask, but setting them would undo a limit of ours (time, memory, size), or endanger the
# process (the map of a file that shrinks is a SIGBUS). Then they do nothing, so that a guest that tunes its
# connection still runs.
_PRAGMAS_READ_ONLY = frozenset(
    {"busy_timeout", "cache_size", "max_page_count", "mmap_size", "page_size", "schema_version", "temp_store"}
)

# Functions that load code, that tell and take addresses of it (fts3_tokenizer, of old versions fts5), or that
# write to the log of the process.
_FUNCTIONS_DENIED = frozenset({"fts3_tokenizer", "fts5", "load_extension", "sqlite_log"})

# LIKE and GLOB take the product of text and pattern; SQLite itself allows patterns of 50,000 bytes.
MAX_PATTERN = 200
# How many times as long as others functions take for a byte. With json_patch it is the more the larger the
# values are, so that it gets none that are large.
_WEIGHTS = {"like": 32, "glob": 32, "json_patch": 1024}

# Tables that some builds of SQLite offer: the statements of the connection, raw pages of the file.
_TABLES_DENIED = frozenset({"sqlite_stmt", "bytecode", "tables_used", "sqlite_dbpage", "sqlite_dbdata"})

# Instructions of SQLite's machine that bring forth a value of any size.
_VALUES = b"""AggFinal AggStep AggValue Blob Cast Column Concat Copy Function MakeRecord PureFunc RowData
SorterData String8 VColumn Variable"""
_VALUE_INSTRUCTIONS = frozenset(_VALUES.split())
_UNKNOWN_VALUES = 1000

_NAMED_PARAMETER = re.compile(r"[:@$][A-Za-z_]")

_KINDS: dict[type, str] = {int: "integer", float: "real", str: "text", bytes: "blob"}
_NULL = ("null", None)

QueryResult = tuple[list[str], list[tuple[list[tuple[str, Any]]]]]


class SqlError(Exception):
    """SQLite refused or failed; the text is for the guest."""


class Connection:
    """One connection to a database, for the SQL of one guest at a time.

    `file` is None for a database in memory, which is this connection's own. With `read_only` SQLite itself
    writes to no file. A file grows to `max_size` bytes.
    """

    def __init__(
        self,
        file: Path | None,
        *,
        allow_attach_file: bool = False,
        read_only: bool = False,
        max_size: int = MAX_FILE_BYTES,
    ) -> None:
        self._log = None if file is None else f"{file}-wal"
        self._next_look = 0.0
        self._max_size = max_size
        self._allow_attach_file = allow_attach_file and not read_only
        self._kept = file is not None and not read_only
        self.clean = True
        self._ours = True  # whether the SQL being compiled is ours
        self._deadline: Deadline | None = None
        self._attached = False
        self._weight = 0  # of the functions of the statement, as far as it was compiled just now
        self._allowed: float = SMALL_WEIGHT
        self._made = itertools.count()
        try:
            new = self._kept and not (file is not None and file.exists() and file.stat().st_size)
            self._sql = sqlite3.connect(
                _uri(file) if file is not None and read_only else file or ":memory:",
                timeout=BUSY_SECONDS,
                isolation_level=None,  # what the guest says is what is done
                check_same_thread=False,
                uri=read_only,
            )
        except (OSError, sqlite3.Error) as error:
            raise SqlError(f"cannot open the database: {type(error).__name__}") from error
        sql = self._sql
        try:
            sql.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, SMALL_VALUE_BYTES)
            sql.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, MAX_PATTERN)
            if new:
                # readers and a writer side by side; a file that is there already stays as it is
                sql.execute("PRAGMA journal_mode=WAL").fetchall()
            self._limit_pages("main", MAX_MEMORY_BYTES if file is None else max_size)
            sql.execute(f"CREATE TEMP TABLE {_OWN} (id INTEGER PRIMARY KEY)")
            self._limit_pages("temp", MAX_TEMP_BYTES)
            sql.create_function("total_changes", 0, self._total_changes)
            sqlite_functions.install(sql)
            if _DEFENSIVE is not None:
                configure: Any = getattr(sql, "setconfig")  # noqa: B009  # not in the types of Python 3.11
                configure(_DEFENSIVE, True)
            sql.set_authorizer(self._authorize)
            sql.set_progress_handler(self.is_late, _PROGRESS_STEPS)
        except sqlite3.Error as error:
            sql.close()
            raise SqlError(str(error)) from error
        self._ours = False
        self._changes_before = sql.total_changes
        self._busy_seconds = BUSY_SECONDS
        self._reset()

    def start(self, deadline: Deadline | None) -> None:
        """Begin to serve an instance that ends at `deadline`."""
        self._deadline = deadline

    def release(self) -> bool:
        """End serving: whether the connection is as when it was new, and may serve another instance."""
        self._deadline = None
        if not self.clean or not self._kept:
            return False
        try:
            if self._sql.in_transaction:
                self._own("ROLLBACK")
            self._reset()
        except sqlite3.Error:
            return False
        return True

    def _reset(self) -> None:
        """Make what SQL can ask about earlier statements say 0."""
        if self._sql.total_changes != self._changes_before:
            self._own(f"INSERT OR REPLACE INTO temp.{_OWN} VALUES (0)")
            self._own(f"DELETE FROM temp.{_OWN} WHERE id = 1")
            self._changes_before = self._sql.total_changes

    def close(self) -> None:
        self._sql.close()

    def execute(self, statement: str, parameters: list[tuple[str, Any]]) -> QueryResult:
        """The columns and rows of one statement; SqlError, DeadlineExceeded."""
        deadline = self._deadline
        if deadline is not None:
            self._wait_no_longer_than(deadline.remaining())
        if len(statement) > MAX_KEPT_SQL:
            self.clean = False
        values = [value for _, value in parameters]
        _watch.begin(self)
        try:
            if time.monotonic() >= self._next_look and not self._sql.in_transaction:
                self._look_at_log()
            if self._sql.in_transaction:
                # SQLite may leave there what a statement did before it met a value that was too large
                result = self._execute_with_large_values(statement, values)
            else:
                try:
                    result = self._execute(statement, values)
                except sqlite3.DatabaseError as error:
                    too_big = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_TOOBIG
                    if not too_big and not self._is_heavy:
                        raise
                    # all that the statement did is undone, so that it may be run again
                    result = self._execute_with_large_values(statement, values)
        except (sqlite3.Error, sqlite3.Warning, OverflowError, ValueError) as error:
            if deadline is not None:
                deadline.remaining()
            raise SqlError(str(error)) from error
        finally:
            _watch.end(self)
        if self._attached:
            self._limit_attached()
        return result

    def _look_at_log(self) -> None:
        """Empty it where it is too long; SqlError while others read from it."""
        try:
            size = 0 if self._log is None else os.stat(self._log).st_size
        except OSError:
            size = 0  # there is none
        if size > self._max_size and self._own("PRAGMA wal_checkpoint(TRUNCATE)"):
            if self._deadline is not None:
                self._deadline.remaining()
            raise SqlError("database or disk is full")
        self._next_look = time.monotonic() + LOG_SECONDS

    def _execute(self, statement: str, values: list[Any]) -> QueryResult:
        cursor = self._sql.cursor()
        self._weight = 0
        try:
            self._begin(cursor, statement, values)
            rows = _rows(cursor)
            return [column[0] for column in cursor.description or ()], rows
        finally:
            cursor.close()

    def _execute_with_large_values(self, statement: str, values: list[Any]) -> QueryResult:
        share = MAX_STATEMENT_BYTES // max(self._values_of(statement, len(values)), 1)
        weight = max(self._weight, 1)
        largest = min(max(share, SMALL_VALUE_BYTES), MAX_HOST_BUFFERED_BYTES, MAX_WEIGHED_BYTES // weight)
        self._sql.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, largest)
        if weight > SMALL_WEIGHT:
            self._allowed = weight
            statement = self._unlike_others(statement)
        try:
            return self._execute(statement, values)
        finally:
            self._allowed = SMALL_WEIGHT
            self._sql.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, SMALL_VALUE_BYTES)

    @property
    def _is_heavy(self) -> bool:
        """Whether the authorizer refused the statement for its weight."""
        return self._weight > self._allowed

    def _unlike_others(self, statement: str) -> str:
        """The same, and yet unlike all in the cache of the sqlite3 module."""
        return f"/*{next(self._made)}*/{statement}"

    def _values_of(self, statement: str, parameters: int) -> int:
        """How many values the statement may hold at once, judged by its program."""
        cursor = self._sql.cursor()
        self._sql.text_factory = bytes  # some of what EXPLAIN says is no text
        self._weight, self._allowed = 0, math.inf
        try:
            self._begin(cursor, f"EXPLAIN {statement}", [None] * parameters)
            return sum(row[1] in _VALUE_INSTRUCTIONS for row in cursor)
        except (sqlite3.Error, sqlite3.Warning):
            return _UNKNOWN_VALUES  # if it is a mistake, the statement itself will say so
        finally:
            self._sql.text_factory = str
            self._allowed = SMALL_WEIGHT
            cursor.close()

    def _begin(self, cursor: sqlite3.Cursor, statement: str, values: list[Any]) -> None:
        if "explain" in statement.lower():
            statement = self._unlike_others(statement)  # Rule 3
        if values and _NAMED_PARAMETER.search(statement):
            self._execute_named(cursor, statement, values)
        else:
            cursor.execute(statement, values)

    def _execute_named(self, cursor: sqlite3.Cursor, statement: str, values: list[Any]) -> None:
        """Parameters with names, which take the values in the order in which the names appear.

        The sqlite3 module gives values to names by name only, and asks for them in that order. What
        looks like a name may also stand in a string, so that the parameters have no names after all.
        """
        asked = _InOrder(values)
        try:
            cursor.execute(statement, asked)
        except sqlite3.ProgrammingError:
            if asked.count:
                raise
            cursor.execute(statement, values)
        else:
            if asked.count != len(values):
                raise sqlite3.ProgrammingError(f"{len(values)} values for {asked.count} parameters")

    def script(self, statements: str) -> None:
        """Run any number of statements of the operator's (the flag `--sqlite`); SqlError."""
        self._ours = True
        try:
            self._sql.executescript(statements)
        except sqlite3.Error as error:
            raise SqlError(str(error)) from error
        finally:
            self._ours = False
            self.clean = False

    @property
    def changes(self) -> int:
        """Rows that the last INSERT, UPDATE or DELETE changed."""
        return int(self._own("SELECT changes()"))

    @property
    def last_insert_rowid(self) -> int:
        return int(self._own("SELECT last_insert_rowid()"))

    def _own(self, statement: str) -> Any:
        self._ours = True
        try:
            row = self._sql.execute(statement).fetchone()
        finally:
            self._ours = False
        return row[0] if row else None

    def _total_changes(self) -> int:
        return self._sql.total_changes - self._changes_before

    def interrupt(self) -> None:
        """End the statement that is running, from another thread."""
        self._sql.interrupt()

    def is_late(self) -> bool:
        deadline = self._deadline
        if deadline is None:
            return False
        try:
            deadline.remaining()
        except Exception:
            return True
        return False

    def _wait_no_longer_than(self, seconds: float) -> None:
        """SQLite's own waiting for locks does not look at the deadline, so that it must be set before."""
        seconds = min(seconds, BUSY_SECONDS)
        if seconds != self._busy_seconds:
            self._own(f"PRAGMA busy_timeout={int(seconds * 1000) + 1}")
            self._busy_seconds = seconds

    # Rule 1

    def _authorize(
        self, action: int, first: str | None, second: str | None, database: str | None, source: str | None
    ) -> int:
        if self._ours:
            return OK
        if action in KEEPS_STATE_OUT:
            if action == sqlite3.SQLITE_FUNCTION:
                name = (second or "").lower()
                self._weight += _WEIGHTS.get(name, 1)
                return DENY if name in _FUNCTIONS_DENIED or self._is_heavy else OK
            if action == sqlite3.SQLITE_READ and first is not None and first.lower() in _TABLES_DENIED:
                return DENY
            # of what is in the temp schema, only reading leaves it as it was
            if database == "temp" and action != sqlite3.SQLITE_READ:
                self.clean = False
            return DENY if first == _OWN or second == _OWN else OK
        self.clean = False
        match action:
            case sqlite3.SQLITE_PRAGMA:
                return self._authorize_pragma((first or "").lower(), second)
            case sqlite3.SQLITE_ATTACH:
                # None is an expression, which can become any name. VACUUM attaches "".
                if first not in ("", ":memory:") and not self._allow_attach_file:
                    return DENY
                self._attached = True
                return OK
            case _:
                return DENY if first == _OWN or second == _OWN else OK

    def _authorize_pragma(self, name: str, argument: str | None) -> int:
        if name in _PRAGMAS_FREE:
            return OK
        if name in _PRAGMAS_READ_ONLY:
            return OK if argument is None else IGNORE
        return DENY

    def _limit_attached(self) -> None:
        """Bound what was attached just now."""
        self._attached = False
        self._ours = True
        try:
            for _, name, file in self._sql.execute("PRAGMA database_list").fetchall():
                if name not in ("main", "temp"):
                    self._limit_pages(name, self._max_size if file else MAX_MEMORY_BYTES)
        finally:
            self._ours = False

    def _limit_pages(self, database: str, size: int) -> None:
        name = '"' + database.replace('"', '""') + '"'
        (page,) = self._sql.execute(f"PRAGMA {name}.page_size").fetchone()
        self._sql.execute(f"PRAGMA {name}.max_page_count={max(size // page, 1)}").fetchall()


class Watch:
    """Interrupts statements at their deadline, by a thread of its own.

    Few are slow, so that one that begins and ends costs no lock but at its end: then nobody interrupts what
    runs on that connection next.
    """

    def __init__(self) -> None:
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()  # guards `_running` against what is interrupted, and the thread
        self._running: dict[Connection, None] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, connection: Connection) -> None:
        self._running[connection] = None
        if not self._wake.is_set():
            self._start()

    def end(self, connection: Connection) -> None:
        with self._lock:
            self._running.pop(connection, None)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="watch SQL", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # there are too many; the progress handler is left
                    return
                self._thread = thread
            self._wake.set()

    def _run(self) -> None:
        quiet = 0
        while True:
            self._wake.wait()
            time.sleep(WATCH_SECONDS)
            with self._lock:
                quiet = 0 if self._running else quiet + 1
                if quiet > 20:
                    self._wake.clear()
                    if self._running:  # by now
                        self._wake.set()
                for connection in list(self._running):
                    if connection.is_late():
                        connection.interrupt()


_watch = Watch()


class _InOrder(dict[str, Any]):
    """Gives its values to names in the order in which they are asked for."""

    def __init__(self, values: list[Any]) -> None:
        super().__init__()
        self.values_left = iter(values)
        self.count = 0

    def __missing__(self, name: str) -> Any:
        self.count += 1
        try:
            return next(self.values_left)
        except StopIteration:
            raise sqlite3.ProgrammingError(f"no value for parameter {name}") from None


def _rows(cursor: sqlite3.Cursor) -> list[tuple[list[tuple[str, Any]]]]:
    budget = MAX_HOST_BUFFERED_BYTES
    kinds = _KINDS
    rows: list[tuple[list[tuple[str, Any]]]] = []
    for row in cursor:
        values: list[tuple[str, Any]] = []
        for value in row:
            kind = kinds.get(type(value))
            if kind is None:
                values.append(_NULL)
                budget -= VALUE_OVERHEAD
            else:
                values.append((kind, value))
                budget -= VALUE_OVERHEAD
                if kind == "text" or kind == "blob":
                    budget -= len(value)
        if budget < 0:
            raise ValueError(RESULT_TOO_LARGE)
        rows.append((values,))
    return rows


class Database:
    """What a label stands for: a file, or None for a new database in memory at each `open`.

    A file grows to `max_size` bytes; one that is larger already only shrinks.
    """

    def __init__(
        self, file: str | Path | None, *, allow_attach_file: bool = False, max_size: int = MAX_FILE_BYTES
    ) -> None:
        self.file = None if file is None else Path(file)
        self._allow_attach_file = allow_attach_file
        self._max_size = max_size
        self._begin()
        forks.watch(self)

    def _begin(self) -> None:
        self._idle: list[Connection] = []  # append and pop are atomic
        self._open: set[Connection] = set()
        self._identity: tuple[int, int] | None = None

    def after_fork(self) -> None:
        for connection in self._open | set(self._idle):
            forks.abandon(connection)
        self._begin()

    def connect(self, deadline: Deadline | None = None, *, read_only: bool = False) -> Connection:
        """A connection as good as new, to be given back with `release`; SqlError.

        A file that is not there is not made with `read_only`: what is found is empty all the same.
        """
        try:
            descriptors.files.take(FILES)
        except OSError as error:
            raise SqlError(f"cannot open the database: {error.strerror}") from error
        try:
            connection = self._taken(read_only)
        except BaseException:
            descriptors.files.give(FILES)
            raise
        connection.start(deadline)
        self._open.add(connection)
        return connection

    def _taken(self, read_only: bool) -> Connection:
        if self.file is None:
            return Connection(None, allow_attach_file=self._allow_attach_file)
        if read_only:
            return Connection(self.file if self.file.exists() else None, read_only=True)
        self._notice_replacement(self.file)
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect(self.file)

    def _connect(self, file: Path) -> Connection:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SqlError(f"cannot open the database: {error.strerror}") from error
        connection = Connection(file, allow_attach_file=self._allow_attach_file, max_size=self._max_size)
        self._identity = _identity(file)
        return connection

    def _notice_replacement(self, file: Path) -> None:
        """Idle connections to a file that was deleted or replaced would go on writing to the old one."""
        if self._idle and _identity(file) != self._identity:
            idle, self._idle = self._idle, []
            for connection in idle:
                connection.close()

    def release(self, connection: Connection) -> None:
        self._open.discard(connection)
        descriptors.files.give(FILES)
        if connection.release() and len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def script(self, statements: str) -> None:
        """Run the operator's statements, as `--sqlite` gives them; HostError."""
        try:
            connection = self.connect()
            try:
                connection.script(statements)
            finally:
                self.release(connection)
        except SqlError as error:
            raise HostError(f"SQLite: {error}") from error

    def close(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def _uri(file: Path) -> str:
    return f"{file.absolute().as_uri()}?mode=ro"


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


_INVALID = Err(("invalid-connection", None))
_TOO_MANY = Err(("io", TOO_MANY_CONNECTIONS))


class Refused(Exception):
    """A database that a guest may not have; `case` is that of the interfaces' error."""

    def __init__(self, case: str) -> None:
        super().__init__(case)
        self.case = case


class Opened:
    """A connection that a guest keeps, which its calls use in turn."""

    __slots__ = ("connection", "database", "turns")

    def __init__(self, connection: Connection, database: Database) -> None:
        self.connection = connection
        self.database = database
        self.turns = Turns()

    def for_call(self, ctx: HostContext) -> Connection:
        """The connection, for a call in this thread. It may have served an earlier request."""
        self.turns.settle(ctx)
        self.connection.start(ctx.deadline)
        return self.connection

    def release(self) -> None:
        self.turns.end(lambda: self.database.release(self.connection))


class Sqlite:
    """The SQLite databases of an application, by label, and the functions that guests import."""

    def __init__(self, databases: Mapping[str, Database], workers: Workers | None = None) -> None:
        self.databases = dict(databases)
        self._workers = workers or Workers()

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        resource: dict[str, Callable[..., Any]] = {
            "[static]connection.open": self.open,
            "[method]connection.execute": self.execute,
            "[resource-drop]connection": self.close_connection,
        }
        match interface:
            case "fermyon:spin/sqlite":
                return {"open": self.open, "execute": self.execute, "close": self.close_connection}
            case "fermyon:spin/sqlite@2":
                return resource
            case "spin:sqlite/sqlite@3":
                return resource | {
                    "[method]connection.last-insert-rowid": self.last_insert_rowid,
                    "[method]connection.changes": self.changes,
                    "[static]connection.open-async": self.open_async,
                    "[method]connection.execute-async": self.execute_async,
                    "[method]connection.last-insert-rowid-async": self.last_insert_rowid_async,
                    "[method]connection.changes-async": self.changes_async,
                }
            case _:
                return {}

    def close(self) -> None:
        for database in self.databases.values():
            database.close()

    def database(self, ctx: HostContext, label: str) -> Database:
        """The database that the component knows as `label`; Refused."""
        if label not in ctx.component.sqlite_databases:
            raise Refused("access-denied")
        database = self.databases.get(label)
        if database is None:
            raise Refused("no-such-database")
        return database

    def handles(self, ctx: HostContext) -> Handles[Opened]:
        """The connections of an instance; what it leaves open is closed with it."""
        handles: Handles[Opened] | None = ctx.state.get(self)
        if handles is None:
            handles = ctx.state[self] = Handles(MAX_CONNECTIONS)
            ctx.on_close(lambda: self._release_all(handles))
        return handles

    @staticmethod
    def _release_all(handles: Handles[Opened]) -> None:
        while handles.items:
            handles.items.popitem()[1].release()

    # Unversioned, connections are numbers; later, resources that these numbers represent.

    def open(self, ctx: HostContext, name: str) -> Any:
        handles = self.handles(ctx)
        if len(handles.items) >= handles.capacity:
            # Spin says so too, but only after it looked at the label
            return _TOO_MANY if name in ctx.component.sqlite_databases else Err(("access-denied", None))
        try:
            database = self.database(ctx, name)
            connection = database.connect(ctx.deadline, read_only=ctx.component.scratch)
            return handles.push(Opened(connection, database))
        except Refused as refused:
            return Err((refused.case, None))
        except SqlError as error:
            return Err(("io", str(error)))

    def execute(self, ctx: HostContext, conn: int, statement: str, parameters: list[tuple[str, Any]]) -> Any:
        found = self.handles(ctx).items.get(conn)
        if found is None:
            return _INVALID
        try:
            return found.for_call(ctx).execute(statement, parameters)
        except SqlError as error:
            return Err(("io", str(error)))

    def close_connection(self, ctx: HostContext, conn: int) -> None:
        found = self.handles(ctx).items.pop(conn, None)
        if found is not None:
            found.release()

    def changes(self, ctx: HostContext, conn: int) -> int:
        return self._connection(ctx, conn).changes

    def last_insert_rowid(self, ctx: HostContext, conn: int) -> int:
        return self._connection(ctx, conn).last_insert_rowid

    def _connection(self, ctx: HostContext, conn: int) -> Connection:
        return self._opened(ctx, conn).for_call(ctx)

    def _opened(self, ctx: HostContext, conn: int) -> Opened:
        found = self.handles(ctx).items.get(conn)
        if found is None:
            raise Trap(f"sqlite: no connection has the handle {conn}")
        return found

    # Of 3.1.0, the same as coroutines.

    async def open_async(self, ctx: HostContext, name: str) -> Any:
        handles = self.handles(ctx)
        try:
            database = self.database(ctx, name)
            if handles.is_full:
                return _TOO_MANY
            connect = partial(database.connect, read_only=ctx.component.scratch)
            connection = await self._workers.run(ctx, connect, undo=database.release)
        except Refused as refused:
            return Err((refused.case, None))
        except SqlError as error:
            return Err(("io", str(error)))
        opened = Opened(connection, database)
        connection.start(ctx.deadline)
        handle = handles.push(opened)
        if handle is None:  # filled meanwhile
            opened.release()
            return _TOO_MANY
        return handle

    async def execute_async(
        self, ctx: HostContext, conn: int, statement: str, parameters: list[tuple[str, Any]]
    ) -> Any:
        """As in Spin, what is wrong with the statement is told at the end of the rows."""
        if conn not in self.handles(ctx).items:
            return _INVALID
        try:
            columns, rows = await self._using(ctx, conn, lambda db: db.execute(statement, parameters))
        except SqlError as error:
            return [], Elements(()), Err(("io", str(error)))
        return columns, Elements(rows, share_of(ctx, [values for (values,) in rows])), Ok()

    async def changes_async(self, ctx: HostContext, conn: int) -> int:
        changes: int = await self._using(ctx, conn, lambda db: db.changes)
        return changes

    async def last_insert_rowid_async(self, ctx: HostContext, conn: int) -> int:
        rowid: int = await self._using(ctx, conn, lambda db: db.last_insert_rowid)
        return rowid

    async def _using(self, ctx: HostContext, conn: int, call: Callable[[Connection], Any]) -> Any:
        """What `call` comes to, in its turn."""
        opened, whole = self._opened(ctx, conn), ctx.deadline

        def run(deadline: Deadline) -> Any:
            opened.connection.start(deadline)
            try:
                return call(opened.connection)
            finally:
                opened.connection.start(whole)

        return await self._workers.run(ctx, run, turns=opened.turns)
