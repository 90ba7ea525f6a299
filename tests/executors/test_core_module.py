"""Linking of core modules: every import is met by name and type, every export that is called has its type."""

from __future__ import annotations

from typing import Any

import pytest

from wasm_gateway.errors import ComponentError, DecodeError, LinkError, UnsupportedError
from wasm_gateway.executors import dialects, link
from wasm_gateway.host.application import Hosts
from wasm_gateway.host.wasi_preview1 import FUNCTIONS
from wasm_gateway.runtime_config import RuntimeConfig

DIALECTS = ["flat", "spin"]
HANDLERS = {"flat": "handle-http-request", "spin": "fermyon:spin/inbound-http#handle-request"}
POST_RETURNS = {dialect: f"cabi_post_{name}" for dialect, name in HANDLERS.items()}
ALLOCATORS = {"flat": "canonical_abi_realloc", "spin": "cabi_realloc"}

GOOD = '(call $text (i32.const 200) (str "good"))'


@pytest.fixture
def hosts() -> Hosts:
    return Hosts(RuntimeConfig())


def linked(wat: Any, hosts: Hosts, fields: str, *, world: str | None = None) -> Any:
    wasm = wat.assemble(f"(module {fields})")
    return link(wasm if world is None else wasm + wat.world_section(world), hosts)


# Imports


def test_each_import_is_met_by_a_function_of_its_type(wat: Any, hosts: Hosts) -> None:
    linkage = linked(
        wat,
        hosts,
        """(import "wasi_snapshot_preview1" "path_open"
             (func (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
           (import "key-value" "open" (func (param i32 i32 i32)))
           (import "wasi-outbound-http" "request"
             (func (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))""",
    )
    assert linkage.world is None
    assert [(f.module, f.name, f.params, f.results) for f in linkage.functions] == [
        ("wasi_snapshot_preview1", "path_open", "iiiiillii", "i"),
        ("key-value", "open", "iii", ""),
        ("wasi-outbound-http", "request", "i" * 11, ""),
    ]


def test_all_of_wasi_preview_1_is_there(wat: Any, hosts: Hosts) -> None:
    names = {"i": " i32", "l": " i64"}
    fields = ""
    for name, (params, results) in FUNCTIONS.items():
        signature = f"(param{''.join(names[p] for p in params)}) (result{''.join(names[r] for r in results)})"
        fields += f'(import "wasi_snapshot_preview1" "{name}" (func {signature}))'
    assert len(linked(wat, hosts, fields).functions) == 46


@pytest.mark.parametrize(
    ("fields", "reason", "interface"),
    [
        ('(import "spin" "warp" (func))', r"imports spin\.warp, which this gateway does not offer", "spin"),
        ('(import "wasi:cli/run@0.2.0" "run" (func))', "does not offer", "wasi:cli/run@0.2.0"),
        ('(import "key-value" "watch" (func))', "a function that fermyon:spin/key-value does not have", None),
        ('(import "" "" (func))', "does not offer", ""),
        (
            '(import "wasi_unstable" "fd_write" (func (param i32 i32 i32 i32) (result i32)))',
            "not offer",
            None,
        ),
        ('(import "wasi_snapshot_preview1" "fd_warp" (func))', "fd_warp, which does not exist", None),
        (
            '(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32) (result i32)))',
            r"core type \(i32 i32 i32\) -> \(i32\), but it is \(i32 i32 i32 i32\) -> \(i32\)",
            "wasi_snapshot_preview1",
        ),
        (
            '(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i64 i32 i32) (result i32)))',
            r"\(i32 i64 i32 i32\)",
            None,
        ),
        (
            '(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 externref) (result i32)))',
            r"\(i32 i32 i32 ref\)",
            None,
        ),
        (
            '(import "key-value" "open" (func (param i32 i32) (result i32)))',
            r"core type \(i32 i32\) -> \(i32\), but it is \(i32 i32 i32\) -> \(\)",
            None,
        ),
        ('(import "key-value" "open" (func (param i32 i32 f32)))', r"\(i32 i32 f32\)", None),
    ],
)
def test_an_import_that_cannot_be_met(
    wat: Any, hosts: Hosts, fields: str, reason: str, interface: str | None
) -> None:
    with pytest.raises(LinkError, match=reason) as caught:
        linked(wat, hosts, fields)
    if interface is not None:
        assert caught.value.interface == interface


