"""What Sphinx costs, in microseconds and in X25519 multiplications (x25519, 5 hops, 2000 bytes of user payload).

python benchmarks/sphinx.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from _measure import best_us, thread_gain
from _program import parser, run, show

from katzentwist import sphinx
from katzentwist.crypto import aez, native, nike
from katzentwist.randomness import SystemRandom
from katzentwist.sphinx import Geometry, NodeDelay, PathHop, Recipient, SurbReply
from tests.sphinxcases import Twin

BATCH = 64


def measure() -> dict[str, float | str]:
    """All figures; those of the native core only where it is there."""
    random = SystemRandom()
    geometry = Geometry.from_user_payload(2000, 5)
    pairs = [nike.x25519.generate(random) for _ in range(5)]
    path = [PathHop(random.bytes(32), public, [NodeDelay(100)]) for _, public in pairs]
    path[-1] = PathHop(path[-1].id, path[-1].public_key, [NodeDelay(100), Recipient(bytes(32))])
    reply_path = [*path[:-2], PathHop(path[-1].id, path[-1].public_key, [Recipient(bytes(32)), SurbReply(bytes(16))])]
    payload = random.bytes(geometry.forward_payload_length)
    packet = sphinx.build(path, payload, geometry)
    keys = [private for private, _ in pairs]

    figures: dict[str, float | str] = {"core": native.description()}
    multiplication = best_us(lambda: nike.x25519.derive(keys[0], pairs[1][1]))
    figures["x25519 us"] = multiplication
    figures["unwrap, one packet us"] = best_us(lambda: sphinx.unwrap(keys[0], packet, geometry))
    figures["unwrap by the twin us"] = best_us(lambda: Twin.unwrap(keys[0], packet, geometry))
    figures["aez 2574 bytes by the twin us"] = best_us(
        lambda: aez.Aez(bytes(48)).encrypt(bytes(16), (), 0, bytes(2574))
    )
    if native.native is None:
        return figures

    batch = [packet] * BATCH
    each = best_us(lambda: sphinx.unwrap_batch(keys[:1], batch, geometry)) / BATCH
    figures["unwrap in batches us"] = each
    figures["unwrap in batches, multiplications"] = each / multiplication
    third = [keys[1], keys[2], keys[0]]
    figures["unwrap with the third key us"] = best_us(lambda: sphinx.unwrap_batch(third, batch, geometry)) / BATCH
    figures["twin / native, unwrap"] = float(figures["unwrap by the twin us"]) / each
    figures["two threads / one"] = thread_gain(lambda: sphinx.unwrap_batch(keys[:1], batch, geometry))
    built = best_us(lambda: sphinx.build(path, payload, geometry))
    figures["build, 5 hops us"] = built
    figures["build, 5 hops, multiplications"] = built / multiplication
    figures["new SURB, 4 hops us"] = best_us(lambda: sphinx.new_surb(reply_path, geometry))

    figures["aez 2574 bytes us"] = best_us(lambda: aez.encrypt(bytes(48), bytes(16), (), 0, bytes(2574)))
    packets = [packet] * BATCH
    sealer = native.native.RecordSealer(bytes(32))
    figures["seal a record of 3100 bytes us"] = best_us(lambda: sealer.seal_packets(packets, 3100)) / BATCH
    native.native.force_portable(True)
    figures["portable x25519 us"] = best_us(lambda: nike.x25519.derive(keys[0], pairs[1][1]))
    figures["portable aez 2574 bytes us"] = best_us(lambda: aez.encrypt(bytes(48), bytes(16), (), 0, bytes(2574)))
    figures["portable unwrap us"] = best_us(lambda: sphinx.unwrap_batch(keys[:1], batch, geometry)) / BATCH
    native.native.force_portable(False)
    return figures


def main() -> None:
    """Measure and print."""
    args = parser(__doc__).parse_args()
    figures = measure()
    if not args.json:
        figures = {name: value if isinstance(value, str) else f"{value:.2f}" for name, value in figures.items()}
    show(figures, args.json)


if __name__ == "__main__":
    run(main)
