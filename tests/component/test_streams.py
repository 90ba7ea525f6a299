"""Streams and futures, between parts of a guest and between a guest and the host."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tasks_wat import Host, Part, instance_of, linked, running, said
from wasm_gateway.component import concurrency
from wasm_gateway.component.builtins import COPY_LIMIT
from wasm_gateway.component.streams import (
    Codec,
    CopyResult,
    Drain,
    GuestBuffer,
    HostBuffer,
    SharedStream,
    move,
)
from wasm_gateway.errors import DeadlineExceeded, Trap

COMPLETED, DROPPED, CANCELLED = CopyResult
BLOCKED = 0xFFFFFFFF

# Of a new pair: $r and $w, from the letter of its kind.
NEW = """(local.set $pair (call ${0}.new))
  (local.set $r (i32.wrap_i64 (local.get $pair))) (local.set $w (call $high (local.get $pair)))"""
LOCALS = "(local $pair i64) (local $r i32) (local $w i32) (local $i i32)"
S, F = NEW.format("s"), NEW.format("f")


def copied(result: CopyResult, count: int) -> int:
    """The payload of the event of a stream."""
    return result | count << 4


def run(code: str, more: str = "", **imports: tuple[str, str, bool]) -> Part:
    return Part(
        f'{more} (func (export "run") (param $x i32) (result i32) {LOCALS} {code})',
        {"run": ("u", "u", True)},
        imports,
    )


def other(kind: str, code: str, back: str = "unreachable", more: str = "") -> Part:
    """A part that is given an end, as `take`, in its parameter $x."""
    return Part(
        f"""{more} (func (export "take") (param $x i32) (result i32) {LOCALS} {code})
            (func (export "callback-take") (param $event i32) (param $index i32) (param $payload i32)
              (result i32) {LOCALS} {back})""",
        {"take": (kind, "u", True)},
    )


HELLO = '(data (i32.const 256) "hello world")'
EXIT, YIELD = "(i32.const 0)", "(i32.const 1)"


# Between two parts.


def test_a_reader_takes_less_than_the_writer_has() -> None:
    """Both are told how far they came; the writer's rest is what it writes next."""
    take = other(
        "s",
        f"""(call $say (call $s.read (local.get $x) (i32.const 512) (i32.const 4)))
            (call $say (i32.load (i32.const 512)))
            (call $s.drop-readable (local.get $x)) (call $return (i32.const 0)) {EXIT}""",
    )
    write = run(
        f"""{S} (call $say (call $s.write (local.get $w) (i32.const 256) (i32.const 6)))
            (drop (call $take (local.get $r)))
            (call $say (call $await (local.get $w)))
            (call $s.drop-writable (local.get $w)) (i32.const 0)""",
        HELLO,
        take=("s", "u", True),
    )
    assert said(take, write) == [
        BLOCKED,
        copied(COMPLETED, 4),
        int.from_bytes(b"hell", "little"),
        copied(DROPPED, 4),
        0,
    ]


def test_a_reader_waits_for_its_writer() -> None:
    take = other(
        "s",
        """(call $say (call $s.read (local.get $x) (i32.const 512) (i32.const 100)))
            (call $set (local.get $x))
            (i32.or (i32.const 2) (i32.shl (call $only (local.get $x)) (i32.const 4)))""",
        f"""(call $say (local.get $event)) (call $say (local.get $payload))
            (call $say (i32.load (i32.const 512)))
            (call $return (i32.sub (local.get $index) (call $get))) {EXIT}""",
    )
    write = run(
        f"""{S} (local.set $i (call $take-async (local.get $r) (i32.const 32)))
            (call $say (call $s.write (local.get $w) (i32.const 256) (i32.const 4)))
            (drop (call $await (call $index (local.get $i)))) (i32.load (i32.const 32))""",
        HELLO,
        take=("s", "u", True),
    )
    hell = int.from_bytes(b"hell", "little")
    assert said(take, write) == [BLOCKED, copied(COMPLETED, 4), 2, copied(COMPLETED, 4), hell, 0]


