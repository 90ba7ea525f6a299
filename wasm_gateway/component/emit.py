# Writing Python text and turning it into functions, for canon.py.
#
# Rule 1: this file knows no type of the Component Model; it knows lines, names,
# constants and struct formats, and the number of a component instance.
# Rule 2: a generated function can be read: its text is in `linecache`, so that
# tracebacks and `inspect` show it, and `source` returns it.
#
# `lazy` makes functions that write themselves at their first call, by exchanging
# their code object: later calls cost nothing extra, and of the 650 imports of
# a Python guest most are never called.
#
# A callback that an exception leaves returns garbage, which the engine takes for the
# address of a trap: the process dies. Its body stands in one `try`, but Python runs
# signal handlers at the entry of a function, in front of any `try`, and a handler
# may raise (Ctrl-C, gunicorn's abort, soft time limits). Hence `uninterrupted_entry`.

from __future__ import annotations

import builtins
import dis
import hashlib
import linecache
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from struct import Struct, calcsize
from types import CodeType, FunctionType
from typing import Any

from ..errors import Trap

RESUME = dis.opmap["RESUME"]
LETTER_SIZE = {letter: calcsize("<" + letter) for letter in "?bBhHiIqQfd"}

Slot = tuple[int, str]  # offset, struct letter


class Writer:
    """Lines of Python, names for temporaries, and the constants that the text refers to."""

    def __init__(self, part: int = 0) -> None:
        # The component instance that the code belongs to, and where its state is.
        self.part = part
        self.state = f"inst.parts[{part}]" if part else "inst"
        self.lines: list[tuple[int, str]] = []
        self.indent = 0
        self.temps = 0
        self.constants: dict[str, Any] = {}
        self._known: dict[Any, str] = {}

    def emit(self, line: str) -> None:
        self.lines.append((self.indent, line))

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        self.emit(head)
        self.indent += 1
        yield
        self.indent -= 1

    @contextmanager
    def aside(self, indent: int) -> Iterator[list[tuple[int, str]]]:
        """Collect what is written meanwhile instead of placing it here."""
        lines, before = self.lines, self.indent
        self.lines, self.indent = [], indent
        yield self.lines
        self.lines, self.indent = lines, before

    def temp(self, stem: str) -> str:
        self.temps += 1
        return f"{stem}{self.temps}"

    def bind(self, expression: str, stem: str = "v") -> str:
        """A name for the value of `expression`, so that it is evaluated once."""
        if expression.isidentifier():
            return expression
        name = self.temp(stem)
        self.emit(f"{name} = {expression}")
        return name

    def constant(self, stem: str, value: Any, key: Any = None) -> str:
        """The name of a constant; equal ones share it (`key` stands in for values that cannot be hashed)."""
        key = stem, value if key is None else key
        name = self._known.get(key)
        if name is None:
            name = self._known[key] = f"{stem}_{len(self._known)}"
            self.constants[name] = value
        return name

    def struct(self, method: str, letters: str) -> str:
        """The name of a bound method of a Struct; equal ones share it."""
        name = f"{method}_{letters.replace('?', 't')}"
        if name not in self.constants:
            self.constants[name] = getattr(Struct("<" + letters), method)
        return name

    def text(self) -> str:
        return "".join(f"{'    ' * indent}{line}\n" for indent, line in self.lines)


def letters(slots: Iterable[Slot], size: int | None = None) -> str:
    """The struct format of scalars at these offsets: from the first one on, or from 0 up to `size`."""
    text = ""
    end = None if size is None else 0
    for offset, letter in slots:
        if end is not None and offset > end:
            text += f"{offset - end}x"
        text += letter
        end = offset + LETTER_SIZE[letter]
    if size is not None and end is not None and size > end:
        text += f"{size - end}x"
    return text


def plus(base: str, offset: int) -> str:
    return f"{base} + {offset}" if offset else base


