from __future__ import annotations

from typing import Any

import pytest

from wasm_gateway.component.reader import MAX_ITEMS, MAX_NAME, Reader
from wasm_gateway.errors import DecodeError, UnsupportedError


def check(read: Any, data: bytes, expected: Any) -> None:
    """Whole, followed by other bytes, out of a memoryview, and cut short at every length."""
    reader = Reader(data)
    assert read(reader) == expected
    assert reader.pos == len(data)
    assert read(Reader(data + b"trailing")) == expected
    assert read(Reader(memoryview(data))) == expected

    for size in range(len(data)):
        with pytest.raises(DecodeError):
            read(Reader(data[:size]))
        with pytest.raises(DecodeError):
            read(Reader(data, 0, size))


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\x00", 0),
        (b"\x7f", 127),
        (b"\x80\x01", 128),
        (b"\x80\x00", 0),
        (b"\xff\xff\xff\xff\x0f", 2**32 - 1),
        (b"\x81\x80\x80\x80\x00", 1),
    ],
)
def test_u32(data: bytes, value: int) -> None:
    check(Reader.u32, data, value)


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff\x1f", b"\x80\x80\x80\x80\x10", b"\x80\x80\x80\x80\x80\x00"]
)
def test_bad_u32(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"u32 .* at byte 0x1"):
        Reader(b"x" + data, 1).u32()


def test_u64() -> None:
    check(Reader.u64, b"\xff" * 9 + b"\x01", 2**64 - 1)
    for data in (b"\xff" * 9 + b"\x03", b"\xff" * 10 + b"\x00"):
        with pytest.raises(DecodeError, match="u64"):
            Reader(data).u64()


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\x00", 0),
        (b"\x3f", 63),
        (b"\x40", -64),
        (b"\xc0\x00", 64),
        (b"\x7f", -1),
        (b"\xff\xff\xff\xff\x0f", 2**32 - 1),
        (b"\x80\x80\x80\x80\x70", -(2**32)),
    ],
)
def test_s33(data: bytes, value: int) -> None:
    check(Reader.s33, data, value)


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff\x1f", b"\x80\x80\x80\x80\x60", b"\x80\x80\x80\x80\x80\x00"]
)
def test_bad_s33(data: bytes) -> None:
    with pytest.raises(DecodeError, match="s33"):
        Reader(data).s33()


def test_name() -> None:
    check(Reader.name, b"\x03a\xc3\xa9", "aé")
    check(Reader.name, b"\x00", "")
    for data in (b"\x01\xff", b"\x02\xc3", b"\x03\xed\xa0\x80"):
        with pytest.raises(DecodeError):
            Reader(data).name()


def test_vec() -> None:
    check(lambda reader: reader.vec(reader.u32), b"\x03\x01\x80\x01\x02", [1, 128, 2])
    with pytest.raises(DecodeError, match="4294967295 items in 2 bytes at byte 0x0"):
        Reader(b"\xff\xff\xff\xff\x0fab").vec(lambda: pytest.fail("nothing is read"))


def test_take_and_sub() -> None:
    check(lambda reader: bytes(reader.take(3)), b"abc", b"abc")
    reader = Reader(b"abcdef", 1)
    sub = reader.sub(2)
    assert (bytes(sub.take(2)), sub.left, reader.left) == (b"bc", 0, 3)
    with pytest.raises(DecodeError, match="1 bytes expected, 0 left at byte 0x3"):
        sub.take(1)
    with pytest.raises(DecodeError, match="4 bytes expected, 3 left"):
        reader.sub(4)


def test_peek_expect_finish() -> None:
    reader = Reader(b"\x01\x02")
    assert reader.peek() == 1
    assert reader.expect("thing", 1, 2) == 1
    with pytest.raises(DecodeError, match="1 bytes too many in the whole at byte 0x1"):
        reader.finish("the whole")
    with pytest.raises(DecodeError, match="0x02 is no thing at byte 0x1"):
        reader.expect("thing", 1)
    reader.finish("the whole")
    with pytest.raises(DecodeError):
        reader.peek()


def test_a_name_has_a_limit() -> None:
    size = b"\xa0\x8d\x06"  # 100,000
    assert len(Reader(size + b"a" * MAX_NAME).name()) == MAX_NAME
    with pytest.raises(UnsupportedError, match="at most 100000"):
        Reader(b"\xa1\x8d\x06" + b"a" * (MAX_NAME + 1)).name()


def test_all_vectors_of_a_binary_have_a_limit_together() -> None:
    half = b"\xa1\xc2\x1e" + b"\0" * (MAX_ITEMS // 2 + 1)  # 500,001
    reader = Reader(half * 2)
    assert reader.sub(len(half)).count() == MAX_ITEMS // 2 + 1
    with pytest.raises(UnsupportedError, match="more than 1000000 definitions"):
        reader.count()
