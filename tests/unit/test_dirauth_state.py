"""The authority's store: what was acknowledged survives a kill (spec: pki 10.7, 11.5)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from katzentwist.dirauth.state import AuthorityState, Kept
from katzentwist.errors import StoreError
from tests.unit import dirauth_writer

ROOT = Path(__file__).parents[2]
ROUNDS = 4


class Writer(ProcessProtocol):
    """The child: killed once it has said so many lines."""

    def __init__(self, lines: int) -> None:
        self.ended: Deferred[list[str]] = Deferred()
        self._wanted = lines
        self._data = b""
        self._errors = b""

    def outReceived(self, data: bytes) -> None:
        """Count lines; kill in the middle of its work."""
        self._data += data
        if self._data.count(b"\n") >= self._wanted and self.transport.pid:
            self.transport.signalProcess(signal.SIGKILL)

    def errReceived(self, data: bytes) -> None:
        """Keep what went wrong."""
        self._errors += data

    def processEnded(self, reason: Failure) -> None:
        """Only whole lines count."""
        if not reason.check(ProcessTerminated) or self._errors:
            self.ended.errback(AssertionError(f"the writer ended: {reason.value} {self._errors.decode()}"))
        else:
            self.ended.callback(self._data.decode().split("\n")[:-1])


class StateTests(TestCase):
    """The store."""

    def setUp(self) -> None:
        """An empty folder."""
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    async def kept(self) -> Kept:
        """Open, read, close."""
        state = AuthorityState(self.folder, dirauth_writer.IDENTITY, reactor.callFromThread)
        found = await state.open()
        await state.close()
        return found

    def write(self, stage: str, lines: int) -> Deferred[list[str]]:
        """Run a writer and kill it; what it said."""
        writer = Writer(lines)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        arguments = [sys.executable, "-m", "tests.unit.dirauth_writer", str(self.folder), stage]
        reactor.spawnProcess(writer, sys.executable, arguments, env=environment)
        return writer.ended

    def check(self, kept: Kept, said: Iterable[str]) -> None:
        """Everything acknowledged is there, with the bytes of the first document of each epoch."""
        uploads = {(epoch, node.hex()): payload for epoch, node, payload in kept.uploads}
        documents = {epoch: container.hex() for epoch, container in kept.documents}
        for line in said:
            kind, *words = line.split(" ")
            if kind == "upload":
                self.assertEqual(uploads[int(words[0]), words[1]], bytes.fromhex(words[1]) * 50)
            elif kind == "document":
                self.assertEqual(documents[int(words[0])], words[1])

    def test_kill(self) -> Deferred[None]:
        """Killed in the middle of writing, again and again: nothing acknowledged is lost, no epoch is signed twice."""

        async def test() -> None:
            said: list[str] = []
            for number in range(ROUNDS):
                lines = await self.write(f"round{number}", 40 + 37 * number)
                self.assertIn("open", lines[0])
                first = [line for line in said if line.startswith("document ")]
                again = [line for line in lines if line.startswith("document ")]
                self.assertFalse({line.split(" ")[1] for line in first} & {line.split(" ")[1] for line in again})
                said += lines
                self.check(await self.kept(), said)
            self.assertTrue(any(line.startswith("refused") for line in said))

        return Deferred.fromCoroutine(test())

    def test_prune(self) -> Deferred[None]:
        """Old uploads go, old documents lose their bytes and stay signed."""

        async def test() -> None:
            state = AuthorityState(self.folder, dirauth_writer.IDENTITY, reactor.callFromThread)
            await state.open()
            for epoch in range(1, 6):
                await state.save_upload(epoch, b"n" * 32, b"u")
                await state.save_document(epoch, b"d%d" % epoch)
            await state.prune(4, 3)
            with self.assertRaises(StoreError):
                await state.save_document(1, b"other")
            await state.close()
            found = await self.kept()
            self.assertEqual([epoch for epoch, _, _ in found.uploads], [4, 5])
            self.assertEqual(found.documents, [(3, b"d3"), (4, b"d4"), (5, b"d5")])
            self.assertEqual(found.signed, [1, 2, 3, 4, 5])

        return Deferred.fromCoroutine(test())
