"""Stores as resources: what the versions answer, and that all of them mean the same stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wasm_gateway.component.values import Err
from wasm_gateway.component.wit import parse_interface
from wasm_gateway.errors import Trap
from wasm_gateway.host import key_value_resources
from wasm_gateway.host.key_value import CacheStore, KeyValue, MemoryStore, SqliteStore, Store, StoreError
from wasm_gateway.host.key_value_resources import INTERFACES, KeyValueResources
from wasm_gateway.host.limits import RESULT_TOO_LARGE

SPIN = "fermyon:spin/key-value@2"
STORE = "wasi:keyvalue/store@0.2.0-draft2"
BATCH = "wasi:keyvalue/batch@0.2.0-draft2"
ATOMICS = "wasi:keyvalue/atomics@0.2.0-draft2"
SPIN_3 = "spin:key-value/key-value@3"
OPENING = [
    (SPIN, "[static]store.open", "store"),
    (STORE, "open", "bucket"),
    (SPIN_3, "[static]store.open", "store"),
]
DENIED, MISSING = Err(("access-denied", None)), Err(("no-such-store", None))


class Broken(MemoryStore):
    """A store whose server is away."""

    def _fail(self, *args: Any, **more: Any) -> Any:
        raise StoreError("the server is away")

    get = set = delete = exists = keys = _fail
    get_many = set_many = delete_many = increment = compare_and_set = _fail


def django_cache() -> Any:
    from django.conf import settings
    from django.core.cache.backends.locmem import LocMemCache

    if not settings.configured:
        settings.configure()
    return LocMemCache("key_value_resources", {})


@pytest.fixture(params=["memory", "sqlite", "django"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store
    match request.param:
        case "memory":
            made = MemoryStore()
        case "sqlite":
            made = SqliteStore(tmp_path / "kv.db")
        case _:
            cache = django_cache()
            cache.clear()
            made = CacheStore(cache)
    yield made
    made.close()


class Guest:
    """Calls functions by name, as one instance; `call.store(...)` is a function of the resource."""

    def __init__(self, family: KeyValueResources, ctx: Any) -> None:
        self.ctx = ctx
        self.functions = {name: family.functions(name) for name in INTERFACES}

    def __call__(self, interface: str, name: str, *args: Any) -> Any:
        return self.ctx.settle(self.functions[interface][name](self.ctx, *args))

    def bucket(self, label: str = "default") -> Any:
        bucket = self(STORE, "open", label)
        assert not isinstance(bucket, Err)
        return bucket

    def cas(self, key: str, bucket: Any = None) -> Any:
        cas = self(ATOMICS, "[static]cas.new", self.bucket() if bucket is None else bucket, key)
        assert not isinstance(cas, Err)
        return cas


Make = Callable[..., Guest]


@pytest.fixture
def guest(store: Store, context: Callable[..., Any]) -> Make:
    """Makes instances on the same stores."""
    family = KeyValueResources(KeyValue({"default": store, "other": store, "broken": Broken()}))

    def make(*labels: str) -> Guest:
        granted = frozenset(labels or ("default", "broken", "unconfigured"))
        return Guest(family, context(key_value_stores=granted))

    return make


@pytest.mark.parametrize("interface", INTERFACES)
def test_functions_are_those_of_the_interface(interface: str) -> None:
    name = f"{interface}.0.0" if interface.endswith(("@2", "@3")) else interface
    declared = parse_interface(name, INTERFACES[interface])
    functions = KeyValueResources(KeyValue({})).functions(interface)
    assert {name for name in functions if not name.startswith("[resource-drop]")} == set(declared.funcs)
    assert KeyValueResources(KeyValue({})).functions("fermyon:spin/other@2") == {}


@pytest.mark.parametrize(("interface", "open_", "resource"), OPENING)
def test_only_what_is_granted_opens(guest: Make, interface: str, open_: str, resource: str) -> None:
    call = guest()
    assert call(interface, open_, "other") == DENIED
    assert call(interface, open_, "nonsense") == DENIED
    assert call(interface, open_, "unconfigured") == MISSING
    assert not isinstance(call(interface, open_, "default"), Err)


@pytest.mark.parametrize(("interface", "open_", "resource"), OPENING)
def test_values(guest: Make, store: Store, interface: str, open_: str, resource: str) -> None:
    call = guest()
    opened = call(interface, open_, "default")

    def method(name: str, *args: Any) -> Any:
        return call(interface, f"[method]{resource}.{name}", opened, *args)

    assert method("get", "a") is None
    assert method("exists", "a") is False
    assert method("set", "a", b"") is None
    assert method("get", "a") == b""
    assert method("set", "a", b"\0 1") is None
    assert method("set", "", b"empty key") is None
    assert (method("get", "a"), method("get", "")) == (b"\0 1", b"empty key")
    assert store.get("a") == b"\0 1"
    if resource == "store":
        keys = method("get-keys")
        assert sorted(keys[0] if interface == SPIN_3 else keys) == ["", "a"]
    else:
        keys, cursor = method("list-keys", None)
        assert (sorted(keys), cursor) == (["", "a"], None)
        assert method("list-keys", "x") == Err(("other", "list_keys: cursor not supported"))
    assert method("delete", "a") is None
    assert method("delete", "a") is None
    assert method("exists", "a") is False


@pytest.mark.parametrize(("interface", "open_", "resource"), OPENING)
def test_a_store_that_fails(guest: Make, interface: str, open_: str, resource: str) -> None:
    call, failure = guest(), Err(("other", "the server is away"))
    opened = call(interface, open_, "broken")
    for name, args in [("get", ("a",)), ("set", ("a", b"")), ("delete", ("a",)), ("exists", ("a",))]:
        assert call(interface, f"[method]{resource}.{name}", opened, *args) == failure
    listing = ("get-keys",) if resource == "store" else ("list-keys", None)
    assert call(interface, f"[method]{resource}.{listing[0]}", opened, *listing[1:]) == failure


def test_all_versions_mean_the_same_store(guest: Make) -> None:
    call = guest()
    old = call.functions[SPIN]["[static]store.open"](call.ctx, "default")
    call(SPIN, "[method]store.set", old, "a", b"1")
    assert call(STORE, "[method]bucket.get", call.bucket(), "a") == b"1"
    other = guest("other")
    assert other(STORE, "[method]bucket.get", other.bucket("other"), "a") == b"1"


@pytest.mark.parametrize(
    ("interface", "open_", "resource", "error"),
    [
        (*OPENING[0], Err(("store-table-full", None))),
        (*OPENING[1], Err(("other", "store table full"))),
    ],
)
def test_stores_that_are_dropped_make_room(
    guest: Make, monkeypatch: pytest.MonkeyPatch, interface: str, open_: str, resource: str, error: Err
) -> None:
    monkeypatch.setattr("wasm_gateway.host.key_value.MAX_HANDLES", 3)
    call = guest()
    opened = [call(interface, open_, "default") for _ in range(3)]
    assert call(interface, open_, "default") == error
    call(interface, f"[resource-drop]{resource}", opened[1])
    assert not isinstance(call(interface, open_, "default"), Err)
    assert call(interface, open_, "default") == error
    with pytest.raises(Trap, match="no store"):
        call(interface, f"[method]{resource}.get", opened[1], "a")


# Batches


def test_batches(guest: Make, store: Store) -> None:
    call = guest()
    bucket = call.bucket()
    assert call(BATCH, "set-many", bucket, [("a", b"1"), ("b", b""), ("a", b"2")]) is None
    assert (store.get("a"), store.get("b")) == (b"2", b"")
    found = call(BATCH, "get-many", bucket, ["b", "missing", "a", "b"])
    assert sorted(found) == [("a", b"2"), ("b", b"")]
    assert call(BATCH, "delete-many", bucket, ["a", "missing"]) is None
    assert store.keys() == ["b"]


def test_empty_batches_ask_nothing_of_the_store(guest: Make) -> None:
    call = guest()
    bucket, failure = call.bucket("broken"), Err(("other", "the server is away"))
    assert call(BATCH, "get-many", bucket, []) == []
    assert call(BATCH, "set-many", bucket, []) is None
    assert call(BATCH, "delete-many", bucket, []) is None
    assert call(BATCH, "get-many", bucket, ["a"]) == failure
    assert call(BATCH, "set-many", bucket, [("a", b"")]) == failure
    assert call(BATCH, "delete-many", bucket, ["a"]) == failure


def test_values_that_nobody_could_get_again_are_not_set(
    guest: Make, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wasm_gateway.host.key_value.MAX_HOST_BUFFERED_BYTES", 1000)
    call, error = guest(), Err(("other", "value exceeds limit of 1000 bytes"))
    bucket, long = call.bucket(), bytes(1001)
    assert call(STORE, "[method]bucket.set", bucket, "a", long) == error
    assert call(BATCH, "set-many", bucket, [("b", b""), ("a", long)]) == error
    assert call(ATOMICS, "swap", call.cas("a", bucket), long) == Err(("store-error", error.value))
    assert store.keys() == []


# Atomics


def test_increment(guest: Make, store: Store) -> None:
    call = guest()
    bucket = call.bucket()
    assert [call(ATOMICS, "increment", bucket, "n", delta) for delta in (1, 2, -10, 0)] == [1, 3, -7, -7]
    assert store.get("n") == (-7).to_bytes(8, "little", signed=True)
    store.set("text", b"abc")
    answer = call(ATOMICS, "increment", bucket, "text", 1)
    assert isinstance(answer, Err)
    assert answer.value[0] == "other"
    store.set("n", (2**63 - 1).to_bytes(8, "little"))
    assert isinstance(call(ATOMICS, "increment", bucket, "n", 1), Err)
    assert store.get("n") == (2**63 - 1).to_bytes(8, "little")


def test_swap_of_what_is_still_there(guest: Make, store: Store) -> None:
    call = guest()
    store.set("a", b"1")
    cas = call.cas("a")
    assert call(ATOMICS, "[method]cas.current", cas) == b"1"
    assert call(ATOMICS, "swap", cas, b"2") is None
    assert store.get("a") == b"2"


def test_swap_without_asking_stores(guest: Make, store: Store) -> None:
    call = guest()
    store.set("a", b"1")
    cas = call.cas("a")
    store.set("a", b"changed")
    assert call(ATOMICS, "swap", cas, b"2") is None
    assert store.get("a") == b"2"


@pytest.mark.parametrize("before", [b"1", b"", None])
@pytest.mark.parametrize("after", [b"changed", b"", None])
def test_swap_of_what_has_changed(
    guest: Make, store: Store, before: bytes | None, after: bytes | None
) -> None:
    def become(value: bytes | None) -> None:
        store.delete("a") if value is None else store.set("a", value)

    call = guest()
    become(before)
    cas = call.cas("a")
    assert call(ATOMICS, "[method]cas.current", cas) == before
    become(after)
    answer = call(ATOMICS, "swap", cas, b"mine")
    if before == after:
        assert (answer, store.get("a")) == (None, b"mine")
        return
    assert store.get("a") == after
    assert isinstance(answer, Err)
    case, fresh = answer.value
    assert (case, fresh.key) == ("cas-failed", "a")
    # it knows the value of now, as the guest that asks finds out
    assert call(ATOMICS, "swap", fresh, b"mine") is None
    assert store.get("a") == b"mine"


def test_a_swap_lost_to_another_instance_can_be_tried_again_and_again(guest: Make, store: Store) -> None:
    call = guest()
    store.set("a", b"0")
    cas = call.cas("a")
    call(ATOMICS, "[method]cas.current", cas)
    for number in range(1, 4):
        store.set("a", b"%d" % number)
        answer = call(ATOMICS, "swap", cas, b"mine")
        case, cas = answer.value
        assert case == "cas-failed"
        assert call(ATOMICS, "[method]cas.current", cas) == b"%d" % number
    assert call(ATOMICS, "swap", cas, b"mine") is None


def test_errors_of_compare_and_swap(guest: Make, store: Store) -> None:
    call = guest()
    cas = call.cas("a", call.bucket("broken"))
    assert call(ATOMICS, "[method]cas.current", cas) == Err(("other", "the server is away"))
    assert call(ATOMICS, "swap", cas, b"") == Err(("store-error", ("other", "the server is away")))
    bucket = call.bucket()
    cas = call.cas("a", bucket)
    assert call(ATOMICS, "[method]cas.current", cas) is None
    call(STORE, "[resource-drop]bucket", bucket)
    store.set("a", b"changed")
    assert call(ATOMICS, "[method]cas.current", cas) == b"changed"
    store.set("a", b"again")
    assert call(ATOMICS, "swap", cas, b"") == Err(("store-error", ("no-such-store", None)))


def test_what_compare_and_swap_holds_is_bounded(
    guest: Make, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_value_resources, "MAX_HANDLES", 3)
    monkeypatch.setattr(key_value_resources, "MAX_HOST_BUFFERED_BYTES", 1000)
    too_many = Err(("other", "too many compare_and_swaps opened"))
    call = guest()
    bucket = call.bucket()
    store.set("a", bytes(600))
    one, two, three = (call.cas("a", bucket) for _ in range(3))
    assert call(ATOMICS, "[static]cas.new", bucket, "a") == too_many
    for _ in range(3):  # asking again holds no more
        assert call(ATOMICS, "[method]cas.current", one) == bytes(600)
    assert call(ATOMICS, "[method]cas.current", two) == Err(("other", RESULT_TOO_LARGE))
    store.set("a", bytes(300))
    assert call(ATOMICS, "[method]cas.current", two) == bytes(300)
    assert call(ATOMICS, "swap", two, bytes(600)) is None
    call(ATOMICS, "[resource-drop]cas", one)
    assert call(ATOMICS, "[method]cas.current", three) == bytes(600)
    store.set("a", bytes(2000))
    assert call(ATOMICS, "swap", three, b"") == Err(("store-error", ("other", RESULT_TOO_LARGE)))
    # all of them are gone, so there is room again
    assert call(ATOMICS, "[static]cas.new", bucket, "x" * 1001) == too_many
    for _ in range(3):
        call.cas("a", bucket)
