# Views and guests of the same endpoints, side by side.

import json
import time

from django.contrib.auth.models import User
from django.test import Client, TestCase, TransactionTestCase

from wasm_gateway.integrations.django import get_gateway
from wasm_gateway.integrations.django.testing import Guests

from .models import Book

PATHS = [
    "/api/books?q=jane%20austen",
    "/api/books?q=nothing",
    "/api/books/1",
    "/api/books/999999",
    "/api/isbn?number=978-0-306-40615-7",
    "/api/isbn?number=9780306406158",
    "/api/isbn?number=12",
    "/api/isbn",
    "/api/me",
    "/covers/10.svg",
    "/covers/999999.svg",
]


class SidesTest(TestCase):
    """What moves must not change."""

    def setUp(self):
        self.guests = Guests()

    def answers(self, path):
        guest = self.guests.call(path, language="en")
        with self.guests.with_rules(
            **{name: {"mode": "native"} for name in ("books", "book", "me", "isbn", "covers")}
        ):
            view = self.client.get(path)
        return (guest.status, guest.headers.get("content-type"), guest.body), (
            view.status_code,
            view["content-type"],
            view.content,
        )

    def test_guests_answer_as_views_do(self):
        Book.objects.create(title="<Quotes> & \"more\" 'of them'", author="A", year=1, isbn="1")
        for path in [*PATHS, f"/covers/{Book.objects.get(isbn='1').pk}.svg"]:
            with self.subTest(path):
                guest, view = self.answers(path)
                if view[1] == "application/json":
                    guest, view = ((*each[:2], json.loads(each[2])) for each in (guest, view))
                assert guest == view

    def test_but_for_a_mistake(self):
        guest, view = self.answers("/api/books")
        assert [len(json.loads(each[2])["books"]) for each in (guest, view)] == [10, 12]


class StagesTest(TestCase):
    """Who answers, as spin.toml has it."""

    def by_guest(self, path, client=None, **headers):
        request = (client or Client()).get(path, headers=headers).wsgi_request
        return request.wasm.by_guest

    def test_what_has_moved(self):
        assert self.by_guest("/api/isbn?number=1")

    def test_what_has_been_taken_back(self):
        assert not self.by_guest("/covers/1.svg", **{"x-wasm": "1"})

    def test_testers_choose(self):
        assert self.by_guest("/api/books/1", **{"x-wasm": "1"})
        assert self.by_guest("/api/books/1?wasm")

    def test_a_fifth_of_all_visitors(self):
        count = sum(self.by_guest("/api/books/1") for _ in range(200))
        assert 10 < count < 80, count

    def test_staff_first(self):
        user, staff = Client(), Client()
        user.force_login(User.objects.create_user("user"))
        staff.force_login(User.objects.create_user("staff", is_staff=True))
        assert [self.by_guest("/api/me", each) for each in (user, staff)] == [False, True]
        assert not self.by_guest("/api/me?native", staff)
        for client, name in ((user, "user"), (staff, "staff")):
            assert client.get("/api/me").json()["user"]["name"] == name


class ShadowTest(TransactionTestCase):
    """The guest has a thread and a connection of its own beside the view, which see what is committed."""

    def test_the_mistake_comes_to_light(self):
        Book.objects.all().delete()
        for number in range(12):
            Book.objects.create(title=f"{number}", author="A", year=1, isbn=f"{number}")
        response = self.client.get("/api/books")
        assert len(response.json()["books"]) == 12
        ledger = get_gateway().pilot.ledger
        end = time.monotonic() + 30
        while not ledger.mismatches("books"):
            assert time.monotonic() < end
            time.sleep(0.01)
        [mismatch] = ledger.mismatches("books")
        assert "books" in " ".join(mismatch.differences)
