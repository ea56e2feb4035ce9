"""Bare keystreams: ChaCha20 as a source of draws from a seed (spec: pki 9), AES-CTR for headers (spec: sphinx 4)."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import CTR


def aes_256_ctr(key: bytes, iv: bytes, length: int) -> bytes:
    """*length* bytes of AES-256-CTR; the counter block starts as *iv*, 16 bytes."""
    return Cipher(AES256(key), CTR(iv)).encryptor().update(bytes(length))


class Keystream:
    """ChaCha20. Counter and nonce start at 0.

    :param key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()

    def read(self, size: int) -> bytes:
        """The next *size* bytes."""
        return self._encryptor.update(bytes(size))
