"""Geometry, commands, kinds, the user payload block, replies and batches."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.crypto import nike
from katzentwist.errors import CryptoError, SphinxError
from katzentwist.randomness import SeededRandom
from katzentwist.sphinx import (
    Command,
    Geometry,
    Kind,
    NextNodeHop,
    NodeDelay,
    PathHop,
    Recipient,
    Routing,
    Surb,
    SurbReply,
    build_block,
    parse_block,
    recipient_id,
    reply_packet,
)
from katzentwist.sphinx.commands import encode, parse
from tests.sphinxcases import SMALL, Native, Twin, random_path
from tests.vectorfiles import load, unhex

DEFAULT = Geometry.from_user_payload(2000, 5)


class GeometryTests(SynchronousTestCase):
    """The lengths, their table, their hash."""

    def test_vectors(self) -> None:
        """CBOR and hash of every geometry; the formulas give the same numbers where the KEM is ours."""
        for vector in load("sphinx")["geometries"]:
            fields = vector["fields"]
            names = {"nike": fields["NIKEName"] or None, "kem": fields["KEMName"] or None}
            if fields["KEMName"] == "Kyber768-X25519":
                error = self.assertRaises(SphinxError, Geometry.from_toml, fields)
                self.assertEqual(str(error), "geometry has invalid KEM Scheme Kyber768-X25519")
                continue
            geometry = Geometry.from_toml(fields)
            self.assertEqual(geometry.cbor(), unhex(vector["cbor"]))
            self.assertEqual(geometry.hash(), unhex(vector["hash"]))
            self.assertEqual(geometry.to_toml(), fields)
            length, hops = fields["UserForwardPayloadLength"], fields["NrHops"]
            self.assertEqual(Geometry.from_user_payload(length, hops, **names, with_surb=vector["with_surb"]), geometry)

    def test_default(self) -> None:
        """The numbers that the specification prints."""
        self.assertEqual((DEFAULT.packet_length, DEFAULT.surb_length), (3082, 572))
        self.assertEqual(DEFAULT.hash().hex(), "ed57ca3bc2165a0483e0d16d97511e15f318ed5cedfc3e7388c85ee8a2c0fb47")
        self.assertIn('  NIKEName = "x25519"\n', DEFAULT.toml())

    def test_spelling(self) -> None:
        """Scheme names are looked up without regard to case, but another spelling has another hash."""
        shouted = Geometry.from_toml(DEFAULT.to_toml() | {"NIKEName": "X25519"})
        self.assertNotEqual(shouted.hash(), DEFAULT.hash())

    def test_keys_without_case(self) -> None:
        """Keys match without regard to case, an exact match first."""
        table = {key.lower(): value for key, value in DEFAULT.to_toml().items()}
        self.assertEqual(Geometry.from_toml(table), DEFAULT)
        self.assertEqual(Geometry.from_toml({"nrhops": 9} | DEFAULT.to_toml()), DEFAULT)

    def test_checks(self) -> None:
        """The checks of section 2 with their texts, and ours after them."""
        good = DEFAULT.to_toml()
        cases: list[tuple[dict[str, Any] | None, str]] = [
            (None, "config: No SphinxGeometry block was present"),
            ({}, "geometry NIKEName or KEMName must be set"),
            (good | {"KEMName": "XWING"}, "geometry NIKEName and KEMName must not both be set"),
            (good | {"NIKEName": "rot13"}, "geometry has invalid NIKE Scheme rot13"),
            (good | {"NIKEName": "", "KEMName": "rot13"}, "geometry has invalid KEM Scheme rot13"),
            ({"NIKEName": "x25519"}, "geometry has PacketLength of 0"),
            (good | {"NrHops": 0, "HeaderLength": 0}, "geometry has NrHops of 0"),
            (good | {"HeaderLength": 0, "RoutingInfoLength": 0}, "geometry has HeaderLength of 0"),
            (good | {"RoutingInfoLength": 0}, "geometry has RoutingInfoLength of 0"),
            (good | {"PerHopRoutingInfoLength": 0}, "geometry has PerHopRoutingInfoLength of 0"),
            (good | {"SURBLength": 0}, "geometry has SURBLength of 0, expected 572"),
            (good | {"PacketLength": 3083}, "geometry has PacketLength of 3083, expected 3082"),
            (good | {"ForwardPayloadLength": 2575}, "geometry has ForwardPayloadLength of 2575, expected 2574"),
            (good | {"NrHops": "5"}, "geometry NrHops must be an integer"),
            (good | {"NrHops": True}, "geometry NrHops must be an integer"),
            (good | {"NIKEName": 5}, "geometry NIKEName must be a text"),
            (good | {"NrHops": -5}, "geometry has a negative NrHops or UserForwardPayloadLength"),
        ]
        for table, text in cases:
            self.assertEqual(str(self.assertRaises(SphinxError, Geometry.from_toml, table)), text)

    def test_every_field(self) -> None:
        """A wrong number in any derived field is refused."""
        for key, value in DEFAULT.to_toml().items():
            if isinstance(value, int) and key not in ("NrHops", "UserForwardPayloadLength"):
                error = self.assertRaises(SphinxError, Geometry.from_toml, DEFAULT.to_toml() | {key: value + 1})
                self.assertIn("geometry has ", str(error))


class CommandTests(SynchronousTestCase):
    """Parsing one hop's block."""

    def test_ends(self) -> None:
        """Empty, zeros, a full block."""
        self.assertEqual(parse(b""), ())
        self.assertEqual(parse(bytes(82)), ())
        full = (SurbReply(bytes(16)), NextNodeHop(bytes(32), bytes(32)))
        self.assertEqual(parse(encode(full)), full)

    def test_refused(self) -> None:
        """Unknown, cut, or followed by anything but zeros."""
        delay = NodeDelay(7).encode()
        for block in (b"\x04", b"\x7f" + bytes(81), delay[:-1], delay + b"\0\1", b"\0\0\0\1", b"\x01" + bytes(63)):
            self.assertEqual(str(self.assertRaises(SphinxError, parse, block)), "sphinx: invalid per-hop command")

    def test_sizes(self) -> None:
        """A command of the wrong size can not be made."""
        makers: list[tuple[Any, Any]] = [
            (Recipient, b"short"),
            (SurbReply, bytes(17)),
            (NodeDelay, -1),
            (NodeDelay, 2**32),
        ]
        for maker, value in makers:
            self.assertRaises(SphinxError, maker, value)
        self.assertRaises(SphinxError, NextNodeHop, bytes(32), bytes(31))


