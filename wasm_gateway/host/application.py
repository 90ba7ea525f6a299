# What an application shares among its instances: the families of host interfaces,
# made when a guest first needs them.
#
# Rule 1: a family's module is imported, and its object made, only when some guest
# imports one of its interfaces: a worker that serves a counter loads no database driver.
# Rule 2: stores and databases come from the runtime configuration, from what the
# site brings, and from Spin's defaults, in this order.

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import forks
from ..component.names import canonical_name
from ..component.types import InterfaceType, ResourceType, World
from ..component.wit import parse
from ..errors import HostError, LinkError, ManifestError
from ..runtime_config import RuntimeConfig
from .site import HostInterface, Lent

DEFAULT = "default"
# File names in the state folder (Spin: command line, 4).
KEY_VALUE_FILE = "sqlite_key_value.db"
SQLITE_FILE = "sqlite_db.db"

# Canonical name of an interface (component/names.py) -> module of its family, which a method
# _make_... of Hosts makes.
FAMILIES = {
    "fermyon:spin/key-value": "key_value",
    "fermyon:spin/key-value@2": "key_value_resources",
    "spin:key-value/key-value@3": "key_value_resources",
    "wasi:keyvalue/store@0.2.0-draft2": "key_value_resources",
    "wasi:keyvalue/batch@0.2.0-draft2": "key_value_resources",
    "wasi:keyvalue/atomics@0.2.0-draft2": "key_value_resources",
    "fermyon:spin/sqlite": "sqlite",
    "fermyon:spin/sqlite@2": "sqlite",
    "spin:sqlite/sqlite@3": "sqlite",
    "fermyon:spin/config": "config",
    "fermyon:spin/variables@2": "config",
    "spin:variables/variables@3": "config",
    "wasi:config/store@0.2.0-draft-2024-09-27": "config",
    "fermyon:spin/http": "outbound_http",
    "fermyon:spin/redis": "redis",
    "fermyon:spin/redis@2": "redis",
    "spin:redis/redis@3": "redis",
    "fermyon:spin/rdbms-types@2": "rdbms",
    "fermyon:spin/postgres": "postgres",
    "fermyon:spin/postgres@2": "postgres",
    "spin:postgres/postgres@3": "postgres",
    "spin:postgres/postgres@4": "postgres",
    "fermyon:spin/mysql": "mysql",
    "fermyon:spin/mysql@2": "mysql",
    "spin:mysql/mysql@3": "mysql",
    "fermyon:spin/mqtt@2": "mqtt",
    "spin:mqtt/mqtt@3": "mqtt",
    "fermyon:spin/llm": "llm",
    "fermyon:spin/llm@2": "llm",
    "wasi:otel/types@0.2.0-rc.2": "wasi.otel",
    "wasi:otel/tracing@0.2.0-rc.2": "wasi.otel",
    "wasi:otel/logs@0.2.0-rc.2": "wasi.otel",
    "wasi:otel/metrics@0.2.0-rc.2": "wasi.otel",
    "wasi:io/error@0.2": "wasi.io",
    "wasi:io/poll@0.2": "wasi.io",
    "wasi:io/streams@0.2": "wasi.io",
    "wasi:clocks/monotonic-clock@0.2": "wasi.clocks",
    "wasi:clocks/wall-clock@0.2": "wasi.clocks",
    "wasi:clocks/timezone@0.2": "wasi.clocks",
    "wasi:random/random@0.2": "wasi.clocks",
    "wasi:random/insecure@0.2": "wasi.clocks",
    "wasi:random/insecure-seed@0.2": "wasi.clocks",
    "wasi:cli/environment@0.2": "wasi.cli",
    "wasi:cli/exit@0.2": "wasi.cli",
    "wasi:cli/stdin@0.2": "wasi.cli",
    "wasi:cli/stdout@0.2": "wasi.cli",
    "wasi:cli/stderr@0.2": "wasi.cli",
    "wasi:cli/terminal-input@0.2": "wasi.cli",
    "wasi:cli/terminal-output@0.2": "wasi.cli",
    "wasi:cli/terminal-stdin@0.2": "wasi.cli",
    "wasi:cli/terminal-stdout@0.2": "wasi.cli",
    "wasi:cli/terminal-stderr@0.2": "wasi.cli",
    "wasi:filesystem/types@0.2": "wasi.filesystem",
    "wasi:filesystem/preopens@0.2": "wasi.filesystem",
    "wasi:sockets/network@0.2": "wasi.sockets",
    "wasi:sockets/instance-network@0.2": "wasi.sockets",
    "wasi:sockets/ip-name-lookup@0.2": "wasi.sockets",
    "wasi:sockets/tcp@0.2": "wasi.tcp",
    "wasi:sockets/tcp-create-socket@0.2": "wasi.tcp",
    "wasi:sockets/udp@0.2": "wasi.udp",
    "wasi:sockets/udp-create-socket@0.2": "wasi.udp",
    "wasi:http/types@0.2": "wasi.http",
    "wasi:http/outgoing-handler@0.2": "wasi.outgoing",
    "wasi:clocks/types@0.3": "wasi_p3.clocks",
    "wasi:clocks/monotonic-clock@0.3": "wasi_p3.clocks",
    "wasi:clocks/system-clock@0.3": "wasi_p3.clocks",
    "wasi:clocks/timezone@0.3": "wasi_p3.clocks",
    "wasi:random/random@0.3": "wasi_p3.clocks",
    "wasi:random/insecure@0.3": "wasi_p3.clocks",
    "wasi:random/insecure-seed@0.3": "wasi_p3.clocks",
    "wasi:cli/environment@0.3": "wasi_p3.cli",
    "wasi:cli/exit@0.3": "wasi_p3.cli",
    "wasi:cli/types@0.3": "wasi_p3.cli",
    "wasi:cli/stdin@0.3": "wasi_p3.cli",
    "wasi:cli/stdout@0.3": "wasi_p3.cli",
    "wasi:cli/stderr@0.3": "wasi_p3.cli",
    "wasi:cli/terminal-input@0.3": "wasi_p3.cli",
    "wasi:cli/terminal-output@0.3": "wasi_p3.cli",
    "wasi:cli/terminal-stdin@0.3": "wasi_p3.cli",
    "wasi:cli/terminal-stdout@0.3": "wasi_p3.cli",
    "wasi:cli/terminal-stderr@0.3": "wasi_p3.cli",
    "wasi:filesystem/types@0.3": "wasi_p3.filesystem",
    "wasi:filesystem/preopens@0.3": "wasi_p3.filesystem",
    "wasi:sockets/types@0.3": "wasi_p3.sockets",
    "wasi:sockets/ip-name-lookup@0.3": "wasi_p3.sockets",
    "wasi:http/types@0.3": "wasi_p3.http",
    "wasi:http/client@0.3": "wasi_p3.client",
}
# Interfaces that guests export, and whose text is among a family's.
EXPORTED = {
    "wasi:http/incoming-handler@0.2": "wasi.http",
    "wasi:http/handler@0.3": "wasi_p3.http",
}


