from __future__ import annotations

import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from wasm_gateway.errors import GatewayError
from wasm_gateway.redis_trigger import RedisTrigger

from ...conf import owner
from ...connections import kept_fresh

SIGNAL_CHECK_SECONDS = 0.5


class SiteTrigger(RedisTrigger):
    """The trigger, with the database connections of its threads looked after."""

    def _handle(self, component: str, channel: bytes, payload: bytes) -> None:
        with kept_fresh():
            super()._handle(component, channel, payload)


class Command(BaseCommand):
    help = (
        "Subscribes to the channels of the manifest's Redis triggers and calls their components, until "
        "SIGINT or SIGTERM. Run it once per site: every subscriber gets every message."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        gateway = owner.gateway()
        if not gateway.manifest.redis_triggers:
            raise CommandError(f"{gateway.manifest.path} has no Redis trigger")
        try:
            gateway.open()
            trigger = SiteTrigger(gateway)
        except GatewayError as error:
            raise CommandError(str(error)) from error
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        if options["verbosity"] > 0:
            for server in trigger.servers:
                self.stdout.write(f"{server.name}: {', '.join(server.channels)}")
        thread = threading.Thread(target=trigger.run, args=(stop,), name="wasm-redis")
        thread.start()
        # A signal that comes just before this thread blocks would wait for as long as the thread does.
        while thread.is_alive():
            thread.join(SIGNAL_CHECK_SECONDS)
