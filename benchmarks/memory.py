"""Memory of a mix: idle, and for each packet that waits in it.

    python benchmarks/memory.py --packets 20000

A real twistd mix (see load.py) is fed with packets that have long delays; when half and when all of them wait, its
memory is read. The difference between the two is told per packet, beside the size of the packet.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from _node import TWISTD
from _program import at_least, parser, run, say, show
from _reactor import sleep
from _rig import Rig, mib, run_rig
from _surroundings import GEOMETRY, Surroundings

from katzentwist.mix.scheduler import MOST

MU = 1e-6
"""Delays of a quarter of an hour in the mean: nothing leaves meanwhile."""
RATE = 2000.0
SETTLE = 2.0
"""Seconds until a node that has its links is idle, and until what was fed waits."""


async def measure(rig: Rig, packets: int, as_json: bool) -> None:
    """Fill the mix, and look before, when half of the packets wait, and when all do."""
    await sleep(SETTLE)
    idle = rig.node.usage.memory()
    await rig.load(packets)
    say(f"feeding for {packets / RATE:g} s")
    seen = []
    for _ in range(2):
        await rig.traffic.feed(RATE, packets / 2 / RATE)
        await sleep(SETTLE)
        seen.append((await rig.node.waiting(), rig.node.usage.memory()))
    (few, before), (many, after) = seen
    each = (after - before) / (many - few)
    show(
        {
            "memory MiB idle": mib(idle),
            "packets waiting": many,
            "memory MiB with them": mib(after),
            "bytes per waiting packet": round(each),
            "packet length": GEOMETRY.packet_length,
            "bytes per waiting packet beyond its length": round(each - GEOMETRY.packet_length),
        },
        as_json,
    )


def main() -> None:
    """The command line."""
    line = parser(__doc__)
    line.add_argument(
        "--packets", type=at_least(2, MOST), default=20000, help=f"at most {MOST}, which is all that a mix keeps"
    )
    args = line.parse_args()
    run_rig(
        lambda folder: Surroundings(folder, 1, 1, MU),
        lambda rig: measure(rig, args.packets, args.json),
        command=TWISTD,
        patience=60.0,
    )


if __name__ == "__main__":
    run(main)
