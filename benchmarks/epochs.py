"""More than one ping per second over several epoch changes; each missing one must be found under a drop reason.

python benchmarks/epochs.py --changes 5
python benchmarks/epochs.py --changes 5 --kill      # kill -9 and restart a mix, then count from the second change on
python benchmarks/epochs.py --epoch 60s --providers 2 --busy 4      # on a machine that has other work too
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from katzentwist.testnet.plan import Shape
from tests.e2e.processes import LiveNetwork

INTERVAL = 1 / (1.1 * 1.5)
"""Seconds per packet that the gateway's rate limit leaves a client with the rates of a test network."""


@contextlib.contextmanager
def other_work(loops: int) -> Iterator[None]:
    """So many endless loops beside."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epoch", default="30s")
    parser.add_argument("--changes", type=int, default=5)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--providers", type=int, default=1)
    parser.add_argument("--busy", type=int, default=0, help="endless loops beside it")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with other_work(args.busy), LiveNetwork(Shape(epoch=args.epoch, providers=args.providers)) as net:
        net.start()
        first = net.epochs.number(time.time())
        if args.kill:
            net.child("mix2").process.kill()
            net.child("mix2").process.wait()
            net.children.restart("mix2")
            while net.epochs.number(time.time()) < first + 2:
                time.sleep(0.2)
            first += 2
        seconds = net.epochs.start(first + args.changes) - time.time() + 1
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
    print(json.dumps(figures, indent=2) if args.json else "\n".join(f"{k}: {v}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
