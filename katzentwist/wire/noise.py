"""The Noise_pqXX handshake: four messages, KEM tokens (spec: link 5).

====  =========  ==================================================  ============
#     from       wire bytes in order                                 length
====  =========  ==================================================  ============
1     initiator  0x03, e public (PK)                                 1 + PK
2     responder  ekem ct (CT), s (PK + 16), AUTH (260 + 16)          PK + CT + 292
3     initiator  skem ct (CT + 16), s (PK + 16), AUTH (260 + 16)     PK + CT + 308
4     responder  skem ct (CT + 16), empty payload (16)               CT + 32
====  =========  ==================================================  ============

Each step is bytes in, bytes out, and costs KEM operations: the net layer may run it in a worker thread, as long as one
:class:`Handshake` is used by one thread at a time. Everything that is wrong raises HandshakeError.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import attrs

from katzentwist.crypto import aead
from katzentwist.crypto.hash import blake2b_512
from katzentwist.crypto.kem import Kem
from katzentwist.errors import CryptoError, HandshakeError
from katzentwist.randomness import IRandom

VERSION = b"\x03"
"""First byte of message 1, and the prologue."""
TAG = aead.TAG_SIZE
AD_SIZE = 255
AUTH_SIZE = 1 + AD_SIZE + 4

P = ParamSpec("P")
R = TypeVar("R")


def protocol_name(kem: Kem) -> bytes:
    """The Noise protocol name, for example ``Noise_pqXX_XWING_ChaChaPoly_BLAKE2b``."""
    return f"Noise_pqXX_{kem.name}_ChaChaPoly_BLAKE2b".encode("ascii")


def message_size(kem: Kem, number: int) -> int:
    """Length in bytes of message *number* (1 to 4)."""
    pk, ct = kem.public_key_size, kem.ciphertext_size
    return (1 + pk, pk + ct + 2 * TAG + AUTH_SIZE, pk + ct + 3 * TAG + AUTH_SIZE, ct + 2 * TAG)[number - 1]


def encode_auth(additional_data: bytes, unix_time: int) -> bytes:
    """The Authenticate payload (spec: link 5.5): length, AD padded to 255, seconds.

    :raises HandshakeError: the AD is longer than 255 bytes.
    """
    if len(additional_data) > AD_SIZE:
        raise HandshakeError(f"additional data has {len(additional_data)} bytes, the most is {AD_SIZE}")
    padded = additional_data.ljust(AD_SIZE, b"\0")
    return bytes([len(additional_data)]) + padded + (unix_time & 0xFFFFFFFF).to_bytes(4, "big")


def decode_auth(payload: bytes) -> tuple[bytes, int]:
    """(AD, Unix time in seconds) of an Authenticate payload; padding and time are not checked (spec: link 5.4)."""
    if len(payload) != AUTH_SIZE:
        raise HandshakeError(f"authentication payload has {len(payload)} bytes, not {AUTH_SIZE}")
    return payload[1 : 1 + payload[0]], int.from_bytes(payload[-4:], "big")


@attrs.define(repr=False)
class SymmetricState:
    """Noise's h, ck, k and n; *k* is None while there is no key."""

    h: bytes
    ck: bytes
    k: bytes | None = None
    n: int = 0

    @classmethod
    def initial(cls, name: bytes) -> SymmetricState:
        """The state under this protocol name, the prologue mixed in."""
        h = name.ljust(64, b"\0") if len(name) <= 64 else blake2b_512(name)
        state = cls(h=h, ck=h)
        state.mix_hash(VERSION)
        return state

    def mix_hash(self, data: bytes) -> None:
        """h = HASH(h || data)."""
        self.h = blake2b_512(self.h + data)

    def mix_key(self, secret: bytes) -> None:
        """A new chaining key and cipher key."""
        self.ck, key = self._hkdf(secret, 2)
        self.k, self.n = key[:32], 0

    def mix_key_and_hash(self, secret: bytes) -> None:
        """As :meth:`mix_key`, with a part of the output going into the hash."""
        self.ck, middle, key = self._hkdf(secret, 3)
        self.mix_hash(middle)
        self.k, self.n = key[:32], 0

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """Sealed under the current key if there is one, and mixed in."""
        out = plaintext
        if self.k is not None:
            out = aead.seal(self.k, self.n, plaintext, self.h)
            self.n += 1
        self.mix_hash(out)
        return out

    def decrypt_and_hash(self, data: bytes) -> bytes:
        """The reverse of :meth:`encrypt_and_hash`."""
        out = data
        if self.k is not None:
            out = aead.unseal(self.k, self.n, data, self.h)
            self.n += 1
        self.mix_hash(data)
        return out

    def split(self) -> tuple[bytes, bytes]:
        """(key initiator to responder, key responder to initiator)."""
        first, second = self._hkdf(b"", 2)
        return first[:32], second[:32]

    def _hkdf(self, ikm: bytes, count: int) -> list[bytes]:
        temporary = aead.hmac_blake2b(self.ck, ikm)
        out, last = [], b""
        for i in range(1, count + 1):
            last = aead.hmac_blake2b(temporary, last + bytes([i]))
            out.append(last)
        return out


