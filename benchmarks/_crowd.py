"""Real programs in a network of thousands: this process plays the authority and all the other nodes.

The programs run with a probe in their reactor (_probed.py), so that every turn that takes long is known. The nodes that
are only played answer the dials of the real ones with real handshakes, each under its own identity on an address of its
own in 127.0.0.0/8.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from document import PORT, node
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory

from katzentwist.clock import Epochs, SystemClock, parse_duration
from katzentwist.crypto import kem, sign
from katzentwist.net.link import LinkProtocol
from katzentwist.net.owner import Context, LinkOwner
from katzentwist.net.tcp import Transports
from katzentwist.net.workers import ThreadWorkers
from katzentwist.node.identity import Identity
from katzentwist.node.keyfiles import KeyPair, load_or_create
from katzentwist.pki import Document, topology
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.upload import SignedUpload
from katzentwist.randomness import SystemRandom
from katzentwist.sphinx import Geometry
from katzentwist.testing.authority import authority_factory
from katzentwist.testnet.plan import Network, Shape, generate
from katzentwist.wire import CommandSizes, SessionConfig, SessionKind
from katzentwist.wire.codes import ConsensusCode, DescriptorCode
from katzentwist.wire.legal import NODE_LISTENER

ROOT = Path(__file__).parent.parent
KEM = "xwing"
LAYERS = 3
NEXT = 0.4
"""Part of an epoch after which the next document is published."""
STOOD = 0.5
"""Part of a turn for which a processor stood still, for the turn to be the machine's."""
LONGEST_TOLD = 3
"""Turns of which all is told that the probe knows (see _probed.py)."""


