"""The engine, its cache and its ticker; and every hazard of a Wasm engine inside a Python server.

What ends or hangs a process runs in one of its own: `python(...)` runs a script and returns what it printed.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import wasmtime

from wasm_gateway import capi, compile_cache
from wasm_gateway.compile_cache import CompileCache, foreign
from wasm_gateway.engine import (
    TICK_SECONDS,
    Engine,
    EngineOptions,
    HostFunction,
    Program,
    Ticker,
    give_back_memory,
    has_address_space,
    round_trip,
    ticks,
)
from wasm_gateway.errors import ComponentError, HostError, LinkError, Saturated

PRELUDE = '''
import faulthandler, os, signal, sys, threading, time
import wasmtime
signal.alarm(20)  # a hang is a failure
from wasm_gateway.engine import Engine, EngineOptions, HostFunction, Program, current
from wasm_gateway.errors import *
from wasm_gateway.host.base import Deadline, Grants
from wasm_gateway.instance import Instance, Limits

WAT = """(module
  (import "host" "f" (func $f))
  (memory (export "memory") 1)
  (func (export "oob") (drop (i32.load (i32.const -8))))
  (func (export "spin") (loop (br 0)))
  (func (export "call") (call $f))
  (func (export "one") (result i32) (i32.const 1)))"""

def callback(env, caller, raw, n):
    try:
        host()
    except BaseException as error:
        return current.instance.park(error)

def host():
    pass

def program(options=EngineOptions()):
    engine = Engine.shared(options)
    module = engine.compile(bytes(wasmtime.wat2wasm(WAT)))
    return Program(engine, module, [HostFunction("host", "f", "", "", callback)], starts=False)

def run(program, name, seconds=60.0):
    try:
        with Instance(program, Grants("g"), Deadline(seconds), Limits(1 << 26, 1000), None) as instance:
            return instance.function(name)()
    except BaseException as error:
        return type(error).__name__

def in_child(function):
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        print("child", function(), flush=True)
        os._exit(0)
    return os.waitpid(pid, 0)[1]
'''


def python(script: str, *options: str, preexec: str = "") -> list[str]:
    command = [sys.executable, *options, "-c", PRELUDE + script]
    if preexec:
        command = ["sh", "-c", f'{preexec}; exec "$@"', "sh", *command]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    environment.pop("PYTHONFAULTHANDLER", None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.split("\n")[:-1]


def compiled(engine: Engine, wat: str, cache: CompileCache | None = None) -> wasmtime.Module:
    return engine.compile(bytes(wasmtime.wat2wasm(wat)), cache)


# The package that is installed


def test_every_structure_has_the_size_that_is_written_down() -> None:
    extern = wasmtime._bindings.wasmtime_extern
    assert extern.of.offset == capi.EXTERN_UNION


def test_a_wasmtime_without_a_symbol_is_named_with_its_version() -> None:
    with pytest.raises(
        HostError, match=rf"wasmtime package {capi.wasmtime_version()} .*lacks no_such_function"
    ):
        capi._declare(capi._keeping_gil, "no_such_function", None)


def test_a_structure_of_another_size_is_refused() -> None:
    with pytest.raises(HostError, match="has 16 bytes, 99 expected"):
        capi._self_test([(wasmtime._bindings.wasmtime_func_t, 99)])


def test_a_call_that_goes_wrong_in_another_version_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.shared()
    round_trip(engine)
    monkeypatch.setattr(capi, "memory_data_size", lambda context, memory: 65530)
    with pytest.raises(HostError, match=rf"{capi.wasmtime_version()} .*a call of a guest gave"):
        round_trip(engine)


# Engine and programs


def test_equal_options_share_an_engine() -> None:
    engine = Engine.shared()
    assert Engine.shared(EngineOptions()) is engine
    assert Engine.shared(EngineOptions(hardened=True)) is not engine


def test_an_engine_lives_as_long_as_somebody_counts_its_epochs() -> None:
    """Its thread holds the ticker meanwhile: counting up what is freed would corrupt the heap."""
    engine = Engine(EngineOptions(pooling=False))
    ticker, gone = engine.ticker, weakref.ref(engine.wasmtime_engine)
    del engine
    assert gone() is not None
    ticker._tick(ticker._last)
    del ticker
    assert gone() is None


@pytest.mark.parametrize("wasm", [b"", b"\0asm", b"\0asm\1\0\0\0\1", b"GIF89a" * 10])
def test_bytes_that_are_no_module(wasm: bytes) -> None:
    with pytest.raises(ComponentError, match="not a valid WebAssembly module"):
        Engine.shared().compile(wasm)


def test_an_import_that_nobody_offers_is_named() -> None:
    engine = Engine.shared()
    module = compiled(engine, '(module (import "spin" "warp" (func)))')
    with pytest.raises(LinkError, match="spin::warp"):
        Program(engine, module, [])


def test_an_import_of_another_type_is_refused() -> None:
    engine = Engine.shared()
    module = compiled(engine, '(module (import "h" "f" (func (param i64))))')
    with pytest.raises(LinkError, match="types incompatible"):
        Program(engine, module, [HostFunction("h", "f", "i", "", lambda *_: None)])


def test_deadlines_are_never_shorter_than_asked() -> None:
    assert [ticks(s) for s in (0.0, 0.001, 0.01, 0.1)] == [1, 2, 2, 11]


# The compile cache

WAT = '(module (memory (export "memory") 1))'


def test_what_was_compiled_is_loaded_again(tmp_path: Path) -> None:
    engine, cache = Engine.shared(), CompileCache(tmp_path / "compiled")
    compiled(engine, WAT, cache)
    (path,) = cache.folder.iterdir()
    assert path == cache.path(engine, bytes(wasmtime.wat2wasm(WAT)))
    assert path.stat().st_mode & 0o777 == 0o600
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert cache.load(engine, bytes(wasmtime.wat2wasm(WAT))) is not None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_was_just_compiled_is_mapped_from_its_file(tmp_path: Path) -> None:
    engine, cache = Engine.shared(), CompileCache(tmp_path / "compiled")
    module = compiled(engine, WAT, cache)
    assert str(cache.folder) in Path("/proc/self/maps").read_text()
    del module
    assert str(cache.folder) not in Path("/proc/self/maps").read_text()


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="for glibc alone"
)
def test_memory_that_was_freed_goes_back_to_the_system() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    size = 64 << 10  # what is longer may get a mapping of its own, which goes back by itself
    blocks = [libc.malloc(size) for _ in range(1000)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[:-1]:
        libc.free(block)  # the last one stays, above all others
    before = resident()
    give_back_memory()
    assert before - resident() > 40 << 20
    libc.free(blocks[-1])


def test_engines_that_compile_otherwise_have_entries_of_their_own(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path)
    tmp_path.chmod(0o700)
    paths = {cache.path(Engine.shared(EngineOptions(hardened=h)), b"x") for h in (False, True)}
    assert len(paths) == 2


@pytest.mark.parametrize("damage", [b"", b"\x7fELF", b"garbage" * 1000])
def test_a_damaged_entry_is_made_again(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    engine, cache = Engine.shared(), CompileCache(tmp_path / "c")
    wasm = bytes(wasmtime.wat2wasm(WAT))
    engine.compile(wasm, cache)
    path = cache.path(engine, wasm)
    whole = path.stat().st_size
    path.write_bytes(damage)
    assert engine.compile(wasm, cache) is not None
    assert "made again" in caplog.text
    assert path.stat().st_size == whole


def test_a_folder_that_others_may_write_to_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    cache = CompileCache(folder)
    compiled(Engine.shared(), WAT, cache)
    assert list(folder.iterdir()) == []
    assert "others may write to it" in caplog.text


def test_an_entry_that_others_may_write_to_is_not_loaded(tmp_path: Path) -> None:
    engine, cache = Engine.shared(), CompileCache(tmp_path / "c")
    wasm = bytes(wasmtime.wat2wasm(WAT))
    engine.compile(wasm, cache)
    cache.path(engine, wasm).chmod(0o666)
    assert cache.load(engine, wasm) is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_an_entry_of_somebody_else_is_not_loaded(tmp_path: Path) -> None:
    engine, cache = Engine.shared(), CompileCache(tmp_path / "c")
    wasm = bytes(wasmtime.wat2wasm(WAT))
    engine.compile(wasm, cache)
    os.chown(cache.path(engine, wasm), 12345, 12345)
    assert cache.load(engine, wasm) is None
    assert "user 12345" in str(foreign(cache.path(engine, wasm)))


def test_a_link_in_the_cache_is_judged_by_itself(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"x")
    link = tmp_path / "link"
    link.symlink_to(target)
    assert foreign(link) is not None  # a link's own mode is 0777


DAY = 24 * 3600.0


@pytest.fixture
def aged(tmp_path: Path) -> Callable[..., CompileCache]:
    """`aged(NAME=(DAYS, BYTES), ...)`: a cache with files that were loaded so many days ago."""

    def make(**files: tuple[float, int]) -> CompileCache:
        cache = CompileCache(tmp_path / "compiled")
        assert cache.usable()
        for name, (days, size) in files.items():
            path = cache.folder / name.replace("_", ".")
            with path.open("wb") as file:
                file.truncate(size)
            os.utime(path, (time.time() - days * DAY,) * 2)
        return cache

    return make


def names(cache: CompileCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()}


def test_what_nobody_has_loaded_for_long_is_removed(aged: Callable[..., CompileCache]) -> None:
    cache = aged(
        old_cwasm=(31, 1), used_cwasm=(29, 1), old_part=(0.1, 1), new_part=(0.01, 1), old_lock=(99, 1)
    )
    assert {path.name for path in cache.prune()} == {"old.cwasm", "old.part"}
    assert names(cache) == {"used.cwasm", "new.part", "old.lock"}
    assert cache.prune() == []


def test_what_is_too_much_is_removed(
    aged: Callable[..., CompileCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest first, and nothing that others may be about to load."""
    cache = aged(a_cwasm=(4, 1 << 30), b_cwasm=(3, 1 << 30), c_cwasm=(2, 1 << 30), d_cwasm=(0.5, 1 << 30))
    cache.prune()
    assert names(cache) == {"c.cwasm", "d.cwasm"}
    monkeypatch.setattr(compile_cache, "KEPT_BYTES", 0)
    cache.prune()
    assert names(cache) == {"d.cwasm"}
    monkeypatch.undo()
    monkeypatch.setattr(compile_cache, "KEPT_FILES", 1)
    aged(e_cwasm=(2, 1), f_cwasm=(3, 1))
    cache.prune()
    assert names(cache) == {"d.cwasm"}


