"""Messages that are sent again until a reply comes (spec: client 14.2). Sans-IO; times are monotonic seconds."""

from __future__ import annotations

import enum
import heapq
import itertools
from typing import Final

import attrs

from katzentwist.client.apps import App
from katzentwist.client.compose import ComposeError
from katzentwist.thin.requests import SendMessage

PACKETS: Final = 4
"""The first one and three resends."""
GARBAGE_AFTER: Final = 5 * 60.0
BUSY_PAUSE: Final = 0.1
COMPOSE_PAUSE: Final = 1.0
MOST: Final = 4096
"""ARQ messages of one application. Stops one that never ends."""

ID_IN_USE: Final = "message id already in use"


class State(enum.Enum):
    """Where a message stands."""

    QUEUED = "queued"
    """Waits for a tick."""
    SENT = "sent"
    """Waits for a reply, or for the time to send it again."""
    OVER = "over"
    """Answered, failed or cancelled; only the garbage event is due."""


@attrs.define(eq=False)
class Entry:
    """One message.

    :ivar surb_id: of the latest packet; older ones do not count any more.
    :ivar packets: how many were sent.
    """

    app: App
    request: SendMessage
    id: bytes = attrs.field(repr=False)
    state: State = State.QUEUED
    surb_id: bytes | None = attrs.field(default=None, repr=False)
    packets: int = 0
    garbage_at: float = 0.0
    due_at: float = 0.0


class ArqTable:
    """All messages under way.

    :param slop: seconds beyond the expected time of a reply.
    """

    def __init__(self, slop: float) -> None:
        self._slop = slop
        self._entries: dict[tuple[bytes, bytes], Entry] = {}
        self._heap: list[tuple[float, int, Entry]] = []
        self._serial = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, app: App, request: SendMessage) -> Entry:
        """A new message.

        :raises ComposeError: it has no id, or one that is in use.
        """
        if request.id is None:
            raise ComposeError("message id is missing")
        if (app.id, request.id) in self._entries:
            raise ComposeError(ID_IN_USE)
        if sum(e.app is app for e in self._entries.values()) >= MOST:
            raise ComposeError("too many messages are under way")
        entry = Entry(app, request, request.id)
        self._entries[app.id, request.id] = entry
        return entry

    def find(self, app: App, id_: bytes) -> Entry | None:
        """A message that is not over."""
        entry = self._entries.get((app.id, id_))
        return entry if entry is not None and entry.state is not State.OVER else None

    def sent(self, entry: Entry, surb_id: bytes, now: float, reply_eta: float) -> bool:
        """A packet left; True for the first one. The timer starts anew."""
        entry.surb_id = surb_id
        entry.packets += 1
        entry.state = State.SENT
        if entry.packets == 1:
            entry.garbage_at = now + reply_eta + GARBAGE_AFTER
        self._wake(entry, now + reply_eta + self._slop)
        return entry.packets == 1

    def later(self, entry: Entry, now: float, pause: float) -> None:
        """It could not be sent, or not yet; no try is used up."""
        entry.state = State.SENT
        self._wake(entry, now + pause)

    def queued(self, entry: Entry) -> None:
        """It waits for a tick."""
        entry.state = State.QUEUED

    def over(self, entry: Entry, now: float) -> None:
        """Answered or failed: what is left is the garbage event."""
        entry.state = State.OVER
        self._wake(entry, max(now, entry.garbage_at))

    def remove(self, entry: Entry) -> None:
        """Forget it."""
        entry.state = State.OVER
        self._entries.pop((entry.app.id, entry.id), None)

    def forget(self, app: App) -> list[Entry]:
        """Forget everything of an application."""
        mine = [e for e in self._entries.values() if e.app is app]
        for entry in mine:
            self.remove(entry)
        return mine

    def merge(self, app: App, heir: App) -> list[Entry]:
        """What *app* sends is its heir's from now on.

        :returns: those whose id the heir uses already; they are forgotten.
        """
        clashing = []
        for entry in [e for e in self._entries.values() if e.app is app]:
            if (heir.id, entry.id) in self._entries:
                self.remove(entry)
                clashing.append(entry)
                continue
            del self._entries[app.id, entry.id]
            entry.app = heir
            self._entries[heir.id, entry.id] = entry
        return clashing

    def _wake(self, entry: Entry, at: float) -> None:
        entry.due_at = at
        heapq.heappush(self._heap, (at, next(self._serial), entry))

    def next_deadline(self) -> float | None:
        """When to call :meth:`due`."""
        while self._heap and not self._current(*self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[Entry]:
        """Those whose time has come, each once per timer."""
        out = []
        while (at := self.next_deadline()) is not None and at <= now:
            entry = heapq.heappop(self._heap)[2]
            entry.due_at = 0.0
            out.append(entry)
        return out

    def _current(self, at: float, _serial: int, entry: Entry) -> bool:
        """Whether a heap item is the entry's latest timer."""
        return self._entries.get((entry.app.id, entry.id)) is entry and entry.due_at == at

    @staticmethod
    def may_go_again(entry: Entry) -> bool:
        """Whether a try is left."""
        return entry.packets < PACKETS
