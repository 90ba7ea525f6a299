# runtime-config.toml -> dataclasses: what an operator lends an application.
#
# Rule 1: every key that Spin knows is read and checked here, also those of stores
# and providers that this gateway does not have.
# Rule 2: what it does not have is refused by `check`, and only where an application uses it.
# Rule 3: nothing is opened here.
#
# Spin: host interfaces, sections 4.3, 5 and 8. Besides, a key-value store may be
# `type = "django_cache"`: a cache of the site that the gateway runs in; and SQLite files
# have a `max_size`, which Spin has not.

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from .component_options import parse_size
from .errors import ManifestError
from .manifest import Manifest, error_in, frozen, nothing
from .toml import Document, Table

DEFAULT_LABEL: Final = "default"
UNSUPPORTED_STORES: Final = ("azure_cosmos", "aws_dynamo")
UNSUPPORTED_DATABASES: Final = ("libsql",)
UNSUPPORTED_PROVIDERS: Final = ("vault", "azure_key_vault")


# Making a dataclass costs most of a millisecond of a worker's start, so those of one shape share it.
@dataclass(frozen=True, slots=True)
class _Typed:
    """A table with a `type`; `options` are its other keys, without those that are absent."""

    type: str
    options: Mapping[str, Any] = field(default_factory=nothing)


class StoreConfig(_Typed):
    """A key-value store; a `path` is absolute, none is in memory."""

    __slots__ = ()


class DatabaseConfig(_Typed):
    """A SQLite database; a `path` is absolute, none is in memory, a new one for each `open`."""

    __slots__ = ()


class ProviderConfig(_Typed):
    """A provider of variables."""

    __slots__ = ()


class LlmConfig(_Typed):
    """What runs the models of `ai_models`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class OutboundHttp:
    connection_pooling: bool = True
    max_connections: int | None = None


@dataclass(frozen=True, slots=True)
class OutboundService:
    """Redis, PostgreSQL, MySQL."""

    max_connections: int | None = None


@dataclass(frozen=True, slots=True)
class OutboundMqtt:
    max_connections: int | None = None
    max_payload_size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class OutboundNetworking:
    """`block_networks` are networks in CIDR form, or "private"."""

    block_networks: tuple[str, ...] = ()
    max_socket_connections: int | None = None
    max_total_connections: int | None = None


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How components connect to hosts over TLS; paths are absolute."""

    component_ids: tuple[str, ...]
    hosts: tuple[str, ...]
    use_platform_roots: bool = True
    use_webpki_roots: bool = False
    ca_roots_file: Path | None = None
    client_cert_file: Path | None = None
    client_private_key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """`state_dir` and `log_dir`: None where the file is silent, "" where it says that there is to be none."""

    path: Path | None = None
    state_dir: str | None = None
    log_dir: str | None = None
    max_instance_memory: int | None = None
    key_value_stores: Mapping[str, StoreConfig] = field(default_factory=nothing)
    sqlite_databases: Mapping[str, DatabaseConfig] = field(default_factory=nothing)
    llm_compute: LlmConfig | None = None
    variables_providers: tuple[ProviderConfig, ...] = ()
    outbound_http: OutboundHttp = OutboundHttp()
    outbound_pg: OutboundService = OutboundService()
    outbound_mysql: OutboundService = OutboundService()
    outbound_redis: OutboundService = OutboundService()
    outbound_mqtt: OutboundMqtt = OutboundMqtt()
    outbound_networking: OutboundNetworking = OutboundNetworking()
    client_tls: tuple[ClientTls, ...] = ()
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def check(
        self,
        manifest: Manifest,
        *,
        key_value_stores: Collection[str] = (),
        sqlite_databases: Collection[str] = (),
    ) -> None:
        """Raise ManifestError where a component uses what is not configured, or cannot be served here.

        `key_value_stores` and `sqlite_databases` are labels that are there besides those of the file.
        """
        for component in manifest.components.values():
            for label in component.key_value_stores:
                store = self.key_value_stores.get(label)
                if label in key_value_stores or (store is None and label == DEFAULT_LABEL):
                    continue
                if store is None:
                    raise error_in(
                        manifest.path,
                        f'unknown key_value_stores label "{label}" for component "{component.id}"',
                        "component",
                        component.id,
                        "key_value_stores",
                    )
                if store.type in UNSUPPORTED_STORES:
                    raise self._unsupported(
                        "key-value store", store.type, f"key_value_store.{label}", component.id
                    )
            for label in component.sqlite_databases:
                database = self.sqlite_databases.get(label)
                if label in sqlite_databases or (database is None and label == DEFAULT_LABEL):
                    continue
                if database is None:
                    raise error_in(
                        manifest.path,
                        "One or more components use SQLite databases which are not defined: "
                        f'"{label}" of component "{component.id}"',
                        "component",
                        component.id,
                        "sqlite_databases",
                    )
                if database.type in UNSUPPORTED_DATABASES:
                    raise self._unsupported(
                        "database", database.type, f"sqlite_database.{label}", component.id
                    )
            if (
                component.ai_models
                and self.llm_compute is not None
                and self.llm_compute.type == "remote_http"
            ):
                raise self._unsupported("LLM", "remote_http", "llm_compute", component.id)
        if manifest.variables:
            for provider in self.variables_providers:
                if provider.type in UNSUPPORTED_PROVIDERS:
                    raise ManifestError(
                        f"variables provider type `{provider.type}` is not supported by this gateway, "
                        "and the application has variables",
                        path=self.path,
                        key="variables_provider",
                    )

    def _unsupported(self, what: str, type: str, key: str, component: str) -> ManifestError:
        return ManifestError(
            f"{what} type `{type}` is not supported by this gateway, and component `{component}` uses it",
            path=self.path,
            key=key,
        )


