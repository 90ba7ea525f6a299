# The [tool.wasm-gateway] tables: what a component may take, and how it is treated (Spin does not know them).
#
# Rule 1: a value is read the same way wherever it stands: in a manifest, in a site's settings, in a dial.
# Rule 2: who answers is a Rule (policy.py), whose fields are options beside these.

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from .errors import ManifestError
from .policy import PLAIN, READERS, BadValue, Rule

_NO_ROUTES: Final[Mapping[str, Mapping[str, object]]] = MappingProxyType({})


def _no_routes() -> Mapping[str, Mapping[str, object]]:
    return _NO_ROUTES


# How the bodies of two answers are compared: "auto" by their content type.
BODY_RULES: Final = ("auto", "bytes", "json", "html", "none")


@dataclass(frozen=True, slots=True)
class ComponentOptions:
    """The [tool.wasm-gateway] tables: sizes in bytes, times in seconds."""

    timeout: float = 30.0
    max_memory: int = 256 * 1024 * 1024
    max_table_elements: int = 100_000
    max_request_body: int = 10 * 1024 * 1024
    max_response_body: int = 64 * 1024 * 1024
    max_concurrency: int = 64
    max_disk: int = 64 * 1024 * 1024  # that guests of a process add to the folders that they may write to
    stream: bool = True
    inline: bool = False
    rule: Rule = PLAIN  # who answers: its fields are options of their own
    routes: Mapping[str, Mapping[str, object]] = field(
        default_factory=lambda: _NO_ROUTES
    )  # the same, route by route
    max_kept_body: int = 1 << 20  # of a request that the site may have to answer instead, or beside the guest
    breaker_failures: int = 5  # in a row, after which the site answers for a while
    breaker_pause: float = 10.0
    host_interfaces: tuple[str, ...] = ()  # of the site, lent to this component
    lend: tuple[str, ...] = ()  # what of who asks it may know, of LENDABLE
    identity_headers: bool = False  # the same in a signed header of each request
    cookies: bool = True  # whether it sees those of the client
    shadow_allowed_hosts: tuple[str, ...] = ()  # of allowed_outbound_hosts, those it reaches beside the site
    compare_body: str = "auto"
    compare_headers: tuple[str, ...] = ("content-type", "location", "cache-control", "vary")
    compare_ignore: tuple[str, ...] = ()  # paths in JSON
    # Requests that an instance of wasi:http 0.3 answers: from the first number up to the second.
    max_instance_reuse_count: tuple[int, int] = (1, 2)
    max_instance_concurrent_reuse_count: int = 1  # of them at the same time, which is one here
    idle_instance_timeout: float = 1.0

    def updated(self, values: Mapping[str, object]) -> ComponentOptions:
        """These options with `values` as they stand in a manifest or in a site's settings.

        Sizes are integers or texts like "64MiB", times are seconds or texts like "100ms".
        Raises ManifestError, whose `key` is the name of the option.
        """
        changed: dict[str, Any] = {}
        rule: dict[str, object] = {}
        for name, value in values.items():
            if name in READERS:
                rule[name] = value
                continue
            reader = OPTION_READERS.get(name)
            if reader is None:
                known = ", ".join(f"`{option}`" for option in OPTIONS)
                raise ManifestError(f"unknown field `{name}`, expected one of {known}", key=name)
            try:
                changed[name] = reader(value)
            except BadValue as error:
                raise ManifestError(str(error), key=f"{name}.{error.key}") from None
            except ValueError as error:
                raise ManifestError(str(error), key=name) from None
        try:
            changed["rule"] = self.rule.updated(rule)
        except BadValue as error:
            raise ManifestError(str(error), key=error.key) from None
        return dataclasses.replace(self, **changed)

    @property
    def calls_site(self) -> bool:
        """Whether it may call into the site, whose things may belong to the request's own thread."""
        return bool(self.host_interfaces or self.lend)

    @property
    def governed(self) -> bool:
        """Whether anybody but the guest may ever answer for it."""
        return not self.rule.plain or bool(self.routes)


DEFAULT_OPTIONS: Final = ComponentOptions()


# Values

SIZE_UNITS: Final = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9,
    "k": 2**10, "m": 2**20, "g": 2**30,
    "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip
TIME_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_QUANTITY: Final = r"(?a)\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*"


