# spin.toml -> frozen dataclasses (Spin's application manifest, versions 1 and 2).
#
# Rule 1: everything that can be known from the text alone is checked here, at load:
# types, unknown keys, ids, references between the parts. Files are not looked at.
# Rule 2: order is the file's: triggers of a type, components, variables.
# Rule 3: templates ("{{ name }}") and allowed_outbound_hosts stay text here.
# Rule 4: the first mistake is reported, with file, key and, where known, the line.
#
# Where Spin finds a mistake only when a trigger starts, we find it here: our start is the load.

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

from . import manifest_v1
from .component_options import DEFAULT_OPTIONS, ComponentOptions
from .errors import ManifestError
from .manifest_ids import check_id, id_error
from .toml import Document, Table, dotted

MANIFEST_NAME: Final = "spin.toml"
# Spin looks at the working directory and at this many folders above it
MAX_PARENTS: Final = 19
TOOL: Final = "wasm-gateway"
WAGI_ARGV: Final = "${SCRIPT_NAME} ${ARGS}"

INHERITABLE: Final = (
    "ai_models",
    "allowed_outbound_hosts",
    "environment",
    "files",
    "key_value_stores",
    "sqlite_databases",
    "variables",
)

K = TypeVar("K")
V = TypeVar("V")


def frozen(values: Mapping[K, V]) -> Mapping[K, V]:
    """A read-only copy."""
    return MappingProxyType(dict(values))


NOTHING: Final[Mapping[str, Any]] = frozen({})


def nothing() -> Mapping[str, Any]:
    return NOTHING


@dataclass(frozen=True, slots=True)
class Variable:
    """An application variable; it has either a default or is required."""

    name: str
    default: str | None = None
    required: bool = False
    secret: bool = False
    description: str | None = None


@dataclass(frozen=True, slots=True)
class PathSource:
    """Wasm in a file; `path` is absolute."""

    path: Path


@dataclass(frozen=True, slots=True)
class UrlSource:
    """Wasm to download; `digest` is "sha256:" and 64 lower-case hexadecimal digits."""

    url: str
    digest: str


@dataclass(frozen=True, slots=True)
class RegistrySource:
    """Wasm in a package registry; `version` is a range, for the source of a component of one ("=1.2.3")."""

    package: str
    version: str
    registry: str | None = None


Source = PathSource | UrlSource | RegistrySource


@dataclass(frozen=True, slots=True)
class FileMapping:
    """`source` (relative to the manifest's folder) appears at `destination` in the guest."""

    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class Build:
    commands: tuple[str, ...]
    workdir: str | None = None
    watch: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dependency:
    """What satisfies an import of a component (or a middleware of a trigger).

    `component` names the component of this application that `source` was taken from. `inherit` lists the keys
    of configuration that the dependency inherits.
    """

    name: str
    source: Source
    component: str | None = None
    export: str | None = None
    inherit: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Component:
    id: str
    source: Source
    description: str = ""
    variables: Mapping[str, str] = field(default_factory=nothing)
    environment: Mapping[str, str] = field(default_factory=nothing)
    files: tuple[str | FileMapping, ...] = ()
    exclude_files: tuple[str, ...] = ()
    allowed_outbound_hosts: tuple[str, ...] = ()
    key_value_stores: tuple[str, ...] = ()
    sqlite_databases: tuple[str, ...] = ()
    ai_models: tuple[str, ...] = ()
    targets: tuple[str | Mapping[str, str], ...] | None = None
    build: Build | None = None
    dependencies: Mapping[str, Dependency] = field(default_factory=nothing)
    options: ComponentOptions = DEFAULT_OPTIONS
    tool: Mapping[str, Mapping[str, Any]] = field(default_factory=nothing)


@dataclass(frozen=True, slots=True)
class Executor:
    """How a component is called; `argv` is the argument template of WAGI."""

    type: Literal["http", "wagi"] = "http"
    argv: str = WAGI_ARGV


@dataclass(frozen=True, slots=True)
class StaticResponse:
    status_code: int = 200
    headers: Mapping[str, str] = field(default_factory=nothing)
    body: str | None = None


