# A TOML text on its way to be repaired: keys are replaced, renamed and removed, and all
# the rest, comments included, stays as it was written.

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import tomli

from ..toml import Key, spans

_BARE = re.compile(r"[A-Za-z0-9_-]+")


class Edit(NamedTuple):
    """`text[begin:end]` becomes `new`."""

    begin: int
    end: int
    new: str


class Draft:
    """A valid TOML text with the places of its keys. Edits are values; `edited` makes the next draft."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.data: dict[str, Any] = tomli.loads(text)
        self.spans = spans(text)
        self.newline = "\r\n" if "\r\n" in text else "\n"

    @property
    def version(self) -> int | None:
        """Of the manifest, None where none can be made out."""
        value = self.data.get("spin_manifest_version", self.data.get("spin_version"))
        return {"1": 1, 2: 2}.get(value) if isinstance(value, str) or type(value) is int else None

    def get(self, *key: str | int) -> Any:
        """The value at `key`, None where something on the way is absent or of another type."""
        value: Any = self.data
        for part in key:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def replace(self, key: Key, value: object) -> list[Edit]:
        """Give the pair at `key` another value."""
        if key not in self.spans:
            return []
        _, begin, end = self.spans[key]
        return [Edit(begin, end, toml(value))]

    def rename(self, key: Key, name: str) -> list[Edit]:
        """Give the pair at `key` (whose key is one word) another name."""
        if key not in self.spans:
            return []
        begin, value, _ = self.spans[key]
        match = re.match(r"[^=]*?(?=\s*=)", self.text[begin:value])
        return [Edit(begin, begin + match.end(), name)] if match else []

    def remove(self, key: Key) -> list[Edit]:
        """Remove the pair at `key`: its lines, or its part of an inline table."""
        if key not in self.spans:
            return []
        begin, _, end = self.spans[key]
        line = self.text.rfind("\n", 0, begin) + 1
        rest = re.compile(r"[ \t]*(?:#[^\n]*)?\r?(?:\n|\Z)").match(self.text, end)
        if not self.text[line:begin].strip() and rest:
            return [Edit(line, rest.end(), "")]
        after = re.compile(r"\s*,[ \t]*").match(self.text, end)
        if after:
            return [Edit(begin, after.end(), "")]
        before = re.search(r",\s*\Z", self.text[:begin])
        return [Edit(before.start() if before else begin, end, "")]

    def insert(self, offset: int, lines: Iterable[str]) -> list[Edit]:
        """Insert whole lines at `offset`, which is where a line begins, or the end."""
        text = "".join(line + self.newline for line in lines)
        if offset and self.text[offset - 1] != "\n":
            text = self.newline + text
        return [Edit(offset, offset, text)]

    def below(self, key: Key) -> int:
        """Where the line after the pair at `key` begins."""
        end = self.text.find("\n", self.spans[key][2])
        return len(self.text) if end < 0 else end + 1

    def edited(self, edits: Iterable[Edit]) -> Draft | None:
        """The draft with these edits, None where they do not go together or leave no valid TOML."""
        text, last = self.text, len(self.text)
        for edit in sorted(set(edits), reverse=True):
            if edit.end > last:
                return None
            text = text[: edit.begin] + edit.new + text[edit.end :]
            last = edit.begin
        try:
            return Draft(text)
        except (tomli.TOMLDecodeError, RecursionError, IndexError):
            return None


def toml(value: object) -> str:
    """A value as TOML, on one line."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case Mapping():
            inside = ", ".join(f"{name(str(key))} = {toml(item)}" for key, item in value.items())
            return f"{{ {inside} }}" if inside else "{}"
        case list() | tuple():
            return f"[{', '.join(map(toml, value))}]"
        case float() | int():
            return str(value)
        case _:
            return value.isoformat() if hasattr(value, "isoformat") else toml(str(value))


def name(key: str) -> str:
    """A key as TOML."""
    return key if _BARE.fullmatch(key) else toml(key)
