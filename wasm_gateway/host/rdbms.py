# fermyon:spin/rdbms-types: what the two relational interfaces share.

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

from .base import Deadline
from .network import Network
from .pools import Places, Pool, PoolFull

TYPES = """
interface rdbms-types {
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
}
"""

# Lifted values: a variant is (case, payload).
Value = tuple[str, Any]
NULL: Value = ("db-null", None)
UNSUPPORTED: Value = ("unsupported", None)

Column = tuple[str, str]
RowSet = tuple[list[Column], list[list[Value]]]


class DatabaseFailure(Exception):
    """A call that did not work; `case` is that of the versioned interfaces' error."""

    def __init__(self, case: str, text: str) -> None:
        super().__init__(text)
        self.case = case
        self.text = text

    def v1(self) -> tuple[str, str]:
        """The error of the unversioned interfaces, which have another name for `other`."""
        return ("other-error" if self.case == "other" else self.case, self.text)


# Sessions that one server may keep idle, and servers that are kept any (Spin: host interfaces, 7.3).
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
            raise DatabaseFailure("connection-failed", "too many connections") from None
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
