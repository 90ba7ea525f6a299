from __future__ import annotations

import ipaddress
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasm_gateway.errors import GatewayError, ManifestError
from wasm_gateway.host.outbound import (
    MAX_DENIALS,
    AllowedHosts,
    BlockedNetworks,
    OutboundUrl,
    parse_allowed_host,
    parse_allowed_hosts,
    parse_host,
    parse_url,
    validate,
)


def one(port: int) -> range:
    return range(port, port + 1)


# Spin's own tests (crates/outbound-networking-config), entries that are accepted


@pytest.mark.parametrize(
    ("text", "scheme", "host", "ports"),
    [
        ("http://spin.fermyon.dev", "http", "spin.fermyon.dev", one(80)),
        ("http://spin.fermyon.dev/", "http", "spin.fermyon.dev", one(80)),
        ("https://spin.fermyon.dev", "https", "spin.fermyon.dev", one(443)),
        ("http://spin.fermyon.dev:4444", "http", "spin.fermyon.dev", one(4444)),
        ("http://spin.fermyon.dev:4444/", "http", "spin.fermyon.dev", one(4444)),
        ("https://spin.fermyon.dev:5555", "https", "spin.fermyon.dev", one(5555)),
        ("http://spin.fermyon.dev:4444..5555", "http", "spin.fermyon.dev", range(4444, 5555)),
        ("*://spin.fermyon.dev:7777", None, "spin.fermyon.dev", one(7777)),
        ("http://self", "http", "self", one(80)),
        ("http://self.alt", "http", "self", one(80)),
        ("http://localhost", "http", "localhost", one(80)),
        ("http://localhost:3001", "http", "localhost", one(3001)),
        ("http://*.example.com", "http", "*.example.com", one(80)),
        ("http://192.168.1.1", "http", "192.168.1.1", one(80)),
        ("http://192.168.1.1:3002", "http", "192.168.1.1", one(3002)),
        ("http://[::1]", "http", "[::1]", one(80)),
        ("http://[::1]:8001", "http", "[::1]", one(8001)),
        ("https://[::1]", "https", "[::1]", one(443)),
        ("http://[2001:db8::1]", "http", "[2001:db8::1]", one(80)),
        ("http://[2001:DB8:0::1]:443", "http", "[2001:db8::1]", one(443)),
        ("http://[::1]:*", "http", "[::1]", None),
        ("http://[::1]:8000..9000", "http", "[::1]", range(8000, 9000)),
        ("*://[::1]:80", None, "[::1]", one(80)),
        ("http://[::1]:8080/", "http", "[::1]", one(8080)),
        ("*://127.0.0.0/24:80", None, "127.0.0.0/24", one(80)),
        ("*://127.0.0.1/24:80", None, "127.0.0.0/24", one(80)),
        ("*://ff00::/8:80", None, "ff00::/8", one(80)),
        ("http://ff00::/8", "http", "ff00::/8", one(80)),
        ("https://2001:db8::/32", "https", "2001:db8::/32", one(443)),
        ("http://::1/128", "http", "::1/128", one(80)),
        ("http://10.0.0.0/8", "http", "10.0.0.0/8", one(80)),
        ("http://10.0.0.0/8/", "http", "10.0.0.0/8", one(80)),
        ("http://2001:db8::/32:443", "http", "2001:db8::/32", one(443)),
        ("*://*:*", None, "*", None),
        # the same host parser as for URLs
        ("http://Example.COM", "http", "example.com", one(80)),
        ("http://ex%61mple%2Ecom", "http", "example.com", one(80)),
        ("http://Bücher.example", "http", "xn--bcher-kva.example", one(80)),
        ("http://*.Bücher.example", "http", "*.xn--bcher-kva.example", one(80)),
        ("http://0x7f.1", "http", "127.0.0.1", one(80)),
        # default ports
        ("postgres://db", "postgres", "db", one(5432)),
        ("mysql://db", "mysql", "db", one(3306)),
        ("redis://db", "redis", "db", one(6379)),
        ("mqtt://db", "mqtt", "db", one(1883)),
        ("tcp://db:1", "tcp", "db", one(1)),
        (" http://spaced ", "http", "spaced", one(80)),
    ],
)
def test_accepted(text: str, scheme: str | None, host: str, ports: range | None) -> None:
    entry = parse_allowed_host(text)
    assert (entry.scheme, str(entry.host), entry.ports) == (scheme, host, ports)
    assert isinstance(entry.host, str) is ("/" not in host)


