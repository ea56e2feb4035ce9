"""The user payload block inside a forward packet (spec: sphinx 11).

=============  ========================  =========================================
offset         length                    content
=============  ========================  =========================================
0              1                         flags: 00 no SURB, 01 one SURB
1              1                         reserved, 00
2              SURBLength                the SURB; zero bytes when flags is 0
2+SURBLength   UserForwardPayloadLength  user payload, zero-padded at the end
=============  ========================  =========================================
"""

from __future__ import annotations

from katzentwist.errors import SphinxError
from katzentwist.sphinx.geometry import BLOCK_HEADER_LENGTH, Geometry

_NO_SURB = 0
_ONE_SURB = 1


def build_block(user_payload: bytes, surb: bytes | None, geometry: Geometry) -> bytes:
    """The ForwardPayloadLength bytes of a forward packet.

    Without a SURB its place is filled with zeros. (The v0.0.99 client omits the block then; its packets are lost.)

    :raises SphinxError: payload too large, or a SURB of another geometry.
    """
    limit = geometry.user_forward_payload_length
    if len(user_payload) > limit:
        raise SphinxError(f"message too large: {len(user_payload)} > {limit}")
    if surb is not None and len(surb) != geometry.surb_length:
        raise SphinxError("sphinx: invalid packet, truncated SURB")
    flags = bytes([_NO_SURB if surb is None else _ONE_SURB, 0])
    block = flags + (surb or bytes(geometry.surb_length)) + user_payload.ljust(limit, b"\0")
    if len(block) != geometry.forward_payload_length:
        raise SphinxError("geometry has no room for a SURB")
    return block


def parse_block(block: bytes, geometry: Geometry) -> tuple[bytes, bytes | None]:
    """(user payload with its padding, SURB or None).

    :raises SphinxError: with the texts of section 11.2, in its order.
    """
    if len(block) != geometry.forward_payload_length:
        raise SphinxError(f"invalid payload length: {len(block)}")
    start = BLOCK_HEADER_LENGTH + geometry.surb_length
    if len(block) < start:
        raise SphinxError("truncated message block")
    flags, reserved = block[0], block[1]
    if reserved != 0:
        raise SphinxError(f"invalid message reserved: 0x{reserved:02x}")
    if flags not in (_NO_SURB, _ONE_SURB):
        raise SphinxError(f"invalid message flags: 0x{flags:02x}")
    user_payload = block[start:]
    if len(user_payload) != geometry.user_forward_payload_length:
        raise SphinxError(f"mis-sized user payload: {len(user_payload)}")
    return user_payload, block[BLOCK_HEADER_LENGTH:start] if flags == _ONE_SURB else None


def recipient_id(name: str | bytes) -> bytes:
    """A recipient's name as the 32 bytes of a command, zero-padded (spec: 11.4).

    :raises SphinxError: empty, or longer than 32 bytes.
    """
    raw = name.encode() if isinstance(name, str) else name
    if not raw:
        raise SphinxError("client: recipient is nil")
    if len(raw) > 32:
        raise SphinxError(f"client: invalid recipient: {raw!r} is longer than 32 bytes")
    return raw.ljust(32, b"\0")
