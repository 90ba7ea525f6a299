from __future__ import annotations

import re
import sys
from itertools import permutations
from types import FrameType

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wasm_gateway.errors import ManifestError
from wasm_gateway.messages import Request
from wasm_gateway.router import Duplicate, Route, RouteMatch, Router, full_url, spin_headers, wagi_variables


def make(*patterns: str) -> Router:
    """A router in which every pattern leads to itself."""
    return Router((pattern, pattern) for pattern in patterns)


def winner(router: Router, path: str) -> object:
    match = router.match(path)
    return None if match is None else match.route.target


# Spin's own unit tests (crates/routes)


@pytest.mark.parametrize(
    ("routes", "path", "target"),
    [
        ({"/foo": "foo", "/foo/bar": "foobar"}, "/foo", "foo"),
        ({"/foo": "foo", "/foo/bar": "foobar"}, "/foo/bar", "foobar"),
        ({"/foo": ("component", "compy"), "/foo/bar": ("trigger", "t")}, "/foo", ("component", "compy")),
        (
            {"/foo": ("component", "compy"), "/foo/bar": ("trigger", "triggy")},
            "/foo/bar",
            ("trigger", "triggy"),
        ),
        ({"/...": "all"}, "/foo/bar", "all"),
        ({"/...": "all"}, "/abc/", "all"),
        ({"/...": "all"}, "/", "all"),
        ({"/...": "all"}, "/this/should/be/captured?abc=def", "all"),
        ({"/one": "one_exact", "/...": "wildcard"}, "/one", "one_exact"),
    ],
)
def test_winner(routes: dict[str, object], path: str, target: object) -> None:
    assert winner(Router(routes.items()), path) == target


@pytest.mark.parametrize(
    ("path", "target"), [("/base/foo", "/foo"), ("/base/foo/bar", "/foo/bar"), ("/foo", None)]
)
def test_base(path: str, target: str | None) -> None:
    router = Router([("/foo", "/foo"), ("/foo/bar", "/foo/bar")], base="/base")
    assert winner(router, path) == target


def test_longest_wildcard_in_any_order() -> None:
    for patterns in permutations(["/one/...", "/one/two/...", "/one/two/three/..."]):
        assert winner(make(*patterns), "/one/two/three/four") == "/one/two/three/..."


def test_manifest_order_is_kept() -> None:
    router = make("/", "/foo", "/bar", "/whee/...")
    assert [route.raw for route in router.routes] == ["/", "/foo", "/bar", "/whee/..."]
    assert router.duplicates == ()


def test_later_duplicate_replaces_in_place() -> None:
    router = Router([("/", "root"), ("/foo", "first"), ("/foo", "second"), ("/whee/...", "whee")])
    assert [(route.raw, route.target) for route in router.routes] == [
        ("/", "root"),
        ("/foo", "second"),
        ("/whee/...", "whee"),
    ]
    assert router.duplicates == (Duplicate("/foo", replaced="first", effective="second"),)
    assert winner(router, "/foo") == "second"


def test_every_duplicate_is_reported() -> None:
    patterns = ["/", "/foo", "/...", "/whee/..."]
    router = Router((pattern, number) for number, pattern in enumerate(patterns * 2))
    assert [duplicate.raw for duplicate in router.duplicates] == patterns
    assert [route.target for route in router.routes] == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("one", "other", "path"),
    [
        ("/foo/", "/foo", "/foo"),
        ("/foo", "foo", "/foo"),
        ("/a//b", "/a/b", "/a/b"),
        ("/:id/edit", "/:name/edit", "/7/edit"),
        ("/a/...", "/a/*", "/a/x"),
        ("/:a.txt", "/:b.txt", "/x.txt"),
    ],
)
def test_equal_meaning_is_no_duplicate(one: str, other: str, path: str) -> None:
    for pair in [(one, other), (other, one)]:
        router = make(*pair)
        assert router.duplicates == ()
        assert len(router.routes) == 2
        assert winner(router, path) == pair[0]


