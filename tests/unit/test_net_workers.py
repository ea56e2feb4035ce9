"""Threads for computation."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
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


class SynchronousTests(SynchronousTestCase):
    """The switch for tests."""

    def test_at_once(self) -> None:
        """Results and failures come before submit returns."""
        got: list[Any] = []
        workers = SynchronousWorkers()
        workers.submit(lambda x: x + 1, (1,), got.append)
        workers.submit(lambda: 1 // 0, (), got.append)
        self.assertEqual(got[0], 2)
        self.assertIsInstance(got[1], Failure)
