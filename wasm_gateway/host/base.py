# The face that an instance shows to host functions.
#
# Rule 1: a host function sees its instance through HostContext and nothing else:
# what it is granted, how much time is left, what must be closed with it.
# Rule 2: state has three lifetimes, as Spin's factors have. What an application
# shares (stores, pools) is made once and lives in the family's object; what a
# component may do is its Grants; what belongs to one request lives in
# HostContext.state and dies with the instance.
# Rule 3: nothing here, and nothing in host/, knows a web framework.

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..component.memory import Memory
from ..errors import DeadlineExceeded, Disconnected
from ..messages import Request, Response

if TYPE_CHECKING:
    from ..component.concurrency import Loop

Stream = Literal["stdout", "stderr"]


class Deadline:
    """A point on the monotonic clock by which an instance must be done.

    `seconds` is what was granted from now on. `gone` says whether nobody wants the result any more.
    """

    __slots__ = ("at", "gone", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = time.monotonic() + seconds
        self.gone: Callable[[], bool] | None = None

    def remaining(self) -> float:
        """Seconds left, more than 0; raises DeadlineExceeded when there are none, Disconnected for nobody."""
        if self.gone is not None and self.gone():
            raise Disconnected("client disconnected")
        left = self.at - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(self.seconds)
        return left


class OutboundRules(Protocol):
    """What `allowed_outbound_hosts` of one component permits (host/outbound.py)."""

    def check_url(self, url: str, default_scheme: str) -> bool: ...

    def allows_self(self) -> bool: ...

    def is_chained(self, host: str) -> str | None: ...


class VariableSource(Protocol):
    """The component's variables, resolved when they are asked for; the errors are those of variables.py."""

    def get(self, name: str) -> str: ...

    def get_all(self) -> tuple[tuple[str, str], ...]: ...


@dataclass(frozen=True, slots=True)
class Grants:
    """What one component may do; everything else is denied (Spin: manifest, component)."""

    id: str
    key_value_stores: frozenset[str] = frozenset()
    sqlite_databases: frozenset[str] = frozenset()
    ai_models: frozenset[str] = frozenset()
    host_interfaces: frozenset[str] = frozenset()  # canonical names
    lend: frozenset[str] = frozenset()  # of who asks, what it may know (identity.py)
    environment: Mapping[str, str] = field(default_factory=dict)
    variables: VariableSource | None = None
    outbound: OutboundRules | None = None
    scratch: bool = False  # it runs beside the site: nothing that it does may be seen

    def beside(self, outbound: OutboundRules | None) -> Grants:
        """The same for a guest that runs beside the site, and reaches `outbound`, if it reaches anything."""
        return replace(self, scratch=True, outbound=outbound if self.outbound is not None else None)


class HostContext:
    """One instance, as its host functions see it.

    The engine's Instance extends this class; tests use it as it is.
    """

    loop: Loop  # the tasks of a guest that has some, and the coroutines of host functions

    __slots__ = (
        "_closers",
        "before_wait",
        "component",
        "deadline",
        "memories",
        "request",
        "state",
        "wasi",
    )

    def __init__(self, component: Grants, deadline: Deadline) -> None:
        self.component = component
        self.deadline = deadline
        self.memories: list[Memory] = []
        self.state: dict[Any, Any] = {}
        self.wasi: Any = None  # what a guest of WASI finds around itself (wasi/state.py)
        self.request: Request | None = None  # the one that it answers, as far as it is one of HTTP
        # Called before a host function waits for somebody else, with nothing left to do for the guest.
        self.before_wait: Callable[[], object] | None = None
        self._closers: list[Callable[[], object]] = []

    @property
    def role(self) -> Any:
        """On whose behalf host functions act: of a composition each component has its own grants."""
        return self.component, self.wasi

    @role.setter
    def role(self, role: Any) -> None:
        self.component, self.wasi = role

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call `callback` when the instance is closed, last registered first."""
        self._closers.append(callback)

    def run_closers(self) -> list[BaseException]:
        """Run every callback; what they raise is returned, so that none is skipped."""
        raised: list[BaseException] = []
        while self._closers:
            try:
                self._closers.pop()()
            except Exception as error:
                raised.append(error)
        return raised

    # Requests that stay inside the application, wired by the gateway.

    def chain(self, component_id: str, request: Request) -> Response:
        """Service chaining: `request` to the component `component_id`, in this process (Spin: http, 10.3)."""
        raise LookupError(component_id)

    def self_request(self, request: Request) -> Response:
        """A request of the guest to its own application (Spin: http, 10.1 and 10.2)."""
        raise LookupError(request.path)

    def log(self, stream: Stream, data: bytes) -> None:
        """What the guest wrote to `stream`."""
