# Values of PostgreSQL: what its binary format says, and how parameters are written.
#
# Rule 1: the server infers the types of parameters from the statement, so they are sent
# as text that any fitting type reads; only bytes and intervals, which have one
# meaning, carry their type.
# Rule 2: a value that the interface has no words for (infinity as a date, an array of
# two dimensions) decodes to None: it is told as an unsupported one, and the rest of the
# result is not lost.
# Rule 3: few bytes can stand for long text (1e131071), so decoders spend what they make.

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from .limits import RESULT_TOO_LARGE, VALUE_OVERHEAD, Budget
from .rdbms import DatabaseFailure

# None: a value that there are no words for.
Decode = Callable[[bytes, Budget], Any]

# Type OIDs (PostgreSQL, pg_type.dat).
BYTEA, INTERVAL = 17, 1186
# The number of parameters is 16 bits in a Bind message.
MAX_PARAMETERS = 0xFFFF

_SECOND = 10**6
_DAY = 86_400 * _SECOND
# The calendar repeats after 400 years.
_CYCLE_DAYS = 146_097
_EPOCH = date(2000, 1, 1)
_UNIX_EPOCH_DAYS = (date(1970, 1, 1) - _EPOCH).days
# What the largest and smallest numbers of a type stand for in dates and timestamps.
_INFINITIES_4 = (2**31 - 1, -(2**31))
_INFINITIES_8 = (2**63 - 1, -(2**63))

_INT2, _INT4, _INT8 = struct.Struct(">h"), struct.Struct(">i"), struct.Struct(">q")
_FLOAT4, _FLOAT8 = struct.Struct(">f"), struct.Struct(">d")
_INTERVAL = struct.Struct(">qii")
_NUMERIC = struct.Struct(">HhHH")  # groups of digits, weight of the first, sign, digits after the point
_ARRAY = struct.Struct(">iiI")  # dimensions, whether there are nulls, type of the elements

_NEGATIVE = 0x4000
_NOT_NUMBERS = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)|NaN|-?Infinity", re.ASCII)


def spend(budget: Budget, size: int) -> None:
    if not budget.spend(size):
        raise DatabaseFailure("query-failed", RESULT_TOO_LARGE)


# What comes out.


def _fixed(layout: struct.Struct) -> Decode:
    return lambda data, budget: layout.unpack(data)[0]


def _text(data: bytes, budget: Budget) -> str:
    return data.decode()


def _calendar(days: int) -> tuple[int, int, int]:
    """Year, month and day, so many days after 2000-01-01; years before 1 as astronomers count them."""
    cycles, rest = divmod(days, _CYCLE_DAYS)
    found = _EPOCH + timedelta(rest)
    return found.year + 400 * cycles, found.month, found.day


def _clock(micros: int) -> tuple[int, int, int, int]:
    minutes, micros = divmod(micros, 60 * _SECOND)
    return minutes // 60, minutes % 60, micros // _SECOND, micros % _SECOND * 1000


def _date(data: bytes, budget: Budget) -> tuple[int, int, int] | None:
    (days,) = _INT4.unpack(data)
    return None if days in _INFINITIES_4 else _calendar(days)


def _time(data: bytes, budget: Budget) -> tuple[int, int, int, int] | None:
    (micros,) = _INT8.unpack(data)
    return _clock(micros) if 0 <= micros <= _DAY else None


def _timestamp(data: bytes, budget: Budget) -> tuple[int, ...] | None:
    (micros,) = _INT8.unpack(data)
    if micros in _INFINITIES_8:
        return None
    days, rest = divmod(micros, _DAY)
    return (*_calendar(days), *_clock(rest))


def _uuid(data: bytes, budget: Budget) -> str:
    return str(UUID(bytes=data))


def _jsonb(data: bytes, budget: Budget) -> bytes | None:
    return data[1:] if data[:1] == b"\x01" else None  # the only version of the format


