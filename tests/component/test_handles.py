from __future__ import annotations

from typing import Any

import pytest

from wasm_gateway.component.handles import (
    BorrowScope,
    HandleTable,
    canon_resource_drop,
    canon_resource_new,
    canon_resource_rep,
)
from wasm_gateway.component.types import ResourceType
from wasm_gateway.errors import Trap

A, B = ResourceType("a", "test:x/y"), ResourceType("b", "test:x/y")


class Instance:
    def __init__(self) -> None:
        self.handles = HandleTable()
        self.may_leave = True


def test_indices_begin_at_1_and_are_used_again() -> None:
    table = HandleTable()
    assert [table.lower_own(A, i) for i in range(3)] == [1, 2, 3]
    assert table.lift_own(2, A) == 1
    assert len(table) == 2
    assert table.lower_own(A, "new") == 2
    assert table.lower_own(A, "next") == 4


@pytest.mark.parametrize("index", [0, 2, 2**32 - 1, -1])
def test_unknown_index(index: int) -> None:
    table = HandleTable()
    table.lower_own(A, "rep")
    with pytest.raises(Trap, match=f"unknown handle index {index}"):
        table.get(index, A)


def test_type_is_checked() -> None:
    table = HandleTable()
    index = table.lower_own(A, "rep")
    assert table.get(index, ResourceType("a", "test:x/y")).rep == "rep"
    for use in (table.get, table.remove, table.lift_own):
        with pytest.raises(Trap, match="is of type a, not b"):
            use(index, B)


def test_lent_and_borrowed() -> None:
    table, scope = HandleTable(), BorrowScope()
    owned, borrowed = table.lower_own(A, "rep"), table.lower_borrow(A, "rep", scope)
    table.get(owned, A).num_lends += 1
    with pytest.raises(Trap, match="still lent"):
        table.lift_own(owned, A)
    with pytest.raises(Trap, match="borrowed, not owned"):
        table.lift_own(borrowed, A)
    with pytest.raises(Trap, match="1 borrow handles still remain"):
        scope.leave()


def test_table_is_bounded() -> None:
    table = HandleTable(3)
    for _ in range(3):
        table.lower_own(A, "rep")
    with pytest.raises(Trap, match="more than 3 handles"):
        table.lower_own(A, "rep")
    table.lift_own(1, A)
    assert table.lower_own(A, "rep") == 1


def test_new_rep_drop() -> None:
    dropped: list[Any] = []
    rt = ResourceType("r", part=0, dtor=lambda inst, rep: dropped.append((inst, rep)))
    inst = Instance()
    index = canon_resource_new(inst, rt, 42)
    assert canon_resource_rep(inst, rt, index) == 42
    canon_resource_drop(inst, rt, index)
    assert dropped == [(inst, 42)]
    for use in (canon_resource_drop, canon_resource_rep):
        with pytest.raises(Trap, match="unknown handle"):
            use(inst, rt, index)


def test_dropping_a_borrow_destroys_nothing() -> None:
    dropped: list[Any] = []
    rt = ResourceType("r", "test:x/y", dtor=lambda inst, rep: dropped.append(rep))
    inst, scope = Instance(), BorrowScope()
    canon_resource_drop(inst, rt, inst.handles.lower_borrow(rt, "rep", scope))
    scope.leave()
    assert not dropped


def test_guest_must_be_able_to_leave() -> None:
    inst = Instance()
    inst.may_leave = False
    with pytest.raises(Trap, match="cannot leave"):
        canon_resource_new(inst, A, 1)
    with pytest.raises(Trap, match="cannot leave"):
        canon_resource_drop(inst, A, 1)


def test_close_destroys_what_is_left() -> None:
    dropped: list[Any] = []
    host = ResourceType("h", "test:x/y", dtor=lambda inst, rep: dropped.append(rep))
    guest = ResourceType("g", part=0, dtor=lambda inst, rep: dropped.append("never: its code is gone"))
    inst = Instance()
    table = inst.handles
    for rt, rep in [(host, 1), (guest, 2), (host, 3), (A, 4)]:
        table.lower_own(rt, rep)
    table.lower_borrow(host, 5, BorrowScope())
    table.lift_own(1, host)
    table.close(inst)
    assert dropped == [3]
    assert len(table) == 0
    table.close(inst)
    assert dropped == [3]


def test_a_destructor_that_fails_keeps_no_other_from_its_turn() -> None:
    dropped: list[Any] = []

    def dtor(inst: Any, rep: Any) -> None:
        dropped.append(rep)
        if rep != 1:
            raise OSError(rep)

    rt = ResourceType("h", "test:x/y", dtor=dtor)
    inst = Instance()
    for rep in (1, 2, 3):
        inst.handles.lower_own(rt, rep)
    with pytest.raises(OSError, match="3"):
        inst.handles.close(inst)
    assert dropped == [3, 2, 1]
