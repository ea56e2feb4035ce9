"""The authority on loopback: real connections, a real store, a clock of our own (spec: pki 10 to 12)."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from katzentwist.clock import Epochs, IClock
from katzentwist.config import authority
from katzentwist.crypto import kem
from katzentwist.crypto.hash import blake2b_256
from katzentwist.dirauth.service import AuthorityService
from katzentwist.errors import ConfigError, StoreError, WireError
from katzentwist.net import pkilink
from katzentwist.net.address import Address
from katzentwist.net.owner import Context
from katzentwist.net.tcp import Transports
from katzentwist.net.workers import SynchronousWorkers
from katzentwist.node.keyfiles import KeyPair
from katzentwist.pki import document
from katzentwist.randomness import SeededRandom
from katzentwist.status.metrics import Metrics
from katzentwist.wire.commands import Consensus, GetConsensus, PostDescriptor, PostDescriptorStatus
from tests.unit.dirauth_network import AUTHORITY, AUTHORITY_PUBLIC, Node, nodes

EPOCHS = Epochs(1200 * 10**9)
START = 6000
KEM = kem.by_name("x25519")


@implementer(IClock)
class FixedClock:
    """A wall clock that stands still until it is set."""

    def __init__(self, wall: float) -> None:
        self.wall = wall

    def monotonic(self) -> float:
        """Not used."""
        return 0.0

    def wallclock(self) -> float:
        """The time that was set."""
        return self.wall


def config_text(folder: str, members: list[Node]) -> str:
    """A file for these nodes."""
    lines = [f'[Server]\nAddresses = ["127.0.0.1:0"]\nDataDir = "{folder}"', "[Debug]\nMinNodesPerLayer = 1"]
    tables = {"mix": "Mixes", "gateway": "GatewayNodes", "service": "ServiceNodes"}
    for member in members:
        lines.append(f'[[{tables[member.kind]}]]\nIdentifier = "{member.name}"\nIdentityKey = "{member.public.hex()}"')
    return "\n".join(lines) + "\n"


class ServiceCase(TestCase):
    """An authority that can be restarted."""

    def setUp(self) -> None:
        """Five nodes, nothing running."""
        self.folder = self.make_folder()
        self.nodes = nodes()
        self.clock = FixedClock(EPOCHS.start(START) + 1)
        self.random = SeededRandom(self.id())
        self.context = Context(reactor=reactor, clock=self.clock, random=self.random, workers=SynchronousWorkers())
        self.transports = Transports(reactor)
        self.link = KeyPair(*KEM.generate(self.random))
        self.failures: list[str] = []
        self.service: AuthorityService

    def make_folder(self) -> str:
        """A new data directory."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        return str(folder)

    async def start(self, text: str = "", identity: KeyPair | None = None) -> None:
        """Start it."""
        text = text or config_text(self.folder, self.nodes)
        config, report = authority.load(text, read_file=lambda path: "")
        assert config is not None, report.errors
        self.metrics = Metrics()
        self.service = AuthorityService(
            config,
            EPOCHS,
            identity=identity or KeyPair(AUTHORITY, AUTHORITY_PUBLIC),
            link=self.link,
            context=self.context,
            transports=self.transports,
            call_in_reactor=reactor.callFromThread,
            fail=self.failures.append,
            metrics=self.metrics,
        )
        self.addCleanup(lambda: self.service.stopService())
        await self.service.start()

    async def ask(self, command: Any, sender: Node | None = None, identity: bytes | None = None) -> Any:
        """One request."""
        target = pkilink.Authority(
            addresses=[Address("tcp", "127.0.0.1", self.service.ports[0].getHost().port)],
            identity_hash=blake2b_256(AUTHORITY_PUBLIC),
            link_key=self.link.public,
            kem=KEM,
        )
        caller = None
        if sender is not None or identity is not None:
            private, public = KEM.generate(self.random)
            caller = pkilink.Caller(private=private, public=public, additional_data=identity or sender.id)
        return await pkilink.request(self.context, self.transports, target, command, caller=caller)

    async def post(self, sender: Node, epoch: int, **changes: object) -> int:
        """Upload; the status."""
        reply = await self.ask(PostDescriptor(epoch=epoch, payload=sender.payload(epoch, **changes)), sender)
        assert isinstance(reply, PostDescriptorStatus)
        return reply.error_code

    async def get(self, epoch: int) -> tuple[int, bytes]:
        """Fetch; status and container."""
        reply = await self.ask(GetConsensus(epoch=epoch))
        assert isinstance(reply, Consensus)
        return reply.error_code, reply.payload

    async def document_of(self, epoch: int) -> bytes:
        """Wait for a document."""
        for _ in range(100):
            status, raw = await self.get(epoch)
            if status == 0:
                return raw
            await deferLater(reactor, 0.02)
        raise AssertionError(f"no document for {epoch}")

    def go(self, work: Coroutine[Any, Any, None]) -> Deferred[None]:
        """Run a test that awaits."""
        return Deferred.fromCoroutine(work)


