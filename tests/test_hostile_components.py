"""Hostile guests of wasi:http: what they have the host keep ends with a limit, not with its memory.

As in test_hostile_guests.py each ends with the next request being served, and the cost is counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.component_wat import HTTP, STREAMS
from wasm_gateway import Gateway
from wasm_gateway.engine import Engine
from wasm_gateway.host import limits
from wasm_gateway.messages import STREAMED, Request, Response

KEPT = 4 << 20
USES = {
    HTTP: (
        *("[method]fields.append", "[method]fields.clone", "[method]outgoing-request.set-path-with-query"),
        *("[constructor]outgoing-request", "[resource-drop]fields", "[resource-drop]outgoing-response"),
        *("[resource-drop]outgoing-body", "[resource-drop]outgoing-request"),
    ),
    STREAMS: ("[method]output-stream.check-write", "[method]output-stream.write"),
}
# A name and a value, and a path.
DATA = f'(data (i32.const 900) "x-name") (data (i32.const 1000) "/{"x" * 900}")'

# Each makes a thing that takes about 64 KiB, as `$made`, and drops it.
HOLDERS = {
    "bodies that are not sent": (
        """(local.set $made (call $outgoing-response (call $fields)))
        (call $outgoing-response.body (local.get $made) (i32.const 16))
        (local.set $body (i32.load (i32.const 20)))
        (call $outgoing-body.write (local.get $body) (i32.const 16))
        (local.set $sink (i32.load (i32.const 20)))
        (call $output-stream.check-write (local.get $sink) (i32.const 32))
        (call $output-stream.write (local.get $sink) (i32.const 0) (i32.const 65536) (i32.const 32))""",
        """(call $drop.output-stream (local.get $sink)) (call $drop.outgoing-body (local.get $body))
        (call $drop.outgoing-response (local.get $made))""",
    ),
    "copies of fields": (
        "(local.set $made (call $fields.clone (local.get $full)))",
        "(call $drop.fields (local.get $made))",
    ),
    "paths of requests": (
        """(local.set $made (call $outgoing-request (call $fields)))
        (local.set $j (i32.const 0))
        (loop $set
          (drop (call $outgoing-request.set-path-with-query (local.get $made)
            (i32.const 1) (i32.const 1000) (i32.const 901)))
          (br_if $set (i32.lt_u (local.tee $j (i32.add (local.get $j) (i32.const 1))) (i32.const 70))))""",
        "(call $drop.outgoing-request (local.get $made))",
    ),
}
LOOP = """(local $made i32) (local $full i32) (local $body i32) (local $sink i32)
  (local $i i32) (local $j i32)
  (local.set $full (call $fields))
  (loop $fill
    (call $fields.append (local.get $full) (i32.const 900) (i32.const 6) (i32.const 900) (i32.const 6)
      (i32.const 16))
    (br_if $fill (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 450))))
  (local.set $i (i32.const 0))
  (loop $more
    {make} {drop}
    (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
  (call $answer (local.get $out) (i32.const 200) (i32.const 900) (i32.const 6))"""

# A response of which a part goes out before the rest is made.
COOKIE = """(local $fields i32) (local $response i32) (local $body i32) (local $sink i32)
  (local.set $fields (call $fields))
  (call $fields.append (local.get $fields) (i32.const 900) (i32.const 10) (i32.const 920) (i32.const 11)
    (i32.const 16))
  (call $fields.append (local.get $fields) (i32.const 940) (i32.const 6) (i32.const 920) (i32.const 11)
    (i32.const 16))
  (local.set $response (call $outgoing-response (local.get $fields)))
  (call $outgoing-response.body (local.get $response) (i32.const 16))
  (local.set $body (i32.load (i32.const 20)))
  (call $response-outparam.set (local.get $out) (i32.const 0) (local.get $response) (i32.const 0)
    (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
  (call $outgoing-body.write (local.get $body) (i32.const 16))
  (local.set $sink (i32.load (i32.const 20)))
  (call $output-stream.check-write (local.get $sink) (i32.const 32))
  (call $output-stream.write (local.get $sink) (i32.const 0) (i32.const {size}) (i32.const 32))
  (call $drop.output-stream (local.get $sink))
  (call $outgoing-body.finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 16))"""
COOKIE_DATA = """(data (i32.const 900) "Set-Cookie") (data (i32.const 920) "sid=hostile")
  (data (i32.const 940) "x-kept")"""

Ask = Callable[..., tuple[int, bytes]]


@pytest.fixture(params=HOLDERS, ids=lambda name: name.replace(" ", "-"))
def guest(
    request: pytest.FixtureRequest, application: Any, components: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[[bool], Gateway]:
    """`guest(drops)`: a gateway whose component `bad` has 1,000 such things, one at a time or all at once."""
    monkeypatch.setattr(limits, "MAX_KEPT_BYTES", KEPT)
    make, drop = HOLDERS[request.param]

    def opened(drops: bool) -> Gateway:
        loop = LOOP.format(make=make, drop=drop if drops else "")
        good = "(call $answer (local.get $out) (i32.const 200) (i32.const 900) (i32.const 6))"
        made: Gateway = application(
            bad=components.http(loop, USES, data=DATA), good=components.http(good, data=DATA)
        )
        return made

    return opened


def test_what_a_guest_holds_has_an_end(
    guest: Callable[[bool], Gateway], ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = guest(False)
    caplog.set_level(logging.INFO)
    for _ in range(2):
        caplog.clear()
        assert ask(gateway, "/bad") == (500, b"")
        assert f"LimitExceeded: more than {KEPT} bytes are kept" in caplog.text
        assert ask(gateway, "/good") == (200, b"x-name")
    assert not Engine.shared().ticker.running


def test_what_a_guest_drops_is_forgotten(guest: Callable[[bool], Gateway], ask: Ask) -> None:
    assert ask(guest(True), "/bad") == (200, b"x-name")


@pytest.mark.parametrize("size", [5, 65536], ids=["whole", "streamed"])
def test_who_gets_no_cookies_sets_none(application: Any, components: Any, size: int) -> None:
    """A guest that knows no session must not choose one for the client."""
    wasm = components.http(COOKIE.format(size=size), USES, data=COOKIE_DATA)
    gateway = application(
        without=application.part(wasm, tool={"cookies": False}), normal=application.part(wasm)
    )

    def fields(id: str) -> dict[str, str]:
        heads: list[Response] = []

        def begin(head: Response) -> Callable[[bytes | None], object]:
            heads.append(head)
            return lambda chunk: None

        response = gateway.handle(Request("GET", f"/{id}", authority="x"), begin=begin)
        assert (response is STREAMED) == bool(heads) == (size > 5)
        head = heads[0] if heads else response
        assert head is not None
        return dict(head.headers.pairs)

    assert fields("normal") == {"set-cookie": "sid=hostile", "x-kept": "sid=hostile"}
    assert fields("without") == {"x-kept": "sid=hostile"}