def _refusing(step: Callable[P, R]) -> Callable[P, R]:
    """Whatever a primitive refuses ends the handshake."""

    @functools.wraps(step)
    def refused(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return step(*args, **kwargs)
        except CryptoError as error:
            raise HandshakeError(f"handshake refused: {error}") from error

    return refused


class Handshake:
    """One side of a handshake. Call its steps in the order of the table; :class:`~katzentwist.wire.Session` does.

    :ivar remote_static: the peer's static public key, from message 2 or 3 on.
    """

    def __init__(self, kem: Kem, private: bytes, public: bytes, random: IRandom) -> None:
        self.state = SymmetricState.initial(protocol_name(kem))
        self.remote_static = b""
        self._kem = kem
        self._private = private
        self._public = public
        self._random = random
        self._ephemeral = b""
        self._remote_ephemeral = b""

    def sizes(self, number: int) -> int:
        """Length of message *number*."""
        return message_size(self._kem, number)

    @_refusing
    def write_1(self) -> bytes:
        """Initiator: a new ephemeral key."""
        self._ephemeral, public = self._kem.generate(self._random)
        self.state.mix_hash(public)
        return VERSION + public + self.state.encrypt_and_hash(b"")

    @_refusing
    def read_1(self, message: bytes) -> None:
        """Responder."""
        self._expect(message, 1)
        if message[:1] != VERSION:
            raise HandshakeError("protocol version mismatch")
        self._remote_ephemeral = message[1:]
        self.state.mix_hash(self._remote_ephemeral)
        self.state.decrypt_and_hash(b"")

    @_refusing
    def write_2(self, auth: bytes) -> bytes:
        """Responder: ekem, s, and the Authenticate payload."""
        ciphertext, secret = self._kem.encapsulate(self._remote_ephemeral, self._random)
        self.state.mix_hash(ciphertext)
        self.state.mix_key(secret)
        return ciphertext + self.state.encrypt_and_hash(self._public) + self.state.encrypt_and_hash(auth)

    @_refusing
    def read_2(self, message: bytes) -> bytes:
        """Initiator: the responder's Authenticate payload."""
        self._expect(message, 2)
        at = self._kem.ciphertext_size
        self.state.mix_hash(message[:at])
        self.state.mix_key(self._kem.decapsulate(self._ephemeral, message[:at]))
        self._ephemeral = b""
        return self._read_static_and_payload(message[at:])

    @_refusing
    def write_3(self, auth: bytes) -> bytes:
        """Initiator: skem, s, and the Authenticate payload."""
        sealed = self._write_skem()
        return sealed + self.state.encrypt_and_hash(self._public) + self.state.encrypt_and_hash(auth)

    @_refusing
    def read_3(self, message: bytes) -> bytes:
        """Responder: the initiator's Authenticate payload."""
        self._expect(message, 3)
        at = self._kem.ciphertext_size + TAG
        self._read_skem(message[:at])
        return self._read_static_and_payload(message[at:])

    @_refusing
    def write_4(self) -> bytes:
        """Responder: skem and an empty payload."""
        return self._write_skem() + self.state.encrypt_and_hash(b"")

    @_refusing
    def read_4(self, message: bytes) -> None:
        """Initiator."""
        self._expect(message, 4)
        at = self._kem.ciphertext_size + TAG
        self._read_skem(message[:at])
        self.state.decrypt_and_hash(message[at:])

    def split(self) -> tuple[bytes, bytes]:
        """(key initiator to responder, key responder to initiator); after message 4."""
        return self.state.split()

    def _expect(self, message: bytes, number: int) -> None:
        if len(message) != self.sizes(number):
            raise HandshakeError(f"handshake message {number} has {len(message)} bytes, not {self.sizes(number)}")

    def _write_skem(self) -> bytes:
        ciphertext, secret = self._kem.encapsulate(self.remote_static, self._random)
        sealed = self.state.encrypt_and_hash(ciphertext)
        self.state.mix_key_and_hash(secret)
        return sealed

    def _read_skem(self, sealed: bytes) -> None:
        ciphertext = self.state.decrypt_and_hash(sealed)
        self.state.mix_key_and_hash(self._kem.decapsulate(self._private, ciphertext))

    def _read_static_and_payload(self, data: bytes) -> bytes:
        at = self._kem.public_key_size + TAG
        self.remote_static = self.state.decrypt_and_hash(data[:at])
        return self.state.decrypt_and_hash(data[at:])
