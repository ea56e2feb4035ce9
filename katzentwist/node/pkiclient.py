"""The PKI worker of a node: fetches, verifies and keeps documents, has descriptors uploaded (spec: node 4.10, pki 13).

When to do what is decided by :class:`~katzentwist.node.pkicore.PKICore`; here and in
:mod:`~katzentwist.node.uploading` it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from katzentwist.clock import ORIGIN
from katzentwist.config.common import Authority as AuthorityConfig
from katzentwist.crypto import kem
from katzentwist.crypto.keys import identity_hash
from katzentwist.errors import KatzentwistError, PKIError
from katzentwist.logger import ModuleLogger
from katzentwist.net.owner import ILink
from katzentwist.net.pkilink import Authority, Timeouts, request
from katzentwist.net.turns import Bin
from katzentwist.node.clockwatch import ClockWatch
from katzentwist.node.keyfiles import write_bytes
from katzentwist.node.pkicore import KEPT_BEHIND, Fetch, PKICore
from katzentwist.node.runtime import Repeating, Runtime
from katzentwist.node.uploading import Author, Uploader
from katzentwist.pki.document import GeometryMismatchError, SignedDocument, verify
from katzentwist.pki.schedule import NODE_FETCH_LIMIT
from katzentwist.wire.codes import ConsensusCode
from katzentwist.wire.commands import Consensus, GetConsensus

FETCH_ATTEMPTS: Final = 5
"""Tries per authority and fetch; the next poll comes soon anyway."""


class Publisher(Author, Protocol):
    """A half, as the PKI worker sees it."""

    def take_document(self, signed: SignedDocument) -> None:
        """Use a document; PKIError if this half is not in it."""

    def documents_changed(self) -> None:
        """A document came, or an epoch began."""


class PKIClient:
    """One per process.

    :param fatal: ends the process with a message: nothing can work.
    :param changed: called after the set of documents or the epoch changed.
    """

    log = ModuleLogger("pki")

    def __init__(
        self,
        runtime: Runtime,
        publishers: Sequence[Publisher],
        *,
        fatal: Callable[[str], None],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._runtime, self._publishers = runtime, publishers
        self._fatal, self._changed = fatal, changed
        self._authorities = [pki_authority(a) for a in runtime.config.authorities]
        self._keys = [a.identity_key for a in runtime.config.authorities]
        self._folder = Path(runtime.config.data_dir) / "consensus"
        self.core = PKICore(
            runtime.epochs,
            runtime.random,
            halves=len(publishers),
            single=len(self._authorities) == 1,
            started=runtime.clock.monotonic(),
        )
        self._ticking = Repeating(runtime.reactor, self._pause, self._tick)
        self._watch_clock = ClockWatch()
        self._bin = Bin(runtime.context.turns)
        self._stopped = False
        self._epoch = runtime.epoch()[0]
        self._under_way: set[Deferred[Any]] = set()
        debug = runtime.debug
        self._timeouts = Timeouts(
            connect=debug.connect_timeout // 1000 or 30, handshake=debug.handshake_timeout // 1000 or 3
        )
        self._uploader = Uploader(runtime, self._authorities, self.core, self._timeouts, self._shaken)

    def document(self, epoch: int) -> SignedDocument | ConsensusCode:
        """What to tell a client who asks for a document (spec: link 7.4)."""
        found = self.core.documents.get(epoch)
        if found is not None:
            return found
        gone = self.core.is_gone(epoch) or epoch < self._runtime.epoch()[0] - 1
        return ConsensusCode.GONE if gone else ConsensusCode.NOT_FOUND

    # Life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take what lies on disk, then begin."""
        self._watch(Deferred.fromCoroutine(self._begin()))

    async def _begin(self) -> None:
        await self._load()
        if not self._stopped:
            self._ticking.start()

    def stop(self) -> None:
        """Give up what is under way, silently."""
        self._stopped = True
        self._ticking.stop()
        self._uploader.stop()
        self._bin.stop()
        for work in list(self._under_way):
            work.cancel()

    def _pause(self) -> float:
        """Until the next tick: a second, less in short epochs, and never beyond the end of the epoch."""
        runtime = self._runtime
        _, _, till = runtime.epochs.now(max(ORIGIN, runtime.clock.wallclock()))
        return min(1.0, runtime.schedule.node_first_wake, till + 0.001)

    def _tick(self) -> None:
        wall, mono = self._runtime.clock.wallclock(), self._runtime.clock.monotonic()
        if jump := self._watch_clock.jump(wall, mono):
            how = "backwards" if jump < 0 else "forward"
            self.log.warn("civil time jumped {how} by {seconds:.1f} s", how=how, seconds=abs(jump))
        if wall < ORIGIN:
            return  # somebody will set the clock again
        now = self._runtime.epoch()[0]
        if now != self._epoch:
            self._epoch = now
            for publisher in self._publishers:
                publisher.documents_changed()
            self._changed()
        held = self.core.documents.copy()
        actions = self.core.due(wall, mono)
        for epoch in held.keys() - self.core.documents.keys():
            self._bin.add(held[epoch].document.nodes())
        for action in actions:
            if isinstance(action, Fetch):
                work = self._fetch(action)
            else:
                work = self._uploader.upload(action, self._publishers[action.half])
            self._watch(Deferred.fromCoroutine(work))

    def _watch(self, work: Deferred[None]) -> None:
        self._under_way.add(work)

        def done(result: Any) -> None:
            self._under_way.discard(work)
            if isinstance(result, Failure) and not result.check(CancelledError):
                self.log.failure("the PKI worker failed because of an error of ours", failure=result)

        work.addBoth(done)

    # Documents -----------------------------------------------------------------------------------------------------

    async def _fetch(self, action: Fetch) -> None:
        """Ask all authorities at once; the first good document wins."""
        epoch = action.epoch
        asked = [self._ask(authority, epoch) for authority in self._authorities]
        limit = self._runtime.reactor.callLater(NODE_FETCH_LIMIT, _cancel, asked)
        try:
            found, codes = await _first_document(asked)
        finally:
            _cancel(asked)
            if limit.active():
                limit.cancel()
        if self._stopped:
            return
        if found is not None:
            await self._save(found)
            self._take(found)
            return
        gone = bool(codes) and all(code is ConsensusCode.GONE for code in codes)
        not_yet = any(code is ConsensusCode.NOT_FOUND for code in codes)
        self._runtime.metrics.count("failed_fetch_pki_docs_per_epoch_total", epoch=str(epoch))
        self.core.fetch_failed(epoch, self._runtime.clock.monotonic(), gone=gone, not_yet=not_yet)
        told = self.log.warn if epoch == self._epoch else self.log.debug
        told("no document for epoch {epoch}: {why}", epoch=epoch, why="; ".join(map(_in_words, codes)))

    def _shaken(self, link: ILink) -> None:
        self._runtime.metrics.handshake("outgoing", link.age, "" if link.established else link.stage or "other")

    def _ask(self, authority: Authority, epoch: int) -> Deferred[SignedDocument | ConsensusCode]:
        async def ask() -> SignedDocument | ConsensusCode:
            reply = await request(
                self._runtime.context,
                self._runtime.transports,
                authority,
                GetConsensus(epoch=epoch),
                timeouts=self._timeouts,
                attempts=FETCH_ATTEMPTS,
                shaken=self._shaken,
            )
            if not isinstance(reply, Consensus):
                raise PKIError("unexpected reply")
            if reply.error_code != ConsensusCode.OK:
                return ConsensusCode.GONE if reply.error_code == ConsensusCode.GONE else ConsensusCode.NOT_FOUND
            return await self._verified(reply.payload, epoch)

        asked = Deferred.fromCoroutine(ask())
        asked.addErrback(self._mismatch)
        return asked

    def _mismatch(self, failure: Failure) -> Failure:
        if failure.check(GeometryMismatchError):
            self._fatal(failure.getErrorMessage())
        return failure

    async def _verified(self, raw: bytes, epoch: int) -> SignedDocument:
        signed: SignedDocument = await self._runtime.workers.run(self._verify, raw, epoch, self._runtime.epoch()[0])
        return signed

    def _verify(self, raw: bytes, epoch: int, now: int) -> SignedDocument:
        return verify(raw, self._keys, now, epoch=epoch, geometry_hash=self._runtime.geometry.hash())

    def _take(self, signed: SignedDocument) -> None:
        epoch = signed.document.epoch
        self.core.fetched(signed)
        self._runtime.metrics.count("fetched_pki_docs_per_epoch_total", epoch=str(epoch))
        for publisher in self._publishers:
            try:
                publisher.take_document(signed)
            except PKIError as e:
                self.log.warn("{why}", why=str(e))
        self._changed()
        self.log.info("document of epoch {epoch}: {nodes} nodes", epoch=epoch, nodes=signed.document.size)

    async def _save(self, signed: SignedDocument) -> None:
        """Keep the raw document for a restart; a full disk costs only that, a slow one nothing."""
        try:
            await self._runtime.workers.run(self._write, signed, self._epoch)
        except (OSError, KatzentwistError) as e:
            self.log.warn("can not keep the document on disk: {why}", why=str(e))

    def _write(self, signed: SignedDocument, now: int) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_bytes(self._folder / f"{signed.document.epoch}.cbor", [signed.raw])
        for old in self._folder.glob("*.cbor"):
            if old.stem.isdigit() and int(old.stem) < now - KEPT_BEHIND:
                old.unlink()

    async def _load(self) -> None:
        """Take the stored documents that are still good."""
        now = self._epoch
        for epoch in range(now - KEPT_BEHIND, now + 2):
            try:
                signed = await self._runtime.workers.run(self._read, epoch, now)
            except FileNotFoundError:
                continue
            except (OSError, PKIError) as e:
                self.log.info("stored document of epoch {epoch} is not used: {why}", epoch=epoch, why=str(e))
                continue
            if self._stopped:
                return
            self._take(signed)

    def _read(self, epoch: int, now: int) -> SignedDocument:
        return self._verify((self._folder / f"{epoch}.cbor").read_bytes(), epoch, now)