def test_copies_without_elements() -> None:
    """A write of none tells its writer when a reader is there; of two such the reader goes on waiting."""
    write = run(
        f"""{S} (call $say (call $s.write (local.get $w) (i32.const 0) (i32.const 0)))
            (call $say (call $s.read (local.get $r) (i32.const 512) (i32.const 0)))
            (call $say (call $await (local.get $w)))
            ;; now the reader is the one that waits
            (call $say (call $s.write (local.get $w) (i32.const 0) (i32.const 0)))
            (call $say (call $s.write (local.get $w) (i32.const 256) (i32.const 3)))
            (call $say (call $await (local.get $r)))
            (call $say (call $s.read (local.get $r) (i32.const 512) (i32.const 0)))
            (call $say (call $s.read (local.get $r) (i32.const 512) (i32.const 9)))
            (call $await (local.get $w))""",
        HELLO,
    )
    none, three = copied(COMPLETED, 0), copied(COMPLETED, 3)
    assert said(write) == [BLOCKED, BLOCKED, none, none, BLOCKED, none, none, three, three]


@pytest.mark.parametrize(("writes", "reads"), [("write", "read"), ("read", "write")])
def test_the_other_end_goes_while_one_waits(writes: str, reads: str) -> None:
    mine, its = ("w", "readable") if writes == "write" else ("r", "writable")
    theirs = "r" if mine == "w" else "w"
    code = f"""{S} (call $say (call $s.{writes} (local.get ${mine}) (i32.const 256) (i32.const 3)))
      (call $s.drop-{its} (local.get ${theirs}))
      (call $await (local.get ${mine}))"""
    assert said(run(code)) == [BLOCKED, copied(DROPPED, 0)]


def test_the_other_end_goes_after_it_took_some() -> None:
    code = f"""{S} (drop (call $s.write (local.get $w) (i32.const 256) (i32.const 3)))
      (drop (call $s.read (local.get $r) (i32.const 512) (i32.const 2)))
      (call $say (call $await (local.get $w)))
      (call $s.drop-readable (local.get $r))
      (call $s.write (local.get $w) (i32.const 256) (i32.const 3))"""
    assert said(run(code)) == [copied(COMPLETED, 2), copied(DROPPED, 0)]


@pytest.mark.parametrize("suffix", ["", "-async"])
@pytest.mark.parametrize(("verb", "end"), [("write", "w"), ("read", "r")])
def test_a_copy_is_cancelled(verb: str, end: str, suffix: str) -> None:
    code = f"""{S} (drop (call $s.{verb} (local.get ${end}) (i32.const 256) (i32.const 3)))
      (call $say (call $s.cancel-{verb}{suffix} (local.get ${end})))
      ;; and begun again
      (call $s.{verb} (local.get ${end}) (i32.const 256) (i32.const 3))"""
    assert said(run(code)) == [copied(CANCELLED, 0), BLOCKED]


@pytest.mark.parametrize(
    ("verb", "end", "back", "its"), [("write", "w", "read", "r"), ("read", "r", "write", "w")]
)
def test_a_copy_is_cancelled_that_has_begun(verb: str, end: str, back: str, its: str) -> None:
    code = f"""{S} (drop (call $s.{verb} (local.get ${end}) (i32.const 256) (i32.const 8)))
      (call $say (call $s.{back} (local.get ${its}) (i32.const 512) (i32.const 3)))
      (call $s.cancel-{verb} (local.get ${end}))"""
    assert said(run(code)) == [copied(COMPLETED, 3), copied(CANCELLED, 3)]


@pytest.mark.parametrize(
    ("verb", "end", "back", "its"), [("write", "w", "read", "r"), ("read", "r", "write", "w")]
)
def test_an_end_that_was_told_of_its_copy_has_its_buffer_back(
    verb: str, end: str, back: str, its: str
) -> None:
    """The other end waits for the next one, though of the last there was something left."""
    code = f"""{S} (drop (call $s.{verb} (local.get ${end}) (i32.const 256) (i32.const 8)))
      (drop (call $s.{back} (local.get ${its}) (i32.const 512) (i32.const 3)))
      (call $say (call $await (local.get ${end})))
      (call $say (call $s.{back} (local.get ${its}) (i32.const 512) (i32.const 3)))
      (call $say (call $s.{verb} (local.get ${end}) (i32.const 256) (i32.const 2)))
      (call $await (local.get ${its}))"""
    assert said(run(code)) == [copied(COMPLETED, 3), BLOCKED, copied(COMPLETED, 2), copied(COMPLETED, 2)]


def test_a_copy_is_cancelled_whose_other_end_is_gone() -> None:
    code = f"""{S} (drop (call $s.write (local.get $w) (i32.const 256) (i32.const 8)))
      (call $s.drop-readable (local.get $r)) (call $s.cancel-write (local.get $w))"""
    assert said(run(code)) == [copied(DROPPED, 0)]


