from django.db import models


class Book(models.Model):
    title = models.CharField(max_length=200)
    author = models.CharField(max_length=200)
    year = models.PositiveIntegerField()
    isbn = models.CharField(max_length=13, unique=True)
    copies = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["title", "pk"]

    def __str__(self) -> str:
        return self.title

    @classmethod
    def matching(cls, words: str) -> models.QuerySet["Book"]:
        """Books that have each of the words in their title or author."""
        found = cls.objects.all()
        for word in words.split()[:5]:
            found = found.filter(models.Q(title__icontains=word) | models.Q(author__icontains=word))
        return found
