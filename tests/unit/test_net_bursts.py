"""Links over real sockets, which read in bursts and write at once."""

from __future__ import annotations

import gc
import resource
import socket
import weakref
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.task import Clock, deferLater
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from katzentwist import net
from katzentwist.clock import SystemClock, mark
from katzentwist.crypto.native import native
from katzentwist.net.bursts import QUIET, BurstReader
from katzentwist.net.owner import Context
from katzentwist.net.senders import Senders
from katzentwist.randomness import SystemRandom
from katzentwist.testing.wirepair import SMALL, config
from katzentwist.wire import Command, records
from katzentwist.wire.commands import NoOp

from .realtime import RealTimeCase
from .test_net_link import Recorder

HOST = "127.0.0.1"


KEY = bytes(range(32))
SIZE = SMALL.up
START = b"\x02\0" + SMALL.packet_length.to_bytes(4, "big")


@implementer(IReactorFDSet)
class Watching(Clock):
    """A fake clock that also keeps a list of what is watched."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        if reader in self.readers:
            self.readers.remove(reader)


class FakeMarks:
    """Calls at each full millisecond of a fake clock."""

    def __init__(self, reactor: Clock, function: Callable[[], None]) -> None:
        self.clock, self.function = reactor, function
        self.timer: Any = None

    def start(self) -> None:
        at = mark(self.clock.seconds() + 1e-5)
        self.timer = self.clock.callLater(at - self.clock.seconds(), self.tick)

    def tick(self) -> None:
        self.start()
        self.function()

    def stop(self) -> None:
        self.timer.cancel()


class Peer:
    """One end of a pair of sockets in the set; the other end seals and writes."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.fd = self.ours.fileno()
        self.sealer = records.RecordSealer(KEY)
        self.opener = records.RecordOpener(KEY, SIZE + 16)
        self.packets: list[bytes] = []
        self.rests: list[Any] = []
        self.failures: list[Failure] = []
        self.then: Callable[[], Any] = lambda: None

    def burst(self, packets: list[bytes], rest: list[bytes] | str | None, now: float) -> None:
        self.packets += packets
        self.rests.append(rest)
        self.then()

    def failed(self, failure: Failure) -> None:
        self.failures.append(failure)

    def send(self, *commands: bytes) -> None:
        self.theirs.sendall(self.sealer.seal(commands))


def packet(number: int) -> bytes:
    return number.to_bytes(4, "big").ljust(SMALL.packet_length, b"p")


def frame(number: int) -> bytes:
    return (START + packet(number)).ljust(SIZE, b"\0")


def send(
    senders: Senders, due: Mapping[bytes, list[bytes]], now: float, most: int = 1000, oldest: float = 0.0
) -> tuple[dict[bytes, list[bytes]], int]:
    """Let *due* leave a heap where it is due now; what is left, and how many were sent."""
    heap = native.DelayHeap()  # type: ignore[union-attr]
    for hop, packets in due.items():
        for one in packets:
            heap.push(now, bytes(bytearray(hop)), one)  # another object each time
    left, late, sent = senders.send_due(heap, now, most, oldest)
    assert late + sent + sum(map(len, left.values())) + len(heap) == sum(map(len, due.values()))
    return left, sent