def _decimal(data: bytes, budget: Budget) -> str:
    count, weight, sign, scale = _NUMERIC.unpack_from(data)
    if sign in _NOT_NUMBERS:
        return _NOT_NUMBERS[sign]
    whole_size = 4 * (weight + 1)
    spend(budget, abs(whole_size) + 4 * count + scale)
    digits = "".join(f"{group:04}" for group in struct.unpack_from(f">{count}H", data, _NUMERIC.size))
    if whole_size < 0:
        digits, whole_size = "0" * -whole_size + digits, 0
    whole = digits[:whole_size].ljust(whole_size, "0").lstrip("0") or "0"
    text = f"{whole}.{digits[whole_size:][:scale].ljust(scale, '0')}" if scale else whole
    return f"-{text}" if sign == _NEGATIVE else text


def _interval(data: bytes, budget: Budget) -> tuple[int, ...]:
    return _INTERVAL.unpack(data)


def _range(element: Decode, zero: Any) -> Decode:
    def decode(data: bytes, budget: Budget) -> tuple[Any, ...]:
        flags, at = data[0], 1
        if flags & 0x01:
            # Empty; without bounds would mean everything. PostgreSQL reads this as empty, too.
            return (zero, "inclusive"), (zero, "exclusive")
        bounds: list[tuple[Any, str] | None] = []
        for infinite, inclusive in ((0x08, 0x02), (0x10, 0x04)):
            if flags & infinite:
                bounds.append(None)
                continue
            (size,) = _INT4.unpack_from(data, at)
            end = at + _INT4.size + size
            value = element(data[at + _INT4.size : end], budget)
            bounds.append((value, "inclusive" if flags & inclusive else "exclusive"))
            at = end
        return tuple(bounds)

    return decode


def _array(element: Decode) -> Decode:
    def decode(data: bytes, budget: Budget) -> list[Any] | None:
        dimensions, _, _ = _ARRAY.unpack_from(data)
        if dimensions == 0:
            return []
        if dimensions != 1:
            return None
        (count,) = _INT4.unpack_from(data, _ARRAY.size)
        at = _ARRAY.size + 2 * _INT4.size  # behind the number of the first element, too
        items: list[Any] = []
        for _ in range(count):
            (size,) = _INT4.unpack_from(data, at)
            at += _INT4.size
            spend(budget, VALUE_OVERHEAD)
            if size < 0:
                items.append(None)
                continue
            items.append(element(data[at : at + size], budget))
            at += size
        return items

    return decode


@dataclass(frozen=True, slots=True)
class Types:
    """What a version of the interface knows of PostgreSQL's types: by OID the data type, and its values.

    `detailed`: data types are variants, other ones are told by name, and their values as they are.
    """

    decoders: Mapping[int, tuple[str, Decode]]
    detailed: bool = False


_BASIC: dict[int, tuple[str, Decode]] = {
    16: ("boolean", lambda data, budget: data != b"\0"),
    BYTEA: ("binary", lambda data, budget: data),
    20: ("int64", _fixed(_INT8)),
    21: ("int16", _fixed(_INT2)),
    23: ("int32", _fixed(_INT4)),
    25: ("str", _text),
    700: ("floating32", _fixed(_FLOAT4)),
    701: ("floating64", _fixed(_FLOAT8)),
    1042: ("str", _text),  # character(n)
    1043: ("str", _text),  # character varying
}
_DATED = _BASIC | {
    1082: ("date", _date),
    1083: ("time", _time),
    1114: ("datetime", _timestamp),
    1184: ("datetime", _timestamp),  # with time zone, which is sent in UTC
}
_FULL = _DATED | {
    2950: ("uuid", _uuid),
    3802: ("jsonb", _jsonb),
    1700: ("decimal", _decimal),
    3904: ("range-int32", _range(_fixed(_INT4), 0)),
    3926: ("range-int64", _range(_fixed(_INT8), 0)),
    3906: ("range-decimal", _range(_decimal, "0")),
    1007: ("array-int32", _array(_fixed(_INT4))),
    1016: ("array-int64", _array(_fixed(_INT8))),
    1231: ("array-decimal", _array(_decimal)),
    1009: ("array-str", _array(_text)),
    1014: ("array-str", _array(_text)),  # character(n)
    1015: ("array-str", _array(_text)),  # character varying
    INTERVAL: ("interval", _interval),
}
BASIC, DATED, FULL = Types(_BASIC), Types(_DATED), Types(_FULL, detailed=True)


