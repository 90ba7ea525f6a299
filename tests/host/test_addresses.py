from __future__ import annotations

import pytest

from wasm_gateway.host.addresses import Address, BadAddress, parse_address
from wasm_gateway.host.outbound import parse_url

SCHEMES = ("http", "https", "redis", "rediss", "mysql")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://example.com", Address("http", "example.com", 80)),
        ("HTTPS://Example.COM/a/b?c=d&e#f", Address("https", "example.com", 443, path="/a/b", query="c=d&e")),
        ("http://example.com:8080?", Address("http", "example.com", 8080, query="")),
        ("http://[::1]:8080/", Address("http", "::1", 8080, path="/")),
        ("http://[2001:DB8:0:0::1]", Address("http", "2001:db8::1", 80)),
        ("http://0x7f.1/", Address("http", "127.0.0.1", 80, path="/")),
        ("redis://h", Address("redis", "h", 6379)),
        ("rediss://h/3", Address("rediss", "h", 6379, path="/3")),
        ("redis://:secret@h", Address("redis", "h", 6379, None, "secret")),
        ("redis://u:@h", Address("redis", "h", 6379, "u", "")),
        ("redis://u@h", Address("redis", "h", 6379, "u")),
        ("mysql://u%40x:p%3Ay@h/db", Address("mysql", "h", 3306, "u@x", "p:y", "/db")),
        ("mysql://u:a#b?c:d@h:1/db?x=@y", Address("mysql", "h", 1, "u", "a#b?c:d", "/db", "x=@y")),
        ("mysql://u:a@b@h", Address("mysql", "h", 3306, "u", "a@b")),
        (
            "https://example.com/file@0.1.0.json",
            Address("https", "example.com", 443, path="/file@0.1.0.json"),
        ),
        ("https://u:p@example.com/x@y", Address("https", "example.com", 443, "u", "p", "/x@y")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text, SCHEMES) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h",
        "h:80",
        "//h",
        "http:/h",
        "http://",
        "http://:80",
        "http://h:x",
        "http://h:0",
        "http://h:99999",
        "http://a b/",
        "http://[::1",
        "http://[fe80::1%25eth0]/",
        "http://1.2.3.256/",
        "ftp://h/",
        "unix:///socket",
        "http://a\\b@h/",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(BadAddress):
        parse_address(text, SCHEMES)


@pytest.mark.parametrize(
    "text",
    [
        "http://a@b@c/",
        "http://a#@b/",
        "http://a?@b/",
        "http://a/@b/",
        "http://a:1@b:2/",
        "http://a:1#@b:2?@c:3",
        "http://%61.com@b",
        "http://@a",
        "http://a?x#@b/c@d",
    ],
)
def test_hosts_are_those_that_permissions_go_by(text: str) -> None:
    url = parse_url(text, "http")
    if url is None:
        with pytest.raises(BadAddress):
            parse_address(text, SCHEMES)
        return
    address = parse_address(text, SCHEMES)
    assert (address.scheme, address.host, address.port) == (url.scheme, url.host, url.port)
    # and nothing of the host is in the rest
    assert not address.path or address.path.startswith("/")


def test_an_authority_names_the_port() -> None:
    assert parse_address("http://h", SCHEMES).authority == "h:80"
    assert parse_address("http://[::1]", SCHEMES).authority == "[::1]:80"
