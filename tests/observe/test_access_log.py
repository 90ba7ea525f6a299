"""The access log: a line for people, fields for programs."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from tests.test_gateway import say


def test_a_line_for_each_request(
    application: Any, wat: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    part = application.part(wat.spin(say("hello")), route="/items/:id")
    gateway = application("", {"access_log": True}, hello=part)
    with caplog.at_level(logging.INFO, "wasm_gateway.access"):
        ask(gateway, "/items/7?token=secret", "POST")
    [record] = caplog.records
    assert re.fullmatch(
        r'hello "POST /items/7" 200 ok 5 bytes \d+\.\d{3} ms start \d+\.\d{3} ms', record.getMessage()
    )
    fields = vars(record)
    assert fields["duration"] > fields["instance_start"] > 0
    expected = {
        "component": "hello",
        "route": "/items/:id",
        "dialect": "spin",
        "method": "POST",
        "status": 200,
        "outcome": "ok",
        "role": "answer",
        "response_bytes": 5,
        "path": "/items/7",
    }
    assert {name: fields[name] for name in expected} == expected


def test_it_is_off_by_default_and_where_nobody_listens(
    application: Any, wat: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "wasm_gateway"):
        assert ask(application(hello=wat.spin(say("hello"))), "/hello")[0] == 200
    gateway = application("", {"access_log": True}, hello=wat.spin(say("hello")))
    with caplog.at_level(logging.WARNING, "wasm_gateway.access"):
        assert ask(gateway, "/hello")[0] == 200
    assert caplog.records == []


def test_a_client_cannot_write_lines_of_its_own(
    application: Any, wat: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    part = application.part(wat.spin(say("hello")), route="/...")
    gateway = application("", {"access_log": True}, hello=part)
    with caplog.at_level(logging.INFO, "wasm_gateway.access"):
        ask(gateway, '/" 200 ok\nhello "GET /\x1b[2J\udc80', 'GET" \r\n')
    [record] = caplog.records
    text = record.getMessage()
    assert text.isprintable()
    assert text.count('"') == 2
