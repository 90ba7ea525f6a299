# Key-value stores as resources: fermyon:spin/key-value@2.0.0, spin:key-value and
# wasi:keyvalue, on the stores of fermyon:spin/key-value (Spin: host interfaces, 4).
#
# Rule 1: a store or bucket is one of the numbers that KeyValue gives to an instance. What
# is granted, and how many may be open, is decided there for all versions alike.
# Rule 2: the versions differ in their errors only; what they do is in _OPERATIONS once.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..component.values import Err, Ok
from .base import HostContext
from .key_value import (
    MAX_HANDLES,
    KeyValue,
    RedisStore,
    SqliteStore,
    Store,
    StoreError,
    set_value,
    set_values,
)
from .limits import MAX_HOST_BUFFERED_BYTES, RESULT_TOO_LARGE, VALUE_OVERHEAD, kept
from .offload import Elements, Workers

_SPIN = """
package fermyon:spin@2.0.0;
interface key-value {
  variant error { store-table-full, no-such-store, access-denied, other(string) }
  resource store {
    open: static func(label: string) -> result<store, error>;
    get: func(key: string) -> result<option<list<u8>>, error>;
    set: func(key: string, value: list<u8>) -> result<_, error>;
    delete: func(key: string) -> result<_, error>;
    exists: func(key: string) -> result<bool, error>;
    get-keys: func() -> result<list<string>, error>;
  }
}
"""
_SPIN_3 = """
package spin:key-value@3.0.0;
interface key-value {
  variant error { store-table-full, no-such-store, access-denied, other(string) }
  resource store {
    open: static async func(label: string) -> result<store, error>;
    get: async func(key: string) -> result<option<list<u8>>, error>;
    set: async func(key: string, value: list<u8>) -> result<_, error>;
    delete: async func(key: string) -> result<_, error>;
    exists: async func(key: string) -> result<bool, error>;
    get-keys: async func() -> tuple<stream<string>, future<result<_, error>>>;
  }
}
"""
_WASI = """
package wasi:keyvalue@0.2.0-draft2;
interface store {
  variant error { no-such-store, access-denied, other(string) }
  record key-response { keys: list<string>, cursor: option<string> }
  open: func(identifier: string) -> result<bucket, error>;
  resource bucket {
    get: func(key: string) -> result<option<list<u8>>, error>;
    set: func(key: string, value: list<u8>) -> result<_, error>;
    delete: func(key: string) -> result<_, error>;
    exists: func(key: string) -> result<bool, error>;
    list-keys: func(cursor: option<string>) -> result<key-response, error>;
  }
}
interface batch {
  use store.{bucket, error};
  get-many: func(bucket: borrow<bucket>, keys: list<string>)
    -> result<list<tuple<string, option<list<u8>>>>, error>;
  set-many: func(bucket: borrow<bucket>, key-values: list<tuple<string, list<u8>>>) -> result<_, error>;
  delete-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>;
}
interface atomics {
  use store.{bucket, error};
  variant cas-error { store-error(error), cas-failed(cas) }
  resource cas {
    new: static func(bucket: borrow<bucket>, key: string) -> result<cas, error>;
    current: func() -> result<option<list<u8>>, error>;
  }
  increment: func(bucket: borrow<bucket>, key: string, delta: s64) -> result<s64, error>;
  swap: func(cas: cas, value: list<u8>) -> result<_, cas-error>;
}
"""
INTERFACES = {
    "fermyon:spin/key-value@2": _SPIN,
    "spin:key-value/key-value@3": _SPIN_3,
    "wasi:keyvalue/store@0.2.0-draft2": _WASI,
    "wasi:keyvalue/batch@0.2.0-draft2": _WASI,
    "wasi:keyvalue/atomics@0.2.0-draft2": _WASI,
}

# What may be read of a SQLite file at any time, in some 5 us: less than a thread costs.
READS = ("get", "exists")

NO_CURSOR = Err(("other", "list_keys: cursor not supported"))
TABLE_FULL = Err(("other", "store table full"))
TOO_MANY_SWAPS = Err(("other", "too many compare_and_swaps opened"))


