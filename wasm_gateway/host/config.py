# fermyon:spin/config, its successors fermyon:spin/variables and spin:variables, and
# wasi:config: the variables of a component (Spin: host interfaces, 6).
#
# Rule 1: a guest names component variables only; what they are made of (templates,
# application variables, providers) is the business of whoever made ctx.component.variables.
# Rule 2: values are looked up at each call.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..component.values import Err
from ..errors import GatewayError
from .base import HostContext

INTERFACES = {
    "fermyon:spin/config": """
package fermyon:spin;
interface config {
  variant error { provider(string), invalid-key(string), invalid-schema(string), other(string) }
  get-config: func(key: string) -> result<string, error>;
}
""",
    "fermyon:spin/variables@2": """
package fermyon:spin@2.0.0;
interface variables {
  variant error { invalid-name(string), undefined(string), provider(string), other(string) }
  get: func(name: string) -> result<string, error>;
}
""",
    # asynchronous to its guests, for whom a value is there at once all the same
    "spin:variables/variables@3": """
package spin:variables@3.0.0;
interface variables {
  variant error { invalid-name(string), undefined(string), provider(string), other(string) }
  get: async func(name: string) -> result<string, error>;
}
""",
    "wasi:config/store@0.2.0-draft-2024-09-27": """
package wasi:config@0.2.0-draft-2024-09-27;
interface store {
  variant error { upstream(string), io(string) }
  get: func(key: string) -> result<option<string>, error>;
  get-all: func() -> result<list<tuple<string, string>>, error>;
}
""",
}

# `kind` of a VariableError (variables.py, named as in fermyon:spin/variables@2.0.0) -> case of the
# unversioned error. Yes, "provider" is what a variable that does not exist is called there.
V1_CASES = {"invalid-name": "invalid-key", "undefined": "provider", "provider": "other", "other": "other"}
# The same for wasi:config, where a variable that there is not is no error, except to get-all.
WASI_CASES = {"invalid-name": "io", "undefined": "io", "provider": "upstream", "other": "io"}


class Failure(Exception):
    """A variable that has no value; `kind` is the case of fermyon:spin/variables@2.0.0's error."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


def _failure(ctx: HostContext, error: GatewayError) -> Failure:
    # A provider may have taken all the time that there was.
    ctx.deadline.remaining()
    return Failure(getattr(error, "kind", "other"), str(error))


def get(ctx: HostContext, name: str) -> str:
    """The value of a component variable; Failure when it has none."""
    variables = ctx.component.variables
    if variables is None:
        raise Failure("undefined", f"no variable for {ctx.component.id!r}.{name!r}")
    try:
        return variables.get(name)
    except GatewayError as error:
        raise _failure(ctx, error) from error


def get_all(ctx: HostContext) -> tuple[tuple[str, str], ...]:
    """Names and values of all component variables; Failure when one has none."""
    variables = ctx.component.variables
    if variables is None:
        return ()
    try:
        return variables.get_all()
    except GatewayError as error:
        raise _failure(ctx, error) from error


class Config:
    """The functions that guests import."""

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        match interface:
            case "fermyon:spin/config":
                return {"get-config": self.get_config}
            case "fermyon:spin/variables@2" | "spin:variables/variables@3":
                return {"get": self.get_variable}
            case "wasi:config/store@0.2.0-draft-2024-09-27":
                return {"get": self.get_or_none, "get-all": self.get_all}
            case _:
                return {}

    def close(self) -> None:
        pass

    def get_config(self, ctx: HostContext, key: str) -> Any:
        try:
            return get(ctx, key)
        except Failure as failure:
            return Err((V1_CASES[failure.kind], failure.text))

    def get_variable(self, ctx: HostContext, name: str) -> Any:
        try:
            return get(ctx, name)
        except Failure as failure:
            return Err((failure.kind, failure.text))

    def get_or_none(self, ctx: HostContext, key: str) -> Any:
        try:
            return get(ctx, key)
        except Failure as failure:
            if failure.kind in ("invalid-name", "undefined"):
                return None
            return Err((WASI_CASES[failure.kind], failure.text))

    def get_all(self, ctx: HostContext) -> Any:
        try:
            return get_all(ctx)
        except Failure as failure:
            return Err((WASI_CASES[failure.kind], failure.text))
