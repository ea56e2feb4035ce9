"""Bytes between programs: links on transports, addresses, limits, workers."""

from __future__ import annotations

from katzentwist.net.accepting import LinkFactory
from katzentwist.net.address import Address, parse_address
from katzentwist.net.dialling import dial, dial_in_turn
from katzentwist.net.limits import HandshakeLimits
from katzentwist.net.link import LinkProtocol
from katzentwist.net.owner import Context, ILink, ILinkOwner, LinkOwner
from katzentwist.net.registry import LinkRegistry
from katzentwist.net.tcp import Transports
from katzentwist.net.workers import IWorkers, SynchronousWorkers, ThreadWorkers

__all__ = [
    "Address",
    "Context",
    "HandshakeLimits",
    "ILink",
    "ILinkOwner",
    "IWorkers",
    "LinkFactory",
    "LinkOwner",
    "LinkProtocol",
    "LinkRegistry",
    "SynchronousWorkers",
    "ThreadWorkers",
    "Transports",
    "dial",
    "dial_in_turn",
    "parse_address",
]
