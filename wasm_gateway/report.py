# What the commands say: at the start of `up`, in Spin's words (Spin: http, 12; command
# line, 3.6), and of the problems that `check` finds.
#
# stdout belongs to results, which programs wait for; the rest is for people and goes
# to stderr.

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .errors import ComponentError, GatewayError, LinkError, ManifestError, UnsupportedError

if TYPE_CHECKING:
    from .gateway import Gateway
    from .redis_trigger import Server as RedisServer


def say_where(gateway: Gateway) -> None:
    """What is kept where (Spin: command line, 3.6)."""
    config = gateway.runtime_config
    if config.path is not None:
        from .toml import Document

        keys = ", ".join(Document.read(config.path).data)
        _tell(f'Using runtime config [{keys}] from "{config.path}"')
    for warning in (*config.warnings, *gateway.manifest.warnings):
        _tell(f"Warning: {warning}")
    if gateway.log_dir is not None:
        _tell(f'Logging component stdio to "{gateway.log_dir}/"')
    components = gateway.manifest.components.values()
    for what, file, labels, configured in (
        (
            "key-value",
            "sqlite_key_value.db",
            [label for component in components for label in component.key_value_stores],
            config.key_value_stores,
        ),
        (
            "SQLite",
            "sqlite_db.db",
            [label for component in components for label in component.sqlite_databases],
            config.sqlite_databases,
        ),
    ):
        if "default" in labels and "default" not in configured and gateway.state_dir is not None:
            _tell(f'Storing default {what} data to "{gateway.state_dir / file}".')
    for trigger in gateway.manifest.http_triggers:
        if trigger.executor.type == "wagi":
            _tell(f"Warning: component '{trigger.component}' uses the WAGI executor")


class Announcement:
    """Tells on stdout that the application is served (Spin: http, 12)."""

    def __init__(self, gateway: Gateway, *, as_json: bool) -> None:
        self._gateway = gateway
        self._json = as_json

    def serving(self, base_url: str) -> None:
        rows = self._gateway.describe()
        if self._json:
            routes = []
            for row in rows:
                route = {"id": row["id"], "route": row["route"] or "/", "wildcard": row["wildcard"]}
                if row["description"]:
                    route["description"] = row["description"]
                routes.append(route)
            _say(json.dumps({"base_url": base_url, "routes": routes}))
            return
        lines = ["", f"Serving {base_url}", "Available Routes:"]
        for row in rows:
            path = "" if row["route"] == "/" else row["route"]
            wildcard = " (wildcard)" if row["wildcard"] else ""
            lines.append(f"  {row['id']}: {base_url}{path}{wildcard}")
            if row["description"]:
                lines.append(f"    {row['description']}")
        _say("\n".join(lines))

    def subscribed(self, servers: Sequence[RedisServer]) -> None:
        if self._json:
            channels = [
                {"address": server.name, "channel": channel, "components": components}
                for server in servers
                for channel, components in server.channels.items()
            ]
            _say(json.dumps({"channels": channels}))
            return
        lines = []
        for server in servers:
            lines.append(f"Active Channels on {server.name}:")
            lines += [f"  {channel}: {', '.join(ids)}" for channel, ids in server.channels.items()]
        _say("\n".join(lines))


def who_acts(error: GatewayError) -> str:
    """Who has to act, as the class says."""
    if isinstance(error, ManifestError):
        return "the operator, in the manifest or the runtime config"
    if isinstance(error, UnsupportedError):
        return f"the author of the component, or by an update of wasm-gateway ({error.feature})"
    if isinstance(error, ComponentError):
        return "the author of the component"
    return "the operator of this machine"


def as_json(error: GatewayError) -> dict[str, Any]:
    """A problem with its facts, for programs."""
    problem: dict[str, Any] = {
        "kind": type(error).__name__,
        "message": str(error),
        "component": getattr(error, "component", None),
        "who": who_acts(error),
    }
    if isinstance(error, ManifestError):
        path = None if error.path is None else str(error.path)
        problem |= {"path": path, "key": error.key, "line": error.line}
    if isinstance(error, LinkError):
        problem["interface"] = error.interface
    if isinstance(error, UnsupportedError):
        problem["feature"] = error.feature
    return problem


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        pass  # whoever read it has read enough; the application is served all the same


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
