# Something to look at: books of the public domain, with numbers of our own making.

from django.db import migrations

BOOKS = [
    ("Alice's Adventures in Wonderland", "Lewis Carroll", 1865),
    ("Dracula", "Bram Stoker", 1897),
    ("Emma", "Jane Austen", 1815),
    ("Frankenstein", "Mary Shelley", 1818),
    ("Great Expectations", "Charles Dickens", 1861),
    ("Jane Eyre", "Charlotte Bront\u00eb", 1847),
    ("Middlemarch", "George Eliot", 1871),
    ("Moby-Dick", "Herman Melville", 1851),
    ("Persuasion", "Jane Austen", 1817),
    ("Pride & Prejudice", "Jane Austen", 1813),
    ("The Time Machine", "H. G. Wells", 1895),
    ("Treasure Island", "Robert Louis Stevenson", 1883),
]


def isbn(number: int) -> str:
    digits = f"97900000{number:04}"
    total = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(digits))
    return f"{digits}{-total % 10}"


def add(apps, schema_editor):
    book = apps.get_model("catalogue", "Book")
    book.objects.bulk_create(
        book(title=title, author=author, year=year, isbn=isbn(number), copies=number % 4)
        for number, (title, author, year) in enumerate(BOOKS, 1)
    )


class Migration(migrations.Migration):
    dependencies = [("catalogue", "0001_initial")]
    operations = [migrations.RunPython(add, migrations.RunPython.noop)]
