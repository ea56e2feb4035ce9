"""The handshake and the records against complete sessions of the reference implementation."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.crypto import kem
from katzentwist.errors import CryptoError, HandshakeError
from katzentwist.randomness import SeededRandom
from katzentwist.wire import commands, noise, records
from katzentwist.wire.commands import CommandSizes, SessionKind
from tests import vectorfiles
from tests.unit.test_kem import FixedRandom
from tests.vectorfiles import unhex


def sizes_of(name: str) -> CommandSizes:
    """The command sizes of a geometry of the vectors."""
    geometry = vectorfiles.load("link")["geometries"][name]
    return CommandSizes(
        packet_length=geometry["PacketLength"],
        payload_length=geometry["PayloadTagLength"] + geometry["ForwardPayloadLength"],
    )


def side_of(case, role: str) -> noise.Handshake:
    """One side of a recorded handshake, with its keys and the randomness that it will ask for."""
    side = case[role]
    if role == "initiator":
        randomness = unhex(side["ephemeral_seed"]) + unhex(case["skem_to_responder"]["randomness"])
    else:
        randomness = unhex(case["ekem"]["randomness"]) + unhex(case["skem_to_initiator"]["randomness"])
    keys = unhex(side["static_private"]), unhex(side["static_public"])
    return noise.Handshake(kem.by_name(case["kem"]), *keys, FixedRandom(randomness))


class ReplayTests(SynchronousTestCase):
    """Both roles, byte for byte."""

    def setUp(self) -> None:
        self.cases = vectorfiles.load("link")["handshakes"]
        self.assertEqual(len(self.cases), 4)

    def assert_state(self, side: noise.Handshake, want) -> None:
        """h, ck, k and n are the recorded ones."""
        state = side.state
        got = (state.h.hex(), state.ck.hex(), (state.k or b"").hex(), state.n)
        self.assertEqual(got, (want["h"], want["ck"], want["k"], want["n"]))

    def assert_end(self, side: noise.Handshake, case) -> None:
        """The final hash and the two record keys are the recorded ones."""
        self.assertEqual(side.state.h.hex(), case["handshake_hash"])
        want = (case["key_initiator_to_responder"], case["key_responder_to_initiator"])
        self.assertEqual(tuple(k.hex() for k in side.split()), want)

    def test_initiator(self) -> None:
        """Messages 1 and 3 come out as recorded; 2 and 4 are understood; the states agree after each."""
        for case in self.cases:
            side, (_, two, three, four) = side_of(case, "initiator"), case["messages"]
            self.assertEqual(noise.protocol_name(kem.by_name(case["kem"])).decode(), case["protocol_name"])
            states = case["states"]
            self.assert_state(side, states[0])
            self.assertEqual(side.write_1().hex(), case["messages"][0])
            self.assert_state(side, states[1])
            payload = side.read_2(unhex(two))
            self.assertEqual(payload.hex(), case["payloads"][1])
            self.assertEqual(noise.decode_auth(payload)[0].hex(), case["responder"]["additional_data"])
            self.assertEqual(noise.decode_auth(payload)[1], case["responder"]["unix_time"])
            self.assertEqual(side.remote_static.hex(), case["responder"]["static_public"])
            self.assert_state(side, states[2])
            auth = noise.encode_auth(unhex(case["initiator"]["additional_data"]), 0)
            self.assertEqual(side.write_3(auth).hex(), three)
            self.assert_state(side, states[3])
            side.read_4(unhex(four))
            self.assert_end(side, case)

    def test_responder(self) -> None:
        """Messages 2 and 4 come out as recorded; 1 and 3 are understood."""
        for case in self.cases:
            side, (one, two, three, four) = side_of(case, "responder"), case["messages"]
            side.read_1(unhex(one))
            own = case["responder"]
            auth = noise.encode_auth(unhex(own["additional_data"]), own["unix_time"])
            self.assertEqual(auth.hex(), case["payloads"][1])
            self.assertEqual(side.write_2(auth).hex(), two)
            self.assertEqual(side.read_3(unhex(three)).hex(), case["payloads"][2])
            self.assertEqual(side.remote_static.hex(), case["initiator"]["static_public"])
            self.assertEqual(side.write_4().hex(), four)
            self.assert_end(side, case)

    def test_sizes(self) -> None:
        """Message lengths are those of the specification's table."""
        for name, want in (("XWING", [1217, 2628, 2644, 1152]), ("x25519", [33, 356, 372, 64])):
            self.assertEqual([noise.message_size(kem.by_name(name), n) for n in (1, 2, 3, 4)], want)

    def test_flipped_bit(self) -> None:
        """A flipped bit in message 2, 3 or 4 is refused by its reader; in message 1, at the latest by message 3's."""
        case = next(c for c in self.cases if c["kem"] == "x25519")
        messages = [unhex(m) for m in case["messages"]]
        auth = noise.encode_auth(b"", 0)

        def flipped(message: bytes, at: int) -> bytes:
            out = bytearray(message)
            out[at] ^= 1
            return bytes(out)

        for at in range(1, len(messages[0]) - 1):
            side = side_of(case, "responder")
            side.read_1(flipped(messages[0], at))
            side.write_2(auth)
            self.assertRaises(HandshakeError, side.read_3, messages[2])
        for at in range(len(messages[1])):
            side = side_of(case, "initiator")
            side.write_1()
            self.assertRaises(HandshakeError, side.read_2, flipped(messages[1], at))
        own = case["responder"]
        for at in range(len(messages[2])):
            side = side_of(case, "responder")
            side.read_1(messages[0])
            side.write_2(noise.encode_auth(unhex(own["additional_data"]), own["unix_time"]))
            self.assertRaises(HandshakeError, side.read_3, flipped(messages[2], at))
        for at in range(len(messages[3])):
            side = side_of(case, "initiator")
            side.write_1()
            side.read_2(messages[1])
            side.write_3(noise.encode_auth(unhex(case["initiator"]["additional_data"]), 0))
            self.assertRaises(HandshakeError, side.read_4, flipped(messages[3], at))

    def test_low_order(self) -> None:
        """Low-order points where a key or ciphertext belongs end the handshake and nothing else."""
        for name in ("x25519", "XWING", "MLKEM768-X25519", "x448"):
            scheme, random = kem.by_name(name), SeededRandom(name)
            side = noise.Handshake(scheme, *scheme.generate(random), random)
            side.read_1(b"\x03" + bytes(scheme.public_key_size))
            self.assertRaises(HandshakeError, side.write_2, noise.encode_auth(b"", 0))
            side = noise.Handshake(scheme, *scheme.generate(random), random)
            side.write_1()
            self.assertRaises(HandshakeError, side.read_2, bytes(noise.message_size(scheme, 2)))

    def test_wrong_lengths(self) -> None:
        """Steps refuse messages of another length, a wrong version, and a long AD."""
        scheme, random = kem.by_name("x25519"), SeededRandom(1)
        side = noise.Handshake(scheme, *scheme.generate(random), random)
        for step in (side.read_1, side.read_2, side.read_3, side.read_4):
            self.assertRaises(HandshakeError, step, b"")
        self.assertRaises(HandshakeError, side.read_1, b"\x02" + bytes(32))
        self.assertRaises(HandshakeError, noise.encode_auth, bytes(256), 0)
        self.assertRaises(HandshakeError, noise.decode_auth, bytes(259))
        self.assertEqual(noise.decode_auth(noise.encode_auth(bytes(255), 7)), (bytes(255), 7))


