# What a guest is, before it is run: dialect, imports, exports, who made it, which
# grants its imports need, and which of these a manifest gives.
#
# Rule 1: it only reads the binary; nothing is compiled, so that a guest that cannot be
# loaded can be looked at all the same, and what is wrong with it is said.
# Rule 2: an import is no use. A Rust guest imports `environ_get` whatever it does;
# what is said here is what would be denied if it were called.

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .component.core import CoreModule, core_module, preamble, producers_among
from .component.decode import World, embedded_worlds
from .component.parse import parse_component
from .component.syntax import ComponentDef, CoreModuleDef
from .component.types import FuncType, InterfaceType, brief
from .errors import ComponentError
from .executors import Linkage, component_dialects, dialects, legacy_flat

if TYPE_CHECKING:
    from .manifest import Component

WASI = "wasi_snapshot_preview1"

# Beginning of an interface's name -> the key of [component.NAME] that grants it
# (Spin: host interfaces, 4 to 7).
GRANTS: tuple[tuple[str, str], ...] = (
    ("fermyon:spin/key-value", "key_value_stores"),
    ("spin:key-value/", "key_value_stores"),
    ("wasi:keyvalue/", "key_value_stores"),
    ("fermyon:spin/sqlite", "sqlite_databases"),
    ("spin:sqlite/", "sqlite_databases"),
    ("fermyon:spin/config", "variables"),
    ("fermyon:spin/variables", "variables"),
    ("spin:variables/", "variables"),
    ("wasi:config/", "variables"),
    ("fermyon:spin/llm", "ai_models"),
    ("fermyon:spin/http", "allowed_outbound_hosts"),
    ("fermyon:spin/redis", "allowed_outbound_hosts"),
    ("fermyon:spin/postgres", "allowed_outbound_hosts"),
    ("fermyon:spin/mysql", "allowed_outbound_hosts"),
    ("fermyon:spin/mqtt", "allowed_outbound_hosts"),
    ("spin:redis/", "allowed_outbound_hosts"),
    ("spin:postgres/", "allowed_outbound_hosts"),
    ("spin:mysql/", "allowed_outbound_hosts"),
    ("spin:mqtt/", "allowed_outbound_hosts"),
    ("wasi:http/outgoing-handler", "allowed_outbound_hosts"),
    ("wasi:http/client", "allowed_outbound_hosts"),
    ("wasi:sockets/", "allowed_outbound_hosts"),
    ("wasi:filesystem/", "files"),
    ("wasi:cli/environment", "environment"),
)
# The same for functions of WASI preview 1.
WASI_GRANTS: tuple[tuple[str, str], ...] = (
    ("path_", "files"),
    ("environ_", "environment"),
    ("sock_", "allowed_outbound_hosts"),
)