def targets(names: Sequence[str]) -> str:
    """The left side of an assignment from a tuple of this length."""
    return f"({names[0]},)" if len(names) == 1 else ", ".join(names)


@lru_cache(maxsize=4096)
def compiled(text: str) -> CodeType:
    """The code of a text; guests that import the same functions share it."""
    filename = f"<canon {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    code = compile(text, filename, "exec")
    # For as long as the code is kept here: a site loads new versions of its guests for months.
    linecache.cache[filename] = len(text), None, text.splitlines(keepends=True), filename
    weakref.finalize(code, linecache.cache.pop, filename, None).atexit = False
    return code


def uninterrupted_entry(code: CodeType) -> CodeType:
    """The same code, whose entry handles no signals: they wait for the first call inside it.

    The operand of RESUME says where it stands; 0, the start of a function, is one of two where pending
    signals are handled (CPython 3.11 to 3.14), and 2, behind a `yield from`, is not.
    """
    text = bytearray(code.co_code)
    for i in range(0, len(text), 2):
        if text[i] == RESUME:
            text[i + 1] = 2
            break
    return code.replace(co_code=bytes(text))


def named(exc: BaseException, name: str) -> BaseException:
    """`exc`, its message led by the function's name if it is a trap."""
    if type(exc) is Trap:
        exc.args = (f"{name}: {exc}",)
    return exc


def caught(exc: BaseException, name: str, instance: Any) -> Any:
    """What a callback returns when `exc` has ended it: the address of a trap.

    A signal handler may raise here too; that goes the same way.
    """
    try:
        return instance.park(named(exc, name))
    except BaseException as later:
        return instance.park(later)


caught.__code__ = uninterrupted_entry(caught.__code__)


@contextmanager
def callback(out: Writer) -> Iterator[None]:
    """The frame of a callback: what is written inside it may use `current`, and raise."""
    with out.block("def lower(env, caller, raw, nargs):"):
        with out.block("try:"):
            yield
        with out.block("except BaseException as exc:"):
            out.emit("return caught(exc, NAME, current.instance)")


def build(name: str, entry: str, text: str, namespace: dict[str, Any]) -> FunctionType:
    """The function `entry` of `text`; its traceback entries say `name`."""
    namespace["__builtins__"] = builtins
    namespace["SOURCE"] = text
    exec(compiled(text), namespace)
    function: FunctionType = namespace[entry]
    function.__code__ = function.__code__.replace(co_name=name, co_qualname=name)
    function.__name__ = function.__qualname__ = name
    return function


def lazy(name: str, current: Any, write: Callable[[], tuple[str, dict[str, Any]]]) -> FunctionType:
    """A callback (env, caller, raw, nargs), called `name` in messages.

    `write` gives its text, in which it is `lower`, and the names that this uses, once it is called.
    """
    namespace: dict[str, Any] = {"__builtins__": builtins, "NAME": name, "caught": caught, "current": current}
    function = FunctionType(uninterrupted_entry(_first_call.__code__), namespace, name)

    def generate() -> FunctionType:
        # two threads may both come here: they write the same
        text, names = write()
        namespace.update(names)
        function.__code__ = uninterrupted_entry(build(name, "lower", text, namespace).__code__)
        return function

    namespace["generate"] = generate
    return function


def _first_call(env: int, caller: int, raw: int, nargs: int) -> Any:
    # runs with the namespace of the function it stands in for
    try:
        return generate()(env, caller, raw, nargs)  # type: ignore[name-defined]  # noqa: F821
    except BaseException as exc:
        return caught(exc, NAME, current.instance)  # type: ignore[name-defined]  # noqa: F821


def source(function: Callable[..., Any]) -> str:
    """The text that a generated function was made from."""
    namespace = function.__globals__
    if "SOURCE" not in namespace:
        namespace["generate"]()
    text: str = namespace["SOURCE"]
    return text
