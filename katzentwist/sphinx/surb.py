"""Single-use reply blocks (spec: sphinx 10).

=================  ============  ==========================================
SURB offset        length        content
=================  ============  ==========================================
0                  HeaderLength  header
HeaderLength       32            id of the node to hand the reply packet to
HeaderLength+32    48            SPRP key
HeaderLength+80    16            SPRP IV
=================  ============  ==========================================
"""

from __future__ import annotations

from collections.abc import Sequence

from katzentwist.crypto.native import native
from katzentwist.errors import SphinxError
from katzentwist.randomness import IRandom, SystemRandom
from katzentwist.sphinx import twin
from katzentwist.sphinx.geometry import (
    PAYLOAD_TAG_LENGTH,
    SPRP_KEY_MATERIAL_LENGTH,
    Geometry,
    is_plain_x25519,
)
from katzentwist.sphinx.packet import header_randomness, native_path
from katzentwist.sphinx.types import PathHop


def new_surb(path: Sequence[PathHop], geometry: Geometry, random: IRandom | None = None) -> tuple[bytes, bytes]:
    """(SURB, keys). The SURB goes to the one who shall reply, the keys open one reply and are to be forgotten then.

    :param path: the reply's path; its last hop has recipient and SURB reply commands.
    :raises SphinxError: wrong path or commands, or a mix key that is refused.
    """
    source = random or SystemRandom()
    if native is None or not is_plain_x25519(geometry):
        return twin.new_surb(path, geometry, source)
    twin.check_path(path, geometry)
    payload_key = source.bytes(SPRP_KEY_MATERIAL_LENGTH)
    randomness = header_randomness(path, geometry, source)
    try:
        surb, keys = native.new_surb(geometry.nr_hops, native_path(path), payload_key, *randomness)
    except ValueError as error:
        raise SphinxError(str(error)) from None
    return surb, keys


def packet_from_surb(surb: bytes, reply: bytes, geometry: Geometry) -> tuple[bytes, bytes]:
    """(packet, id of the node to hand it to). The bare primitive: nodes use :func:`reply_packet`.

    :raises SphinxError: the SURB has the wrong length.
    """
    return twin.packet_from_surb(surb, reply, geometry)


def reply_packet(surb: bytes, reply: bytes, geometry: Geometry) -> tuple[bytes, bytes]:
    """A node's reply: as :func:`packet_from_surb`, zero-padded so that the packet is PacketLength long.

    :raises SphinxError: the reply is too long, or the SURB has the wrong length.
    """
    if len(reply) > geometry.forward_payload_length:
        raise SphinxError(f"oversized response payload: {len(reply)}")
    return packet_from_surb(surb, reply.ljust(geometry.forward_payload_length, b"\0"), geometry)


def decrypt_reply(keys: bytes, payload: bytes, geometry: Geometry | None = None) -> bytes:
    """The reply, zero-padded as its sender padded it.

    :param payload: all that came out at the last hop, tag included: 32 + ForwardPayloadLength bytes.
    :param geometry: when given, a payload of another length is refused at once.
    :raises SphinxError: malformed keys, short payload, or a payload that is not for these keys.
    """
    twin.check_reply(keys, payload)
    if geometry is not None and len(payload) != PAYLOAD_TAG_LENGTH + geometry.forward_payload_length:
        raise SphinxError(f"sphinx: reply payload has {len(payload)} bytes")
    if native is None:
        return twin.decrypt_reply(keys, payload)
    try:
        return bytes(native.decrypt_reply(keys, payload))
    except ValueError as error:
        raise SphinxError(str(error)) from None


class Surb:
    """The three operations under one name."""

    new = staticmethod(new_surb)
    packet_from_surb = staticmethod(packet_from_surb)
    decrypt_reply = staticmethod(decrypt_reply)
