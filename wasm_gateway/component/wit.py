# WIT text -> interfaces and worlds (WIT.md, Lexical structure and Top-level items).
#
# Rule 1: definitions may come in any order, so the text is first read into a tree
# and names are resolved afterwards, each once, cycles being errors.
# Rule 2: gates (@since, @unstable, @deprecated), external ids and comments are read
# and forgotten: a gated item is there.
#
# Names come out as the binary format has them: "wasi:io/streams@0.2.0" for an
# interface, "[method]store.get" for a function of a resource.

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from ..errors import ComponentError, UnsupportedError
from .types import (
    MAX_TYPE_DEPTH,
    PRIMITIVES,
    BorrowType,
    CaseType,
    EnumType,
    FieldType,
    FlagsType,
    FuncType,
    FutureType,
    InterfaceType,
    ListType,
    OptionType,
    OwnType,
    RecordType,
    ResourceType,
    ResultType,
    StreamType,
    TupleType,
    ValType,
    VariantType,
    World,
    bounded,
)


class WitError(ComponentError):
    """WIT text that is wrong in `line` (1-based)."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


@dataclass(frozen=True)
class Document:
    """The interfaces and worlds of a text, by their full names."""

    interfaces: Mapping[str, InterfaceType]
    worlds: Mapping[str, World]


def parse(text: str, known: Mapping[str, InterfaceType | World] | None = None) -> Document:
    """Read WIT text; `known` holds interfaces and worlds of other packages by full name.

    Raises WitError for what is not WIT or refers to what is not there, UnsupportedError for types that
    are not implemented.
    """
    return Resolver(Parser(text).file(), known or {}).document()


def parse_interface(
    name: str, text: str, known: Mapping[str, InterfaceType | World] | None = None
) -> InterfaceType:
    """The interface `name` ("package:name/interface@version") of a text that may hold several."""
    interfaces = parse(text, known).interfaces
    if name not in interfaces:
        raise WitError(f"no interface {name} but {', '.join(interfaces) or 'none'}", 1)
    return interfaces[name]


# Tokens.

TOKEN = re.compile(
    r"""
    (?P<skip>   \s+ | //[^\n]* )
  | (?P<block>  /\* )
  | (?P<arrow>  -> )
  | (?P<version>@ \d+ \. \d+ \. \d+ (?: - [0-9A-Za-z-]+ (?: \. [0-9A-Za-z-]+ )* )?
                (?: \+ [0-9A-Za-z-]+ (?: \. [0-9A-Za-z-]+ )* )? )
  | (?P<id>     %? [A-Za-z] [A-Za-z0-9]* (?: - [A-Za-z0-9]+ )* )
  | (?P<int>    \d+ )
  | (?P<string> " (?: [^"\\\n] | \\. )* " )
  | (?P<mark>   [=,:;(){}<>*/.@_-] )
    """,
    re.VERBOSE,
)

WORDS = """
as async bool borrow char constructor enum export f32 f64 flags from func future import include interface
list map option own package record resource result s16 s32 s64 s8 static stream string tuple type
u16 u32 u64 u8 use variant with world
"""
KEYWORDS = frozenset(WORDS.split())
# Types that are no keywords: the floats of packages of 2022 and 2023, and a gated one.
PLAIN_NAMES = {
    "float32": PRIMITIVES["f32"],
    "float64": PRIMITIVES["f64"],
    "error-context": PRIMITIVES["error-context"],
}


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    line: int


def tokens(text: str) -> Iterator[Token]:
    pos, line = 0, 1
    while pos < len(text):
        match = TOKEN.match(text, pos)
        if match is None:
            raise WitError(f"{text[pos]!r} is no part of WIT", line)
        kind, word, end = match.lastgroup or "", match.group(), match.end()
        if kind == "block":
            end = end_of_comment(text, match.start(), line)
            word = text[pos:end]
        elif kind != "skip":
            yield Token(kind, word, line)
        line += word.count("\n")
        pos = end
    yield Token("end", "the end of the text", line)


def end_of_comment(text: str, pos: int, line: int) -> int:
    """Where the block comment that begins at `pos` ends; they nest."""
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(text, pos):
        depth += 1 if match.group() == "/*" else -1
        if not depth:
            return match.end()
    raise WitError("comment has no end", line)


# The tree. A type expression is a function of the scope that resolves its names.


class Scope:
    """Names of types, resolved at first use."""

    def __init__(self, interface: str | None) -> None:
        self.interface = interface
        self.definitions: dict[str, tuple[int, Callable[[Scope], ValType | ResourceType]]] = {}
        self.resolved: dict[str, ValType | ResourceType] = {}
        self.under_way: set[str] = set()

    def define(self, name: str, line: int, definition: Callable[[Scope], ValType | ResourceType]) -> None:
        if name in self.definitions:
            raise WitError(f"type {name} is defined twice", line)
        self.definitions[name] = line, definition

    def named(self, name: str, line: int) -> ValType | ResourceType:
        found = self.resolved.get(name)
        if found is not None:
            return found
        if name not in self.definitions:
            raise WitError(f"type {name} is not defined", line)
        if name in self.under_way:
            raise WitError(f"type {name} contains itself", line)
        if len(self.under_way) > MAX_TYPE_DEPTH:
            raise UnsupportedError(f"type {name} is nested too deeply", "large types")
        self.under_way.add(name)
        at, definition = self.definitions[name]
        found = definition(self)
        if isinstance(found, ValType):
            try:
                bounded(found)
            except UnsupportedError as error:
                raise UnsupportedError(f"line {at}: {name}: {error}", error.feature) from None
        self.under_way.discard(name)
        self.resolved[name] = found
        return found

    def value(self, name: str, line: int) -> ValType:
        """The type that a bare name stands for; the name of a resource is an own handle."""
        found = self.named(name, line)
        return OwnType(found) if isinstance(found, ResourceType) else found

    def resource(self, name: str, line: int) -> ResourceType:
        found = self.named(name, line)
        if not isinstance(found, ResourceType):
            raise WitError(f"{name} is not a resource", line)
        return found


TypeExpression = Callable[[Scope], ValType]


@dataclass
class Function:
    line: int
    params: list[tuple[str, TypeExpression]]
    result: TypeExpression | None
    async_: bool

    def resolve(self, scope: Scope) -> FuncType:
        params = tuple((name, bounded(t(scope))) for name, t in self.params)
        return FuncType(params, None if self.result is None else bounded(self.result(scope)), self.async_)


@dataclass
class Block:
    """An interface or a world, read but not resolved."""

    name: str
    line: int
    types: dict[str, tuple[int, Callable[[Scope], ValType | ResourceType]]] = field(default_factory=dict)
    uses: list[tuple[str, list[tuple[str, str]], int]] = field(default_factory=list)
    funcs: dict[str, Function] = field(default_factory=dict)
    # worlds: (import?, name, what) in order; a text is the full name of an interface
    items: list[tuple[bool, str, Function | Block | str, int]] = field(default_factory=list)
    includes: list[tuple[str, dict[str, str], int]] = field(default_factory=list)


@dataclass
class File:
    interfaces: dict[str, Block] = field(default_factory=dict)
    worlds: dict[str, Block] = field(default_factory=dict)


T = TypeVar("T")


class Parser:
    """Recursive descent; method names follow the grammar."""

    def __init__(self, text: str) -> None:
        self.tokens = list(tokens(text))
        self.pos = 0
        self.depth = 0
        self.output = File()
        # of the package at hand: its name, version, and what top-level `use` named
        self.package = "", ""
        self.aliases: dict[str, str] = {}

    # What all rules need.

    @property
    def line(self) -> int:
        return self.tokens[self.pos].line

    def peek(self, ahead: int = 0) -> str:
        """The text of a coming token."""
        return self.tokens[min(self.pos + ahead, len(self.tokens) - 1)].text

    def accept(self, text: str) -> bool:
        token = self.tokens[self.pos]
        if token.text != text or token.kind in ("string", "end"):
            return False
        self.pos += 1
        return True

    def expect(self, *texts: str) -> None:
        for text in texts:
            if not self.accept(text):
                raise WitError(f"{text!r} expected, not {self.peek()!r}", self.line)

    def id(self, *, keyword: bool = False) -> str:
        token = self.tokens[self.pos]
        if token.kind != "id" or (token.text in KEYWORDS and not keyword):
            raise WitError(f"a name expected, not {token.text!r}", token.line)
        self.pos += 1
        return token.text.removeprefix("%")

    def version(self) -> str:
        """The version that may follow, with its "@"."""
        token = self.tokens[self.pos]
        if token.kind != "version":
            return ""
        self.pos += 1
        return token.text

    def listed(self, item: Callable[[], T], end: str) -> list[T]:
        """Items with commas between, perhaps one behind the last, up to `end`."""
        items: list[T] = []
        while not self.accept(end):
            items.append(item())
            if not self.accept(","):
                self.expect(end)
                break
        return items

    def gates(self) -> None:
        while self.peek() == "@":
            self.pos += 1
            self.id()
            self.expect("(")
            while not self.accept(")"):
                if self.tokens[self.pos].kind == "end":
                    raise WitError("')' expected", self.line)
                self.pos += 1

    # Files and packages.

    def file(self) -> File:
        self.gates()
        if self.peek() == "package":
            package = self.package_name()
            if self.accept(";"):
                self.package = package
            else:
                self.nested_package(package)
        while self.tokens[self.pos].kind != "end":
            self.gates()
            if self.peek() == "package":
                self.nested_package(self.package_name())
            else:
                self.package_item()
        return self.output

    def package_name(self) -> tuple[str, str]:
        self.expect("package")
        name = self.id(keyword=True)
        self.expect(":")
        name += f":{self.id(keyword=True)}"
        return name, self.version()

    def nested_package(self, package: tuple[str, str]) -> None:
        outer = self.package, self.aliases
        self.package, self.aliases = package, {}
        self.expect("{")
        while not self.accept("}"):
            self.gates()
            self.package_item()
        self.package, self.aliases = outer

    def package_item(self) -> None:
        line = self.line
        if self.accept("use"):
            path = self.use_path()
            alias = self.id() if self.accept("as") else path.partition("@")[0].rpartition("/")[2]
            self.expect(";")
            self.aliases[alias] = path
        elif self.accept("interface"):
            block = Block(self.full_name(self.id()), line)
            self.add(self.output.interfaces, block)
            self.interface(block)
        elif self.accept("world"):
            block = Block(self.full_name(self.id()), line)
            self.add(self.output.worlds, block)
            self.world(block)
        else:
            raise WitError(f"interface, world or use expected, not {self.peek()!r}", line)

    def add(self, blocks: dict[str, Block], block: Block) -> None:
        if block.name in blocks:
            raise WitError(f"{block.name} is defined twice", block.line)
        blocks[block.name] = block

    def full_name(self, name: str) -> str:
        package, version = self.package
        return f"{package}/{name}{version}" if package else name

    def use_path(self) -> str:
        name = self.id(keyword=True)
        if not self.accept(":"):
            return self.aliases.get(name) or self.full_name(name)
        name += f":{self.id(keyword=True)}"
        self.expect("/")
        name += f"/{self.id(keyword=True)}"
        return name + self.version()

    # Interfaces and worlds.

    def interface(self, block: Block) -> None:
        self.expect("{")
        while not self.accept("}"):
            self.gates()
            if not self.use(block) and not self.typedef(block):
                line, name = self.line, self.id()
                self.expect(":")
                self.function(block, name, line)
                self.expect(";")

    def world(self, block: Block) -> None:
        self.expect("{")
        while not self.accept("}"):
            self.gates()
            line = self.line
            if self.accept("include"):
                path, renamed = self.use_path(), []
                if self.accept("with"):
                    self.expect("{")
                    renamed = self.listed(self.renamed, "}")
                    self.accept(";")
                else:
                    self.expect(";")
                block.includes.append((path, dict(renamed), line))
            elif self.peek() in ("import", "export"):
                imported = self.peek() == "import"
                self.pos += 1
                self.world_item(block, imported, line)
            elif not self.use(block) and not self.typedef(block):
                raise WitError(f"import or export expected, not {self.peek()!r}", line)

    def world_item(self, block: Block, imported: bool, line: int) -> None:
        what: Function | Block | str
        if self.peek(1) == ":" and self.peek(2) in ("func", "async", "interface"):
            name = self.id()
            self.expect(":")
            if self.accept("interface"):
                what = Block(name, line)
                self.interface(what)
            else:
                what = self.func_type()
                self.expect(";")
        else:
            name = what = self.use_path()
            self.expect(";")
        block.items.append((imported, name, what, line))

    def renamed(self) -> tuple[str, str]:
        name = self.id(keyword=True)
        return name, self.id(keyword=True) if self.accept("as") else name

    def use(self, block: Block) -> bool:
        line = self.line
        if not self.accept("use"):
            return False
        path = self.use_path()
        self.expect(".", "{")
        names = self.listed(self.renamed, "}")
        self.expect(";")
        block.uses.append((path, names, line))
        return True

    def function(self, block: Block, name: str, line: int, function: Function | None = None) -> None:
        if name in block.funcs:
            raise WitError(f"function {name} is defined twice", line)
        block.funcs[name] = function or self.func_type()

    def func_type(self) -> Function:
        line = self.line
        async_ = self.accept("async")
        self.expect("func")
        params = self.param_list()
        return Function(line, params, self.ty() if self.accept("->") else None, async_)

    def param_list(self) -> list[tuple[str, TypeExpression]]:
        self.expect("(")
        line = self.line
        params = self.listed(self.named_type, ")")
        unique([name for name, _ in params], line)
        return params

    def named_type(self) -> tuple[str, TypeExpression]:
        name = self.id()
        self.expect(":")
        return name, self.ty()

    # Type definitions.

    def typedef(self, block: Block) -> bool:
        kind, line = self.peek(), self.line
        if kind not in TYPEDEFS or self.peek(1) == ":":
            return False
        self.pos += 1
        name = self.id()
        if name in block.types:
            raise WitError(f"type {name} is defined twice", line)
        if kind == "resource":
            block.types[name] = line, lambda scope: ResourceType(name, scope.interface)
            self.resource(block, name)
        elif kind == "type":
            self.expect("=")
            aliased = self.alias()
            self.expect(";")
            block.types[name] = line, aliased
        else:
            self.expect("{")
            block.types[name] = line, TYPEDEFS[kind](self, name, line)
        return True

    def alias(self) -> Callable[[Scope], ValType | ResourceType]:
        """Of a type, or under another name of a resource."""
        if self.tokens[self.pos].kind == "id" and self.peek() not in KEYWORDS and self.peek(1) == ";":
            line, name = self.line, self.id()
            return (
                (lambda scope: scope.named(name, line))
                if name not in PLAIN_NAMES
                else lambda _: PLAIN_NAMES[name]
            )
        return self.ty()

    def record(self, name: str, line: int) -> TypeExpression:
        fields = self.listed(self.named_type, "}")
        unique([label for label, _ in fields], line, "record", name)
        return lambda scope: RecordType(tuple(FieldType(label, t(scope)) for label, t in fields), name)

    def variant(self, name: str, line: int) -> TypeExpression:
        cases = self.listed(self.variant_case, "}")
        unique([label for label, _ in cases], line, "variant", name)
        return lambda scope: VariantType(
            tuple(CaseType(label, None if t is None else t(scope)) for label, t in cases), name
        )

    def variant_case(self) -> tuple[str, TypeExpression | None]:
        label = self.id()
        if not self.accept("("):
            return label, None
        t = self.ty()
        self.expect(")")
        return label, t

    def enum(self, name: str, line: int) -> TypeExpression:
        labels = tuple(self.listed(self.id, "}"))
        unique(labels, line, "enum", name)
        return lambda _: EnumType(labels, name)

    def flags(self, name: str, line: int) -> TypeExpression:
        labels = tuple(self.listed(self.id, "}"))
        unique(labels, line, "flags", name)
        if len(labels) > 32:
            raise WitError(f"flags {name} has {len(labels)} labels, at most 32 are possible", line)
        return lambda _: FlagsType(labels, name)

    def resource(self, block: Block, name: str) -> None:
        if self.accept(";"):
            return

        start = self.line

        def this(scope: Scope) -> ResourceType:
            return scope.resource(name, start)

        self.expect("{")
        while not self.accept("}"):
            self.gates()
            line = self.line
            if self.accept("constructor"):
                params = self.param_list()
                result = self.ty() if self.accept("->") else lambda scope: OwnType(this(scope))
                self.function(block, f"[constructor]{name}", line, Function(line, params, result, False))
            else:
                method = self.id()
                self.expect(":")
                if self.accept("static"):
                    self.function(block, f"[static]{name}.{method}", line)
                else:
                    function = self.func_type()
                    function.params.insert(0, ("self", lambda scope: BorrowType(this(scope))))
                    self.function(block, f"[method]{name}.{method}", line, function)
            self.expect(";")

    # Types.

    def ty(self) -> TypeExpression:
        self.depth += 1
        if self.depth > MAX_TYPE_DEPTH:
            raise UnsupportedError(f"line {self.line}: type is nested too deeply", "large types")
        t = self.ty_of(self.line, self.id(keyword=True), self.tokens[self.pos - 1].text.startswith("%"))
        self.depth -= 1
        return t

    def ty_of(self, line: int, name: str, escaped: bool) -> TypeExpression:
        if escaped or name not in KEYWORDS:
            plain = None if escaped else PLAIN_NAMES.get(name)
            return (lambda scope: scope.value(name, line)) if plain is None else lambda _: plain
        if name in PRIMITIVES:
            return lambda _: PRIMITIVES[name]
        match name:
            case "list":
                self.expect("<")
                t, length = self.ty(), None
                if self.accept(","):
                    length = self.integer()
                self.expect(">")
                return lambda scope: ListType(t(scope), length)
            case "option":
                [t] = self.arguments(line, name, 1)
                return lambda scope: OptionType(t(scope))
            case "tuple":
                ts = self.arguments(line, name)
                return lambda scope: TupleType(tuple(t(scope) for t in ts))
            case "result":
                return self.result()
            case "own" | "borrow":
                self.expect("<")
                resource = self.id()
                self.expect(">")
                handle = OwnType if name == "own" else BorrowType
                return lambda scope: handle(scope.resource(resource, line))
            case "stream" | "future":
                ts = self.arguments(line, name, 1) if self.peek() == "<" else []
                async_value = StreamType if name == "stream" else FutureType
                return lambda scope: async_value(ts[0](scope) if ts else None)
            case "map":
                raise UnsupportedError(f"line {line}: maps are not supported", "maps")
            case _:
                raise WitError(f"a type expected, not {name!r}", line)

    def arguments(self, line: int, name: str, count: int | None = None) -> list[TypeExpression]:
        self.expect("<")
        ts = self.listed(self.ty, ">")
        if not ts or (count is not None and len(ts) != count):
            raise WitError(f"{name} takes {count or 'some'} types, not {len(ts)}", line)
        return ts

    def integer(self) -> int:
        token = self.tokens[self.pos]
        if token.kind != "int" or not 0 < int(token.text[:10]) < 2**32 or len(token.text) > 10:
            raise WitError(f"a number from 1 to 2**32 - 1 expected, not {token.text!r}", token.line)
        self.pos += 1
        return int(token.text)

    def result(self) -> TypeExpression:
        if not self.accept("<"):
            return lambda _: ResultType()
        ok = None if self.accept("_") else self.ty()
        err = self.ty() if self.accept(",") else None
        self.expect(">")
        return lambda scope: ResultType(ok and ok(scope), err and err(scope))


TYPEDEFS: dict[str, Callable[[Parser, str, int], TypeExpression]] = {
    "record": Parser.record,
    "variant": Parser.variant,
    "enum": Parser.enum,
    "flags": Parser.flags,
    "type": lambda parser, name, line: parser.ty(),
    "resource": lambda parser, name, line: parser.ty(),
}


def unique(labels: list[str] | tuple[str, ...], line: int, kind: str = "", name: str = "") -> None:
    if kind and not labels:
        raise WitError(f"{kind} {name} is empty", line)
    seen: set[str] = set()
    for label in labels:
        if label.lower() in seen:
            raise WitError(f"{label} is there twice", line)
        seen.add(label.lower())


# Names.


class Resolver:
    """Turns what was read into types; each interface once."""

    def __init__(self, file: File, known: Mapping[str, InterfaceType | World]) -> None:
        self.file = file
        self.known = known
        self.done: dict[str, InterfaceType] = {}
        self.under_way: list[str] = []
        self.worlds: dict[str, World] = {}

    def document(self) -> Document:
        interfaces = {name: self.named(name, block.line) for name, block in self.file.interfaces.items()}
        return Document(
            interfaces, {name: self.world(name, block.line) for name, block in self.file.worlds.items()}
        )

    def named(self, name: str, line: int) -> InterfaceType:
        if name in self.done:
            return self.done[name]
        block = self.file.interfaces.get(name)
        if block is None:
            found = self.known.get(name)
            if isinstance(found, InterfaceType):
                return found
            raise WitError(f"interface {name} is not known", line)
        if name in self.under_way:
            raise WitError(f"interface {name} uses itself", line)
        if len(self.under_way) > MAX_TYPE_DEPTH:
            raise UnsupportedError(f"line {line}: interfaces use each other too deeply", "large types")
        self.under_way.append(name)
        self.done[name] = self.interface(block, name)
        self.under_way.pop()
        return self.done[name]

    def interface(self, block: Block, name: str) -> InterfaceType:
        scope = self.scope(block, name)
        types = {known: scope.named(known, line) for known, (line, _) in scope.definitions.items()}
        return InterfaceType(name, types, {key: f.resolve(scope) for key, f in block.funcs.items()})

    def scope(self, block: Block, interface: str | None) -> Scope:
        scope = Scope(interface)
        for path, names, line in block.uses:
            types = self.named(path, line).types
            for name, alias in names:
                if name not in types:
                    raise WitError(f"interface {path} has no type {name}", line)
                scope.define(alias, line, lambda _, t=types[name]: t)  # type: ignore[misc]
        for name, (line, definition) in block.types.items():
            scope.define(name, line, definition)
        return scope

    def world(self, name: str, line: int) -> World:
        if name in self.worlds:
            return self.worlds[name]
        block = self.file.worlds.get(name)
        if block is None:
            found = self.known.get(name)
            if isinstance(found, World):
                return found
            raise WitError(f"world {name} is not known", line)
        if name in self.under_way:
            raise WitError(f"world {name} includes itself", line)
        if len(self.under_way) > MAX_TYPE_DEPTH:
            raise UnsupportedError(f"line {line}: worlds include each other too deeply", "large types")
        self.under_way.append(name)
        sides: tuple[dict[str, InterfaceType | FuncType], ...] = ({}, {})
        for path, renamed, at in block.includes:
            included = self.world(path, at)
            for side, items in zip(sides, (included.imports, included.exports), strict=True):
                side.update((renamed.get(key, key), item) for key, item in items.items())
        scope = self.scope(block, None)
        for path, _, at in block.uses:
            sides[0][path] = self.named(path, at)
        for key, function in block.funcs.items():  # of resources: a world imports what it declares
            sides[0][key] = function.resolve(scope)
        for imported, key, what, at in block.items:
            side = sides[0 if imported else 1]
            if key in side and not isinstance(what, str):
                raise WitError(f"{key} is there twice", at)
            side[key] = self.item(key, what, at, scope)
        self.under_way.pop()
        self.worlds[name] = World(name, sides[0], sides[1])
        return self.worlds[name]

    def item(
        self, key: str, what: Function | Block | str, line: int, scope: Scope
    ) -> InterfaceType | FuncType:
        if isinstance(what, str):
            return self.named(what, line)
        return what.resolve(scope) if isinstance(what, Function) else self.interface(what, key)
