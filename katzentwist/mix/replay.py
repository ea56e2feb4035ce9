"""Replay detection: which packets a mix key has seen (spec: node 3.3).

The set keeps 8 bytes per packet: a keyed hash of the tag. Two packets collide with probability 2^-64 per pair, so no
honest packet is refused in practice, and the key, random per set, keeps senders from making collisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from katzentwist.crypto.hash import hmac_sha256
from katzentwist.crypto.native import native
from katzentwist.randomness import IRandom

TAG_SIZE = 32
KEY_SIZE = 16
ENTRY_SIZE = 8


class ReplaySet:
    """The tags seen under one mix key, in pure Python; the native core has the compact form of the same."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._seen: set[int] = set()

    def test_and_set(self, tags: Sequence[bytes]) -> list[bool]:
        """For each tag, whether it was seen before (in this batch too); all are seen afterwards."""
        out = []
        for tag in tags:
            # A zero entry counts as one: the native core marks free slots with zero.
            entry = int.from_bytes(hmac_sha256(self.key, tag)[:ENTRY_SIZE], "little") or 1
            replayed = len(tag) != TAG_SIZE or entry in self._seen
            if not replayed:
                self._seen.add(entry)
            out.append(replayed)
        return out

    def __len__(self) -> int:
        return len(self._seen)

    def dump(self) -> Iterable[bytes]:
        """The entries, in pieces, for :meth:`restore`."""
        yield b"".join(entry.to_bytes(ENTRY_SIZE, "little") for entry in self._seen)

    def restore(self, entries: bytes) -> None:
        """Add entries that :meth:`dump` gave."""
        usable = len(entries) - len(entries) % ENTRY_SIZE
        self._seen.update(int.from_bytes(entries[i : i + ENTRY_SIZE], "little") for i in range(0, usable, ENTRY_SIZE))


def new_replay_set(random: IRandom, key: bytes | None = None) -> ReplaySet:
    """An empty set; native where the core has one."""
    key = key or random.bytes(KEY_SIZE)
    return ReplaySet(key) if native is None else native.ReplaySet(key)