class KindTests(SynchronousTestCase):
    """Kinds of packet."""

    samples: dict[str, Command] = {
        "next_node_hop": NextNodeHop(bytes(32), bytes(32)),
        "recipient": Recipient(bytes(32)),
        "surb_reply": SurbReply(bytes(16)),
        "node_delay": NodeDelay(1),
    }

    def test_vectors(self) -> None:
        """Every combination of commands."""
        for vector in load("sphinx_block")["kinds"]:
            commands = [self.samples[name] for name in vector["commands"]]
            if vector.get("redundant"):
                self.assertEqual(
                    str(self.assertRaises(SphinxError, Routing.from_commands, commands)), "redundant command"
                )
                continue
            routing = Routing.from_commands(commands)
            self.assertEqual(routing.kind == Kind.FORWARD, vector["is_forward"])
            self.assertEqual(routing.kind == Kind.SURB_REPLY, vector["is_surb_reply"])
            to_user = routing.kind == Kind.TO_USER and routing.delay is not None
            self.assertEqual(to_user, vector["is_to_user"])

    def test_service_without_delay(self) -> None:
        """A request without a SURB carries no delay at the last hop; it is accepted."""
        self.assertEqual(Routing.from_commands([Recipient(bytes(32))]).kind, Kind.TO_USER)


