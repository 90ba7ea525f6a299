from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.sql_guests import Connected, failed
from wasm_gateway.host.limits import RESULT_TOO_LARGE, VALUE_OVERHEAD, Budget
from wasm_gateway.host.network import Network
from wasm_gateway.host.postgres import Postgres
from wasm_gateway.host.postgres_values import BASIC, DATED, FULL, parameter
from wasm_gateway.host.rdbms import DatabaseFailure

V3, V4 = "spin:postgres/postgres@3", "spin:postgres/postgres@4"
services = pytest.mark.services

INC, EXC = "inclusive", "exclusive"
ENDS_OF_INT8 = [2**63 - 1, -(2**63), None]


@pytest.fixture
def connect(
    network: Network, context: Callable[..., Any], postgres_server: str
) -> Iterator[Callable[[str], Connected]]:
    family = Postgres(network)
    ctx = context(allowed=["postgres://127.0.0.1:*"])
    yield lambda interface: Connected(family, interface, ctx, postgres_server)
    ctx.run_closers()
    family.close()


# Case and value -> the type that it is read as, where the name of that is not its own.
DATES: list[tuple[str, Any, str]] = [
    ("date", (2026, 2, 28), "date"),
    ("date", (2024, 2, 29), "date"),
    ("date", (1, 1, 1), "date"),
    ("date", (0, 12, 31), "date"),
    ("date", (-4712, 11, 30), "date"),
    ("date", (5_874_897, 12, 31), "date"),
    ("time", (0, 0, 0, 0), "time"),
    ("time", (23, 59, 59, 999_999_000), "time"),
    ("datetime", (2026, 1, 2, 3, 4, 5, 678_000_000), "timestamp"),
    ("datetime", (2026, 1, 2, 3, 4, 5, 678_000_000), "timestamptz"),
    ("datetime", (1969, 12, 31, 23, 59, 59, 999_999_000), "timestamptz"),
    ("datetime", (-43, 3, 15, 12, 0, 0, 0), "timestamp"),
    ("datetime", (294_276, 12, 31, 23, 59, 59, 0), "timestamp"),
]
MORE: list[tuple[str, Any, str]] = [
    ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "uuid"),
    ("jsonb", b'{"a": [1, "\xc3\xa4", null]}', "jsonb"),
    *(
        ("decimal", text, "numeric")
        for text in (
            *("0", "1", "-1", "0.00", "1.50", "-0.001", "10000", "9999.9999", "123456789.987654321"),
            *("0.00000000000000000001", "-98765432109876543210.5", "1" + "0" * 200, "NaN", "Infinity"),
        )
    ),
    ("range-int32", ((1, INC), (5, EXC)), "int4range"),
    ("range-int32", (None, (-3, EXC)), "int4range"),
    ("range-int32", ((2, INC), None), "int4range"),
    ("range-int32", (None, None), "int4range"),
    ("range-int32", ((0, INC), (0, EXC)), "int4range"),  # empty
    ("range-int64", ((-(2**63), INC), (2**63 - 1, EXC)), "int8range"),
    ("range-decimal", (("123.45", EXC), ("456.789", INC)), "numrange"),
    ("range-decimal", (None, ("-1", EXC)), "numrange"),
    ("array-int32", [1, None, -(2**31)], "int4[]"),
    ("array-int32", [], "int4[]"),
    ("array-int64", ENDS_OF_INT8, "int8[]"),
    ("array-decimal", ["1.50", None, "-100000"], "numeric[]"),
    ("array-str", ["", "NULL", None, 'a"b\\c', "{x,y}", "ä\n ", "'; DROP"], "text[]"),
    ("array-str", ["a", "b"], "varchar[]"),
    ("array-str", ["ab", "c "], "char(2)[]"),
    ("interval", (-1, -2, -3), "interval"),
    ("interval", (2**63 - 1, 2**31 - 1, -(2**31)), "interval"),
]


@services
@pytest.mark.parametrize(
    ("interface", "values"), [(V3, DATES), (V4, DATES + MORE)], ids=lambda value: str(value)[:24]
)
def test_values_go_in_and_come_out(
    connect: Callable[[str], Connected], interface: str, values: list[tuple[str, Any, str]]
) -> None:
    db = connect(interface)
    db.execute("SET TimeZone = 'Asia/Kathmandu'")  # which is nothing to a guest
    for case, value, type in values:
        columns, rows = db.query(f"SELECT $1::{type} AS a, NULL::{type} AS b", (case, value))
        assert rows == [[(case, value), ("db-null", None)]]
        assert columns == [(name, (case, None) if interface == V4 else case) for name in "ab"]
        # and into a column, whose type is not said
        db.execute(f"CREATE TEMP TABLE t (a {type})")
        assert db.execute("INSERT INTO t VALUES ($1), (NULL)", (case, value)) == 2
        assert db.query("SELECT a FROM t")[1] == [[(case, value)], [("db-null", None)]]
        db.execute("DROP TABLE t")


