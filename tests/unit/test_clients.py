"""Sessions of clients: push delivery, documents, rate limit (node 5.5 to 5.7, provider 4.3 and 8)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from katzentwist.config.node import UserPolicy
from katzentwist.mix.ends import IClients
from katzentwist.pki.document import SignedDocument
from katzentwist.provider.clients import CHECKS, Clients
from katzentwist.provider.mailbox import Mailbox
from katzentwist.provider.ratelimit import LimitSource, RateLimit, TokenBucket
from katzentwist.testing.stores import MemorySpool, MemoryUsers
from katzentwist.wire.codes import ConsensusCode
from katzentwist.wire.commands import (
    Message,
    MessageDelivered,
    NoOp,
)

from ..vectorfiles import load
from .provider_runtime import GEOMETRY, PERIOD, REPLY, FakeLink, runtime

SURB = bytes(range(16))
RAW = bytes(range(256)) * 60


def signed(raw: bytes) -> SignedDocument:
    """A document that nobody looks into."""
    return SignedDocument(raw=raw, document=None, signers=(), missing=())


class ClientCase(SynchronousTestCase):
    """A gateway's clients on a fake clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.runtime = runtime(self.clock)
        self.spool, self.users = MemorySpool(), MemoryUsers()
        for user in (b"alice", b"bob"):
            self.users.keys[user] = b"k" * 32
        policy = UserPolicy(ephemeral=False, trust_on_first_use=False)
        self.mailbox = Mailbox(self.spool, self.users, policy, seconds=self.clock.seconds, patience=1)
        self.documents: dict[int, Any] = {7: signed(RAW)}
        self.clients = Clients(
            self.runtime,
            self.mailbox,
            LimitSource(),
            lambda epoch: self.documents.get(epoch, ConsensusCode.NOT_FOUND),
        )

    def connect(self, name: bytes = b"alice") -> FakeLink:
        link = FakeLink(name)
        self.clients.opened(link)
        return link

    def reply(self, number: int, user: bytes = b"alice") -> bytes:
        """Store a SURB reply; its payload."""
        payload = bytes([number]) * REPLY
        stored = Deferred.fromCoroutine(self.mailbox.store_surb_reply(user, SURB, payload))
        self.assertIsNone(self.successResultOf(stored))
        return payload

    def ack(self, link: FakeLink, sequence: int) -> None:
        self.clients.command(link, MessageDelivered(sequence=sequence))

    def wait(self, seconds: float) -> None:
        """In steps of half a second."""
        for _ in range(round(2 * seconds)):
            self.clock.advance(0.5)


