"""How fast this host unwraps packets; sets the scheduler's default burst (spec: node 1.4).

The measurement takes milliseconds with the native core, so nothing is cached.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import attrs

from katzentwist.mix.mixkeys import MixKeys
from katzentwist.randomness import IRandom
from katzentwist.sphinx import Geometry, NodeDelay, PathHop, Recipient, build, unwrap_batch

ROUNDS = 5


@attrs.frozen
class SelfCheck:
    """Unwraps per second, on one thread and on all cores."""

    solo: float
    saturated: float
    cpus: int


def measure(geometry: Geometry, random: IRandom, cpus: int) -> SelfCheck:
    """Build one packet of two hops, and unwrap its first one again and again."""
    keys = MixKeys(geometry, random)
    keys.generate(0)
    (first, second) = (keys.candidates(0)[0], keys.candidates(1)[0])
    path = [
        PathHop(bytes(32), first.public, (NodeDelay(1),)),
        PathHop(bytes(32), second.public, (NodeDelay(1), Recipient(bytes(32)))),
    ]
    packet = build(path, bytes(geometry.forward_payload_length), geometry, random)

    def work(_: int) -> float:
        began = time.perf_counter()
        unwrap_batch([first.private], [packet] * ROUNDS, geometry)
        return time.perf_counter() - began

    work(0)
    solo = ROUNDS / max(work(0), 1e-9)
    with ThreadPoolExecutor(cpus) as pool:
        began = time.perf_counter()
        list(pool.map(work, range(cpus)))
        saturated = ROUNDS * cpus / max(time.perf_counter() - began, 1e-9)
    return SelfCheck(solo, saturated, cpus)