@pytest.mark.parametrize(
    ("fields", "feature"),
    [
        ('(import "env" "memory" (memory 1))', "imported memory"),
        ('(import "env" "table" (table 1 funcref))', "imported table"),
        ('(import "env" "g" (global i32))', "imported global"),
    ],
)
def test_a_guest_brings_its_own_memory_tables_and_globals(
    wat: Any, hosts: Hosts, fields: str, feature: str
) -> None:
    with pytest.raises(UnsupportedError, match="a guest brings its own") as caught:
        linked(wat, hosts, fields)
    assert caught.value.feature == feature


def test_linking_needs_no_grant(wat: Any, application: Any, ask: Any) -> None:
    """A guest that asks for what it was not granted is told so when it asks (host interfaces, 1)."""
    body = '(call $sql_open (str "default") (i32.const 64)) (call $out_number (i32.load8_u (i32.const 68)))'
    gateway = application(a=wat.spin(body + "(call $respond (i32.const 200))"))
    assert ask(gateway, "/a") == (200, b"1")  # access-denied


# The embedded world

KV_OPEN = '(import "fermyon:spin/key-value" "open" (func (param i32 i32 i32)))'


def world_of(interface: str, imports: str) -> str:
    """The text of a world that imports this one interface."""
    return f"""(component
      (@custom "wit-component-encoding" "\\04\\00")
      (type (component (type (component
        (type (instance {imports})) (import "{interface}" (instance (type 0)))))
        (export "test:guests/guest" (component (type 0)))))
      (export "guest" (type 0)))"""


def test_the_world_of_a_module_says_what_its_imports_mean(wat: Any, hosts: Hosts) -> None:
    linkage = linked(wat, hosts, KV_OPEN, world=wat.world)
    assert linkage.world is not None
    assert linkage.exported("fermyon:spin/inbound-http", "handle-request") is not None
    assert linkage.exported("fermyon:spin/inbound-http", "other") is None
    assert linkage.exported("fermyon:spin/other", "handle-request") is None


def test_an_import_that_the_world_does_not_declare(wat: Any, hosts: Hosts) -> None:
    world = world_of("fermyon:spin/config", '(export "get-config" (func (param "key" string)))')
    with pytest.raises(LinkError, match="which its embedded world does not declare") as caught:
        linked(wat, hosts, KV_OPEN, world=world)
    assert caught.value.interface == "fermyon:spin/key-value"


@pytest.mark.parametrize(
    "types",
    [
        # a parameter, the result, a case, the payload of a case: other than ours
        '(export "open" (func (param "name" (list u8)) (result (result u32 (error string)))))',
        '(export "open" (func (param "name" string) (result u64)))',
        """(type (variant (case "store-table-full") (case "no-such-store") (case "access-denied")
             (case "invalid-store") (case "no-such-key") (case "other" string)))
           (export "error" (type (eq 0)))
           (export "open" (func (param "name" string) (result (result u32 (error 1)))))""",
        """(type (variant (case "store-table-full") (case "no-such-store") (case "access-denied")
             (case "invalid-store") (case "no-such-key") (case "io" u32)))
           (export "error" (type (eq 0)))
           (export "open" (func (param "name" string) (result (result u32 (error 1)))))""",
    ],
)
def test_a_world_that_means_something_else(wat: Any, hosts: Hosts, types: str) -> None:
    with pytest.raises(LinkError, match="fermyon:spin/key-value open") as caught:
        linked(wat, hosts, KV_OPEN, world=world_of("fermyon:spin/key-value", types))
    assert caught.value.interface == "fermyon:spin/key-value"


def test_names_of_the_flat_abi_mean_nothing_beside_a_world(wat: Any, hosts: Hosts) -> None:
    fields = '(import "key-value" "open" (func (param i32 i32 i32)))'
    linked(wat, hosts, fields)
    with pytest.raises(LinkError, match=r"imports key-value\.open, which this gateway does not offer"):
        linked(wat, hosts, fields, world=wat.world)


def test_a_world_that_is_no_world(wat: Any, hosts: Hosts) -> None:
    wasm = wat.assemble(f"(module {KV_OPEN})")
    with pytest.raises(DecodeError):
        link(wasm + wat.section("component-type:x", b"\0asm\x0d\0\x01\0garbage"), hosts)


# Exports