@dataclass(frozen=True, slots=True)
class HttpTrigger:
    """A route; None is a private one, which only service chaining reaches.

    Exactly one of `component` and `static_response` is there. `middleware` is outermost first.
    """

    id: str
    route: str | None
    component: str | None = None
    static_response: StaticResponse | None = None
    executor: Executor = Executor()
    middleware: tuple[Dependency, ...] = ()


@dataclass(frozen=True, slots=True)
class RedisTrigger:
    """`channel` and `address` are templates; `address` is "" where neither trigger nor app has one."""

    id: str
    component: str
    channel: str
    address: str


@dataclass(frozen=True, slots=True)
class OtherTrigger:
    """A trigger of a `type` this gateway does not know; `table` is its configuration."""

    id: str
    type: str
    table: Mapping[str, Any]


Trigger = HttpTrigger | RedisTrigger | OtherTrigger


@dataclass(frozen=True, slots=True)
class Manifest:
    """An application. `path` is the file it was read from; `warnings` are texts for the operator."""

    path: Path | None
    name: str
    version: str = ""
    description: str = ""
    authors: tuple[str, ...] = ()
    targets: tuple[str | Mapping[str, str], ...] = ()
    variables: Mapping[str, Variable] = field(default_factory=nothing)
    triggers: tuple[Trigger, ...] = ()
    components: Mapping[str, Component] = field(default_factory=nothing)
    application_triggers: Mapping[str, Mapping[str, Any]] = field(default_factory=nothing)
    tool: Mapping[str, Mapping[str, Any]] = field(default_factory=nothing)
    options: ComponentOptions = DEFAULT_OPTIONS
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def folder(self) -> Path:
        """What relative paths of the manifest are relative to."""
        return Path.cwd() if self.path is None else self.path.parent

    @property
    def http_triggers(self) -> tuple[HttpTrigger, ...]:
        return tuple(trigger for trigger in self.triggers if isinstance(trigger, HttpTrigger))

    @property
    def redis_triggers(self) -> tuple[RedisTrigger, ...]:
        return tuple(trigger for trigger in self.triggers if isinstance(trigger, RedisTrigger))


# -- files -------------------------------------------------------------------------------------------


def find_manifest(path: str | Path | None = None) -> Path:
    """The absolute path of the manifest that `--from PATH` means (Spin: cli, finding the manifest).

    A folder means the spin.toml in it. Without a path: spin.toml in the working directory or, as far as the
    first folder with a `.git`, in those above it.
    """
    if path is not None:
        found = Path(path).absolute()
        if found.is_dir():
            if not (found / MANIFEST_NAME).is_file():
                raise ManifestError(f"Directory does not contain a file named '{MANIFEST_NAME}'", path=path)
            return found / MANIFEST_NAME
        if not found.exists():
            raise ManifestError("No such file or directory", path=path)
        return found

    folder = Path.cwd()
    for candidate in (folder, *folder.parents[:MAX_PARENTS]):
        if (candidate / MANIFEST_NAME).is_file():
            return candidate / MANIFEST_NAME
        if (candidate / ".git").exists():
            break
    raise ManifestError(
        f"Default file '{MANIFEST_NAME}' not found, neither in {folder} nor above it; name one"
    )


def load_manifest(
    path: str | Path,
    *,
    profile: str | None = None,
    component_ids: Collection[str] | None = None,
) -> Manifest:
    """The application of a manifest file, or of a single `.wasm` or `.wat` file served at every path.

    `profile` chooses the build profile; `component_ids` keeps only those components and their triggers.
    """
    path = Path(path).absolute()
    if path.suffix in (".wasm", ".wat"):
        manifest = _Reader(_single_file(path), profile).manifest()
    else:
        manifest = _Reader(Document.read(path), profile).manifest()
    if component_ids is not None:
        manifest = select_components(manifest, component_ids)
    if not manifest.triggers:
        raise ManifestError("No triggers in app", path=path)
    return manifest


def parse_manifest(text: str, path: Path, *, profile: str | None = None) -> Manifest:
    """The application that `text` describes, as if it stood in the file `path`."""
    return _Reader(Document(text, path.absolute()), profile).manifest()


def _single_file(path: Path) -> Document:
    document = Document("", path)
    document.data = {
        "spin_manifest_version": 2,
        "application": {"name": path.stem},
        "trigger": {"http": [{"route": "/...", "component": {"source": str(path)}}]},
    }
    return document


