"""Spin 1 modules: requests and responses through the canonical ABI, byte for byte (Spin: http, 8.1)."""

from __future__ import annotations

from typing import Any

import pytest

from wasm_gateway.errors import GuestError, Trap
from wasm_gateway.executors.spin import METHODS
from wasm_gateway.messages import Headers, Request

# One line for each fact of the request: name, a space, what it is.
FACTS = """
  (call $out (str "method ")) (call $out_number (local.get $method))
  (call $out (str "\\nuri ")) (call $out (local.get $uri) (local.get $uri_len))
  (call $out (str "\\nparams ")) (call $out_number (local.get $params_len))
  (call $out (str "\\nheaders ")) (call $out_number (local.get $headers_len))
  (call $out (str "\\nhas-body ")) (call $out_number (local.get $has_body))
  (call $out (str "\\nbody ")) (call $out (local.get $body) (local.get $body_len))
  (call $respond (i32.const 200))"""

HEADERS = "(call $out_headers (local.get $headers) (i32.const 3)) (call $respond (i32.const 200))"

REDIS = '[[trigger.redis]]\naddress = "redis://localhost"\nchannel = "c"\ncomponent = "a"'


def facts(body: bytes) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in body.decode().split("\n"))


@pytest.fixture(params=["spin", "flat"])
def dialect(request: pytest.FixtureRequest) -> str:
    """Both have the same signatures; test_legacy_flat.py has what is different."""
    name: str = request.param
    return name


@pytest.mark.parametrize("method", METHODS)
def test_methods_are_the_cases_of_the_enum(
    wat: Any, application: Any, ask: Any, dialect: str, method: str
) -> None:
    gateway = application(a=wat.http(dialect, FACTS))
    expected = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"].index(method)
    assert facts(ask(gateway, "/a", method)[1])["method"] == str(expected)


@pytest.mark.parametrize("path", ["/a", "/a?", "/a?q=%20&r", "/a/%C3%A9//x/..", "/a/?/x?y"])
def test_the_uri_is_path_and_query_as_they_came(
    wat: Any, application: Any, ask: Any, dialect: str, path: str
) -> None:
    gateway = application(a=wat.http(dialect, FACTS))
    got = facts(ask(gateway, path, authority="example.com", scheme="https")[1])
    assert (got["uri"], got["params"]) == (path, "0")


@pytest.mark.parametrize("body", [b"", b"x", b"\n" * 3, bytes(range(11, 256)) * 400])
def test_the_body_is_always_there(wat: Any, application: Any, ask: Any, dialect: str, body: bytes) -> None:
    gateway = application(a=wat.http(dialect, FACTS))
    for pieces in ([body], [body[:1], body[1:]], [] if not body else [body]):
        _, answered = ask(gateway, "/a", "POST", body=iter(pieces))
        assert b"\nhas-body 1\nbody " + body in answered


def test_headers_come_in_order_repeated_ones_apart_and_host_too(
    wat: Any, application: Any, ask: Any, dialect: str
) -> None:
    gateway = application(a=wat.http(dialect, HEADERS))
    headers = [("Host", "example.com"), ("X-A", "1"), ("x-a", "caf\xc3\xa9")]
    assert ask(gateway, "/a", headers=headers)[1].decode() == "host=example.com\nx-a=1\nx-a=café\n"


def test_many_headers_of_all_lengths(wat: Any, application: Any, ask: Any, dialect: str) -> None:
    gateway = application(
        a=wat.http(
            dialect,
            "(call $out_headers (local.get $headers) (i32.const 200)) (call $respond (i32.const 200))",
        )
    )
    headers = [(f"x-{number}", "v" * (number * 7 % 300)) for number in range(200)]
    _, body = ask(gateway, "/a", headers=headers)
    assert body.decode().splitlines() == [f"{name}={value}" for name, value in headers]


def response(*changes: str) -> str:
    return f'(drop (call $text (i32.const 200) (str "body"))) {" ".join(changes)} (i32.const 128)'


def test_a_response_without_headers_and_body(wat: Any, application: Any, answer: Any, dialect: str) -> None:
    gateway = application(
        a=wat.http(dialect, response("(i32.store8 (i32.const 144) (i32.const 0))")),
        b=wat.http(
            dialect,
            response(
                "(i32.store8 (i32.const 132) (i32.const 1))", "(i64.store (i32.const 136) (i64.const 0))"
            ),
        ),
        c=wat.http(dialect, response("(i32.store (i32.const 152) (i32.const 0))")),
    )
    for path, body in (("/a", ()), ("/b", (b"body",)), ("/c", ())):
        got = answer(gateway, path)
        assert (got.status, got.headers, got.body) == (200, Headers(), body)


def test_a_repeated_response_header_keeps_its_last_value(
    wat: Any, application: Any, answer: Any, dialect: str
) -> None:
    pair = """(func $pair (param $at i32) (param i32 i32 i32 i32)
      (i32.store (local.get $at) (local.get 1))
      (i32.store offset=4 (local.get $at) (local.get 2))
      (i32.store offset=8 (local.get $at) (local.get 3))
      (i32.store offset=12 (local.get $at) (local.get 4)))"""
    body = response(
        '(call $pair (i32.const 512) (str "Set-Cookie") (str "a=1"))',
        '(call $pair (i32.const 528) (str "X-Empty") (str ""))',
        '(call $pair (i32.const 544) (str "set-cookie") (str "b=2"))',
        "(i32.store8 (i32.const 132) (i32.const 1))",
        "(i32.store (i32.const 136) (i32.const 512)) (i32.store (i32.const 140) (i32.const 3))",
    )
    gateway = application(a=wat.http(dialect, body, pair))
    assert list(answer(gateway, "/a").headers) == [("set-cookie", "b=2"), ("x-empty", "")]


