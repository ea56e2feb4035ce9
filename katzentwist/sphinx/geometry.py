"""The geometry: the set of lengths that all parties of one mixnet share (spec: sphinx 2)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import attrs
import cbor2

from katzentwist.crypto import kem, nike
from katzentwist.crypto.hash import blake2b_256
from katzentwist.errors import CryptoError, SphinxError

AD = bytes(2)
"""Version, first in each packet."""
NODE_ID_LENGTH = 32
RECIPIENT_ID_LENGTH = 32
SURB_ID_LENGTH = 16
MAC_LENGTH = 32
PAYLOAD_TAG_LENGTH = 32
SPRP_KEY_LENGTH = 48
SPRP_IV_LENGTH = 16
SPRP_KEY_MATERIAL_LENGTH = SPRP_KEY_LENGTH + SPRP_IV_LENGTH
NEXT_NODE_HOP_LENGTH = 1 + NODE_ID_LENGTH + MAC_LENGTH
SURB_REPLY_LENGTH = 1 + SURB_ID_LENGTH
BLOCK_HEADER_LENGTH = 2
"""Flags and reserved byte in front of the user payload block (spec: 11.1)."""

_NOT_ZERO = ("PacketLength", "NrHops", "HeaderLength", "RoutingInfoLength", "PerHopRoutingInfoLength")
_CBOR_ORDER = (
    "NrHops",
    "KEMName",
    "NIKEName",
    "SURBLength",
    "HeaderLength",
    "PacketLength",
    "PayloadTagLength",
    "NextNodeHopLength",
    "RoutingInfoLength",
    "ForwardPayloadLength",
    "SPRPKeyMaterialLength",
    "PerHopRoutingInfoLength",
    "UserForwardPayloadLength",
    "SphinxPlaintextHeaderLength",
)


def _field(key: str, default: Any = attrs.NOTHING) -> Any:
    return attrs.field(metadata={"toml": key}, default=default)


@attrs.frozen(kw_only=True)
class Geometry:
    """One geometry. The constructor takes any numbers; :meth:`from_toml` and :meth:`check` refuse wrong ones.

    Lengths are in bytes. The fields stand in the order in which the upstream tools write them.
    """

    packet_length: int = _field("PacketLength")
    nr_hops: int = _field("NrHops")
    header_length: int = _field("HeaderLength")
    routing_info_length: int = _field("RoutingInfoLength")
    per_hop_routing_info_length: int = _field("PerHopRoutingInfoLength")
    surb_length: int = _field("SURBLength")
    sphinx_plaintext_header_length: int = _field("SphinxPlaintextHeaderLength")
    payload_tag_length: int = _field("PayloadTagLength")
    forward_payload_length: int = _field("ForwardPayloadLength")
    user_forward_payload_length: int = _field("UserForwardPayloadLength")
    next_node_hop_length: int = _field("NextNodeHopLength")
    sprp_key_material_length: int = _field("SPRPKeyMaterialLength")
    nike_name: str = _field("NIKEName", "")
    kem_name: str = _field("KEMName", "")

    @classmethod
    def from_user_payload(
        cls, length: int, hops: int, nike: str | None = None, kem: str | None = None, with_surb: bool = True
    ) -> Geometry:
        """The geometry for user payloads of *length* bytes and *hops* hops (mix layers + 2).

        :param nike: name of a NIKE scheme; ``x25519`` when neither *nike* nor *kem* is given.
        :param with_surb: room for a SURB in each forward packet; False only for bare Sphinx use.
        :raises SphinxError: unknown or contradictory scheme names, lengths that make no packet.
        """
        if nike is None and kem is None:
            nike = "x25519"
        scheme = _Scheme.by_names(nike or "", kem or "")
        if length < 0 or hops < 1:
            raise SphinxError(f"geometry needs at least 1 hop and a payload of 0 bytes, not {hops} and {length}")
        return cls(**_derive(scheme, hops, length, with_surb))

    @classmethod
    def from_toml(cls, table: Mapping[str, Any] | None) -> Geometry:
        """Read the table ``[SphinxGeometry]``, keys without regard to case, an exact match first.

        :raises SphinxError: with the text of section 2 for the first check that fails.
        """
        if table is None:
            raise SphinxError("config: No SphinxGeometry block was present")
        folded = {key.lower(): value for key, value in table.items()}
        values: dict[str, Any] = {}
        for field in attrs.fields(cls):
            key = field.metadata["toml"]
            wanted: type = str if key.endswith("Name") else int
            value = table.get(key, folded.get(key.lower(), wanted()))
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise SphinxError(f"geometry {key} must be {'a text' if wanted is str else 'an integer'}")
            values[field.name] = value
        geometry = cls(**values)
        geometry.check()
        return geometry

    def to_toml(self) -> dict[str, int | str]:
        """The table ``[SphinxGeometry]`` in upstream's order of keys."""
        return {field.metadata["toml"]: getattr(self, field.name) for field in attrs.fields(type(self))}

    def check(self) -> None:
        """The checks of section 2 in their order, then ours: every derived field is computed anew.

        :raises SphinxError: the first check that fails; ours names the field that disagrees.
        """
        scheme = _Scheme.by_names(self.nike_name, self.kem_name)
        table = self.to_toml()
        for key in _NOT_ZERO:
            if table[key] == 0:
                raise SphinxError(f"geometry has {key} of 0")
        if self.nr_hops < 0 or self.user_forward_payload_length < 0:
            raise SphinxError("geometry has a negative NrHops or UserForwardPayloadLength")
        with_surb = self.forward_payload_length != self.user_forward_payload_length
        expected = _derive(scheme, self.nr_hops, self.user_forward_payload_length, with_surb)
        for field in attrs.fields(type(self)):
            if field.metadata["toml"].endswith("Name"):
                continue
            found = getattr(self, field.name)
            if found != expected[field.name]:
                raise SphinxError(f"geometry has {field.metadata['toml']} of {found}, expected {expected[field.name]}")

    def cbor(self) -> bytes:
        """The canonical CBOR that is hashed into the PKI document."""
        table = self.to_toml()
        return cbor2.dumps({key: table[key] for key in _CBOR_ORDER})

    def hash(self) -> bytes:
        """SphinxGeometryHash, 32 bytes. The scheme name counts as it is spelled."""
        return blake2b_256(self.cbor())

    def toml(self) -> str:
        """The table as TOML text, as the upstream tools write it."""
        lines = ["[SphinxGeometry]"]
        for key, value in self.to_toml().items():
            lines.append(f'  {key} = "{value}"' if isinstance(value, str) else f"  {key} = {value}")
        return "\n".join(lines) + "\n"

    @property
    def command_block_length(self) -> int:
        """Bytes for commands in one hop's block; in KEM Sphinx the rest carries the next ciphertext."""
        return self.per_hop_routing_info_length - (self.element_length if self.kem_name else 0)

    @property
    def element_length(self) -> int:
        """Length of the group element or KEM ciphertext at offset 2."""
        return self.header_length - len(AD) - self.routing_info_length - MAC_LENGTH