class BlockTests(SynchronousTestCase):
    """The user payload block."""

    def test_vectors(self) -> None:
        """Every block: parsed as the reference does, and the well-formed ones with a SURB are built again."""
        vectors = load("sphinx_block")
        geometry = Geometry.from_toml(vectors["geometry"])
        for vector in vectors["blocks"]:
            block = unhex(vector["block"])
            if vector["error"]:
                self.assertEqual(str(self.assertRaises(SphinxError, parse_block, block, geometry)), vector["error"])
                continue
            payload, surb = parse_block(block, geometry)
            self.assertEqual(payload, unhex(vector["user_payload"]))
            self.assertEqual(surb, unhex(vector["surb"]) if vector["surb"] else None)
            if "garbage" not in vector["case"]:
                self.assertEqual(build_block(payload, surb, geometry), block)

    def test_build(self) -> None:
        """Padding, and what is refused."""
        block = build_block(b"hello", None, SMALL)
        self.assertEqual(parse_block(block, SMALL), (b"hello".ljust(100, b"\0"), None))
        error = self.assertRaises(SphinxError, build_block, bytes(101), None, SMALL)
        self.assertEqual(str(error), "message too large: 101 > 100")
        self.assertRaises(SphinxError, build_block, b"", bytes(5), SMALL)
        bare = Geometry.from_user_payload(100, 3, with_surb=False)
        self.assertRaises(SphinxError, build_block, b"", None, bare)
        self.assertRaises(SphinxError, parse_block, bytes(100), bare)

    def test_recipient_id(self) -> None:
        """Names become 32 bytes."""
        self.assertEqual(recipient_id("+echo"), b"+echo" + bytes(27))
        self.assertRaises(SphinxError, recipient_id, "")
        self.assertRaises(SphinxError, recipient_id, bytes(33))

    def test_replies(self) -> None:
        """A node's reply packets."""
        vectors = load("sphinx_block")
        geometry = Geometry.from_toml(vectors["geometry"])
        for vector in vectors["replies"]:
            arguments = unhex(vector["surb"]), unhex(vector["reply"]), geometry
            if vector["error"]:
                error = self.assertRaises(SphinxError, reply_packet, *arguments)
                self.assertEqual(str(error), vector["error"])
            else:
                self.assertEqual(reply_packet(*arguments), (unhex(vector["packet"]), unhex(vector["next_hop"])))