def test_numbers_are_copied_within_a_part() -> None:
    code = f"""{NEW.format("n")}
      (i32.store (i32.const 256) (i32.const 70_000)) (i32.store (i32.const 260) (i32.const -2))
      (drop (call $n.write (local.get $w) (i32.const 256) (i32.const 2)))
      (call $say (call $n.read (local.get $r) (i32.const 512) (i32.const 9)))
      (call $say (i32.load (i32.const 512))) (i32.load (i32.const 516))"""
    assert said(run(code)) == [copied(COMPLETED, 2), 70_000, (1 << 32) - 2]


TEXTS = HELLO + '(data (i32.const 128) "\\00\\01\\00\\00\\05\\00\\00\\00\\06\\01\\00\\00\\05\\00\\00\\00")'


def test_texts_are_copied_between_parts() -> None:
    take = other(
        "t",
        f"""(call $say (call $t.read (local.get $x) (i32.const 512) (i32.const 9)))
            (call $say (i32.load (i32.const 516)))
            (call $say (i32.load8_u (i32.load (i32.const 512))))
            (call $say (i32.load8_u (i32.load (i32.const 520))))
            (call $return (i32.const 0)) {EXIT}""",
    )
    write = run(
        f"""{NEW.format("t")} (drop (call $t.write (local.get $w) (i32.const 128) (i32.const 2)))
            (call $take (local.get $r))""",
        TEXTS,
        take=("t", "u", True),
    )
    assert said(take, write) == [copied(COMPLETED, 2), 5, ord("h"), ord("w"), 0]


@pytest.mark.parametrize("kind", ["t", "g"])
@pytest.mark.parametrize("first", ["read", "write"])
def test_texts_are_not_copied_within_a_part(kind: str, first: str) -> None:
    size = "(i32.const 1)" if kind == "t" else ""
    copies = {
        "write": f"(drop (call ${kind}.write (local.get $w) (i32.const 128) {size}))",
        "read": f"(drop (call ${kind}.read (local.get $r) (i32.const 512) {size}))",
    }
    code = f"{NEW.format(kind)} {copies.pop(first)} {' '.join(copies.values())} (i32.const 0)"
    with pytest.raises(Trap, match="within one component instance"):
        said(run(code, TEXTS))


def test_units_take_no_room() -> None:
    """As many as there can be; a list of them would be of 2 GiB."""
    code = f"""{NEW.format("z")}
      (drop (call $z.write (local.get $w) (i32.const -1) (i32.const 0xFFFFFFF)))
      (call $say (call $z.read (local.get $r) (i32.const -1) (i32.const 5)))
      (call $say (call $await (local.get $w)))
      (drop (call $z.write (local.get $w) (i32.const -1) (i32.const 0xFFFFFFF)))
      (i32.shr_u (call $z.read (local.get $r) (i32.const -1) (i32.const 0xFFFFFFF)) (i32.const 4))"""
    assert said(run(code)) == [copied(COMPLETED, 5), copied(COMPLETED, 5), (1 << 28) - 1]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "(call $s.read (local.get $r) (i32.const 0) (i32.const 0x10000000))",
            "buffer of 268435456 elements",
        ),
        ("(call $s.read (local.get $r) (i32.const 0) (i32.const -1))", "buffer of 4294967295 elements"),
        ("(call $s.read (local.get $r) (i32.const 0x1FFFF) (i32.const 2))", "out of bounds"),
        ("(call $s.write (local.get $w) (i32.const -1) (i32.const 2))", "out of bounds"),
        ("(call $n.read (i32.wrap_i64 (call $n.new)) (i32.const 2) (i32.const 1))", "not aligned to 4"),
        ("(call $n.read (i32.wrap_i64 (call $n.new)) (i32.const 0) (i32.const 0xFFFFFFF))", "out of bounds"),
        ("(call $f.read (i32.wrap_i64 (call $f.new)) (i32.const 0x1FFFE))", "not aligned"),
        ("(call $f.read (i32.wrap_i64 (call $f.new)) (i32.const 0x20000))", "out of bounds"),
        ("(call $s.read (local.get $w) (i32.const 0) (i32.const 1))", "is not a ReadableStreamEnd"),
        ("(call $s.write (local.get $r) (i32.const 0) (i32.const 1))", "is not a WritableStreamEnd"),
        ("(call $f.read (local.get $r) (i32.const 0))", "is not a ReadableFutureEnd"),
        ("(call $n.read (local.get $r) (i32.const 0) (i32.const 1))", "of another element type"),
        ("(call $s.read (i32.const 55) (i32.const 0) (i32.const 1))", "unknown handle index 55"),
        ("(call $s.cancel-read (local.get $r))", "no copy is under way"),
        ("(call $s.cancel-write-async (local.get $w))", "no copy is under way"),
        ("(call $n.cancel-read (local.get $r))", "of another element type"),
        (
            (
                "(call $s.read (local.get $r) (i32.const 0) (i32.const 1)) "
                "(drop (call $s.read (local.get $r) (i32.const 0) (i32.const 1)))"
            ),
            "while another copy is under way",
        ),
        (
            (
                "(call $s.read (local.get $r) (i32.const 0) (i32.const 1)) "
                "(call $s.drop-readable (local.get $r))"
            ),
            "that is being read or written",
        ),
        (
            (
                "(call $s.drop-writable (local.get $w)) "
                "(drop (call $s.read (local.get $r) (i32.const 0) (i32.const 1))) "
                "(call $s.read (local.get $r) (i32.const 0) (i32.const 1))"
            ),
            "or when it is over",
        ),
        (
            (
                "(call $join (local.get $r) (call $set-new)) "
                "(call $s.read-sync (local.get $r) (i32.const 0) (i32.const 1))"
            ),
            "synchronous copy of an end that is in a waitable set",
        ),
        ("(call $s.read-sync (local.get $r) (i32.const 0) (i32.const 1))", "deadlock detected"),
        ("(call $f.drop-writable (call $high (call $f.new))) (i32.const 0)", "without first writing a value"),
        ("(call $s.drop-readable (local.get $w)) (i32.const 0)", "is not a ReadableStreamEnd"),
        ("(call $n.drop-readable (local.get $r)) (i32.const 0)", "of another element type"),
    ],
)
def test_what_may_not_be_done(code: str, message: str) -> None:
    with pytest.raises(Trap, match=message):
        said(run(f"{S} (drop {code}) (i32.const 0)"))


