import multiprocessing
from argparse import ArgumentParser

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from wasm_gateway.serve import Listen, ListenError, Port, parse_listen

THREADS = 4


class Command(BaseCommand):
    help = "Prepares the database and serves the site, on a server fit for production."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--listen", default="127.0.0.1:8000", metavar="HOST:PORT")

    def handle(self, *, listen: str, **options: object) -> None:
        from granian import Granian
        from granian.constants import Interfaces
        from granian.log import LogLevels

        try:
            host, number = parse_listen(listen)
            port = Port(Listen(host, number))
        except ValueError as error:
            raise CommandError(f"--listen: {error}") from error
        except ListenError as error:
            raise CommandError(
                f"{listen} is taken, or no address of this machine: name another with --listen"
            ) from error
        call_command("migrate", verbosity=0)
        call_command("make_demo_user")
        call_command("wasm_compile")

        url = port.base_url
        self.stdout.write(f"""
The game        {url}/play/
The site        {url}/           player / whiskers
Live numbers    {url}/live

Ctrl-C ends it. What it keeps is in {settings.STATE}
""")
        multiprocessing.set_start_method("spawn", force=True)
        Granian(
            "finicky_whiskers.wsgi:application",
            address=port.host,
            port=port.port,
            interface=Interfaces.WSGI,
            blocking_threads=THREADS,
            working_dir=settings.BASE_DIR,
            websockets=False,
            log_level=LogLevels.warning,
        ).serve()
