"""The two snapshots of WASI of 2023: whole guests of both, and what is not as in 0.2."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.component_wat import ECHO, ECHO_USES, HTTP, STREAMS
from tests.host.wasi.test_outgoing import Server, server
from wasm_gateway.assets import Mount
from wasm_gateway.component.types import OwnType, ResourceType, ResultType
from wasm_gateway.component.values import Err
from wasm_gateway.errors import DeadlineExceeded, Trap
from wasm_gateway.host.application import Hosts
from wasm_gateway.host.wasi.http import Fields, IncomingRequest, ResponseOutparam
from wasm_gateway.host.wasi.io import READY, BytesInput, SinkOutput, StreamClosed, wait_any
from wasm_gateway.host.wasi.snapshots_2023 import EDITS, FAMILIES, NOVEMBER, OCTOBER
from wasm_gateway.host.wasi.state import WasiTemplate
from wasm_gateway.host.wasi.udp import MAX_DATAGRAMS
from wasm_gateway.messages import Headers, Request
from wasm_gateway.runtime_config import RuntimeConfig

__all__ = ["server"]

SNAPSHOTS = (OCTOBER, NOVEMBER)
POLL = "wasi:io/poll@0.2.0"
CLOCK = "wasi:clocks/monotonic-clock@0.2.0"

# Guests of October. Their $answer, and an echo, whose code is that of 0.2 but for what is made and set.
ANSWER_OCTOBER = """
    (func $answer (param $out i32) (param $status i32) (param $at i32) (param $size i32)
      (local $response i32) (local $body i32) (local $stream i32)
      (local.set $response (call $outgoing-response (local.get $status)
        (call $fields (i32.const 0) (i32.const 0))))
      (call $outgoing-response.write (local.get $response) (i32.const 4000))
      (local.set $body (i32.load (i32.const 4004)))
      (call $response-outparam.set (local.get $out) (i32.const 0) (local.get $response) (i32.const 0)
        (i32.const 0))
      (call $outgoing-body.write (local.get $body) (i32.const 4000))
      (local.set $stream (i32.load (i32.const 4004)))
      (call $output-stream.blocking-write-and-flush (local.get $stream) (local.get $at) (local.get $size)
        (i32.const 4000))
      (call $drop.output-stream (local.get $stream))
      (call $outgoing-body.finish (local.get $body) (i32.const 0) (i32.const 0)))"""
ANSWERING_OCTOBER = {
    HTTP: (
        *("[constructor]fields", "[constructor]outgoing-response", "[method]outgoing-response.write"),
        *("[static]response-outparam.set", "[method]outgoing-body.write", "[static]outgoing-body.finish"),
    ),
    STREAMS: ("[method]output-stream.blocking-write-and-flush", "[resource-drop]output-stream"),
}
ECHO_OCTOBER = (
    ECHO.replace(
        "(call $outgoing-response (call $fields))",
        "(call $outgoing-response (i32.const 200) (call $fields (i32.const 0) (i32.const 0)))",
    )
    .replace("$outgoing-response.body", "$outgoing-response.write")
    .replace("(i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))", "(i32.const 0))")
    .replace("(i32.const 0) (i32.const 0) (i32.const 16))", "(i32.const 0) (i32.const 0))")
)

# Asks a server, whose authority lies at 0 and is {authority} bytes long, with a path of {path} bytes behind,
# and gives back the status and the beginning of the body; 502 and the error if there is any. It has {ms}
# milliseconds until the first byte, if it is {timed}.
READ = """
  (call $incoming-response.consume (local.get $response) (i32.const 512))
  (call $incoming-body.stream (i32.load (i32.const 516)) (i32.const 512))
  (call $input-stream.blocking-read (i32.load (i32.const 516)) (i64.const 4096) (i32.const 512))
  (call $answer (local.get $out) (call $incoming-response.status (local.get $response))
    (i32.load (i32.const 516)) (i32.load (i32.const 520)))"""
ASK_OCTOBER = f"""(local $future i32) (local $response i32)
  (call $handle
    (call $outgoing-request (i32.const 0) (i32.const 0) (i32.const 0)
      (i32.const 1) (i32.const {{authority}}) (i32.const {{path}})
      (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)
      (i32.const 1) (i32.const 0) (i32.const {{authority}})
      (call $fields (i32.const 0) (i32.const 0)))
    (i32.const 1) (i32.const 0) (i32.const 0) (i32.const {{timed}}) (i32.const {{ms}})
    (i32.const 0) (i32.const 0) (i32.const 512))
  (if (i32.load8_u (i32.const 512)) (then
    (call $answer (local.get $out) (i32.const 502) (i32.load (i32.const 520)) (i32.load (i32.const 524)))
    (return)))
  (local.set $future (i32.load (i32.const 516)))
  (call $poll-one (call $future-incoming-response.subscribe (local.get $future)))
  (call $future-incoming-response.get (local.get $future) (i32.const 512))
  (if (i32.load8_u (i32.const 520)) (then
    (call $answer (local.get $out) (i32.const 502) (i32.load (i32.const 528)) (i32.load (i32.const 532)))
    (return)))
  (local.set $response (i32.load (i32.const 524)))
  {READ}"""
ASK_NOVEMBER = f"""(local $request2 i32) (local $future i32) (local $response i32) (local $options i32)
  (local.set $request2 (call $outgoing-request (call $fields)))
  (drop (call $outgoing-request.set-scheme (local.get $request2)
    (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)))
  (drop (call $outgoing-request.set-authority (local.get $request2)
    (i32.const 1) (i32.const 0) (i32.const {{authority}})))
  (drop (call $outgoing-request.set-path-with-query (local.get $request2)
    (i32.const 1) (i32.const {{authority}}) (i32.const {{path}})))
  (local.set $options (call $request-options))
  (drop (call $request-options.set-first-byte-timeout-ms (local.get $options)
    (i32.const {{timed}}) (i64.mul (i64.const {{ms}}) (i64.const 1_000_000))))
  (call $handle (local.get $request2) (i32.const 1) (local.get $options) (i32.const 512))
  (if (i32.load8_u (i32.const 512)) (then
    (call $answer (local.get $out) (i32.const 502) (i32.const 520) (i32.const 1)) (return)))
  (local.set $future (i32.load (i32.const 520)))
  (call $pollable.block (call $future-incoming-response.subscribe (local.get $future)))
  (call $future-incoming-response.get (local.get $future) (i32.const 512))
  (if (i32.load8_u (i32.const 528)) (then
    (call $answer (local.get $out) (i32.const 502) (i32.const 536) (i32.const 1)) (return)))
  (local.set $response (i32.load (i32.const 536)))
  {READ}"""
ASKING = {
    HTTP: (
        *("[constructor]outgoing-request", "[method]future-incoming-response.subscribe"),
        *("[method]future-incoming-response.get", "[method]incoming-response.status"),
        *("[method]incoming-response.consume", "[method]incoming-body.stream"),
    ),
    "wasi:http/outgoing-handler@0.2.0": ("handle",),
    STREAMS: ("[method]input-stream.blocking-read",),
}
ASKING_OCTOBER = ASKING | {POLL: ("poll-one",)}
ASKING_NOVEMBER = ASKING | {
    HTTP: (
        *ASKING[HTTP],
        *("[method]outgoing-request.set-scheme", "[method]outgoing-request.set-authority"),
        *("[method]outgoing-request.set-path-with-query", "[constructor]request-options"),
        "[method]request-options.set-first-byte-timeout-ms",
    ),
    POLL: ("[method]pollable.block",),
}


def http(components: Any, snapshot: str, body: str, uses: Mapping[str, Any], data: str = "") -> bytes:
    more = {"answer": (ANSWER_OCTOBER, ANSWERING_OCTOBER)} if snapshot == OCTOBER else {}
    wasm: bytes = components.http(body, uses, data=data, version=snapshot, **more)
    return wasm


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_a_guest_gives_back_what_it_is_sent(
    snapshot: str, application: Any, ask: Any, components: Any
) -> None:
    body = ECHO_OCTOBER if snapshot == OCTOBER else ECHO
    gateway = application(a=http(components, snapshot, body, ECHO_USES))
    for chunks in ((), (b"one", b"two"), (bytes(range(256)) * 2000,)):
        assert ask(gateway, "/a", "POST", body=chunks) == (200, b"".join(chunks))


def asking(components: Any, snapshot: str, authority: str, path: str, ms: int = 0) -> bytes:
    body, uses = (ASK_OCTOBER, ASKING_OCTOBER) if snapshot == OCTOBER else (ASK_NOVEMBER, ASKING_NOVEMBER)
    sizes = {"authority": len(authority), "path": len(path), "timed": int(ms > 0), "ms": ms}
    return http(components, snapshot, body.format(**sizes), uses, f'(data (i32.const 0) "{authority}{path}")')


# Cases of the error-code of November, which is that of 0.2.
READ_TIMEOUT, DENIED = b"\x09", b"\x0f"


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_a_guest_asks_a_server(
    snapshot: str, application: Any, ask: Any, components: Any, server: Server
) -> None:
    guest = partial(asking, components, snapshot, server.authority)
    server.step.set()
    allowed = {"allowed_outbound_hosts": [f"http://{server.authority}"]}
    gateway = application(
        a=application.part(guest("/steps", ms=60_000), **allowed),
        denied=guest("/steps"),
        late=application.part(guest("/silence", ms=100), **allowed),
    )
    assert ask(gateway, "/a") in ((200, b"one"), (200, b"onetwo"))
    october = snapshot == OCTOBER
    assert ask(gateway, "/denied") == (502, b"ErrorCode::HttpRequestDenied" if october else DENIED)
    assert ask(gateway, "/late") == (502, b"ErrorCode::ConnectionReadTimeout" if october else READ_TIMEOUT)
    assert [path for _, path, _ in server.seen] == ["/steps", "/silence"]


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_a_guest_asks_another_component(snapshot: str, application: Any, ask: Any, components: Any) -> None:
    other = "(call $answer (local.get $out) (i32.const 203) (i32.const 0) (i32.const 4))"
    gateway = application(
        a=application.part(
            asking(components, snapshot, "b.spin.internal", "/x"),
            allowed_outbound_hosts=["http://b.spin.internal"],
        ),
        b=http(components, snapshot, other, {}, '(data (i32.const 0) "here")'),
    )
    assert ask(gateway, "/a") == (203, b"here")


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_a_guest_answers_with_an_error(
    snapshot: str, application: Any, ask: Any, components: Any, caplog: pytest.LogCaptureFixture
) -> None:
    more = "" if snapshot == OCTOBER else "(i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0)"
    body = f"""(call $response-outparam.set (local.get $out) (i32.const 1)
      (i32.const {0 if snapshot == OCTOBER else 35}) (i32.const 0) {more} (i32.const 0))"""
    assert ask(application(a=http(components, snapshot, body, {})), "/a") == (500, b"")
    assert ("internal-error" if snapshot == OCTOBER else "HTTP-protocol-error") in caplog.text


@pytest.mark.parametrize(
    ("snapshot", "exported"), [(OCTOBER, OCTOBER), (NOVEMBER, NOVEMBER), (NOVEMBER, "0.2.0-rc-2023-12-05")]
)
def test_a_command(snapshot: str, exported: str, application: Any, ask: Any, components: Any) -> None:
    """WAGI over wasi:cli: what comes at stdin goes to stdout, behind a header."""
    body = """(local $in i32) (local $to i32)
      (local.set $in (call $get-stdin)) (local.set $to (call $get-stdout))
      (call $output-stream.blocking-write-and-flush (local.get $to) (i32.const 0) (i32.const 26)
        (i32.const 64))
      (call $input-stream.blocking-read (local.get $in) (i64.const 100) (i32.const 64))
      (call $output-stream.blocking-write-and-flush (local.get $to) (i32.load (i32.const 68))
        (i32.load (i32.const 72)) (i32.const 64))
      (i32.const 0)"""
    uses = {
        "wasi:cli/stdin@0.2.0": ("get-stdin",),
        "wasi:cli/stdout@0.2.0": ("get-stdout",),
        STREAMS: (
            "[method]input-stream.blocking-read",
            "[method]output-stream.blocking-write-and-flush",
        ),
    }
    data = r'(data (i32.const 0) "content-type: text/plain\n\n")'
    wasm = components.command(body, uses, data, version=snapshot)
    wasm = wasm.replace(f"wasi:cli/run@{snapshot}".encode(), f"wasi:cli/run@{exported}".encode())
    gateway = application(a=application.part(wasm, wagi=True))
    assert ask(gateway, "/a", "POST", body=(b"hello",)) == (200, b"hello")


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_both_snapshots_in_one_application(
    snapshot: str, application: Any, ask: Any, components: Any
) -> None:
    """A guest of 0.2 beside those of 2023: resources of each have their own types."""
    gateway = application(
        a=http(components, snapshot, ECHO_OCTOBER if snapshot == OCTOBER else ECHO, ECHO_USES),
        b=components.echo(),
    )
    assert [ask(gateway, f"/{id}", "POST", body=(b"x",)) for id in "aba"] == [(200, b"x")] * 3


# Types


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    made = Hosts(RuntimeConfig())
    yield made
    made.close()


@pytest.fixture
def functions(hosts: Hosts) -> Callable[[str], Mapping[str, Callable[..., Any]]]:
    """`functions("wasi:io/poll")`, those of October."""

    def functions(interface: str) -> Mapping[str, Callable[..., Any]]:
        offered = hosts.interface(f"{interface}@{OCTOBER}")
        assert offered is not None
        return offered.functions

    return functions


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_interfaces_of_a_snapshot_share_its_resources(snapshot: str, hosts: Hosts) -> None:
    http, streams, later = (
        hosts.interface(name)
        for name in (f"wasi:http/types@{snapshot}", f"wasi:io/streams@{snapshot}", STREAMS)
    )
    assert http is not None
    assert streams is not None
    assert later is not None
    result = http.type.funcs["[method]incoming-body.stream"].result
    assert isinstance(result, ResultType)
    assert isinstance(result.ok, OwnType)
    input_stream = result.ok.rt
    assert input_stream == streams.type.types["input-stream"] != later.type.types["input-stream"]
    assert isinstance(input_stream, ResourceType)
    assert input_stream.dtor is not None


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_every_edit_finds_its_words(snapshot: str) -> None:
    texts = "".join({text for family in FAMILIES for text in family.INTERFACES.values()})
    assert [words for words, _ in EDITS[snapshot] if words not in texts] == []


def test_a_snapshot_has_what_it_had(hosts: Hosts) -> None:
    assert hosts.interface(f"wasi:io/error@{OCTOBER}") is None
    assert hosts.interface(f"wasi:clocks/timezone@{NOVEMBER}") is None
    assert hosts.interface("wasi:io/streams@0.2.0-rc-2023-12-05") is None
    for snapshot in SNAPSHOTS:
        types = hosts.interface(f"wasi:http/types@{snapshot}")
        assert types is not None
        assert "[method]fields.has" not in types.type.funcs


# October: io, clocks, files


def test_streams_that_are_given_away(functions: Callable[..., Any], context: Callable[..., Any]) -> None:
    streams, ctx = functions("wasi:io/streams"), context()
    dropped: list[Any] = []

    class Source(BytesInput):
        def close(self, ctx: Any) -> None:
            dropped.append(self)

    got: list[bytes] = []
    sink = SinkOutput(got.append)
    for name in ("splice", "blocking-splice"):
        assert streams[f"[method]output-stream.{name}"](ctx, sink, Source(b"abc"), 2) == 2
        assert streams[f"[method]output-stream.{name}"](ctx, sink, Source(b""), 2) == Err(("closed", None))
    assert streams["[method]output-stream.forward"](ctx, sink, Source(bytes(3 << 20))) == 3 << 20
    assert (got[:2], len(b"".join(got))) == ([b"ab", b"ab"], (3 << 20) + 4)
    assert len(dropped) == 5


def test_forward_to_a_stream_that_fails(functions: Callable[..., Any], context: Callable[..., Any]) -> None:
    def refuse(data: bytes) -> None:
        raise StreamClosed

    class Closed(SinkOutput):
        def check_write(self, ctx: Any) -> int:
            raise StreamClosed

    forward, ctx = functions("wasi:io/streams")["[method]output-stream.forward"], context()
    assert forward(ctx, Closed(refuse), BytesInput(b"abc")) == Err(("closed", None))


def test_forward_without_end(functions: Callable[..., Any], context: Callable[..., Any]) -> None:
    class Endless(BytesInput):
        def read(self, ctx: Any, length: int) -> bytes:
            return b"x"

    with pytest.raises(DeadlineExceeded):
        functions("wasi:io/streams")["[method]output-stream.forward"](
            context(seconds=0.05), SinkOutput(len), Endless()
        )


def test_polling(functions: Callable[..., Any], context: Callable[..., Any]) -> None:
    poll, clock, ctx = functions("wasi:io/poll"), functions("wasi:clocks/monotonic-clock"), context()
    soon = clock["subscribe"](ctx, 1_000_000, False)
    later = clock["subscribe"](ctx, clock["now"](ctx) + 3_600_000_000_000, True)
    assert poll["poll-list"](ctx, [later, READY]) == [1]
    assert poll["poll-list"](ctx, [later, soon]) == [1]
    assert poll["poll-one"](ctx, soon) is None
    assert not later.ready()
    assert clock["subscribe"](ctx, clock["now"](ctx), True).ready()
    assert not clock["subscribe"](ctx, clock["now"](ctx), False).ready()
    with pytest.raises(Trap):
        poll["poll-list"](ctx, [])


def test_files(functions: Callable[..., Any], context: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"text")
    types, ctx = functions("wasi:filesystem/types"), context()
    ctx.wasi = WasiTemplate(mounts=[Mount("/", tmp_path)]).state()
    [(root, path)] = functions("wasi:filesystem/preopens")["get-directories"](ctx)
    assert path == "/"
    opened = types["[method]descriptor.open-at"](ctx, root, 0, "a", 0, 1, 0)
    assert types["[method]descriptor.read"](ctx, opened, 10, 0) == (b"text", False)
    assert types["[method]descriptor.open-at"](ctx, root, 0, "b", 0, 1, 0) == Err("no-entry")
    for name, arguments in (
        ("access-at", (0, "a", ("exists", None))),
        ("change-file-permissions-at", (0, "a", 7)),
        ("lock-exclusive", ()),
        ("unlock", ()),
    ):
        assert types[f"[method]descriptor.{name}"](ctx, root, *arguments) == Err("unsupported")


# Sockets


LOCAL = (127, 0, 0, 1)


def datagrams() -> socket.socket:
    """A peer on loopback."""
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.bind(("127.0.0.1", 0))
    peer.settimeout(20)
    return peer


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_sockets_of_ipv6_are_of_ipv6_only(snapshot: str, hosts: Hosts, context: Callable[..., Any]) -> None:
    ctx = context()
    for kind in ("tcp", "udp"):
        create, methods = (
            hosts.interface(f"wasi:sockets/{name}@{snapshot}") for name in (f"{kind}-create-socket", kind)
        )
        assert create is not None
        assert methods is not None
        get, set_ = (methods.functions[f"[method]{kind}-socket.{name}ipv6-only"] for name in ("", "set-"))
        old, new = (create.functions[f"create-{kind}-socket"](ctx, family) for family in ("ipv4", "ipv6"))
        assert get(ctx, old) == set_(ctx, old, True) == Err("not-supported")
        if not isinstance(new, Err):  # there is IPv6 here
            assert get(ctx, new) is True
            assert set_(ctx, new, True) is None
            assert set_(ctx, new, False) == Err("not-supported")


def test_options_of_tcp(functions: Callable[..., Any], context: Callable[..., Any]) -> None:
    tcp, ctx = functions("wasi:sockets/tcp"), context()
    sock = functions("wasi:sockets/tcp-create-socket")["create-tcp-socket"](ctx, "ipv4")
    for name, value in (("no-delay", True), ("keep-alive", True), ("unicast-hop-limit", 7)):
        assert tcp[f"[method]tcp-socket.{name}"](ctx, sock) != value
        assert tcp[f"[method]tcp-socket.set-{name}"](ctx, sock, value) is None
        assert tcp[f"[method]tcp-socket.{name}"](ctx, sock) == value
    tcp["[resource-drop]tcp-socket"](ctx, sock)
    assert sock.closed


def test_names_are_not_looked_up(functions: Callable[..., Any], context: Callable[..., Any]) -> None:
    network = functions("wasi:sockets/instance-network")["instance-network"](context())
    resolve = functions("wasi:sockets/ip-name-lookup")["resolve-addresses"]
    assert resolve(context(), network, "localhost", "ipv4", True) == Err("permanent-resolver-failure")


@pytest.fixture
def udp(functions: Callable[..., Any], context: Callable[..., Any]) -> Callable[..., Any]:
    """`udp("receive", ...)` of a bound socket; `udp.sock` is that."""
    ctx, methods = context(allowed=["udp://127.0.0.1:*"]), functions("wasi:sockets/udp")
    sock = functions("wasi:sockets/udp-create-socket")["create-udp-socket"](ctx, "ipv4")

    def udp(name: str, *arguments: Any) -> Any:
        if name == "drop":
            return methods["[resource-drop]udp-socket"](ctx, sock)
        if name == "wait":
            return wait_any(ctx, [methods["[method]udp-socket.subscribe"](ctx, sock)])
        return methods[f"[method]udp-socket.{name}"](ctx, sock, *arguments)

    assert udp("receive", 1) == udp("send", []) == Err("invalid-state")  # not bound
    udp("wait")
    assert udp("start-bind", None, ("ipv4", (0, LOCAL))) is None
    assert udp("finish-bind") is None
    return udp


def test_datagrams_to_anybody(udp: Any) -> None:
    with datagrams() as peer:
        port = peer.getsockname()[1]
        assert udp("receive", 1) == Err("would-block")
        assert udp("receive", 0) == []
        assert udp("send", [(b"ping", ("ipv4", (port, LOCAL)))]) == 1
        data, sender = peer.recvfrom(100)
        assert data == b"ping"
        peer.sendto(b"pong", sender)
        udp("wait")
        assert udp("receive", 5) == [(b"pong", ("ipv4", (port, LOCAL)))]
        assert udp("local-address") == ("ipv4", (sender[1], LOCAL))
        assert udp("send", [(b"x", ("ipv4", (port, (10, 0, 0, 1))))]) == Err("access-denied")
        assert udp("send", []) == 0
        assert udp("send", [(b"x", ("ipv4", (port, LOCAL)))] * (MAX_DATAGRAMS + 1)) == MAX_DATAGRAMS


def test_datagrams_to_one(udp: Any) -> None:
    with datagrams() as one, datagrams() as two:
        first, second = (("ipv4", (peer.getsockname()[1], LOCAL)) for peer in (one, two))
        assert udp("finish-connect") == Err("not-in-progress")
        for peer, address in ((one, first), (two, second)):
            assert udp("start-connect", None, address) is None
            assert udp("finish-connect") is None
            assert udp("remote-address") == address
            assert udp("send", [(b"hello", address)]) == 1
            assert peer.recv(100) == b"hello"
        assert udp("send", [(b"hello", first)]) == Err("invalid-argument")
        assert udp("start-connect", None, ("ipv4", (9, (10, 0, 0, 1)))) == Err("access-denied")
        assert udp("finish-connect") == Err("not-in-progress")
        local = udp("local-address")
        udp("drop")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", local[1][0]))  # the port is free again, whatever streams there were


UDP_USES = {
    "wasi:sockets/instance-network@0.2.0": ("instance-network",),
    "wasi:sockets/udp-create-socket@0.2.0": ("create-udp-socket",),
    "wasi:sockets/udp@0.2.0": (
        *("[method]udp-socket.start-bind", "[method]udp-socket.finish-bind", "[method]udp-socket.send"),
        *("[method]udp-socket.receive", "[method]udp-socket.subscribe", "[resource-drop]udp-socket"),
    ),
    POLL: ("poll-one",),
}


def test_a_guest_sends_a_datagram_and_gives_back_the_answer(
    application: Any, ask: Any, components: Any
) -> None:
    with datagrams() as peer, ThreadPoolExecutor(1) as pool:
        port = peer.getsockname()[1]
        body = f"""(local $socket i32)
          (call $create-udp-socket (i32.const 0) (i32.const 512))
          (local.set $socket (i32.load (i32.const 516)))
          (call $udp-socket.start-bind (local.get $socket) (call $instance-network)
            (i32.const 0) (i32.const 0) (i32.const 127) (i32.const 0) (i32.const 0) (i32.const 1)
            {"(i32.const 0)" * 6} (i32.const 512))
          (call $udp-socket.finish-bind (local.get $socket) (i32.const 512))
          (i32.store (i32.const 604) (i32.const 4))
          (i32.store16 (i32.const 612) (i32.const {port}))
          (i32.store8 (i32.const 614) (i32.const 127)) (i32.store8 (i32.const 617) (i32.const 1))
          (call $udp-socket.send (local.get $socket) (i32.const 600) (i32.const 1) (i32.const 512))
          (if (i32.load8_u (i32.const 512)) (then unreachable))
          (call $poll-one (call $udp-socket.subscribe (local.get $socket)))
          (call $udp-socket.receive (local.get $socket) (i64.const 5) (i32.const 512))
          (call $drop.udp-socket (local.get $socket))
          (call $answer (local.get $out) (i32.const 200) (i32.load (i32.load (i32.const 516)))
            (i32.load offset=4 (i32.load (i32.const 516))))"""
        wasm = http(components, OCTOBER, body, UDP_USES, '(data (i32.const 0) "ping")')
        gateway = application(a=application.part(wasm, allowed_outbound_hosts=["udp://127.0.0.1:*"]))
        answered = pool.submit(ask, gateway, "/a")
        data, sender = peer.recvfrom(100)
        peer.sendto(data + b" pong", sender)
        assert answered.result() == (200, b"ping pong")


def test_a_socket_that_is_dropped_is_closed(udp: Any) -> None:
    with datagrams() as peer:
        address = "ipv4", (peer.getsockname()[1], LOCAL)
        assert udp("send", [(b"1", address)]) == 1
        local = peer.recvfrom(100)[1]
        udp("drop")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(local)  # the port is free again


# October: http


@pytest.fixture
def types(functions: Callable[..., Any]) -> Any:
    return functions("wasi:http/types")


def test_fields_are_right_or_a_trap(types: Any, context: Callable[..., Any]) -> None:
    ctx = context()
    fields = types["[constructor]fields"](ctx, [("X-A", b"1"), ("x-b", b"2")])
    assert types["[method]fields.append"](ctx, fields, "x-a", b"3") is None
    assert types["[method]fields.set"](ctx, fields, "x-b", [b"4"]) is None
    assert types["[method]fields.delete"](ctx, fields, "x-c") is None
    assert types["[method]fields.entries"](ctx, fields) == [("x-a", b"1"), ("x-a", b"3"), ("x-b", b"4")]
    for name, arguments in (
        ("[constructor]fields", ([("", b"")],)),
        ("[method]fields.append", (fields, "x y", b"")),
        ("[method]fields.set", (fields, "host", [b""])),
        ("[method]fields.delete", (fields.frozen(), "x-a")),
    ):
        with pytest.raises(Trap, match=r"fields\.[a-z-]+: (invalid-syntax|forbidden|immutable)"):
            types[name](ctx, *arguments)


def test_a_request_is_made_at_once(types: Any) -> None:
    make, fields = types["[constructor]outgoing-request"], Fields([("x-a", b"1")])
    request = make(None, ("post", None), "/x?y", ("HTTPS", None), "example.com", fields)
    assert (request.method, request.target, request.scheme, request.authority) == (
        ("post", None),
        "/x?y",
        ("HTTPS", None),
        "example.com",
    )
    assert request.fields.pairs == fields.pairs
    assert (request.fields.mutable, fields.mutable) == (False, True)  # they were lent
    assert types["[method]outgoing-request.write"](None, request) is request.body
    assert types["[method]outgoing-request.write"](None, request) == Err(None)
    for arguments in (
        (("other", "a b"), None, None, None),
        (("get", None), "no path", None, None),
        (("get", None), None, ("other", "1"), None),
        (("get", None), None, None, "a b"),
    ):
        with pytest.raises(Trap, match=r"outgoing-request\.set-"):
            make(None, *arguments, fields)


def test_a_response_is_made_at_once(types: Any) -> None:
    make, fields = types["[constructor]outgoing-response"], Fields([("content-length", b"2")])
    response = make(None, 404, fields)
    assert (response.status, response.fields.pairs, fields.mutable) == (404, fields.pairs, True)
    with pytest.raises(Trap, match="set-status-code"):
        make(None, 99, fields)
    body = types["[method]outgoing-response.write"](None, response)
    with pytest.raises(Trap, match=r"HTTP-re[a-z]+-body-size"):
        types["[static]outgoing-body.finish"](None, body, None)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (("invalid-url", "a"), "invalid url: a"),
        (("timeout-error", "b"), "timeout: b"),
        (("protocol-error", "c"), "protocol error: c"),
        (("unexpected-error", "d"), "unexpected error: d"),
    ],
)
def test_an_error_becomes_an_error_code(types: Any, error: tuple[str, str], text: str) -> None:
    got: list[Any] = []
    types["[static]response-outparam.set"](None, ResponseOutparam(got.append), Err(error))
    assert got == [Err(("internal-error", text))]


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_there_are_trailers_once(snapshot: str, hosts: Hosts, context: Callable[..., Any]) -> None:
    offered, ctx = hosts.interface(f"wasi:http/types@{snapshot}"), context()
    assert offered is not None
    types = offered.functions
    request = IncomingRequest("GET", "/", None, Headers(), BytesInput())
    body = types["[method]incoming-request.consume"](ctx, request)
    future = types["[static]incoming-body.finish"](ctx, body)
    trailers = types["[method]future-trailers.get"](ctx, future).value
    assert trailers.pairs == [] if snapshot == OCTOBER else trailers is None
    with pytest.raises(Trap, match="taken already"):
        types["[method]future-trailers.get"](ctx, future)


def test_a_request_without_authority_stays_in_the_application(
    types: Any, functions: Callable[..., Any], context: Callable[..., Any]
) -> None:
    handle, ctx = functions("wasi:http/outgoing-handler")["handle"], context(allowed=["http://self"])
    asked: list[Request] = []

    def answer(request: Request) -> Any:
        asked.append(request)
        raise LookupError("nobody is here")

    ctx.answer_self = answer
    request = types["[constructor]outgoing-request"](None, ("get", None), "/x", None, None, Fields())
    future = handle(ctx, request, (None, 1, None))
    wait_any(ctx, [future])
    got = types["[method]future-incoming-response.get"](ctx, future)
    assert isinstance(got.value, Err)
    assert got.value.value[0] == "unexpected-error"
    assert [request.path for request in asked] == ["/x"]
    assert types["[method]future-incoming-response.get"](ctx, future) == Err(None)


def test_what_is_denied_is_said_at_once(
    types: Any, functions: Callable[..., Any], context: Callable[..., Any]
) -> None:
    handle = functions("wasi:http/outgoing-handler")["handle"]
    request = types["[constructor]outgoing-request"](None, ("get", None), "/", None, "example.com", Fields())
    assert handle(context(), request, None) == Err(("unexpected-error", "ErrorCode::HttpRequestDenied"))
