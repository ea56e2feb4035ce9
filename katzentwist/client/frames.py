"""Documents for applications, as frames: of megabytes perhaps, so they are made in threads (spec: client 5, 11.2)."""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred, succeed

from katzentwist.client._core import ClientCore
from katzentwist.client.apps import App
from katzentwist.crypto.copies import join
from katzentwist.logger import ModuleLogger
from katzentwist.net.workers import IWorkers
from katzentwist.pki.document import SignedDocument
from katzentwist.thin import protocol
from katzentwist.thin.protocol import encode_document, encode_response
from katzentwist.thin.requests import GetDocument

LARGE: Final = 1 << 18
"""Bytes of a document from which on its frame is made in a thread."""
AT_ONCE: Final = 8
"""Answers with large documents that are being made for one application; beyond, it is refused."""


def announcement(signed: SignedDocument) -> bytes:
    """The frame that tells of a document, without its signatures."""
    return join(encode_document("new_pki_document_event", signed.payload()))


class DocumentFrames:
    """The frame of the document in use, made once for all applications, and answers to those that ask for one."""

    log = ModuleLogger("client")

    def __init__(self, core: ClientCore, workers: IWorkers) -> None:
        self._core, self._workers = core, workers
        self._made: tuple[SignedDocument, bytes] | None = None
        self._answering: dict[App, int] = {}

    @property
    def is_ready(self) -> bool:
        """Whether there is a document in use and its frame is made."""
        return self._made is not None and self._made[0] is self._core.signed_document()

    def current(self) -> bytes:
        """The frame of the document in use, null if there is none; made at once if it has to be."""
        signed = self._core.signed_document()
        if signed is None:
            return encode_response("new_pki_document_event")
        if self._made is None or self._made[0] is not signed:
            self._made = signed, announcement(signed)
        return self._made[1]

    def prepare(self) -> Deferred[None]:
        """Make the frame of the document in use; fires when that is done."""
        signed = self._core.signed_document()
        if signed is None or self.is_ready:
            return succeed(None)
        making: Deferred[bytes] = self._workers.run(announcement, signed)

        def made(frame: bytes) -> None:
            if signed is self._core.signed_document():
                self._made = signed, frame

        return making.addCallback(made)

    def answer(self, app: App, request: GetDocument) -> None:
        """The document that the application asks for, with its signatures."""
        epoch = request.epoch
        signed = self._core.documents.held.get(epoch) if epoch else self._core.signed_document()
        busy = self._answering.get(app, 0)
        if signed is None and not epoch:
            self._core.documents.insist()
        if signed is None or (busy >= AT_ONCE and len(signed.raw) >= LARGE):
            app.tell(
                encode_response(
                    "get_pki_document_reply",
                    query_id=request.query_id,
                    epoch=epoch or self._core.epochs.number(self._core.unix_time()),
                    error_code=protocol.SERVICE_UNAVAILABLE,
                )
            )
            return
        parts = encode_document(
            "get_pki_document_reply",
            signed.raw,
            query_id=request.query_id,
            epoch=signed.document.epoch,
            error_code=0,
        )
        if len(signed.raw) < LARGE:
            app.tell(join(parts))
            return
        self._answering[app] = busy + 1
        joining: Deferred[bytes] = self._workers.run(join, parts)
        joining.addBoth(self._answered, app)
        joining.addCallback(app.tell)
        joining.addErrback(lambda failure: self.log.failure("a document could not be framed", failure))

    def _answered(self, outcome: bytes, app: App) -> bytes:
        self._answering[app] -= 1
        if not self._answering[app]:
            del self._answering[app]
        return outcome
