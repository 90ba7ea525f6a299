"""The one registry of what has to be forgotten in a forked child."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

PRELUDE = """
import gc, os, signal, sys, threading, weakref
signal.alarm(60)  # a hang is a failure
from wasm_gateway import forks

class Owner:
    def __init__(self, name, error=None):
        self.name, self.error = name, error
        forks.watch(self)
    def after_fork(self):
        print("forgot", self.name, flush=True)
        if self.error is not None:
            raise self.error

def in_child(function):
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        signal.alarm(60)  # a child does not inherit it
        function()
        sys.stdout.flush()
        os._exit(0)
    assert not os.waitpid(pid, 0)[1]
"""


def python(script: str) -> tuple[list[str], str]:
    """Lines of stdout, and stderr."""
    command = [sys.executable, "-c", PRELUDE + script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def test_owners_are_told_in_the_child_alone() -> None:
    lines, errors = python('one = Owner("one"); in_child(lambda: print("child")); print("parent")')
    assert lines == ["forgot one", "child", "parent"]
    assert errors == ""


def test_an_owner_that_is_gone_is_not_told_and_not_kept() -> None:
    lines, _ = python(
        """
one, two = Owner("one"), Owner("two")
gone = weakref.ref(two)
del two
gc.collect()
in_child(lambda: print("child", gone()))
"""
    )
    assert lines == ["forgot one", "child None"]


def test_an_owner_that_fails_keeps_no_other_from_being_told() -> None:
    lines, errors = python(
        """
owners = [Owner(str(number), ValueError("broken") if number == 2 else None) for number in range(5)]
in_child(lambda: print("child"))
"""
    )
    assert sorted(lines) == ["child", *(f"forgot {number}" for number in range(5))]
    assert "ValueError: broken" in errors


def test_what_is_abandoned_is_never_finalised() -> None:
    lines, _ = python(
        """
class Connection:
    def __del__(self):
        print("said goodbye", flush=True)

class Pool:
    def __init__(self):
        self.connection = Connection()
        forks.watch(self)
    def after_fork(self):
        forks.abandon(self.connection)
        del self.connection

pool = Pool()
def child():
    gc.collect()
    sys.stdout.flush()
sys.stdout.flush()
pid = os.fork()
if not pid:
    child()
    sys.exit()  # the interpreter's end finalises what is left
assert not os.waitpid(pid, 0)[1]
print("parent")
"""
    )
    assert lines == ["parent", "said goodbye"]


def test_a_fork_waits_where_it_is_postponed() -> None:
    """And holds nothing meanwhile of what is needed to get there."""
    lines, _ = python(
        """
import logging
from concurrent.futures import ThreadPoolExecutor
entered, done = threading.Event(), threading.Event()
def work():
    with forks.postponed(), forks.postponed():
        entered.set()
        threading.Event().wait(0.3)  # somebody wants to fork by now
        logging.getLogger("unheard of").isEnabledFor(10)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int).result()
        done.set()
thread = threading.Thread(target=work)
thread.start()
entered.wait()
in_child(lambda: print("child", done.is_set()))
thread.join()
def again():
    with forks.postponed():
        in_child(lambda: print("grandchild"))
in_child(again)
with forks.postponed():
    print("parent")
"""
    )
    assert lines == ["child True", "grandchild", "parent"]


def test_a_fork_does_not_wait_for_ever() -> None:
    lines, _ = python(
        """
forks.MAX_POSTPONED = 0.1
entered, release = threading.Event(), threading.Event()
def work():
    with forks.postponed():
        entered.set()
        release.wait()
thread = threading.Thread(target=work)
thread.start()
entered.wait()
def child():
    with forks.postponed():
        print("child")
in_child(child)
release.set()
thread.join()
with forks.postponed():
    print("parent")
"""
    )
    assert lines == ["child", "parent"]


@pytest.mark.parametrize(
    "held",
    [
        "Engine._shared_guard.lock",
        "gateway._lock",
        "gateway.hosts._lock",
        "gateway.logs._lock",
        "gateway._work_lock",
        "gateway.swaps.lock",
    ],
)
def test_a_lock_that_another_thread_holds_is_free_in_the_child(wat: Any, application: Any, held: str) -> None:
    body = '(call $print (str "line\\n")) (call $text (i32.const 200) (str "a"))'
    (application.folder / "page.txt").write_text("a page")
    path = application.manifest({"a": application.part(wat.spin(body), files=["*.txt"])})
    lines, _ = python(
        f"""
from wasm_gateway import Gateway
from wasm_gateway.engine import Engine
from wasm_gateway.messages import Request
gateway = Gateway.from_manifest({str(path)!r}, disable_cache=True).open()
held, release = threading.Event(), threading.Event()
def hold():
    with {held}:
        held.set()
        release.wait()
def child():
    print(gateway.handle(Request("GET", "/a")).status)
    gateway.close()
    print(gateway.open().handle(Request("GET", "/a")).status)
    gateway.close()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
in_child(child)
release.set()
thread.join()
gateway.close()
"""
    )
    assert lines == ["200", "200"]
