from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wasm_gateway.component.values import Err
from wasm_gateway.component.wit import parse_interface
from wasm_gateway.host.llm import INTERFACES, Llm


@pytest.mark.parametrize("interface", INTERFACES)
def test_functions_are_those_of_the_interface(interface: str) -> None:
    name = interface.replace("@2", "@2.0.0")
    declared = parse_interface(name, INTERFACES[interface])
    assert set(Llm().functions(interface)) == set(declared.funcs)
    assert Llm().functions("fermyon:spin/other") == {}


@pytest.mark.parametrize("interface", INTERFACES)
def test_a_granted_model_is_not_there(context: Callable[..., Any], interface: str) -> None:
    ctx = context(ai_models=frozenset({"llama2-chat"}))
    call = Llm().functions(interface)
    expected = Err(("runtime-error", "Local LLM operations are not supported in this version of Spin."))
    assert call["infer"](ctx, "llama2-chat", "hello", None) == expected
    assert call["infer"](ctx, "llama2-chat", "hello", (100, 1.1, 64, 0.8, 40, 0.9)) == expected
    assert call["generate-embeddings"](ctx, "llama2-chat", ["a"]) == expected


def test_models_are_denied_by_default(context: Callable[..., Any]) -> None:
    text = (
        "The component does not have access to use 'other'. To give the component access, add 'other' "
        "to the 'ai_models' key for the component in your spin.toml manifest"
    )
    expected = Err(("invalid-input", text))
    assert Llm().infer(context(ai_models=frozenset({"llama2-chat"})), "other", "hello", None) == expected
    assert Llm().generate_embeddings(context(), "other", []) == expected