_CHAINING: Final = r"(?i)[^:/]+://([^/:]+)\.spin\.internal(?:[:/].*)?"


def select_components(manifest: Manifest, component_ids: Collection[str]) -> Manifest:
    """The manifest with only these components and the triggers that call them (`-c/--component-id`)."""
    for id in component_ids:
        if id not in manifest.components:
            known = ", ".join(manifest.components) or "none"
            raise ManifestError(f"no such component: `{id}` (there are: {known})", path=manifest.path)
    kept = {id: component for id, component in manifest.components.items() if id in component_ids}
    for component in kept.values():
        for index, host in enumerate(component.allowed_outbound_hosts):
            target = re.fullmatch(_CHAINING, host.strip())
            if target is None or target[1] in kept:
                continue
            if target[1] == "*" and len(kept) == len(manifest.components):
                continue
            if target[1] == "*" or target[1] in manifest.components:
                raise error_in(
                    manifest.path,
                    f"component `{component.id}` calls a component that is left out (`{host}`): "
                    "select that one too, or leave both out",
                    *("component", component.id, "allowed_outbound_hosts", index),
                )
    triggers = tuple(trigger for trigger in manifest.triggers if _component_of(trigger) in kept)
    return dataclasses.replace(manifest, components=frozen(kept), triggers=triggers)


def _component_of(trigger: Trigger) -> str | None:
    if isinstance(trigger, OtherTrigger):
        component = trigger.table.get("component")
        return component if isinstance(component, str) else None
    return trigger.component


def error_in(path: Path | None, message: str, *key: str | int) -> ManifestError:
    """The error for a mistake found later at `key` of the manifest at `path` (version 2 names: "component",
    id, "source"). It looks for the line by reading the file again.
    """
    if path is not None and path.suffix not in (".wasm", ".wat"):
        try:
            document = Document.read(path)
            _Reader(document, None).manifest()
        except ManifestError:
            pass
        else:
            return document.error(message, key)
    return ManifestError(message, path=path, key=dotted(key))


# -- the reader --------------------------------------------------------------------------------------

# Texts, since most files need none of them and compiling them takes longer than reading the file.
_DIGEST: Final = r"sha256:[0-9a-fA-F]{64}"
_SEMVER = r"(\d+)\.(\d+)\.(\d+)(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?"
_EXACT_VERSION: Final = rf"(?a)=?\s*({_SEMVER})"
_RANGE_PART = (
    r"\s*(?:[=^~]|[<>]=?)?\s*(?:\*|\d+(?:\.(?:\d+|[*xX])){0,2}(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?)\s*"
)
_VERSION_RANGE: Final = rf"(?a){_RANGE_PART}(?:,{_RANGE_PART})*"
_WORDS = r"[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z][A-Za-z0-9]*)*"
_PACKAGE: Final = rf"{_WORDS}:{_WORDS}"
_PACKAGE_IMPORT: Final = rf"(?a)({_WORDS}:{_WORDS})(?:/({_WORDS}))?(?:@({_SEMVER}))?"


