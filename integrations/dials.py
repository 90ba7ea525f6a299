# Routes of a site as people see and turn them: for admin pages and commands. No framework here.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wasm_gateway.gateway import Gateway
from wasm_gateway.migration.orders import Act
from wasm_gateway.policy import BadValue, Mode, Rule

if TYPE_CHECKING:
    from wasm_gateway.migration.pilot import Pilot


class NoDials(Exception):
    """There is nothing to turn; the text says what to set."""


@dataclass(frozen=True, slots=True)
class Row:
    """A component, or one of its routes. `dial` is what is turned of it, None for nothing."""

    name: str
    component: str
    route: str | None  # None: all routes of the component
    rule: Rule
    dial: Mapping[str, object] | None
    description: str = ""

    @property
    def title(self) -> str:
        return self.route or self.component

    @property
    def share(self) -> str:
        return f"{self.rule.percent:g}"

    @property
    def slide(self) -> int:
        return round(self.rule.percent)


def pilot_of(gateway: Gateway) -> Pilot:
    """Who has the rules of this site; NoDials where the guests answer everything."""
    pilot = gateway.steer()
    if pilot is None or pilot.ledger is None:
        raise NoDials("Dials are kept in a ledger, and there is none: see the setting LEDGER.")
    return pilot


def rows(gateway: Gateway) -> list[Row]:
    """Each component of the manifest that answers HTTP, followed by its routes; NoDials, HostError."""
    pilot = pilot_of(gateway)
    assert pilot.ledger is not None
    pilot.look()
    dials = pilot.ledger.dials()
    found: list[Row] = []
    triggers = [t for t in gateway.manifest.http_triggers if t.component and t.route is not None]
    for id_ in dict.fromkeys(t.component for t in triggers):
        assert id_ is not None
        description = gateway.manifest.components[id_].description
        found.append(Row(id_, id_, None, pilot.rule(id_, id_), dials.get(id_), description))
        for trigger in triggers:
            if trigger.component == id_ and trigger.route is not None:
                route = trigger.route
                found.append(Row(route, id_, route, pilot.rule(id_, route), dials.get(route)))
    return found


def turn(gateway: Gateway, name: str, values: Mapping[str, object] | None, by: str) -> None:
    """Turn the dial `name` for all processes; NoDials, BadValue, HostError.

    `values` replace what was turned before, None gives the dial back to the manifest.
    """
    pilot_of(gateway).turn(name, values, by)


def kill(gateway: Gateway, component: str, by: str) -> list[str]:
    """Have the site answer for every route of a component; the names of the dials that had to be turned."""
    turned = []
    pilot = pilot_of(gateway)
    for row in rows(gateway):
        # its own rule, as it is after what has been turned so far
        if row.component == component and pilot.rule(component, row.name).mode is not Mode.NATIVE:
            turn(gateway, row.name, {**(row.dial or {}), "mode": Mode.NATIVE.value}, by)
            turned.append(row.name)
    return turned


def order(gateway: Gateway, act: Act, component: str | None, by: str) -> str:
    """Have all processes reload the guest of a component, of each for None, or roll one back.

    Gives what has been ordered, for people. NoDials, BadValue for a component that is not there, and what
    `Gateway.open` raises for a guest that cannot be loaded.
    """
    pilot_of(gateway)
    if component is not None and component not in gateway.manifest.components:
        raise BadValue(f"there is no component {component!r}", "component")
    if act is Act.RELOAD:
        gateway.reload(component, by=by)
        return f"{component or 'all components'}: each process loads the guest again within a second or so"
    assert component is not None
    gateway.rollback(component, by=by)
    return f"{component}: each process goes back to the guest before, and so do those that start later"


def listing(gateway: Gateway) -> list[str]:
    """The same as lines of text; NoDials, HostError."""
    lines = []
    for row in rows(gateway):
        indent, turned = "  " if row.route else "", " (turned)" if row.dial else ""
        share = f" {row.share}%" if row.rule.mode in (Mode.CANARY, Mode.SHADOW) else ""
        methods = f" {', '.join(sorted(row.rule.methods))}" if row.rule.methods else ""
        lines.append(f"{indent}{row.title}  {row.rule.mode}{share}{methods}{turned}")
    return lines


# Of no mode of its own any more.
RESET = "manifest"
CHOICES = (*map(str, Mode), RESET)


def turn_to(gateway: Gateway, name: str, mode: str, percent: float | None, by: str) -> str:
    """What a command says: the dial `name` to a mode of CHOICES; BadValue, NoDials, HostError.

    Gives what has been done, for people.
    """
    known = {row.name: row for row in rows(gateway)}
    if name not in known:
        names = ", ".join(known)
        raise BadValue(f"{name!r} is neither a component nor a route; there are {names}", "name")
    values: dict[str, object] | None = None
    if mode != RESET:
        values = {**(known[name].dial or {}), "mode": mode}
        if percent is not None:
            values["percent"] = percent
    elif percent is not None:
        raise BadValue(f"{RESET} takes no share", "percent")
    turn(gateway, name, values, by)
    return f"{name}: {mode}" if percent is None else f"{name}: {mode} {percent:g}%"
