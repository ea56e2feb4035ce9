"""Building forward packets (spec: sphinx 7, 8)."""

from __future__ import annotations

from collections.abc import Sequence

from katzentwist.crypto.native import native
from katzentwist.errors import SphinxError
from katzentwist.randomness import IRandom, SystemRandom
from katzentwist.sphinx import twin
from katzentwist.sphinx.commands import encode
from katzentwist.sphinx.geometry import Geometry, is_plain_x25519
from katzentwist.sphinx.types import PathHop

EPHEMERAL_KEY_SIZE = 32


def build(path: Sequence[PathHop], payload: bytes, geometry: Geometry, random: IRandom | None = None) -> bytes:
    """A forward packet of PacketLength bytes.

    :param path: 1 to NrHops hops.
    :param payload: exactly ForwardPayloadLength bytes; :func:`katzentwist.sphinx.build_block` makes them.
    :param random: the system's generator when not given.
    :raises SphinxError: wrong payload length, path or commands, or a mix key that is refused.
    """
    source = random or SystemRandom()
    if native is None or not is_plain_x25519(geometry):
        return twin.build(path, payload, geometry, source)
    if len(payload) != geometry.forward_payload_length:
        raise SphinxError(f"invalid payload length: {len(payload)}, expected {geometry.forward_payload_length}")
    twin.check_path(path, geometry)
    try:
        return bytes(
            native.build(geometry.nr_hops, native_path(path), payload, *header_randomness(path, geometry, source))
        )
    except ValueError as error:
        raise SphinxError(str(error)) from None


def native_path(path: Sequence[PathHop]) -> list[tuple[bytes, bytes, bytes]]:
    """(id, public key, encoded commands) of each hop, for the native core."""
    return [(hop.id, hop.public_key, encode(hop.commands)) for hop in path]


def header_randomness(path: Sequence[PathHop], geometry: Geometry, random: IRandom) -> tuple[bytes, bytes]:
    """(ephemeral private key, filler of the unused hops), drawn in the twin's order."""
    ephemeral = random.bytes(EPHEMERAL_KEY_SIZE)
    unused = (geometry.nr_hops - len(path)) * geometry.per_hop_routing_info_length
    return ephemeral, random.bytes(unused) if unused else b""
