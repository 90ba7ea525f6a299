# Imports point one way: a module may import from its own room and from the rooms of lower levels,
# never from a room beside it or above it, and never in a circle. Imports for type checkers and those
# inside of functions count like all others, except where LAZY says why not.

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "wasm_gateway"

# From the bottom up; a room is a set of modules and packages, "__init__" the public names.
LEVELS: list[list[set[str]]] = [
    [{"errors"}, {"forks"}, {"stack"}, {"own_files"}],
    [{"messages"}, {"policy"}, {"outcomes"}],
    [{"toml", "manifest", "manifest_ids", "manifest_v1", "component_options"}, {"workers"}],
    [
        {"component"},
        {"capi"},
        {"stack"},
        {"router"},
        {"runtime_config", "variables"},
        {"assets", "registry", "downloads", "versions"},
        {"guest_logs"},
        {"watch"},
        {"compile_cache", "kept"},
        {"migration"},
        {"schema"},
        {"sites"},
    ],
    [{"engine"}, {"observe"}, {"making"}],
    [{"linked"}],
    [{"host"}],
    [{"instance"}],
    [{"executors"}],
    [{"gateway", "loader", "swap"}, {"inspection"}],
    [
        {"wsgi", "exchange", "asgi", "direct"},
        {"redis_trigger"},
        {"stopwatch", "bench"},
        {"doctor"},
        {"export"},
    ],
    [{"__init__"}],
    [{"integrations"}, {"cli", "__main__", "serve", "announce", "report"}],
]
PLACES = {
    name: (level, room)
    for level, rooms in enumerate(LEVELS)
    for room, names in enumerate(rooms)
    for name in names
}

# Conveniences of a lower module that only hand over to a higher one, when they are called.
LAZY = {
    ("gateway", "wsgi"): "Gateway.wsgi() makes the door",
    ("gateway", "asgi"): "Gateway.asgi() makes the door",
}

# Who may import what does not belong to the project.
OWNERS = {
    "wasmtime": {"engine", "capi", "linked", "compile_cache"},
    "django": {"integrations"},
    "flask": {"integrations"},
    "werkzeug": {"integrations"},
    "prometheus_client": {"observe"},
    "opentelemetry": {"observe"},
}


class Import(NamedTuple):
    module: str  # both dotted, without the package in front; "" is the package itself
    line: int
    target: str
    outside: bool
    at_run_time: bool  # executed when the module is
    deferred: bool  # stands in a function


def modules(root: Path) -> dict[str, Path]:
    """Every module under `root`, the integrations where they are installed."""
    found = {}
    for folder, prefix in [(root / PACKAGE, ""), (root / "integrations", "integrations")]:
        for path in sorted(folder.rglob("*.py")):
            parts = [prefix, *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(part for part in parts if part and part != "__init__")
            found[name] = path
    return found


Statement = tuple[ast.Import | ast.ImportFrom, bool, bool]


def statements(tree: ast.AST) -> Iterator[Statement]:
    """The import statements, with `at_run_time` and `deferred` of each."""

    def walk(node: ast.AST, typing: bool, deferred: bool) -> Iterator[Statement]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, not typing and not deferred, deferred
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from walk(child, True, deferred)
            for child in node.orelse:
                yield from walk(child, typing, deferred)
            return
        inner = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, typing, deferred or inner)

    return walk(tree, False, False)


def imports(module: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    package = [PACKAGE, *module.split(".")] if module else [PACKAGE]
    if path.name != "__init__.py":
        package.pop()
    for node, at_run_time, deferred in statements(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *(node.module or "").split(".")]).strip(".")
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            head, _, rest = name.partition(".")
            if head != PACKAGE:
                yield Import(module, node.lineno, head, True, at_run_time, deferred)
                continue
            while rest and rest not in known:  # a name in a module
                rest = rest.rpartition(".")[0]
            yield Import(module, node.lineno, rest, False, at_run_time, deferred)


def room_of(module: str) -> str:
    return module.partition(".")[0] or "__init__"


