from __future__ import annotations

from wasm_gateway.host.limits import MAX_HOST_BUFFERED_BYTES, RESULT_TOO_LARGE, Budget, Handles


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