@pytest.mark.parametrize(
    "text",
    [
        "spin.fermyon.dev",
        "spin.fermyon.dev:80",
        "localhost",
        "localhost:3001",
        "example.com",
        "example.com:8080",
        "*://127.0.0.0/24",
        "insecure:allow-all",
        "http://spin.fermyon.dev/a",
        "http://spin.fermyon.dev:6666/a/b",
        "http://*.fermyon.dev/a",
        "http://[::1]/foo",
        "http://ff00::/8/extra",
        "http://[::1",
        "http://[::1]junk",
        "http://[::1junk",
        "http://[::1]::80",
        "http://[v1.]",
        "http://[vG.example]",
        "[::1]",
        "[::1]:8080",
        "http://example.com:notaport",
        "http://self:notaport",
        "http://self.alt:notaport",
        "http://*:notaport",
        "http://127.0.0.1:notaport",
        "http://[::1]:notaport",
        "http://*.example.com:notaport",
        "http://example.com:8080..70000",
        "http://*.example.com:8080..",
        "http://*.example.com:8O8O",
        "http://example.com:8080/p",
        "http://*.example.com:8080/p",
        "http://*.example.com/p",
        "http://127.0.0.0/24/p",
        "http://*.",
        "http://*.:8080",
        "http://example%.com",
        "http://example%2.com",
        "http://example%GG.com",
        "http://exa[mple.com",
        "http://exa\\mple.com",
        "http://example.com:80:90",
        "http://example.com//",
        "http://*.example.com//",
        "http://self//",
        "http://[::1]//",
        "http://*.127.0.0.1",
        "http://*.192.168.001.001",
        "http://*.[::1]",
        "http://*.[2001:db8::1]",
        "zootle! wurdl!",
        "}{ !!**",
        # beyond those tests
        "",
        "*",
        ":",
        "?",
        "http://",
        "://example.com:80",
        "h2c://example.com:80",
        "git+ssh://example.com:80",
        "{http,https}://example.com",
        "http://{a,b}.com",
        "http://example.com:{80,81}",
        "http://example.com:+80",
        "http://example.com:\u0664",
        "http://ex*mple.com",
        "http://a.*.com",
        "http://*.*.com",
        "http://%2A.example.com",
        "http://user@example.com",
        "http://example.com?x",
        "http://a b.com",
        "http://::1",
        "http://[fe80::1%eth0]",
        "http://10.0.0.0/33",
        "http://10.0.0.0/255.0.0.0",
        "http://010.0.0.0/8",
        "http://1.2.3.4.5",
        "http://256.0.0.1",
        "http://xn--a",
        "http://xn--abc-",  # decodes to ASCII
        "http://xn--wca",  # decodes to a capital
        "http://xn--a-wbb",  # begins with a combining mark
        "http://xn--ab-m1t",  # joins nothing
        "http://xn--e-xbb",  # is not composed
        "http://xn--a-zhc",  # mixes directions
        "http://\u0301a",
        "http://a\u200db",
        "http://\u05d0a",
        "http://10.0.0.0/\u0668",
        "h\u0163tp://example.com:80",
        "ftp://example.com",
        "HTTP://example.com",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ManifestError):
        parse_allowed_host(text)
    with pytest.raises(ManifestError):
        AllowedHosts([text, "http://ok"])


@pytest.mark.parametrize("host", ["example.com", "[::1]", "ff00::/8", "*.example.com"])
def test_port_error_text(host: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_allowed_host(f"http://{host}:99999")
    assert str(caught.value) == 'Invalid allowed host port "99999"'


@pytest.mark.parametrize(
    ("texts", "hint"),
    [
        (["insecure:allow-all"], "'*://*:*'"),
        (["spin.fermyon.dev", "insecure:allow-all"], "does not contain a scheme"),
        (["*"], "<scheme>://<host>[:<port>]"),
        (["*://example.com"], "no port was provided and the scheme '*' does not have a known default port"),
        (["http://example.com/a"], "has a path"),
    ],
)
def test_error_says_what_to_write(texts: list[str], hint: str) -> None:
    with pytest.raises(ManifestError) as caught:
        AllowedHosts(texts)
    assert hint in str(caught.value)


# Matching

DATABASE = ["mysql://xyz.com"]
TWO = ["*://spin.fermyon.dev:443", "http://example.com:8383"]
SUBDOMAINS = ["http://*.example.com", "http://*.example2.com:8383"]


@pytest.mark.parametrize(
    ("texts", "url", "default_scheme", "allowed"),
    [
        (TWO, "http://example.com:8383/foo/bar", "https", True),
        (TWO, "https://spin.fermyon.dev", "https", True),
        (TWO, "https://spin.fermyon.dev/", "https", True),
        (TWO, "http://example.com/", "https", False),
        (TWO, "http://google.com/", "https", False),
        (TWO, "spin.fermyon.dev:443", "https", True),
        (TWO, "example.com:8383", "http", True),
        (TWO, "example.com:8383", "https", False),
        (["https://my.api.com/"], "https://my.api.com", "https", True),
        (["https://my.api.com/"], "https://my.api.com/", "https", True),
        (SUBDOMAINS, "http://a.example.com/foo/bar", "https", True),
        (SUBDOMAINS, "http://a.b.example.com/foo/bar", "https", True),
        (SUBDOMAINS, "http://a.b.example2.com:8383/foo/bar", "https", True),
        (SUBDOMAINS, "http://a.b.example2.com/foo/bar", "https", False),
        (SUBDOMAINS, "http://example.com/foo/bar", "https", False),
        (SUBDOMAINS, "http://example.com:8383/foo/bar", "https", False),
        (SUBDOMAINS, "http://myexample.com/foo/bar", "https", False),
        (["http://*.Example.COM"], "http://foo.example.com", "https", True),
        (["http://*.Example.COM"], "http://a.b.example.com/x", "https", True),
        (["http://*.Example.COM"], "http://A.EXAMPLE.com/x", "https", True),
        (["http://*.Example.COM"], "http://example.com", "https", False),
        (DATABASE, "mysql://user:pass#word@xyz.com", "mysql", True),
        (DATABASE, "mysql://user%3Apass%23word@xyz.com", "mysql", True),
        (DATABASE, "user%3Apass%23word@xyz.com", "mysql", True),
        (DATABASE, "user:pass@xyz.com:3306/db", "mysql", True),
        (DATABASE, "xyz.com", "postgres", False),
        (["*://127.0.0.1/24:63551"], "tcp://127.0.0.1:63551", "tcp", True),
        (["*://127.0.0.1/24:63551"], "tcp://127.0.1.1:63551", "tcp", False),
        (["*://127.0.0.1/24:63551"], "tcp://localhost:63551", "tcp", False),
        (["http://[::1]"], "http://[::1]", "https", True),
        (["http://[::1]"], "http://[::1]/some/path", "https", True),
        (["http://[::1]"], "http://[::1]:80", "https", True),
        (["http://[::1]"], "http://[0:0:0:0:0:0:0:1]", "https", True),
        (["http://[::1]"], "http://[::2]", "https", False),
        (["http://[::1]"], "http://[::1]:81", "https", False),
        (["http://2001:db8::/32"], "http://[2001:db8::1]", "https", True),
        (["http://2001:db8::/32"], "http://[2001:db8:abcd::1]/x", "https", True),
        (["http://2001:db8::/32"], "http://[2001:db9::1]", "https", False),
        (["http://2001:db8::/32"], "http://10.0.0.1", "https", False),
        # beyond those tests
        ([], "http://example.com", "https", False),
        (["*://*:*"], "anything://example.com", "https", True),
        (["*://*:*"], "http://self/", "https", True),
        (["http://self"], "http://self/", "https", False),
        (["http://h:80..82"], "http://h:80", "https", True),
        (["http://h:80..82"], "http://h:81", "https", True),
        (["http://h:80..82"], "http://h:82", "https", False),
        (["foo://h:1"], "foo://h", "https", False),
        (["foo://h:*"], "foo://h", "https", True),
        (["http://h"], "HTTP://H", "https", True),
        (["http://h"], "http://h.", "https", False),
        (["http://h"], "http://h:", "https", True),
        (["http://h"], "http://h?a=b", "https", True),
        (["http://127.0.0.1"], "http://0x7f.0.0.1/", "https", True),
        (["http://127.0.0.1"], "http://2130706433", "https", True),
        (["http://127.0.0.1"], "http://127.1", "https", True),
        (["http://1.2.3.4"], "http://1.2.772", "https", True),
        (["http://1.2.3.4"], "http://1.131844", "https", True),
        (["http://1.2.3.4"], "http://0x1020304.", "https", True),
        (["*://*:*"], "http://4294967296", "https", False),
        (["*://*:*"], "http://1.2.65536", "https", False),
        (["http://8.0.0.1"], "http://010.0.0.1", "https", True),
        (["http://10.0.0.1"], "http://010.0.0.1", "https", False),
        (["http://127.0.0.1"], "http://\uff11\uff12\uff17.0.0.1/", "https", True),
        (["http://xn--bcher-kva.de"], "http://B\u00dcCHER.de", "https", True),
        (["http://b\u00fccher.de"], "http://XN--BCHER-KVA.de/", "https", True),
        (["http://xn--n3h.net"], "http://\u2603.net", "https", True),
        (["*://*:*"], "http://h:65535", "https", True),
        (["*://*:*"], "http://h:65536", "https", False),
        (["*://*:*"], "http://h:99999/", "https", False),
        (["*://*:*"], "http://[::1", "https", False),
        (["*://*:*"], "http://[::1]x", "https", False),
        (["*://*:*"], "http:///path", "https", False),
        (["*://*:*"], "/path", "https", False),
        (["*://*:*"], "", "https", False),
        (["*://*:*"], "http://a b/", "https", False),
        (["*://*:*"], "http://a\nb/", "https", False),
        (["*://*:*"], "http://\u2100.com/", "https", False),  # maps to "a/c.com"
        (["*://*:*"], "http://xn--a.com/", "https", False),
        (["*://*:*"], "http://" + "a" * 1000, "https", True),
        (["*://*:*"], "http://" + "a" * 2000, "https", False),
        (["*://*:*"], "http://" + "A" * 2000, "https", False),
    ],
)
def test_check_url(texts: list[str], url: str, default_scheme: str, allowed: bool) -> None:
    assert AllowedHosts(texts).check_url(url, default_scheme) is allowed


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.com/file@0.1.0.json", "example.com"),
        ("https://user:password@example.com/file@0.1.0.json", "example.com"),
        ("https://user:pass#word@example.com/file@0.1.0.json", "example.com"),
        ("https://user:password@example.com", "example.com"),
        # nobody is led to the host in front of the "@" while the one behind it is checked
        ("https://good.com#@evil.com/", "evil.com"),
        ("https://good.com?@evil.com/", "evil.com"),
        ("https://good.com?x@evil.com", "evil.com"),
        ("https://good.com/@evil.com", "good.com"),
        ("https://GOOD.com/@evil.com", "good.com"),
        ("https://GOOD.com/a@b/@evil.com", "good.com"),
        ("https://a@b@c.com/", "c.com"),
        ("https://good.com:80@evil.com", "evil.com"),
    ],
)
def test_host_of_a_url(url: str, host: str) -> None:
    parsed = parse_url(url, "https")
    assert parsed is not None
    assert parsed == ("https", host, 443)


