# What may be kept of a request and of answers: no cookies, no credentials, no tokens.
#
# Rule 1: a name decides: what is called like a secret is one. Too much is better than too little.
# Rule 2: text whose names nobody knows is searched for pairs of name and value, and for what looks
# like a credential. Searching keeps the GIL, so that it is for short texts (MAX_TEXT), and each
# pattern takes a time that grows with their length.

from __future__ import annotations

import re
from typing import Any

REDACTED = "[redacted]"
MAX_TEXT = 8192

# Words in the name of a header, a key, a parameter, a field.
_WORDS = (
    "passw|passphrase|pwd|secret|token|key|session|auth(?!or)|credential|cookie|csrf|xsrf|nonce|signature|otp"
)
SECRET_NAME = re.compile(_WORDS, re.IGNORECASE).search

_PAIR = re.compile(
    rf"""(?<![\w-])([\w-]{{0,60}}(?:{_WORDS})[\w-]{{0,60}}["']?\s*[:=]\s*)"""
    r"""("[^"\n]*"|'[^'\n]*'|[^\s"'&<>,;]+)""",
    re.IGNORECASE,
)
_CREDENTIAL = re.compile(
    r"\b(?:Bearer|Basic)\s+[\w.~+/=-]+"
    r"|(?<=authorization)[\"']?\s*[:=][^\n]*"
    r"|\beyJ[\w-]{1,2000}\.[\w-]{1,2000}\.[\w-]*"  # a JSON web token
    r"|\b[0-9a-fA-F]{32,}\b"
    r"|://[^/\s:@]+:[^/\s@]+@",
    re.IGNORECASE,
)
_FIELD = re.compile(rf'\s(?:name|id|type)="[^"]*(?:{_WORDS})', re.IGNORECASE).search
_VALUE = re.compile(r'(?<=\s)(value|content)="[^"]*"')


def text(value: str) -> str:
    """`value`, or its first MAX_TEXT characters, without what looks like a secret."""
    return _PAIR.sub(rf"\1{REDACTED}", _CREDENTIAL.sub(REDACTED, value[:MAX_TEXT]))


def html_tag(line: str) -> str:
    """A tag, whose attributes are quoted, without the value of a field that is called like a secret."""
    if line.startswith("<") and _FIELD(line):
        line = _VALUE.sub(rf'\1="{REDACTED}"', line)
    return text(line)


def header(name: str, value: str) -> str:
    """The value of a header; of a cookie that is set its name is left."""
    if name == "set-cookie":
        return f"{value.partition('=')[0].strip()}={REDACTED}"
    if SECRET_NAME(name):
        return REDACTED
    return target(value) if name in ("location", "content-location", "referer", "link") else text(value)


def target(value: str) -> str:
    """Path and query of a request, or a URL."""
    path, question, query = value.partition("?")
    pairs = []
    for pair in query.split("&"):
        name, equals, _ = pair.partition("=")
        pairs.append(f"{name}={REDACTED}" if equals and SECRET_NAME(name) else text(pair))
    return f"{text(path)}{question}{'&'.join(pairs)}"


def json_value(value: Any, name: str = "") -> Any:
    """What JSON gave, without the values of keys that are called like secrets; `name` is its own key."""
    if SECRET_NAME(name) and value is not None:
        return REDACTED
    match value:
        case dict():
            return {key: json_value(each, key) for key, each in value.items()}
        case list():
            return [json_value(each) for each in value]
        case str():
            return text(value)
    return value
