"""KEMs against the vectors, and against bad input."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.crypto import kem, mlkem
from katzentwist.errors import CryptoError
from katzentwist.randomness import SeededRandom
from tests import vectorfiles
from tests.vectorfiles import unhex


class FixedRandom(SeededRandom):
    """Gives out prepared bytes, and fails when more are asked for."""

    def __init__(self, prepared: bytes) -> None:
        super().__init__("fixed")
        self.left = prepared

    def bytes(self, n: int) -> bytes:
        if n > len(self.left):
            raise AssertionError(f"asked for {n} bytes, {len(self.left)} are left")
        out, self.left = self.left[:n], self.left[n:]
        return out


class VectorTests(SynchronousTestCase):
    """The answers of the reference implementation."""

    def cases(self):
        """(kem, case) for every positive case."""
        for name, cases in vectorfiles.load("link")["kem"].items():
            self.assertTrue(cases)
            for case in cases:
                yield kem.by_name(name), case

    def test_sizes(self) -> None:
        """Names and sizes are those of the reference's registry."""
        listed = {s["name"]: s for s in vectorfiles.load("link")["kem_schemes"]}
        for name in kem.names():
            scheme, want = kem.by_name(name), listed[name]
            self.assertEqual(scheme.public_key_size, want["public_key"])
            self.assertEqual(scheme.private_key_size, want["private_key"])
            self.assertEqual(scheme.ciphertext_size, want["ciphertext"])
            self.assertEqual(scheme.shared_secret_size, want["shared_key"])
            self.assertEqual(scheme.seed_size, want["seed"])

    def test_keys(self) -> None:
        """A seed gives the reference's key pair, and the private key its public one."""
        for scheme, case in self.cases():
            private, public = scheme.keypair_from_seed(unhex(case["seed"]))
            self.assertEqual(private.hex(), case["private_key"])
            self.assertEqual(public.hex(), case["public_key"])
            self.assertEqual(scheme.check_private(private), public)

    def test_decapsulate(self) -> None:
        """The reference's ciphertext opens to its secret."""
        for scheme, case in self.cases():
            secret = scheme.decapsulate(unhex(case["private_key"]), unhex(case["ciphertext"]))
            self.assertEqual(secret.hex(), case["shared_secret"])

    def test_encapsulate(self) -> None:
        """With the reference's randomness, the reference's ciphertext and secret."""
        counted = 0
        for scheme, case in self.cases():
            if "encaps_randomness" in case:
                random = FixedRandom(unhex(case["encaps_randomness"]))
                ciphertext, secret = scheme.encapsulate(unhex(case["public_key"]), random)
                self.assertEqual(ciphertext.hex(), case["ciphertext"])
                self.assertEqual(secret.hex(), case["shared_secret"])
                counted += 1
        self.assertTrue(counted >= 10)

    def test_tampered(self) -> None:
        """A changed ciphertext gives the secret that the reference gets from it."""
        for scheme, case in self.cases():
            changed = bytearray(unhex(case["ciphertext"]))
            changed[case["tampered_ciphertext_byte"]] ^= case["tampered_xor"]
            secret = scheme.decapsulate(unhex(case["private_key"]), bytes(changed))
            self.assertEqual(secret.hex(), case["tampered_shared_secret"])

    def test_reject(self) -> None:
        """Every input that must be refused is refused."""
        for case in vectorfiles.load("link")["kem_reject"]:
            scheme, value = kem.by_name(case["kem"]), unhex(case["input"])
            with self.assertRaises(CryptoError, msg=case["note"]):
                if case["operation"] == "encaps":
                    scheme.encapsulate(value, SeededRandom(1))
                elif case["operation"] == "decaps":
                    scheme.decapsulate(unhex(case["private_key"]), value)
                else:
                    scheme.check_private(value)