def test_a_module_may_speak_several_dialects(wat: Any, hosts: Hosts) -> None:
    linkage = linked(
        wat,
        hosts,
        """(func (export "_start"))
           (func (export "handle-http-request")) (func (export "handle-redis-message"))
           (func (export "fermyon:spin/inbound-http#handle-request"))
           (func (export "fermyon:spin/inbound-redis#handle-message"))""",
    )
    assert dialects(linkage) == ["spin", "spin-redis", "legacy-flat", "legacy-flat-redis", "wagi"]
    assert dialects(linked(wat, hosts, "")) == []


def refused(
    application: Any, wasm: bytes, reason: str | None, kind: type = LinkError, **settings: Any
) -> Any:
    """The guest is refused when it is loaded."""
    gateway = application.gateway(application.manifest({"a": application.part(wasm, **settings)}))
    with pytest.raises(kind, match=reason) as caught:
        gateway.open()
    assert isinstance(caught.value, ComponentError)
    assert caught.value.component == "a"
    return caught.value


@pytest.mark.parametrize("wasm", [b"", b"GIF89a", b"\0asm", b"\0asm\1\0\0\0\1", b"\0asm\2\0\0\0"])
def test_bytes_that_are_no_module(application: Any, wasm: bytes) -> None:
    refused(application, wasm, None, DecodeError)


def test_a_module_that_is_not_valid(wat: Any, application: Any) -> None:
    """Well-formed, as far as the decoder looks; the engine looks at the code."""
    wasm = bytearray(wat.flat(GOOD))
    # the `end` of the expression where the data lies becomes an addition
    wasm[wasm.rindex(b"\x0b", 0, wasm.index(b"good"))] = 0x6A
    refused(application, bytes(wasm), "not a valid WebAssembly module", ComponentError)


@pytest.mark.parametrize("fields", ["", '(func (export "_start"))', '(func (export "handle-redis-message"))'])
def test_a_guest_without_handler_is_told_which_ones_there_are(
    wat: Any, application: Any, fields: str
) -> None:
    error = refused(application, wat.assemble(f"(module {fields})"), "exports no HTTP handler")
    for name in ("fermyon:spin/inbound-http", "handle-http-request", "_start", 'type = "wagi"'):
        assert name in str(error)


def test_a_guest_that_is_no_command_cannot_be_wagi(wat: Any, application: Any) -> None:
    refused(application, wat.flat(GOOD), "exports no _start", wagi=True)


def test_a_guest_without_message_handler(wat: Any, application: Any) -> None:
    redis = '[[trigger.redis]]\naddress = "redis://localhost"\nchannel = "c"\ncomponent = "a"'
    refused(application, wat.flat(GOOD), "exports no handler of Redis messages", triggers=redis)


def test_a_spin_1_handler_needs_a_world(wat: Any, application: Any) -> None:
    refused(application, wat.spin(GOOD, world=None), "without an embedded component-type that describes it")


def test_a_handler_that_the_world_declares_otherwise(wat: Any, application: Any) -> None:
    world = wat.world.replace('"get" "post" "put"', '"post" "get" "put"')
    assert world != wat.world
    refused(application, wat.spin(GOOD, world=world), "fermyon:spin/inbound-http handle-request")


MANY = " i64" * 400


