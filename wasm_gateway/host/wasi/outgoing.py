# wasi:http/outgoing-handler 0.2: requests of guests to other servers (Spin: http, 10.1).
#
# Rule 1: a request to another server is made by a thread of a bounded pool, so that
# several are under way at once, through the client and under the rules of
# outbound_http.py. Its body and that of the response pass through pipes of a
# bounded size, and are never whole anywhere; both may be under way at once.
# Rule 2: a request to a component of the application is made in the guest's own
# thread, when it first waits for the answer.
# Rule 3: whatever is under way when an instance is closed is broken off.

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.client import HTTPException
from typing import Any
from urllib.parse import quote

from urllib3.connection import HTTPConnection

from ... import forks
from ...component.values import Err, Ok
from ...errors import DeadlineExceeded, LimitExceeded
from ...messages import NO_HEADERS, NOT_TRAILERS, Headers
from ..addresses import BadAddress, parse_address
from ..base import Deadline, HostContext
from ..limits import kept
from ..outbound_http import (
    HOP_BY_HOP,
    SCHEMES,
    URL_CHARACTERS,
    HttpFailure,
    OutboundHttp,
    Outgoing,
    checked,
    permit,
)
from ..trace_context import traced
from .http import (
    FAILED,
    MAX_OUTGOING_BODY,
    OUTGOING,
    TEXT,
    IncomingResponse,
    OutgoingBody,
    OutgoingRequest,
    RequestOptions,
)
from .io import (
    PERMIT,
    READY,
    BytesInput,
    InputStream,
    IoError,
    Pollable,
    StreamClosed,
    StreamFailed,
    Waker,
    waker,
)

INTERFACES = {OUTGOING: TEXT}

# Threads for requests to other servers, of all guests of an application together.
MAX_SENDERS = 64
# Those that one instance may have: servers that say nothing hold no more of them. Its other requests wait.
MAX_OF_INSTANCE = 32
# Requests of one instance that are under way, or wait for a thread.
MAX_REQUESTS = 128
# Bytes of a body on its way, in each direction; a request with no more is sent whole, with its length.
PIPE_BYTES = 256 << 10
WHOLE_BYTES = 64 << 10


# In place of the result that a guest has been given.
TAKEN = object()


class Broken(Exception):
    """The instance is gone, or the guest did not finish the body."""


class Pipe:
    """Bytes between the guest's thread and that of a request.

    `changed` is called when the guest may go on.
    """

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed = changed
        self._turn = threading.Condition(threading.Lock())  # guards all that follows
        self._chunks: deque[bytes] = deque()
        self._size = 0
        # What comes behind the last chunk. Made anew where it is raised: an exception that is kept would
        # keep the frames that it went through, and these the pipe.
        self._end: Callable[[], Exception] | None = None
        self._closed = False

    def room(self) -> int:
        with self._turn:
            return max(0, PIPE_BYTES - self._size)

    def put(self, chunk: bytes, *, wait: bool) -> bool:
        """Add a chunk, waiting for room if so asked; False when nobody reads any more."""
        with self._turn:
            while wait and self._size >= PIPE_BYTES and not self._closed:
                self._turn.wait()
            if self._closed:
                return False
            self._chunks.append(chunk)
            self._size += len(chunk)
            self._turn.notify_all()
        self._changed()
        return True

    def end(self, end: Callable[[], Exception]) -> None:
        with self._turn:
            if self._end is None:
                self._end = end
            self._turn.notify_all()
        self._changed()

    def close(self) -> None:
        """Nobody reads any more, and nobody writes."""
        with self._turn:
            self._closed = True
            self._end = self._end or Broken
            self._chunks.clear()
            self._size = 0
            self._turn.notify_all()

    def give_up(self) -> None:
        """Nobody reads any more, which the guest is told."""
        self.close()
        self._changed()

    def ready(self) -> bool:
        with self._turn:
            return bool(self._chunks) or self._end is not None

    def at_end(self) -> bool:
        with self._turn:
            return not self._chunks and self._end is not None

    def take(self, length: int) -> bytes:
        """Up to `length` bytes, b"" for none yet; raises what stands at the end."""
        with self._turn:
            if not self._chunks:
                if self._closed and length:
                    raise StreamClosed
                if self._end is not None and length:
                    raise self._end()
                return b""
            chunk = self._chunks[0]
            if len(chunk) <= length:
                self._chunks.popleft()
            else:
                chunk, self._chunks[0] = chunk[:length], chunk[length:]
            self._size -= len(chunk)
            self._turn.notify_all()
            return chunk

    def __iter__(self) -> Iterator[bytes]:
        """The chunks, for the request's thread; raises Broken."""
        while True:
            with self._turn:
                while not self._chunks and self._end is None:
                    self._turn.wait()
                if not self._chunks:
                    if self._end is StreamClosed:
                        return
                    raise Broken("the request body was not finished")
                chunk = self._chunks.popleft()
                self._size -= len(chunk)
            self._changed()
            yield chunk


