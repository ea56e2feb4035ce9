"""Who is let in, what is kept, what is forgotten (provider 2.4, 2.5, 4)."""

from __future__ import annotations

from types import SimpleNamespace

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config.node import UserPolicy
from katzentwist.errors import SpoolFullError, StoreError
from katzentwist.mix.drops import DropReason
from katzentwist.provider.mailbox import Mailbox
from katzentwist.provider.outage import Outage
from katzentwist.testing.stores import MemorySpool, MemoryUsers

from ..vectorfiles import load, unhex

KEY, OTHER = b"k" * 32, b"o" * 32
SURB = bytes(16)


class MailboxCase(SynchronousTestCase):
    """A mailbox over databases in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.users, self.spool = MemoryUsers(), MemorySpool()
        self.mailbox = self.make(False, False)

    def make(self, ephemeral: bool, trust: bool, **more) -> Mailbox:
        policy = UserPolicy(ephemeral=ephemeral, trust_on_first_use=trust)
        return Mailbox(self.spool, self.users, policy, seconds=self.clock.seconds, patience=0.5, **more)

    def result(self, work):
        """Of a coroutine that ends at once."""
        return self.successResultOf(Deferred.fromCoroutine(work))


class AdmissionTests(MailboxCase):
    """The table of provider 2.4."""

    def test_unknown_users(self) -> None:
        """All four rows: let in or not, marked or not."""
        for ephemeral, trust, admitted, marked in (
            (False, False, False, False),
            (False, True, True, False),
            (True, False, True, True),
            (True, True, True, True),
        ):  # fmt: skip
            self.users = MemoryUsers()
            mailbox = self.make(ephemeral, trust)
            self.assertIs(self.result(mailbox.admit(b"alice", KEY)), admitted)
            self.assertEqual(b"alice" in self.users.keys, admitted)
            self.assertEqual(b"alice" in self.users.marks, marked)

    def test_known_users(self) -> None:
        """Need their key, whatever the switches say; nothing is made or marked."""
        for ephemeral, trust in ((False, False), (False, True), (True, False), (True, True)):
            self.users = MemoryUsers()
            self.users.keys[b"alice"] = KEY
            mailbox = self.make(ephemeral, trust)
            self.assertTrue(self.result(mailbox.admit(b"Alice", KEY)))
            self.assertFalse(self.result(mailbox.admit(b"alice", OTHER)))
            self.assertEqual((self.users.keys, self.users.marks), ({b"alice": KEY}, set()))

    def test_names(self) -> None:
        """Are made canonical as the vectors say; what is no name is refused."""
        mailbox = self.make(False, True)
        for vector in load("provider")["canonical"]:
            raw, expected = unhex(vector["name_hex"]), vector["canonical_hex"]
            self.users.keys.clear()
            self.assertEqual(self.result(mailbox.admit(raw, KEY)), expected is not None)
            self.assertEqual(list(self.users.keys), [] if expected is None else [unhex(expected)])

    def test_race(self) -> None:
        """Two who come at once under one name: the second one needs the key of the first."""
        mailbox = self.make(True, False)
        self.users.slow = True
        first = Deferred.fromCoroutine(mailbox.admit(b"alice", KEY))
        second = Deferred.fromCoroutine(mailbox.admit(b"alice", OTHER))
        third = Deferred.fromCoroutine(mailbox.admit(b"alice", KEY))
        for _ in range(4):
            self.users.release()
        self.assertEqual([self.successResultOf(d) for d in (first, second, third)], [True, False, True])

    def test_database_away(self) -> None:
        """A handshake fails; a re-check changes nothing."""
        self.users.failing = True
        self.failureResultOf(Deferred.fromCoroutine(self.mailbox.admit(b"alice", KEY)), StoreError)
        self.assertTrue(self.result(self.mailbox.still_valid(b"alice", KEY)))

    def test_recheck(self) -> None:
        """A removed user or another key ends the session, and nobody is made anew."""
        mailbox = self.make(True, True)
        self.result(mailbox.admit(b"alice", KEY))
        self.assertTrue(self.result(mailbox.still_valid(b"ALICE", KEY)))
        self.users.keys[b"alice"] = OTHER
        self.assertFalse(self.result(mailbox.still_valid(b"alice", KEY)))
        del self.users.keys[b"alice"]
        self.assertFalse(self.result(mailbox.still_valid(b"alice", KEY)))
        self.assertEqual(self.users.keys, {})

    def test_gateway_without_users(self) -> None:
        """Everybody is let in and stays, whatever the name; what is no name has no queue, a long one is cut."""
        mailbox = Mailbox(self.spool, None, None, seconds=self.clock.seconds, patience=1)
        self.assertTrue(self.result(mailbox.admit(b"Alice", KEY)))
        self.assertTrue(self.result(mailbox.still_valid(b"Alice", OTHER)))
        for name, queue in (
            (b"Alice" + bytes(27), b"Alice"),
            (b"", None),
            (bytes(32), None),
            (b"x" * 33, b"x" * 32),
            (b"x" * 255, b"x" * 32),
        ):
            self.assertTrue(self.result(mailbox.admit(name, KEY)))
            self.assertTrue(self.result(mailbox.still_valid(name, KEY)))
            self.assertEqual(mailbox.name(name), queue)


class StoringTests(MailboxCase):
    """What is kept for whom."""

    def setUp(self) -> None:
        super().setUp()
        self.users.keys[b"alice"] = KEY
        self.woken: list[bytes] = []
        self.mailbox.stored = self.woken.append

    def test_both_kinds_in_order(self) -> None:
        """Under the canonical name, whatever the recipient id's case and padding; each wakes."""
        self.assertIsNone(self.result(self.mailbox.store_message(b"ALICE".ljust(32, b"\0"), b"one")))
        self.assertIsNone(self.result(self.mailbox.store_surb_reply(b"alice".ljust(32, b"\0"), SURB, b"two")))
        self.assertEqual([e.message for e in self.spool.queues[b"alice"]], [b"one", b"two"])
        self.assertEqual(self.woken, [b"alice", b"alice"])

    def test_unknown(self) -> None:
        """Dropped by name, nothing kept."""
        for recipient in (b"bob".ljust(32, b"\0"), bytes(32)):
            self.assertIs(
                self.result(self.mailbox.store_message(recipient, b"x")), DropReason.GATEWAY_INVALID_RECIPIENT
            )
        self.assertEqual((self.spool.queues, self.woken), ({}, []))

    def test_failures(self) -> None:
        """Of either database: dropped by name, said once with the reason, then counted."""
        for database in (self.users, self.spool):
            database.failing = True
            for _ in range(3):
                reason = self.result(self.mailbox.store_message(b"alice", b"x"))
                self.assertIs(reason, DropReason.GATEWAY_STORE_FAILED)
            database.failing = False
            self.assertIsNone(self.result(self.mailbox.store_message(b"alice", b"x")))
        self.assertEqual(len(self.woken), 2)

    def test_full(self) -> None:
        """No room: the message is dropped and counted, and that is said once a minute; the database is well."""

        def full(user: bytes, message: bytes) -> Deferred[None]:
            return fail(SpoolFullError("3 messages wait for one user"))

        self.patch(self.spool, "store_message", full)
        said: list[str] = []
        self.patch(self.mailbox, "log", SimpleNamespace(warn=lambda text, why: said.append(why)))
        for seconds in (0, 1, 58, 2):
            self.clock.advance(seconds)
            self.assertIs(self.result(self.mailbox.store_message(b"alice", b"x")), DropReason.GATEWAY_STORE_FAILED)
        self.assertEqual(said, ["3 messages wait for one user"] * 2)

    def test_order_and_patience(self) -> None:
        """One at a time for a user; who waited too long is dropped, others are not held up."""
        self.users.keys[b"bob"] = KEY
        self.users.slow = True
        first = Deferred.fromCoroutine(self.mailbox.store_message(b"alice", b"one"))
        second = Deferred.fromCoroutine(self.mailbox.store_message(b"alice", b"two"))
        other = Deferred.fromCoroutine(self.mailbox.store_message(b"bob", b"three"))
        self.assertEqual(self.users.calls, 2)
        self.clock.advance(0.6)
        self.users.slow = False
        self.users.release()
        self.assertIsNone(self.successResultOf(first))
        self.assertIsNone(self.successResultOf(other))
        self.assertIs(self.successResultOf(second), DropReason.GATEWAY_DWELL_EXCEEDED)
        self.assertEqual([e.message for e in self.spool.queues[b"alice"]], [b"one"])
        self.assertEqual(len(self.mailbox._turns), 0)


