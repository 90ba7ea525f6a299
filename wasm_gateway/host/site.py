# Host interfaces that a site lends to its guests: a WIT text and a Python class.
#
# Rule 1: the WIT text is the contract. A class that does not fit it is refused when the
# gateway opens, a guest that does not fit it when the guest is loaded; a call is
# never the first to find out.
# Rule 2: nothing is lent to a component that does not name the interface in its table
# of the manifest (host_interfaces).

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ..component.names import canonical_name
from ..component.types import FuncType, InterfaceType, ResourceType, World
from ..component.values import identifier
from ..component.wit import parse
from ..errors import ComponentError, LinkError, Withheld

_CONSTRUCTOR, _METHOD, _STATIC = "[constructor]", "[method]", "[static]"


class HostInterface:
    """An interface of the site's own; extend it.

    `wit` is WIT text that declares one interface, in a package. Each of its functions is a method of that
    name ("get-all" is `get_all`), called with the guest (a HostContext: its component, its deadline) and
    the arguments as Python values (component/values.py); what it returns is lowered. `Err(x)` is the error
    of a `result`; an exception ends the request of the guest, and is logged.

    A resource "counter" is a class attribute `Counter`, called as the constructor; its methods take the
    guest first, static functions are static methods, and `close(guest)`, where there is one, is called when
    the guest drops the resource or ends.

    >>> class Scores(HostInterface):
    ...     wit = '''
    ...     package site:game@1.0.0;
    ...     interface scores { best: func(limit: u32) -> list<tuple<string, u32>>; }
    ...     '''
    ...
    ...     def best(self, guest, limit):
    ...         return [("ada", 12)][:limit]

    One object serves all guests, in any number of threads. A guest that runs beside the site for comparison
    may not call it, unless `shadow_safe` says that nothing it does can be noticed.
    """

    wit: ClassVar[str] = ""
    shadow_safe: ClassVar[bool] = False

    def close(self) -> None:
        """The gateway closes."""


class Lent:
    """A HostInterface that fits its text: what `Hosts` has of it."""

    def __init__(self, implementation: HostInterface, known: Mapping[str, InterfaceType | World]) -> None:
        """Raises LinkError, which names the class, for a text that is none and for a class that differs."""
        self.implementation = implementation
        self.title = type(implementation).__name__
        try:
            interfaces = parse(implementation.wit, known).interfaces
        except ComponentError as error:
            raise LinkError(f"the WIT text of {self.title}: {error}") from error
        if len(interfaces) != 1:
            raise LinkError(f"the WIT text of {self.title} declares {len(interfaces)} interfaces, not one")
        [(name, self.type)] = interfaces.items()
        self.name = canonical_name(name)
        self.functions = {key: self._function(key, ft) for key, ft in self.type.funcs.items()}
        if not implementation.shadow_safe:
            self.functions = {key: self._seen(function) for key, function in self.functions.items()}
        for key, rt in self.type.types.items():
            if isinstance(rt, ResourceType) and rt.interface == self.name:
                close = getattr(self._resource(key), "close", None)
                if close is not None:
                    self.functions[f"[resource-drop]{key}"] = _closing

    def _seen(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same, but for guests of whom nothing may be seen."""

        def call(guest: Any, *arguments: Any) -> Any:
            if guest.component.scratch:
                raise Withheld(f"{self.title} does not say that it is shadow_safe")
            return function(guest, *arguments)

        return call

    def _resource(self, name: str) -> type:
        title = "".join(word.capitalize() for word in name.split("-"))
        found = getattr(self.implementation, title, None)
        if not isinstance(found, type):
            raise LinkError(f"{self.title} has no class {title} for the resource {name}", self.name)
        return found

    def _function(self, key: str, ft: FuncType) -> Callable[..., Any]:
        for prefix, make in (
            (_CONSTRUCTOR, self._constructor),
            (_METHOD, self._method),
            (_STATIC, self._static),
        ):
            if key.startswith(prefix):
                return make(key.removeprefix(prefix), ft)
        return self._checked(self.implementation, key, ft, len(ft.params))

    def _checked(self, owner: Any, name: str, ft: FuncType, count: int) -> Callable[..., Any]:
        """The function `name` of `owner`, which has to take the guest and `count` arguments."""
        title = owner.__name__ if isinstance(owner, type) else self.title
        found = getattr(owner, identifier(name), None)
        if not callable(found):
            raise LinkError(f"{title} has no {identifier(name)} for {name}: {ft}", self.name)
        self._takes(found, f"{title}.{identifier(name)}", ft, count)
        result: Callable[..., Any] = found
        return result

    def _takes(self, function: Callable[..., Any], title: str, ft: FuncType, count: int) -> None:
        try:
            inspect.signature(function).bind(*range(1 + count))
        except (TypeError, ValueError):
            raise LinkError(
                f"{title} does not take the guest and {count} arguments, as {ft} says", self.name
            ) from None

    def _constructor(self, name: str, ft: FuncType) -> Callable[..., Any]:
        resource = self._resource(name)
        self._takes(resource, resource.__name__, ft, len(ft.params))
        return resource

    def _method(self, key: str, ft: FuncType) -> Callable[..., Any]:
        resource, _, name = key.partition(".")
        # the parameter `self` of the type is the object: (object, guest, ...)
        function = self._checked(self._resource(resource), name, ft, len(ft.params))
        return lambda guest, this, *arguments: function(this, guest, *arguments)

    def _static(self, key: str, ft: FuncType) -> Callable[..., Any]:
        resource, _, name = key.partition(".")
        return self._checked(self._resource(resource), name, ft, len(ft.params))

    def close(self) -> None:
        self.implementation.close()


def _closing(guest: Any, this: Any) -> None:
    this.close(guest)