@pytest.mark.parametrize(
    "url", ["https://evil.com\\@good.com/", "https://good.com\\@evil.com", "https://a\\b.com"]
)
def test_backslash_is_no_host(url: str) -> None:
    assert parse_url(url, "https") is None


SCHEMES = st.sampled_from(["http", "https", "redis", "tcp"])
LABELS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=8)


@given(
    SCHEMES,
    st.lists(LABELS, min_size=1, max_size=4),
    st.none() | st.integers(0, 65535),
    st.sampled_from("/?#"),
)
def test_short_way_reads_as_the_long_one(scheme: str, labels: list[str], port: int | None, end: str) -> None:
    url = f"{scheme}://{'.'.join(labels)}{'' if port is None else f':{port}'}"
    # user-info and upper case take the long way
    assert parse_url(url, "x") == parse_url(url.replace("://", "://u@"), "x")
    assert parse_url(url + "/", "x") == parse_url(url.upper() + end, "x")


def test_valid_a_labels_pass() -> None:
    assert parse_host("xn--tda") == parse_host("\u00fc") == "xn--tda"


@given(st.text(max_size=40) | st.text("a0.xn-%[]:@/#?*1", max_size=30))
def test_any_text_is_a_host_or_a_value_error(text: str) -> None:
    try:
        host = parse_host(text)
    except ValueError:
        return
    assert host.isascii()
    assert parse_host(host) == host


