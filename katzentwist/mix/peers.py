"""Who may talk to whom: the neighbour sets of a document and the check of a peer (spec: node 4.8 and 5.2)."""

from __future__ import annotations

import enum
import hmac
from collections.abc import Iterator, Mapping

import attrs

from katzentwist.config.halves import Kind
from katzentwist.errors import PKIError
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import LAYER_GATEWAY, LAYER_SERVICE, Document, SignedDocument

Nodes = Mapping[bytes, Descriptor]
"""Node id -> descriptor."""


class Direction(enum.Enum):
    """Who dialled: INCOMING when the peer did."""

    INCOMING = "incoming"
    OUTGOING = "outgoing"


@attrs.frozen(kw_only=True)
class Self:
    """What a half must find of itself in a document."""

    kind: Kind
    name: str
    id: bytes
    identity_key: bytes
    link_key: bytes


@attrs.frozen
class Side(Mapping[bytes, Descriptor]):
    """The nodes of some layers of a document, by id.

    It asks the document's own index: a dictionary of thousands of nodes would take the reactor's time in every epoch.
    """

    document: Document
    layers: frozenset[int]

    def __getitem__(self, node: bytes) -> Descriptor:
        place = self.document.find(node)
        if place is None or place.layer not in self.layers:
            raise KeyError(node)
        return place.descriptor

    def __iter__(self) -> Iterator[bytes]:
        for layer in sorted(self.layers):
            for descriptor in self.document.layer(layer):
                yield descriptor.id

    def __len__(self) -> int:
        return sum(len(self.document.layer(layer)) for layer in self.layers)


@attrs.frozen
class View:
    """One document, as one half sees it."""

    document: Document
    incoming: Nodes
    outgoing: Nodes

    @property
    def epoch(self) -> int:
        """The document's epoch."""
        return self.document.epoch

    def nodes(self, direction: Direction) -> Nodes:
        """The neighbours on that side."""
        return self.incoming if direction is Direction.INCOMING else self.outgoing


def view_of(document: Document, me: Self) -> View:
    """The neighbour sets of this half.

    :raises PKIError: the half is not in the document, or not as it is.
    """
    place = document.find(me.id)
    if place is None:
        raise PKIError(f"node {me.name!r} is not in the document of epoch {document.epoch}; is it white-listed?")
    expected = {LAYER_GATEWAY: Kind.GATEWAY, LAYER_SERVICE: Kind.SERVICE}.get(place.layer, Kind.MIX)
    if expected is not me.kind:
        raise PKIError(
            f"the document of epoch {document.epoch} lists {me.name!r} as a {expected.value}, we are a {me.kind.value}"
        )
    descriptor = place.descriptor
    if (descriptor.name, descriptor.link_key, descriptor.identity_key) != (me.name, me.link_key, me.identity_key):
        raise PKIError(f"the document of epoch {document.epoch} lists {me.name!r} with another name or key")
    last = len(document.topology) - 1
    ends = frozenset({LAYER_GATEWAY, LAYER_SERVICE})
    if me.kind is not Kind.MIX:
        before, after = frozenset({last}), frozenset({0})
    else:
        before = ends if place.layer == 0 else frozenset({place.layer - 1})
        after = ends if place.layer == last else frozenset({place.layer + 1})
    return View(document, Side(document, before), Side(document, after))


@attrs.frozen
class Verdict:
    """What :func:`authenticate` says of a peer: its newest descriptor, whether it may send, whether it may connect."""

    descriptor: Descriptor | None
    can_send: bool
    valid: bool


NOBODY = Verdict(None, False, False)


@attrs.define
class Neighbours:
    """The usable documents of one half, kept for the epochs around now.

    :ivar views: epoch -> view of this half.
    :ivar raw: epoch -> the document as fetched; it may be here although the half does not find itself in it.
    """

    me: Self
    views: dict[int, View] = attrs.field(factory=dict)

    def add(self, signed: SignedDocument) -> None:
        """Take a document.

        :raises PKIError: it is of no use to this half.
        """
        self.views[signed.document.epoch] = view_of(signed.document, self.me)

    def forget_before(self, epoch: int) -> None:
        """Let go of documents older than *epoch*."""
        for old in [e for e in self.views if e < epoch]:
            del self.views[old]

    def usable(self, now: int, near_end: bool) -> Iterator[View]:
        """The documents that count, newest first; *near_end*: less than P/8 of the epoch is left."""
        for epoch in ((now + 1,) if near_end else ()) + (now, now - 1, now - 2):
            view = self.views.get(epoch)
            if view is not None:
                yield view

    def ready(self, now: int, near_end: bool) -> bool:
        """Whether there is any usable document."""
        return next(self.usable(now, near_end), None) is not None

    def knows(self, node: bytes) -> bool:
        """Whether any document that is held lists this node id."""
        return any(view.document.find(node) is not None for view in self.views.values())

    def authenticate(self, node: bytes, link_key: bytes, direction: Direction, now: int, near_end: bool) -> Verdict:
        """Check a peer by its additional data and link key (spec: node 5.2)."""
        if len(node) != 32:
            return NOBODY
        newest: Descriptor | None = None
        valid = False
        current = self.views.get(now)
        for view in self.usable(now, near_end):
            descriptor = view.nodes(direction).get(node)
            if descriptor is None:
                continue
            newest = newest or descriptor
            if not hmac.compare_digest(descriptor.link_key, link_key):
                continue
            if view.epoch == now:
                return Verdict(newest, True, True)
            if view.epoch == now + 1:
                if direction is Direction.INCOMING:
                    return Verdict(newest, True, True)
                valid = True
            elif current is not None and current.document.find(node) is not None:
                return Verdict(newest, True, True)
        return Verdict(newest, False, valid)

    def destination(self, node: bytes, now: int, near_end: bool) -> Descriptor | None:
        """The newest descriptor of one node to hold a link to, or None; :meth:`destinations` tells it first."""
        current = self.views.get(now)
        for view in self.usable(now, near_end):
            descriptor = view.outgoing.get(node)
            if descriptor is None:
                continue
            if view.epoch >= now or (current is not None and current.document.find(node) is not None):
                return descriptor
        return None

    def destinations(self, now: int, near_end: bool) -> Iterator[Descriptor]:
        """Every node to hold a link to; with its newest descriptor where it comes first (spec: node 4.8)."""
        current = self.views.get(now)
        for view in self.usable(now, near_end):
            for node in view.outgoing:
                if view.epoch >= now or (current is not None and current.document.find(node) is not None):
                    yield view.outgoing[node]
