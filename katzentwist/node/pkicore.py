"""What a node wants of the authorities, and when (spec: node 4.10, pki 13.6). Sans-IO.

The owner calls :meth:`PKICore.due` every second or so with both clocks and does what it says; a stepped wall clock thus
costs nothing but one look. Each kind of work is under way at most once.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

from katzentwist.clock import Epochs
from katzentwist.pki.document import SignedDocument
from katzentwist.pki.schedule import Schedule
from katzentwist.randomness import IRandom

UPLOAD_BACKOFF: Final = (2.0, 4.0, 8.0, 16.0, 20.0)
"""Seconds between attempts of one upload; the last one repeats."""
KEPT_BEHIND: Final = 2
"""Documents of now - 2 .. now + 1 are kept."""
LATE_MARGIN: Final = 0.5
EAGER: Final = 1.0
"""Seconds until a single authority is asked again after an upload; doubled each time, up to the poll interval."""


@attrs.frozen
class Fetch:
    """Ask the authorities for the document of this epoch."""

    epoch: int


@attrs.frozen
class Upload:
    """Post the descriptors of half number *half* for this epoch; *budget* seconds are left."""

    half: int
    epoch: int
    budget: float


Action = Fetch | Upload


@attrs.define
class _Uploading:
    done: bool = False
    busy: bool = False
    attempts: int = 0
    next_try: float = 0.0


@attrs.define
class PKICore:
    """The memory of the PKI worker.

    :ivar halves: how many identities upload.
    :ivar single: exactly one authority is configured, so uploads are useful at any time of the epoch.
    :ivar documents: epoch -> verified document.
    """

    epochs: Epochs
    random: IRandom
    halves: int
    single: bool
    started: float
    documents: dict[int, SignedDocument] = attrs.field(factory=dict)
    _now: int = 0
    _gone: set[int] = attrs.field(factory=set)
    _not_yet: set[int] = attrs.field(factory=set)
    _fetching: set[int] = attrs.field(factory=set)
    _next_fetch: dict[int, float] = attrs.field(factory=dict)
    _tries: dict[int, int] = attrs.field(factory=dict)
    _uploads: dict[tuple[int, int], _Uploading] = attrs.field(factory=dict)

    @property
    def schedule(self) -> Schedule:
        """The timers of the epoch."""
        return Schedule(self.epochs)

    def due(self, wall: float, mono: float) -> list[Action]:
        """What to begin now."""
        schedule = self.schedule
        if mono < self.started + schedule.node_first_wake:
            return []
        now, elapsed, till = self.epochs.now(wall)
        self._now = now
        self._forget(now)
        actions: list[Action] = []
        for epoch in self._wanted(now, elapsed):
            if epoch not in self._fetching and mono >= self._next_fetch.get(epoch, 0.0):
                self._fetching.add(epoch)
                actions.append(Fetch(epoch))
        for half in range(self.halves):
            actions += self._uploads_due(half, now, elapsed, till, mono)
        return actions

    def _wanted(self, now: int, elapsed: float) -> list[int]:
        """Epochs whose document is missed, newest first."""
        early = 0.0 if self.single else self.schedule.publication_deadline
        wanted = [now + 1] if elapsed >= early else []
        wanted += [now, now - 1, now - 2]
        return [e for e in wanted if e not in self.documents and e not in self._gone]

    def _uploads_due(self, half: int, now: int, elapsed: float, till: float, mono: float) -> list[Action]:
        window = till if self.single else self.schedule.upload_window - elapsed
        targets = [(now + 1, window)] if window > LATE_MARGIN else []
        if self.single and now not in self.documents and now in self._not_yet:
            targets.insert(0, (now, till))
        out: list[Action] = []
        for epoch, budget in targets:
            state = self._uploads.setdefault((half, epoch), _Uploading())
            if not state.done and not state.busy and mono >= state.next_try:
                state.busy = True
                out.append(Upload(half, epoch, budget))
        return out

    def _forget(self, now: int) -> None:
        for old in [e for e in self.documents if e < now - KEPT_BEHIND]:
            del self.documents[old]
        self._gone = {e for e in self._gone if now - KEPT_BEHIND <= e <= now + 1}
        self._not_yet = {e for e in self._not_yet if e >= now}
        self._next_fetch = {e: t for e, t in self._next_fetch.items() if e >= now - KEPT_BEHIND}
        self._tries = {e: n for e, n in self._tries.items() if e >= now - KEPT_BEHIND}
        self._uploads = {k: v for k, v in self._uploads.items() if k[1] >= now}

    # Outcomes ------------------------------------------------------------------------------------------------------

    def fetched(self, document: SignedDocument) -> None:
        """A fetch brought a good document (or one was found on disk)."""
        epoch = document.document.epoch
        self._fetching.discard(epoch)
        self._not_yet.discard(epoch)
        self.documents[epoch] = document

    def fetch_failed(self, epoch: int, mono: float, *, gone: bool, not_yet: bool) -> None:
        """A fetch brought none: *gone* from all authorities is final; *not_yet* is an authority's own word."""
        self._fetching.discard(epoch)
        # Late in an epoch an authority calls the next document gone, and may yet publish it when the last upload comes.
        if gone and not (self.single and epoch > self._now):
            self._gone.add(epoch)
            return
        if not_yet:
            self._not_yet.add(epoch)
        pause = self.schedule.poll_interval
        if self.single:
            # A single authority publishes when the last node has uploaded: seconds later, not parts of an epoch.
            tries = self._tries.get(epoch, 0)
            self._tries[epoch] = tries + 1
            pause = min(pause, EAGER * 2.0 ** min(tries, 16))
        self._next_fetch[epoch] = mono + pause * (0.8 + 0.4 * self.random.uniform())

    def is_gone(self, epoch: int) -> bool:
        """Whether the document of this epoch will never be had."""
        return epoch in self._gone

    def uploaded(self, half: int, epoch: int, mono: float) -> None:
        """Accepted by enough authorities, or finally refused (conflict, too late)."""
        state = self._uploads.setdefault((half, epoch), _Uploading())
        state.done, state.busy = True, False
        if self.single:
            self._tries.pop(epoch, None)
            self._next_fetch[epoch] = min(self._next_fetch.get(epoch, math.inf), mono + EAGER)

    def upload_failed(self, half: int, epoch: int, mono: float) -> None:
        """Try again later."""
        state = self._uploads.setdefault((half, epoch), _Uploading())
        state.busy = False
        state.next_try = mono + min(UPLOAD_BACKOFF[min(state.attempts, len(UPLOAD_BACKOFF) - 1)], self.longest_pause())
        state.attempts += 1

    def longest_pause(self) -> float:
        """Between two attempts of an upload: with short epochs 20 s would miss the window."""
        return max(0.5, self.schedule.poll_interval)
