"""Sending to many links at once.

A node with a hundred peers sends one packet at a time to each, and to find the link and to ask whether it takes
something costs more in Python than sealing. So links that the native core can write to are known to it by where they
lead, and what is due goes out in one call. Whatever is not that simple is left to the link: a full buffer, a link that
is not (or no longer) established, another transport than TCP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from katzentwist.crypto.native import native


class Senders:
    """Links that packets may go to without being asked, by the id of the node at their other end."""

    def __init__(self) -> None:
        self._senders: dict[bytes, Any] = {}  # PacketSenders of the native core

    def offer(self, node: bytes, sender: Any) -> None:
        """Packets for *node* may go by *sender*, an ``ILink.sender``; None: they may not."""
        if sender is None:
            self._senders.pop(node, None)
        else:
            self._senders[node] = sender

    def send(self, due: Mapping[bytes, list[bytes]], now: float) -> Mapping[bytes, list[bytes]]:
        """Send what can be sent; what is left."""
        return native.send_due(due, self._senders, now) if self._senders else due  # type: ignore[union-attr]
