from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator
from django.db import models


def validate_printable(text: str) -> None:
    # NUL too, which PostgreSQL does not store
    if not text.isprintable():
        raise ValidationError("Only printable characters.")


class Score(models.Model):
    name = models.CharField(max_length=40, validators=[validate_printable])
    points = models.PositiveIntegerField(validators=[MaxValueValidator(1_000_000)])
    when = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-points", "when", "pk"]

    def __str__(self) -> str:
        return f"{self.name}: {self.points}"
