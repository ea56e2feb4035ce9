"""A network made of one process: an authority, and neighbours around one real node that is measured.

The generator plays the authority and every neighbour over real links, with the same code that the programs use.

========  ==========================  ===============
role      packets come from           and leave for
========  ==========================  ===============
mix       nodes of layer 0            nodes of layer 2
gateway   clients, by client links    nodes of layer 0
========  ==========================  ===============
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs
from _reactor import sleep
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectError, ConnectionClosed

from katzentwist.clock import Epochs, SystemClock
from katzentwist.config import toml
from katzentwist.config.addresses import Address
from katzentwist.crypto import kem, keys, nike, sign
from katzentwist.errors import KatzentwistError
from katzentwist.net.accepting import LinkFactory
from katzentwist.net.dialling import dial
from katzentwist.net.owner import Context, ILink, LinkOwner
from katzentwist.net.tcp import Transports
from katzentwist.net.workers import ThreadWorkers
from katzentwist.node.identity import Identity
from katzentwist.node.keyfiles import KeyPair, load_or_create, prepare_data_dir
from katzentwist.node.runtime import Repeating
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import Document
from katzentwist.pki.upload import SignedUpload
from katzentwist.randomness import SystemRandom
from katzentwist.sphinx import Geometry
from katzentwist.testing.authority import authority_factory
from katzentwist.testnet.plan import Ports
from katzentwist.wire import CommandSizes, PeerCredentials, SessionConfig, SessionKind
from katzentwist.wire.codes import ConsensusCode, DescriptorCode
from katzentwist.wire.commands import NoOp
from katzentwist.wire.legal import CLIENT, NODE_DIALLER, NODE_LISTENER

HOST = "127.0.0.1"
KEM = "xwing"
GEOMETRY = Geometry.from_user_payload(2000, 5, nike="x25519")
SIZES = CommandSizes(packet_length=GEOMETRY.packet_length, payload_length=32 + GEOMETRY.forward_payload_length)
UNDER_TEST = "under-test"
PERIOD: Final = "20m"
MIX, GATEWAY = "mix", "gateway"
CLIENT_RATE: Final = 1000.0
"""LambdaP for the clients of a gateway under test, packets per ms: its limit is looked at for each packet and lets all
pass."""
SETTLED: Final = 1.0
"""Seconds after the start of an epoch in which nodes judge their peers again."""
SILENCE: Final = 30.0
"""Seconds after which links that feed nothing say something; a node closes them after 120 (spec: link 9.2)."""
RETRY: Final = 0.1
"""Seconds between two dials of a node that is not there yet."""


_PORTS = Ports(0, SystemRandom())


def free_port() -> int:
    """A port that is free now, and is not given twice."""
    return _PORTS.take(1)


def new_identity() -> Identity:
    """Fresh keys."""
    random = SystemRandom()
    return Identity.of(KeyPair(*sign.by_name("Ed25519").generate(random)), KeyPair(*kem.by_name(KEM).generate(random)))


@attrs.define(eq=False)
class Neighbour(LinkOwner):
    """One node that the generator plays: it dials the mix, or takes what the mix sends."""

    name: str
    identity: Identity
    port: int
    mix_key: tuple[bytes, bytes]
    """(private, public)"""
    took: Callable[[Neighbour, list[bytes]], None] = lambda node, packets: None
    link: ILink | None = None
    linked: Deferred[None] = attrs.field(factory=Deferred)

    def descriptor(self, epoch: int, gateway: bool = False, service: bool = False) -> Descriptor:
        """What the document says of it."""
        return Descriptor(
            name=self.name,
            epoch=epoch,
            link_key=self.identity.link.public,
            mix_keys=dict.fromkeys(range(epoch, epoch + 3), self.mix_key[1]),
            addresses={"tcp4": [f"tcp://{HOST}:{self.port}"]},
            identity_key=self.identity.identity.public,
            kaetzchen={"echo": {"endpoint": "+echo"}} if service else None,
            is_gateway_node=gateway,
            is_service_node=service,
        )

    def authenticate(self, link: ILink, credentials: PeerCredentials) -> bool:
        """Everyone may come: the generator measures, it does not judge."""
        return True

    def established(self, link: ILink) -> None:
        """The link is up."""
        self.link = link
        if not self.linked.called:
            self.linked.callback(None)

    def closed(self, link: ILink, reason: Exception) -> None:
        """The link is gone."""
        if link is self.link:
            self.link = None

    def packetsReceived(self, link: ILink, packets: list[bytes]) -> None:
        """What came out of the mix."""
        self.took(self, packets)

    def config(self, accepts: Any) -> SessionConfig:
        """Its side of a link."""
        return SessionConfig(
            kem=kem.by_name(KEM),
            private=self.identity.link.private,
            public=self.identity.link.public,
            additional_data=self.identity.id,
            kind=SessionKind.MIXNET,
            sizes=SIZES,
            accepts=accepts,
            handshake_timeout=30.0,
            read_timeout=None,
        )


class Surroundings:
    """The authority and all neighbours.

    :param senders: how many send.
    :param receivers: how many get.
    :param mu: rate of the delays, per ms.
    :param idle: how many more of those who send there are; they send nothing, and connect in a storm.
    :param role: of the node under test.
    """

    def __init__(
        self,
        folder: Path,
        senders: int,
        receivers: int,
        mu: float,
        *,
        period: str = PERIOD,
        idle: int = 0,
        role: str = MIX,
    ) -> None:
        # Delays and latencies are measured on the clock that never steps, as in the programs.
        reactor.seconds = time.monotonic
        self.folder, self.mu, self.period, self.role = folder, mu, period, role
        self.epochs = Epochs.from_environment({}, period)
        self.workers = ThreadWorkers(reactor)
        self.context = Context(reactor=reactor, clock=SystemClock(), random=SystemRandom(), workers=self.workers)
        self.transports = Transports(reactor)
        self.authority = new_identity()
        self.authority_port, self.port, self.metrics_port = free_port(), free_port(), free_port()
        self.senders = [self._neighbour(f"sender{i}") for i in range(senders)]
        self.receivers = [self._neighbour(f"receiver{i}") for i in range(receivers)]
        self.idle = [self._neighbour(f"idle{i}") for i in range(idle)]
        self.gateway, self.service = self._neighbour("gateway"), self._neighbour("service")
        self._others = [self._neighbour(f"other{i}") for i in range(2)]
        self.descriptors: dict[int, Descriptor] = {}
        self._documents: dict[int, bytes] = {}

    def _neighbour(self, name: str) -> Neighbour:
        return Neighbour(name, new_identity(), free_port(), _mix_key())

    def write_node(self) -> Path:
        """The configuration and keys of the node under test, in the v0.0.99 shape, so that a Go node reads them too."""
        folder = prepare_data_dir(str(self.folder / "node"))
        identity = load_or_create(folder, "identity", sign.by_name("Ed25519"), SystemRandom())
        link = load_or_create(folder, "link", kem.by_name(KEM), SystemRandom())
        self.node = Identity.of(identity, link)
        authority = {
            "Identifier": "authority",
            "IdentityPublicKey": keys.encode_public(sign.by_name("Ed25519"), self.authority.identity.public),
            "PKISignatureScheme": "Ed25519",
            "LinkPublicKey": keys.encode_public(kem.by_name(KEM), self.authority.link.public),
            "WireKEMScheme": KEM,
            "Addresses": [f"tcp://{HOST}:{self.authority_port}"],
        }
        tables = {
            "Server": {
                "Identifier": UNDER_TEST,
                "WireKEM": KEM,
                "PKISignatureScheme": "Ed25519",
                "Addresses": [f"tcp://{HOST}:{self.port}"],
                "MetricsAddress": f"{HOST}:{self.metrics_port}",
                "DataDir": str(folder),
                "IsGatewayNode": self.role == GATEWAY,
                # A key of ours, which the Go node refuses.
                **({"EpochDuration": self.period} if self.period != PERIOD else {}),
            },
            "PKI": {"Voting": {"Authorities": [authority]}},
            "Logging": {"Level": "NOTICE"},
            "SphinxGeometry": GEOMETRY.to_toml(),
        }
        path = folder / "katzenpost.toml"
        path.write_text(toml.dump(tables))
        return path

    # The authority -------------------------------------------------------------------------------------------------

    async def _post(self, _peer: bytes, epoch: int, payload: bytes) -> int:
        self.descriptors[epoch] = SignedUpload.parse(payload).descriptor
        return DescriptorCode.OK

    def _get(self, epoch: int) -> tuple[int, bytes]:
        raw = self._document(epoch)
        return ConsensusCode.NOT_FOUND if raw is None else ConsensusCode.OK, raw or b""

    def mix_key(self) -> bytes | None:
        """The node's mix key for the current epoch; None before it has uploaded one."""
        epoch = self.epochs.number(time.time())
        return next((d.mix_keys[epoch] for d in self.descriptors.values() if epoch in d.mix_keys), None)

    def _document(self, epoch: int) -> bytes | None:
        if epoch not in self.descriptors:
            return None
        if epoch not in self._documents:
            own = self.descriptors[epoch]
            given = [n.descriptor(epoch) for n in self.receivers]
            if self.role == GATEWAY:
                topology = [given, *([n.descriptor(epoch)] for n in self._others)]
                gateways, rate = [own], CLIENT_RATE
            else:
                topology = [[n.descriptor(epoch) for n in [*self.senders, *self.idle]], [own], given]
                gateways, rate = [self.gateway.descriptor(epoch, gateway=True)], 0.001
            document = Document(
                mu=self.mu,
                epoch=epoch,
                lambda_g=0.0,
                lambda_l=0.001,
                lambda_m=0.0,
                lambda_p=rate,
                lambda_r=0.0,
                topology=topology,
                gateway_nodes=gateways,
                genesis_epoch=epoch,
                service_nodes=[self.service.descriptor(epoch, service=True)],
                prior_shared_random=[bytes(32)],
                shared_random_value=bytes(32),
                sphinx_geometry_hash=GEOMETRY.hash(),
            )
            now = self.epochs.number(time.time())
            self._documents[epoch] = document.sign(self.authority.identity.private, now)
        return self._documents[epoch]

    # Links ---------------------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Open the authority and the receivers."""
        self.workers.start()
        authority = TCP4ServerEndpoint(reactor, self.authority_port, interface=HOST)
        factory = authority_factory(self.context, kem.by_name(KEM), self.authority, post=self._post, get=self._get)
        await authority.listen(factory)
        for node in [*self.receivers, self.gateway, self.service]:
            endpoint = TCP4ServerEndpoint(reactor, node.port, interface=HOST)
            await endpoint.listen(LinkFactory(self.context, node.config(NODE_LISTENER), node))

    async def connect(self) -> None:
        """Wait for the node's first document, dial it from every sender, and wait for it to dial every receiver."""
        while self.epochs.number(time.time()) not in self.descriptors:
            await sleep(RETRY)
        address = Address("tcp", HOST, self.port)
        accepts = CLIENT if self.role == GATEWAY else NODE_DIALLER
        for node in self.senders:
            while node.link is None:
                try:
                    await dial(self.context, self.transports, address, node.config(accepts), node)
                except (ConnectError, ConnectionClosed, KatzentwistError):
                    await sleep(RETRY)
        with self.quiet():
            for node in self.receivers:
                await node.linked

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Meanwhile nothing is fed: keep the links up."""
        speaking = Repeating(reactor, lambda: SILENCE, self._speak)
        speaking.start()
        try:
            yield
        finally:
            speaking.stop()

    def _speak(self) -> None:
        for node in self.senders:
            if node.link is not None:
                node.link.send(NoOp())

    def unsettled(self) -> float:
        """Seconds until the node may send: links of an epoch's last eighth may be by the next document (node 5.2)."""
        _, elapsed, left = self.epochs.now(time.time())
        if left < self.epochs.fraction(1, 8):
            return left + SETTLED
        return max(0.0, SETTLED - elapsed)


def _mix_key() -> tuple[bytes, bytes]:
    return nike.by_name("x25519").generate(SystemRandom())


class Usage:
    """CPU seconds and memory of a process and all its threads, from the operating system."""

    def __init__(self, pid: int) -> None:
        self._stat, self._status = Path(f"/proc/{pid}/stat"), Path(f"/proc/{pid}/status")
        self._tick = os.sysconf("SC_CLK_TCK")

    def cpu(self) -> float:
        """User and system seconds so far."""
        fields = self._stat.read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / self._tick

    def memory(self) -> int:
        """Resident bytes."""
        line = next(text for text in self._status.read_text().splitlines() if text.startswith("VmRSS"))
        return int(line.split()[1]) * 1024
