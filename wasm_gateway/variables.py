# Application variables, the providers of their values, and the templates that use them.
#
# Rule 1: a guest never sees an application variable, only what its component's
# `variables` make of them.
# Rule 2: values are looked up when they are asked for; only what was written in
# files (templates, .env) is read once.
#
# Spin: manifest, section 10; host interfaces, section 6.

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Literal, Protocol

from .errors import GatewayError, ManifestError
from .manifest import NOTHING, Component, Manifest, Variable, error_in
from .runtime_config import RuntimeConfig
from .toml import Document

ENV_PREFIX: Final = "SPIN_VARIABLE"
DOTENV: Final = ".env"

_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")


class VariableError(GatewayError):
    """A variable that has no value; `kind` is the case of the WIT error (fermyon:spin/variables@2.0.0)."""

    kind: ClassVar[Literal["invalid-name", "undefined", "provider", "other"]] = "other"


class InvalidName(VariableError):
    """The text cannot be the name of a variable."""

    kind = "invalid-name"


class Undefined(VariableError):
    """The component has no such variable."""

    kind = "undefined"


class ProviderFailed(VariableError):
    """No provider has a value, or one could not be asked."""

    kind = "provider"


def check_name(name: str) -> str:
    """`name`, if it may be that of a variable (Spin: manifest, template expressions); else InvalidName."""
    if _NAME.fullmatch(name) is None:
        raise InvalidName(
            f'invalid variable name "{name}": lower case words joined by single "_", the first a letter'
        )
    return name


# -- templates ---------------------------------------------------------------------------------------


class Template:
    """A text with `{{ name }}` in it; there is no escape, and a lone `}}` is literal."""

    __slots__ = ("literals", "names")

    def __init__(self, literals: tuple[str, ...], names: tuple[str, ...]) -> None:
        assert len(literals) == len(names) + 1
        self.literals = literals
        self.names = names

    @classmethod
    def parse(cls, text: str) -> Template:
        literals: list[str] = []
        names: list[str] = []
        while True:
            literal, opened, rest = text.partition("{{")
            literals.append(literal)
            if not opened:
                return cls(tuple(literals), tuple(names))
            name, closed, text = rest.partition("}}")
            if not closed:
                raise VariableError("invalid variable template: unmatched '{{' in template")
            try:
                names.append(check_name(name.strip()))
            except InvalidName as error:
                raise VariableError(f"invalid variable template: {error}") from None

    def resolve(self, lookup: Callable[[str], str]) -> str:
        """The text with `lookup(name)` in place of each expression."""
        if not self.names:
            return self.literals[0]
        parts = [self.literals[0]]
        for name, literal in zip(self.names, self.literals[1:], strict=True):
            parts += (lookup(name), literal)
        return "".join(parts)


# -- providers ---------------------------------------------------------------------------------------


class Provider(Protocol):
    """A source of values.

    `get` gives the value of an application variable or None, and raises ProviderFailed. `dynamic` is
    true where a value may appear later, so that its absence at start proves nothing.
    """

    dynamic: bool

    def get(self, name: str) -> str | None: ...


class StaticProvider:
    """Values that are known already: the command line, or `type = "static"`."""

    dynamic = False

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = dict(values)

    def get(self, name: str) -> str | None:
        return self.values.get(name)