# What goes in.


def parameter(case: str, value: Any) -> tuple[bytes | None, int]:
    """A parameter as it is sent, and the OID of its type when that is not left to the server.

    Raises DatabaseFailure for a value that is none.
    """
    match case:
        case "db-null":
            return None, 0
        case "binary":
            return value, BYTEA
        case "interval":
            return _INTERVAL.pack(*value), INTERVAL
        case "uint8" | "uint16" | "uint32" | "uint64":
            raise DatabaseFailure("value-conversion-failed", "Postgres does not support unsigned integers")
    text = _ENCODERS.get(case, repr)(value)
    if b"\0" in text if isinstance(text, bytes) else "\0" in text:
        raise DatabaseFailure("query-failed", "PostgreSQL has no null characters in text")
    return text if isinstance(text, bytes) else text.encode(), 0


def _bad(kind: str, value: Any) -> DatabaseFailure:
    return DatabaseFailure("bad-parameter", f"invalid {kind} {value!r:.100}")


def _from_date(value: Sequence[int]) -> str:
    return _before_christ(value, "")


def _from_datetime(value: Sequence[int]) -> str:
    # always UTC; a type without time zone ignores the zone
    return _before_christ(value[:3], f" {_from_time(value[3:])}+00")


def _before_christ(value: Sequence[int], time: str) -> str:
    year, month, day = value
    try:
        date(2000 + year % 400, month, day)
    except ValueError:
        raise _bad("date", value) from None
    shown = year if year > 0 else 1 - year
    return f"{shown:04}-{month:02}-{day:02}{time}{'' if year > 0 else ' BC'}"


def _from_time(value: Sequence[int]) -> str:
    hour, minute, second, nanos = value
    if hour > 23 or minute > 59 or second > 59 or nanos >= 10**9:
        raise _bad("time", value)
    return f"{hour:02}:{minute:02}:{second:02}.{nanos // 1000:06}"


def _from_timestamp(seconds: int) -> str:
    days, rest = divmod(seconds, 86_400)
    return _from_datetime((*_calendar(days + _UNIX_EPOCH_DAYS), *_clock(rest * _SECOND)))


def _from_uuid(value: str) -> str:
    try:
        return str(UUID(value))
    except ValueError:
        raise _bad("UUID", value) from None


def _from_decimal(value: str) -> str:
    if _DECIMAL.fullmatch(value) is None:
        raise _bad("decimal", value)
    return value


def _from_range(element: Callable[[Any], str]) -> Callable[[Any], str]:
    def encode(value: Sequence[tuple[Any, str] | None]) -> str:
        lower, upper = value
        opening = "[" if lower is not None and lower[1] == "inclusive" else "("
        closing = "]" if upper is not None and upper[1] == "inclusive" else ")"
        shown = ",".join("" if bound is None else element(bound[0]) for bound in (lower, upper))
        return f"{opening}{shown}{closing}"

    return encode


def _from_array(element: Callable[[Any], str]) -> Callable[[Any], str]:
    def encode(value: Sequence[Any]) -> str:
        return "{" + ",".join("NULL" if item is None else element(item) for item in value) + "}"

    return encode


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_ENCODERS: dict[str, Callable[[Any], str | bytes]] = {
    "boolean": lambda value: "t" if value else "f",
    "str": str,
    "date": _from_date,
    "time": _from_time,
    "datetime": _from_datetime,
    "timestamp": _from_timestamp,
    "uuid": _from_uuid,
    "jsonb": bytes,
    "decimal": _from_decimal,
    "range-int32": _from_range(str),
    "range-int64": _from_range(str),
    "range-decimal": _from_range(_from_decimal),
    "array-int32": _from_array(str),
    "array-int64": _from_array(str),
    "array-decimal": _from_array(_from_decimal),
    "array-str": _from_array(_quoted),
}