def _of_2023(table: Mapping[str, str]) -> dict[str, str]:
    """The same for the two snapshots of WASI 0.2 that Spin links; each has not one interface of 0.2."""
    return {
        name.replace("@0.2", f"@{snapshot}"): "wasi.snapshots_2023"
        for snapshot, absent in (
            ("0.2.0-rc-2023-10-18", "wasi:io/error@0.2"),
            ("0.2.0-rc-2023-11-10", "wasi:clocks/timezone@0.2"),
        )
        for name in table
        if name.startswith("wasi:") and name.endswith("@0.2") and name != absent
    }


FAMILIES |= _of_2023(FAMILIES)
EXPORTED |= _of_2023(EXPORTED)

# The snapshot of WASI 0.3 that Spin links beside 0.3.0: the same text but for the version.
RC = "@0.3.0-rc-2026-03-15"


def _of_rc(table: Mapping[str, str]) -> dict[str, str]:
    return {
        name.replace("@0.3", RC): module
        for name, module in table.items()
        if name.startswith("wasi:") and name.endswith("@0.3")
    }


FAMILIES |= _of_rc(FAMILIES)
EXPORTED |= _of_rc(EXPORTED)


def _text(module: Any, name: str) -> str:
    """The WIT text of the interface `name` in the module of its family."""
    if name.endswith(RC):
        text: str = module.INTERFACES[name.replace(RC, "@0.3")]
        return text.replace("@0.3.0", RC)
    found: str = module.INTERFACES[name]
    return found


