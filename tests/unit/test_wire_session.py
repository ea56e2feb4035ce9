"""The session core: two sides in memory, times, limits, and every input in every phase."""

from __future__ import annotations

import contextlib
import itertools
from unittest import mock

import attrs
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.crypto import kem
from katzentwist.errors import AuthenticationError, CommandError, HandshakeError, WireError
from katzentwist.randomness import SeededRandom
from katzentwist.testing.wirepair import SMALL, UNIX_TIME, Pair, Side, config
from katzentwist.wire import (
    CommandReceived,
    Established,
    PacketsReceived,
    PeerCredentials,
    Phase,
    Session,
    SessionConfig,
    SessionKind,
    Step,
    commands,
    legal,
    noise,
    records,
)
from katzentwist.wire._core import MAX_AHEAD
from tests import vectorfiles
from tests.unit.test_kem import FixedRandom
from tests.vectorfiles import unhex


def session(role: str = "responder", **options) -> Session:
    """One session of the pair's configuration."""
    return Session(
        config(role, **options),
        initiator=role == "initiator",
        random=SeededRandom(role),
        unix_time=lambda: UNIX_TIME,
        now=0.0,
    )


class ReplayTests(SynchronousTestCase):
    """Whole recorded sessions through the core, in both roles."""

    def replay(self, case, role: str) -> None:
        """Feed one role what it received; everything it sends must be as recorded."""
        own, other = case[role], "initiator" if role == "responder" else "responder"
        if role == "initiator":
            randomness = own["ephemeral_seed"] + case["skem_to_responder"]["randomness"]
        else:
            randomness = case["ekem"]["randomness"] + case["skem_to_initiator"]["randomness"]
        setup = SessionConfig(
            kem=kem.by_name(case["kem"]),
            private=unhex(own["static_private"]),
            public=unhex(own["static_public"]),
            additional_data=unhex(own["additional_data"]),
            kind=SessionKind(case["session"]),
            sizes=SMALL,
        )
        unix_time = own["unix_time"] or 1_795_311_400
        side = Side(
            Session(
                setup,
                initiator=role == "initiator",
                random=FixedRandom(unhex(randomness)),
                unix_time=lambda: unix_time,
                now=0.0,
            )
        )
        side.handle(side.session.start())
        sent = []
        for number, message in enumerate(case["messages"], 1):
            if (number % 2 == 1) == (role == "initiator"):
                sent.append(side.session.data_to_send().hex())
                self.assertTrue(sent[-1].startswith(message))
            else:
                for at in range(0, len(message), 2000):
                    side.feed(unhex(message[at : at + 2000]))
        rest = sent[-1][len(case["messages"][3]) :] if role == "responder" else ""
        for record in case["records"]:
            if record["from"] == other:
                side.feed(unhex(record["record"]))
                continue
            if not rest:
                side.session.send(commands.parse(unhex(record["plaintext"]), setup.kind, SMALL))
                rest = side.session.data_to_send().hex()
            self.assertEqual(rest, record["record"])
            rest = ""
        credentials, established, *received = side.events
        self.assertEqual(credentials.additional_data.hex(), case[other]["additional_data"])
        self.assertEqual(credentials.link_key.hex(), case[other]["static_public"])
        skew = unix_time - case["responder"]["unix_time"] if role == "initiator" else 0
        self.assertEqual(credentials.clock_skew, skew)
        self.assertEqual(established, Established(peer=credentials))
        names = [r["command"] for r in case["records"] if r["from"] == other]
        got = ["SendPacket" if isinstance(e, PacketsReceived) else type(e.command).__name__ for e in received]
        self.assertEqual(got, names[1:] if role == "initiator" else names)

    def test_all(self) -> None:
        """Four sessions, both roles."""
        for case in vectorfiles.load("link")["handshakes"]:
            self.replay(case, "initiator")
            self.replay(case, "responder")


