"""Exceptions go from process to process, and to whoever collects them, as they are."""

from __future__ import annotations

import copy
import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest

from wasm_gateway import errors
from wasm_gateway.component.wit import WitError
from wasm_gateway.errors import GatewayError
from wasm_gateway.policy import BadValue

ERRORS = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, GatewayError)]

# What their __init__ takes, by name; *args are those of Exception.
ARGUMENTS: dict[str, Any] = {
    "message": "a b",
    "args": "a b",
    "path": Path("spin.toml"),
    "key": "x.y",
    "line": 7,
    "code": 3,
    "offset": 16,
    "feature": "threads",
    "interface": "wasi:x/y",
    "frames": ["f", "g"],
    "seconds": 1.5,
    "limit": 9,
    "retry_after": 5,
}


@pytest.mark.parametrize("kind", [*ERRORS, WitError, BadValue])
def test_what_is_unpickled_is_what_was_pickled(kind: type[Exception]) -> None:
    positional, named = [], {}
    init: Any = kind.__init__
    for parameter in inspect.signature(init).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[parameter.name] = ARGUMENTS[parameter.name]
        elif parameter.name in ARGUMENTS:  # or it is `self`, or `kwargs`
            positional.append(ARGUMENTS[parameter.name])
    error = kind(*positional, **named)
    if isinstance(error, errors.ComponentError):
        error.component = "tally"
    error.add_note("a note")
    protocols = range(pickle.HIGHEST_PROTOCOL + 1)
    for other in (copy.copy(error), *(pickle.loads(pickle.dumps(error, protocol)) for protocol in protocols)):
        assert type(other) is kind
        assert (str(other), other.args) == (str(error), error.args)
        assert vars(other) == vars(error)
