"""Unwrapping: one hop's work on a packet (spec: sphinx 9, 12).

A mix takes :func:`unwrap_batch`: a whole batch in one native call without the interpreter lock, trial keys included,
with one small tuple per packet as the result.
"""

from __future__ import annotations

from collections.abc import Sequence

from katzentwist.crypto.native import native
from katzentwist.errors import CryptoError, SphinxError
from katzentwist.sphinx import twin
from katzentwist.sphinx.commands import parse
from katzentwist.sphinx.geometry import Geometry, is_plain_x25519
from katzentwist.sphinx.types import BatchResult, Unwrapped

X25519_KEY_SIZE = 32


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
        return twin.unwrap_batch(keys, packets, geometry)
    if any(len(key) != X25519_KEY_SIZE for key in keys):
        raise CryptoError(f"a mix key has {X25519_KEY_SIZE} bytes")
    results: list[BatchResult] = native.unwrap_batch(
        list(keys), list(packets), geometry.nr_hops, geometry.packet_length
    )
    return results
