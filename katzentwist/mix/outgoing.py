"""Links to the next layer: who is dialled, and what waits to be sent there (spec: node 4.7 and 4.8)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from katzentwist.config.addresses import Address, parse_url
from katzentwist.crypto import kem
from katzentwist.errors import ConfigError, KatzentwistError
from katzentwist.logger import ModuleLogger
from katzentwist.mix.drops import DropReason, drop
from katzentwist.mix.peers import Direction, Neighbours, Verdict
from katzentwist.net.dialling import dial
from katzentwist.net.owner import ILink, LinkOwner
from katzentwist.net.senders import Senders
from katzentwist.net.turns import Gradual
from katzentwist.node.identity import Identity
from katzentwist.node.runtime import Repeating, Runtime
from katzentwist.pki.descriptor import Descriptor
from katzentwist.wire import PeerCredentials, SessionConfig, SessionKind
from katzentwist.wire.commands import NoOp
from katzentwist.wire.legal import NODE_DIALLER

QUEUE: Final = 512
"""Packets that wait for one link: 50 ms (SendSlack) of 10,000 packets/s, 1.6 MB."""
TRANSPORTS: Final = ("tcp4", "tcp6", "quic")
SKEW_WARNING: Final = 30
"""Seconds between two clocks; beyond P/8 a node stands outside around each epoch change (spec: pki 13.5)."""
KEEP_ALIVE: Final = 45.0
"""Seconds after which a quiet link gets a NoOp: v0.0.99 listeners close after 120 s without a command."""
DIAL_BREATH: Final = 0.01
"""Seconds between the dials of a few destinations: some 300 handshakes per second, with time for packets in between."""


class OutgoingLink(LinkOwner):
    """One destination: its dial loop, its send queue, its connection."""

    log = ModuleLogger("outgoing")

    def __init__(
        self,
        runtime: Runtime,
        identity: Identity,
        neighbours: Neighbours,
        senders: Senders,
        descriptor: Descriptor,
    ) -> None:
        self.descriptor = descriptor
        self.ended = False
        self.can_send = False
        self._runtime, self._identity, self._neighbours, self._senders = runtime, identity, neighbours, senders
        self._link: ILink | None = None
        self._closed: Deferred[None] | None = None
        self._queue: deque[tuple[float, bytes]] = deque()
        self._slack = runtime.debug.send_slack / 1000
        self._last_sent = 0.0
        self._opened = 0.0
        self._loop: Deferred[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the link is established."""
        return self._link is not None

    # Sending -------------------------------------------------------------------------------------------------------

    def send(self, packets: list[bytes], now: float) -> None:
        """Send packets that are due now, or keep them for at most SendSlack."""
        link = self._link
        if link is not None:
            if not self.can_send:
                drop(self._runtime.metrics, DropReason.OUTGOING_PEER_NOT_CONNECTED, len(packets))
                return
            if link.writable and not self._queue:
                self._last_sent = now
                if not link.sendPackets(packets):
                    drop(self._runtime.metrics, DropReason.OUTGOING_SEND_COMMAND_FAILED, len(packets))
                return
        self._purge(now)
        room = max(0, QUEUE - len(self._queue))
        self._queue.extend((now, packet) for packet in packets[:room])
        if len(packets) > room:
            drop(self._runtime.metrics, DropReason.OUTGOING_QUEUE_FULL, len(packets) - room)

    def _purge(self, now: float) -> None:
        blown = 0
        while self._queue and now - self._queue[0][0] > self._slack:
            self._queue.popleft()
            blown += 1
        if blown:
            drop(self._runtime.metrics, DropReason.OUTGOING_SEND_DEADLINE_BLOWN, blown)

    def _flush(self) -> None:
        now = self._runtime.clock.monotonic()
        self._purge(now)
        if self._queue and self._link is not None and self._link.writable:
            packets = [packet for _, packet in self._queue]
            self._queue.clear()
            self.send(packets, now)

    def housekeeping(self) -> None:
        """Drop what waited too long, and keep a quiet link alive."""
        now = self._runtime.clock.monotonic()
        self._purge(now)
        link = self._link
        if link is None:
            return
        if link.sender is not None:
            self._last_sent = max(self._last_sent, link.sender.sent)
        if now - self._last_sent > KEEP_ALIVE:
            self._last_sent = now
            link.send(NoOp())

    def recheck(self) -> None:
        """Reauthenticate the peer of an established link."""
        if self._link is None or self._link.peer is None:
            return
        verdict = self._judge(self._link.peer)
        self.can_send = verdict.can_send
        self._offer()
        if not verdict.valid:
            self.log.debug("the peer is no longer in place: closing")
            self._link.close()

    def _offer(self) -> None:
        """Let packets go to the link without asking us, as long as they may."""
        link = self._link if self.can_send else None
        self._senders.offer(self.descriptor.id, link.sender if link is not None else None)

    def _judge(self, peer: PeerCredentials) -> Verdict:
        now, near_end = self._runtime.epoch()
        return self._neighbours.authenticate(peer.additional_data, peer.link_key, Direction.OUTGOING, now, near_end)

    # The link ------------------------------------------------------------------------------------------------------

    def authenticate(self, link: ILink, credentials: PeerCredentials) -> bool:
        """The responder must be the node that was dialled."""
        if credentials.additional_data != self.descriptor.id or credentials.link_key != self.descriptor.link_key:
            return False
        verdict = self._judge(credentials)
        self.can_send = verdict.can_send
        return verdict.valid

    def established(self, link: ILink) -> None:
        """Send what waits."""
        self._link = link
        self._opened = self._last_sent = self._runtime.clock.monotonic()
        self._runtime.metrics.count("outgoing_connections_total")
        self._runtime.metrics.handshake("outgoing", link.age)
        skew = link.peer.clock_skew
        if abs(skew) > SKEW_WARNING:
            self.log.warn(
                "our clock is {skew} s away from that of {node}; set it (NTP), or epochs will not fit",
                skew=skew,
                node=self.descriptor.name,
            )
        self._flush()
        self._offer()  # now, when nothing waits any more that came before

    def writable(self, link: ILink) -> None:
        """The peer reads again."""
        self._flush()

    def closed(self, link: ILink, reason: Exception) -> None:
        """The dial loop goes on."""
        if not link.established:
            self._runtime.metrics.handshake("outgoing", link.age, link.stage or "other")
        if self._link is link:
            self._link = None
            self._offer()
            self.log.debug("connection ended: {reason}", reason=str(reason))
        if self._closed is not None:
            closed, self._closed = self._closed, None
            if not closed.called:  # it was cancelled by stop()
                closed.callback(None)

    # The dial loop -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Dial until :meth:`stop`, or until the node is no destination any more."""
        self._loop = Deferred.fromCoroutine(self._run())
        self._loop.addErrback(self._loop_failed)

    def _loop_failed(self, failure: Failure) -> None:
        self._end(DropReason.DISPATCH_NO_CONNECTION)
        if not failure.check(CancelledError):
            self.log.failure("the dial loop failed because of an error of ours", failure=failure)

    async def _run(self) -> None:
        schedule = self._runtime.schedule
        step, most = schedule.node_first_wake, schedule.epochs.fraction(1, 8)
        retry = 0.0
        while self._refresh():
            for address in self._addresses():
                await self._pause(retry)
                retry = min(retry + step, most)
                if await self._connect(address):
                    lived = self._runtime.clock.monotonic() - self._opened
                    retry = step if lived < step else 0.0
                    break
            else:
                if not self._addresses():
                    break
        self._end(DropReason.DISPATCH_NO_CONNECTION)

    def _end(self, reason: DropReason) -> None:
        """This is no destination any more; what waits for it is dropped."""
        self.ended = True
        if self._queue:
            drop(self._runtime.metrics, reason, len(self._queue))
            self._queue.clear()

    def _refresh(self) -> bool:
        """Look the destination up again; False if it is none any more."""
        now, near_end = self._runtime.epoch()
        newest = self._neighbours.destination(self.descriptor.id, now, near_end)
        if newest is None:
            return False
        self.descriptor = newest
        return True

    def _addresses(self) -> list[Address]:
        out = []
        for transport in TRANSPORTS:
            for url in self.descriptor.addresses.get(transport, ()):
                try:
                    out.append(parse_url(url))
                except ConfigError:
                    continue
        return out

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            await deferLater(self._runtime.reactor, seconds * (0.5 + self._runtime.random.uniform()))

    async def _connect(self, address: Address) -> bool:
        """Dial, and stay until the connection ends; False if none came about."""
        debug = self._runtime.debug
        config = SessionConfig(
            kem=kem.by_name(self._runtime.config.wire_kem),
            private=self._identity.link.private,
            public=self._identity.link.public,
            additional_data=self._identity.id,
            kind=SessionKind.MIXNET,
            sizes=self._runtime.sizes,
            accepts=NODE_DIALLER,
            handshake_timeout=debug.handshake_timeout / 1000,
            read_timeout=None,
        )
        try:
            link = await dial(
                self._runtime.context,
                self._runtime.transports,
                address,
                config,
                self,
                connect_timeout=debug.connect_timeout / 1000,
            )
        except (ConnectError, ConnectionClosed, KatzentwistError) as e:
            self._failed(e)
            return False
        if self._link is link:
            self._closed = Deferred(lambda _: link.close())
            await self._closed
        return True

    def _failed(self, error: Exception) -> None:
        if isinstance(error, ConnectError):
            self._runtime.metrics.count("outgoing_dial_failures_total", reason=_dial_reason(error))
            self.log.warn("can not connect to {node}: {why}", node=self.descriptor.name, why=str(error))
        else:
            self.log.debug("handshake with {node} failed: {why}", node=self.descriptor.name, why=str(error))

    def stop(self) -> None:
        """Close the link and dial no more; what waits is dropped."""
        self._end(DropReason.SHUTDOWN)
        if self._link is not None:
            self._runtime.metrics.count("cancelled_outgoing_connections_total")
            self._link.close()
        if self._loop is not None:
            self._loop.cancel()


