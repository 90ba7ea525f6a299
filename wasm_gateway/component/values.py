# Python values for the types of the Component Model.
#
#   bool, u8 .. s64, f32, f64   bool, int, float
#   char, string                str
#   list<u8>                    bytes (lowering takes any buffer of bytes)
#   list<T>                     list (lowering takes any sequence)
#   map                         list of (key, value) (lowering takes any sequence of pairs)
#   record                      a named tuple in field order (lowering takes any sequence in that order)
#   tuple                       tuple
#   variant                     (case, payload), the payload None where the case has none
#   enum                        str
#   flags                       int, bit i set for the i-th label
#   option                      None or the value; Some(value) where the payload is itself an option
#   result                      Ok(value) or Err(value)
#   own, borrow                 the host's object, or the guest's representation (int) of a guest's resource
#
# Labels keep their WIT spelling ("no-such-key"), except as field names of named
# tuples, which are Python identifiers ("data-type" is `data_type`, "from" is `from_`).

from __future__ import annotations

import keyword
from collections import namedtuple
from functools import lru_cache
from typing import Any


class _Box:
    __slots__ = ("value",)
    __match_args__ = ("value",)

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash((type(self), self.value))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value!r})"


class Ok(_Box):
    """The good side of a `result`; `Ok()` where it carries nothing."""

    __slots__ = ()


class Err(_Box):
    """The bad side of a `result`: a value, not an exception."""

    __slots__ = ()


class Some(_Box):
    """A present value of an option whose payload could be None itself."""

    __slots__ = ()


def identifier(label: str) -> str:
    """The Python attribute name of a WIT label."""
    name = label.replace("-", "_").lower()
    return name + "_" if keyword.iskeyword(name) else name


@lru_cache(maxsize=1024)
def record_class(labels: tuple[str, ...], name: str | None = None) -> type[tuple[Any, ...]]:
    """The named tuple class of a record with these fields; the same class for the same arguments.

    A name that makes no Python name (`none`, that of an interface) is left out.
    """
    title = "".join(word.capitalize() for word in (name or "record").split("-"))
    if not (title.isascii() and title.isidentifier()) or keyword.iskeyword(title):
        title = "Record"
    return namedtuple(title, [identifier(label) for label in labels])


class End(Exception):
    """The end of a source of elements (streams.py)."""
