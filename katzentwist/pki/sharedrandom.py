"""Shared random values: commit, reveal, the value of an epoch (spec: pki 8).

| bytes | reveal        | commit          |
|-------|---------------|-----------------|
| 0:8   | be64(epoch)   | be64(epoch)     |
| 8:40  | H(32 random)  | H(whole reveal) |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from katzentwist.crypto.hash import blake2b_256

LENGTH: Final = 40
"""Bytes of a commit and of a reveal."""
WEEK: Final = 504
"""Epochs after which the prior values rotate; a constant, whatever the epoch duration."""
NO_PREVIOUS: Final = bytes(32)


def reveal(epoch: int, random: bytes) -> bytes:
    """The reveal for *epoch* from 32 random bytes."""
    return epoch.to_bytes(8, "big") + blake2b_256(random)


def commit(revealed: bytes) -> bytes:
    """The commit to a reveal."""
    return revealed[:8] + blake2b_256(revealed)


def matches(committed: bytes, revealed: bytes) -> bool:
    """Whether a reveal is the one that was committed to."""
    return len(revealed) == LENGTH and commit(revealed) == committed


def epoch_of(either: bytes) -> int:
    """The epoch in a commit or reveal."""
    return int.from_bytes(either[:8], "big")


def value(epoch: int, reveals: Mapping[bytes, bytes], previous: bytes | None) -> bytes:
    """The shared random value of *epoch*.

    :param reveals: id of the authority -> its reveal.
    :param previous: the value of the epoch before, if we have it.
    """
    parts = [b"shared-random", epoch.to_bytes(8, "big")]
    for signer, revealed in sorted(reveals.items(), key=lambda item: item[1], reverse=True):
        parts += (signer, revealed)
    parts.append(previous or NO_PREVIOUS)
    return blake2b_256(b"".join(parts))


def prior_values(epoch: int, current: bytes, previous: Sequence[bytes]) -> tuple[bytes, bytes]:
    """``PriorSharedRandom`` of *epoch*, newest first.

    :param current: the value of *epoch*.
    :param previous: the prior values in the document of the epoch before; empty in a genesis epoch.
    """
    if not previous:
        return current, current
    if epoch % WEEK == 0:
        return current, previous[0]
    return previous[0], previous[1] if len(previous) > 1 else previous[0]
