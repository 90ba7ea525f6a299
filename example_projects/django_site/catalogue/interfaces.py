# What this site lends to its guests besides who asks.

from pathlib import Path

from wasm_gateway import HostInterface

from .models import Book

LONGEST_LIST = 100


class Catalogue(HostInterface):
    """catalogue.wit over the ORM. It only reads: a guest may call it while it runs beside a view."""

    wit = Path(__file__).with_name("catalogue.wit").read_text("utf-8")
    shadow_safe = True

    def search(self, guest, words, limit):
        return [_record(book) for book in Book.matching(words[:200])[: min(limit, LONGEST_LIST)]]

    def get(self, guest, id):
        book = Book.objects.filter(pk=id).first()
        return None if book is None else _record(book)


def _record(book):
    return book.pk, book.title, book.author, book.year, book.isbn, book.copies