class StartTests(MailboxCase):
    """Queues without a user (provider 4.4)."""

    def setUp(self) -> None:
        super().setUp()
        self.users.keys[b"alice"] = KEY
        for user in (b"alice", b"gone"):
            self.spool.store_message(user, b"x")

    def test_deleted(self) -> None:
        """At the start."""
        self.result(self.mailbox.open())
        self.assertEqual(list(self.spool.queues), [b"alice"])

    def test_failure_is_fatal(self) -> None:
        """The database is broken."""
        self.users.failing = True
        self.failureResultOf(Deferred.fromCoroutine(self.mailbox.open()), StoreError)

    def test_service_is_away(self) -> None:
        """An HTTP service that gives no answer: all queues stay."""
        self.users.failing = True
        self.result(self.make(False, False, elsewhere=True).open())
        self.assertEqual(list(self.spool.queues), [b"alice", b"gone"])


class GarbageTests(MailboxCase):
    """Ephemeral users who stay away (provider 2.5)."""

    def setUp(self) -> None:
        super().setUp()
        self.mailbox = self.make(True, False)
        for user in (b"here", b"away"):
            self.result(self.mailbox.admit(user, KEY))
        self.users.keys[b"permanent"] = KEY
        for user in self.users.keys:
            self.spool.store_message(user, b"x")

    def test_second_time(self) -> None:
        """Gone when the second run finds them away too, with their queue; the others stay."""
        self.result(self.mailbox.collect({b"here"}))
        self.assertIn(b"away", self.users.keys)
        self.result(self.mailbox.collect({b"here"}))
        self.assertEqual(set(self.users.keys), {b"here", b"permanent"})
        self.assertEqual(set(self.spool.queues), {b"here", b"permanent"})

    def test_coming_back_counts(self) -> None:
        """Who was there in between stays."""
        for connected in ({b"here"}, {b"here", b"away"}, {b"here"}):
            self.result(self.mailbox.collect(connected))
        self.assertIn(b"away", self.users.keys)

    def test_back_at_the_last_moment(self) -> None:
        """Who connects while others are removed stays, with what waits for him."""
        self.result(self.mailbox.admit(b"gone", KEY))
        connected = {b"here"}
        self.result(self.mailbox.collect(connected))
        removed, remove = [], self.users.remove

        def removing(user: bytes) -> Deferred[None]:
            removed.append(user)
            connected.update({b"away", b"gone"} - {user})
            return remove(user)

        self.users.remove = removing
        self.result(self.mailbox.collect(connected))
        self.assertEqual(len(removed), 1)
        [back] = {b"away", b"gone"} - set(removed)
        self.assertIn(back, self.users.keys)

    def test_without_the_switch(self) -> None:
        """Nobody is collected."""
        mailbox = self.make(False, True)
        for _ in range(3):
            self.result(mailbox.collect(set()))
        self.assertEqual(len(self.users.keys), 3)

    def test_failure(self) -> None:
        """Is for the next time."""
        self.result(self.mailbox.collect(set()))
        self.users.failing = True
        self.result(self.mailbox.collect(set()))
        self.users.failing = False
        self.result(self.mailbox.collect(set()))
        self.assertEqual(set(self.users.keys), {b"permanent"})

    def test_gateway_without_users(self) -> None:
        """Keeps the queues of those who are connected."""
        mailbox = Mailbox(self.spool, None, None, seconds=self.clock.seconds, patience=1)
        self.result(mailbox.collect({b"here"}))
        self.assertEqual(set(self.spool.queues), {b"here"})


class OutageTests(SynchronousTestCase):
    """One line, then a count each minute, then one when it works."""

    def test_lines(self) -> None:
        """A thousand failures in two minutes are three lines."""
        from twisted.logger import globalLogPublisher

        events: list = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        clock = Clock()
        outage = Outage("spool", clock.seconds)
        for _ in range(1000):
            outage.failed(StoreError("full"))
            clock.advance(0.13)
        outage.worked()
        outage.worked()
        lines = [(e["log_level"].name, e.get("count")) for e in events]
        self.assertEqual([level for level, _ in lines], ["error", "error", "error", "warn"])
        self.assertEqual(lines[-1][1], 1000)
