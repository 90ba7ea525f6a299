# A component of wasi:http 0.3 by hand, with the answer of the other guests: its handler is
# lifted with a callback, returns a response, and then writes its body and trailers, waiting
# within its code where the host does not take them at once.

from __future__ import annotations

from .guests import ANSWER, CONTENT_TYPE, Guest, escaped, wasm
from .wasi_http import ERROR_CODES


def component() -> Guest:
    return Guest("wasi-http-p3", wasm(COMPONENT))


def _case(text: str) -> str:
    name, _, payload = text.partition(" ")
    return f'(case "{name}" {payload})'


# What error-code is made of, under the names that ERROR_CODES has for it.
PAYLOADS = {
    "DNS-error-payload": ("dns", '(field "rcode" (option string)) (field "info-code" (option u16))'),
    "TLS-alert-received-payload": (
        "tls",
        '(field "alert-id" (option u8)) (field "alert-message" (option string))',
    ),
    "field-size-payload": ("size", '(field "field-name" (option string)) (field "field-size" (option u32))'),
}


def _errors(how: str) -> str:
    """The definitions of error-code, to export from an instance type or to import into a component."""
    lines = [
        f'(type ${short}0 (record {fields})) ({how} "{name}" (type ${short} (eq ${short}0)))'
        for name, (short, fields) in PAYLOADS.items()
    ]
    lines.append(f"(type $code0 (variant {' '.join(map(_case, ERROR_CODES))}))")
    lines.append(f'({how} "error-code" (type $code (eq $code0)))')
    return "\n    ".join(lines)


NAMED = {**{name: short for name, (short, _) in PAYLOADS.items()}, "error-code": "code"}
ALIASES = "\n  ".join(f'(alias export $http "{name}" (type ${short}))' for name, short in NAMED.items())
WITH = "\n    ".join(f'(with "{name}" (type ${short}))' for name, short in NAMED.items())

BUILTINS = {
    "body-new": ("stream.new $body", "(result i64)"),
    "body-write": ("stream.write $body (memory $memory)", "(param i32 i32 i32) (result i32)"),
    "body-drop": ("stream.drop-writable $body", "(param i32)"),
    "trailers-new": ("future.new $trailers", "(result i64)"),
    "trailers-write": ("future.write $trailers (memory $memory)", "(param i32 i32) (result i32)"),
    "trailers-drop": ("future.drop-writable $trailers", "(param i32)"),
    "sent-drop": ("future.drop-readable $sent", "(param i32)"),
    "drop-request": ("resource.drop $request", "(param i32)"),
    "return": (
        "task.return (result $answer) (memory $memory)",
        "(param i32 i32 i32 i64 i32 i32 i32 i32)",
    ),
}
DEFINED = "\n  ".join(f"(core func ${name} (canon {text}))" for name, (text, _) in BUILTINS.items())
IMPORTED = "\n    ".join(
    f'(import "host" "{name}" (func ${name} {type_}))' for name, (_, type_) in BUILTINS.items()
)
GIVEN = " ".join(f'(export "{name}" (func ${name}))' for name in BUILTINS)

