"""AEZ v5, the wide-block cipher under Sphinx (spec: aez).

The pure-Python form here works on many blocks at once: E over a run of blocks is a handful of ``bytes.translate`` and
big-integer XORs, so a packet takes well under a millisecond. The native core takes over where it is there.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from katzentwist.crypto.native import native
from katzentwist.errors import CryptoError

KEY_SIZE = 48
NONCE_SIZE = 16


def _tables() -> tuple[bytes, bytes, bytes]:
    """The AES S-box, and the same times 2 and times 3 in AES's field, as translation tables."""
    power, log = [1] * 256, [0] * 256
    for i in range(1, 256):
        double = power[i - 1] << 1
        power[i] = power[i - 1] ^ double ^ (0x11B if double & 0x100 else 0)
        log[power[i]] = i
    s_box = bytearray(256)
    for x in range(256):
        inverse = power[255 - log[x]] if x else 0
        s_box[x] = 0x63
        for shift in range(5):
            s_box[x] ^= (inverse << shift | inverse >> (8 - shift)) & 0xFF
    twice = bytes((s << 1) ^ (0x11B if s & 0x80 else 0) for s in s_box)
    return bytes(s_box), twice, bytes(a ^ b for a, b in zip(s_box, twice, strict=True))


_S, _S2, _S3 = _tables()
# Byte planes: plane p holds byte p of every block. Entry k lists, for each output plane, the input plane that
# MixColumns takes k rows further down its column, ShiftRows included.
_PLANES = [[4 * ((c + (r + k) % 4) % 4) + (r + k) % 4 for c in range(4) for r in range(4)] for k in range(4)]


def _double(block: int) -> int:
    block <<= 1
    return (block ^ 0x87) & ((1 << 128) - 1) if block >> 128 else block