class BurstReaderTests(SynchronousTestCase):
    """The set by itself."""

    def setUp(self) -> None:
        self.reactor = Watching()
        bursts = BurstReader.of(self.reactor, marks=FakeMarks)
        if bursts is None:
            self.skipTest("no native core, or no epoll here")
        self.bursts = bursts
        self.peers = [Peer() for _ in range(3)]
        for peer in self.peers:
            self.addCleanup(peer.ours.close)
            self.addCleanup(peer.theirs.close)

    def watch(self, *numbers: int) -> None:
        for number in numbers:
            peer = self.peers[number]
            self.bursts.add(peer.fd, peer, peer.opener, START, SIZE)

    def read(self) -> None:
        """An event, at a time when reading is in order."""
        self.reactor.advance(0.01)
        self.bursts.doRead()

    def test_everyone_reads(self) -> None:
        """One event of the reactor lets all read that can, and nobody else."""
        self.watch(0, 1, 2)
        self.assertEqual(self.reactor.readers, [self.bursts])
        self.peers[0].send(frame(1), frame(2))
        self.peers[2].send(frame(3))
        self.read()
        self.assertEqual([p.packets for p in self.peers], [[packet(1), packet(2)], [], [packet(3)]])
        self.assertEqual([p.rests for p in self.peers], [[()], [], [()]])

    def test_other_commands(self) -> None:
        """From the first other command on everything comes as commands, in order."""
        self.watch(0)
        noop = bytes(SIZE)
        self.peers[0].send(frame(1), noop, frame(2))
        self.read()
        self.assertEqual((self.peers[0].packets, self.peers[0].rests), ([packet(1)], [[noop, frame(2)]]))

    def test_not_quite_packets(self) -> None:
        """A command of another size or with another start is no packet."""
        self.watch(0)
        others = [frame(1)[:-1], b"\x02\1" + frame(1)[2:], b"\x03" + frame(1)[1:], b"", START]
        for other in others:
            self.peers[0].send(other)
        self.read()
        self.assertEqual((self.peers[0].packets, self.peers[0].rests), ([], [others]))

    def test_packets_may_not_come(self) -> None:
        """Where none are legal they come as commands."""
        peer = self.peers[0]
        self.bursts.add(peer.fd, peer, peer.opener, b"", SIZE)
        peer.send(frame(1))
        self.read()
        self.assertEqual((peer.packets, peer.rests), ([], [[frame(1)]]))

    def test_half_a_record(self) -> None:
        """What is not complete waits."""
        self.watch(0)
        peer = self.peers[0]
        record = peer.sealer.seal([frame(1)])
        peer.theirs.sendall(record[:100])
        self.read()
        self.assertEqual((peer.packets, peer.rests), ([], [()]))
        peer.theirs.sendall(record[100:])
        self.read()
        self.assertEqual(peer.packets, [packet(1)])

    def test_refused(self) -> None:
        """A record that is not genuine is told by a text."""
        self.watch(0)
        self.peers[0].theirs.sendall(bytes(20))
        self.read()
        self.assertIn("tag", self.peers[0].rests[0])

    def test_end(self) -> None:
        """The end of one is told, and the others read."""
        self.watch(0, 1)
        self.peers[0].theirs.close()
        self.peers[1].send(frame(1))
        self.read()
        self.assertEqual((self.peers[0].rests, self.peers[1].packets), ([None], [packet(1)]))

    def test_more_than_one_turn(self) -> None:
        """When all have much to say, some wait for the next mark, and everything comes in the end."""
        self.peers += [Peer() for _ in range(9)]
        for peer in self.peers[3:]:
            self.addCleanup(peer.ours.close)
            self.addCleanup(peer.theirs.close)
        self.watch(*range(12))
        sent = [packet(number) for number in range(70)]
        for peer in self.peers:
            peer.send(*map(frame, range(70)))
        self.read()
        self.assertLess(sum(len(p.packets) for p in self.peers), 12 * 70)
        self.assertEqual(self.reactor.readers, [])
        self.reactor.pump([0.001] * 10)
        self.assertEqual([p.packets for p in self.peers], [sent] * 12)
        self.assertEqual(self.reactor.readers, [self.bursts])

    def test_dear_commands(self) -> None:
        """Other commands are work for Python: as many bytes of them are not read in one turn."""
        got = []
        for command in (frame(1), bytes(SIZE)):
            peers = [Peer() for _ in range(6)]
            bursts = BurstReader.of(self.reactor, marks=FakeMarks)
            for peer in peers:
                self.addCleanup(peer.ours.close)
                self.addCleanup(peer.theirs.close)
                bursts.add(peer.fd, peer, peer.opener, START, SIZE)
                peer.send(*[command] * ((1 << 15) // SIZE))
            self.reactor.advance(0.01)
            bursts.doRead()
            got.append(sum(bool(peer.rests) for peer in peers))
            bursts.connectionLost()
        self.assertEqual(got, [6, 2])

    def test_end_behind_packets(self) -> None:
        """What was sent before the end arrives, and then the end, although the kernel tells both at once."""
        self.watch(0)
        self.peers[0].send(frame(1))
        self.peers[0].theirs.close()
        self.read()
        self.reactor.advance(0.001)
        self.assertEqual((self.peers[0].packets, self.peers[0].rests), ([packet(1)], [(), None]))

    def test_empty(self) -> None:
        """Without sockets the reactor is left alone; it can begin again."""
        self.watch(0)
        self.bursts.remove(self.peers[0].fd)
        self.assertEqual((self.reactor.readers, self.bursts.fileno()), ([], -1))
        self.bursts.remove(self.peers[0].fd)
        self.bursts.doRead()
        self.watch(0)
        self.assertEqual(self.reactor.readers, [self.bursts])
        self.peers[0].send(frame(1))
        self.read()
        self.assertEqual(self.peers[0].packets, [packet(1)])

    def test_closed_meanwhile(self) -> None:
        """A link may close and take away all others while they are told what was read."""
        self.watch(0, 1)

        def close() -> None:
            for peer in self.peers[:2]:
                self.bursts.remove(peer.fd)
                peer.ours.close()

        for peer in self.peers[:2]:
            peer.send(frame(1))
            peer.then = close
        self.read()
        self.assertEqual([p.failures for p in self.peers], [[], [], []])
        self.assertEqual((len(self.bursts), self.reactor.readers), (0, []))

    def test_mistake(self) -> None:
        """An error of one is told to it, and the others read."""
        self.watch(0, 1)
        self.peers[0].then = lambda: 1 / 0
        for peer in self.peers[:2]:
            peer.send(frame(1))
        self.read()
        self.assertEqual([f.type for f in self.peers[0].failures], [ZeroDivisionError])
        self.assertEqual(self.peers[1].packets, [packet(1)])

    def test_marks(self) -> None:
        """Two events within a millisecond: from then on it reads at each mark, until it is quiet."""
        self.watch(0)
        peer = self.peers[0]
        self.reactor.advance(10.0002)
        peer.send(frame(1))
        self.bursts.doRead()
        self.assertEqual(len(peer.packets), 1)
        self.reactor.advance(0.0001)
        peer.send(frame(2))
        self.bursts.doRead()
        self.assertEqual((len(peer.packets), self.reactor.readers), (1, []))
        self.reactor.advance(0.0008)
        self.assertEqual(len(peer.packets), 2)
        peer.send(frame(3))
        self.reactor.advance(0.001)
        self.assertEqual(len(peer.packets), 3)
        for _ in range(QUIET):
            self.assertEqual(self.reactor.readers, [])
            self.reactor.advance(0.001)
        self.assertEqual((self.reactor.readers, self.reactor.getDelayedCalls()), ([self.bursts], []))

    def test_last_one_leaves_at_a_mark(self) -> None:
        """Then no timer is left."""
        self.watch(0)
        self.bursts.doRead()
        self.bursts.doRead()
        self.assertEqual(self.reactor.readers, [])
        self.bursts.remove(self.peers[0].fd)
        self.assertEqual((self.reactor.readers, self.reactor.getDelayedCalls()), ([], []))

    def test_last_one_leaves_while_reading_at_a_mark(self) -> None:
        """The same when it is told an end."""
        self.watch(0)
        self.bursts.doRead()
        self.bursts.doRead()
        self.peers[0].then = lambda: self.bursts.remove(self.peers[0].fd)
        self.peers[0].theirs.close()
        self.reactor.advance(0.01)
        self.assertEqual((self.reactor.readers, self.reactor.getDelayedCalls()), ([], []))

    def test_no_descriptors(self) -> None:
        """A fake clock watches none."""
        self.assertIsNone(BurstReader.of(Clock()))


class BurstLinkTests(RealTimeCase):
    """Two ends of a real connection."""

    def setUp(self) -> None:
        if BurstReader.of(reactor) is None:
            self.skipTest("no native core, or no epoll here")
        self.server, self.client = Recorder(), Recorder()

    def run_test(self, work: Coroutine[Any, Any, None]) -> Deferred[None]:
        return Deferred.fromCoroutine(work)

    async def connect(self) -> None:
        self.context = Context(
            reactor=reactor, clock=SystemClock(), random=SystemRandom(), workers=net.SynchronousWorkers()
        )
        factory = net.LinkFactory(self.context, config("responder"), self.server)
        port = await TCP4ServerEndpoint(reactor, 0, interface=HOST).listen(factory)
        self.addCleanup(port.stopListening)
        address = net.parse_address(f"tcp://{HOST}:{port.getHost().port}")
        await net.dial(self.context, net.Transports(reactor), address, config("initiator"), self.client)
        await self.until(lambda: self.server.links and self.reading() == 2)
        self.addCleanup(self.end)

    async def end(self) -> None:
        for link in (*self.server.links, *self.client.links):
            link.close()
        await self.until(lambda: self.server.reasons and self.client.reasons)
        self.assertEqual(len(self.context.bursts), 0)

    def reading(self) -> int:
        return len(self.context.bursts)

    def test_traffic(self) -> Deferred[None]:
        """More than any buffer holds arrives whole and in order, in both directions."""

        async def test() -> None:
            await self.connect()
            packets = [number.to_bytes(4, "big").ljust(SMALL.packet_length, b"p") for number in range(4000)]
            self.client.links[0].sendPackets(packets[:1])
            self.client.links[0].sendPackets(packets[1:])
            self.server.links[0].send(NoOp())
            await self.until(lambda: len(self.server.packets) == len(packets))
            self.assertEqual(self.server.packets, packets)
            await self.until(lambda: self.client.commands)
            self.assertFalse([r for r in reactor.getReaders() if isinstance(r, Connection)])

        return self.run_test(test())

    def test_pause(self) -> Deferred[None]:
        """Nothing is read from a paused link; then everything."""

        async def test() -> None:
            await self.connect()
            link = self.server.links[0]
            link.pause()
            link.pause()
            self.assertEqual(self.reading(), 1)
            self.client.links[0].sendPackets([bytes(SMALL.packet_length)])
            await deferLater(reactor, 0.05)
            self.assertEqual(self.server.packets, [])
            link.resume()
            link.resume()
            await self.until(lambda: self.server.packets)

        return self.run_test(test())

    def test_sink(self) -> Deferred[None]:
        """Packets go to the sink while there is one, over a pause too; all else to the owner, and the link is heard."""

        async def test() -> None:
            await self.connect()
            packets = [number.to_bytes(4, "big").ljust(SMALL.packet_length, b"p") for number in range(4)]
            sunk: list[bytes] = []
            link, sender = self.server.links[0], self.client.links[0]
            link.passOn(sunk.extend)
            before = reactor.seconds()
            sender.sendPackets(packets[:2])
            await self.until(lambda: len(sunk) == 2)
            link._direct.note_heard()
            self.assertTrue(before <= link._direct.heard <= reactor.seconds())
            link._direct.heard = 0.0
            link.pause()
            self.assertGreaterEqual(link._direct.heard, before)
            link.resume()
            sender.sendPackets(packets[2:3])
            sender.send(NoOp())
            await self.until(lambda: self.server.commands)
            self.assertEqual((sunk, self.server.packets), (packets[:3], []))
            link.passOn(None)
            sender.sendPackets(packets[3:])
            await self.until(lambda: self.server.packets)
            self.assertEqual((sunk, self.server.packets), (packets[:3], packets[3:]))

        return self.run_test(test())

    def test_sink_fails(self) -> Deferred[None]:
        """An error of the sink is logged, and costs no link."""

        async def test() -> None:
            await self.connect()
            link, sender = self.server.links[0], self.client.links[0]
            link.passOn(lambda packets: 1 / 0)
            sender.sendPackets([bytes(SMALL.packet_length)])
            sender.send(NoOp())
            await self.until(lambda: self.server.commands)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
            self.assertTrue(link.established)

        return self.run_test(test())

    def test_freed(self) -> Deferred[None]:
        """A link that ended because of its peer is freed at once: strangers could fill the memory till a collection."""

        async def test() -> None:
            await self.connect()
            self.addCleanup(gc.enable)
            gc.disable()
            link = weakref.ref(self.server.links[0])
            self.client.links[0].transport.write(bytes(100))
            await self.until(lambda: self.server.reasons)
            self.server.links.clear()
            await deferLater(reactor, 0.01)
            self.assertIsNone(link())

        return self.run_test(test())

    def test_no_descriptor_left(self) -> Deferred[None]:
        """Links that stand need no further ones: not when more comes than an event per ms, not after a pause of all."""

        async def test() -> None:
            await self.connect()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
            there, here = self.server.links[0], self.client.links[0]
            packets = [bytes(SMALL.packet_length)] * 20
            sent = 0
            while not self.context.busy() and sent < 100_000:
                here.sendPackets(packets)
                sent += len(packets)
                await deferLater(reactor, 0)
            await self.until(lambda: len(self.server.packets) == sent)
            for link in (there, here):
                link.pause()
            for link in (there, here):
                link.resume()
            self.assertEqual(self.reading(), 0)
            here.sendPackets(packets)
            await self.until(lambda: len(self.server.packets) == sent + len(packets))

        return self.run_test(test())

    def test_senders(self) -> Deferred[None]:
        """What many links get in one call arrives in order with all else; what is for nobody known is left."""

        async def test() -> None:
            await self.connect()
            packets = [number.to_bytes(4, "big").ljust(SMALL.packet_length, b"p") for number in range(8)]
            link, senders = self.client.links[0], Senders()
            sender = link.sender
            self.assertEqual(send(senders, {b"peer": packets[:1]}, 7.0), ({b"peer": packets[:1]}, 0))
            senders.offer(b"peer", sender)
            self.assertEqual(send(senders, {b"peer": packets[:2], b"other": [b"?"]}, 7.0), ({b"other": [b"?"]}, 2))
            self.assertEqual(sender.sent, 7.0)
            link.send(NoOp())
            self.assertEqual(send(senders, {b"peer": packets[2:3]}, 8.0), ({b"peer": packets[2:3]}, 0))
            link.sendPackets(packets[2:3])
            self.assertEqual(send(senders, {b"peer": packets[3:]}, 9.0), ({}, len(packets) - 3))
            await self.until(lambda: len(self.server.packets) == len(packets))
            self.assertEqual((self.server.packets, self.server.commands), (packets, [NoOp()]))
            senders.offer(b"peer", None)
            self.assertEqual(send(senders, {b"peer": packets[:1]}, 9.0), ({b"peer": packets[:1]}, 0))
            self.assertRaises(ValueError, sender.send, [b"short"])

        return self.run_test(test())

    def test_senders_full(self) -> Deferred[None]:
        """A peer that does not read closes the way around its link until what was written is gone; nothing is lost."""

        async def test() -> None:
            await self.connect()
            link, senders = self.client.links[0], Senders()
            senders.offer(b"peer", link.sender)
            self.server.links[0].pause()
            packets: list[bytes] = []
            while link.sender.open:
                packet = len(packets).to_bytes(4, "big").ljust(SMALL.packet_length, b"p")
                packets.append(packet)
                self.assertEqual(send(senders, {b"peer": [packet]}, 1.0), ({}, 1))
                self.assertLess(len(packets), 100_000)
            self.assertEqual(send(senders, {b"peer": [bytes(SMALL.packet_length)]}, 1.0)[0].keys(), {b"peer"})
            self.server.links[0].resume()
            await self.until(lambda: len(self.server.packets) == len(packets))
            packets.append(bytes(SMALL.packet_length))
            self.assertTrue(link.sendPackets(packets[-1:]))
            self.assertTrue(link.sender.open)
            await self.until(lambda: len(self.server.packets) == len(packets))
            self.assertEqual(self.server.packets, packets)

        return self.run_test(test())

    def test_senders_end(self) -> Deferred[None]:
        """Nothing goes by a link that is being closed, or is closed: its descriptor may be another's."""

        async def test() -> None:
            await self.connect()
            due = {b"peer": [bytes(SMALL.packet_length)]}
            for end, link in (("close", self.client.links[0]), ("connectionLost", self.server.links[0])):
                senders, sender = Senders(), link.sender
                senders.offer(b"peer", sender)
                link.sendPackets(due[b"peer"])
                self.assertTrue(sender.open)
                if end == "close":
                    link.close()
                else:
                    await self.until(lambda: self.server.reasons)
                self.assertEqual(send(senders, due, 1.0), (due, 0))
                self.assertIsNone(link.sender)

        return self.run_test(test())

    def test_senders_mistake(self) -> Deferred[None]:
        """What can not be sealed for one link is left to it, and keeps nothing of others back."""

        async def test() -> None:
            await self.connect()
            senders, good = Senders(), bytes(SMALL.packet_length)
            senders.offer(b"client", self.client.links[0].sender)
            self.server.links[0].sendPackets([good])
            senders.offer(b"server", self.server.links[0].sender)
            due = {b"client": [good, b"short"], b"server": [good]}
            self.assertEqual(send(senders, due, 1.0), ({b"client": [good, b"short"]}, 1))
            await self.until(lambda: len(self.client.packets) == 2)
            self.assertEqual(self.server.packets, [])
            self.assertEqual(send(senders, {b"client": [good]}, 1.0), ({}, 1))
            await self.until(lambda: self.server.packets)

        return self.run_test(test())

    def test_senders_late(self) -> Deferred[None]:
        """No more leaves than asked for, and nothing that is late."""

        async def test() -> None:
            await self.connect()
            senders, packets = Senders(), [bytes([number]) * SMALL.packet_length for number in range(5)]
            senders.offer(b"peer", self.client.links[0].sender)
            self.assertEqual(send(senders, {b"peer": packets}, 1.0, most=3), ({}, 3))
            self.assertEqual(send(senders, {b"peer": packets}, 1.0, oldest=2.0), ({}, 0))
            await self.until(lambda: len(self.server.packets) == 3)
            self.assertEqual(self.server.packets, packets[:3])

        return self.run_test(test())

    def test_end(self) -> Deferred[None]:
        """The other side hangs up, orderly or not: the link is closed, once."""

        async def test() -> None:
            await self.connect()
            self.client.links[0].transport.loseConnection()
            await self.until(lambda: self.server.reasons)
            self.assertEqual(len(self.server.reasons), 1)
            self.assertEqual(self.server.packets, [])

        return self.run_test(test())

    def test_reset(self) -> Deferred[None]:
        """A reset ends it too, also while it is paused and gets something to send."""

        async def test() -> None:
            await self.connect()
            self.server.links[0].pause()
            self.client.links[0].transport.abortConnection()
            await self.until(lambda: self.client.reasons)
            for _ in range(3):
                self.server.links[0].sendPackets([bytes(SMALL.packet_length)])
            await self.until(lambda: self.server.reasons)

        return self.run_test(test())

    def test_owner_fails(self) -> Deferred[None]:
        """An error of the owner costs this link only."""

        async def test() -> None:
            def fail(link: Any, command: Command) -> None:
                raise RuntimeError("ours")

            await self.connect()
            self.patch(self.server, "commandReceived", fail)
            self.client.links[0].send(NoOp())
            await self.until(lambda: self.server.reasons)
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

        return self.run_test(test())
