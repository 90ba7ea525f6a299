"""Components whose imports are met by other components (Spin: manifest, 9)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from wasm_gateway import Gateway, HostInterface
from wasm_gateway.engine import wat2wasm
from wasm_gateway.errors import GatewayError
from wasm_gateway.messages import Headers, Request


class Ops(HostInterface):
    """Only the types matter: no gateway here is given it."""

    wit = "package test:dep@1.2.0; interface ops { count: func(more: u32) -> u32; }"

    def count(self, ctx: object, more: int) -> int:
        raise NotImplementedError


# Answers with the one digit that `count(3)` is.
MAIN = """
  (i32.store8 (i32.const 0) (i32.add (i32.const 48) (call $count (i32.const 3))))
  (call $answer (local.get $out) (i32.const 200) (i32.const 0) (i32.const 1))"""


def dependency(export: str = "test:dep/ops@1.2.0", count: str = "") -> bytes:
    """Exports `count`: its argument and the number of variables in its environment."""
    more = f"(i32.add (local.get 0) {count or '(i32.load (i32.const 12))'})"
    return wat2wasm(
        f"""(component
  (import "wasi:cli/environment@0.2.3" (instance $environment
    (export "get-environment" (func (result (list (tuple string string)))))))
  (core module $mem
    (memory (export "memory") 1)
    (global $top (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.get $top) (global.set $top (i32.add (global.get $top) (local.get 3)))))
  (core instance $m (instantiate $mem))
  (core func $get (canon lower (func $environment "get-environment")
    (memory (core memory $m "memory")) (realloc (core func $m "realloc"))))
  (core module $main
    (import "h" "memory" (memory 1))
    (import "h" "get" (func $get (param i32)))
    (func (export "count") (param i32) (result i32) (call $get (i32.const 8)) {more}))
  (core instance $c (instantiate $main (with "h" (instance
    (export "memory" (memory $m "memory")) (export "get" (func $get))))))
  (alias core export $c "count" (core func $lifted))
  (func $count (param "more" u32) (result u32) (canon lift (core func $lifted)))
  (instance $ops (export "count" (func $count)))
  (export "{export}" (instance $ops)))""".encode()
    )


Compose = Callable[..., Gateway]


@pytest.fixture
def compose(application: Any, components: Any, tmp_path: Any) -> Compose:
    """`compose(dependencies, wasm)`: component `a`, with that [dependencies] table."""
    main = components.with_interfaces(Ops()).http(MAIN, {"test:dep/ops@1.2.0": ("count",)})

    def compose(dependencies: Any, wasm: bytes, extra: str = "", **settings: Any) -> Gateway:
        (tmp_path / "dep.wasm").write_bytes(wasm)
        environment = {"A": "1", "B": "2"}
        part = application.part(main, dependencies=dependencies, environment=environment, **settings)
        gateway: Gateway = application(extra, a=part)
        return gateway

    return compose


def digit(gateway: Gateway) -> int:
    response = gateway.handle(Request("GET", "/a", None, Headers(), (), authority="x"))
    assert response is not None
    assert response.status == 200
    return int(b"".join(response.body))


@pytest.mark.parametrize(
    ("inherit", "variables"),
    [
        ({}, 0),
        ({"inherit_configuration": True}, 2),
        ({"inherit_configuration": ["environment"]}, 2),
        ({"inherit_configuration": ["files", "variables"]}, 0),
    ],
)
def test_a_dependency_has_what_it_inherits(compose: Compose, inherit: Any, variables: int) -> None:
    gateway = compose({"test:dep/ops@1.2.0": {"path": "dep.wasm", **inherit}}, dependency())
    assert [digit(gateway) for _ in range(3)] == [3 + variables] * 3


@pytest.mark.parametrize("name", ["test:dep/ops", "test:dep", "test:dep@1.2.0"])
def test_names_that_mean_the_import(compose: Compose, name: str) -> None:
    assert digit(compose({name: {"path": "dep.wasm"}}, dependency())) == 3


def test_an_export_of_another_name(compose: Compose) -> None:
    path = {"path": "dep.wasm", "export": "other:package/thing"}
    assert digit(compose({"test:dep/ops@1.2.0": path}, dependency("other:package/thing"))) == 3


def test_a_component_of_the_application(compose: Compose) -> None:
    extra = '[component.b]\nsource = "dep.wasm"'
    assert digit(compose({"test:dep/ops@1.2.0": {"component": "b"}}, dependency(), extra)) == 3


def test_each_request_has_an_instance_of_its_own(compose: Compose) -> None:
    wasm = dependency(
        count="(i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (i32.const 1)))"
        " (i32.load (i32.const 64))"
    )
    gateway = compose({"test:dep/ops@1.2.0": {"path": "dep.wasm"}}, wasm)
    assert [digit(gateway) for _ in range(3)] == [4, 4, 4]


def test_a_trap_in_a_dependency(compose: Compose, caplog: pytest.LogCaptureFixture) -> None:
    gateway = compose({"test:dep/ops@1.2.0": {"path": "dep.wasm"}}, dependency(count="(unreachable)"))
    with caplog.at_level(logging.ERROR):
        response = gateway.handle(Request("GET", "/a", None, Headers(), (), authority="x"))
    assert response is not None
    assert response.status == 500
    assert "unreachable" in caplog.text


WRONG = wat2wasm(
    b"""(component (core module $m (func (export "count") (result i32) (i32.const 1)))
  (core instance $c (instantiate $m))
  (alias core export $c "count" (core func $lifted))
  (func $count (result u32) (canon lift (core func $lifted)))
  (instance $ops (export "count" (func $count)))
  (export "test:dep/ops@1.2.0" (instance $ops)))"""
)


@pytest.mark.parametrize(
    ("dependencies", "wasm", "reason"),
    [
        ({"test:dep/ops@1.2.0": {"path": "no.wasm"}}, WRONG, "no.wasm, does not exist"),
        ({"test:dep/ops@1.2.0": {"path": "dep.wasm"}}, WRONG, "exports with another type"),
        (
            {"test:dep/ops@1.2.0": {"path": "dep.wasm"}},
            b"\0asm\x0d\0\1\0\xff",
            "the dependency test:dep/ops@1.2.0",
        ),
        ({"test:dep/ops@1.2.0": {"path": "dep.wasm"}}, b"\0asm\1\0\0\0", "is a core module"),
        ({"test:other/ops": {"path": "dep.wasm"}}, dependency(), "does not import test:other/ops"),
        (
            {"test:dep/ops@1.2.0": {"path": "dep.wasm", "export": "x:y/z"}},
            dependency(),
            "exports no x:y/z to provide the import test:dep/ops@1.2.0",
        ),
        (
            {"test:dep/ops": {"version": "1.0", "registry": "127.0.0.1:1"}},
            dependency(),
            "the dependency test:dep/ops of component `a` cannot be had: 127.0.0.1:1: ",
        ),
        ({}, dependency(), "imports test:dep/ops@1.2.0, which this gateway does not offer"),
    ],
)
def test_what_does_not_fit(compose: Compose, dependencies: Any, wasm: bytes, reason: str) -> None:
    with pytest.raises(GatewayError) as caught:
        compose(dependencies, wasm)
    assert reason in str(caught.value)


def test_core_modules_are_not_composed(application: Any, wat: Any, tmp_path: Any) -> None:
    (tmp_path / "dep.wasm").write_bytes(dependency())
    part = application.part(
        wat.http("spin", "(call $respond (i32.const 200))"), dependencies={"a:b/c": {"path": "dep.wasm"}}
    )
    with pytest.raises(GatewayError, match="it is a core module"):
        application(a=part)
