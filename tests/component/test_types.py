from __future__ import annotations

import pytest

from wasm_gateway.component.types import (
    MAX_TEXT,
    MAX_TYPE_DEPTH,
    MAX_TYPE_WEIGHT,
    PRIMITIVES,
    BorrowType,
    CaseType,
    EnumType,
    FieldType,
    FlagsType,
    FuncType,
    FutureType,
    InterfaceType,
    ListType,
    MapType,
    OptionType,
    OwnType,
    RecordType,
    ResourceType,
    ResultType,
    S8Type,
    StreamType,
    StringType,
    TupleType,
    U8Type,
    ValType,
    VariantType,
    World,
    bounded,
    brief,
    children,
    contains,
    describe_mismatch,
)
from wasm_gateway.errors import UnsupportedError

U8, STRING = PRIMITIVES["u8"], PRIMITIVES["string"]
STORE = ResourceType("store", "test:kv/store")

TEXTS: list[tuple[ValType, str]] = [
    *((t, name) for name, t in PRIMITIVES.items()),
    (ListType(U8), "list<u8>"),
    (ListType(U8, 4), "list<u8, 4>"),
    (RecordType((FieldType("a", U8), FieldType("b-c", STRING))), "record { a: u8, b-c: string }"),
    (TupleType((U8, STRING)), "tuple<u8, string>"),
    (MapType(TupleType((STRING, U8))), "map<string, u8>"),
    (ListType(TupleType((STRING, U8))), "list<tuple<string, u8>>"),
    (VariantType((CaseType("a"), CaseType("b", U8))), "variant { a, b(u8) }"),
    (EnumType(("a", "b")), "enum { a, b }"),
    (FlagsType(("a", "b")), "flags { a, b }"),
    (OptionType(U8), "option<u8>"),
    (ResultType(), "result"),
    (ResultType(U8), "result<u8>"),
    (ResultType(None, U8), "result<_, u8>"),
    (ResultType(U8, STRING), "result<u8, string>"),
    (OwnType(STORE), "own<store>"),
    (BorrowType(STORE), "borrow<store>"),
    (StreamType(), "stream"),
    (StreamType(U8), "stream<u8>"),
    (FutureType(), "future"),
    (FutureType(ListType(U8)), "future<list<u8>>"),
]


@pytest.mark.parametrize(("t", "text"), TEXTS, ids=lambda x: x if isinstance(x, str) else "")
def test_text(t: ValType, text: str) -> None:
    assert str(t) == text


def test_equality_is_structure() -> None:
    for i, (a, _) in enumerate(TEXTS):
        for j, (b, _) in enumerate(TEXTS):
            assert (a == b) == (i == j)
    assert len({t for t, _ in TEXTS}) == len(TEXTS)
    assert U8Type() == U8 != S8Type()
    assert EnumType(("a",), "one") == EnumType(("a",), "other")


def test_function_text() -> None:
    assert str(FuncType()) == "func()"
    ft = FuncType((("name", STRING), ("n", U8)), ResultType(U8), True)
    assert str(ft) == "async func(name: string, n: u8) -> result<u8>"


def test_resources() -> None:
    assert ResourceType("store", "test:kv/store") == STORE
    assert ResourceType("store", "test:sql/store") != STORE
    assert ResourceType("other", "test:kv/store") != STORE
    assert hash(ResourceType("store", "test:kv/store")) == hash(STORE)
    mine = ResourceType("mine")
    assert mine == mine != ResourceType("mine")


def test_contains() -> None:
    t = ResultType(
        ListType(TupleType((U8, OptionType(BorrowType(STORE))))), VariantType((CaseType("a", STRING),))
    )
    assert contains(t, BorrowType)
    assert contains(t, StringType)
    assert t.borrows
    assert not contains(t, OwnType)
    assert not contains(None, OwnType)
    assert not ListType(U8).borrows
    assert children(t) == (t.ok, t.err)


def test_bounds() -> None:
    t: ValType = U8
    for _ in range(MAX_TYPE_DEPTH - 1):
        t = ListType(t)
    assert bounded(t) is t
    with pytest.raises(UnsupportedError, match="65 levels"):
        bounded(OptionType(t))

    t = STRING
    while t.weight * 2 < MAX_TYPE_WEIGHT:
        t = TupleType((t, t))
    assert bounded(t) is t
    for _ in range(200):  # would take for ever as a tree
        t = TupleType((t, t))
    with pytest.raises(UnsupportedError, match="nodes"):
        bounded(t)
    with pytest.raises(UnsupportedError):
        bounded(EnumType(tuple(map(str, range(MAX_TYPE_WEIGHT)))))


def test_interfaces_and_worlds_are_keys() -> None:
    interface = InterfaceType("a:b/c", {"t": U8}, {"f": FuncType()})
    assert {interface: 1}[InterfaceType("a:b/c", {"t": U8}, {"f": FuncType()})] == 1
    world = World("w", {"a:b/c": interface})
    assert {world: 1}[World("w", {"a:b/c": interface})] == 1
    assert World("w", {}, {"a:b/c": interface}) != world
    assert contains(StreamType(FutureType(U8)), FutureType)
    assert not contains(StreamType(), FutureType)


def test_describe_mismatch() -> None:
    host = FuncType((("store", U8), ("key", STRING)), ResultType(ListType(U8), EnumType(("a", "b"))))
    renamed = FuncType((("s", U8), ("k", STRING)), host.result)
    assert describe_mismatch("get", renamed, host) is None
    other = FuncType(host.params, ResultType(ListType(U8), EnumType(("b", "a"))))
    text = describe_mismatch("get", other, host)
    assert text == f"get: the guest declares {other}, the host offers {host}"
    assert describe_mismatch("get", FuncType(host.params, host.result, True), host) is not None
    assert describe_mismatch("get", FuncType(host.params[:1], host.result), host) is not None
    assert describe_mismatch("get", FuncType(host.params), host) is not None


def test_brief() -> None:
    assert [brief(t) for t, _ in TEXTS] == [text for _, text in TEXTS]
    t: ValType = RecordType((FieldType("a" * 50_000, U8),))
    for _ in range(50):
        t = TupleType((t, t))  # printed whole, more letters than there are atoms
    assert len(brief(t)) == len(brief(FuncType((("p", t),)))) == MAX_TEXT + 3
    text = describe_mismatch("get", FuncType((("p", t),)), FuncType())
    assert text is not None
    assert len(text) < 2 * MAX_TEXT
