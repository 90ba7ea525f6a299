"""A whole application: routes to real guests, what these are given, and the life of the gateway."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.component_wat import BEGIN, LOCALS
from wasm_gateway import Gateway
from wasm_gateway.engine import Engine
from wasm_gateway.errors import (
    ComponentError,
    DecodeError,
    GuestError,
    HostError,
    LinkError,
    ManifestError,
)
from wasm_gateway.loader import entry_ids, served
from wasm_gateway.manifest import load_manifest
from wasm_gateway.messages import Request
from wasm_gateway.runtime_config import RuntimeConfig

DIALECTS = ["flat", "spin"]

# Bodies of handlers.

ECHO = """
  (call $out (local.get $uri) (local.get $uri_len)) (call $out_byte (i32.const 10))
  (call $out_headers (local.get $headers) (local.get $headers_len))
  (call $out (local.get $body) (local.get $body_len))
  (call $respond (i32.const 200))"""

ENVIRONMENT = """
  (call $print (str "content-type: text/plain\\n\\n"))
  (drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))
  (drop (call $environ_get (i32.const 0x20000) (i32.const 0x30000)))
  (call $print (i32.const 0x30000) (i32.load (i32.const 20)))"""

ARGUMENTS = """
  (call $print (str "content-type: text/plain\\n\\n"))
  (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
  (drop (call $args_get (i32.const 0x20000) (i32.const 0x30000)))
  (call $print (i32.const 0x30000) (i32.load (i32.const 20)))"""


def say(text: str, status: int = 200) -> str:
    return f'(call $text (i32.const {status}) (str "{text}"))'


def relay(uri: str) -> str:
    """Answers with status, a space and body of what `uri` answered; or "error" and the number of the case."""
    return f"""
      (call $http_send (i32.const 0) (str "{uri}") {"(i32.const 0)" * 7} (i32.const 64))
      (if (i32.load8_u (i32.const 64))
        (then (call $out (str "error ")) (call $out_number (i32.load8_u (i32.const 68))))
        (else (call $out_number (i32.load16_u (i32.const 68))) (call $out_byte (i32.const 32))
              (call $out (i32.load (i32.const 88)) (i32.load (i32.const 92)))))
      (call $respond (i32.const 200))"""


def read_key(key: str) -> str:
    """Answers with the value of `key` in the default store; or with the cases of errors of open and get."""
    return f"""
      (call $kv_open (str "default") (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then
        (call $out (str "open ")) (call $out_number (i32.load8_u (i32.const 68)))
        (return (call $respond (i32.const 200)))))
      (call $kv_get (i32.load (i32.const 68)) (str "{key}") (i32.const 64))
      (if (i32.load8_u (i32.const 64))
        (then (call $out (str "get ")) (call $out_number (i32.load8_u (i32.const 68))))
        (else (call $out (i32.load (i32.const 68)) (i32.load (i32.const 72)))))
      (call $respond (i32.const 200))"""


COUNT = """
  (call $kv_open (str "default") (i32.const 64))
  (local.set $i (i32.load (i32.const 68)))
  (i32.store8 (i32.const 96) (i32.const 48))
  (call $kv_get (local.get $i) (str "count") (i32.const 64))
  (if (i32.eqz (i32.load8_u (i32.const 64)))
    (then (i32.store8 (i32.const 96) (i32.add (i32.const 1) (i32.load8_u (i32.load (i32.const 68)))))))
  (call $kv_set (local.get $i) (str "count") (i32.const 96) (i32.const 1) (i32.const 64))
  (call $text (i32.const 200) (i32.const 96) (i32.const 1))"""


def headers_of(body: bytes) -> dict[str, list[str]]:
    """What ECHO says of the request's headers."""
    found: dict[str, list[str]] = {}
    for line in body.decode().splitlines()[1:]:
        name, equals, value = line.partition("=")
        if equals:
            found.setdefault(name, []).append(value)
    return found


def variables_of(body: bytes) -> dict[str, str]:
    return dict(item.split("=", 1) for item in body.decode().split("\0")[:-1])


# Requests find their component


def test_requests_go_to_the_component_of_their_route(wat: Any, application: Any, ask: Any) -> None:
    gateway = application(
        exact=application.part(wat.flat(say("exact")), route="/a/b"),
        parameter=application.part(wat.spin(say("parameter")), route="/a/:id"),
        rest=application.part(wat.wagi(b"content-type: text/plain\n\nrest"), route="/a/...", wagi=True),
    )
    assert ask(gateway, "/a/b") == (200, b"exact")
    assert ask(gateway, "/a/b?x=/a/c") == (200, b"exact")
    assert ask(gateway, "/a/c") == (200, b"parameter")
    assert ask(gateway, "/a/c/d") == (200, b"rest")


def test_a_path_that_no_route_matches_is_nobodys(wat: Any, application: Any) -> None:
    gateway = application(a=application.part(wat.flat(say("a")), route="/a"))
    assert gateway.match("/b") is None
    assert gateway.handle(Request("GET", "/b")) is None


def test_a_match_that_was_made_before_is_used(wat: Any, application: Any) -> None:
    gateway = application(a=wat.flat(ECHO))
    request = Request("GET", "/a/x")
    response = gateway.handle(request, gateway.match("/a/y"))
    assert "spin-path-info=/y" in b"".join(response.body).decode()


STATIC = """
[[trigger.http]]
id = "teapot"
route = "/teapot"
static_response = { status_code = 418, headers = { x-tea = "earl grey" }, body = "short and stout" }
[[trigger.http]]
id = "empty"
route = "/empty"
static_response = { }
"""


@pytest.mark.parametrize("method", ["GET", "BREW"])
def test_a_static_response_needs_no_component(application: Any, answer: Any, method: str) -> None:
    gateway = application(STATIC)
    response = answer(gateway, "/teapot", method)
    assert (response.status, response.body) == (418, (b"short and stout",))
    assert list(response.headers) == [("x-tea", "earl grey")]
    response = answer(gateway, "/empty", method)
    assert (response.status, response.body, len(response.headers)) == (200, (), 0)
    assert gateway.stats() == []


def test_a_private_route_is_for_other_components_alone(wat: Any, application: Any) -> None:
    gateway = application(hidden=application.part(wat.flat(say("hidden")), route=None))
    assert gateway.match("/hidden") is None
    assert gateway.match("/") is None
    assert gateway.describe() == []
    assert [row.component for row in gateway.stats()] == ["hidden"]


def test_well_known_endpoints_come_before_every_route(
    wat: Any, application: Any, answer: Any, ask: Any
) -> None:
    gateway = application(all=application.part(wat.flat(say("guest")), route="/..."))
    assert ask(gateway, "/.well-known/spin/health", "POST") == (200, b"OK")
    info = answer(gateway, "/.well-known/spin/info")
    assert info.headers.get("content-type") == "application/json"
    assert json.loads(b"".join(info.body)) == {"name": "guests", "version": "1.2.3"}
    assert ask(gateway, "/.well-known/spin/other") == (404, b"")
    # these are ordinary paths
    assert ask(gateway, "/.well-known/spin") == (200, b"guest")
    assert ask(gateway, "/.well-known/spindle/x") == (200, b"guest")


# What a guest sees of the request


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_guest_is_given_each_spin_header_once_and_no_other(
    wat: Any, application: Any, ask: Any, dialect: str
) -> None:
    gateway = application(a=application.part(wat.http(dialect, ECHO), route="/a/:user_id/..."))
    status, body = ask(
        gateway,
        "/a/me/x%20y?q=1",
        headers=[
            ("Spin-Path-Info", "/forged"),
            ("spin-client-addr", "10.0.0.1:1"),
            ("SPIN-ANYTHING", "forged"),
            ("spinning", "is no such header"),
            ("Connection", "keep-alive"),
            ("X-Twice", "1"),
            ("x-twice", "2"),
        ],
        authority="example.com:8080",
        client=("192.0.2.7", 4711),
    )
    assert status == 200
    assert body.startswith(b"/a/me/x%20y?q=1\n")
    assert headers_of(body) == {
        "spinning": ["is no such header"],
        "x-twice": ["1", "2"],
        "spin-path-info": ["/x%20y"],
        "spin-full-url": ["http://example.com:8080/a/me/x%20y?q=1"],
        "spin-matched-route": ["/a/:user_id/..."],
        "spin-base-path": ["/"],
        "spin-raw-component-route": ["/a/:user_id/..."],
        "spin-component-route": ["/a/:user_id"],
        "spin-client-addr": ["192.0.2.7:4711"],
        "spin-path-match-user-id": ["me"],
    }


def test_a_wagi_guest_is_given_variables_instead(wat: Any, application: Any, ask: Any) -> None:
    gateway = application(
        a=application.part(
            wat.command(ENVIRONMENT), wagi=True, environment={"MODE": "manifest", "HTTP_X_A": "m"}
        )
    )
    _, body = ask(
        gateway,
        "/a/rest",
        headers=[("spin-path-info", "/forged"), ("connection", "close"), ("x-a", "client")],
    )
    variables = variables_of(body)
    assert variables["MODE"] == "manifest"
    assert variables["PATH_INFO"] == "/rest"
    assert variables["HTTP_X_A"] == "client"
    assert not {"HTTP_SPIN_PATH_INFO", "HTTP_CONNECTION"} & variables.keys()


@pytest.mark.parametrize("first", ['{ type = "wagi", argv = "first" }', '{ type = "http" }'])
def test_the_last_triggers_executor_is_used_for_all_of_a_component(
    wat: Any, application: Any, ask: Any, first: str
) -> None:
    """Spin: http, 2.5."""
    triggers = f"""
[[trigger.http]]
route = "/one"
component = "a"
executor = {first}
[[trigger.http]]
route = "/two"
component = "a"
executor = {{ type = "wagi", argv = "second ${{ARGS}}" }}"""
    gateway = application(a=application.part(wat.command(ARGUMENTS), triggers=triggers))
    assert ask(gateway, "/one?x") == (200, b"second\0x\0")
    assert ask(gateway, "/two?y&z") == (200, b"second\0y\0z\0")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("body", [(), (b"whole",), iter([b"in", b"", b"pieces"])])
def test_a_body_arrives_in_one_piece(wat: Any, application: Any, ask: Any, dialect: str, body: Any) -> None:
    gateway = application(
        a=wat.http(dialect, "(call $text (i32.const 201) (local.get $body) (local.get $body_len))")
    )
    expected = {0: b"", 1: b"whole"}.get(len(body) if isinstance(body, tuple) else -1, b"inpieces")
    if not isinstance(body, tuple):
        body = (b"in", b"", b"pieces")
    assert ask(gateway, "/a", "POST", body=iter(body)) == (201, expected)


# What a component is granted


def test_the_environment_of_the_command_goes_over_that_of_the_manifest(
    wat: Any, application: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_PROCESS", "x")
    gateway = application(
        a=application.part(
            wat.command(ENVIRONMENT), wagi=True, environment={"A": "manifest", "B": "manifest"}
        ),
        options={"environment": {"B": "command", "C": "command"}},
    )
    variables = variables_of(ask(gateway, "/a")[1])
    assert [variables[name] for name in "ABC"] == ["manifest", "command", "command"]
    assert "SECRET_OF_THE_PROCESS" not in variables


READ_FILE = """
  (local $i i32)
  (call $print (str "content-type: text/plain\\n\\n"))
  (local.set $i (call $path_open (i32.const 3) (i32.const 0) (str "page.txt")
    (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)))
  (if (local.get $i) (then (i32.store8 (i32.const 32) (i32.add (i32.const 48) (local.get $i)))
    (call $print (i32.const 32) (i32.const 1)) (return)))
  (i32.store (i32.const 0) (i32.const 0x20000))
  (i32.store (i32.const 4) (i32.const 1000))
  (drop (call $fd_read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)))
  (call $print (i32.const 0x20000) (i32.load (i32.const 8)))"""


@pytest.mark.parametrize(
    "files", [[{"source": "public", "destination": "/"}], ["*.txt"]], ids=["in-place", "copied"]
)
def test_a_guest_reads_the_files_that_it_is_granted(wat: Any, application: Any, ask: Any, files: Any) -> None:
    (application.folder / "public").mkdir()
    for folder in (application.folder, application.folder / "public"):
        (folder / "page.txt").write_text("a page")
    gateway = application(
        granted=application.part(wat.command(READ_FILE), wagi=True, files=files),
        denied=application.part(wat.command(READ_FILE), wagi=True),
    )
    assert ask(gateway, "/granted") == (200, b"a page")
    assert ask(gateway, "/denied") == (200, b"8")  # badf: there is no directory at all


@pytest.mark.parametrize("dialect", DIALECTS)
def test_variables_are_those_of_manifest_and_command(
    wat: Any, application: Any, ask: Any, dialect: str
) -> None:
    read = """
      (call $config_get (str "greeting") (i32.const 64))
      (call $out_number (i32.load8_u (i32.const 64))) (call $out_byte (i32.const 32))
      (if (i32.load8_u (i32.const 64)) (then (call $out_number (i32.load8_u (i32.const 68))))
        (else (call $out (i32.load (i32.const 68)) (i32.load (i32.const 72)))))
      (call $respond (i32.const 200))"""
    parts = {
        "granted": application.part(wat.http(dialect, read), variables={"greeting": "{{ word }} world"}),
        "denied": wat.http(dialect, read),
    }
    extra = '[variables]\nword = { default = "hello" }'
    gateway = application(extra, **parts)
    assert ask(gateway, "/granted") == (200, b"0 hello world")
    assert ask(gateway, "/denied") == (200, b"1 0")  # error.provider: no such variable
    gateway = application(extra, {"variables": {"word": "goodbye"}}, **parts)
    assert ask(gateway, "/granted") == (200, b"0 goodbye world")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_key_value_presets_are_there_before_the_first_request(
    wat: Any, application: Any, ask: Any, dialect: str
) -> None:
    gateway = application(
        granted=application.part(wat.http(dialect, read_key("word")), key_value_stores=["default"]),
        denied=wat.http(dialect, read_key("word")),
        options={"key_value": {"word": "preset"}, "state_dir": ""},
    )
    assert ask(gateway, "/granted") == (200, b"preset")
    assert ask(gateway, "/denied") == (200, b"open 2")  # error.access-denied


def test_state_is_kept_where_it_is_configured(wat: Any, application: Any, ask: Any) -> None:
    parts = {"a": application.part(wat.spin(COUNT), key_value_stores=["default"])}
    gateway = application(**parts)
    assert [ask(gateway, "/a")[1] for _ in range(3)] == [b"0", b"1", b"2"]
    assert (application.folder / ".spin" / "sqlite_key_value.db").is_file()
    gateway.close()
    assert ask(gateway, "/a") == (200, b"3")
    elsewhere = application(**parts, options={"state_dir": application.folder / "other"})
    assert ask(elsewhere, "/a") == (200, b"0")
    config = RuntimeConfig(state_dir=application.folder / "other")
    assert ask(application(**parts, options={"runtime_config": config}), "/a") == (200, b"1")
    nowhere = {"options": {"state_dir": ""}}
    assert [ask(application(**parts, **nowhere), "/a")[1] for _ in range(2)] == [b"0", b"0"]


def test_two_gateways_of_one_manifest_share_its_state_and_nothing_else(
    wat: Any, application: Any, ask: Any
) -> None:
    first = application(a=application.part(wat.flat(COUNT), key_value_stores=["default"]))
    second = application.gateway(first.manifest.path).open()
    assert [ask(gateway, "/a")[1] for gateway in (first, second, first)] == [b"0", b"1", b"2"]
    first.close()
    assert ask(second, "/a") == (200, b"3")
    assert [row.started for row in second.stats()] == [2]


# Components call each other


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("route", ["/b/...", None], ids=["public", "private"])
@pytest.mark.parametrize("host", ["http://b.spin.internal", "http://*.spin.internal"])
def test_a_component_calls_another_one(
    wat: Any, application: Any, ask: Any, dialect: str, route: str | None, host: str
) -> None:
    gateway = application(
        a=application.part(
            wat.http(dialect, relay("http://b.spin.internal/some/path?q=1")), allowed_outbound_hosts=[host]
        ),
        b=application.part(wat.http(dialect, ECHO), route=route),
    )
    status, body = ask(gateway, "/a", headers=[("x-client", "1")], client=("192.0.2.7", 4711))
    assert status == 200
    assert body.startswith(b"200 /some/path?q=1\n")
    # Spin: http, 10.3: nothing of the caller's own request, no host
    assert headers_of(body) == {
        "spin-path-info": ["/some/path"],
        "spin-full-url": ["http://localhost/some/path?q=1"],
        "spin-matched-route": ["/..."],
        "spin-base-path": ["/"],
        "spin-raw-component-route": ["/..."],
        "spin-component-route": [""],
        "spin-client-addr": ["0.0.0.0:0"],
    }
    assert [row.started for row in gateway.stats()] == [1, 1]


def test_a_command_that_is_called_sees_no_client(wat: Any, application: Any, ask: Any) -> None:
    gateway = application(
        a=application.part(
            wat.flat(relay("https://b.spin.internal:8080/x/y?q")), allowed_outbound_hosts=["*://*:*"]
        ),
        b=application.part(wat.command(ENVIRONMENT), wagi=True),
    )
    status, body = ask(gateway, "/a", client=("192.0.2.7", 4711), scheme="https")
    assert (status, body[:4]) == (200, b"200 ")
    variables = variables_of(body[4:])
    assert variables["REMOTE_ADDR"] == "0.0.0.0"
    assert variables["X_CLIENT_ADDR"] == "0.0.0.0:0"
    assert variables["X_FULL_URL"] == "http://localhost/x/y?q"
    assert variables["PATH_INFO"] == "/x/y"
    assert "HTTP_HOST" not in variables


@pytest.mark.parametrize(
    ("host", "seen"),
    [
        ("b.spin.internal", []),
        ("b.spin.internal:3000", []),
        ("a.b.spin.internal", ["a.b.spin.internal"]),
        ("spin.internal", ["spin.internal"]),
        ("b.spin.internal.example", ["b.spin.internal.example"]),
    ],
)
def test_a_host_that_means_a_component_is_not_shown(
    wat: Any, application: Any, ask: Any, host: str, seen: list[str]
) -> None:
    """Spin: http, 1, step 2; whoever sends it."""
    gateway = application(a=wat.flat(ECHO))
    _, body = ask(gateway, "/a", headers=[("Host", host)], authority=host)
    assert headers_of(body).get("host", []) == seen


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("http://b.spin.internal/", []),
        ("http://b.spin.internal/", ["http://c.spin.internal"]),
        ("http://b.spin.internal/", ["http://self"]),
        ("/b", ["http://b.spin.internal"]),
        ("http://127.0.0.1:1/", ["http://127.0.0.1:2"]),
    ],
)
def test_a_call_that_is_not_allowed(
    wat: Any, application: Any, ask: Any, caplog: pytest.LogCaptureFixture, uri: str, allowed: list[str]
) -> None:
    gateway = application(
        a=application.part(wat.spin(relay(uri)), allowed_outbound_hosts=allowed), b=wat.spin(say("b"))
    )
    assert ask(gateway, "/a") == (200, b"error 1")  # destination-not-allowed
    assert [row.started for row in gateway.stats()] == [1, 0]
    assert "component a: " in caplog.text
    assert "allowed_outbound_hosts" in caplog.text