def test_private_routes_are_left_out() -> None:
    router = Router([("/", 0), ("/foo", 1), (None, 2), ("/whee/...", 3)])
    assert [route.target for route in router.routes] == [0, 1, 3]


@pytest.mark.parametrize(
    ("pattern", "path", "path_info", "params"),
    [
        ("/...", "/1/2/3", "/1/2/3", ()),
        ("/1/...", "/1/2/3", "/2/3", ()),
        ("/test/...", "/test", "", ()),
        ("/test/...", "/test/", "/", ()),
        ("/test/...", "/test/hello", "/hello", ()),
        ("/test/...", "/test/hello/", "/hello/", ()),
        ("/1/:two/3", "/1/2/3", "", (("two", "2"),)),
        ("/1/:two/...", "/1/2/3", "/3", (("two", "2"),)),
        # beyond those tests: Spin http 2.1, 2.2, 2.6
        ("/test/...", "/test//", "/", ()),
        ("/test/...", "/test//a", "//a", ()),
        ("/test/...", "//test///a//", "///a/", ()),
        ("/test/*", "/test/a/b", "/a/b", ()),
        ("/...", "/", "/", ()),
        ("/...", "//a//b", "/a//b", ()),
        ("/...", "", "", ()),
        ("...", "/x", "/x", ()),
        ("*", "/x", "/x", ()),
        ("/foo", "/foo", "", ()),
        ("/foo", "/foo/", "", ()),
        ("/foo", "//foo", "", ()),
        ("/foo", "/foo//", "", ()),
        ("/foo/", "/foo", "", ()),
        ("foo", "/foo", "", ()),
        ("", "/", "", ()),
        ("/", "///", "", ()),
        ("/1/:two/3", "/1//3", "", (("two", ""),)),
        ("/:a", "/%2F", "", (("a", "%2F"),)),
        ("/:n.txt", "/b.txt", "", (("n", "b"),)),
        ("/:n.txt", "/.txt", "", (("n", ""),)),
        ("/v1.:n", "/v1.2.3", "", (("n", "2.3"),)),
        ("/v1.:n/x", "/v1./x", "", (("n", ""),)),
        ("/:a.:b", "/x.y.z", "", (("a", "x"), ("b", "y.z"))),
        ("/:a.:b/...", "/x.y/z/", "/z/", (("a", "x"), ("b", "y"))),
        ("/a.*", "/a.b/c", "/b/c", ()),
        ("/:a.*", "/x.y.z/c/", "/y.z/c/", (("a", "x"),)),
        ("/:a...", "/x...", "", (("a", "x"),)),
        ("/:a*", "/x", "", (("a*", "x"),)),
        ("/:id/:id", "/1/2", "", (("id", "2"),)),
        ("/:id/:x/:id/:x", "/1/2/3/4", "", (("id", "3"), ("x", "4"))),
        ("/static/.well-known/:x", "/static/.well-known/a", "", (("x", "a"),)),
    ],
)
def test_captures(pattern: str, path: str, path_info: str, params: tuple[tuple[str, str], ...]) -> None:
    match = make(pattern).match(path)
    assert match is not None
    assert match.route.raw == pattern
    assert match.path_info == path_info
    assert match.params == params
    assert not match.synthetic


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/", "/a"),
        ("/:a", "/"),
        ("/:a", "/x/y"),
        ("/a/:b", "/a/"),
        ("/a/:b", "/a"),
        ("/a/b", "/a//b"),
        ("/Foo", "/foo"),
        ("/caf%C3%A9", "/caf%c3%a9"),
        ("/caf%C3%A9", "/café"),
        ("/foo/...", "/foobar"),
        ("/foo/...", "/"),
        ("/foo/*", "/foobar"),
        ("/foo", "/foo/bar"),
        ("/foo/bar", "/foo"),
        ("/foo*", "/foobar"),
        ("/:n.txt", "/b.png"),
        ("/:n.txt", "/a.b.txt"),
        ("/:n.txt", "/txt"),
        ("/v1.:n", "/v1."),
        ("/v1.:n", "/v1"),
        ("/v1.:n", "/v2.3"),
        ("/a.*", "/a"),
        ("/a.*", "/a/b"),
        ("/:a...", "/x"),
        ("/a/.../b", "/a/x/b"),
        ("/.../b", "/x/b"),
    ],
)
def test_no_match(pattern: str, path: str) -> None:
    assert make(pattern).match(path) is None
    assert make(pattern, "/other/:x", "/third/...").match(path) is None


