# Servers as processes of their own, what they cost, and the client that asks them.
# Linux only: CPU time of another process, and a server that ends with this one.

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import guests

START_SECONDS = 30.0
ROOT = Path(__file__).resolve().parent.parent

PR_SET_PDEATHSIG = 1


def supported() -> str:
    """Why servers cannot be measured here, "" when they can."""
    return "" if sys.platform == "linux" else "the CPU time of a whole server is read from Linux's /proc"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    command: Sequence[str],
    port: int,
    environment: Mapping[str, str] | None = None,
    seconds: float = START_SECONDS,
) -> Iterator[int]:
    """A server from when it accepts connections at `port` until the end; its process id.

    RuntimeError when it does not within `seconds`.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=_end_with_parent,
        )
        try:
            give_up = time.monotonic() + seconds
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > give_up:
                    output.seek(0)
                    said = output.read().decode(errors="replace")[-2000:]
                    raise RuntimeError(f"{command[:4]} does not serve: {said}")
                time.sleep(0.05)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def cpu_us(root: int) -> float:
    """CPU time, user and system, of the process `root` and its descendants, ended threads included."""
    return sum(time.clock_gettime(_cpu_clock(pid)) for pid in tree(root)) * 1e6


def _cpu_clock(pid: int) -> int:
    # clock_getcpuclockid(3), which Python does not have: ~pid and CPUCLOCK_SCHED
    return (~pid << 3) | 2


def tree(root: int) -> list[int]:
    """`root` and its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def resident_kib(pid: int) -> int:
    """Memory of one process that is in RAM, shared pages included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError(f"no VmRSS of process {pid}")


@dataclass(frozen=True, slots=True)
class Client:
    """The process of client.py, which asks one server after another."""

    process: subprocess.Popen[str]

    def ask(self, port: int, path: str, count: int, body: bytes = guests.ANSWER) -> list[float]:
        """Microseconds of each of `count` requests, one after the other, all answered with `body`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{port} {count} {path} {body.hex()}\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline() or '{"error": "the client has ended"}')
        if "error" in answer:
            raise RuntimeError(f"{path}: {answer['error']}")
        times: list[float] = answer["us"]
        return times


@contextlib.contextmanager
def client() -> Iterator[Client]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.client"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Client(process)