class ConversationTests(SynchronousTestCase):
    """What goes in on one side comes out on the other."""

    def test_every_kem(self) -> None:
        """A handshake with each KEM; both sides learn the other's credentials."""
        for name in kem.names():
            scheme = kem.by_name(name)
            ours, theirs = config("initiator", scheme=scheme), config("responder", scheme=scheme)
            pair = Pair.make(ours, theirs)
            pair.initiator.handle(pair.initiator.session.start())
            pair.pump()
            for side, other in ((pair.initiator, theirs), (pair.responder, ours)):
                credentials = PeerCredentials(additional_data=other.additional_data, link_key=other.public)
                self.assertEqual(side.events, [credentials, Established(peer=credentials)])
                self.assertTrue(side.session.is_open)

    def test_packets_and_commands(self) -> None:
        """Runs of packets arrive as lists, in order with other commands."""
        pair = Pair.make().connect()
        packets = [bytes([i]) * 904 for i in range(5)]
        pair.initiator.session.send_packets(packets[:3])
        pair.initiator.session.send(commands.NoOp())
        pair.initiator.session.send(commands.SendPacket(packets[3]))
        pair.initiator.session.send_packets(packets[4:])
        data = pair.initiator.session.data_to_send()
        self.assertEqual(len(data), 6 * (910 + 36))
        pair.responder.feed(data)
        self.assertEqual(
            pair.responder.take(),
            [
                PacketsReceived(packets=packets[:3]),
                CommandReceived(command=commands.NoOp()),
                PacketsReceived(packets=packets[3:]),
            ],
        )

    def test_responder_data_behind_message_4(self) -> None:
        """What the responder sends at once is not lost while the initiator checks message 4."""
        pair = Pair.make()
        initiator = pair.initiator.session
        pair.initiator.handle(initiator.start())
        pair.responder.feed(initiator.data_to_send())
        pair.initiator.feed(pair.responder.session.data_to_send())
        pair.responder.feed(initiator.data_to_send())
        message = commands.Message(sequence=1, surb_id=bytes(16), payload=bytes(592))
        pair.responder.session.send(message)
        data = pair.responder.session.data_to_send()
        pair.initiator.take()
        (step,) = initiator.receive(data[:100], 0.0)
        self.assertEqual(initiator.receive(data[100:], 0.0), [])
        events = initiator.step_done(step.run(), 0.0)
        self.assertEqual([type(e) for e in events], [Established, CommandReceived])
        self.assertEqual(events[1].command, message)

    def test_large_command(self) -> None:
        """A command far beyond the usual size crosses a PKI session."""
        ours, theirs = (config(n, kind=SessionKind.PKI) for n in ("initiator", "responder"))
        pair = Pair.make(ours, theirs).connect()
        pair.responder.session.send(commands.Consensus(0, bytes(3_000_000)))
        pair.pump()
        (event,) = pair.initiator.take()
        self.assertEqual(len(event.command.payload), 3_000_000)


