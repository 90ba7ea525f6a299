# The ledger in a Redis, for sites of several machines (ledger.py).
#
# Keys, behind a prefix: `dials`, `changes`, `stamp`, `recorded` (how many mismatches),
# `mismatches:COMPONENT`, `components`, `counters:COMPONENT`.
#
# Rule 1: what belongs together is done in one MULTI, so that all processes see the same order.
# Rule 2: nobody waits long: who asks is a thread of the gateway, and it asks again.

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis

from .. import forks
from ..errors import HostError, ManifestError
from .counters import Counts
from .ledger import MAX_CHANGES, MAX_MISMATCHES, SINCE, Change, Dials, Mismatch, mismatch_of, now, plain

PREFIX = "wasm-gateway"
SECONDS = 2.0


class RedisLedger:
    """A ledger in the Redis at `url`; its parameter `prefix` keeps several sites apart.

    ManifestError for a URL that is none.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        self._prefix = query.pop("prefix", PREFIX)
        self._url = parts._replace(query=urlencode(query)).geturl()
        self._place = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
        try:
            self._client = self._open()
        except ValueError as error:
            raise ManifestError(f"{self._place}: {error}", key="LEDGER") from error
        forks.watch(self)

    def _open(self) -> Any:
        return redis.Redis.from_url(
            self._url, decode_responses=True, socket_timeout=SECONDS, socket_connect_timeout=SECONDS
        )

    def after_fork(self) -> None:
        forks.abandon(self._client)
        self._client = self._open()

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))

    @contextmanager
    def _asked(self) -> Iterator[Any]:
        try:
            yield self._client
        except (redis.RedisError, OSError) as error:
            raise HostError(f"the ledger {self._place}: {error}") from error

    def _together(self, *steps: Callable[[Any], object]) -> list[Any]:
        with self._asked() as client, client.pipeline(transaction=True) as pipeline:
            for step in steps:
                step(pipeline)
            done: list[Any] = pipeline.execute()
            return done

    def stamp(self) -> object:
        with self._asked() as client:
            return client.get(self._key("stamp"))

    def dials(self) -> Dials:
        with self._asked() as client:
            found = client.hgetall(self._key("dials"))
        return {name: json.loads(values) for name, values in found.items()}

    def turn(self, change: Change) -> None:
        dials, changes = self._key("dials"), self._key("changes")
        text = json.dumps(plain(change))

        def dial(pipeline: Any) -> None:
            if change.values is None:
                pipeline.hdel(dials, change.name)
            else:
                pipeline.hset(dials, change.name, json.dumps(dict(change.values)))

        self._together(
            dial,
            lambda pipeline: pipeline.lpush(changes, text),
            lambda pipeline: pipeline.ltrim(changes, 0, MAX_CHANGES - 1),
            lambda pipeline: pipeline.incr(self._key("stamp")),
        )

    def note(self, name: str, values: Mapping[str, object]) -> None:
        with self._asked() as client:
            client.hset(self._key("dials"), name, json.dumps(dict(values)))

    def changes(self, limit: int = 50) -> list[Change]:
        with self._asked() as client:
            texts = client.lrange(self._key("changes"), 0, limit - 1) if limit > 0 else []
        return [Change(**json.loads(text)) for text in texts]

    def record(self, mismatch: Mismatch) -> None:
        key = self._key("mismatches", mismatch.component)
        with self._asked() as client:
            number = client.incr(self._key("recorded"))
        text = json.dumps([number, plain(mismatch)])
        self._together(
            lambda pipeline: pipeline.sadd(self._key("components"), mismatch.component),
            lambda pipeline: pipeline.lpush(key, text),
            lambda pipeline: pipeline.ltrim(key, 0, MAX_MISMATCHES - 1),
        )

    def mismatches(self, component: str | None = None, limit: int = 50) -> list[Mismatch]:
        if limit < 1:
            return []
        names = self._components() if component is None else [component]
        found: list[tuple[int, Any]] = []
        for name in names:
            with self._asked() as client:
                texts = client.lrange(self._key("mismatches", name), 0, limit - 1)
            found += [tuple(json.loads(text)) for text in texts]
        found.sort(key=lambda record: record[0], reverse=True)
        return [mismatch_of(values) for _, values in found[:limit]]

    def _components(self) -> list[str]:
        with self._asked() as client:
            return sorted(client.smembers(self._key("components")))

    def add(self, counts: Counts) -> None:
        def step(component: str, values: Any) -> Callable[[Any], None]:
            def count(pipeline: Any) -> None:
                key = self._key("counters", component)
                pipeline.sadd(self._key("components"), component)
                pipeline.hsetnx(key, SINCE, now())
                for name, value in values.items():
                    pipeline.hincrby(key, name, value)

            return count

        if counts:
            self._together(*(step(component, values) for component, values in counts.items()))

    def counters(self) -> dict[str, dict[str, int]]:
        found = {}
        for component in self._components():
            with self._asked() as client:
                values = client.hgetall(self._key("counters", component))
            if values:
                found[component] = {name: int(value) for name, value in values.items()}
        return found

    def forget(self, component: str | None = None) -> None:
        for name in self._components() if component is None else [component]:
            with self._asked() as client:
                client.delete(self._key("counters", name), self._key("mismatches", name))

    def close(self) -> None:
        self._client.close()
