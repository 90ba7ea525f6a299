# A package of a registry -> the file of its Wasm, found as wasm-pkg-tools (`wkg`) and Spin find it.
#
# Rule 1: asked is, when something is loaded, the registry that the manifest or the user's
# wasm-pkg/config.toml names, and whom that one names. A version that is in the cache asks nobody.
# Rule 2: TLS, except for registries on this machine and where config.toml says `protocol = "http"`.
# Rule 3: what a registry says is bounded and checked; its Wasm has the digest that its manifest gives, and
# its metadata lead to other registries, never to files.
#
# wasm-pkg-tools: docs/configuration.md, docs/registry-metadata.md; OCI distribution and image specifications.

from __future__ import annotations

import base64
import ipaddress
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urljoin, urlsplit

from .downloads import MAX_DOWNLOAD, Client, DownloadFailed, Unreachable, cached, digest_of, written
from .manifest import RegistrySource
from .own_files import foreign
from .toml import Document, Table
from .versions import exact_version, newest, parse_version

log = logging.getLogger("wasm_gateway")

METADATA: Final = "/.well-known/wasm-pkg/registry.json"
# Namespaces that everybody knows, where config.toml says nothing.
FALLBACKS: Final = {"wasi": "wasi.dev", "ba": "bytecodealliance.org"}
MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
)
# The second is what tools before `wkg` wrote.
WASM: Final = ("application/wasm", "application/vnd.wasm.content.layer.v1+wasm")
# Tags of one package; those that are read at once.
MAX_TAGS: Final = 10_000
PAGE: Final = 1000
SHOWN_VERSIONS: Final = 10

_LABEL = r"[a-z][a-z0-9]*(?:-[a-z][a-z0-9]*)*"
_PACKAGE: Final = re.compile(rf"({_LABEL}):({_LABEL})")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9]+(?:[.-]+[A-Za-z0-9]+)*|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_PART}(?:/{_PART})*")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def fetch_package(source: RegistrySource, cache_dir: Path) -> Path:
    """The file of the newest version in the range of `source`.

    An exact version is in `cache_dir` once it was fetched. A range is looked up each time; where nobody can
    be asked, the newest that is in the cache does, with a warning. DownloadFailed says what is wrong, and
    ManifestError what is in config.toml.
    """
    package = _PACKAGE.fullmatch(source.package)
    if package is None:
        raise DownloadFailed(f"{source.package} is in no registry: there, names are in lower case")
    config = Config.read()
    place = config.place(source)
    settings = config.settings.get(place.registry, Settings())
    if settings.backend == "local":
        return _in_folder(source, place.registry, settings)

    kept = _Kept(cache_dir, place.registry, source.package)
    version = exact_version(source.version)
    if version and (found := kept.path(version)):
        return found
    with Client(settings.certificates) as client:
        try:
            oci = _Oci(client, source.package, place, settings)
            versions = [version] if version else oci.versions()
        except DownloadFailed as failure:
            version = None if version else newest(source.version, kept.versions())
            if version is None or (found := kept.path(version)) is None:
                raise
            log.warning("%s; %s@%s is taken, the newest in the cache", failure, source.package, version)
            return found
        version = _choose(source, versions, oci.name)
        if found := kept.path(version):
            return found
        digest = oci.digest(version)
        if digest is None:
            _choose(source, oci.versions(), oci.name)
            raise DownloadFailed(f"{oci.name} lists {version}, and does not have it")
        target = cached(cache_dir, digest)
        if digest_of(target) != digest:
            oci.download(digest, target)
    kept.remember(version, digest)
    return target


def _choose(source: RegistrySource, versions: Iterable[str], where: str) -> str:
    there = sorted(filter(parse_version, versions), key=lambda each: parse_version(each) or (), reverse=True)
    version = newest(source.version, there)
    if version is None:
        if not there:
            raise DownloadFailed(f"there is no package {source.package} in {where}")
        shown = ", ".join(there[:SHOWN_VERSIONS]) + ", ..." * (len(there) > SHOWN_VERSIONS)
        wanted = exact_version(source.version) or source.version
        raise DownloadFailed(f"{where} has no version {wanted} of {source.package}; it has {shown}")
    return version