class EnvProvider:
    """Environment variables `<PREFIX>_<NAME>`; those of the process win over those of the file `dotenv`.

    The file is read once, at the first variable that the process does not have; it need not exist.
    """

    dynamic = False

    def __init__(
        self,
        prefix: str = ENV_PREFIX,
        dotenv: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.prefix = prefix
        self.dotenv = dotenv
        self.environ: Mapping[str, str] = os.environ if environ is None else environ
        self._values: Mapping[str, str | None] | None = None

    def get(self, name: str) -> str | None:
        key = f"{self.prefix}_{name.upper()}"
        value = self.environ.get(key)
        if value is None and self.dotenv is not None:
            if self._values is None:
                self._values = _read_dotenv(self.dotenv)
            value = self._values.get(key)
        return value


def _read_dotenv(path: Path) -> Mapping[str, str | None]:
    if not path.is_file():
        return {}
    # most applications have no such file, and need not pay for its reader
    from dotenv import dotenv_values

    try:
        return dotenv_values(path, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProviderFailed(f"{path} cannot be read: {error}") from None


def providers(
    values: Mapping[str, str],
    config: RuntimeConfig,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> tuple[Provider, ...]:
    """All providers in the order they are asked.

    `values` of the command line or the site, the providers of the runtime configuration in file order, the
    environment (SPIN_VARIABLE_*, and the .env of `folder`, by default the working directory). A provider
    that is not supported here is left out: `RuntimeConfig.check` refuses it where it matters.
    """
    folder = Path.cwd() if folder is None else folder
    found: list[Provider] = [StaticProvider(values)]
    for provider in config.variables_providers:
        match provider.type:
            case "static":
                found.append(StaticProvider(provider.options["values"]))
            case "env":
                dotenv = provider.options.get("dotenv_path")
                found.append(
                    EnvProvider(
                        provider.options.get("prefix", ENV_PREFIX),
                        None if dotenv is None else folder / dotenv,
                        environ,
                    )
                )
    found.append(EnvProvider(ENV_PREFIX, folder / DOTENV, environ))
    return tuple(found)


# -- lookup ------------------------------------------------------------------------------------------


class Variables:
    """The variables of an application. Safe for any number of threads."""

    def __init__(self, variables: Mapping[str, Variable], providers: Sequence[Provider] = ()) -> None:
        self.variables = variables
        self.providers = tuple(providers)
        self._templates: dict[str, Template] = {}

    @classmethod
    def from_manifest(
        cls,
        manifest: Manifest,
        config: RuntimeConfig | None = None,
        values: Mapping[str, str] = NOTHING,
        *,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> Variables:
        """The variables of `manifest` with all providers (see `providers`), checked (see `check`)."""
        made = cls(
            manifest.variables, providers(values, config or RuntimeConfig(), environ=environ, folder=folder)
        )
        made.check(manifest)
        return made

    def of(self, component: Component) -> ComponentVariables:
        """What the guest of `component` may ask for."""
        return ComponentVariables(self, component.variables)

    def value(self, name: str) -> str:
        """The value of an application variable: the first provider that has one, else its default."""
        variable = self.variables.get(name)
        if variable is None:
            raise VariableError(f'invalid variable template: unknown variable "{name}"')
        value = self._provided(name)
        if value is None:
            value = variable.default
        if value is None:
            raise ProviderFailed(f'no provider resolved required variable "{name}"')
        return value

    def _provided(self, name: str) -> str | None:
        for provider in self.providers:
            value = provider.get(name)
            if value is not None:
                return value
        return None

    def template(self, text: str) -> Template:
        """The parsed `text`, which comes from a manifest: there are only so many of them."""
        template = self._templates.get(text)
        if template is None:
            template = self._templates[text] = Template.parse(text)
        return template

    def resolve_template(self, text: str) -> str:
        """The `text` of a manifest with the values of application variables in it."""
        return self.template(text).resolve(self.value)

    def check(self, manifest: Manifest) -> None:
        """What can be known at start: templates are well-formed and name variables that exist, and every
        required variable has a value, unless a dynamic provider may still bring it. Else ManifestError.
        """
        for component in manifest.components.values():
            place = ("component", component.id)
            for name, text in component.variables.items():
                problem = self._problem(text)
                if problem is not None:
                    raise error_in(manifest.path, problem, *place, "variables", name)
            for index, text in enumerate(component.allowed_outbound_hosts):
                problem = self._problem(text)
                if problem is not None:
                    raise error_in(manifest.path, problem, *place, "allowed_outbound_hosts", index)
        for trigger in manifest.redis_triggers:
            problem = self._problem(trigger.channel) or self._problem(trigger.address)
            if problem is not None:
                raise ManifestError(problem, path=manifest.path, key=f"trigger.redis {trigger.id}")

        if any(provider.dynamic for provider in self.providers):
            return
        missing = [
            name
            for name, variable in self.variables.items()
            if variable.required and self._provided(name) is None
        ]
        if missing:
            raise ManifestError(
                f"no provider resolved required variable(s): [{', '.join(missing)}]; give them with "
                f"--variable NAME=VALUE or in the environment as {ENV_PREFIX}_{missing[0].upper()}",
                path=manifest.path,
            )

    def _problem(self, text: str) -> str | None:
        """What is wrong with a template, None if nothing."""
        try:
            names = self.template(text).names
        except VariableError as error:
            return str(error)
        unknown = [name for name in names if name not in self.variables]
        return f'invalid variable template: unknown variable "{unknown[0]}"' if unknown else None


class ComponentVariables:
    """The variables of one component: all that its guest sees of those of the application."""

    def __init__(self, variables: Variables, templates: Mapping[str, str]) -> None:
        self.variables = variables
        self.templates = templates
        self.names = tuple(templates)

    def get(self, name: str) -> str:
        """The value of `name`.

        InvalidName and Undefined where the guest may not ask for it; ProviderFailed, or a plain
        VariableError, where it may and there is no value.
        """
        text = self.templates.get(name)
        if text is None:
            check_name(name)
            raise Undefined(f'no variable for "{name}"')
        return self.variables.resolve_template(text)

    def get_all(self) -> tuple[tuple[str, str], ...]:
        """Every name and value, in order; one failure fails all."""
        return tuple((name, self.variables.resolve_template(text)) for name, text in self.templates.items())


# -- the command line --------------------------------------------------------------------------------


def parse_variable_options(options: Iterable[str], folder: Path | None = None) -> dict[str, str]:
    """The values that `--variable` options give; a later one wins (Spin: cli, runtime flags).

    `name=value`; `name=@file`, the text of a file as it is; `@file.json` or `@file.toml`, a flat table of
    texts. Files are relative to `folder`, by default the working directory.
    """
    folder = Path.cwd() if folder is None else folder
    values: dict[str, str] = {}
    for option in options:
        if option.startswith("@"):
            values |= _variable_file(folder / option[1:])
            continue
        name, separator, value = option.partition("=")
        if not separator:
            raise ManifestError(
                "variables must be in the form 'key=value' or '@file'", key=f"--variable {option}"
            )
        values[_option_name(name, option)] = _text(folder / value[1:]) if value.startswith("@") else value
    return values


def _variable_file(path: Path) -> dict[str, str]:
    if path.suffix not in (".json", ".toml"):
        raise ManifestError("variable files must end in .json or .toml", path=path)
    if path.suffix == ".toml":
        table = Document(_text(path), path).root
        return {_option_name(name, name): table.text(name) for name in table.data}

    import json

    try:
        data = json.loads(_text(path))
    except ValueError as error:
        raise ManifestError(f"invalid JSON: {error}", path=path) from None
    if not isinstance(data, dict):
        raise ManifestError("expected an object of variables", path=path)
    for name, value in data.items():
        if not isinstance(value, str):
            raise ManifestError(
                f"invalid type: {type(value).__name__}, expected a string", path=path, key=name
            )
    return {_option_name(name, name): value for name, value in data.items()}


def _option_name(name: str, option: str) -> str:
    try:
        return check_name(name)
    except InvalidName as error:
        raise ManifestError(str(error), key=f"--variable {option}") from None


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ManifestError(f"cannot be read: {error.strerror or error}", path=path) from None
    except UnicodeDecodeError:
        raise ManifestError("not UTF-8", path=path) from None
