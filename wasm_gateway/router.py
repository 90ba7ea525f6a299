# Route patterns of a spin.toml, and which of them answers a path.
#
# Rule 1: pure. A Router is built once, never changes, and may be asked from any
# thread; a path goes in raw (never percent-decoded, without its query).
# Rule 2: precedence has one home. Literal routes win over all others, so a dict
# answers them; the rest is a tree by path segment, walked best branch first.
# Rule 3: a pattern matches a path in one way at most, so that a walk enters each
# node once: its cost is bounded by the table and does not grow with the path.
# Rule 4: what a route adds to every request is prepared when the route is made.
#
# Grammar, normalisation and order are those of Spin: http, 2. Where `.` follows a
# `/` inside a pattern, Spin loses the slash ("/a/.b" answers "/a.b" there); here
# the text of a segment is compared as it is written.

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from .errors import ManifestError
from .messages import Request

WELL_KNOWN = "/.well-known/spin/"

# Spin: http, 2.3, first rule
_WILDCARD, _PARAM, _EXACT = 1, 2, 3

# In the shape of a segment a piece that captures is one of these, any other piece is its text;
# in a mask every text is _TEXT.
_ANY = None
_REST = "*"
_TEXT = ""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_Shape = tuple[str | None, ...]
# name, index of the segment, index of its piece, how often the segment is split for that
_Capture = tuple[str, int, int, int]


class Duplicate(NamedTuple):
    """The same pattern text twice: the target of the later trigger is in effect (Spin: http, 2.4)."""

    raw: str
    replaced: object
    effective: object


class Route:
    """One pattern and what it leads to.

    `raw` is the text of the manifest; `based` the same with `base` in front and without one trailing
    slash; `component_route` is `raw`, and `script_name` is `based`, without a trailing "/...". `wildcard`
    tells whether it ends in one. A pattern that Spin refuses, or fails on when it matches, raises
    ManifestError.
    """

    __slots__ = (
        "_captures",
        "_dots",
        "_headers",
        "_kinds",
        "_length",
        "_param_headers",
        "_position",
        "_rest",
        "_shapes",
        "_variables",
        "based",
        "component_route",
        "raw",
        "script_name",
        "target",
        "wildcard",
    )

    def __init__(self, pattern: str, target: object, *, base: str = "/", position: int = 0) -> None:
        if _CONTROL.search(pattern):
            raise ManifestError(f"route {pattern!r}: a pattern holds no control characters")
        absolute = pattern if pattern.startswith("/") else f"/{pattern}"
        self.raw = pattern
        self.based = (base.removesuffix("/") + absolute).removesuffix("/")
        self.component_route = pattern.removesuffix("/...")
        self.script_name = self.based.removesuffix("/...")
        self.target = target
        self._position = position
        self._parse()
        self._prepare(base)

    def __str__(self) -> str:
        """As it stands in a list of routes (Spin: http, 12)."""
        return f"{self.script_name} (wildcard)" if self.wildcard else self.based

    def __repr__(self) -> str:
        return f"Route({self.raw!r}, {self.target!r})"

    def _parse(self) -> None:
        text = f"{self.script_name}/*" if self.based.endswith("/...") else self.based
        segments = [segment for segment in text.split("/") if segment]
        shapes: list[_Shape] = []
        kinds: list[int] = []
        captures: dict[str, _Capture] = {}
        dots = 0
        for index, segment in enumerate(segments):
            pieces = segment.split(".")
            shape: list[str | None] = []
            glued = False
            for number, piece in enumerate(pieces):
                # a dot behind plain text belongs to that text, any other one is a part of its own
                dots += number > 0 and not glued
                if piece == "*":
                    if index < len(segments) - 1 or number < len(pieces) - 1:
                        raise ManifestError(f"route {self.raw!r}: a wildcard stands only at the end")
                    shape.append(_REST)
                    kinds.append(_WILDCARD)
                elif piece.startswith("*"):
                    raise ManifestError(f"route {self.raw!r}: a wildcard has no name, {piece!r} has one")
                elif piece == ":":
                    raise ManifestError(f"route {self.raw!r}: a parameter has a name, as in ':id'")
                elif piece.startswith(":"):
                    shape.append(_ANY)
                    kinds.append(_PARAM)
                    glued = False
                    name = piece[1:]
                    if not _TOKEN.fullmatch(name):
                        raise ManifestError(f"route {self.raw!r}: {name!r} cannot be part of a header name")
                    # upstream leaves open which of two equal names wins: the last one
                    captures.pop(name, None)
                    captures[name] = (name, index, number, len(pieces) - 1)
                else:
                    shape.append(piece)
                    if piece:
                        kinds.append(_EXACT)
                        glued = True
            if _ANY in shape or _REST in shape:
                shapes.append(tuple(shape))
            else:
                shapes.append((segment,))
                if not segment.strip("."):
                    kinds.append(_EXACT)
        self.wildcard = bool(shapes) and shapes[-1][-1] == _REST
        self._shapes = tuple(shapes)
        self._kinds = tuple(kinds)
        self._captures = tuple(captures.values())
        self._rest = (len(shapes) - 1, len(shapes[-1]) - 1) if self.wildcard else None
        self._dots = dots
        self._length = len(kinds) + dots + max(len(shapes) - 1, 0)

    def _prepare(self, base: str) -> None:
        matched, raw, component = self.based, self.raw, self.component_route
        self._headers = (
            ("spin-matched-route", _wire(matched)),
            ("spin-base-path", _wire(base)),
            ("spin-raw-component-route", _wire(raw)),
            ("spin-component-route", _wire(component)),
        )
        self._variables = (
            ("X_MATCHED_ROUTE", matched),
            ("X_BASE_PATH", base),
            ("X_RAW_COMPONENT_ROUTE", raw),
            ("X_COMPONENT_ROUTE", component),
        )
        # ":user_id" and ":user-id" share a header, and the last one wins here too
        names = {
            "spin-path-match-" + capture[0].lower().replace("_", "-"): index
            for index, capture in enumerate(self._captures)
        }
        self._param_headers = tuple(names.items())

    def _beats(self, other: Route) -> bool:
        """Whether this route comes first, of two that match the same path (Spin: http, 2.3)."""
        for mine, theirs in zip(self._kinds, other._kinds, strict=False):
            if mine != theirs:
                return mine > theirs
        if self._dots != other._dots:
            return self._dots > other._dots
        if self._length != other._length:
            return self._length < other._length
        return self._position < other._position

    def _match(self, path: str, segments: list[str]) -> RouteMatch:
        """What this route captures from `path`, which it is known to match."""
        path_info = ""
        if self._rest is not None:
            index, splits = self._rest
            rest = "/".join(segments[index:])
            if splits:
                rest = rest.split(".", splits)[splits]
            # Spin: http, 2.6: slashes around the path are no part of it, but one behind it shows
            slash = "/" if path.endswith("/") else ""
            path_info = f"/{rest}{slash}" if rest else slash
        if not self._captures:
            return RouteMatch(self, path_info, ())
        params = tuple(
            (name, segments[index].split(".", splits)[piece] if splits else segments[index])
            for name, index, piece, splits in self._captures
        )
        return RouteMatch(self, path_info, params)


