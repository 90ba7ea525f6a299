# fermyon:spin/llm: permissions as Spin has them, and no model behind (Spin: host
# interfaces, 7.5). The default build of Spin answers the same.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..component.values import Err
from .base import HostContext

_BODY = """
interface llm {
  type inferencing-model = string;
  type embedding-model = string;
  record inferencing-params {
    max-tokens: u32,
    repeat-penalty: f32,
    repeat-penalty-last-n-token-count: u32,
    temperature: f32,
    top-k: u32,
    top-p: f32,
  }
  variant error { model-not-supported, runtime-error(string), invalid-input(string) }
  record inferencing-usage { prompt-token-count: u32, generated-token-count: u32 }
  record inferencing-result { text: string, usage: inferencing-usage }
  record embeddings-usage { prompt-token-count: u32 }
  record embeddings-result { embeddings: list<list<f32>>, usage: embeddings-usage }
  infer: func(model: inferencing-model, prompt: string, params: option<inferencing-params>)
    -> result<inferencing-result, error>;
  generate-embeddings: func(model: embedding-model, text: list<string>)
    -> result<embeddings-result, error>;
}
"""
INTERFACES = {
    "fermyon:spin/llm": "package fermyon:spin;" + _BODY,
    "fermyon:spin/llm@2": "package fermyon:spin@2.0.0;" + _BODY,
}

UNSUPPORTED = Err(("runtime-error", "Local LLM operations are not supported in this version of Spin."))


class Llm:
    """The functions that guests import."""

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        if interface not in INTERFACES:
            return {}
        return {"infer": self.infer, "generate-embeddings": self.generate_embeddings}

    def close(self) -> None:
        pass

    def infer(self, ctx: HostContext, model: str, prompt: str, params: Any) -> Any:
        return self._answer(ctx, model)

    def generate_embeddings(self, ctx: HostContext, model: str, text: list[str]) -> Any:
        return self._answer(ctx, model)

    def _answer(self, ctx: HostContext, model: str) -> Err:
        if model in ctx.component.ai_models:
            return UNSUPPORTED
        text = (
            f"The component does not have access to use '{model}'. To give the component access, add "
            f"'{model}' to the 'ai_models' key for the component in your spin.toml manifest"
        )
        return Err(("invalid-input", text))
