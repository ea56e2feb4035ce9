"""A mix network as a client sees it, in memory and on a fake clock: one gateway, three mixes, service nodes.

Packets are really unwrapped hop by hop and spend their delays; replies travel through real SURBs. What is left out is
everything between the nodes.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs
from twisted.internet.task import Clock
from zope.interface import implementer

from katzentwist.client._core import ClientCore
from katzentwist.client.multiplexer import Multiplexer
from katzentwist.clock import Epochs, IClock
from katzentwist.config.client import ClientConfig, Gateway, Proxy, Socket
from katzentwist.config.common import Authority, Logging
from katzentwist.crypto import kem, nike, sign
from katzentwist.net import Context, LinkFactory, LinkOwner, SynchronousWorkers, parse_address
from katzentwist.net.owner import ILink
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import Document
from katzentwist.randomness import SeededRandom
from katzentwist.sphinx import Geometry, Kind, Routing, parse_block, reply_packet, unwrap
from katzentwist.testing.network import MemoryNetwork
from katzentwist.wire import CommandSizes, SessionConfig, SessionKind, chunks
from katzentwist.wire.codes import ConsensusCode
from katzentwist.wire.commands import GetConsensus2, Message, MessageDelivered, NoOp
from katzentwist.wire.legal import GATEWAY_LISTENER

PERIOD = 120 * 10**9
EPOCHS = Epochs(PERIOD)
BEGIN = EPOCHS.start(4_000_000) + 10.0
GEOMETRY = Geometry.from_user_payload(600, 5, nike="x25519")
SIZES = CommandSizes(
    packet_length=GEOMETRY.packet_length,
    payload_length=GEOMETRY.payload_tag_length + GEOMETRY.forward_payload_length,
)
WIRE = kem.by_name("x25519")
SIGNER = sign.by_name("Ed25519")


@implementer(IClock)
class FakeClock:
    """Both clocks on a Twisted Clock; *step* moves the wall clock."""

    def __init__(self, reactor: Clock) -> None:
        self._reactor = reactor
        self.step = 0.0

    def monotonic(self) -> float:
        """See IClock."""
        return self._reactor.seconds()

    def wallclock(self) -> float:
        """See IClock."""
        return BEGIN + self._reactor.seconds() + self.step


@attrs.define(eq=False)
class Peer(LinkOwner):
    """One client's session at the gateway."""

    network: FakeNetwork
    spool: deque[Message] = attrs.field(factory=deque)
    sequence: int = 0
    waiting: bool = False
    noops: int = 0


class FakeNode:
    """Keys and a descriptor."""

    def __init__(self, name: str, random: SeededRandom, port: int = 1, services: tuple[str, ...] = ()) -> None:
        self.name, self.port, self.services = name, port, services
        self.identity = SIGNER.generate(random)
        self.link = WIRE.generate(random)
        self.random = random
        self.mix_keys: dict[int, tuple[bytes, bytes]] = {}

    def descriptor(self, epoch: int, kind: str) -> Descriptor:
        """For the document of an epoch."""
        for e in range(epoch, epoch + 3):
            if e not in self.mix_keys:
                self.mix_keys[e] = nike.x25519.generate(self.random)
        return Descriptor(
            name=self.name,
            epoch=epoch,
            link_key=self.link[1],
            mix_keys={e: self.mix_keys[e][1] for e in range(epoch, epoch + 3)},
            addresses={"tcp4": [f"tcp://127.0.0.1:{self.port}"]},
            identity_key=self.identity[1],
            is_gateway_node=kind == "gateway",
            is_service_node=kind == "service",
            kaetzchen={s: {"endpoint": f"+{s}"} for s in self.services} if kind == "service" else None,
        )


