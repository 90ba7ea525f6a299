# The ledger (migration/ledger.py) in the site's own database.
#
# Rule 1: a thread of the gateway's own gives its connection back after each use; a thread of
# Django's keeps the one of its request.
# Rule 2: whoever turns a dial takes the row of the stamp first, so that stamps are in the
# order in which dials are seen to be turned, in every database.

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from django.db import DatabaseError, connections, router, transaction
from django.db.models import F

from wasm_gateway.errors import HostError
from wasm_gateway.migration import ledger
from wasm_gateway.migration.counters import Counts
from wasm_gateway.migration.ledger import MAX_CHANGES, MAX_MISMATCHES, SINCE, now

from . import models
from .connections import kept_fresh

P = ParamSpec("P")
R = TypeVar("R")

# What the names of all threads of the gateway's own begin with.
OWN_THREADS = "wasm-"

# Writes that wait for a thread that may.
MOST_WAITING = 1000


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        raise HostError(f"the ledger in the site's database: {error}") from error


def _is_own_thread() -> bool:
    return threading.current_thread().name.startswith(OWN_THREADS)


def _in_its_thread(function: Callable[Concatenate[DjangoLedger, P], R]) -> Callable[..., R]:
    """`function` by rule 1, and after what had to wait; HostError."""

    @wraps(function)
    def run(self: DjangoLedger, *arguments: P.args, **options: P.kwargs) -> R:
        with _reported():
            if _is_own_thread():
                with kept_fresh():
                    return function(self, *arguments, **options)
            self._catch_up()
            return function(self, *arguments, **options)

    return run


class DjangoLedger:
    """migration.ledger.Ledger in the tables of models.py, wherever the site's routers have them."""

    def __init__(self) -> None:
        self._seen: object = None
        self._dials: ledger.Dials = {}
        self._name: object = None  # of the database
        self._waiting: deque[Callable[[], None]] = deque(maxlen=MOST_WAITING)

    def _catch_up(self) -> None:
        """Do what has waited for this thread, or one like it."""
        with suppress(IndexError):  # somebody else may have done the last of it
            while True:
                write = self._waiting.popleft()
                write()

    @_in_its_thread
    def stamp(self) -> object:
        if (_is_own_thread() and _is_in_memory()) or self._is_gone():
            return self._seen
        found = models.Stamp.objects.filter(pk=models.Stamp.ONLY).values_list("version", flat=True).first()
        self._seen = found
        return found

    def _is_gone(self) -> bool:
        """Whether the database is there no more, or another one in its place, as when tests end."""
        connection = connections[router.db_for_read(models.Stamp)]
        name = connection.settings_dict["NAME"]
        if self._name is None:
            self._name = name
        if connection.vendor == "sqlite" and not _is_in_memory() and not os.path.exists(name):
            return True
        return bool(name != self._name)

    @_in_its_thread
    def dials(self) -> ledger.Dials:
        if not (_is_own_thread() and _is_in_memory()):
            self._dials = dict(models.Dial.objects.values_list("name", "fields"))
        return self._dials

    @_in_its_thread
    def turn(self, change: ledger.Change) -> None:
        fields = None if change.values is None else dict(change.values)
        using = router.db_for_write(models.Stamp)
        with transaction.atomic(using=using):
            stamps = models.Stamp.objects.using(using).filter(pk=models.Stamp.ONLY)
            if not stamps.update(version=F("version") + 1):
                stamps.get_or_create(pk=models.Stamp.ONLY)
                stamps.update(version=F("version") + 1)
            if fields is None:
                models.Dial.objects.using(using).filter(name=change.name).delete()
            else:
                models.Dial.objects.using(using).update_or_create(
                    name=change.name, defaults={"fields": fields}
                )
            changes = models.Change.objects.using(using)
            made = changes.create(name=change.name, fields=fields, by=change.by[:255], at=change.at)
            changes.filter(pk__lte=made.pk - MAX_CHANGES).delete()

    def note(self, name: str, values: Mapping[str, object]) -> None:
        if _is_own_thread() and _is_in_memory():
            self._waiting.append(partial(self._note, name, values))
        else:
            self._note(name, values)

    @_in_its_thread
    def _note(self, name: str, values: Mapping[str, object]) -> None:
        dials = models.Dial.objects.using(router.db_for_write(models.Dial))
        # written before anything is read, as in `_add`
        if not dials.filter(name=name).update(fields=dict(values)):
            dials.get_or_create(name=name, defaults={"fields": dict(values)})

    @_in_its_thread
    def changes(self, limit: int = 50) -> list[ledger.Change]:
        return [ledger.Change(c.name, c.fields, c.by, c.at) for c in models.Change.objects.all()[:limit]]

    def record(self, mismatch: ledger.Mismatch) -> None:
        if _is_own_thread() and _is_in_memory():
            self._waiting.append(partial(self._record, mismatch))
        else:
            self._record(mismatch)

    @_in_its_thread
    def _record(self, mismatch: ledger.Mismatch) -> None:
        mismatches = models.Mismatch.objects.using(router.db_for_write(models.Mismatch))
        mismatches.create(component=mismatch.component, record=asdict(mismatch))
        of_it = mismatches.filter(component=mismatch.component)
        last = of_it.values_list("pk", flat=True)[MAX_MISMATCHES : MAX_MISMATCHES + 1]
        for pk in last:
            of_it.filter(pk__lte=pk).delete()

    @_in_its_thread
    def mismatches(self, component: str | None = None, limit: int = 50) -> list[ledger.Mismatch]:
        found = models.Mismatch.objects.all()
        if component is not None:
            found = found.filter(component=component)
        return [ledger.mismatch_of(each.record) for each in found[:limit]]

    def add(self, counts: Counts) -> None:
        if _is_in_memory():  # of a test, which may not want it at all
            self._waiting.append(partial(self._add, counts))
        elif not self._is_gone():
            self._add(counts)

    @_in_its_thread
    def _add(self, counts: Counts) -> None:
        using = router.db_for_write(models.Counter)
        with transaction.atomic(using=using):
            # in order, so that two processes do not wait for each other
            for component, values in sorted(counts.items()):
                counters = models.Counter.objects.using(using).filter(component=component)
                since = counters.filter(name=SINCE)
                # Whoever has written this row has all of the component's. It is written before anything is
                # read, for SQLite does not wait for somebody who has read.
                if not since.update(value=F("value")):
                    counters.get_or_create(component=component, name=SINCE, defaults={"value": now()})
                    since.update(value=F("value"))
                known = [each for each in counters if each.name in values]
                for each in known:
                    each.value = F("value") + values[each.name]  # type: ignore[assignment]
                counters.bulk_update(known, ["value"])
                names = values.keys() - {each.name for each in known}
                counters.bulk_create(
                    models.Counter(component=component, name=name, value=values[name]) for name in names
                )

    @_in_its_thread
    def counters(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for component, name, value in models.Counter.objects.values_list("component", "name", "value"):
            found.setdefault(component, {})[name] = value
        return found

    @_in_its_thread
    def forget(self, component: str | None = None) -> None:
        for model in (models.Counter, models.Mismatch):
            found = model._default_manager.using(router.db_for_write(model))
            (found.all() if component is None else found.filter(component=component)).delete()

    def close(self) -> None:
        """Connections are Django's, and those of its threads."""


def _is_in_memory() -> bool:
    """Whether the database is this process' own, as that of tests is: nobody else turns anything in it, and
    a second connection to it locks out the first."""
    connection: Any = connections[router.db_for_read(models.Stamp)]
    return connection.vendor == "sqlite" and bool(connection.is_in_memory_db())