@attrs.frozen
class _Scheme:
    """What the lengths depend on."""

    element_length: int
    nike_name: str = ""
    kem_name: str = ""

    @classmethod
    def by_names(cls, nike_name: str, kem_name: str) -> _Scheme:
        if not nike_name and not kem_name:
            raise SphinxError("geometry NIKEName or KEMName must be set")
        if nike_name and kem_name:
            raise SphinxError("geometry NIKEName and KEMName must not both be set")
        try:
            if nike_name:
                exchange = nike.by_name(nike_name)
                return cls(exchange.public_key_size, nike_name=exchange.name)
            encapsulation = kem.by_name(kem_name)
            return cls(encapsulation.ciphertext_size, kem_name=encapsulation.name)
        except CryptoError:
            kind = "NIKE" if nike_name else "KEM"
            raise SphinxError(f"geometry has invalid {kind} Scheme {nike_name or kem_name}") from None


def _derive(scheme: _Scheme, hops: int, user_payload: int, with_surb: bool) -> dict[str, Any]:
    """All fields of a geometry by the formulas of section 2."""
    per_hop = NEXT_NODE_HOP_LENGTH + SURB_REPLY_LENGTH + (scheme.element_length if scheme.kem_name else 0)
    routing_info = hops * per_hop
    header = len(AD) + scheme.element_length + routing_info + MAC_LENGTH
    surb = header + NODE_ID_LENGTH + SPRP_KEY_MATERIAL_LENGTH
    forward_payload = user_payload + BLOCK_HEADER_LENGTH + surb if with_surb else user_payload
    return {
        "packet_length": header + PAYLOAD_TAG_LENGTH + forward_payload,
        "nr_hops": hops,
        "header_length": header,
        "routing_info_length": routing_info,
        "per_hop_routing_info_length": per_hop,
        "surb_length": surb,
        "sphinx_plaintext_header_length": BLOCK_HEADER_LENGTH,
        "payload_tag_length": PAYLOAD_TAG_LENGTH,
        "forward_payload_length": forward_payload,
        "user_forward_payload_length": user_payload,
        "next_node_hop_length": NEXT_NODE_HOP_LENGTH,
        "sprp_key_material_length": SPRP_KEY_MATERIAL_LENGTH,
        "nike_name": scheme.nike_name,
        "kem_name": scheme.kem_name,
    }


@functools.lru_cache(maxsize=64)
def is_plain_x25519(geometry: Geometry) -> bool:
    """Whether the native core can take this geometry: x25519 as the NIKE, every length as the formulas say."""
    if geometry.nike_name.lower() != "x25519":
        return False
    try:
        geometry.check()
    except SphinxError:
        return False
    return True