@dataclass(frozen=True, slots=True)
class Grant:
    """A key of the manifest that some imports need; `given` is its value, None without a manifest."""

    key: str
    needed_by: tuple[str, ...]
    given: tuple[str, ...] | None

    @property
    def denied(self) -> bool:
        """Whether the manifest gives nothing, so that every such call is denied or finds nothing."""
        return self.given is not None and not self.given


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a guest is. `imports` maps each interface (or core module name) to function names.

    `types` are the signatures of imported and exported functions, as far as the binary describes them,
    `problems` what keeps this host from linking it (of components).
    """

    kind: str
    size: int
    dialects: tuple[str, ...]
    imports: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exports: tuple[str, ...] = ()
    producers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    grants: tuple[Grant, ...] = ()
    types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def lines(self, types: bool = False) -> Iterable[str]:
        """The same for people; `types` shows the signatures too."""
        yield f"  kind      {self.kind}, {_size(self.size)}"
        yield f"  dialect   {', '.join(self.dialects) or 'none that is served here'}"
        for kind, makers in self.producers.items():
            yield f"  {kind:9} {', '.join(makers)}"
        if self.imports:
            yield "  imports"
            for module, names in self.imports.items():
                yield f"    {module}: {', '.join(names)}" if names else f"    {module}"
        if self.exports:
            yield f"  exports   {', '.join(self.exports)}"
        if self.grants:
            yield "  grants"
            for grant in self.grants:
                if grant.given is None:
                    state = "needed"
                elif grant.denied:
                    state = "not granted: denied"
                else:
                    state = f"granted: {', '.join(grant.given)}"
                yield f"    {grant.key} ({', '.join(grant.needed_by)}): {state}"
        for problem in self.problems:
            yield f"  problem   {problem}"
        if types:
            for name, functions in self.types.items():
                yield f"  {name}"
                yield from (f"    {function}" for function in functions)


def _size(size: int) -> str:
    if size < 10_000:
        return f"{size} bytes"
    return f"{size / 1e3:.0f} kB" if size < 10_000_000 else f"{size / 1e6:.0f} MB"


def inspect_guest(wasm: bytes, component: Component | None = None) -> Inspection:
    """Look at the binary `wasm`; `component` says what a manifest would grant it.

    Raises DecodeError for malformed bytes.
    """
    if preamble(wasm) == "component":
        return _component(wasm, component)
    module = core_module(wasm)
    world = embedded_worlds(module) if module.has_world else None
    imports = _imports(module)
    return Inspection(
        kind="module",
        size=len(wasm),
        dialects=tuple(dialects(Linkage(module, world, ()))),
        imports=imports,
        exports=tuple(item.name for item in module.exports),
        producers=_makers(module.producers),
        grants=tuple(_grants(imports, component)),
        types=_types(world),
    )


def _component(wasm: bytes, component: Component | None) -> Inspection:
    from .component.resolve import world_of

    definition = parse_component(wasm)
    world = world_of(definition)
    imports = {
        name: tuple(item.funcs) if isinstance(item, InterfaceType) else ()
        for name, item in world.imports.items()
    }
    return Inspection(
        kind="component",
        size=len(wasm),
        dialects=tuple(component_dialects(world.exports)),
        imports=imports,
        exports=tuple(world.exports),
        producers=_makers(_producers(definition)),
        grants=tuple(_grants(imports, component)),
        types=_types(world),
        problems=tuple(_problems(wasm, component)),
    )


def _producers(definition: ComponentDef) -> dict[str, dict[str, str]]:
    """Of the component itself, with those of the first of its modules that names any."""
    made = producers_among(definition.custom_sections)
    for nested in definition.definitions:
        if isinstance(nested, CoreModuleDef):
            inner = nested.module.producers
            if inner:
                return {kind: inner.get(kind, {}) | made.get(kind, {}) for kind in {**inner, **made}}
    return made


def _makers(found: Mapping[str, Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    return {
        kind: tuple(f"{name} {version}".strip() for name, version in makers.items())
        for kind, makers in found.items()
    }


def _problems(wasm: bytes, component: Component | None) -> Iterable[str]:
    """What keeps this host from linking the guest; what a site brings, or a dependency, is not known here."""
    if component is not None and (component.dependencies or component.options.host_interfaces):
        return
    from .executors.component import read
    from .host.application import Hosts
    from .runtime_config import RuntimeConfig

    try:
        read(wasm, Hosts(RuntimeConfig()))
    except ComponentError as error:
        yield str(error)


def _imports(module: CoreModule) -> dict[str, tuple[str, ...]]:
    imports: dict[str, list[str]] = {}
    for item in module.imports:
        imports.setdefault(item.module, []).append(item.name)
    return {name: tuple(names) for name, names in imports.items()}


def _grants(imports: Mapping[str, tuple[str, ...]], component: Component | None) -> Iterable[Grant]:
    needed: dict[str, list[str]] = {}
    for module, names in imports.items():
        if module == WASI:
            for key in _keys(names, WASI_GRANTS):
                needed.setdefault(key, []).append(module)
        else:
            interface = legacy_flat.INTERFACES.get(module, module)
            for key in _keys([interface], GRANTS):
                needed.setdefault(key, []).append(interface)
    for key, interfaces in needed.items():
        given = None if component is None else tuple(str(value) for value in getattr(component, key))
        yield Grant(key, tuple(interfaces), given)


def _keys(names: Iterable[str], table: Iterable[tuple[str, str]]) -> dict[str, None]:
    return {key: None for name in names for beginning, key in table if name.startswith(beginning)}


def _types(world: World | None) -> dict[str, tuple[str, ...]]:
    types: dict[str, tuple[str, ...]] = {}
    if world is not None:
        for kind, items in (("import", world.imports), ("export", world.exports)):
            for name, item in items.items():
                if isinstance(item, InterfaceType):
                    functions = [f"{function}: {brief(type_)}" for function, type_ in item.funcs.items()]
                    if functions:
                        types[f"{kind} {name}"] = tuple(functions)
                elif isinstance(item, FuncType):
                    types[f"{kind} {name}"] = (brief(item),)
    return types
