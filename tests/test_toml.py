# The scanner must agree with tomli about which keys there are, and say on which line they stand.

from __future__ import annotations

from pathlib import Path

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from wasm_gateway.errors import ManifestError
from wasm_gateway.toml import Document, _Scanner, dotted, find_line

TEXT = '''# a comment with = and [brackets]
top = 1
"quoted key" = "#no comment" # yes comment
'lit.eral' = 1979-05-27 07:32:00
dotted.inner . "more" = true
array = [ 1, # one ]
  "two]", [3,
  4], { five = 5 }
]
basic = "escaped \\" quote # = ["
literal = 'back\\'
multi = """
[not.a.table]
key = "no" \\"""
"""""
multiliteral = \'\'\'
x = 1\'\'\'
inline = { a = 1, b.c = [ { d = "}" } ] }

[table]
a = 1
[table.sub]
[ "table" . 'spaced' ] # comment
z = 0
[[list]]
a = 1
[list.sub]
b = 2
[[list]]
a = 2
[[list.nested]]
c = 3
[[list.nested]]
c = 4
[deep.er.est]
'''


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("top",), 2),
        (("quoted key",), 3),
        (("lit.eral",), 4),
        (("dotted",), 5),
        (("dotted", "inner", "more"), 5),
        (("array",), 6),
        (("array", 0), 6),
        (("array", 1), 7),
        (("array", 2, 1), 8),
        (("array", 3, "five"), 8),
        (("basic",), 10),
        (("literal",), 11),
        (("multi",), 12),
        (("multiliteral",), 16),
        (("inline", "b", "c", 0, "d"), 18),
        (("table",), 20),
        (("table", "a"), 21),
        (("table", "sub"), 22),
        (("table", "spaced"), 23),
        (("table", "spaced", "z"), 24),
        (("list",), 25),
        (("list", 0), 25),
        (("list", 0, "a"), 26),
        (("list", 0, "sub", "b"), 28),
        (("list", 1, "a"), 30),
        (("list", 1, "nested", 1, "c"), 34),
        (("deep", "er"), 35),
        # a key that is missing is reported where the table around it begins
        (("list", 1, "nothing"), 29),
        (("deep", "er", "est", "nothing"), 35),
        (("nowhere",), None),
        ((), None),
    ],
)
def test_find_line(key: tuple[str | int, ...], line: int | None) -> None:
    assert find_line(TEXT, key) == line
    assert find_line(TEXT.replace("\n", "\r\n"), key) == line


def paths(value: object, prefix: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    """Every key path of a document that tomli has read."""
    found = {prefix} if prefix else set()
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in items:
        found |= paths(child, (*prefix, name))
    return found


def test_the_scanner_finds_every_key() -> None:
    assert set(_Scanner(TEXT).scan()) == paths(tomli.loads(TEXT))


VALUES = st.recursive(
    st.sampled_from(
        [
            "1",
            "-1.5e3",
            "true",
            "1979-05-27 07:32:00",
            '"a]b"',
            '"\\"#"',
            "'}'",
            '"""x\n"y"\n"""',
            "'''\\'''",
            '""',
        ]
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[ " + ",\n# c ]\n".join(items) + " ]"),
        st.lists(inner, max_size=3).map(
            lambda items: "{ " + ", ".join(f'"k.{i}" = {item}' for i, item in enumerate(items)) + " }"
        ),
    ),
    max_leaves=8,
)


@given(
    st.lists(st.tuples(st.sampled_from(["{k} = {v}", "[{k}]", "[[a.{k}]]", "# {v}", "{k}.b = {v}"]), VALUES))
)
def test_the_scanner_agrees_with_tomli(statements: list[tuple[str, str]]) -> None:
    lines = []
    for index, (form, value) in enumerate(statements):
        if form.startswith("#"):
            value = value.replace("\n", " ")
        lines.append(form.replace("{k}", f"key-{index}").replace("{v}", value))
    text = "\n".join(lines)
    try:
        data = tomli.loads(text)
    except tomli.TOMLDecodeError:
        return  # e.g. a line break in an inline table
    assert set(_Scanner(text).scan()) == paths(data)


def test_dotted() -> None:
    assert dotted(("trigger", "http", 0, "route")) == "trigger.http[0].route"
    assert dotted(("variables", "bad+name")) == 'variables."bad+name"'


def test_syntax_errors_have_a_line(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        Document("a = 1\nb = = 2\n", tmp_path / "x.toml")
    assert caught.value.line == 2
    assert "column 5" in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'x.toml'}:2: ")


def test_nesting_does_not_exhaust_the_stack(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="invalid TOML"):
        Document("a = " + "[" * 100_000, tmp_path / "x.toml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="No such file"):
        Document.read(tmp_path / "missing.toml")
    with pytest.raises(ManifestError, match="Is a directory"):
        Document.read(tmp_path)
    (tmp_path / "latin1.toml").write_bytes(b'a = 1\nb = "\xe9"\n')
    with pytest.raises(ManifestError, match="not UTF-8") as caught:
        Document.read(tmp_path / "latin1.toml")
    assert caught.value.line == 2
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbfa = 1\n")
    assert Document.read(tmp_path / "bom.toml").data == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "invalid type: integer `1`, expected a string"),
        ("x = true", "invalid type: boolean `true`, expected a string"),
        ("x = 1.5", "invalid type: float `1.5`, expected a string"),
        ("x = []", "invalid type: array, expected a string"),
        ("x = {}", "invalid type: table, expected a string"),
        ("x = 1979-05-27", "invalid type: datetime, expected a string"),
        ("", "missing field `x`"),
        ('x = ""\ny = 1', "unknown field `y`, expected `x`"),
    ],
)
def test_a_table_checks_what_it_gives_out(text: str, message: str) -> None:
    root = Document(text, None).root

    def read() -> None:
        root.text("x")
        root.done()

    with pytest.raises(ManifestError) as caught:
        read()
    assert caught.value.message == message
