"""The PKI worker: uploads and fetches over real links, in memory (spec: node 4.10, pki 13)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config.common import Authority
from katzentwist.errors import PKIError
from katzentwist.logger import ModuleLogger
from katzentwist.net import Context, SynchronousWorkers, parse_address
from katzentwist.node.clockwatch import ClockWatch
from katzentwist.node.pkiclient import PKIClient
from katzentwist.node.runtime import Runtime
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import GeometryMismatchError, SignedDocument
from katzentwist.randomness import SeededRandom
from katzentwist.status.metrics import Metrics
from katzentwist.testing.authority import authority_factory
from katzentwist.testing.network import MemoryNetwork
from katzentwist.wire.codes import ConsensusCode, DescriptorCode

from ..network.clientnet import EPOCHS, GEOMETRY, WIRE, FakeClock
from ..network.nodenet import NodeNet, authority_entry, new_keys

NOW = 4_000_000


class Desk:
    """An authority that answers as it is told.

    :ivar answer: to uploads; None: never.
    :ivar members: whether all nodes are in its list, or none.
    :ivar documents: whether it has them; None: it never answers.
    """

    def __init__(self, case: PKICase, port: int) -> None:
        self.keys = new_keys(case.random)
        self.port = port
        self.answer: int | None = DescriptorCode.OK
        self.documents: bool | None = True
        self.uploads: list[float] = []
        self.fetches = 0
        self._case = case
        self.members = True
        self._factory = authority_factory(
            case.context, WIRE, self.keys, post=self._post, get=self._get, is_member=lambda _: self.members
        )
        self.address = parse_address(f"tcp://127.0.0.1:{port}")
        self.listen()

    def listen(self) -> None:
        self._case.wire.listen(self.address).listen(self._factory).addCallback(lambda p: setattr(self, "_port", p))

    def go_away(self) -> None:
        self._port.stopListening()

    async def _post(self, peer: bytes, epoch: int, payload: bytes) -> int:
        self.uploads.append(self._case.clock.seconds())
        if self.answer is None:
            await Deferred()
        return self.answer

    def _get(self, epoch: int) -> tuple[int, bytes]:
        self.fetches += 1
        return (0, b"%d" % epoch) if self.documents else (ConsensusCode.NOT_FOUND, b"")

    @property
    def config(self) -> Authority:
        return authority_entry(self.port, self.keys)


class Half:
    """A publisher."""

    def __init__(self, random: SeededRandom) -> None:
        self.identity = new_keys(random)
        self.taken: list[int] = []

    def descriptor(self, epoch: int) -> Descriptor:
        return Descriptor(
            name="mix1",
            epoch=epoch,
            link_key=self.identity.link.public,
            mix_keys={e: bytes([e % 256]) * 32 for e in range(epoch, epoch + 3)},
            addresses={"tcp4": ["tcp://127.0.0.1:1"]},
            identity_key=self.identity.identity.public,
        )

    def take_document(self, signed: SignedDocument) -> None:
        self.taken.append(signed.document.epoch)

    def documents_changed(self) -> None:
        pass

    def loop_stats(self, epoch: int) -> None:
        return None


class PKICase(SynchronousTestCase):
    """A worker with authorities around it."""

    authorities = 3

    def setUp(self) -> None:
        self.clock, self.random = Clock(), SeededRandom(self.id())
        self.both = FakeClock(self.clock)
        self.wire = MemoryNetwork(self.clock)
        self.context = Context(reactor=self.clock, clock=self.both, random=self.random, workers=SynchronousWorkers())
        self.desks = [Desk(self, 20 + i) for i in range(self.authorities)]
        self.half, self.fatal, self.metrics = Half(self.random), [], Metrics()
        self.said: list[tuple[str, str]] = []
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.client = self.make()

    def make(self) -> PKIClient:
        runtime = Runtime(
            reactor=self.clock,
            clock=self.both,
            random=self.random,
            workers=SynchronousWorkers(),
            config=SimpleNamespace(
                authorities=[d.config for d in self.desks], data_dir=str(self.folder), geometry=GEOMETRY
            ),
            debug=SimpleNamespace(connect_timeout=60000, handshake_timeout=3000),
            epochs=EPOCHS,
            metrics=self.metrics,
            transports=self.wire,
        )
        client = PKIClient(runtime, [self.half], fatal=self.fatal.append)
        client.log = client._uploader.log = ModuleLogger("pki", observer=self._hear)
        client._verify = self.verify
        return client

    def _hear(self, event: dict[str, Any]) -> None:
        self.said.append((event["log_level"].name, formatEvent(event)))

    def verify(self, raw: bytes, epoch: int, now: int) -> SignedDocument:
        document: Any = SimpleNamespace(epoch=int(raw), size=0, sphinx_geometry_hash=b"", nodes=lambda: [int(raw)])
        return SignedDocument(raw=raw, document=document, signers=[], missing=[])

    def run_for(self, seconds: float, step: float = 0.25) -> None:
        for _ in range(round(seconds / step)):
            self.clock.advance(step)

    def errors(self) -> list[str]:
        return [text for level, text in self.said if level in ("error", "critical")]


class FetchTests(PKICase):
    """Documents."""

    def test_first_wins(self) -> None:
        """An authority that does not answer delays nothing while another one has the document."""
        never: Deferred[Any] = Deferred()
        dial = self.wire.dial
        mute = SimpleNamespace(connect=lambda factory: never)
        self.patch(self.wire, "dial", lambda a, timeout=0.0: mute if a == self.desks[0].address else dial(a, timeout))
        self.client.start()
        self.run_for(5)
        self.assertIn(NOW, self.half.taken)
        self.assertEqual(self.client._under_way, set())
        self.assertTrue(never.called, "given up")

    def test_all_fail(self) -> None:
        """What each of them said stands in one line; the next try comes."""
        for desk in self.desks:
            desk.documents = False
        self.desks[1].go_away()
        self.client.start()
        self.run_for(4)
        warnings = [text for level, text in self.said if level == "warn"]
        self.assertEqual(len(warnings), 1, warnings)
        self.assertIn("not yet there", warnings[0])
        self.assertIn("refused", warnings[0])
        self.desks[0].documents = True
        self.run_for(12)
        self.assertIn(NOW, self.half.taken)

    def test_restart(self) -> None:
        """Documents are found again on disk, and old ones are deleted there."""
        stale = self.folder / "consensus" / f"{NOW - 9}.cbor"
        stale.parent.mkdir()
        stale.write_bytes(b"1")
        self.client.start()
        self.run_for(5)
        self.assertFalse(stale.exists())
        self.client.stop()
        for desk in self.desks:
            desk.go_away()
        self.half.taken.clear()
        again = self.make()
        again.start()
        self.assertEqual(sorted(self.half.taken), [NOW - 2, NOW - 1, NOW])
        again.stop()

    def test_damaged(self) -> None:
        """A stored document that is no good is not used, and is fetched."""
        kept = self.folder / "consensus" / f"{NOW}.cbor"
        kept.parent.mkdir()
        kept.write_bytes(b"garbage")

        def verify(raw: bytes, epoch: int, now: int) -> SignedDocument:
            if raw == b"garbage":
                raise PKIError("no document")
            return self.verify(raw, epoch, now)

        self.client._verify = verify
        self.client.start()
        self.assertEqual(self.half.taken, [])
        self.run_for(5)
        self.assertIn(NOW, self.half.taken)

    def test_full_disk(self) -> None:
        """Costs the copy on disk, nothing else."""
        (self.folder / "consensus").write_bytes(b"in the way")
        self.client.start()
        self.run_for(5)
        self.assertIn(NOW, self.half.taken)
        self.assertTrue(any("on disk" in text for level, text in self.said if level == "warn"))

    def test_old(self) -> None:
        """The nodes of a document that is too old are freed bit by bit."""
        freed: list[object] = []
        self.patch(self.client._bin, "add", freed.extend)
        self.client.start()
        self.run_for(12)
        self.assertEqual((sorted(self.client.core.documents)[0], freed), (NOW - 2, []))
        self.run_for(EPOCHS.period)
        self.assertEqual((sorted(self.client.core.documents)[0], freed), (NOW - 1, [NOW - 2]))

    def test_geometry(self) -> None:
        """A network of another geometry is fatal (spec: node 2.7)."""

        def verify(raw: bytes, epoch: int, now: int) -> SignedDocument:
            raise GeometryMismatchError("another geometry")

        self.client._verify = verify
        self.client.start()
        self.run_for(3)
        self.assertIn("another geometry", self.fatal)


class UploadTests(PKICase):
    """Descriptors in a network of three authorities."""

    def test_each(self) -> None:
        """Every authority gets the descriptor once."""
        self.client.start()
        self.run_for(12)
        self.assertEqual([len(d.uploads) for d in self.desks], [0, 0, 0], "we started after the window")
        self.run_for(110)
        self.assertEqual([len(d.uploads) for d in self.desks], [1, 1, 1])
        self.assertEqual(self.errors(), [])

    def test_late_authority(self) -> None:
        """One that was away at first gets it too, while the window is open; a conflict is an answer like Ok."""
        self.run_for(100)  # until the window of the next epoch: its first 12.5 s
        self.client.start()
        self.desks[2].go_away()
        self.desks[1].answer = DescriptorCode.CONFLICT
        self.run_for(13)
        self.assertEqual([len(d.uploads) for d in self.desks], [1, 1, 0])
        self.desks[2].listen()
        self.run_for(5)
        self.assertEqual([len(d.uploads) for d in self.desks], [1, 1, 1])

    def test_conflicts(self) -> None:
        """If none takes it the log says so once, and what that means; it is not a matter of the white list."""
        for desk in self.desks:
            desk.answer = DescriptorCode.CONFLICT
        self.run_for(100)
        self.client.start()
        self.run_for(30)
        (error,) = self.errors()
        self.assertIn("another descriptor is stored", error)
        self.assertIn("PersistMixKeysOnShutdown", error)
        self.assertNotIn("white-listed", error)

    def test_window(self) -> None:
        """What was not accepted in the window is given up, with one ERROR."""
        self.desks[0].answer = DescriptorCode.FORBIDDEN
        self.desks[1].answer = None
        self.desks[2].go_away()
        self.run_for(100)
        self.client.start()
        self.run_for(30)
        self.assertEqual(len(self.errors()), 1, self.errors())
        self.assertIn("not on the authority's list", self.errors()[0])
        self.assertNotIn("white-listed", self.errors()[0])
        self.assertGreater(len(self.desks[0].uploads), 1)

    def test_unlisted(self) -> None:
        """An authority hangs up on a node that is not in its list: the log asks for that."""
        for desk in self.desks:
            desk.members = False
        self.run_for(100)
        self.client.start()
        self.run_for(30)
        (error,) = self.errors()
        self.assertIn("is the node white-listed at the authority?", error)

    def test_stop(self) -> None:
        """Ending in the midst of everything is no failure of an upload or a fetch."""
        for desk in self.desks:
            desk.answer = None
        self.run_for(111)
        self.client.start()
        self.run_for(2)
        self.assertEqual([len(d.uploads) for d in self.desks], [1, 1, 1])
        self.said.clear()
        self.client.stop()
        self.run_for(10)
        self.assertEqual(self.said, [])
        self.assertEqual(self.client._under_way, set())


class SingleTests(PKICase):
    """One authority, ours."""

    authorities = 1

    def test_stop(self) -> None:
        """As with several."""
        self.desks[0].answer = None
        self.desks[0].documents = False
        self.client.start()
        self.run_for(2)
        self.said.clear()
        self.client.stop()
        self.run_for(10)
        self.assertEqual(self.said, [])

    def test_again(self) -> None:
        """An upload that failed is tried again and again, and told once per epoch."""
        self.desks[0].go_away()
        self.client.start()
        self.run_for(10)
        self.assertEqual(len(self.errors()), 1)
        self.desks[0].listen()
        self.run_for(10)
        self.assertEqual(len(self.desks[0].uploads), 1)


class ClockTests(SynchronousTestCase):
    """The civil time."""

    def test_jumps(self) -> None:
        """Backwards, or by more than 2 s forward; not slewing, not a late look."""
        watch = ClockWatch()
        self.assertEqual(watch.jump(1000.0, 1.0), 0.0)
        self.assertEqual(watch.jump(1001.4, 2.0), 0.0)
        self.assertEqual(watch.jump(1100.4, 101.0), 0.0)
        self.assertAlmostEqual(watch.jump(1090.4, 102.0), -11.0)
        self.assertAlmostEqual(watch.jump(1094.4, 103.0), 3.0)
        self.assertEqual(watch.jump(1095.4, 104.0), 0.0)

    def test_warning(self) -> None:
        """A jump is one WARNING."""
        net = NodeNet(Path(self.mktemp()))
        net.start()
        net.run(5)
        said: list[dict[str, Any]] = []
        mix = net.mixes[0]
        mix.pki.log = ModuleLogger("pki", observer=said.append)
        mix.clock.step = -7
        net.run(5)
        jumps = [e for e in said if "jumped" in e["log_format"]]
        self.assertEqual([(e["how"], round(e["seconds"])) for e in jumps], [("backwards", 7)])
        net.stop()
