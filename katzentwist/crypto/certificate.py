"""The throw-away certificate of a QUIC listener (spec: link 2.4).

Nobody verifies it, so it says as little as it can: serial number 1, no names, validity from year 1 to year 1, a fresh
Ed25519 key. It is put together here since the X.509 library refuses such dates.

================  =================================================
Certificate       SEQUENCE { TBS, algorithm, BIT STRING signature }
TBS               SEQUENCE { [0] 2, 1, algorithm, {}, validity, {}, SubjectPublicKeyInfo }
algorithm         SEQUENCE { 1.3.101.112 }
validity          SEQUENCE { GeneralizedTime, GeneralizedTime }
================  =================================================
"""

from __future__ import annotations

from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from katzentwist.randomness import IRandom

_SEQUENCE, _BIT_STRING, _TIME = 0x30, 0x03, 0x18
_VERSION_3: Final = bytes.fromhex("a003020102")
_SERIAL: Final = bytes.fromhex("020101")
_ED25519: Final = bytes.fromhex("300506032b6570")
_YEAR_1: Final = b"00010101000000Z"


def _element(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def self_signed(random: IRandom) -> tuple[Any, Any]:
    """A new (certificate, private key), as the TLS stack of QUIC wants them."""
    private = Ed25519PrivateKey.from_private_bytes(random.bytes(32))
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    validity = _element(_SEQUENCE, _element(_TIME, _YEAR_1), _element(_TIME, _YEAR_1))
    nobody = _element(_SEQUENCE)
    tbs = _element(_SEQUENCE, _VERSION_3, _SERIAL, _ED25519, nobody, validity, nobody, public)
    signature = _element(_BIT_STRING, b"\0", private.sign(tbs))
    return x509.load_der_x509_certificate(_element(_SEQUENCE, tbs, _ED25519, signature)), private
