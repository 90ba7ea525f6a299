# The tables of models.py: all that processes of a site share about its migration to Wasm.

from __future__ import annotations

from django.db import migrations, models


def _id() -> models.BigAutoField[int, int]:
    return models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")


class Migration(migrations.Migration):
    initial = True

    operations = [
        migrations.CreateModel(
            "Stamp",
            [("id", _id()), ("version", models.BigIntegerField(default=0))],
            {"default_permissions": ()},
        ),
        migrations.CreateModel(
            "Dial",
            [
                ("name", models.CharField(max_length=255, primary_key=True, serialize=False)),
                ("fields", models.JSONField(default=dict)),
            ],
            {"verbose_name": "Wasm route", "default_permissions": ("view", "change")},
        ),
        migrations.CreateModel(
            "Change",
            [
                ("id", _id()),
                ("name", models.CharField(max_length=255)),
                ("fields", models.JSONField(null=True)),
                ("by", models.CharField(max_length=255)),
                ("at", models.FloatField()),
            ],
            {
                "verbose_name": "change of a Wasm route",
                "verbose_name_plural": "changes of Wasm routes",
                "default_permissions": ("view",),
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            "Mismatch",
            [
                ("id", _id()),
                ("component", models.CharField(max_length=255)),
                ("record", models.JSONField()),
            ],
            {
                "verbose_name": "mismatch",
                "verbose_name_plural": "mismatches",
                "default_permissions": ("view",),
                "ordering": ["-id"],
                "indexes": [models.Index(fields=["component", "id"], name="wasm_gateway_mismatches_of")],
            },
        ),
        migrations.CreateModel(
            "Counter",
            [
                ("id", _id()),
                ("component", models.CharField(max_length=255)),
                ("name", models.CharField(max_length=100)),
                ("value", models.BigIntegerField(default=0)),
            ],
            {
                "default_permissions": (),
                "constraints": [
                    models.UniqueConstraint(fields=["component", "name"], name="wasm_gateway_counters_once")
                ],
            },
        ),
    ]
