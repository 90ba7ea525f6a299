# runtime-config.toml (Spin: host interfaces, sections 4.3, 5 and 8).

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wasm_gateway.errors import ManifestError
from wasm_gateway.manifest import Manifest, parse_manifest
from wasm_gateway.runtime_config import (
    ClientTls,
    DatabaseConfig,
    LlmConfig,
    OutboundHttp,
    OutboundMqtt,
    OutboundNetworking,
    OutboundService,
    ProviderConfig,
    RuntimeConfig,
    StoreConfig,
    load_runtime_config,
    parse_runtime_config,
)

FILE = Path("/etc/app/runtime-config.toml")


def parse(text: str) -> RuntimeConfig:
    return parse_runtime_config(text, FILE)


def test_nothing() -> None:
    assert parse("") == RuntimeConfig(path=FILE)
    assert parse("[outbound_http]\n[outbound_networking]\n") == RuntimeConfig(path=FILE)


def test_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = parse(
        """
state_dir = "state"
log_dir = ""
max_instance_memory = 1048576

[key_value_store.default]
type = "spin"
path = "kv.db"
[key_value_store.memory]
type = "spin"
[key_value_store.absolute]
type = "spin"
path = "/var/kv.db"
[key_value_store.shared]
type = "redis"
url = "redis://localhost"
[key_value_store.site]
type = "django_cache"
[key_value_store.sessions]
type = "django_cache"
alias = "sessions"
[key_value_store.cosmos]
type = "azure_cosmos"
account = "a"
database = "d"
container = "c"
[key_value_store.dynamo]
type = "aws_dynamo"
region = "r"
table = "t"
access_key = "k"
consistent_read = true

[sqlite_database.default]
type = "spin"
path = "db/app.db"
allow_attach_file = true
max_size = "2GiB"
[sqlite_database.memory]
type = "spin"
[sqlite_database.remote]
type = "libsql"
url = "https://db.example"
token = "t"

[llm_compute]
type = "remote_http"
url = "http://llm"
auth_token = "secret"
api_type = "open_ai"

[[variables_provider]]
type = "static"
values = { a = "1" }
[[variables_provider]]
type = "env"
[[variables_provider]]
type = "env"
prefix = "MY"
dotenv_path = "my.env"
[[variables_provider]]
type = "vault"
url = "http://vault"
token = "t"
mount = "m"
[[variables_provider]]
type = "azure_key_vault"
vault_url = "http://azure"

[outbound_http]
connection_pooling = false
max_connections = 10
[outbound_pg]
max_connections = 1
[outbound_mysql]
max_connections = 2
[outbound_redis]
max_connections = 3
[outbound_mqtt]
max_connections = 4
max_payload_size_bytes = 5

[outbound_networking]
block_networks = ["1.1.1.1/32", "10.1.2.3/8", "2001::/96", "private"]
max_socket_connections = 6
max_total_connections = 7

[[client_tls]]
component_ids = ["one"]
hosts = ["example.com"]
ca_roots_file = "roots.pem"
client_cert_file = "cert.pem"
client_private_key_file = "/keys/key.pem"
"""
    )
    assert config == RuntimeConfig(
        path=FILE,
        state_dir="state",
        log_dir="",
        max_instance_memory=2**20,
        key_value_stores={
            "default": StoreConfig("spin", {"path": Path("/etc/app/kv.db")}),
            "memory": StoreConfig("spin"),
            "absolute": StoreConfig("spin", {"path": Path("/var/kv.db")}),
            "shared": StoreConfig("redis", {"url": "redis://localhost"}),
            "site": StoreConfig("django_cache", {"alias": "default"}),
            "sessions": StoreConfig("django_cache", {"alias": "sessions"}),
            "cosmos": StoreConfig("azure_cosmos", {"account": "a", "database": "d", "container": "c"}),
            "dynamo": StoreConfig(
                "aws_dynamo", {"region": "r", "table": "t", "access_key": "k", "consistent_read": True}
            ),
        },
        sqlite_databases={
            # this one path is relative to the working directory
            "default": DatabaseConfig(
                "spin", {"path": tmp_path / "db/app.db", "allow_attach_file": True, "max_size": 2 << 30}
            ),
            "memory": DatabaseConfig("spin", {"allow_attach_file": False}),
            "remote": DatabaseConfig("libsql", {"url": "https://db.example", "token": "t"}),
        },
        llm_compute=LlmConfig(
            "remote_http", {"url": "http://llm", "auth_token": "secret", "api_type": "open_ai"}
        ),
        variables_providers=(
            ProviderConfig("static", {"values": {"a": "1"}}),
            ProviderConfig("env"),
            ProviderConfig("env", {"prefix": "MY", "dotenv_path": "my.env"}),
            ProviderConfig("vault", {"url": "http://vault", "token": "t", "mount": "m"}),
            ProviderConfig("azure_key_vault", {"vault_url": "http://azure"}),
        ),
        outbound_http=OutboundHttp(connection_pooling=False, max_connections=10),
        outbound_pg=OutboundService(1),
        outbound_mysql=OutboundService(2),
        outbound_redis=OutboundService(3),
        outbound_mqtt=OutboundMqtt(4, 5),
        outbound_networking=OutboundNetworking(("1.1.1.1/32", "10.1.2.3/8", "2001::/96", "private"), 6, 7),
        client_tls=(
            ClientTls(
                ("one",),
                ("example.com",),
                use_platform_roots=False,
                ca_roots_file=Path("/etc/app/roots.pem"),
                client_cert_file=Path("/etc/app/cert.pem"),
                client_private_key_file=Path("/keys/key.pem"),
            ),
        ),
    )