class FakeNetwork:
    """The network.

    :ivar loss: the share of packets that vanish, each way together.
    :ivar arrivals: when packets of clients came, by fake seconds.
    :ivar recorded: payloads that reached the service ``record``.
    :ivar gone: epochs for which the gateway says that there will never be a document.
    """

    def __init__(
        self,
        reactor: Clock,
        seed: object = 1,
        *,
        lambda_p: float = 0.01,
        lambda_l: float = 0.0,
        mu: float = 0.02,
        gateways: int = 1,
    ) -> None:
        self.reactor, self.random = reactor, SeededRandom(f"network {seed}")
        self.clock = FakeClock(reactor)
        self.wire = MemoryNetwork(reactor)
        self.rates = {"lambda_p": lambda_p, "lambda_l": lambda_l, "mu": mu}
        self.loss = 0.0
        self.silent = False
        self.hold_documents = False
        self.travels = True
        self.arrivals: list[float] = []
        self.recorded: list[bytes] = []
        self.lost = 0
        self.gone: set[int] = set()
        self.sessions: list[ILink] = []
        self.requests: list[int] = []
        self._authority = SIGNER.generate(self.random)
        self.gateways = [FakeNode(f"gateway{i}", self.random, 100 + i) for i in range(gateways)]
        self.mixes = [FakeNode(f"mix{i}", self.random) for i in range(3)]
        self.services = [FakeNode(f"service{i}", self.random, 1, ("echo", "record")) for i in range(2)]
        self._by_id: dict[bytes, FakeNode] = {}
        self._documents: dict[int, bytes] = {}
        self._peers: dict[ILink, Peer] = {}
        self._queues: dict[bytes, ILink] = {}
        self._ports: list[Any] = []
        self.document(EPOCHS.number(self.clock.wallclock()))
        self.listen()

    # Documents -----------------------------------------------------------------------------------------------------

    def document(self, epoch: int) -> bytes:
        """The signed document of an epoch."""
        if epoch not in self._documents:
            now = EPOCHS.number(self.clock.wallclock())
            layers = [[m.descriptor(epoch, "mix")] for m in self.mixes]
            made = Document(
                epoch=epoch,
                lambda_g=0.0,
                lambda_m=0.0,
                lambda_r=0.0,
                topology=layers,
                gateway_nodes=[g.descriptor(epoch, "gateway") for g in self.gateways],
                service_nodes=[s.descriptor(epoch, "service") for s in self.services],
                genesis_epoch=1,
                prior_shared_random=[bytes(32)],
                shared_random_value=bytes(32),
                sphinx_geometry_hash=GEOMETRY.hash(),
                **self.rates,
            )
            self._by_id = {
                d.id: n for n in [*self.gateways, *self.mixes, *self.services] for d in [n.descriptor(epoch, "mix")]
            }
            self._documents[epoch] = made.sign(self._authority[0], now)
        return self._documents[epoch]

    # The gateway ---------------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Gateways take connections."""
        for gateway in self.gateways:
            config = SessionConfig(
                kem=WIRE,
                private=gateway.link[0],
                public=gateway.link[1],
                additional_data=gateway.descriptor(1, "gateway").id,
                kind=SessionKind.MIXNET,
                sizes=SIZES,
                accepts=GATEWAY_LISTENER,
            )
            factory = LinkFactory(self.context(), config, _Gateway(self, gateway))
            endpoint = self.wire.listen(parse_address(f"tcp://127.0.0.1:{gateway.port}"))
            endpoint.listen(factory).addCallback(self._ports.append)

    def die(self) -> None:
        """The gateways take no connections any more and close those they have."""
        for port in self._ports:
            port.stopListening()
        self._ports.clear()
        for link in list(self.sessions):
            link.close()

    def context(self) -> Context:
        """What links need."""
        return Context(reactor=self.reactor, clock=self.clock, random=self.random, workers=SynchronousWorkers())

    def opened(self, link: ILink) -> None:
        """A client's session."""
        self.sessions.append(link)
        self._peers[link] = Peer(self)
        self._queues[link.peer.additional_data.ljust(32, b"\0")] = link
        self._beat(link)

    def _beat(self, link: ILink) -> None:
        if link in self._peers:
            if not self.silent:
                link.send(NoOp())
            self.reactor.callLater(10, self._beat, link)

    def closed(self, link: ILink) -> None:
        """It ended."""
        if link in self.sessions:
            self.sessions.remove(link)
            del self._peers[link]

    def command(self, link: ILink, command: Any) -> None:
        """What clients ask."""
        peer = self._peers[link]
        match command:
            case NoOp():
                peer.noops += 1
            case MessageDelivered() if peer.waiting and command.sequence == peer.sequence:
                peer.waiting = False
                self._push(link)
            case GetConsensus2():
                self.requests.append(command.epoch)
                now = EPOCHS.number(self.clock.wallclock())
                if self.hold_documents or command.epoch > now + 1:
                    link.send(chunks.failure(ConsensusCode.NOT_FOUND))
                elif command.epoch in self.gone or command.epoch < now - 1:
                    link.send(chunks.failure(ConsensusCode.GONE))
                else:
                    for chunk in chunks.split(self.document(command.epoch), SIZES.down):
                        link.send(chunk)

    def _push(self, link: ILink) -> None:
        peer = self._peers.get(link)
        if peer is None or peer.waiting or not peer.spool:
            return
        peer.sequence += 1
        peer.waiting = True
        link.send(attrs.evolve(peer.spool.popleft(), sequence=peer.sequence))

    def deliver(self, queue: bytes, surb_id: bytes, payload: bytes) -> None:
        """Something for a client."""
        link = self._queues.get(queue)
        if link in self._peers:
            self._peers[link].spool.append(Message(sequence=0, surb_id=surb_id, payload=payload))
            self._push(link)

    # Packets -------------------------------------------------------------------------------------------------------

    def packets(self, gateway: FakeNode, packets: list[bytes]) -> None:
        """From a client."""
        for packet in packets:
            self.arrivals.append(self.reactor.seconds())
            if self.travels:
                self._at(gateway, packet)

    def _at(self, node: FakeNode, packet: bytes) -> None:
        epoch = EPOCHS.number(self.clock.wallclock())
        for e in (epoch, epoch - 1, epoch + 1):
            if e not in node.mix_keys:
                continue
            try:
                found = unwrap(node.mix_keys[e][0], packet, GEOMETRY)
            except Exception:
                continue
            break
        else:
            self.lost += 1
            return
        routing = Routing.from_commands(found.commands)
        delay = (routing.delay or 0) / 1000
        if routing.kind is Kind.FORWARD:
            following = self._by_id[routing.next_hop.id]
            self.reactor.callLater(delay, self._at, following, found.next_packet)
        elif routing.kind is Kind.SURB_REPLY:
            self.deliver(routing.recipient, routing.surb_id, found.payload)
        else:
            self.reactor.callLater(delay, self._serve, routing.recipient, found.payload)

    def _serve(self, recipient: bytes, payload: bytes) -> None:
        if self.loss and self.random.uniform() <= self.loss:
            self.lost += 1
            return
        body, surb = parse_block(payload, GEOMETRY)
        if recipient.rstrip(b"\0") == b"+record":
            self.recorded.append(body)
        elif surb is not None:
            packet, first = reply_packet(surb, body, GEOMETRY)
            self._at(self._by_id[first], packet)

    # Clients -------------------------------------------------------------------------------------------------------

    def config(self, **changes: Any) -> ClientConfig:
        """A client's configuration."""
        authority = Authority(
            identifier="auth1",
            identity_key=self._authority[1],
            signature_scheme="Ed25519",
            link_key=WIRE.generate(self.random)[1],
            wire_kem="x25519",
            addresses=(parse_address("tcp://127.0.0.1:99"),),
        )
        config = ClientConfig(
            wire_kem="x25519",
            epoch_duration="",
            grace=600.0,
            transports=("tcp", "tcp4"),
            listen=Socket(network="tcp", address="127.0.0.1:64331"),
            geometry=GEOMETRY,
            gateways=tuple(
                Gateway(
                    name=g.name,
                    identity_key=g.identity[1],
                    link_key=g.link[1],
                    wire_kem="x25519",
                    addresses=(parse_address(f"tcp://127.0.0.1:{g.port}"),),
                )
                for g in self.gateways
            ),
            authorities=(authority,),
            proxy=Proxy(),
            logging=Logging(disable=True, file="", level="NOTICE", json=False),
            disable_decoys=False,
            time_sync=False,
            arq_slop=20.0,
        )
        return attrs.evolve(config, **changes)

    def core(self, seed: object = 1, config: ClientConfig | None = None, **options: Any) -> ClientCore:
        """A client's core."""
        return ClientCore(config or self.config(), EPOCHS, self.clock, SeededRandom(f"client {seed}"), **options)

    def daemon(self, seed: object = 1, **changes: Any) -> Multiplexer:
        """A daemon without sockets."""
        context = attrs.evolve(self.context(), random=SeededRandom(f"daemon {seed}"))
        return Multiplexer(context, self.wire, self.core(seed, self.config(**changes)))

    def run(self, seconds: float) -> None:
        """Let time pass, from call to call, so that nothing happens late."""
        end = self.reactor.seconds() + seconds
        while (calls := self.reactor.getDelayedCalls()) and (due := min(c.getTime() for c in calls)) <= end:
            self.reactor.advance(max(0.0, due - self.reactor.seconds()))
        self.reactor.advance(max(0.0, end - self.reactor.seconds()))


class _Gateway(LinkOwner):
    """The links' owner."""

    def __init__(self, network: FakeNetwork, node: FakeNode) -> None:
        self._network, self._node = network, node

    def established(self, link: ILink) -> None:
        """See ILinkOwner."""
        self._network.opened(link)

    def packetsReceived(self, link: ILink, packets: list[bytes]) -> None:
        """See ILinkOwner."""
        self._network.packets(self._node, packets)

    def commandReceived(self, link: ILink, command: Any) -> None:
        """See ILinkOwner."""
        self._network.command(link, command)

    def closed(self, link: ILink, reason: Exception) -> None:
        """See ILinkOwner."""
        self._network.closed(link)