@given(st.text(max_size=40) | st.text("a0.:*/[]{}@", max_size=30))
def test_any_text_is_an_entry_or_a_manifest_error(text: str) -> None:
    try:
        entry = parse_allowed_host("http://" + text)
    except ManifestError:
        return
    if isinstance(entry.host, str) and "*" not in entry.host and entry.host != "self":
        assert entry.allows(OutboundUrl("http", entry.host, entry.ports[0] if entry.ports else 1))


@given(st.text(max_size=60), SCHEMES)
def test_any_text_is_checked(url: str, scheme: str) -> None:
    assert AllowedHosts([]).check_url(url, scheme) is False
    assert AllowedHosts([]).check_url(f"{scheme}://{url}", scheme) is False


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_networks(address: ipaddress.IPv4Address, bits: int) -> None:
    network = ipaddress.ip_network(f"{address}/{bits}", strict=False)
    allowed = AllowedHosts([f"*://{address}/{bits}:80"])
    assert allowed.check_url(f"tcp://{network[0]}:80", "tcp")
    assert allowed.check_url(f"tcp://{network[-1]}:80", "tcp")
    if bits:
        assert not allowed.check_url(
            f"tcp://{ipaddress.IPv4Address((int(network[-1]) + 1) % 2**32)}:80", "tcp"
        )


