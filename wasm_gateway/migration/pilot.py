# Who answers what, in force now: the rules of the manifest and the site, as far as no dial
# of the ledger says otherwise.
#
# Rule 1: a request reads what is in memory. A thread asks the ledger twice a second; when it
# cannot be read, what was known goes on, and the log says so once.
# Rule 2: each process has breakers of its own: what fails here may work elsewhere.

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType

from .. import forks
from ..component_options import ComponentOptions
from ..errors import GatewayError
from ..messages import Request, Response
from ..outcomes import Outcome, outcome_of
from ..policy import CANARY, PLAIN, BadValue, Choice, Facts, Failure, Rule, choose
from .breaker import Breaker
from .compare import Answer, Comparison, Function
from .counters import (
    CANARY_GUEST,
    CANARY_NATIVE,
    DROPPED,
    FALLBACK,
    GUEST,
    NATIVE,
    UNCOMPARED,
    Counters,
    End,
    Unseen,
    end_of,
    ended,
    is_time,
    uncompared,
)
from .ledger import Change, Dials, Ledger, Mismatch
from .orders import NOTE, Act, Guests, Order, Waiter, note, orders, rollback
from .shadow import Shadows

log = logging.getLogger("wasm_gateway")

# Seconds between two looks at the ledger.
LOOK_SECONDS = 0.5
# How many looks pass until what was counted is added to the ledger.
LOOKS_PER_FLUSH = 4
# The thread that looks.
THREAD = "wasm-dials"
# Seconds that the first request of a process waits for orders that were given before.
FIRST_LOOK_SECONDS = 2.0
# And for a guest to be gone that was rolled back, which may have to be compiled.
FIRST_ROLLBACK_SECONDS = 60.0


class Turn:
    """One request that is shared out: who answers it, and what becomes of it."""

    __slots__ = ("_begin", "_pilot", "answer", "choice", "component", "kept", "limit", "route", "rule")

    def __init__(
        self, pilot: Pilot, component: str, route: str, rule: Rule, choice: Choice, limit: int
    ) -> None:
        self._pilot = pilot
        self.component = component
        self.route = route
        self.rule = rule
        self.choice = choice
        self.limit = limit  # bytes of a body that may be kept
        self.kept: bytes | None = None  # the request's body, where the door has kept it
        # what the guest answers beside the site: whole, or a GatewayError
        self.answer: Callable[[Request], Response] | None = None
        self._begin = time.perf_counter() if choice.reason == CANARY else 0.0

    @property
    def keeps_body(self) -> bool:
        """Whether the request's body may be wanted a second time."""
        return self.choice.shadow or (self.choice.guest and bool(self.rule.fallback))

    @property
    def times_native(self) -> bool:
        """Whether a door is to call `native` when the site has answered: it is one side of a canary."""
        return self._begin > 0 and not self.choice.guest

    def native(self, status: int, seconds: float) -> None:
        """The site has answered so, and making it took so long; status 0 for an exception."""
        self._pilot.ended(self.component, CANARY_NATIVE, end_of(status), seconds)

    def _guest_ended(self, end: End) -> None:
        if self._begin > 0:
            seconds, self._begin = time.perf_counter() - self._begin, 0.0
            self._pilot.ended(self.component, CANARY_GUEST, end, seconds)

    def succeeded(self, status: int) -> None:
        """The guest has answered, with that status."""
        self._guest_ended(end_of(status))
        if self.rule.fallback:
            self._pilot.breaker(self.component).succeeded()

    def failed(self, error: GatewayError) -> bool:
        """The guest has failed; whether the site answers instead."""
        outcome = outcome_of(error)
        failure = _FAILURES.get(outcome)
        if failure is None:
            if outcome is not Outcome.DISCONNECTED:
                self._guest_ended(end_of(error.status))
            return False
        if self.rule.fallback:
            self._pilot.breaker(self.component).failed()
        if failure not in self.rule.fallback or self.kept is None:
            self._guest_ended(end_of(error.status))
            return False
        self._guest_ended(End.FAILED)
        self._pilot.count(self.component, FALLBACK)
        return True

    # Beside the site

    def shadowed(self, request: Request, native: Answer) -> None:
        """The site has answered `request`, and the answer is on its way: now the guest does, some time.

        For a door that has `choice.shadow`. The body of `request` can be read from its start; that of
        `native` has at most `limit` bytes (tee.py). This neither waits nor raises.
        """
        self._pilot.shadows.submit(self, request, native)

    def unseen(self, why: Unseen) -> None:
        """The same where the request, or an answer, could not be kept."""
        self.count(uncompared(why))
        self.count(UNCOMPARED)

    @property
    def comparison(self) -> Comparison:
        return self._pilot.comparison(self.component, self.route)

    def count(self, what: str) -> None:
        self._pilot.count(self.component, what)

    def took(self, native: float, guest: float) -> None:
        """The seconds of two answers to the same request."""
        self._pilot.took(self.component, native, guest)

    def record(self, mismatch: Mismatch) -> None:
        self._pilot.record(mismatch)


