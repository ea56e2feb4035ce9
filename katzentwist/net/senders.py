"""Sending to many links at once.

A node with a hundred peers sends one packet at a time to each. To take it out of the heap where it waited, to find its
link and to ask that whether it takes something costs more in Python than sealing. So links that the native core can
write to are known to it by where they lead, and what is due leaves the heap for the sockets in one call. What is not
that simple is left to the link: a full buffer, a link that is not (or no longer) established, another transport than
TCP.
"""

from __future__ import annotations

from typing import Any

from katzentwist.crypto.native import native

Left = tuple[dict[bytes, list[bytes]], int, int]
"""(Packets by next hop, in order of due time, still to be sent; how many were late, and are gone; and were sent)."""


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

    def send_due(self, heap: Any, now: float, most: int, oldest: float) -> Left:
        """Take up to *most* packets with due time <= *now* out of a heap, earliest first, and send what can be sent.

        :param heap: a DelayHeap of the native core, or its twin in Python.
        :param oldest: what is due before is late.
        """
        if self._senders:
            left: Left = native.send_due(heap, now, most, oldest, self._senders)  # type: ignore[union-attr]
            return left
        return *heap.take_due(now, most, oldest), 0
