from __future__ import annotations

import pytest

from wasm_gateway.component.memory import Memory
from wasm_gateway.errors import Trap


class Growing:
    """64 bytes now, 128 once asked to grow."""

    def __init__(self) -> None:
        self.bytes = bytearray(128)
        self.size = 64
        self.looks = 0

    def __call__(self) -> memoryview:
        self.looks += 1
        return memoryview(self.bytes)[: self.size]


@pytest.mark.parametrize(("name", "size"), [("u8", 1), ("u16", 2), ("u32", 4), ("u64", 8)])
def test_integers(name: str, size: int) -> None:
    mem = Memory(Growing())
    load, store = getattr(mem, f"load_{name}"), getattr(mem, f"store_{name}")
    value = int.from_bytes(bytes(range(0xF1, 0xF1 + size)), "little")
    store(64 - size, value)
    assert load(64 - size) == value
    assert mem.read(64 - size, size) == bytes(range(0xF1, 0xF1 + size))
    assert load(0) == 0
    for ptr in (65 - size, 64, 2**32 - 1):
        with pytest.raises(Trap, match="out of bounds memory access"):
            load(ptr)
        with pytest.raises(Trap, match="out of bounds memory access"):
            store(ptr, 1)


def test_bytes() -> None:
    mem = Memory(Growing())
    mem.write(60, b"abcd")
    assert mem.read(60, 4) == b"abcd"
    mem.write(64, b"")
    assert mem.read(64, 0) == b""
    for ptr, size in [(61, 4), (65, 0), (0, 65), (2**32 - 1, 2**32 - 1)]:
        with pytest.raises(Trap):
            mem.read(ptr, size)
    with pytest.raises(Trap):
        mem.write(61, b"abcd")
    assert mem.read(60, 4) == b"abcd"


def test_growth_is_noticed_when_needed() -> None:
    growing = Growing()
    mem = Memory(growing)
    early = mem.view
    mem.read(0, 64)
    assert growing.looks == 1
    growing.size = 128
    mem.write(64, b"new")
    assert (growing.looks, mem.size) == (2, 128)
    early[0] = 7  # a view taken before stays good
    assert mem.load_u8(0) == 7


def test_close_releases_every_view() -> None:
    growing = Growing()
    mem = Memory(growing)
    early = mem.view
    growing.size = 128
    mem.ensure(100)
    late = mem.view
    mem.close()
    for view in (early, late):
        with pytest.raises(ValueError, match="released"):
            view[0]
    with pytest.raises(ValueError, match="released"):
        mem.read(0, 0)