# Requests to the application itself


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("http://self", True),
        ("https://self", True),
        ("http://self.alt", True),
        ("http://self:1234", True),
        ("*://self:80", True),
        ("http://*", True),
        ("*://*:*", True),
        ("http://*:80", True),
        ("redis://self", False),
        ("redis://*:*", False),
        ("http://localhost", False),
        ("http://*.self", False),
    ],
)
def test_self(text: str, allowed: bool) -> None:
    assert AllowedHosts(["http://other", text]).allows_self() is allowed


@pytest.mark.parametrize(
    ("host", "component"),
    [
        ("first.spin.internal", "first"),
        ("First.Spin.Internal", "first"),
        ("first.spin.internal:8080", "first"),
        ("loud-one.spin.internal", "LOUD-one"),
        ("unknown.spin.internal", "unknown"),
        ("a.first.spin.internal", None),
        (".spin.internal", None),
        ("spin.internal", None),
        ("first.spin.internal.", None),
        ("firstspin.internal", None),
        ("first.spin.internal.example.com", None),
        ("example.com", None),
        ("[::1]:80", None),
        ("", None),
    ],
)
def test_chained(host: str, component: str | None) -> None:
    assert AllowedHosts([], components=["first", "LOUD-one"]).is_chained(host) == component


def texts_of(allowed: AllowedHosts) -> list[str]:
    return [entry.text for entry in allowed.entries]


def test_chaining_wildcard_is_expanded() -> None:
    components = ["first", "second", "third"]
    expanded = [f"http://{id}.spin.internal" for id in components]
    assert texts_of(AllowedHosts(["http://*.spin.internal"], components=components)) == expanded

    allowed = AllowedHosts(
        ["pg://localhost:5656", "http://*.spin.internal", "https://spinframework.dev"], components=components
    )
    assert texts_of(allowed) == ["pg://localhost:5656", *expanded, "https://spinframework.dev"]
    assert allowed.check_url("http://second.spin.internal/x", "https")
    assert not allowed.check_url("http://fourth.spin.internal/x", "https")
    assert not allowed.check_url("https://second.spin.internal/x", "https")


