"""The keys of one hop and the ciphers they drive (spec: sphinx 4)."""

from __future__ import annotations

import attrs

from katzentwist.crypto.hash import hkdf_expand, hmac_sha256
from katzentwist.crypto.keystream import aes_256_ctr

KDF_INFO = b"katzenpost-kdf-v0-hkdf-sha256"
KEY_MATERIAL_LENGTH = 160


@attrs.frozen(kw_only=True)
class HopKeys:
    """What a hop and the builder of a packet both know.

    :ivar iv: serves the stream cipher and the SPRP.
    :ivar blinding_seed: unused by KEM Sphinx.
    """

    mac_key: bytes = attrs.field(repr=False)
    stream_key: bytes = attrs.field(repr=False)
    iv: bytes = attrs.field(repr=False)
    sprp_key: bytes = attrs.field(repr=False)
    blinding_seed: bytes = attrs.field(repr=False)

    @classmethod
    def from_secret(cls, shared_secret: bytes) -> HopKeys:
        """HKDF-Expand of the shared secret itself: there is no extract step."""
        okm = hkdf_expand(shared_secret, KDF_INFO, KEY_MATERIAL_LENGTH)
        return cls(
            mac_key=okm[:32],
            stream_key=okm[32:64],
            iv=okm[64:80],
            sprp_key=okm[80:128],
            blinding_seed=okm[128:160],
        )

    def keystream(self, length: int) -> bytes:
        """*length* bytes of AES-256-CTR."""
        return aes_256_ctr(self.stream_key, self.iv, length)

    def mac(self, data: bytes) -> bytes:
        """HMAC-SHA-256 under the header MAC key."""
        return hmac_sha256(self.mac_key, data)


def xor(a: bytes, b: bytes) -> bytes:
    """XOR of two byte strings of equal length."""
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(len(a), "big")
