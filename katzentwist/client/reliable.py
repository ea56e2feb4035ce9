"""Reliable messages on their way: each packet has a new SURB, the timer is that of the table (spec: client 14.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall

from katzentwist.client import answers
from katzentwist.client._core import ClientCore
from katzentwist.client.apps import App
from katzentwist.client.arq import BUSY_PAUSE, COMPOSE_PAUSE, ArqTable, Entry, State
from katzentwist.client.compose import ComposeError, Outgoing, check
from katzentwist.client.core import Client
from katzentwist.net.owner import Context
from katzentwist.thin.protocol import MAX_RETRIES, SURB_ID, encode_response
from katzentwist.thin.requests import SendMessage

DEFINITE: Final = "failed to find destination service node"
"""In the text of a compose error that trying again does not mend."""
Tell = Callable[[App, SendMessage, bytes | None, float, str], None]
"""Tells an application that its message left, or (with an error) that it did not: SURB id, seconds until the reply."""


class Reliable:
    """The messages that are sent again until a reply comes, and their one timer.

    :ivar table: all of them.
    """

    def __init__(self, context: Context, core: ClientCore, client: Client, tell: Tell) -> None:
        self.table = ArqTable(core.config.arq_slop)
        self._reactor, self._clock, self._random = context.reactor, context.clock, context.random
        self._core, self._client, self._tell = core, client, tell
        self._timer: IDelayedCall | None = None

    def stop(self) -> None:
        """Wake up no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def cancel(self, entry: Entry) -> None:
        """Give it up; its garbage event comes at once."""
        self._discard_resend(entry)
        self.forget_surb(entry)
        self._collect(entry)

    def replied(self, entry: Entry) -> bool:
        """A reply came, by the latest SURB (others are forgotten); whether it still counts."""
        if entry.state is State.OVER:
            return False
        self._discard_resend(entry)
        self.table.over(entry, self._clock.monotonic())
        self._arm()
        return True

    def forget_surb(self, entry: Entry) -> None:
        """What comes by the latest SURB does not count any more."""
        if entry.surb_id is not None:
            self._core.replies.forget(entry.surb_id)

    async def send(self, entry: Entry) -> bool:
        """Send a packet of it; whether one left."""
        surb_id = self._random.bytes(SURB_ID)
        message = Outgoing.of(entry.request, surb_id)
        self.forget_surb(entry)
        entry.surb_id = surb_id
        try:
            check(message, self._core.config.geometry)
        except ComposeError as e:
            self._give_up_unsent(entry, surb_id, str(e))
            return False
        try:
            sent = await self._client.send(message, owner=entry.app, tag=entry, hold=True)
        except ComposeError as e:
            if entry.packets == 0 and DEFINITE in str(e):
                self._give_up_unsent(entry, surb_id, str(e))
            elif entry.state is not State.OVER:
                self.table.later(entry, self._clock.monotonic(), COMPOSE_PAUSE)
                self._arm()
            return False
        if entry.state is State.OVER:  # cancelled, or its application went, while the packet was being made
            self._core.replies.forget(surb_id)
            return True
        if self.table.sent(entry, surb_id, self._clock.monotonic(), sent.reply_eta):
            self._tell(entry.app, entry.request, surb_id, sent.reply_eta, "")
        self._arm()
        return True

    def _give_up_unsent(self, entry: Entry, surb_id: bytes, why: str) -> None:
        if entry.state is not State.OVER:
            self.table.remove(entry)
            self._tell(entry.app, entry.request, surb_id, 0.0, why)

    @staticmethod
    def _discard_resend(entry: Entry) -> None:
        """A reply or a cancel came before the tick of a resend."""
        if entry.id in entry.app.resends:
            entry.app.resends.remove(entry.id)

    # The timer -----------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        self.stop()
        deadline = self.table.next_deadline()
        if deadline is not None:
            delay = max(0.0, deadline - self._clock.monotonic())
            self._timer = self._reactor.callLater(delay, self._due)

    def _due(self) -> None:
        now = self._clock.monotonic()
        for entry in self.table.due(now):
            if entry.state is State.OVER:
                self._collect(entry)
            elif not self._core.connected or entry.app.connection is None or entry.app.resends_full:
                self.table.later(entry, now, BUSY_PAUSE)
            elif self.table.may_go_again(entry):
                self.table.queued(entry)
                entry.app.resends.append(entry.id)
            else:
                self._fail(entry, now)
        self._arm()

    def _fail(self, entry: Entry, now: float) -> None:
        """All tries are used up."""
        self.forget_surb(entry)
        self.table.over(entry, now)
        entry.app.tell(answers.reply(entry.id, entry.surb_id, b"", MAX_RETRIES))

    def _collect(self, entry: Entry) -> None:
        self.table.remove(entry)
        entry.app.tell(encode_response("message_id_garbage_collected", message_id=entry.id))