def test_load_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "runtime-config.toml"
    path.write_text('[key_value_store.default]\ntype = "spin"\npath = "kv.db"')
    assert load_runtime_config(path).key_value_stores == {
        "default": StoreConfig("spin", {"path": tmp_path / "kv.db"})
    }
    with pytest.raises(ManifestError, match="No such file"):
        load_runtime_config(tmp_path / "missing.toml")


def test_connections_are_pooled_by_default_as_documented() -> None:
    # Spin takes false where the table is there without the key
    assert parse("[outbound_http]\nmax_connections = 1").outbound_http.connection_pooling is True


def test_old_names() -> None:
    config = parse('[outbound_http]\nmax_concurrent_requests = 5\n[[config_provider]]\ntype = "env"')
    assert config.outbound_http.max_connections == 5
    assert "max_concurrent_requests is deprecated" in config.warnings[0]
    assert config.variables_providers == (ProviderConfig("env"),)


@pytest.mark.parametrize(
    ("lines", "platform", "webpki"),
    [
        ("", True, False),
        ("ca_roots_file = 'r'", False, False),
        ("ca_use_platform_roots = true\nca_roots_file = 'r'", True, False),
        ("ca_use_platform_roots = false", False, False),
        ("ca_use_webpki_roots = true", False, True),
        ("ca_use_webpki_roots = false", False, False),
        ("ca_use_platform_roots = true\nca_use_webpki_roots = true", True, True),
    ],
)
def test_roots_of_client_tls(lines: str, platform: bool, webpki: bool) -> None:
    (tls,) = parse(f"[[client_tls]]\ncomponent_ids = ['a']\nhosts = ['h']\n{lines}").client_tls
    assert (tls.use_platform_roots, tls.use_webpki_roots) == (platform, webpki)


