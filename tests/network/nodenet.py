"""Whole nodes in one process: an authority, mixes, a gateway and a service node in memory and on a fake clock.

Everything between the sockets and the packets is the real thing: the authority's machine, the PKI workers, links with
their handshakes, pipelines, delay queues, spool and services. Left out are the files, threads and signals of
:class:`~katzentwist.mix.service.NodeDaemon`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from katzentwist.config.authority import Parameters
from katzentwist.config.common import Authority
from katzentwist.config.debug import resolve_debug, with_runtime
from katzentwist.config.halves import Half as HalfConfig
from katzentwist.config.halves import Kind
from katzentwist.config.services import Service
from katzentwist.config.whitelist import GATEWAY, MIX, SERVICE, Member
from katzentwist.dirauth._core import AuthorityCore, examine
from katzentwist.dirauth.making import Network
from katzentwist.mix.mixkeys import MixKeys
from katzentwist.mix.service import PublishingHalf
from katzentwist.net import Context, LinkOwner, SynchronousWorkers, dial, parse_address
from katzentwist.net.owner import ILink
from katzentwist.node.identity import Identity
from katzentwist.node.keyfiles import KeyPair
from katzentwist.node.pkiclient import PKIClient
from katzentwist.node.runtime import Runtime
from katzentwist.pki.document import Document
from katzentwist.plugins.builtin.echo import Echo
from katzentwist.plugins.inprocess import InProcess
from katzentwist.plugins.registry import Registry
from katzentwist.provider.clients import Clients
from katzentwist.provider.end import PacketEnd
from katzentwist.provider.mailbox import Mailbox
from katzentwist.provider.ratelimit import LimitSource
from katzentwist.randomness import IRandom, SeededRandom
from katzentwist.sphinx import build, build_block, choose_path, decrypt_reply, new_surb
from katzentwist.status.metrics import Metrics
from katzentwist.testing.authority import authority_factory
from katzentwist.testing.network import MemoryNetwork
from katzentwist.testing.stores import MemorySpool
from katzentwist.wire import SessionConfig, SessionKind
from katzentwist.wire.codes import ConsensusCode
from katzentwist.wire.commands import Message, MessageDelivered, NoOp
from katzentwist.wire.legal import CLIENT

from .clientnet import EPOCHS, GEOMETRY, SIGNER, SIZES, WIRE, FakeClock

KINDS = {Kind.MIX: MIX, Kind.GATEWAY: GATEWAY, Kind.SERVICE: SERVICE}
PARAMETERS = Parameters(mu=0.01, lambda_p=0.01, lambda_l=0.01, lambda_m=0.001)
ECHO = "+echo"


def authority_entry(port: int, keys: Identity) -> Authority:
    """An authority in the files of nodes."""
    return Authority(
        identifier=f"auth{port}",
        identity_key=keys.identity.public,
        signature_scheme="Ed25519",
        link_key=keys.link.public,
        wire_kem="x25519",
        addresses=(parse_address(f"tcp://127.0.0.1:{port}"),),
    )


def new_keys(random: IRandom) -> Identity:
    """Fresh ones."""
    return Identity.of(KeyPair(*SIGNER.generate(random)), KeyPair(*WIRE.generate(random)))


class FakeAuthority:
    """The nonvoting authority without a disk.

    :ivar mute: it takes connections and never answers uploads.
    :ivar hidden: epochs whose document it keeps to itself.
    """

    def __init__(self, net: NodeNet, port: int) -> None:
        self.net, self.port = net, port
        self.keys = new_keys(net.random)
        self.mute = False
        self.hidden: set[int] = set()
        self.members: dict[bytes, Member] = {}
        self.core: AuthorityCore
        self._listening: Any = None

    @property
    def config(self) -> Authority:
        """Its entry in the files of nodes."""
        return authority_entry(self.port, self.keys)

    def start(self, nodes: list[FakeNode]) -> None:
        """Listen, with these nodes on the white list."""
        for node in nodes:
            name = node.config.identifier
            member = Member(kinds=frozenset({KINDS[node.kind]}), name=name, identity_key=node.identity.identity.public)
            self.members[member.id] = member
        network = Network(
            parameters=PARAMETERS,
            geometry_hash=GEOMETRY.hash(),
            layers=3,
            min_nodes_per_layer=1,
            gateways=1,
        )
        now = self.net.clock.wallclock()
        self.core = AuthorityCore(self.members, network, EPOCHS, now=now, bootstrap=True)
        listed = self.members.__contains__
        self._factory = authority_factory(
            self.net.context(), WIRE, self.keys, post=self._post, get=self._get, is_member=listed
        )
        self.listen()
        self.net.reactor.callLater(0, self._tick)

    def listen(self) -> None:
        """Take connections."""
        endpoint = self.net.wire.listen(parse_address(f"tcp://127.0.0.1:{self.port}"))
        endpoint.listen(self._factory).addCallback(lambda port: setattr(self, "_listening", port))

    def go_away(self) -> None:
        """Refuse connections."""
        self._listening.stopListening()

    def _get(self, epoch: int) -> tuple[int, bytes]:
        if epoch in self.hidden:
            return ConsensusCode.NOT_FOUND, b""
        return self.core.consensus(epoch, self.net.clock.wallclock())

    async def _post(self, peer: bytes, epoch: int, payload: bytes) -> int:
        if self.mute:
            await Deferred()
        now = EPOCHS.number(self.net.clock.wallclock())
        upload = examine(self.members, peer, epoch, payload, now)
        decision = self.core.offer(upload)
        if decision.store:
            self.core.stored(upload)
            self._look()
        return decision.status

    def _look(self) -> None:
        now = self.net.clock.wallclock()
        for epoch in self.core.publishable(now):
            making = self.core.begin(epoch)
            self.core.published(making.sign(self.keys.identity.private, self.net.random.bytes(32), EPOCHS.number(now)))

    def _tick(self) -> None:
        self.core.forget(self.net.clock.wallclock())
        self._look()
        self.net.reactor.callLater(1.0, self._tick)


class FakeNode:
    """One node of one half."""

    def __init__(self, net: NodeNet, name: str, kind: Kind, port: int, **debug: Any) -> None:
        self.net, self.kind = net, kind
        self.identity = new_keys(net.random)
        address = parse_address(f"tcp://127.0.0.1:{port}")
        self.config = HalfConfig(kind=kind, identifier=name, key_dir="", addresses=(address,), listen=(address,))
        self.debug = debug
        self.clock = FakeClock(net.reactor)
        self.metrics = Metrics()
        self.fatal: list[str] = []
        self.running = False

    @property
    def name(self) -> str:
        """Its name."""
        return self.config.identifier

    def drops(self) -> Counter[str]:
        """Dropped packets by reason."""
        return Counter(
            {labels[0][1]: n for (name, labels), n in self.metrics.counters.items() if name == "dropped_reason_total"}
        )

    def start(self) -> None:
        """As NodeDaemon does it."""
        net = self.net
        table = SimpleNamespace(
            wire_kem="x25519",
            authorities=tuple(a.config for a in net.authorities),
            data_dir=str(net.folder / self.name),
            geometry=GEOMETRY,
        )
        Path(table.data_dir).mkdir(parents=True, exist_ok=True)
        debug = with_runtime(resolve_debug(None, older=False), 2, 1000.0)
        self.runtime = Runtime(
            reactor=net.reactor,
            clock=self.clock,
            random=net.random,
            workers=SynchronousWorkers(),
            config=table,
            debug=attrs.evolve(debug, **self.debug),
            epochs=EPOCHS,
            metrics=self.metrics,
            transports=net.wire,
        )
        self.spool = MemorySpool()
        mailbox = services = self.clients = None
        if self.kind is Kind.GATEWAY:
            mailbox = Mailbox(self.spool, None, None, seconds=self.clock.monotonic, patience=0.5)
            self.clients = Clients(self.runtime, mailbox, LimitSource(False), lambda e: self.pki.document(e))
        if self.kind is Kind.SERVICE:
            echo = Service(capability="echo", endpoint=ECHO, disable=False, config={})
            services = Registry((echo,), lambda s: InProcess(Echo(), self.metrics, 2, 0.75, self.clock.monotonic))
            Deferred.fromCoroutine(services.start())
        end = None if self.kind is Kind.MIX else PacketEnd(self.runtime, services, mailbox)
        keys = MixKeys(GEOMETRY, net.random)
        keys.generate(self.runtime.epoch()[0])
        self.half = PublishingHalf(self.runtime, self.config, self.identity, keys, end=end, clients=self.clients)
        self.half.services = services
        self.half.advertised_addresses = {"tcp4": [a.url for a in self.config.addresses]}
        self.pki = PKIClient(self.runtime, [self.half], fatal=self.fatal.append, changed=self._changed)
        Deferred.fromCoroutine(self.half.listeners.start())
        if self.clients is not None:
            self.clients.start()
        self.half.start()
        self.pki.start()
        self.running = True

    def _changed(self) -> None:
        signed = self.pki.core.documents.get(self.runtime.epoch()[0])
        if signed is not None and self.clients is not None:
            self.clients.limits.use_document(signed.document.lambda_p, signed.document.lambda_l)
            self.clients.limits_changed()

    def stop(self) -> None:
        """End in order."""
        self.running = False
        self.pki.stop()
        if self.clients is not None:
            self.clients.stop()
        Deferred.fromCoroutine(self.half.stop())

    def links(self) -> tuple[int, int]:
        """(outgoing links that are up, accepted links)."""
        return sum(link.connected for link in self.half.connector), len(self.half.incoming.links)


class FakeClient(LinkOwner):
    """A client that sends what it is told to, acknowledges pushes and keeps them.

    :ivar back: SURB id -> when its reply came.
    """

    def __init__(self, net: NodeNet) -> None:
        self.net = net
        self.id = net.random.bytes(32)
        self.link: ILink | None = None
        self.keys: dict[bytes, bytes] = {}
        self.back: dict[bytes, float] = {}
        self.due: dict[bytes, float] = {}
        self.sent: dict[bytes, float] = {}
        self.payloads: dict[bytes, bytes] = {}

    def connect(self) -> None:
        """To the gateway."""
        private, public = WIRE.generate(self.net.random)
        config = SessionConfig(
            kem=WIRE,
            private=private,
            public=public,
            additional_data=self.id,
            kind=SessionKind.MIXNET,
            sizes=SIZES,
            accepts=CLIENT,
        )
        address = self.net.gateway.config.addresses[0]
        made = dial(self.net.context(), self.net.wire, address, config, self)
        made.addErrback(lambda failure: None)
        self.net.run(0)

    def established(self, link: ILink) -> None:
        """See ILinkOwner."""
        self.link = link

    def closed(self, link: ILink, reason: Exception) -> None:
        """See ILinkOwner."""
        self.link = None

    def commandReceived(self, link: ILink, command: Any) -> None:
        """See ILinkOwner."""
        if isinstance(command, Message):
            self.back[command.surb_id] = self.net.reactor.seconds()
            payload = decrypt_reply(self.keys[command.surb_id], command.payload, GEOMETRY)
            self.payloads[command.surb_id] = payload
            link.send(MessageDelivered(sequence=command.sequence))
        elif isinstance(command, NoOp):
            link.send(NoOp())

    def ping(self) -> bytes:
        """Send an echo request; its SURB id."""
        packet, surb_id = self.packet()
        assert self.link is not None
        self.link.sendPackets([packet])
        return surb_id

    def packet(self) -> tuple[bytes, bytes]:
        """An echo request, and the id of its SURB."""
        net = self.net
        document = net.document()
        surb_id = net.random.bytes(16)
        base = int(net.clock.wallclock() * 1000)
        gateway, service = net.gateway.identity.id, net.service.identity.id
        common = {"epochs": EPOCHS, "random": net.random, "surb_id": surb_id}
        forth = choose_path(document, gateway, service, ECHO.encode(), base_time=base, from_client=True, **common)
        back = choose_path(document, service, gateway, self.id, base_time=forth.end_time, forward=False, **common)
        surb, self.keys[surb_id] = new_surb(back.hops, GEOMETRY, net.random)
        block = build_block(surb_id * 4, surb, GEOMETRY)
        self.sent[surb_id] = net.reactor.seconds()
        self.due[surb_id] = net.reactor.seconds() + (back.end_time - base) / 1000
        return build(forth.hops, block, GEOMETRY, net.random), surb_id


class NodeNet:
    """The network.

    :param folder: for the documents that nodes keep.
    """

    def __init__(self, folder: Path, seed: object = 1, *, mixes: int = 3, authorities: int = 1, **debug: Any) -> None:
        self.folder = folder
        self.reactor = Clock()
        self.clock = FakeClock(self.reactor)
        self.random = SeededRandom(f"nodes {seed}")
        self.wire = MemoryNetwork(self.reactor)
        self.authorities = [FakeAuthority(self, 20 + i) for i in range(authorities)]
        self.mixes = [FakeNode(self, f"mix{i}", Kind.MIX, 100 + i, **debug) for i in range(mixes)]
        self.gateway = FakeNode(self, "gateway", Kind.GATEWAY, 200, **debug)
        self.service = FakeNode(self, "service", Kind.SERVICE, 300, **debug)
        self.nodes = [*self.mixes, self.gateway, self.service]

    @property
    def authority(self) -> FakeAuthority:
        """The first authority."""
        return self.authorities[0]

    def start(self) -> None:
        """Everything."""
        self.authority.start(self.nodes)
        for node in self.nodes:
            node.start()

    def stop(self) -> None:
        """All nodes."""
        for node in self.nodes:
            if node.running:
                node.stop()
        self.run(6)

    def context(self) -> Context:
        """What links need."""
        return Context(reactor=self.reactor, clock=self.clock, random=self.random, workers=SynchronousWorkers())

    def run(self, seconds: float) -> None:
        """Let time pass; every timer fires at its own time."""
        end = self.reactor.seconds() + seconds
        while True:
            calls = self.reactor.getDelayedCalls()
            due = min((c.getTime() for c in calls), default=end)
            if due > end:
                break
            self.reactor.advance(max(0.0, due - self.reactor.seconds()))
            if not calls:
                break
        if end > self.reactor.seconds():
            self.reactor.advance(end - self.reactor.seconds())

    def run_to(self, epoch: int, elapsed: float = 0.0) -> None:
        """Let time pass until so many seconds into an epoch."""
        self.run(EPOCHS.start(epoch) + elapsed - self.clock.wallclock())

    @property
    def epoch(self) -> int:
        """The current one."""
        return EPOCHS.number(self.clock.wallclock())

    def document(self, epoch: int | None = None) -> Document:
        """The document of an epoch, now by default."""
        signed = self.authority.core.document(self.epoch if epoch is None else epoch)
        assert signed is not None
        return signed.document

    def drops(self) -> Counter[str]:
        """Of all nodes by reason."""
        return sum((node.drops() for node in self.nodes), Counter())
