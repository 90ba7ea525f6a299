# Who answers a request for a Wasm route: the guest, or the site's own view.
#
# Rule 1: a choice is made of a Rule and the facts of a request, and of nothing else: the
# same facts give the same choice in every process and after every restart.
# Rule 2: the kill switch (mode "native") cannot be overridden by anything in a request.
# Rule 3: nothing here knows a server, a framework or a guest.

from __future__ import annotations

import copyreg
import dataclasses
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from random import random
from typing import Any, Protocol


class Mode(StrEnum):
    WASM = "wasm"  # the guest answers
    NATIVE = "native"  # the site answers
    CANARY = "canary"  # the guest answers for some
    SHADOW = "shadow"  # the site answers; the guest answers beside it, for comparison


class Failure(StrEnum):
    """What may go wrong with a guest so that the site can answer instead."""

    TRAP = "trap"
    DEADLINE = "deadline"
    LIMIT = "limit"
    SATURATED = "saturated"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks, as the site knows it; `id` is None for somebody unknown, `name` is for guests only."""

    id: str | None = None
    groups: frozenset[str] = frozenset()
    staff: bool = False
    name: str = ""


NOBODY = Visitor()


class Facts(Protocol):
    """A request as far as a choice may depend on it. What is not there is None."""

    @property
    def method(self) -> str: ...

    def header(self, name: str) -> str | None: ...

    def query(self, name: str) -> str | None: ...

    def cookie(self, name: str) -> str | None: ...

    def visitor(self) -> Visitor: ...


# The cookie that keeps a visitor on the same side: a number that says nothing about him.
COOKIE = "wasm_gateway"
COOKIE_SECONDS = 365 * 24 * 3600
_COOKIE_VALUE = re.compile(r"[0-9a-f]{16}").fullmatch

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch  # RFC 9110, token


@dataclass(frozen=True, slots=True)
class Switch:
    """What a tester adds to a request to choose a side: a header or a query parameter, of a certain value."""

    kind: str
    name: str
    value: str | None = None  # None: any

    @classmethod
    def parse(cls, text: object) -> Switch:
        """`header:NAME`, `query:NAME`, either with `=VALUE`; ValueError."""
        if isinstance(text, str):
            kind, _, rest = text.partition(":")
            name, equals, value = rest.partition("=")
            if kind in ("header", "query") and _NAME(name):
                return cls(kind, name.lower() if kind == "header" else name, value if equals else None)
        raise ValueError(f"{text!r} is neither header:NAME nor query:NAME, with or without =VALUE")

    def is_set(self, facts: Facts) -> bool:
        found = facts.header(self.name) if self.kind == "header" else facts.query(self.name)
        return found is not None and (self.value is None or found == self.value)


class BadValue(ValueError):
    """A field of a rule that cannot have this value; `key` is its name."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        """As for errors.GatewayError."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Rule:
    """How the requests of one route or component are shared out.

    `methods` are those of requests that the guest answers, of the others the site does; none: all.
    `percent` is the share of visitors whom the guest answers (canary), or of requests that it answers
    beside the site (shadow). `sticky` says what keeps a visitor on one side: "cookie", "user" (the cookie
    for somebody unknown), "header:NAME", whose value is hashed, or "none". `opt_in` and `opt_out` are
    for testers; `staff` and `groups` name people for whom the guest answers in any case. `csrf` is whether
    a site that knows how checks a request against forgery before a guest is asked; None: as for all guests.
    """

    mode: Mode = Mode.WASM
    percent: float = 100.0
    sticky: str = "cookie"
    methods: frozenset[str] = frozenset()
    opt_in: tuple[Switch, ...] = ()
    opt_out: tuple[Switch, ...] = ()
    staff: bool = False
    groups: frozenset[str] = frozenset()
    fallback: frozenset[Failure] = frozenset()
    csrf: bool | None = None

    @property
    def plain(self) -> bool:
        """Whether the guest answers every request, whatever comes of it, as the site has it for all."""
        always = self.mode is Mode.WASM and not self.methods and not self.opt_out
        return always and not self.fallback and self.csrf is None

    @property
    def names_people(self) -> bool:
        return self.staff or bool(self.groups) or self.sticky == "user"

    @property
    def wants_visitor(self) -> bool:
        """Whether a choice may depend on who asks, which may be dear to find out."""
        return self.mode is Mode.CANARY and self.names_people

    def updated(self, values: Mapping[str, object]) -> Rule:
        """This rule with `values` as they stand in a manifest, in settings or in a dial; BadValue."""
        changed: dict[str, Any] = {}
        for name, value in values.items():
            reader = READERS.get(name)
            if reader is None:
                raise BadValue(f"unknown field `{name}`, expected one of {', '.join(READERS)}", name)
            try:
                changed[name] = reader(value)
            except ValueError as error:
                raise BadValue(str(error), name) from None
        return dataclasses.replace(self, **changed)


PLAIN = Rule()


@dataclass(frozen=True, slots=True)
class Choice:
    """Who answers, and why; `shadow` has the guest answer beside the site.

    `cookie` is the value of a new COOKIE for the visitor, None where he needs none.
    """

    guest: bool
    reason: str
    shadow: bool = False
    cookie: str | None = None


