"""What guests have open together is a share of what the process may have."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wasm_gateway.host import descriptors, network
from wasm_gateway.host.base import Deadline
from wasm_gateway.host.descriptors import Descriptors, share
from wasm_gateway.host.files import Directory, File, Root
from wasm_gateway.host.limits import TOO_MANY_CONNECTIONS
from wasm_gateway.host.mqtt import Mqtt
from wasm_gateway.host.mysql import MySql
from wasm_gateway.host.network import Network
from wasm_gateway.host.pools import Places
from wasm_gateway.host.postgres import Postgres
from wasm_gateway.host.rdbms import DatabaseFailure
from wasm_gateway.host.sqlite import FILES, Database, SqlError
from wasm_gateway.host.wasi.filesystem import FileInput

resource = pytest.importorskip("resource")


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Says how many more may be in use; what a test took has to be given back at its end."""
    gc.collect()  # what other tests have left
    files = descriptors.files
    used, before = files.used, files.limit

    def set_limit(more: int) -> None:
        files.limit = used + more

    yield set_limit
    files.limit = before
    assert files.used == used


def refused(call: Callable[[], Any]) -> bool:
    with pytest.raises(OSError) as caught:
        call()
    return caught.value.errno == errno.EMFILE


def test_a_share_is_one_of_what_the_process_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, expected in ((1024, 256), (1, 1), (resource.RLIM_INFINITY, None)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, soft=soft: (soft, soft))
        assert share(25) == expected
        assert Descriptors(25).limit == expected


def test_files_and_directories_are_counted(tmp_path: Path, limit: Callable[[int], None]) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    directory = Root("/", tmp_path).directory()
    limit(3)
    opened: list[File | Directory] = [directory.open(name) for name in (b"file", b"folder", b"file")]
    before = os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else []
    assert refused(lambda: directory.open(b"file"))
    assert not before or os.listdir("/proc/self/fd") == before
    opened.pop().close()
    file = directory.open(b"file")
    for one in (*opened, file, file):  # to close one twice gives back one
        one.close()
    directory.close()


def test_streams_of_files_are_counted(tmp_path: Path, limit: Callable[[int], None]) -> None:
    (tmp_path / "file").write_text("text")
    file = Root("/", tmp_path).directory().open(b"file")
    assert isinstance(file, File)
    limit(2)
    stream = FileInput(file, 0)
    assert refused(lambda: FileInput(file, 0))
    stream.release()
    stream.release()
    FileInput(file, 0).release()
    file.close()


def test_databases_are_counted(tmp_path: Path, limit: Callable[[int], None]) -> None:
    database = Database(tmp_path / "a.db")
    limit(2 * FILES)
    connections = [database.connect() for _ in range(2)]
    with pytest.raises(SqlError, match="cannot open the database"):
        database.connect()
    database.release(connections.pop())
    connections.append(database.connect())
    for connection in connections:
        database.release(connection)
    database.close()


def test_connections_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all applications together, and whatever the operator says of one."""
    monkeypatch.setattr(network, "ALL_CONNECTIONS", Places(2))
    one, other = Network().places, Network(max_connections=5).places
    taken = [one.take(), other.take()]
    assert None not in taken
    assert one.take() is None
    assert other.take() is None
    give_back = taken.pop()
    assert give_back is not None
    give_back()
    assert one.take() is not None


def test_connections_to_brokers_count_among_all(context: Callable[..., Any]) -> None:
    """max_total_connections, of whatever kind they are."""
    ctx = context(allowed=["mqtt://127.0.0.1"])
    way_out = Network(max_connections=1)
    family = Mqtt(way_out)
    other = way_out.places.take()
    assert other is not None
    ctx.deadline = Deadline(60)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("wasm_gateway.host.mqtt.WAIT", 0.0)
        assert family.open(ctx, "mqtt://127.0.0.1", "", "", 0).value == ("too-many-connections", None)
        other()
        handle = family.open(ctx, "mqtt://127.0.0.1", "", "", 0)
        assert way_out.places.take() is None
        family._held.drop(ctx, handle)
    assert way_out.places.take() is not None


@pytest.mark.parametrize("family", [MySql, Postgres])
def test_connections_to_databases_count_among_all(
    family: type[MySql | Postgres], context: Callable[..., Any]
) -> None:
    way_out = Network(max_connections=1)
    databases: Any = family(way_out)
    client = databases.client
    client._pool._wait = 0.0
    ctx = context(allowed=["*://127.0.0.1:*"])
    where = databases.permitted(ctx, f"{family.__name__.lower()}://u@127.0.0.1:1/")
    other = way_out.places.take()
    assert other is not None
    with pytest.raises(DatabaseFailure, match=TOO_MANY_CONNECTIONS):
        client.take(where, Deadline(60))
    other()
    with pytest.raises(DatabaseFailure) as failed:  # nobody is there
        client.take(where, Deadline(60))
    assert TOO_MANY_CONNECTIONS not in str(failed.value)
    assert way_out.places.take() is not None
    client.close()