def test_chaining_to_an_id_in_capitals() -> None:
    allowed = AllowedHosts(["http://*.spin.internal"], components=["LOUD"])
    assert allowed.check_url("http://LOUD.spin.internal/", "https")
    assert allowed.check_url("http://loud.spin.internal/", "https")


# Templates


class Values(dict[str, str]):
    """Resolves "{{ name }}", and counts how often."""

    calls = 0

    def __call__(self, text: str) -> str:
        self.calls += 1
        for name, value in self.items():
            text = text.replace("{{ " + name + " }}", value)
        if "{{" in text:
            raise GatewayError(f"no value in {text}")
        return text


def test_what_an_empty_variable_leaves_is_skipped() -> None:
    resolve = Values(one="", two="")
    allowed = AllowedHosts(["https://{{ one }}", "{{ two }}", "https://three"], resolve=resolve)
    assert texts_of(allowed) == ["https://three"]
    assert allowed.check_url("https://three", "https")


def test_literal_entries_are_never_resolved() -> None:
    resolve = Values()
    allowed = AllowedHosts(["https://three"], resolve=resolve)
    assert allowed.check_url("https://three", "https")
    assert resolve.calls == 0


def test_values_may_change() -> None:
    resolve = Values(host="one.com")
    allowed = AllowedHosts.for_component(["https://{{ host }}", "https://fixed.com"], resolve=resolve)
    assert allowed.check_url("https://one.com", "https")
    resolve["host"] = "two.com"
    assert not allowed.check_url("https://one.com", "https")
    assert allowed.check_url("https://two.com", "https")
    assert allowed.check_url("https://fixed.com", "https")


