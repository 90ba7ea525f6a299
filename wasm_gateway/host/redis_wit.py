# The WIT of Redis: apart from its family, whose driver need not be installed where a guest
# only imports it.

from __future__ import annotations

_TYPES = """
interface redis-types {
  enum error { success, error }
  type payload = list<u8>;
  variant redis-parameter { int64(s64), binary(payload) }
  variant redis-result { nil, status(string), int64(s64), binary(payload) }
}
"""
_REDIS = """
interface redis {
  use redis-types.{payload, redis-parameter, redis-result, error};
  publish: func(address: string, channel: string, payload: payload) -> result<_, error>;
  get: func(address: string, key: string) -> result<payload, error>;
  set: func(address: string, key: string, value: payload) -> result<_, error>;
  incr: func(address: string, key: string) -> result<s64, error>;
  del: func(address: string, keys: list<string>) -> result<s64, error>;
  sadd: func(address: string, key: string, values: list<string>) -> result<s64, error>;
  smembers: func(address: string, key: string) -> result<list<string>, error>;
  srem: func(address: string, key: string, values: list<string>) -> result<s64, error>;
  execute: func(address: string, command: string, arguments: list<redis-parameter>)
    -> result<list<redis-result>, error>;
}
"""
_REDIS_2 = """
interface redis {
  variant error { invalid-address, too-many-connections, type-error, other(string) }
  type payload = list<u8>;
  variant redis-parameter { int64(s64), binary(payload) }
  variant redis-result { nil, status(string), int64(s64), binary(payload) }
  resource connection {
    open: static func(address: string) -> result<connection, error>;
    publish: func(channel: string, payload: payload) -> result<_, error>;
    get: func(key: string) -> result<option<payload>, error>;
    set: func(key: string, value: payload) -> result<_, error>;
    incr: func(key: string) -> result<s64, error>;
    del: func(keys: list<string>) -> result<u32, error>;
    sadd: func(key: string, values: list<string>) -> result<u32, error>;
    smembers: func(key: string) -> result<list<string>, error>;
    srem: func(key: string, values: list<string>) -> result<u32, error>;
    execute: func(command: string, arguments: list<redis-parameter>) -> result<list<redis-result>, error>;
  }
}
"""
INTERFACES = {
    "fermyon:spin/redis-types": "package fermyon:spin;" + _TYPES,
    "fermyon:spin/redis": "package fermyon:spin;" + _TYPES + _REDIS,
    "fermyon:spin/redis@2": "package fermyon:spin@2.0.0;" + _REDIS_2,
    "spin:redis/redis@3": "package spin:redis@3.0.0;" + _REDIS_2.replace("func(", "async func("),
}