class RefusalTests(SynchronousTestCase):
    """What ends a session, and what was sent by then."""

    def handshake(self, **sides) -> Pair:
        """A pair with message 1 on its way."""
        pair = Pair.make(**sides)
        pair.initiator.handle(pair.initiator.session.start())
        return pair

    def test_initiator_refuses(self) -> None:
        """After message 2 nothing more is sent to a wrong responder."""
        pair = self.handshake()
        pair.initiator.auto_accept = False
        pair.pump()
        self.assertRaises(AuthenticationError, pair.initiator.session.refuse)
        self.assertEqual(pair.initiator.session.data_to_send(), b"")
        self.assertEqual(pair.responder.received, 33)

    def test_responder_refuses(self) -> None:
        """Message 4 is never sent to a wrong initiator."""
        pair = self.handshake()
        pair.responder.auto_accept = False
        pair.pump()
        self.assertEqual(pair.initiator.received, 356)
        self.assertRaises(AuthenticationError, pair.responder.session.refuse)
        self.assertEqual(pair.responder.session.data_to_send(), b"")
        self.assertIs(pair.responder.session.phase, Phase.DEAD)

    def test_version(self) -> None:
        """The first byte alone is enough to refuse."""
        responder = session()
        self.assertRaises(HandshakeError, responder.receive, b"\x02", 0.0)
        self.assertEqual(responder.data_to_send(), b"")

    def test_out_of_turn(self) -> None:
        """Bytes that come before their turn end the session, in either role."""
        responder = session()
        self.assertRaises(HandshakeError, responder.receive, b"\x03" + bytes(33), 0.0)
        responder = session()
        responder.receive(b"\x03" + bytes([9] * 32), 0.0)
        self.assertRaises(HandshakeError, responder.receive, b"x", 0.0)
        initiator = session("initiator")
        initiator.start()
        self.assertRaises(HandshakeError, initiator.receive, b"x", 0.0)

    def test_other_kem(self) -> None:
        """Two KEMs do not get along: the session ends with our error or times out."""
        pair = self.handshake(initiator=config("initiator", scheme=kem.by_name("XWING")), responder=config("responder"))
        self.assertRaises(HandshakeError, pair.pump)

    def test_first_command(self) -> None:
        """The initiator wants a NoOp first."""
        pair = self.handshake()
        with mock.patch.object(commands, "encode", lambda *_: b"\x01" + bytes(5)):
            pair.responder.feed(pair.initiator.session.data_to_send())
            pair.initiator.feed(pair.responder.session.data_to_send())
            pair.responder.feed(pair.initiator.session.data_to_send())
        data = pair.responder.session.data_to_send()
        pair.initiator.feed(data[:64])
        self.assertIs(pair.initiator.session.phase, Phase.FIRST)
        error = self.assertRaises(CommandError, pair.initiator.session.receive, data[64:], 0.0)
        self.assertIn("NoOp", str(error))

    def test_illegal_commands(self) -> None:
        """A command outside ``accepts`` ends the session, SendPacket included."""
        for accepts, command in (
            (legal.NODE_DIALLER, commands.NoOp()),
            (legal.CLIENT, commands.SendPacket(bytes(904))),
            (legal.NODE_LISTENER, commands.MessageDelivered(1)),
            (legal.GATEWAY_LISTENER, commands.RetrieveMessage(1)),
        ):
            pair = Pair.make().connect()
            pair.responder.session.accepts = accepts
            pair.initiator.session.send(command)
            self.assertRaises(CommandError, pair.pump)
            self.assertIs(pair.responder.session.phase, Phase.DEAD)

    def test_packet_size(self) -> None:
        """A packet of another size is refused by both sides."""
        pair = Pair.make().connect()
        self.assertRaises(CommandError, pair.initiator.session.send_packets, [bytes(903)])
        pair.initiator.session.send(commands.SendPacket(bytes(903)))
        self.assertRaises(CommandError, pair.pump)

    def test_max_command(self) -> None:
        """A command beyond ``max_command`` is refused when its header is there."""
        pair = Pair.make(responder=config("responder", max_command=1000)).connect()
        pair.initiator.session.send(commands.Consensus(0, bytes(1000)))
        data = pair.initiator.session.data_to_send()
        self.assertRaises(CommandError, pair.responder.session.receive, data[:20], 0.0)

    def test_flipped_bit(self) -> None:
        """Any flipped bit after the handshake ends the session."""
        for at in range(0, 946, 7):
            pair = Pair.make().connect()
            pair.initiator.session.send(commands.NoOp())
            data = bytearray(pair.initiator.session.data_to_send())
            data[at] ^= 2
            self.assertRaises(CommandError, pair.responder.session.receive, bytes(data), 0.0)