def test_a_cancellation_in_a_waitable_set() -> None:
    """wit-bindgen before 0.59 does so, other than the specification says."""
    code = """(call $join (local.get $r) (call $set-new))
      (drop (call $s.read (local.get $r) (i32.const 0) (i32.const 1)))"""
    assert said(run(f"{S} {code} (call $s.cancel-read (local.get $r))")) == [copied(CANCELLED, 0)]


# Futures.


@pytest.mark.parametrize("first", ["read", "write"])
def test_a_value_is_given_once(first: str) -> None:
    copies = {
        "write": "(call $say (call $f.write (local.get $w) (i32.const 256)))",
        "read": "(call $say (call $f.read (local.get $r) (i32.const 512)))",
    }
    waits = "r" if first == "read" else "w"
    code = f"""{F} (i32.store (i32.const 256) (i32.const 7))
      {copies.pop(first)} {" ".join(copies.values())} (call $say (call $await (local.get ${waits})))
      (call $f.drop-writable (local.get $w)) (call $f.drop-readable (local.get $r))
      (i32.load (i32.const 512))"""
    assert said(run(code)) == [BLOCKED, COMPLETED, COMPLETED, 7]


@pytest.mark.parametrize(("verb", "end"), [("read", "r"), ("write", "w")])
def test_a_future_is_done_when_its_value_is_there(verb: str, end: str) -> None:
    code = f"""{F} (drop (call $f.write (local.get $w) (i32.const 256)))
      (drop (call $f.read (local.get $r) (i32.const 512))) (drop (call $await (local.get $w)))
      (call $f.{verb} (local.get ${end}) (i32.const 256))"""
    with pytest.raises(Trap, match="or when it is over"):
        said(run(code))


def test_nobody_waits_for_the_value() -> None:
    code = f"""{F} (drop (call $f.write (local.get $w) (i32.const 256)))
      (call $f.drop-readable (local.get $r)) (call $say (call $await (local.get $w)))
      (call $f.drop-writable (local.get $w)) (i32.const 0)"""
    assert said(run(code)) == [DROPPED, 0]


@pytest.mark.parametrize(("verb", "end"), [("read", "r"), ("write", "w")])
@pytest.mark.parametrize("suffix", ["", "-async"])
def test_a_copy_of_a_future_is_cancelled(verb: str, end: str, suffix: str) -> None:
    code = f"""{F} (drop (call $f.{verb} (local.get ${end}) (i32.const 256)))
      (call $say (call $f.cancel-{verb}{suffix} (local.get ${end})))
      (call $f.{verb} (local.get ${end}) (i32.const 256))"""
    assert said(run(code)) == [CANCELLED, BLOCKED]