# Name of the function -> what it does to the store; StoreError. A store is not asked for nothing.
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "get": lambda store, deadline, key: store.get(key, deadline),
    "set": lambda store, deadline, key, value: set_value(store, key, value, deadline),
    "delete": lambda store, deadline, key: store.delete(key, deadline),
    "exists": lambda store, deadline, key: store.exists(key, deadline),
    "get-keys": lambda store, deadline: store.keys(deadline),
    "list-keys": lambda store, deadline: (store.keys(deadline), None),
    "get-many": lambda store, deadline, keys: store.get_many(keys, deadline) if keys else [],
    "set-many": lambda store, deadline, pairs: set_values(store, pairs, deadline) if pairs else None,
    "delete-many": lambda store, deadline, keys: store.delete_many(keys, deadline) if keys else None,
    "increment": lambda store, deadline, key, delta: store.increment(key, delta, deadline),
}


def _waits(store: Store, name: str) -> bool:
    """Whether the operation may keep its caller waiting, in whatever thread it is called.

    What a site brings is called in the thread of the request, where it finds what belongs to that
    (connections, transactions).
    """
    return isinstance(store, RedisStore) or (isinstance(store, SqliteStore) and name not in READS)


class Cas:
    """The resource cas: a key of a store, and the value that it had when the guest asked for it."""

    __slots__ = ("bucket", "key", "known", "read", "store")

    def __init__(self, bucket: int, store: Store, key: str) -> None:
        self.bucket = bucket
        self.store = store
        self.key = key
        self.read = False  # whether `known` is what the key had
        self.known: bytes | None = None

    @property
    def size(self) -> int:
        return len(self.key) + len(self.known or b"")


class _Swaps:
    """What the Cas of one instance hold: their number and their bytes."""

    __slots__ = ("count", "size")

    def __init__(self) -> None:
        self.count = 0
        self.size = 0

    def grow(self, size: int) -> bool:
        """Whether `size` more bytes may be held, which they are then."""
        if self.size + size > MAX_HOST_BUFFERED_BYTES:
            return False
        self.size += size
        return True


