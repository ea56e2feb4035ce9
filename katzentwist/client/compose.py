"""Packets of a client: path, delays, SURB, block (spec: sphinx 14.4, client 7). Sans-IO."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import attrs

from katzentwist.clock import Epochs
from katzentwist.errors import KatzentwistError, SphinxError
from katzentwist.pki.document import LAYER_GATEWAY, LAYER_SERVICE, Document
from katzentwist.randomness import IRandom
from katzentwist.sphinx import Geometry, Path, build, build_block, choose_path, new_surb
from katzentwist.thin.requests import SendMessage

ATTEMPTS: Final = 32
RECIPIENT: Final = 32
ALLOWANCE: Final = 0.5
"""Seconds of grace per hop for a reply (spec: client 7.4)."""
HOPS_UNKNOWN: Final = 9


class ComposeError(KatzentwistError):
    """The message can not be sent; the text is what applications see.

    :ivar reply_eta: seconds, if a path was chosen before it failed; else 0 (spec: client 7.1).
    """

    def __init__(self, text: str, reply_eta: float = 0.0) -> None:
        super().__init__(text)
        self.reply_eta = reply_eta


@attrs.frozen(kw_only=True)
class Composed:
    """A packet and what is needed when the reply comes.

    :ivar surb_keys: to decrypt the reply; empty without a SURB.
    :ivar reply_eta: seconds, the sum of all encoded delays.
    """

    packet: bytes = attrs.field(repr=False)
    surb_keys: bytes = attrs.field(repr=False)
    reply_eta: float


@attrs.frozen(kw_only=True)
class Outgoing:
    """What a client wants to send.

    :ivar destination: id of the service node.
    :ivar recipient: endpoint or user, 1 to 32 bytes.
    :ivar surb_id: None for a message without reply.
    """

    destination: bytes
    recipient: bytes
    payload: bytes = attrs.field(repr=False)
    surb_id: bytes | None = None

    @classmethod
    def of(cls, request: SendMessage, surb_id: bytes | None) -> Outgoing:
        """What an application wants to send."""
        return cls(
            destination=request.destination or b"",
            recipient=request.recipient or b"",
            payload=request.payload,
            surb_id=surb_id,
        )


def check(message: Outgoing, geometry: Geometry) -> None:
    """What can be told without a document (spec: client 7.1).

    :raises ComposeError: in the order of the page.
    """
    if not message.destination:
        raise ComposeError("request.DestinationIdHash is nil")
    if not message.recipient:
        raise ComposeError("client: recipient is nil")
    if len(message.recipient) > RECIPIENT:
        shown = " ".join(str(b) for b in message.recipient)
        raise ComposeError(f"client: invalid recipient: '[{shown}]'")
    if len(message.payload) > geometry.user_forward_payload_length:
        raise ComposeError(f"message too large: {len(message.payload)} > {geometry.user_forward_payload_length}")


def compose(
    message: Outgoing,
    *,
    document: Document | None,
    gateway: bytes,
    queue_id: bytes,
    geometry: Geometry,
    epochs: Epochs,
    random: IRandom,
    unix_time: Callable[[], float],
) -> Composed:
    """Build a packet.

    :param gateway: id of the gateway that the client is connected to.
    :param queue_id: the recipient of replies at that gateway.
    :param unix_time: the client's clock, corrected if it is to be.
    :raises ComposeError: with the texts of client 7.1.
    """
    check(message, geometry)
    if document is None:
        raise ComposeError("client/conn: PKI error: client: makePath: no PKI document for current epoch")
    _check_places(document, message.destination, gateway)
    for _ in range(ATTEMPTS):
        now = math.floor(unix_time())
        budget = epochs.now(now)[2]
        try:
            forward, reply = _paths(
                message, document, gateway=gateway, queue_id=queue_id, base=now * 1000, epochs=epochs, random=random
            )
        except SphinxError as e:
            raise ComposeError(str(e)) from e
        eta = ((reply or forward).end_time - now * 1000) / 1000
        if unix_time() - now - 1 > budget or eta >= 2 * epochs.period:
            continue
        try:
            surb, surb_keys = new_surb(reply.hops, geometry, random) if reply else (None, b"")
            packet = build(forward.hops, build_block(message.payload, surb, geometry), geometry, random)
        except KatzentwistError as e:  # a mix key of the document that is refused
            raise ComposeError(f"client/conn: {e}") from e
        return Composed(packet=packet, surb_keys=surb_keys, reply_eta=eta)
    raise ComposeError(f"ComposeSphinxPacket: path selection exceeded {ATTEMPTS} attempts")


def _check_places(document: Document, destination: bytes, gateway: bytes) -> None:
    place = document.find(destination)
    if place is None or place.layer != LAYER_SERVICE:
        raise ComposeError(
            "client/conn: PKI error: client: failed to find destination service node: pki: service not found"
        )
    place = document.find(gateway)
    if place is None or place.layer != LAYER_GATEWAY:
        raise ComposeError("client/conn: PKI error: client: failed to find source Gateway: pki: gateway not found")


def _paths(
    message: Outgoing,
    document: Document,
    *,
    gateway: bytes,
    queue_id: bytes,
    base: int,
    epochs: Epochs,
    random: IRandom,
) -> tuple[Path, Path | None]:
    forward = choose_path(
        document,
        gateway,
        message.destination,
        message.recipient,
        base_time=base,
        epochs=epochs,
        random=random,
        surb_id=message.surb_id,
        from_client=True,
    )
    if message.surb_id is None:
        return forward, None
    reply = choose_path(
        document,
        message.destination,
        gateway,
        queue_id,
        base_time=forward.end_time,
        epochs=epochs,
        random=random,
        surb_id=message.surb_id,
        forward=False,
    )
    return forward, reply


def retention(reply_eta: float, document: Document | None) -> float:
    """Seconds for which a reply is awaited (spec: client 7.4)."""
    hops = 2 * len(document.topology) + 3 if document is not None else HOPS_UNKNOWN
    return reply_eta + hops * ALLOWANCE
