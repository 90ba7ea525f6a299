# Types what a page says, as its reader would: one shell that remembers its folder and its variables, files
# written with the text shown, servers left running in a terminal of their own.
#
# Rule 1: a server is a command of SERVERS. It ends (Ctrl-C) when the page starts another one at its port, or
# is over.
# Rule 2: what is printed has to be what is shown, but for spaces at ends of lines; `…` stands for anything.
# What a server prints may come later, and between other lines.
# Rule 3: who waits for a changed guest, or for counts, asks again: ASKS has time until it prints what is
# shown.
# Rule 4: what differs from a reader's machine is in `Place`: ports, and commands that are played.

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli

from tests.docs.pages import DOCS, Block, Page, Remark, read
from wasm_gateway.errors import GatewayError
from wasm_gateway.host import outbound
from wasm_gateway.manifest import parse_manifest
from wasm_gateway.runtime_config import parse_runtime_config

WAIT = 300  # for a slow machine; nothing waits that long elsewhere

SERVERS = {  # and the port where it is not said
    r"python manage\.py runserver\b": "8000",
    r"flask( --\S+( \S+)?)* run\b": "5000",
    r"wasm-gateway (up|watch|build .*--up)\b": "3000",
    r"(gunicorn|uvicorn|hypercorn|granian|uwsgi) ": "8000",
    r"redis-server ": "6379",
    r"nginx .*daemon off": "8080",
    r"python -m http\.server ": "8000",
}
ASKS = r"curl |(python manage\.py wasm_|flask wasm |wasm-gateway )report\b"
PORT = r"(?<=[:\s=])(3000|5000|6379|8000|8001|8080|8443|9000|9090)(?![\w.])"

Play = Callable[[str], bool]


@dataclass
class Place:
    """Where the page is typed.

    `play` says whether it has done a command itself; else the shell does.
    """

    folder: Path
    environ: Mapping[str, str]
    play: Play = field(default=lambda command: False)
    own_ports: bool = False  # whether to take free ports in the place of those that are printed


class Failed(AssertionError):
    pass


