"""Frames with documents: made in threads, the same bytes as any other response."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import cbor2
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.client import frames
from katzentwist.client.apps import App
from katzentwist.client.frames import AT_ONCE, LARGE, DocumentFrames
from katzentwist.client.listener import PIECE, AppConnection, Phase
from katzentwist.thin.protocol import SERVICE_UNAVAILABLE, encode_document, encode_response
from katzentwist.thin.requests import GetDocument

QUERY = b"q" * 16


class EncodingTests(SynchronousTestCase):
    """A frame in parts."""

    def test_equal(self) -> None:
        """Joined, it is what encode_response gives, whatever the size of the payload."""

        @settings(max_examples=60, deadline=None)
        @given(st.integers(0, 300) | st.integers(65530, 65540), st.integers(0, 1 << 40), st.binary(max_size=20))
        def check(size: int, epoch: int, query: bytes) -> None:
            values = {"query_id": query, "epoch": epoch, "error_code": 0}
            payload = bytes(size)
            self.assertEqual(
                b"".join(encode_document("get_pki_document_reply", payload, **values)),
                encode_response("get_pki_document_reply", payload=payload, **values),
            )
            self.assertEqual(
                b"".join(encode_document("new_pki_document_event", payload)),
                encode_response("new_pki_document_event", payload=payload),
            )

        check()


class Signed:
    """As much of a SignedDocument as is needed."""

    def __init__(self, epoch: int, size: int) -> None:
        self.raw = bytes([epoch]) * size
        self.document = self
        self.epoch = epoch

    def payload(self) -> bytes:
        """Without signatures."""
        return self.raw[1:]


class Core:
    """The documents of a client."""

    def __init__(self, *held: Signed) -> None:
        self.held = {signed.epoch: signed for signed in held}
        self.documents = self.epochs = self
        self.now = 7
        self.insisted = 0

    def signed_document(self) -> Signed | None:
        return self.held.get(self.now)

    def insist(self) -> None:
        self.insisted += 1

    def unix_time(self) -> float:
        return 0.0

    def number(self, _time: float) -> int:
        return self.now


class Workers:
    """Work when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Deferred[Any], Any]] = []

    def run(self, function: Any, *args: Any) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred()
        self.waiting.append((waiting, lambda: function(*args)))
        return waiting

    def work(self) -> None:
        """Do all of it."""
        waiting, self.waiting = self.waiting, []
        for deferred, job in waiting:
            deferred.callback(job())


class Socket:
    """What an application gets."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def tell(self, frame: bytes) -> None:
        self.frames.append(frame)

    @property
    def answers(self) -> list[dict[str, Any]]:
        """The replies in them."""
        return [cbor2.loads(frame[4:])["get_pki_document_reply"] for frame in self.frames]


class FullSocket:
    """Takes one write, and then asks to wait."""

    def __init__(self, connection: AppConnection) -> None:
        self.connection = connection
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.connection.pauseProducing()


class WritingTests(SynchronousTestCase):
    """Frames of megabytes on the way to an application."""

    def test_pieces(self) -> None:
        """They are written a piece at a time, as the socket takes them, and what is behind them stays behind."""
        clock = Clock()
        connection = AppConnection(Mock(), Mock(), clock)
        connection.phase = Phase.OPEN
        connection.transport = socket = FullSocket(connection)
        frames = [bytes([1]) * (2 * PIECE + 5), b"small", bytes([2]) * PIECE, b"last"]
        for frame in frames:
            connection.tell(frame)
        while connection._unsent:
            self.assertEqual(connection._unsent_size, sum(map(len, frames)) - sum(map(len, socket.writes)))
            connection.resumeProducing()
        self.assertEqual(list(map(len, socket.writes)), [PIECE, PIECE, 5, 5, PIECE, 4])
        self.assertEqual(b"".join(socket.writes), b"".join(frames))
        self.assertEqual(connection._unsent_size, 0)


class FrameTests(SynchronousTestCase):
    """Threads and bounds."""

    def make(self, *held: Signed) -> None:
        """A desk with these documents, and an application."""
        self.core, self.workers, self.socket = Core(*held), Workers(), Socket()
        self.frames = DocumentFrames(self.core, self.workers)  # type: ignore[arg-type]
        self.app = App(id=b"a", connection=self.socket)  # type: ignore[arg-type]

    def test_prepared(self) -> None:
        """The frame is ready once the thread has made it, and is made once."""
        self.make(Signed(7, 100))
        prepared = self.frames.prepare()
        self.assertNoResult(prepared)
        self.assertFalse(self.frames.is_ready)
        self.workers.work()
        self.successResultOf(prepared)
        self.assertTrue(self.frames.is_ready)
        self.patch(frames, "announcement", None)
        self.assertEqual(self.frames.current(), encode_response("new_pki_document_event", payload=bytes([7]) * 99))
        self.successResultOf(self.frames.prepare())
        self.assertEqual(self.workers.waiting, [])

    def test_overtaken(self) -> None:
        """A frame that is done when another document is in use is not told."""
        self.make(Signed(7, 100), Signed(8, 100))
        prepared = self.frames.prepare()
        self.core.now = 8
        self.workers.work()
        self.successResultOf(prepared)
        self.assertFalse(self.frames.is_ready)
        self.assertEqual(self.frames.current(), encode_response("new_pki_document_event", payload=bytes([8]) * 99))
        self.assertTrue(self.frames.is_ready)

    def test_none(self) -> None:
        """Without a document the frame is null, and never ready."""
        self.make()
        self.successResultOf(self.frames.prepare())
        self.assertEqual(self.frames.current(), encode_response("new_pki_document_event"))
        self.assertFalse(self.frames.is_ready)

    def test_answers(self) -> None:
        """A small document is told at once, a large one after the thread; epoch 0 is the one in use."""
        self.make(Signed(6, LARGE), Signed(7, 100))
        self.frames.answer(self.app, GetDocument(query_id=QUERY, epoch=6))
        self.frames.answer(self.app, GetDocument(query_id=QUERY, epoch=0))
        self.assertEqual([answer["epoch"] for answer in self.socket.answers], [7])
        self.workers.work()
        self.assertEqual([answer["epoch"] for answer in self.socket.answers], [7, 6])
        self.assertEqual(self.socket.answers[1]["payload"], self.core.held[6].raw)

    def test_refused(self) -> None:
        """Who asks for what is not there is told so; asking for the document in use makes the client insist."""
        self.make(Signed(6, 10))
        for epoch in (5, 0):
            self.frames.answer(self.app, GetDocument(query_id=QUERY, epoch=epoch))
        self.assertEqual([answer["epoch"] for answer in self.socket.answers], [5, 7])
        self.assertEqual({answer["error_code"] for answer in self.socket.answers}, {SERVICE_UNAVAILABLE})
        self.assertEqual(self.core.insisted, 1)

    def test_too_many(self) -> None:
        """An application has a few large answers under way, others have theirs, and later it may ask again."""
        self.make(Signed(7, LARGE))
        for _ in range(AT_ONCE + 2):
            self.frames.answer(self.app, GetDocument(query_id=QUERY, epoch=7))
        self.assertEqual([answer["error_code"] for answer in self.socket.answers], [SERVICE_UNAVAILABLE] * 2)
        other = Socket()
        self.frames.answer(App(id=b"b", connection=other), GetDocument(query_id=QUERY, epoch=7))  # type: ignore[arg-type]
        self.workers.work()
        self.assertEqual(len(other.answers), 1)
        self.assertEqual(len(self.socket.answers), AT_ONCE + 2)
        self.assertEqual(self.frames._answering, {})
