"""ChaCha20-Poly1305 as Noise uses it (spec: link 5.1): nonce = 4 zero bytes || counter as 64-bit little endian."""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.poly1305 import Poly1305

from katzentwist.errors import CryptoError

KEY_SIZE = 32
TAG_SIZE = 16
_BLOCK = 64
MAX_NONCE = 2**64 - 1
"""Reserved for :func:`rekey`."""


def seal(key: bytes, counter: int, plaintext: bytes, associated: bytes = b"") -> bytes:
    """Ciphertext and tag.

    :raises CryptoError: the counter is used up.
    """
    return ChaCha20Poly1305(key).encrypt(_nonce(counter), plaintext, associated)


def unseal(key: bytes, counter: int, sealed: bytes, associated: bytes = b"") -> bytes:
    """The plaintext.

    :raises CryptoError: the tag is wrong, or the counter is used up.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(_nonce(counter), sealed, associated)
    except InvalidTag:
        raise CryptoError("authentication tag does not fit") from None


class SealingStream:
    """Seals one message piece by piece; the same bytes as :func:`seal` gives."""

    def __init__(self, key: bytes, counter: int) -> None:
        # Block 0 of the keystream is the key of Poly1305, of which 32 bytes are used; the message begins at block 1.
        self._encryptor = Cipher(ChaCha20(key, bytes(4) + _nonce(counter)), None).encryptor()
        self._mac = Poly1305(self._encryptor.update(bytes(_BLOCK))[:KEY_SIZE])
        self._size = 0

    def update(self, piece: bytes) -> bytes:
        """The ciphertext of the next piece."""
        sealed = self._encryptor.update(piece)
        self._mac.update(sealed)
        self._size += len(piece)
        return sealed

    def tag(self) -> bytes:
        """The tag, after the last piece."""
        self._mac.update(bytes(-self._size % 16) + bytes(8) + self._size.to_bytes(8, "little"))
        return self._mac.finalize()


def rekey(key: bytes) -> bytes:
    """The next key: 32 bytes of the encryption of zeros under the reserved nonce (spec: link 6)."""
    return ChaCha20Poly1305(key).encrypt(b"\0\0\0\0" + b"\xff" * 8, bytes(KEY_SIZE), b"")[:KEY_SIZE]


def hmac_blake2b(key: bytes, data: bytes) -> bytes:
    """HMAC-BLAKE2b-512 by the generic construction, not keyed BLAKE2: 64 bytes."""
    return hmac.digest(key, data, hashlib.blake2b)


def _nonce(counter: int) -> bytes:
    if not 0 <= counter < MAX_NONCE:
        raise CryptoError("the nonce counter is used up")
    return b"\0\0\0\0" + counter.to_bytes(8, "little")
