"""Threads for computation."""

from __future__ import annotations

from threading import Lock
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from katzentwist.net.workers import SynchronousWorkers, ThreadWorkers


class BatchTests(TestCase):
    """Many small batches over the same threads."""

    def setUp(self) -> None:
        """Two threads."""
        self.workers = ThreadWorkers(reactor, 2)
        self.workers.start()
        self.addCleanup(self.workers.stop)

    def test_every_result_arrives(self) -> Deferred[None]:
        """Of 20,000 batches each gives its result once, and no wake-up is lost."""
        count = 20_000
        seen: list[int] = []
        all_there: Deferred[None] = Deferred()

        def done(result: int) -> None:
            seen.append(result)
            if len(seen) == count:
                self.assertEqual(sorted(seen), list(range(count)))
                all_there.callback(None)

        for i in range(count):
            self.workers.submit(lambda x: x, (i,), done)
        all_there.addTimeout(30, reactor)
        return all_there

    def test_failure(self) -> Deferred[None]:
        """An exception arrives as a Failure."""
        done: Deferred[Any] = Deferred()
        self.workers.submit(lambda: 1 // 0, (), done.callback)
        return self.assertFailure(done, ZeroDivisionError)

    def test_error_of_the_taker(self) -> Deferred[None]:
        """One who can not use its result costs nobody else theirs."""
        done: Deferred[Any] = Deferred()
        gate = Lock()
        gate.acquire()
        self.workers.submit(gate.acquire, (), lambda result: 1 // 0)
        self.workers.submit(gate.acquire, (), lambda result: done.callback(None))
        gate.release()  # both may now end, one after the other: in one wake-up or in two
        reactor.callLater(0.05, gate.release)
        for i in range(50):
            self.workers.submit(lambda x: x, (i,), lambda result: 1 // 0)
        done.addTimeout(10, reactor)
        return done.addCallback(self._logged)

    def _logged(self, _: object) -> Deferred[None]:
        later: Deferred[None] = Deferred()
        reactor.callLater(0.05, later.callback, None)
        return later.addCallback(lambda _: self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 51))

    def test_panic(self) -> Deferred[None]:
        """What is not even an Exception, as a panic of the native core, arrives too, and the thread goes on."""

        class Panic(BaseException):
            pass

        def panic() -> None:
            raise Panic

        done: Deferred[Any] = Deferred()
        for _ in range(5):
            self.workers.submit(panic, (), lambda result: None)
        self.workers.submit(panic, (), done.callback)
        done.addTimeout(10, reactor)
        return self.assertFailure(done, Panic)


class SynchronousTests(SynchronousTestCase):
    """The switch for tests."""

    def test_at_once(self) -> None:
        """Results and failures come before submit returns, a panic of the native core too."""
        got: list[Any] = []
        workers = SynchronousWorkers()

        class Panic(BaseException):
            pass

        def panic() -> None:
            raise Panic

        workers.submit(lambda x: x + 1, (1,), got.append)
        workers.submit(lambda: 1 // 0, (), got.append)
        workers.submit(panic, (), got.append)
        self.assertEqual(got[0], 2)
        self.assertTrue(got[1].check(ZeroDivisionError))
        self.assertTrue(got[2].check(Panic))