def test_dots_amid_a_pattern_are_text() -> None:
    # Upstream loses the slash before a segment that begins with a dot: "/a/.../b" answers "/a.../b" there.
    router = make("/a/.../b", "/static/.well-known")
    assert winner(router, "/a/.../b") == "/a/.../b"
    assert winner(router, "/a.../b") is None
    assert winner(router, "/static/.well-known") == "/static/.well-known"
    assert winner(router, "/static.well-known") is None


@pytest.mark.parametrize(
    ("patterns", "path"),
    [
        # the first of `patterns` wins, wherever it stands in the manifest
        (["/a/b", "/a/:x", "/:x/b", "/:x/:y", "/a/...", "/..."], "/a/b"),
        (["/a/...", "/:x/b"], "/a/b"),
        (["/a/b/...", "/a/:b/c"], "/a/b/c"),
        (["/a/:b/c", "/a/..."], "/a/b/c"),
        (["/a/:b/c", "/a/:b/..."], "/a/b/c"),
        (["/a/...", "/:x/:y"], "/a/b"),
        (["/foo", "/foo/..."], "/foo"),
        (["/foo", "/foo/..."], "/foo/"),
        (["/", "/..."], "/"),
        (["/:a", "/..."], "/x"),
        (["/...", "/x/:a"], "/x"),
        (["/:n.txt", "/:n"], "/b.txt"),
        (["/:n", "/:n.png"], "/b.txt"),
        (["/:m/b", "/:n.:e/b"], "/x.y/b"),
        (["/:n.:e/b", "/:m/:o"], "/x.y/b"),
        (["/:n.txt/...", "/:m/..."], "/b.txt/c"),
        (["/:x.:z/...", "/:x/:y/..."], "/p.q/r/s"),
        (["/:x.q/:y", "/:x/:y"], "/p.q/r"),
        (["/v1.2", "/v1.:n", "/:m.2", "/:m"], "/v1.2"),
        (["/.hidden", "/:x.hidden", "/:x"], "/.hidden"),
        (["/a./b", "/a.:x/b"], "/a./b"),
        (["/a.:x/b", "/a./..."], "/a./b"),
        (["/./...", "/:y/:x", "/:n.txt"], "/./b"),
        # a dot behind text is no part of its own
        (["/:x.q/:y", "/:x/a.:y"], "/p.q/a.b"),
        (["/:x.q/:y", "/:x/b.:c.d"], "/p.q/b.c.d"),
        (["/a.*", "/a./..."], "/a./b"),
    ],
)
def test_precedence(patterns: list[str], path: str) -> None:
    for order in (patterns, patterns[::-1]):
        router = make(*order)
        assert winner(router, path) == patterns[0]


def test_manifest_order_is_the_last_resort() -> None:
    patterns = ["/:x/:y.:z", "/:x.:y/:z"]
    for order in (patterns, patterns[::-1]):
        assert winner(make(*order), "/p.q/r.s") == order[0]


