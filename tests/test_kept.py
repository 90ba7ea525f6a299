"""Guests that are kept for processes to come: what is read is what was written, or nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from wasm_gateway import kept
from wasm_gateway.errors import DecodeError
from wasm_gateway.kept import Binaries, KeptGuests

WHOLE = Binaries(b"guest", {"x:y/z": b"", "w": b"\n\nw"}, {"middleware 1 (m)": b"middle"})


def test_pack() -> None:
    packed = b"".join(WHOLE.pack())
    assert Binaries.unpack(packed) == WHOLE
    head = packed.index(b"\n")
    for size in range(len(packed)):
        if size < head:
            with pytest.raises(DecodeError):
                Binaries.unpack(packed[:size])
        else:
            assert Binaries.unpack(packed[:size]).digest != WHOLE.digest


@pytest.mark.parametrize("head", ["", "[]", "{}", '{"dependencies": 1, "chain": [], "sizes": [1]}'])
@pytest.mark.parametrize("more", ["", '{"dependencies": [], "chain": [], "sizes": ["1"]}'])
def test_what_is_no_pack(head: str, more: str) -> None:
    with pytest.raises(DecodeError):
        Binaries.unpack(f"{head}{more}\n".encode())


def test_what_is_kept_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    guests = KeptGuests(tmp_path / "guests")
    assert guests.find(WHOLE.digest) is None
    guests.keep(WHOLE)
    guests.keep(WHOLE)
    assert KeptGuests(tmp_path / "guests").find(WHOLE.digest) == WHOLE
    (path,) = guests.folder.iterdir()
    assert (path.stat().st_mode & 0o777, guests.folder.stat().st_mode & 0o777) == (0o600, 0o700)
    assert not caplog.records
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert guests.find(WHOLE.digest) is None
    assert "is not what it was" in caplog.text
    path.write_bytes(b"garbage")
    assert guests.find(WHOLE.digest) is None
    assert "cannot be read" in caplog.text


def test_the_oldest_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guests = KeptGuests(tmp_path)
    made = [Binaries(bytes(100) + bytes([number]), {}, {}) for number in range(6)]

    def keep(number: int) -> None:
        guests.keep(made[number])
        path = tmp_path / f"{made[number].digest}.guest"
        old = time.time() - 3600.0 * (100 - number)  # the clock is too coarse for a test
        os.utime(path, (old, old))

    def left() -> list[int]:
        return [number for number, each in enumerate(made) if guests.find(each.digest) is not None]

    monkeypatch.setattr(kept, "KEPT_FILES", 3)
    for number in range(4):
        keep(number)
    assert left() == [1, 2, 3]
    guests.keep(made[1])  # it is in use
    keep(4)
    assert left() == [1, 3, 4]
    monkeypatch.setattr(kept, "KEPT_BYTES", 400)
    keep(5)
    assert left() == [1, 5]


def test_what_somebody_was_writing_who_has_ended(tmp_path: Path) -> None:
    old, young = tmp_path / ".old.part", tmp_path / ".young.part"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    KeptGuests(tmp_path).keep(WHOLE)
    assert (old.exists(), young.exists()) == (False, True)


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    guests = KeptGuests(tmp_path / "file" / "guests")
    guests.keep(WHOLE)
    assert "not kept" in caplog.text
    assert guests.find(WHOLE.digest) is None
