"""Documents for the clients of a gateway: cut once for all of them, handed out a little at a time (spec: link 7.3).

A document of thousands of nodes has thousands of chunks, and when an epoch begins every client wants it. So clients
take turns (:mod:`katzentwist.net.turns`), a few chunks each time; a client gets as much as its transport buffers and
goes on when it has read that. Nothing is copied for a client but what is in its buffer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from katzentwist.logger import ModuleLogger
from katzentwist.net.owner import ILink
from katzentwist.node.runtime import Runtime
from katzentwist.pki.document import SignedDocument
from katzentwist.wire import Command, chunks
from katzentwist.wire.codes import ConsensusCode
from katzentwist.wire.commands import Consensus, GetConsensus, GetConsensus2

DOCUMENTS: Final = 8
"""Most requests for documents of one client that wait for its link; more end the session."""
KEPT: Final = 4
"""Documents that are kept compressed and cut."""
AT_ONCE: Final = 16
"""Chunks in one turn of a client, a quarter of a millisecond or so."""


class _Reader:
    """One client: its requests in turn, and what is left of the answer to the first one."""

    def __init__(self, link: ILink) -> None:
        self.link = link
        self.answers: deque[Deferred[Sequence[Command]]] = deque()
        self.left: Iterator[Command] = iter(())
        self.busy = False
        """Whether an answer is being made or sent: the next one waits."""
        self.in_turn = False
        """Whether its turn comes."""


class DocumentDesk:
    """Answers requests for documents.

    :param document: the document of an epoch, or the code that says why there is none.
    """

    log = ModuleLogger("incoming")

    def __init__(self, runtime: Runtime, document: Callable[[int], SignedDocument | ConsensusCode]) -> None:
        self._runtime, self._document = runtime, document
        self._readers: dict[ILink, _Reader] = {}
        self._chunks: dict[int, tuple[bytes, Deferred[Sequence[Command]]]] = {}

    def __len__(self) -> int:
        """Requests that are not answered yet."""
        return sum(reader.busy + len(reader.answers) for reader in self._readers.values())

    # Requests ------------------------------------------------------------------------------------------------------

    def ask(self, link: ILink, command: GetConsensus | GetConsensus2) -> None:
        """Answer this, after what the client asked for before."""
        reader = self._readers.setdefault(link, _Reader(link))
        if len(reader.answers) >= DOCUMENTS:
            self._runtime.metrics.count("document_requests_refused_total")
            self.log.debug("a client asks for documents and does not read them: closing")
            link.close()
            return
        found = self._document(command.epoch)
        whole = isinstance(command, GetConsensus)
        answer = self._whole(found) if whole else self._cut(command.epoch, found)
        reader.answers.append(answer)
        self._next(reader)

    def writable(self, link: ILink) -> None:
        """The client reads again."""
        reader = self._readers.get(link)
        if reader is not None:
            self._next(reader)
            self._go_on(reader)

    def closed(self, link: ILink) -> None:
        """The client is gone."""
        self._readers.pop(link, None)

    def stop(self) -> None:
        """Send nothing more."""
        self._readers.clear()

    # Answers -------------------------------------------------------------------------------------------------------

    def _whole(self, found: SignedDocument | ConsensusCode) -> Deferred[Sequence[Command]]:
        if isinstance(found, SignedDocument):
            return succeed([Consensus(error_code=ConsensusCode.OK, payload=found.raw)])
        return succeed([Consensus(error_code=found, payload=b"")])

    def _cut(self, epoch: int, found: SignedDocument | ConsensusCode) -> Deferred[Sequence[Command]]:
        """The chunks of a document, made once; a Deferred of its own for everybody."""
        if not isinstance(found, SignedDocument):
            return succeed([chunks.failure(found)])
        raw = found.raw
        kept = self._chunks.get(epoch)
        if kept is None or kept[0] is not raw:
            while len(self._chunks) >= KEPT:
                del self._chunks[min(self._chunks)]
            cut: Deferred[Any] = self._runtime.workers.run(chunks.split, raw, self._runtime.sizes.down)
            kept = self._chunks[epoch] = (raw, cut)
        mine: Deferred[Sequence[Command]] = Deferred()

        def share(commands: Sequence[Command]) -> Sequence[Command]:
            mine.callback(commands)
            return commands

        def fail(failure: Failure) -> None:
            self._chunks.pop(epoch, None)
            mine.errback(failure)

        kept[1].addCallbacks(share, fail)
        return mine

    # Sending -------------------------------------------------------------------------------------------------------

    def _next(self, reader: _Reader) -> None:
        """Begin with the next answer; none before the client has taken the one before it."""
        if reader.busy or not reader.answers or not reader.link.writable:
            return
        reader.busy = True
        answer = reader.answers.popleft()
        answer.addCallback(self._begin, reader)
        answer.addErrback(self._failed, reader)

    def _begin(self, commands: Sequence[Command], reader: _Reader) -> None:
        reader.left = iter(commands)
        self._go_on(reader)

    def _failed(self, failure: Failure, reader: _Reader) -> None:
        self.log.failure("sending a document failed", failure=failure)
        reader.link.close()

    def _go_on(self, reader: _Reader) -> None:
        """This client can take something."""
        if reader.busy and not reader.in_turn:
            reader.in_turn = True
            self._runtime.context.turns.add(self._fill, reader)

    def _fill(self, reader: _Reader) -> None:
        """Send some chunks, until the transport's buffer is full or the answer complete."""
        reader.in_turn = False
        for _ in range(AT_ONCE):
            if reader.link not in self._readers or not reader.link.writable:
                return
            command = next(reader.left, None)
            if command is None:
                reader.busy = False
                self._next(reader)
                return
            reader.link.send(command)
        self._go_on(reader)
