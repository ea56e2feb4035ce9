"""NIKE schemes and hashes."""

from __future__ import annotations

import hashlib
import hmac
import os
import runpy
import sys
from typing import Any
from unittest import mock

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from katzentwist.crypto import hash as hashes
from katzentwist.crypto import native, nike
from katzentwist.errors import CryptoError
from katzentwist.randomness import SeededRandom

WORKED_SECRET = bytes(range(32))
# Points whose multiples by 8 are zero; the last two are the first two plus the field's prime.
LOW_ORDER = [
    bytes(32),
    b"\1" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    b"\xec" + b"\xff" * 30 + b"\x7f",
    b"\xed" + b"\xff" * 30 + b"\x7f",
    b"\xee" + b"\xff" * 30 + b"\x7f",
]


class X25519Tests(SynchronousTestCase):
    """X25519 by the cryptography package."""

    scheme: nike.Nike = nike.X25519()

    def test_rfc7748(self) -> None:
        """The first test vector of RFC 7748, section 5.2."""
        scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
        point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
        product = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
        self.assertEqual(self.scheme.derive(scalar, point).hex(), product)

    def test_low_order(self) -> None:
        """Points of low order, also in another spelling and with the top bit set, are refused."""
        for point in LOW_ORDER:
            for top in (0, 0x80):
                twisted = point[:31] + bytes([point[31] | top])
                self.assertRaises(CryptoError, self.scheme.derive, WORKED_SECRET, twisted)

    def test_lengths(self) -> None:
        """No key of another length gets through."""
        for size in (0, 31, 33):
            self.assertRaises(CryptoError, self.scheme.derive, bytes(size), bytes(32))
            self.assertRaises(CryptoError, self.scheme.derive, WORKED_SECRET, bytes(size))
            self.assertRaises(CryptoError, self.scheme.public, bytes(size))

    def test_blinding(self) -> None:
        """Blinding commutes with deriving."""
        random = SeededRandom("blind")
        private, public = self.scheme.generate(random)
        other, other_public = self.scheme.generate(random)
        factor = self.scheme.blinding_factor(random.bytes(32))
        blinded = self.scheme.blind(self.scheme.derive(private, other_public), factor)
        self.assertEqual(self.scheme.derive(other, self.scheme.blind(public, factor)), blinded)

    def test_worked_values(self) -> None:
        """The blinding factor of spec section 4."""
        okm = hashes.hkdf_expand(WORKED_SECRET, b"katzenpost-kdf-v0-hkdf-sha256", 160)
        self.assertEqual(okm[:32].hex(), "b805cdc0a27a85dc44ccd78c029629c5fa72e1758a132976450f5df23ab217ae")
        factor = self.scheme.blinding_factor(okm[128:])
        self.assertEqual(factor.hex(), "9b5d5b3e997907500d0ce9323f47b2a32a7a855d7debc94ab3e1e7605a6084d5")


class NativeX25519Tests(X25519Tests):
    """X25519 by the native core."""

    skip = None if native.native is not None else "the native core is not built"

    def setUp(self) -> None:
        assert native.native is not None
        self.scheme = nike.NativeX25519(native.native)

    def test_agrees(self) -> None:
        """Both, on random scalars and points, on the curve and off it."""
        random, reference = SeededRandom("agree"), nike.X25519()
        for _ in range(50):
            scalar, point = random.bytes(32), random.bytes(32)
            self.assertEqual(self.scheme.derive(scalar, point), reference.derive(scalar, point))
            self.assertEqual(self.scheme.public(scalar), reference.public(scalar))


class PortableX25519Tests(NativeX25519Tests):
    """The same with the code for any processor."""

    def setUp(self) -> None:
        super().setUp()
        assert native.native is not None
        native.native.force_portable(True)
        self.addCleanup(native.native.force_portable, False)


class SchemeTests(SynchronousTestCase):
    """Schemes by name."""

    def test_names(self) -> None:
        """Without regard to case; unknown ones and those without a library are refused."""
        self.assertIs(nike.by_name("X25519"), nike.x25519)
        self.assertIs(nike.by_name("x448"), nike.x448)
        for name in ("", "ctidh512", "NOBS_CSIDH-X25519"):
            self.assertRaises(CryptoError, nike.by_name, name)

    def test_x448(self) -> None:
        """Two parties agree; low order and wrong lengths are refused."""
        random = SeededRandom("x448")
        private, public = nike.x448.generate(random)
        other, other_public = nike.x448.generate(random)
        self.assertEqual(nike.x448.derive(private, other_public), nike.x448.derive(other, public))
        self.assertEqual(len(nike.x448.blinding_factor(bytes(32))), 56)
        for point in (bytes(56), b"\1" + bytes(55), bytes(55)):
            self.assertRaises(CryptoError, nike.x448.derive, private, point)


