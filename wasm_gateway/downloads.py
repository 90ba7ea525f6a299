# What is fetched when guests are loaded: GETs within bounds, and files that are written whole or not at all.
#
# Rule 1: nothing is endless: connecting, silence, the whole, the number of bytes and of redirects.
# Rule 2: TLS is verified, and a redirect never leads out of it; what proves who asks stays with the host that
# it was meant for.
# Rule 3: a file is made under a name nobody looks for and then renamed.

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self
from urllib.parse import urljoin, urlsplit

from .own_files import replacing

if TYPE_CHECKING:
    import urllib3

# seconds; a server that is silent for longer is taken for dead
CONNECT_TIMEOUT: Final = 10.0
READ_TIMEOUT: Final = 60.0
# seconds that a file, and anything else, may take as a whole
MAX_SECONDS: Final = 1800.0
MAX_DOCUMENT_SECONDS: Final = 60.0
# bytes; the largest components met (a Python interpreter inside) have 40 MB
MAX_DOWNLOAD: Final = 512 * 1024 * 1024
# - OCI distribution: a registry has to take manifests of 4 MiB
MAX_DOCUMENT: Final = 4 * 1024 * 1024
MAX_REDIRECTS: Final = 5
# characters of what is said of a failure
MAX_MESSAGE: Final = 1000
_CHUNK: Final = 1 << 16


class DownloadFailed(Exception):
    """The text says why; servers may have a part in it."""

    def __init__(self, message: str) -> None:
        shown = "".join(char if char.isprintable() else "?" for char in message[:MAX_MESSAGE])
        super().__init__(shown + "..." * (len(message) > MAX_MESSAGE))


class Unreachable(DownloadFailed):
    """There is no answer at all."""


class Client:
    """Gets what is at URLs; its connections end with its context."""

    def __init__(self, certificates: str = "") -> None:
        """`certificates` (PEM) are trusted besides those of the system."""
        self._certificates = certificates
        self._pools: dict[str | None, urllib3.PoolManager] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in self._pools.values():
            pool.clear()

    def document(self, url: str, headers: Mapping[str, str] | None = None) -> tuple[int, Any, bytes]:
        """Status, headers and body of what `url` gives, which is short; else DownloadFailed."""
        with self._get(url, headers or {}) as response:
            body = b"".join(_chunks(response, MAX_DOCUMENT, MAX_DOCUMENT_SECONDS))
            return response.status, response.headers, body

    def download(self, url: str, digest: str, target: Path, headers: Mapping[str, str] | None = None) -> None:
        """Put what `url` gives, and has that digest, at `target`; DownloadFailed leaves nothing behind."""
        with written(target) as file, self._get(url, headers or {}) as response:
            if response.status != 200:
                raise DownloadFailed(f"the server answers {response.status}")
            found = hashlib.sha256()
            for chunk in _chunks(response, MAX_DOWNLOAD, MAX_SECONDS):
                found.update(chunk)
                file.write(chunk)
            if f"sha256:{found.hexdigest()}" != digest:
                raise DownloadFailed(f"its digest is sha256:{found.hexdigest()}, not {digest}")

    @contextmanager
    def _get(self, url: str, headers: Mapping[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        import urllib3  # slow to import, and only this needs it

        try:
            for _ in range(MAX_REDIRECTS + 1):
                if not url.lower().startswith(("http://", "https://")):
                    raise DownloadFailed("only http and https are supported")
                response = self._pool(url).request(
                    "GET",
                    url,
                    headers=headers,
                    preload_content=False,
                    redirect=False,
                    timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT, read=READ_TIMEOUT),
                    retries=urllib3.Retry(connect=2, read=0, other=0, respect_retry_after_header=False),
                )
                try:
                    location = response.get_redirect_location()
                    if not location:
                        yield response
                        return
                finally:
                    response.close()
                here, there = urlsplit(url), urlsplit(urljoin(url, location))
                if here.scheme.lower() == "https" != there.scheme:
                    raise DownloadFailed(f"a redirect leads out of TLS, to {there.scheme}://{there.netloc}")
                if (here.scheme.lower(), here.netloc.lower()) != (there.scheme, there.netloc.lower()):
                    headers = {name: text for name, text in headers.items() if name != "Authorization"}
                url = there.geturl()
            raise DownloadFailed("too many redirects")
        except urllib3.exceptions.MaxRetryError as error:
            raise Unreachable(str(error)) from None
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise DownloadFailed(str(error)) from None

    def _pool(self, url: str) -> urllib3.PoolManager:
        import ssl
        import urllib.request

        import urllib3

        scheme, _, rest = url.partition("://")
        proxy = urllib.request.getproxies().get(scheme.lower())
        if proxy and urllib.request.proxy_bypass(rest.partition("/")[0]):
            proxy = None
        if proxy not in self._pools:
            options: dict[str, Any] = {}
            if self._certificates:
                context = ssl.create_default_context()
                try:
                    context.load_verify_locations(cadata=self._certificates)
                except ssl.SSLError as error:
                    raise DownloadFailed(
                        f"extra_root_certificates are no certificates in PEM: {error}"
                    ) from None
                options["ssl_context"] = context
            self._pools[proxy] = (
                urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
            )
        return self._pools[proxy]


def _chunks(response: urllib3.BaseHTTPResponse, limit: int, seconds: float) -> Iterator[bytes]:
    size, end = 0, time.monotonic() + seconds
    # read1: whatever is there, so that a server cannot stretch one read for ever, drop by drop
    while chunk := response.read1(_CHUNK):
        size += len(chunk)
        if size > limit:
            raise DownloadFailed(f"it is longer than {limit} bytes")
        if time.monotonic() > end:
            raise DownloadFailed(f"it takes longer than {seconds:g} s")
        yield chunk


@contextmanager
def written(target: Path) -> Iterator[BinaryIO]:
    """A file that becomes `target` at the end of the block; DownloadFailed where that cannot be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target, 0o644) as file:
            yield file
    except OSError as error:
        raise DownloadFailed(f"{target.parent} cannot be written: {error}") from None


def digest_of(path: Path) -> str | None:
    """The digest of a file, as manifests have it; None where there is none."""
    try:
        with path.open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def cached(cache_dir: Path, digest: str) -> Path:
    """Where Wasm with that digest is kept."""
    return cache_dir / "wasm" / f"{digest.removeprefix('sha256:')}.wasm"
