"""Posts the descriptors of a node to its authorities (spec: pki 13.2).

When is decided by :class:`~katzentwist.node.pkicore.PKICore`; here it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, repeat
from typing import Final, Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.task import deferLater

from katzentwist.errors import KatzentwistError, PKIError
from katzentwist.logger import ModuleLogger, notice
from katzentwist.net.owner import ILink
from katzentwist.net.pkilink import Authority, Caller, Timeouts, request
from katzentwist.node.identity import Identity
from katzentwist.node.pkicore import UPLOAD_BACKOFF, PKICore, Upload
from katzentwist.node.runtime import Runtime
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import threshold
from katzentwist.pki.upload import LoopStats, SignedUpload
from katzentwist.wire.codes import DescriptorCode
from katzentwist.wire.commands import PostDescriptor, PostDescriptorStatus

_FINAL: Final = (DescriptorCode.OK, DescriptorCode.CONFLICT)
"""Answers after which an authority is not asked again."""
_WORDS: Final[dict[int, str]] = {
    DescriptorCode.OK: "accepted",
    DescriptorCode.INVALID: "invalid",
    DescriptorCode.CONFLICT: "conflict: another descriptor is stored for this epoch, or its document is signed; if the "
    "other is from before a restart, packets for its keys are lost until the epoch is over "
    "(PersistMixKeysOnShutdown keeps keys)",
    DescriptorCode.FORBIDDEN: "forbidden: this node is not on the authority's list",
}


class Author(Protocol):
    """A half, as far as its descriptors go."""

    identity: Identity

    def descriptor(self, epoch: int) -> Descriptor:
        """What to upload for an epoch; makes the mix keys."""

    def loop_stats(self, epoch: int) -> LoopStats | None:
        """How the decoys fared, to go with the descriptor for an epoch."""


class Uploader:
    """One per process.

    :param shaken: called with the link after each handshake, failed or not.
    """

    log = ModuleLogger("pki")

    def __init__(
        self,
        runtime: Runtime,
        authorities: Sequence[Authority],
        core: PKICore,
        timeouts: Timeouts,
        shaken: Callable[[ILink], None],
    ) -> None:
        self._runtime, self._authorities, self._core = runtime, authorities, core
        self._timeouts, self._shaken = timeouts, shaken
        self._stopped = False
        self._complained: set[tuple[int, int]] = set()

    def stop(self) -> None:
        """What is under way will be cancelled: say nothing of it."""
        self._stopped = True

    async def upload(self, action: Upload, author: Author) -> None:
        """Post one half's descriptor to every authority, and tell the core what came of it."""
        half, epoch = action.half, action.epoch
        descriptor = author.descriptor(epoch)
        try:
            descriptor.check(epoch)
        except PKIError as e:
            self.log.error("our descriptor is not well formed and is not uploaded: {why}", why=str(e))
            self._core.uploaded(half, epoch, self._runtime.clock.monotonic())
            return
        payload = SignedUpload.sign(author.identity.identity.private, descriptor, author.loop_stats(epoch)).encode()
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
            self._post(authority, author, epoch, payload, partial(answered, number))
            for number, authority in enumerate(self._authorities)
        ]
        posted = DeferredList(posts, consumeErrors=True)
        limit = self._runtime.reactor.callLater(action.budget, posted.cancel)
        try:
            await posted
        finally:
            if limit.active():
                limit.cancel()
        if self._stopped:
            return
        if sum(a in _FINAL for a in answers.values()) >= needed:
            self._core.uploaded(half, epoch, self._runtime.clock.monotonic())
        else:
            self._core.upload_failed(half, epoch, self._runtime.clock.monotonic())
        if not told:
            words = "; ".join(_in_words(answers.get(number, "")) for number in range(len(posts)))
            # Once per epoch: it is tried again every few seconds.
            known = (half, epoch) in self._complained
            self._complained = {(h, e) for h, e in self._complained if e >= epoch - 1} | {(half, epoch)}
            (self.log.debug if known else self.log.error)(
                "upload of {name} for epoch {epoch} failed: {why}",
                name=descriptor.name,
                epoch=epoch,
                why=words,
            )

    def _post(
        self,
        authority: Authority,
        author: Author,
        epoch: int,
        payload: bytes,
        answered: Callable[[int | str], None],
    ) -> Deferred[None]:
        """Post to one authority; one of several is asked until it accepts, or knows another descriptor of us.

        (A single authority is asked again by :class:`PKICore`, which may have more to say then.)
        """
        identity = author.identity
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
            except ConnectionClosed as e:  # an authority hangs up on nodes that it does not list
                return f"{e} (is the node white-listed at the authority?)"
            except (ConnectError, KatzentwistError) as e:
                return str(e)
            return reply.error_code if isinstance(reply, PostDescriptorStatus) else DescriptorCode.INVALID

        async def post() -> None:
            for pause in chain((0.0,), pauses):
                if pause:
                    await deferLater(self._runtime.reactor, min(pause, self._core.longest_pause()))
                answer = await once()
                answered(answer)
                if answer in _FINAL:
                    return

        return Deferred.fromCoroutine(post())


def _in_words(answer: int | str) -> str:
    return _WORDS.get(answer, f"code {answer}") if isinstance(answer, int) else answer or "no answer"
