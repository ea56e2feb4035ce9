"""Queues whose bounds are shown nowhere else; docs/packet-path.md lists all of them."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.client import arq, replies
from katzentwist.client.apps import App
from katzentwist.client.compose import ComposeError
from katzentwist.errors import StoreError
from katzentwist.sphinx import Geometry
from katzentwist.store import database
from katzentwist.thin.requests import SendMessage


class DatabaseTests(SynchronousTestCase):
    """Operations that wait for a disk that does not answer."""

    def test_full(self) -> None:
        """One more fails at once; those before it still wait."""
        self.patch(database, "WAITING", 3)
        # Never opened: nothing is taken out of the queue.
        store = database.Database(Path("unused.db"), database.Schema(name="test", steps={}), lambda *call: None)
        waiting = [store.run(lambda connection: None) for _ in range(3)]
        self.assertIn("more than 3 operations", str(self.failureResultOf(store.run(lambda _: None), StoreError).value))
        for each in waiting:
            self.assertNoResult(each)


class ClientTests(SynchronousTestCase):
    """What the daemon remembers for applications."""

    def test_messages(self) -> None:
        """So many messages with repetition of one application, and of each other one as well."""
        self.patch(arq, "MOST", 2)
        table = arq.ArqTable(slop=1.0)
        greedy, other = App(b"a"), App(b"b")

        def message(number: int) -> SendMessage:
            return SendMessage(
                id=bytes([number]) * 16, with_surb=True, surb_id=None, destination=None, recipient=None, payload=b""
            )

        for number in range(2):
            table.add(greedy, message(number))
        self.assertRaises(ComposeError, table.add, greedy, message(2))
        table.add(other, message(0))
        self.assertEqual(len(table), 3)

    def test_replies(self) -> None:
        """Nothing more is awaited when too much is."""
        self.patch(replies, "MOST", 2)
        awaited = replies.ReplyTable(Geometry.from_user_payload(2000, 5, nike="x25519"))
        for number in range(2):
            self.assertFalse(awaited.full)
            awaited.add(
                replies.Awaited(surb_id=bytes([number]) * 16, keys=b"", owner=None, tag=None, deadline=float(number))
            )
        self.assertTrue(awaited.full)
