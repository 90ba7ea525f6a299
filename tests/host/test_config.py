from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from wasm_gateway.component.values import Err
from wasm_gateway.component.wit import parse_interface
from wasm_gateway.errors import DeadlineExceeded
from wasm_gateway.host.config import INTERFACES, Config, Failure, get
from wasm_gateway.manifest import Variable
from wasm_gateway.variables import ComponentVariables, ProviderFailed, StaticProvider, Variables

INTERFACE = "fermyon:spin/config"
VARIABLES = "fermyon:spin/variables@2"
WASI = "wasi:config/store@0.2.0-draft-2024-09-27"


class Unreliable:
    """A provider of which each call fails, or takes long."""

    dynamic = True

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def get(self, name: str) -> str | None:
        if name == "broken":
            time.sleep(self.seconds)
            raise ProviderFailed("vault is sealed")
        return None


@pytest.fixture
def variables() -> ComponentVariables:
    declared = {
        name: Variable(name, default=None, required=True, secret=False, description="")
        for name in ("user", "broken", "missing")
    }
    providers = [StaticProvider({"user": "me"}), Unreliable()]
    templates = {
        "greeting": "hello {{ user }}",
        "plain": "text }} only",
        "empty": "",
        "broken": "{{ broken }}",
        "missing": "{{ missing }}",
    }
    return ComponentVariables(Variables(declared, providers), templates)


@pytest.mark.parametrize("interface", INTERFACES)
def test_functions_are_those_of_the_interface(interface: str) -> None:
    name = f"{interface}.0.0" if interface.endswith(("@2", "@3")) else interface
    declared = parse_interface(name, INTERFACES[interface])
    assert set(Config().functions(interface)) == set(declared.funcs)
    assert Config().functions("fermyon:spin/other") == {}


@pytest.mark.parametrize(
    ("key", "value"), [("greeting", "hello me"), ("plain", "text }} only"), ("empty", "")]
)
def test_variables_of_the_component(
    context: Callable[..., Any], variables: ComponentVariables, key: str, value: str
) -> None:
    ctx = context(variables=variables)
    assert Config().functions(INTERFACE)["get-config"](ctx, key) == value
    assert Config().functions(VARIABLES)["get"](ctx, key) == value
    assert Config().functions(WASI)["get"](ctx, key) == value


@pytest.mark.parametrize(
    ("key", "case", "kind"),
    [
        ("Upper", "invalid-key", "invalid-name"),
        ("a-b", "invalid-key", "invalid-name"),
        ("a__b", "invalid-key", "invalid-name"),
        ("a_", "invalid-key", "invalid-name"),
        ("1a", "invalid-key", "invalid-name"),
        ("", "invalid-key", "invalid-name"),
        ("nothing", "provider", "undefined"),
        ("user", "provider", "undefined"),  # of the application, but not of the component
        ("broken", "other", "provider"),
        ("missing", "other", "provider"),
    ],
)
def test_errors(
    context: Callable[..., Any], variables: ComponentVariables, key: str, case: str, kind: str
) -> None:
    ctx = context(variables=variables)
    answer = Config().get_config(ctx, key)
    assert isinstance(answer, Err)
    assert answer.value[0] == case
    assert isinstance(answer.value[1], str)
    with pytest.raises(Failure) as failure:
        get(ctx, key)
    assert failure.value.kind == kind
    for interface in ("fermyon:spin/variables@2", "spin:variables/variables@3"):
        later = Config().functions(interface)["get"](ctx, key)
        assert isinstance(later, Err)
        assert later.value == (kind, answer.value[1])
    wasi = Config().get_or_none(ctx, key)
    if kind in ("invalid-name", "undefined"):
        assert wasi is None
    else:
        assert isinstance(wasi, Err)
        assert wasi.value == ("upstream", answer.value[1])


def test_all_variables_of_the_component(context: Callable[..., Any], variables: ComponentVariables) -> None:
    get_all = Config().functions(WASI)["get-all"]
    assert get_all(context()) == ()
    working = ComponentVariables(variables.variables, {"b": "{{user}}", "a": "", "c": "x"})
    assert get_all(context(variables=working)) == (("b", "me"), ("a", ""), ("c", "x"))
    failed = get_all(context(variables=variables))
    assert isinstance(failed, Err)
    assert failed.value[0] == "upstream"
    wrong = ComponentVariables(variables.variables, {"a": "{{"})
    assert Config().get_or_none(context(variables=wrong), "a") == get_all(context(variables=wrong))
    assert get_all(context(variables=wrong)).value[0] == "io"


def test_a_component_without_variables(context: Callable[..., Any]) -> None:
    answer = Config().get_config(context(), "greeting")
    assert isinstance(answer, Err)
    assert answer.value[0] == "provider"


def test_values_are_looked_up_at_each_call(context: Callable[..., Any]) -> None:
    provider = StaticProvider({"user": "one"})
    declared = {"user": Variable("user", default=None, required=True, secret=False, description="")}
    variables = ComponentVariables(Variables(declared, [provider]), {"who": "{{user}}"})
    ctx = context(variables=variables)
    assert Config().get_config(ctx, "who") == "one"
    provider.values["user"] = "two"
    assert Config().get_config(ctx, "who") == "two"


def test_a_provider_that_took_all_time(context: Callable[..., Any]) -> None:
    declared = {"broken": Variable("broken", default=None, required=True, secret=False, description="")}
    variables = ComponentVariables(Variables(declared, [Unreliable(0.05)]), {"broken": "{{broken}}"})
    with pytest.raises(DeadlineExceeded):
        Config().get_config(context(variables=variables, seconds=0.01), "broken")
    with pytest.raises(DeadlineExceeded):
        Config().get_all(context(variables=variables, seconds=0.01))
