"""Middleware of HTTP triggers: components that stand before another one (Spin: manifest, 2.3)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.component_wat import ANSWER, ANSWERING, Toolkit
from tests.wasi_p3_wat import HTTP as HTTP_P3
from tests.wasi_p3_wat import P3Toolkit
from wasm_gateway import Gateway
from wasm_gateway.engine import wat2wasm
from wasm_gateway.errors import ComponentError, GatewayError, LinkError, UnsupportedError

HTTP = "wasi:http/types@0.2.0"
ENVIRONMENT = {"wasi:cli/environment@0.2.0": ("get-environment",)}

# $next(request, out): the handler behind.
NEXT = """(import "wasi:http/incoming-handler@0.2.0" (instance $next
    (alias outer 1 $REQUEST (type $qo)) (export "incoming-request" (type $q (eq $qo)))
    (alias outer 1 $OUT (type $oo)) (export "response-outparam" (type $o (eq $oo)))
    (export "handle" (func (param "request" (own $q)) (param "response-out" (own $o))))))
  (core func $next.handle (canon lower (func $next "handle")))"""
# Answers with {status} where the request has a header {name}, and hands on all others.
REFUSING = """(local $headers i32) (local $has i32) {first}
  (local.set $headers (call $incoming-request.headers (local.get $request)))
  (local.set $has (call $fields.has (local.get $headers) (i32.const 16) (i32.const {size})))
  (call $drop.fields (local.get $headers))
  (if (local.get $has)
    (then (call $answer (local.get $out) (i32.const {status}) (i32.const 16) (i32.const {size})))
    (else (call $next (local.get $request) (local.get $out))))"""
# Answers with the number of its environment variables; or hands on.
COUNTING = """(call $get-environment (i32.const 32))
  (i32.store8 (i32.const 40) (i32.add (i32.const 48) (i32.load (i32.const 36))))
  (call $answer (local.get $out) (i32.const 200) (i32.const 40) (i32.const 1))"""


def handing_on(text: str, next: str, signature: str) -> str:
    """The component `text`, whose core code may call $next; `next` imports and lowers it."""
    request = re.findall(r'\(func \$(?:lifted|handle async) \(param "request" \(own (\$\w+)', text)[0]
    out = re.findall(r'(?:\(type \$answer \(result|\(param "response-out") \(own (\$\w+)', text)[0]
    next = next.replace("$REQUEST", request).replace("$OUT", out)
    text = text.replace("(core module $main", f"{next}\n(core module $main")
    first, last = '(import "h" "reset" (func $reset))', '(export "reset" (func $reset))'
    text = text.replace(first, f'{first}(import "h" "next" (func $next {signature}))')
    at = text.rindex(last)
    return f'{text[:at]}(export "next" (func $next.handle)){text[at:]}'


class Middlewares:
    """Makes middleware of wasi:http 0.2."""

    def __init__(self, toolkit: Toolkit) -> None:
        self.toolkit = toolkit

    def make(self, body: str, uses: Any, data: str = "", version: str = "0.2.0") -> bytes:
        merged, resources = self.toolkit._handling(uses, version, ANSWERING)
        core = f"""{data}{ANSWER}
    (func (export "handle") (param $request i32) (param $out i32)
      {body})"""
        export = """(alias core export $core "handle" (core func $exported))
  (func $lifted (param "request" (own {incoming_request})) (param "response-out" (own {response_outparam}))
    (canon lift (core func $exported)))
  (component $shim
    (import "in" (type $q (sub resource)))
    (import "out" (type $o (sub resource)))
    (import "handle" (func $h (param "request" (own $q)) (param "response-out" (own $o))))
    (export $qe "incoming-request" (type $q))
    (export $oe "response-outparam" (type $o))
    (export "handle" (func $h) (func (param "request" (own $qe)) (param "response-out" (own $oe)))))
  (instance $shimmed (instantiate $shim
    (with "in" (type {incoming_request})) (with "out" (type {response_outparam}))
    (with "handle" (func $lifted))))
  (export "wasi:http/incoming-handler@0.2.0" (instance $shimmed))"""
        text = self.toolkit.text(core, merged, export, resources=resources)
        return wat2wasm(handing_on(text, NEXT, "(param i32 i32)").encode())

    def refusing(self, name: str, status: int, first: str = "", uses: Any = None) -> bytes:
        """`first` is done for each request before."""
        used = {HTTP: ("[method]incoming-request.headers", "[method]fields.has", "[resource-drop]fields")}
        body = REFUSING.format(size=len(name), status=status, first=first)
        return self.make(body, used | (uses or {}), f'(data (i32.const 16) "{name}")')

    def counting(self) -> bytes:
        return self.make(COUNTING, ENVIRONMENT)


@pytest.fixture(scope="session")
def middlewares(components: Any) -> Middlewares:
    return Middlewares(components)


HELLO = "(call $answer (local.get $out) (i32.const 200) (i32.const 0) (i32.const 5))"


def trigger(route: str, component: str, middleware: str) -> str:
    return f"""[[trigger.http]]
