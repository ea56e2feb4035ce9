"""Properties of both implementations of Sphinx, and of each against the other."""

from __future__ import annotations

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.errors import CryptoError, SphinxError
from katzentwist.randomness import SeededRandom
from katzentwist.sphinx import Geometry, Kind, NextNodeHop, PathHop, parse_block
from katzentwist.sphinx.commands import encode, parse
from tests.sphinxcases import SMALL, Native, Twin, random_path

# A test that two classes inherit has "differing executors" by intention: each runs it over its own implementation.
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors]
)
seeds = st.integers(0, 2**64)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 300))


class TwinTests(SynchronousTestCase):
    """Each implementation by itself: here the twin."""

    sphinx: type[Twin] = Twin

    @quick
    @given(seeds, sizes, st.booleans())
    def test_unwrap_build(self, seed: int, size: tuple[int, int, int], with_surb: bool) -> None:
        """What was built arrives, over every path length."""
        hops, spare, length = size
        geometry = Geometry.from_user_payload(length, hops + spare - 1, with_surb=with_surb)
        random = SeededRandom(seed)
        keys, path = random_path(random, hops)
        payload = random.bytes(geometry.forward_payload_length)
        packet = self.sphinx.build(path, payload, geometry, random)
        tags = set()
        for i, key in enumerate(keys):
            self.assertEqual(len(packet), geometry.packet_length)
            found = self.sphinx.unwrap(key, packet, geometry)
            tags.add(found.replay_tag)
            own = tuple(c for c in found.commands if not isinstance(c, NextNodeHop))
            self.assertEqual(own, path[i].commands)
            packet = found.next_packet or b""
        self.assertEqual((found.payload, len(tags)), (payload, hops))

    @quick
    @given(seeds, sizes)
    def test_surb(self, seed: int, size: tuple[int, int, int]) -> None:
        """A reply comes home, over every path length."""
        hops, spare, length = size
        geometry = Geometry.from_user_payload(length, hops + spare - 1)
        random = SeededRandom(seed)
        keys, path = random_path(random, hops, reply=True)
        surb, surb_keys = self.sphinx.new_surb(path, geometry, random)
        reply = random.bytes(length)
        packet, first = self.sphinx.packet_from_surb(surb, reply, geometry)
        self.assertEqual(first, path[0].id)
        for key in keys:
            found = self.sphinx.unwrap(key, packet, geometry)
            packet = found.next_packet or b""
        self.assertEqual(self.sphinx.decrypt_reply(surb_keys, found.payload or b""), reply)

    @quick
    @given(st.binary(max_size=600), st.binary(min_size=32, max_size=32))
    @example(bytes(SMALL.packet_length), bytes(32))
    def test_any_packet(self, packet: bytes, key: bytes) -> None:
        """Bytes that nobody built are refused, and nothing else happens."""
        for text in (packet, b"\0\0" + packet, (b"\0\0" + packet).ljust(SMALL.packet_length, b"x")):
            self.assertRaises(SphinxError, self.sphinx.unwrap, key, text, SMALL)
            [result] = self.sphinx.unwrap_batch([key], [text], SMALL)
            self.assertEqual((result[0], result[2]), (-1, Kind.INVALID))

    @quick
    @given(st.binary(max_size=200), st.binary(max_size=200))
    def test_any_reply(self, keys: bytes, payload: bytes) -> None:
        """So are replies."""
        self.assertRaises(SphinxError, self.sphinx.decrypt_reply, keys, payload)

    @quick
    @given(seeds, st.integers(0), st.integers(0, 7))
    def test_flipped_bit(self, seed: int, place: int, bit: int) -> None:
        """One flipped bit is refused: in the header by the hop, in the payload by the last hop."""
        random = SeededRandom(seed)
        keys, path = random_path(random, 2)
        packet = self.sphinx.build(path, bytes(SMALL.forward_payload_length), SMALL, random)
        flipped = bytearray(packet)
        flipped[place % len(packet)] ^= 1 << bit
        if place % len(packet) < SMALL.header_length:
            self.assertRaises(SphinxError, self.sphinx.unwrap, keys[0], bytes(flipped), SMALL)
            return
        passed = self.sphinx.unwrap(keys[0], bytes(flipped), SMALL).next_packet or b""
        error = self.assertRaises(SphinxError, self.sphinx.unwrap, keys[1], passed, SMALL)
        self.assertEqual(str(error), "sphinx: payload auth failed")


class NativeTests(TwinTests):
    """The native core."""

    skip = Native.skip
    sphinx = Native


