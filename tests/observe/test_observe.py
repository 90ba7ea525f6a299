"""What an observer is told of a request, and that nothing else changes by it."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.executors.test_reuse import COUNT
from tests.executors.test_wasi_http_p3 import DATA
from tests.test_gateway import relay, say
from tests.wasi_p3_wat import P3Toolkit
from wasm_gateway import errors, observe
from wasm_gateway.engine import current
from wasm_gateway.errors import GatewayError, ManifestError
from wasm_gateway.messages import STREAMED, Headers, Request, Response
from wasm_gateway.observe import Call, Outcome, Quiet, Role
from wasm_gateway.outcomes import outcome_of


class Recorder(Quiet):
    """Keeps each call, with what was known of it when it began."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.errors: list[type[BaseException]] = []
        self.told: list[str] = []

    def begin(self, call: Call) -> str:
        self.told.append(f"begin {call.component}")
        assert call.status is None
        assert not call.seconds
        return call.component

    def end(self, call: Call, begun: str) -> None:
        assert begun == call.component
        self.told.append(f"end {call.component}")
        self.calls.append(call)
        self.errors.append(type(call.error))

    def passed(self, component: str, route: str, reason: str) -> None:
        self.told.append(f"passed {component} {route} {reason}")


class Door:
    """A messages.Begin that keeps what goes through it."""

    def __init__(self) -> None:
        self.head: Response | None = None
        self.body = b""

    def __call__(self, head: Response) -> Any:
        self.head = head
        return self.take

    def take(self, chunk: bytes | None) -> None:
        self.body += chunk or b""


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    yield Recorder()
    assert observe.current.call is None


def test_a_call_that_goes_well(application: Any, wat: Any, ask: Any, recorder: Recorder) -> None:
    gateway = application(
        "",
        {"observers": [recorder]},
        hello=application.part(wat.spin(say("hello", 404)), route="/items/:id/..."),
    )
    assert ask(gateway, "/items/1/secret?q", "POST") == (404, b"hello")
    [call] = recorder.calls
    assert (call.component, call.route, call.dialect) == ("hello", "/items/:id/...", "spin")
    assert (call.status, call.outcome, call.role) == (404, Outcome.OK, Role.ANSWER)
    assert (call.response_bytes, call.request.method, call.inner) == (5, "POST", False)
    assert call.start_seconds is not None
    assert call.guest_seconds is not None
    assert call.start_seconds > 0
    assert call.guest_seconds > 0
    assert call.start_seconds + call.guest_seconds <= call.seconds
    assert call.fields()["duration"] == call.seconds
    # what nobody answers, and what no guest does, is not observed
    assert ask(gateway, "/nobody") == (0, b"")
    assert ask(gateway, "/.well-known/spin/health") == (200, b"OK")
    assert len(recorder.calls) == 1


TRAP = say("never").replace("(call $text", "unreachable (call $text", 1)
LOOP = f"(loop $on (br $on)) {say('never')}"

