"""Linking of core modules: every import is met by name and type, every export that is called has its type."""

from __future__ import annotations

from typing import Any

import pytest

from tests.component_wat import ECHO, ECHO_USES
from wasm_gateway.errors import ComponentError, DecodeError, LinkError, UnsupportedError
from wasm_gateway.executors import dialects, link
from wasm_gateway.host.application import Hosts
from wasm_gateway.host.wasi.preview1 import FUNCTIONS
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


def test_standard_names_are_for_components(wat: Any, hosts: Hosts) -> None:
    with pytest.raises(UnsupportedError, match="make it a component"):
        linked(wat, hosts, '(import "cm32p2|wasi:io/poll@0.2" "pollable_drop" (func (param i32)))')


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


# Modules of wasi:http, as the Spin 2 SDK makes them

HANDLE = "wasi:http/incoming-handler@{version}#handle"
TEXT = '(data (i32.const 0) "text")'


def say(status: str) -> str:
    """Answers with the status that this code gives, and TEXT."""
    return f"(call $answer (local.get $out) {status} (i32.const 0) (i32.const 4))"


SAY = say("(i32.const 200)")


@pytest.mark.parametrize("version", ["0.2.0", "0.2.12", "0.2.0-rc-2023-11-10"])
def test_a_module_of_wasi_http_runs_as_a_component_does(
    application: Any, ask: Any, components: Any, hosts: Hosts, version: str
) -> None:
    wasm = components.http_module(ECHO, ECHO_USES, version=version)
    assert dialects(link(wasm, hosts)) == ["wasi-http"]
    gateway = application(a=wasm, b=components.echo())
    for body in ((), (b"one", b"two"), (bytes(range(256)) * 2000,)):
        for id in "ab":
            assert ask(gateway, f"/{id}", "POST", body=body) == (200, b"".join(body))


def test_interfaces_of_several_versions(application: Any, ask: Any, components: Any) -> None:
    wasm = components.http_module(ECHO, ECHO_USES)
    for name, version in ((b"wasi:io/streams@0.2.", b"9"), (b"wasi:http/types@0.2.", b"3")):
        assert name + b"0" in wasm
        wasm = wasm.replace(name + b"0", name + version)
    assert ask(application(a=wasm), "/a", "POST", body=(b"x",)) == (200, b"x")


def test_a_module_is_initialized_and_starts_anew_each_time(
    application: Any, ask: Any, components: Any
) -> None:
    functions = """(global $count (mut i32) (i32.const 200))
      (func (export "_initialize") (global.set $count (i32.add (global.get $count) (i32.const 1))))"""
    wasm = components.http_module(say("(global.get $count)"), functions=functions, data=TEXT)
    gateway = application(a=wasm)
    assert [ask(gateway, "/a") for _ in range(3)] == [(201, b"text")] * 3


def test_the_post_return_of_a_handler_is_called(
    application: Any, ask: Any, components: Any, caplog: pytest.LogCaptureFixture
) -> None:
    name = HANDLE.format(version="0.2.0")
    functions = f'(func (export "cabi_post_{name}") unreachable)'
    gateway = application(a=components.http_module(SAY, functions=functions, data=TEXT))
    assert ask(gateway, "/a") == (200, b"text")
    assert "failed after its response" in caplog.text


def test_preview_1_and_resources_of_spin_beside_wasi_http(
    application: Any, ask: Any, components: Any, caplog: pytest.LogCaptureFixture
) -> None:
    body = """(local $store i32)
      (call $store.open (i32.const 16) (i32.const 7) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then unreachable))
      (local.set $store (i32.load (i32.const 68)))
      (call $store.set (local.get $store) (i32.const 0) (i32.const 4) (i32.const 16) (i32.const 7)
        (i32.const 64))
      (call $store.get (local.get $store) (i32.const 0) (i32.const 4) (i32.const 64))
      (call $drop.store (local.get $store))
      (i32.store (i32.const 32) (i32.load (i32.const 72)))
      (i32.store (i32.const 36) (i32.load (i32.const 76)))
      (drop (call $fd_write (i32.const 2) (i32.const 32) (i32.const 1) (i32.const 40)))
      (call $answer (local.get $out) (i32.const 200) (i32.load (i32.const 72)) (i32.load (i32.const 76)))"""
    key_value = ("[static]store.open", "[method]store.set", "[method]store.get", "[resource-drop]store")
    wasm = components.http_module(
        body,
        {"fermyon:spin/key-value@2.0.0": key_value},
        data=TEXT + '(data (i32.const 16) "default")',
        imports="""(import "wasi_snapshot_preview1" "fd_write"
          (func $fd_write (param i32 i32 i32 i32) (result i32)))""",
    )
    gateway = application(a=application.part(wasm, key_value_stores=["default"]))
    assert ask(gateway, "/a") == (200, b"default")
    assert "default" in [record.getMessage() for record in caplog.records]


def test_a_world_that_declares_wasi_http_otherwise(application: Any, components: Any) -> None:
    wasm = components.http_module(SAY, data=TEXT)
    assert wasm.count(b"HTTP-request-denied") == 1
    refused(
        application, wasm.replace(b"HTTP-request-denied", b"HTTP-request-Denied"), "wasi:http/types@0.2.0 "
    )


