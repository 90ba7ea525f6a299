"""What an application's instances share: made when it is needed, as configured, given back at the end."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wasm_gateway.component.names import canonical_name
from wasm_gateway.component.types import InterfaceType, ResourceType
from wasm_gateway.errors import HostError, ManifestError
from wasm_gateway.host import key_value
from wasm_gateway.host.application import DEFAULT, FAMILIES, Hosts
from wasm_gateway.runtime_config import DatabaseConfig, RuntimeConfig, StoreConfig


def family(hosts: Hosts, interface: str) -> Any:
    """The object behind an interface."""
    assert hosts.interface(interface) is not None
    return hosts._families[FAMILIES[interface]]


# Interfaces


@pytest.fixture(scope="module")
def shared() -> Iterator[Hosts]:
    hosts = Hosts(RuntimeConfig())
    yield hosts
    hosts.close()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_interface_has_a_type_and_a_function_for_each_of_its_functions(
    name: str, shared: Hosts
) -> None:
    offered = shared.interface(name)
    assert offered is not None
    assert isinstance(offered.type, InterfaceType)
    assert canonical_name(offered.type.name) == name
    types = offered.type.types
    drops = {f"[resource-drop]{key}" for key, t in types.items() if isinstance(t, ResourceType)}
    assert offered.type.funcs.keys() <= offered.functions.keys() <= offered.type.funcs.keys() | drops
    assert offered.type.funcs or types
    assert all(map(callable, offered.functions.values()))


@pytest.mark.parametrize(
    "name",
    ["", "key-value", "spin:key-value/key-value@2.0.0", "fermyon:spin/http-types", "wasi:cli/run@0.2.0"],
)
def test_other_interfaces_are_not_offered(name: str) -> None:
    assert Hosts(RuntimeConfig()).interface(name) is None


def test_all_versions_of_wasi_0_2_are_one(shared: Hosts) -> None:
    for name in FAMILIES:
        if name.endswith("@0.2"):
            found = {id(shared.interface(f"{name}.{patch}")) for patch in range(13)}
            assert found == {id(shared.interface(name))}


def test_an_interface_is_made_once_for_all_threads() -> None:
    hosts = Hosts(RuntimeConfig())
    start, found = threading.Barrier(8), []

    def run() -> None:
        start.wait()
        found.append(hosts.interface("fermyon:spin/key-value"))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(offered is found[0] for offered in found)


def python(script: str) -> str:
    prelude = """
import sys
from wasm_gateway.host.application import Hosts
from wasm_gateway.runtime_config import RuntimeConfig, StoreConfig
hosts = Hosts(RuntimeConfig())
"""
    done = subprocess.run(
        [sys.executable, "-c", prelude + script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_no_guest_needs_is_not_imported() -> None:
    out = python(
        """
drivers = ("urllib3", "redis", "psycopg", "pymysql", "paho", "sqlite3")
def loaded():
    return [name for name in drivers if name in sys.modules]
print(loaded())
hosts.interface("fermyon:spin/config"), hosts.interface("fermyon:spin/llm")
print(loaded())
hosts.interface("fermyon:spin/key-value")
print(loaded())
"""
    )
    assert out.splitlines() == ["[]", "[]", "['sqlite3']"]


@pytest.mark.parametrize(
    ("driver", "interface", "extra"),
    [
        ("psycopg", "fermyon:spin/postgres", "postgres"),
        ("psycopg", "spin:postgres/postgres@4.0.0", "postgres"),
        ("pymysql", "fermyon:spin/mysql", "mysql"),
        ("redis", "fermyon:spin/redis", "redis"),
        ("paho", "fermyon:spin/mqtt@2.0.0", "mqtt"),
    ],
)
def test_a_driver_that_is_missing_is_named_with_its_extra(driver: str, interface: str, extra: str) -> None:
    out = python(
        f"""
sys.modules[{driver!r}] = None
from wasm_gateway.errors import LinkError
try:
    hosts.interface("{interface}")
except LinkError as error:
    print(error)
print(hosts.interface("fermyon:spin/key-value") is not None)
"""
    )
    assert driver in out
    assert f"pip install 'wasm-gateway[{extra}]'" in out
    assert out.endswith("True")


def test_a_store_whose_driver_is_missing_is_named_with_its_extra() -> None:
    out = python(
        """
sys.modules["redis"] = None
from wasm_gateway.errors import LinkError
config = RuntimeConfig(key_value_stores={"r": StoreConfig("redis", {"url": "redis://127.0.0.1"})})
try:
    Hosts(config).interface("fermyon:spin/key-value")
except LinkError as error:
    print(error)
