"""Commands, padding and chunks against the vectors."""

from __future__ import annotations

import gzip

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.errors import CommandError
from katzentwist.wire import chunks, commands
from katzentwist.wire.codes import ConsensusCode
from katzentwist.wire.commands import SessionKind
from tests import vectorfiles
from tests.unit.test_wire_noise import sizes_of
from tests.vectorfiles import unhex

REPLICA = ("PostReplicaDescriptor", "PostReplicaDescriptorStatus")
BYTES_FIELDS = {"packet", "payload", "surb_id", "public_key"}


def command_of(case) -> commands.Command:
    """The command object of a vector."""
    fields = {k: v for k, v in case["fields"].items() if k != "padded"}
    values = {k: unhex(v) if k in BYTES_FIELDS else int(v) for k, v in fields.items()}
    return getattr(commands, case["name"])(**values)


class CodecVectorTests(SynchronousTestCase):
    """Frames and padding of the reference."""

    def test_commands(self) -> None:
        """Every command encodes to the recorded frame and padding, and parses back from both."""
        counted = 0
        for case in vectorfiles.load("link")["commands"]:
            if case["name"] in REPLICA or case["fields"].get("padded") is False:
                continue
            kind, sizes = SessionKind(case["session"]), sizes_of(case.get("geometry") or "small")
            command = command_of(case)
            frame = commands.encode(command, kind, sizes)
            self.assertEqual(frame, unhex(case["unpadded"]) + bytes(case["padding"]), case["name"])
            self.assertEqual(len(frame), case["encoded_length"])
            self.assertEqual(commands.parse(frame, kind, sizes), command)
            self.assertEqual(commands.parse(unhex(case["unpadded"]), kind, sizes), command)
            counted += 1
        self.assertTrue(counted >= 48)

    def test_parse(self) -> None:
        """What must be accepted is, under its name; all else is CommandError, also where the reference crashes."""
        for case in vectorfiles.load("link")["parse"]:
            kind, data = SessionKind(case["session"]), unhex(case["bytes"])
            name = case["result"].partition(":")[2]
            if not name or name in REPLICA:
                with self.assertRaises(CommandError, msg=case["note"]):
                    commands.parse(data, kind, sizes_of("small"))
            else:
                self.assertEqual(type(commands.parse(data, kind, sizes_of("small"))).__name__, name)

    def test_geometries(self) -> None:
        """UP and DOWN."""
        for name, geometry in vectorfiles.load("link")["geometries"].items():
            sizes = sizes_of(name)
            self.assertEqual(sizes.up, geometry["max_client_to_server"])
            self.assertEqual(sizes.down, geometry["max_server_to_client"])

    def test_encode_refuses(self) -> None:
        """Commands of another kind and fields that do not fit are refused."""
        sizes = sizes_of("small")
        vote = commands.Vote(epoch=1, public_key=bytes(32), payload=b"")
        self.assertRaises(CommandError, commands.encode, vote, SessionKind.MIXNET, sizes)
        self.assertRaises(CommandError, commands.encode, commands.SendPacket(b""), SessionKind.PKI, sizes)
        for bad in (commands.MessageDelivered(1 << 32), commands.GetConsensus(-1), commands.Consensus(256)):
            self.assertRaises(CommandError, commands.encode, bad, SessionKind.MIXNET, sizes)

    def test_repr(self) -> None:
        """No packet, SURB id or payload shows in a repr."""
        message = commands.Message(sequence=1, surb_id=b"secret-surb-id-0", payload=b"hidden")
        self.assertNotIn("secret", repr(message))
        self.assertNotIn("hidden", repr(message) + repr(commands.SendPacket(b"hidden")))


class ChunkTests(SynchronousTestCase):
    """Consensus2 documents."""

    def reassemble(self, replies, **options) -> bytes | None:
        """Feed all replies."""
        reassembly, document = chunks.Reassembly(**options), None
        for reply in replies:
            self.assertIsNone(document)
            document = reassembly.add(reply)
        return None if document is None else b"".join(document)

    def pieces(self, *payloads: bytes) -> list[commands.Consensus2]:
        """Consensus2 commands with these payloads."""
        return [
            commands.Consensus2(error_code=0, chunk_num=i, chunk_total=len(payloads), payload=p)
            for i, p in enumerate(payloads)
        ]

    def test_vector(self) -> None:
        """The reference's chunks give its document."""
        case = vectorfiles.load("link")["consensus2_chunks"]
        document = self.reassemble(self.pieces(*map(unhex, case["chunks"])))
        self.assertEqual((document or b"").hex(), case["document"])

    def test_round_trip(self) -> None:
        """Chunks have exactly the chunk size, the last one less."""
        document = bytes(range(256)) * 40
        for size in (1, 10, 400, 100_000):
            replies = chunks.split(document, size)
            self.assertTrue(all(len(r.payload) == size for r in replies[:-1]))
            self.assertEqual(self.reassemble(replies), document)

    def test_failure(self) -> None:
        """A failure is one command with the code."""
        reassembly = chunks.Reassembly()
        self.assertEqual(reassembly.add(chunks.failure(ConsensusCode.GONE)), ())
        self.assertEqual(reassembly.code, ConsensusCode.GONE)
        self.assertRaises(CommandError, reassembly.add, chunks.failure(ConsensusCode.GONE))

    def test_out_of_turn(self) -> None:
        """Missing, repeated and renumbered chunks, changed and zero totals, and chunks after the end are refused."""
        good = chunks.split(bytes(range(256)) * 9, 100)
        other = commands.Consensus2(error_code=0, chunk_num=1, chunk_total=99, payload=b"x")
        zero = commands.Consensus2(error_code=0, chunk_num=0, chunk_total=0, payload=b"x")
        late_failure = [good[0], chunks.failure(ConsensusCode.GONE)]
        for bad in (good[1:], [good[0], good[0]], [good[0], good[2]], [good[0], other], [zero], late_failure):
            self.assertRaises(CommandError, self.reassemble, bad)
        reassembly = chunks.Reassembly()
        for chunk in good:
            reassembly.add(chunk)
        self.assertRaises(CommandError, reassembly.add, good[-1])

    def test_damage(self) -> None:
        """A cut stream, garbage, data behind the stream and empty chunks are refused."""
        stream = gzip.compress(b"document" * 100)
        for bad in ([stream[:-9]], [b"garbage"], [stream + b"x"], [stream, b"x"], [b"", stream], [b""]):
            self.assertRaises(CommandError, self.reassemble, self.pieces(*bad))

    def test_bomb(self) -> None:
        """A stream that unpacks beyond the limit is refused before it is unpacked."""
        stream = gzip.compress(bytes(1000))
        self.assertEqual(self.reassemble(self.pieces(stream), limit=1000), bytes(1000))
        self.assertRaises(CommandError, self.reassemble, self.pieces(stream), limit=999)