def _first_document(
    asked: Sequence[Deferred[SignedDocument | ConsensusCode]],
) -> Deferred[tuple[SignedDocument | None, list[ConsensusCode | str]]]:
    """The first document; or None with all answers, once the last one is there. Cancelling gives up on all."""
    outcome: Deferred[tuple[SignedDocument | None, list[ConsensusCode | str]]] = Deferred(lambda _: _cancel(asked))
    answers: list[ConsensusCode | str] = []

    def heard(result: SignedDocument | ConsensusCode | Failure) -> None:
        if outcome.called:
            return
        if isinstance(result, SignedDocument):
            outcome.callback((result, answers))
            return
        answers.append(result if isinstance(result, ConsensusCode) else _message(result))
        if len(answers) == len(asked):
            outcome.callback((None, answers))

    for each in asked:
        each.addBoth(heard)
    return outcome


def pki_authority(config: AuthorityConfig) -> Authority:
    """An authority of the configuration, as the link layer wants it."""
    return Authority(
        addresses=config.addresses,
        identity_hash=identity_hash(config.identity_key),
        link_key=config.link_key,
        kem=kem.by_name(config.wire_kem),
        name=config.identifier,
    )


_WORDS = {
    ConsensusCode.NOT_FOUND: "not yet there",
    ConsensusCode.GONE: "will never be there",
}


def _message(result: object) -> str:
    return result.getErrorMessage() if isinstance(result, Failure) else str(result)


def _cancel(work: Sequence[Deferred[Any]]) -> None:
    for each in work:
        each.cancel()


def _in_words(code: ConsensusCode | str) -> str:
    if isinstance(code, ConsensusCode):
        return _WORDS.get(code, str(code))
    return str(code) or "no answer"