class RouteMatch:
    """A route that answers a path.

    `path_info` is what the trailing wildcard stands for ("" without one), `params` the (name, value)
    pairs of the parameters, both raw. `synthetic` marks a request that no route was asked for.
    """

    __slots__ = ("params", "path_info", "route", "synthetic")

    def __init__(
        self, route: Route, path_info: str, params: tuple[tuple[str, str], ...], synthetic: bool = False
    ) -> None:
        self.route = route
        self.path_info = path_info
        self.params = params
        self.synthetic = synthetic

    @classmethod
    def chained(cls, path: str, target: object = None) -> RouteMatch:
        """What a component sees that another one called with `path` (Spin: http, 10.3)."""
        return cls(Route("/...", target), path, (), synthetic=True)

    @property
    def label(self) -> str:
        """What stands for this route in metrics and logs: its pattern, or "chained"."""
        return "chained" if self.synthetic else self.route.raw

    def __repr__(self) -> str:
        return f"RouteMatch({self.route!r}, {self.path_info!r}, {self.params!r})"


class _Node:
    """What may follow a prefix of segments: a text, a dotted shape, a parameter, all the rest, nothing."""

    __slots__ = ("dotted", "exact", "param", "rest", "route")

    def __init__(self) -> None:
        self.exact: dict[str, _Node] = {}
        self.dotted: dict[_Shape, dict[tuple[str, ...], _Node]] = {}
        self.param: _Node | None = None
        self.rest: _Node | None = None
        self.route: Route | None = None

    def child(self, shape: _Shape) -> _Node:
        """The node behind `shape`, made if it is not there."""
        if len(shape) > 1:
            mask = tuple([piece if piece in (_ANY, _REST) else _TEXT for piece in shape])
            return self.dotted.setdefault(mask, {}).setdefault(_texts(mask, shape), _Node())
        piece = shape[0]
        if piece is _ANY:
            if self.param is None:
                self.param = _Node()
            return self.param
        if piece == _REST:
            if self.rest is None:
                self.rest = _Node()
            return self.rest
        return self.exact.setdefault(piece, _Node())