@pytest.mark.parametrize("callee", ["nobody", "b"])
def test_a_callee_without_http_trigger_traps_its_caller(
    wat: Any, application: Any, ask: Any, caplog: pytest.LogCaptureFixture, callee: str
) -> None:
    redis = '[[trigger.redis]]\naddress = "redis://localhost"\nchannel = "c"\ncomponent = "b"'
    handler = '(func (export "handle-redis-message") (param i32 i32) (result i32) (i32.const 64))'
    gateway = application(
        a=application.part(
            wat.flat(relay(f"http://{callee}.spin.internal/")),
            allowed_outbound_hosts=[f"http://{callee}.spin.internal"],
        ),
        b=application.part(wat.flat(say("b"), handler), triggers=redis),
    )
    assert ask(gateway, "/a") == (500, b"")
    assert f"no HTTP trigger belongs to component '{callee}'" in caplog.text


def test_what_goes_wrong_in_a_callee_is_a_response_to_its_caller(
    wat: Any, application: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = application(
        a=application.part(
            wat.flat(relay("http://b.spin.internal/")), allowed_outbound_hosts=["http://b.spin.internal"]
        ),
        b=wat.spin("unreachable"),
    )
    assert ask(gateway, "/a") == (200, b"500 ")
    assert [record.component for record in caplog.records if hasattr(record, "component")] == ["b"]


def test_a_callee_has_no_more_time_than_its_caller(wat: Any, application: Any, ask: Any) -> None:
    gateway = application(
        a=application.part(
            wat.flat(relay("http://b.spin.internal/")),
            allowed_outbound_hosts=["http://b.spin.internal"],
            tool={"timeout": "100ms"},
        ),
        b=application.part(wat.flat("(loop (br 0)) (i32.const 0)"), tool={"timeout": 60}),
    )
    begin = time.monotonic()
    assert ask(gateway, "/a")[0] in (200, 504)  # the caller may have a tick left to tell
    assert time.monotonic() - begin < 30


def calls_itself(wat: Any, recursion: int) -> bytes:
    """A guest that uses some stack (5,000 is most of what it may use), then calls its own component.

    It answers with an "a" before what it was answered.
    """
    call = f"""(func $deep (param $n i32)
        (if (local.get $n) (then (call $deep (i32.sub (local.get $n) (i32.const 1))))
          (else (call $http_send (i32.const 0) (str "http://a.spin.internal/") {"(i32.const 0)" * 7}
            (i32.const 64)))))"""
    body = f"""
      (call $deep (i32.const {recursion}))
      (call $out_byte (i32.const 97))
      (call $out (i32.load (i32.const 88)) (i32.load (i32.const 92)))
      (call $respond (i32.const 200))"""
    wasm: bytes = wat.flat(body, call)
    return wasm


@pytest.mark.parametrize("recursion", [0, 5000])
def test_a_component_that_calls_itself_comes_to_an_end(
    wat: Any, application: Any, ask: Any, caplog: pytest.LogCaptureFixture, recursion: int
) -> None:
    gateway = application(
        a=application.part(calls_itself(wat, recursion), allowed_outbound_hosts=["http://a.spin.internal"])
    )
    for _ in range(2):
        status, answered = ask(gateway, "/a")
        assert status == 200
        assert answered in [b"a" * depth for depth in range(2, 18)]
    assert caplog.text.count("LimitExceeded: ") == 2
    assert gateway.stats()[0].started <= 2 * 18


def test_components_that_call_each_other_never_run_over_the_end_of_the_stack(
    wat: Any, application: Any
) -> None:
    parts = {
        f"r{recursion}": application.part(
            calls_itself(wat, recursion),
            triggers=f'[[trigger.http]]\nroute = "/{recursion}"\ncomponent = "a"',
        )
        for recursion in (0, 3000, 5000)
    }
    paths = []
    for id, part in parts.items():
        folder = application.folder / id
        folder.mkdir()
        application.folder = folder
        part.keys["allowed_outbound_hosts"] = ["http://a.spin.internal"]
        paths.append(str(application.manifest({"a": part})))
        application.folder = folder.parent
    # A thread is given the stack of an earlier one where that is large enough: small ones come first.
    script = f"""
import logging, threading
from wasm_gateway import Gateway
from wasm_gateway.messages import Request
logging.disable()
def run():
    for path in {paths!r}:
        gateway = Gateway.from_manifest(path, disable_cache=True, state_dir="")
        (trigger,) = gateway.manifest.http_triggers
        response = gateway.handle(Request("GET", trigger.route))
        print(size, len(b"".join(response.body)), flush=True)
        gateway.close()
for size in (768, 1024, 2048, 8192):
    threading.stack_size(size << 10)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    depths = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    assert len(depths) == 12
    assert all(1 <= depth <= 17 for _, depth in depths)
    # those that use little stack call each other as deep as they may, on any stack but the smallest
    assert [depth for size, depth in depths[::3] if size > 768] == [17, 17, 17]
    assert depths[-1] < [8192, 17]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_request_to_the_application_itself_is_routed(
    wat: Any, application: Any, ask: Any, dialect: str
) -> None:
    gateway = application(
        STATIC,
        a=application.part(wat.http(dialect, relay("/b/x?y")), allowed_outbound_hosts=["http://self"]),
        b=wat.http(dialect, ECHO),
        c=application.part(wat.http(dialect, relay("/teapot")), allowed_outbound_hosts=["http://self"]),
        d=application.part(wat.http(dialect, relay("/nowhere")), allowed_outbound_hosts=["http://self"]),
    )
    status, body = ask(gateway, "/a")
    assert (status, body.split(b"\n")[0]) == (200, b"200 /b/x?y")
    assert headers_of(body)["spin-matched-route"] == ["/b/..."]
    assert ask(gateway, "/c") == (200, b"418 short and stout")
    assert ask(gateway, "/d") == (200, b"404 ")


# What the gateway says about itself


def test_routes_are_described_in_order(wat: Any, application: Any) -> None:
    parts = {
        "hello": application.part(wat.flat(say("x")), route="/hello", description="Says hello"),
        "files": application.part(wat.wagi(b"x"), route="/files/...", wagi=True),
        "all": application.part(wat.spin(say("x")), route="/..."),
        "hidden": application.part(wat.flat(say("x")), route=None),
    }
    gateway = application.gateway(application.manifest(parts, STATIC))
    rows = [tuple(row.values()) for row in gateway.describe()]
    assert rows == [
        ("hello", "/hello", False, "hello", "http", None, "Says hello", None),
        ("files", "/files", True, "files", "wagi", None, "", None),
        ("all", "", True, "all", "http", None, "", None),
        ("teapot", "/teapot", False, None, "static", None, "", None),
        ("empty", "/empty", False, None, "static", None, "", None),
    ]
    gateway.open()
    assert [row["dialect"] for row in gateway.describe()] == ["legacy-flat", "wagi", "spin", None, None]


def test_statistics_count_what_was_started_and_what_failed(wat: Any, application: Any, ask: Any) -> None:
    once = "(if (i32.eq (local.get $method) (i32.const 1)) (then unreachable))" + say("")
    gateway = application(a=wat.flat(once), b=wat.flat(say("b")))
    for method in ["GET", "POST", "GET", "POST", "GET"]:
        ask(gateway, "/a", method)
    a, b = gateway.stats()
    assert (a.component, a.dialect, a.started, a.failed) == ("a", "legacy-flat", 5, 2)
    assert len(a.last_us) == 5
    assert all(0 < duration < 60e6 for duration in a.last_us)
    assert (b.started, b.failed, b.last_us) == (0, 0, [])
    gateway.close()
    assert gateway.stats() == []


def test_only_the_last_durations_are_kept(wat: Any, application: Any, ask: Any) -> None:
    gateway = application(a=wat.flat(say("a")))
    for _ in range(60):
        ask(gateway, "/a")
    assert (gateway.stats()[0].started, len(gateway.stats()[0].last_us)) == (60, 50)


# Guests' output


def test_what_a_guest_prints_goes_to_logging_and_log_files(
    wat: Any, application: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    body = """(call $print (str "to stdout\\nforged\\1b[31m\\n"))
      (call $write (i32.const 2) (str "to stderr"))"""
    gateway = application(a=wat.spin(body + say("a")), b=application.part(wat.command(body), wagi=True))
    assert ask(gateway, "/a") == (200, b"a")
    records = [(r.name, r.levelname, r.getMessage()) for r in caplog.records if ".guest." in r.name]
    assert records == [
        ("wasm_gateway.guest.a", "INFO", "to stdout"),
        ("wasm_gateway.guest.a", "INFO", "forged\\x1b[31m"),
        ("wasm_gateway.guest.a", "WARNING", "to stderr"),
    ]
    logs = application.folder / ".spin" / "logs"
    assert (logs / "a_stdout.txt").read_bytes() == b"to stdout\nforged\x1b[31m\n"
    assert (logs / "a_stderr.txt").read_bytes() == b"to stderr"
    # what a WAGI guest writes to stdout is its response
    assert ask(gateway, "/b")[0] == 500
    assert (logs / "b_stderr.txt").read_bytes() == b"to stderr"
    assert not (logs / "b_stdout.txt").exists()


def test_without_a_state_folder_there_are_no_log_files(wat: Any, application: Any, ask: Any) -> None:
    body = '(call $write (i32.const 2) (str "x"))'
    gateway = application(a=wat.spin(body + say("a")), options={"state_dir": ""})
    assert ask(gateway, "/a") == (200, b"a")
    assert not (application.folder / ".spin").exists()
    gateway = application(
        a=wat.spin(body + say("a")), options={"state_dir": "", "log_dir": application.folder / "logs"}
    )
    ask(gateway, "/a")
    assert (application.folder / "logs" / "a_stderr.txt").read_bytes() == b"x"


def test_output_that_is_followed_is_copied_to_stderr(
    wat: Any, application: Any, ask: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    body = '(call $print (str "seen\\n"))'
    parts = {"a": wat.spin(body + say("a")), "b": wat.spin(body + say("b"))}
    gateway = application(**parts, options={"follow": ["b"]})
    ask(gateway, "/a")
    assert capfd.readouterr().err == ""
    ask(gateway, "/b")
    assert capfd.readouterr().err == "seen\n"


# Loading


def test_the_first_request_opens_the_gateway(wat: Any, application: Any, ask: Any) -> None:
    gateway = application.gateway(application.manifest({"a": wat.flat(say("a"))}))
    assert gateway.stats() == []
    assert ask(gateway, "/a") == (200, b"a")


def test_a_gateway_opens_once_and_tells_how_far_it_is(wat: Any, application: Any) -> None:
    parts = {id: wat.flat(say(id)) for id in "abc"}
    gateway = application.gateway(application.manifest(parts))
    seen: list[tuple[str, int, int]] = []
    gateway.open(lambda *progress: seen.append(progress))
    gateway.open(lambda *progress: seen.append(progress))
    assert seen == [("a", 1, 3), ("b", 2, 3), ("c", 3, 3)]


def test_threads_that_open_at_once_load_once(wat: Any, application: Any, ask: Any) -> None:
    gateway = application.gateway(application.manifest({"a": wat.flat(say("a"))}))
    loaded: list[str] = []
    start = threading.Barrier(8)
    answers: list[Any] = []

    def run() -> None:
        start.wait()
        gateway.open(lambda id, done, total: loaded.append(id))
        answers.append(ask(gateway, "/a"))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loaded == ["a"]
    assert answers == [(200, b"a")] * 8


def test_a_gateway_may_be_closed_and_opened_again(wat: Any, application: Any, ask: Any) -> None:
    gateway = application.gateway(application.manifest({"a": wat.flat(say("a"))}))
    gateway.close()
    with gateway:
        assert ask(gateway, "/a") == (200, b"a")
    gateway.close()
    gateway.close()
    assert gateway.hosts is None
    assert ask(gateway, "/a") == (200, b"a")


def test_only_the_components_that_are_asked_for_are_loaded(wat: Any, application: Any, ask: Any) -> None:
    path = application.manifest({"a": wat.flat(say("a")), "b": b"no wasm at all"})
    (application.folder / "b.wasm").unlink()
    gateway = application.gateway(path, components=["a"])
    assert ask(gateway, "/a") == (200, b"a")
    assert gateway.match("/b") is None
    with pytest.raises(ManifestError, match="nobody"):
        application.gateway(path, components=["nobody"])


def test_a_component_whose_binary_is_missing_says_what_to_do(wat: Any, application: Any) -> None:
    path = application.manifest(
        {
            "a": wat.flat(say("a")),
            "b": application.part(b"", build={"command": "cargo build"}),
        }
    )
    (application.folder / "b.wasm").unlink()
    gateway = application.gateway(path)
    with pytest.raises(ManifestError) as caught:
        gateway.open()
    text = str(caught.value)
    for part in (
        "spin.toml",
        "component.b.source",
        "b.wasm, does not exist",
        "`cargo build`",
        "-c/--component-id",
    ):
        assert part in text
    assert gateway.stats() == []
    assert gateway.hosts is None


def test_a_source_that_is_no_file_is_an_error_of_the_manifest(wat: Any, application: Any) -> None:
    path = application.manifest({"a": wat.flat(say("a"))})
    (application.folder / "a.wasm").unlink()
    (application.folder / "a.wasm").mkdir()
    with pytest.raises(ManifestError, match="is not a file"):
        application.gateway(path).open()


def test_what_could_not_be_opened_opens_once_it_is_mended(wat: Any, application: Any, ask: Any) -> None:
    path = application.manifest({"a": wat.flat(say("a")), "b": b"garbage"})
    gateway = application.gateway(path)
    for _ in range(2):
        with pytest.raises(ComponentError, match="component 'b'"):
            gateway.open()
    assert ask(gateway, "/a") == (500, b"")
    (application.folder / "b.wasm").write_bytes(wat.flat(say("b")))
    assert ask(gateway, "/b") == (200, b"b")


def test_check_lists_every_problem(wat: Any, application: Any) -> None:
    parts = {
        "good": wat.flat(say("good")),
        "garbage": b"\0asm",
        "unlinked": wat.assemble('(module (import "spin" "warp" (func)))'),
        "wagi": application.part(wat.flat(say("x")), wagi=True),
        "missing": b"",
        "files": application.part(wat.flat(say("x")), files=["no such file"]),
    }
    path = application.manifest(parts)
    (application.folder / "missing.wasm").unlink()
    gateway = application.gateway(path)
    problems = gateway.check()
    assert [type(problem).__name__ for problem in problems] == [
        "DecodeError",
        "LinkError",
        "LinkError",
        "ManifestError",
        "ManifestError",
    ]
    for problem, id in zip(problems, ["garbage", "unlinked", "wagi", "missing", "files"], strict=True):
        assert f"'{id}'" in str(problem) or f"component.{id}." in str(problem)
    assert gateway.hosts is None


# One that says of the stream which two interfaces share that it is two; what is inside needs one.
TWO_FOR_ONE = """(component
  (import "wasi:io/streams@0.2.0" (instance $streams (export "output-stream" (type (sub resource)))))
  (import "wasi:http/types@0.2.0" (instance $types (export "output-stream" (type (sub resource)))))
  (component $inner
    (import "wasi:io/streams@0.2.0" (instance $streams (export "output-stream" (type (sub resource)))))
    (alias export $streams "output-stream" (type $stream))
    (import "wasi:http/types@0.2.0" (instance
      (alias outer 1 $stream (type $stream)) (export "output-stream" (type (eq $stream))))))
  (instance (instantiate $inner
    (with "wasi:io/streams@0.2.0" (instance $streams)) (with "wasi:http/types@0.2.0" (instance $types))))
  (core module $m (func (export "run") (result i32) (i32.const 0)))
  (core instance $m (instantiate $m))
  (func $run (result (result)) (canon lift (core func $m "run")))
  (instance $run (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $run)))"""


def test_check_finds_what_other_engines_refuse(wat: Any, application: Any) -> None:
    wasm = wat.assemble(TWO_FOR_ONE)
    gateway = application(a=application.part(wasm, wagi=True))
    (problem,) = gateway.check()
    assert isinstance(problem, DecodeError)
    assert "output-stream" in str(problem)
    assert "'a'" in str(problem)


def test_check_finds_nothing_wrong_with_a_good_application(wat: Any, application: Any, ask: Any) -> None:
    gateway = application(a=wat.flat(say("a")))
    assert gateway.check() == []
    assert ask(gateway, "/a") == (200, b"a")  # it is still open
    gateway.close()
    assert gateway.check() == []
    assert gateway.hosts is None
    assert gateway.stats() == []


def test_check_says_when_variables_are_missing(wat: Any, application: Any) -> None:
    path = application.manifest({"a": wat.flat(say("a"))}, "[variables]\nneeded = { required = true }")
    (problem,) = application.gateway(path).check()
    assert "needed" in str(problem)
    assert application.gateway(path, variables={"needed": "x"}).check() == []


MANY_TRIGGERS = """
[[trigger.http]]
id = "t{0}"
route = "/{0}"
component = "{1}"
dependencies.middleware = [{2}]
"""


def test_what_is_served_apart(wat: Any, application: Any) -> None:
    """Triggers with other middleware than another one of their component, be it of Redis."""
    one, two = '{ path = "one.wasm" }', '{ path = "two.wasm" }'
    redis = '[[trigger.redis]]\nid = "r"\naddress = "redis://x"\nchannel = "c"\ncomponent = "c"\n'
    many = [
        *((0, "a", one), (1, "a", two), (2, "a", one), (3, "a", "")),
        *((4, "b", one), (5, "b", one)),
        *((6, "c", two), (7, "c", two)),
    ]
    triggers = "".join(MANY_TRIGGERS.format(*each) for each in many) + redis
    none = {id: application.part(b"", triggers="") for id in "bc"}
    path = application.manifest({"a": application.part(b"", triggers=triggers), **none})
    manifest = load_manifest(path)
    assert entry_ids(manifest) == {
        "t0": "a-for-t0",
        "t1": "a-for-t1",
        "t2": "a-for-t0",
        "t3": "a",
        "t4": "b",
        "t5": "b",
        "t6": "c-for-t6",
        "t7": "c-for-t6",
    }
    assert [(one.id, one.http and one.http.id, one.messages) for one in served(manifest)] == [
        *(("a-for-t0", "t2", False), ("a-for-t1", "t1", False), ("a", "t3", False)),
        *(("b", "t5", False), ("c-for-t6", "t7", False), ("c", None, True)),
    ]


@pytest.mark.parametrize(("dialect", "suffix"), [("flat", ".wasm"), ("spin", ".wasm"), ("flat", ".wat")])
def test_a_bare_guest_is_an_application(
    wat: Any, application: Any, ask: Any, tmp_path: Path, dialect: str, suffix: str
) -> None:
    path = tmp_path / f"my-guest{suffix}"
    if suffix == ".wat":
        path.write_text(f"(module {wat.handler('flat', say('bare'))})")
    else:
        path.write_bytes(wat.http(dialect, say("bare")))
    gateway = application.gateway(path)
    assert ask(gateway, "/any/path") == (200, b"bare")
    assert [row["route"] for row in gateway.describe()] == [""]


# Settings


GROW = """
  (if (i32.eq (i32.const -1) (memory.grow (i32.const 16))) (then (call $out (str "no")))
    (else (call $out (str "yes"))))
  (call $respond (i32.const 200))"""


def test_what_is_nearer_to_the_command_sets_the_limits(wat: Any, application: Any, ask: Any) -> None:
    """The guest begins with 17 pages and asks for 16 more: 2.06 MiB."""

    def grows(tool: dict[str, Any], **options: Any) -> bytes:
        gateway = application(a=application.part(wat.flat(GROW), tool=tool), options=options)
        body: bytes = ask(gateway, "/a")[1]
        return body

    small, large = {"max_memory": "2MiB"}, {"max_memory": "3MiB"}
    assert grows({}) == b"yes"
    assert grows(small) == b"no"
    assert grows(small, runtime_config=RuntimeConfig(max_instance_memory=3 << 20)) == b"yes"
    assert grows(large, runtime_config=RuntimeConfig(max_instance_memory=2 << 20)) == b"no"
    assert grows(small, limits=large) == b"yes"
    assert grows(large, limits=small) == b"no"
    assert grows({}, limits=large, runtime_config=RuntimeConfig(max_instance_memory=2 << 20)) == b"yes"


def test_a_limit_that_does_not_exist_is_an_error(wat: Any, application: Any) -> None:
    with pytest.raises(ManifestError, match="max_memroy"):
        application(a=wat.flat(say("a")), options={"limits": {"max_memroy": 1}})


def test_a_runtime_configuration_may_be_a_file(wat: Any, application: Any, ask: Any) -> None:
    config = application.folder / "runtime-config.toml"
    config.write_text('[key_value_store.default]\ntype = "spin"\npath = "elsewhere.db"\n')
    gateway = application(
        a=application.part(wat.flat(COUNT), key_value_stores=["default"]), options={"runtime_config": config}
    )
    assert ask(gateway, "/a") == (200, b"0")
    assert (application.folder / "elsewhere.db").is_file()


class Broken:
    """A store of the site that cannot be closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1
        raise OSError("the network is gone")


def test_a_store_that_cannot_be_closed_keeps_nothing_else_open(wat: Any, application: Any, ask: Any) -> None:
    store = Broken()
    path = application.manifest(
        {
            "a": application.part(
                wat.flat(read_key("x")), key_value_stores=["default", "site"], files=["*.txt"]
            ),
            "b": application.part(wat.command('(call $write (i32.const 2) (str "x"))'), wagi=True),
        }
    )
    (application.folder / "x.txt").write_text("x")
    gateway = Gateway.from_manifest(path, disable_cache=True, stores={"site": store})
    ask(gateway, "/b")
    folder = gateway.work_dir
    with pytest.raises(HostError, match="the network is gone"):
        gateway.close()
    assert store.closed == 1
    assert not folder.exists()
    if os.path.exists("/proc/self/fd"):
        links = [Path("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]
        assert not [link for link in links if str(application.folder) in os.path.realpath(link)]


# Its folder for copies of files


def copies(application: Any, wat: Any) -> dict[str, Any]:
    (application.folder / "page.txt").write_text("a page")
    return {id: application.part(wat.command(READ_FILE), wagi=True, files=["*.txt"]) for id in "abcdefgh"}


def test_the_work_folder_is_one_and_is_removed_at_close(
    wat: Any, application: Any, ask: Any, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
) -> None:
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    gateway = application(**copies(application, wat))
    (folder,) = scratch.iterdir()
    assert gateway.work_dir == folder
    assert ask(gateway, "/h") == (200, b"a page")
    gateway.close()
    assert list(scratch.iterdir()) == []
    assert ask(gateway, "/a") == (200, b"a page")  # opened again, with a new one
    assert len(list(scratch.iterdir())) == 1
    gateway.close()
    assert list(scratch.iterdir()) == []


def test_threads_that_need_the_work_folder_at_once_make_one(
    wat: Any, application: Any, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
) -> None:
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    path = application.manifest({"a": wat.flat(say("a"))})
    for _ in range(20):
        gateway = application.gateway(path)
        start = threading.Barrier(8)
        found: list[Path] = []

        def run(gateway: Gateway = gateway, start: threading.Barrier = start, found: Any = found) -> None:
            start.wait()
            found.append(gateway.work_dir)

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 1
        assert len(list(scratch.iterdir())) == 1
        gateway.close()
        assert list(scratch.iterdir()) == []


def test_the_work_folder_goes_with_the_process_that_made_it(
    wat: Any, application: Any, tmp_path: Path
) -> None:
    path = application.manifest(copies(application, wat))
    script = f"""
import os, sys
from wasm_gateway import Gateway
from wasm_gateway.messages import Request
gateway = Gateway.from_manifest({str(path)!r}, disable_cache=True, state_dir="")
if {hasattr(os, "fork")}:
    # made by a child: goes with it, and is not the parent's
    if not os.fork():
        gateway.open()
        print(gateway.work_dir)
        sys.exit()
    assert not os.wait()[1]
gateway.open()
folder = gateway.work_dir
print(folder)
if {hasattr(os, "fork")}:
    # a child of ours neither closes nor ends it
    if not os.fork():
        assert gateway.handle(Request("GET", "/a")).body == (b"a page",)
        gateway.close()
        sys.exit()
    assert not os.wait()[1]
assert folder.is_dir()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    folders = done.stdout.split()
    assert len(set(folders)) == len(folders) >= 1
    assert not any(os.path.exists(folder) for folder in folders)


# Many at once

TAGGED = """
  (call $kv_open (str "default") (i32.const 64))
  (local.set $i (i32.load (i32.const 68)))
  (call $kv_set (local.get $i) (local.get $uri) (local.get $uri_len) (local.get $body) (local.get $body_len)
    (i32.const 64))
  (call $kv_get (local.get $i) (local.get $uri) (local.get $uri_len) (i32.const 64))
  (call $out (i32.load (i32.const 68)) (i32.load (i32.const 72)))
  (call $out_headers (local.get $headers) (i32.const 1))
  (call $respond (i32.const 200))"""


@pytest.mark.parametrize("state", ["", None], ids=["memory", "sqlite"])
def test_many_threads_each_get_their_own_answers(
    wat: Any, application: Any, ask: Any, state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wasm_gateway.host.key_value.BUSY_SECONDS", 60.0)
    gateway = application(
        a=application.part(wat.spin(TAGGED), key_value_stores=["default"]),
        b=application.part(wat.command(ENVIRONMENT), wagi=True),
        c=wat.flat("unreachable"),
        options={"state_dir": state},
    )
    rounds = 200 if state == "" else 48
    wrong: list[Any] = []

    def run(name: int) -> None:
        for number in range(rounds):
            tag = f"{name}-{number}"
            got = ask(gateway, f"/a/{name}", "POST", [("x", tag)], (tag.encode(),))
            if got != (200, f"{tag}x={tag}\n".encode()):
                wrong.append(got)
            if number % 4 == 0:
                got = ask(gateway, f"/b/{tag}")
                if variables_of(got[1])["PATH_INFO"] != f"/{tag}":
                    wrong.append(got)
                if ask(gateway, "/c") != (500, b""):
                    wrong.append("c")

    threads = [threading.Thread(target=run, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert [row.started for row in gateway.stats()] == [8 * rounds, 2 * rounds, 2 * rounds]
    assert [row.failed for row in gateway.stats()] == [0, 0, 2 * rounds]
    assert not Engine.shared().ticker.running


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("warm", [False, True], ids=["opened", "used"])
def test_a_gateway_that_was_opened_before_a_fork_serves_in_the_children(
    wat: Any, application: Any, warm: bool
) -> None:
    """As gunicorn's --preload and uWSGI have it: key-value store, files, deadlines, statistics."""
    (application.folder / "page.txt").write_text("a page")
    path = application.manifest(
        {
            "count": application.part(wat.spin(COUNT), key_value_stores=["default"]),
            "files": application.part(wat.command(READ_FILE), wagi=True, files=["*.txt"]),
            "loop": application.part(wat.flat("(loop (br 0)) (i32.const 0)"), tool={"timeout": "50ms"}),
            "print": wat.flat('(call $print (str "line\\n"))' + say("printed")),
        }
    )
    script = f"""
import logging, os, signal, sys, threading
signal.alarm(120)  # a hang is a failure
from wasm_gateway import Gateway
from wasm_gateway.messages import Request
logging.disable()
def ask(path):
    response = gateway.handle(Request("GET", path))
    return response.status, b"".join(response.body)
gateway = Gateway.from_manifest({str(path)!r}, disable_cache=True).open()
everything = ["/count", "/files", "/loop", "/print"]
if {warm}:
    assert [ask(path)[0] for path in everything] == [200, 200, 504, 200]
def child():
    signal.alarm(100)
    assert gateway.stats()[0].started == 0
    answers = []
    def run():
        answers.append([ask(path) for path in everything])
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    for one in answers:
        assert one[0][0] == 200 and one[1:] == [(200, b"a page"), (504, b""), (200, b"printed")], one
    gateway.close()
pids = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        try:
            child()
        except BaseException as error:
            print("child:", repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    pids.append(pid)
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
# the parent's own store, files and work folder are as they were
assert [ask(path)[0] for path in everything] == [200, 200, 504, 200]
print(ask("/count")[1].decode())
gateway.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    # six requests in the children, two here, one before; each counted, though two at once may read the same
    assert int(done.stdout) <= 7 + warm
    assert int(done.stdout) >= 2
    lines = (application.folder / ".spin" / "logs" / "print_stdout.txt").read_bytes()
    assert lines == b"line\n" * (7 + warm)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_gateway_may_be_opened_in_a_child_of_a_process_that_has_one_open(
    wat: Any, application: Any
) -> None:
    """Compiling in a child is what hangs with the compiler's own threads."""
    path = application.manifest({"a": wat.spin(COUNT), "b": wat.flat(say("b"))})
    script = f"""
import os, signal
signal.alarm(120)
from wasm_gateway import Gateway
from wasm_gateway.messages import Request
first = Gateway.from_manifest({str(path)!r}, disable_cache=True, state_dir="").open()
pid = os.fork()
second = Gateway.from_manifest({str(path)!r}, disable_cache=True, state_dir="").open()
for gateway in (first, second):
    assert gateway.handle(Request("GET", "/b")).body == (b"b",)
    gateway.close()
if not pid:
    os._exit(0)
assert not os.waitpid(pid, 0)[1]
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


# What a request leaves behind

IN_PARTS = """(component
  (component $inner
    (core module $m (func (export "run") (result i32) (i32.const 0)))
    (core instance $m (instantiate $m))
    (func (export "run") (result (result)) (canon lift (core func $m "run"))))
  (component $outer
    (import "run" (func $inner (result (result))))
    (core func $inner (canon lower (func $inner)))
    (core module $m (import "" "run" (func (result i32))) (func (export "run") (result i32) (call 0)))
    (core instance $m (instantiate $m (with "" (instance (export "run" (func $inner))))))
    (func (export "run") (result (result)) (canon lift (core func $m "run"))))
  (instance $inner (instantiate $inner))
  (instance $outer (instantiate $outer (with "run" (func $inner "run"))))
  (instance $run (export "run" (func $outer "run")))
  (export "wasi:cli/run@0.2.0" (instance $run)))"""
CHAINED = "echo.spin.internal"
NOBODY = "127.0.0.1:1"
GUESTS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "wagi": lambda app, wat, components: app.part(wat.wagi(b"content-type: text/plain\n\nrest"), wagi=True),
    "parts": lambda app, wat, components: app.part(wat.assemble(IN_PARTS), wagi=True),
    "flat": lambda app, wat, components: wat.flat(ECHO),
    "spin": lambda app, wat, components: wat.spin(ECHO),
    "trap": lambda app, wat, components: wat.spin("(unreachable)"),
    "echo": lambda app, wat, components: components.echo(),
    "unfinished": lambda app, wat, components: components.http(f"{LOCALS}{BEGIN}"),
    "chained": lambda app, wat, components: app.part(
        components.proxy(CHAINED), allowed_outbound_hosts=[f"http://{CHAINED}"]
    ),
    "refused": lambda app, wat, components: app.part(
        components.proxy(NOBODY), allowed_outbound_hosts=[f"http://{NOBODY}"]
    ),
}


def test_a_request_leaves_no_garbage(
    wat: Any, components: Any, application: Any, ask: Any, garbage: Any
) -> None:
    """What only the collector of cycles frees is kept for a while, with the bodies in it."""
    gateway = application(**{name: make(application, wat, components) for name, make in GUESTS.items()})
    found = {}
    for name in GUESTS:
        for method in ("POST", "HEAD"):
            body = (bytes(1000),) if method == "POST" else ()
            work = partial(ask, gateway, f"/{name}", method, (("host", "x"),), body)
            found[name, method] = garbage(work)
    assert {key: names for key, names in found.items() if names} == {}


# Messages


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_message_is_handed_to_its_component(
    wat: Any, application: Any, caplog: pytest.LogCaptureFixture, dialect: str
) -> None:
    caplog.set_level(logging.INFO)
    name = "handle-redis-message" if dialect == "flat" else "fermyon:spin/inbound-redis#handle-message"
    more = f"""(func (export "{name}") (param $at i32) (param $size i32) (result i32)
        (call $print (local.get $at) (local.get $size))
        (i32.store8 (i32.const 64) (i32.eq (i32.load8_u (local.get $at)) (i32.const 33)))
        (i32.store8 (i32.const 65) (i32.const 1))
        (i32.const 64))"""
    redis = '[[trigger.redis]]\naddress = "redis://localhost"\nchannel = "c"\ncomponent = "a"'
    gateway = application(
        a=application.part(wat.http(dialect, say("a"), more), triggers=redis), b=wat.flat(say("b"))
    )
    gateway.handle_redis("a", b"hello")
    assert "hello" in caplog.text
    with pytest.raises(GuestError, match="refused the message: 'error'"):
        gateway.handle_redis("a", b"!")
    with pytest.raises(LinkError, match="no Redis message handler"):
        gateway.handle_redis("b", b"hello")
    assert [(row.component, row.started, row.failed) for row in gateway.stats()] == [("b", 0, 0), ("a", 2, 1)]
    assert gateway.match("/a") is None


def test_a_component_may_serve_both_triggers(wat: Any, application: Any, ask: Any) -> None:
    more = """(func (export "handle-redis-message") (param i32 i32) (result i32) (i32.const 64))"""
    redis = '[[trigger.redis]]\naddress = "redis://localhost"\nchannel = "c"\ncomponent = "a"'
    gateway = application(redis, a=wat.flat(say("a"), more))
    gateway.handle_redis("a", b"")
    assert ask(gateway, "/a") == (200, b"a")


def test_routes_that_get_no_request_are_told_to_the_operator(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spin.toml"
    trigger = '[[trigger.http]]\nid = "{}"\nroute = "{}"\nstatic_response = {{ body = "{}" }}\n'
    routes = [("one", "/a"), ("two", "/a"), ("three", "/.well-known/spin/x")]
    path.write_text(
        'spin_manifest_version = 2\n[application]\nname = "a"\n'
        + "".join(trigger.format(id, route, id) for id, route in routes)
    )
    gateway = Gateway.from_manifest(path, state_dir="")
    assert "route /a: trigger 'one' is replaced by trigger 'two'" in caplog.text
    assert "route /.well-known/spin/x gets no request" in caplog.text
    response = gateway.handle(Request("GET", "/a"))
    assert response is not None
    assert response.body == (b"two",)


@pytest.mark.parametrize(
    ("default", "entry", "wrong"),
    [
        ('default = "example.com"', "https://{{ host }}", False),
        ('default = "invalid host"', "https://{{ host }}", True),
        ('default = ""', "{{ host }}", False),
        ("required = true", "https://{{ host }}", False),  # known when it is used
    ],
)
def test_hosts_in_templates_are_checked_with_the_defaults_of_their_variables(
    wat: Any, tmp_path: Path, default: str, entry: str, wrong: bool
) -> None:
    (tmp_path / "a.wasm").write_bytes(wat.wagi(b"content-type: a/b\n\n"))
    path = tmp_path / "spin.toml"
    path.write_text(
        'spin_manifest_version = 2\n[application]\nname = "a"\n'
        f"[variables]\nhost = {{ {default} }}\n"
        '[[trigger.http]]\nroute = "/"\ncomponent = "a"\nexecutor = { type = "wagi" }\n'
        f'[component.a]\nsource = "a.wasm"\nallowed_outbound_hosts = ["{entry}"]\n'
    )
    gateway = Gateway.from_manifest(path, state_dir="", variables={"host": "example.org"})
    problems = [str(problem) for problem in gateway.check()]
    gateway.close()
    if wrong:
        assert len(problems) == 1
        assert "using default variable value(s) with template" in problems[0]
        assert "component.a.allowed_outbound_hosts" in problems[0]
    else:
        assert problems == []