class Server:
    def __init__(self, command: str, port: str, process: subprocess.Popen[bytes], output: Path) -> None:
        self.command, self.port, self.process, self.output = command, port, process, output

    def printed(self) -> str:
        return self.output.read_text(errors="replace")

    def wait(self, what: str, there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT
        while not there():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{self.command}: {what}\n{self.printed()}")
            time.sleep(0.02)

    def stop(self) -> None:
        _kill(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        _kill(self.process.pid)  # and what it has left behind
        self.process.wait()


class Typist:
    """Types pages into one folder; a context manager, at whose end all servers are stopped."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.cwd = place.folder
        self.environ = dict(place.environ)
        self.servers: dict[str, Server] = {}
        self.ports: dict[str, str] = {}
        self.lines = 0
        self.programs = 0
        self._stack = ExitStack()
        self._state = place.folder.parent / f"{place.folder.name}.state"
        self._state.mkdir()

    def __enter__(self) -> Typist:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers.values():
            server.stop()
        self._stack.close()

    def type(self, page: Page) -> None:
        for step in page.steps:
            try:
                self.step(step)
            except Failed as error:
                raise Failed(f"{page.path}:{step.line}: {error}") from None

    def step(self, step: Block | Remark) -> None:
        if isinstance(step, Remark):
            if step.name == "setup":
                self.command(step.text, "", 0)
            elif step.name == "stop":
                self.servers.pop(step.text).stop()
            elif step.name == "include":
                page, file = step.text.split()
                self.write(read(DOCS / page).file(file))
        elif step.not_run:
            check(step)
        elif step.path:
            self.write(step)
        elif step.language == "console":
            for command, output in step.commands():
                self.lines += command.count("\n") + 1
                self.command(command, output, step.exit)
        elif step.language == "python":
            self.program(step)
        else:
            check(step)

    # Files

    def write(self, block: Block) -> None:
        path = self.cwd / block.path
        text = self.here(block.text)
        self.lines += len(text.splitlines())
        path.parent.mkdir(parents=True, exist_ok=True)
        if block.place == "end":
            text = path.read_text() + "\n" + text
        elif block.place:
            line = f"\n{block.place}\n"
            before, found, after = f"\n{path.read_text()}".partition(line)
            if not found:
                raise Failed(f"{block.path} has no line {block.place}")
            text = (before + line + text + after)[1:]
        check(Block(block.line, block.language, text, block.path))
        path.write_text(text)

    def program(self, block: Block) -> None:
        self.programs += 1
        path = self.cwd / f"block_{self.programs}.py"
        path.write_text(self.here(block.text))
        self.command(f"python {path.name}", "", block.exit)

    # Commands

    def here(self, text: str) -> str:
        """`text` with the ports of this place."""
        if not self.place.own_ports:
            return text
        return re.sub(PORT, lambda match: self.port(match[1]), text)

    def port(self, printed: str) -> str:
        if printed not in self.ports:
            held = self._stack.enter_context(socket.socket())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", 0))  # not listened at: others that ask for a free port do not get it
            self.ports[printed] = str(held.getsockname()[1])
        return self.ports[printed]

    def there(self, text: str) -> str:
        """`text` with the ports of the page."""
        for printed, port in self.ports.items():
            text = re.sub(rf"\b{port}\b", printed, text)
        return text

    def command(self, command: str, output: str, code: int) -> None:
        if self.place.play(command):
            return
        server = next(
            (port for known, port in SERVERS.items() if re.match(rf"(\w+=\S+ )*{known}", command)), None
        )
        if server is not None:
            self.serve(command, server, output)
            return
        deadline = time.monotonic() + (WAIT if re.match(ASKS, command) and self.servers else 0)
        while True:
            try:
                self.once(command, output, code)
                return
            except Failed:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def once(self, command: str, output: str, code: int) -> None:
        printed, ended = self.run(self.here(command))
        printed = self.there(printed)
        if ended != code:
            raise Failed(f"{command}\nended with {ended}\n{printed}")
        compare(command, printed, output)

    def run(self, command: str) -> tuple[str, int]:
        """What it prints, and its exit code; the folder and the variables that it leaves are remembered."""
        state = shlex.quote(str(self._state))
        script = f"{command}\ncode=$?; pwd > {state}/cwd; env -0 > {state}/env; exit $code"
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.cwd,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            printed, _ = process.communicate(timeout=2 * WAIT)
        except subprocess.TimeoutExpired:
            raise Failed(f"{command}\ndoes not end") from None
        finally:
            _kill(process.pid)  # and what it has left behind
            process.wait()
        if (self._state / "cwd").exists():
            self.cwd = Path((self._state / "cwd").read_text().rstrip("\n"))
            pairs = (self._state / "env").read_text().split("\0")
            self.environ = dict(
                pair.split("=", 1) for pair in pairs if "=" in pair and not pair.startswith("BASH_FUNC")
            )
        return printed, process.returncode

    def serve(self, command: str, port: str, output: str) -> None:
        said = re.search(PORT, command)
        port = said[1] if said else port
        if (running := self.servers.pop(port, None)) is not None:
            running.stop()
        typed, environ = self.here(command), dict(self.environ)
        if self.place.own_ports and not said:
            number = self.port(port)
            environ |= {"FLASK_RUN_PORT": number, "SPIN_HTTP_LISTEN_ADDR": f"127.0.0.1:{number}"}
            if "runserver" in command:
                typed += f" {number}"
        path = self._state / f"server-{len(list(self._state.iterdir()))}.txt"
        with path.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {typed}" if re.match(r"[\w./-]+ ", typed) else typed],
                cwd=self.cwd,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = self.servers[port] = Server(command, port, process, path)
        server.wait("did not listen", lambda: _listens(int(self.ports.get(port, port))))
        self.server_says(server, output)

    def server_says(self, server: Server, output: str) -> None:
        expected = [_pattern(line) for line in output.splitlines() if line.strip()]

        def there() -> bool:
            lines = iter(self.there(server.printed()).splitlines())
            return all(any(re.fullmatch(pattern, line.rstrip()) for line in lines) for pattern in expected)

        server.wait(f"did not print\n{output}", there)


def _kill(group: int, number: signal.Signals = signal.SIGKILL) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _pattern(line: str) -> str:
    return ".*".join(map(re.escape, line.rstrip().split("…")))


def compare(command: str, printed: str, shown: str) -> None:
    """Failed where something is shown that is not what was printed."""
    lines = [line.rstrip() for line in shown.strip("\n").splitlines()]
    if not any(lines):
        return
    # a line that is only … stands for any number of lines
    pattern = "\n".join(r"(?s:.*)" if line == "…" else _pattern(line) for line in lines)
    pattern = pattern.replace(r"(?s:.*)" + "\n", r"(?:.*\n)*?").replace("\n(?s:.*)", r"(?:\n.*)*?")
    text = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines())
    if not re.fullmatch(pattern, text):
        raise Failed(f"{command}\nprints\n{text}\nand not\n{shown}")


# What is not run is read at least.


def check(block: Block) -> None:
    """Failed where a block is not well-formed in its language."""
    text = block.text
    try:
        if block.language == "python":
            compile(text, block.path or "block", "exec")
        elif block.language == "json":
            import json

            json.loads(text)
        elif block.language == "yaml":
            import yaml

            list(yaml.safe_load_all(text))
        elif block.language == "toml":
            tomli.loads(text)
            if block.path in ("", "spin.toml"):
                manifest = parse_manifest(whole_manifest(text), Path("spin.toml"))
                for component in manifest.components.values():
                    outbound.validate(component.allowed_outbound_hosts, lambda name: None)
            if block.path == "runtime-config.toml":
                parse_runtime_config(text, Path("runtime-config.toml"))
        elif block.language in ("console", "sh", "bash"):
            script = "\n".join(c for c, _ in block.commands()) if block.language == "console" else text
            done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=WAIT)
            if done.returncode:
                raise Failed(done.stderr)
    except (SyntaxError, ValueError, GatewayError) as error:
        raise Failed(f"{block.language}: {error}") from None


def whole_manifest(text: str) -> str:
    """A part of a spin.toml with what it leaves out, so that it can be read as one."""
    data = tomli.loads(text)
    components = data.get("component", {})
    named = _components(data.get("trigger", {}))

    def put(text: str, header: str, line: str) -> str:
        """`line` into the table of that header, which may be there already, even if only below others."""
        here = f"{header}\n"
        return text.replace(here, here + line, 1) if here in text else f"{text}\n{here}{line}"

    if "name" not in data.get("application", {}):
        text = put(text, "[application]", 'name = "part"\n')
    for id in dict.fromkeys([*components, *named] or ["guest"]):
        if "source" not in components.get(id, {}):
            text = put(text, f"[component.{id}]", 'source = "guest.wasm"\n')
    if "trigger" not in data:
        text += f'\n[[trigger.http]]\nroute = "/..."\ncomponent = "{next(iter(components), "guest")}"\n'
    return text if "spin_manifest_version" in data else f"spin_manifest_version = 2\n{text}"


def _components(value: Any) -> Iterator[str]:
    """Ids of components that triggers name, in order."""
    if isinstance(value, list):
        for each in value:
            yield from _components(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key == "component" and isinstance(each, str):
                yield each
            yield from _components(each)


def bare(folder: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of a reader: none of Python's or of a site's, and a curl that shows no progress."""
    (folder / ".curlrc").write_text("silent\nshow-error\n")
    dropped = (
        "PYTHON",
        "DJANGO",
        "FLASK",
        "WASM_GATEWAY",
        "SPIN",
        "COV_",
        "COVERAGE",
        "PYTEST",
        "VIRTUAL_ENV",
        "BASH_FUNC",
    )
    kept = {name: value for name, value in environ.items() if not name.startswith(dropped)}
    return kept | {
        "CURL_HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "120",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
    }
