"""Documents for clients: whole, in chunks, and many at once (link 7.3)."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.net import turns
from katzentwist.pki.document import SignedDocument
from katzentwist.provider import documents
from katzentwist.provider.documents import DocumentDesk
from katzentwist.randomness import SeededRandom
from katzentwist.wire import chunks
from katzentwist.wire.codes import ConsensusCode
from katzentwist.wire.commands import Consensus, Consensus2, GetConsensus, GetConsensus2

from .provider_runtime import FakeLink, runtime

RAW = SeededRandom(1).bytes(30000)


def signed(raw: bytes) -> SignedDocument:
    """A document that nobody looks into."""
    document: Any = None
    return SignedDocument(raw=raw, document=document, signers=(), missing=())


class DeskCase(SynchronousTestCase):
    """A desk on a fake clock."""

    def setUp(self) -> None:
        """A desk with the document of epoch 7."""
        self.clock = Clock()
        self.documents: dict[int, Any] = {7: signed(RAW)}
        self.runtime = runtime(self.clock)
        self.desk = DocumentDesk(self.runtime, lambda epoch: self.documents.get(epoch, ConsensusCode.NOT_FOUND))

    def ask(self, link: FakeLink, command: GetConsensus | GetConsensus2) -> list[Any]:
        """What a client gets that asks this."""
        self.desk.ask(link, command)
        self.finish()
        return link.take()

    def finish(self) -> None:
        """All turns that are left."""
        while self.clock.getDelayedCalls():
            self.clock.advance(0)


class DocumentTests(DeskCase):
    """GetConsensus and GetConsensus2."""

    def test_whole(self) -> None:
        """As it came from the authority."""
        link = FakeLink(b"alice")
        self.assertEqual(self.ask(link, GetConsensus(epoch=7)), [Consensus(error_code=0, payload=RAW)])

    def test_chunks(self) -> None:
        """Compressed pieces, in order; made once."""
        link = FakeLink(b"alice")
        for _ in range(2):
            whole = chunks.Reassembly()
            *parts, last = [whole.add(command) for command in self.ask(link, GetConsensus2(epoch=7))]
            self.assertEqual((b"".join(last), set(parts) - {None}), (RAW, set()))
        self.assertEqual(len(self.desk._chunks), 1)

    def test_errors(self) -> None:
        """Not found and gone, in both forms."""
        self.documents[5] = ConsensusCode.GONE
        link = FakeLink(b"alice")
        for epoch, code in ((6, 1), (5, 2)):
            self.desk.ask(link, GetConsensus(epoch=epoch))
            self.assertEqual(
                self.ask(link, GetConsensus2(epoch=epoch)),
                [Consensus(error_code=code), Consensus2(error_code=code, chunk_num=0, chunk_total=1)],
            )

    def test_another_document_of_the_epoch(self) -> None:
        """Replaces the kept one; few are kept."""
        link = FakeLink(b"alice")
        for epoch in range(7, 20):
            self.documents[epoch] = signed(b"%d" % epoch * 50)
            (only,) = self.ask(link, GetConsensus2(epoch=epoch))
            self.assertEqual(b"".join(chunks.Reassembly().add(only)), self.documents[epoch].raw)
        self.assertLessEqual(len(self.desk._chunks), documents.KEPT)

    def test_client_that_does_not_read(self) -> None:
        """Gets nothing more until it reads, and is closed when it asks on and on."""
        link = FakeLink(b"alice")
        link.writable = False
        for _ in range(documents.DOCUMENTS):
            self.desk.ask(link, GetConsensus2(epoch=7))
        self.finish()
        self.assertEqual((link.take(), link.closed), ([], False))
        link.writable = True
        self.desk.writable(link)
        self.finish()
        self.assertEqual(sum(c.chunk_num == 0 for c in link.take()), documents.DOCUMENTS)
        link.writable = False
        for _ in range(documents.DOCUMENTS + 1):
            self.desk.ask(link, GetConsensus(epoch=7))
        self.assertTrue(link.closed)
        self.assertEqual(self.runtime.metrics.value("document_requests_refused_total"), 1)


class BusyLink(FakeLink):
    """Sending takes a quarter of what a turn may take; after *room* commands its buffer is full."""

    def __init__(self, clock: Clock, room: int = 1000) -> None:
        super().__init__(b"name")
        self.clock, self.room = clock, room

    def send(self, command: Any) -> bool:
        self.clock.rightNow += turns.SLICE / 4 + 1e-9
        self.room -= 1
        self.writable = self.room > 0
        return super().send(command)


class TurnTests(DeskCase):
    """Many clients at once."""

    def test_short_turns(self) -> None:
        """A few chunks per turn, for one client after the other; all get everything."""
        links = [BusyLink(self.clock) for _ in range(5)]
        for link in links:
            self.desk.ask(link, GetConsensus2(epoch=7))
        sent = [0]
        while self.clock.getDelayedCalls():
            counts = [len(link.sent) for link in links]
            sent.append(sum(counts))
            self.assertLessEqual(sent[-1] - sent[-2], documents.AT_ONCE)
            self.assertLessEqual(max(counts) - min(counts), documents.AT_ONCE)
            self.clock.advance(0)
        for link in links:
            self.assertGreater(len(link.sent), documents.AT_ONCE)
            whole = chunks.Reassembly()
            self.assertEqual(b"".join([whole.add(command) for command in link.sent][-1]), RAW)
        self.assertEqual(len(self.desk), 0)

    def test_full_buffer(self) -> None:
        """A client gets what its buffer takes, and the rest when it has read."""
        link = BusyLink(self.clock, room=2)
        self.desk.ask(link, GetConsensus2(epoch=7))
        self.finish()
        self.assertEqual(len(link.sent), 2)
        link.writable, link.room = True, 1000
        self.desk.writable(link)
        self.finish()
        whole = chunks.Reassembly()
        self.assertEqual(b"".join([whole.add(command) for command in link.sent][-1]), RAW)

    def test_gone(self) -> None:
        """A client that is gone gets nothing more, and does not hold up others."""
        gone, there = BusyLink(self.clock), BusyLink(self.clock)
        for link in (gone, there):
            self.desk.ask(link, GetConsensus2(epoch=7))
        self.clock.advance(0)
        self.desk.closed(gone)
        before = len(gone.sent)
        self.assertGreater(before, 0)
        self.finish()
        self.assertEqual(len(gone.sent), before)
        self.assertEqual(there.sent[-1].chunk_num + 1, there.sent[-1].chunk_total)

    def test_stop(self) -> None:
        """Nothing more is sent."""
        link = BusyLink(self.clock)
        self.desk.ask(link, GetConsensus2(epoch=7))
        self.clock.advance(0)
        self.desk.stop()
        before = len(link.sent)
        self.finish()
        self.assertEqual(len(link.sent), before)
