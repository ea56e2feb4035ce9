"""Which mix stands in which layer, and the decoy rate that follows (spec: pki 9, 7.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from katzentwist.crypto.keystream import Keystream
from katzentwist.pki.descriptor import Descriptor

Layers = list[list[Descriptor]]
T = TypeVar("T")
_MASK = (1 << 63) - 1


class Permutations:
    """Permutations drawn from the ChaCha20 keystream of a shared random value.

    :param key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._stream = Keystream(key)
        self._buffer = b""

    def _draw31(self) -> int:
        if not self._buffer:
            self._buffer = self._stream.read(1024)
        piece, self._buffer = self._buffer[:8], self._buffer[8:]
        return (int.from_bytes(piece, "little") & _MASK) >> 32

    def _below(self, bound: int) -> int:
        if bound & (bound - 1) == 0:
            return self._draw31() & (bound - 1)
        limit = 2**31 - 1 - (2**31 % bound)
        while True:
            draw = self._draw31()
            if draw <= limit:
                return draw % bound

    def perm(self, n: int) -> list[int]:
        """A permutation of ``range(n)``."""
        out = [0] * n
        for i in range(n):
            j = self._below(i + 1)
            out[i] = out[j]
            out[j] = i
        return out


def fixed(layers: Sequence[Sequence[bytes]], nodes: Mapping[bytes, Descriptor]) -> Layers:
    """The configured layers, without the nodes that did not upload.

    :param layers: ids of the nodes of each layer.
    :param nodes: what was uploaded, by id.
    """
    return [[nodes[node] for node in layer if node in nodes] for layer in layers]


def random(nodes: Sequence[Descriptor], layers: int, srv: bytes) -> Layers:
    """A fresh assignment.

    :param nodes: the mixes, in any order.
    :param layers: number of layers.
    :param srv: the shared random value of the epoch.
    """
    ordered = _sorted(nodes)
    out: Layers = [[] for _ in range(layers)]
    for position, index in enumerate(Permutations(srv).perm(len(ordered))):
        out[position % layers].append(ordered[index])
    return out


def derived(nodes: Sequence[Descriptor], previous: Sequence[Sequence[bytes]], layers: int, srv: bytes) -> Layers:
    """An assignment that keeps nodes in the layer where they were.

    :param previous: ids of the nodes of each layer of the document before. A document with another number of layers
        can not be followed: then :func:`random` is used.
    """
    if len(previous) != layers:
        return random(nodes, layers, srv)
    draws = Permutations(srv)
    target = len(nodes) // layers
    rest = {node.id: node for node in nodes}
    out: Layers = [[] for _ in range(layers)]
    for members, old in zip(out, previous, strict=True):
        for index in draws.perm(len(old)):
            if len(members) >= target:
                break
            if old[index] in rest:
                members.append(rest.pop(old[index]))
    left = _sorted(list(rest.values()))
    order = iter([left[index] for index in draws.perm(len(left))])
    for members in out:
        while len(members) < target:
            members.append(next(order))
    for position, node in enumerate(order):
        out[position % layers].append(node)
    return out


def lambda_g(*, gateways: int, widest: int, mu: float, lambda_p: float, lambda_l: float) -> float:
    """The rate of gateway decoys (spec: pki 7.3).

    :param gateways: number of gateways in the configuration.
    :param widest: largest number of mixes in a layer.
    """
    if gateways == 0 or widest <= 1:
        return lambda_p + lambda_l
    return widest * widest * math.log(widest) * mu / gateways


def _sorted(nodes: Sequence[Descriptor]) -> list[Descriptor]:
    return sorted(nodes, key=lambda node: node.id)
