# Reading a TOML file of the operator: the text, its tables, and good errors.
#
# Rule 1: tomli decides what the text means. The scanner below only says on which
# line a key of that (by then valid) text stands, and runs when an error is made.
# Rule 2: a Table knows its place, checks the type of what it gives out, and
# refuses at the end what nobody asked for.
#
# A key path is a tuple of names and of indices into arrays: ("trigger", "http", 0, "route").

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli

from .errors import ManifestError

Key = tuple[str | int, ...]
D = TypeVar("D")

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def dotted(key: Key) -> str:
    """The path as an operator writes it: `trigger.http[0].route`."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE_KEY.fullmatch(part) else '"' + part.replace('"', '\\"') + '"'
            text += f".{name}" if text else name
    return text


class Document:
    """A TOML file that was read; `error` makes the exception for a mistake at a key.

    `aliases` maps the head of a key path of a converted document to where it stands in the text.
    """

    def __init__(self, text: str, path: Path | None) -> None:
        self.text = text
        self.path = path
        self.aliases: dict[Key, Key] = {}
        try:
            self.data: dict[str, Any] = tomli.loads(text)
        except tomli.TOMLDecodeError as error:
            raise ManifestError(f"invalid TOML: {error}", path=path, line=_error_line(error)) from None
        except RecursionError:
            raise ManifestError("invalid TOML: nested too deeply", path=path) from None

    @classmethod
    def read(cls, path: Path) -> Document:
        """The document in the file `path`; UTF-8, with or without a byte order mark."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ManifestError(f"cannot be read: {error.strerror or error}", path=path) from None
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise ManifestError("not UTF-8", path=path, line=line) from None
        return cls(text, path)

    @property
    def root(self) -> Table:
        return Table(self, self.data, ())

    def error(self, message: str, key: Key) -> ManifestError:
        place = self.place(key)
        return ManifestError(
            message, path=self.path, key=dotted(place) or None, line=find_line(self.text, place)
        )

    def place(self, key: Key) -> Key:
        """Where `key` of the document stands in its text."""
        for size in range(len(key), 0, -1):
            alias = self.aliases.get(key[:size])
            if alias is not None:
                return alias + key[size:]
        return key


def _error_line(error: tomli.TOMLDecodeError) -> int | None:
    line = getattr(error, "lineno", None)
    return line if isinstance(line, int) else None