def test_a_text_is_given_to_another_part() -> None:
    take = other(
        "g",
        f"""(call $say (call $g.read (local.get $x) (i32.const 512)))
            (call $say (i32.load8_u (i32.load (i32.const 512))))
            (call $return (i32.load (i32.const 516))) {EXIT}""",
    )
    write = run(
        f"""{NEW.format("g")} (drop (call $g.write (local.get $w) (i32.const 128)))
            (local.set $i (call $take (local.get $r)))
            (call $say (call $await (local.get $w))) (local.get $i)""",
        TEXTS,
        take=("g", "u", True),
    )
    assert said(take, write) == [COMPLETED, ord("h"), COMPLETED, 5]


# Ends that go elsewhere.


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "(drop (call $s.read (local.get $r) (i32.const 0) (i32.const 1)))",
            "that is being read, or is done",
        ),
        (
            (
                "(call $s.drop-writable (local.get $w)) "
                "(drop (call $s.read (local.get $r) (i32.const 0) (i32.const 1)))"
            ),
            "that is being read, or is done",
        ),
        ("(call $join (local.get $r) (call $set-new))", "that is in a waitable set"),
        ("(local.set $r (local.get $w))", "is not a ReadableStreamEnd"),
        ("(local.set $r (i32.wrap_i64 (call $n.new)))", "of another element type"),
        ("(call $s.drop-readable (local.get $r))", "unknown handle index"),
        ("(drop (call $back (local.get $r)))", ""),
    ],
)
def test_an_end_that_cannot_be_given_away(code: str, message: str) -> None:
    part = run(f"{S} {code} (drop (call $sink (local.get $r))) (i32.const 0)")
    if message:
        with pytest.raises(Trap, match=message):
            said(part)
    else:  # its index is free again, and given to what comes back
        with pytest.raises(Trap, match="deadlock detected"):
            said(part)


# With the host.


def test_the_host_is_read() -> None:
    host = Host((b"hello ", b"", b"world"))
    code = """(local.set $r (call $source (i32.const 0)))
      (call $say (call $s.read (local.get $r) (i32.const 512) (i32.const 4)))
      (call $say (call $s.read (local.get $r) (i32.const 512) (i32.const 100)))
      (call $say (call $s.read (local.get $r) (i32.const 512) (i32.const 100)))
      (call $say (call $await (local.get $r)))
      (call $say (i32.load (i32.const 512)))
      (call $say (call $s.read (local.get $r) (i32.const 512) (i32.const 100)))
      (call $s.drop-readable (local.get $r)) (i32.const 0)"""
    worl = int.from_bytes(b"worl", "little")
    with running(run(code), host=host) as guest:
        assert guest.run() == 0
        assert host.said == [
            copied(COMPLETED, 4),
            copied(COMPLETED, 2),
            BLOCKED,
            copied(COMPLETED, 5),
            worl,
            copied(DROPPED, 0),
        ]
        assert [source.closed for source in host.sources] == [1]
    assert [source.closed for source in host.sources] == [1]


def test_an_end_may_join_a_set_when_its_synchronous_copy_is_over() -> None:
    code = """(local.set $r (call $source (i32.const 0)))
      (call $say (call $s.read-sync (local.get $r) (i32.const 512) (i32.const 4)))
      (call $join (local.get $r) (call $set-new)) (i32.const 0)"""
    assert said(run(code), host=Host((b"", b"late"))) == [copied(COMPLETED, 4), 0]


def test_a_read_of_nothing_tells_when_the_host_has_something() -> None:
    code = """(local.set $r (call $source (i32.const 0)))
      (call $say (call $await-read (local.get $r)))
      (call $s.read (local.get $r) (i32.const 512) (i32.const 100))"""
    more = """(func $await-read (param i32) (result i32) (local $i i32)
      (local.set $i (call $s.read (local.get 0) (i32.const 0) (i32.const 0)))
      (if (i32.eq (local.get $i) (i32.const -1)) (then (local.set $i (call $await (local.get 0)))))
      (local.get $i))"""
    assert said(run(code, more)) == [copied(COMPLETED, 0), copied(COMPLETED, 6)]


