from __future__ import annotations

from argparse import ArgumentParser

from wasm_gateway.migration.orders import Act

from . import wasm_reload


class Command(wasm_reload.Command):
    requires_system_checks = ()  # it is wanted most when something is wrong
    help = (
        "Has the guest before the last one answer again, in all processes, those that start later too, until "
        "a file comes that is another one still, or a reload is ordered."
    )
    act = Act.ROLLBACK

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("component")
