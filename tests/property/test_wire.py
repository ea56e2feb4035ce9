"""The wire under random and mutated input: values or our errors, nothing else."""

from __future__ import annotations

import contextlib
import socket

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.crypto.native import native
from katzentwist.errors import CommandError, ConfigError, CryptoError, HandshakeError, WireError
from katzentwist.net.address import parse_address
from katzentwist.testing import strategies
from katzentwist.testing.wirepair import SMALL, Pair, config
from katzentwist.wire import PacketsReceived, SessionKind, chunks, commands, noise, outbox, records

KEY = bytes(range(32))
KINDS = st.sampled_from(list(SessionKind))


class CodecTests(SynchronousTestCase):
    """Commands."""

    def test_round_trip(self) -> None:
        """Every command comes back as it was, padded or with other padding."""

        @given(st.data(), KINDS, st.integers(0, 100))
        def check(data, kind: SessionKind, more: int) -> None:
            command = data.draw(strategies.wire_commands(kind))
            frame = commands.encode(command, kind, SMALL)
            self.assertEqual(commands.parse(frame + bytes(more), kind, SMALL), command)

        check()

    def test_any_bytes(self) -> None:
        """Any frame parses or is a CommandError; what parses is written back as the same bytes, padding aside."""

        @settings(max_examples=300)
        @given(st.one_of(strategies.frames(), st.binary(max_size=700)), KINDS)
        def check(data: bytes, kind: SessionKind) -> None:
            try:
                command = commands.parse(data, kind, SMALL)
            except CommandError:
                return
            frame = commands.encode(command, kind, SMALL)
            end = 6 + len(command.body())
            self.assertEqual(frame[:end], data[:end])
            self.assertIn(kind, command.KINDS)

        check()

    def test_chunks(self) -> None:
        """Documents cut anyhow come back; any chunks at all give a document or CommandError."""

        @given(st.binary(max_size=3000), st.integers(1, 500))
        def round_trip(document: bytes, size: int) -> None:
            reassembly = chunks.Reassembly()
            *first, last = [reassembly.add(c) for c in chunks.split(document, size)]
            self.assertEqual(b"".join(last), document)
            self.assertTrue(all(part is None for part in first))

        @given(st.data())
        def anything(data) -> None:
            good = chunks.split(b"document" * 50, 20)
            mutated = data.draw(
                st.lists(st.one_of(st.sampled_from(good), strategies.wire_commands(SessionKind.MIXNET)), max_size=6)
            )
            reassembly = chunks.Reassembly(limit=1000)
            with contextlib.suppress(CommandError):
                for chunk in mutated:
                    if isinstance(chunk, commands.Consensus2):
                        reassembly.add(chunk)

        round_trip()
        anything()


class HandshakeTests(SynchronousTestCase):
    """Both roles."""

    def test_any_bytes(self) -> None:
        """Random bytes, cut anyhow, in either role: HandshakeError, or it waits for more."""

        @settings(max_examples=60, deadline=None)
        @given(st.booleans(), st.lists(st.binary(max_size=400), max_size=6), st.booleans())
        def check(initiator: bool, pieces: list[bytes], versioned: bool) -> None:
            pair = Pair.make()
            side = pair.initiator if initiator else pair.responder
            side.handle(side.session.start())
            with contextlib.suppress(HandshakeError):
                for piece in ([b"\x03"] if versioned else []) + pieces:
                    side.feed(piece)
            self.assertFalse(side.session.is_open)

        check()

    def test_mutated(self) -> None:
        """One changed byte anywhere in the stream of either side: never open on both sides with different peers."""

        @settings(max_examples=80, deadline=None)
        @given(st.integers(0, 3), st.integers(0, 5000), st.integers(1, 255))
        def check(which: int, at: int, change: int) -> None:
            pair = Pair.make()
            pair.initiator.handle(pair.initiator.session.start())
            with contextlib.suppress(WireError):
                for number in range(4):
                    source, target = (
                        (pair.initiator, pair.responder) if number % 2 == 0 else (pair.responder, pair.initiator)
                    )
                    data = bytearray(source.session.data_to_send())
                    if number == which:
                        data[at % len(data)] ^= change
                    target.feed(bytes(data))
                self.fail("a changed byte went unnoticed")

        check()

    def test_auth(self) -> None:
        """Authenticate payloads come back as they were; any bytes are a value or HandshakeError."""

        @given(st.binary(max_size=255), strategies.U32, st.binary(max_size=300))
        def check(additional_data: bytes, unix_time: int, junk: bytes) -> None:
            payload = noise.encode_auth(additional_data, unix_time)
            self.assertEqual(len(payload), 260)
            self.assertEqual(noise.decode_auth(payload), (additional_data, unix_time))
            with contextlib.suppress(HandshakeError):
                noise.decode_auth(junk)

        check()


