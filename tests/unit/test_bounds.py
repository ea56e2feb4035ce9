"""Queues whose bounds are shown nowhere else; docs/packet-path.md lists all of them."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.client import arq, replies
from katzentwist.client.apps import App
from katzentwist.client.compose import ComposeError
from katzentwist.config.addresses import Address
from katzentwist.crypto import kem
from katzentwist.errors import StoreError
from katzentwist.mix import incoming
from katzentwist.net.tcp import Transports
from katzentwist.plugins import supervisor
from katzentwist.plugins.registry import Request
from katzentwist.sphinx import Geometry
from katzentwist.status.metrics import Metrics
from katzentwist.store import database
from katzentwist.thin.requests import SendMessage

pgpool: Any = None
http: Any = None
with contextlib.suppress(ImportError):  # without the extra
    from katzentwist.store import pgpool
with contextlib.suppress(ImportError):
    from katzentwist.store import http


class LinkTests(SynchronousTestCase):
    """Connections."""

    def test_backlog(self) -> None:
        """The kernel keeps so many that we have not accepted."""
        reactor = MemoryReactor()
        Transports(reactor).listen(Address("tcp", "127.0.0.1", 7)).listen(Factory())
        ((port, _, backlog, interface),) = reactor.tcpServers
        self.assertEqual((port, backlog, interface), (7, 1024, "127.0.0.1"))

    def test_files(self) -> None:
        """Accepted links leave open files to all else."""
        for files, links in ((65536, 65536 - 8192), (1024, 512), (16384, 8192)):
            self.patch(resource, "getrlimit", lambda which, files=files: (files, files))
            self.assertEqual(incoming.most_links(), links)


class PluginTests(SynchronousTestCase):
    """Requests that a plugin has and does not answer."""

    def test_forgotten(self) -> None:
        """The oldest ones are forgotten; those that somebody waits for are counted, and their answer is dropped."""
        self.patch(supervisor, "PENDING", 3)
        clock, metrics = Clock(), Metrics()
        config: Any = SimpleNamespace(protocol="async", config={}, capability="slow")
        around: Any = SimpleNamespace(
            clock=SimpleNamespace(monotonic=clock.seconds),
            metrics=metrics,
            reactor=clock,
            patience=1.0,
            period=600.0,
            response_size=2000,
        )
        service = supervisor.PluginService(config, around, lambda alive: None)
        sent: list[int] = []
        worker: Any = SimpleNamespace(
            free=True,
            connected=True,
            exchange=SimpleNamespace(load=lambda now: 0),
            send=lambda number, request: sent.append(number),
        )
        service._workers = [worker]
        replies: list[int] = []
        for which, surb in enumerate((b"s", None, b"s", b"s", b"s")):
            service.handle(
                Request(
                    payload=b"",
                    surb=surb,
                    arrived=0.0,
                    began=0.0,
                    delay=0.0,
                    reply=lambda payload, which=which: replies.append(which),
                    dropped=self.fail,
                )
            )
        self.assertEqual(metrics.value("plugin_requests_forgotten_total"), 1)
        self.assertEqual([service.answered(number, b"") for number in sent], [False, False, True, True, True])
        self.assertEqual(replies, [2, 3, 4])


class PostgresTests(SynchronousTestCase):
    """Calls that wait for a connection."""

    skip = None if pgpool is not None else "the extra postgres is not installed"

    def test_full(self) -> None:
        """One more fails at once; those before it still wait."""
        self.patch(pgpool, "WAITING", 2)
        pool = pgpool.Pool(Clock(), "", 1)
        pool._free.clear()  # somebody has the only connection
        self.patch(pgpool._Connection, "alive", True)
        calls = [Deferred.fromCoroutine(pool.call("SELECT 1", repeatable=True)) for _ in range(3)]
        self.assertIn("more than 2 calls wait", str(self.failureResultOf(calls[2], StoreError).value))
        for call in calls[:2]:
            self.assertNoResult(call)


class UserServiceTests(SynchronousTestCase):
    """Questions that wait for an HTTP service."""

    skip = None if http is not None else "the extra web is not installed"

    def test_full(self) -> None:
        """One more fails at once; those before it still wait, and fail in time."""
        self.patch(http, "AT_ONCE", 1)
        self.patch(http, "WAITING", 2)
        clock = Clock()
        silent: Any = SimpleNamespace(request=lambda *args, **more: Deferred())
        users = http.HTTPUserDB(clock, "http://127.0.0.1:1", kem.by_name("x25519"), silent)
        asked = [users.exists(b"alice") for _ in range(4)]
        self.assertIn("more than 2 questions wait", str(self.failureResultOf(asked[3], StoreError).value))
        for question in asked[:3]:
            self.assertNoResult(question)
        clock.advance(http.TIMEOUT)
        for question in asked[:3]:
            self.failureResultOf(question, StoreError)


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