class TimeTests(SynchronousTestCase):
    """Deadlines."""

    def test_handshake(self) -> None:
        """A silent stranger is cut off after the handshake time-out, not before."""
        responder = session()
        self.assertEqual(responder.next_deadline(), 3.0)
        self.assertEqual(responder.handle_deadline(2.9), [])
        self.assertRaises(HandshakeError, responder.handle_deadline, 3.0)
        self.assertIsNone(responder.next_deadline())

    def test_slow_bytes(self) -> None:
        """A dripping peer does not move the handshake's deadline."""
        responder = session()
        for i in range(30):
            responder.receive(b"\x03", i / 10)
        self.assertEqual(responder.next_deadline(), 3.0)

    def test_read(self) -> None:
        """Each complete command re-arms the read time-out; a part of one does not."""
        pair = Pair.make().connect(now=1.0)
        responder = pair.responder.session
        self.assertEqual(responder.next_deadline(), 121.0)
        pair.initiator.session.send(commands.NoOp())
        data = pair.initiator.session.data_to_send()
        pair.responder.feed(data[:900], now=50.0)
        self.assertEqual(responder.next_deadline(), 121.0)
        pair.responder.feed(data[900:], now=60.0)
        self.assertEqual(responder.next_deadline(), 180.0)
        error = self.assertRaises(WireError, responder.handle_deadline, 180.0)
        self.assertNotIsInstance(error, HandshakeError)

    def test_heard(self) -> None:
        """What came around the session re-arms the time-out as well, but not before what came later."""
        pair = Pair.make().connect(now=1.0)
        responder = pair.responder.session
        responder.heard(10.0)
        self.assertEqual(responder.next_deadline(), 130.0)
        responder.opened([commands.encode(commands.NoOp(), SessionKind.MIXNET, SMALL)], 100.0)
        responder.heard(10.0)
        self.assertEqual(responder.handle_deadline(219.0), [])
        self.assertRaises(WireError, responder.handle_deadline, 220.0)

    def test_no_read_timeout(self) -> None:
        """A node's dialler waits for ever once the handshake is over, but not for the first NoOp."""
        pair = Pair.make(initiator=config("initiator", read_timeout=None))
        pair.initiator.handle(pair.initiator.session.start())
        pair.responder.feed(pair.initiator.session.data_to_send())
        pair.initiator.feed(pair.responder.session.data_to_send())
        pair.responder.feed(pair.initiator.session.data_to_send())
        data = pair.responder.session.data_to_send()
        pair.initiator.feed(data[:64])
        self.assertEqual(pair.initiator.session.next_deadline(), 3.0)
        pair.initiator.feed(data[64:])
        self.assertIsNone(pair.initiator.session.next_deadline())


