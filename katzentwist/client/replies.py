"""SURB keys that wait for their replies (spec: client 7.4). Sans-IO."""

from __future__ import annotations

import heapq
from typing import Any, Final

import attrs

from katzentwist.errors import SphinxError
from katzentwist.sphinx import Geometry, decrypt_reply

MOST: Final = 200_000
"""Replies awaited at once. Stops an application that sends faster than replies expire; at the usual rates there are
some dozens."""


@attrs.frozen(kw_only=True)
class Awaited:
    """What is known of a sent message.

    :ivar owner: whose it is; None for a decoy.
    :ivar tag: what the owner knows it by.
    """

    surb_id: bytes = attrs.field(repr=False)
    keys: bytes = attrs.field(repr=False)
    owner: Any
    tag: Any
    deadline: float


@attrs.define
class ReplyTable:
    """SURB id -> keys, each for one reply and a limited time. Times are monotonic seconds.

    :ivar unknown: replies that nobody waited for: late, replayed, or never ours.
    :ivar damaged: replies that could not be decrypted.
    :ivar expired: messages whose reply did not come in time.
    """

    geometry: Geometry
    unknown: int = 0
    damaged: int = 0
    expired: int = 0
    _waiting: dict[bytes, Awaited] = attrs.field(factory=dict)
    _deadlines: list[tuple[float, bytes]] = attrs.field(factory=list)

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, surb_id: bytes) -> bool:
        return surb_id in self._waiting

    @property
    def full(self) -> bool:
        """Whether nothing more can be awaited."""
        return len(self._waiting) >= MOST

    def add(self, awaited: Awaited) -> None:
        """Wait for a reply. An id that is in use already is replaced; ask before."""
        self._waiting[awaited.surb_id] = awaited
        heapq.heappush(self._deadlines, (awaited.deadline, awaited.surb_id))

    def take(self, surb_id: bytes, ciphertext: bytes) -> tuple[Awaited, bytes] | None:
        """The awaited entry and the decrypted reply; the entry is used up in any case."""
        awaited = self._waiting.pop(surb_id, None)
        if awaited is None:
            self.unknown += 1
            return None
        try:
            return awaited, decrypt_reply(awaited.keys, ciphertext, self.geometry)
        except SphinxError:
            self.damaged += 1
            return None

    def forget(self, surb_id: bytes) -> None:
        """Stop waiting."""
        self._waiting.pop(surb_id, None)

    def forget_owner(self, owner: Any) -> None:
        """Stop waiting for everything of this owner."""
        for surb_id in [s for s, a in self._waiting.items() if a.owner is owner]:
            del self._waiting[surb_id]

    def merge(self, owner: Any, heir: Any) -> None:
        """What *owner* waits for is its heir's from now on."""
        for surb_id, awaited in self._waiting.items():
            if awaited.owner is owner:
                self._waiting[surb_id] = attrs.evolve(awaited, owner=heir)

    def expire(self, now: float) -> list[Awaited]:
        """Those whose time is over."""
        out = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, surb_id = heapq.heappop(self._deadlines)
            awaited = self._waiting.get(surb_id)
            if awaited is not None and awaited.deadline <= now:
                del self._waiting[surb_id]
                self.expired += 1
                out.append(awaited)
        if len(self._deadlines) > 2 * len(self._waiting) + 1000:
            self._deadlines = [(a.deadline, s) for s, a in self._waiting.items()]
            heapq.heapify(self._deadlines)
        return out