class _Readable(Pollable):
    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def ready(self) -> bool:
        return self._pipe.ready()


class _Writable(Pollable):
    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def ready(self) -> bool:
        return self._pipe.room() > 0


class PipeInput(InputStream):
    """The body of a response from another server."""

    def __init__(self, pipe: Pipe, abandon: Callable[[], object]) -> None:
        self._pipe = pipe
        self._abandon = abandon

    def read(self, ctx: HostContext, length: int) -> bytes:
        return self._pipe.take(length)

    def at_end(self) -> bool:
        return self._pipe.at_end()

    def pollable(self) -> Pollable:
        return _Readable(self._pipe)

    def abandon(self) -> None:
        self._abandon()


class FutureResponse(Pollable):
    """The resource future-incoming-response, and its pollable.

    Whoever settles it refers to it, so what it refers to is forgotten as soon as it was used: a request
    leaves no cycle to the garbage collector.
    """

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed: Callable[[], object] | None = changed
        self._result: Any = None  # Ok(IncomingResponse) or Err(error-code), then TAKEN
        # Called in the guest's own thread: when it first waits for the answer, when it does not want it.
        self.asked: Callable[[], object] | None = None
        self.given_up: Callable[[], object] | None = None

    def settle(self, result: Any) -> None:
        """The result is there; from any thread. The first one counts."""
        if self._result is None:
            self._result = result
            changed, self._changed, self.asked = self._changed, None, None
            assert changed is not None
            changed()

    @property
    def settled(self) -> bool:
        return self._result is not None

    def ready(self) -> bool:
        asked, self.asked = self.asked, None
        if asked is not None and self._result is None:
            asked()
        return self._result is not None

    def get(self, ctx: HostContext) -> Any:
        if not self.ready():
            return None
        result, self._result, self.given_up = self._result, TAKEN, None
        if isinstance(result, Ok):
            result.value.keep(ctx)
        return FAILED if result is TAKEN else Ok(result)

    def drop(self) -> None:
        given_up, self.given_up, self.asked = self.given_up, None, None
        if given_up is not None:
            given_up()
            self._result = TAKEN


