# What this site lends to its guests.

from pathlib import Path

from django.core.exceptions import ValidationError
from django.db import transaction

from wasm_gateway import Err, HostInterface, Ok

from .models import Score

LONGEST_LIST = 100


class Board(HostInterface):
    """board.wit over the ORM. A guest may call this with any arguments of these types, at any time."""

    wit = Path(__file__).with_name("board.wit").read_text("utf-8")

    def best(self, guest, limit):
        scores = Score.objects.all()[: min(limit, LONGEST_LIST)]
        return [(score.name, score.points, int(score.when.timestamp())) for score in scores]

    @transaction.atomic
    def add(self, guest, name, points):
        score = Score(name=name, points=points)
        try:
            score.full_clean()
        except ValidationError as error:
            return Err("; ".join(f"{field}: {text}" for field, (text, *_) in error.message_dict.items()))
        score.save()
        return Ok(1 + Score.objects.filter(points__gt=points).count())
