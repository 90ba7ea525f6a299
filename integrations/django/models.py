# The ledger in the site's database: migration/ledger.py says what is in it.

from __future__ import annotations

from typing import ClassVar

from django.db import models

NAME_CHARACTERS = 255  # of a component, or of the pattern of a route


class Stamp(models.Model):
    """One row, whose version grows with each dial that is turned. Whoever writes begins with it.

    Numbers of changes would not do: of two that are made at once, the later one may be seen first.
    """

    ONLY = 1

    version: models.BigIntegerField[int, int] = models.BigIntegerField(default=0)

    class Meta:
        default_permissions = ()


class Dial(models.Model):
    """What is turned now, of a component or a route."""

    name: models.CharField[str, str] = models.CharField(max_length=NAME_CHARACTERS, primary_key=True)
    fields: models.JSONField = models.JSONField(default=dict)  # of a rule

    class Meta:
        verbose_name = "Wasm route"
        default_permissions = ("view", "change")

    def __str__(self) -> str:
        return self.name


class Change(models.Model):
    """A dial that somebody turned."""

    name: models.CharField[str, str] = models.CharField(max_length=NAME_CHARACTERS)
    fields: models.JSONField = models.JSONField(null=True)  # null: given back to the manifest
    by: models.CharField[str, str] = models.CharField(max_length=255)
    at: models.FloatField[float, float] = models.FloatField()  # seconds since 1970

    class Meta:
        verbose_name = "change of a Wasm route"
        verbose_name_plural = "changes of Wasm routes"
        default_permissions = ("view",)
        ordering: ClassVar = ["-id"]

    def __str__(self) -> str:
        return f"{self.name}, by {self.by}"


class Mismatch(models.Model):
    """A request that guest and view answered differently; `record` is a ledger.Mismatch."""

    component: models.CharField[str, str] = models.CharField(max_length=NAME_CHARACTERS)
    record: models.JSONField = models.JSONField()

    class Meta:
        verbose_name = "mismatch"
        verbose_name_plural = "mismatches"
        default_permissions = ("view",)
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [models.Index(fields=["component", "id"], name="wasm_gateway_mismatches_of")]

    def __str__(self) -> str:
        record = self.record
        return f"{record['method']} {record['target']} ({self.component})"


class Counter(models.Model):
    """What all processes have counted of a component: migration.counters."""

    component: models.CharField[str, str] = models.CharField(max_length=NAME_CHARACTERS)
    name: models.CharField[str, str] = models.CharField(max_length=100)
    value: models.BigIntegerField[int, int] = models.BigIntegerField(default=0)

    class Meta:
        default_permissions = ()
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["component", "name"], name="wasm_gateway_counters_once")
        ]

    def __str__(self) -> str:
        return f"{self.component}: {self.name}"