@pytest.mark.parametrize(
    ("export", "reason"),
    [
        ("(func (export {name}) (result i32) (i32.const 0))", r"\(\) -> \(i32\), but it has to be \(i32 i32"),
        (
            "(func (export {name}) (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i64) (result i32) unreachable)",
            "i64",
        ),
        (
            "(func (export {name}) (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32))",
            r"-> \(\), but it has to be",
        ),
        (
            f"(func (export {{name}}) (param{' i32' * 9} funcref) (result i32) unreachable)",
            "ref",
        ),
        (
            f"(func (export {{name}}) (param{' i32' * 10}) (result{MANY}) unreachable)",
            "i64",
        ),
    ],
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_handler_of_another_type(
    wat: Any, application: Any, dialect: str, export: str, reason: str
) -> None:
    """wasmtime's unchecked call moves as many values as the guest's type says: these are never called."""
    name = HANDLERS[dialect]
    fields = wat.handler(dialect, GOOD).replace(f'(export "{name}")', "")
    wasm = wat.assemble(f"(module {fields} " + export.replace("{name}", f'"{name}"') + ")")
    if dialect == "spin":
        wasm += wat.world_section()
    refused(application, wasm, f"exports {name} with the core type .*{reason}")


@pytest.mark.parametrize(
    "type_",
    [
        "(param i32)",
        "(result i32)",
        "(param i32 i32 i32) (result i32)",
        "(param i32 i32 i32 funcref) (result i32)",
        "(param i32 i32 i32 i64) (result i32)",
        f"(param i32 i32 i32 i32{' i32' * 40}) (result i32)",
        f"(param i32 i32 i32 i32) (result{MANY})",
    ],
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_allocator_of_another_type(wat: Any, application: Any, dialect: str, type_: str) -> None:
    allocator = f'(func (export "{ALLOCATORS[dialect]}") {type_} unreachable)'
    reason = f"exports {ALLOCATORS[dialect]} with the core type"
    refused(application, wat.http(dialect, GOOD, allocator=allocator), reason)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_handler_without_allocator(wat: Any, application: Any, dialect: str) -> None:
    refused(application, wat.http(dialect, GOOD, allocator=" "), "exports no allocator")


@pytest.mark.parametrize(
    "type_", ["", "(param i32 i32)", "(param i64)", "(param i32) (result i32)", f"(param i32) (result{MANY})"]
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_post_return_of_another_type(wat: Any, application: Any, dialect: str, type_: str) -> None:
    name = POST_RETURNS[dialect]
    more = f'(func (export "{name}") {type_} unreachable)'
    refused(application, wat.http(dialect, GOOD, more), f"exports {name} with the core type")


@pytest.mark.parametrize("type_", ["(param i32)", "(result i32)", f"(result{MANY})", f"(param{MANY})"])
def test_a_start_of_another_type(wat: Any, application: Any, type_: str) -> None:
    wasm = wat.assemble(f'(module (func (export "_start") {type_} unreachable))')
    refused(application, wasm, r"exports _start with the core type .*has to be \(\) -> \(\)", wagi=True)


@pytest.mark.parametrize("type_", ["(param i32)", f"(result{MANY})"])
def test_an_initialization_of_another_type(wat: Any, application: Any, type_: str) -> None:
    more = f'(func (export "_initialize") {type_} unreachable)'
    refused(application, wat.spin(GOOD, more), "exports _initialize with the core type")


@pytest.mark.parametrize("type_", ["(param i32 i32)", f"(param i32 i32) (result{MANY})"])
def test_a_message_handler_of_another_type(wat: Any, application: Any, type_: str) -> None:
    redis = '[[trigger.redis]]\naddress = "redis://localhost"\nchannel = "c"\ncomponent = "a"'
    more = f'(func (export "handle-redis-message") {type_} unreachable)'
    refused(
        application, wat.flat(GOOD, more), "exports handle-redis-message with the core type", triggers=redis
    )


@pytest.mark.parametrize("export", ["", '(global (export "memory") i32 (i32.const 0))'])
def test_a_handler_without_memory(wat: Any, application: Any, export: str) -> None:
    fields = wat.handler("flat", GOOD).replace('(memory (export "memory") 17)', "(memory 17)")
    refused(application, wat.assemble(f"(module {fields} {export})"), "exports no memory")


def test_a_command_needs_no_memory(wat: Any, application: Any, ask: Any) -> None:
    wasm = wat.assemble('(module (func (export "_start")))')
    gateway = application(a=application.part(wasm, wagi=True))
    assert ask(gateway, "/a")[0] == 500  # it says nothing


def test_a_guest_whose_own_function_has_the_name_of_ours(wat: Any, application: Any, ask: Any) -> None:
    """The function that modules are given for lists of strings; here the guest has one already."""
    echo = "(call $out_headers (local.get $headers) (i32.const 2)) (call $respond (i32.const 200))"
    parts = {}
    for number, type_ in enumerate(["", "(param i32 i32)", "(param i64)", f"(result{MANY})"]):
        more = f'(func (export "wasm-gateway:realloc-each") {type_} unreachable)'
        parts[f"a{number}"] = wat.flat(echo, more)
    gateway = application(**parts)
    for id in parts:
        status, body = ask(gateway, f"/{id}", headers=[("a", "b"), ("c", "d")])
        assert (status, body) in [(200, b"a=b\nc=d\n"), (500, b"")]
    assert ask(gateway, "/a0", headers=[("a", "b"), ("c", "d")])[0] == 200
