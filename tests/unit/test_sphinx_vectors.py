"""Sphinx against packets of the Go implementation, over the native core and the twin."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.errors import SphinxError
from katzentwist.sphinx import Geometry, Kind, PathHop, twin
from katzentwist.sphinx.commands import encode
from tests import sphinxcases
from tests.sphinxcases import Native, ScriptedRandom, Twin
from tests.vectorfiles import load, unhex


class TwinTests(SynchronousTestCase):
    """The pure-Python twin gives the reference's bytes."""

    sphinx: type[Twin] = Twin

    def test_forward(self) -> None:
        """Every forward packet is built byte for byte and unwraps at every hop."""
        for case in load("sphinx")["forward"]:
            geometry = Geometry.from_toml(case["geometry"])
            random = ScriptedRandom(unhex(case["secrets"]["ephemeral_private_key"]), unhex(case["skipped_random"]))
            packet = self.sphinx.build(sphinxcases.path(case), unhex(case["payload"]), geometry, random)
            self.assertEqual(packet, unhex(case["packet"]), case["label"])
            self.assertEqual(random.left, b"")
            self.assertEqual(self.walk(case, packet, geometry), unhex(case["payload"]))

    def test_surb(self) -> None:
        """Every SURB is built byte for byte, used, carried and opened."""
        for case in load("sphinx")["surb"]:
            geometry = Geometry.from_toml(case["geometry"])
            random = ScriptedRandom(
                unhex(case["surb_payload_key"]),
                unhex(case["secrets"]["ephemeral_private_key"]),
                unhex(case["skipped_random"]),
            )
            surb, keys = self.sphinx.new_surb(sphinxcases.path(case), geometry, random)
            self.assertEqual((surb, keys), (unhex(case["surb"]), unhex(case["surb_keys"])), case["label"])
            self.reply(case, surb, keys, geometry)

    def reply(self, case: dict[str, Any], surb: bytes, keys: bytes, geometry: Geometry) -> None:
        """From the SURB to the reply, and one flipped bit."""
        packet, first = self.sphinx.packet_from_surb(surb, unhex(case["reply_payload"]), geometry)
        self.assertEqual((packet, first), (unhex(case["packet"]), unhex(case["first_hop"])))
        payload = self.walk(case, packet, geometry)
        self.assertEqual(self.sphinx.decrypt_reply(keys, payload), unhex(case["decrypted"]))
        flipped = bytearray(payload)
        flipped[case["flipped_byte"]] ^= case["flipped_xor"]
        refused = self.assertRaises(SphinxError, self.sphinx.decrypt_reply, keys, bytes(flipped))
        self.assertEqual(str(refused), case["flipped_error"])

    def walk(self, case: dict[str, Any], packet: bytes, geometry: Geometry) -> bytes:
        """Unwrap at every hop, alone and in a batch; the payload at the end."""
        payload: bytes | None = None
        for node, hop in zip(case["nodes"], case["hops"], strict=True):
            key = unhex(node["private_key"])
            found = self.sphinx.unwrap(key, packet, geometry)
            self.assertEqual(found.replay_tag, unhex(hop["replay_tag"]))
            self.assertEqual(found.commands, sphinxcases.commands(hop["commands"]))
            self.assertEqual(found.payload, None if hop["payload"] is None else unhex(hop["payload"]))
            self.assertEqual(found.next_packet, unhex(hop["next_packet"]) if "next_packet" in hop else None)
            [result] = self.sphinx.unwrap_batch([bytes(len(key)), key], [packet], geometry)
            self.assertEqual((result[0], result[1]), (1, found.replay_tag))
            self.assertIn(result[2], (Kind.FORWARD, Kind.TO_USER, Kind.SURB_REPLY))
            self.assertEqual(result[5], found.next_packet or found.payload)
            packet, payload = found.next_packet or b"", found.payload
        assert payload is not None
        return payload

    def test_refused(self) -> None:
        """Every case of the error vectors: the same outcome, and a clean refusal where the reference crashes."""
        for name in ("sphinx_errors", "sphinx_kem_errors"):
            vectors = load(name)
            geometry = Geometry.from_toml(vectors["geometry"])
            for case in vectors["unwrap"]:
                self.check_unwrap(case, geometry)

    def check_unwrap(self, case: dict[str, Any], geometry: Geometry) -> None:
        """One case of the error vectors."""
        tag = unhex(case["replay_tag"]) if case["replay_tag"] else None
        arguments = unhex(case["private_key"]), unhex(case["packet"]), geometry
        if case["error"] or case["panic"]:
            error = self.assertRaises(SphinxError, self.sphinx.unwrap, *arguments)
            expected = case["error"] or "sphinx: invalid packet, low order group element"
            self.assertEqual((str(error), error.replay_tag), (expected, tag), case["case"])
            return
        found = self.sphinx.unwrap(*arguments)
        self.assertEqual(found.replay_tag, tag, case["case"])
        self.assertEqual(found.payload, None if case["payload"] is None else unhex(case["payload"]))
        self.assertEqual(found.commands, sphinxcases.commands(case["commands"]))
        self.assertEqual(found.next_packet, unhex(case["next_packet"]) if case["next_packet"] else None)

    def test_build_refused(self) -> None:
        """The builder's errors, made as the case names say."""
        for name in ("sphinx_errors", "sphinx_kem_errors"):
            vectors = load(name)
            geometry = Geometry.from_toml(vectors["geometry"])
            for case in vectors["build"]:
                error = self.assertRaises(SphinxError, self.break_build, case["case"], geometry)
                self.assertEqual(str(error), case["error"], case["case"])

    def break_build(self, case: str, geometry: Geometry) -> None:  # noqa: C901 - one branch per case
        """Provoke one of the builder's errors."""
        random = sphinxcases.SeededRandom(case)
        _, path = sphinxcases.random_path(random, 2)
        payload = bytes(geometry.forward_payload_length)
        delay = sphinxcases.NodeDelay(1)
        match case:
            case "path longer than NrHops":
                path = path[:1] * (geometry.nr_hops + 1)
            case "payload one byte short":
                payload = payload[1:]
            case "payload one byte long":
                payload += b"\0"
            case "caller gives a next hop command":
                path[1] = PathHop(path[1].id, path[1].public_key, [sphinxcases.NextNodeHop(bytes(32), bytes(32))])
            case "middle hop commands leave no room for the next hop":
                path[0] = PathHop(path[0].id, path[0].public_key, [delay] * 4)
            case "commands longer than the block":
                path[1] = PathHop(path[1].id, path[1].public_key, [delay] * 30)
            case "surb of a wrong length":
                self.sphinx.packet_from_surb(bytes(geometry.surb_length - 1), b"", geometry)
            case "surb payload shorter than the tag":
                self.sphinx.decrypt_reply(bytes(64), bytes(31))
            case "surb keys not a multiple of 64":
                self.sphinx.decrypt_reply(bytes(65), bytes(100))
            case "surb keys empty":
                self.sphinx.decrypt_reply(b"", bytes(100))
        self.sphinx.build(path, payload, geometry, random)