@services
@pytest.mark.parametrize(
    ("param", "expression", "value"),
    [
        (("time", (1, 2, 3, 4_999)), "$1::time", ("time", (1, 2, 3, 4_000))),  # microseconds, cut
        (("timestamp", 0), "$1::timestamptz", ("datetime", (1970, 1, 1, 0, 0, 0, 0))),
        (("timestamp", -86_401), "$1::timestamp", ("datetime", (1969, 12, 30, 23, 59, 59, 0))),
        (("datetime", (2026, 1, 2, 3, 4, 5, 0)), "$1::date", ("date", (2026, 1, 2))),
        (("uuid", "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}"), "$1::uuid::text", ("str", MORE[0][1])),
        (("range-int32", ((1, EXC), (5, INC))), "$1::int4range", ("range-int32", ((2, INC), (6, EXC)))),
        (("array-int32", [7]), "3 = ANY($1)", ("boolean", False)),
        (("array-str", [MORE[0][1]]), f"'{MORE[0][1]}'::uuid = ANY($1)", ("boolean", True)),
        (("interval", (0, 1, 0)), "'2026-01-01'::date + $1", ("datetime", (2026, 1, 2, 0, 0, 0, 0))),
        (("jsonb", b'{"b":1,"a":2}'), "$1::jsonb", ("jsonb", b'{"a": 2, "b": 1}')),
        (("decimal", "+.5"), "$1::numeric", ("decimal", "0.5")),
        (("str", "2026-01-01"), "$1::date", ("date", (2026, 1, 1))),
        (("int32", 5), "'24:00'::time", ("time", (24, 0, 0, 0))),
    ],
)
def test_values_become_others(
    connect: Callable[[str], Connected], param: tuple[str, Any], expression: str, value: tuple[str, Any]
) -> None:
    params = [param] if "$1" in expression else []
    assert connect(V4).value(expression, *params) == value


@services
@pytest.mark.parametrize(
    ("expression", "name", "data"),
    [
        ("'{\"a\": 1}'::json", "json", b'{"a": 1}'),
        ("'a'::name", "name", b"a"),
        ("'12:00+01'::timetz", "timetz", struct.pack(">qi", 12 * 3600 * 10**6, -3600)),
        ("'{t,f}'::bool[]", "_bool", None),
        ("'sad'::mood", "mood", b"sad"),
    ],
)
def test_other_types_are_told_by_name(
    connect: Callable[[str], Connected], expression: str, name: str, data: bytes | None
) -> None:
    db = connect(V4)
    db.execute("DROP TYPE IF EXISTS mood")
    db.execute("CREATE TYPE mood AS ENUM ('sad')")
    for _ in range(2):
        columns, (((case, found),),) = db.query(f"SELECT {expression} AS a")
        assert columns == [("a", ("other", name))]
        assert case == "unsupported"
        assert data is None or found == data
    assert connect(V3).query(f"SELECT {expression} AS a") == ([("a", "other")], [[("unsupported", None)]])


@services
@pytest.mark.parametrize(
    "expression",
    [
        *("'infinity'::date", "'-infinity'::date", "'infinity'::timestamptz", "'-infinity'::timestamp"),
        *("'{{1,2},{3,4}}'::int4[]", "'{{a}}'::text[]"),
    ],
)
def test_values_that_there_are_no_words_for(connect: Callable[[str], Connected], expression: str) -> None:
    """The others of the result are not lost."""
    _, ((first, (case, data)),) = connect(V4).query(f"SELECT 'kept'::text, {expression}")
    assert (first, case) == (("str", "kept"), "unsupported")
    assert isinstance(data, bytes)
    _, ((_, value),) = connect(V3).query(f"SELECT 'kept'::text, {expression}")
    assert value == ("unsupported", None)