route = "{route}"
component = "{component}"
dependencies.middleware = [{middleware}]
"""


Compose = Callable[..., Gateway]


@pytest.fixture
def compose(application: Any, components: Any, tmp_path: Path) -> Compose:
    """`compose(triggers, first=wasm, ...)`: a component `a` behind these, which are files and components."""
    main = components.http(HELLO, data='(data (i32.const 0) "hello")')

    def compose(
        triggers: str, extra: str = "", main: bytes = main, keys: Any = None, **files: bytes
    ) -> Gateway:
        for name, wasm in files.items():
            (tmp_path / f"{name}.wasm").write_bytes(wasm)
        gateway: Gateway = application(extra, a=application.part(main, triggers=triggers, **(keys or {})))
        return gateway

    return compose


def test_the_outermost_is_asked_first(compose: Compose, middlewares: Middlewares, ask: Any) -> None:
    gateway = compose(
        trigger("/a", "a", '{ path = "one.wasm" }, { path = "two.wasm" }'),
        one=middlewares.refusing("x-one", 401),
        two=middlewares.refusing("x-two", 403),
    )
    for _ in range(2):
        assert ask(gateway, "/a") == (200, b"hello")
        assert ask(gateway, "/a", "GET", [("x-two", "1")]) == (403, b"x-two")
        assert ask(gateway, "/a", "GET", [("x-two", "1"), ("x-one", "1")]) == (401, b"x-one")
    assert [row["dialect"] for row in gateway.describe()] == ["wasi-http"]


def test_one_component_may_stand_twice(compose: Compose, middlewares: Middlewares, ask: Any) -> None:
    once = "(if (i32.load (i32.const 100)) (then unreachable)) (i32.store (i32.const 100) (i32.const 1))"
    one = middlewares.refusing("x", 400, once)
    gateway = compose(trigger("/a", "a", '{ path = "one.wasm" }, { path = "one.wasm" }'), one=one)
    assert ask(gateway, "/a") == (200, b"hello")


def test_a_component_of_the_application(compose: Compose, middlewares: Middlewares, ask: Any) -> None:
    gateway = compose(
        trigger("/a", "a", '{ component = "b" }'),
        '[component.b]\nsource = "one.wasm"',
        one=middlewares.refusing("x-one", 401),
    )
    assert ask(gateway, "/a") == (200, b"hello")
    assert ask(gateway, "/a", "GET", [("x-one", "1")]) == (401, b"x-one")


@pytest.mark.parametrize(
    ("inherit", "variables"),
    [
        ("", b"0"),
        (", inherit_configuration = true", b"2"),
        (', inherit_configuration = ["environment"]', b"2"),
    ],
)
def test_it_has_what_it_inherits_of_the_component(
    compose: Compose, middlewares: Middlewares, ask: Any, inherit: str, variables: bytes
) -> None:
    gateway = compose(
        trigger("/a", "a", f'{{ path = "one.wasm"{inherit} }}'),
        keys={"environment": {"A": "1", "B": "2"}},
        one=middlewares.counting(),
    )
    assert ask(gateway, "/a") == ask(gateway, "/a") == (200, variables)


def test_the_component_behind_keeps_its_own(
    compose: Compose, components: Any, middlewares: Middlewares, ask: Any
) -> None:
    gateway = compose(
        trigger("/a", "a", '{ path = "one.wasm" }'),
        main=components.http(COUNTING, ENVIRONMENT),
        keys={"environment": {"A": "1", "B": "2"}},
        one=middlewares.refusing("x", 400, "(call $get-environment (i32.const 32))", ENVIRONMENT),
    )
    assert ask(gateway, "/a") == (200, b"2")


def test_triggers_of_one_component_with_other_middleware(
    compose: Compose, middlewares: Middlewares, ask: Any
) -> None:
    """Each is served apart, under an id as Spin makes it; who calls the component meets its last trigger."""
    plain = '[[trigger.http]]\nid = "plain"\nroute = "/plain"\ncomponent = "a"\n'
    one, two = '{ path = "one.wasm" }', '{ path = "two.wasm" }'
    triggers = [trigger("/one", "a", one), plain, trigger("/again", "a", one), trigger("/two", "a", two)]
    named = [
        text.replace("]]", f']]\nid = "t{i}"', 1) if "id =" not in text else text
        for i, text in enumerate(triggers)
    ]
    gateway = compose("".join(named), one=middlewares.refusing("x", 401), two=middlewares.refusing("x", 403))
    answers = {
        route: ask(gateway, route, "GET", [("x", "1")])[0] for route in ("/one", "/plain", "/again", "/two")
    }
    assert answers == {"/one": 401, "/plain": 200, "/again": 401, "/two": 403}
    assert all(ask(gateway, route) == (200, b"hello") for route in answers)
    assert {one.component: one.started for one in gateway.stats()} == {"a-for-t0": 4, "a": 2, "a-for-t3": 2}


def test_requests_inside_the_application_meet_it_too(
    compose: Compose, components: Any, middlewares: Middlewares, application: Any, ask: Any, tmp_path: Path
) -> None:
    no = "(call $answer (local.get $out) (i32.const 401) (i32.const 0) (i32.const 2))"
    (tmp_path / "one.wasm").write_bytes(middlewares.make(no, {}, '(data (i32.const 0) "no")'))
    hello = components.http(HELLO, data='(data (i32.const 0) "hello")')
    gateway = application(
        b=application.part(hello, triggers=trigger("/b", "b", '{ path = "one.wasm" }')),
        a=application.part(
            components.proxy("b.spin.internal"), allowed_outbound_hosts=["http://b.spin.internal"]
        ),
    )
    assert ask(gateway, "/b") == (401, b"no")
    assert ask(gateway, "/a", "POST") == (200, b"no")


def test_a_trap_in_it(compose: Compose, middlewares: Middlewares, ask: Any) -> None:
    gateway = compose(trigger("/a", "a", '{ path = "one.wasm" }'), one=middlewares.make("unreachable", {}))
    assert ask(gateway, "/a") == (500, b"")


# wasi:http 0.3

BRACKETS = """(local $response i32)
  (call $next (local.get $request) (i32.const 64))
  (if (i32.load8_u (i32.const 64)) (then (call $refuse) (return (i32.const 0))))
  (call $consume-response (i32.load (i32.const 72)))
  (call $return (call $new))
  (call $write (i32.const 0) (i32.const 1))
  (call $echo)
  (call $write (i32.const 1) (i32.const 1))
  (call $finish)
  (i32.const 0)"""
CONSUME = """
  (func $consume-response (param i32) (local $f i64)
    (local.set $f (call $sent.new))
    (call $response.consume-body (local.get 0) (i32.wrap_i64 (local.get $f)) (i32.const 4000))
    (global.set $rx (i32.load (i32.const 4000)))
    (global.set $rtrailers (i32.load (i32.const 4004)))
    (memory.fill (i32.const 3904) (i32.const 0) (i32.const 64))
    (drop (call $sent.write (call $high (local.get $f)) (i32.const 3904)))
    (call $sent.drop-writable (call $high (local.get $f))))"""
NEXT_P3 = """(import "wasi:http/handler@0.3.0" (instance $next
    (alias outer 1 $REQUEST (type $qo)) (export "request" (type $q (eq $qo)))
    (alias outer 1 $OUT (type $po)) (export "response" (type $p (eq $po)))
    (alias outer 1 $error-code (type $eo)) (export "error-code" (type $e (eq $eo)))
    (export "handle" (func async (param "request" (own $q)) (result (result (own $p) (error $e)))))))
  (core func $next.handle (canon lower (func $next "handle") (memory $memory) (realloc $realloc)))
  """


DATA = '(data (i32.const 0) "hello")'


def before(code: str, uses: Any, functions: str, text: str, version: str = "0.3.0") -> bytes:
    """Middleware: $next(request, result) is the handler behind."""
    data = f'(data (i32.const 0) "{text}")'
    callback = "(call $go-on)" if "$go-on" in functions else "unreachable"
    wat = P3Toolkit()._handler(code, uses, {}, functions, data, callback)
    return wat2wasm(handing_on(wat, NEXT_P3, "(param i32 i32)").replace("@0.3.0", f"@{version}").encode())


def brackets(pair: str, version: str = "0.3.0", body: str = BRACKETS, uses: Any = None) -> bytes:
    """Answers with what the handler behind answers, between two characters."""
    merged = {HTTP_P3: ("[static]response.consume-body",), **(uses or {})}
    return before(body, merged, CONSUME, pair, version)


# $say(at, size): answers with that and gives the callback code; $go-on is the callback. It never waits within
# its code: whoever called it and reads may be below on the stack.
SAY = """
  (global $set (mut i32) (i32.const 0)) (global $step (mut i32) (i32.const 0))
  (func $when-done (param $end i32) (result i32)
    (if (i32.eqz (global.get $set)) (then (global.set $set (call $set.new))))
    (call $join (local.get $end) (global.get $set))
    (i32.or (i32.const 2) (i32.shl (global.get $set) (i32.const 4))))
  (func $say (param $at i32) (param $size i32) (result i32)
    (call $return (call $new))
    (if (i32.eq (call $body.write~ (global.get $tx) (local.get $at) (local.get $size)) (i32.const -1))
      (then (return (call $when-done (global.get $tx)))))
    (call $go-on))
  (func $go-on (result i32)
    (if (i32.eqz (global.get $step)) (then
      (global.set $step (i32.const 1))
      (call $join (global.get $tx) (i32.const 0))
      (call $body.drop-writable (global.get $tx))
      (memory.fill (i32.const 3904) (i32.const 0) (i32.const 64))
      (if (i32.eq (call $trailers.write~ (global.get $ttx) (i32.const 3904)) (i32.const -1))
        (then (return (call $when-done (global.get $ttx)))))))
    (call $join (global.get $ttx) (i32.const 0))
    (call $trailers.drop-writable (global.get $ttx))
    (i32.const 0))"""
HELLO_P3 = "(call $drop.request (local.get $request)) (call $say (i32.const 0) (i32.const 5))"
# The body that came, and what follows it, as they are.
PASS_ON = """
  (call $consume (local.get $request))
  (call $response.new (call $fields) (i32.const 1) (global.get $rx) (global.get $rtrailers) (i32.const 4000))
  (call $sent.drop-readable (i32.load (i32.const 4004)))
  (call $return (i32.load (i32.const 4000)))
  (i32.const 0)"""
# Answers with {name} where the request has a header of that name, and hands on all others.
REFUSING_P3 = """(local $headers i32) (local $has i32)
  (local.set $headers (call $request.get-headers (local.get $request)))
  (local.set $has (call $fields.has (local.get $headers) (i32.const 0) (i32.const {size})))
  (call $drop.fields (local.get $headers))
  (if (local.get $has) (then
    (call $drop.request (local.get $request))
    (return (call $say (i32.const 0) (i32.const {size})))))
  (call $next (local.get $request) (i32.const 64))
  (if (i32.load8_u (i32.const 64)) (then (call $refuse) (return (i32.const 0))))
  (call $return (i32.load (i32.const 72)))
  (i32.const 0)"""


def speaking(code: str, uses: Any = None, data: str = DATA, version: str = "0.3.0") -> bytes:
    return P3Toolkit().handler(
        code, uses, functions=SAY, data=data, callback="(call $go-on)", version=version
    )


def refusing_p3(name: str, version: str = "0.3.0") -> bytes:
    uses = {HTTP_P3: ("[method]request.get-headers", "[method]fields.has", "[resource-drop]fields")}
    return before(REFUSING_P3.format(size=len(name)), uses, SAY, name, version)


@pytest.mark.parametrize("version", ["0.3.0", "0.3.0-rc-2026-03-15"])
def test_handlers_of_wasi_http_0_3(compose: Compose, ask: Any, version: str) -> None:
    gateway = compose(
        trigger("/a", "a", '{ path = "one.wasm" }, { path = "two.wasm" }, { path = "three.wasm" }'),
        main=speaking(HELLO_P3, version=version),
        one=brackets("[]", version),
        two=refusing_p3("x-two", version),
        three=refusing_p3("x-three", version),
    )
    assert ask(gateway, "/a") == ask(gateway, "/a") == (200, b"[hello]")
    both = [("x-three", "1"), ("x-two", "1")]
    assert ask(gateway, "/a", "GET", both) == (200, b"[x-two]")
    assert ask(gateway, "/a", "GET", both[:1]) == (200, b"[x-three]")
    assert [row["dialect"] for row in gateway.describe()] == ["wasi-http-p3"]


def test_bodies_pass_through_it(compose: Compose, ask: Any) -> None:
    """The request's goes to the component as it comes; the response's, longer than any buffer, back."""
    gateway = compose(
        trigger("/a", "a", '{ path = "one.wasm" }'),
        main=speaking(PASS_ON),
        one=brackets("[]"),
    )
    body = bytes(range(256)) * 4096
    assert ask(gateway, "/a", "POST", (), [body[:7], b"", body[7:]]) == (200, b"[" + body + b"]")


def test_each_acts_for_itself_while_others_wait(compose: Compose, ask: Any) -> None:
    """The component behind has its own grants, also after it has waited; the one before has none."""
    uses = {**ENVIRONMENT, "wasi:clocks/monotonic-clock@0.3.0": ("wait-for",)}
    count = """(call $get-environment (i32.const 32))
      (i32.store8 (i32.const {at}) (i32.add (i32.const 48) (i32.load (i32.const 36))))"""
    main = f"""(call $wait-for (i64.const 1_000_000)) {count.format(at=0)} {HELLO_P3.replace("5", "1")}"""
    before = count.format(at=0) + BRACKETS.replace(
        "(call $echo)", f"(call $echo) (call $wait-for (i64.const 1_000_000)) {count.format(at=1)}"
    ).replace("(local $response i32)", "")
    gateway = compose(
        trigger("/a", "a", '{ path = "one.wasm" }'),
        main=speaking(main, uses),
        keys={"environment": {"A": "1", "B": "2"}},
        one=brackets("..", body=before, uses=uses),
    )
    assert ask(gateway, "/a") == (200, b"020")


# What does not fit


def test_what_is_no_middleware(compose: Compose, components: Any, middlewares: Middlewares) -> None:
    path = trigger("/a", "a", '{ path = "one.wasm" }')
    hello = components.http(HELLO, data='(data (i32.const 0) "hello")')
    p3 = speaking(HELLO_P3)
    for files, reason in (
        ({"one": hello}, r"middleware 1 \(.*one.wasm\) imports none of wasi:http/handler@0.3"),
        (
            {"one": middlewares.refusing("x", 400), "main": p3},
            "what it stands before exports wasi:http/handler@0.3",
        ),
        ({"one": brackets("[]")}, "what it stands before exports wasi:http/incoming-handler@0.2"),
        ({"one": b"\0asm\1\0\0\0"}, "is a core module"),
        ({"one": b"\0asm\x0d\0\1\0\xff"}, r"middleware 1 \("),
    ):
        with pytest.raises(ComponentError, match=reason) as caught:
            compose(path, **files)
        assert caught.value.component == "a"


def test_it_has_to_export_a_handler(compose: Compose) -> None:
    text = (
        """(component
      (import "wasi:http/types@0.2.0" (instance $t
        (export "incoming-request" (type (sub resource))) (export "response-outparam" (type (sub resource)))))
      (alias export $t "incoming-request" (type $res0)) (alias export $t "response-outparam" (type $res1))
      """
        + NEXT.partition("(core func")[0].replace("$REQUEST", "$res0").replace("$OUT", "$res1")
        + ")"
    )
    with pytest.raises(LinkError, match="exports none of"):
        compose(trigger("/a", "a", '{ path = "one.wasm" }'), one=wat2wasm(text.encode()))


def test_what_cannot_stand_behind_it(
    compose: Compose, wat: Any, components: Any, middlewares: Middlewares
) -> None:
    path, one = trigger("/a", "a", '{ path = "one.wasm" }'), middlewares.refusing("x", 400)
    with pytest.raises(UnsupportedError, match="it is a core module"):
        compose(path, main=wat.http("spin", "(call $respond (i32.const 200))"), one=one)
    with pytest.raises(UnsupportedError, match="the executor wagi calls none"):
        compose(path + 'executor = { type = "wagi" }\n', one=one)
    with pytest.raises(GatewayError, match=r"the dependency middleware 1 \(a:b\) of .* cannot be had: 127"):
        compose(trigger("/a", "a", '{ package = "a:b", version = "1", registry = "127.0.0.1:1" }'))
    with pytest.raises(GatewayError, match=r"no\.wasm"):
        compose(trigger("/a", "a", '{ path = "no.wasm" }'))
