from __future__ import annotations

import pytest

from wasm_gateway.component.values import Err, Ok, Some, identifier, record_class


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("status", "status"),
        ("data-type", "data_type"),
        ("URL", "url"),
        ("from", "from_"),
        ("is", "is_"),
        ("a-1", "a_1"),
    ],
)
def test_identifier(label: str, name: str) -> None:
    assert identifier(label) == name
    assert name.isidentifier()


def test_record_class() -> None:
    labels = ("method", "class", "data-type")
    cls = record_class(labels, "http-request")
    assert cls is record_class(labels, "http-request")
    assert cls is not record_class(labels, "other")
    value = cls(1, 2, 3)  # type: ignore[call-arg]
    assert value == (1, 2, 3)
    assert repr(value) == "HttpRequest(method=1, class_=2, data_type=3)"


@pytest.mark.parametrize("name", ["none", "true", "wasi:io/error@0.2.0", "1", "", "é", "x{1/0}", "a b"])
def test_record_class_of_a_name_that_is_none_of_python(name: str) -> None:
    assert record_class(("a",), name).__name__ == "Record"


def test_boxes() -> None:
    assert Ok(1) == Ok(1) != Err(1)
    assert Ok() == Ok(None)
    assert Some(None) != None  # noqa: E711
    assert repr(Err("gone")) == "Err('gone')"
    assert len({Ok(1), Ok(1), Err(1), Some(1)}) == 3
    match Err("x"):
        case Err(value):
            assert value == "x"
    with pytest.raises(AttributeError):
        Ok(1).other = 2  # type: ignore[attr-defined]