class Sending:
    """One request to another server: what the guest writes, and the thread that sends it."""

    def __init__(
        self, handler: OutgoingHandler, ctx: HostContext, request: Outgoing, body: OutgoingBody, times: Times
    ) -> None:
        self._handler = handler
        self._ctx = ctx
        self._request = request
        self._body = body
        self._times = times
        self._trailers = NO_HEADERS  # of the response, once it is whole
        self._aborted = False
        self._waker: Waker = waker(ctx)
        self.future = FutureResponse(self._waker.wake)
        self.future.asked = self._stream
        self.future.given_up = self.abort
        self._chunks: list[bytes] = []  # until the request is on its way
        self._size = 0
        self._out: Pipe | None = None
        self._in = Pipe(self._waker.wake)
        self._under_way = under_way(ctx)
        self._under_way.add(self)

    # in the guest's thread

    def take(self, data: bytes) -> None:
        if self._aborted:
            raise StreamClosed
        if self._out is None:
            self._chunks.append(data)
            self._size += len(data)
            if self._size <= WHOLE_BYTES:
                return
            self._stream()
        elif not self._out.put(data, wait=False):
            raise StreamClosed

    def finish(self, well: bool) -> None:
        if self._aborted:
            return
        if self._out is not None:
            self._out.end(StreamClosed if well else Broken)
        elif not well:
            self._in.close()
            self.future.settle(Err(("HTTP-request-body-size", self._size)))
            self._under_way.discard(self)
        elif not self.future.settled:
            self.future.asked = None
            whole = b"".join(self._chunks)
            # only a body in pieces has room for trailers
            in_pieces = self._request.length is None and self._trailers_out().pairs
            self._start([whole] if in_pieces else whole or None)

    def room(self) -> int:
        return PERMIT if self._out is None else self._out.room()

    def writable(self) -> Pollable:
        return READY if self._out is None else _Writable(self._out)

    def abort(self) -> None:
        """The guest no longer wants it, or is gone."""
        self._aborted = True
        self.future.asked = None
        if self._out is not None:
            self._out.close()
        self._in.close()
        self._times.cut()
        self._under_way.discard(self)

    def _abandon(self) -> None:
        """The guest wants no more of the response; where it has had all, what it still sends goes on."""
        if not self._in.at_end():
            self.abort()

    def _trailers_out(self) -> Headers:
        """Those that the request's head has announced, as hyper sends them."""
        names = {
            name.strip().lower()
            for header, value in self._request.headers
            if header == "trailer"
            for name in value.split(",")
        }
        pairs = self._body.trailers.pairs
        return Headers.trusted(tuple([p for p in pairs if p[0] in names and p[0] not in NOT_TRAILERS]))

    def _stream(self) -> None:
        """The body is long, or the guest waits before it has finished it: send what there is."""
        self.future.asked = None
        self._out = Pipe(self._waker.wake)
        for chunk in self._chunks:
            self._out.put(chunk, wait=False)
        self._chunks = []
        self._start(self._out)

    def _start(self, body: bytes | Iterable[bytes] | None) -> None:
        request = replace(self._request, body=body, trailers=self._trailers_out)
        self._handler.submit(self._ctx, lambda: self._run(request))

    # in a thread of its own

    def _run(self, request: Outgoing) -> None:
        pipe, times = self._in, self._times
        try:
            times.begin()
            with self._handler.outbound.open(self._ctx, request, times, times.connected) as answer:
                headers = Headers(answer.headers)
                body = PipeInput(pipe, self._abandon)
                response = IncomingResponse(answer.status, headers, body, lambda: self._trailers)
                self.future.settle(Ok(response))
                times.answered()
                for chunk in answer.chunks:
                    if not pipe.put(chunk, wait=True):
                        raise Broken("nobody reads the response")
                    times.answered()
                self._trailers = answer.trailers()
                times.received()
                if self._out is None:
                    times.done()
                pipe.end(StreamClosed)
        except Exception as error:  # a thread has nobody above it who would see this
            code = _code(error, times)
            self.future.settle(Err(code))
            pipe.end(partial(StreamFailed, IoError(f"the response broke off: {error or code[0]}", code)))
        finally:
            times.done()
            self._under_way.discard(self)


class Times(Deadline):
    """The deadline of a request: the instance's, or an earlier one by its request-options."""

    __slots__ = ("_connection", "_cut", "_last", "_options", "late")

    def __init__(self, whole: Deadline, options: RequestOptions | None) -> None:
        super().__init__(whole.remaining())
        self._last = whole.at
        self._options = options
        self.late = "connection-timeout"  # the error-code of being late, for now
        self._connection: Any = None  # a connection of outbound_http.Client
        self._cut = False

    def remaining(self) -> float:
        if self._cut:
            raise DeadlineExceeded(self.seconds)
        return super().remaining()

    def cut(self) -> None:
        """There is no time left, also for what waits already; from another thread."""
        self._cut = True
        connection = self._connection
        if connection is not None:
            connection.cut(self)

    def done(self) -> None:
        """The connection is somebody else's now."""
        self._connection = None

    def _within(self, nanoseconds: int | None) -> None:
        self.at = self._last
        if nanoseconds is not None:
            self.at = min(self.at, time.monotonic() + nanoseconds / 1e9)

    def begin(self) -> None:
        self._within(self._options.connect if self._options else None)

    def connected(self, connection: HTTPConnection) -> None:
        self._connection = connection
        self.remaining()
        self.late = "connection-read-timeout"
        self._within(self._options.first_byte if self._options else None)

    def answered(self) -> None:
        """Some of the response is there."""
        self._within(self._options.between_bytes if self._options else None)

    def received(self) -> None:
        """The response is there; what is left of the request has all the time that there is."""
        self._within(None)


