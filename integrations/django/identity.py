# Who asks, of a Django site, for guests to whom it is lent.

from __future__ import annotations

from contextvars import ContextVar
from typing import cast

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.middleware import csrf
from django.utils import translation

from wasm_gateway.policy import NOBODY, Visitor

# The request that a guest answers in this context: the middleware sets it.
current: ContextVar[HttpRequest | None] = ContextVar("wasm_gateway.request", default=None)


class DjangoSite:
    """host.identity.Site of the request that the middleware has in hand; of none, in front of Django."""

    def user(self) -> Visitor:
        user = getattr(current.get(), "user", None)
        if user is None or not user.is_authenticated:
            return NOBODY
        groups = frozenset(user.groups.values_list("name", flat=True)) if hasattr(user, "groups") else ()
        staff = bool(getattr(user, "is_staff", False))
        return Visitor(str(user.pk), frozenset(groups), staff, user.get_username())

    def locale(self) -> str:
        found = getattr(current.get(), "LANGUAGE_CODE", None)  # as LocaleMiddleware has set it
        return cast(str, found or translation.get_language() or settings.LANGUAGE_CODE)

    def csrf_token(self) -> str | None:
        request = current.get()
        return None if request is None else csrf.get_token(request)

    def csrf_verify(self, token: str) -> bool:
        request = current.get()
        if request is None:
            return False
        try:
            # Django has no public way to check a token that is no field of a form of its own
            secret = csrf.CsrfViewMiddleware(_nothing)._get_secret(request)  # type: ignore[attr-defined]
            csrf._check_token_format(token)  # type: ignore[attr-defined]
        except csrf.InvalidTokenFormat:
            return False
        return secret is not None and csrf._does_token_match(token, secret)  # type: ignore[attr-defined]


def _nothing(request: HttpRequest) -> HttpResponse:
    raise NotImplementedError
