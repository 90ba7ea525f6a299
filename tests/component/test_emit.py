from __future__ import annotations

import linecache
import subprocess
import sys
from typing import Any

import pytest

from wasm_gateway.component.canon import raw_import
from wasm_gateway.component.emit import Writer, build, compiled, lazy, letters, plus, source, targets
from wasm_gateway.errors import Trap


@pytest.mark.parametrize(
    ("slots", "size", "text"),
    [
        ([(0, "B"), (4, "I"), (8, "I")], None, "B3xII"),
        ([(4, "B"), (8, "Q")], None, "B3xQ"),
        ([(4, "B"), (8, "Q")], 24, "4xB3xQ8x"),
        ([(0, "H")], 2, "H"),
        ([], 4, "4x"),
        ([], None, ""),
    ],
)
def test_letters(slots: list[tuple[int, str]], size: int | None, text: str) -> None:
    assert letters(slots, size) == text


def test_expressions() -> None:
    assert (plus("p", 0), plus("p", 4)) == ("p", "p + 4")
    assert (targets(["a"]), targets(["a", "b"])) == ("(a,)", "a, b")


def test_writer() -> None:
    out = Writer()
    with out.block("def f(x):"):
        name = out.bind("x + 1")
        assert out.bind(name) == name
        with out.aside(0) as helper:
            out.emit("def g(): pass")
        table = out.constant("TABLE", {"a": 1}, ("a",))
        assert out.constant("TABLE", {"a": 1}, ("a",)) == table
        assert out.constant("OTHER", ("a",)) != table
        unpack = out.struct("unpack", "?H")
        assert out.struct("unpack", "?H") == unpack
        out.emit(f"return {name}, {table}['a'], {unpack}(bytes(3))")
    out.lines = helper + out.lines
    f = build("named", "f", out.text(), dict(out.constants))
    assert f(1) == (2, 1, (False, 0))
    assert f.__name__ == "named"
    assert source(f).splitlines()[0] == "def g(): pass"
    assert linecache.getline(f.__code__.co_filename, 2) == "def f(x):\n"


def test_texts_are_kept_no_longer_than_their_code() -> None:
    filenames = [compiled(f"x = {i}").co_filename for i in (1, 2)]
    assert [linecache.getline(name, 1) for name in filenames] == ["x = 1", "x = 2"]
    compiled.cache_clear()
    assert not any(name in linecache.cache for name in filenames)


def test_lazy_writes_at_the_first_call() -> None:
    written = []

    def write() -> tuple[str, dict[str, Any]]:
        written.append(1)
        return "def lower(env, caller, raw, nargs):\n    return raw + OFFSET\n", {"OFFSET": 10}

    f = lazy("name", None, write)
    assert not written
    assert [f(0, 0, i, 0) for i in range(3)] == [10, 11, 12]
    assert written == [1]
    assert "OFFSET" in source(f)


def test_source_of_what_was_never_called() -> None:
    f = lazy("name", None, lambda: ("def lower(env, caller, raw, nargs): return 1", {}))
    assert source(f).startswith("def lower")
    assert f(0, 0, 0, 0) == 1


def test_failure_to_write_is_parked() -> None:
    class Instance:
        def park(self, exc: BaseException) -> int:
            self.parked = exc
            return 99

    class Current:
        instance = Instance()

    def write() -> tuple[str, dict[str, Any]]:
        raise KeyboardInterrupt

    assert lazy("name", Current, write)(0, 0, 0, 0) == 99
    assert type(Current.instance.parked) is KeyboardInterrupt


def test_a_signal_that_comes_while_a_failure_is_parked_is_parked_too() -> None:
    """Its handler raises anywhere in what is done about the failure; nothing may get out."""
    parked: list[BaseException] = []

    class Instance:
        def park(self, exc: BaseException) -> int:
            parked.append(exc)
            if len(parked) == 1:
                raise Bye
            return 99

    class Bye(BaseException):
        pass

    class Current:
        instance = Instance()

    def fail(inst: Any) -> None:
        raise Trap("its own")

    callback = raw_import("f", "", "", fail, Current)
    for _ in range(2):  # the first call writes the code
        parked.clear()
        assert callback(0, 0, 0, 0) == 99
        assert list(map(type, parked)) == [Trap, Bye]
        assert str(parked[0]) == "f: its own"


@pytest.mark.parametrize("made", ["{}", "noting_stack({})"])
def test_signals_wait_until_they_can_be_caught(made: str) -> None:
    """A handler that raises while a guest runs ends the guest, not the process (by SIGABRT)."""
    command = [sys.executable, "-c", SIGNALS.replace("CALLBACK", made.format("callback"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "caught Bye\n" * 3, "")


# The guest waits in a loop, so that the signal arrives while no Python runs, and goes on
# when a thread has sent it: the first Python after the signal is the entry of the callback.
SIGNALS = """
import ctypes, os, signal, threading, time, wasmtime
from ctypes import c_size_t, c_void_p, cast, create_string_buffer
from wasmtime import _bindings
from wasm_gateway.component.canon import raw_import
from wasm_gateway.engine import current
from wasm_gateway.executors.core_module import noting_stack

class Bye(BaseException):
    pass

class Instance:
    def park(self, exc):
        self.parked = exc
        return ctypes.addressof(_bindings.wasmtime_trap_new(create_string_buffer(b"parked"), 6).contents)

def handler(number, frame):
    raise Bye

def later():
    waits = ctypes.c_uint32.from_address(base + 4)
    while not waits.value:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGUSR1)
    ctypes.c_uint32.from_address(base).value = 1

current.instance = Instance()
callback = raw_import("f", "", "", print, current)
callback = CALLBACK
native = ctypes.CFUNCTYPE(c_void_p, c_void_p, c_void_p, c_void_p, c_size_t)(callback)
engine, ft = wasmtime.Engine(), wasmtime.FuncType([], [])
linker, store = wasmtime.Linker(engine), wasmtime.Store(engine)
_bindings.wasmtime_linker_define_func_unchecked(
    linker.ptr(), create_string_buffer(b"h"), 1, create_string_buffer(b"f"), 1, ft.ptr(),
    cast(native, _bindings.wasmtime_func_unchecked_callback_t), None,
    cast(None, ctypes.CFUNCTYPE(None, c_void_p)),
)
wat = '(module (import "h" "f" (func $f)) (memory (export "memory") 1) (func (export "run")' + (
    "(i32.atomic.store (i32.const 4) (i32.const 1))"
    "(loop (br_if 0 (i32.eqz (i32.atomic.load (i32.const 0))))) (call $f)))")
exports = linker.instantiate(store, wasmtime.Module(engine, wat)).exports(store)
base = ctypes.addressof(exports["memory"].data_ptr(store).contents)
for _ in range(3):
    exports["memory"].write(store, bytes(8), 0)
    signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=later)
    thread.start()
    try:
        exports["run"](store)
        print("finished")
    except (wasmtime.Trap, wasmtime.WasmtimeError):
        print("caught", type(current.instance.parked).__name__)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    thread.join()
"""