class PushTests(ClientCase):
    """Stop and wait."""

    def test_interface(self) -> None:
        """It is an IClients."""
        verifyObject(IClients, self.clients)

    def test_one_at_a_time(self) -> None:
        """What waited is sent on connecting, the next one after the acknowledgement; sequences begin with 1."""
        payloads = [self.reply(n) for n in range(3)]
        link = self.connect()
        for number, payload in enumerate(payloads, 1):
            self.assertEqual(link.take(), [Message(sequence=number, surb_id=SURB, payload=payload)])
            self.wait(5)
            self.assertEqual(link.take(), [])
            self.ack(link, number)
        self.assertEqual((link.take(), self.spool.queues[b"alice"]), ([], []))

    def test_other_sequences_are_ignored(self) -> None:
        """Before, after, and long ago."""
        self.reply(1)
        self.reply(2)
        link = self.connect()
        for sequence in (0, 2, 2**32 - 1):
            self.ack(link, sequence)
        self.assertEqual(len(link.take()), 1)
        self.ack(link, 1)
        self.ack(link, 1)
        self.assertEqual([m.sequence for m in link.take()], [2])
        self.assertEqual(len(self.spool.queues[b"alice"]), 1)

    def test_new_entries_wake(self) -> None:
        """The client is told at once."""
        link = self.connect()
        self.assertEqual(link.take(), [])
        self.reply(1)
        self.assertEqual(len(link.take()), 1)

    def test_names_are_canonical(self) -> None:
        """Mail for alice reaches who connected as ALICE, padded or not."""
        link = self.connect(b"ALICE")
        self.reply(1, b"alice".ljust(32, b"\0"))
        self.assertEqual(len(link.take()), 1)

    def test_heartbeats(self) -> None:
        """One NoOp every 10 s without a push; none while an acknowledgement is awaited; anew after one."""
        link = self.connect()
        self.wait(9.5)
        self.assertEqual(link.take(), [])
        self.wait(20.5)
        self.assertEqual(link.take(), [NoOp()] * 3)
        self.wait(9)
        self.reply(1)
        self.assertEqual(len(link.take()), 1)
        self.wait(30)
        self.assertEqual(link.take(), [])
        self.ack(link, 1)
        self.wait(9.5)
        self.assertEqual(link.take(), [])
        self.wait(1)
        self.assertEqual(link.take(), [NoOp()])

    def test_no_acknowledgement(self) -> None:
        """60 s: the connection is closed, the entry stays for the next one."""
        payload = self.reply(1)
        link = self.connect()
        self.wait(59.5)
        self.assertFalse(link.closed)
        self.wait(1)
        self.assertTrue(link.closed)
        self.clients.closed(link)
        link = self.connect()
        self.assertEqual(link.take(), [Message(sequence=1, surb_id=SURB, payload=payload)])

    def test_lost_connection(self) -> None:
        """An entry that was not acknowledged is sent again, one that was is not."""
        self.reply(1)
        second = self.reply(2)
        link = self.connect()
        self.ack(link, 1)
        self.clients.closed(link)
        self.assertEqual(len(self.clients), 0)
        self.assertEqual(self.connect().take(), [Message(sequence=1, surb_id=SURB, payload=second)])

    def test_plain_messages(self) -> None:
        """A SURB id of zero bytes, and the payload filled up (provider 4.3)."""
        text = b"t" * GEOMETRY.user_forward_payload_length
        stored = Deferred.fromCoroutine(self.mailbox.store_message(b"alice", text))
        self.assertIsNone(self.successResultOf(stored))
        link = self.connect()
        self.assertEqual(link.take(), [Message(sequence=1, surb_id=bytes(16), payload=text.ljust(REPLY, b"\0"))])

    def test_wrong_sizes(self) -> None:
        """Are dropped; what is behind them is delivered."""
        self.spool.store_surb_reply(b"alice", SURB, b"short")
        self.spool.store_surb_reply(b"alice", b"id", bytes(REPLY))
        self.spool.store_message(b"alice", bytes(GEOMETRY.user_forward_payload_length + 1))
        payload = self.reply(4)
        link = self.connect()
        self.assertEqual(link.take(), [Message(sequence=1, surb_id=SURB, payload=payload)])
        self.assertEqual(len(self.spool.queues[b"alice"]), 1)

    def test_newest_session_delivers(self) -> None:
        """The older one is silent but for heartbeats; when the newer one goes, it takes over."""
        older, newer = self.connect(), self.connect()
        self.reply(1)
        self.assertEqual((older.take(), len(newer.take())), ([], 1))
        self.wait(10)
        self.assertEqual(older.take(), [NoOp()])
        self.clients.closed(newer)
        self.assertEqual(len(older.take()), 1)

    def test_late_acknowledgement_of_the_older_session(self) -> None:
        """Deletes the entry it was for, and no other."""
        self.reply(1)
        second = self.reply(2)
        older = self.connect()
        newer = self.connect()
        self.assertEqual(newer.take(), older.take())
        self.ack(older, 1)
        self.ack(newer, 1)
        self.assertEqual(newer.take(), [Message(sequence=2, surb_id=SURB, payload=second)])
        self.assertEqual(older.take(), [])
        self.assertEqual(len(self.spool.queues[b"alice"]), 1)

    def test_database_away(self) -> None:
        """Heartbeats go on; when it is back, the acknowledged entry is deleted and the next one sent, once."""
        self.reply(1)
        second = self.reply(2)
        link = self.connect()
        link.take()
        self.spool.failing = True
        self.ack(link, 1)
        self.wait(60)
        self.assertEqual(link.take(), [NoOp()] * 6)
        self.assertFalse(link.closed)
        self.assertLess(self.spool.calls, 25)
        self.spool.failing = False
        self.wait(6)
        self.assertEqual(link.take(), [Message(sequence=2, surb_id=SURB, payload=second)])

    def test_database_hangs(self) -> None:
        """Heartbeats go on."""
        self.spool.slow = True
        link = self.connect()
        self.wait(20)
        self.assertEqual(link.take(), [NoOp()] * 2)
        self.clients.closed(link)
        self.spool.release()

    def test_nothing_is_left(self) -> None:
        """No timer of a client that is gone, in whatever state it went."""
        self.reply(1)
        pushing, waiting = self.connect(), self.connect(b"bob")
        for link in (pushing, waiting):
            self.clients.closed(link)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RecheckTests(ClientCase):
    """Users who are removed or changed."""

    def test_removed(self) -> None:
        """At the re-check, or at once when a command says so; others stay."""
        alice, bob = self.connect(), self.connect(b"bob")
        self.users.keys[b"alice"] = b"o" * 32
        del self.users.keys[b"bob"]
        self.clients.recheck_user(b"alice")
        self.assertEqual((alice.closed, bob.closed), (True, False))
        self.clients.recheck(bob)
        self.assertTrue(bob.closed)

    def test_many(self) -> None:
        """A round asks the database a few questions at a time, each session once; a command does not wait for it."""
        asked: list[tuple[bytes, Deferred[bool]]] = []

        def is_valid(user: bytes, key: bytes) -> Deferred[bool]:
            asked.append((user, Deferred()))
            return asked[-1][1]

        self.patch(self.users, "is_valid", is_valid)
        links = [self.connect() for _ in range(3 * CHECKS)]
        gone = links.pop()
        for link in (*links, gone, *links):
            self.clients.recheck(link)
        self.clients.closed(gone)
        self.assertEqual(len(asked), CHECKS)
        self.connect(b"bob")
        self.clients.recheck_user(b"bob")
        self.assertEqual(asked.pop()[0], b"bob")
        for number in range(len(links) + CHECKS):  # the first ones had been asked when they came again
            asked[number][1].callback(number != 2)
        self.assertEqual(len(asked), len(links) + CHECKS)
        self.assertEqual([link.closed for link in links], [number == 2 for number in range(len(links))])
        self.clients.recheck(links[0])
        self.assertEqual(len(asked), len(links) + CHECKS + 1)

    def test_database_away(self) -> None:
        """Disconnects nobody."""
        link = self.connect()
        self.users.failing = True
        self.clients.recheck(link)
        self.assertFalse(link.closed)

    def test_garbage_collection_runs(self) -> None:
        """Every period, from one period after the start on."""
        self.mailbox.policy = UserPolicy(ephemeral=True, trust_on_first_use=False)
        for user in (b"alice", b"bob"):
            self.users.marks.add(user)
        self.connect()
        self.clients.start()
        self.addCleanup(self.clients.stop)
        self.clock.advance(PERIOD)
        self.assertIn(b"bob", self.users.keys)
        self.clock.advance(PERIOD)
        self.assertEqual(set(self.users.keys), {b"alice"})