class TwinBatchTests(SynchronousTestCase):
    """Batches, in the twin."""

    sphinx: type[Twin] = Twin

    def setUp(self) -> None:
        self.random = SeededRandom("batch")
        self.keys, self.path = random_path(self.random, 3)
        self.payload = self.random.bytes(SMALL.forward_payload_length)

    def packet(self, *commands: Command) -> bytes:
        """A one-hop packet with these commands."""
        hop = PathHop(bytes(32), self.path[0].public_key, commands)
        return self.sphinx.build([hop], self.payload, SMALL, self.random)

    def test_kinds(self) -> None:
        """One packet of each kind, in one batch, with the key in second place."""
        recipient, surb_id = self.random.bytes(32), self.random.bytes(16)
        forward = self.sphinx.build(self.path, self.payload, SMALL, self.random)
        packets = [
            forward,
            self.packet(NodeDelay(9), Recipient(recipient)),
            self.packet(Recipient(recipient)),
            self.packet(Recipient(recipient), SurbReply(surb_id)),
            self.packet(NodeDelay(1), NodeDelay(1), Recipient(recipient)),
            self.packet(NodeDelay(1)),
            self.packet(),
            forward[:-1],
            b"",
            b"\1" + forward[1:],
            forward[:40] + bytes(10) + forward[50:],
        ]
        results = self.sphinx.unwrap_batch([self.keys[1], self.keys[0], self.keys[2]], packets, SMALL)
        alone = self.sphinx.unwrap(self.keys[0], forward, SMALL)
        delay = self.path[0].commands[0]
        assert isinstance(delay, NodeDelay)
        self.assertEqual(
            results[0],
            (1, alone.replay_tag, Kind.FORWARD, self.path[1].id, delay.delay, alone.next_packet),
        )
        self.assertEqual([result[0] for result in results], [1] * 7 + [-1] * 4)
        self.assertEqual(results[1][2:], (Kind.TO_USER, recipient, 9, self.payload))
        self.assertEqual(results[2][2:], (Kind.TO_USER, recipient, None, self.payload))
        self.assertEqual(results[3][2:5], (Kind.SURB_REPLY, recipient, surb_id))
        self.assertEqual(results[3][5], bytes(32) + self.payload)
        self.assertEqual(results[4][2:], (Kind.REDUNDANT, "redundant command", None, None))
        self.assertEqual(results[5][2:], (Kind.SENSELESS, "sphinx: invalid combination of commands", None, None))
        self.assertEqual(results[6][2], Kind.SENSELESS)
        size = SMALL.packet_length
        self.assertEqual(results[7][1:4], (None, Kind.INVALID, f"invalid Sphinx packet size: {size - 1}"))
        self.assertEqual(results[8][1:4], (None, Kind.INVALID, "invalid Sphinx packet size: 0"))
        self.assertEqual(results[9][1:4], (None, Kind.INVALID, "sphinx: invalid packet, unknown version"))
        self.assertEqual(results[10][1:4], (alone.replay_tag, Kind.INVALID, "sphinx: invalid packet, MAC mismatch"))
        for result in results:
            self.assertIs(type(result), tuple)

    def test_empty(self) -> None:
        """No packets, no results."""
        self.assertEqual(self.sphinx.unwrap_batch([self.keys[0]], [], SMALL), [])

    def test_low_order_hop(self) -> None:
        """A mix key of low order, or of a wrong length, is an error that names the hop."""
        for key in (bytes(32), b"\1" + bytes(31), bytes(5)):
            path = [self.path[0], PathHop(bytes(32), key)]
            error = self.assertRaises(SphinxError, self.sphinx.build, path, self.payload, SMALL, self.random)
            self.assertIn("sphinx: invalid mix key of hop 1: ", str(error))

    def test_paths(self) -> None:
        """No hop, or an id of the wrong length."""
        for path in ([], [PathHop(bytes(31), self.path[0].public_key)]):
            error = self.assertRaises(SphinxError, self.sphinx.build, path, self.payload, SMALL, self.random)
            self.assertEqual(str(error), "sphinx: invalid path")

    def test_bad_private_key(self) -> None:
        """A private key of the wrong length is the caller's mistake."""
        self.assertRaises(CryptoError, self.sphinx.unwrap, bytes(31), bytes(SMALL.packet_length), SMALL)


class NativeBatchTests(TwinBatchTests):
    """Batches, in the native core."""

    skip = Native.skip
    sphinx = Native

    def test_no_keys(self) -> None:
        """A batch needs at least one key of the right length."""
        self.assertRaises(CryptoError, self.sphinx.unwrap_batch, [], [bytes(5)], SMALL)
        self.assertRaises(CryptoError, self.sphinx.unwrap_batch, [bytes(31)], [bytes(5)], SMALL)

    def test_foreign_curve(self) -> None:
        """x448 goes through the same functions."""
        geometry = Geometry.from_user_payload(10, 2, nike="x448")
        private, public = nike.x448.generate(self.random)
        payload = bytes(geometry.forward_payload_length)
        packet = self.sphinx.build([PathHop(bytes(32), public)], payload, geometry, self.random)
        self.assertEqual(self.sphinx.unwrap(private, packet, geometry).payload, payload)


class SurbTests(SynchronousTestCase):
    """The three operations under one name."""

    def test_round_trip(self) -> None:
        """A reply comes home, with the system's randomness."""
        keys, path = random_path(SeededRandom("surb"), 2, reply=True)
        surb, surb_keys = Surb.new(path, SMALL)
        self.assertEqual(len(surb), SMALL.surb_length)
        packet, first = reply_packet(surb, b"pong", SMALL)
        self.assertEqual((len(packet), first), (SMALL.packet_length, path[0].id))
        packet = Native.unwrap(keys[0], packet, SMALL).next_packet or b""
        payload = Native.unwrap(keys[1], packet, SMALL).payload or b""
        reply = Surb.decrypt_reply(surb_keys, payload, SMALL)
        self.assertEqual(reply, b"pong".ljust(SMALL.forward_payload_length, b"\0"))
        self.assertRaises(SphinxError, Surb.decrypt_reply, surb_keys, payload + b"\0", SMALL)