@pytest.mark.parametrize("suffix", ["", "-async"])
def test_a_read_of_the_host_is_cancelled(suffix: str) -> None:
    host = Host((b"", b"world"))
    code = f"""(local.set $r (call $source (i32.const 0)))
      (call $say (call $s.read (local.get $r) (i32.const 512) (i32.const 4)))
      (call $say (call $s.cancel-read{suffix} (local.get $r)))
      (call $s.read (local.get $r) (i32.const 512) (i32.const 4))"""
    assert said(run(code), host=host) == [BLOCKED, copied(CANCELLED, 0), copied(COMPLETED, 4)]
    assert [source.closed for source in host.sources] == [1]


def test_the_host_reads_all() -> None:
    host = Host()
    code = f"""{S} (local.set $i (call $index (call $sink-async (local.get $r) (i32.const 32))))
      (call $say (call $s.write-sync (local.get $w) (i32.const 256) (i32.const 4)))
      (call $say (call $s.write-sync (local.get $w) (i32.const 260) (i32.const 7)))
      (call $say (call $s.write-sync (local.get $w) (i32.const 264) (i32.const 3)))
      (call $say (call $s.write-sync (local.get $w) (i32.const 256) (i32.const 2)))
      (call $s.drop-writable (local.get $w))
      (drop (call $await (local.get $i))) (i32.load (i32.const 32))"""
    assert said(run(code, HELLO), host=host) == [*(copied(COMPLETED, n) for n in (4, 7, 3, 2)), 16]
    assert host.taken == [b"hell", b"o wo", b"rld", b"rld", b"he"]


def test_the_host_has_enough() -> None:
    code = f"""{S} (local.set $i (call $index (call $peek-async (local.get $r) (i32.const 32))))
      (call $say (call $s.write (local.get $w) (i32.const 256) (i32.const 9)))
      (drop (call $await (local.get $i)))
      (call $say (i32.load (i32.const 32)))
      (call $s.write (local.get $w) (i32.const 256) (i32.const 9))"""
    assert said(run(code, HELLO)) == [copied(COMPLETED, 4), 4, copied(DROPPED, 0)]


def test_the_host_reads_texts() -> None:
    host = Host()
    code = f"""{NEW.format("t")}
      (local.set $i (call $index (call $count-async (local.get $r) (i32.const 32))))
      (call $say (call $t.write (local.get $w) (i32.const 128) (i32.const 2)))
      (call $t.drop-writable (local.get $w)) (drop (call $await (local.get $i))) (i32.load (i32.const 32))"""
    assert said(run(code, TEXTS), host=host) == [copied(COMPLETED, 2), 2]
    assert host.taken == [b"hello", b"world"]


def test_a_stream_of_the_host_comes_back_to_it() -> None:
    host = Host((b"hello ", b"", b"world"))
    code = "(call $sink (call $back (call $source (i32.const 0))))"
    assert said(run(code), host=host) == [11]
    assert b"".join(host.taken) == b"hello world"
    assert [source.closed for source in host.sources] == [1]


