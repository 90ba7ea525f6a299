# Packages of registries: of a real one, of folders, and of servers that answer as one may on a bad day.

from __future__ import annotations

import base64
import hashlib
import json
import os
import ssl
import stat
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.loopback import Server
from wasm_gateway import downloads, registry
from wasm_gateway.assets import load_source
from wasm_gateway.downloads import DownloadFailed
from wasm_gateway.errors import ManifestError
from wasm_gateway.loader import Loader
from wasm_gateway.loader import served as served_of
from wasm_gateway.manifest import Component, RegistrySource
from wasm_gateway.registry import Config, Place, Settings, config_path, fetch_package

WASM = b"\0asm\x0d\0\x01\0"
CONFIG = b'{"architecture": "wasm", "os": "wasip2"}'
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DEAD = "127.0.0.1:1"

OciRegistry = Callable[..., str]
Configure = Callable[[str], None]


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image(*layers: bytes, type: str = "application/wasm") -> bytes:
    """A manifest as `wkg publish` writes it (crate oci-wasm)."""

    def descriptor(type: str, data: bytes) -> dict[str, Any]:
        return {"mediaType": type, "digest": digest(data), "size": len(data)}

    config = descriptor("application/vnd.wasm.config.v0+json", CONFIG)
    found = [descriptor(type, layer) for layer in layers]
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": found}).encode()


def publish(host: str, repository: str, version: str, wasm: bytes, login: str = "") -> None:
    """Push as `wkg publish` does (OCI distribution: Push)."""
    headers = urllib3.make_headers(basic_auth=login) if login else {}
    base = f"http://{host}/v2/{repository}"
    with urllib3.PoolManager(headers=headers) as pool:
        for blob in (CONFIG, wasm):
            begun = pool.request("POST", f"{base}/blobs/uploads/")
            assert begun.status == 202, begun.data
            place = begun.headers["Location"]
            mark = "&" if "?" in place else "?"
            sent = pool.request("PUT", f"{place}{mark}digest={digest(blob)}", body=blob)
            assert sent.status == 201, sent.data
        named = pool.request(
            "PUT",
            f"{base}/manifests/{version}",
            body=image(wasm),
            headers={**headers, "Content-Type": MANIFEST},
        )
        assert named.status == 201, named.data