def test_what_is_loaded_is_not_old(aged: Callable[..., CompileCache]) -> None:
    engine, cache = Engine.shared(), aged()
    compiled(engine, WAT, cache)
    (path,) = cache.folder.iterdir()
    long_ago = (time.time() - 40 * DAY,) * 2
    os.utime(path, long_ago)
    compiled(engine, WAT, cache)  # another process
    assert cache.prune() == []
    assert path.stat().st_mtime == pytest.approx(long_ago[0])  # the code itself is left alone
    os.utime(path.with_suffix(".used"), long_ago)
    compiled(engine, WAT.replace("1", "2"), cache)  # which prunes
    assert len(names(cache)) == 1
    assert not path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is mapped cannot be removed there")
def test_code_that_is_removed_goes_on_where_it_is_mapped(aged: Callable[..., CompileCache]) -> None:
    engine, cache = Engine.shared(), aged()
    text = '(module (func (export "f") (result i32) (i32.const 42)))'
    module = compiled(engine, text, cache)
    for path in cache.folder.iterdir():
        os.utime(path, (time.time() - 40 * DAY,) * 2)
    assert len(cache.prune()) == 1
    store = wasmtime.Store(engine.wasmtime_engine)
    store.set_epoch_deadline(1000)
    function = wasmtime.Instance(store, module, []).exports(store)["f"]
    assert isinstance(function, wasmtime.Func)
    assert function(store) == 42
    assert compiled(engine, text, cache) is not None  # made again
    assert len(names(cache)) == 1


