# Real servers for tests, started in folders of their own on free loopback ports.
#
# Each fixture gives the URL of a server that lives as long as the test session, and
# skips the test where the server's programs are not installed. Nothing is shared
# with a server of the machine, and nothing is left behind.

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

# Debian keeps PostgreSQL's programs away from the PATH.
POSTGRES_FOLDERS = ("/usr/lib/postgresql", "/usr/local/lib/postgresql")
START_SECONDS = 120.0


def free_port() -> int:
    """A TCP port of the loopback interface for a server that sets SO_REUSEADDR, as all do on Unix.

    It stays bound until this process ends, though nobody listens: others that ask for a free port do not
    get it meanwhile.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        if sys.platform == "linux":  # elsewhere the server could not have it
            held.detach()
    return port


def program(*names: str) -> str | None:
    """The path of the first of these programs that is there."""
    versions = [sorted(Path(root).glob("*/bin"), reverse=True) for root in POSTGRES_FOLDERS]
    folders = [
        os.environ.get("PATH", ""),
        "/usr/sbin",
        "/sbin",
        *(str(one) for all in versions for one in all),
    ]
    path = os.pathsep.join(folders)
    return next(filter(None, (shutil.which(name, path=path) for name in names)), None)


def as_user(name: str) -> list[str]:
    """What to put in front of a command that refuses to run as root."""
    if os.name != "posix" or os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip(f"running as root, and there is no setpriv to become {name}")
    return ["setpriv", f"--reuid={name}", f"--regid={name}", "--clear-groups", "--"]


@contextlib.contextmanager
def running(command: Callable[[int], list[str]], folder: Path, ready: Callable[[int], bool]) -> Iterator[int]:
    """Run the server `command(port)` from when it is `ready(port)` to the end of the block; its port."""
    log, port = folder / "server.log", free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(port), cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        give_up = time.monotonic() + START_SECONDS
        while not ready(port):
            if process.poll() is not None or time.monotonic() > give_up:
                said = log.read_text(errors="replace")[-2000:]
                pytest.fail(f"{folder.name}: the server did not start: {said}")
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(port: int, prompt: bytes = b"", size: int = 1) -> bool:
    """Whether a server on `port` says something, when it is sent `prompt`."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(prompt)
            return len(connection.recv(size)) == size
    except OSError:
        return False


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty Redis: redis://127.0.0.1:PORT"""
    server = program("redis-server", "valkey-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    folder = tmp_path_factory.mktemp("redis")
    options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with running(
        lambda port: [server, *options, "--port", str(port)],
        folder,
        lambda port: answers(port, b"PING\r\n", 7),
    ) as port:
        yield f"redis://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL with an empty database: postgres://guest:secret@127.0.0.1:PORT/site"""
    initdb, server, psql = program("initdb"), program("postgres"), program("psql")
    if initdb is None or server is None or psql is None:
        pytest.skip("PostgreSQL is not installed")
    user = as_user("postgres")
    with _own_folder(user) as folder:
        secret = folder / "secret"
        secret.write_text("secret")
        secret.chmod(0o644)
        data = str(folder / "data")
        quick = ["--no-sync", "--no-locale", "--encoding=UTF8"]
        login = ["--username=guest", f"--pwfile={secret}", "--auth=scram-sha-256"]
        _run([*user, initdb, *quick, *login, "-D", data], folder)
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=40"]
        options += ["-c", f"unix_socket_directories={folder}"]

        def ready(port: int) -> bool:
            url = f"postgres://guest:secret@127.0.0.1:{port}/postgres"
            made = subprocess.run(
                [psql, url, "-qc", "create database site"], capture_output=True, check=False
            )
            return made.returncode == 0

        with running(
            lambda port: [*user, server, "-D", data, *options, "-p", str(port)], folder, ready
        ) as port:
            yield f"postgres://guest:secret@127.0.0.1:{port}/site"


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[str]:
    """The URL of a MariaDB with an empty database: mysql://guest:secret@127.0.0.1:PORT/site"""
    install, server = program("mariadb-install-db", "mysql_install_db"), program("mariadbd", "mysqld")
    if install is None or server is None:
        pytest.skip("MariaDB is not installed")
    user = as_user("mysql")
    with _own_folder(user) as folder:
        data = str(folder / "data")
        # --no-defaults first: a server of the machine is nothing to us
        where = ["--no-defaults", f"--datadir={data}"]
        _run([*user, install, *where, "--auth-root-authentication-method=normal", "--skip-test-db"], folder)
        script = folder / "init.sql"
        script.write_text(
            "CREATE DATABASE IF NOT EXISTS site CHARACTER SET utf8mb4;\n"
            "CREATE USER IF NOT EXISTS guest@'127.0.0.1' IDENTIFIED BY 'secret';\n"
            "GRANT ALL ON site.* TO guest@'127.0.0.1';\n"
        )
        script.chmod(0o644)
        options = ["--bind-address=127.0.0.1", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0"]
        options += [f"--init-file={script}", f"--socket={folder}/socket", f"--pid-file={folder}/pid"]
        with running(
            lambda port: [*user, server, *where, *options, f"--port={port}"],
            folder,
            lambda port: answers(port, size=5),
        ) as port:
            yield f"mysql://guest:secret@127.0.0.1:{port}/site"


@pytest.fixture(scope="session")
def mosquitto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an MQTT server: mqtt://127.0.0.1:PORT

    It takes everybody; user "guest" has the password "secret", and another one is refused.
    """
    server, passwords = program("mosquitto"), program("mosquitto_passwd")
    if server is None or passwords is None:
        pytest.skip("Mosquitto is not installed")
    user = as_user("mosquitto")
    with _own_folder(user) as folder:
        secrets, config = folder / "passwords", folder / "mosquitto.conf"
        _run([*user, passwords, "-c", "-b", str(secrets), "guest", "secret"], folder)

        def command(port: int) -> list[str]:
            lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", f"password_file {secrets}"]
            config.write_text("\n".join([*lines, "max_packet_size 20000000", ""]))
            config.chmod(0o644)
            return [*user, server, "-c", str(config)]

        # CONNECT of an anonymous client (MQTT 3.1.1, 3.1), answered by CONNACK
        hello = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x05\x00\x01x"
        with running(command, folder, lambda port: answers(port, hello, 4)) as port:
            yield f"mqtt://127.0.0.1:{port}"


@pytest.fixture
def mqtt_messages(mosquitto_server: str) -> Iterator[Queue[tuple[str, bytes, int]]]:
    """What that server tells a client that listens to everything: topic, payload, QoS."""
    messages: Queue[tuple[str, bytes, int]] = Queue()
    ready = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_connect = lambda *_: client.subscribe("#", 2)
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda _, __, message: messages.put((message.topic, message.payload, message.qos))
    client.connect("127.0.0.1", int(mosquitto_server.rpartition(":")[2]))
    client.loop_start()
    assert ready.wait(60)
    yield messages
    client.disconnect()
    client.loop_stop()


@pytest.fixture(scope="session")
def oci_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """`oci_registry(realm)` is HOST:PORT of an empty OCI registry; with a realm, it wants a login.

    That is of user "guest" with the password "secret".
    """
    server = program("docker-registry")
    if server is None:
        pytest.skip("docker-registry is not installed")
    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(realm: str = "") -> str:
            folder = tmp_path_factory.mktemp("registry")
            config, logins = folder / "config.yml", folder / "htpasswd"
            logins.write_text("guest:$2b$04$t745CokZ67fMDAhtiZYMaeCA.l.5NJVt2C3NkYmveOMGi..AqRGFW\n")

            def command(port: int) -> list[str]:
                auth = {"htpasswd": {"realm": realm, "path": str(logins)}}
                settings = {
                    "version": "0.1",
                    "log": {"level": "error"},
                    "storage": {"filesystem": {"rootdirectory": str(folder)}},
                    "http": {"addr": f"127.0.0.1:{port}"},
                    **({"auth": auth} if realm else {}),
                }
                config.write_text(json.dumps(settings))  # which is YAML
                return [server, "serve", str(config)]

            hello = b"GET /v2/ HTTP/1.0\r\n\r\n"
            port = stack.enter_context(running(command, folder, lambda port: answers(port, hello, 4)))
            return f"127.0.0.1:{port}"

        yield start


@contextlib.contextmanager
def _own_folder(user: list[str]) -> Iterator[Path]:
    """A folder that belongs to the user of `as_user`.

    Not one of pytest's, which are for one user alone; each session of pytest sees to that anew.
    """
    folder = Path(tempfile.mkdtemp(prefix="wasm-gateway-test-"))
    try:
        if user:
            import pwd

            owner = pwd.getpwnam(user[1].partition("=")[2])
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{command[len(command) // 2]}: {done.stdout[-1000:]} {done.stderr[-1000:]}")