class NativeTests(TwinTests):
    """So does the native core."""

    skip = Native.skip
    sphinx = Native


class KemTests(SynchronousTestCase):
    """KEM Sphinx, which only the twin does; encapsulations come from the vectors."""

    walk = TwinTests.walk
    reply = TwinTests.reply
    sphinx: type[Twin] = Native

    @staticmethod
    def encapsulations(case: dict[str, Any]) -> twin.Encapsulate:
        """Stands in for the KEM."""
        secrets = case["secrets"]
        pairs = zip(secrets["kem_ciphertexts"], secrets["kem_shared_secrets"], strict=True)
        return lambda _public: tuple(map(unhex, next(pairs)))  # type: ignore[return-value]

    def test_forward(self) -> None:
        """Every forward packet."""
        for case in load("sphinx_kem")["forward"]:
            geometry = Geometry.from_toml(case["geometry"])
            random = ScriptedRandom(unhex(case["skipped_random"]))
            packet = twin.build(
                sphinxcases.path(case), unhex(case["payload"]), geometry, random, self.encapsulations(case)
            )
            self.assertEqual(packet, unhex(case["packet"]), case["label"])
            self.assertEqual(self.walk(case, packet, geometry), unhex(case["payload"]))

    def test_surb(self) -> None:
        """Every SURB."""
        for case in load("sphinx_kem")["surb"]:
            geometry = Geometry.from_toml(case["geometry"])
            random = ScriptedRandom(unhex(case["surb_payload_key"]), unhex(case["skipped_random"]))
            surb, keys = twin.new_surb(sphinxcases.path(case), geometry, random, self.encapsulations(case))
            self.assertEqual((surb, keys), (unhex(case["surb"]), unhex(case["surb_keys"])), case["label"])
            self.reply(case, surb, keys, geometry)

    def test_own_keys(self) -> None:
        """A path with fresh keys of every KEM: built, carried, opened."""
        for name in ("x25519", "x448", "MLKEM768", "XWING", "MLKEM768-X25519"):
            random = sphinxcases.SeededRandom(name)
            geometry = Geometry.from_user_payload(50, 3, kem=name)
            scheme = twin.kem.by_name(name)
            pairs = [scheme.generate(random) for _ in range(3)]
            path = [PathHop(random.bytes(32), public, [sphinxcases.NodeDelay(5)]) for _, public in pairs]
            payload = random.bytes(geometry.forward_payload_length)
            packet = self.sphinx.build(path, payload, geometry, random)
            self.assertEqual(len(packet), geometry.packet_length)
            for private, _ in pairs:
                found = self.sphinx.unwrap(private, packet, geometry)
                packet = found.next_packet or b""
            self.assertEqual(found.payload, payload)


class CommandVectorTests(SynchronousTestCase):
    """The commands of the vectors."""

    def test_bytes(self) -> None:
        """Each encodes to its bytes and comes back."""
        for vector in load("sphinx")["commands"]:
            command = sphinxcases.command(vector)
            self.assertEqual(encode([command]), unhex(vector["bytes"]))
            self.assertEqual(list(sphinxcases.sphinx.commands.iterate(unhex(vector["bytes"]))), [command])
