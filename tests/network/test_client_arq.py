"""Reliable messages (spec: client 14.2), with real packets on a fake clock."""

from __future__ import annotations

from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.client.apps import App
from katzentwist.client.arq import ArqTable
from katzentwist.thin.requests import SendMessage
from tests.network.test_client_daemon import DaemonTestCase


class TableTests(SynchronousTestCase):
    """The table alone."""

    def test_garbage_counts_from_the_first_packet(self) -> None:
        """However often it was sent, and whenever it was answered."""
        app = App(b"a" * 16)
        table = ArqTable(20.0)
        request = SendMessage(
            id=b"m" * 16, with_surb=True, surb_id=None, destination=None, recipient=None, payload=b"", arq=True
        )
        entry = table.add(app, request)
        self.assertTrue(table.sent(entry, b"1" * 16, 100.0, 3.0))
        self.assertEqual(table.next_deadline(), 100.0 + 3.0 + 20.0)
        self.assertFalse(table.sent(entry, b"2" * 16, 150.0, 9.0))
        self.assertEqual(table.next_deadline(), 150.0 + 9.0 + 20.0)
        table.over(entry, 160.0)
        self.assertEqual(table.next_deadline(), 100.0 + 3.0 + 300.0)
        table.over(entry, 500.0)
        self.assertEqual(table.next_deadline(), 500.0)


