"""The threads in which guests run while something else waits: how they end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from wasm_gateway.errors import Saturated
from wasm_gateway.workers import Workers


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_closing_waits_for_what_runs_and_forgets_what_waits(release: threading.Event) -> None:
    workers = Workers(2, backlog=10)
    begun, ended = threading.Semaphore(0), list[int]()

    def job(number: int) -> None:
        begun.release()
        assert release.wait(60)
        ended.append(number)

    for number in range(6):
        workers.submit(job, number)
    for _ in range(2):
        assert begun.acquire(timeout=60)
    closing = threading.Thread(target=workers.close)
    closing.start()
    end = time.monotonic() + 60
    while not workers._closed:
        assert time.monotonic() < end
        time.sleep(0.001)
    closing.join(0.05)
    assert closing.is_alive()
    with pytest.raises(Saturated, match="closed"):
        workers.submit(job, 7)
    release.set()
    closing.join(60)
    assert not closing.is_alive()
    assert sorted(ended) == [0, 1]
    assert not workers._threads
    assert not workers._busy
    workers.close()


def test_closing_what_never_ran() -> None:
    workers = Workers(2)
    workers.close()
    with pytest.raises(Saturated):
        workers.submit(print)


def test_a_job_may_close_its_own_pool() -> None:
    workers = Workers(1)
    done = threading.Event()

    def job() -> None:
        workers.close()
        done.set()

    workers.submit(job)
    assert done.wait(60)
