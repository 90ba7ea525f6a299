from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Makes the user player with the password whiskers, which everybody knows: for local use only."

    def handle(self, **options: object) -> None:
        users = get_user_model().objects
        if not users.filter(username="player").exists():
            users.create_user("player", password="whiskers")
