# HttpRequest -> Request, and what the gateway answers -> HttpResponse.
#
# Rule 1: what the site has decided about a request (host, scheme, body already
# read) is what the guest sees; everything else comes from the server, raw.

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from functools import lru_cache
from http.cookies import CookieError, Morsel
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, unquote_to_bytes

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.http.request import split_domain_port, validate_host
from django.utils.encoding import repercent_broken_unicode

from wasm_gateway import asgi, wsgi
from wasm_gateway.errors import HostError, RequestError
from wasm_gateway.exchange import AsyncAnswer
from wasm_gateway.messages import Request

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def raw_path(request: HttpRequest) -> str | None:
    """The path below SCRIPT_NAME as it stood in the request line; None when nobody can tell."""
    environ = getattr(request, "environ", None)
    path: str = request.path_info
    if environ is not None:
        raw: str | None = environ.get("RAW_URI") or environ.get("REQUEST_URI")
        return wsgi.pick_path(raw, environ.get("SCRIPT_NAME", ""), path, _decode, "utf-8")
    scope = getattr(request, "scope", None)
    if scope is None:
        return None
    target: bytes | None = scope.get("raw_path")
    raw = None if target is None else target.decode("latin-1")
    return wsgi.pick_path(raw, request.META["SCRIPT_NAME"], path, unquote, "utf-8")


def _decode(raw: str) -> str:
    # as WSGIRequest does
    return repercent_broken_unicode(unquote_to_bytes(raw)).decode()


def to_request(request: HttpRequest, path: str) -> Request:
    """`request` at the raw `path` (what `raw_path` gave).

    Raises DisallowedHost for a host that is not in ALLOWED_HOSTS, RequestError for other contradictions.
    """
    body = _body(request)
    authority, scheme = get_host(request), request.scheme
    environ = getattr(request, "environ", None)
    if environ is not None:
        return wsgi.to_request(environ, path, authority=authority, scheme=scheme, body=body)
    return asgi.to_request(request.scope, path, body, authority=authority, scheme=scheme)  # type: ignore[attr-defined]


def get_host(request: HttpRequest) -> str:
    """request.get_host(), which takes 15 us to come to the same result each time."""
    return _accepted(request.META) or request.get_host()


def trusted_host(environ: WSGIEnvironment) -> str | None:
    """The authority of a request that Django itself has not seen yet; RequestError when it is not allowed."""
    if _accepted(environ) is not None:
        return None
    try:
        return WSGIRequest(environ).get_host()
    except DisallowedHost as error:
        raise RequestError(str(error)) from error


def _accepted(meta: Mapping[str, Any]) -> str | None:
    """The Host header where it is surely what get_host() would say; the special cases are Django's."""
    host: str | None = meta.get("HTTP_HOST")
    if host is None or settings.USE_X_FORWARDED_HOST:
        return None
    return host if _is_allowed(host, tuple(settings.ALLOWED_HOSTS)) else None


@lru_cache(1024)
def _is_allowed(host: str, allowed: tuple[str, ...]) -> bool:
    domain, _ = split_domain_port(host)
    return bool(domain) and validate_host(domain, allowed)


def _body(request: HttpRequest) -> Iterable[bytes]:
    """The body as it streams in; DATA_UPLOAD_MAX_MEMORY_SIZE is not applied, the component's own limit is."""
    if hasattr(request, "_body"):
        return (request.body,)
    meta: Any = request.META
    length = wsgi.content_length(meta.get("CONTENT_LENGTH"))
    if getattr(request, "_read_started", False) and length != 0:
        # request.POST of an upload, for example
        raise HostError("the request body was read before the Wasm route got it")
    environ = getattr(request, "environ", None)
    if environ is None:
        # the handler has received all of it into a file
        return wsgi.InputBody(request.read, length) if length != 0 else ()
    if length is None:
        # Django takes a body without a length for empty; the server may know better
        return wsgi.input_body(environ)
    return wsgi.InputBody(request.read, length) if length else ()


def to_response(answer: wsgi.Outgoing | AsyncAnswer) -> HttpResponseBase:
    """What goes to Django's own middleware and on to the client."""
    status, fields, body = answer
    content_type = next((value for name, value in fields if name == "content-type"), None)
    response: HttpResponseBase
    if isinstance(body, tuple):
        response = HttpResponse(body, content_type, status)
    else:
        response = StreamingHttpResponse(body, content_type=content_type, status=status)
    headers = response.headers
    if content_type is None:
        del headers["content-type"]  # Django's default
    for name, value in fields:
        if name == "set-cookie":
            _set_cookie(response, value)
        elif name not in headers:
            headers[name] = value
        elif name != "content-type":
            # RFC 9110, 5.3; Django has one value for a name
            headers[name] = f"{headers[name]}, {value}"
    return response


class RawCookie(Morsel[str]):
    """A Set-Cookie field of a guest, sent on as it is; `key` and `value` are for other middleware to see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        name, _, value = text.partition(";")[0].partition("=")
        try:
            self.set(name.strip(), value.strip(), value.strip())
        except CookieError:
            pass  # a name that the standard library does not like

    def OutputString(self, attrs: Container[str] | None = None) -> str:
        return self.text

    def __reduce__(self) -> tuple[Any, ...]:
        return RawCookie, (self.text,)


_VISIBLE = "".join(map(chr, range(0x20, 0x7F)))


def _set_cookie(response: HttpResponseBase, text: str) -> None:
    if not text.isascii():
        text = quote(text, safe=_VISIBLE, encoding="latin-1")  # ASGIHandler takes nothing else
    name = text.partition("=")[0].strip()
    key = name
    while key in response.cookies:
        key += ";"  # the same name for another path or domain
    response.cookies[key] = RawCookie(text)