"""
    )
    assert "pip install 'wasm-gateway[redis]'" in out


@pytest.mark.parametrize(("calls", "status"), [(False, 200), (True, 500)])
def test_a_guest_that_only_imports_an_interface_runs_without_its_driver(
    tmp_path: Path, calls: bool, status: int
) -> None:
    text = b"content-type: a/b\n\nhello"
    call = "(call $get" + " (i32.const 0)" * 5 + ")" if calls else ""
    guest = f"""(module (import "outbound-redis" "get" (func $get (param i32 i32 i32 i32 i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 0) "\\10\\00\\00\\00\\{len(text):02x}\\00\\00\\00")
      (data (i32.const 16) "content-type: a/b\\0a\\0ahello")
      (func (export "_start") {call}
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
    (tmp_path / "a.wat").write_text(guest)
    (tmp_path / "spin.toml").write_text(
        'spin_manifest_version = 2\n[application]\nname = "a"\n[component.a]\nsource = "a.wat"\n'
        '[[trigger.http]]\nroute = "/"\ncomponent = "a"\nexecutor = { type = "wagi" }\n'
    )
    out = python(
        f"""
import logging
logging.basicConfig(stream=sys.stdout, level=logging.INFO)
sys.modules["redis"] = None
from wasm_gateway import Gateway, Request
with Gateway.from_manifest({str(tmp_path / "spin.toml")!r}, state_dir="", disable_cache=True) as gateway:
    print(gateway.handle(Request("GET", "/")).status)
"""
    )
    assert out.endswith(str(status))
    assert "pip install 'wasm-gateway[redis]'" in out


def test_a_mistake_of_ours_is_not_taken_for_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "test:broken/interface", "no_such_module")
    with pytest.raises(ModuleNotFoundError):
        Hosts(RuntimeConfig()).interface("test:broken/interface")


# Stores


def test_without_a_state_folder_everything_is_in_memory() -> None:
    hosts = Hosts(RuntimeConfig())
    (store,) = family(hosts, "fermyon:spin/key-value").stores.values()
    assert isinstance(store, key_value.MemoryStore)
    assert family(hosts, "fermyon:spin/sqlite").databases[DEFAULT].file is None
    hosts.close()


def test_the_default_stores_are_files_of_the_state_folder(tmp_path: Path) -> None:
    hosts = Hosts(RuntimeConfig(), state_dir=tmp_path / "state")
    family(hosts, "fermyon:spin/key-value").stores[DEFAULT].set("key", b"value")
    family(hosts, "fermyon:spin/sqlite").databases[DEFAULT].script("CREATE TABLE t (v)")
    hosts.close()
    assert {path.name for path in (tmp_path / "state").iterdir()} >= {
        "sqlite_key_value.db",
        "sqlite_db.db",
    }
    again = Hosts(RuntimeConfig(), state_dir=tmp_path / "state")
    assert family(again, "fermyon:spin/key-value").stores[DEFAULT].get("key") == b"value"
    again.close()


def test_configured_stores(tmp_path: Path) -> None:
    file = {"path": tmp_path / "stores.db"}
    config = RuntimeConfig(
        key_value_stores={
            "a": StoreConfig("spin", file),
            "b": StoreConfig("spin", file),
            "memory": StoreConfig("spin", {}),
            "redis": StoreConfig("redis", {"url": "redis://127.0.0.1:1/"}),
        },
        sqlite_databases={
            "file": DatabaseConfig("spin", {"path": tmp_path / "data.db"}),
            "memory": DatabaseConfig("spin", {}),
        },
    )
    hosts = Hosts(config)
    stores = family(hosts, "fermyon:spin/key-value").stores
    assert list(stores) == [DEFAULT, "a", "b", "memory", "redis"]
    # one file, and each label its own keys
    stores["a"].set("key", b"a")
    assert (stores["a"].get("key"), stores["b"].get("key")) == (b"a", None)
    assert isinstance(stores["memory"], key_value.MemoryStore)
    assert isinstance(stores["redis"], key_value.RedisStore)
    databases = family(hosts, "fermyon:spin/sqlite").databases
    assert {label: database.file for label, database in databases.items()} == {
        DEFAULT: None,
        "file": tmp_path / "data.db",
        "memory": None,
    }
    hosts.close()


class SiteStore:
    """A store that a site brings; only what is used here."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.data: dict[str, bytes] = {}
        self.closed = 0
        self.failure = failure

    def set(self, key: str, value: bytes, deadline: Any = None) -> None:
        self.data[key] = value

    def close(self) -> None:
        self.closed += 1
        if self.failure is not None:
            raise self.failure


def test_a_store_of_the_site_wins_over_a_configured_one() -> None:
    config = RuntimeConfig(key_value_stores={"a": StoreConfig("spin", {}), "b": StoreConfig("spin", {})})
    site = SiteStore()
    stores = family(Hosts(config, stores={"a": site, "c": site}), "fermyon:spin/key-value").stores
    assert (stores["a"], stores["c"]) == (site, site)
    assert isinstance(stores["b"], key_value.MemoryStore)


# The start


def test_presets_go_to_the_default_store_whoever_that_is() -> None:
    site = SiteStore()
    hosts = Hosts(RuntimeConfig(), key_value={"a": "1", "b": "é"}, stores={DEFAULT: site})
    assert site.data == {}
    hosts.start()
    assert site.data == {"a": b"1", "b": "é".encode()}
    site.data["a"] = b"changed by a guest"
    hosts.start()
    assert site.data["a"] == b"changed by a guest"


def rows(hosts: Hosts, label: str, statement: str) -> Any:
    database = family(hosts, "fermyon:spin/sqlite").databases[label]
    connection = database.connect()
    try:
        return connection.execute(statement, [])[1]
    finally:
        database.release(connection)


def test_sqlite_statements_and_scripts_run_at_the_start(tmp_path: Path) -> None:
    script = tmp_path / "some file.sql"
    script.write_text("CREATE TABLE s (v); INSERT INTO s VALUES ('é');", encoding="utf-8")
    config = RuntimeConfig(
        sqlite_databases={"other": DatabaseConfig("spin", {"path": tmp_path / "other.db"})}
    )
    statements = ["CREATE TABLE t (v)", "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)"]
    hosts = Hosts(config, state_dir=tmp_path, sqlite=[*statements, f"@{script}", f"@{script}:other"])
    hosts.start()
    hosts.start()  # once is enough
    assert rows(hosts, DEFAULT, "SELECT count(*) FROM t") == [([("integer", 2)],)]
    assert rows(hosts, DEFAULT, "SELECT v FROM s") == [([("text", "é")],)]
    assert rows(hosts, "other", "SELECT v FROM s") == [([("text", "é")],)]
    hosts.close()


@pytest.mark.parametrize(
    ("statement", "kind", "reason"),
    [
        ("NONSENSE", HostError, "SQLite: .*NONSENSE"),
        ("@nowhere.sql", ManifestError, "@nowhere.sql cannot be read: .*No such file"),
        ("@{script}:nobody", ManifestError, 'a database "nobody" that is not configured'),
        ("@{latin}", ManifestError, "cannot be read"),
    ],
)
def test_a_statement_that_cannot_be_run(tmp_path: Path, statement: str, kind: type, reason: str) -> None:
    (tmp_path / "script.sql").write_text("SELECT 1")
    (tmp_path / "latin.sql").write_bytes(b"SELECT '\xe9'")
    statement = statement.format(script=tmp_path / "script.sql", latin=tmp_path / "latin.sql")
    hosts = Hosts(RuntimeConfig(), state_dir=tmp_path, sqlite=[statement])
    with pytest.raises(kind, match=reason):
        hosts.start()
    hosts.close()


def test_nothing_to_do_at_the_start_makes_nothing(tmp_path: Path) -> None:
    hosts = Hosts(RuntimeConfig(), state_dir=tmp_path / "state")
    hosts.start()
    assert hosts._families == {}
    assert not (tmp_path / "state").exists()


# The end


def test_what_cannot_be_closed_keeps_nothing_else_open(tmp_path: Path) -> None:
    first, last = SiteStore(OSError("the disk is gone")), SiteStore()
    hosts = Hosts(RuntimeConfig(), state_dir=tmp_path, stores={"first": first, "last": last})
    hosts.interface("fermyon:spin/key-value")
    sqlite = family(hosts, "fermyon:spin/sqlite").databases[DEFAULT]
    sqlite.release(sqlite.connect())
    with pytest.raises(HostError, match=r"could not be closed: .*the disk is gone"):
        hosts.close()
    assert (first.closed, last.closed) == (1, 1)
    assert sqlite._idle == []
    hosts.close()
    assert (first.closed, last.closed) == (1, 1)


def test_what_was_closed_is_made_again_when_it_is_needed(tmp_path: Path) -> None:
    hosts = Hosts(RuntimeConfig(), state_dir=tmp_path)
    first = hosts.interface("fermyon:spin/key-value")
    hosts.close()
    second = hosts.interface("fermyon:spin/key-value")
    assert second is not None
    assert second is not first
    hosts.close()
