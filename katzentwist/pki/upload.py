"""SignedUpload, the payload of post_descriptor (spec: pki 6).

================= ==========================================================
key               value, in canonical order
================= ==========================================================
``LoopStats``     map or null; the authority ignores it
``Signature``     detached signature map, null while signing
``MixDescriptor`` byte string: the canonical CBOR of the descriptor
================= ==========================================================

The signature covers the canonical encoding with ``Signature`` null. The verifier signs what it *understood*: it
re-encodes, so an upload that was not canonical, or held unknown keys, does not verify.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from katzentwist.cbor import Value
from katzentwist.errors import PKIError
from katzentwist.pki import cbor
from katzentwist.pki.cert import SCHEME, Signature
from katzentwist.pki.descriptor import Descriptor

MAX_ITEMS = 1 << 16
"""CBOR items of an upload; anybody may send one, so what reading it can cost is bounded here."""

_NAMES = cbor.names(("LoopStats", "Signature", "MixDescriptor"))
_STATS_NAMES = cbor.names(("Epoch", "SegmentRatios", "MixIdentityHash"))


@attrs.frozen(kw_only=True)
class LoopStats:
    """How the loop decoys of a node fared.

    :ivar segment_ratios: two node ids (64 bytes) -> share of loops that came back.
    :ivar mix_identity_hash: id of the node, 32 bytes, or null.
    """

    epoch: int
    segment_ratios: Mapping[bytes, float] = cbor.NULL_MAP
    mix_identity_hash: bytes = cbor.NULL_BYTES

    @classmethod
    def from_value(cls, value: Value) -> LoopStats:
        """Read a decoded map."""
        fields = cbor.Fields("loop statistics", value, _STATS_NAMES)

        def ratio(name: str, number: Value) -> float:
            if type(number) not in (int, float):
                raise PKIError(f"impossible to decode: {name} of loop statistics is not made of numbers")
            return float(number)

        return cls(
            epoch=fields.uint("Epoch"),
            segment_ratios=fields.mapping("SegmentRatios", lambda n, k: fields.blob_value(n, k, 64), ratio),
            mix_identity_hash=fields.blob("MixIdentityHash", 32),
        )

    def to_value(self) -> dict[str, object]:
        """The map of the encoder."""
        return {
            "Epoch": self.epoch,
            "SegmentRatios": self.segment_ratios,
            "MixIdentityHash": self.mix_identity_hash,
        }


@attrs.frozen(kw_only=True)
class SignedUpload:
    """A descriptor on its way to an authority.

    :ivar signature: None when there was none; such an upload does not verify.
    """

    descriptor: Descriptor
    loop_stats: LoopStats | None = None
    signature: Signature | None = None

    @classmethod
    def sign(cls, private: bytes, descriptor: Descriptor, loop_stats: LoopStats | None = None) -> SignedUpload:
        """Sign *descriptor* with the identity key *private* (64 bytes)."""
        unsigned = cls(descriptor=descriptor, loop_stats=loop_stats)
        return attrs.evolve(unsigned, signature=Signature.make(private, unsigned.signed_bytes()))

    @classmethod
    def parse(cls, raw: bytes) -> SignedUpload:
        """Read an upload; the signature is not checked.

        :raises PKIError: it does not decode, or has no descriptor.
        """
        fields = cbor.Fields("upload", cbor.decode(raw, MAX_ITEMS), _NAMES)
        descriptor = fields.blob("MixDescriptor")
        if not descriptor:
            raise PKIError("upload without a descriptor")
        stats, signature = fields.raw("LoopStats"), fields.raw("Signature")
        return cls(
            descriptor=Descriptor.parse(descriptor),
            loop_stats=None if stats is None else LoopStats.from_value(stats),
            signature=None if signature is None else Signature.from_value(signature),
        )

    def _encode(self, signature: Signature | None) -> bytes:
        return cbor.encode(
            {
                "LoopStats": None if self.loop_stats is None else self.loop_stats.to_value(),
                "Signature": None if signature is None else signature.to_value(),
                "MixDescriptor": self.descriptor.encode(),
            }
        )

    def signed_bytes(self) -> bytes:
        """What the signature covers."""
        return self._encode(None)

    def encode(self) -> bytes:
        """The canonical upload."""
        return self._encode(self.signature)

    def verifies(self, public: bytes | None = None) -> bool:
        """Whether the signature is by *public*, which is the descriptor's own identity key unless given."""
        if self.signature is None:
            return False
        key = self.descriptor.identity_key if public is None else public
        return SCHEME.verify(key, self.signed_bytes(), self.signature.payload)
