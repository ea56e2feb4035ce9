"""Hashes and key derivation (spec: sphinx 1, 4; link 3.4).

BLAKE2Xb is BLAKE2b used as an extendable-output function. Python's hashlib makes its root node, but refuses the depth 0
of its output nodes, so those go through the small compression function here.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.hazmat.primitives import hashes

from katzentwist.errors import CryptoError

UNKNOWN_LENGTH = 0xFFFFFFFF
"""BLAKE2Xb's output length when it is not known in advance."""

_MASK = (1 << 64) - 1
_IV = (
    0x6A09E667F3BCC908,
    0xBB67AE8584CAA73B,
    0x3C6EF372FE94F82B,
    0xA54FF53A5F1D36F1,
    0x510E527FADE682D1,
    0x9B05688C2B3E6C1F,
    0x1F83D9ABFB41BD6B,
    0x5BE0CD19137E2179,
)
_SIGMA = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    (14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3),
    (11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4),
    (7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8),
    (9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13),
    (2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9),
    (12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11),
    (13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10),
    (6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5),
    (10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0),
)
_COLUMNS_AND_DIAGONALS = (
    (0, 4, 8, 12),
    (1, 5, 9, 13),
    (2, 6, 10, 14),
    (3, 7, 11, 15),
    (0, 5, 10, 15),
    (1, 6, 11, 12),
    (2, 7, 8, 13),
    (3, 4, 9, 14),
)


def blake2b(data: bytes, size: int) -> bytes:
    """Unkeyed BLAKE2b of *data*, *size* (1 to 64) bytes."""
    return hashlib.blake2b(data, digest_size=size).digest()


def blake2b_256(data: bytes) -> bytes:
    """Unkeyed BLAKE2b-256: node ids, geometry hashes."""
    return hashlib.blake2b(data, digest_size=32).digest()


def blake2b_512(data: bytes) -> bytes:
    """Unkeyed BLAKE2b-512."""
    return hashlib.blake2b(data).digest()


def sha512_256(data: bytes) -> bytes:
    """SHA-512/256: replay tags. (Not SHA-512 cut short: it has its own initial state.)"""
    digest = hashes.Hash(hashes.SHA512_256())
    digest.update(data)
    return digest.finalize()


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA-256, 32 bytes."""
    return hmac.digest(key, data, "sha256")


def hkdf_expand(prk: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand with SHA-256, without the extract step; any *prk* length, *length* at most 8160.

    :raises CryptoError: *length* is out of range.
    """
    if not 0 <= length <= 255 * 32:
        raise CryptoError(f"HKDF can not give {length} bytes")
    out, block = b"", b""
    while len(out) < length:
        block = hmac_sha256(prk, block + info + bytes([len(out) // 32 + 1]))
        out += block
    return out[:length]


def hkdf(salt: bytes, secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF (RFC 5869) with SHA-256: extract, then expand."""
    return hkdf_expand(hmac_sha256(salt or bytes(32), secret), info, length)


def blake2xb(length: int | None, key: bytes, data: bytes, out: int | None = None) -> bytes:
    """The first *out* bytes of BLAKE2Xb (spec: link 3.4).

    :param length: the total output length that goes into the parameter block, None when it is not known in advance.
    :param key: at most 64 bytes.
    :param out: how many bytes to return; defaults to *length*.
    :raises CryptoError: the key is too long, or more bytes are wanted than *length* allows.
    """
    total = UNKNOWN_LENGTH if length is None else length
    wanted = total if out is None else out
    if len(key) > 64:
        raise CryptoError(f"a BLAKE2Xb key has at most 64 bytes, not {len(key)}")
    if not 0 < total <= UNKNOWN_LENGTH or not 0 <= wanted <= total or (length is None and out is None):
        raise CryptoError(f"BLAKE2Xb can not give {wanted} of {total} bytes")
    root = hashlib.blake2b(data, digest_size=64, key=key, node_offset=total << 32).digest()
    blocks = []
    for i in range((wanted + 63) // 64):
        size = 64 if length is None else min(64, total - 64 * i)
        blocks.append(_output_node(root, i, total, size))
    return b"".join(blocks)[:wanted]


def _output_node(root: bytes, index: int, total: int, size: int) -> bytes:
    """BLAKE2b of the 64-byte *root* under the parameter block of output node *index*."""
    parameters = struct.pack("<BBBBIIIBB14x16x16x", size, 0, 0, 0, 64, index, total, 0, 64)
    state = [iv ^ word for iv, word in zip(_IV, struct.unpack("<8Q", parameters), strict=True)]
    return struct.pack("<8Q", *_compress_only_block(state, root))[:size]


def _compress_only_block(h: list[int], data: bytes) -> list[int]:
    """BLAKE2b's compression function F on a first and last block of at most 128 bytes."""
    message = struct.unpack("<16Q", data.ljust(128, b"\0"))
    v = [*h, *_IV]
    v[12] ^= len(data)
    v[14] ^= _MASK
    for r in range(12):
        order = _SIGMA[r % 10]
        for i, (a, b, c, d) in enumerate(_COLUMNS_AND_DIAGONALS):
            v[a] = (v[a] + v[b] + message[order[2 * i]]) & _MASK
            v[d] = _rotate(v[d] ^ v[a], 32)
            v[c] = (v[c] + v[d]) & _MASK
            v[b] = _rotate(v[b] ^ v[c], 24)
            v[a] = (v[a] + v[b] + message[order[2 * i + 1]]) & _MASK
            v[d] = _rotate(v[d] ^ v[a], 16)
            v[c] = (v[c] + v[d]) & _MASK
            v[b] = _rotate(v[b] ^ v[c], 63)
    return [h[i] ^ v[i] ^ v[i + 8] for i in range(8)]


def _rotate(word: int, bits: int) -> int:
    return (word >> bits | word << (64 - bits)) & _MASK
