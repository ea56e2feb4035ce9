"""The KEMs of links and of KEM Sphinx (spec: link 3).

===================  ==========  ==========  ===========  =============  ====
name                 public key  ciphertext  private key  shared secret  seed
===================  ==========  ==========  ===========  =============  ====
``XWING``                  1216        1120         1248             32    32
``x25519``                   32          32           32             32    32
``x448``                     56          56           56             56    32
``MLKEM768``               1184        1088         1248             32    64
``MLKEM768-X25519``        1216        1120         1280             32    96
``MLKEM768-X448``          1240        1144         1304             32    96
===================  ==========  ==========  ===========  =============  ====

Keys, ciphertexts and secrets are bytes. Everything that is refused raises :exc:`~katzentwist.errors.CryptoError`: wrong
lengths, low-order points, an ML-KEM key with a coefficient beyond the modulus. A tampered ML-KEM ciphertext is not an
error: it decapsulates to another secret, and the handshake fails at its next tag.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Callable, Sequence

from katzentwist.crypto import mlkem, nike
from katzentwist.crypto.hash import blake2b_256, blake2xb
from katzentwist.errors import CryptoError
from katzentwist.randomness import IRandom

_XWING_LABEL = bytes.fromhex("5c2e2f2f5e5c")


class Kem:
    """One scheme. Stateless: an instance may be shared between threads.

    :ivar name: the canonical spelling, which enters the Noise protocol name.
    """

    name: str
    public_key_size: int
    private_key_size: int
    ciphertext_size: int
    shared_secret_size: int
    seed_size: int
    randomness_size: int

    def keypair_from_seed(self, seed: bytes) -> tuple[bytes, bytes]:
        """(private, public) of a seed of :attr:`seed_size` bytes."""
        raise NotImplementedError

    def generate(self, random: IRandom) -> tuple[bytes, bytes]:
        """A new (private, public), from :attr:`seed_size` bytes of *random*."""
        return self.keypair_from_seed(random.bytes(self.seed_size))

    def encapsulate(self, public: bytes, random: IRandom) -> tuple[bytes, bytes]:
        """(ciphertext, shared secret) for the holder of *public*; draws :attr:`randomness_size` bytes of *random*."""
        raise NotImplementedError

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        """The shared secret."""
        raise NotImplementedError

    def check_private(self, private: bytes) -> bytes:
        """The public key of a serialised private key.

        :raises CryptoError: wrong length, or a public part that does not belong to the seed (spec: link 3.2).
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<KEM {self.name}>"

    def _exact(self, value: bytes, size: int, what: str) -> None:
        if len(value) != size:
            raise CryptoError(f"{self.name} {what} has {len(value)} bytes, not {size}")


class _NikeKem(Kem):
    """Hashed ElGamal over a NIKE (spec: link 3.3)."""

    seed_size = 32

    def __init__(self, curve: nike.Nike) -> None:
        self.name = curve.name
        self._curve = curve
        size = curve.public_key_size
        self.public_key_size = self.private_key_size = self.ciphertext_size = self.shared_secret_size = size
        self.randomness_size = size

    def keypair_from_seed(self, seed: bytes) -> tuple[bytes, bytes]:
        self._exact(seed, self.seed_size, "seed")
        private = blake2xb(None, b"", blake2b_256(seed), self.private_key_size)
        return private, self._curve.public(private)

    def encapsulate(self, public: bytes, random: IRandom) -> tuple[bytes, bytes]:
        self._exact(public, self.public_key_size, "public key")
        ephemeral = random.bytes(self.randomness_size)
        ciphertext = self._curve.public(ephemeral)
        return ciphertext, self._secret(self._curve.derive(ephemeral, public), public, ciphertext)

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        self._exact(ciphertext, self.ciphertext_size, "ciphertext")
        public = self.check_private(private)
        return self._secret(self._curve.derive(private, ciphertext), public, ciphertext)

    def check_private(self, private: bytes) -> bytes:
        self._exact(private, self.private_key_size, "private key")
        return self._curve.public(private)

    def _secret(self, shared: bytes, recipient: bytes, ephemeral: bytes) -> bytes:
        key = shared if len(shared) == 32 else blake2b_256(shared)
        return blake2xb(self.shared_secret_size, key, recipient + ephemeral)


