"""Unwrapping: one hop's work on a packet (spec: sphinx 9, 12).

A mix takes :func:`unwrap_batch`: a whole batch in one native call without the interpreter lock, trial keys included,
with one small tuple per packet as the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from katzentwist.crypto.native import native
from katzentwist.errors import CryptoError, SphinxError
from katzentwist.sphinx import twin
from katzentwist.sphinx.commands import REDUNDANT_COMMAND, Kind, Routing, parse
from katzentwist.sphinx.geometry import Geometry, is_plain_x25519
from katzentwist.sphinx.types import Unwrapped

X25519_KEY_SIZE = 32
NO_KEY = -1

BatchResult: TypeAlias = tuple[int, bytes | None, int, bytes | str | None, int | bytes | None, bytes | None]
"""(key index, replay tag, kind, a, b, c); kind is a :class:`Kind`, and by it a, b and c are

===========  ===========  ======================  ==============================
kind         a            b                       c
===========  ===========  ======================  ==============================
FORWARD      next hop id  delay in ms             next packet
TO_USER      recipient    delay in ms or None     payload without its tag
SURB_REPLY   recipient    SURB id                 whole payload, tag included
REDUNDANT    error text   None                    None
SENSELESS    error text   None                    None
INVALID      error text   None                    None; key index -1
===========  ===========  ======================  ==============================
"""

SENSELESS_COMMANDS = "sphinx: invalid combination of commands"


def unwrap(private_key: bytes, packet: bytes, geometry: Geometry) -> Unwrapped:
    """Unwrap one packet with one mix key; *packet* is not changed and may have any length.

    :raises SphinxError: with the texts of section 9; it carries the replay tag from the MAC check on. Senders must
        never hear of it.
    :raises CryptoError: the private key has the wrong length.
    """
    if native is None or not is_plain_x25519(geometry):
        return twin.unwrap(private_key, packet, geometry)
    if len(private_key) != X25519_KEY_SIZE:
        raise CryptoError(f"a mix key has {X25519_KEY_SIZE} bytes, not {len(private_key)}")
    error, tag, block, payload, next_packet = native.unwrap(private_key, packet, geometry.nr_hops)
    if error is not None:
        raise SphinxError(error, tag)
    return Unwrapped(payload, tag, parse(block), next_packet)


def unwrap_batch(keys: Sequence[bytes], packets: Sequence[bytes], geometry: Geometry) -> list[BatchResult]:
    """Unwrap each packet with the first of *keys* that can, and sort it by its commands (spec: sphinx 12).

    :param keys: at least one private mix key, in the order to try: current epoch, previous, next.
    :return: one :data:`BatchResult` per packet, in order; bad packets are results, not exceptions. With the native core
        the call runs without the interpreter lock, so several threads work at once.
    :raises CryptoError: no key, or one of the wrong length.
    """
    if not keys:
        raise CryptoError("no mix key to unwrap with")
    if native is None or not is_plain_x25519(geometry):
        return [_unwrap_one(keys, packet, geometry) for packet in packets]
    if any(len(key) != X25519_KEY_SIZE for key in keys):
        raise CryptoError(f"a mix key has {X25519_KEY_SIZE} bytes")
    results: list[BatchResult] = native.unwrap_batch(
        list(keys), list(packets), geometry.nr_hops, geometry.packet_length
    )
    return results


def _unwrap_one(keys: Sequence[bytes], packet: bytes, geometry: Geometry) -> BatchResult:
    """The twin of the native batch, for one packet."""
    if len(packet) != geometry.packet_length:
        return NO_KEY, None, Kind.INVALID, f"invalid Sphinx packet size: {len(packet)}", None, None
    last_error = SphinxError("")
    for index, key in enumerate(keys):
        try:
            found = twin.unwrap(key, packet, geometry)
        except SphinxError as error:
            last_error = error
            continue
        return _sort(index, found)
    return NO_KEY, last_error.replay_tag, Kind.INVALID, str(last_error), None, None


def _sort(index: int, found: Unwrapped) -> BatchResult:
    try:
        routing = Routing.from_commands(found.commands)
    except SphinxError:
        return index, found.replay_tag, Kind.REDUNDANT, REDUNDANT_COMMAND, None, None
    match routing.kind:
        case Kind.FORWARD if routing.next_hop is not None:
            return index, found.replay_tag, Kind.FORWARD, routing.next_hop.id, routing.delay, found.next_packet
        case Kind.TO_USER:
            return index, found.replay_tag, Kind.TO_USER, routing.recipient, routing.delay, found.payload
        case Kind.SURB_REPLY:
            return index, found.replay_tag, Kind.SURB_REPLY, routing.recipient, routing.surb_id, found.payload
        case _:
            return index, found.replay_tag, Kind.SENSELESS, SENSELESS_COMMANDS, None, None