@pytest.mark.parametrize(
    ("text", "names", "line"),
    [
        ("baz = 1", "baz", 1),
        ("\n[new_table]\nx = 1", "new_table", 2),
        ("[outbound_http]\nx = 1", "outbound_http.x", 2),
        ("[outbound_pg]\nx = 1", "outbound_pg.x", 2),
        ("[outbound_mqtt]\nx = 1", "outbound_mqtt.x", 2),
        ("[outbound_networking]\nx = 1\ny = 2", "outbound_networking.x, outbound_networking.y", 2),
        ("[key_value_store.a]\ntype = 'spin'\nurl = 'x'", "key_value_store.a.url", 3),
        ("[key_value_store.a]\ntype = 'redis'\nurl = 'x'\npath = 'y'", "key_value_store.a.path", 4),
        ("[sqlite_database.a]\ntype = 'spin'\nx = 'x'", "sqlite_database.a.x", 3),
        ("[llm_compute]\ntype = 'spin'\nurl = 'x'", "llm_compute.url", 3),
        ("[[variables_provider]]\ntype = 'env'\nx = 1", "variables_provider.0.x", 3),
        ("[[client_tls]]\nhosts = ['h']\ncomponent_ids = ['a']\nx = 1", "client_tls.0.x", 4),
    ],
)
def test_unused_keys(text: str, names: str, line: int) -> None:
    with pytest.raises(ManifestError) as caught:
        parse(text)
    assert caught.value.message == f"unused runtime config key(s): {names}"
    assert str(caught.value) == f"{FILE}:{line}: unused runtime config key(s): {names}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("state_dir = 1", "expected a string"),
        ("max_instance_memory = '1GB'", "expected an integer"),
        ("max_instance_memory = -1", "invalid value: -1"),
        ("key_value_store = 1", "expected a table"),
        ("key_value_store.a = 1", "expected a table"),
        ("[key_value_store.a]", "missing field `type`"),
        (
            "[key_value_store.a]\ntype = 'memcached'",
            "unknown type `memcached`, expected one of `spin`, `redis`",
        ),
        ("[key_value_store.a]\ntype = 'redis'", "missing field `url`"),
        ("[key_value_store.a]\ntype = 'azure_cosmos'", "missing field `account`"),
        ("[key_value_store.a]\ntype = 'aws_dynamo'", "missing field `region`"),
        ("[key_value_store.a]\ntype = 'django_cache'\nalias = 1", "expected a string"),
        ("[sqlite_database.a]\ntype = 'postgres'", "unknown type `postgres`"),
        ("[sqlite_database.a]\ntype = 'spin'\nallow_attach_file = 1", "expected a boolean"),
        ("[sqlite_database.a]\ntype = 'spin'\nmax_size = 'much'", "'much' is not a size"),
        ("[key_value_store.a]\ntype = 'spin'\nmax_size = 0", "0 is not a possible size"),
        ("[sqlite_database.a]\ntype = 'libsql'\nurl = 'http://x'", "missing field `token`"),
        (
            "[sqlite_database.a]\ntype = 'libsql'\nurl = 'libsql://x'\ntoken = ''",
            "expected http:// or https://",
        ),
        ("[llm_compute]\ntype = 'x'", "unknown type `x`"),
        ("[llm_compute]\ntype = 'remote_http'", "missing field `url`"),
        (
            "[llm_compute]\ntype = 'remote_http'\nurl = ''\nauth_token = ''\napi_type = 'x'",
            "unknown api_type `x`",
        ),
        ("variables_provider = 1", "expected an array"),
        ("variables_provider = [1]", "expected a table"),
        ("[[variables_provider]]\ntype = 'x'", "unknown type `x`"),
        ("[[variables_provider]]\ntype = 'static'", "missing field `values`"),
        ("[[variables_provider]]\ntype = 'static'\nvalues = { a = 1 }", "expected a string"),
        ("[[variables_provider]]\ntype = 'vault'", "missing field `url`"),
        ("[[variables_provider]]\ntype = 'azure_key_vault'", "missing field `vault_url`"),
        (
            "[[variables_provider]]\ntype = 'env'\n[[config_provider]]\ntype = 'env'",
            "duplicate field `variables_provider`",
        ),
        ("[outbound_http]\nmax_connections = -1", "invalid value: -1"),
        ("[outbound_http]\nconnection_pooling = 1", "expected a boolean"),
        ("[outbound_http]\nmax_connections = 1\nmax_concurrent_requests = 1", "give only one of them"),
        ("[outbound_redis]\nmax_connections = '1'", "expected an integer"),
        ("[outbound_networking]\nblock_networks = ['public']", 'invalid network "public"'),
        ("[outbound_networking]\nblock_networks = ['10.0.0.0/33']", 'invalid network "10.0.0.0/33"'),
        ("[[client_tls]]\nhosts = ['h']", "missing field `component_ids`"),
        ("[[client_tls]]\ncomponent_ids = ['a']", "missing field `hosts`"),
        ("[[client_tls]]\ncomponent_ids = []\nhosts = ['h']", "'component_ids' list may not be empty"),
        ("[[client_tls]]\ncomponent_ids = ['a']\nhosts = []", "'hosts' list may not be empty"),
        (
            "[[client_tls]]\ncomponent_ids = ['a']\nhosts = ['h']\nclient_cert_file = 'c'",
            "client_cert_file specified without client_private_key_file",
        ),
        (
            "[[client_tls]]\ncomponent_ids = ['a']\nhosts = ['h']\nclient_private_key_file = 'k'",
            "client_private_key_file specified without client_cert_file",
        ),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse(f"\n{text}")
    assert message in caught.value.message
    assert caught.value.path == FILE
    assert caught.value.line is not None
    assert caught.value.line > 1
    assert caught.value.key is not None


