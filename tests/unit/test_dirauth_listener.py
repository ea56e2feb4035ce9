"""Connections of the authority: what is bounded, and who goes when there are too many (pki 10.1)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.dirauth import listener as module
from katzentwist.dirauth.listener import AuthorityListener
from katzentwist.status.metrics import Metrics
from katzentwist.wire import PeerCredentials
from katzentwist.wire.commands import Consensus, GetConsensus, PostDescriptor, PostDescriptorStatus

CONTAINER = bytes(1000)


class Link:
    """A connection whose peer reads when the test says so."""

    initiator = False
    established = True
    accepts: Any = None
    stage = ""

    def __init__(self, address: str = "192.0.2.1", reads: bool = True) -> None:
        self.peer = PeerCredentials(additional_data=b"n" * 32, link_key=b"k")
        self.remote_address, self.writable = address, reads
        self.sent: list[Any] = []
        self.closing = False
        self.age = 0.0

    def send(self, command: Any) -> bool:
        """Keep it."""
        self.sent.append(command)
        return not self.closing

    def close(self) -> None:
        """The test tells the owner."""
        self.closing = True


class BoundsTests(SynchronousTestCase):
    """One listener without a network."""

    def setUp(self) -> None:
        """Uploads wait for the test."""
        self.posts: list[Deferred[int]] = []
        self.owner: Any = AuthorityListener(
            lambda node: True, self.post, lambda epoch: (0, CONTAINER) if epoch else (1, b""), Metrics()
        )

    def post(self, peer: bytes, epoch: int, payload: bytes) -> Deferred[int]:
        """Looked at until the test says so."""
        self.posts.append(Deferred())
        return self.posts[-1]

    def open(self, **options: Any) -> Link:
        """A connection past its handshake."""
        link = Link(**options)
        self.owner.established(link)
        return link

    def ask(self, command: Any, **options: Any) -> Link:
        """A connection that has asked."""
        link = self.open(**options)
        self.owner.commandReceived(link, command)
        return link

    def gone(self, link: Link) -> None:
        """The connection ended."""
        self.owner.closed(link, Exception("test"))

    def test_silent(self) -> None:
        """Too many that ask nothing: the oldest goes, and those who have asked stay."""
        self.patch(module, "MAX_SILENT_PER_ADDRESS", 3)
        self.setUp()
        asked = [self.ask(PostDescriptor(epoch=1, payload=b"x")) for _ in range(5)]
        silent = [self.open() for _ in range(5)]
        self.assertEqual([link.closing for link in silent], [True, True, False, False, False])
        self.assertFalse(any(link.closing for link in asked))
        self.assertEqual(self.owner.counts, {"open": 10, "waiting": 5, "evicted": 2})
        for post in self.posts:
            post.callback(0)
        self.assertTrue(all(link.sent == [PostDescriptorStatus(error_code=0)] and link.closing for link in asked))
        self.assertEqual(self.owner.counts["waiting"], 0)

    def test_requests(self) -> None:
        """Too many requests: the newest is refused."""
        self.patch(module, "MAX_REQUESTS", 2)
        links = [self.ask(PostDescriptor(epoch=1, payload=b"x")) for _ in range(3)]
        self.assertEqual([link.closing for link in links], [False, False, True])
        self.assertEqual((len(self.posts), self.owner.counts["evicted"]), (2, 1))
        self.posts[0].callback(0)
        self.ask(PostDescriptor(epoch=1, payload=b"x"))
        self.assertEqual(len(self.posts), 3)

    def test_large_uploads(self) -> None:
        """Too many bytes of uploads: the newest is refused."""
        self.patch(module, "MAX_POSTING", 250)
        links = [self.ask(PostDescriptor(epoch=1, payload=bytes(100))) for _ in range(3)]
        self.assertEqual([link.closing for link in links], [False, False, True])

    def test_documents(self) -> None:
        """So many at a time; the others wait and get theirs in turn."""
        self.patch(module, "MAX_SENDING", 2)
        links = [self.ask(GetConsensus(epoch=1), reads=False) for _ in range(4)]
        self.assertEqual([len(link.sent) for link in links], [1, 1, 0, 0])
        self.owner.writable(links[0])
        self.assertEqual([link.closing for link in links], [True, False, False, False])
        self.gone(links[0])
        self.assertEqual([len(link.sent) for link in links], [1, 1, 1, 0])
        self.gone(links[3])
        self.gone(links[1])
        self.assertEqual([len(link.sent) for link in links], [1, 1, 1, 0])
        self.assertEqual(self.owner.counts["waiting"], 0)
        self.assertEqual(links[2].sent, [Consensus(error_code=0, payload=CONTAINER)])

    def test_one_who_does_not_read(self) -> None:
        """Goes when others wait and its patience must be over, and is counted."""
        self.patch(module, "MAX_SENDING", 1)
        slow = self.ask(GetConsensus(epoch=1), reads=False)
        self.ask(GetConsensus(epoch=1), reads=False)
        self.assertFalse(slow.closing)
        self.assertEqual(self.owner.counts["evicted"], 0)
        slow.age = module.PATIENCE + 1
        for _ in range(3):  # it needs a moment to go, and counts once
            self.ask(GetConsensus(epoch=1), reads=False)
            self.assertTrue(slow.closing)
            self.assertEqual(self.owner.counts["evicted"], 1)

    def test_readers(self) -> None:
        """Who takes a document at once holds nobody up."""
        self.patch(module, "MAX_SENDING", 1)
        links = [self.ask(GetConsensus(epoch=1)) for _ in range(5)]
        self.assertTrue(all(link.closing and len(link.sent) == 1 for link in links))