@pytest.mark.parametrize("values", [{}, {"host": "zoinks, Scooby!"}])
def test_unresolvable_entry_denies_everything(
    values: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    allowed = AllowedHosts(["https://{{ host }}", "https://fixed.com", "http://self"], resolve=Values(values))
    assert not allowed.check_url("https://fixed.com", "https")
    assert not allowed.allows_self()
    assert "cannot be resolved" in caplog.text
    with pytest.raises(GatewayError):
        texts_of(allowed)


def test_template_without_a_resolver_denies() -> None:
    assert not AllowedHosts(["https://{{ host }}"]).check_url("https://x", "https")


def test_mistake_beside_a_template_is_found_at_once() -> None:
    with pytest.raises(ManifestError):
        AllowedHosts(["https://{{ host }}", "example.com"], resolve=Values(host="x"))


ENTRY = "http://{{ dbhost }}:{{ dbport }}"


@pytest.mark.parametrize(
    ("values", "valid"),
    [
        ({"dbhost": "example.com", "dbport": "1234"}, True),
        ({"dbhost": "zoinks, Scooby!", "dbport": "1234"}, False),
        ({"dbport": "1234"}, True),  # deferred
    ],
)
def test_validate(values: dict[str, str], valid: bool) -> None:
    def defaults(text: str) -> str | None:
        try:
            return Values(values)(text)
        except GatewayError:
            return None

    if valid:
        validate([ENTRY, "https://literal"], defaults)
        return
    with pytest.raises(ManifestError) as caught:
        validate([ENTRY, "https://literal"], defaults)
    assert f"using default variable value(s) with template {ENTRY!r} results in invalid config" in str(
        caught.value
    )


def test_validate_looks_at_literal_entries() -> None:
    for text in ["example.com", "*", "", "insecure:allow-all"]:
        with pytest.raises(ManifestError):
            validate([text], Values())


def test_validate_lets_an_empty_default_pass() -> None:
    validate(["https://{{ host }}", "{{ host }}"], Values(host=""))


def test_entries_are_parsed_once() -> None:
    allowed = AllowedHosts(["https://{{ host }}"], resolve=Values(host="one.com"))
    assert allowed.entries is allowed.entries


# What the operator is told


@pytest.mark.parametrize(
    ("url", "default_scheme", "entry"),
    [
        ("http://example.com/path?secret", "https", "http://example.com"),
        ("http://example.com:8383/", "https", "http://example.com:8383"),
        ("example.com", "redis", "redis://example.com"),
        ("tcp://[::1]:5432", "tcp", "tcp://[::1]:5432"),
        ("mysql://user:secret@db/x", "mysql", "mysql://db"),
        ("foo://h/x", "https", "foo://h:*"),
    ],
)
def test_hint(url: str, default_scheme: str, entry: str, caplog: pytest.LogCaptureFixture) -> None:
    assert not AllowedHosts(["http://other"], component="caller").check_url(url, default_scheme)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    text = record.getMessage()
    assert "caller" in text
    assert text.splitlines()[-1] == (
        f"To allow this request, add 'allowed_outbound_hosts = [\"{entry}\"]' "
        "to the manifest component section."
    )
    assert "secret" not in text
    # and the hint is true
    assert AllowedHosts([entry]).check_url(url, default_scheme)


def test_hint_for_self(caplog: pytest.LogCaptureFixture) -> None:
    assert not AllowedHosts([]).allows_self()
    assert "'allowed_outbound_hosts = [\"http://self\"]'" in caplog.text
    assert AllowedHosts(["http://self"]).allows_self()


def test_invalid_url_is_not_repeated_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert not AllowedHosts(["*://*:*"]).check_url("http://user:secret@a b\n/", "https")
    assert "secret" not in caplog.text
    assert len(caplog.records) == 1


def test_each_denial_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    allowed = AllowedHosts([])
    for _ in range(3):
        allowed.check_url("http://a/", "https")
        allowed.check_url("http://b/", "https")
    assert len(caplog.records) == 2

    for number in range(2 * MAX_DENIALS):
        allowed.check_url(f"http://h{number}/", "https")
    assert len(allowed._denials) <= MAX_DENIALS


def test_permission_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    allowed = AllowedHosts(["*://*:*"])
    assert allowed.check_url("http://a", "https")
    assert allowed.allows_self()
    assert caplog.records == []


def test_many_literal_entries_are_looked_up() -> None:
    entries = parse_allowed_hosts([f"http://h{number}.example" for number in range(1000)])
    allowed = AllowedHosts([entry.text for entry in entries])
    assert allowed.check_url("http://h999.example/", "https")
    assert allowed._fixed is not None
    assert allowed._fixed.others == []


# Blocked networks


def test_blocked_networks() -> None:
    blocked = BlockedNetworks(["123.123.0.0/16", "2001::/96"])
    for address in ["123.123.123.123", "2001::1000", "::ffff:123.123.123.123"]:
        assert blocked.blocks(address), address
    for address in ["123.100.100.100", "2002::1000", "127.0.0.1", "::1"]:
        assert not blocked.blocks(address), address


def test_blocked_private() -> None:
    blocked = BlockedNetworks(["10.0.0.0/8", "private"])
    for address in [
        "0.0.0.0",
        "10.10.10.10",
        "100.64.1.1",
        "127.0.0.1",
        "169.254.0.1",
        "192.0.0.1",
        "::1",
        "::ffff:10.10.10.10",
        "fc00::f00d",
        # beyond Spin's tests
        "::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "fe80::1%eth0",
        "224.0.0.1",
        "255.255.255.255",
    ]:
        assert blocked.blocks(address), address
    for address in ["123.123.123.123", "2600::beef", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]:
        assert not blocked.blocks(address), address


def test_both_kinds_of_blocked_networks() -> None:
    blocked = BlockedNetworks(["123.123.0.0/16", "2600:f00d::/32", "private"])
    addresses = ["127.0.0.1", "123.123.123.123", "::1", "2600:f00d::4", "123.200.0.1", "2600:beef::1000"]
    assert [address for address in addresses if not blocked.blocks(address)] == addresses[-2:]


def test_nothing_blocked() -> None:
    assert not BlockedNetworks()
    assert not BlockedNetworks().blocks("10.0.0.1")
    assert BlockedNetworks(["1.1.1.1/32"])
    assert BlockedNetworks(["private"])
    assert AllowedHosts([], block_networks=["private"]).blocked.blocks("10.0.0.1")


def test_what_is_no_address_is_blocked() -> None:
    assert BlockedNetworks(["1.1.1.1/32"]).blocks("localhost")


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.0/255.0.0.0", "localhost", "", "Private"])
def test_invalid_network(text: str) -> None:
    with pytest.raises(ManifestError):
        BlockedNetworks([text])
