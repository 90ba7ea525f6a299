# Where a guest may go: `allowed_outbound_hosts` (Spin: manifest, 8) and blocked networks.
#
# Rule 1: deny by default. Whatever cannot be parsed, or resolved, is denied, and the
# operator is told in the log which line of the manifest would allow it.
# Rule 2: entries and URLs go through the same host parser, that of browsers (WHATWG
# URL, host parsing), so that "EXAMPLE.com" and "example%2Ecom" are one host, and
# "0x7f.1" is 127.0.0.1.
# Rule 3: who connects afterwards connects to the host and port that `parse_url` read:
# another parser may read the same text otherwise.
# Rule 4: a mistake in a literal entry is an error when the application is loaded; an
# entry with a template can only be checked when it is used.
#
# User-info may hold "#" and "?" as they are, since passwords of databases do: it ends
# at the first "@" before the first "/". Control characters and backslashes, which
# browsers mend, are refused.

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from ..errors import GatewayError, ManifestError

log = logging.getLogger(__name__)

DEFAULT_PORTS = {"http": 80, "https": 443, "postgres": 5432, "mysql": 3306, "redis": 6379, "mqtt": 1883}

CHAINED_SUFFIX = ".spin.internal"

# Names of hosts end at 253 characters; percent-encoding takes three for one.
MAX_HOST = 1024

# Destinations whose denial is remembered, so that a guest in a loop does not fill the log.
MAX_DENIALS = 256