def load_runtime_config(path: str | Path) -> RuntimeConfig:
    """The runtime configuration in the file `path`."""
    path = Path(path).absolute()
    return _Reader(Document.read(path)).config()


def parse_runtime_config(text: str, path: Path) -> RuntimeConfig:
    """The runtime configuration that `text` describes, as if it stood in the file `path`."""
    return _Reader(Document(text, path.absolute())).config()


class _Reader:
    """One document on its way to a RuntimeConfig."""

    def __init__(self, document: Document) -> None:
        assert document.path is not None
        self.document = document
        self.path = document.path
        self.tables: list[Table] = []  # all that were looked into, for the unused keys
        self.warnings: list[str] = []

    def config(self) -> RuntimeConfig:
        root = self.used(self.document.root)
        providers = self.providers(root)
        outbound_http = self.outbound_http(self.used(root.table("outbound_http")))
        mqtt = self.used(root.table("outbound_mqtt"))
        llm = self.llm(self.used(root.table("llm_compute"))) if "llm_compute" in root else None
        config = RuntimeConfig(
            path=self.path,
            state_dir=root.text_or("state_dir", None),
            log_dir=root.text_or("log_dir", None),
            max_instance_memory=root.integer("max_instance_memory", None, 1),
            key_value_stores=frozen(
                {
                    label: self.store(self.used(table))
                    for label, table in root.table("key_value_store").children()
                }
            ),
            sqlite_databases=frozen(
                {
                    label: self.database(self.used(table))
                    for label, table in root.table("sqlite_database").children()
                }
            ),
            llm_compute=llm,
            variables_providers=providers,
            outbound_http=outbound_http,
            outbound_pg=self.service(root, "outbound_pg"),
            outbound_mysql=self.service(root, "outbound_mysql"),
            outbound_redis=self.service(root, "outbound_redis"),
            outbound_mqtt=OutboundMqtt(
                mqtt.integer("max_connections", None), mqtt.integer("max_payload_size_bytes", None)
            ),
            outbound_networking=self.networking(self.used(root.table("outbound_networking"))),
            client_tls=tuple(self.tls(self.used(table)) for table in root.tables("client_tls")),
            warnings=tuple(self.warnings),
        )
        root.take("llm_compute")
        unused = [
            (*table.key, name) for table in self.tables for name in table.data if name not in table.known
        ]
        if unused:
            names = ", ".join(".".join(str(part) for part in key) for key in unused)
            error = self.document.error(f"unused runtime config key(s): {names}", unused[0])
            raise ManifestError(error.message, path=error.path, line=error.line)
        return config

    def used(self, table: Table) -> Table:
        self.tables.append(table)
        return table

    def typed(
        self, table: Table, readers: Mapping[str, Callable[[Table], dict[str, Any]]]
    ) -> tuple[str, dict[str, Any]]:
        type = table.text("type")
        reader = readers.get(type)
        if reader is None:
            expected = ", ".join(f"`{known}`" for known in readers)
            raise table.error(f"unknown type `{type}`, expected one of {expected}", "type")
        options = {name: value for name, value in reader(table).items() if value is not None}
        return type, options

    # -- stores ----------------------------------------------------------------------------------

    def store(self, table: Table) -> StoreConfig:
        type, options = self.typed(
            table,
            {
                "spin": lambda t: {"path": self.file(t, "path"), "max_size": self.size(t, "max_size")},
                "redis": lambda t: {"url": t.text("url")},
                "django_cache": lambda t: {"alias": t.text_or("alias", "default")},
                "azure_cosmos": lambda t: {
                    "key": t.text_or("key", None),
                    **{name: t.text(name) for name in ("account", "database", "container")},
                },
                "aws_dynamo": lambda t: {
                    **{name: t.text(name) for name in ("region", "table")},
                    **{name: t.text_or(name, None) for name in ("access_key", "secret_key", "token")},
                    "consistent_read": t.boolean("consistent_read", False),
                },
            },
        )
        return StoreConfig(type, frozen(options))

    def database(self, table: Table) -> DatabaseConfig:
        type, options = self.typed(
            table,
            {
                "spin": lambda t: {
                    # unlike all other paths of the file, Spin has this one relative to the working directory
                    "path": self.file(t, "path", Path.cwd()),
                    "allow_attach_file": t.boolean("allow_attach_file", False),
                    "max_size": self.size(t, "max_size"),
                },
                "libsql": lambda t: {"url": t.text("url"), "token": t.text("token")},
            },
        )
        if type == "libsql" and not options["url"].startswith(("http://", "https://")):
            raise table.error(f'invalid url "{options["url"]}": expected http:// or https://', "url")
        return DatabaseConfig(type, frozen(options))

    def file(self, table: Table, name: str, folder: Path | None = None) -> Path | None:
        text = table.text_or(name, None)
        return None if text is None else (folder or self.path.parent) / text

    def size(self, table: Table, name: str) -> int | None:
        value = table.take(name)
        try:
            return None if value is None else parse_size(value)
        except ValueError as error:
            raise table.error(str(error), name) from None

    def llm(self, table: Table) -> LlmConfig:
        type, options = self.typed(
            table,
            {
                "spin": lambda t: {},
                "remote_http": lambda t: {
                    "url": t.text("url"),
                    "auth_token": t.text("auth_token"),
                    "api_type": t.text_or("api_type", "default"),
                },
            },
        )
        api = options.get("api_type", "default")
        if api not in ("default", "open_ai"):
            raise table.error(f"unknown api_type `{api}`, expected `default` or `open_ai`", "api_type")
        return LlmConfig(type, frozen(options))

    # -- variables -------------------------------------------------------------------------------

    def providers(self, root: Table) -> tuple[ProviderConfig, ...]:
        name: Literal["variables_provider", "config_provider"] = "variables_provider"
        if "config_provider" in root:
            if name in root:
                raise root.error("duplicate field `variables_provider`", "config_provider")
            name = "config_provider"
        return tuple(self.provider(self.used(table)) for table in root.tables(name))

    def provider(self, table: Table) -> ProviderConfig:
        type, options = self.typed(
            table,
            {
                "static": lambda t: {"values": frozen(t.text_map("values"))},
                "env": lambda t: {name: t.text_or(name, None) for name in ("prefix", "dotenv_path")},
                "vault": lambda t: {
                    **{name: t.text(name) for name in ("url", "token", "mount")},
                    "prefix": t.text_or("prefix", None),
                },
                "azure_key_vault": lambda t: {
                    "vault_url": t.text("vault_url"),
                    **{
                        name: t.text_or(name, None)
                        for name in ("client_id", "client_secret", "tenant_id", "authority_host")
                    },
                },
            },
        )
        if type == "static":
            table.required("values")
        return ProviderConfig(type, frozen(options))

    # -- outbound --------------------------------------------------------------------------------

    def outbound_http(self, table: Table) -> OutboundHttp:
        connections = table.integer("max_connections", None)
        requests = table.integer("max_concurrent_requests", None)
        if requests is not None:
            if connections is not None:
                raise table.error(
                    "`max_concurrent_requests` is the old name of `max_connections`: give only one of them",
                    "max_concurrent_requests",
                )
            self.warnings.append("outbound_http.max_concurrent_requests is deprecated, use max_connections")
            connections = requests
        # Spin documents true, but takes false where the table is there without the key
        return OutboundHttp(table.boolean("connection_pooling", True), connections)

    def service(self, root: Table, name: str) -> OutboundService:
        return OutboundService(self.used(root.table(name)).integer("max_connections", None))

    def networking(self, table: Table) -> OutboundNetworking:
        networks = table.texts("block_networks")
        for index, network in enumerate(networks):
            if network == "private":
                continue
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                raise table.error(
                    f'invalid network "{network}": expected CIDR notation or "private"',
                    "block_networks",
                    index,
                ) from None
        return OutboundNetworking(
            networks,
            table.integer("max_socket_connections", None),
            table.integer("max_total_connections", None),
        )

    def tls(self, table: Table) -> ClientTls:
        for name in ("component_ids", "hosts"):
            table.required(name)
            if not table.texts(name):
                raise table.error(f"'{name}' list may not be empty", name)
        cert = self.file(table, "client_cert_file")
        key = self.file(table, "client_private_key_file")
        if (cert is None) != (key is None):
            has, lacks = ("client_cert_file", "client_private_key_file")[:: 1 if key is None else -1]
            raise table.error(f"{has} specified without {lacks}", has)
        roots = self.file(table, "ca_roots_file")
        platform = table.boolean("ca_use_platform_roots", None)
        webpki = table.boolean("ca_use_webpki_roots", None)
        if platform is None:
            # own roots, of whatever kind, take the place of the platform's
            platform = roots is None and webpki is None
        return ClientTls(
            component_ids=table.texts("component_ids"),
            hosts=table.texts("hosts"),
            use_platform_roots=platform,
            use_webpki_roots=bool(webpki),
            ca_roots_file=roots,
            client_cert_file=cert,
            client_private_key_file=key,
        )
