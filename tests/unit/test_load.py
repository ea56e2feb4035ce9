"""What the load generator makes, checks and judges, without a node."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from array import array
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from katzentwist.crypto import nike
from katzentwist.crypto.native import native
from katzentwist.randomness import SystemRandom
from katzentwist.sphinx import NodeDelay, unwrap
from katzentwist.wire.commands import NoOp

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

import _compare
import _surroundings
import load
from _highest import last_drop, on_time
from _packets import Maker, Packets, Reader
from _rig import Part
from _surroundings import GEOMETRY
from _traffic import Traffic

HOPS = [bytes([1]) * 32, bytes([2]) * 32]


class PacketTests(SynchronousTestCase):
    """Packets of one layer."""

    skip = None if native is not None else "the native core is not built"

    def setUp(self) -> None:
        """A node."""
        self.private, public = nike.by_name("x25519").generate(SystemRandom())
        self.maker = Maker(GEOMETRY, (bytes(32), public), HOPS, 0.005)

    def test_unwraps(self) -> None:
        """To the node they are forward packets, for one next hop after the other; what comes out has its number."""
        read = Reader(GEOMETRY).number
        for number in (6, 7, 2**33):
            packet, delay = self.maker.one(number, 77)
            unwrapped = unwrap(self.private, packet, GEOMETRY)
            self.assertEqual(delay, 77)
            self.assertEqual(unwrapped.commands[0], NodeDelay(77))
            self.assertEqual(unwrapped.commands[1].id, HOPS[number % 2])  # type: ignore[union-attr]
            self.assertEqual(len(unwrapped.next_packet or b""), GEOMETRY.packet_length)
            self.assertEqual(read(unwrapped.next_packet or b""), number)

    def test_changed(self) -> None:
        """A byte behind the header that changed on the way."""
        packet, _ = self.maker.one(5, 1)
        out = unwrap(self.private, packet, GEOMETRY).next_packet or b""
        for at in (GEOMETRY.header_length, len(out) - 1):
            self.assertEqual(Reader(GEOMETRY).number(out[:at] + b"\1" + out[at + 1 :]), -1)


@attrs.define
class Link:
    """Takes packets, or does not."""

    writable: bool = True
    taken: list[bytes] = attrs.field(factory=list)

    def sendPackets(self, packets: list[bytes]) -> bool:
        """As a link does."""
        self.taken += packets
        return True


@attrs.define
class Neighbour:
    """As much of one as traffic uses."""

    link: Link = attrs.field(factory=Link)
    took: Any = None


class TrafficTests(TestCase):
    """Four packets, from two senders to two receivers."""

    def setUp(self) -> None:
        """Packets that the node would give on as they are."""
        self.senders, self.receivers = [Neighbour(), Neighbour()], [Neighbour(), Neighbour()]
        self.traffic = Traffic(self.senders, self.receivers)  # type: ignore[arg-type]
        body = GEOMETRY.packet_length - GEOMETRY.header_length - 32
        start = bytes(GEOMETRY.header_length + 32)
        self.ready = [start + number.to_bytes(8, "big").ljust(body, b"\0") for number in range(10, 14)]
        self.traffic.load(Packets(10, self.ready, array("I", [0, 0, 0, 0])))

    def feed(self) -> Deferred[None]:
        """All of them."""
        return Deferred.fromCoroutine(self.traffic.feed(0, 1.0))

    def come(self, receiver: int, packet: bytes) -> None:
        """A packet comes out."""
        self.receivers[receiver].took(None, [packet])

    async def test_right(self) -> None:
        """Each once, where it belongs."""
        await self.feed()
        self.assertEqual([len(n.link.taken) for n in self.senders], [2, 2])
        self.assertEqual((self.traffic.sent, self.traffic.missing), (4, 4))
        for at, packet in enumerate(self.ready[:3]):
            self.come(at % 2, packet)
        self.assertEqual((self.traffic.received, self.traffic.missing, self.traffic.wrong), (3, 1, 0))
        self.assertEqual((self.traffic.missing_of(0, 3), self.traffic.missing_of(3, 4)), (0, 1))
        self.assertTrue(all(0 <= late < 1 for late in self.traffic.late))

    async def test_wrong(self) -> None:
        """Twice, at the wrong neighbour, changed, never sent."""
        await self.feed()
        self.come(0, self.ready[0])
        for receiver, packet in (
            (0, self.ready[0]),
            (0, self.ready[1]),
            (0, self.ready[2][:-1] + b"\1"),
            (0, self.ready[0][: GEOMETRY.header_length + 32] + (99).to_bytes(8, "big") + bytes(2566)),
        ):
            before = self.traffic.wrong
            self.come(receiver, packet)
            self.assertEqual(self.traffic.wrong, before + 1)
        self.assertEqual(self.traffic.received, 1)

    async def test_before_its_time(self) -> None:
        """A packet that came and was not sent yet."""
        self.come(0, self.ready[0])
        self.assertEqual((self.traffic.received, self.traffic.wrong), (0, 1))

    async def test_full(self) -> None:
        """What is due while a link is full is not sent, and told."""
        self.senders[1].link.writable = False
        await Deferred.fromCoroutine(self.traffic.feed(1000.0, 1.0))
        self.assertEqual((self.traffic.sent, self.traffic.held), (2, 2))
        self.assertEqual(self.senders[1].link.taken, [])
        self.come(1, self.ready[1])
        self.assertEqual(self.traffic.wrong, 1)


def part(**changes: Any) -> Part:
    """A part in which all went well."""
    values: dict[str, Any] = {
        "rate": 100.0,
        "wall": 1.0,
        "cpu": 0.01,
        "own": 0.01,
        "sent": 100,
        "held": 0,
        "received": 100,
        "lost": 0,
        "wrong": 0,
        "unexplained": 0,
        "drops": {},
        "late": array("d", [0.001] * 100),
        "fed": array("d", [at / 100 for at in range(100)]),
        "half": 50,
        "ended": 0.5,
        "memory": [1],
        "dropped": [(0.1, 0), (2.0, 0)],
    }
    return Part(**{**values, **changes})


class PartTests(SynchronousTestCase):
    """What is concluded."""

    def test_check(self) -> None:
        """Losses that were counted are none of ours; others, and wrong packets, are failures."""
        part(lost=3, drops={"unwrap_dwell_exceeded": 3}).check()
        self.assertIn("2 packets", str(self.assertRaises(SystemExit, part(wrong=2).check)))
        self.assertIn("no counter", str(self.assertRaises(SystemExit, part(unexplained=1).check)))

    def test_lost_share(self) -> None:
        """What the node did not take counts as lost."""
        self.assertEqual(part(sent=60, held=40, lost=6).lost_share, 0.46)

    def test_recovered_at_once(self) -> None:
        """Nothing was late after the load."""
        self.assertAlmostEqual(on_time(part()), 0.0)
        self.assertEqual(last_drop(part()), 0.0)

    def test_recovered_when_nothing_is_late(self) -> None:
        """The last late packet was fed 0.2 s after the end."""
        late = array("d", [0.3 if at <= 70 else 0.001 for at in range(100)])
        self.assertAlmostEqual(on_time(part(late=late)), 0.21)

    def test_recovered_when_nothing_is_dropped(self) -> None:
        """The last drop was seen after 0.4 s."""
        seen = part(drops={"unwrap_dwell_exceeded": 9}, dropped=[(0.0, 5), (0.2, 7), (0.4, 9), (0.6, 9)])
        self.assertEqual(last_drop(seen), 0.4)

    def test_never_recovered(self) -> None:
        """Late to the end: as long as it was watched."""
        self.assertEqual(on_time(part(late=array("d", [0.3] * 100))), 2.0)


class OptionTests(SynchronousTestCase):
    """The command line of the load generator."""

    core = str(min(os.sched_getaffinity(0)))

    def refusal(self, *words: str) -> str:
        """What it says of a wrong one."""
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            error = self.assertRaises(SystemExit, load.arguments, words)
        self.assertEqual(error.code, 2)
        return said.getvalue().splitlines()[-1]

    def test_defaults(self) -> None:
        """What is measured without a word, and how long."""
        args = load.arguments([])
        self.assertEqual((args.rate, args.seconds, args.warmup, args.peers), (1000.0, 20.0, 3.0, 1))
        args = load.arguments(["--highest"])
        self.assertEqual((args.rate, args.seconds), (None, 60.0))

    def test_wrong_values(self) -> None:
        """Status 2, and what to write instead."""
        for option, value, wanted in (
            ("--rate", "-1", "a number of at least 0 instead of '-1'"),
            ("--rate", "nan", "a number of at least 0 instead of 'nan'"),
            ("--rate", "fast", "a number of at least 0 instead of 'fast'"),
            ("--seconds", "0", "a number of at least 1 instead of '0'"),
            ("--peers", "0", "a whole number of at least 1 instead of '0'"),
            ("--peers", "1.5", "a whole number of at least 1 instead of '1.5'"),
            ("--epoch", "soon", "write for example 20m"),
            ("--own-cores", "4096", "with commas between them, instead of '4096'"),
            ("--own-cores", "a,b", "with commas between them, instead of 'a,b'"),
            ("--command", "", "it is empty"),
            ("--command", "/no/such {config}", "there is no program '/no/such'"),
            ("--command", "true {file}", "{file} is unknown"),
            ("--command", "'", "No closing quotation"),
        ):
            self.assertIn(wanted, self.refusal(option, value))

    def test_wrong_together(self) -> None:
        """What one mode of measuring would leave unheard is refused."""
        for mode in ("--growth", "--cores"):
            for option in (["--storm", "5"], ["--peers", "2"], ["--perf", "file"], ["--own-cores", self.core]):
                self.assertIn(f"leave {option[0]} out", self.refusal(mode, *option))
        self.assertIn("leave --storm out", self.refusal("--highest", "--storm", "5"))

    def test_no_perf(self) -> None:
        """A missing program, or folder, is told before anything is measured."""
        which = load.shutil.which
        self.patch(load.shutil, "which", lambda name: None if name == "perf" else which(name))
        self.assertIn("perf of Linux", self.refusal("--perf", "file"))
        self.patch(load.shutil, "which", lambda name: name)
        self.assertIn("nothing can be written to /no/such/file", self.refusal("--perf", "/no/such/file"))

    def test_passed_on(self) -> None:
        """The runs of a comparison are told all that may be said to it, and understand it."""
        words = ["--rate", "0", "--limit", "5", "--seconds", "2", "--warmup", "1", "--role", "gateway", "--mu", "0.1"]
        words += ["--epoch", "1m", "--patience", "9", "--command", "true {config} 'a b'"]
        args = load.arguments(["--growth", *words])
        run = load.arguments(load.passed_on(args))
        self.assertEqual({**vars(run), "growth": True}, vars(args))


class _Link:
    """Notes what it is told to send."""

    def __init__(self, said: Deferred[Any]) -> None:
        self._said = said

    def send(self, command: Any) -> None:
        if not self._said.called:
            self._said.callback(command)


class SurroundingsTests(TestCase):
    """The neighbours."""

    async def test_quiet(self) -> None:
        """Links that feed nothing for long say something, or the node closes them; one that is closed is none."""
        self.patch(reactor, "seconds", reactor.seconds)  # the surroundings set it
        self.patch(_surroundings, "SILENCE", 0.01)
        around = _surroundings.Surroundings(Path(self.mktemp()), 1, 1, 0.005)
        said: Deferred[Any] = Deferred()
        sender, link = around.senders[0], _Link(said)
        sender.established(link)  # type: ignore[arg-type]
        with around.quiet():
            self.assertEqual(await said.addTimeout(10, reactor), NoOp())
        sender.closed(link, Exception())  # type: ignore[arg-type]
        self.assertIsNone(sender.link)


class CompareTests(SynchronousTestCase):
    """Runs against each other."""

    def test_medians(self) -> None:
        """The variants take turns; their medians are compared."""
        asked = []
        costs = iter([50.0, 60.0, 90.0, 61.0, 51.0, 62.0])

        def run(arguments: list[str], seconds: float) -> dict[str, Any]:
            asked.append(arguments)
            return {_compare.CPU: next(costs), _compare.SCALED: 2.5, "lateness ms 99%": 1.0, "lost": 1}

        self.patch(_compare, "_run", run)
        self.patch(_compare, "say", lambda text: None)
        figures = _compare.compare({"few": ("--peers", "1"), "many": ("--peers", "9")}, ["--rate", "5"], 1.0, 3)
        self.assertEqual(asked, [["--rate", "5", "--peers", "1"], ["--rate", "5", "--peers", "9"]] * 3)
        (verdict,) = figures["verdicts"]
        self.assertEqual((verdict["measured"], verdict["reached"]), (round(61 / 51, 3), False))
        self.assertEqual(figures["few: lost"], 3)


class MakeTests(TestCase):
    """Making many."""

    skip = None if native is not None else "the native core is not built"

    async def test_make(self) -> None:
        """The right number, in order, each with the delay that it carries."""
        private, public = nike.by_name("x25519").generate(SystemRandom())
        packets = await Maker(GEOMETRY, (bytes(32), public), HOPS, 0.005).make(100, 300)
        self.assertEqual((len(packets), len(packets.delays)), (300, 300))
        read = Reader(GEOMETRY).number
        for at in (0, 255, 256, 299):
            unwrapped = unwrap(private, packets.ready[at], GEOMETRY)
            self.assertEqual(unwrapped.commands[0], NodeDelay(packets.delays[at]))
            self.assertEqual(read(unwrapped.next_packet or b""), 100 + at)
