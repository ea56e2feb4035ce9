"""systemd readiness and watchdog messages, by the datagram socket that systemd names in the environment."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen
class Notifier:
    """Sends state to systemd; does nothing where there is none.

    :ivar address: the socket of NOTIFY_SOCKET, empty without systemd.
    :ivar watchdog: seconds within which a sign of life is due, 0 for none.
    """

    address: str = ""
    watchdog: float = 0.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Notifier:
        """As systemd says it: NOTIFY_SOCKET, WATCHDOG_USEC."""
        microseconds = environment.get("WATCHDOG_USEC", "")
        return cls(environment.get("NOTIFY_SOCKET", ""), int(microseconds) / 1e6 if microseconds.isdigit() else 0.0)

    def ready(self) -> None:
        """The start is complete."""
        self._send(b"READY=1")

    def stopping(self) -> None:
        """The stop has begun."""
        self._send(b"STOPPING=1")

    def keep_alive(self, reactor: Any) -> None:
        """Tell the watchdog twice per period that the reactor turns."""
        if not self.address or self.watchdog <= 0:
            return
        self._send(b"WATCHDOG=1")
        reactor.callLater(self.watchdog / 2, self.keep_alive, reactor)

    def _send(self, message: bytes) -> None:
        if not self.address:
            return
        # An address that begins with @ is abstract: a zero byte stands in place of the @.
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
            s.sendto(message, address)