class AuthorityServiceTests(ServiceCase):
    """The running authority."""

    def test_publishes(self) -> Deferred[None]:
        """Five uploads make a document at once; it verifies and is served."""

        async def test() -> None:
            await self.start()
            self.assertEqual(await self.get(START + 1), (1, b""))
            for sender in self.nodes:
                self.assertEqual(await self.post(sender, START + 1), 0)
            raw = await self.document_of(START + 1)
            signed = document.verify(raw, [AUTHORITY_PUBLIC], START, epoch=START + 1)
            self.assertEqual(len(list(signed.document.places())), 5)
            self.assertEqual(await self.post(self.nodes[0], START + 1), 0)
            self.assertEqual(await self.get(START), (2, b""))
            value = self.metrics.value
            self.assertEqual(value("authority_requests_total", request="post_descriptor", status="OK"), 6)
            self.assertEqual(value("authority_requests_total", request="get_consensus", status="GONE"), 1)
            self.assertIn("katzenpost_authority_has_document", self.metrics.render())

        return self.go(test())

    def test_restart(self) -> Deferred[None]:
        """Uploads and documents survive; the same document is served; late-comers complete an epoch."""

        async def test() -> None:
            await self.start()
            for sender in self.nodes[1:]:
                self.assertEqual(await self.post(sender, START + 1), 0)
            await self.service.stopService()
            await self.start()
            self.assertEqual(await self.post(self.nodes[1], START + 1, link_key=b"other"), 2)
            self.assertEqual(await self.post(self.nodes[0], START + 1), 0)
            raw = await self.document_of(START + 1)
            await self.service.stopService()
            await self.start()
            self.assertEqual(await self.get(START + 1), (0, raw))
            self.clock.wall = EPOCHS.start(START + 1) + 1
            for sender in self.nodes:
                await self.post(sender, START + 2)
            later = document.verify(await self.document_of(START + 2), [AUTHORITY_PUBLIC], START + 1)
            self.assertEqual(later.document.genesis_epoch, START + 1)

        return self.go(test())

    def test_strangers(self) -> Deferred[None]:
        """An unknown identity gets no connection, an anonymous peer may not upload, a claim is no proof."""

        async def test() -> None:
            await self.start()
            upload = PostDescriptor(epoch=START + 1, payload=self.nodes[0].payload(START + 1))
            for identity in (b"x" * 32, b"x", blake2b_256(AUTHORITY_PUBLIC)):
                with self.assertRaises((WireError, ConnectionClosed)):
                    await self.ask(upload, identity=identity)
            with self.assertRaises((WireError, ConnectionClosed)):
                await self.ask(upload)
            reply = await self.ask(upload, self.nodes[1])
            self.assertEqual(reply.error_code, 3)
            for _ in range(100):  # the reply may come before the end of the connection
                if self.service.listener.counts["open"] == 0:
                    return
                await deferLater(reactor, 0.02)
            self.fail("a connection stays open")

        return self.go(test())

    def test_descriptor_deadline(self) -> Deferred[None]:
        """With a mix missing the clock alone brings the document, once the deadline has passed."""
        self.nodes = nodes(4)

        async def test() -> None:
            await self.start()
            for sender in self.nodes[1:]:
                await self.post(sender, START + 1)
            self.assertEqual((await self.get(START + 1))[0], 1)
            self.clock.wall += 150
            self.service._timer.cancel()
            self.service._tick()
            await self.document_of(START + 1)

        return self.go(test())

    def test_next_epoch_without_a_document(self) -> Deferred[None]:
        """An epoch that begins without a document is logged with the nodes that were missing, and goes on."""

        async def test() -> None:
            await self.start()
            self.clock.wall = EPOCHS.start(START + 1) + 1
            self.service._timer.cancel()
            self.service._tick()
            self.assertEqual(await self.get(START + 1), (2, b""))

        return self.go(test())

    def test_clock_before_the_epochs(self) -> Deferred[None]:
        """A clock that falls back to 1970 for a while stops nothing for ever, and nothing that was kept is lost."""

        async def test() -> None:
            await self.start()
            for sender in self.nodes:
                self.assertEqual(await self.post(sender, START + 1), 0)
            document = await self.document_of(START + 1)
            self.clock.wall = 1000.0
            self.service._timer.cancel()
            self.service._tick()
            self.assertEqual((await self.get(START + 1))[0], 0)
            self.assertTrue(self.service._timer.active())
            self.clock.wall = EPOCHS.start(START + 1) + 1
            self.service._timer.cancel()
            self.service._tick()
            self.assertEqual(await self.get(START + 1), (0, document))
            self.assertEqual(await self.post(self.nodes[0], START + 2), 0)

        return self.go(test())


