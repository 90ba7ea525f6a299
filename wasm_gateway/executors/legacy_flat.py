# Guests of wit-bindgen 0.2: core modules that export `handle-http-request` or
# `handle-redis-message` (Spin: http, 7.3).
#
# Their flat signatures are those of the canonical ABI for today's unversioned
# fermyon:spin interfaces; what differs is the names, the allocator's
# (canonical_abi_realloc), and that nothing in the module describes the types: they
# are our own declarations. `canonical_abi_free` is never called, since the memory
# that it would put in order ends with the request.

from __future__ import annotations

HTTP_EXPORT = "handle-http-request"
REDIS_EXPORT = "handle-redis-message"

# Import module of the flat ABI -> interface (Spin: host interfaces, 9), and the one
# function whose name differs.
INTERFACES = {
    "wasi-outbound-http": "fermyon:spin/http",
    "spin-config": "fermyon:spin/config",
    "outbound-redis": "fermyon:spin/redis",
    "outbound-pg": "fermyon:spin/postgres",
    "outbound-mysql": "fermyon:spin/mysql",
    "sqlite": "fermyon:spin/sqlite",
    "key-value": "fermyon:spin/key-value",
    "llm": "fermyon:spin/llm",
}
RENAMED = {("wasi-outbound-http", "request"): "send-request"}