# What the site may answer for; any other outcome is the client's, or nobody's.
_FAILURES = {
    Outcome.TRAP: Failure.TRAP,
    Outcome.DEADLINE: Failure.DEADLINE,
    Outcome.LIMIT: Failure.LIMIT,
    Outcome.SATURATED: Failure.SATURATED,
    Outcome.LINK: Failure.LINK,
    Outcome.HOST: Failure.TRAP,  # a host interface that failed under it
}

NO_FUNCTIONS: Mapping[str, Function] = MappingProxyType({})


class Pilot:
    """The rules of an application; `options` are those of its components. Safe for any number of threads.

    `functions` compare answers in the site's own way, by component or pattern of a route. `guests` obey the
    orders of the ledger that are younger than them: they were begun to be loaded at `since`, in nanoseconds
    since 1970.
    """

    def __init__(
        self,
        options: Mapping[str, ComponentOptions],
        ledger: Ledger | None = None,
        shadows: Shadows | None = None,
        functions: Mapping[str, Function] = NO_FUNCTIONS,
        guests: Guests | None = None,
        since: int = 0,
    ) -> None:
        self._options = options
        self.ledger = ledger
        self.shadows = shadows or Shadows()
        self._functions = functions
        self._comparisons: dict[tuple[str, str], Comparison] = {}
        self._dials: Dials = {}
        self._guests = guests
        self._since = since
        self._given: dict[str, int] | None = None  # generations of orders that are known
        self._stamp: object = None
        self._failing = False
        self._unflushed = False
        self._unnoted: dict[str, tuple[str, str, str | None]] = {}
        self._start_over()
        forks.watch(self)

    def _start_over(self) -> None:
        self._lock = threading.Lock()  # guards what follows
        self._breakers: dict[str, Breaker] = {}
        self._counters = Counters()
        self._rules: dict[tuple[str, str], Rule] = {}
        self._beginning = threading.Lock()  # held while the thread is made
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def after_fork(self) -> None:
        self.shadows.start_over()
        self._start_over()

    # Requests

    def choose(self, component: str, route: str, facts: Facts) -> Turn:
        """Who answers a request for the pattern `route`, which leads to `component`."""
        if not self.watches:
            self.watch()
        rule = self.rule(component, route)
        choice = choose(rule, component, facts)
        if choice.guest and rule.fallback and not self.breaker(component).admits():
            choice = _BROKEN
        self.count(component, choice.reason)
        if choice.shadow and self.shadows.full:
            self.count(component, DROPPED)
            choice = _DROPPED
        return Turn(self, component, route, rule, choice, self._options[component].max_kept_body)

    def rule(self, component: str, route: str) -> Rule:
        """The rule of a route, as it is now."""
        key, rules = (component, route), self._rules
        found = rules.get(key)
        if found is None:
            options, dials = self._options[component], self._dials
            found = options.rule.updated(_known(component, dials))
            if route in options.routes:
                found = found.updated(options.routes[route])
            found = rules[key] = found.updated(_known(route, dials))
        return found

    def govern(self, options: Mapping[str, ComponentOptions], changed: Iterable[str]) -> None:
        """Components have other `options`; the breakers of those `changed`, with other guests, are closed."""
        self._options = options
        self._rules, self._comparisons = {}, {}
        with self._lock:
            for component in changed:
                self._breakers.pop(component, None)

    def breaker(self, component: str) -> Breaker:
        found = self._breakers.get(component)
        if found is None:
            options = self._options[component]
            with self._lock:
                made = Breaker(options.breaker_failures, options.breaker_pause)
                found = self._breakers.setdefault(component, made)
        return found

    def count(self, component: str, what: str) -> None:
        self._counters.add(component, what)

    def took(self, component: str, native: float, guest: float) -> None:
        """The seconds of two answers to the same request."""
        self._counters.took(component, NATIVE, native)
        self._counters.took(component, GUEST, guest)

    def ended(self, component: str, side: str, end: End, seconds: float) -> None:
        """A request of a canary has ended so; what has failed has no time that says anything."""
        self._counters.add(component, ended(side, end))
        if end is not End.FAILED:
            self._counters.took(component, side, seconds)

    def counts(self) -> dict[str, dict[str, int]]:
        """How many requests of this process went which way, by component; the ledger has those of all."""
        return {
            component: {name: value for name, value in counts.items() if not is_time(name)}
            for component, counts in self._counters.all().items()
        }

    def flush(self) -> None:
        """Add what is new to the ledger; what cannot be added is added the next time."""
        if self.ledger is None:
            return
        counts = self._counters.take()
        try:
            self.ledger.add(counts)
            self._unflushed = False
        except Exception as error:
            self._counters.give_back(counts)
            if not self._unflushed:
                log.error("counts cannot be added to the ledger, they are kept for later: %s", error)
            self._unflushed = True
        with suppress(Exception):  # the first time it was logged
            self._write_notes(self.ledger)

    # Dials

    def turn(self, name: str, values: Mapping[str, object] | None, by: str) -> None:
        """Turn the dial of a component or route, for all processes; BadValue, HostError.

        `values` are the fields of a rule that shall be other than the manifest says, None for none.
        """
        if self.ledger is None:
            raise BadValue("there is no ledger to turn dials in", name)
        if values is not None:
            PLAIN.updated(values)
        self.ledger.turn(Change(name, values, by))
        self.look()

    def order(self, act: Act, component: str | None, by: str) -> None:
        """Give an order about the guest of a component, or of all, to all processes; BadValue, HostError."""
        if self.ledger is None:
            raise BadValue("there is no ledger to give orders in", component or "")
        if act is Act.ROLLBACK:
            assert component is not None
            order = rollback(self.ledger.dials(), component)
        else:
            order = Order(act, component)
        self.ledger.turn(order.change(by))
        if self._thread is not None:
            self.look()  # else this process serves nobody yet: it obeys when it does

    def note(self, component: str, id: str, digest: str, before: str | None) -> None:
        """In the entry `id` the guest `digest` takes the place of `before`: so an order can name both."""
        if self.ledger is None:
            return
        self._unnoted[id] = component, digest, before
        try:
            self._write_notes(self.ledger)
        except Exception as error:
            log.error("component %s cannot be rolled back to the guest before, for now: %s", component, error)

    def _write_notes(self, ledger: Ledger) -> None:
        for id, (component, digest, before) in list(self._unnoted.items()):
            values = note(ledger.dials(), component, id, digest, before)
            if values is not None:
                ledger.note(NOTE + id, values)
            self._unnoted.pop(id, None)

    def look(self) -> None:
        """Take over what the dials say now, and have guests begin to obey."""
        self._look()

    def _look(self) -> list[tuple[Waiter, float]]:
        """The same; ends of what is obeyed, and for how many seconds that may be waited for."""
        ledger = self.ledger
        if ledger is None:
            return []
        obeyed = []
        try:
            stamp = ledger.stamp()
            if stamp != self._stamp or self._failing:
                dials = ledger.dials()
                self._dials = dials
                self._stamp = stamp
                self._rules = {}
                obeyed = self._obey(dials)
            elif self._given is None:
                self._given = {}
            self._failing = False
        except Exception as error:
            if not self._failing:
                log.error("the dials of the migration cannot be read, the last ones known go on: %s", error)
            self._failing = True
        return obeyed

    def _obey(self, dials: Dials) -> list[tuple[Waiter, float]]:
        """Have guests obey the orders that are new, and rollbacks that still hold."""
        with self._lock:
            known, given = self._given, {order.name: order for order in orders(dials)}
            self._given = {name: order.generation for name, order in given.items()}
        obeyed: list[tuple[Waiter, float]] = []
        for name, order in given.items():
            if self._guests is None or (known is not None and known.get(name) == order.generation):
                continue
            missed = known is None and order.generation < self._since
            waiter = self._guests.missed(order) if missed else self._guests.obey(order)
            if waiter is not None:
                is_back = order.act is Act.ROLLBACK
                obeyed.append((waiter, FIRST_ROLLBACK_SECONDS if is_back else FIRST_LOOK_SECONDS))
        return obeyed

    @property
    def watches(self) -> bool:
        """Whether the dials are known, and followed from now on, in this process."""
        return self._thread is not None or self.ledger is None

    def watch(self) -> None:
        """Look at the dials, and go on doing so in a thread; `choose` does it where nobody has before."""
        with self._beginning:
            if self._thread is not None:
                return
            obeyed = self._look()  # no request is to be answered before
            begin = time.monotonic()
            for waiter, seconds in obeyed:
                waiter.wait(max(0.0, begin + seconds - time.monotonic()))
            thread = threading.Thread(
                target=_look_on, args=(weakref.ref(self), self._ended), name=THREAD, daemon=True
            )
            thread.start()
            self._thread = thread

    # Beside the site

    def comparison(self, component: str, route: str) -> Comparison:
        """How answers to a route are compared."""
        key, comparisons = (component, route), self._comparisons
        found = comparisons.get(key)
        if found is None:
            function = self._functions.get(route) or self._functions.get(component)
            found = comparisons[key] = Comparison(self._options[component], function)
        return found

    def record(self, mismatch: Mismatch) -> None:
        """Keep it, if there is a ledger that can."""
        if self.ledger is None:
            return
        try:
            self.ledger.record(mismatch)
        except Exception as error:
            log.error("a mismatch of component %s could not be recorded: %s", mismatch.component, error)

    def stop(self) -> None:
        """Follow the ledger no more."""
        self._ended.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join()

    def close(self) -> None:
        self.shadows.close()
        self.stop()
        if self.ledger is not None:
            self.flush()
            self.ledger.close()


_BROKEN = Choice(False, "breaker")
_DROPPED = Choice(False, "shadow")


def _look_on(pilot: weakref.ref[Pilot], ended: threading.Event) -> None:
    looks = 0
    while not ended.wait(LOOK_SECONDS):
        found = pilot()
        if found is None:
            return
        found.look()
        looks += 1
        if not looks % LOOKS_PER_FLUSH:
            found.flush()
        del found


def _known(name: str, dials: Dials) -> Mapping[str, object]:
    """What the dial `name` says; one that another version of this code has turned may say more."""
    values = dials.get(name, {})
    try:
        PLAIN.updated(values)
    except BadValue as error:
        log.error("the dial %s is left alone: %s", name, error)
        return {}
    return values