def choose(rule: Rule, name: str, facts: Facts) -> Choice:
    """The choice of `rule`, which is that of the route or component `name`."""
    if rule.mode is Mode.NATIVE:
        return _KILLED
    if rule.methods and facts.method not in rule.methods:
        return _OTHER_METHOD
    if any(switch.is_set(facts) for switch in rule.opt_out):
        return _OPTED_OUT
    if rule.mode is Mode.WASM:
        return _ALWAYS
    if any(switch.is_set(facts) for switch in rule.opt_in):
        return _OPTED_IN
    if rule.mode is Mode.SHADOW:
        return _SHADOWED if _by_chance(rule.percent) else _UNSHADOWED
    if (rule.staff or rule.groups) and _is_chosen(rule, facts.visitor()):
        return _CHOSEN
    return _canary(rule, name, facts)


_KILLED = Choice(False, "native")
_OTHER_METHOD = Choice(False, "method")
_OPTED_OUT = Choice(False, "opt-out")
_ALWAYS = Choice(True, "wasm")
_OPTED_IN = Choice(True, "opt-in")
_SHADOWED = Choice(False, "shadow", shadow=True)
_UNSHADOWED = Choice(False, "shadow")
_CHOSEN = Choice(True, "visitor")
CANARY = "canary"  # why a side was chosen for which nothing but the share speaks
_ALL = Choice(True, CANARY)
_NONE = Choice(False, CANARY)
_NO_HEADER = Choice(False, "no header")


def _is_chosen(rule: Rule, visitor: Visitor) -> bool:
    return (rule.staff and visitor.staff) or not rule.groups.isdisjoint(visitor.groups)


def _canary(rule: Rule, name: str, facts: Facts) -> Choice:
    if not 0 < rule.percent < 100 and not rule.sticky.startswith("header:"):
        return _ALL if rule.percent else _NONE  # nobody has to be known again
    kind, _, header = rule.sticky.partition(":")
    if kind == "none":
        return Choice(_by_chance(rule.percent), CANARY)
    key: str | None = None
    if kind == "header":
        key = facts.header(header)
        if key is None:
            return _NO_HEADER
    elif kind == "user":
        id_ = facts.visitor().id
        key = None if id_ is None else f"user {id_}"
    cookie = None
    if key is None:
        key = facts.cookie(COOKIE)
        if key is None or _COOKIE_VALUE(key) is None:
            key = cookie = os.urandom(8).hex()
    return Choice(share(name, key) * 100 < rule.percent, CANARY, cookie=cookie)


def _by_chance(percent: float) -> bool:
    return random() * 100 < percent  # seeded anew in a forked child


def share(name: str, key: str) -> float:
    """Where `key` stands among all keys, from 0 up to and not including 1, evenly and the same for ever.

    Each name has an order of its own, so that it is not always the same visitors who come first; a share
    that grows keeps those it had.
    """
    digest = blake2b(f"{name}\0{key}".encode(errors="surrogateescape"), digest_size=7).digest()
    return int.from_bytes(digest, "big") / (1 << 56)


# How values are read, by the field that they are for.


def _mode(value: object) -> Mode:
    try:
        return Mode(str(value))
    except ValueError:
        raise ValueError(f"{value!r} is no mode, expected one of {', '.join(Mode)}") from None


def _methods(value: object) -> frozenset[str]:
    methods = set()
    for name in _list(value):
        if not isinstance(name, str) or not _NAME(name):
            raise ValueError(f"{name!r} is not a method of HTTP")
        methods.add(name.upper())
    if "GET" in methods:
        methods.add("HEAD")  # the same, without its body (RFC 9110, 9.3.2)
    return frozenset(methods)


def _percent(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise ValueError(f"{value!r} is not a number from 0 to 100")
    return float(value)


def _sticky(value: object) -> str:
    if value in ("cookie", "user", "none"):
        return str(value)
    if isinstance(value, str) and value.startswith("header:") and _NAME(value[len("header:") :]):
        return value.lower()
    raise ValueError(f"{value!r} is none of cookie, user, header:NAME, none")


def _list(value: object) -> Sequence[object]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Collection) and not isinstance(value, Mapping):
        return tuple(value)
    raise ValueError(f"{value!r} is not a list")


def _switches(value: object) -> tuple[Switch, ...]:
    return tuple(value if isinstance(value, Switch) else Switch.parse(value) for value in _list(value))


def _names(value: object) -> frozenset[str]:
    names = _list(value)
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"{name!r} is not the name of a group")
    return frozenset(map(str, names))


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is not a boolean")
    return value


def _failures(value: object) -> frozenset[Failure]:
    if isinstance(value, bool):
        return frozenset(Failure) if value else frozenset()
    found = set()
    for name in _list(value):
        try:
            found.add(Failure(str(name)))
        except ValueError:
            raise ValueError(f"{name!r} is no failure, expected one of {', '.join(Failure)}") from None
    return frozenset(found)


READERS: Mapping[str, Callable[[object], Any]] = {
    "mode": _mode,
    "methods": _methods,
    "percent": _percent,
    "sticky": _sticky,
    "opt_in": _switches,
    "opt_out": _switches,
    "staff": _flag,
    "groups": _names,
    "fallback": _failures,
    "csrf": _flag,
}
