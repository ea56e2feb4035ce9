"""Non-interactive key exchange: x25519 and x448 (spec: sphinx 5, 13).

A scheme is an object with the name and sizes of section 13 and the operations that Sphinx needs. All keys are raw
little-endian bytes; private keys are stored unclamped and clamped inside the multiplication.
"""

from __future__ import annotations

from types import ModuleType

from cryptography.hazmat.primitives.asymmetric.x448 import X448PrivateKey, X448PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from katzentwist.crypto.native import native
from katzentwist.errors import CryptoError
from katzentwist.randomness import IRandom


class Nike:
    """One scheme. Subclasses give the multiplication; everything else is the same for every scheme.

    :cvar name: canonical spelling, as it goes into a geometry.
    """

    name: str
    public_key_size: int
    private_key_size: int

    def generate(self, random: IRandom) -> tuple[bytes, bytes]:
        """A fresh (private, public) pair."""
        private = random.bytes(self.private_key_size)
        return private, self.public(private)

    def public(self, private: bytes) -> bytes:
        """The public key of a private key.

        :raises CryptoError: wrong length.
        """
        self._check("private", private, self.private_key_size)
        return self._multiply_base(private)

    def derive(self, private: bytes, public: bytes) -> bytes:
        """The shared secret.

        :raises CryptoError: wrong length, or a public key of low order.
        """
        self._check("private", private, self.private_key_size)
        self._check("public", public, self.public_key_size)
        try:
            return self._multiply(private, public)
        except ValueError:
            raise CryptoError(f"low order {self.name} public key") from None

    def blind(self, public: bytes, factor: bytes) -> bytes:
        """The public key multiplied by a blinding factor; raises as :meth:`derive`."""
        return self.derive(factor, public)

    def blinding_factor(self, seed: bytes) -> bytes:
        """The private key that the scheme generates from the ChaCha20 keystream under the 32-byte *seed* (spec: 4)."""
        self._check("seed", seed, 32)
        return Cipher(ChaCha20(seed, bytes(16)), None).encryptor().update(bytes(self.private_key_size))

    def _check(self, what: str, value: bytes, size: int) -> None:
        if len(value) != size:
            raise CryptoError(f"{self.name} {what} key has {len(value)} bytes instead of {size}")

    def _multiply_base(self, scalar: bytes) -> bytes:
        raise NotImplementedError

    def _multiply(self, scalar: bytes, point: bytes) -> bytes:
        """Both lengths are checked already. :raises ValueError: the result is zero."""
        raise NotImplementedError


class X25519(Nike):
    """RFC 7748 X25519 by the cryptography package: the readable reference."""

    name = "x25519"
    public_key_size = 32
    private_key_size = 32

    def _multiply_base(self, scalar: bytes) -> bytes:
        return X25519PrivateKey.from_private_bytes(scalar).public_key().public_bytes_raw()

    def _multiply(self, scalar: bytes, point: bytes) -> bytes:
        return X25519PrivateKey.from_private_bytes(scalar).exchange(X25519PublicKey.from_public_bytes(point))


class NativeX25519(X25519):
    """The same by the native core."""

    def __init__(self, core: ModuleType) -> None:
        self._core = core

    def _multiply_base(self, scalar: bytes) -> bytes:
        return bytes(self._core.x25519_base(scalar))

    def _multiply(self, scalar: bytes, point: bytes) -> bytes:
        return bytes(self._core.x25519(scalar, point))


class X448(Nike):
    """RFC 7748 X448 by the cryptography package."""

    name = "x448"
    public_key_size = 56
    private_key_size = 56

    def _multiply_base(self, scalar: bytes) -> bytes:
        return X448PrivateKey.from_private_bytes(scalar).public_key().public_bytes_raw()

    def _multiply(self, scalar: bytes, point: bytes) -> bytes:
        return X448PrivateKey.from_private_bytes(scalar).exchange(X448PublicKey.from_public_bytes(point))


x25519: Nike = X25519() if native is None else NativeX25519(native)
x448: Nike = X448()

_SCHEMES = {scheme.name.lower(): scheme for scheme in (x25519, x448)}


def by_name(name: str) -> Nike:
    """The scheme of this name, without regard to case.

    :raises CryptoError: unknown, or one whose C library is not built in (the CTIDH and CSIDH schemes).
    """
    try:
        return _SCHEMES[name.lower()]
    except KeyError:
        raise CryptoError(f"unknown NIKE scheme {name}") from None
