"""Headers, and those that are made late."""

from __future__ import annotations

import pytest

from wasm_gateway.messages import Headers, LateHeaders


def test_late_headers_are_made_once_and_only_when_they_are_looked_at() -> None:
    made = []

    def make() -> tuple[tuple[str, str], ...]:
        made.append(True)
        return (("a", "1"), ("b", "2"), ("a", "3"))

    headers = LateHeaders(make)
    assert not made
    assert headers.get("A") == "1"
    assert headers.get_all("a") == ["1", "3"]
    assert headers == Headers([("A", "1"), ("b", "2"), ("a", "3")])
    assert len(headers.without("b")) == 2
    assert made == [True]
    with pytest.raises(AttributeError, match="other"):
        headers.other  # noqa: B018
