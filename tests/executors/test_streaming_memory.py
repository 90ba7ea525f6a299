"""Bodies go through a guest without lying in the host's memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.executors.test_wasi_http_p3 import ECHO, PASS_ON
from tests.wasi_p3_wat import P3Toolkit

MIB = 1 << 20
SIZE = 64 * MIB

# In a process of its own: what the tests before have left free there would hide what this takes.
PROGRAM = """
import json, sys
from wasm_gateway import Gateway
from wasm_gateway.messages import STREAMED, Headers, Request

CHUNK = bytes(range(256)) * 256

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) << 10

def echoed(gateway, path, size):
    taken = [0]

    def begin(head):
        assert head.status == 200
        def send(chunk):
            if chunk is not None:
                assert chunk[:1] == bytes([taken[0] % 256])
                taken[0] += len(chunk)
        return send

    body = (CHUNK for _ in range(size // len(CHUNK)))
    response = gateway.handle(Request("POST", path, None, Headers(), body, authority="x"), None, begin)
    assert response is STREAMED
    return taken[0]

gateway = Gateway.from_manifest(sys.argv[1])
for path in sys.argv[3:]:
    echoed(gateway, path, 1 << 20)
results = {}
for path in sys.argv[3:]:
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")  # the peak begins here
    before = peak()
    results[path] = echoed(gateway, path, int(sys.argv[2])), peak() - before
gateway.close()
print(json.dumps(results))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from /proc")
def test_a_body_goes_through_in_pieces(application: Any, components: Any) -> None:
    tool = {"max_request_body": "64MiB", "max_response_body": "64MiB", "timeout": "60s"}
    toolkit = P3Toolkit()
    guests = {
        "echo": components.echo(),
        "pass-on": components.passing_on(),
        "p3-echo": toolkit.handler(ECHO),
        "p3-pass-on": toolkit.handler(PASS_ON),
    }
    manifest = application.manifest(
        {name: application.part(wasm, tool=tool) for name, wasm in guests.items()}
    )
    command = [sys.executable, "-c", PROGRAM, str(manifest), str(SIZE), *(f"/{name}" for name in guests)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert {path: size for path, (size, _) in results.items()} == {f"/{name}": SIZE for name in guests}
    assert {path: grown for path, (_, grown) in results.items() if grown > 16 * MIB} == {}