def _dial_reason(error: ConnectError) -> str:
    name = type(error).__name__
    return {
        "ConnectionRefusedError": "refused",
        "TimeoutError": "timeout",
        "TCPTimedOutError": "timeout",
        "NoRouteError": "no_route",
        "DNSLookupError": "dns",
        "UnknownHostError": "dns",
    }.get(name, "other")


class Connector:
    """All outgoing links of one half.

    :ivar hops: ids of the nodes to which there is a link, established or not, each by itself: always the same object.
    :ivar senders: those that due packets may go to without :meth:`send`.
    """

    log = OutgoingLink.log

    def __init__(self, runtime: Runtime, identity: Identity, neighbours: Neighbours) -> None:
        self._runtime, self._identity, self._neighbours = runtime, identity, neighbours
        self._links: dict[bytes, OutgoingLink] = {}
        self.hops: dict[bytes, bytes] = {}
        self.senders = Senders()
        self._sweeping = Repeating(runtime.reactor, lambda: runtime.epochs.fraction(1, 8), self.sweep)
        self._housekeeping = Repeating(runtime.reactor, lambda: 1.0, self._keep)
        self._rechecks = Repeating(runtime.reactor, lambda: runtime.debug.reauth_interval / 1000, self.recheck)
        # A layer may have thousands of nodes: dialling them all, or judging them all, takes many turns.
        turns = runtime.context.turns
        self._dialling = Gradual(turns, self._hold, DIAL_BREATH)
        self._judging: Gradual[OutgoingLink] = Gradual(turns, OutgoingLink.recheck)
        self._keeping: Gradual[OutgoingLink] = Gradual(turns, OutgoingLink.housekeeping)
        self._running = False

    def __iter__(self) -> Iterator[OutgoingLink]:
        return iter(list(self._links.values()))

    def start(self) -> None:
        """Begin to dial."""
        self._running = True
        self._sweeping.start(self._runtime.schedule.node_first_wake)
        self._housekeeping.start()
        self._rechecks.start()

    def sweep(self) -> None:
        """Add missing destinations, take ended links away."""
        if not self._running:
            return
        for node in [node for node, link in self._links.items() if link.ended]:
            del self._links[node], self.hops[node]
        self._dialling.start(self._neighbours.destinations(*self._runtime.epoch()))

    def _hold(self, destination: Descriptor) -> None:
        """Hold a link to this node."""
        node = destination.id
        if node not in self._links and node != self._identity.id:
            link = self._links[node] = OutgoingLink(
                self._runtime, self._identity, self._neighbours, self.senders, destination
            )
            self.hops[node] = node
            link.start()

    def _keep(self) -> None:
        self._keeping.start(self)

    def recheck(self) -> None:
        """Reauthenticate every peer."""
        self._judging.start(self)

    def send(self, due: Mapping[bytes, list[bytes]], now: float) -> None:
        """Send due packets to their nodes."""
        links = self._links
        for node, packets in due.items():
            link = links.get(node)
            if link is None or link.ended:
                drop(self._runtime.metrics, DropReason.DISPATCH_NO_CONNECTION, len(packets))
                continue
            try:
                link.send(packets, now)
            except Exception:  # others have packets as well
                drop(self._runtime.metrics, DropReason.OUTGOING_SEND_COMMAND_FAILED, len(packets))
                self.log.failure("{count} packets are lost because of an error of ours", count=len(packets))

    def stop(self) -> None:
        """Close all links."""
        self._running = False
        for timer in (self._sweeping, self._housekeeping, self._rechecks, self._dialling, self._judging, self._keeping):
            timer.stop()
        for link in self:
            link.stop()
        self._links.clear()
        self.hops.clear()