def parse_size(value: object) -> int:
    """Bytes, from an integer or a text such as "64MiB"; ValueError otherwise."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        match = re.fullmatch(_QUANTITY, value) if isinstance(value, str) else None
        unit = SIZE_UNITS.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise ValueError(f'{value!r} is not a size, expected bytes or a text like "64MiB"')
        size = int(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit
    if not 0 < size < 2**63:
        raise ValueError(f"{value!r} is not a possible size")
    return size


def parse_duration(value: object) -> float:
    """Seconds, from a number or a text such as "100ms" or "2s"; ValueError otherwise."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        match = re.fullmatch(_QUANTITY, value) if isinstance(value, str) else None
        unit = TIME_UNITS.get(match[2]) if match else None
        if match is None or unit is None:
            raise ValueError(f'{value!r} is not a duration, expected seconds or a text like "100ms"')
        seconds = float(match[1]) * unit
    # a day: nobody waits longer for a response, and every clock can add it
    if not 0 < seconds <= 86_400:
        raise ValueError(f"{value!r} is not a possible duration, expected more than 0 and at most a day")
    return seconds


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise ValueError(f"{value!r} is not a number from 1 on")
    return value


def parse_count_range(value: object) -> tuple[int, int]:
    """A number, or "LOW..HIGH" for one from LOW up to and not including HIGH."""
    if isinstance(value, str):
        low, dots, high = value.partition("..")
        if low.isdigit() and (high.isdigit() or not dots):
            value = int(low)
            if dots and 0 < value < int(high) < 2**31:
                return value, int(high)
            if dots:
                raise ValueError(f"{low}..{high} is no range of numbers from 1 on")
    if isinstance(value, tuple):
        return value
    count = _count(value)
    return count, count + 1


def parse_one(value: object) -> int:
    """Spin's number of requests that an instance answers at the same time: here each has one to itself."""
    if value != 1 or isinstance(value, bool):
        raise ValueError(
            f"{value!r} requests at the same time in one instance, where what one does to it the others "
            "feel: an instance answers one at a time here, so only 1 can be said"
        )
    return 1


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is not a boolean")
    return value


def _routes(value: object) -> Mapping[str, Mapping[str, object]]:
    """Tables of rules by the pattern of their route."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is not a table of routes")
    for pattern, table in value.items():
        if not isinstance(table, Mapping):
            raise BadValue(f"{table!r} is not a table", pattern)
        try:
            PLAIN.updated(table)
        except BadValue as error:
            raise BadValue(str(error), f"{pattern}.{error.key}") from None
    return MappingProxyType({pattern: MappingProxyType(dict(table)) for pattern, table in value.items()})


def _texts(what: str) -> Callable[[object], tuple[str, ...]]:
    def read(value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
            raise ValueError(f"{value!r} is not a list of {what}")
        return tuple(value)

    return read


def _body_rule(value: object) -> str:
    if value not in BODY_RULES:
        raise ValueError(f"{value!r} is none of {', '.join(BODY_RULES)}")
    return str(value)


def _paths(value: object) -> tuple[str, ...]:
    paths: tuple[str, ...] = _texts("paths")(value)
    for path in paths:
        if not path.startswith("/"):
            raise ValueError(f"the path {path!r} does not begin with /")
    return paths


# What a site may let a guest know of who asks (host/identity.py).
LENDABLE: Final = ("user", "locale", "csrf")


def _lend(value: object) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, list | tuple) else (value,)
    for name in names:
        if name not in LENDABLE:
            raise ValueError(f"{name!r} cannot be lent, expected a list of {', '.join(LENDABLE)}")
    return names


OPTION_READERS: Final = {
    "timeout": parse_duration,
    "max_memory": parse_size,
    "max_table_elements": _count,
    "max_request_body": parse_size,
    "max_response_body": parse_size,
    "max_concurrency": _count,
    "max_disk": parse_size,
    "stream": _flag,
    "inline": _flag,
    "routes": _routes,
    "max_kept_body": parse_size,
    "breaker_failures": _count,
    "breaker_pause": parse_duration,
    "host_interfaces": _texts("interface names"),
    "lend": _lend,
    "identity_headers": _flag,
    "cookies": _flag,
    "shadow_allowed_hosts": _texts("hosts"),
    "compare_body": _body_rule,
    "compare_headers": _texts("header names"),
    "compare_ignore": _paths,
    "max_instance_reuse_count": parse_count_range,
    "max_instance_concurrent_reuse_count": parse_one,
    "idle_instance_timeout": parse_duration,
}
# Every key of a [tool.wasm-gateway] table.
OPTIONS: Final = (*OPTION_READERS, *READERS)