# -- config.toml ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """A registry, and its metadata where config.toml has them."""

    registry: str
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """What config.toml says of a registry; `backend` is what it speaks."""

    backend: str | None = None
    root: Path | None = None
    protocol: str | None = None
    login: tuple[str, str] | None = field(default=None, repr=False)
    certificates: str = ""


@dataclass(frozen=True, slots=True)
class Config:
    """The user's wasm-pkg/config.toml."""

    default: str | None = None
    namespaces: Mapping[str, Place] = field(default_factory=dict)
    packages: Mapping[str, Place] = field(default_factory=dict)
    settings: Mapping[str, Settings] = field(default_factory=dict)

    @classmethod
    def read(cls) -> Config:
        """What is in the file, if there is one; ManifestError where it is wrong."""
        path = config_path()
        if not os.path.exists(path):  # nor may this user look
            return cls()
        root = Document.read(path).root
        config = cls(
            root.text_or("default_registry", None),
            _places(root.table("namespace_registries")),
            _places(root.table("package_registry_overrides")),
            {name: _settings(table) for name, table in root.table("registry").children()},
        )
        root.done()
        return config

    def place(self, source: RegistrySource) -> Place:
        """Where to look for a package."""
        namespace = source.package.partition(":")[0]
        mapped = self.packages.get(source.package) or self.namespaces.get(namespace)
        if source.registry is not None:
            place = mapped if mapped and mapped.registry == source.registry else Place(source.registry)
        elif mapped:
            place = mapped
        elif name := self.default or FALLBACKS.get(namespace):
            place = Place(name)
        else:
            raise DownloadFailed(
                f"no registry is known for {source.package}: name one in the manifest "
                f'(`registry = "..."`), or in {config_path()} (`[namespace_registries]`, {namespace} = "...")'
            )
        if _HOST.fullmatch(place.registry) is None:
            raise DownloadFailed(
                f'"{place.registry}" is no registry: expected a host, with or without a port'
            )
        return place


def config_path() -> Path:
    """Where wasm-pkg-tools have their configuration; on macOS too."""
    name, default = (
        ("APPDATA", "AppData/Roaming") if sys.platform == "win32" else ("XDG_CONFIG_HOME", ".config")
    )
    folder = Path(os.environ.get(name, ""))
    return (folder if folder.is_absolute() else _home() / default) / "wasm-pkg" / "config.toml"


def _home() -> Path:
    return Path(os.path.expanduser("~"))  # which nobody need have


def _places(table: Table) -> dict[str, Place]:
    places = {}
    for name, value in table.data.items():
        if isinstance(value, str):
            places[name] = Place(value)
        else:
            custom = table.table(name)
            places[name] = Place(custom.text("registry"), custom.table("metadata").data)
    return places


def _settings(table: Table) -> Settings:
    backend = table.text_or("default", None) or table.text_or("type", None)
    others = [name for name in table.data if name not in ("default", "type")]
    if backend is None and len(others) == 1:
        backend = others[0]
    oci, root = table.table("oci"), table.table("local").text_or("root", None)
    if oci.boolean("accept_invalid_certificates", False):
        raise oci.error(
            "certificates are checked here: trust that of the registry by `extra_root_certificates`",
            "accept_invalid_certificates",
        )
    protocol = oci.text_or("protocol", None)
    if protocol not in (None, "http", "https"):
        raise oci.error("expected `http` or `https`", "protocol")
    return Settings(
        backend,
        None if root is None else Path(root),
        protocol,
        _login(oci),
        "\n".join(each.text("data") for each in oci.tables("extra_root_certificates")),
    )


