"""What the Sphinx tests share: the two implementations, vectors as objects, random paths."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from katzentwist import sphinx
from katzentwist.crypto import aez, nike
from katzentwist.crypto.native import native
from katzentwist.randomness import IRandom, SeededRandom
from katzentwist.sphinx import (
    Command,
    Geometry,
    NextNodeHop,
    NodeDelay,
    PathHop,
    Recipient,
    SurbReply,
    Unwrapped,
    twin,
)
from tests.vectorfiles import unhex

SMALL = Geometry.from_user_payload(100, 3)


@contextlib.contextmanager
def pure_python() -> Iterator[None]:
    """AEZ and X25519 without the native core, too."""
    before = aez.native, nike._SCHEMES["x25519"]
    aez.native, nike._SCHEMES["x25519"] = None, nike.X25519()
    try:
        yield
    finally:
        aez.native, nike._SCHEMES["x25519"] = before


class Twin:
    """The pure-Python implementation."""

    skip: str | None = None

    @staticmethod
    @pure_python()
    def build(path: Sequence[PathHop], payload: bytes, geometry: Geometry, random: IRandom) -> bytes:
        return twin.build(path, payload, geometry, random)

    @staticmethod
    @pure_python()
    def new_surb(path: Sequence[PathHop], geometry: Geometry, random: IRandom) -> tuple[bytes, bytes]:
        return twin.new_surb(path, geometry, random)

    @staticmethod
    @pure_python()
    def packet_from_surb(surb: bytes, reply: bytes, geometry: Geometry) -> tuple[bytes, bytes]:
        return twin.packet_from_surb(surb, reply, geometry)

    @staticmethod
    @pure_python()
    def decrypt_reply(keys: bytes, payload: bytes) -> bytes:
        return twin.decrypt_reply(keys, payload)

    @staticmethod
    @pure_python()
    def unwrap(private_key: bytes, packet: bytes, geometry: Geometry) -> Unwrapped:
        return twin.unwrap(private_key, packet, geometry)

    @staticmethod
    @pure_python()
    def unwrap_batch(keys: Sequence[bytes], packets: Sequence[bytes], geometry: Geometry) -> list[sphinx.BatchResult]:
        return twin.unwrap_batch(keys, packets, geometry)


class Native(Twin):
    """The public functions, which take the native core where it is there."""

    skip = None if native is not None else "the native core is not built"

    build = staticmethod(sphinx.build)
    new_surb = staticmethod(sphinx.new_surb)
    packet_from_surb = staticmethod(sphinx.packet_from_surb)
    decrypt_reply = staticmethod(sphinx.decrypt_reply)
    unwrap = staticmethod(sphinx.unwrap)
    unwrap_batch = staticmethod(sphinx.unwrap_batch)


class ScriptedRandom(SeededRandom):
    """Gives the bytes it was made with, and fails when they are over."""

    def __init__(self, *parts: bytes) -> None:
        super().__init__("scripted")
        self.left = b"".join(parts)

    def bytes(self, n: int) -> bytes:
        if n > len(self.left):
            raise AssertionError(f"{n} more bytes drawn, {len(self.left)} left")
        out, self.left = self.left[:n], self.left[n:]
        return out


def command(vector: dict[str, Any]) -> Command:
    """A command as the vectors write it."""
    match vector["type"]:
        case "next_node_hop":
            return NextNodeHop(unhex(vector["id"]), unhex(vector["mac"]))
        case "recipient":
            return Recipient(unhex(vector["id"]))
        case "surb_reply":
            return SurbReply(unhex(vector["id"]))
        case "node_delay":
            return NodeDelay(vector["delay"])
    raise AssertionError(vector["type"])


def commands(vectors: Sequence[dict[str, Any]] | None) -> tuple[Command, ...]:
    """A list of commands of the vectors."""
    return tuple(command(vector) for vector in vectors or ())


def path(case: dict[str, Any]) -> list[PathHop]:
    """The path of a vector."""
    return [PathHop(unhex(n["id"]), unhex(n["public_key"]), commands(n["commands"])) for n in case["nodes"]]


def random_path(random: IRandom, hops: int, *, reply: bool = False) -> tuple[list[bytes], list[PathHop]]:
    """(private keys, path) with commands as clients write them."""
    pairs = [nike.x25519.generate(random) for _ in range(hops)]
    nodes = []
    for i, (_, public) in enumerate(pairs):
        wanted: list[Command] = []
        if i < hops - 1 or not reply:
            wanted.append(NodeDelay(random.below(2**32)))
        if i == hops - 1:
            wanted.append(Recipient(random.bytes(32)))
            if reply:
                wanted.append(SurbReply(random.bytes(16)))
        nodes.append(PathHop(random.bytes(32), public, tuple(wanted)))
    return [private for private, _ in pairs], nodes