def test_dead_end_falls_back() -> None:
    router = make("/a/b/c", "/a/:x/d", "/:x/b/e", "/:x/...", "/a/:x/:y/z")
    assert winner(router, "/a/b/d") == "/a/:x/d"
    assert winner(router, "/a/b/e") == "/:x/b/e"
    assert winner(router, "/a/b/f") == "/:x/..."
    assert winner(router, "/a/b/c/z") == "/a/:x/:y/z"


@pytest.mark.parametrize(
    "pattern",
    [
        "/a/*/b",
        "/*foo",
        "/:",
        "/:/x",
        "/a/*/...",
        "/*.txt",
        "/a/**",
        "/:.txt",
        "/x.*/y",
        # what can never be a header
        "/a\nb",
        "/:a b",
        "/:é",
    ],
)
def test_refused(pattern: str) -> None:
    with pytest.raises(ManifestError) as caught:
        make("/ok", pattern)
    assert repr(pattern) in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "reserved"),
    [
        ("/.well-known/spin/...", True),
        ("/.well-known/spin/fie", True),
        (".well-known/spin/fie", True),
        ("/.well-known/spindle/...", False),
        ("/.well-known/spi/...", False),
        ("/.well-known/spin", False),
        ("/.well-known/spin/", False),
    ],
)
def test_reserved(pattern: str, reserved: bool) -> None:
    assert bool(make(pattern).reserved) is reserved


@pytest.mark.parametrize(
    ("pattern", "based", "component_route", "script_name", "shown"),
    [
        ("/whee/...", "/whee/...", "/whee", "/whee", "/whee (wildcard)"),
        ("/whee/*", "/whee/*", "/whee/*", "/whee/*", "/whee/* (wildcard)"),
        ("/...", "/...", "", "", " (wildcard)"),
        ("/", "", "/", "", ""),
        ("/foo/", "/foo", "/foo/", "/foo", "/foo"),
        ("foo", "/foo", "foo", "/foo", "/foo"),
        ("/a/:id", "/a/:id", "/a/:id", "/a/:id", "/a/:id"),
    ],
)
def test_names(pattern: str, based: str, component_route: str, script_name: str, shown: str) -> None:
    route = Route(pattern, None)
    assert route.raw == pattern
    assert route.based == based
    assert route.component_route == component_route
    assert route.script_name == script_name
    assert str(route) == shown


# What a route adds to a request


def request(path: str, query: str | None = None, **options: object) -> Request:
    known = {"authority": "example.com", "client": ("127.0.0.1", 50000), **options}
    return Request("GET", path, query, **known)  # type: ignore[arg-type]


def match_of(pattern: str, path: str) -> RouteMatch:
    match = make(pattern).match(path)
    assert match is not None
    return match


def test_headers_of_the_conformance_suite() -> None:
    pattern, path = "/base/:path_segment/:path_end/...", "/base/path/end/rest"
    expected = {
        "spin-path-info": "/rest",
        "spin-full-url": "http://example.com/base/path/end/rest?key=value",
        "spin-matched-route": pattern,
        "spin-base-path": "/",
        "spin-raw-component-route": pattern,
        "spin-component-route": "/base/:path_segment/:path_end",
        "spin-client-addr": "127.0.0.1:50000",
        "spin-path-match-path-segment": "path",
        "spin-path-match-path-end": "end",
    }
    pairs = spin_headers(match_of(pattern, path), request(path, "key=value"))
    assert dict(pairs) == expected
    assert len(pairs) == len(expected)

    assert dict(wagi_variables(match_of(pattern, path), request(path, "key=value"))) == {
        "PATH_INFO": "/rest",
        "X_FULL_URL": "http://example.com/base/path/end/rest?key=value",
        "X_MATCHED_ROUTE": pattern,
        "X_BASE_PATH": "/",
        "X_RAW_COMPONENT_ROUTE": pattern,
        "X_COMPONENT_ROUTE": "/base/:path_segment/:path_end",
        "X_CLIENT_ADDR": "127.0.0.1:50000",
        "X_PATH_MATCH_PATH_SEGMENT": "path",
        "X_PATH_MATCH_PATH_END": "end",
    }