class _Reader:
    """One document on its way to a Manifest (Spin: manifest, sections 1 to 9)."""

    def __init__(self, document: Document, profile: str | None) -> None:
        self.document = document
        self.profile = profile
        self.profiles: set[str] = set()
        self.folder = Path.cwd() if document.path is None else document.path.parent
        self.warnings: list[str] = []
        self.options = DEFAULT_OPTIONS
        self.version = self.detect_version()
        if self.version == 1:
            document.data, document.aliases = manifest_v1.convert(document.root)

    def detect_version(self) -> int:
        root = self.document.root
        names = [name for name in ("spin_manifest_version", "spin_version") if name in root]
        if not names:
            raise root.error("missing field `spin_manifest_version`")
        value = root.data[names[0]]
        if value == "1":
            return 1
        if type(value) is int and value == 2:
            return 2
        shown = f'"{value}"' if isinstance(value, str) else str(value)
        raise root.error(
            f'invalid manifest version: {shown} (expected the string "1" or the integer 2)', names[0]
        )

    def manifest(self) -> Manifest:
        root = self.document.root
        root.take("spin_manifest_version")
        root.required("application")
        application = root.table("application")
        name = application.text("name")
        version = application.text_or("version", "")
        description = application.text_or("description", "")
        authors = application.texts("authors")
        targets = self.targets(application)
        application_triggers = dict(application.table("trigger").children())
        tool = self.tool(application)
        application.done()
        self.options = self.component_options(tool, self.options)

        variables = {}
        for key, table in root.table("variables").children():
            variables[key] = self.variable(key, table)

        root.required("trigger")
        raw_triggers = [
            (type, table)
            for type in root.table("trigger").data
            for table in root.table("trigger").tables(type)
        ]
        raw_components = {}
        for key, table in root.table("component").children():
            check_id(table, "-", key)
            raw_components[key] = table
        root.done()

        triggers_with_ids = self.name_triggers(raw_triggers, raw_components)
        components = {id: self.component(id, table) for id, table in raw_components.items()}
        if self.profile is not None and self.profile not in self.profiles:
            raise ManifestError(
                f"Profile {self.profile} is not defined in this application", path=self.document.path
            )
        components = self.dependency_sources(components, raw_components)

        base: dict[str, Any] = {}
        for type, table in application_triggers.items():
            self.application_trigger(type, table)
            base[type] = frozen(table.data)
        triggers = tuple(
            self.trigger(type, id, table, components, base.get(type, NOTHING))
            for type, id, table in triggers_with_ids
        )
        return Manifest(
            path=self.document.path,
            name=name,
            version=version,
            description=description,
            authors=authors,
            targets=targets,
            variables=frozen(variables),
            triggers=triggers,
            components=frozen(components),
            application_triggers=frozen(base),
            tool=frozen({key: table.data for key, table in tool.items()}),
            options=self.options,
            warnings=tuple(self.warnings),
        )

    # -- application -----------------------------------------------------------------------------

    def targets(self, table: Table) -> tuple[str | Mapping[str, str], ...]:
        targets: list[str | Mapping[str, str]] = []
        for index, value in enumerate(table.array("targets")):
            if isinstance(value, str):
                targets.append(value)
            elif isinstance(value, dict) and list(value) in (["url"], ["path"]):
                target = Table(self.document, value, (*table.key, "targets", index))
                targets.append(frozen({name: target.text(name) for name in value}))
            else:
                raise table.wrong_type("a string, `{url}` or `{path}`", "targets", index)
        return tuple(targets)

    def tool(self, table: Table) -> dict[str, Table]:
        return dict(table.table("tool").children())

    def component_options(self, tool: Mapping[str, Table], base: ComponentOptions) -> ComponentOptions:
        table = tool.get(TOOL)
        if table is None:
            return base
        try:
            return base.updated(table.data)
        except ManifestError as error:
            raise table.error(error.message, *([error.key] if error.key else [])) from None

    def variable(self, name: str, table: Table) -> Variable:
        problem = id_error(name, "_", lower=True)
        if problem is not None:
            raise table.error(f'invalid id "{name}": {problem}')
        variable = Variable(
            name=name,
            default=table.text_or("default", None),
            required=table.boolean("required", False),
            secret=table.boolean("secret", False),
            description=table.text_or("description", None),
        )
        table.done()
        if variable.required == (variable.default is not None):
            raise table.error("must be `required` OR have a `default`")
        return variable

    def application_trigger(self, type: str, table: Table) -> None:
        if type == "http":
            base = table.text_or("base", None)
            table.done()
            if base == "/":
                self.warnings.append(
                    "the application-level `base` is deprecated and has no effect: remove it"
                )
            elif base is not None:
                raise table.error(
                    "an application-level base path is no longer supported: put it into the routes", "base"
                )
        elif type == "redis":
            table.text_or("address", None)
            table.done()

    # -- generated ids ---------------------------------------------------------------------------

    def name_triggers(
        self, triggers: list[tuple[str, Table]], components: dict[str, Table]
    ) -> list[tuple[str, str, Table]]:
        """Give every trigger an id, and move inline components among `components`."""
        used = {table.text_or("id", "") for _, table in triggers}
        counters: dict[str, int] = {}
        named = []
        for type, table in triggers:
            id = table.text_or("id", "")
            component = table.take("component")
            if not id and isinstance(component, str) and f"{component}-{type}-trigger" not in used:
                id = f"{component}-{type}-trigger"
            while not id or (id in used and not table.text_or("id", "")):
                counters[type] = counters.get(type, 0) + 1
                id = f"{type}-trigger{counters[type]}"
            used.add(id)
            named.append((type, id, table))
        return [(type, id, self.move_inline(id, table, components)) for type, id, table in named]

    def move_inline(self, trigger_id: str, table: Table, components: dict[str, Table]) -> Table:
        """The trigger with ids in place of the components that are written inside of it."""
        roles = table.table("components")
        places: list[tuple[str | int, ...]] = [("component",)] if "component" in table else []
        for role, specs in roles.data.items():
            if isinstance(specs, list):
                places += [("components", role, index) for index in range(len(specs))]
            else:
                places.append(("components", role))

        ids: dict[tuple[str | int, ...], str] = {}
        number = 0
        for place in places:
            spec: Any = table.data
            for part in place:
                spec = spec[part]
            if isinstance(spec, str):
                check_id(table, "-", spec, *place)
                ids[place] = spec
            elif isinstance(spec, dict):
                id = f"{trigger_id}-component"
                if len(places) > 1 or id in components or id_error(id, "-") is not None:
                    while id in components or number == 0 or id == f"{trigger_id}-component":
                        number += 1
                        id = f"inline-component{number}"
                components[id] = Table(self.document, spec, table.key + place)
                self.document.aliases["component", id] = table.key + place
                ids[place] = id
            else:
                raise table.wrong_type("a component id or a table", *place)

        data = dict(table.data)
        if ("component",) in ids:
            data["component"] = ids["component",]
        if roles.data:
            data["components"] = {
                role: [ids["components", role, index] for index in range(len(specs))]
                if isinstance(specs, list)
                else ids["components", role]
                for role, specs in roles.data.items()
            }
        return Table(self.document, data, table.key)

    # -- components ------------------------------------------------------------------------------

    def component(self, id: str, table: Table) -> Component:
        table.required("source")
        source = self.source(table)
        environment = table.text_map("environment")
        build = self.build(table)
        dependencies = self.dependencies(table)
        inherit_all = table.boolean("dependencies_inherit_configuration", None)

        for name, overrides in table.table("profile").children():
            self.profiles.add(name)
            chosen = name == self.profile
            if "source" in overrides:
                other_source = self.source(overrides)
                source = other_source if chosen else source
            other_environment = overrides.text_map("environment")
            other_dependencies = self.dependencies(overrides)
            other_build = overrides.table("build")
            commands = self.commands(other_build) if "build" in overrides else None
            other_build.done()
            overrides.done()
            if chosen:
                environment |= other_environment
                dependencies |= other_dependencies
                if commands is not None:
                    build = (
                        Build(commands) if build is None else dataclasses.replace(build, commands=commands)
                    )

        if inherit_all is not None and any(explicit for _, explicit in dependencies.values()):
            raise table.error(
                f"Component `{id}` specifies both `dependencies_inherit_configuration` and per-dependency "
                "`inherit_configuration`. These are mutually exclusive: use one of them",
                "dependencies_inherit_configuration",
            )
        self.check_overlap(table, list(dependencies))
        found = {name: dependency for name, (dependency, _) in dependencies.items()}
        if inherit_all:
            found = {name: dataclasses.replace(item, inherit=INHERITABLE) for name, item in found.items()}

        variables = table.text_map("variables")
        for name in variables:
            check_id(table, "_", name, "variables", name, lower=True)
        hosts = table.texts("allowed_outbound_hosts")
        if "allowed_http_hosts" in table:
            self.warnings.append(
                f"component `{id}`: `allowed_http_hosts` is deprecated, use `allowed_outbound_hosts`"
            )
            hosts += tuple(manifest_v1.allowed_http_hosts(table))
        else:
            table.take("allowed_http_hosts")
        targets = self.targets(table) if "targets" in table else None
        table.take("targets")
        tool = self.tool(table)
        component = Component(
            id=id,
            source=source,
            description=table.text_or("description", ""),
            variables=frozen(variables),
            environment=frozen(environment),
            files=self.files(id, table),
            exclude_files=table.texts("exclude_files"),
            allowed_outbound_hosts=hosts,
            key_value_stores=self.labels(table, "key_value_stores"),
            sqlite_databases=self.labels(table, "sqlite_databases"),
            ai_models=table.texts("ai_models"),
            targets=targets,
            build=build,
            dependencies=frozen(found),
            options=self.component_options(tool, self.options),
            tool=frozen({name: sub.data for name, sub in tool.items()}),
        )
        table.done()
        return component

    def source(self, table: Table) -> Source:
        value = table.take("source")
        if isinstance(value, str):
            return PathSource(self.folder / value)
        if not isinstance(value, dict):
            raise table.wrong_type("a path, `{url, digest}` or `{package, version}`", "source")
        source = table.table("source")
        if "package" in source:
            package = source.text("package")
            version = source.text("version")
            registry = source.text_or("registry", None)
            source.done()
            match = re.fullmatch(_EXACT_VERSION, version)
            if match is None:
                raise source.error(f'invalid version "{version}": expected one exact version', "version")
            if re.fullmatch(_PACKAGE, package) is None:
                raise source.error(f'invalid package "{package}": expected `namespace:name`', "package")
            return RegistrySource(package, f"={match[1]}", registry)
        found = self.url_source(source)
        source.done()
        return found

    def url_source(self, table: Table) -> UrlSource:
        url = table.text("url")
        digest = table.text("digest")
        if not digest.startswith("sha256:"):
            raise table.error(f"invalid `digest` \"{digest}\"; must start with 'sha256:'", "digest")
        if re.fullmatch(_DIGEST, digest) is None:
            raise table.error(f'invalid `digest` "{digest}"; 64 hexadecimal digits must follow', "digest")
        return UrlSource(url, digest.lower())

    def files(self, id: str, table: Table) -> tuple[str | FileMapping, ...]:
        files: list[str | FileMapping] = []
        for index, value in enumerate(table.array("files")):
            if isinstance(value, str):
                files.append(value)
                if value in ("*", "**/*"):
                    self.warnings.append(
                        f'component `{id}`: files "{value}" takes the whole application folder '
                        f'(write "./{value}" if that is meant)'
                    )
            elif isinstance(value, dict):
                mapping = Table(self.document, value, (*table.key, "files", index))
                files.append(FileMapping(mapping.text("source"), mapping.text("destination")))
                mapping.done()
            else:
                raise table.wrong_type("a pattern or `{source, destination}`", "files", index)
        return tuple(files)

    def labels(self, table: Table, name: str) -> tuple[str, ...]:
        labels = table.texts(name)
        if self.version > 1:
            for index, label in enumerate(labels):
                if id_error(label, "-") is not None and id_error(label, "_") is not None:
                    raise table.error(
                        f'invalid label "{label}": expected kebab-case or snake_case', name, index
                    )
        return labels

    def build(self, table: Table) -> Build | None:
        build = table.table("build")
        if "build" not in table:
            return None
        found = Build(self.commands(build), build.text_or("workdir", None), build.texts("watch"))
        build.done()
        if found.workdir is not None and Path(found.workdir).is_absolute():
            raise build.error("The workdir specified in the application file must be relative.", "workdir")
        return found

    def commands(self, table: Table) -> tuple[str, ...]:
        command = table.required("command")
        if isinstance(command, str):
            return (command,)
        if not isinstance(command, list):
            raise table.wrong_type("a string or an array of strings", "command")
        return table.texts("command")

    # -- dependencies ----------------------------------------------------------------------------

    def dependencies(self, table: Table) -> dict[str, tuple[Dependency, bool]]:
        """The [dependencies] of a component or profile, and whether each says itself what it inherits."""
        found = {}
        dependencies = table.table("dependencies")
        for name, value in dependencies.data.items():
            packaged = re.fullmatch(_PACKAGE_IMPORT, name)
            if packaged is None and id_error(name, "-") is not None:
                raise dependencies.error(
                    f'invalid dependency name "{name}": '
                    "expected `pkg:name[/interface][@version]` or a kebab-case name",
                    name,
                )
            if isinstance(value, str):
                self.check_range(dependencies, value, name)
                if packaged is None:
                    raise dependencies.error(f'dependency "{name}" must specify a package name', name)
                found[name] = (Dependency(name, RegistrySource(packaged[1], value)), False)
                continue
            item = dependencies.table(name)
            export = item.text_or("export", None)
            dependency, explicit = self.dependency(name, item, packaged[1] if packaged else None)
            item.done()
            whole_package = packaged is not None and packaged[2] is None
            if whole_package and export is not None and ("version" in item or "path" in item):
                raise item.error(
                    f'using an export to satisfy the package dependency "{name}" is not currently permitted',
                    "export",
                )
            found[name] = (dataclasses.replace(dependency, export=export), explicit)
        return found

    def dependency(self, name: str, table: Table, package: str | None) -> tuple[Dependency, bool]:
        inherit = self.inherit(table)
        explicit = "inherit_configuration" in table
        if "version" in table:
            version = table.text("version")
            self.check_range(table, version, "version")
            package = table.text_or("package", package)
            registry = table.text_or("registry", None)
            if package is None:
                raise table.error(f'dependency "{name}" must specify a package name')
            if re.fullmatch(_PACKAGE, package) is None:
                raise table.error(f'invalid package "{package}": expected `namespace:name`', "package")
            return Dependency(name, RegistrySource(package, version, registry), inherit=inherit), explicit
        if "path" in table:
            return Dependency(name, PathSource(self.folder / table.text("path")), inherit=inherit), explicit
        if "url" in table:
            return Dependency(name, self.url_source(table), inherit=inherit), explicit
        if "component" in table:
            component = table.text("component")
            check_id(table, "-", component, "component")
            unknown = PathSource(self.folder)  # until `dependency_source` knows all components
            return Dependency(name, unknown, component=component, inherit=inherit), explicit
        raise table.error("expected one of the keys `version`, `path`, `url`, `component`")

    def inherit(self, table: Table) -> tuple[str, ...]:
        value = table.take("inherit_configuration")
        if value is None or isinstance(value, bool):
            return INHERITABLE if value else ()
        keys = table.texts("inherit_configuration")
        for index, key in enumerate(keys):
            if key not in INHERITABLE:
                expected = ", ".join(f"`{known}`" for known in INHERITABLE)
                raise table.error(
                    f"unknown key `{key}`, expected one of {expected}", "inherit_configuration", index
                )
        return keys

    def check_range(self, table: Table, text: str, name: str) -> None:
        if re.fullmatch(_VERSION_RANGE, text) is None:
            raise table.error(f'invalid version "{text}": expected a range of semantic versions', name)

    def check_overlap(self, table: Table, names: list[str]) -> None:
        matches = [match for name in names if (match := re.fullmatch(_PACKAGE_IMPORT, name))]
        for index, one in enumerate(matches):
            for other in matches[:index]:
                if one[1] == other[1] and not _apart(one, other):
                    raise table.error(
                        f'"{one[0]}" dependency conflicts with "{other[0]}"', "dependencies", one[0]
                    )

    def dependency_sources(
        self, components: dict[str, Component], tables: Mapping[str, Table]
    ) -> dict[str, Component]:
        """Put the sources of components in place of the ids that dependencies name."""
        resolved = {}
        for id, component in components.items():
            dependencies = {
                name: self.dependency_source(
                    id, dependency, components, tables[id], ("dependencies", name, "component")
                )
                for name, dependency in component.dependencies.items()
            }
            resolved[id] = (
                dataclasses.replace(component, dependencies=frozen(dependencies))
                if dependencies
                else component
            )
        return resolved

    def dependency_source(
        self,
        dependent: str,
        dependency: Dependency,
        components: Mapping[str, Component],
        table: Table,
        place: tuple[str | int, ...],
    ) -> Dependency:
        if dependency.component is None:
            return dependency
        component = components.get(dependency.component)
        if component is None:
            raise table.error(f"dependency ID {dependency.component} does not exist", *place)
        own = [
            words
            for words, value in (
                ("AI models", component.ai_models),
                ("allowed outbound hosts", component.allowed_outbound_hosts),
                ("dependencies", component.dependencies),
                ("environment variables", component.environment),
                ("files", component.files),
                ("key-value stores", component.key_value_stores),
                ("SQLite databases", component.sqlite_databases),
                ("variables", component.variables),
            )
            if value
        ]
        if own:
            raise table.error(
                "Dependencies may not have their own resources or permissions. "
                f"Component {component.id} cannot be used as a dependency of {dependent} "
                f"because it specifies: {', '.join(own)}",
                *place,
            )
        return dataclasses.replace(dependency, source=component.source)

    # -- triggers --------------------------------------------------------------------------------

    def trigger(
        self, type: str, id: str, table: Table, components: Mapping[str, Component], base: Mapping[str, Any]
    ) -> Trigger:
        if type not in ("http", "redis"):
            return OtherTrigger(id, type, frozen({key: v for key, v in table.data.items() if key != "id"}))

        table.take("id")
        table.take("components")
        component = table.text_or("component", None)
        if component is not None and component not in components:
            known = ", ".join(components) or "none"
            raise table.error(
                f"no such component: `{component}`, configured for trigger `{id}` (there are: {known})",
                "component",
            )
        middleware = self.middleware(type, id, table, components)
        if type == "redis":
            if component is None:
                raise table.error("missing field `component`")
            address = table.text_or("address", base.get("address", ""))
            redis = RedisTrigger(id, component, channel=table.text("channel"), address=address)
            table.done()
            return redis

        route = self.route(id, table)
        static_response = self.static_response(table)
        executor = self.executor(component, table)
        table.done()
        if (component is None) == (static_response is None):
            has = "neither" if component is None else "both"
            raise table.error(f"Triggers must specify either component or static_response - {id} has {has}")
        return HttpTrigger(id, route, component, static_response, executor, middleware)

    def middleware(
        self, type: str, id: str, table: Table, components: Mapping[str, Component]
    ) -> tuple[Dependency, ...]:
        found = []
        roles = table.table("dependencies")
        for role in roles.data:
            if type != "http":
                raise roles.error(f"the {type} trigger has no trigger dependencies", role)
            if role != "middleware":
                raise roles.error("the HTTP trigger's only allowed trigger dependency is `middleware`", role)
            for index, item in enumerate(roles.tables(role)):
                dependency, _ = self.dependency(role, item, None)
                item.done()
                place = ("dependencies", role, index, "component")
                found.append(self.dependency_source(id, dependency, components, table, place))
        return tuple(found)

    def route(self, id: str, table: Table) -> str | None:
        route = table.required("route")
        if isinstance(route, str):
            return route
        if isinstance(route, dict) and list(route) == ["private"] and route["private"] is True:
            return None
        component = table.data.get("component", "no component")
        raise table.error(
            f"the route of trigger `{id}` ({component}) must be a string pattern or `{{ private = true }}`",
            "route",
        )

    def static_response(self, table: Table) -> StaticResponse | None:
        response = table.table("static_response")
        if "static_response" not in table:
            return None
        # other keys are ignored, as Spin does
        return StaticResponse(
            status_code=response.integer("status_code", 200, 100, 999),
            headers=frozen(response.text_map("headers")),
            body=response.text_or("body", None),
        )

    def executor(self, component: str | None, table: Table) -> Executor:
        executor = table.table("executor")
        if "executor" not in table:
            return Executor()
        match executor.text("type"):
            case "http" | "spin":
                executor.done()
                return Executor()
            case "wagi":
                argv = executor.text_or("argv", WAGI_ARGV)
                entrypoint = executor.text_or("entrypoint", "_start")
                executor.done()
                if entrypoint != "_start":
                    raise executor.error(
                        f"Wagi component '{component}' cannot use deprecated 'entrypoint' field", "entrypoint"
                    )
                return Executor("wagi", argv)
            case other:
                raise executor.error(f"unknown variant `{other}`, expected `http` or `wagi`", "type")


def _apart(one: re.Match[str], other: re.Match[str]) -> bool:
    """Whether two imports of one package cannot be the same: other interfaces or incompatible versions."""
    if one[2] is not None and other[2] is not None and one[2] != other[2]:
        return True
    return one[3] is not None and other[3] is not None and _compatibility(one) != _compatibility(other)


def _compatibility(match: re.Match[str]) -> tuple[int, ...]:
    """The leading numbers that compatible versions have in common."""
    numbers = tuple(int(number) for number in match.group(4, 5, 6))
    for size, number in enumerate(numbers, 1):
        if number:
            return numbers[:size]
    return numbers