def wasm(text: str) -> bytes:
    """An empty component that is unlike others: with a custom section."""
    return WASM + bytes([0, len(text) + 2, 1]) + b"n" + text.encode()


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Writes config.toml."""

    def write(text: str) -> None:
        path = config_path()
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    return write


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of the user who runs the tests."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("APPDATA", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# -- a real one ----------------------------------------------------------------------------------------


def test_an_exact_version_is_fetched_once(oci_registry: OciRegistry, cache: Path) -> None:
    host = oci_registry()
    publish(host, "once/part", "1.2.3", wasm("one"))
    source = RegistrySource("once:part", "=1.2.3", host)
    path = fetch_package(source, cache)
    assert path.read_bytes() == wasm("one")
    assert path == cache / "wasm" / f"{digest(wasm('one'))[7:]}.wasm"
    assert stat.S_IMODE((cache / "registry").stat().st_mode) == 0o700

    # whatever the registry says later, and without it
    publish(host, "once/part", "1.2.3", wasm("two"))
    assert fetch_package(source, cache) == path
    place = cache / "registry" / host.replace(":", "@")
    place.rename(place.with_name(DEAD.replace(":", "@")))
    assert fetch_package(RegistrySource("once:part", "=1.2.3", DEAD), cache) == path

    # what is in the cache is not trusted
    path.write_bytes(b"changed")
    with pytest.raises(DownloadFailed, match="127"):
        fetch_package(RegistrySource("once:part", "=1.2.3", DEAD), cache)


def test_a_range_is_looked_up_each_time(
    oci_registry: OciRegistry, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host = oci_registry()
    for version in ("1.0.0", "1.10.0", "1.9.0", "2.0.0", "1.11.0-rc.1", "latest"):
        publish(host, "range/part", version, wasm(version))
    source = RegistrySource("range:part", ">=1.0, <2", host)
    assert fetch_package(source, cache).read_bytes() == wasm("1.10.0")
    publish(host, "range/part", "1.12.0", wasm("1.12.0"))
    assert fetch_package(source, cache).read_bytes() == wasm("1.12.0")
    assert fetch_package(RegistrySource("range:part", "^2", host), cache).read_bytes() == wasm("2.0.0")
    assert not caplog.records

    # where nobody can be asked
    place = cache / "registry" / host.replace(":", "@")
    place.rename(place.with_name(DEAD.replace(":", "@")))
    source = RegistrySource("range:part", ">=1.0, <2", DEAD)
    assert fetch_package(source, cache).read_bytes() == wasm("1.12.0")
    assert "range:part@1.12.0 is taken, the newest in the cache" in caplog.text
    with pytest.raises(DownloadFailed, match=DEAD):
        fetch_package(RegistrySource("range:part", "^3", DEAD), cache)


@pytest.mark.parametrize(
    ("package", "version", "message"),
    [
        ("there:part", "=9.9.9", "HOST/there/part has no version 9.9.9 of there:part; it has 2.0.0, 1.0.0"),
        ("there:part", "^3", "HOST/there/part has no version ^3 of there:part; it has 2.0.0, 1.0.0"),
        ("there:no", "=1.0.0", "there is no package there:no in HOST/there/no"),
        ("there:no", "*", "there is no package there:no in HOST/there/no"),
        ("There:part", "*", "There:part is in no registry: there, names are in lower case"),
    ],
)
def test_what_is_not_there(
    oci_registry: OciRegistry, cache: Path, package: str, version: str, message: str
) -> None:
    host = oci_registry()
    for number in (1, 2):
        publish(host, "there/part", f"{number}.0.0", wasm("x"))
    with pytest.raises(DownloadFailed) as caught:
        fetch_package(RegistrySource(package, version, host), cache)
    assert str(caught.value) == message.replace("HOST", host)
    assert not list(cache.glob("wasm/*"))


def test_a_login(
    oci_registry: OciRegistry,
    cache: Path,
    own_home: Path,
    configure: Configure,
) -> None:
    host = oci_registry("site")
    publish(host, "login/part", "1.0.0", wasm("x"), "guest:secret")
    source = RegistrySource("login:part", "=1.0.0", host)

    with pytest.raises(DownloadFailed) as caught:
        fetch_package(source, cache)
    for words in ("denies it (401)", f"docker login {host}", f'[registry."{host}".oci]', str(config_path())):
        assert words in str(caught.value)

    docker = own_home / ".docker" / "config.json"
    docker.parent.mkdir()
    for text in (
        "{}",
        "[]",
        "no",
        '{"auths": []}',
        '{"auths": {"other": {}}}',
        f'{{"auths": {{"{host}": 1}}}}',
    ):
        docker.write_text(text)
        with pytest.raises(DownloadFailed, match="wants a login"):
            fetch_package(source, cache)
    docker.write_text(json.dumps({"auths": {host: {"auth": base64.b64encode(b"guest:wrong").decode()}}}))
    with pytest.raises(DownloadFailed, match=r"refuses the login from .*config\.json") as caught:
        fetch_package(source, cache)
    docker.write_text(json.dumps({"auths": {host: {"auth": base64.b64encode(b"guest:secret").decode()}}}))
    assert fetch_package(source, cache / "docker").read_bytes() == wasm("x")

    # config.toml goes first
    configure(f'[registry."{host}".oci]\nauth = {{ username = "guest", password = "nonsense" }}\n')
    with pytest.raises(DownloadFailed, match=r"refuses the login from .*config\.toml") as caught:
        fetch_package(source, cache / "1")
    assert "nonsense" not in str(caught.value)
    configure(f'[registry."{host}".oci]\nauth = {{ username = "guest", password = "secret" }}\n')
    docker.unlink()
    assert fetch_package(source, cache / "2").read_bytes() == wasm("x")
    configure(f'[registry."{host}".oci]\nauth = "Z3Vlc3Q6c2VjcmV0"\n')
    assert fetch_package(source, cache / "3").read_bytes() == wasm("x")


def test_a_guest_of_a_registry_answers(
    oci_registry: OciRegistry, application: Any, wat: Any, ask: Any, tmp_path: Path
) -> None:
    host = oci_registry()
    publish(host, "site/hello", "1.0.0", wat.http("spin", "(call $respond (i32.const 204))"))
    manifest = tmp_path / "spin.toml"
    manifest.write_text(
        'spin_manifest_version = 2\napplication.name = "x"\n'
        '[[trigger.http]]\nroute = "/a"\ncomponent = "a"\n'
        f'[component.a]\nsource = {{ package = "site:hello", version = "1.0.0", registry = "{host}" }}\n'
    )
    gateway = application.gateway(manifest, cache_dir=tmp_path / "cache").open()
    assert ask(gateway, "/a") == (204, b"")


# -- where to look -------------------------------------------------------------------------------------

METADATA = {"preferredProtocol": "oci", "oci": {"registry": "r.example", "namespacePrefix": "all/"}}
TOML = f"""
default_registry = "default.example"
[namespace_registries]
plain = "plain.example"
custom = {{ registry = "named", metadata = {json.dumps(METADATA).replace(": ", " = ")} }}
wasi = "own.example"
[package_registry_overrides]
"plain:one" = "one.example"
[registry."plain.example".oci]
auth = "dTpw"
protocol = "http"
"""


@pytest.mark.parametrize(
    ("package", "named", "place"),
    [
        ("plain:one", None, Place("one.example")),
        ("plain:two", None, Place("plain.example")),
        ("plain:two", "other.example", Place("other.example")),
        ("custom:part", None, Place("named", METADATA)),
        ("custom:part", "named", Place("named", METADATA)),
        ("custom:part", "other.example", Place("other.example")),
        ("wasi:http", None, Place("own.example")),
        ("ba:part", None, Place("default.example")),
    ],
)
def test_config_toml(configure: Configure, package: str, named: str | None, place: Place) -> None:
    configure(TOML)
    config = Config.read()
    assert config.place(RegistrySource(package, "*", named)) == place
    assert config.settings == {
        "plain.example": Settings("oci", protocol="http", login=("u", "p")),
    }
    assert "'p'" not in repr(config)


@pytest.mark.skipif(sys.platform == "win32", reason="it is elsewhere there")
def test_where_config_toml_is(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config_path() == own_home / "wasm-pkg" / "config.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert config_path() == own_home / ".config" / "wasm-pkg" / "config.toml"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert config_path() == own_home / ".config" / "wasm-pkg" / "config.toml"


def test_without_config_toml() -> None:
    assert Config.read() == Config()
    assert Config().place(RegistrySource("wasi:http", "*")) == Place("wasi.dev")
    assert Config().place(RegistrySource("ba:http", "*")) == Place("bytecodealliance.org")
    with pytest.raises(
        DownloadFailed, match=r"no registry is known for a:b: .*manifest .*config\.toml.* a = "
    ):
        Config().place(RegistrySource("a:b", "*"))


@pytest.mark.parametrize(
    "name", ["https://r.example", "r.example/path", "user@r.example", "", "r example", "r:x"]
)
def test_what_is_no_registry(cache: Path, name: str) -> None:
    with pytest.raises(DownloadFailed, match="is no registry"):
        fetch_package(RegistrySource("a:b", "*", name), cache)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default_registy = 'x'", "unknown field `default_registy`"),
        ("[namespace_registries]\na = 1", "expected a table"),
        ("[namespace_registries]\na = { metadata = {} }", "missing field `registry`"),
        ("[registry.r.oci]\nauth = 'x'", "base64"),
        ("[registry.r.oci]\nprotocol = 'ftp'", "expected `http` or `https`"),
        ("[registry.r.oci]\naccept_invalid_certificates = true", "certificates are checked here"),
        ("=", "invalid TOML"),
    ],
)
def test_mistakes_in_config_toml(configure: Configure, cache: Path, text: str, message: str) -> None:
    configure(text)
    with pytest.raises(ManifestError) as caught:
        fetch_package(RegistrySource("a:b", "*", DEAD), cache)
    assert message in str(caught.value)
    assert caught.value.path == config_path()


def test_a_folder(configure: Configure, cache: Path, tmp_path: Path) -> None:
    for version in ("1.0.0", "1.2.0", "2.0.0"):
        path = tmp_path / "root" / "a" / "b" / f"{version}.wasm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wasm(version))
    configure(f'default_registry = "here"\n[registry.here.local]\nroot = "{tmp_path}/root"\n')
    assert fetch_package(RegistrySource("a:b", "1"), cache).read_bytes() == wasm("1.2.0")
    assert fetch_package(RegistrySource("a:b", "=1.0.0"), cache).read_bytes() == wasm("1.0.0")
    with pytest.raises(
        DownloadFailed, match=r"has no version 1\.1\.0 of a:b; it has 2\.0\.0, 1\.2\.0, 1\.0\.0"
    ):
        fetch_package(RegistrySource("a:b", "=1.1.0"), cache)
    with pytest.raises(DownloadFailed, match=r"there is no package a:c in "):
        fetch_package(RegistrySource("a:c", "*"), cache)
    assert not cache.exists()
    configure('default_registry = "here"\n[registry.here]\ntype = "local"\n')
    with pytest.raises(DownloadFailed, match="has to name the `root`"):
        fetch_package(RegistrySource("a:b", "1"), cache)


# -- what a registry may say ---------------------------------------------------------------------------

KNOWN = "/.well-known/wasm-pkg/registry.json"


class Fake:
    """A registry with the package a:b, version 1.0.0, which is WASM, as a server of ours."""

    def __init__(self, server: Server, prefix: str = "") -> None:
        self.server = server
        self.base = f"/v2/{prefix}a/b/"
        self.tags("1.0.0")
        self.manifest(image(WASM))
        self.blob(WASM)

    def tags(self, *tags: str) -> None:
        self.server.give(f"{self.base}tags/list?n=1000", json.dumps({"tags": tags}).encode())

    def manifest(self, body: bytes, **more: Any) -> None:
        self.server.give(f"{self.base}manifests/1.0.0", body, **more)

    def blob(self, body: bytes, **more: Any) -> None:
        self.server.give(f"{self.base}blobs/{digest(WASM)}", body, **more)

    def fetch(self, cache: Path, version: str = "=1.0.0") -> bytes:
        return fetch_package(RegistrySource("a:b", version, self.server.host), cache).read_bytes()


@pytest.fixture
def fake(loopback: Callable[..., Server]) -> Fake:
    return Fake(loopback())


@pytest.mark.parametrize(
    "metadata",
    [
        '{"preferredProtocol": "oci", "oci": {"registry": "HOST", "namespacePrefix": "some/where/"}}',
        '{"oci": {"registry": "HOST", "namespacePrefix": "some/where/"}}',
        '{"ociRegistry": "HOST", "ociNamespacePrefix": "some/where/"}',
        '{"oci": {"namespacePrefix": "some/where/"}, "x": {}, "ociRegistry": "HOST"}',
    ],
)
def test_metadata_lead_to_another_registry(
    loopback: Callable[..., Server], cache: Path, metadata: str
) -> None:
    names, other = loopback(), Fake(loopback(), "some/where/")
    names.give(KNOWN, metadata.replace("HOST", other.server.host).encode())
    source = RegistrySource("a:b", "=1.0.0", names.host)
    assert fetch_package(source, cache).read_bytes() == WASM
    assert names.requests == [KNOWN]
    assert other.server.requests == [f"{other.base}manifests/1.0.0", f"{other.base}blobs/{digest(WASM)}"]
    assert fetch_package(source, cache).read_bytes() == WASM
    assert len(names.requests + other.server.requests) == 3


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 404), (b"<html>", 200), (b"[]", 200), (b"{}", 500), (bytes(5_000_000), 200)]
)
def test_without_metadata_the_registry_is_its_own(fake: Fake, cache: Path, body: bytes, status: int) -> None:
    fake.server.give(KNOWN, body, status)
    assert fake.fetch(cache) == WASM


@pytest.mark.parametrize(
    ("body", "status", "doubt"),
    [(b"", 503, "answers 503"), (b"<html>", 200, "is not what a registry answers")],
)
def test_metadata_that_fail_for_a_moment(
    loopback: Callable[..., Server],
    cache: Path,
    caplog: pytest.LogCaptureFixture,
    body: bytes,
    status: int,
    doubt: str,
) -> None:
    """The registry then seems to be its own, and to have no such package."""
    names, other = loopback(), Fake(loopback())
    names.give(KNOWN, json.dumps({"ociRegistry": other.server.host}).encode())
    source = RegistrySource("a:b", "1", names.host)
    assert fetch_package(source, cache).read_bytes() == WASM
    names.give(KNOWN, body, status)
    assert fetch_package(source, cache).read_bytes() == WASM
    assert doubt in caplog.text
    for version in ("1", "=1.0.0"):
        with pytest.raises(DownloadFailed, match=f"{names.host}/a/b is not there; .*{doubt}"):
            fetch_package(RegistrySource("a:b", version, names.host), cache / "other")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"preferredProtocol": "local", "local": {"root": "/"}}, "speaks local"),
        ({"warg": {"url": "https://warg.example"}}, "speaks warg"),
        ({"oci": {"registry": "r.example/../x"}}, "metadata of HOST are wrong"),
        ({"oci": {"registry": "r.example", "namespacePrefix": "../"}}, "metadata of HOST are wrong"),
        ({"oci": {"registry": "r.example", "namespacePrefix": "A?"}}, "metadata of HOST are wrong"),
    ],
)
def test_metadata_that_lead_nowhere(fake: Fake, cache: Path, metadata: Any, message: str) -> None:
    fake.server.give(KNOWN, json.dumps(metadata).encode())
    with pytest.raises(DownloadFailed) as caught:
        fake.fetch(cache)
    assert message.replace("HOST", fake.server.host) in str(caught.value)
    assert fake.server.requests == [KNOWN]


def test_a_range_is_looked_up_once_by_a_loader(
    fake: Fake, application: Any, tmp_path: Path, wat: Any
) -> None:
    """So that all guests have the same, also where somebody publishes meanwhile."""
    one = {"version": "1", "package": "a:b", "registry": fake.server.host}
    part = application.part(
        wat.http("spin", "(call $respond (i32.const 204))"), dependencies={"x": one, "y": one}
    )
    gateway = application.gateway(application.manifest({"a": part}), cache_dir=tmp_path / "cache")
    loader = Loader(gateway)
    [served] = served_of(gateway.manifest)
    both = threading.Barrier(2)

    def read(_: int) -> set[bytes]:
        both.wait(60)  # as components are loaded, side by side
        return set(loader.read(served).dependencies.values())

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(read, range(2))) == [{WASM}, {WASM}]
    assert fake.server.requests.count(f"{fake.base}tags/list?n=1000") == 1


def test_metadata_of_config_toml(fake: Fake, configure: Configure, cache: Path) -> None:
    oci = f'{{ preferredProtocol = "oci", oci = {{ registry = "{fake.server.host}" }} }}'
    configure(f'[namespace_registries]\na = {{ registry = "named", metadata = {oci} }}\n')
    assert fetch_package(RegistrySource("a:b", "1"), cache).read_bytes() == WASM
    assert KNOWN not in fake.server.requests


@pytest.mark.parametrize(
    ("host", "named_by", "scheme"),
    [
        ("localhost", "localhost", "http"),
        ("localhost:5000", "127.0.0.1", "http"),
        ("127.0.0.1:80", "[::1]", "http"),
        ("[::1]:80", "localhost:1", "http"),
        ("localhost:5000", "r.example", "https"),
        ("r.example", "localhost", "https"),
        ("192.168.0.1:5000", "192.168.0.1:5000", "https"),
        ("localhost.example", "localhost.example", "https"),
    ],
)
def test_tls_but_on_this_machine(host: str, named_by: str, scheme: str) -> None:
    assert registry._scheme(host, named_by) == scheme


def test_http_where_config_toml_says_so(
    fake: Fake, cache: Path, configure: Configure, monkeypatch: Any
) -> None:
    """Elsewhere than on this machine, which a proxy stands for here."""
    proxy = fake.server
    for path, answer in list(proxy.answers.items()):
        proxy.answers[f"http://r.invalid{path}"] = answer
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    source = RegistrySource("a:b", "=1.0.0", "r.invalid")
    with pytest.raises(DownloadFailed, match=r"r\.invalid"):
        fetch_package(source, cache)
    assert proxy.requests == []
    configure('[registry."r.invalid".oci]\nprotocol = "http"\n')
    assert fetch_package(source, cache).read_bytes() == WASM


def test_certificates_are_checked(
    loopback: Callable[..., Server], certificate: Path, cache: Path, configure: Configure
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    fake, plain = Fake(loopback(tls)), loopback()
    settings = f'[registry."{fake.server.host}".oci]\nprotocol = "https"\n'
    configure(settings)
    with pytest.raises(DownloadFailed, match="certificate verify failed"):
        fake.fetch(cache)
    assert fake.server.requests == []

    data = (certificate / "cert.pem").read_text()
    settings += f'extra_root_certificates = [{{ encoding = "pem", data = """{data}""" }}]\n'
    configure(settings)
    assert fake.fetch(cache) == WASM

    # a redirect does not lead out of it
    fake.blob(b"", status=307, Location=plain.give("/blob", WASM))
    with pytest.raises(DownloadFailed, match=f"a redirect leads out of TLS, to {plain.url}$"):
        fake.fetch(cache / "1")
    guarded(fake, plain)
    with pytest.raises(DownloadFailed, match=f"wants a token from {plain.url}/token, which is not TLS"):
        fake.fetch(cache / "2")
    assert plain.requests == []

    configure(settings.replace("CERTIFICATE", "FORGERY"))
    with pytest.raises(DownloadFailed, match="are no certificates in PEM"):
        fake.fetch(cache / "3")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (image(), "is not a component: one layer of the type application/wasm is expected, .* are: none"),
        (image(WASM, WASM), "are: application/wasm, application/wasm"),
        (image(WASM, type="application/vnd.oci.image.layer.v1.tar"), "are: application/vnd.oci.image"),
        (b'{"manifests": []}', "and there are: none"),
        (b'{"layers": [1, {"mediaType": "application/wasm", "digest": "md5:0"}]}', "known here: md5:0"),
        (b'{"layers": 3}', "and there are: none"),
        (image(WASM, type="a\n\x1b[2J" + "x" * 2000), r"are: a\?\?\[2Jx{500,900}\.\.\.$"),
        (b"<html>", "is not what a registry answers"),
        (b"[" * 100_000, "is not what a registry answers"),
        (bytes(5_000_000), "it is longer than 4194304 bytes"),
        (image(WASM).replace(b'"size": 8', b'"size": 999999999999'), "is longer than 536870912 bytes"),
    ],
)  # fmt: skip
def test_manifests_that_are_none(fake: Fake, cache: Path, body: bytes, message: str) -> None:
    fake.manifest(body)
    with pytest.raises(DownloadFailed, match=message):
        fake.fetch(cache)
    assert not list(cache.glob("*/*"))


@pytest.mark.parametrize(
    ("body", "more", "message"),
    [
        (b"other", {}, f"its digest is {digest(b'other')}, not {digest(WASM)}"),
        (WASM[:-1], {"length": "8"}, "7 bytes read, 1 more expected"),
        (WASM, {"status": 500}, "the server answers 500"),
        (bytes(1001), {}, "it is longer than 1000 bytes"),
        (b"", {"status": 307, "Location": f"/v2/a/b/blobs/{digest(WASM)}"}, "too many redirects"),
    ],
)
def test_blobs_that_are_others(
    fake: Fake, cache: Path, monkeypatch: pytest.MonkeyPatch, body: bytes, more: Any, message: str
) -> None:
    monkeypatch.setattr(downloads, "MAX_DOWNLOAD", 1000)
    fake.blob(body, **more)
    with pytest.raises(DownloadFailed, match=message):
        fake.fetch(cache)
    assert not list(cache.glob("wasm/*"))
    assert not (cache / "registry").exists()


def test_something_that_does_not_end(fake: Fake, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "MAX_DOCUMENT_SECONDS", -1.0)
    with pytest.raises(DownloadFailed, match="it takes longer than -1 s"):
        fake.fetch(cache)


def test_tags_on_several_pages(fake: Fake, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = f"{fake.base}tags/list?n=1000", f"{fake.base}tags/list?n=1000&last=x"

    def give(path: str, tags: Any, following: str = "") -> None:
        link = {"Link": f'<{following}>; rel="next"'} if following else {}
        fake.server.give(path, json.dumps({"tags": tags}).encode(), **link)

    give(first, ["0.9.0", "1.0.0-rc.1"], second)
    give(second, ["1.0.0", "latest", "sha256-0"])
    assert fake.fetch(cache, "*") == WASM

    give(second, ["1.0.0"], first)
    with pytest.raises(DownloadFailed, match="has more than 10000 tags"):
        fetch_package(RegistrySource("a:b", "*", fake.server.host), cache / "other")
    give(second, None, first)  # as old ones say that there is none
    give(first, ["0.9.0"], second)
    with pytest.raises(DownloadFailed, match=r"it has 0\.9\.0$"):
        fake.fetch(cache, "^1")
    give(first, ["1.0.0"], "http://127.0.0.1:1/v2/a/b/tags/list")
    with pytest.raises(DownloadFailed, match=r"goes on elsewhere, at http://127\.0\.0\.1:1/"):
        fake.fetch(cache / "other", "*")
    give(first, [1])
    with pytest.raises(DownloadFailed, match="has no list of tags"):
        fake.fetch(cache / "other", "*")


def test_the_version_of_a_range_is_fetched_once(fake: Fake, cache: Path) -> None:
    assert fake.fetch(cache, "*") == WASM
    fake.server.requests.clear()
    assert fake.fetch(cache, "^1") == WASM
    assert fake.server.requests == [KNOWN, f"{fake.base}tags/list?n=1000"]


@pytest.mark.parametrize(
    ("status", "message"), [(404, "lists 1.0.0, and does not have it"), (418, "answers 418")]
)
def test_a_version_that_is_listed_and_not_there(fake: Fake, cache: Path, status: int, message: str) -> None:
    fake.manifest(b"{}", status=status)
    for version in ("=1.0.0", "1"):
        with pytest.raises(DownloadFailed, match=message):
            fake.fetch(cache, version)


# Who asks


def guarded(fake: Fake, tokens: Server, realm: str = "") -> None:
    """Let everything at `fake` want the token "good", and say where that is to be had."""
    challenge = f'Bearer realm="{realm or tokens.url + "/token"}",service="the registry",scope="other"'

    def guard(answer: Any) -> Any:
        def answered(handler: Any) -> None:
            if handler.headers["Authorization"] == "Bearer good":
                answer(handler)
            else:
                handler.send_response(401)
                handler.send_header("WWW-Authenticate", challenge)
                handler.send_header("Content-Length", "0")
                handler.end_headers()

        return answered

    for path, answer in list(fake.server.answers.items()):
        fake.server.answers[path] = guard(answer)


TOKEN = "/token?service=the+registry&scope=repository%3Aa%2Fb%3Apull"


@pytest.mark.parametrize("field", ["token", "access_token"])
def test_a_token(fake: Fake, loopback: Callable[..., Server], cache: Path, field: str) -> None:
    tokens = loopback()
    guarded(fake, tokens)
    tokens.give(TOKEN, json.dumps({field: "good"}).encode())
    assert fake.fetch(cache, "*") == WASM
    assert tokens.requests == [TOKEN]
    assert "Authorization" not in tokens.headers[0]


def test_a_token_for_a_login(
    fake: Fake, loopback: Callable[..., Server], cache: Path, configure: Configure
) -> None:
    tokens = loopback()
    guarded(fake, tokens)
    tokens.give(TOKEN, b'{"token": "good"}')
    configure(f'[registry."{fake.server.host}".oci]\nauth = {{ username = "u", password = "p" }}\n')
    assert fake.fetch(cache) == WASM
    assert tokens.headers[0]["Authorization"] == "Basic dTpw"
    assert "Basic dTpw" not in [headers.get("Authorization") for headers in fake.server.headers]


def test_a_login_that_has_expired_keeps_nobody_from_what_is_public(
    fake: Fake, loopback: Callable[..., Server], cache: Path, configure: Configure
) -> None:
    tokens = loopback()
    guarded(fake, tokens)

    def answer(handler: Any) -> None:
        body = b"{}" if handler.headers["Authorization"] else b'{"token": "good"}'
        handler.send_response(401 if handler.headers["Authorization"] else 200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    tokens.answers[TOKEN] = answer
    configure(f'[registry."{fake.server.host}".oci]\nauth = "dTpw"\n')
    assert fake.fetch(cache) == WASM


@pytest.mark.parametrize(
    ("realm", "body", "status", "message"),
    [
        ("", b"{}", 403, r"denies it \(401\).*wants a login"),
        ("", b"{}", 500, r"/token answers 500"),
        ("", b'{"token": "bad"}', 200, r"denies it \(401\)"),
        ("", b"no", 200, "is not what a registry answers"),
        ("", b"{}", 200, r"^there is no token in http://127.*/token$"),
        ("", rb'{"token": "a\nsecret"}', 200, r"^there is no token in http://127.*/token$"),
        ("ftp://r.example/token", b"", 200, "wants a token from ftp://r.example/token, which is not TLS"),
    ],
)
def test_tokens_that_are_not_to_be_had(
    fake: Fake,
    loopback: Callable[..., Server],
    cache: Path,
    realm: str,
    body: bytes,
    status: int,
    message: str,
) -> None:
    tokens = loopback()
    guarded(fake, tokens, realm)
    tokens.give(TOKEN, body, status)
    with pytest.raises(DownloadFailed, match=message):
        fake.fetch(cache)


def test_a_token_of_the_environment(fake: Fake, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded(fake, fake.server)
    variable = f"WKG_REGISTRY_{fake.server.host.replace('.', '_').replace(':', '_')}_AUTH_BEARER"
    monkeypatch.setenv(variable, "bad")
    with pytest.raises(DownloadFailed, match=f"refuses the login from {variable}"):
        fake.fetch(cache)
    monkeypatch.setenv(variable, "a\nsecret")
    with pytest.raises(DownloadFailed, match=f"^there is no token in {variable}$"):
        fake.fetch(cache)
    monkeypatch.setenv(variable, "good\n")
    assert fake.fetch(cache) == WASM


def test_a_redirect_takes_no_token_along(
    fake: Fake, loopback: Callable[..., Server], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registries keep blobs elsewhere; where it is the same host, the token goes along."""
    elsewhere, path = loopback(), f"{fake.base}blobs/{digest(WASM)}"
    fake.blob(b"", status=307, Location="/here")
    fake.server.give("/here", b"", 307, Location=elsewhere.give("/there", WASM))
    tokens = loopback()
    guarded(fake, tokens)
    tokens.give(TOKEN, b'{"token": "good"}')
    assert fake.fetch(cache) == WASM
    assert fake.server.requests[-2:] == [path, "/here"]
    assert elsewhere.requests == ["/there"]
    assert "Authorization" not in elsewhere.headers[0]