def test_headers_of_spins_unit_tests() -> None:
    asked = request("/foo/bar", "key1=value1&key2=value2", scheme="https", authority="fermyon.dev")
    headers = dict(spin_headers(match_of("/foo/...", "/foo/bar"), asked))
    assert headers["spin-full-url"] == "https://fermyon.dev/foo/bar?key1=value1&key2=value2"
    assert headers["spin-path-info"] == "/bar"
    assert headers["spin-matched-route"] == headers["spin-raw-component-route"] == "/foo/..."
    assert headers["spin-base-path"] == "/"
    assert headers["spin-component-route"] == "/foo"

    headers = dict(spin_headers(match_of("/foo/:userid/...", "/foo/42/bar"), request("/foo/42/bar")))
    assert headers["spin-component-route"] == "/foo/:userid"
    assert headers["spin-path-match-userid"] == "42"


def test_headers_of_the_root() -> None:
    headers = dict(spin_headers(match_of("/", "/"), request("/")))
    assert headers["spin-matched-route"] == ""
    assert headers["spin-component-route"] == headers["spin-raw-component-route"] == "/"
    assert headers["spin-path-info"] == ""


def test_equal_header_names_appear_once() -> None:
    pattern = "/:user_id/:User-ID/:user_id"
    pairs = spin_headers(match_of(pattern, "/1/2/3"), request("/1/2/3"))
    assert [pair for pair in pairs if "match-" in pair[0]] == [("spin-path-match-user-id", "3")]
    variables = dict(wagi_variables(match_of(pattern, "/1/2/3"), request("/1/2/3")))
    assert variables["X_PATH_MATCH_USER_ID"] == "3"
    assert variables["X_PATH_MATCH_USER-ID"] == "2"


def test_base_path_header() -> None:
    router = Router([("/x/...", 0)], base="/base")
    match = router.match("/base/x/y")
    assert match is not None
    headers = dict(spin_headers(match, request("/base/x/y")))
    assert headers["spin-base-path"] == "/base"
    assert headers["spin-matched-route"] == "/base/x/..."
    assert headers["spin-raw-component-route"] == "/x/..."


def test_pattern_text_is_utf_8_on_the_wire() -> None:
    headers = dict(spin_headers(match_of("/café/...", "/café/x"), request("/caf%C3%A9/x")))
    assert headers["spin-component-route"].encode("latin-1").decode() == "/café"
    assert ("X_COMPONENT_ROUTE", "/café") in wagi_variables(match_of("/café", "/café"), request("/"))


@pytest.mark.parametrize(
    ("options", "address", "url"),
    [
        ({"client": ("::1", 80)}, "[::1]:80", "http://example.com/a"),
        ({"client": None}, "0.0.0.0:0", "http://example.com/a"),
        ({"authority": None}, "127.0.0.1:50000", "http://localhost/a"),
        ({"authority": "h:8080", "scheme": "https"}, "127.0.0.1:50000", "https://h:8080/a"),
    ],
)
def test_peer_and_host(options: dict[str, object], address: str, url: str) -> None:
    headers = dict(spin_headers(match_of("/a", "/a"), request("/a", **options)))
    assert headers["spin-client-addr"] == address
    assert headers["spin-full-url"] == url


def test_empty_query_shows() -> None:
    assert full_url(match_of("/a", "/a"), request("/a", "")) == "http://example.com/a?"


def test_chained_match() -> None:
    match = RouteMatch.chained("/a//b/", "other")
    asked = Request("GET", "/a//b/", authority="other.spin.internal")
    assert match.route.target == "other"
    assert dict(spin_headers(match, asked)) == {
        "spin-path-info": "/a//b/",
        "spin-full-url": "http://localhost/a//b/",
        "spin-matched-route": "/...",
        "spin-base-path": "/",
        "spin-raw-component-route": "/...",
        "spin-component-route": "",
        "spin-client-addr": "0.0.0.0:0",
    }