def test_processes_that_prune_at_once(aged: Callable[..., CompileCache]) -> None:
    """None raises, and each file is removed by one of them."""
    files = {f"f{number}_cwasm": (40.0, 1) for number in range(200)}
    aged(**files)
    go = threading.Barrier(4)

    def prune(cache: CompileCache) -> list[Path]:
        go.wait(60)
        return cache.prune()

    with ThreadPoolExecutor(4) as pool:
        removed = [path for each in pool.map(prune, [aged() for _ in range(4)]) for path in each]
    assert len(removed) == len(set(removed)) == 200


def enter(cache: CompileCache) -> threading.Event:
    """Set once another thread has got into `cache`; which it leaves at once."""
    inside = threading.Event()

    def work() -> None:
        with cache.exclusively():
            inside.set()

    threading.Thread(target=work).start()
    return inside


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_one_at_a_time_is_in_a_cache(tmp_path: Path) -> None:
    for _ in range(2):
        with CompileCache(tmp_path / "cache").exclusively():
            inside = enter(CompileCache(tmp_path / "cache"))
            assert not inside.wait(0.1)
            assert enter(CompileCache(tmp_path / "another")).wait(60)
        assert inside.wait(60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_keeps_nobody_out_of_a_cache() -> None:
    script = """
import tempfile
import weakref
from pathlib import Path
from wasm_gateway.compile_cache import CompileCache
with tempfile.TemporaryDirectory() as folder:
    with CompileCache(Path(folder)).exclusively():
        pid = os.fork()
        if not pid:
            time.sleep(60)  # and has the file open
    with CompileCache(Path(folder)).exclusively():
        print("inside")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""
    assert python(script) == ["inside"]


def test_nobody_is_kept_out_of_a_cache_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wasm_gateway.compile_cache.MAX_TURN_SECONDS", 0.1)
    with CompileCache(tmp_path).exclusively():
        assert enter(CompileCache(tmp_path)).wait(60)


def test_a_cache_without_locks(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with CompileCache(tmp_path).exclusively():
        assert enter(CompileCache(tmp_path)).wait(60)


def test_a_cache_that_cannot_be_written_does_not_keep_a_guest_from_running(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert compiled(Engine.shared(), WAT, CompileCache(blocked / "c")) is not None
    assert "are not cached" in caplog.text


def test_a_store_that_fails_leaves_no_half_written_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine, cache = Engine.shared(), CompileCache(tmp_path / "c")
    assert cache.usable()
    wasm = bytes(wasmtime.wat2wasm(WAT))
    cache.path(engine, wasm).mkdir()  # os.replace onto a folder fails
    cache.store(engine, wasm, compiled(engine, WAT))
    assert [p.name for p in cache.folder.iterdir()] == [cache.path(engine, wasm).name]
    assert "could not be kept" in caplog.text


def test_readers_and_writers_of_one_entry_never_see_half_of_it(tmp_path: Path) -> None:
    engine = Engine.shared()
    wasm = bytes(wasmtime.wat2wasm(WAT))
    failures: list[str] = []

    def work() -> None:
        cache = CompileCache(tmp_path / "c")
        for _ in range(30):
            cache.store(engine, wasm, module)
            if cache.load(engine, wasm) is None:
                failures.append("not loaded")

    module = engine.compile(wasm)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(list((tmp_path / "c").iterdir())) == 1


# The ticker


def test_epochs_are_counted_only_while_guests_run() -> None:
    out = python(
        """
p = program()
assert run(p, "spin", 0.05) == "DeadlineExceeded"
ticker = p.engine.ticker
deadline = time.monotonic() + 60
while not ticker.idle:
    assert time.monotonic() < deadline
    time.sleep(0.01)
print("idle", ticker.running)
print(run(p, "spin", 0.05))
"""
    )
    assert out == ["idle {}", "DeadlineExceeded"]


def test_a_late_tick_makes_up_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that others kept the GIL is counted, and not on the account of who begins meanwhile."""
    counted: list[int] = []
    while not Engine.shared().ticker.idle:  # another test's guests have just ended
        time.sleep(0.01)
    made = wasmtime.Engine()
    address = capi.pointer(made)

    def count(engine: int) -> None:
        if engine == address:  # and not that of another test, whose ticker may still run
            counted.append(engine)

    monkeypatch.setattr("wasm_gateway.capi.engine_increment_epoch", count)
    now = [100.0]
    monkeypatch.setattr("wasm_gateway.engine.time", SimpleNamespace(monotonic=lambda: now[0]))
    ticker = Ticker(made)
    assert ticker.behind() == 0.0, "nothing is counted while it is idle"
    ticker.idle, ticker._last = False, 100.0
    for elapsed, ticks_of in ((TICK_SECONDS, 1), (TICK_SECONDS / 2, 1), (0.5, 50)):
        now[0] += elapsed
        assert ticker.behind() == pytest.approx(elapsed)
        counted.clear()
        ticker._tick(now[0])
        assert len(counted) in (ticks_of - 1, ticks_of)
        assert len(counted) >= 1
        assert ticker.behind() == 0.0


def test_a_process_without_a_thread_for_epochs_runs_no_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    """And counts them as soon as there is one."""
    ticker = Ticker(wasmtime.Engine())

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        for _ in range(2):
            with pytest.raises(Saturated, match="can't start new thread"):
                ticker.wake()
    ticker.wake()
    assert ticker._thread is not None
    assert ticker._thread.is_alive()


def test_a_guest_can_be_run_until_the_process_is_gone() -> None:
    """Threads of a server that are daemons go on while the process exits, and its finalizers have run."""
    script = """
import atexit
atexit.register(lambda: print([run(guest, "one") for _ in range(100)] == [1] * 100, flush=True))
guest = program()
run(guest, "one")  # since Python 3.12 no thread starts after this, as that which counts epochs
"""
    assert python(script) == ["True"]


def test_an_engine_that_is_gone_takes_its_ticker_along() -> None:
    out = python(
        """
import gc
p = program()
run(p, "one")
del p
gc.collect()
deadline = time.monotonic() + 60
while any(t.name == "wasm-epochs" for t in threading.enumerate()):
    assert time.monotonic() < deadline
    time.sleep(0.01)
print("gone")
"""
    )
    assert out == ["gone"]


# Hazards: forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("warm", [False, True], ids=["before-the-first-guest", "after-guests-ran"])
def test_a_forked_child_runs_compiles_traps_and_interrupts(warm: bool) -> None:
    out = python(
        f"""
p = program()
if {warm}:
    assert run(p, "one") == 1 and run(p, "spin", 0.05) == "DeadlineExceeded"

def child():
    again = p.engine.compile(bytes(wasmtime.wat2wasm("(module (func (export \\"g\\")))")))
    return [run(p, "one"), run(p, "oob"), run(p, "spin", 0.1), run(p, "call"), again is not None]

status = in_child(child)
print("status", status, run(p, "spin", 0.1))
"""
    )
    assert out == ["child [1, 'Trap', 'DeadlineExceeded', None, True]", "status 0 DeadlineExceeded"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_while_guests_run_in_other_threads() -> None:
    out = python(
        """
p = program()
stop = threading.Event()
def busy():
    while not stop.is_set():
        run(p, "one")
threads = [threading.Thread(target=busy) for _ in range(3)]
for t in threads: t.start()
for _ in range(5):
    assert in_child(lambda: [run(p, "one"), run(p, "spin", 0.05)]) == 0
stop.set()
for t in threads: t.join()
"""
    )
    assert out == ["child [1, 'DeadlineExceeded']"] * 5


# Hazards: signals


def test_faulthandler_enabled_before_the_engine_is_harmless() -> None:
    assert python('print(run(program(), "oob"))', "-X", "faulthandler") == ["Trap"]


def test_faulthandler_enabled_after_the_engine_is_undone() -> None:
    out = python(
        """
from wasm_gateway.engine import faulthandler_order_ok
p = program()
print(faulthandler_order_ok())
faulthandler.enable()
print(faulthandler_order_ok())
print(run(p, "oob"), faulthandler.is_enabled())
"""
    )
    assert out == ["True", "False", "Trap False"]


def test_faulthandler_disabled_after_the_engine_is_refused() -> None:
    out = python('p = program(); faulthandler.disable(); print(run(p, "oob"))', "-X", "faulthandler")
    assert out == ["HostError"]


def test_a_hardened_engine_does_not_mind_faulthandler() -> None:
    out = python(
        """
p = program(EngineOptions(hardened=True))
faulthandler.enable()
print(run(p, "oob"), run(p, "one"), faulthandler.is_enabled())
"""
    )
    assert out == ["Trap 1 True"]


# Hazards: exceptions of the host


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit", "ValueError", "GeneratorExit"])
def test_an_exception_of_a_host_function_reaches_the_caller(error: str) -> None:
    out = python(
        f"""
def host(): raise {error}("from the host")
p = program()
print(run(p, "call"), run(p, "one"))
"""
    )
    assert out == [f"{error} 1"]


def test_exceptions_of_many_threads_are_never_mixed_up() -> None:
    out = python(
        """
sys.setswitchinterval(1e-6)
p = program()
mine = threading.local()
def host(): raise ValueError(mine.tag)
wrong = []
def work(tag):
    mine.tag = tag
    for _ in range(500):
        try:
            with Instance(p, Grants("g"), Deadline(60), Limits(1 << 26, 1000), None) as instance:
                instance.function("call")()
        except ValueError as error:
            if error.args != (tag,): wrong.append(error)
        else:
            wrong.append(tag)
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print(len(wrong), p.engine.ticker.running)
"""
    )
    assert out == ["0 {}"]


# Hazards: the machine


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is Linux's")
def test_a_small_address_space_falls_back_to_memory_on_demand() -> None:
    out = python(
        'p = program(); print(p.engine.pooling, run(p, "one"), run(p, "oob"))', preexec="ulimit -v 3000000"
    )
    assert out == ["False 1 Trap"]


def test_this_machine_has_room_for_the_pool() -> None:
    assert has_address_space()


def test_a_process_that_gevent_has_patched_is_refused() -> None:
    pytest.importorskip("gevent", reason="gevent is not installed")
    out = python(
        """
from gevent import monkey
monkey.patch_all()
try:
    program()
except HostError as error:
    print("gevent" in str(error), "gthread" in str(error))
"""
    )
    assert out == ["True True"]


def test_a_process_that_only_imported_gevent_is_not() -> None:
    pytest.importorskip("gevent", reason="gevent is not installed")
    assert python('import gevent.monkey; print(run(program(), "one"))') == ["1"]


def test_a_process_that_eventlet_has_patched_is_refused() -> None:
    # eventlet itself does not run on every Python of today; what is asked of it is one function
    out = python(
        """
import types
fake = types.ModuleType("eventlet.patcher")
fake.is_monkey_patched = lambda name: True
sys.modules["eventlet.patcher"] = fake
try:
    program()
except HostError as error:
    print("eventlet" in str(error), "gthread" in str(error))
"""
    )
    assert out == ["True True"]