class Crowd:
    """The network.

    :param running: names of the real programs: ``mix1``, ``gateway1``, ``servicenode1``, ``client``.
    """

    def __init__(self, folder: Path, nodes: int, epoch: str, running: tuple[str, ...], blame: float = 0.0) -> None:
        reactor.seconds = time.monotonic
        self.folder, self._nodes, self._running, self._blame = folder, nodes, running, blame
        self.epochs = Epochs(parse_duration(epoch))
        shape = Shape(providers=0, gateways=1, service_nodes=1, mixes=3, epoch=epoch, lambda_m=0.0)
        self.network: Network = generate(folder / "net", shape)
        self.geometry = Geometry.from_user_payload(shape.user_payload, LAYERS + 2, nike="x25519")
        authority = self.network.nodes[0]
        random = SystemRandom()
        self.keys = Identity.of(
            load_or_create(authority.folder, "identity", sign.by_name("Ed25519"), random),
            load_or_create(authority.folder, "link", kem.by_name(KEM), random),
        )
        self.workers = ThreadWorkers(reactor)
        self.context = Context(reactor=reactor, clock=SystemClock(), random=random, workers=self.workers)
        self.transports = Transports(reactor)
        self.served: dict[int, float] = {}
        self.documents: dict[int, bytes] = {}
        self._uploads: dict[int, dict[str, Descriptor]] = {}
        self._by_host: dict[str, tuple[bytes, KeyPair]] = {}
        self._keys: dict[int, KeyPair] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._control = Control(folder / "control")

    # The authority -------------------------------------------------------------------------------------------------

    async def _post(self, _peer: bytes, epoch: int, payload: bytes) -> int:
        descriptor = SignedUpload.parse(payload).descriptor
        self._uploads.setdefault(epoch, {})[descriptor.name] = descriptor
        return DescriptorCode.OK

    def _get(self, epoch: int) -> tuple[int, bytes]:
        raw = self._document(epoch)
        if not raw:
            return ConsensusCode.NOT_FOUND, b""
        self.served.setdefault(epoch, time.monotonic())
        return ConsensusCode.OK, raw

    def _document(self, epoch: int) -> bytes:
        now, elapsed, _ = self.epochs.now(time.time())
        real = self._uploads.get(epoch, {})
        wanted = [name for name in self._running if name != "client"]
        if set(wanted) - set(real) or epoch > now + 1 or (epoch > now and elapsed < NEXT * self.epochs.period):
            return b""
        if epoch not in self.documents:
            self.documents[epoch] = self._make(epoch, real).sign(self.keys.identity.private, now)
        return self.documents[epoch]

    def _make(self, epoch: int, real: dict[str, Descriptor]) -> Document:
        ends = max(1, self._nodes // 10)
        mixes = list(self._play(range(self._nodes - 2 * ends), "mix", epoch))
        layers = topology.random(mixes, LAYERS, bytes(32))
        layers[1] += [descriptor for name, descriptor in real.items() if name.startswith("mix")]
        gateways = self._play(range(self._nodes, self._nodes + ends), "gateway", epoch)
        services = self._play(range(2 * self._nodes, 2 * self._nodes + ends), "service", epoch)
        return Document(
            mu=0.005,
            epoch=epoch,
            lambda_g=0.0,
            lambda_l=0.0005,
            lambda_m=0.0,
            lambda_p=0.001,
            lambda_r=0.0,
            topology=layers,
            gateway_nodes=[*gateways, *(d for name, d in real.items() if name.startswith("gateway"))],
            genesis_epoch=epoch,
            service_nodes=[*services, *(d for name, d in real.items() if name.startswith("service"))],
            prior_shared_random=[bytes(32)],
            shared_random_value=bytes(32),
            sphinx_geometry_hash=self.geometry.hash(),
        )

    def _play(self, numbers: range, kind: str, epoch: int) -> Iterator[Descriptor]:
        for number in numbers:
            made = node(number, kind, epoch, self._link_key(number).public, self._host(number))
            self._by_host[self._host(number)] = made.id, self._link_key(number)
            yield made

    def _link_key(self, number: int) -> KeyPair:
        if number not in self._keys:
            self._keys[number] = KeyPair(*kem.by_name(KEM).generate(self.context.random))
        return self._keys[number]

    def _host(self, number: int) -> str:
        return f"127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"

    # Links ---------------------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Open the authority and the played nodes."""
        self.workers.start()
        address = self.network.nodes[0].addresses[0]
        endpoint = TCP4ServerEndpoint(reactor, int(address.rsplit(":", 1)[1]), interface="127.0.0.1")
        await endpoint.listen(
            authority_factory(self.context, kem.by_name(KEM), self.keys, post=self._post, get=self._get)
        )
        played = TCP4ServerEndpoint(reactor, PORT, backlog=4096, interface="0.0.0.0")
        await played.listen(_PlayedFactory(self))

    def config_at(self, host: str) -> SessionConfig:
        """The session of the played node of this address."""
        return self.session(*self._by_host[host])

    def session(self, node_id: bytes, pair: KeyPair) -> SessionConfig:
        """Of a played node with this identity."""
        return SessionConfig(
            kem=kem.by_name(KEM),
            private=pair.private,
            public=pair.public,
            additional_data=node_id,
            kind=SessionKind.MIXNET,
            sizes=self.sizes,
            accepts=NODE_LISTENER,
            handshake_timeout=30.0,
            read_timeout=None,
        )

    @property
    def sizes(self) -> CommandSizes:
        """Of commands."""
        payload = self.geometry.payload_tag_length + self.geometry.forward_payload_length
        return CommandSizes(packet_length=self.geometry.packet_length, payload_length=payload)

    # The programs --------------------------------------------------------------------------------------------------

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start one of the real programs."""
        node = self.network.daemon() if name == "client" else next(n for n in self.network.nodes if n.name == name)
        options = ["--blame", str(self._blame)] if self._blame else []
        program = "katzenclient" if name == "client" else "katzenmix"
        report = str(self.folder / f"{name}.turns")
        command = [
            sys.executable,
            str(ROOT / "benchmarks/_probed.py"),
            report,
            *options,
            program,
            "-f",
            str(node.config),
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "KATZENPOST_EPOCH_DURATION": self.network.epoch}
        with (self.folder / f"{name}.log").open("wb") as output:
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=output, stderr=output)
        self._processes[name] = process
        return process

    def check(self) -> None:
        """:raises SystemExit: a program has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise SystemExit(f"{name} ended:\n{(self.folder / f'{name}.log').read_text()[-3000:]}")

    def stop(self) -> None:
        """End all."""
        self._control.stop()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.workers.stop()

    def turns(self, name: str, begin: float, end: float) -> dict[str, Any]:
        """What the probe of a program saw."""
        return turns(self.folder / f"{name}.turns", begin, end, self._control)


class Control:
    """Watches the machine while it is entered (see _control.py)."""

    def __init__(self, report: Path) -> None:
        report.touch()
        self._report = report
        command = [sys.executable, str(ROOT / "benchmarks/_control.py"), str(report)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def stood(self, begin: float, end: float) -> float:
        """The longest that a processor stood still of what lay between two moments (monotonic), seconds."""
        stops = [tuple(map(float, line.split())) for line in self._report.read_text().splitlines()]
        return max((min(end, at) - max(begin, at - late) for at, late in stops), default=0.0)

    def stop(self) -> None:
        """Watch no more."""
        self._process.terminate()
        self._process.wait()


def turns(report: Path, begin: float, end: float, control: Control) -> dict[str, Any]:
    """What a probe saw between two moments (monotonic).

    Turns in which the machine stood still are told apart; what it stood is not taken from them.
    """
    facts = [fact for fact in map(json.loads, report.read_text().splitlines()) if begin <= fact["at"] <= end]
    all_late = sorted((fact for fact in facts if "late" in fact), key=lambda fact: -fact["late"])
    late: list[dict[str, Any]] = []
    stopped: list[dict[str, Any]] = []
    for fact in all_late:
        stood = control.stood(fact["at"] - fact["late"], fact["at"])
        (stopped if stood > STOOD * fact["late"] else late).append(fact)
    pauses = [(fact["gc"], fact["generation"]) for fact in facts if "gc" in fact]
    return {
        "longest turn ms": _ms(late[0]["late"]) if late else 0.0,
        "turns over 5 ms": sum(fact["late"] > 0.005 for fact in late),
        "longest turns": [
            {
                **{name: _ms(fact[name]) for name in ("late", "cpu", "queued", "waited", "waking")},
                "faults": fact["faults"],
                "calls": [f"{name} {_ms(took)}" for name, took in fact["calls"]],
            }
            for fact in late[:LONGEST_TOLD]
        ],
        "while the machine stood still": {
            "longest turn ms": _ms(stopped[0]["late"]) if stopped else 0.0,
            "turns over 5 ms": sum(fact["late"] > 0.005 for fact in stopped),
        },
        "longest garbage collection ms": _ms(max(pauses, default=(0.0, 0))[0]),
        "of generation": max(pauses, default=(0.0, 0))[1],
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 1)


class _PlayedLink(LinkProtocol):
    """Knows who it is by the address that was dialled."""

    crowd: Crowd

    def connectionMade(self) -> None:
        """Choose the identity, then shake hands."""
        self._config = self.crowd.config_at(self.transport.getHost().host)
        super().connectionMade()


class _PlayedFactory(Factory):
    noisy = False

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd

    def buildProtocol(self, addr: object) -> LinkProtocol:
        """Without limits: the dialler is on trial, not we."""
        nobody = self._crowd.session(self._crowd.keys.id, self._crowd.keys.link)
        link = _PlayedLink(self._crowd.context, nobody, LinkOwner(), initiator=False)
        link.crowd = self._crowd
        return link
