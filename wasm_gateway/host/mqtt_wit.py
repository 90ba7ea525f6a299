# The WIT of MQTT: apart from its family, whose driver need not be installed where a guest
# only imports it.

from __future__ import annotations

_MQTT = """
interface mqtt {
  variant error { invalid-address, too-many-connections, connection-failed(string), other(string) }
  enum qos { at-most-once, at-least-once, exactly-once }
  type payload = list<u8>;
  resource connection {
    open: static func(address: string, username: string, password: string, keep-alive-interval-in-secs: u64)
      -> result<connection, error>;
    publish: func(topic: string, payload: payload, qos: qos) -> result<_, error>;
  }
}
"""
INTERFACES = {
    "fermyon:spin/mqtt@2": "package fermyon:spin@2.0.0;" + _MQTT,
    "spin:mqtt/mqtt@3": "package spin:mqtt@3.0.0;" + _MQTT.replace("func(", "async func("),
}