def test_calls_that_wait_for_streams_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they wait for is in no table of the guest any more, so that its size is no bound."""
    monkeypatch.setattr(concurrency, "MAX_WAITING", 20)
    code = """(loop $on
      (drop (call $peek-async (call $source (i32.const 0)) (i32.const 32))) (br $on)) unreachable"""
    host = Host((b"", b"more"))
    with pytest.raises(Trap, match="more than 20 "):
        said(run(code), host=host)
    assert {source.closed for source in host.sources} == {1}


def test_a_future_of_the_host() -> None:
    code = """(local.set $r (call $soon (i32.const 3)))
      (call $say (call $f.read (local.get $r) (i32.const 512)))
      (call $say (call $f.cancel-read (local.get $r)))
      (call $say (call $f.read (local.get $r) (i32.const 512)))
      (call $opened (i32.const 3))
      (call $say (call $await (local.get $r)))
      (call $f.drop-readable (local.get $r)) (i32.load (i32.const 512))"""
    assert said(run(code)) == [BLOCKED, CANCELLED, BLOCKED, COMPLETED, 103]


def test_a_future_of_the_host_that_nobody_wants() -> None:
    host = Host()
    code = "(call $f.drop-readable (call $soon (i32.const 3))) (i32.const 0)"
    with running(run(code), host=host) as guest:
        guest.run()
        assert host.ended == [3]
    assert host.ended == [3]


PROMISED = """(local.set $r (call $word (local.get $x)))
  (call $say (call $g.read (local.get $r) (i32.const 512)))
  (local.set $i (call $make (i32.const 0)))"""


def test_a_promise_of_the_host() -> None:
    code = f"""{PROMISED} (call $thing-drop (local.get $i)) (call $say (call $await (local.get $r)))
      (call $say (i32.load8_u (i32.load (i32.const 512)))) (i32.load (i32.const 516))"""
    assert said(run(code), n=6) == [BLOCKED, COMPLETED, ord("w"), 6]


def test_no_code_of_a_guest_runs_while_it_is_closed() -> None:
    """A text that it still waits for would need its allocator, which here has no room for it: a Trap."""
    host = Host()
    with running(run(f"{PROMISED} (i32.const 0)"), host=host) as guest:
        guest.run(100_000)
    assert [thing.closed for thing in host.things] == [1]


@pytest.mark.parametrize("early", [True, False])
def test_the_host_waits_for_a_value(early: bool) -> None:
    write = "(call $say (call $f.write (local.get $w) (i32.const 256)))"
    code = f"""{F} (i32.store (i32.const 256) (i32.const 7)) {write if early else ""}
      (local.set $i (call $value-async (local.get $r) (i32.const 32))) {"" if early else write}
      (if (call $index (local.get $i)) (then (drop (call $await (call $index (local.get $i))))))
      (i32.load (i32.const 32))"""
    assert said(run(code)) == [BLOCKED if early else COMPLETED, 7]


def test_a_value_of_the_host_comes_back_to_it() -> None:
    code = """(local.set $i (call $index (call $value-async (call $soon (i32.const 3)) (i32.const 32))))
      (call $opened (i32.const 3)) (drop (call $await (local.get $i))) (i32.load (i32.const 32))"""
    assert said(run(code)) == [103]


@pytest.mark.parametrize("call", ["(call $sink-async (local.get $r) (i32.const 32))"])
def test_a_call_that_reads_is_cancelled(call: str) -> None:
    """Its read goes with it; the guest may not use the other end as if nobody ever read."""
    code = f"""{S} (local.set $i (call $index {call}))
      (call $say (call $sub-cancel (local.get $i)))
      (call $s.write (local.get $w) (i32.const 256) (i32.const 3))"""
    assert said(run(code)) == [4, BLOCKED]


# The end.

LEFT = {
    "a trap": "unreachable",
    "a trap in the host": "(call $gate (i32.const 3))",
    "a read": f"{S} (call $s.read (local.get $r) (i32.const 512) (i32.const 4))",
    "a write": f"{S} (call $s.write (local.get $w) (i32.const 512) (i32.const 4))",
    "a write in part": f"""{S} (drop (call $s.write (local.get $w) (i32.const 512) (i32.const 4)))
      (call $s.read (local.get $r) (i32.const 512) (i32.const 2))""",
    "an event": f"""{S} (drop (call $s.write (local.get $w) (i32.const 512) (i32.const 4)))
      (call $s.drop-readable (local.get $r)) (i32.const 0)""",
    "a set": f"""{S} (drop (call $s.read (local.get $r) (i32.const 512) (i32.const 4)))
      (call $join (local.get $r) (call $set-new)) (i32.const 0)""",
    "an end in a set": f"""{F} (call $join (local.get $w) (call $set-new))
      (call $f.drop-writable (local.get $w)) (i32.const 0)""",
    "a read that blocks": f"{S} (call $s.read-sync (local.get $r) (i32.const 512) (i32.const 4))",
    "a future": f"{F} (call $f.read (local.get $r) (i32.const 512))",
    "a future of the host": "(call $f.read (call $soon (i32.const 3)) (i32.const 512))",
    "a promise": "(call $g.read (call $word (i32.const 3)) (i32.const 512))",
    "a stream of the host": """(local.set $r (call $source (i32.const 0)))
      (drop (call $s.read (local.get $r) (i32.const 512) (i32.const 9)))
      (call $s.read (local.get $r) (i32.const 512) (i32.const 9))""",
    "a call": "(call $gate-async (i32.const 3) (i32.const 32))",
    "a call that lends": "(call $lend-async (call $make (i32.const 0)) (i32.const 32))",
    "a call that reads": f"{S} (call $sink-async (local.get $r) (i32.const 32))",
    "a call that is over": """(local.set $i (call $index (call $gate-async (i32.const 3) (i32.const 32))))
      (call $opened (i32.const 3)) (drop (call $await (local.get $i)))
      (call $sub-drop (local.get $i)) (i32.const 0)""",
    "a call that was cancelled": """(local.set $i (call $index (call $gate-async (i32.const 3)
      (i32.const 32)))) (drop (call $sub-cancel (local.get $i))) (call $sub-drop (local.get $i))
      (i32.const 0)""",
}


@pytest.mark.parametrize("code", LEFT.values(), ids=LEFT)
def test_nothing_is_left_to_the_garbage_collector(garbage: Any, code: str) -> None:
    host = Host()
    guest = linked(run(code), host=host)

    def work() -> None:
        host.__init__()  # type: ignore[misc]
        with suppress(Trap), instance_of(guest) as instance:
            guest.functions["", "run"](instance, 0)

    assert garbage(work) == []


# Pieces.


class Numbers:
    """A codec of numbers in a list, which notes how many were asked for at once."""

    def __init__(self, at_once: int) -> None:
        self.asked: list[int] = []
        self.codec = Codec(1, 1, self.load, self.store, lambda inst, end: None, at_once)

    def load(self, inst: Any, ptr: int, n: int) -> list[int]:
        self.asked.append(n)
        return list(range(ptr, ptr + n))

    def store(self, inst: Any, ptr: int, values: Sequence[int]) -> None:
        inst.stored[ptr : ptr + len(values)] = values


def ends(at_once: int, into: int, remaining: Any = lambda: 1.0) -> tuple[Numbers, GuestBuffer, GuestBuffer]:
    inst = SimpleNamespace(stored=[0] * into, deadline=SimpleNamespace(remaining=remaining))
    few, many = Numbers(at_once), Numbers(1000)
    return few, GuestBuffer(inst, few.codec, 5, 10), GuestBuffer(inst, many.codec, 0, into)


def test_elements_move_in_pieces() -> None:
    few, source, into = ends(4, 20)
    move(source, into)
    assert few.asked == [4, 4, 2]
    assert into.inst.stored[:12] == [*range(5, 15), 0, 0]
    assert (source.remain(), into.remain()) == (0, 10)
    few, source, into = ends(4, 6)
    move(source, into)
    assert few.asked == [4, 2]
    assert (source.remain(), into.remain()) == (4, 0)


def test_the_host_takes_one_piece() -> None:
    few, source, _ = ends(4, 0)
    buffer = HostBuffer(100)
    move(source, buffer)
    assert (few.asked, buffer.values) == ([4], [5, 6, 7, 8])
    few, into, _ = ends(4, 20)
    gives = HostBuffer(10, range(10))
    move(gives, into)
    assert (gives.remain(), into.progress) == (6, 4)


def test_the_deadline_is_looked_at_between_pieces() -> None:
    def over() -> float:
        raise DeadlineExceeded(1)

    few, source, into = ends(4, 20, over)
    with pytest.raises(DeadlineExceeded):
        move(source, into)
    assert few.asked == [4]


def test_a_large_copy_between_parts() -> None:
    """More numbers than one piece has: 300,000, which is 3 of them."""
    count = 300_000
    assert count * 40 > 2 * COPY_LIMIT
    grown = "(drop (memory.grow (i32.const 40)))"
    take = other(
        "n",
        f"""{grown} (local.set $i (call $n.read (local.get $x) (i32.const 0x20000) (i32.const {count})))
            (call $say (i32.shr_u (local.get $i) (i32.const 4)))
            (call $say (i32.load (i32.const {0x20000 + 4 * (count // 2)})))
            (call $return (i32.load (i32.const {0x20000 + 4 * (count - 1)}))) {EXIT}""",
    )
    write = run(
        f"""{grown} {NEW.format("n")}
            (loop $on
              (i32.store (i32.add (i32.const 0x20000) (i32.shl (local.get $i) (i32.const 2))) (local.get $i))
              (local.set $i (i32.add (local.get $i) (i32.const 1)))
              (br_if $on (i32.lt_u (local.get $i) (i32.const {count}))))
            (drop (call $n.write (local.get $w) (i32.const 0x20000) (i32.const {count})))
            (call $take (local.get $r))""",
        take=("n", "u", True),
    )
    assert said(take, write) == [count, count // 2, count - 1]


def test_a_drain_takes_what_is_written_within_the_write() -> None:
    shared, taken, over = SharedStream(None), [], []
    Drain(shared, taken.append, lambda: over.append(True))
    results: list[CopyResult] = []
    for text in ("abc", "de"):
        shared.write(0, HostBuffer(len(text), text), lambda reclaim: None, results.append)
        assert taken[-1] == text
    assert results == [COMPLETED, COMPLETED]
    assert not over
    shared.drop()
    assert over == [True]
    shared.write(0, HostBuffer(1, "f"), lambda reclaim: None, results.append)
    assert (taken, results[-1]) == (["abc", "de"], DROPPED)