class _MlKem768(Kem):
    """FIPS 203; the private key is encapsulation key || seed (spec: link 3.5)."""

    name = "MLKEM768"
    public_key_size = mlkem.PUBLIC_KEY_SIZE
    ciphertext_size = mlkem.CIPHERTEXT_SIZE
    private_key_size = public_key_size + mlkem.SEED_SIZE
    shared_secret_size = 32
    seed_size = mlkem.SEED_SIZE
    randomness_size = mlkem.MESSAGE_SIZE

    def keypair_from_seed(self, seed: bytes) -> tuple[bytes, bytes]:
        public = mlkem.public_from_seed(seed)
        return public + seed, public

    def encapsulate(self, public: bytes, random: IRandom) -> tuple[bytes, bytes]:
        return mlkem.encapsulate_from(public, random)

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        self._exact(private, self.private_key_size, "private key")
        return mlkem.decapsulate(private[self.public_key_size :], ciphertext)

    def check_private(self, private: bytes) -> bytes:
        return _checked(self, private)


class _XWing(Kem):
    """X-Wing, draft-connolly-cfrg-xwing-kem-07; the private key is public key || 32-byte seed (spec: link 3.2)."""

    name = "XWING"
    public_key_size = mlkem.PUBLIC_KEY_SIZE + 32
    ciphertext_size = mlkem.CIPHERTEXT_SIZE + 32
    private_key_size = public_key_size + 32
    shared_secret_size = 32
    seed_size = 32
    randomness_size = 64

    def keypair_from_seed(self, seed: bytes) -> tuple[bytes, bytes]:
        self._exact(seed, self.seed_size, "seed")
        expanded = hashlib.shake_256(seed).digest(96)
        public = mlkem.public_from_seed(expanded[:64]) + nike.x25519.public(expanded[64:])
        return public + seed, public

    def encapsulate(self, public: bytes, random: IRandom) -> tuple[bytes, bytes]:
        self._exact(public, self.public_key_size, "public key")
        public_m, public_x = public[: mlkem.PUBLIC_KEY_SIZE], public[mlkem.PUBLIC_KEY_SIZE :]
        ciphertext_m, secret_m = mlkem.encapsulate_from(public_m, random)
        ephemeral = random.bytes(32)
        ciphertext_x = nike.x25519.public(ephemeral)
        secret_x = nike.x25519.derive(ephemeral, public_x)
        return ciphertext_m + ciphertext_x, self._combine(secret_m, secret_x, ciphertext_x, public_x)

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        self._exact(private, self.private_key_size, "private key")
        self._exact(ciphertext, self.ciphertext_size, "ciphertext")
        expanded = hashlib.shake_256(private[self.public_key_size :]).digest(96)
        public_x = private[mlkem.PUBLIC_KEY_SIZE : self.public_key_size]
        ciphertext_m, ciphertext_x = ciphertext[: mlkem.CIPHERTEXT_SIZE], ciphertext[mlkem.CIPHERTEXT_SIZE :]
        secret_m = mlkem.decapsulate(expanded[:64], ciphertext_m)
        secret_x = nike.x25519.derive(expanded[64:], ciphertext_x)
        return self._combine(secret_m, secret_x, ciphertext_x, public_x)

    def check_private(self, private: bytes) -> bytes:
        return _checked(self, private)

    @staticmethod
    def _combine(secret_m: bytes, secret_x: bytes, ciphertext_x: bytes, public_x: bytes) -> bytes:
        return hashlib.sha3_256(secret_m + secret_x + ciphertext_x + public_x + _XWING_LABEL).digest()


