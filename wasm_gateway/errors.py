# Every exception of the gateway. The class says who has to act, the facts are
# attributes; the text goes to the operator's log and never to a client, who
# sees the status alone.
#
# GatewayError
#   ManifestError            operator: spin.toml or runtime-config.toml
#   TemplateError            who makes a component: a template, or what was asked of it
#   ToolchainError           who builds: a compiler that is missing or cannot be installed
#   BuildError               component author: a build command failed
#   ComponentError           component author, before anything runs
#     DecodeError            malformed bytes
#     UnsupportedError       well-formed, but not implemented here
#     LinkError              imports that this host does not offer, or offers otherwise
#       NotBuilt             it is still to be built, while a development server runs
#   GuestError               component author, while it runs
#     Trap                   the guest stopped itself, or broke a rule of the ABI
#     GuestExit              the guest called exit
#     DeadlineExceeded       it ran out of its time
#     LimitExceeded          it asked for more than it was granted
#   HostError                us or the infrastructure; raised only in host/
#     Withheld               a call that a guest beside the site may not make
#   RequestError             the client
#     BodyTooLarge
#     Disconnected
#   Saturated                everybody: too many requests at once, come back later
#
# A WIT `result` error is a value, never an exception, and "no route" is None.

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from os import PathLike
from typing import Any


class GatewayError(Exception):
    """Base of all errors of the gateway; `status` is the HTTP status a client would see."""

    status = 500

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is: the arguments of `__init__` are not those that Exception would give it again."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class ManifestError(GatewayError):
    """A manifest or runtime configuration that the operator has to mend.

    `path` is the file, `key` the dotted key in it, `line` (1-based) where known.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | PathLike[str] | None = None,
        key: str | None = None,
        line: int | None = None,
    ) -> None:
        where = "" if path is None else str(path)
        if line is not None:
            where += f":{line}"
        super().__init__(": ".join(part for part in (where, key, message) if part))
        self.message = message
        self.path = path
        self.key = key
        self.line = line


class TemplateError(GatewayError):
    """A template is not well-formed, or cannot make what was asked for."""


class ToolchainError(GatewayError):
    """A program that builds guests is missing or cannot be installed; the text says what to do."""


class BuildError(GatewayError):
    """The build command of a component failed; `code` is its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class ComponentError(GatewayError):
    """A guest that cannot be loaded; `component` is its id where known."""

    component: str | None = None

    def __str__(self) -> str:
        text = super().__str__()
        return text if self.component is None else f"component {self.component!r}: {text}"


class DecodeError(ComponentError):
    """The bytes are not a well-formed module or component."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(f"{message} at byte {offset:#x}")
        self.reason = message
        self.offset = offset


class UnsupportedError(ComponentError):
    """Well-formed, but it needs a `feature` that is not implemented here."""

    def __init__(self, message: str, feature: str) -> None:
        super().__init__(message)
        self.feature = feature


class LinkError(ComponentError):
    """The guest imports (or fails to export) an `interface` in a way this host cannot meet."""

    def __init__(self, message: str, interface: str | None = None) -> None:
        super().__init__(message)
        self.interface = interface


class NotBuilt(LinkError):
    """The file of the guest is not there, and may come, since somebody builds it."""


class GuestError(GatewayError):
    """The guest failed while it ran."""


class Trap(GuestError):
    """The guest trapped; `frames` is its backtrace, innermost first, where known."""

    def __init__(self, message: str, frames: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.frames = tuple(frames)


class GuestExit(GuestError):
    """The guest ended itself with `code` (WASI proc_exit)."""

    def __init__(self, code: int) -> None:
        super().__init__(f"guest exited with code {code}")
        self.code = code


class DeadlineExceeded(GuestError):
    """The guest did not finish within `seconds`."""

    status = 504

    def __init__(self, seconds: float) -> None:
        super().__init__(f"guest did not finish within {seconds:g} s")
        self.seconds = seconds


class LimitExceeded(GuestError):
    """The guest asked for more than it was granted; `limit` names the setting."""

    def __init__(self, message: str, limit: str) -> None:
        super().__init__(message)
        self.limit = limit


class HostError(GatewayError):
    """A host interface failed: our own fault or that of the infrastructure behind it."""


class Withheld(HostError):
    """A guest that runs beside the site called what would be noticed."""


class RequestError(GatewayError):
    """The client sent something that cannot be served."""

    status = 400


class BodyTooLarge(RequestError):
    """The request body is longer than `limit` bytes."""

    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(f"request body is longer than {limit} bytes")
        self.limit = limit


class Disconnected(RequestError):
    """The client left, or nobody waits for the response any more."""


class Saturated(GatewayError):
    """No instance is free; `retry_after` (seconds) goes into Retry-After."""

    status = 503

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after