class Table:
    """One table of a document while it is read."""

    __slots__ = ("data", "document", "key", "known")

    def __init__(self, document: Document, data: Mapping[str, Any], key: Key) -> None:
        self.document = document
        self.data = data
        self.key = key
        self.known: dict[str, None] = {}  # in the order asked for, for the error text

    def error(self, message: str, *name: str | int) -> ManifestError:
        """The exception for a mistake at the key `name` of this table (or at the table itself)."""
        return self.document.error(message, self.key + name)

    def wrong_type(self, expected: str, *name: str | int) -> ManifestError:
        value: Any = self.data
        for part in name:
            value = value[part]
        return self.error(f"invalid type: {kind(value)}, expected {expected}", *name)

    def take(self, name: str) -> Any:
        """The raw value of `name`, None where it is absent (TOML itself has no null)."""
        self.known[name] = None
        return self.data.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self.data

    def required(self, name: str) -> Any:
        value = self.take(name)
        if value is None:
            raise self.error(f"missing field `{name}`")
        return value

    def text(self, name: str) -> str:
        self.required(name)
        return self.text_or(name, "")

    def text_or(self, name: str, default: D) -> str | D:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong_type("a string", name)
        return value

    def boolean(self, name: str, default: D) -> bool | D:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong_type("a boolean", name)
        return value

    def integer(self, name: str, default: D, low: int = 0, high: int = 2**63 - 1) -> int | D:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong_type("an integer", name)
        if not low <= value <= high:
            raise self.error(f"invalid value: {value}, expected {low} to {high}", name)
        return value

    def array(self, name: str) -> list[Any]:
        value = self.take(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong_type("an array", name)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.array(name)
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise self.wrong_type("a string", name, index)
        return tuple(values)

    def table(self, name: str) -> Table:
        """The table `name`, an empty one where it is absent."""
        value = self.take(name)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.wrong_type("a table", name)
        return Table(self.document, value, (*self.key, name))

    def tables(self, name: str) -> list[Table]:
        """The array of tables `name`, an empty one where it is absent."""
        values = self.array(name)
        for index, value in enumerate(values):
            if not isinstance(value, dict):
                raise self.wrong_type("a table", name, index)
        return [Table(self.document, value, (*self.key, name, index)) for index, value in enumerate(values)]

    def children(self) -> Iterator[tuple[str, Table]]:
        """Every key of this table, whose values must all be tables."""
        for name in self.data:
            yield name, self.table(name)

    def text_map(self, name: str) -> dict[str, str]:
        table = self.table(name)
        return {child: table.text(child) for child in table.data}

    def done(self) -> None:
        """Refuse the keys that nobody has asked for."""
        for name in self.data:
            if name not in self.known:
                expected = ", ".join(f"`{known}`" for known in self.known)
                raise self.error(
                    f"unknown field `{name}`, expected {'one of ' * (len(self.known) > 1)}{expected}", name
                )


def kind(value: Any) -> str:
    """What TOML calls the type of `value`, with the value where it is short."""
    match value:
        case bool():
            return f"boolean `{str(value).lower()}`"
        case int():
            return f"integer `{value}`"
        case float():
            return f"float `{value}`"
        case str():
            return f'string "{value}"'
        case list():
            return "array"
        case dict():
            return "table"
        case _:
            return "datetime"


def find_line(text: str, key: Key) -> int | None:
    """The line (1-based) of `key` in a valid TOML text, or of the nearest table around it."""
    if not key:
        return None
    try:
        offsets = _Scanner(text).scan()
    except (RecursionError, IndexError):
        return None
    while key:
        offset = offsets.get(key)
        if offset is not None:
            return text.count("\n", 0, offset) + 1
        key = key[:-1]
    return None


def spans(text: str) -> dict[Key, tuple[int, int, int]]:
    """Of every `key = value` of a valid TOML text: where the key begins, where its value begins and ends."""
    scanner = _Scanner(text)
    scanner.scan()
    return scanner.values


class _Scanner:
    """The offset of every key and array element of a valid TOML text, in one pass."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0
        self.offsets: dict[Key, int] = {}
        self.values: dict[Key, tuple[int, int, int]] = {}
        self.lengths: dict[Key, int] = {}  # of the arrays of tables met so far

    def scan(self) -> dict[Key, int]:
        text, prefix = self.text, Key()
        while self.skip(" \t\r\n"):
            start = self.pos
            if text.startswith("[[", start):
                self.pos += 2
                names = self.names()
                array = (*self.resolve(names[:-1], start), names[-1])
                index = self.lengths.get(array, 0)
                self.lengths[array] = index + 1
                prefix = (*array, index)
                self.offsets.setdefault(array, start)
                self.offsets[prefix] = start
                self.skip(" \t")
                self.pos += 2
            elif text[start] == "[":
                self.pos += 1
                prefix = self.resolve(self.names(), start)
                self.skip(" \t")
                self.pos += 1
            else:
                self.pair(prefix)
        return self.offsets

    def skip(self, blanks: str) -> bool:
        """Go past blanks and comments; whether anything is left."""
        text, size = self.text, len(self.text)
        while self.pos < size:
            char = text[self.pos]
            if char == "#":
                end = text.find("\n", self.pos)
                self.pos = size if end < 0 else end
            elif char in blanks:
                self.pos += 1
            else:
                return True
        return False

    def names(self) -> list[str]:
        """A dotted key."""
        names = []
        while True:
            self.skip(" \t")
            if self.text[self.pos] in "\"'":
                start = self.pos
                self.string()
                names.append(tomli.loads(f"k = {self.text[start : self.pos]}")["k"])
            else:
                match = _BARE_KEY.match(self.text, self.pos)
                if match is None:
                    raise IndexError
                names.append(match[0])
                self.pos = match.end()
            self.skip(" \t")
            if self.text[self.pos] != ".":
                return names
            self.pos += 1

    def resolve(self, names: list[str], start: int) -> Key:
        """The path of a header: through an array of tables it leads to the last one."""
        key = Key()
        for name in names:
            key = (*key, name)
            self.offsets.setdefault(key, start)
            if key in self.lengths:
                key = (*key, self.lengths[key] - 1)
        return key

    def pair(self, prefix: Key) -> None:
        start = self.pos
        for name in self.names():
            prefix = (*prefix, name)
            self.offsets.setdefault(prefix, start)
        self.pos += 1  # the "="
        self.skip(" \t")
        begin = self.pos
        self.value(prefix)
        end = begin + len(self.text[begin : self.pos].rstrip())
        self.values[prefix] = (start, begin, end)

    def value(self, key: Key) -> None:
        char = self.text[self.pos]
        if char in "\"'":
            self.string()
        elif char == "[":
            self.pos += 1
            index = 0
            while self.skip(" \t\r\n,") and self.text[self.pos] != "]":
                self.offsets[(*key, index)] = self.pos
                self.value((*key, index))
                index += 1
            self.pos += 1
        elif char == "{":
            self.pos += 1
            while self.skip(" \t\r\n,") and self.text[self.pos] != "}":
                self.pair(key)
            self.pos += 1
        else:
            while self.pos < len(self.text) and self.text[self.pos] not in ",]}#\r\n":
                self.pos += 1

    def string(self) -> None:
        quote = self.text[self.pos]
        triple = quote * 3
        if self.text.startswith(triple, self.pos):
            self.pos += 3
            while not self.text.startswith(triple, self.pos):
                self.pos += 2 if quote == '"' and self.text[self.pos] == "\\" else 1
                self.text[self.pos]
            self.pos += 3
            # up to two quotes may stand right before the closing three
            for _ in range(2):
                if self.text.startswith(quote, self.pos):
                    self.pos += 1
        else:
            self.pos += 1
            while self.text[self.pos] != quote:
                self.pos += 2 if quote == '"' and self.text[self.pos] == "\\" else 1
            self.pos += 1
