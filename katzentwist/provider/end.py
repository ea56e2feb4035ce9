"""Packets whose path ends here: services first, then users (spec: node 6.1 and 7.2, provider 4.2 and 11.3)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from katzentwist.config.halves import Kind as NodeKind
from katzentwist.errors import SphinxError
from katzentwist.logger import ModuleLogger
from katzentwist.mix.drops import DropReason, drop
from katzentwist.mix.ends import EndedPacket, IPacketEnd
from katzentwist.mix.half import Half
from katzentwist.node.runtime import Runtime
from katzentwist.plugins.registry import Registry, Request
from katzentwist.provider.mailbox import Mailbox
from katzentwist.sphinx import Kind, parse_block

QUEUE = 1000
"""Most packets that wait for the databases; beyond it new ones are dropped as too late."""


@implementer(IPacketEnd)
class PacketEnd:
    """The end of the line of a node.

    :param services: None at a gateway of v0.0.99.
    :param mailbox: None at a service node of v0.0.99.
    """

    log = ModuleLogger("provider")

    def __init__(self, runtime: Runtime, services: Registry | None, mailbox: Mailbox | None) -> None:
        self._runtime, self._services, self._mailbox = runtime, services, mailbox
        self._storing = 0

    def deliver(self, half: Half, packet: EndedPacket) -> None:
        """Take one packet."""
        at_gateway = half.kind is NodeKind.GATEWAY
        debug = self._runtime.debug
        patience = debug.gateway_delay if at_gateway else debug.service_delay
        too_late = DropReason.GATEWAY_DWELL_EXCEEDED if at_gateway else DropReason.SERVICE_DWELL_EXCEEDED
        if self._runtime.clock.monotonic() - packet.began > patience / 1000:
            self._drop(too_late)
            return
        service = self._services.find(packet.recipient) if self._services else None
        if service is not None:
            self._to_service(half, packet, service)
        elif self._storing >= QUEUE:
            self._drop(too_late)
        elif self._mailbox is not None:
            self._storing += 1
            stored = Deferred.fromCoroutine(self._to_user(half, packet, self._mailbox))
            stored.addErrback(self._failed).addBoth(self._stored)
        else:
            self._drop(DropReason.SERVICE_UNKNOWN_RECIPIENT)

    def _drop(self, reason: DropReason) -> None:
        drop(self._runtime.metrics, reason)

    def _stored(self, _: object) -> None:
        self._storing -= 1

    def _failed(self, failure: Failure) -> None:
        self._drop(DropReason.GATEWAY_STORE_FAILED)
        self.log.failure("storing failed because of an error of ours", failure=failure)

    # Services ------------------------------------------------------------------------------------------------------

    def _to_service(self, half: Half, packet: EndedPacket, service: object) -> None:
        builtin = bool(getattr(service, "builtin", True))
        if packet.kind is Kind.SURB_REPLY:
            self._drop(
                DropReason.SERVICE_KAETZCHEN_SURB_REPLY if builtin else DropReason.SERVICE_CBOR_KAETZCHEN_SURB_REPLY
            )
            return
        try:
            payload, surb = parse_block(packet.payload, self._runtime.geometry)
        except SphinxError as e:
            self.log.debug("request dropped: {why}", why=str(e))
            self._drop(
                DropReason.KAETZCHEN_PARSE_FORWARD_FAILED if builtin else DropReason.CBOR_KAETZCHEN_PARSE_FORWARD_FAILED
            )
            return
        service.handle(  # type: ignore[attr-defined]
            Request(
                payload=payload,
                surb=surb,
                arrived=packet.arrived,
                began=packet.began,
                delay=packet.delay_ms / 1000,
                reply=self._replier(half, packet, surb),
                dropped=self._drop,
            )
        )

    def _replier(self, half: Half, packet: EndedPacket, surb: bytes | None) -> Callable[[bytes], None]:
        """Sends a reply so that it leaves when the delay of the last hop is over (spec: node 7.4)."""

        def reply(payload: bytes) -> None:
            if surb is not None:
                spent = self._runtime.clock.monotonic() - packet.arrived
                half.reply(surb, payload, packet.delay_ms / 1000 - spent)

        return reply

    # Users ---------------------------------------------------------------------------------------------------------

    async def _to_user(self, half: Half, packet: EndedPacket, mailbox: Mailbox) -> None:
        geometry = self._runtime.geometry
        if packet.kind is Kind.SURB_REPLY and packet.surb_id is not None:
            if len(packet.payload) != geometry.payload_tag_length + geometry.forward_payload_length:
                self.log.debug("SURB reply of a wrong size ignored")
                self._drop(DropReason.INVALID_PACKET)
                return
            reason = await mailbox.store_surb_reply(packet.recipient, packet.surb_id, packet.payload)
            if reason is not None:
                self._drop(reason)
            return
        try:
            payload, surb = parse_block(packet.payload, geometry)
        except SphinxError as e:
            self.log.debug("message dropped: {why}", why=str(e))
            self._drop(DropReason.GATEWAY_PARSE_FORWARD_FAILED)
            return
        reason = await mailbox.store_message(packet.recipient, payload)
        if reason is not None:
            self._drop(reason)
        elif surb is not None:
            half.reply(surb, bytes(geometry.forward_payload_length), 0.0)
