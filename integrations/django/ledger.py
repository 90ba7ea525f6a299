# The ledger (migration/ledger.py) in the site's own database.
#
# Rule 1: a thread of the gateway's own gives its connection back after each use; a thread of
# Django's keeps the one of its request.
# Rule 2: whoever turns a dial takes the row of the stamp first, so that stamps are in the
# order in which dials are seen to be turned, in every database.

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from django.db import DatabaseError, connections, router, transaction
from django.db.models import F

from wasm_gateway.errors import HostError
from wasm_gateway.migration import ledger, pilot
from wasm_gateway.migration.ledger import MAX_CHANGES, MAX_MISMATCHES

from . import models
from .connections import kept_fresh

P = ParamSpec("P")
R = TypeVar("R")

# What the names of all threads of the gateway's own begin with.
OWN_THREADS = "wasm-"


@contextmanager
def _in_its_thread() -> Iterator[None]:
    try:
        if threading.current_thread().name.startswith(OWN_THREADS):
            with kept_fresh():
                yield
        else:
            yield
    except DatabaseError as error:
        raise HostError(f"the ledger in the site's database: {error}") from error


def _translated(function: Callable[P, R]) -> Callable[P, R]:
    @wraps(function)
    def translated(*arguments: P.args, **options: P.kwargs) -> R:
        with _in_its_thread():
            return function(*arguments, **options)

    return translated


class DjangoLedger:
    """migration.ledger.Ledger in the tables of models.py, wherever the site's routers have them."""

    def __init__(self) -> None:
        self._seen: object = None

    @_translated
    def stamp(self) -> object:
        if threading.current_thread().name == pilot.THREAD and _is_this_process_own():
            return self._seen
        found = models.Stamp.objects.filter(pk=models.Stamp.ONLY).values_list("version", flat=True).first()
        self._seen = found
        return found

    @_translated
    def dials(self) -> ledger.Dials:
        return dict(models.Dial.objects.values_list("name", "fields"))

    @_translated
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

    @_translated
    def changes(self, limit: int = 50) -> list[ledger.Change]:
        return [ledger.Change(c.name, c.fields, c.by, c.at) for c in models.Change.objects.all()[:limit]]

    @_translated
    def record(self, mismatch: ledger.Mismatch) -> None:
        mismatches = models.Mismatch.objects.using(router.db_for_write(models.Mismatch))
        mismatches.create(component=mismatch.component, record=asdict(mismatch))
        of_it = mismatches.filter(component=mismatch.component)
        last = of_it.values_list("pk", flat=True)[MAX_MISMATCHES : MAX_MISMATCHES + 1]
        for pk in last:
            of_it.filter(pk__lte=pk).delete()

    @_translated
    def mismatches(self, component: str | None = None, limit: int = 50) -> list[ledger.Mismatch]:
        found = models.Mismatch.objects.all()
        if component is not None:
            found = found.filter(component=component)
        return [ledger.mismatch_of(each.record) for each in found[:limit]]

    def close(self) -> None:
        """Connections are Django's, and those of its threads."""


def _is_this_process_own() -> bool:
    """Whether the database is in memory, as tests have it: nobody else turns anything in it, and a second
    connection to it locks out the first."""
    connection: Any = connections[router.db_for_read(models.Stamp)]
    return connection.vendor == "sqlite" and bool(connection.is_in_memory_db())
