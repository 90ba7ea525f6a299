# The other side of a server: a process that reads "PORT COUNT PATH BODY" from its input,
# sends so many requests one after the other, and prints the microseconds of each. BODY, in
# hexadecimal, is what every answer must be.
#
# It keeps its connection as long as the server does; where a server closes it after
# each answer, connecting again is part of the time.

from __future__ import annotations

import json
import socket
import sys
from itertools import repeat
from time import perf_counter_ns

from . import guests

SECONDS = 10.0


class Connection:
    def __init__(self, port: int) -> None:
        self.address = ("127.0.0.1", port)
        self.socket: socket.socket | None = None

    def exchange(self, request: bytes) -> bytes:
        """The body of the answer, which must be a 200."""
        if self.socket is None:
            self.socket = socket.create_connection(self.address, SECONDS)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(request)
        data = bytearray()
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._receive()
        head, body = bytes(data[:end]).lower(), data[end + 4 :]
        if b" 200 " not in head[:14]:
            raise ValueError(f"the server answers {head[:200]!r}")
        length = head.find(b"\r\ncontent-length:")
        if length >= 0:
            size = int(head[length + 17 :].split(b"\r\n", 1)[0])
            while len(body) < size:
                body += self._receive()
        elif b"\r\ntransfer-encoding: chunked" in head:
            while not body.endswith(b"0\r\n\r\n"):
                body += self._receive()
            body = dechunked(body)
        else:
            raise ValueError(f"nothing ends the answer {head[:200]!r}")
        if b"\r\nconnection: close" in head:
            self.close()
        return bytes(body)

    def _receive(self) -> bytes:
        assert self.socket is not None
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


def dechunked(data: bytes) -> bytes:
    """The content of a whole chunked body."""
    content, at = bytearray(), 0
    while True:
        end = data.index(b"\r\n", at)
        size = int(data[at:end], 16)
        if not size:
            return bytes(content)
        content += data[end + 2 : end + 2 + size]
        at = end + 2 + size + 2


def head(path: str, port: int) -> bytes:
    """The request of a browser."""
    fields = dict(guests.MANY) | {"host": f"127.0.0.1:{port}"}
    lines = [f"GET {path} HTTP/1.1", *[f"{name}: {value}" for name, value in fields.items()], "", ""]
    return "\r\n".join(lines).encode()


def ask(port: int, count: int, path: str, answer: bytes) -> list[float]:
    connection, request, times = Connection(port), head(path, port), []
    try:
        for _ in repeat(None, count):
            begin = perf_counter_ns()
            body = connection.exchange(request)
            times.append((perf_counter_ns() - begin) / 1e3)
            if body != answer:
                raise ValueError(f"the server answers {body[:200]!r}")
    finally:
        connection.close()
    return times


if __name__ == "__main__":
    for line in sys.stdin:
        port, count, path, body = line.rstrip("\n").split(" ")
        try:
            answer: dict[str, object] = {"us": ask(int(port), int(count), path, bytes.fromhex(body))}
        except (OSError, ValueError) as error:
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)
