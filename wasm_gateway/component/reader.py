# Byte cursor for the binary formats of modules and components (core spec 5, Binary.md).
#
# Rule 1: only this file turns bytes into integers, names and vectors.
# Rule 2: it knows no section and no type; decode.py gives bytes their meaning.
#
# Every method either consumes what it returns, or raises DecodeError with the
# offset where the item began. The whole binary is in memory: no "need more".

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..errors import DecodeError, UnsupportedError

T = TypeVar("T")

# Items of all vectors of one binary, and its sections: each costs some 200 bytes, and 10 us.
# - wasm-tools: 1,000,000 types, functions, imports and exports each
MAX_ITEMS = 1_000_000
# Bytes of one name.
# - wasm-tools: 100,000
MAX_NAME = 100_000


class Quota:
    """What may still be read of one binary; all readers of its parts share it."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_ITEMS

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise UnsupportedError(f"more than {MAX_ITEMS} definitions in one binary", "large components")


class Reader:
    """Reads `data` from `pos` up to `end`; offsets in errors are those of `data`.

    What `take` returns are slices of `data`: of a memoryview they cost nothing, of bytes they read faster.
    """

    __slots__ = ("data", "end", "pos", "quota")

    def __init__(
        self, data: bytes | memoryview, pos: int = 0, end: int | None = None, quota: Quota | None = None
    ) -> None:
        self.data = data
        self.pos = pos
        self.end = len(self.data) if end is None else end
        self.quota = Quota() if quota is None else quota

    @property
    def left(self) -> int:
        return self.end - self.pos

    def take(self, size: int) -> bytes | memoryview:
        start = self.pos
        if size > self.end - start:
            raise DecodeError(f"{size} bytes expected, {self.end - start} left", start)
        self.pos = start + size
        return self.data[start : self.pos]

    def sub(self, size: int) -> Reader:
        """A reader of the next `size` bytes, which this one skips."""
        start = self.pos
        self.take(size)
        return Reader(self.data, start, self.pos, self.quota)

    def byte(self) -> int:
        pos = self.pos
        if pos >= self.end:
            raise DecodeError("1 byte expected, 0 left", pos)
        self.pos = pos + 1
        return self.data[pos]

    def peek(self) -> int:
        """The next byte, which stays there."""
        if self.pos >= self.end:
            raise DecodeError("1 byte expected, 0 left", self.pos)
        return self.data[self.pos]

    def expect(self, what: str, *values: int) -> int:
        """A byte that has to be one of `values`."""
        value = self.byte()
        if value not in values:
            raise DecodeError(f"{value:#04x} is no {what}", self.pos - 1)
        return value

    def u32(self) -> int:
        """Unsigned LEB128, at most 5 bytes and 32 bits (core spec 5.2.2)."""
        pos = self.pos
        if pos < self.end and (byte := self.data[pos]) < 0x80:
            self.pos = pos + 1
            return byte
        return self._leb128(32)

    def u64(self) -> int:
        return self._leb128(64)

    def _leb128(self, bits: int) -> int:
        start, value = self.pos, 0
        for shift in range(0, bits, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                if value >> bits:
                    raise DecodeError(f"u{bits} out of range", start)
                return value
        raise DecodeError(f"u{bits} is too long", start)

    def s33(self) -> int:
        """Signed LEB128, at most 5 bytes and 33 bits."""
        start, value = self.pos, 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                if byte & 0x40:
                    value -= 1 << (shift + 7)
                if not -(1 << 32) <= value < 1 << 32:
                    raise DecodeError("s33 out of range", start)
                return value
        raise DecodeError("s33 is too long", start)

    def name(self) -> str:
        """A length and so many bytes of UTF-8 (core spec 5.2.4)."""
        start = self.pos
        size = self.u32()
        pos, end = self.pos, self.pos + size
        if end > self.end:
            raise DecodeError(f"name of {size} bytes, {self.end - pos} left", start)
        if size > MAX_NAME:
            raise UnsupportedError(f"name of {size} bytes (at most {MAX_NAME})", "long names")
        self.pos = end
        try:
            return str(self.data[pos:end], "utf-8")
        except UnicodeDecodeError:
            raise DecodeError("name is not UTF-8", start) from None

    def vec(self, item: Callable[[], T]) -> list[T]:
        """A length and so many items, each at least one byte long."""
        return [item() for _ in range(self.count())]

    def count(self) -> int:
        """The length of a vector, checked against what is left, and paid for."""
        start, length = self.pos, self.u32()
        if length > self.end - self.pos:
            raise DecodeError(f"{length} items in {self.end - self.pos} bytes", start)
        self.quota.spend(length)
        return length

    def finish(self, what: str) -> None:
        """All has to be read."""
        if self.pos != self.end:
            raise DecodeError(f"{self.end - self.pos} bytes too many in {what}", self.pos)