class EverySchemeTests(SynchronousTestCase):
    """What holds for each scheme."""

    def test_round_trip(self) -> None:
        """Both sides get the same secret."""
        for name in kem.names():
            scheme = kem.by_name(name)
            random = SeededRandom(name)
            private, public = scheme.generate(random)
            ciphertext, secret = scheme.encapsulate(public, random)
            self.assertEqual(len(ciphertext), scheme.ciphertext_size)
            self.assertEqual(len(secret), scheme.shared_secret_size)
            self.assertEqual(scheme.decapsulate(private, ciphertext), secret)
            self.assertEqual(scheme.check_private(private), public)

    def test_lengths(self) -> None:
        """A byte more or less is refused everywhere, and so is nothing at all."""
        for name in kem.names():
            scheme = kem.by_name(name)
            random = SeededRandom(name)
            private, public = scheme.generate(random)
            ciphertext, _ = scheme.encapsulate(public, random)
            for change in (lambda b: b[:-1], lambda b: b + b"\0", lambda b: b""):
                self.assertRaises(CryptoError, scheme.encapsulate, change(public), random)
                self.assertRaises(CryptoError, scheme.decapsulate, private, change(ciphertext))
                self.assertRaises(CryptoError, scheme.decapsulate, change(private), ciphertext)
                self.assertRaises(CryptoError, scheme.check_private, change(private))
                self.assertRaises(CryptoError, scheme.keypair_from_seed, change(bytes(scheme.seed_size)))

    def test_zero_public_key(self) -> None:
        """An all-zero key is refused wherever a curve is part of the scheme."""
        for name in kem.names():
            scheme = kem.by_name(name)
            if name != "MLKEM768":
                self.assertRaises(CryptoError, scheme.encapsulate, bytes(scheme.public_key_size), SeededRandom(1))

    def test_names(self) -> None:
        """Case does not matter in a look-up; an unknown name is a clear error."""
        self.assertEqual(kem.by_name("xWiNg").name, "XWING")
        self.assertEqual(kem.by_name("X25519").name, "x25519")
        self.assertIn("sntrup", str(self.assertRaises(CryptoError, kem.by_name, "sntrup4591761")))

    def test_random_bytes(self) -> None:
        """Random input of the right size gives a value or our error."""

        @settings(max_examples=20, deadline=None)
        @given(st.sampled_from(kem.names()), st.integers())
        def check(name: str, seed: int) -> None:
            scheme, random = kem.by_name(name), SeededRandom(seed)
            for attempt in (
                lambda: scheme.encapsulate(random.bytes(scheme.public_key_size), random),
                lambda: scheme.decapsulate(random.bytes(scheme.private_key_size), random.bytes(scheme.ciphertext_size)),
                lambda: scheme.check_private(random.bytes(scheme.private_key_size)),
            ):
                with contextlib.suppress(CryptoError):
                    attempt()

        check()


class MlKemTests(SynchronousTestCase):
    """The readable twin of ML-KEM encapsulation."""

    def test_agrees_with_openssl(self) -> None:
        """What it makes, OpenSSL opens to the same secret."""
        random = SeededRandom(5)
        for _ in range(3):
            seed = random.bytes(64)
            public = mlkem.public_from_seed(seed)
            message = random.bytes(32)
            ciphertext, secret = mlkem.encapsulate_reference(public, message)
            self.assertEqual(mlkem.decapsulate(seed, ciphertext), secret)
            self.assertEqual(mlkem.encapsulate(public, message), (ciphertext, secret))

    def test_modulus_check(self) -> None:
        """Both ways to encapsulate refuse a coefficient beyond the modulus."""
        public = b"\xff\xff" + mlkem.public_from_seed(bytes(64))[2:]
        self.assertRaises(CryptoError, mlkem.encapsulate, public, bytes(32))
        self.assertRaises(CryptoError, mlkem.encapsulate_reference, public, bytes(32))
        self.assertRaises(CryptoError, mlkem.encapsulate_random, public)
