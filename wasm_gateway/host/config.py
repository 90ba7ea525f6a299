# fermyon:spin/config: the variables of a component (Spin: host interfaces, 6).
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
}

# `kind` of a VariableError (variables.py, named as in fermyon:spin/variables@2.0.0) -> case of the
# unversioned error. Yes, "provider" is what a variable that does not exist is called there.
V1_CASES = {"invalid-name": "invalid-key", "undefined": "provider", "provider": "other", "other": "other"}


class Failure(Exception):
    """A variable that has no value; `kind` is the case of fermyon:spin/variables@2.0.0's error."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


def get(ctx: HostContext, name: str) -> str:
    """The value of a component variable; Failure when it has none."""
    variables = ctx.component.variables
    if variables is None:
        raise Failure("undefined", f"no variable for {ctx.component.id!r}.{name!r}")
    try:
        return variables.get(name)
    except GatewayError as error:
        # A provider may have taken all the time that there was.
        ctx.deadline.remaining()
        raise Failure(getattr(error, "kind", "other"), str(error)) from error


class Config:
    """The functions that guests import."""

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return {"get-config": self.get_config} if interface == "fermyon:spin/config" else {}

    def close(self) -> None:
        pass

    def get_config(self, ctx: HostContext, key: str) -> Any:
        try:
            return get(ctx, key)
        except Failure as failure:
            return Err((V1_CASES[failure.kind], failure.text))