class _Combined(Kem):
    """The generic combiner: concatenated parts, and the XOR of H256(ss_i || all ciphertexts) (spec: link 3.5)."""

    shared_secret_size = 32

    def __init__(self, name: str, parts: Sequence[Kem]) -> None:
        self.name = name
        self._parts = tuple(parts)
        self.public_key_size = sum(p.public_key_size for p in parts)
        self.private_key_size = sum(p.private_key_size for p in parts)
        self.ciphertext_size = sum(p.ciphertext_size for p in parts)
        self.seed_size = sum(p.seed_size for p in parts)
        self.randomness_size = sum(p.randomness_size for p in parts)

    def keypair_from_seed(self, seed: bytes) -> tuple[bytes, bytes]:
        pairs = [p.keypair_from_seed(s) for p, s in self._split(seed, "seed", lambda p: p.seed_size)]
        return b"".join(private for private, _ in pairs), b"".join(public for _, public in pairs)

    def encapsulate(self, public: bytes, random: IRandom) -> tuple[bytes, bytes]:
        keys = self._split(public, "public key", lambda p: p.public_key_size)
        pairs = [p.encapsulate(key, random) for p, key in keys]
        ciphertext = b"".join(part for part, _ in pairs)
        return ciphertext, self._combine([secret for _, secret in pairs], ciphertext)

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        keys = self._split(private, "private key", lambda p: p.private_key_size)
        parts = self._split(ciphertext, "ciphertext", lambda p: p.ciphertext_size)
        secrets = [p.decapsulate(key, part) for (p, key), (_, part) in zip(keys, parts, strict=True)]
        return self._combine(secrets, ciphertext)

    def check_private(self, private: bytes) -> bytes:
        keys = self._split(private, "private key", lambda p: p.private_key_size)
        return b"".join(p.check_private(key) for p, key in keys)

    @staticmethod
    def _combine(secrets: list[bytes], ciphertext: bytes) -> bytes:
        total = 0
        for secret in secrets:
            total ^= int.from_bytes(blake2b_256(secret + ciphertext), "big")
        return total.to_bytes(32, "big")

    def _split(self, value: bytes, what: str, size: Callable[[Kem], int]) -> list[tuple[Kem, bytes]]:
        self._exact(value, sum(size(p) for p in self._parts), what)
        out, at = [], 0
        for part in self._parts:
            out.append((part, value[at : at + size(part)]))
            at += size(part)
        return out


def _checked(kem: Kem, private: bytes) -> bytes:
    """The public part of a public || seed private key, once the seed is known to give it."""
    kem._exact(private, kem.private_key_size, "private key")
    stated = private[: kem.public_key_size]
    _, public = kem.keypair_from_seed(private[kem.public_key_size :])
    if not hmac.compare_digest(stated, public):
        raise CryptoError(f"{kem.name} private key: its public part does not belong to its seed")
    return public


@functools.cache
def _schemes() -> dict[str, Kem]:
    x25519, x448, pq = _NikeKem(nike.x25519), _NikeKem(nike.x448), _MlKem768()
    kems = [
        _XWing(),
        x25519,
        x448,
        pq,
        _Combined("MLKEM768-X25519", [x25519, pq]),
        _Combined("MLKEM768-X448", [x448, pq]),
    ]
    return {kem.name.lower(): kem for kem in kems}


def names() -> list[str]:
    """The canonical names of all schemes."""
    return [kem.name for kem in _schemes().values()]


def by_name(name: str) -> Kem:
    """The scheme of this name, in any case (spec: link 3.1).

    :raises CryptoError: the name is not known here.
    """
    try:
        return _schemes()[name.lower()]
    except KeyError:
        raise CryptoError(f"unknown KEM {name!r}; known are {', '.join(names())}") from None