# -- against an application --------------------------------------------------------------------------


def manifest(body: str, *, variables: str = "") -> Manifest:
    return parse_manifest(
        'spin_manifest_version = 2\napplication.name = "app"\n[trigger]\n'
        f"[variables]\n{variables}\n[component.one]\nsource = '1'\n{body}\n",
        Path("/app/spin.toml"),
    )


UNSUPPORTED = """
[key_value_store.cosmos]
type = "azure_cosmos"
account = ""
database = ""
container = ""
[key_value_store.dynamo]
type = "aws_dynamo"
region = ""
table = ""
[sqlite_database.remote]
type = "libsql"
url = "http://x"
token = ""
[llm_compute]
type = "remote_http"
url = ""
auth_token = ""
[[variables_provider]]
type = "vault"
url = ""
token = ""
mount = ""
"""


@pytest.mark.parametrize(
    ("body", "variables", "message"),
    [
        ("key_value_stores = ['cosmos']", "", "key-value store type `azure_cosmos` is not supported"),
        (
            "key_value_stores = ['default', 'dynamo']",
            "",
            "key-value store type `aws_dynamo` is not supported",
        ),
        ("sqlite_databases = ['remote']", "", "database type `libsql` is not supported"),
        ("ai_models = ['llama']", "", "LLM type `remote_http` is not supported"),
        ("", "a = { default = '' }", "variables provider type `vault` is not supported"),
    ],
)
def test_what_is_not_supported_is_refused_where_it_is_used(body: str, variables: str, message: str) -> None:
    config = parse(UNSUPPORTED)
    config.check(manifest(""))
    with pytest.raises(ManifestError, match=re.escape(message)) as caught:
        config.check(manifest(body, variables=variables))
    assert caught.value.path == FILE


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("key_value_stores = ['other']", 'unknown key_value_stores label "other" for component "one"'),
        (
            "sqlite_databases = ['default', 'other']",
            'One or more components use SQLite databases which are not defined: "other" of component "one"',
        ),
    ],
)
def test_labels_that_are_not_configured(body: str, message: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(message)) as caught:
        RuntimeConfig().check(manifest(body))
    assert caught.value.path == Path("/app/spin.toml")
    RuntimeConfig().check(manifest(body), key_value_stores=["other"], sqlite_databases=["other"])
    parse("[key_value_store.other]\ntype = 'spin'\n[sqlite_database.other]\ntype = 'spin'").check(
        manifest(body)
    )


def test_the_default_labels_need_no_configuration() -> None:
    RuntimeConfig().check(
        manifest("key_value_stores = ['default']\nsqlite_databases = ['default']\nai_models = ['a']")
    )