class LoaderTests(SynchronousTestCase):
    """Which code runs, and why."""

    def load(self) -> dict[str, Any]:
        """The loader's names after a fresh start of it."""
        return runpy.run_module("katzentwist.crypto.native")

    def test_description(self) -> None:
        """The loader says which code runs."""
        self.assertIn("native" if native.native is not None else "pure Python", native.description())

    def test_pure(self) -> None:
        """The environment variable forces the twin."""
        self.patch(os, "environ", {native.PURE_ENVIRONMENT_KEY: "1"})
        loaded = self.load()
        self.assertIs(loaded["native"], None)
        self.assertEqual(loaded["description"](), "pure Python, slow (KATZENTWIST_PURE is set)")

    def test_stale(self) -> None:
        """A module that was built from other sources is not used."""
        if native.native is None:
            raise SkipTest("the native core is not built")
        self.patch(native.native, "INTERFACE", native.INTERFACE + 1)
        loaded = self.load()
        self.assertIs(loaded["native"], None)
        self.assertIn("pip install", loaded["description"]())

    def test_missing(self) -> None:
        """Without the module the twin runs."""
        package = sys.modules["katzentwist"]
        with mock.patch.dict(sys.modules, {"katzentwist._native": None}):
            if native.native is None:
                loaded = self.load()
            else:
                with mock.patch.object(package, "_native"):
                    del package._native
                    loaded = self.load()
        self.assertIs(loaded["native"], None)


class HashTests(SynchronousTestCase):
    """Hashes and key derivation."""

    def test_replay_tag(self) -> None:
        """SHA-512/256 of spec section 4."""
        tag = "af13c048991224a5e4c664446b688aaf48fb5456db3629601b00ec160c74e554"
        self.assertEqual(hashes.sha512_256(bytes(32)).hex(), tag)

    def test_hkdf(self) -> None:
        """RFC 5869, test case 1."""
        okm = hashes.hkdf(bytes(range(13)), b"\x0b" * 22, bytes(range(0xF0, 0xFA)), 42)
        self.assertEqual(
            okm.hex(), "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
        )
        self.assertRaises(CryptoError, hashes.hkdf_expand, b"", b"", 8161)

    def test_blake2b(self) -> None:
        """The plain hashes are hashlib's."""
        self.assertEqual(hashes.blake2b(b"x", 20), hashlib.blake2b(b"x", digest_size=20).digest())
        self.assertEqual(hashes.blake2b_256(b"x"), hashes.blake2b(b"x", 32))
        self.assertEqual(hashes.blake2b_512(b"x"), hashes.blake2b(b"x", 64))
        self.assertEqual(hashes.hmac_sha256(b"k", b"d"), hmac.digest(b"k", b"d", "sha256"))

    def test_compression(self) -> None:
        """The own compression function against hashlib, by way of a depth that hashlib allows."""
        parameters = bytes([64, 0, 1, 1]) + bytes(60)
        words = [int.from_bytes(parameters[i : i + 8], "little") for i in range(0, 64, 8)]
        state = [iv ^ word for iv, word in zip(hashes._IV, words, strict=True)]
        out = hashes._compress_only_block(state, b"abc")
        self.assertEqual(b"".join(word.to_bytes(8, "little") for word in out), hashlib.blake2b(b"abc").digest())

    def test_blake2xb_lengths(self) -> None:
        """Known and unknown lengths, several blocks, and what is refused."""
        self.assertEqual(len(hashes.blake2xb(100, b"", b"x")), 100)
        self.assertEqual(hashes.blake2xb(None, b"k", b"x", 200)[:32], hashes.blake2xb(None, b"k", b"x", 32))
        self.assertNotEqual(hashes.blake2xb(32, b"", b"x"), hashes.blake2xb(64, b"", b"x", 32))
        for arguments in ((32, bytes(65), b""), (32, b"", b"", 33), (None, b"", b""), (0, b"", b"")):
            self.assertRaises(CryptoError, hashes.blake2xb, *arguments)