# How a guest ends -> its body, its options, the request, status and outcome.
ENDS = {
    "trap": (TRAP, {}, {}, 500, Outcome.TRAP),
    "deadline": (LOOP, {"timeout": "50ms"}, {}, 504, Outcome.DEADLINE),
    "limit": (say("long"), {"max_response_body": 3}, {}, 500, Outcome.LIMIT),
    "memory": (say("big"), {"max_memory": "64KiB"}, {}, 500, Outcome.LIMIT),
    "refused": (say("no"), {"max_request_body": 3}, {"body": (b"four",)}, 413, Outcome.REFUSED),
    "undecodable": (say("no"), {}, {"headers": [("x", "\xff")]}, 500, Outcome.REFUSED),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_call_that_goes_wrong(
    application: Any, wat: Any, ask: Any, recorder: Recorder, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    body, tool, asked, status, outcome = ENDS[end]
    part = application.part(wat.spin(body), route="/end/...", tool=tool)
    gateway = application("", {"observers": [recorder]}, guest=part)
    with caplog.at_level(logging.INFO, "wasm_gateway"):
        assert ask(gateway, "/end/of/it", **asked) == (status, b"")
    [call] = recorder.calls
    assert (call.status, call.outcome, call.dialect) == (status, outcome, "spin")
    assert issubclass(recorder.errors[0], GatewayError)
    assert call.error is None  # it would keep the frames that it went through
    [record] = caplog.records
    fields = vars(record)
    assert (fields["component"], fields["route"], fields["outcome"]) == ("guest", "/end/...", str(outcome))
    assert fields["duration"] <= call.seconds
    assert fields["instance_start"] == call.start_seconds


def test_the_record_of_a_failure_that_nobody_watches(
    application: Any, wat: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = application(guest=application.part(wat.spin(TRAP), route="/end/..."))
    assert gateway.watch is None
    assert ask(gateway, "/end/1")[0] == 500
    [record] = caplog.records
    assert (vars(record)["route"], vars(record)["outcome"]) == ("/end/...", "trap")


def test_an_error_of_the_gateway(
    application: Any, wat: Any, ask: Any, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    def body() -> Iterator[bytes]:
        raise ZeroDivisionError
        yield b""

    gateway = application("", {"observers": [recorder]}, guest=wat.spin(say("never")))
    assert ask(gateway, "/guest", body=body())[0] == 500
    [call] = recorder.calls
    assert (call.outcome, call.status, recorder.errors[0]) == (Outcome.ERROR, 500, ZeroDivisionError)


def test_every_error_has_an_outcome() -> None:
    """The tree of errors.py, leaf by leaf; the tools of a developer raise some, and no request does."""
    leaves = {
        "ManifestError": "host",
        "TemplateError": "host",
        "ToolchainError": "host",
        "BuildError": "host",
        "DecodeError": "link",
        "UnsupportedError": "link",
        "NotBuilt": "link",
        "Trap": "trap",
        "GuestExit": "trap",
        "DeadlineExceeded": "deadline",
        "LimitExceeded": "limit",
        "Withheld": "host",
        "BodyTooLarge": "refused",
        "Disconnected": "disconnected",
        "Saturated": "saturated",
    }
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    found = {
        kind.__name__: str(outcome_of(kind.__new__(kind)))
        for kind in kinds
        if not any(other is not kind and issubclass(other, kind) for other in kinds)
    }
    assert found == leaves
    assert outcome_of(ValueError()) is Outcome.ERROR


def test_a_client_that_leaves(application: Any, components: Any, recorder: Recorder) -> None:
    gateway = application("", {"observers": [recorder]}, wait=components.waiting(b"early", 60))
    response = gateway.handle(Request("GET", "/wait", gone=lambda: True))
    assert response.status == 400
    assert recorder.calls[0].outcome is Outcome.DISCONNECTED


def test_a_response_that_streams(application: Any, components: Any, recorder: Recorder) -> None:
    gateway = application("", {"observers": [recorder]}, echo=components.echo())
    door = Door()
    chunks = iter([b"x" * 70_000, b"y" * 70_000, b"z"])
    assert gateway.handle(Request("POST", "/echo", body=chunks), begin=door) is STREAMED
    assert len(door.body) == 140_001
    [call] = recorder.calls
    assert (call.status, call.response_bytes) == (door.head and door.head.status, 140_001)
    assert call.outcome is Outcome.OK


def test_a_failure_behind_the_head(application: Any, components: Any, recorder: Recorder) -> None:
    """The client has a status already: that is the one that counts."""
    gateway = application("", {"observers": [recorder]}, wait=components.waiting(b"early", 60))
    door = Door()

    def begin(head: Response) -> Any:
        current.instance.deadline.at = 0.0  # long over
        return door(head)

    response = gateway.handle(Request("GET", "/wait"), begin=begin)
    assert (response.status, door.head and door.head.status, door.body) == (504, 200, b"early")
    [call] = recorder.calls
    assert (call.status, call.outcome, call.response_bytes) == (200, Outcome.DEADLINE, 5)


def test_a_failure_after_the_response(application: Any, components: Any, recorder: Recorder) -> None:
    wasm = components.http(
        "(call $answer (local.get $out) (i32.const 201) (i32.const 0) (i32.const 5)) unreachable",
        data='(data (i32.const 0) "hello")',
    )
    gateway = application("", {"observers": [recorder]}, late=wasm)
    assert gateway.handle(Request("GET", "/late")).status == 201
    [call] = recorder.calls
    assert (call.status, call.outcome, call.response_bytes) == (201, Outcome.TRAP, 5)


def test_calls_of_components_by_components(application: Any, wat: Any, ask: Any, recorder: Recorder) -> None:
    """Each is a call of its own, with times of its own; the one in the middle has no place left."""
    hosts = ["http://*.spin.internal"]
    gateway = application(
        "",
        {"observers": [recorder]},
        a=application.part(
            wat.spin(relay("http://b.spin.internal/x")),
            allowed_outbound_hosts=hosts,
            tool={"max_concurrency": 1},
        ),
        b=application.part(wat.spin(relay("http://a.spin.internal/y")), allowed_outbound_hosts=hosts),
    )
    assert ask(gateway, "/a")[0] == 200
    assert recorder.told == ["begin a", "begin b", "begin a", "end a", "end b", "end a"]
    refused, b, a = recorder.calls
    assert [call.route for call in recorder.calls] == ["chained", "chained", "/a/..."]
    assert [call.inner for call in recorder.calls] == [True, True, False]
    assert (refused.outcome, refused.status, refused.start_seconds) == (Outcome.SATURATED, 503, None)
    assert (a.outcome, b.outcome) == (Outcome.OK, Outcome.OK)
    assert b.seconds < a.seconds


def test_an_instance_that_answers_again_has_not_started_again(
    application: Any, ask: Any, recorder: Recorder
) -> None:
    part = application.part(
        P3Toolkit().handler(COUNT.format(""), data=DATA), tool={"max_instance_reuse_count": 2}
    )
    gateway = application("", {"observers": [recorder]}, count=part)
    assert [ask(gateway, "/count")[1] for _ in range(3)] == [b"A", b"B", b"A"]
    starts = [call.start_seconds is not None for call in recorder.calls]
    assert starts == [True, False, True]
    assert recorder.calls[1].guest_seconds is None


def test_an_observer_that_fails_harms_nobody(
    application: Any, wat: Any, ask: Any, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Quiet):
        def begin(self, call: Call) -> None:
            raise ZeroDivisionError

        end = passed = begin  # type: ignore[assignment]

    gateway = application("", {"observers": [Broken(), recorder]}, hello=wat.spin(say("hello")))
    assert ask(gateway, "/hello") == (200, b"hello")
    gateway.watch.passed("hello", "/hello", "native")
    assert recorder.told == ["begin hello", "end hello", "passed hello /hello native"]
    assert [record.getMessage()[:19] for record in caplog.records] == ["an observer failed:"] * 3


def test_observers_end_in_the_reverse_order(application: Any, wat: Any, ask: Any) -> None:
    told: list[str] = []

    class Named(Quiet):
        def __init__(self, name: str) -> None:
            self.name = name

        def begin(self, call: Call) -> None:
            told.append(f"begin {self.name}")

        def end(self, call: Call, begun: Any) -> None:
            told.append(f"end {self.name}")

    gateway = application("", {"observers": [Named("1"), Named("2")]}, hello=wat.spin(say("hello")))
    ask(gateway, "/hello")
    assert told == ["begin 1", "begin 2", "end 2", "end 1"]


def test_headers_that_an_observer_gives_the_guest(application: Any, wat: Any, ask: Any) -> None:
    class Carrier(Quiet):
        def begin(self, call: Call) -> None:
            call.carry([("x-site", "mine")], instead=("x-site", "x-other"))

    echo = wat.spin(
        "(call $out_headers (local.get $headers) (local.get $headers_len)) (call $respond (i32.const 200))"
    )
    gateway = application("", {"observers": [Carrier()]}, echo=echo)
    sent = [("x-site", "forged"), ("x-other", "forged"), ("x-kept", "kept")]
    body = ask(gateway, "/echo", headers=sent)[1]
    assert b"x-site=mine\n" in body
    assert b"x-kept=kept\n" in body
    assert b"forged" not in body


def test_nothing_is_left_to_the_garbage_collector(
    application: Any, wat: Any, ask: Any, garbage: Any, components: Any
) -> None:
    gateway = application(
        "",
        {"access_log": True, "server_timing": True, "observers": [Quiet()]},
        hello=wat.spin(say("hello")),
        trap=wat.spin(TRAP),
        echo=components.echo(),
    )

    def work() -> None:
        ask(gateway, "/hello")
        ask(gateway, "/trap")
        gateway.handle(
            Request("POST", "/echo", body=iter([b"x" * 70_000, b"y"])), begin=lambda head: lambda chunk: None
        )

    assert garbage(work) == []


# Messages

HANDLER = """(func (export "handle-redis-message") (param $at i32) (param $size i32) (result i32)
  (if (i32.eq (local.get $size) (i32.const 1)) (then unreachable)) (i32.const 64))"""
REDIS = '[[trigger.redis]]\naddress = "redis://localhost"\nchannel = "c"\ncomponent = "a"'


def test_messages(application: Any, wat: Any, recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    gateway = application(REDIS, {"observers": [recorder], "access_log": True}, a=wat.flat(say("a"), HANDLER))
    with caplog.at_level(logging.INFO, "wasm_gateway.access"):
        gateway.handle_redis("a", b"well")
        with pytest.raises(errors.Trap):
            gateway.handle_redis("a", b"!")
    found = [(call.route, call.dialect, call.outcome, call.status) for call in recorder.calls]
    assert found == [
        ("redis", "legacy-flat-redis", Outcome.OK, None),
        ("redis", "legacy-flat-redis", Outcome.TRAP, None),
    ]
    assert all(call.is_message and call.start_seconds for call in recorder.calls)
    well, trap = caplog.records
    assert well.getMessage().startswith("a message ok 0 bytes ")
    assert (vars(trap)["outcome"], vars(trap)["method"]) == ("trap", None)


# Server-Timing

TIMES = re.compile(r"wasm;dur=([0-9.]+), wasm-start;dur=([0-9.]+), wasm-guest;dur=([0-9.]+)").fullmatch


def timing(headers: Headers) -> list[float]:
    [value] = headers.get_all("server-timing")
    found = TIMES(value)
    assert found is not None, value
    return [float(number) for number in found.groups()]


def test_server_timing(application: Any, wat: Any, answer: Any, components: Any) -> None:
    parts = {
        "hello": wat.spin(say("hello")),
        "trap": wat.spin(TRAP),
        "echo": components.echo(),
        "relay": application.part(
            wat.spin(
                """(call $http_send (i32.const 0) (str "http://hello.spin.internal/") """
                + "(i32.const 0)" * 7
                + """ (i32.const 64))
                (call $out_headers (i32.load (i32.const 76)) (i32.load (i32.const 80)))
                (call $respond (i32.const 200))"""
            ),
            allowed_outbound_hosts=["http://hello.spin.internal"],
        ),
    }
    assert "server-timing" not in answer(application(**parts), "/hello").headers
    gateway = application("", {"server_timing": True}, **parts)
    for path in ("/hello", "/trap"):
        whole, start, guest = timing(answer(gateway, path).headers)
        assert 0 < start < whole
        assert 0 < guest < whole
    door = Door()
    gateway.handle(Request("POST", "/echo", body=iter([b"x" * 70_000, b"y"])), begin=door)
    assert door.head is not None
    timing(door.head.headers)
    # it is for the client, not for a component that calls another one
    response = answer(gateway, "/relay")
    timing(response.headers)
    assert b"server-timing" not in b"".join(response.body)


def test_a_call_that_has_no_instance_has_no_times_of_one(application: Any, wat: Any, answer: Any) -> None:
    part = application.part(wat.spin(say("no")), tool={"max_request_body": 3})
    gateway = application("", {"server_timing": True}, guest=part)
    headers = answer(gateway, "/guest", headers=[("content-length", "4")]).headers
    assert re.fullmatch(r"wasm;dur=[0-9.]+", headers.get("server-timing") or "")


# The packages are optional

WITHOUT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("prometheus_client", "opentelemetry"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
from wasm_gateway import Gateway, Request
from wasm_gateway.errors import ManifestError

manifest = sys.argv[1]
options = {"disable_cache": True, "access_log": True, "server_timing": True, "state_dir": ""}
with Gateway.from_manifest(manifest, **options) as gateway:
    print(gateway.handle(Request("GET", "/hello")).body)
for option in ("metrics", "tracing"):
    try:
        Gateway.from_manifest(manifest, **{option: True})
    except ManifestError as error:
        print(error)
"""


def test_without_the_packages(application: Any, wat: Any) -> None:
    manifest: Path = application.manifest({"hello": wat.spin(say("hello"))})
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(manifest)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "(b'hello',)",
        "metrics: prometheus-client is not installed: pip install 'wasm-gateway[metrics]'",
        "tracing: opentelemetry-api is not installed: pip install 'wasm-gateway[otel]'",
    ]


def test_an_observer_of_the_settings() -> None:
    from wasm_gateway.integrations import options

    assert type(options._made("tests.observe.test_observe.Recorder", "OBSERVERS")).__name__ == "Recorder"
    with pytest.raises(ManifestError, match=r"OBSERVERS: 'nowhere\.Recorder' cannot be imported"):
        options._made("nowhere.Recorder", "OBSERVERS")