def _login(oci: Table) -> tuple[str, str] | None:
    auth = oci.take("auth")
    if isinstance(auth, dict):
        pair = oci.table("auth")
        return pair.text("username"), pair.text("password")
    login = None if auth is None else _decoded(auth)
    if auth is not None and login is None:
        raise oci.error("expected `{ username, password }`, or both with a colon between, in base64", "auth")
    return login


def _decoded(text: Any) -> tuple[str, str] | None:
    """User and password of `user:password` in base64."""
    try:
        user, colon, password = base64.b64decode(text + "=" * (-len(text) % 4)).decode().partition(":")
    except (ValueError, TypeError):
        return None
    return (user, password) if colon else None


# -- backends ------------------------------------------------------------------------------------------


def _in_folder(source: RegistrySource, registry: str, settings: Settings) -> Path:
    """Protocol `local`: <root>/<namespace>/<name>/<version>.wasm"""
    if settings.root is None:
        raise DownloadFailed(f'{config_path()} has to name the `root` of [registry."{registry}".local]')
    folder = settings.root.joinpath(*source.package.split(":"))
    version = _choose(source, (path.stem for path in folder.glob("*.wasm")), str(settings.root))
    return folder / f"{version}.wasm"


class _Oci:
    """A repository of a registry that speaks the API of OCI distribution."""

    def __init__(self, client: Client, package: str, place: Place, settings: Settings) -> None:
        self.client = client
        self.registry = place.registry
        self.settings = settings
        self.doubt = ""  # why this may be the wrong place
        metadata = place.metadata
        if metadata is None:
            metadata = self._metadata(settings.protocol or _scheme(place.registry, place.registry))
        self.host, prefix = _oci_of(place.registry, metadata, settings)
        self.repository = prefix + package.replace(":", "/")
        if _HOST.fullmatch(self.host) is None or _REPOSITORY.fullmatch(self.repository) is None:
            raise DownloadFailed(f"the metadata of {place.registry} are wrong: {self.host}/{self.repository}")
        named_by = place.registry if place.metadata is None else self.host
        scheme = settings.protocol or _scheme(self.host, named_by)
        host = "index.docker.io" if self.host == "docker.io" else self.host
        self.base = f"{scheme}://{host}/v2/{self.repository}/"
        self.headers: dict[str, str] = {}
        self.login_from = ""
        variable = f"WKG_REGISTRY_{re.sub('[^A-Z0-9]', '_', self.host.upper())}_AUTH_BEARER"
        if token := os.environ.get(variable):
            self.headers["Authorization"] = _bearer(token.strip(), variable)
            self.login_from = variable

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.host}/{self.repository}"

    def versions(self) -> list[str]:
        """The tags; none where there is no such repository."""
        tags: list[str] = []
        url = f"{self.base}tags/list?n={PAGE}"
        while url:
            answer = self._get(url)
            if answer is None:
                return tags
            headers, content = answer
            page = content.get("tags") or []
            if not isinstance(page, list) or not all(isinstance(tag, str) for tag in page):
                raise DownloadFailed(f"{url} has no list of tags")
            tags += page
            if len(tags) > MAX_TAGS:
                raise DownloadFailed(f"{self.name} has more than {MAX_TAGS} tags")
            following = re.match(r'\s*<([^>]*)>\s*;\s*rel="?next', headers.get("link", "")) if page else None
            url = urljoin(url, following[1]) if following else ""
            if url and not url.startswith(self.base):
                raise DownloadFailed(f"the list of tags goes on elsewhere, at {url}")
        return tags

    def digest(self, version: str) -> str | None:
        """The digest of the Wasm of a version; None where there is no such version."""
        answer = self._get(f"{self.base}manifests/{quote(version, safe='')}", Accept=MANIFESTS)
        if answer is None:
            return None
        layers = answer[1].get("layers")
        found = [each for each in layers if isinstance(each, dict)] if isinstance(layers, list) else []
        wasm = [layer for layer in found if layer.get("mediaType") in WASM]
        if len(wasm) != 1:
            types = ", ".join(str(layer.get("mediaType")) for layer in found) or "none"
            raise DownloadFailed(
                f"{self.name}:{version} is not a component: one layer of the type {WASM[0]} is expected, "
                f"and there are: {types}"
            )
        digest, size = str(wasm[0].get("digest")), wasm[0].get("size")
        if _DIGEST.fullmatch(digest) is None:
            raise DownloadFailed(
                f"{self.name}:{version} has no digest of its Wasm that is known here: {digest}"
            )
        if isinstance(size, int) and size > MAX_DOWNLOAD:
            raise DownloadFailed(f"{self.name}:{version} is longer than {MAX_DOWNLOAD} bytes")
        return digest

    def download(self, digest: str, target: Path) -> None:
        try:
            self.client.download(f"{self.base}blobs/{digest}", digest, target, self.headers)
        except DownloadFailed as failure:
            raise DownloadFailed(f"{self.name}@{digest}: {failure}") from None

    def _metadata(self, scheme: str) -> Mapping[str, Any]:
        """What the registry says of itself; nothing where it does not."""
        url = f"{scheme}://{self.registry}{METADATA}"
        try:
            status, _, body = self.client.document(url)
            if status == 200:
                return _json(body, url)
            if status != 404:
                self.doubt = f"{url} answers {status}"
        except Unreachable as failure:
            raise DownloadFailed(f"{self.registry}: {failure}") from None
        except DownloadFailed as failure:
            self.doubt = f"{url}: {failure}"
        return {}

    # Who asks

    def _get(self, url: str, **headers: str) -> tuple[Any, dict[str, Any]] | None:
        """Headers and JSON of what is at `url`; None where there is nothing."""
        status, fields, body = self._document(url, {**headers, **self.headers})
        if status == 401 and self._authorize(fields.get("www-authenticate", "")):
            status, fields, body = self._document(url, {**headers, **self.headers})
        if status in (401, 403):
            raise self._denied(status)
        if status == 404:
            if self.doubt:
                raise DownloadFailed(f"{self.name} is not there; {self.doubt}")
            return None
        if status != 200:
            raise DownloadFailed(f"{url} answers {status}")
        return fields, _json(body, url)

    def _document(self, url: str, headers: Mapping[str, str]) -> tuple[int, Any, bytes]:
        try:
            return self.client.document(url, headers)
        except DownloadFailed as failure:
            raise DownloadFailed(f"{self.host}: {failure}") from None

    def _denied(self, status: int) -> DownloadFailed:
        if self.login_from:
            return DownloadFailed(
                f"{self.name}: the registry refuses the login from {self.login_from} ({status})"
            )
        return DownloadFailed(
            f"{self.name}: the registry denies it ({status}); there is no such package, or it wants a login: "
            f'`docker login {self.host}`, or `auth` of [registry."{self.registry}".oci] in {config_path()}'
        )

    def _authorize(self, challenge: str) -> bool:
        """Get what a 401 asks for (distribution: Token Authentication); whether there was anything to get."""
        if "Authorization" in self.headers:
            return False
        login = self._login()
        basic = None if login is None else "Basic " + base64.b64encode(":".join(login).encode()).decode()
        bearer = re.search(r"(?i)\bbearer\s+(.*)", challenge)
        if bearer is None:
            if basic is None:
                return False
            self.headers["Authorization"] = basic
            return True
        asked = dict(re.findall(r'(\w+)="([^"]*)"', bearer[1]))
        realm = asked.get("realm", "")
        if not realm.startswith(("https://", "http://" if self.base.startswith("http:") else "https://")):
            raise DownloadFailed(f"{self.host} wants a token from {realm or 'nowhere'}, which is not TLS")
        query = {"service": asked.get("service", ""), "scope": f"repository:{self.repository}:pull"}
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        # a login that has expired need not keep anybody from what is public
        for headers in [{"Authorization": basic}, {}] if basic else [{}]:
            status, _, body = self._document(url, headers)
            if status == 200:
                answer = _json(body, realm)
                token = answer.get("token") or answer.get("access_token")
                self.headers["Authorization"] = _bearer(token, realm)
                return True
            if status not in (400, 401, 403):
                raise DownloadFailed(f"{realm} answers {status}")
        return False

    def _login(self) -> tuple[str, str] | None:
        if self.settings.login is not None:
            self.login_from = str(config_path())
            return self.settings.login
        path = Path(os.environ.get("DOCKER_CONFIG") or _home() / ".docker") / "config.json"
        try:
            known = json.loads(path.read_bytes())["auths"]
            for name in (self.host, f"https://{self.host}", f"https://{urlsplit(self.base).netloc}/v1/"):
                login = _decoded(known.get(name, {}).get("auth"))
                if login is not None:
                    self.login_from = str(path)
                    return login
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass  # whatever is wrong there, it has no login for us
        return None