def under_way(ctx: HostContext) -> set[object]:
    """What stands for each request of an instance that is under way; the end of the instance ends them."""
    found: set[object] | None = ctx.state.get(OutgoingHandler)
    if found is None:
        begun: set[object] = set()

        def end() -> None:
            for sending in list(begun):
                if isinstance(sending, Sending):
                    sending.abort()

        found = ctx.state[OutgoingHandler] = begun
        ctx.on_close(end)
    return found


# What HttpFailure means in words of wasi:http.
_CODES = {
    "destination-not-allowed": ("HTTP-request-denied", None),
    "invalid-url": ("HTTP-request-URI-invalid", None),
    "too-many-requests": ("connection-limit-reached", None),
}


def _code(error: BaseException, times: Times | None = None) -> tuple[str, Any]:
    if isinstance(error, HttpFailure):
        return error_code(error)
    if isinstance(error, DeadlineExceeded):
        return (times.late if times else "connection-read-timeout"), None
    if isinstance(error, Broken):
        return "connection-terminated", None
    return "internal-error", type(error).__name__


def error_code(failure: HttpFailure) -> tuple[str, Any]:
    """The error-code for what became of a request."""
    known = _CODES.get(failure.case)
    if known is not None:
        return known
    cause: BaseException | None = failure.__cause__
    text = str(failure).lower()
    broken = False
    while cause is not None:
        broken = broken or isinstance(cause, HTTPException)
        if isinstance(cause, ConnectionRefusedError):
            return "connection-refused", None
        if isinstance(cause, TimeoutError):
            return "connection-timeout", None
        cause = cause.__cause__ or cause.__context__
    for words, code in (
        ("refused", "connection-refused"),
        ("name resolution", "DNS-error"),
        ("not known", "DNS-error"),
        ("no address", "DNS-error"),
        ("prohibited", "destination-IP-prohibited"),
        ("certificate", "TLS-certificate-error"),
        ("ssl", "TLS-protocol-error"),
        ("too large", "HTTP-response-body-size"),
        ("trailers of more", "HTTP-response-trailer-section-size"),
        ("incompleteread", "HTTP-response-incomplete"),
        ("closed connection", "connection-terminated"),
        ("reset", "connection-terminated"),
    ):
        if words in text:
            return code, (("address not available", None) if code == "DNS-error" else None)
    return ("HTTP-protocol-error", None) if broken else ("internal-error", "the request failed")