# -- the cache -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has access lists")
def test_what_others_may_write_is_not_read(fake: Fake, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert fake.fetch(cache) == WASM
    asked = len(fake.server.requests)
    (cache / "registry").chmod(0o777)
    assert fake.fetch(cache) == WASM
    assert len(fake.server.requests) > asked
    assert "others may write to it (mode 777)" in caplog.text


def test_a_version_that_is_no_digest(fake: Fake, cache: Path) -> None:
    assert fake.fetch(cache) == WASM
    (record,) = (cache / "registry").glob("*/a/b/1.0.0")
    for text in ("", "../../secret", "sha256:0", "\xe9"):
        record.write_text(text, "utf-8")
        assert fake.fetch(cache) == WASM
        assert record.read_text() == digest(WASM)


def test_a_cache_that_does_not_take_it(fake: Fake, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.mkdir()
    (cache / "registry").write_bytes(b"")
    assert fake.fetch(cache) == WASM
    assert "it is not remembered that 1.0.0 has been fetched" in caplog.text
    (cache / "wasm").rename(cache / "before")
    (cache / "wasm").write_bytes(b"")
    with pytest.raises(DownloadFailed, match="wasm cannot be written"):
        fake.fetch(cache)


def test_the_error_of_a_component(cache: Path, tmp_path: Path) -> None:
    component = Component("one", RegistrySource("a:b", "=1.0.0"))
    with pytest.raises(ManifestError) as caught:
        load_source(component, cache, manifest_path=tmp_path / "spin.toml")
    assert caught.value.key == "component.one.source"
    assert caught.value.message.startswith(
        "the source of component `one` cannot be had: no registry is known"
    )