# The oracle: every route as a regular expression, and the four rules of Spin: http, 2.3 pair by pair

TOKEN = re.compile(r":(?P<param>[^/.]+)|(?P<rest>(?:\.\.\.|\*)$)|(?P<dot>\.)|(?P<slash>/)|(?P<exact>[^/.]+)")


def expression(pattern: str) -> re.Pattern[str]:
    source = ""
    text = pattern.strip("/")
    for token in TOKEN.finditer(text):
        if token["param"]:
            ends_at_dot = text[token.end() : token.end() + 1] == "."
            source += r"(?!\Z)([^/.]*)(?=\.)" if ends_at_dot else r"(?!\Z)([^/]*)"
        elif token["rest"]:
            if source.endswith("/"):
                source = source[:-1] + r"(?:/(.*))?"
            else:
                source += "(.*)"
        else:
            source += re.escape(token[0])
    return re.compile(source + r"\Z", re.DOTALL)


def facts(pattern: str) -> tuple[list[int], int, int]:
    """Kinds of the parts, number of dots that are a part of their own, number of parts and separators."""
    kinds: list[int] = []
    dots = length = 0
    after_exact = False
    for token in TOKEN.finditer(pattern.strip("/")):
        if token["dot"] and after_exact:
            continue
        after_exact = bool(token["exact"])
        length += 1
        dots += bool(token["dot"])
        if not (token["dot"] or token["slash"]):
            kinds.append(3 if token["exact"] else 2 if token["param"] else 1)
    return kinds, dots, length


def beats(first: str, second: str, patterns: list[str]) -> bool:
    kinds, dots, length = facts(first)
    other_kinds, other_dots, other_length = facts(second)
    common = min(len(kinds), len(other_kinds))
    if kinds[:common] != other_kinds[:common]:
        return kinds[:common] > other_kinds[:common]
    if dots != other_dots:
        return dots > other_dots
    if length != other_length:
        return length < other_length
    return patterns.index(first) < patterns.index(second)


TEXTS = st.sampled_from(["a", "b", "c"])
PLAIN = st.one_of(TEXTS, TEXTS, st.sampled_from([":x", ":y"]))
DOTTED = st.lists(PLAIN, min_size=2, max_size=3).map(".".join)