def test_a_body_is_whole_so_that_a_door_can_state_its_length(
    wat: Any, application: Any, answer: Any, dialect: str
) -> None:
    gateway = application(a=wat.http(dialect, '(call $text (i32.const 404) (str "no"))'))
    got = answer(gateway, "/a")
    assert (got.status, got.body) == (404, (b"no",))


def test_post_return_is_given_the_result(
    wat: Any, application: Any, ask: Any, caplog: Any, dialect: str
) -> None:
    name = "handle-http-request" if dialect == "flat" else "fermyon:spin/inbound-http#handle-request"
    more = f"""(func (export "cabi_post_{name}") (param $at i32)
      (if (i32.ne (local.get $at) (i32.const 128)) (then unreachable)) (global.set $end (i32.const 0)))"""
    gateway = application(a=wat.http(dialect, response(), more))
    assert ask(gateway, "/a") == (200, b"body")


def test_each_request_has_an_instance_of_its_own(wat: Any, application: Any, ask: Any, dialect: str) -> None:
    count = """(i32.store (i32.const 512) (i32.add (i32.const 1) (i32.load (i32.const 512))))
      (call $out_number (i32.load (i32.const 512))) (call $respond (i32.const 200))"""
    gateway = application(a=wat.http(dialect, count))
    assert [ask(gateway, "/a")[1] for _ in range(5)] == [b"1"] * 5


def test_the_strings_of_a_module_may_be_utf_16(wat: Any, application: Any, ask: Any) -> None:
    world = wat.world.replace('"\\04\\00"', '"\\04\\01"')
    assert world != wat.world
    uri = """(call $out (local.get $uri) (i32.mul (local.get $uri_len) (i32.const 2)))
      (call $respond (i32.const 200))"""
    gateway = application(a=wat.spin(uri, world=world))
    status, body = ask(gateway, "/a/x")
    assert (status, body.decode("utf-16-le")) == (200, "/a/x")


# Messages

SUM = """
  (local $sum i32)
  (block $done (loop $next
    (br_if $done (i32.eqz (local.get $size)))
    (local.set $sum (i32.add (local.get $sum) (i32.load8_u (local.get $at))))
    (local.set $at (i32.add (local.get $at) (i32.const 1)))
    (local.set $size (i32.sub (local.get $size) (i32.const 1)))
    (br $next)))
  (i32.store8 (i32.const 64) (i32.ne (local.get $sum) (i32.const {sum})))
  (i32.store8 (i32.const 65) (i32.const {case}))
  (i32.const 64)"""


def message_handler(dialect: str, body: str) -> str:
    name = "handle-redis-message" if dialect == "flat" else "fermyon:spin/inbound-redis#handle-message"
    return f'(func (export "{name}") (param $at i32) (param $size i32) (result i32) {body})'


@pytest.mark.parametrize("payload", [b"", b"\0", bytes(range(256)), b"x" * 100_000])
def test_a_message_arrives_whole(wat: Any, application: Any, dialect: str, payload: bytes) -> None:
    handler = message_handler(dialect, SUM.replace("{sum}", str(sum(payload))).replace("{case}", "1"))
    gateway = application(a=application.part(wat.http(dialect, "unreachable", handler), triggers=REDIS))
    gateway.handle_redis("a", payload)
    with pytest.raises(GuestError, match="refused the message: 'error'"):
        gateway.handle_redis("a", payload + b"\1")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("unreachable", "unreachable"),
        ("(i32.const -2)", "out of bounds"),
        ("(i32.store8 (i32.const 64) (i32.const 2)) (i32.const 64)", "2 is not a case of result"),
        ("(i32.store16 (i32.const 64) (i32.const 0x0201)) (i32.const 64)", "2 is not a case of enum"),
    ],
)
def test_a_message_handler_that_fails(
    wat: Any, application: Any, dialect: str, body: str, reason: str
) -> None:
    handler = message_handler(dialect, body)
    gateway = application(a=application.part(wat.http(dialect, "unreachable", handler), triggers=REDIS))
    with pytest.raises(Trap, match=reason):
        gateway.handle_redis("a", b"x")
    assert gateway.stats()[0].failed == 1


def test_what_a_message_left_is_freed(wat: Any, application: Any, dialect: str, caplog: Any) -> None:
    caplog.set_level("INFO")
    name = "handle-redis-message" if dialect == "flat" else "fermyon:spin/inbound-redis#handle-message"
    handler = message_handler(dialect, "(i32.const 64)")
    free = f'(func (export "cabi_post_{name}") (param i32) (call $print (str "freed\\n")))'
    gateway = application(
        a=application.part(wat.http(dialect, "unreachable", handler + free), triggers=REDIS)
    )
    gateway.handle_redis("a", b"x")
    assert "freed" in caplog.text


def test_a_request_object_is_not_changed(wat: Any, application: Any, dialect: str) -> None:
    gateway = application(a=wat.http(dialect, FACTS))
    headers = Headers([("spin-x", "1"), ("connection", "close")])
    request = Request("GET", "/a", None, headers)
    for _ in range(2):
        assert gateway.handle(request).status == 200
    assert request == Request("GET", "/a", None, headers)