def _times(n: int, block: int) -> int:
    """``n·B`` of the specification."""
    if n < 2:
        return block if n else 0
    return _double(_times(n // 2, block)) ^ (block if n & 1 else 0)


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _block(number: int) -> bytes:
    return number.to_bytes(16, "big")


def _pad(data: bytes) -> bytes:
    return (data + b"\x80").ljust(16, b"\0")


def _xor(a: bytes, b: bytes) -> bytes:
    return (_number(a) ^ _number(b)).to_bytes(len(a), "big")


def _fold(blocks: bytes) -> int:
    """XOR of all blocks."""
    total = 0
    for at in range(0, len(blocks), 16):
        total ^= _number(blocks[at : at + 16])
    return total


def _rounds(blocks: bytes, keys: Sequence[bytes]) -> bytes:
    """AES rounds with these 16-byte round keys over each block of *blocks*."""
    n = len(blocks) // 16
    state = b"".join([blocks[p::16] for p in range(16)])
    for key in keys:
        planes = [state[p * n : p * n + n] for p in range(16)]
        mixed = _number(b"".join([bytes([byte]) * n for byte in key]))
        for order, table in zip(_PLANES, (_S2, _S3, _S, _S), strict=True):
            mixed ^= _number(b"".join([planes[p] for p in order]).translate(table))
        state = mixed.to_bytes(16 * n, "big")
    out = bytearray(16 * n)
    for p in range(16):
        out[p::16] = state[p * n : p * n + n]
    return bytes(out)


def extract_key(key: bytes) -> bytes:
    """48 bytes are used as they are; any other key is hashed (spec: aez 3)."""
    return key if len(key) == KEY_SIZE else hashlib.blake2b(key, digest_size=KEY_SIZE).digest()


class Aez:
    """AEZ under one key: the readable reference."""

    def __init__(self, key: bytes) -> None:
        extracted = extract_key(key)
        i, j, l = extracted[:16], extracted[16:32], extracted[32:]  # noqa: E741 - the names of the specification
        self._i, self._j = _number(i), _number(j)
        self._l = [_times(n, _number(l)) for n in range(8)]
        self._aes4 = (j, i, l, bytes(16))
        self._aes10 = (i, j, l, i, j, l, i, j, l, i)

    def _offsets(self, j: int, first: int, count: int) -> bytes:
        """The offsets ``j·J ^ 2^ceil(i/8)·I ^ (i mod 8)·L`` of *count* indices from *first* on."""
        base = _times(j, self._j)
        doubled = _times(1 << -(-first // 8), self._i)
        out = []
        for i in range(first, first + count):
            if i > first and i % 8 == 1:
                doubled = _double(doubled)
            out.append(_block(base ^ doubled ^ self._l[i % 8]))
        return b"".join(out)

    def _e_run(self, j: int, first: int, blocks: bytes) -> bytes:
        """E(j, first, block 1) || E(j, first + 1, block 2) || ..."""
        return _rounds(_xor(blocks, self._offsets(j, first, len(blocks) // 16)), self._aes4)

    def _e_same(self, j: int, i: int, blocks: bytes) -> bytes:
        """E(j, i, ·) of every block."""
        return _rounds(_xor(blocks, self._offsets(j, i, 1) * (len(blocks) // 16)), self._aes4)

    def e(self, j: int, i: int, x: int) -> int:
        """The tweaked block function E(j, i, x) of section 4, blocks as integers."""
        if j == -1:
            return _number(_rounds(_block(x ^ self._l[i]), self._aes10))
        return _number(self._e_run(j, i, _block(x)))

    def hash(self, tau: int, nonce: bytes, ad: Sequence[bytes]) -> int:
        """AEZ-hash: one block (spec: aez 5)."""
        delta = 0
        for j, text in enumerate([_block(8 * tau), nonce, *ad], start=3):
            whole = len(text) // 16 * 16
            if whole:
                delta ^= _fold(self._e_run(j, 1, text[:whole]))
            if not text or whole < len(text):
                delta ^= self.e(j, 0, _number(_pad(text[whole:])))
        return delta

    def _prf(self, delta: int, length: int) -> bytes:
        blocks = [_block(self.e(-1, 3, delta ^ k)) for k in range((length + 15) // 16)]
        return b"".join(blocks)[:length]

    def encrypt(self, nonce: bytes, ad: Sequence[bytes], tau: int, message: bytes) -> bytes:
        """Encrypt (spec: aez 7): *tau* bytes longer than *message*."""
        delta = self.hash(tau, nonce, ad)
        if not message:
            return self._prf(delta, tau)
        return self._encipher(delta, message + bytes(tau), 0)

    def decrypt(self, nonce: bytes, ad: Sequence[bytes], tau: int, ciphertext: bytes) -> bytes:
        """Decrypt.

        :raises CryptoError: the ciphertext is too short or not authentic; never with *tau* 0.
        """
        if len(ciphertext) < tau:
            raise CryptoError("AEZ ciphertext is too short")
        delta = self.hash(tau, nonce, ad)
        if len(ciphertext) == tau:
            if not hmac.compare_digest(self._prf(delta, tau), ciphertext):
                raise CryptoError("AEZ ciphertext is not authentic")
            return b""
        plain = self._encipher(delta, ciphertext, 1)
        if not hmac.compare_digest(plain[len(plain) - tau :], bytes(tau)):
            raise CryptoError("AEZ ciphertext is not authentic")
        return plain[: len(plain) - tau]

    def _encipher(self, delta: int, data: bytes, d: int) -> bytes:
        return self._tiny(delta, data, d) if len(data) < 32 else self._core(delta, data, d)

    def _core(self, delta: int, data: bytes, d: int) -> bytes:
        """AEZ-core, 32 bytes or more; d = 0 enciphers, d = 1 deciphers (spec: aez 8, with its names)."""
        f = len(data) % 32
        m = (len(data) - f - 32) // 32
        a = b"".join([data[at : at + 16] for at in range(0, 32 * m, 32)])
        b = b"".join([data[at + 16 : at + 32] for at in range(0, 32 * m, 32)])
        fragment = data[32 * m : 32 * m + f]
        p, q = _number(data[-32:-16]), _number(data[-16:])

        w = _xor(a, self._e_run(1, 1, b))
        x = _xor(b, self._e_same(0, 0, w))
        total = _fold(x) ^ self._fragment_sum(fragment)

        s1 = p ^ delta ^ total ^ self.e(0, 1 + d, q)
        s2 = q ^ self.e(-1, 1 + d, s1)
        s = s1 ^ s2

        t = self._e_run(2, 1, _block(s) * m)
        y, z = _xor(w, t), _xor(x, t)
        out_d = _xor(y, self._e_same(0, 0, z))
        out_c = _xor(z, self._e_run(1, 1, out_d))
        mask = (_block(self.e(-1, 4, s)) + _block(self.e(-1, 5, s)))[:f]
        fragment = _xor(fragment, mask)
        total = _fold(y) ^ self._fragment_sum(fragment)

        out_q = s1 ^ self.e(-1, 2 - d, s2)
        out_p = s2 ^ self.e(0, 2 - d, out_q) ^ delta ^ total
        pairs = b"".join([part[at : at + 16] for at in range(0, 16 * m, 16) for part in (out_c, out_d)])
        return pairs + fragment + _block(out_p) + _block(out_q)

    def _fragment_sum(self, fragment: bytes) -> int:
        """What the 0 to 31 bytes before the last pair add to x or y."""
        if len(fragment) >= 16:
            return self.e(0, 4, _number(fragment[:16])) ^ self.e(0, 5, _number(_pad(fragment[16:])))
        return self.e(0, 4, _number(_pad(fragment))) if fragment else 0

    def _tiny(self, delta: int, data: bytes, d: int) -> bytes:
        """AEZ-tiny, 1 to 31 bytes (spec: aez 9)."""
        n = len(data)
        rounds = {1: 24, 2: 16}.get(n, 10 if n < 16 else 8)
        tweak = 7 if n < 16 else 6
        half = 4 * n
        mask = (1 << half) - 1
        if d == 1 and n < 16:
            data = self._flip(delta, data)
        left, right = _number(data) >> half, _number(data) & mask
        for k in reversed(range(rounds)) if d else range(rounds):
            block = right << (128 - half) | 1 << (127 - half)
            left, right = right, left ^ self.e(0, tweak, block ^ delta ^ k) >> (128 - half)
        out = (right << half | left).to_bytes(n, "big")
        return self._flip(delta, out) if d == 0 and n < 16 else out

    def _flip(self, delta: int, data: bytes) -> bytes:
        z = _number(data.ljust(16, b"\0")) | 1 << 127
        return bytes([data[0] ^ (self.e(0, 3, delta ^ z) >> 120 & 0x80)]) + data[1:]


def encrypt(key: bytes, nonce: bytes, ad: Sequence[bytes], tau: int, message: bytes) -> bytes:
    """AEZ Encrypt with any key, nonce and associated data; *tau* in bytes."""
    if native is None:
        return Aez(key).encrypt(nonce, ad, tau, message)
    return bytes(native.aez_encrypt(extract_key(key), nonce, list(ad), tau, message))


def decrypt(key: bytes, nonce: bytes, ad: Sequence[bytes], tau: int, ciphertext: bytes) -> bytes:
    """AEZ Decrypt.

    :raises CryptoError: not authentic.
    """
    if native is None:
        return Aez(key).decrypt(nonce, ad, tau, ciphertext)
    plain: bytes | None = native.aez_decrypt(extract_key(key), nonce, list(ad), tau, ciphertext)
    if plain is None:
        raise CryptoError("AEZ ciphertext is not authentic")
    return plain


def sprp_encrypt(key: bytes, iv: bytes, message: bytes) -> bytes:
    """The Sphinx use: 48-byte key, 16-byte IV, no associated data, no expansion (spec: aez 1).

    :raises CryptoError: wrong length of key or IV.
    """
    _check(key, iv)
    return encrypt(key, iv, (), 0, message)


def sprp_decrypt(key: bytes, iv: bytes, message: bytes) -> bytes:
    """The inverse of :func:`sprp_encrypt`; it can not fail on the message."""
    _check(key, iv)
    return decrypt(key, iv, (), 0, message)


def _check(key: bytes, iv: bytes) -> None:
    if len(key) != KEY_SIZE or len(iv) != NONCE_SIZE:
        raise CryptoError(f"the SPRP takes a key of 48 and an IV of 16 bytes, not {len(key)} and {len(iv)}")
