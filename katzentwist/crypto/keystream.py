"""The bare ChaCha20 keystream: a deterministic source of draws from a public seed (spec: pki 9). Encrypts nothing."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20


class Keystream:
    """Counter and nonce start at 0.

    :param key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()

    def read(self, size: int) -> bytes:
        """The next *size* bytes."""
        return self._encryptor.update(bytes(size))