class RecordVectorTests(SynchronousTestCase):
    """The recorded records, by the classes in use and by the twins."""

    def test_records(self) -> None:
        """Both ways: plaintexts seal to the records, records open to the plaintexts, keys move on as recorded."""
        classes = {
            (records.RecordSealer, records.RecordOpener),
            (records.PureRecordSealer, records.PureRecordOpener),
        }
        for case in vectorfiles.load("link")["handshakes"]:
            keys = {
                "initiator": unhex(case["key_initiator_to_responder"]),
                "responder": unhex(case["key_responder_to_initiator"]),
            }
            kind = SessionKind(case["session"])
            self.assertTrue(case["records"])
            for sealer_class, opener_class in classes:
                sealers = {side: sealer_class(key) for side, key in keys.items()}
                openers = {side: opener_class(key, records.MAX_BODY) for side, key in keys.items()}
                for record in case["records"]:
                    side, plaintext = record["from"], unhex(record["plaintext"])
                    self.assertEqual(sealers[side].seal([plaintext]).hex(), record["record"])
                    self.assertEqual(openers[side].feed(unhex(record["record"])), [plaintext])
                    if sealer_class is records.PureRecordSealer:
                        self.assertEqual(sealers[side].key.hex(), record["key_after"])
                        self.assertEqual(sealers[side].nonce, record["nonce_after"])
                        self.assertEqual(openers[side].key.hex(), record["key_after"])
                    command = commands.parse(plaintext, kind, sizes_of("small"))
                    self.assertEqual(type(command).__name__, record["command"])
                    self.assertEqual(commands.encode(command, kind, sizes_of("small")), plaintext)


class RecordTests(SynchronousTestCase):
    """What openers refuse."""

    def test_flipped_bit(self) -> None:
        """Any flipped bit of a record is refused."""
        record = records.RecordSealer(bytes(32)).seal([b"\0" * 40])
        for opener_class in (records.RecordOpener, records.PureRecordOpener):
            for at in range(len(record)):
                changed = bytearray(record)
                changed[at] ^= 0x80
                with self.assertRaises((CryptoError, ValueError)):
                    opener_class(bytes(32), 1000).feed(bytes(changed))

    def test_bounds(self) -> None:
        """A body beyond the limit, or shorter than a tag, is refused as soon as its header is there."""
        record = records.RecordSealer(bytes(32)).seal([bytes(100)])
        for opener_class in (records.RecordOpener, records.PureRecordOpener):
            self.assertEqual(opener_class(bytes(32), 116).feed(record), [bytes(100)])
            with self.assertRaises((CryptoError, ValueError)):
                opener_class(bytes(32), 115).feed(record[:20])

    def test_pieces(self) -> None:
        """The same records come out however the stream is cut."""
        frames = [bytes([i]) * (10 * i) for i in range(9)]
        stream = records.RecordSealer(bytes(32)).seal(frames)
        for opener_class in (records.RecordOpener, records.PureRecordOpener):
            for step in (1, 7, 19, 20, 21, 100, len(stream)):
                opener, out = opener_class(bytes(32), 1000), []
                for at in range(0, len(stream), step):
                    out += opener.feed(stream[at : at + step])
                self.assertEqual(out, frames)

    def test_seal_packets(self) -> None:
        """Packets are sealed as padded SendPacket commands."""
        packets = [b"one", b"three"]
        stream = records.RecordSealer(bytes(32)).seal_packets(packets, 20)
        frames = records.RecordOpener(bytes(32), 1000).feed(stream)
        self.assertEqual([len(f) for f in frames], [20, 20])
        self.assertEqual([commands.unframe(f) for f in frames], [(2, p) for p in packets])
        self.assertEqual(records.PureRecordSealer(bytes(32)).seal_packets(packets, 20), stream)