def tables(segment: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    pattern = st.builds(
        lambda parts, end: "/" + "/".join([*parts, *end]),
        st.lists(segment, max_size=4),
        st.sampled_from([[], [], ["..."], ["*"]]),
    )
    return st.lists(pattern, min_size=1, max_size=12, unique=True)


PATHS = st.builds(
    lambda parts, ends: ends[0] + "/".join(parts) + ends[1],
    st.lists(st.one_of(TEXTS, st.sampled_from(["a.b", "b.c.a", "a.", ".b", "", "z"])), max_size=5),
    st.sampled_from([("/", ""), ("/", "/"), ("//", "//")]),
)


def check_against_oracle(patterns: list[str], path: str) -> None:
    bare = path.strip("/")
    matching = [pattern for pattern in patterns if expression(pattern).match(bare)]
    match = make(*patterns).match(path)
    if not matching:
        assert match is None
        return
    assert match is not None
    assert match.route.raw in matching
    # "more dots" and "fewer segments" can make a ring of three; then there is no best one
    best = [one for one in matching if all(one == two or beats(one, two, patterns) for two in matching)]
    if best:
        assert [match.route.raw] == best

    found = expression(match.route.raw).match(bare)
    assert found is not None
    captured = [text or "" for text in found.groups()]
    if match.route.wildcard:
        rest, slash = captured.pop(), "/" * path.endswith("/")
        assert match.path_info == (f"/{rest}{slash}" if rest else slash)
    else:
        assert match.path_info == ""
    assert dict(match.params) == dict(zip(re.findall(r":([^/.]+)", match.route.raw), captured, strict=True))


@settings(max_examples=400, deadline=None)
@given(tables(PLAIN), PATHS)
def test_oracle_plain(patterns: list[str], path: str) -> None:
    check_against_oracle(patterns, path)


@settings(max_examples=400, deadline=None)
@given(tables(st.one_of(PLAIN, DOTTED)), PATHS)
def test_oracle_dotted(patterns: list[str], path: str) -> None:
    check_against_oracle(patterns, path)


@settings(max_examples=100, deadline=None)
@given(tables(st.one_of(PLAIN, DOTTED)), PATHS, st.data())
def test_manifest_order_matters_for_equals_only(patterns: list[str], path: str, data: st.DataObject) -> None:
    matching = [pattern for pattern in patterns if expression(pattern).match(path.strip("/"))]
    assume(len({str(facts(pattern)) for pattern in matching}) == len(matching))
    assume(not matching or any(all(a == b or beats(a, b, patterns) for b in matching) for a in matching))
    shuffled = data.draw(st.permutations(patterns))
    assert winner(make(*patterns), path) == winner(make(*shuffled), path)


def test_the_oracle_knows_the_ring() -> None:
    patterns = ["/:x.q/:y", "/:x/b.:c.d", "/:x.q/:y.:z"]
    first, second, third = patterns
    assert all(expression(pattern).match("p.q/b.c.d") for pattern in patterns)
    assert beats(first, second, patterns)
    assert beats(second, third, patterns)
    assert beats(third, first, patterns)
    assert winner(make(*patterns), "/p.q/b.c.d") in patterns


# Cost


def steps(router: Router, path: str) -> int:
    """How many lines of the router a match executes."""
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> object:
        nonlocal count
        # whatever else runs meanwhile, such as hooks of the garbage collector, does not count
        if frame.f_code.co_filename != Router.match.__code__.co_filename:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        router.match(path)
    finally:
        sys.settrace(before)
    return count


# Every level offers a text, a parameter and a dotted parameter: where backtracking matchers explode.
HOSTILE = ["/a/:x" * 10, "/:x/a" * 10, "/:x.a" * 20, "/:x" * 20]


@pytest.mark.parametrize("patterns", [HOSTILE, ["/:x/...", "/a/:y.z"], ["/only/literals"]])
@pytest.mark.parametrize("unit", ["/", "/a", "/a.a", "/.", "//a", ".", "/a/a.a.a.a"])
def test_cost_does_not_grow_with_the_path(patterns: list[str], unit: str) -> None:
    router = make(*patterns)
    assert steps(router, "/a" + unit * 10_000) <= max(steps(router, "/a" + unit * size) for size in range(40))


def test_cost_is_bounded_by_the_table() -> None:
    segments = sum(pattern.count("/") for pattern in HOSTILE)
    for path in ["/a" * 20, "/a.a" * 20, "/a.a" * 19 + "/b", "/a" * 19 + "/b"]:
        assert steps(make(*HOSTILE), path) < 30 * segments


def test_a_long_pattern_needs_no_recursion() -> None:
    pattern = "/:x" * 5000
    assert winner(make(pattern, "/a/..."), "/b" * 5000) == pattern


def test_a_thousand_routes_are_not_searched_one_by_one() -> None:
    kinds = ["/lit/{}", "/r{}/:id", "/files{}/...", "/:org/p{}/edit", "/img/:n.e{}"]
    small = make(*(kind.format(number) for number in range(2) for kind in kinds))
    large = make(*(kind.format(number) for number in range(1000) for kind in kinds))
    for path in ["/lit/1", "/r1/7", "/files1/a/b", "/acme/p1/edit", "/img/a.e1", "/admin/login", "/x/y/z"]:
        assert winner(small, path) == winner(large, path)
        assert steps(small, path) == steps(large, path)
