# Names of the Python interface: a class is documented where the public imports it from.

from __future__ import annotations

import inspect
import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import wasm_gateway
from wasm_gateway.component import values as component_values

from .text import code, table

# Where a public name is defined -> where it is documented.
PUBLIC = {
    f"{value.__module__}.{value.__qualname__}": f"wasm_gateway.{name}"
    for name in wasm_gateway.__all__
    if isinstance(value := getattr(wasm_gateway, name), type) and name != "GatewayError"
}


def values() -> str:
    """The Python values of WIT types, as the head of values.py has them."""
    head = inspect.getsource(component_values).partition("\n\n")[0]
    rows = re.findall(r"^#   (\S.*?) {2,}(\S.*)$", head, re.MULTILINE)
    assert len(rows) == head.count("\n#   "), head
    return table(("WIT", "Python"), [(code(wit), words) for wit, words in rows])


def public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """A reference to where a name is documented, from one to where it is defined."""
    target = PUBLIC.get(node["reftarget"])
    if node.get("refdomain") != "py" or target is None:
        return None
    domain: Any = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, content)
