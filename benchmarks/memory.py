"""Memory of a mix: idle, and for each packet that waits in it.

    python benchmarks/memory.py --packets 20000

A real twistd mix (see load.py) is fed with packets that have long delays; when half and when all of them wait, its
memory is read. The difference between the two is told per packet, beside the size of the packet.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from _measure import show
from _reactor import run_in_reactor

sys.path.insert(0, str(Path(__file__).parent.parent))

from _surroundings import GEOMETRY, HOST, Surroundings, Usage, _sleep
from load import TWISTD, prepare, start
from twisted.internet.threads import deferToThread

from katzentwist.sphinx import PathHop

MU = 1e-6
"""Delays of a quarter of an hour in the mean: nothing leaves meanwhile."""
BATCH = 32


def waiting(port: int) -> int:
    """Packets that wait for their time."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith("katzenpost_delayed_packets"))


async def measure(around: Surroundings, packets: int) -> dict[str, Any]:
    """Start the mix, fill it, look."""
    config = around.write_node()
    await around.listen()
    process = start(TWISTD, config)
    try:
        epoch = around.epochs.number(around.context.clock.wallclock())
        descriptor = await around.uploaded(epoch)
        await around.connect()
        await _sleep(2)
        usage = Usage(process.pid)
        idle = usage.memory()
        mix = PathHop(around.node.id, descriptor.mix_keys[epoch], ())
        made = await deferToThread(prepare, mix, around.receivers, packets, MU)
        seen = []
        for half in (made[: packets // 2], made[packets // 2 :]):
            for at in range(0, len(half), BATCH):
                around.senders[0].link.sendPackets([packet[0] for packet in half[at : at + BATCH]])
                await _sleep(0.01)
            await _sleep(1)
            seen.append((await deferToThread(waiting, around.metrics_port), usage.memory()))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
    (few, before), (many, after) = seen
    each = (after - before) / (many - few)
    return {
        "memory MiB idle": round(idle / 2**20, 1),
        "packets waiting": many,
        "memory MiB with them": round(after / 2**20, 1),
        "bytes per waiting packet": round(each),
        "packet length": GEOMETRY.packet_length,
        "bytes per waiting packet beyond its length": round(each - GEOMETRY.packet_length),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=20000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="katzentwist-memory-"))
    around = Surroundings(folder, 1, 1, MU)

    async def work() -> None:
        show(await measure(around, args.packets), args.json)

    def clean_up() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        around.workers.stop()

    run_in_reactor(work, clean_up=clean_up)


if __name__ == "__main__":
    main()
