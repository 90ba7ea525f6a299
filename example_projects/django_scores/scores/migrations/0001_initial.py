import django.core.validators
from django.db import migrations, models

import scores.models


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Score",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=40, validators=[scores.models.validate_printable])),
                (
                    "points",
                    models.PositiveIntegerField(
                        validators=[django.core.validators.MaxValueValidator(1000000)]
                    ),
                ),
                ("when", models.DateTimeField(auto_now_add=True)),
            ],
            options={"ordering": ["-points", "when", "pk"]},
        ),
    ]