class EqualityTests(SynchronousTestCase):
    """The native core gives the twin's bytes and the twin's errors."""

    skip = Native.skip

    @quick
    @given(seeds, sizes, st.booleans())
    def test_build(self, seed: int, size: tuple[int, int, int], reply: bool) -> None:
        """Packets and SURBs from the same randomness."""
        hops, spare, length = size
        geometry = Geometry.from_user_payload(length, hops + spare - 1)
        _, path = random_path(SeededRandom(seed), hops, reply=reply)
        payload = SeededRandom(seed + 1).bytes(geometry.forward_payload_length)
        built = [s.build(path, payload, geometry, SeededRandom(seed)) for s in (Native, Twin)]
        self.assertEqual(*built)
        self.assertEqual(*[s.new_surb(path, geometry, SeededRandom(seed)) for s in (Native, Twin)])

    @quick
    @given(seeds, st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=4))
    @example(0, [b"\2" + bytes(31)])
    @example(1, [b"\x09" + bytes(31), b"\2" + bytes(31), b"\xff" * 32])
    @example(2, [bytes(32)])
    def test_any_mix_key(self, seed: int, publics: list[bytes]) -> None:
        """Any 32 bytes as mix keys: on the curve, on its twist, of low order, not reduced."""
        geometry = Geometry.from_user_payload(0, 4)
        path = [PathHop(bytes(32), public) for public in publics]

        def attempt(sphinx: type[Twin]) -> bytes | str:
            try:
                return sphinx.build(path, bytes(geometry.forward_payload_length), geometry, SeededRandom(seed))
            except SphinxError as error:
                return str(error)

        self.assertEqual(attempt(Native), attempt(Twin))

    @quick
    @given(seeds, st.binary(min_size=0, max_size=82), st.integers(0, 120))
    def test_unwrap(self, seed: int, block: bytes, length: int) -> None:
        """Any command block, with payloads of any length; alone and in batches."""
        random = SeededRandom(seed)
        geometry = Geometry.from_user_payload(0, 2)
        [key], path = random_path(random, 1)
        packet = self.with_block(path[0], block.ljust(82, b"\0"), geometry, random)
        self.assertEqual(*[s.unwrap_batch([bytes(32), key], [packet], geometry) for s in (Native, Twin)])
        packet = packet[: geometry.header_length + length]
        outcomes = []
        for sphinx in (Native, Twin):
            try:
                outcomes.append(sphinx.unwrap(key, packet, geometry))
            except SphinxError as error:
                outcomes.append((str(error), error.replay_tag))
        self.assertEqual(*outcomes)

    @staticmethod
    def with_block(hop: PathHop, block: bytes, geometry: Geometry, random: SeededRandom) -> bytes:
        """A one-hop packet with exactly this command block."""

        class Raw:
            """Encodes to the block."""

            def encode(self) -> bytes:
                return block

        path = [PathHop(hop.id, hop.public_key, [Raw()])]  # type: ignore[list-item]
        return Twin.build(path, bytes(geometry.forward_payload_length), geometry, random)


class CommandTests(SynchronousTestCase):
    """Codecs on any bytes."""

    @quick
    @given(st.binary(max_size=200))
    def test_parse(self, block: bytes) -> None:
        """Commands that encode to the block again, or our error."""
        try:
            commands = parse(block)
        except SphinxError:
            return
        self.assertEqual(encode(commands).ljust(len(block), b"\0"), block)

    @quick
    @given(st.binary(max_size=20), st.booleans())
    def test_block(self, start: bytes, exact: bool) -> None:
        """A payload block parses or gives our error."""
        block = start.ljust(SMALL.forward_payload_length, b"\0") if exact else start
        try:
            payload, surb = parse_block(block, SMALL)
        except SphinxError:
            return
        self.assertEqual(len(payload), 100)
        self.assertIn(len(surb or bytes(SMALL.surb_length)), [SMALL.surb_length])

    @quick
    @given(st.dictionaries(st.sampled_from(list(SMALL.to_toml())), st.one_of(st.integers(), st.text(), st.none())))
    def test_geometry(self, changes: dict[str, object]) -> None:
        """A table that differs is refused with our error, or is the same."""
        try:
            geometry = Geometry.from_toml(SMALL.to_toml() | changes)
        except (SphinxError, CryptoError):
            return
        self.assertEqual(geometry.to_toml() | {"NIKEName": "x25519"}, SMALL.to_toml() | {"NIKEName": "x25519"})