def violations(root: Path) -> list[str]:
    known = modules(root)
    found = [each for name, path in known.items() for each in imports(name, path, known)]
    problems = [f"{name}: no place in LEVELS" for name in known if room_of(name) not in PLACES]
    for each in found:
        where = f"{each.module}:{each.line}: imports {each.target or PACKAGE}"
        if each.outside:
            owners = OWNERS.get(each.target)
            if owners is not None and each.module not in owners and room_of(each.module) not in owners:
                problems.append(where)
            continue
        here, there = room_of(each.module), room_of(each.target)
        if here not in PLACES or there not in PLACES or PLACES[here] == PLACES[there]:
            continue
        if PLACES[there][0] >= PLACES[here][0] and not (each.deferred and (here, there) in LAZY):
            problems.append(where)

    graph: dict[str, set[str]] = {}
    for each in found:
        if each.at_run_time and not each.outside and each.target != each.module:
            graph.setdefault(each.module, set()).add(each.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        problems.append("circle: " + " < ".join(name or PACKAGE for name in error.args[1]))
    return problems


def test_imports_point_one_way() -> None:
    assert violations(ROOT) == []


def test_every_exception_is_still_needed() -> None:
    known = modules(ROOT)
    used = {
        (room_of(each.module), room_of(each.target))
        for name, path in known.items()
        for each in imports(name, path, known)
        if each.deferred and not each.outside
    }
    assert set(LAZY) <= used


TREE = {
    "wasm_gateway/__init__.py": "from .errors import Trap\n",
    "wasm_gateway/errors.py": "class Trap(Exception): ...\n",
    "wasm_gateway/messages.py": "",
    "wasm_gateway/manifest.py": "from .errors import Trap\n",
    "wasm_gateway/router.py": "from .messages import Request\n",
    "wasm_gateway/engine.py": "import wasmtime\n",
    "wasm_gateway/component/__init__.py": "",
    "wasm_gateway/component/memory.py": "from ..errors import Trap\n",
    "wasm_gateway/linked.py": "from wasmtime import Module\nfrom .component.memory import Memory\n",
    "wasm_gateway/host/__init__.py": "",
    "wasm_gateway/host/base.py": "from ..component.memory import Memory\nfrom ..engine import ticks\n",
    "wasm_gateway/instance.py": "from .host.base import HostContext\nfrom . import engine\n",
    "wasm_gateway/gateway.py": "from .router import Router\ndef wsgi():\n    from .wsgi import Door\n",
    "wasm_gateway/wsgi.py": "from .gateway import Gateway\n",
    "wasm_gateway/asgi.py": "from .wsgi import outgoing\n",
    "wasm_gateway/cli/__init__.py": "import wasm_gateway.wsgi\nfrom .. import Gateway\n",
    "integrations/__init__.py": "",
    "integrations/django/__init__.py": "from django.http import HttpRequest\nfrom .conf import settings\n",
    "integrations/django/conf.py": "from wasm_gateway import Gateway, wsgi\nfrom .. import options\n",
    "integrations/options.py": "from wasm_gateway.gateway import Gateway\n",
}


MEMORY = "wasm_gateway/component/memory.py"


def plant(root: Path, tree: dict[str, str]) -> Path:
    for name, source in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, "utf-8")
    return root


def test_a_tree_in_order(tmp_path: Path) -> None:
    assert violations(plant(tmp_path, TREE)) == []


@pytest.mark.parametrize(
    ("file", "source", "problem"),
    [
        ("wasm_gateway/host/base.py", "from ..instance import Instance\n", "host.base:1: imports instance"),
        ("wasm_gateway/host/base.py", "import wasm_gateway.gateway\n", "host.base:1: imports gateway"),
        ("wasm_gateway/host/base.py", "from .. import Gateway\n", "host.base:1: imports wasm_gateway"),
        ("wasm_gateway/host/base.py", "import django.http\n", "host.base:1: imports django"),
        ("wasm_gateway/host/base.py", "def f():\n    from flask import g\n", "host.base:2: imports flask"),
        ("wasm_gateway/host/base.py", "import wasmtime._bindings\n", "host.base:1: imports wasmtime"),
        (
            "wasm_gateway/component/memory.py",
            "from ..engine import x\n",
            "component.memory:1: imports engine",
        ),
        (
            "wasm_gateway/component/memory.py",
            "from ..host import base\n",
            "component.memory:1: imports host.base",
        ),
        (MEMORY, "import wasmtime\n", "component.memory:1: imports wasmtime"),
        ("wasm_gateway/engine.py", "from .host.base import x\n", "engine:1: imports host.base"),
        ("wasm_gateway/errors.py", "from . import messages\n", "errors:1: imports messages"),
        (
            "wasm_gateway/router.py",
            "from .manifest import x\nfrom .engine import y\n",
            "router:2: imports engine",
        ),
        ("wasm_gateway/gateway.py", "from .wsgi import Door\n", "gateway:1: imports wsgi"),
        ("wasm_gateway/gateway.py", "def f():\n    from .cli import main\n", "gateway:2: imports cli"),
        (
            "wasm_gateway/instance.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .gateway import Gateway\n",
            "instance:3: imports gateway",
        ),
        (
            "wasm_gateway/wsgi.py",
            "import wasm_gateway.integrations.django\n",
            "wsgi:1: imports integrations.django",
        ),
        ("wasm_gateway/wsgi.py", "from .asgi import Exchange\n", "circle: "),
        ("wasm_gateway/unheard_of.py", "", "unheard_of: no place in LEVELS"),
        (
            "integrations/options.py",
            "from wasm_gateway.cli import main\n",
            "integrations.options:1: imports cli",
        ),
        ("integrations/options.py", "import wasmtime\n", "integrations.options:1: imports wasmtime"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, file: str, source: str, problem: str) -> None:
    found = violations(plant(tmp_path, {**TREE, file: source}))
    assert any(each.startswith(problem) for each in found), found
