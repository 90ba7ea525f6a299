from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wasm_gateway.errors import LimitExceeded, Trap
from wasm_gateway.host import limits
from wasm_gateway.host.limits import MAX_HOST_BUFFERED_BYTES, RESULT_TOO_LARGE, Budget, Handles, Held, kept


def test_the_limit_is_that_of_spin() -> None:
    assert MAX_HOST_BUFFERED_BYTES == 134217728
    assert RESULT_TOO_LARGE == "query result exceeds limit of 134217728 bytes"


def test_a_budget_is_spent() -> None:
    budget = Budget(10)
    assert budget.spend(4)
    assert budget.spend(6)
    assert budget.spend(0)
    assert not budget.spend(1)
    assert not budget.spend(0)


def test_handles_are_not_used_again() -> None:
    handles: Handles[str] = Handles(2)
    assert handles.push("a") == 0
    assert handles.push("b") == 1
    assert handles.push("c") is None
    assert handles.items.pop(0) == "a"
    assert handles.push("c") == 2
    assert handles.items == {1: "b", 2: "c"}


def test_handles_fit_into_32_bits() -> None:
    handles: Handles[str] = Handles(2)
    handles.next = 0xFFFF_FFFF
    assert handles.push("last") == 0xFFFF_FFFF
    assert handles.push("one more") is None


def test_what_an_instance_holds_ends_with_it(context: Callable[..., Any]) -> None:
    ended: list[tuple[Any, str]] = []
    held: Held[str] = Held(lambda ctx, item: ended.append((ctx, item)), 2)
    one, two = context(), context()
    for ctx in (one, two):
        assert held.of(ctx).push("a") == 0
        assert held.of(ctx).push("b") == 1
        assert held.of(ctx).is_full
    held.drop(one, 0)
    held.drop(one, 0)
    assert ended == [(one, "a")]
    assert held.get(one, 1) == "b"
    assert held.get(two, 0) == "a"
    with pytest.raises(Trap):
        held.get(one, 0)
    one.run_closers()
    assert ended == [(one, "a"), (one, "b")]
    assert held.of(two).push("c") is None
    two.run_closers()
    assert ended[2:] == [(two, "b"), (two, "a")]


def test_what_is_kept_counts_for_all_of_an_instance(
    context: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_KEPT_BYTES", 100)
    ctx, other = context(), context()
    one, two = kept(ctx, 60), kept(ctx, 40)
    with pytest.raises(LimitExceeded, match="100 bytes are kept"):
        kept(ctx, 1)
    two.resize(10)
    three = one.beside()
    three.resize(30)
    with pytest.raises(LimitExceeded):
        three.resize(31)
    assert three.size == 30  # as before
    kept(other, 100)
    del one, two
    three.resize(100)