def _oci_of(registry: str, metadata: Mapping[str, Any], settings: Settings) -> tuple[str, str]:
    """Host and prefix that the metadata give for OCI."""
    protocols = [name for name, value in metadata.items() if isinstance(value, Mapping)]
    preferred = metadata.get("preferredProtocol") or (protocols[0] if len(protocols) == 1 else "oci")
    protocol = settings.backend or preferred
    if protocol != "oci":
        raise DownloadFailed(f"{registry} speaks {protocol}, which is not spoken here, but `oci`")
    oci = metadata.get("oci")
    oci = oci if isinstance(oci, Mapping) else {}
    # the names of old: ociRegistry, ociNamespacePrefix
    host = metadata.get("ociRegistry") or oci.get("registry") or registry
    prefix = metadata.get("ociNamespacePrefix") or oci.get("namespacePrefix") or ""
    return str(host), str(prefix)


def _scheme(host: str, named_by: str) -> str:
    """TLS but on this machine; what a registry elsewhere names here is no plain HTTP either."""
    return "http" if _is_here(host) and _is_here(named_by) else "https"


def _is_here(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _bearer(token: Any, where: str) -> str:
    # an error about a header that cannot be sent would show it
    if not isinstance(token, str) or re.fullmatch("[!-~]+", token) is None:
        raise DownloadFailed(f"there is no token in {where}")
    return f"Bearer {token}"


def _json(body: bytes, url: str) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise DownloadFailed(f"{url} is not what a registry answers")
    return content


# -- what was fetched ----------------------------------------------------------------------------------


class _Kept:
    """The digests of the versions of a package that were fetched, a file each.

    They are trusted, so a folder or file that others may write to is not read.
    """

    def __init__(self, cache_dir: Path, registry: str, package: str) -> None:
        self.cache_dir = cache_dir
        self.top = cache_dir / "registry"
        # "@" is in no host, and ":" in no file name of Windows
        self.folder = self.top.joinpath(registry.lower().replace(":", "@"), *package.split(":"))

    def path(self, version: str) -> Path | None:
        """The Wasm of a version, if it is in the cache, and whole."""
        try:
            if not self._usable(self.folder / version):
                return None
            digest = (self.folder / version).read_text("ascii").strip()
        except (OSError, ValueError):
            return None
        path = cached(self.cache_dir, digest)
        return path if _DIGEST.fullmatch(digest) and digest_of(path) == digest else None

    def versions(self) -> list[str]:
        try:
            return [name for name in os.listdir(self.folder) if parse_version(name) and self.path(name)]
        except OSError:
            return []

    def remember(self, version: str, digest: str) -> None:
        try:
            self.top.mkdir(mode=0o700, parents=True, exist_ok=True)
            with written(self.folder / version) as file:
                file.write(digest.encode())
        except (OSError, DownloadFailed) as error:
            log.warning("it is not remembered that %s has been fetched: %s", version, error)

    def _usable(self, path: Path) -> bool:
        reason = foreign(self.top) or foreign(path)
        if reason:
            log.warning("what is known of packages in %s is not used: %s", self.top, reason)
        return not reason
