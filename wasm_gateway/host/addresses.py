# Addresses of services, as guests write them: scheme://user:password@host:port/path?query
#
# Rule 1: what is checked is what is connected to. Host and port are those that
# outbound.parse_url reads, which is what permissions go by, so that no two parsers
# can differ about where a call goes.

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from .outbound import DEFAULT_PORTS, parse_url

# These have a default port for those who connect, though not in allowed_outbound_hosts.
_MORE_PORTS = {"rediss": DEFAULT_PORTS["redis"], "mqtts": 8883}

# Longer than any password or token is. Addresses are kept with connections, of which there are many.
MAX_ADDRESS = 64 << 10

_AUTHORITY_END = re.compile(r"[/?#]")


class BadAddress(ValueError):
    """The text is no address that could be connected to."""


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of an address. `host` is as sockets take it (no brackets), `user` and `password` are
    decoded, `path` and `query` as written; `query` without its "?", None without one."""

    scheme: str
    host: str
    port: int
    user: str | None = None
    password: str | None = None
    path: str = ""
    query: str | None = None

    @property
    def authority(self) -> str:
        """Host and port, the port always written."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, schemes: tuple[str, ...]) -> Address:
    """Take an absolute address apart; raises BadAddress when its scheme is not one of `schemes`."""
    url = parse_url(text, "") if len(text) <= MAX_ADDRESS else None
    if url is None:
        raise BadAddress("invalid URL")
    if url.scheme not in schemes:
        raise BadAddress(f"not an absolute URL with the scheme {' or '.join(schemes)}")
    port = url.port if url.port is not None else _MORE_PORTS.get(url.scheme)
    if not port:
        raise BadAddress("no port")
    rest = text[len(url.scheme) + len("://") :]
    # the same cuts as parse_url's: user-info ends at the first "@" before the first "/"
    userinfo = ""
    at, slash = rest.find("@"), rest.find("/")
    if at >= 0 and (slash < 0 or at < slash):
        userinfo, rest = rest[:at], rest[at + 1 :]
    end = _AUTHORITY_END.search(rest)
    authority, rest = (rest, "") if end is None else (rest[: end.start()], rest[end.start() :])
    more = authority.rpartition("@")[0]
    if more:
        userinfo += "@" + more
    path, question, query = rest.partition("#")[0].partition("?")
    user, colon, password = userinfo.partition(":")
    return Address(
        url.scheme,
        url.host.strip("[]"),
        port,
        unquote(user) if user else None,
        unquote(password) if colon else None,
        path,
        query if question else None,
    )