class Router:
    """The routes of an application.

    `routes` are (pattern, target) pairs in the order of the manifest; a pattern of None is a private
    route and left out. A pattern that stands there twice keeps its place and takes the later target:
    such pairs are in `duplicates`. `reserved` are the routes that never get a request, because they lie
    below /.well-known/spin/. Both are for the operator to hear about and no errors.
    """

    def __init__(self, routes: Iterable[tuple[str | None, object]], *, base: str = "/") -> None:
        targets: dict[str, object] = {}
        duplicates: list[Duplicate] = []
        for pattern, target in routes:
            if pattern is None:
                continue
            if pattern in targets:
                duplicates.append(Duplicate(pattern, targets[pattern], target))
            targets[pattern] = target
        self.routes = tuple(
            Route(pattern, target, base=base, position=position)
            for position, (pattern, target) in enumerate(targets.items())
        )
        self.duplicates = tuple(duplicates)
        self.reserved = tuple(route for route in self.routes if route.based.startswith(WELL_KNOWN))

        self._literal: dict[str, RouteMatch] = {}
        self._root = _Node()
        for route in self.routes:
            self._insert(route)
        patterns = [route for route in self.routes if route.wildcard or route._captures]
        # Beyond the deepest pattern only the rest of the path is left to look at.
        self._depth = max((len(route._shapes) for route in patterns), default=0)
        self._dotted = any(len(shape) > 1 for route in patterns for shape in route._shapes)
        root = self._root
        self._open = bool(root.param or root.rest or root.dotted)
        # "/...", where it is the only pattern
        self._every = root.rest.route if len(patterns) == 1 and root.rest else None

    def _insert(self, route: Route) -> None:
        if not (route.wildcard or route._captures):
            bare = "/".join(str(shape[0]) for shape in route._shapes)
            self._literal.setdefault(bare, RouteMatch(route, "", ()))
            return
        node = self._root
        for shape in route._shapes:
            node = node.child(shape)
        if node.route is None:
            node.route = route

    def match(self, path: str) -> RouteMatch | None:
        """The route that answers the raw `path`, with what it captures, or None."""
        bare = path.strip("/")
        found = self._literal.get(bare)
        if found is not None:
            return found
        if not self._open and bare.partition("/")[0] not in self._root.exact:
            return None
        segments = bare.split("/", self._depth) if bare else []
        route = self._every or self._search(segments)
        return None if route is None else route._match(path, segments)

    def _search(self, segments: list[str]) -> Route | None:
        count = len(segments)
        champion: Route | None = None
        stack = [(self._root, 0)]
        while stack:
            node, index = stack.pop()
            if index == count:
                route = node.route
                if route is None and node.rest is not None:
                    route = node.rest.route
                if route is None:
                    continue
                if not self._dotted:
                    return route
                # Behind a dotted parameter the branches are not in the order of precedence.
                if champion is None or route._beats(champion):
                    champion = route
                continue
            segment = segments[index]
            if node.rest is not None:
                stack.append((node.rest, count))
            if node.param is not None:
                stack.append((node.param, index + 1))
            if node.dotted:
                last = index == count - 1
                for mask, table in node.dotted.items():
                    pieces = segment.split(".", len(mask) - 1)
                    # A parameter at the end of a segment captures nothing only where a slash follows.
                    if len(pieces) != len(mask) or (last and mask[-1] is _ANY and not pieces[-1]):
                        continue
                    child = table.get(_texts(mask, pieces))
                    if child is not None:
                        stack.append((child, count if mask[-1] == _REST else index + 1))
            follower = node.exact.get(segment)
            if follower is not None:
                stack.append((follower, index + 1))
        return champion


def _texts(mask: _Shape, pieces: Iterable[str | None]) -> tuple[str, ...]:
    """Those of `pieces` that `mask` wants to be a certain text."""
    return tuple([piece or "" for want, piece in zip(mask, pieces, strict=True) if want == _TEXT])


def full_url(match: RouteMatch, request: Request) -> str:
    """The absolute URL of `request` (Spin: http, 6, spin-full-url)."""
    host = "localhost" if match.synthetic else request.authority or "localhost"
    query = request.query
    if query is None:
        return f"{request.scheme}://{host}{request.path}"
    return f"{request.scheme}://{host}{request.path}?{query}"


def client_address(request: Request) -> str:
    """The peer as "ip:port", "[ip]:port" for IPv6, "0.0.0.0:0" when nobody knows."""
    if request.client is None:
        return "0.0.0.0:0"
    address, port = request.client
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def spin_headers(match: RouteMatch, request: Request) -> tuple[tuple[str, str], ...]:
    """The header pairs that a guest is given besides those of the client (Spin: http, 6)."""
    route = match.route
    common = (
        ("spin-path-info", match.path_info),
        ("spin-full-url", full_url(match, request)),
        *route._headers,
        ("spin-client-addr", client_address(request)),
    )
    params = match.params
    if not params:
        return common
    return common + tuple([(name, params[index][1]) for name, index in route._param_headers])


def wagi_variables(match: RouteMatch, request: Request) -> tuple[tuple[str, str], ...]:
    """The same facts as environment variables of a WAGI guest (Spin: http, 6, last column)."""
    return (
        ("PATH_INFO", match.path_info),
        ("X_FULL_URL", full_url(match, request)),
        *match.route._variables,
        ("X_CLIENT_ADDR", client_address(request)),
        *[(f"X_PATH_MATCH_{name.upper()}", value) for name, value in match.params],
    )


def _wire(text: str) -> str:
    """`text` as header values have it: one character per byte of its UTF-8."""
    return text if text.isascii() else text.encode().decode("latin-1")
