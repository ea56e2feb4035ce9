"""ML-KEM-768 (FIPS 203) with 64-byte seeds (d || z) and, where a caller needs it, chosen encapsulation randomness.

The native core does it when it is there: several times as fast as OpenSSL, and without the interpreter lock, which a
hundred handshakes would take from the packets. Without it key generation and decapsulation are OpenSSL's, by way of
``cryptography``. Encapsulation takes its 32 bytes m from the caller, which OpenSSL's interface does not allow:
:func:`encapsulate_reference` is the readable twin (some milliseconds).
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from katzentwist.crypto.native import native
from katzentwist.errors import CryptoError
from katzentwist.randomness import IRandom, SystemRandom

PUBLIC_KEY_SIZE = 1184
CIPHERTEXT_SIZE = 1088
SEED_SIZE = 64
MESSAGE_SIZE = 32

_Q = 3329
_K = 3


def public_from_seed(seed: bytes) -> bytes:
    """The 1184-byte encapsulation key of a 64-byte seed."""
    _exact(seed, SEED_SIZE, "seed")
    if native is not None:
        public: bytes = native.mlkem768_keypair(seed)[1]
        return public
    return MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()


def decapsulate(seed: bytes, ciphertext: bytes) -> bytes:
    """The shared secret (32); a bad ciphertext of the right length gives a pseudo-random one, by design."""
    _exact(seed, SEED_SIZE, "seed")
    _exact(ciphertext, CIPHERTEXT_SIZE, "ciphertext")
    if native is not None:
        secret: bytes = native.mlkem768_decapsulate(seed, ciphertext)
        return secret
    return MLKEM768PrivateKey.from_seed_bytes(seed).decapsulate(ciphertext)


def encapsulate_from(public: bytes, random: IRandom) -> tuple[bytes, bytes]:
    """(ciphertext, shared secret) with 32 bytes of *random*, in the fastest way there is.

    Without the native core, OpenSSL draws them itself when *random* is the system's generator: the same source.
    """
    if native is None and isinstance(random, SystemRandom):
        return encapsulate_random(public)
    return encapsulate(public, random.bytes(MESSAGE_SIZE))


def encapsulate_random(public: bytes) -> tuple[bytes, bytes]:
    """(ciphertext, shared secret) with OpenSSL's own secure randomness.

    :raises CryptoError: wrong length, or a coefficient that is not below the modulus.
    """
    _exact(public, PUBLIC_KEY_SIZE, "public key")
    try:
        secret, ciphertext = MLKEM768PublicKey.from_public_bytes(public).encapsulate()
    except ValueError as error:
        raise CryptoError("ML-KEM public key fails the modulus check") from error
    return ciphertext, secret


def encapsulate(public: bytes, message: bytes) -> tuple[bytes, bytes]:
    """(ciphertext, shared secret) for the chosen 32 bytes m.

    :raises CryptoError: wrong length, or a coefficient that is not below the modulus.
    """
    _exact(public, PUBLIC_KEY_SIZE, "public key")
    _exact(message, MESSAGE_SIZE, "message")
    if native is None:
        return encapsulate_reference(public, message)
    try:
        ciphertext, secret = native.mlkem768_encapsulate(public, message)
    except ValueError as error:
        raise CryptoError("ML-KEM public key refused") from error
    return ciphertext, secret


def encapsulate_reference(public: bytes, message: bytes) -> tuple[bytes, bytes]:
    """The same in plain Python (FIPS 203, algorithms 14 and 17). Not constant time: for tests and as a last resort."""
    shared, coins = _halves(hashlib.sha3_512(message + hashlib.sha3_256(public).digest()).digest())
    t = [_decode12(public[384 * i : 384 * (i + 1)]) for i in range(_K)]
    rho = public[-32:]
    y = [_ntt(_noise(coins, i)) for i in range(_K)]
    u = []
    for i in range(_K):
        total = [0] * 256
        for j in range(_K):
            total = _add(total, _multiply(_uniform(rho, i, j), y[j]))
        u.append(_add(_inverse_ntt(total), _noise(coins, _K + i)))
    total = [0] * 256
    for i in range(_K):
        total = _add(total, _multiply(t[i], y[i]))
    bits = int.from_bytes(message, "little")
    mu = [((bits >> i) & 1) * ((_Q + 1) // 2) for i in range(256)]
    v = _add(_add(_inverse_ntt(total), _noise(coins, 2 * _K)), mu)
    return b"".join(_compress(p, 10) for p in u) + _compress(v, 4), shared


def _exact(value: bytes, size: int, what: str) -> None:
    if len(value) != size:
        raise CryptoError(f"ML-KEM {what} has {len(value)} bytes, not {size}")


def _halves(value: bytes) -> tuple[bytes, bytes]:
    return value[:32], value[32:]


def _reversed7(i: int) -> int:
    return int(f"{i:07b}"[::-1], 2)


_ZETAS = [pow(17, _reversed7(i), _Q) for i in range(128)]
_GAMMAS = [pow(17, 2 * _reversed7(i) + 1, _Q) for i in range(128)]


def _decode12(data: bytes) -> list[int]:
    bits = int.from_bytes(data, "little")
    out = [(bits >> (12 * i)) & 0xFFF for i in range(256)]
    if max(out) >= _Q:
        raise CryptoError("ML-KEM public key fails the modulus check")
    return out


def _compress(poly: list[int], width: int) -> bytes:
    bits = 0
    for i, x in enumerate(poly):
        bits |= (((x << width) + _Q // 2) // _Q % (1 << width)) << (width * i)
    return bits.to_bytes(32 * width, "little")


def _uniform(rho: bytes, i: int, j: int) -> list[int]:
    """Entry (j, i) of the matrix A, hence entry (i, j) of its transpose, in the NTT domain."""
    stream = hashlib.shake_128(rho + bytes([i, j])).digest(1344)
    out: list[int] = []
    for at in range(0, len(stream), 3):
        a, b, c = stream[at : at + 3]
        out += [x for x in (a | (b & 15) << 8, b >> 4 | c << 4) if x < _Q]
    if len(out) < 256:  # pragma: no cover - less likely than 2**-100
        raise CryptoError("ML-KEM rejection sampling ran dry")
    return out[:256]


def _noise(coins: bytes, nonce: int) -> list[int]:
    """A polynomial of the centred binomial distribution with eta = 2."""
    bits = int.from_bytes(hashlib.shake_256(coins + bytes([nonce])).digest(128), "little")
    out = []
    for i in range(256):
        four = bits >> (4 * i)
        out.append(((four & 1) + (four >> 1 & 1) - (four >> 2 & 1) - (four >> 3 & 1)) % _Q)
    return out


def _add(a: list[int], b: list[int]) -> list[int]:
    return [(x + y) % _Q for x, y in zip(a, b, strict=True)]


def _ntt(poly: list[int]) -> list[int]:
    out, k, length = list(poly), 1, 128
    while length >= 2:
        for start in range(0, 256, 2 * length):
            zeta, k = _ZETAS[k], k + 1
            for j in range(start, start + length):
                x = zeta * out[j + length] % _Q
                out[j + length] = (out[j] - x) % _Q
                out[j] = (out[j] + x) % _Q
        length //= 2
    return out


def _inverse_ntt(poly: list[int]) -> list[int]:
    out, k, length = list(poly), 127, 2
    while length <= 128:
        for start in range(0, 256, 2 * length):
            zeta, k = _ZETAS[k], k - 1
            for j in range(start, start + length):
                x = out[j]
                out[j] = (x + out[j + length]) % _Q
                out[j + length] = zeta * (out[j + length] - x) % _Q
        length *= 2
    return [x * 3303 % _Q for x in out]


def _multiply(a: list[int], b: list[int]) -> list[int]:
    out = []
    for i in range(128):
        a0, a1, b0, b1 = a[2 * i], a[2 * i + 1], b[2 * i], b[2 * i + 1]
        out += [(a0 * b0 + a1 * b1 * _GAMMAS[i]) % _Q, (a0 * b1 + a1 * b0) % _Q]
    return out