COMPONENT = f"""(component
  (import "wasi:http/types@0.3.0" (instance $http
    {_errors("export")}
    (type $header0 (variant (case "invalid-syntax") (case "forbidden") (case "immutable")
      (case "size-exceeded") (case "other" (option string))))
    (export "header-error" (type $header-error (eq $header0)))
    (export "fields" (type $fields (sub resource)))
    (export "request" (type $request (sub resource)))
    (export "response" (type $response (sub resource)))
    (export "[static]fields.from-list" (func
      (param "entries" (list (tuple string (list u8))))
      (result (result (own $fields) (error $header-error)))))
    (export "[static]response.new" (func
      (param "headers" (own $fields)) (param "contents" (option (stream u8)))
      (param "trailers" (future (result (option (own $fields)) (error $code))))
      (result (tuple (own $response) (future (result (error $code)))))))))
  (alias export $http "fields" (type $fields))
  (alias export $http "request" (type $request))
  (alias export $http "response" (type $response))
  {ALIASES}
  (type $body (stream u8))
  (type $trailers (future (result (option (own $fields)) (error $code))))
  (type $sent (future (result (error $code))))
  (type $answer (result (own $response) (error $code)))

  (core module $libc
    (memory (export "memory") 1)
    (global $top (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.get $top)
      (global.set $top
        (i32.and (i32.add (i32.add (global.get $top) (local.get 3)) (i32.const 7)) (i32.const -8)))))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (alias core export $libc "realloc" (core func $realloc))

  (core func $from-list (canon lower
    (func $http "[static]fields.from-list") (memory $memory) (realloc $realloc)))
  (core func $new (canon lower (func $http "[static]response.new") (memory $memory)))
  {DEFINED}

  (core module $guest
    (import "libc" "memory" (memory 1))
    (import "host" "from-list" (func $from-list (param i32 i32 i32)))
    (import "host" "new" (func $new (param i32 i32 i32 i32 i32)))
    {IMPORTED}
    (data (i32.const 0) "content-type")
    (data (i32.const 16) "{CONTENT_TYPE}")
    (data (i32.const 32) "{escaped(ANSWER)}")
    ;; one header: name and value, each (at, size)
    (data (i32.const 64)
      "\\00\\00\\00\\00\\0c\\00\\00\\00\\10\\00\\00\\00\\{len(CONTENT_TYPE):02x}\\00\\00\\00")
    ;; results go to 96; from 128 on 64 bytes of zero are ok(none), the trailers
    (func $high (param i64) (result i32) (i32.wrap_i64 (i64.shr_u (local.get 0) (i64.const 32))))
    (func (export "handle") (param $request i32) (result i32)
      (local $body i64) (local $trailers i64)
      (call $drop-request (local.get $request))
      (call $from-list (i32.const 64) (i32.const 1) (i32.const 96))
      (if (i32.load8_u (i32.const 96)) (then unreachable))
      (local.set $body (call $body-new))
      (local.set $trailers (call $trailers-new))
      (call $new (i32.load (i32.const 100)) (i32.const 1) (i32.wrap_i64 (local.get $body))
        (i32.wrap_i64 (local.get $trailers)) (i32.const 96))
      (call $sent-drop (i32.load (i32.const 100)))
      (call $return (i32.const 0) (i32.load (i32.const 96)) (i32.const 0) (i64.const 0) (i32.const 0)
        (i32.const 0) (i32.const 0) (i32.const 0))
      (if (i32.ne (call $body-write (call $high (local.get $body)) (i32.const 32) (i32.const {len(ANSWER)}))
          (i32.const {len(ANSWER) << 4}))
        (then unreachable))
      (call $body-drop (call $high (local.get $body)))
      (if (call $trailers-write (call $high (local.get $trailers)) (i32.const 128)) (then unreachable))
      (call $trailers-drop (call $high (local.get $trailers)))
      (i32.const 0))
    (func (export "callback") (param i32 i32 i32) (result i32) unreachable))
  (core instance $guest (instantiate $guest
    (with "libc" (instance $libc))
    (with "host" (instance
      (export "from-list" (func $from-list)) (export "new" (func $new)) {GIVEN}))))
  (alias core export $guest "callback" (core func $callback))
  (func $handle async (param "request" (own $request)) (result $answer)
    (canon lift (core func $guest "handle") async (callback $callback) (memory $memory)))
  (component $exported
    (import "request" (type $request (sub resource)))
    (import "response" (type $response (sub resource)))
    {_errors("import")}
    (import "handle" (func $handle async
      (param "request" (own $request)) (result (result (own $response) (error $code)))))
    (export $named-request "request" (type $request))
    (export $named-response "response" (type $response))
    (export $named-code "error-code" (type $code))
    (export "handle" (func $handle) (func async (param "request" (own $named-request))
      (result (result (own $named-response) (error $named-code))))))
  (instance $exported (instantiate $exported
    (with "request" (type $request)) (with "response" (type $response))
    {WITH}
    (with "handle" (func $handle))))
  (export "wasi:http/handler@0.3.0" (instance $exported)))"""