class EveryPhaseTests(SynchronousTestCase):
    """Every input in every phase gives events or one of our errors, and a dead session stays dead."""

    def stages(self, role: str):
        """A handshake in single actions: yields (session, the Step it waits for or None) at each stage."""
        pair = Pair.make()
        own, peer = (pair.initiator, pair.responder) if role == "initiator" else (pair.responder, pair.initiator)
        subject, waiting = own.session, b""
        yield subject, None
        if role == "initiator":
            events = subject.start()
        else:
            peer.handle(peer.session.start())
            events = subject.receive(peer.session.data_to_send(), 0.0)
        while subject.phase is not Phase.OPEN:
            match events:
                case [Step() as step]:
                    yield subject, step
                    events = subject.step_done(step.run(), 0.0)
                case [PeerCredentials()]:
                    yield subject, None
                    events = subject.accept()
                case _:
                    yield subject, None
                    peer.feed(subject.data_to_send())
                    waiting += peer.session.data_to_send()
                    size = len(waiting) if peer.session.phase is not Phase.OPEN else 64
                    data, waiting = (
                        (waiting[:size], waiting[size:]) if subject.phase is Phase.READING else (waiting, b"")
                    )
                    events = subject.receive(data, 0.0)
        yield subject, None
        subject.close()
        yield subject, None

    def test_all(self) -> None:
        """The whole table."""
        inputs = {
            "start": lambda s, step: s.start(),
            "nothing": lambda s, step: s.receive(b"", 0.0),
            "garbage": lambda s, step: s.receive(bytes(5000), 0.0),
            "version": lambda s, step: s.receive(b"\x03", 0.0),
            "flood": lambda s, step: s.receive(bytes(MAX_AHEAD + 5000), 0.0),
            "step": lambda s, step: s.step_done(step.run() if step else b"", 0.0),
            "failed step": lambda s, step: s.step_done(HandshakeError("no"), 0.0),
            "accept": lambda s, step: s.accept(),
            "refuse": lambda s, step: s.refuse(),
            "send": lambda s, step: s.send(commands.NoOp()),
            "packets": lambda s, step: s.send_packets([bytes(904)]),
            "early": lambda s, step: s.handle_deadline(0.0),
            "late": lambda s, step: s.handle_deadline(1e9),
            "close": lambda s, step: s.close(),
        }
        for role, phases in (("initiator", set(Phase)), ("responder", set(Phase) - {Phase.NEW, Phase.FIRST})):
            count = len(list(self.stages(role)))
            reached = set()
            for stage in range(count):
                for name, act in inputs.items():
                    subject, step = next(itertools.islice(self.stages(role), stage, None))
                    phase = subject.phase
                    reached.add(phase)
                    with contextlib.suppress(WireError):
                        act(subject, step)
                    if phase is Phase.DEAD or name in ("close", "late", "flood"):
                        self.assertIs(subject.phase, Phase.DEAD, (role, phase, name))
                        self.assertEqual(subject.data_to_send(), b"")
                        self.assertIsNone(subject.next_deadline())
            self.assertEqual(reached, phases)

    def test_stages(self) -> None:
        """A handshake that ends says where, by the names of the metrics (node 10); one that succeeded says nothing."""
        told = {
            "initiator": (
                "message_1_send message_1_send message_2_receive message_2_receive peer_authentication message_3_send "
                "message_4_receive message_4_receive finalization"
            ),
            "responder": ("premature_close message_1_receive message_3_receive message_3_receive other message_4_send"),
        }
        for role, names in told.items():
            for place, name in enumerate([*names.split(), "", ""]):
                subject, _ = next(itertools.islice(self.stages(role), place, None))
                subject.close()
                self.assertEqual(subject.stage, name, (role, place))
        silent = session("responder")
        self.assertRaises(HandshakeError, silent.handle_deadline, 1e9)
        self.assertEqual(silent.stage, "message_1_receive")

    def test_sending_too_early(self) -> None:
        """Nothing can be sent before the session is open, or after it is dead."""
        initiator = session("initiator")
        self.assertRaises(WireError, initiator.send, commands.NoOp())
        self.assertRaises(WireError, initiator.send_packets, [bytes(904)])
        initiator.close()
        self.assertRaises(WireError, initiator.send, commands.NoOp())
        self.assertEqual(initiator.receive(b"late", 0.0), [])


class MemoryTests(SynchronousTestCase):
    """What a stranger can make us hold."""

    def test_half_open(self) -> None:
        """A stranger's session never buffers a whole message, whatever he sends and however."""
        for step in (1, 100, 1216):
            responder = session(scheme=kem.by_name("XWING"))
            sent = 0
            while sent < 1216:
                size = min(step, 1216 - sent)
                responder.receive(b"\x03" + bytes(size - 1) if not sent else bytes(size), 0.0)
                sent += size
            self.assertLessEqual(len(responder._buffer), noise.message_size(kem.by_name("XWING"), 1))
        responder = session()
        self.assertRaises(HandshakeError, responder.receive, b"\x03" + bytes(10_000_000), 0.0)
        self.assertEqual(len(responder._buffer), 0)

    def test_unauthenticated_length(self) -> None:
        """An announced length takes no memory before the bytes come."""
        pair = Pair.make(*(attrs.evolve(config(n), max_command=400_000_000) for n in ("initiator", "responder")))
        pair.connect()
        key = bytes(32)
        opener = records.PureRecordOpener(key)
        header = records.PureRecordSealer(key).seal([bytes(100)])[:20]
        self.assertEqual(opener.feed(header), [])
        self.assertLessEqual(len(opener._buffer), 20)