class StartTests(ServiceCase):
    """What the start refuses."""

    def test_clock_before_the_epochs(self) -> Deferred[None]:
        """A clock that was never set is told."""
        self.clock.wall = 1000.0

        async def test() -> None:
            with self.assertRaises(ConfigError) as caught:
                await self.start()
            self.assertIn("set the clock", str(caught.exception))

        return self.go(test())

    def test_other_identity(self) -> Deferred[None]:
        """A store of another identity is refused by name."""

        async def test() -> None:
            await self.start()
            await self.service.stopService()
            other = self.nodes[0]
            with self.assertRaises(StoreError) as caught:
                await self.start(identity=KeyPair(other.private, other.public))
            self.assertIn("belongs to the identity", str(caught.exception))

        return self.go(test())

    def test_bolt_file(self) -> Deferred[None]:
        """The store of a Go authority is refused, and left alone."""
        path = Path(self.folder) / "persistence.db"
        content = bytes(16) + bytes.fromhex("edda0ced") + bytes(100)
        path.write_bytes(content)

        async def test() -> None:
            with self.assertRaises(StoreError) as caught:
                await self.start()
            self.assertIn("BoltDB", str(caught.exception))

        return self.go(test()).addCallback(lambda _: self.assertEqual(path.read_bytes(), content))

    def test_address_in_use(self) -> Deferred[None]:
        """A port that is taken is an error with the address."""

        async def test() -> None:
            await self.start()
            first, port = self.service, self.service.ports[0].getHost().port
            self.addCleanup(first.stopService)
            self.folder = self.make_folder()
            with self.assertRaises(ConfigError) as caught:
                await self.start(config_text(self.folder, self.nodes).replace(":0", f":{port}"))
            self.assertIn(str(port), str(caught.exception))

        return self.go(test())

    def test_failing_disk(self) -> Deferred[None]:
        """An upload that can not be kept is not acknowledged, and ends the authority."""

        async def test() -> None:
            await self.start()
            await self.service._state.close()
            with self.assertRaises((WireError, ConnectionClosed)):
                await self.post(self.nodes[0], START + 1)
            self.assertEqual(len(self.failures), 1)  # and no traceback: the test would fail

        return self.go(test())