# Families that need a driver, and the extra that brings it.
EXTRAS = {"redis": "redis", "postgres": "postgres", "mysql": "mysql", "mqtt": "mqtt"}

# Interfaces of other packages that a WIT text refers to.
USED = re.compile(r"\buse ([\w-]+:[\w-]+/[\w-]+(?:@[\w.-]*\w)?)\.\{")


@dataclass(frozen=True, slots=True)
class Offered:
    """An interface that this host offers: its type, and the functions behind it.

    One that is `lent` by the site is for components that name it (Grants.host_interfaces).
    """

    type: InterfaceType
    functions: Mapping[str, Callable[..., Any]]
    lent: bool = False


class MissingDriver(LinkError):
    """A Python package is not installed that an interface of this host needs; the text names the extra."""


class Hosts:
    """The host interfaces of one application. Safe for any number of threads."""

    def __init__(
        self,
        config: RuntimeConfig,
        *,
        state_dir: Path | None = None,
        key_value: Mapping[str, str] | None = None,
        sqlite: Sequence[str] = (),
        stores: Mapping[str, Any] | None = None,
        interfaces: Sequence[HostInterface] = (),
    ) -> None:
        """`key_value` presets the default store, `sqlite` are statements run at start; see `start`.

        `stores` are key-value stores of the site, by label; `interfaces` what it lends to guests, a
        LinkError where one does not fit its own text.
        """
        self.config = config
        self.state_dir = state_dir
        self._key_value = dict(key_value or {})
        self._sqlite = tuple(sqlite)
        self._stores = dict(stores or {})
        self.after_fork()
        self._families: dict[str, Any] = {}
        self._offered: dict[str, Offered] = {}
        self._parsed: dict[str, Mapping[str, InterfaceType]] = {}  # by WIT text
        self._network: Any = None
        self._workers: Any = None
        self._lent: dict[str, Lent] = {}
        forks.watch(self)
        for implementation in interfaces:
            self._lend(implementation)

    def after_fork(self) -> None:
        self._lock = threading.RLock()  # guards families and offered

    def interface(self, name: str) -> Offered | None:
        """The interface `name`, in this or a compatible version; None when this host has no such thing.

        LinkError when a driver is missing.
        """
        name = canonical_name(name)
        if name not in FAMILIES:
            return self._offered.get(name)
        with self._lock:
            offered = self._offered.get(name)
            if offered is None:
                module, family = self._family(FAMILIES[name])
                type_ = self._type(name, _text(module, name))
                functions = family.functions(name.replace(RC, "@0.3"))
                offered = self._offer(name, type_, functions, lent=False)
            return offered

    def described(self, name: str) -> InterfaceType:
        """The type of an interface in FAMILIES whose driver is not installed."""
        name = canonical_name(name)
        with self._lock:
            return self._type(name, self._module(f"{FAMILIES[name]}_wit").INTERFACES[name])

    def exported(self, name: str) -> InterfaceType:
        """The type of an interface in EXPORTED, by its canonical name."""
        return self._type(name, _text(self._module(EXPORTED[name]), name))

    def _lend(self, implementation: HostInterface) -> None:
        lent = Lent(implementation, self._used(implementation.wit))
        if lent.name in FAMILIES or lent.name in self._lent:
            raise LinkError(f"{lent.title}: there is an interface {lent.name} already", lent.name)
        self._lent[lent.name] = lent
        self._offer(lent.name, lent.type, lent.functions, lent=True)

    def _offer(
        self, name: str, type_: InterfaceType, functions: Mapping[str, Callable[..., Any]], *, lent: bool
    ) -> Offered:
        for key, rt in type_.types.items():
            if isinstance(rt, ResourceType) and rt.interface == name:
                object.__setattr__(rt, "dtor", functions.get(f"[resource-drop]{key}"))
        offered = self._offered[name] = Offered(type_, functions, lent)
        return offered

    def _used(self, text: str) -> dict[str, InterfaceType | World]:
        """The interfaces of other packages that a WIT text refers to, as far as this host has them."""
        known: dict[str, InterfaceType | World] = {}
        for used in USED.findall(text):
            offered = self.interface(used)
            if offered is not None:
                known[used] = offered.type
        return known

    def _type(self, name: str, text: str) -> InterfaceType:
        """The interface `name` of a WIT text, which is parsed once for all interfaces in it."""
        interfaces = self._parsed.get(text)
        if interfaces is None:
            found = parse(text, self._used(text)).interfaces
            interfaces = self._parsed[text] = {canonical_name(key): type_ for key, type_ in found.items()}
        return interfaces[name]

    def _module(self, name: str) -> Any:
        """The module of a family; LinkError says which extra brings its driver when that is missing."""
        try:
            return importlib.import_module(f".{name}", __package__)
        except ImportError as error:
            extra = EXTRAS.get(name)
            if extra is None or (error.name or "").startswith(__package__ or ""):
                raise
            raise MissingDriver(
                f"the interface needs a driver that is not installed ({error.name}): "
                f"pip install 'wasm-gateway[{extra}]'",
                name,
            ) from error

    def _family(self, name: str) -> tuple[Any, Any]:
        """The module `name` and its family's object, made at the first call."""
        module = self._module(name)
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = getattr(self, "_make_" + name.replace(".", "_"))(module)
        return module, family

    def start(self) -> None:
        """What is done once before the first request: presets of the default store, SQLite statements.

        Raises HostError when a store or statement fails, ManifestError when a script cannot be read.
        """
        with self._lock:
            if self._key_value:
                _, family = self._family("key_value")
                for key, value in self._key_value.items():
                    family.stores[DEFAULT].set(key, value.encode())
                self._key_value = {}
            for statement in self._sqlite:
                text, label = _script(statement)
                _, family = self._family("sqlite")
                database = family.databases.get(label)
                if database is None:
                    raise ManifestError(f'--sqlite names a database "{label}" that is not configured')
                database.script(text)
            self._sqlite = ()

    def close(self) -> None:
        """Close every store and connection; HostError of the last one that could not be."""
        with self._lock:
            families, self._families = [*self._families.values(), *self._lent.values()], {}
            self._offered = {name: offered for name, offered in self._offered.items() if offered.lent}
            self._network = None
            workers, self._workers = self._workers, None
        if workers is not None:
            workers.close()
        failure: Exception | None = None
        for family in families:
            try:
                family.close()
            except Exception as error:
                failure = error
        if failure is not None:
            raise HostError(f"a store could not be closed: {failure}") from failure

    # One maker for each family; `module` is its module, imported.

    def _make_key_value(self, module: Any) -> Any:
        stores = {DEFAULT: self._default_store(module)}
        files: dict[Path, Any] = {}
        for label, config in self.config.key_value_stores.items():
            if config.type == "spin":
                path = config.options.get("path")
                if path is None:
                    stores[label] = module.MemoryStore()
                else:
                    file = files.get(Path(path))
                    if file is None:
                        file = files[Path(path)] = module.SqliteFile(path, **_max_size(config.options))
                    stores[label] = module.SqliteStore(file, label)
            elif config.type == "redis":
                self._module("redis")
                # no client of the guests' own, whose limits are not the operator's
                stores[label] = module.RedisStore(None, config.options["url"])
        stores.update(self._stores)
        return module.KeyValue(stores)

    def _make_key_value_resources(self, module: Any) -> Any:
        _, key_value = self._family("key_value")
        return module.KeyValueResources(key_value, self._offload())

    def _default_store(self, module: Any) -> Any:
        if self.state_dir is None:
            return module.MemoryStore()
        return module.SqliteStore(self.state_dir / KEY_VALUE_FILE, DEFAULT)

    def _make_sqlite(self, module: Any) -> Any:
        default = None if self.state_dir is None else self.state_dir / SQLITE_FILE
        databases = {DEFAULT: module.Database(default)}
        for label, config in self.config.sqlite_databases.items():
            if config.type == "spin":
                options = config.options
                databases[label] = module.Database(
                    options.get("path"),
                    allow_attach_file=options.get("allow_attach_file", False),
                    **_max_size(options),
                )
        return module.Sqlite(databases, self._offload())

    def _make_wasi_io(self, module: Any) -> Any:
        return module.WasiIo()

    def _make_wasi_otel(self, module: Any) -> Any:
        return module.WasiOtel()

    def _make_wasi_clocks(self, module: Any) -> Any:
        return module.WasiClocks()

    def _make_wasi_cli(self, module: Any) -> Any:
        return module.WasiCli()

    def _make_wasi_filesystem(self, module: Any) -> Any:
        return module.WasiFilesystem()

    def _make_wasi_sockets(self, module: Any) -> Any:
        limit = self.config.outbound_networking.max_socket_connections
        return module.WasiSockets(self._outbound(), limit)

    def _make_wasi_tcp(self, module: Any) -> Any:
        return module.WasiTcp(self._family("wasi.sockets")[1])

    def _make_wasi_udp(self, module: Any) -> Any:
        return module.WasiUdp(self._family("wasi.sockets")[1])

    def _make_wasi_http(self, module: Any) -> Any:
        return module.WasiHttp()

    def _make_wasi_outgoing(self, module: Any) -> Any:
        _, outbound = self._family("outbound_http")
        return module.OutgoingHandler(outbound)

    def _make_wasi_p3_clocks(self, module: Any) -> Any:
        return module.Clocks()

    def _make_wasi_p3_cli(self, module: Any) -> Any:
        return module.Cli()

    def _make_wasi_p3_filesystem(self, module: Any) -> Any:
        return module.Filesystem()

    def _make_wasi_p3_sockets(self, module: Any) -> Any:
        return module.Sockets(
            self._family("wasi.sockets")[1], self._family("wasi.tcp")[1], self._family("wasi.udp")[1]
        )

    def _make_wasi_p3_http(self, module: Any) -> Any:
        return module.Http()

    def _make_wasi_p3_client(self, module: Any) -> Any:
        return module.Client(self._family("wasi.outgoing")[1])

    def _make_wasi_snapshots_2023(self, module: Any) -> Any:
        def functions(name: str) -> Mapping[str, Callable[..., Any]]:
            offered = self.interface(name)
            assert offered is not None, name
            return offered.functions

        return module.Snapshots(functions, lambda name: self._type(name, module.INTERFACES[name]))

    def _make_config(self, module: Any) -> Any:
        return module.Config()

    def _make_llm(self, module: Any) -> Any:
        return module.Llm()

    def _make_outbound_http(self, module: Any) -> Any:
        config = self.config.outbound_http
        return module.OutboundHttp(
            self._outbound(), config.max_connections, pooling=config.connection_pooling
        )

    def _make_redis(self, module: Any) -> Any:
        return module.Redis(self._outbound(), self.config.outbound_redis.max_connections, self._offload())

    def _make_postgres(self, module: Any) -> Any:
        return module.Postgres(self._outbound(), self.config.outbound_pg.max_connections, self._offload())

    def _make_mysql(self, module: Any) -> Any:
        return module.MySql(self._outbound(), self.config.outbound_mysql.max_connections, self._offload())

    def _make_rdbms(self, module: Any) -> Any:
        return module.RdbmsTypes()

    def _make_mqtt(self, module: Any) -> Any:
        config = self.config.outbound_mqtt
        return module.Mqtt(
            self._outbound(), config.max_connections, config.max_payload_size_bytes, self._offload()
        )

    def _offload(self) -> Any:
        """The threads that all families share."""
        if self._workers is None:
            from .offload import Workers

            self._workers = Workers()
        return self._workers

    def _outbound(self) -> Any:
        """The way to the network that all families share."""
        if self._network is None:
            from .network import Network
            from .outbound import BlockedNetworks

            config = self.config.outbound_networking
            blocked = BlockedNetworks(config.block_networks)
            self._network = Network(blocked.blocks, config.max_total_connections)
        return self._network


def _script(statement: str) -> tuple[str, str]:
    """The SQL and the label of a `--sqlite` option: `STATEMENT`, `@file.sql` or `@file.sql:label`."""
    if not statement.startswith("@"):
        return statement, DEFAULT
    name, _, label = statement[1:].partition(":")
    try:
        return Path(name).read_text(encoding="utf-8"), label or DEFAULT
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"the SQL script of --sqlite @{name} cannot be read: {error}") from None


def _max_size(options: Mapping[str, Any]) -> dict[str, int]:
    """What an operator says of a SQLite file, as an argument."""
    return {"max_size": options["max_size"]} if "max_size" in options else {}
