# Where the time of a request goes, phase by phase.
#
# Rule 1: a gateway is taken apart in runs of their own; totals come from a gateway that
# nobody watches.
# Rule 2: time belongs to the innermost phase, so the phases of a request add up. What
# the stamps themselves cost is measured and taken off.

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter_ns
from types import FunctionType, SimpleNamespace
from typing import Any, TypeVar

from wasm_gateway import Gateway, capi
from wasm_gateway.executors.guest import Guest
from wasm_gateway.instance import Instance

from .measure import Effort

# See NOTES of handle.py.
Key = TypeVar("Key")

PHASES = ("store", "guest", "abi", "host", "drop", "rest")


class Stopwatch:
    def __init__(self) -> None:
        self._stack = ["rest"]
        self._mark = 0
        self._inside = self._outside = (
            0.0  # what a stamp pair costs the phase itself, and the phase around it
        )
        self._start_over()
        self._calibrate()

    def _start_over(self) -> None:
        self._spent: Counter[str] = Counter()
        self._entered: Counter[str] = Counter()
        self._left: Counter[str] = Counter()

    def wrap(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its time counted as `phase`."""
        stack = self._stack

        def timed(*arguments: Any, **named: Any) -> Any:
            now = perf_counter_ns()
            outer = stack[-1]
            self._spent[outer] += now - self._mark
            self._left[outer] += 1
            self._entered[phase] += 1
            stack.append(phase)
            self._mark = perf_counter_ns()
            try:
                return function(*arguments, **named)
            finally:
                now = perf_counter_ns()
                self._spent[phase] += now - self._mark
                stack.pop()
                self._mark = perf_counter_ns()

        return timed

    def _calibrate(self) -> None:
        def nothing() -> None: ...

        timed = self.wrap("calibration", nothing)
        costs: tuple[list[float], list[float]] = [], []
        for _ in range(300):
            self._start_over()
            begin = perf_counter_ns()
            nothing()
            call = perf_counter_ns() - begin
            self._mark = perf_counter_ns()
            timed()
            outside = perf_counter_ns() - self._mark + self._spent["rest"]
            costs[0].append(self._spent["calibration"] - call)
            costs[1].append(outside - call)
        self._inside, self._outside = map(statistics.median, costs)

    def lap(self, function: Callable[[], object]) -> dict[str, float]:
        """Microseconds of each phase of one call."""
        self._start_over()
        self._mark = perf_counter_ns()
        function()
        self._spent["rest"] += perf_counter_ns() - self._mark
        return {
            phase: (
                self._spent[phase] - self._entered[phase] * self._inside - self._left[phase] * self._outside
            )
            / 1e3
            for phase in PHASES
        }

    def split(
        self, functions: Mapping[Key, Callable[[], object]], effort: Effort
    ) -> dict[Key, dict[str, float]]:
        """The median of each phase of each function, interleaved."""
        laps: dict[Key, list[dict[str, float]]] = {key: [] for key in functions}
        for turn in range(effort.rounds + 1):
            for key, function in functions.items():
                found = [self.lap(function) for _ in range(effort.calls if turn else effort.warmup)]
                laps[key] += found if turn else []
        return {
            key: {phase: statistics.median(lap[phase] for lap in found) for phase in PHASES}
            for key, found in laps.items()
        }

    def entries(self, phase: str, function: Callable[[], object]) -> int:
        """How often one call of `function` comes to `phase`."""
        self.lap(function)
        return self._entered[phase]

    def watch(self, gateway: Gateway) -> None:
        """Count what the canonical ABI does with arguments and answers of this gateway's guests."""
        for entry in (gateway._entries or {}).values():
            executor: Any = entry.http
            handler = getattr(executor, "handler", None)
            if hasattr(handler, "begin"):
                executor.handler = SimpleNamespace(begin=self.wrap("abi", handler.begin))
            elif handler is not None:
                executor.handler = self.wrap("abi", handler)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Instances are taken apart meanwhile, if their gateway was made meanwhile too."""
        kept: list[tuple[Any, str, Any]] = []

        def replace(owner: Any, name: str, function: Callable[..., Any]) -> None:
            kept.append((owner, name, getattr(owner, name)))
            setattr(owner, name, function)

        def timed_exports(find: Callable[..., Any]) -> Callable[..., Any]:
            return self.wrap("guest", lambda *arguments: self.wrap("guest", find(*arguments)))

        replace(Guest, "instantiate", self.wrap("store", Guest.instantiate))
        replace(Instance, "__enter__", self.wrap("store", Instance.__enter__))
        replace(Instance, "close", self.wrap("drop", Instance.close))
        replace(Instance, "core", timed_exports(Instance.core))
        for name, value in list(vars(Instance).items()):
            if "realloc" in name and isinstance(value, FunctionType):
                replace(Instance, name, self.wrap("guest", value))
        callback = capi.UncheckedCallback
        replace(capi, "UncheckedCallback", lambda body: callback(self.wrap("host", body)))
        try:
            yield
        finally:
            for owner, name, function in reversed(kept):
                setattr(owner, name, function)
