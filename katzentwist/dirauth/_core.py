"""The nonvoting authority as a machine without I/O (spec: pki 10.3, 10.5, 11).

The owner of the machine does three kinds of work for it, and tells it when they are done. It keeps accepted uploads:
:meth:`AuthorityCore.offer`, then :meth:`AuthorityCore.stored`. It makes documents: :meth:`AuthorityCore.publishable`,
:meth:`AuthorityCore.begin`, then :meth:`AuthorityCore.published` or :meth:`AuthorityCore.abandoned`. And it answers
peers. Nothing is acknowledged or served before it is on disk, and no epoch gets a second document.

Times are Unix seconds of the wall clock; they may go backwards.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

import attrs

from katzentwist.clock import Epochs
from katzentwist.config.whitelist import GATEWAY, MIX, SERVICE, Member
from katzentwist.dirauth.making import Making, Network
from katzentwist.errors import PKIError
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import SignedDocument
from katzentwist.pki.schedule import Schedule
from katzentwist.pki.upload import SignedUpload

KEPT_DOCUMENTS = 3
"""Documents are served back to now minus this."""
KEPT_UPLOADS = 1
"""Uploads are taken and kept back to now minus this."""


class Post(enum.IntEnum):
    """Status codes of post_descriptor."""

    OK = 0
    INVALID = 1
    CONFLICT = 2
    FORBIDDEN = 3


class Get(enum.IntEnum):
    """Status codes of get_consensus."""

    OK = 0
    NOT_FOUND = 1
    GONE = 2


class Refused(PKIError):
    """An upload was refused.

    :ivar status: what to answer.
    """

    def __init__(self, status: Post, why: str) -> None:
        super().__init__(why)
        self.status = status


@attrs.frozen(kw_only=True)
class Upload:
    """An upload that was found good.

    :ivar epoch: the epoch of the command.
    :ivar payload: the canonical signed upload, for the store.
    """

    epoch: int
    descriptor: Descriptor
    payload: bytes

    @property
    def node(self) -> bytes:
        """Id of the node, 32 bytes."""
        return self.descriptor.id


@attrs.frozen
class Decision:
    """What to do about an upload.

    :ivar store: keep it on disk, call :meth:`AuthorityCore.stored`, and only then answer.
    """

    status: Post
    store: bool = False


def examine(members: Mapping[bytes, Member], peer: bytes, epoch: int, payload: bytes, now: int) -> Upload:
    """The checks of an upload that need no state, in the order of spec: pki 10.3; safe in any thread.

    :param members: the white list by id.
    :param peer: the identity that the connection claims.
    :param epoch: the epoch of the command.
    :param now: the current epoch.
    :raises Refused: with the status to answer.
    """
    if not now - 1 <= epoch <= now + 1:
        raise Refused(Post.INVALID, f"epoch {epoch} is not near {now}")
    try:
        upload = SignedUpload.parse(payload)
    except PKIError as error:
        raise Refused(Post.INVALID, str(error)) from None
    descriptor = upload.descriptor
    if descriptor.id != peer:
        raise Refused(Post.FORBIDDEN, "the descriptor is not the peer's")
    if not upload.verifies():
        raise Refused(Post.FORBIDDEN, "the signature is bad")
    _authorise(members.get(descriptor.id), descriptor)
    try:
        descriptor.check(epoch)
    except PKIError as error:
        raise Refused(Post.INVALID, str(error)) from None
    return Upload(epoch=epoch, descriptor=descriptor, payload=upload.encode())


def _authorise(member: Member | None, descriptor: Descriptor) -> None:
    if descriptor.is_gateway_node and descriptor.is_service_node:
        raise Refused(Post.FORBIDDEN, "marked as both a gateway and a service node")
    if member is None:
        raise Refused(Post.FORBIDDEN, "the identity is not listed")
    kind = GATEWAY if descriptor.is_gateway_node else SERVICE if descriptor.is_service_node else MIX
    if kind not in member.kinds:
        raise Refused(Post.FORBIDDEN, f"listed as {'/'.join(sorted(member.kinds))}, not as {kind}")
    if member.name is not None and member.name != descriptor.name:
        raise Refused(Post.FORBIDDEN, f"listed under the name {member.name!r}")


class AuthorityCore:
    """Uploads in, documents out.

    :param members: the white list by id.
    :param network: what the configuration says about documents.
    :param now: the time of the start; the epoch of it is the first one (``BootstrapCurrentEpoch``).
    :param bootstrap: whether a document for the first epoch itself may be made.
    :param signed: every epoch that has, or ever had, a document of ours.
    """

    def __init__(
        self,
        members: Mapping[bytes, Member],
        network: Network,
        epochs: Epochs,
        *,
        now: float,
        bootstrap: bool = False,
        signed: Iterable[int] = (),
    ) -> None:
        self.members = members
        self.network = network
        self.epochs = epochs
        self.schedule = Schedule(epochs)
        self.first_epoch, elapsed, till = epochs.now(now)
        # Nodes that were started together with us get as long as those that run when an epoch begins.
        self._first_deadline = elapsed + min(self.schedule.descriptor_deadline, till / 2)
        self._bootstrap = bootstrap
        self._signed = set(signed)
        self._uploads: dict[int, dict[bytes, Descriptor]] = {}
        self._pending: dict[tuple[int, bytes], Descriptor] = {}
        self._documents: dict[int, SignedDocument] = {}
        self._making: set[int] = set()
        self._failed: dict[int, int] = {}

    # What was kept -------------------------------------------------------------------------------------------------

    def restore_upload(self, upload: Upload) -> None:
        """An upload from the store."""
        self._uploads.setdefault(upload.epoch, {})[upload.node] = upload.descriptor

    def restore_document(self, document: SignedDocument) -> None:
        """A document from the store."""
        self._documents[document.document.epoch] = document
        self._signed.add(document.document.epoch)

    def forget(self, now: float) -> list[Descriptor]:
        """Drop what is too old to be asked for; the descriptors that were in it, which take a while to free."""
        epoch = self.epochs.number(now)
        forgotten: list[Descriptor] = []
        for number in [n for n in self._documents if n < epoch - KEPT_DOCUMENTS]:
            forgotten += self._documents.pop(number).document.nodes()
        for number in [n for n in self._uploads if n < epoch - KEPT_UPLOADS]:
            forgotten += self._uploads.pop(number).values()
            self._failed.pop(number, None)
        return forgotten

    # Uploads -------------------------------------------------------------------------------------------------------

    def offer(self, upload: Upload) -> Decision:
        """Decide about an upload that :func:`examine` passed."""
        key = (upload.epoch, upload.node)
        held = self._uploads.get(upload.epoch, {}).get(upload.node) or self._pending.get(key)
        if held is not None:
            same = held.encode() == upload.descriptor.encode()
            # A repeat of what is being stored is stored again: then its answer too comes after the disk.
            return Decision(Post.OK, store=key in self._pending) if same else Decision(Post.CONFLICT)
        if upload.epoch in self._signed or upload.epoch in self._making:
            return Decision(Post.CONFLICT)
        self._pending[key] = upload.descriptor
        return Decision(Post.OK, store=True)

    def stored(self, upload: Upload) -> None:
        """The upload is on disk."""
        self._pending.pop((upload.epoch, upload.node), None)
        self._uploads.setdefault(upload.epoch, {})[upload.node] = upload.descriptor

    def uploads(self, epoch: int) -> Mapping[bytes, Descriptor]:
        """What nodes uploaded for *epoch*, by id."""
        return self._uploads.get(epoch, {})

    def waiting_for(self, epoch: int) -> list[Member]:
        """The listed identities without an upload for *epoch*."""
        there = self.uploads(epoch)
        return [member for node, member in self.members.items() if node not in there]

    # Documents -----------------------------------------------------------------------------------------------------

    def publishable(self, now: float) -> list[int]:
        """The epochs whose document is to be made now, the next epoch first (spec: pki 11.3, 11.4)."""
        epoch, elapsed, _ = self.epochs.now(now)
        due = []
        late = elapsed >= self._deadline(epoch)
        if self._is_open(epoch + 1) and (self._all_there(epoch + 1) or (late and not self._plan(epoch + 1).missing())):
            due.append(epoch + 1)
        if self._is_open(epoch) and self._may_bootstrap(epoch) and self._all_there(epoch):
            due.append(epoch)
        # A set of descriptors that made no document makes none the second time.
        return [number for number in due if self._failed.get(number) != len(self.uploads(number))]

    def begin(self, epoch: int) -> Making:
        """The inputs of the document; until :meth:`published` or :meth:`abandoned` no other is begun."""
        self._making.add(epoch)
        return self._plan(epoch)

    def published(self, document: SignedDocument) -> None:
        """The document is on disk: from now on it is served."""
        self._making.discard(document.document.epoch)
        self.restore_document(document)

    def abandoned(self, epoch: int) -> None:
        """These descriptors make no document; it is tried again when more have come."""
        self._making.discard(epoch)
        self._failed[epoch] = len(self.uploads(epoch))

    def document(self, epoch: int) -> SignedDocument | None:
        """The document of *epoch*, if we have it."""
        return self._documents.get(epoch)

    def consensus(self, epoch: int, now: float) -> tuple[Get, bytes]:
        """The answer to get_consensus: status and container (spec: pki 10.5, 11.4)."""
        current, elapsed, _ = self.epochs.now(now)
        held = self._documents.get(epoch)
        if held is not None and epoch >= current - KEPT_DOCUMENTS:
            return Get.OK, held.raw
        if epoch > current + 1:
            return Get.NOT_FOUND, b""
        if epoch == current + 1:
            return (Get.NOT_FOUND if elapsed <= self.schedule.never_limit else Get.GONE), b""
        return (Get.NOT_FOUND if epoch == current and self._may_bootstrap(epoch) else Get.GONE), b""

    def next_deadline(self, now: float) -> float:
        """When to look again without an upload: at the deadline for missing nodes, else at the next epoch."""
        epoch, elapsed, _ = self.epochs.now(now)
        if elapsed < self._deadline(epoch):
            return self.epochs.start(epoch) + self._deadline(epoch)
        return self.epochs.start(epoch + 1)

    def _deadline(self, epoch: int) -> float:
        """Seconds into *epoch* from which a document is made without the nodes that are missing."""
        return self._first_deadline if epoch == self.first_epoch else self.schedule.descriptor_deadline

    def _is_open(self, epoch: int) -> bool:
        return epoch not in self._signed and epoch not in self._making

    def _may_bootstrap(self, epoch: int) -> bool:
        """Whether a document for *epoch*, the current one, may still come.

        In the first epoch, and if the start fell on its end in the one after it, as the older authority did
        (spec: pki 12.3).
        """
        young = self.first_epoch <= epoch <= self.first_epoch + 1
        return self._bootstrap and young and epoch not in self._signed

    def _all_there(self, epoch: int) -> bool:
        return bool(self.members) and len(self.uploads(epoch)) >= len(self.members)

    def _plan(self, epoch: int) -> Making:
        uploads = self.uploads(epoch)
        before = self._documents.get(epoch - 1)
        flexible = sum(node.is_gateway_node and self.members[node.id].kinds != {GATEWAY} for node in uploads.values())
        return Making(
            network=self.network,
            epoch=epoch,
            descriptors=tuple(uploads.values()),
            previous=before.document if before else None,
            flexible_gateways=flexible,
        )
