"""Documents for clients: whole, in chunks, and many at once (link 7.3)."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

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
        self.desk = DocumentDesk(runtime(self.clock), lambda epoch: self.documents.get(epoch, ConsensusCode.NOT_FOUND))


class DocumentTests(DeskCase):
    """GetConsensus and GetConsensus2."""

    def test_whole(self) -> None:
        """As it came from the authority."""
        link = FakeLink(b"alice")
        self.desk.ask(link, GetConsensus(epoch=7))
        self.assertEqual(link.take(), [Consensus(error_code=0, payload=RAW)])

    def test_chunks(self) -> None:
        """Compressed pieces, in order; made once."""
        link = FakeLink(b"alice")
        for _ in range(2):
            self.desk.ask(link, GetConsensus2(epoch=7))
            whole = chunks.Reassembly()
            *parts, last = [whole.add(command) for command in link.take()]
            self.assertEqual((b"".join(last), set(parts) - {None}), (RAW, set()))
        self.assertEqual(len(self.desk._chunks), 1)

    def test_errors(self) -> None:
        """Not found and gone, in both forms."""
        self.documents[5] = ConsensusCode.GONE
        link = FakeLink(b"alice")
        for epoch, code in ((6, 1), (5, 2)):
            self.desk.ask(link, GetConsensus(epoch=epoch))
            self.desk.ask(link, GetConsensus2(epoch=epoch))
            self.assertEqual(
                link.take(),
                [Consensus(error_code=code), Consensus2(error_code=code, chunk_num=0, chunk_total=1)],
            )

    def test_another_document_of_the_epoch(self) -> None:
        """Replaces the kept one; few are kept."""
        link = FakeLink(b"alice")
        for epoch in range(7, 20):
            self.documents[epoch] = signed(b"%d" % epoch * 50)
            self.desk.ask(link, GetConsensus2(epoch=epoch))
            self.assertEqual(b"".join(chunks.Reassembly().add(link.take()[0])), self.documents[epoch].raw)
        self.assertLessEqual(len(self.desk._chunks), documents.KEPT)

    def test_client_that_does_not_read(self) -> None:
        """Gets nothing more until it reads, and is closed when it asks on and on."""
        link = FakeLink(b"alice")
        link.writable = False
        for _ in range(documents.DOCUMENTS):
            self.desk.ask(link, GetConsensus2(epoch=7))
        self.assertEqual((link.take(), link.closed), ([], False))
        link.writable = True
        self.desk.writable(link)
        self.assertEqual(sum(c.chunk_num == 0 for c in link.take()), documents.DOCUMENTS)
        link.writable = False
        for _ in range(documents.DOCUMENTS + 1):
            self.desk.ask(link, GetConsensus(epoch=7))
        self.assertTrue(link.closed)


class BusyLink(FakeLink):
    """Sending takes half of what a turn may take; after *room* commands its buffer is full."""

    def __init__(self, clock: Clock, room: int = 1000) -> None:
        super().__init__(b"name")
        self.clock, self.room = clock, room

    def send(self, command: Any) -> bool:
        self.clock.rightNow += documents.AT_ONCE / 2 + 1e-9
        self.room -= 1
        self.writable = self.room > 0
        return super().send(command)


class TurnTests(DeskCase):
    """Many clients at once."""

    def test_short_turns(self) -> None:
        """So much per turn, for all clients together, one after the other; all get everything."""
        links = [BusyLink(self.clock) for _ in range(5)]
        for link in links:
            self.desk.ask(link, GetConsensus2(epoch=7))
        sent = [0]
        while self.clock.getDelayedCalls():
            sent.append(sum(len(link.sent) for link in links))
            self.assertLessEqual(sent[-1] - sent[-2], 2)
            self.clock.advance(documents.AT_ONCE)
        first = min(len(link.sent) for link in links)
        for link in links:
            whole = chunks.Reassembly()
            self.assertEqual(b"".join([whole.add(command) for command in link.sent][-1]), RAW)
        self.assertGreater(first, 1)
        self.assertEqual(len(self.desk), 0)

    def test_full_buffer(self) -> None:
        """A client gets what its buffer takes, and the rest when it has read."""
        link = BusyLink(self.clock, room=2)
        self.desk.ask(link, GetConsensus2(epoch=7))
        self.clock.advance(10)
        self.assertEqual(len(link.sent), 2)
        link.writable, link.room = True, 1000
        self.desk.writable(link)
        while self.clock.getDelayedCalls():
            self.clock.advance(documents.AT_ONCE)
        whole = chunks.Reassembly()
        self.assertEqual(b"".join([whole.add(command) for command in link.sent][-1]), RAW)

    def test_gone(self) -> None:
        """A client that is gone gets nothing more, and does not hold up others."""
        gone, there = BusyLink(self.clock), BusyLink(self.clock)
        for link in (gone, there):
            self.desk.ask(link, GetConsensus2(epoch=7))
        self.desk.closed(gone)
        before = len(gone.sent)
        while self.clock.getDelayedCalls():
            self.clock.advance(documents.AT_ONCE)
        self.assertEqual(len(gone.sent), before)
        self.assertEqual(there.sent[-1].chunk_num + 1, there.sent[-1].chunk_total)

    def test_stop(self) -> None:
        """Nothing is left to do."""
        self.desk.ask(BusyLink(self.clock), GetConsensus2(epoch=7))
        self.desk.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
