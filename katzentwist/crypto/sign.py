"""Signature schemes of identity keys (spec: link 4.1). Ed25519 is the one that is implemented.

Keys and signatures are bytes: private 64 (seed || public), public 32, signature 64, seed 32.
"""

from __future__ import annotations

import hmac

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from katzentwist.errors import CryptoError
from katzentwist.randomness import IRandom

UNSUPPORTED = (
    "Ed448",
    "Ed25519-Dilithium2",
    "Ed448-Dilithium3",
    "Sphincs+",
    "Ed25519 Sphincs+",
    "Ed448-Sphincs+",
)
"""Names that the reference knows and that are refused here by name."""


class Ed25519:
    """RFC 8032 Ed25519. Stateless."""

    name = "Ed25519"
    public_key_size = 32
    private_key_size = 64
    signature_size = 64
    seed_size = 32

    def keypair_from_seed(self, seed: bytes) -> tuple[bytes, bytes]:
        """(private, public) of a 32-byte seed."""
        _exact(seed, self.seed_size, "seed")
        public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        return seed + public, public

    def generate(self, random: IRandom) -> tuple[bytes, bytes]:
        """A new (private, public)."""
        return self.keypair_from_seed(random.bytes(self.seed_size))

    def check_private(self, private: bytes) -> bytes:
        """The public key of a serialised private key.

        :raises CryptoError: wrong length, or a public part that does not belong to the seed.
        """
        _exact(private, self.private_key_size, "private key")
        _, public = self.keypair_from_seed(private[:32])
        if not hmac.compare_digest(public, private[32:]):
            raise CryptoError("Ed25519 private key: its public part does not belong to its seed")
        return public

    def sign(self, private: bytes, message: bytes) -> bytes:
        """The 64-byte signature of *message*."""
        _exact(private, self.private_key_size, "private key")
        return Ed25519PrivateKey.from_private_bytes(private[:32]).sign(message)

    def verify(self, public: bytes, message: bytes, signature: bytes) -> bool:
        """Whether *signature* is good; False as well for keys and signatures of a wrong size."""
        if len(public) != self.public_key_size or len(signature) != self.signature_size:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def __repr__(self) -> str:
        return f"<signature scheme {self.name}>"


_ED25519 = Ed25519()


def by_name(name: str) -> Ed25519:
    """The scheme of this name, in any case.

    :raises CryptoError: the name is unknown, or known and not supported.
    """
    if name.lower() == "ed25519":
        return _ED25519
    if name.lower() in {n.lower() for n in UNSUPPORTED}:
        raise CryptoError(f"signature scheme {name!r} is not supported; use Ed25519")
    raise CryptoError(f"unknown signature scheme {name!r}; use Ed25519")


def _exact(value: bytes, size: int, what: str) -> None:
    if len(value) != size:
        raise CryptoError(f"Ed25519 {what} has {len(value)} bytes, not {size}")
