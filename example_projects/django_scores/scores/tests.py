# Guests are tested like views: by Django's test clients, through the middleware.

from unittest import mock

from django.db import DatabaseError
from django.test import TestCase, TransactionTestCase

from wasm_gateway import Err

from .interfaces import Board
from .models import Score


class BoardTest(TestCase):
    """The guest runs in the test's own thread, inside the transaction that the test is."""

    def test_the_best_first(self):
        Score.objects.bulk_create([Score(name="Ada", points=3), Score(name="Bob", points=7)])

        scores = self.client.get("/board").json()["scores"]

        assert [(score["name"], score["points"]) for score in scores] == [("Bob", 7), ("Ada", 3)]
        self.assertContains(self.client.get("/"), "Bob: 7")

    def test_ten_and_no_more(self):
        Score.objects.bulk_create([Score(name="Ada", points=n) for n in range(12)])

        scores = self.client.get("/board").json()["scores"]

        assert [score["points"] for score in scores] == list(range(11, 1, -1))

    def test_a_score_is_entered(self):
        Score.objects.create(name="Ada", points=3)

        response = self.client.post("/board?name=B%C3%B6b&points=2")

        assert (response.status_code, response.json()) == (201, {"place": 2})
        assert Score.objects.get(points=2).name == "Böb"

    def test_the_model_decides_what_is_entered(self):
        for query, error in [
            ("name=Ada&points=1000001", "points: Ensure this value is less than or equal to 1000000."),
            (f"name={'x' * 41}&points=1", "name: Ensure this value has at most 40 characters (it has 41)."),
            ("name=%C2%AD&points=1", "name: Only printable characters."),
        ]:
            response = self.client.post(f"/board?{query}")
            assert (response.status_code, response.json()) == (400, {"error": error})
        assert not Score.objects.exists()

    def test_an_exception_ends_the_request(self):
        failing = mock.patch.object(Score, "save", side_effect=DatabaseError("disk full"))
        with failing, self.assertLogs("wasm_gateway", "ERROR") as logs:
            response = self.client.post("/board?name=Ada&points=1")

        assert (response.status_code, response.content) == (500, b"")
        assert "disk full" in "".join(logs.output)


class InterfaceTest(TestCase):
    """What no guest of ours says: others may."""

    def test_any_arguments(self):
        board = Board()

        assert board.best(None, 2**32 - 1) == []
        for name, points in [("", 0), ("a\0b", 0), ("\n", 0), ("x" * 100_000, 0), ("Ada", 2**32 - 1)]:
            assert isinstance(board.add(None, name, points), Err)


class AsyncBoardTest(TransactionTestCase):
    """Here the guest has a thread and a connection of its own, which sees what is committed."""

    async def test_both_ways(self):
        await Score.objects.acreate(name="Ada", points=3)

        response = await self.async_client.post("/board?name=Bob&points=7")

        assert (response.status_code, response.json()) == (201, {"place": 1})
        assert [score.name async for score in Score.objects.all()] == ["Bob", "Ada"]
