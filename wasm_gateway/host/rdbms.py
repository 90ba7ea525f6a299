# fermyon:spin/rdbms-types: what the relational interfaces share.
#
# Rule 1: there is one way to a session for all versions: its address is permitted, it
# is taken from the pool, and given back as new. The unversioned interfaces have one for
# each call; later, a connection of the guest is one, until it is dropped or the
# instance ends.

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from ..component.values import Err, Ok
from .base import Deadline, HostContext
from .limits import TOO_MANY_CONNECTIONS, Held
from .network import Network
from .offload import Elements, Turns, Workers, share_of
from .pools import Places, Pool, PoolFull

_TYPES = """
  enum db-data-type {
    boolean, int8, int16, int32, int64, uint8, uint16, uint32, uint64,
    floating32, floating64, str, binary, other,
  }
  variant db-value {
    boolean(bool), int8(s8), int16(s16), int32(s32), int64(s64),
    uint8(u8), uint16(u16), uint32(u32), uint64(u64),
    floating32(f32), floating64(f64), str(string), binary(list<u8>), db-null, unsupported,
  }
  variant parameter-value {
    boolean(bool), int8(s8), int16(s16), int32(s32), int64(s64),
    uint8(u8), uint16(u16), uint32(u32), uint64(u64),
    floating32(f32), floating64(f64), str(string), binary(list<u8>), db-null,
  }
  record column { name: string, data-type: db-data-type }
  type row = list<db-value>;
  record row-set { columns: list<column>, rows: list<row> }
"""
ERROR = """
  variant error {
    connection-failed(string), bad-parameter(string), query-failed(string),
    value-conversion-failed(string), other(string),
  }
"""
# The same but for row-set, where rows are streamed.
STREAMED = _TYPES[: _TYPES.index("  record row-set")]
TYPES = f"interface rdbms-types {{ {_TYPES} }}\n"
TYPES_2 = f"interface rdbms-types {{ {ERROR} {_TYPES} }}\n"
INTERFACES = {
    "fermyon:spin/rdbms-types": "package fermyon:spin;" + TYPES,
    "fermyon:spin/rdbms-types@2": "package fermyon:spin@2.0.0;" + TYPES_2,
}

# Lifted values: a variant is (case, payload).
Value = tuple[str, Any]
NULL: Value = ("db-null", None)

Column = tuple[str, Any]
RowSet = tuple[list[Column], list[list[Value]]]


def streamed(ctx: HostContext, rows: RowSet) -> tuple[list[Column], Elements, Ok]:
    """A result whose rows a guest reads as a stream. It is whole, so that nothing can go wrong any more."""
    return rows[0], Elements(rows[1], share_of(ctx, rows[1])), Ok()


class RdbmsTypes:
    """The interfaces of types alone, which have no functions."""

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return {}

    def close(self) -> None:
        pass


class DatabaseFailure(Exception):
    """A call that did not work; `case` is that of the versioned interfaces' error.

    `details` is what the server said of it, where an interface has words for that.
    """

    def __init__(self, case: str, text: str, details: tuple[Any, ...] | None = None) -> None:
        super().__init__(text)
        self.case = case
        self.text = text
        self.details = details

    def v1(self) -> tuple[str, str]:
        """The error of the unversioned interfaces, which have another name for `other`."""
        return ("other-error" if self.case == "other" else self.case, self.text)

    def v2(self) -> tuple[str, str]:
        return (self.case, self.text)


# Sessions that one server may have at once or keep idle, and servers that are kept any
# (Spin: host interfaces, 7.3).
POOL_SIZE = 64
POOL_ADDRESSES = 16


class Session(Protocol):
    """A connection to a server, used by one guest at a time."""

    @property
    def is_usable(self) -> bool:
        """Whether a kept one may still be used."""
        ...

    def reset(self, deadline: Deadline) -> bool:
        """Make it as good as new; False when that is not possible, and it has to be closed."""
        ...

    def close(self) -> None: ...


S = TypeVar("S", bound=Session)
Where = TypeVar("Where", bound=Hashable)