class RateTests(ClientCase):
    """Token buckets."""

    def test_vectors(self) -> None:
        """Interval and capacity from the document's rates."""
        for vector in load("node")["rate_limit"]:
            limit = RateLimit.from_rates(vector["lambda_p"], vector["lambda_l"])
            self.assertEqual((limit.interval_ns, limit.capacity), (vector["interval_ns"], vector["capacity"]))

    def _allowed(self, link: FakeLink, count: int) -> int:
        return len(self.clients.allow(link, [b"packet"] * count))

    def test_thirty_per_minute_bursts_of_four(self) -> None:
        """A quiet client's 20 packets: 4 at once, then one every 2 s, whatever 200 others do."""
        self.clients.limits.send_rate(30)
        quiet = self.connect()
        self.wait(60)
        busy = [self.connect(b"bob") for _ in range(200)]
        for link in busy:
            self._allowed(link, 50)
        self.assertEqual(self._allowed(quiet, 20), 4)
        passed = []
        for second in range(1, 11):
            self.clock.advance(1)
            for link in busy:
                self._allowed(link, 5)
            passed.append(self._allowed(quiet, 3))
        self.assertEqual(passed, [0, 1] * 5)
        dropped = self.runtime.metrics.value("dropped_reason_total", reason="gateway_rate_limited")
        self.assertGreater(dropped, 10_000)

    def test_a_new_connection_starts_with_one(self) -> None:
        """And so does a limit that switches on."""
        link = self.connect()
        self.assertEqual(self._allowed(link, 500), 500)
        self.clients.limits.use_document(0.001, 0.001)
        self.clients.limits_changed()
        self.assertEqual(self._allowed(link, 5), 1)
        self.assertEqual(self._allowed(self.connect(b"bob"), 5), 1)

    def test_commands(self) -> None:
        """The table of provider 8, one command after the other."""
        source = LimitSource()
        source.use_document(0.001, 0.001)
        document = source.current()
        self.assertEqual(document.capacity, 256)
        source.send_burst(9)
        self.assertEqual(source.current(), RateLimit(document.interval_ns, 9))
        source.send_rate(30)
        self.assertEqual(source.current(), RateLimit(2_000_000_000, 9))
        source.use_document(0.5, 0.5)
        self.assertEqual(source.current(), RateLimit(2_000_000_000, 9))
        source.send_rate(0)
        self.assertEqual(source.current(), RateLimit())
        source.send_rate(60_001)
        self.assertEqual(source.current(), RateLimit())
        source.send_rate(7)
        self.assertEqual(source.current(), RateLimit(8_571_000_000, 9))
        source.send_burst(0)
        self.assertEqual(source.current(), RateLimit())
        fresh = LimitSource()
        fresh.send_rate(30)
        self.assertEqual(fresh.current().capacity, 4)
        off = LimitSource(disabled=True)
        off.send_rate(1)
        off.send_burst(1)
        off.use_document(1, 1)
        self.assertEqual(off.current(), RateLimit())

    def test_a_change_keeps_what_fits(self) -> None:
        """Tokens are cut to the new capacity, not given anew."""
        bucket = TokenBucket()
        bucket.set_limit(RateLimit(1_000_000_000, 10), 0.0)
        self.assertTrue(bucket.allow(20.0))
        bucket.set_limit(RateLimit(1_000_000_000, 3), 20.0)
        self.assertEqual([bucket.allow(20.0) for _ in range(4)], [True, True, True, False])
        bucket.set_limit(RateLimit(1_000_000_000, 8), 20.0)
        self.assertFalse(bucket.allow(20.0))

    def test_exact_intervals(self) -> None:
        """Over a day of a token each 0.3 s none is lost or won by rounding."""
        bucket = TokenBucket()
        bucket.set_limit(RateLimit(300_000_000, 4), 0.0)
        bucket.allow(0.0)
        passed = sum(bucket.allow(0.15 * n) for n in range(1, 2 * 10_000 + 1))
        self.assertIn(passed, (9_999, 10_000))

    def test_unknown_link(self) -> None:
        """Nothing passes."""
        self.assertEqual(self.clients.allow(FakeLink(b"x"), [b"p"]), [])
        self.clients.command(FakeLink(b"x"), NoOp())
        self.assertIsInstance(self.runtime, SimpleNamespace)
