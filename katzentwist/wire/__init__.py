"""The link protocol: commands, handshake, records, and the session machine on top (spec: link)."""

from __future__ import annotations

from katzentwist.wire._core import Phase, Session
from katzentwist.wire.commands import Command, CommandSizes, SessionKind
from katzentwist.wire.config import SessionConfig
from katzentwist.wire.events import CommandReceived, Established, Event, PacketsReceived, PeerCredentials, Step

__all__ = [
    "Command",
    "CommandReceived",
    "CommandSizes",
    "Established",
    "Event",
    "PacketsReceived",
    "PeerCredentials",
    "Phase",
    "Session",
    "SessionConfig",
    "SessionKind",
    "Step",
]