class RecordTests(SynchronousTestCase):
    """The record layer and the session above it."""

    def test_cut_anyhow(self) -> None:
        """A stream of commands arrives whole however it is cut; packets keep their order."""

        @settings(max_examples=40, deadline=None)
        @given(st.data())
        def check(data) -> None:
            pair = Pair.make().connect()
            sent = data.draw(st.lists(strategies.wire_commands(SessionKind.MIXNET), max_size=8))
            for command in sent:
                pair.initiator.session.send(command)
            stream = pair.initiator.session.data_to_send()
            while stream:
                size = data.draw(st.integers(1, 3000))
                pair.responder.feed(stream[:size])
                stream = stream[size:]
            got = []
            for event in pair.responder.take():
                if isinstance(event, PacketsReceived):
                    got += [commands.SendPacket(p) for p in event.packets]
                else:
                    got.append(event.command)
            self.assertEqual(got, sent)

        check()

    def test_from_sockets(self) -> None:
        """Opened as it is read from a socket, a stream gives the same, however it is cut and where it is broken."""
        if not hasattr(native, "LinkSet"):
            self.skipTest("no epoll here")
        start = b"\x02\0" + SMALL.packet_length.to_bytes(4, "big")
        packet = st.binary(min_size=SMALL.packet_length, max_size=SMALL.packet_length).map(start.__add__)

        @settings(max_examples=60, deadline=None)
        @given(
            st.lists(st.one_of(packet, st.binary(max_size=2000)), max_size=8),
            st.lists(st.integers(1, 4000), max_size=20),
            st.none() | st.integers(0, 10_000),
            st.booleans(),
        )
        def check(frames: list[bytes], cuts: list[int], broken: int | None, sink: bool) -> None:
            stream = bytearray(records.RecordSealer(KEY).seal(frames))
            if broken is not None and broken < len(stream):
                stream[broken] ^= 1
            ours, theirs = socket.socketpair()
            with ours, theirs:
                links, feeding = native.LinkSet(), records.RecordOpener(KEY)
                links.add(ours.fileno(), "token", records.RecordOpener(KEY), start, SMALL.up)
                links.pass_on(ours.fileno(), "sink" if sink else None)
                for size in (*cuts, len(stream)):
                    piece, stream = stream[:size], stream[size:]
                    theirs.sendall(piece)
                    sunk, came = links.read(1.0)
                    try:
                        wanted = feeding.feed(piece)
                    except CryptoError as error:
                        self.assertEqual((sunk, came), ([], [("token", [], str(error))]))
                        return
                    if sink:
                        self.assertTrue(all(name == "sink" and packets for name, packets in sunk))
                        self.assertTrue(all(rest and not packets for _, packets, rest in came))
                    else:
                        self.assertEqual((sunk, [token for token, _, _ in came]), ([], ["token"] if piece else []))
                    packets = [p for _, some in sunk for p in some] + [p for _, some, _ in came for p in some]
                    got = [*(start + p for p in packets), *(f for _, _, rest in came for f in rest)]
                    self.assertEqual(got, wanted)

        check()

    def test_any_frame(self) -> None:
        """Whatever an authenticated peer seals: events or CommandError."""

        @settings(max_examples=100, deadline=None)
        @given(st.one_of(strategies.frames(), st.binary(max_size=950)))
        def check(frame: bytes) -> None:
            pair = Pair.make().connect()
            stream = pair.initiator.session._out.sealer.seal([frame])
            with contextlib.suppress(CommandError):
                pair.responder.feed(stream)

        check()

    def test_any_stream(self) -> None:
        """Whatever comes from the wire after the handshake: CommandError, or it waits for more."""

        @settings(max_examples=50, deadline=None)
        @given(st.lists(st.binary(min_size=1, max_size=60), min_size=1))
        def check(pieces: list[bytes]) -> None:
            pair = Pair.make().connect()
            with contextlib.suppress(CommandError):
                for piece in pieces:
                    pair.responder.feed(piece)
            self.assertEqual(pair.responder.take(), [])

        check()

    def test_native_equals_twin(self) -> None:
        """The native record layer gives and takes the same bytes as the twin, also in what it refuses."""
        if not hasattr(native, "RecordSealer"):
            self.skipTest("the native record layer is not built")

        @settings(max_examples=60, deadline=None)
        @given(
            st.binary(min_size=32, max_size=32),
            st.lists(st.binary(max_size=300), max_size=5),
            st.integers(0, 2000),
            st.integers(0, 255),
            st.integers(1, 400),
        )
        def check(key: bytes, frames: list[bytes], at: int, change: int, cut: int) -> None:
            ours, theirs = records.PureRecordSealer(key), native.RecordSealer(key)
            stream = ours.seal(frames)
            self.assertEqual(theirs.seal(frames), stream)
            self.assertEqual(theirs.seal_packets(frames, 310), ours.seal_packets(frames, 310))
            damaged = bytearray(stream)
            if damaged:
                damaged[at % len(damaged)] ^= change
            results = []
            for opener in (records.PureRecordOpener(key, 250), native.RecordOpener(key, 250)):
                got: list[object] = []
                try:
                    for start in range(0, len(damaged), cut):
                        got += opener.feed(bytes(damaged[start : start + cut]))
                except (CryptoError, ValueError):
                    got.append("refused")
                results.append(got)
            self.assertEqual(*results)

        check()

    def test_documents(self) -> None:
        """Large documents among other commands, the bytes asked for at any time: all arrive, in order."""
        sizes = st.sampled_from([0, outbox.LARGE - 1, outbox.LARGE, outbox.LARGE + 1, 3 * outbox.PIECE])
        documents = st.builds(lambda n, code: commands.Consensus(error_code=code, payload=bytes(n)), sizes, st.just(0))

        @settings(max_examples=40, deadline=None)
        @given(st.lists(st.one_of(documents, st.just(commands.NoOp()), st.integers(1, 4)), max_size=12))
        def check(steps: list[object]) -> None:
            pair = Pair.make(initiator=config("initiator", max_command=1 << 20)).connect()
            sender, sent = pair.responder.session, []
            for step in steps:
                if isinstance(step, int):
                    for _ in range(step):
                        pair.initiator.feed(sender.data_to_send())
                else:
                    sender.send(step)
                    sent.append(step)
            while data := sender.data_to_send():
                self.assertLess(len(data), 2 * outbox.LARGE * max(1, len(sent)))
                pair.initiator.feed(data)
            self.assertFalse(sender.has_more)
            self.assertEqual([event.command for event in pair.initiator.take()], sent)

        check()

    def test_pieces(self) -> None:
        """A record that is sealed piece by piece has the bytes of one that is sealed at once, in both codes."""

        @settings(max_examples=60, deadline=None)
        @given(st.binary(min_size=32, max_size=32), st.binary(max_size=700), st.data())
        def check(key: bytes, command: bytes, data) -> None:
            for kind in (records.PureRecordSealer, records.RecordSealer):
                sealer, stream, rest = kind(key), b"", command
                stream += sealer.begin(len(command))
                for refused in (sealer.begin, lambda size, sealer=sealer: sealer.seal([bytes(size)])):
                    self.assertRaises(CryptoError, refused, 1)
                self.assertRaises(CryptoError, sealer.seal_piece, command + b"x")
                while True:
                    size = data.draw(st.integers(0, len(rest)))
                    stream += sealer.seal_piece(rest[:size])
                    rest = rest[size:]
                    if not rest:
                        break
                self.assertEqual(stream, records.PureRecordSealer(key).seal([command]))
                self.assertRaises(CryptoError, sealer.seal_piece, b"")
                whole = records.PureRecordSealer(key)
                whole.seal([command])
                self.assertEqual((sealer.key, sealer.nonce), (whole.key, whole.nonce))

        check()

    def test_large_records(self) -> None:
        """Large bodies, which the native opener decrypts as they come: cut anyhow, whole or with one bit flipped."""

        @settings(max_examples=40, deadline=None)
        @given(
            st.binary(min_size=32, max_size=32),
            st.lists(st.integers((1 << 16) - 40, (1 << 16) + 9000) | st.integers(0, 50), min_size=1, max_size=3),
            st.lists(st.integers(1, 80000), min_size=1, max_size=6),
            st.none() | st.integers(0, 1 << 20),
        )
        def check(key: bytes, sizes: list[int], cuts: list[int], flipped: int | None) -> None:
            frames = [bytes(i * n % 251 for i in range(n)) for n in sizes]
            stream = bytearray(records.PureRecordSealer(key).seal(frames))
            if flipped is not None:
                stream[flipped % len(stream)] ^= 1
            got: list[list[object]] = []
            for opener in (records.PureRecordOpener(key), records.RecordOpener(key)):
                rest, came, turn = bytes(stream), [], 0
                while rest and came[-1:] != ["refused"]:
                    size = cuts[turn % len(cuts)]
                    try:
                        came += opener.feed(rest[:size])
                    except CryptoError:
                        came.append("refused")
                    rest, turn = rest[size:], turn + 1
                got.append(came)
            self.assertEqual(*got)
            self.assertEqual(got[0] == frames, flipped is None)

        check()


class AddressTests(SynchronousTestCase):
    """URLs."""

    def test_any_text(self) -> None:
        """Any text is an address that reads back as itself, or ConfigError."""
        url = r"(tcp|tcp4|tcp6|quic|onion|ws)://(\[[0-9a-f:]*\]|[0-9.]+|[a-z.-]+):[0-9]{0,6}"
        likely = st.from_regex(url, fullmatch=True)

        @settings(max_examples=200)
        @given(st.one_of(st.text(), likely), st.booleans())
        def check(text: str, names: bool) -> None:
            try:
                address = parse_address(text, allow_hostnames=names)
            except ConfigError:
                return
            self.assertEqual(parse_address(address.url, allow_hostnames=names), address)

        check()