@pytest.mark.parametrize(
    ("case", "value"),
    [
        ("date", (2026, 2, 29)),
        ("date", (2026, 0, 1)),
        ("date", (2026, 13, 1)),
        ("datetime", (2026, 4, 31, 0, 0, 0, 0)),
        ("datetime", (2026, 4, 30, 24, 0, 0, 0)),
        ("time", (0, 60, 0, 0)),
        ("time", (0, 0, 60, 0)),
        ("time", (0, 0, 0, 10**9)),
        ("uuid", ""),
        ("uuid", "a0eebc99"),
        ("decimal", ""),
        ("decimal", "1e5"),
        ("decimal", "1,2"),
        ("decimal", "\u0661"),
        ("range-decimal", (("1,5)", INC), None)),
        ("array-decimal", [None, "}"]),
    ],
)
def test_parameters_that_are_none(case: str, value: Any) -> None:
    with pytest.raises(DatabaseFailure) as error:
        parameter(case, value)
    assert error.value.case == "bad-parameter"


@pytest.mark.parametrize(("case", "value"), [("str", "a\0"), ("jsonb", b'"\0"'), ("array-str", ["x", "\0"])])
def test_text_has_no_null_characters(case: str, value: Any) -> None:
    with pytest.raises(DatabaseFailure, match="null characters"):
        parameter(case, value)


@services
def test_mistakes_that_the_server_finds(connect: Callable[[str], Connected]) -> None:
    db = connect(V4)
    for statement, param in (
        ("SELECT $1::jsonb", ("jsonb", b"{")),
        ("SELECT $1::jsonb", ("jsonb", b'"\xff"')),
        ("SELECT $1::timestamptz", ("timestamp", 2**63 - 1)),
        ("SELECT $1::int4range", ("range-int32", ((5, INC), (1, INC)))),
        ("SELECT $1::date", ("date", (2**31 - 1, 1, 1))),
    ):
        case, _ = failed(db.query(statement, param))
        assert case == "db-error"


# A server that is not what it says.


def encoded(dimensions: int, *items: bytes | None) -> bytes:
    head = struct.pack(">iiI", dimensions, 0, 0) + struct.pack(">ii", len(items), 1)
    return head + b"".join(
        struct.pack(">i", -1) if item is None else struct.pack(">i", len(item)) + item for item in items
    )


WELL_FORMED = {
    16: b"\x01",
    20: bytes(8),
    21: bytes(2),
    23: bytes(4),
    700: bytes(4),
    701: bytes(8),
    1082: bytes(4),
    1083: bytes(8),
    1114: bytes(8),
    1184: bytes(8),
    2950: bytes(16),
    1700: struct.pack(">HhHHHH", 2, 0, 0, 4, 1, 5000),
    3904: b"\x02" + struct.pack(">iiii", 4, 1, 4, 2),
    3926: b"\x02" + struct.pack(">iqiq", 8, 1, 8, 2),
    3906: b"\x18",
    1007: encoded(1, bytes(4), None),
    1016: encoded(1, bytes(8), None),
    1231: encoded(1, struct.pack(">HhHH", 0, 0, 0, 0)),
    1009: encoded(1, b"abc"),
    1186: bytes(16),
}


@pytest.mark.parametrize("oid", WELL_FORMED)
def test_values_that_are_cut_short(oid: int) -> None:
    _, decode = FULL.decoders[oid]
    data = WELL_FORMED[oid]
    assert decode(data, Budget()) is not None
    for size in range(len(data)):
        try:
            decode(data[:size], Budget())
        except (ValueError, IndexError, struct.error):
            pass  # what a session expects


def test_types_of_versions() -> None:
    assert BASIC.decoders.items() <= DATED.decoders.items() <= FULL.decoders.items()
    assert not BASIC.detailed
    assert FULL.detailed


@pytest.mark.parametrize(
    ("oid", "data"),
    [
        # 16 bytes that mean 130,000 digits
        (1231, encoded(1, *[struct.pack(">HhHHH", 1, 32_767, 0, 16_383, 1)] * 100)),
        (1231, encoded(1, *[struct.pack(">HhHH", 0, -32_768, 0, 16_383)] * 100)),
        (1007, encoded(1, *[None] * 20_000)),
    ],
)
def test_what_values_become_is_bounded(oid: int, data: bytes) -> None:
    _, decode = FULL.decoders[oid]
    with pytest.raises(DatabaseFailure, match=RESULT_TOO_LARGE):
        decode(data, Budget(10_000 * VALUE_OVERHEAD))
    assert decode(data, Budget()) is not None


def test_a_number_of_elements_that_is_a_lie() -> None:
    _, decode = FULL.decoders[1007]
    with pytest.raises(struct.error):
        decode(struct.pack(">iiIii", 1, 0, 23, 2**31 - 1, 1), Budget())