_FORBIDDEN = re.compile(r"[\x00-\x20#%/:<>?@\[\\\]^|\x7f]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
# The URLs of nearly every call: a name in lower case that cannot be a number, no user-info.
_SIMPLE = re.compile(r"([a-z][a-z0-9+.\-]*)://((?:[a-z0-9\-]+\.)*[a-z][a-z0-9\-]*)(?::([0-9]{1,5}))?(?:/|\Z)")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_AUTHORITY_END = re.compile(r"[/?#]")
# what a template leaves when its variable is empty: no entry at all
_SKIPPED = ("", "http://", "https://")
_JOINERS = "\u200c\u200d"

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


# Hosts


def parse_host(text: str) -> str:
    """The host that `text` names: a domain in ASCII and lower case, an IPv4 address with four decimal
    numbers, or an IPv6 address in brackets. Raises ValueError (WHATWG URL, 3.5 host parsing)."""
    if len(text) > MAX_HOST:
        raise ValueError("host is too long")
    if text.startswith("["):
        if not text.endswith("]") or "%" in text:
            raise ValueError(f"invalid IPv6 address {text!r}")
        return f"[{ipaddress.IPv6Address(text[1:-1]).compressed}]"
    domain = unquote_to_bytes(text).decode("utf-8", "replace") if "%" in text else text
    host = _to_ascii(domain)
    if not host or _FORBIDDEN.search(host):
        raise ValueError(f"invalid host {text!r}")
    labels = host.split(".")
    if not labels[-1] and len(labels) > 1:
        labels.pop()
    return _ipv4(labels) if _NUMBER.fullmatch(labels[-1]) else host


def _to_ascii(domain: str) -> str:
    """UTS 46, not transitional, and no rule of hostnames on top, as URLs have it."""
    lower = domain.lower() if domain.isascii() else domain
    if domain.isascii() and "xn--" not in lower:
        return lower
    import idna  # its tables take longer to load than the rest of this package

    def check(label: str) -> None:
        idna.check_initial_combiner(label)
        idna.check_bidi(label)
        if not all(idna.valid_contextj(label, at) for at, char in enumerate(label) if char in _JOINERS):
            raise ValueError(f"invalid joiner in {label!r}")

    labels = idna.uts46_remap(domain, std3_rules=False, transitional=False).split(".")
    for number, label in enumerate(labels):
        if label.startswith("xn--"):
            decoded = label[4:].encode("ascii").decode("punycode")
            mapped = idna.uts46_remap(decoded, std3_rules=False, transitional=False)
            if decoded.isascii() or mapped != decoded:
                raise ValueError(f"invalid label {label!r}")
            check(decoded)
        elif not label.isascii():
            check(label)
            labels[number] = "xn--" + label.encode("punycode").decode("ascii")
    return ".".join(labels)


def _ipv4(parts: list[str]) -> str:
    """Dotted numbers, decimal, octal ("0...") or hexadecimal ("0x..."); the last may fill what is left."""
    if len(parts) > 4:
        raise ValueError("an IPv4 address has four parts at most")
    numbers = [_number(part) for part in parts]
    *heads, last = numbers
    if any(head > 255 for head in heads) or last >= 256 ** (5 - len(parts)):
        raise ValueError("a part of an IPv4 address is out of range")
    filled = [last >> shift & 0xFF for shift in range(24 - 8 * len(heads), -1, -8)]
    return ".".join(map(str, heads + filled))


def _number(part: str) -> int:
    if _NUMBER.fullmatch(part) is None:
        raise ValueError(f"invalid part of an IPv4 address: {part!r}")
    if part.startswith("0x"):
        return int(part[2:] or "0", 16)
    return int(part, 8 if part.startswith("0") else 10)


def _split_authority(text: str) -> tuple[str, str | None]:
    """Host and port of "host[:port]" and "[v6][:port]", neither checked; the port None without a colon."""
    if text.startswith("["):
        inner, bracket, rest = text.partition("]")
        if rest and not rest.startswith(":"):
            raise ValueError(f"invalid host {text!r}")
        return inner + bracket, rest[1:] if rest else None
    host, colon, port = text.partition(":")
    return host, port if colon else None


def _address(host: str) -> _Address | None:
    """The IP address that a parsed host is, None for a name."""
    if host.startswith("["):
        return ipaddress.IPv6Address(host[1:-1])
    if not host[-1].isdigit():
        return None
    try:
        return ipaddress.IPv4Address(host)
    except ValueError:
        return None


# URLs


class OutboundUrl(NamedTuple):
    """What a connection needs of a URL; `port` is that of the scheme where the URL has none."""

    scheme: str
    host: str
    port: int | None

    @property
    def entry(self) -> str:
        """The entry of `allowed_outbound_hosts` that allows this and nothing else."""
        if self.port is None:
            return f"{self.scheme}://{self.host}:*"
        if self.port == DEFAULT_PORTS.get(self.scheme):
            return f"{self.scheme}://{self.host}"
        return f"{self.scheme}://{self.host}:{self.port}"


def parse_url(url: str, default_scheme: str) -> OutboundUrl | None:
    """Scheme, host and port of `url`, or of `default_scheme`://`url` if that has no scheme; None if there is
    no host, or something invalid."""
    simple = _SIMPLE.match(url)
    if simple is not None and "xn--" not in url:
        scheme, host, digits = simple.groups()
        if len(host) > MAX_HOST:
            return None
        if digits is None:
            return OutboundUrl(scheme, host, DEFAULT_PORTS.get(scheme))
        return OutboundUrl(scheme, host, int(digits)) if int(digits) <= 65535 else None
    match = _SCHEME.match(url)
    scheme = match[1].lower() if match else default_scheme
    rest = url[match.end() :] if match else url
    at, slash = rest.find("@"), rest.find("/")
    if at >= 0 and (slash < 0 or at < slash):
        if "\\" in rest[:at]:
            return None
        rest = rest[at + 1 :]
    authority = _AUTHORITY_END.split(rest, maxsplit=1)[0].rpartition("@")[2]
    try:
        host, port = _split_authority(authority)
        return OutboundUrl(scheme, parse_host(host), _port(port) if port else DEFAULT_PORTS.get(scheme))
    except ValueError:
        return None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or int(text) > 65535:
        raise ValueError(f"invalid port {text!r}")
    return int(text)


# Entries


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """One entry of `allowed_outbound_hosts`.

    `scheme` None is any; `host` is "*", "self", "*.domain", a network, or a host as `parse_host` gives
    it; `ports` None is any.
    """

    text: str
    scheme: str | None
    host: str | _Network
    ports: range | None

    def allows(self, url: OutboundUrl) -> bool:
        if self.scheme is not None and self.scheme != url.scheme:
            return False
        if self.ports is not None and url.port not in self.ports:
            return False
        host = self.host
        if not isinstance(host, str):
            address = _address(url.host)
            return address is not None and address in host
        if host == "*":
            return True
        if host.startswith("*."):
            return url.host.endswith(host[1:])
        return host == url.host and host != "self"

    @property
    def allows_self(self) -> bool:
        """Whether it allows requests to the application itself, which have no port (Spin: manifest, 8)."""
        return self.scheme in (None, "http", "https") and self.host in ("*", "self")


def parse_allowed_host(text: str) -> AllowedHost:
    """The entry `text`, whose templates are resolved; raises ManifestError."""
    stripped = text.strip()
    scheme, separator, rest = stripped.partition("://")
    if not separator:
        if stripped in ("", "*", ":", "?"):
            raise ManifestError(
                f"{stripped!r} is no allowed outbound host: write <scheme>://<host>[:<port>], with '*' "
                "for any of them; '*://*:*' allows everything and so ends the sandbox of the network"
            )
        raise ManifestError(f"{stripped!r} does not contain a scheme (e.g., 'http://' or '*://')")
    if scheme.startswith("{"):
        raise ManifestError(f"lists of schemes are not supported: {stripped!r}")
    if scheme != "*" and not (scheme.isascii() and scheme.isalpha()):
        raise ManifestError(f"scheme {scheme!r} contains a non-alphabetic character, or none at all")
    rest = rest.removesuffix("/")
    if rest.startswith("{"):
        raise ManifestError(f"lists of hosts are not supported: {stripped!r}")
    host, port = _entry_host(stripped, rest)
    return AllowedHost(text, None if scheme == "*" else scheme, host, _entry_ports(stripped, scheme, port))


def _entry_host(entry: str, rest: str) -> tuple[str | _Network, str]:
    """Host and port text of what stands behind the scheme."""
    if "/" in rest:
        address, _, prefix = rest.partition("/")
        bits, _, port = prefix.partition(":")
        if bits.isdigit():
            try:
                return ipaddress.ip_network(f"{address}/{bits}", strict=False), port
            except ValueError:
                pass
        raise ManifestError(f"{entry!r} has a path but is not allowed to, or an invalid network")
    try:
        host, given = _split_authority(rest)
        port = given or ""
        if host in ("*", "self"):
            return host, port
        if host == "self.alt":
            return "self", port
        if host.startswith("*."):
            domain = parse_host(host[2:])
            if _address(domain) is not None:
                raise ValueError("an IP address has no sub-domains")
            if "*" not in domain:
                return f"*.{domain}", port
            raise ValueError("wildcards are allowed only as prefixes")
        host = parse_host(host)
        if "*" in host:
            raise ValueError("wildcards are allowed only as sub-domains")
        return host, port
    except ValueError as error:
        raise ManifestError(f"Invalid allowed host {entry!r}: {error}") from None


def _entry_ports(entry: str, scheme: str, text: str) -> range | None:
    if text == "*":
        return None
    if not text:
        known = DEFAULT_PORTS.get(scheme)
        if known is None:
            raise ManifestError(
                f"{entry!r}: no port was provided and the scheme {scheme!r} does not have a known default "
                "port number"
            )
        return range(known, known + 1)
    if text.startswith("{"):
        raise ManifestError(f"lists of ports are not supported: {entry!r}")
    first, dots, end = text.partition("..")
    try:
        start = _port(first)
        return range(start, _port(end) if dots else start + 1)
    except ValueError:
        raise ManifestError(f'Invalid allowed host port "{text}"') from None


def parse_allowed_hosts(texts: Sequence[str], components: Iterable[str] = ()) -> tuple[AllowedHost, ...]:
    """The entries `texts`, resolved, in order; raises ManifestError.

    "http://*.spin.internal" becomes one entry for each of `components`.
    """
    if list(texts) == ["insecure:allow-all"]:
        raise ManifestError("'insecure:allow-all' is not allowed: '*://*:*' allows all outbound traffic")
    entries: list[AllowedHost] = []
    for text in texts:
        entry = parse_allowed_host(text)
        if (entry.scheme, entry.host, entry.ports) == ("http", f"*{CHAINED_SUFFIX}", range(80, 81)):
            entries += [parse_allowed_host(f"http://{id}{CHAINED_SUFFIX}") for id in components]
        else:
            entries.append(entry)
    return tuple(entries)


def has_template(text: str) -> bool:
    return "{{" in text


def validate(texts: Sequence[str], defaults: Callable[[str], str | None]) -> None:
    """Check entries before anything runs; raises ManifestError.

    `defaults` resolves a text with the defaults of the variables, or says None when one has none: such
    an entry has to wait until it is used.
    """
    parse_allowed_hosts([text for text in texts if not has_template(text)])
    for text in filter(has_template, texts):
        resolved = defaults(text)
        if resolved is None or resolved in _SKIPPED:
            continue
        try:
            parse_allowed_host(resolved)
        except ManifestError as error:
            raise ManifestError(
                f"using default variable value(s) with template {text!r} results in invalid config: {error}"
            ) from None


class _Rules:
    """Entries, arranged so that a host is looked up and not searched."""

    __slots__ = ("allows_self", "entries", "literal", "others")

    def __init__(self, entries: tuple[AllowedHost, ...]) -> None:
        self.entries = entries
        self.allows_self = any(entry.allows_self for entry in entries)
        self.literal: dict[str, list[AllowedHost]] = {}
        self.others: list[AllowedHost] = []
        for entry in entries:
            if isinstance(entry.host, str) and not entry.host.startswith("*"):
                self.literal.setdefault(entry.host, []).append(entry)
            else:
                self.others.append(entry)

    def allow(self, url: OutboundUrl) -> bool:
        for entry in self.literal.get(url.host, ()):
            if entry.allows(url):
                return True
        return any(entry.allows(url) for entry in self.others)


class AllowedHosts:
    """What `allowed_outbound_hosts` of one component permits.

    `texts` are the entries of the manifest; `resolve` gives the text of one that holds a template, each
    time anew, for variables may change. `components` are the ids of the application, `component` the
    one whose entries these are, `block_networks` what the operator forbids. A mistake in a literal entry
    raises ManifestError. May be asked from any thread.
    """

    def __init__(
        self,
        texts: Sequence[str],
        *,
        resolve: Callable[[str], str] | None = None,
        components: Iterable[str] = (),
        component: str = "",
        block_networks: Iterable[str] = (),
    ) -> None:
        self.blocked = BlockedNetworks(block_networks)
        self._texts = tuple(texts)
        self._resolve = resolve
        self._components = tuple(components)
        self._ids = {id.lower(): id for id in self._components}
        self._component = component
        self._denials: set[str] = set()
        literal = [text for text in self._texts if not has_template(text)]
        entries = parse_allowed_hosts(literal, self._components)
        self._fixed = _Rules(entries) if len(literal) == len(self._texts) else None
        # the last resolved texts and what they mean
        self._resolved: tuple[tuple[str, ...], _Rules] | None = None

    @classmethod
    def for_component(
        cls,
        texts: Sequence[str],
        *,
        resolve: Callable[[str], str],
        components: Iterable[str] = (),
        block_networks: Iterable[str] = (),
        component: str = "",
    ) -> AllowedHosts:
        """The same, with its parts in the words of the gateway."""
        return cls(
            texts, resolve=resolve, components=components, component=component, block_networks=block_networks
        )

    @property
    def entries(self) -> tuple[AllowedHost, ...]:
        """The entries as they stand now; raises GatewayError if they cannot be resolved."""
        return self._rules().entries

    def check_url(self, url: str, default_scheme: str) -> bool:
        """Whether the guest may connect to `url` ("host:port" gets `default_scheme`); no goes to the log."""
        target = parse_url(url, default_scheme)
        try:
            if target is not None and self._rules().allow(target):
                return True
        except GatewayError as error:
            self._deny("unresolved", f"allowed_outbound_hosts cannot be resolved: {error}")
            return False
        if target is None:
            self._deny("unparsable", "the destination of a network call is not a valid URL")
        else:
            text = f"a network call to {target.entry} was denied.\n{self._hint(target.entry)}"
            self._deny(target.entry, text)
        return False

    def allows_self(self) -> bool:
        """Whether the guest may call its own application; no goes to the log."""
        try:
            if self._rules().allows_self:
                return True
        except GatewayError as error:
            self._deny("unresolved", f"allowed_outbound_hosts cannot be resolved: {error}")
            return False
        self._deny("self", f"a request to its own application was denied.\n{self._hint('http://self')}")
        return False

    def is_chained(self, host: str) -> str | None:
        """The id of the component that "<id>.spin.internal[:port]" names, else None (Spin: http, 10.3)."""
        name = host.partition(":")[0].lower()
        label = name.removesuffix(CHAINED_SUFFIX)
        if label == name or not label or "." in label:
            return None
        return self._ids.get(label, label)

    def _rules(self) -> _Rules:
        if self._fixed is not None:
            return self._fixed
        resolve = self._resolve
        if resolve is None:
            raise ManifestError("a template, and nothing to resolve it with")
        texts = tuple([resolve(text) if has_template(text) else text for text in self._texts])
        resolved = self._resolved
        if resolved is None or resolved[0] != texts:
            given = [text for text in texts if text not in _SKIPPED]
            resolved = self._resolved = (texts, _Rules(parse_allowed_hosts(given, self._components)))
        return resolved[1]

    def _hint(self, entry: str) -> str:
        return hint(entry)

    def _deny(self, what: str, message: str) -> None:
        if what in self._denials:
            return
        if len(self._denials) >= MAX_DENIALS:
            self._denials.clear()
        self._denials.add(what)
        log.warning("component %s: %s", self._component or "?", message)


class SafeHosts(AllowedHosts):
    """What `shadow_allowed_hosts` of one component permits."""

    def _hint(self, entry: str) -> str:
        return (
            "It was made beside the site. To let it through there, "
            f"add 'shadow_allowed_hosts = [\"{entry}\"]' to the component's [tool.wasm-gateway] table."
        )


class Both:
    """What a component may do and is safe to do beside the site (base.OutboundRules)."""

    def __init__(self, allowed: AllowedHosts, safe: SafeHosts) -> None:
        self._allowed = allowed
        self._safe = safe
        self.is_chained = allowed.is_chained

    def check_url(self, url: str, default_scheme: str) -> bool:
        return self._allowed.check_url(url, default_scheme) and self._safe.check_url(url, default_scheme)

    def allows_self(self) -> bool:
        return self._allowed.allows_self() and self._safe.allows_self()


def hint(entry: str) -> str:
    """The line of the manifest that would have allowed a denied call (Spin: cli, 3.6)."""
    return (
        f"To allow this request, add 'allowed_outbound_hosts = [\"{entry}\"]' "
        "to the manifest component section."
    )


# Blocked networks

# IPv6 addresses behind which there is an IPv4 address: mapped, compatible, and translated (RFC 6052).
_EMBEDDING = tuple(ipaddress.IPv6Network(text) for text in ("::ffff:0:0/96", "::/96", "64:ff9b::/96"))


class BlockedNetworks:
    """Addresses that no guest reaches, whatever its component allows (runtime config, outbound_networking).

    `networks` are in CIDR notation, or "private" for all that is not globally routable; anything else
    raises ManifestError.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks: list[_Network] = []
        self._private = False
        for text in networks:
            if text == "private":
                self._private = True
                continue
            bits = text.partition("/")[2]
            try:
                if bits and not bits.isdigit():
                    raise ValueError
                self._networks.append(ipaddress.ip_network(text, strict=False))
            except ValueError:
                raise ManifestError(
                    f'invalid network "{text}": expected CIDR notation or "private"'
                ) from None

    def __bool__(self) -> bool:
        return self._private or bool(self._networks)

    def blocks(self, address: str) -> bool:
        """Whether the IP `address` is blocked; a text that is none counts as blocked."""
        if not self:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return True
        if self._blocks(parsed):
            return True
        if isinstance(parsed, ipaddress.IPv6Address) and any(parsed in network for network in _EMBEDDING):
            return self._blocks(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF))
        return False

    def _blocks(self, address: _Address) -> bool:
        if self._private and (not address.is_global or address.is_multicast):
            return True
        return any(address in network for network in self._networks)
