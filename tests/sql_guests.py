"""Guests of the relational interfaces, as tests of each kind of server call them."""

from __future__ import annotations

from typing import Any

from wasm_gateway.component.values import Err


class Guest:
    """Calls an unversioned interface with one address."""

    def __init__(self, family: Any, ctx: Any, address: str) -> None:
        self.family = family
        self.ctx = ctx
        self.address = address

    def query(self, statement: str, *params: tuple[str, Any]) -> Any:
        return self.family.query(self.ctx, self.address, statement, list(params))

    def execute(self, statement: str, *params: tuple[str, Any]) -> Any:
        return self.family.execute(self.ctx, self.address, statement, list(params))

    def value(self, expression: str, *params: tuple[str, Any]) -> Any:
        ((_, ((value,),)),) = [self.query(f"SELECT {expression}", *params)]
        return value


class Connected(Guest):
    """Calls `interface`, a later one, with a connection that it keeps; `conn` is it, or an error.

    Its functions are those with `suffix`.
    """

    def __init__(self, family: Any, interface: str, ctx: Any, address: str, suffix: str = "") -> None:
        super().__init__(family, ctx, address)
        self.functions = family.functions(interface)
        self.suffix = suffix
        self.conn = ctx.settle(self.functions["[static]connection.open" + suffix](ctx, address))

    def query(self, statement: str, *params: tuple[str, Any]) -> Any:
        return self._call("query", statement, list(params))

    def execute(self, statement: str, *params: tuple[str, Any]) -> Any:
        return self._call("execute", statement, list(params))

    def _call(self, name: str, *arguments: Any) -> Any:
        function = self.functions[f"[method]connection.{name}{self.suffix}"]
        return self.ctx.settle(function(self.ctx, self.conn, *arguments))

    def drop(self) -> None:
        self.functions["[resource-drop]connection"](self.ctx, self.conn)


def failed(answer: Any, case: str = "query-failed") -> Any:
    """What an error of this case says."""
    assert isinstance(answer, Err), answer
    assert answer.value[0] == case, answer
    return answer.value[1]