def test_a_module_that_is_a_command_by_its_world(wat: Any, application: Any, ask: Any) -> None:
    world = """(component
      (@custom "wit-component-encoding" "\\04\\00")
      (type (component (type (component
        (export "wasi:cli/run@0.2.0" (instance (export "run" (func (result (result))))))))
        (export "test:guests/guest" (component (type 0)))))
      (export "guest" (type 0)))"""
    wasm = wat.module(
        r"""(func (export "wasi:cli/run@0.2.0#run") (result i32)
          (call $print (str "content-type: text/plain\n\nhello")) (i32.const 0))"""
    )
    gateway = application(a=application.part(wasm + wat.world_section(world), wagi=True))
    assert ask(gateway, "/a") == (200, b"hello")


# Resources that a module defines

THINGS = "test:guests/things@1.0.0"
DECLARED = f'(export "{THINGS}" (instance (export "thing" (type (sub resource)))))'
NEW, REP, DROP = (
    f'(import "[export]{THINGS}" "[resource-{kind}]thing" (func ${kind} (param i32){result}))'
    for kind, result in (("new", " (result i32)"), ("rep", " (result i32)"), ("drop", ""))
)
DESTRUCTOR = f"""(global $gone (mut i32) (i32.const 200))
  (func (export "{THINGS}#[dtor]thing") (param i32) (global.set $gone (local.get 0)))"""


def things(components: Any, body: str, functions: str = DESTRUCTOR) -> bytes:
    """A guest that defines a resource, whose handles in `$a` and `$b` stand for 207 and 208."""
    wasm: bytes = components.http_module(
        f"""(local $a i32) (local $b i32)
          (local.set $a (call $new (i32.const 207))) (local.set $b (call $new (i32.const 208))) {body}""",
        functions=functions,
        data=TEXT,
        imports=NEW + REP + DROP,
        exports=DECLARED,
    )
    return wasm


def test_resources_of_the_module_itself(application: Any, ask: Any, components: Any) -> None:
    dropped = f"(call $drop (local.get $a)) {say('(global.get $gone)')}"
    gateway = application(
        rep=things(components, say("(call $rep (local.get $b))")),
        dropped=things(components, dropped),
        without=things(
            components, f"(call $drop (local.get $a)) {say('(call $rep (local.get $b))')}", functions=""
        ),
    )
    assert ask(gateway, "/rep") == (208, b"text")
    assert ask(gateway, "/dropped") == (207, b"text")
    assert ask(gateway, "/without") == (208, b"text")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("(call $drop (local.get $a)) (drop (call $rep (local.get $a)))", "unknown handle index"),
        ("(call $drop (local.get $a)) (call $drop (local.get $a))", "unknown handle index"),
        ("(drop (call $rep (call $fields)))", "is of type fields, not thing"),
        ("(drop (call $rep (local.get $request)))", "is of type incoming-request, not thing"),
        ("(drop (call $outgoing-response (local.get $a)))", "is of type thing, not fields"),
    ],
)
def test_handles_of_the_module_are_checked(
    application: Any, ask: Any, components: Any, caplog: pytest.LogCaptureFixture, code: str, message: str
) -> None:
    assert ask(application(a=things(components, code)), "/a") == (500, b"")
    assert message in caplog.text


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("", "", "which no embedded world says that it exports"),
        ("[resource-new]thing", "[resource-new]other", "the resource other of test:guests/things"),
        (
            "[resource-rep]thing",
            "[resource-reps]thing",
            r"\[resource-reps\]thing, which this gateway does not",
        ),
        (
            "(func $new (param i32) (result i32))",
            "(func $new (param i32))",
            r"core type \(i32\) -> \(\), but",
        ),
        ("(func $drop (param i32))", "(func $drop (param i64))", r"core type \(i64\)"),
        ("", '(func (export "test:guests/things@1.0.0#[dtor]thing"))', "a destructor, which has to be"),
        ("", '(global (export "test:guests/things@1.0.0#[dtor]thing") i32 (i32.const 0))', "a destructor"),
    ],
)
def test_built_ins_that_cannot_be_met(hosts: Hosts, components: Any, old: str, new: str, reason: str) -> None:
    imports = (NEW + REP + DROP).replace(old, new) if old else NEW + REP + DROP
    exports = DECLARED if old or new else ""
    with pytest.raises(LinkError, match=reason):
        link(
            components.http_module(
                SAY, data=TEXT, functions="" if old else new, imports=imports, exports=exports
            ),
            hosts,
        )


def test_built_ins_need_a_world(wat: Any, hosts: Hosts) -> None:
    with pytest.raises(LinkError, match="which no embedded world says that it exports"):
        linked(wat, hosts, NEW)


def test_a_resource_that_is_only_used_is_not_the_module_s_own(components: Any, hosts: Hosts) -> None:
    handler = "wasi:http/incoming-handler@0.2.0"
    imports = f'(import "[export]{handler}" "[resource-new]incoming-request" (func (param i32) (result i32)))'
    with pytest.raises(LinkError, match="the resource incoming-request of wasi:http/incoming-handler"):
        link(components.http_module(SAY, data=TEXT, imports=imports), hosts)
