# Orders to all processes about their guests: to load one again, to have the one before it back.
#
# An order is a dial of the ledger that is none of a rule. Its generation, the time at which it was given,
# tells it from the one before: a process obeys when that has changed, or is younger than its guests.
#
# Rule: what another version of this code has written may be anything.

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from .ledger import Change, Dials

# Neither the id of a component nor the pattern of a route begins so.
PREFIX = "guest:"


class Act(StrEnum):
    RELOAD = "reload"  # load the guest again from its file; of all components, the manifest too
    ROLLBACK = "rollback"  # have the guest before it answer again


@dataclass(frozen=True, slots=True)
class Order:
    """What all processes are to do with the guest of `component`; None: of each."""

    act: Act
    component: str | None = None
    generation: int = field(default_factory=time.time_ns)

    @property
    def name(self) -> str:
        """Of the dial."""
        return PREFIX + (self.component or "")

    def change(self, by: str) -> Change:
        """The turn of the dial that gives it."""
        return Change(self.name, {"act": self.act.value, "generation": self.generation}, by)


def orders(dials: Dials) -> Iterator[Order]:
    """The last order about each component, in the sequence in which they were given."""
    found = []
    for name, values in dials.items():
        generation = values.get("generation")
        if name.startswith(PREFIX) and values.get("act") in tuple(Act) and isinstance(generation, int):
            found.append(Order(Act(str(values["act"])), name.removeprefix(PREFIX) or None, generation))
    yield from sorted(found, key=lambda order: order.generation)


class Waiter(Protocol):
    """As threading.Event is one."""

    def wait(self, timeout: float | None = None) -> bool: ...


class Guests(Protocol):
    """Who obeys. Neither raises; what comes of it is logged."""

    def obey(self, order: Order) -> Waiter:
        """Begin to do it, in a thread; what is returned ends with that."""
        ...

    def missed(self, order: Order) -> object:
        """It was given before this process had guests."""
        ...
