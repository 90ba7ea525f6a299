# WAGI guests: WASI commands that speak CGI on stdin, stdout, arguments and
# environment (Spin: http, 8.4).
#
# Where Spin has a slip that its own pages name, the right thing is done here:
# CONTENT_TYPE holds the request's content type (Spin looks up a header that does not
# exist, and always leaves it empty).

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from ..component.values import Err
from ..engine import Program
from ..errors import GuestError, GuestExit, LimitExceeded, LinkError
from ..host.base import OutboundRules
from ..instance import Instance
from ..messages import Begin, Headers, Request, Response
from ..router import RouteMatch, wagi_variables
from .guest import Guest, KeepsNothing, checked_headers, complete, whole_body

log = logging.getLogger("wasm_gateway")

DEFAULT_ARGV = "${SCRIPT_NAME} ${ARGS}"
# Headers that CGI keeps from scripts (RFC 3875, 4.1.18), and one that a program would take for the setting of
# its own HTTP client ("httpoxy").
WITHHELD = ("authorization", "connection", "proxy")
INSUFFICIENT = b"Exactly one of 'location' or 'content-type' must be specified"


class WagiExecutor(KeepsNothing):
    """Runs a WASI command once per request; `argv` is the trigger's pattern.

    The command is `run` (wasi:cli/run of a component), or the export _start of a core module.
    """

    dialect = "wagi"
    injects_headers = False  # the same facts come as variables
    streams = False

    def __init__(
        self, guest: Guest, argv: str = DEFAULT_ARGV, run: Callable[[Instance], Any] | None = None
    ) -> None:
        self.guest = guest
        self.argv = argv
        self.run = run
        program = guest.program
        if run is None and not (isinstance(program, Program) and program.exports("_start", "", "")):
            raise LinkError("exports no _start and no wasi:cli/run, which a WAGI guest needs", "wasi:cli/run")

    def beside(self, outbound: OutboundRules) -> WagiExecutor:
        return WagiExecutor(self.guest.beside(outbound), self.argv, self.run)

    def execute(self, request: Request, match: RouteMatch, begin: Begin | None = None) -> Response:
        guest = self.guest
        limits = guest.options
        body = whole_body(request, limits.max_request_body, limits.timeout)
        output = Output(limits.max_response_body)
        wasi = guest.wasi.state(
            arguments=arguments(self.argv, request),
            environment=dict(environment(request, match, len(body))),
            stdin=body,
            stdout=output.write,
        )
        with guest.instantiate(wasi) as instance:
            instance.request = request
            try:
                self._run(instance)
            except GuestExit as exit_:
                if exit_.code:
                    raise
        return response(output.data(), limits.max_response_body)

    def _run(self, instance: Instance) -> None:
        if self.run is None:
            start = instance.function("_start")
            assert start is not None
            start()
        elif isinstance(self.run(instance), Err):
            # no exit code: what it wrote is the response all the same (Spin: http, 8.4, rule 7)
            component_id = self.guest.grants.id
            log.error("component %s: run returned an error", component_id, extra={"component": component_id})


class Output:
    """What the guest writes to stdout, bounded."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.chunks: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > self.limit:
            raise LimitExceeded(f"response is longer than {self.limit} bytes", "max_response_body")
        self.chunks.append(data)

    def data(self) -> bytes:
        return b"".join(self.chunks)


def arguments(argv: str, request: Request) -> list[str]:
    """argv of the guest: the path for ${SCRIPT_NAME}, the query's fields for ${ARGS}, split at each space."""
    query = (request.query or "").replace("&", " ")
    return argv.replace("${SCRIPT_NAME}", request.path).replace("${ARGS}", query).split(" ")


def environment(request: Request, match: RouteMatch, length: int) -> Iterator[tuple[str, str]]:
    """The CGI variables of a request, over and above the component's own environment."""
    for name, value in request.headers.pairs:
        # "x_real_ip" would pass for "x-real-ip", which a server in front may vouch for: Django drops it too
        if name not in WITHHELD and "_" not in name:
            # "non-visible" bytes are those that HTTP's text has not
            yield f"HTTP_{name.upper().replace('-', '_')}", value if value.isascii() else "CORRUPT VALUE"
    authority = request.authority or "default_host"
    host = authority.partition("]")[0] + "]" if authority.startswith("[") else authority.partition(":")[0]
    port = authority[len(host) + 1 :]
    client = request.client[0] if request.client else ""
    info = match.path_info
    yield "AUTH_TYPE", ""
    yield "CONTENT_LENGTH", str(length)
    yield "CONTENT_TYPE", request.headers.get("content-type") or ""
    yield "GATEWAY_INTERFACE", "CGI/1.1"
    yield "QUERY_STRING", request.query or ""
    yield "REMOTE_ADDR", client
    yield "REMOTE_HOST", client
    yield "REMOTE_USER", ""
    yield "REQUEST_METHOD", request.method
    yield "SCRIPT_NAME", match.route.based.removesuffix("/...")
    yield "PATH_INFO", info
    yield "PATH_TRANSLATED", unquote_to_bytes(info).decode(errors="replace")
    yield "X_RAW_PATH_INFO", info
    yield "SERVER_NAME", host
    yield "SERVER_PORT", port or "80"
    yield "SERVER_PROTOCOL", request.protocol
    yield "SERVER_SOFTWARE", "WAGI/1"
    yield from wagi_variables(match, request)


def response(output: bytes, limit: int) -> Response:
    """What the guest wrote to stdout, as a response."""
    head, body = split(output)
    try:
        text = head.decode()
    except UnicodeDecodeError:
        raise GuestError("the header block of the guest's output is not UTF-8") from None
    fields = {}
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        if colon:
            fields[name.strip().lower()] = value.strip()
    status_line = fields.pop("status", None)
    if status_line is None and "location" not in fields and "content-type" not in fields:
        return Response(500, Headers(), (INSUFFICIENT,))
    status = 302 if "location" in fields else 200
    if status_line is not None:
        token = status_line.split(" ")[0]
        if not (token.isascii() and token.isdigit() and 100 <= int(token) <= 999):
            return Response(502)
        status = int(token)
    return complete(status, checked_headers(named(fields)), body, limit)


def named(fields: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The fields whose name HTTP allows; the others are skipped (Spin: http, 8.4, rule 6)."""
    for name, value in fields.items():
        if name and all(33 <= ord(c) < 127 and c not in '"(),/:;<=>?@[\\]{}' for c in name):
            yield name, value


def split(output: bytes) -> tuple[bytes, bytes]:
    """Header block and body: up to the first empty line; without one all of it is body.

    CRs count as nothing while in the headers, so the block ends at LF CR* LF.
    """
    at = 0
    while True:
        end = output.find(b"\n", at)
        if end < 0:
            return b"", output
        at = end + 1
        while output[at : at + 1] == b"\r":
            at += 1
        if output[at : at + 1] == b"\n":
            return output[:end].replace(b"\r", b""), output[at + 1 :]
