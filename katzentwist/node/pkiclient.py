"""The PKI worker of a node: uploads descriptors, fetches, verifies and keeps documents (spec: node 4.10, pki 13).

When to do what is decided by :class:`~katzentwist.node.pkicore.PKICore`; here it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from katzentwist.clock import ORIGIN
from katzentwist.config.common import Authority as AuthorityConfig
from katzentwist.crypto import kem
from katzentwist.crypto.keys import identity_hash
from katzentwist.errors import KatzentwistError, PKIError
from katzentwist.logger import ModuleLogger, notice
from katzentwist.net.owner import ILink
from katzentwist.net.pkilink import Authority, Caller, Timeouts, request
from katzentwist.net.turns import Bin
from katzentwist.node.clockwatch import ClockWatch
from katzentwist.node.identity import Identity
from katzentwist.node.keyfiles import write_bytes
from katzentwist.node.pkicore import KEPT_BEHIND, UPLOAD_BACKOFF, Fetch, PKICore, Upload
from katzentwist.node.runtime import Repeating, Runtime
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import GeometryMismatchError, SignedDocument, threshold, verify
from katzentwist.pki.schedule import NODE_FETCH_LIMIT
from katzentwist.pki.upload import LoopStats, SignedUpload
from katzentwist.wire.codes import ConsensusCode, DescriptorCode
from katzentwist.wire.commands import Consensus, GetConsensus, PostDescriptor, PostDescriptorStatus

FETCH_ATTEMPTS: Final = 5
"""Tries per authority and fetch; the next poll comes soon anyway."""


class Publisher(Protocol):
    """A half, as the PKI worker sees it."""

    identity: Identity

    def descriptor(self, epoch: int) -> Descriptor:
        """What to upload for an epoch; makes the mix keys."""

    def take_document(self, signed: SignedDocument) -> None:
        """Use a document; PKIError if this half is not in it."""

    def documents_changed(self) -> None:
        """A document came, or an epoch began."""

    def loop_stats(self, epoch: int) -> LoopStats | None:
        """How the decoys fared, to go with the descriptor for an epoch."""


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
        self._complained: set[tuple[int, int]] = set()
        debug = runtime.debug
        self._timeouts = Timeouts(
            connect=debug.connect_timeout // 1000 or 30, handshake=debug.handshake_timeout // 1000 or 3
        )

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
            work = self._fetch(action) if isinstance(action, Fetch) else self._upload(action)
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

    # Descriptors ---------------------------------------------------------------------------------------------------

    async def _upload(self, action: Upload) -> None:
        """Post one half's descriptor to every authority (spec: pki 13.2)."""
        half, epoch = action.half, action.epoch
        publisher = self._publishers[half]
        descriptor = publisher.descriptor(epoch)
        try:
            descriptor.check(epoch)
        except PKIError as e:
            self.log.error("our descriptor is not well formed and is not uploaded: {why}", why=str(e))
            self.core.uploaded(half, epoch, self._runtime.clock.monotonic())
            return
        payload = SignedUpload.sign(
            publisher.identity.identity.private, descriptor, publisher.loop_stats(epoch)
        ).encode()
        answers: dict[int, int | str] = {}
        needed = threshold(len(self._authorities))
        told = False

        def answered(number: int, answer: int | str) -> None:
            nonlocal told
            answers[number] = answer
            if told or sum(a == DescriptorCode.OK for a in answers.values()) < needed:
                return
            told = True
            notice(self.log, "descriptor of {name} for epoch {epoch} uploaded", name=descriptor.name, epoch=epoch)

        posts = [
            self._post(authority, publisher, epoch, payload, partial(answered, number))
            for number, authority in enumerate(self._authorities)
        ]
        limit = self._runtime.reactor.callLater(action.budget, _cancel, posts)
        try:
            await DeferredList(posts, consumeErrors=True)
        finally:
            if limit.active():
                limit.cancel()
        if self._stopped:
            return
        if sum(a in _FINAL for a in answers.values()) >= needed:
            self.core.uploaded(half, epoch, self._runtime.clock.monotonic())
        else:
            self.core.upload_failed(half, epoch, self._runtime.clock.monotonic())
        if not told:
            words = "; ".join(_in_words(answers.get(number, "")) for number in range(len(posts)))
            # Once per epoch: it is tried again every few seconds.
            known = (half, epoch) in self._complained
            self._complained = {(h, e) for h, e in self._complained if e >= epoch - 1} | {(half, epoch)}
            (self.log.debug if known else self.log.error)(
                "upload of {name} for epoch {epoch} failed ({why}); {remedy}",
                name=descriptor.name,
                epoch=epoch,
                why=words,
                remedy=_KEPT if DescriptorCode.CONFLICT in answers.values() else _UNLISTED,
            )

    def _post(
        self,
        authority: Authority,
        publisher: Publisher,
        epoch: int,
        payload: bytes,
        answered: Callable[[int | str], None],
    ) -> Deferred[None]:
        """Post to one authority; one of several is asked until it accepts, or knows another descriptor of us.

        (A single authority is asked again by :class:`PKICore`, which may have more to say then.)
        """
        identity = publisher.identity
        caller = Caller(private=identity.link.private, public=identity.link.public, additional_data=identity.id)
        pauses = () if len(self._authorities) == 1 else chain(UPLOAD_BACKOFF, repeat(UPLOAD_BACKOFF[-1]))

        async def once() -> int | str:
            try:
                reply = await request(
                    self._runtime.context,
                    self._runtime.transports,
                    authority,
                    PostDescriptor(epoch=epoch, payload=payload),
                    caller=caller,
                    timeouts=self._timeouts,
                    shaken=self._shaken,
                )
            except (ConnectError, ConnectionClosed, KatzentwistError) as e:
                return _message(Failure(e))
            return reply.error_code if isinstance(reply, PostDescriptorStatus) else DescriptorCode.INVALID

        async def post() -> None:
            for pause in chain((0.0,), pauses):
                if pause:
                    await deferLater(self._runtime.reactor, min(pause, self.core.longest_pause()))
                answer = await once()
                answered(answer)
                if answer in _FINAL:
                    return

        return Deferred.fromCoroutine(post())


_FINAL: Final = (DescriptorCode.OK, DescriptorCode.CONFLICT)
"""Answers after which an authority is not asked again."""


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
_DESCRIPTOR_WORDS: dict[int, str] = {
    DescriptorCode.OK: "accepted",
    DescriptorCode.INVALID: "invalid",
    DescriptorCode.CONFLICT: "conflict: another descriptor is stored for this epoch, or its document is signed",
    DescriptorCode.FORBIDDEN: "forbidden: this node is not on the authority's list",
}
_UNLISTED: Final = "is the node white-listed at the authority?"
"""An authority hangs up on nodes that it does not list."""
_KEPT: Final = (
    "if it is from before a restart, packets for its keys are lost until that epoch is over "
    "(PersistMixKeysOnShutdown keeps keys)"
)


def _message(result: object) -> str:
    return result.getErrorMessage() if isinstance(result, Failure) else str(result)


def _cancel(work: Sequence[Deferred[Any]]) -> None:
    for each in work:
        each.cancel()


def _in_words(code: object) -> str:
    if isinstance(code, ConsensusCode):
        return _WORDS.get(code, str(code))
    if isinstance(code, int):
        return _DESCRIPTOR_WORDS.get(code, f"code {code}")
    return str(code) or "no answer"