class _Lane:
    """The jobs of one instance: how many run, and those that wait for one of them to end."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.waiting: deque[Callable[[], object]] = deque()


class OutgoingHandler:
    """wasi:http/outgoing-handler; `outbound` is the client that all versions of Spin's interface share."""

    def __init__(self, outbound: OutboundHttp) -> None:
        self.outbound = outbound
        self._senders: ThreadPoolExecutor | None = None
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()  # guards the start of the pool
        self._senders = None

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return {"handle": self.handle}

    def close(self) -> None:
        senders, self._senders = self._senders, None
        if senders is not None:
            senders.shutdown(wait=False, cancel_futures=True)

    def submit(self, ctx: HostContext, job: Callable[[], object]) -> None:
        """Run `job`, which raises nothing, in a thread."""
        lane: _Lane | None = ctx.state.get(_Lane)
        if lane is None:
            lane = ctx.state[_Lane] = _Lane()
        with self._lock:
            if self._senders is None:
                self._senders = ThreadPoolExecutor(MAX_SENDERS, thread_name_prefix="wasm-http")
            if lane.running < MAX_OF_INSTANCE:
                self._senders.submit(self._work, lane, job)
                lane.running += 1
            else:
                lane.waiting.append(job)

    def _work(self, lane: _Lane, job: Callable[[], object]) -> None:
        """One job, and whichever of its instance waits behind it; others get the thread in between."""
        job()
        with self._lock:
            if lane.waiting and self._senders is not None:
                self._senders.submit(self._work, lane, lane.waiting.popleft())
            else:
                lane.running -= 1

    def handle(self, ctx: HostContext, request: OutgoingRequest, options: RequestOptions | None) -> Any:
        """outgoing-handler.handle."""
        if request.scheme is not None and request.scheme[0] == "other" and request.authority:
            return Err(("HTTP-protocol-error", None))  # as in wasmtime
        if options is not None and 0 in (options.connect, options.first_byte):
            return Err(("connection-timeout", None))
        method = request.method[1] if request.method[0] == "other" else request.method[0].upper()
        target = quote(request.target or "/", safe=URL_CHARACTERS)
        if target[0] != "/":
            target = "/" + target  # a query alone
        authority = request.authority or ""
        own = authority == "" or authority.partition(":")[0] == "self.alt"
        if not own:
            scheme = request.scheme
            name = "https" if scheme is None else scheme[1] if scheme[0] == "other" else scheme[0].lower()
            target = f"{name}://{authority}{target}"
        headers = [(name, value.decode("latin-1")) for name, value in request.fields.pairs]
        try:
            permit(ctx, target)
            if not own:
                parse_address(target, SCHEMES)
            kept = [pair for pair in headers if pair[0] not in HOP_BY_HOP or _of_trailers(*pair)]
            # what is left to check: the fields were when the guest set them
            outgoing = replace(
                checked(method, target, [], None),
                headers=traced(ctx, tuple(kept)),
                plain=True,
                length=request.body.declared,
            )
        except HttpFailure as failure:
            return Err(error_code(failure))
        except BadAddress:
            return Err(("HTTP-request-URI-invalid", None))
        if len(under_way(ctx)) >= MAX_REQUESTS:
            return Err(("connection-limit-reached", None))
        if own or self._chained(ctx, authority):
            future = self._inside(ctx, outgoing, request)
        else:
            sending = Sending(self, ctx, outgoing, request.body, Times(ctx.deadline, options))
            request.body.connect(sending.take, sending.finish, sending)
            future = sending.future
        if not request.taken:
            request.body.end(True)  # nobody can write to it any more
        return future

    @staticmethod
    def _chained(ctx: HostContext, authority: str) -> bool:
        outbound = ctx.component.outbound
        return outbound is not None and outbound.is_chained(authority.partition(":")[0]) is not None

    def _inside(self, ctx: HostContext, outgoing: Outgoing, request: OutgoingRequest) -> FutureResponse:
        """A request to a component of this application, whose body is kept until it is whole."""
        waiting = under_way(ctx)
        future = FutureResponse(lambda: waiting.discard(future))
        future.given_up = lambda: waiting.discard(future)
        waiting.add(future)
        chunks: list[bytes] = []
        size, share = 0, kept(ctx)

        def take(data: bytes) -> None:
            nonlocal size
            size += len(data)
            share.resize(size)
            if size > MAX_OUTGOING_BODY:
                raise LimitExceeded(f"a request body of more than {MAX_OUTGOING_BODY} bytes", "body")
            chunks.append(data)

        def finish(well: bool) -> None:
            if future.settled:
                return  # nobody wants the answer
            if well:
                trailers = request.body.trailers
                whole = replace(outgoing, body=b"".join(chunks) or None, trailers=lambda: trailers)
                future.asked = lambda: future.settle(self._exchange(ctx, whole))
            else:
                future.settle(Err(("HTTP-request-body-size", size)))

        request.body.connect(take, finish)
        return future

    def _exchange(self, ctx: HostContext, request: Outgoing) -> Any:
        """Ok(IncomingResponse) or Err(error-code); GatewayError of an exchange inside the application."""
        try:
            incoming = self.outbound.send_once(ctx, request)
        except HttpFailure as failure:
            return Err(error_code(failure))
        except DeadlineExceeded:
            return Err(("connection-read-timeout", None))
        headers, body = Headers(incoming.headers), BytesInput(incoming.body)
        body.share = kept(ctx, len(incoming.body))
        return Ok(IncomingResponse(incoming.status, headers, body, lambda: incoming.trailers))


def _of_trailers(name: str, value: str) -> bool:
    """Whether a guest may say this of the connection: that it sends trailers, and that it takes some."""
    return name == "trailer" or (name == "te" and value.strip().lower() == "trailers")