class ArqTests(DaemonTestCase):
    """One message at a time."""

    rates = {"lambda_p": 0.01}
    changes = {"disable_decoys": True}

    def test_reply(self) -> None:
        """Sent once, answered, collected once, five minutes after its estimate."""
        app = self.side.app()
        id_ = app.send(1, reliable=True)
        self.network.run(20)
        [sent], [reply] = app.all("message_sent_event"), app.all("message_reply_event")
        self.assertEqual((sent["message_id"], reply["message_id"]), (id_, id_))
        self.assertEqual(sent["surbid"], reply["surbid"])
        self.assertEqual(app.replies(), [b"payload 1"])
        self.assertEqual(app.all("message_id_garbage_collected"), [])
        self.network.run(300)
        self.assertEqual([e["message_id"] for e in app.all("message_id_garbage_collected")], [id_])
        self.assertEqual(len(self.side.daemon.reliable.table), 0)
        self.assertEqual(len(self.side.daemon.core.replies), 0)

    def test_failure(self) -> None:
        """Four packets, twenty seconds beyond each estimate, then code 5 and the garbage event at its time."""
        self.network.loss = 1.0
        app = self.side.app()
        id_ = app.send(1, reliable=True)
        self.network.run(120)
        times = self.network.arrivals
        self.assertEqual(len(times), 4)
        for a, b in zip(times, times[1:], strict=False):
            self.assertGreater(b - a, 20)
            self.assertLess(b - a, 26)
        [reply] = app.all("message_reply_event")
        self.assertEqual((reply["message_id"], reply["error_code"], reply["payload"]), (id_, 5, b""))
        self.assertEqual(len(app.all("message_sent_event")), 1)
        self.network.run(250)
        self.assertEqual(len(app.all("message_id_garbage_collected")), 1)

    def test_rotation(self) -> None:
        """Each packet has a SURB of its own; a reply to an older one does not count."""
        self.network.travels = False
        app = self.side.app()
        app.send(1, reliable=True)
        self.network.run(5)
        [entry] = self.side.daemon.reliable.table._entries.values()
        first = entry.surb_id
        self.network.run(22)
        self.assertNotEqual(entry.surb_id, first)
        self.assertEqual(len(self.side.daemon.core.replies), 1)
        self.network.travels = True
        self.network.run(30)
        self.assertEqual(app.replies(), [b"payload 1"])

    def test_cancel(self) -> None:
        """No answer, no more packets, collected at once; unknown ids are ignored."""
        self.network.loss = 1.0
        app = self.side.app()
        id_ = app.send(1, reliable=True)
        self.network.run(5)
        app.request("cancel_arq_message", id=b"?" * 16)
        app.request("cancel_arq_message", id=id_)
        self.network.run(0.1)
        self.assertEqual(len(app.all("message_id_garbage_collected")), 1)
        self.network.run(400)
        self.assertEqual(len(self.network.arrivals), 1)
        self.assertEqual(len(app.all("message_id_garbage_collected")), 1)
        self.assertEqual(app.all("message_reply_event"), [])

    def test_cancel_before_the_tick(self) -> None:
        """A message that was cancelled in the queue is never sent, and the next one is."""
        app = self.side.app()
        ids = [app.send(i, reliable=True) for i in range(3)]
        for id_ in ids[:2]:
            app.request("cancel_arq_message", id=id_)
        self.network.run(20)
        self.assertEqual(app.replies(), [b"payload 2"])

    def test_refused(self) -> None:
        """What can never be sent is refused at once: too large, unknown place, an id in use or missing."""
        app = self.side.app()
        app.send(1, reliable=True, payload=bytes(9999))
        app.send(2, reliable=True, destination_id_hash=b"?" * 32)
        app.send(3, reliable=True)
        app.send(3, reliable=True)
        app.send(4, reliable=True, id=None)
        self.network.run(10)
        errors = Counter(e.get("err", "")[:20] for e in app.all("message_sent_event"))
        self.assertEqual(
            errors,
            Counter(
                {
                    "": 1,
                    "message too large: 9": 1,
                    "client/conn: PKI err": 1,
                    "message id already i": 1,
                    "message id is missin": 1,
                }
            ),
        )

    def test_gateway_lost(self) -> None:
        """Point 7: the session ends before the reply; the message is sent again through the new one."""
        app = self.side.app()
        self.network.travels = False
        app.send(1, reliable=True)
        self.network.run(3)
        self.network.travels = True
        self.network.die()
        self.network.run(5)
        self.network.listen()
        self.network.run(90)
        self.assertEqual(app.replies(), [b"payload 1"])
        [sent] = app.all("message_sent_event")
        self.assertNotIn("err", sent)

    def test_application_away(self) -> None:
        """It comes back to its reply."""
        app = self.side.app()
        app.send(1, reliable=True)
        self.network.run(0.1)
        app.transport.loseConnection()
        self.network.run(60)
        again = self.side.app()
        self.assertEqual(again.replies(), [b"payload 1"])

    def test_nothing_is_sent_again_while_it_is_away(self) -> None:
        """The tries are for later; when it is back the message goes on where it was."""
        self.network.loss = 1.0
        app = self.side.app()
        app.send(1, reliable=True)
        self.network.run(5)
        app.transport.loseConnection()
        self.network.run(200)
        self.assertEqual(len(self.network.arrivals), 1)
        self.network.loss = 0.0
        again = self.side.app()
        self.network.run(10)
        self.assertEqual(len(self.network.arrivals), 2)
        self.assertEqual(again.replies(), [b"payload 1"])

    def test_cancelled_while_a_packet_is_made(self) -> None:
        """Nobody waits for its reply."""
        self.network.loss = 1.0
        app = self.side.app()
        self.side.delay(3.0)
        id_ = app.send(1, reliable=True)
        while not self.side.daemon.sender._working:
            self.network.run(0.1)
        app.request("cancel_arq_message", id=id_)
        self.network.run(1.0)
        self.assertEqual(self.network.arrivals, [])
        self.network.run(20)
        self.assertEqual(len(self.network.arrivals), 1)
        self.assertEqual((len(self.side.daemon.reliable.table), len(self.side.daemon.core.replies)), (0, 0))
        self.assertEqual(app.names()[3:], ["message_id_garbage_collected"])

    def test_forgotten(self) -> None:
        """thin_close ends everything at once."""
        self.network.loss = 1.0
        app = self.side.app()
        app.send(1, reliable=True)
        self.network.run(5)
        app.request("thin_close")
        self.network.run(400)
        self.assertEqual(len(self.network.arrivals), 1)
        self.assertEqual((len(self.side.daemon.reliable.table), len(self.side.daemon.core.replies)), (0, 0))

    def test_suspend(self) -> None:
        """The wall clock jumps an hour: the old documents are of no use, new ones come, the message gets through."""
        app = self.side.app()
        self.network.clock.step = 3600
        app.send(1, reliable=True)
        self.network.run(120)
        self.assertEqual(app.replies(), [b"payload 1"])


class LossTests(DaemonTestCase):
    """A thousand messages, of which every fifth packet vanishes."""

    rates = {"lambda_p": 0.05, "mu": 0.05}
    changes = {"disable_decoys": True}

    def test_loss(self) -> None:
        """Each is answered or fails after four packets; none twice; one garbage event each."""
        self.network.loss = 0.2
        app = self.side.app()
        ids = [app.send(i, reliable=True) for i in range(1000)]
        self.network.run(500)
        ends = Counter(e["message_id"] for e in app.all("message_reply_event"))
        collected = Counter(e["message_id"] for e in app.all("message_id_garbage_collected"))
        self.assertEqual(ends, Counter(ids))
        self.assertEqual(collected, Counter(ids))
        failed = [e for e in app.all("message_reply_event") if e["error_code"]]
        self.assertEqual({e["error_code"] for e in failed} | {5}, {5})
        packets = len(self.network.arrivals)
        print(f"answered {1000 - len(failed)}, failed {len(failed)}, packets {packets}, lost {self.network.lost}")
        self.assertLess(len(failed), 10)
        self.assertEqual(packets, 1000 - len(failed) + self.network.lost)