class Sessions(Generic[Where, S]):
    """Sessions that are kept for the next guest; one for an application and kind of server.

    `connect` makes one, `max_connections` limits those in use at once.
    """

    def __init__(
        self,
        connect: Callable[[Where, Network, Deadline], S],
        network: Network,
        max_connections: int | None = None,
    ) -> None:
        self._connect = connect
        self._network = network
        self._pool: Pool[S] = Pool(
            lambda session: session.close(),
            per_key=POOL_SIZE,
            keys=POOL_ADDRESSES,
            places=Places(max_connections, network.places),
        )

    def take(self, where: Where, deadline: Deadline) -> S:
        """A session, which must be given back; DatabaseFailure, DeadlineExceeded."""
        try:
            session = self._pool.take(where, deadline)
        except PoolFull:
            raise DatabaseFailure("connection-failed", TOO_MANY_CONNECTIONS) from None
        try:
            if session is not None and not session.is_usable:
                session.close()
                session = None
            return session or self._connect(where, self._network, deadline)
        except BaseException:
            self._pool.give(where, None)
            raise

    def give(self, where: Where, session: S, deadline: Deadline) -> None:
        if not session.reset(deadline):
            session.close()
            self._pool.give(where, None)
        else:
            self._pool.give(where, session)

    def close(self) -> None:
        self._pool.close()


class Kept(Generic[Where, S]):
    """A session that a guest keeps, which its calls use in turn."""

    __slots__ = ("session", "turns", "where")

    def __init__(self, where: Where, session: S) -> None:
        self.where = where
        self.session = session
        self.turns = Turns()


class Databases(Generic[Where, S]):
    """The part of a family that all kinds of server have."""

    def __init__(self, client: Sessions[Where, S], workers: Workers | None = None) -> None:
        self.client = client
        self.workers = workers or Workers()
        self._connections: Held[Kept[Where, S]] = Held(self._give)

    def _give(self, ctx: HostContext, kept: Kept[Where, S]) -> None:
        kept.turns.end(lambda: self.client.give(kept.where, kept.session, ctx.deadline))

    def close(self) -> None:
        self.client.close()

    def permitted(self, ctx: HostContext, address: str) -> Where:
        """Where `address` leads, when the component may connect there; DatabaseFailure otherwise."""
        raise NotImplementedError

    @contextmanager
    def session(self, ctx: HostContext, address: str) -> Iterator[S]:
        """A session for one call; DatabaseFailure, DeadlineExceeded."""
        where = self.permitted(ctx, address)
        session = self.client.take(where, ctx.deadline)
        try:
            yield session
        finally:
            self.client.give(where, session, ctx.deadline)

    def connect(self, ctx: HostContext, where: Where) -> int:
        """A connection for the guest to keep; DatabaseFailure, DeadlineExceeded."""
        handles = self._connections.of(ctx)
        if handles.is_full:
            raise DatabaseFailure("connection-failed", TOO_MANY_CONNECTIONS)
        handle = handles.push(Kept(where, self.client.take(where, ctx.deadline)))
        assert handle is not None
        return handle

    async def connect_async(self, ctx: HostContext, where: Where) -> int:
        """The same as a coroutine."""
        handles = self._connections.of(ctx)
        if handles.is_full:
            raise DatabaseFailure("connection-failed", TOO_MANY_CONNECTIONS)

        def give(session: S) -> None:
            self.client.give(where, session, ctx.deadline)

        session = await self.workers.run(ctx, partial(self.client.take, where), undo=give)
        handle = handles.push(Kept(where, session))
        if handle is None:  # filled meanwhile
            give(session)
            raise DatabaseFailure("connection-failed", TOO_MANY_CONNECTIONS)
        return handle

    def connection(self, ctx: HostContext, handle: int) -> S:
        """The session of a connection, for a call in this thread."""
        kept = self._connections.get(ctx, handle)
        kept.turns.settle(ctx)
        return kept.session

    async def using(self, ctx: HostContext, handle: int, call: Callable[[S, Deadline], Any]) -> Any:
        """What `call` comes to, in its turn; DatabaseFailure, DeadlineExceeded."""
        kept = self._connections.get(ctx, handle)
        return await self.workers.run(ctx, partial(call, kept.session), turns=kept.turns)

    def open(self, ctx: HostContext, address: str) -> Any:
        try:
            return self.connect(ctx, self.permitted(ctx, address))
        except DatabaseFailure as failure:
            return Err(failure.v2())

    async def open_async(self, ctx: HostContext, address: str) -> Any:
        try:
            return await self.connect_async(ctx, self.permitted(ctx, address))
        except DatabaseFailure as failure:
            return Err(failure.v2())

    def drop(self, ctx: HostContext, handle: int) -> None:
        self._connections.drop(ctx, handle)