class KeyValueResources:
    """The functions that guests import, on the stores of `key_value`."""

    def __init__(self, key_value: KeyValue, workers: Workers | None = None) -> None:
        self.key_value = key_value
        self._workers = workers or Workers()
        drop = key_value.close_store
        basic = ("get", "set", "delete", "exists")
        self._functions: dict[str, dict[str, Callable[..., Any]]] = {
            "fermyon:spin/key-value@2": {
                # its errors have the names of the first version's
                "[static]store.open": key_value.open,
                **{f"[method]store.{name}": self._on_store(name) for name in (*basic, "get-keys")},
                "[resource-drop]store": drop,
            },
            "spin:key-value/key-value@3": {
                "[static]store.open": key_value.open,
                **{f"[method]store.{name}": self._async(name) for name in basic},
                "[method]store.get-keys": self.get_keys_async,
                "[resource-drop]store": drop,
            },
            "wasi:keyvalue/store@0.2.0-draft2": {
                "open": self.open_bucket,
                **{f"[method]bucket.{name}": self._on_store(name) for name in basic},
                "[method]bucket.list-keys": self._list_keys(),
                "[resource-drop]bucket": drop,
            },
            "wasi:keyvalue/batch@0.2.0-draft2": {
                name: self._on_store(name) for name in ("get-many", "set-many", "delete-many")
            },
            "wasi:keyvalue/atomics@0.2.0-draft2": {
                "[static]cas.new": self.new_cas,
                "[method]cas.current": self.current,
                "[resource-drop]cas": self.drop_cas,
                "increment": self._on_store("increment"),
                "swap": self.swap,
            },
        }

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return self._functions.get(interface, {})

    def close(self) -> None:
        """The stores are closed by their owner."""

    def _on_store(self, name: str) -> Callable[..., Any]:
        """The host function `name`, whose first argument is a store or bucket."""
        operation, opened = _OPERATIONS[name], self.key_value.opened

        def call(ctx: HostContext, handle: int, *args: Any) -> Any:
            try:
                return operation(opened(ctx, handle), ctx.deadline, *args)
            except StoreError as error:
                return Err(("other", str(error)))

        return call

    def _async(self, name: str) -> Callable[..., Any]:
        """The same as a coroutine function."""

        async def call(ctx: HostContext, handle: int, *args: Any) -> Any:
            try:
                return await self._offloaded(ctx, handle, name, *args)
            except StoreError as error:
                return Err(("other", str(error)))

        return call

    async def _offloaded(self, ctx: HostContext, handle: int, name: str, *args: Any) -> Any:
        operation = _OPERATIONS[name]
        store = self.key_value.opened(ctx, handle)
        if not _waits(store, name):
            return operation(store, ctx.deadline, *args)
        return await self._workers.run(ctx, lambda deadline: operation(store, deadline, *args))

    async def get_keys_async(self, ctx: HostContext, handle: int) -> Any:
        try:
            keys = await self._offloaded(ctx, handle, "get-keys")
        except StoreError as error:
            return Elements(()), Err(("other", str(error)))
        return Elements(keys, kept(ctx, sum(map(len, keys)) + VALUE_OVERHEAD * len(keys))), Ok()

    def _list_keys(self) -> Callable[..., Any]:
        list_keys = self._on_store("list-keys")
        return lambda ctx, bucket, cursor: list_keys(ctx, bucket) if cursor is None else NO_CURSOR

    def open_bucket(self, ctx: HostContext, identifier: str) -> Any:
        opened = self.key_value.open(ctx, identifier)
        full = isinstance(opened, Err) and opened.value[0] == "store-table-full"
        return TABLE_FULL if full else opened

    # Compare and swap (Spin: host interfaces, 4.2)

    def _swaps(self, ctx: HostContext) -> _Swaps:
        swaps: _Swaps | None = ctx.state.get(self)
        if swaps is None:
            swaps = ctx.state[self] = _Swaps()
        return swaps

    def new_cas(self, ctx: HostContext, bucket: int, key: str) -> Any:
        cas, swaps = Cas(bucket, self.key_value.opened(ctx, bucket), key), self._swaps(ctx)
        if swaps.count >= MAX_HANDLES or not swaps.grow(cas.size):
            return TOO_MANY_SWAPS
        swaps.count += 1
        return cas

    def drop_cas(self, ctx: HostContext, cas: Cas) -> None:
        swaps = self._swaps(ctx)
        swaps.count -= 1
        swaps.size -= cas.size

    def current(self, ctx: HostContext, cas: Cas) -> Any:
        try:
            value = cas.store.get(cas.key, ctx.deadline)
        except StoreError as error:
            return Err(("other", str(error)))
        if not self._swaps(ctx).grow(len(value or b"") - len(cas.known or b"")):
            return Err(("other", RESULT_TOO_LARGE))
        cas.known, cas.read = value, True
        return value

    def swap(self, ctx: HostContext, cas: Cas, value: bytes) -> Any:
        """Set the value if it is still the one that `current` gave; a Cas that never asked does not care.

        Where `current` gave none, somebody else's value stays as well: Spin's SQLite store would
        overwrite it, its Redis store would not, nor does the interface allow it.
        """
        self.drop_cas(ctx, cas)
        try:
            if not cas.read:
                return set_value(cas.store, cas.key, value, ctx.deadline)
            if cas.store.compare_and_set(cas.key, cas.known, value, ctx.deadline):
                return None
        except StoreError as error:
            return Err(("store-error", ("other", str(error))))
        if not self.key_value.is_open(ctx, cas.bucket):
            return Err(("store-error", ("no-such-store", None)))
        fresh = self.new_cas(ctx, cas.bucket, cas.key)
        found = fresh if isinstance(fresh, Err) else self.current(ctx, fresh)
        if isinstance(found, Err):
            if found is not fresh:
                self.drop_cas(ctx, fresh)
            return Err(("store-error", found.value))
        return Err(("cas-failed", fresh))
