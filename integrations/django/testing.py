"""For the tests of a site, with pytest and pytest-django; in its conftest.py:

pytest_plugins = ["wasm_gateway.integrations.django.testing"]

    def test_tally(wasm_gateway):
        assert wasm_gateway.call("/tally").json() == {"votes": 0}
        with wasm_gateway.with_rules(tally={"mode": "native"}):
            ...
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from django.conf import settings
from django.http import HttpRequest
from django.test import RequestFactory, override_settings

from wasm_gateway.gateway import Gateway
from wasm_gateway.messages import Headers

from .conf import owner
from .convert import raw_path, to_request
from .identity import current


@dataclass(frozen=True, slots=True)
class Answer:
    """What a guest has answered."""

    status: int
    headers: Headers
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class Guests:
    """The guests of the site that the settings describe."""

    @property
    def gateway(self) -> Gateway:
        return owner.gateway()

    def call(
        self,
        path: str,
        data: bytes | str = b"",
        *,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        user: Any = None,
        language: str | None = None,
    ) -> Answer:
        """What the guest of a route answers, whatever its rules say; LookupError where there is none.

        Nothing of the site's middleware runs. `user` and `language` are what a guest is told to whom they
        are lent.
        """
        method = method or ("POST" if data else "GET")
        kind = {name.lower(): value for name, value in (headers or {}).items()}.get("content-type", "")
        request = RequestFactory().generic(method, path, data, content_type=kind, headers=headers)
        found = raw_path(request)
        match = None if found is None else self.gateway.match(found)
        if found is None or match is None:
            raise LookupError(f"no Wasm route answers {path}")
        _tell(request, user, language)
        token = current.set(request)
        try:
            response = self.gateway.handle(to_request(request, found), match)
            assert response is not None
            try:
                return Answer(response.status, response.headers, b"".join(response.body))
            finally:
                response.close()
        finally:
            current.reset(token)

    @contextmanager
    def with_rules(self, **rules: Mapping[str, Any]) -> Iterator[None]:
        """Who answers inside the `with`, by component; `**{"/a/...": {...}}` for a route."""
        values = getattr(settings, "WASM_GATEWAY", None) or {}
        merged = {**(values.get("RULES") or {}), **rules}
        with override_settings(WASM_GATEWAY={**values, "RULES": merged}):
            yield


def _tell(request: HttpRequest, user: Any, language: str | None) -> None:
    if user is not None:
        request.user = user
    if language is not None:
        request.LANGUAGE_CODE = language


@pytest.fixture
def wasm_gateway() -> Guests:
    """The guests of the site."""
    return Guests()
