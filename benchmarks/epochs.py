"""More than one ping per second over several epoch changes; each missing one must be found under a drop reason.

python benchmarks/epochs.py --changes 5
python benchmarks/epochs.py --changes 5 --kill      # kill -9 a mix, start it again, count from the second change on
python benchmarks/epochs.py --epoch 60s --providers 2 --busy 4      # on a machine that has other work too
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from _program import at_least, duration, parser, run, say, show

from katzentwist.testnet.plan import Shape
from tests.e2e.processes import LiveNetwork

INTERVAL = 1 / (1.1 * 1.5)
"""Seconds per packet that the gateway's rate limit leaves a client with the rates of a test network."""

LOOP = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
"""Endless, as long as we are there."""


@contextlib.contextmanager
def other_work(loops: int) -> Iterator[None]:
    """So many endless loops beside."""
    running = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main() -> None:
    """Run and print."""
    line = parser(__doc__)
    line.add_argument("--epoch", type=duration, default="30s", metavar="TIME", help="its length")
    line.add_argument("--changes", type=at_least(1), default=5, metavar="N", help="of the epoch, while it pings")
    line.add_argument("--kill", action="store_true", help="kill a mix first, and start it again")
    line.add_argument("--providers", type=at_least(1), default=1, metavar="N", help="in the network")
    line.add_argument("--busy", type=at_least(0), default=0, metavar="N", help="endless loops beside it")
    args = line.parse_args()
    say("starting the network")
    with other_work(args.busy), LiveNetwork(Shape(epoch=args.epoch, providers=args.providers)) as net:
        net.start()
        first = net.epochs.number(time.time())
        if args.kill:
            wait = net.epochs.start(first + 2) - time.time()
            say(f"killing a mix, and waiting for the epoch after the next, {wait:.0f} s")
            net.child("mix2").process.kill()
            net.child("mix2").process.wait()
            net.children.restart("mix2")
            while net.epochs.number(time.time()) < first + 2:
                time.sleep(0.2)
            first += 2
        seconds = net.epochs.start(first + args.changes) - time.time() + 1
        say(f"pinging for {seconds:.0f} s")
        done = net.ping(int(seconds / INTERVAL), "-C", "10", "--json", timeout=seconds + 120)
        passed = net.epochs.number(time.time()) - first
        result, drops = json.loads(done.stdout), net.drops()
    excess = sorted(p["seconds"] - p["expected"] for p in result["pings"] if not p["error"])
    figures = {
        "epoch": args.epoch,
        "epoch changes": passed,
        "pings": result["sent"],
        "came back": result["received"],
        "share": round(result["received"] / result["sent"], 4),
        "drops": drops,
        "beyond the encoded delays, ms": {
            "median": round(excess[len(excess) // 2] * 1e3, 1),
            "max": round(excess[-1] * 1e3, 1),
            "min": round(excess[0] * 1e3, 1),
        },
    }
    show(figures, args.json)


if __name__ == "__main__":
    run(main)
