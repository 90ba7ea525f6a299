"""The circuit breaker: each step of its cycle, with a clock of the test's own."""

from __future__ import annotations

import threading

from wasm_gateway.migration.breaker import Breaker, State


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(3, 10.0, clock)
    for _ in range(3):
        assert breaker.admits()
        breaker.failed()
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = Breaker(3, 10.0, Clock())
    for _ in range(5):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert breaker.state is State.CLOSED
    assert opened(Clock()).state is State.OPEN


def test_while_open_it_admits_nobody() -> None:
    clock = Clock()
    breaker = opened(clock)
    for _ in range(10):
        clock.now += 0.999
        assert not breaker.admits()


def test_then_one_tries_at_a_time() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10
    assert breaker.state is State.HALF_OPEN
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    breaker.succeeded()
    assert breaker.state is State.CLOSED
    assert [breaker.admits() for _ in range(3)] == [True, True, True]
    breaker.failed()
    assert breaker.state is State.CLOSED


def test_a_trial_that_fails_opens_it_again() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10
    assert breaker.admits()
    breaker.failed()
    assert breaker.state is State.OPEN
    clock.now += 9
    assert not breaker.admits()
    clock.now += 1
    assert breaker.admits()


def test_a_trial_without_an_outcome_is_forgotten() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10
    assert breaker.admits()
    clock.now += 10
    assert [breaker.admits() for _ in range(2)] == [True, False]


def test_late_failures_of_others_keep_it_open() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 9
    breaker.failed()
    clock.now += 9
    assert not breaker.admits()


def test_threads_that_come_at_once() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10
    admitted: list[bool] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        admitted.append(breaker.admits())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(admitted) == 1
