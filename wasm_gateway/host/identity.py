# Who asks, lent to guests: the site's user, locale and CSRF state, as a typed interface and, for
# components that ask for it, as one signed header.
#
# Rule 1: a guest learns what its component is lent (`lend` in its table of the manifest), and a
# call for anything else ends it: an operator is to notice, a guest is not to guess.
# Rule 2: nothing here is a cookie or could be used as one: no session key, no CSRF secret.
# Rule 3: the site says who asks (Site), for the request of the context in which the guest runs.

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Collection
from typing import Any, ClassVar, Protocol

from ..component_options import LENDABLE
from ..errors import HostError
from ..policy import Visitor
from .site import HostInterface

INTERFACE = "wasm-gateway:site/identity@0.1.0"
HEADER = "wasm-gateway-identity"

# What can be lent: component_options.LENDABLE.
USER, LOCALE, CSRF = LENDABLE


class Site(Protocol):
    """What a site says about the request that a guest answers; each may raise."""

    def user(self) -> Visitor:
        """Who asks."""
        ...

    def locale(self) -> str:
        """A language tag (BCP 47), "" where the site has none."""
        ...

    def csrf_token(self) -> str | None:
        """A token for a form of the guest's, None where the site has none to give."""
        ...

    def csrf_verify(self, token: str) -> bool:
        """Whether a form that came with `token` is the site's own."""
        ...


class Identity(HostInterface):
    """The interface, as `site` fills it; `secret` gives what keys are derived from, "" for no headers."""

    wit: ClassVar[str] = """
package wasm-gateway:site@0.1.0;

/// Who asks, as the site knows it. A component may call what its table of the manifest names in `lend`.
interface identity {
    record user {
        /// The site's key of this user, for ever the same.
        id: string,
        name: string,
        groups: list<string>,
        is-staff: bool,
    }

    /// Lent as "user": who asks; none for somebody unknown.
    get-user: func() -> option<user>;

    /// Lent as "locale": the language of the answer, as a BCP 47 tag; "" where the site has none.
    get-locale: func() -> string;

    /// Lent as "csrf": a token for a form; none where the site has none to give.
    csrf-token: func() -> option<string>;

    /// Lent as "csrf": whether a form that came with this token is the site's own.
    csrf-verify: func(token: string) -> bool;
}
"""
    shadow_safe = True

    def __init__(self, site: Site, secret: Callable[[], str] = str) -> None:
        self.site = site
        self._secret = secret

    def get_user(self, guest: Any) -> tuple[str, str, list[str], bool] | None:
        _may(guest, USER)
        user = self.site.user()
        return None if user.id is None else (user.id, user.name, sorted(user.groups), user.staff)

    def get_locale(self, guest: Any) -> str:
        _may(guest, LOCALE)
        return self.site.locale()

    def csrf_token(self, guest: Any) -> str | None:
        _may(guest, CSRF)
        return self.site.csrf_token()

    def csrf_verify(self, guest: Any, token: str) -> bool:
        _may(guest, CSRF)
        return self.site.csrf_verify(token)

    def header(self, component: str, lend: Collection[str]) -> str:
        """The value of HEADER for a component: base64url of JSON, ".", the signature in hex; HostError.

        The JSON has `iat` (seconds since 1970), `component`, and `user` (null for somebody unknown) and
        `locale` as far as they are lent. The signature is HMAC-SHA256 of what stands before the dot, with
        `key(component)`.
        """
        claims: dict[str, Any] = {"iat": int(time.time()), "component": component}
        if USER in lend:
            user = self.site.user()
            fields = {"id": user.id, "name": user.name, "groups": sorted(user.groups), "is_staff": user.staff}
            claims["user"] = None if user.id is None else fields
        if LOCALE in lend:
            claims["locale"] = self.site.locale()
        text = json.dumps(claims, separators=(",", ":")).encode()
        payload = base64.urlsafe_b64encode(text).rstrip(b"=")
        signature = hmac.new(self.key(component).encode(), payload, hashlib.sha256).hexdigest()
        return f"{payload.decode()}.{signature}"

    def key(self, component: str) -> str:
        """The key that signs headers for a component, of no use for anything else; an operator gives it to
        whom the guest hands the header on to; HostError."""
        secret = self._secret()
        if not secret:
            raise HostError("identity_headers needs a secret of the site, and there is none")
        purpose = f"wasm-gateway identity 1 {component}".encode()
        return hmac.new(secret.encode(), purpose, hashlib.sha256).hexdigest()


def _may(guest: Any, what: str) -> None:
    if what not in guest.component.lend:
        table = f"[component.{guest.component.id}.tool.wasm-gateway]"
        raise HostError(f'the guest asks for what it is not lent: add "{what}" to `lend` in {table}')
