"""Which documents a client wants, and when (spec: client 5). Sans-IO."""

from __future__ import annotations

from typing import Final

import attrs

from katzentwist.clock import Epochs
from katzentwist.pki.document import SignedDocument
from katzentwist.pki.schedule import Schedule
from katzentwist.randomness import IRandom

INSISTENT_TRIES: Final = 5
INSISTENT_PAUSE: Final = 1.0


@attrs.define
class Documents:
    """The documents of a client, fetched one at a time through its gateway."""

    epochs: Epochs
    random: IRandom
    held: dict[int, SignedDocument] = attrs.field(factory=dict)
    _gone: set[int] = attrs.field(factory=set)
    _next_try: dict[int, float] = attrs.field(factory=dict)
    _insisting: int = 0

    def current(self, wall: float) -> SignedDocument | None:
        """The document of the current epoch, else of the one before."""
        now = self.epochs.number(wall)
        return self.held.get(now) or self.held.get(now - 1)

    def wanted(self, wall: float, mono: float) -> int | None:
        """The epoch to fetch now, if there is one."""
        now, _, till = self.epochs.now(wall)
        schedule = Schedule(self.epochs)
        epochs = [now]
        if now not in self.held and now - 1 not in self.held:
            epochs.append(now - 1)
        if now in self.held and till < schedule.client_next_document_till:
            epochs.append(now + 1)
        for epoch in epochs:
            if epoch not in self.held and epoch not in self._gone and mono >= self._next_try.get(epoch, 0.0):
                return epoch
        return None

    def retry_at_once(self) -> None:
        """A new session: ask for what is missing without waiting."""
        self._next_try.clear()

    def insist(self) -> None:
        """Somebody needs a document and there is none: the next tries come one second apart."""
        self._insisting = INSISTENT_TRIES
        self._next_try.clear()

    def add(self, document: SignedDocument, wall: float) -> None:
        """Keep a verified document; older ones go."""
        self.held[document.document.epoch] = document
        now = self.epochs.number(wall)
        self.held = {e: d for e, d in self.held.items() if now - 1 <= e <= now + 1}
        self._gone = {e for e in self._gone if e >= now - 1}
        self._next_try = {e: t for e, t in self._next_try.items() if e >= now - 1}

    def gone(self, epoch: int) -> None:
        """There is none for this epoch, and never will be."""
        self._gone.add(epoch)

    def not_yet(self, epoch: int, mono: float) -> None:
        """Ask again later."""
        pause = Schedule(self.epochs).poll_interval
        if self._insisting:
            self._insisting -= 1
            pause = min(pause, INSISTENT_PAUSE)
        self._next_try[epoch] = mono + pause * (0.8 + 0.4 * self.random.uniform())
