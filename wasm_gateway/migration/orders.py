# Orders to all processes about their guests: to load one again, to have the one before it back.
#
# An order is a dial of the ledger that is none of a rule. Its generation, the time at which it was given,
# tells it from the one before: a process obeys when that has changed, or is younger than its guests.
# A rollback says by digest which guest shall not answer, and which shall: so it holds too for a process that
# starts later, as long as it is the last order. What it says comes from notes of the processes, which
# are dials too: which guest took the place of which.
#
# Rule: what another version of this code has written may be anything.

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from ..errors import HostError
from .ledger import Change, Dials

# Neither the id of a component nor the pattern of a route begins so.
PREFIX = "guest:"
NOTE = "served:"

_is_digest = re.compile("[0-9a-f]{64}").fullmatch


class Act(StrEnum):
    RELOAD = "reload"  # load the guest again from its file; of all components, the manifest too
    ROLLBACK = "rollback"  # have the guest before it answer again


@dataclass(frozen=True, slots=True)
class Back:
    """The digests of a guest that is not to answer, and of the one before it."""

    rejected: str
    good: str


@dataclass(frozen=True, slots=True)
class Order:
    """What all processes are to do with the guest of `component`; None: of each.

    `back` is what a rollback is about, by the ids of entries.
    """

    act: Act
    component: str | None = None
    generation: int = field(default_factory=time.time_ns)
    back: Mapping[str, Back] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the dial."""
        return PREFIX + (self.component or "")

    def change(self, by: str) -> Change:
        """The turn of the dial that gives it."""
        values: dict[str, object] = {"act": self.act.value, "generation": self.generation}
        if self.back:
            values["back"] = {id: [back.rejected, back.good] for id, back in self.back.items()}
        return Change(self.name, values, by)


def orders(dials: Dials) -> Iterator[Order]:
    """The last order about each component, in the sequence in which they were given.

    What was ordered before a reload of all is past.
    """
    found = []
    for name, values in dials.items():
        generation = values.get("generation")
        if name.startswith(PREFIX) and values.get("act") in tuple(Act) and isinstance(generation, int):
            component = name.removeprefix(PREFIX) or None
            found.append(Order(Act(str(values["act"])), component, generation, _back(values.get("back"))))
    found.sort(key=lambda order: order.generation)
    last = max((i for i, order in enumerate(found) if order.component is None), default=0)
    yield from found[last:]


def _back(values: object) -> Mapping[str, Back]:
    found = {}
    if isinstance(values, dict):
        for id, pair in values.items():
            if isinstance(pair, list) and len(pair) == 2 and all(_is_digest(str(one)) for one in pair):
                found[id] = Back(*pair)
    return found


def note(
    dials: Dials, component: str, id: str, digest: str, before: str | None
) -> Mapping[str, object] | None:
    """What the dial NOTE + `id` is to say once the guest `digest` has taken the place of `before` there.

    None where it does. There is no way back to a `before` that is None.
    """
    known = dials.get(NOTE + id, {})
    if known.get("digest") == digest and (before is not None or known.get("before") is None):
        return None
    return {"component": component, "digest": digest, "before": before}


def rollback(dials: Dials, component: str) -> Order:
    """The order to go back from the guest of `component` that was taken last; HostError for none."""
    back: dict[str, Back] = {}
    for name, values in dials.items():
        rejected, good = values.get("digest"), values.get("before")
        if name.startswith(NOTE) and values.get("component") == component and rejected != good:
            back.update(_back({name.removeprefix(NOTE): [rejected, good]}))
    last = {order.component: order for order in orders(dials)}.get(component)
    if not back or (last is not None and last.act is Act.ROLLBACK and last.back == back):
        raise HostError(f"component {component!r} has no earlier guest that processes know of")
    return Order(Act.ROLLBACK, component, back=back)


class Waiter(Protocol):
    """As threading.Event is one."""

    def wait(self, timeout: float | None = None) -> bool: ...


class Guests(Protocol):
    """Who obeys. Neither raises; what comes of it is logged."""

    def obey(self, order: Order) -> Waiter:
        """Begin to do it, in a thread; what is returned ends with that."""
        ...

    def missed(self, order: Order) -> Waiter | None:
        """The same with one that was given before this process had guests; None where nothing is to do."""
        ...
