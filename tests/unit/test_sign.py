"""Ed25519 identity keys."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.crypto import sign
from katzentwist.errors import CryptoError
from katzentwist.randomness import SeededRandom
from tests import vectorfiles
from tests.vectorfiles import unhex


class Ed25519Tests(SynchronousTestCase):
    """Keys, signatures, refusals."""

    def setUp(self) -> None:
        self.scheme = sign.by_name("ED25519")
        self.private, self.public = self.scheme.generate(SeededRandom(1))

    def test_sizes(self) -> None:
        """Sizes are the reference's; schemes that it has and we have not are refused by name."""
        for listed in vectorfiles.load("link")["sign_schemes"]:
            if listed["name"] == "Ed25519":
                self.assertEqual(
                    (self.scheme.public_key_size, self.scheme.private_key_size, self.scheme.signature_size),
                    (listed["public_key"], listed["private_key"], listed["signature"]),
                )
            else:
                error = self.assertRaises(CryptoError, sign.by_name, listed["name"])
                self.assertIn("not supported", str(error))
        self.assertRaises(CryptoError, sign.by_name, "rot13")

    def test_rfc8032(self) -> None:
        """Test 2 of RFC 8032 section 7.1."""
        seed = unhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
        private, public = self.scheme.keypair_from_seed(seed)
        self.assertEqual(public.hex(), "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
        self.assertEqual(private, seed + public)
        self.assertEqual(
            self.scheme.sign(private, b"\x72").hex(),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        )

    def test_flipped_bit(self) -> None:
        """A changed message, signature or key does not verify."""
        signature = self.scheme.sign(self.private, b"message")
        self.assertTrue(self.scheme.verify(self.public, b"message", signature))
        self.assertFalse(self.scheme.verify(self.public, b"messagf", signature))
        for at in range(64):
            changed = bytearray(signature)
            changed[at] ^= 1
            self.assertFalse(self.scheme.verify(self.public, b"message", bytes(changed)))
        for at in range(32):
            changed = bytearray(self.public)
            changed[at] ^= 4
            self.assertFalse(self.scheme.verify(bytes(changed), b"message", signature))

    def test_sizes_refused(self) -> None:
        """Wrong sizes never verify, and are errors elsewhere."""
        signature = self.scheme.sign(self.private, b"")
        self.assertFalse(self.scheme.verify(self.public + b"\0", b"", signature))
        self.assertFalse(self.scheme.verify(self.public, b"", signature[:-1]))
        self.assertRaises(CryptoError, self.scheme.sign, self.private[:-1], b"")
        self.assertRaises(CryptoError, self.scheme.keypair_from_seed, b"")
        self.assertRaises(CryptoError, self.scheme.check_private, self.private[:32] + bytes(32))
        self.assertEqual(self.scheme.check_private(self.private), self.public)
