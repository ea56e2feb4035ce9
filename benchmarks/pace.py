"""The client daemon at a high LambdaP: what a packet costs it.

    python benchmarks/pace.py --lambda-p 0.1      # one packet in 10 ms

A network of real processes with a gateway, three mixes, a service node and a client daemon without applications: every
tick builds and sends a decoy loop, whose reply comes back. The packets are counted by the gateway.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from _measure import best_us
from _program import at_least, parser, run, say, show
from _surroundings import Usage

from katzentwist.crypto import nike
from katzentwist.testnet.plan import Shape
from tests.e2e.processes import LiveNetwork, metrics, wait_for

REQUESTS = re.compile(r'katzenpost_incoming_requests_total\{.*command="\*commands\.(\w+)".*\}')


def requests(net: LiveNetwork) -> dict[str, float]:
    """Commands that the gateway received, by type."""
    series = metrics(net.node("gateway1"))
    return {match[1]: value for name, value in series.items() if (match := REQUESTS.fullmatch(name))}


def watch(net: LiveNetwork, seconds: float, warmup: float) -> dict[str, Any]:
    """Watch the daemon."""
    say("starting the network")
    net.start()
    net.children.add(net.network.daemon())
    wait_for("the daemon to connect", lambda: metrics(net.node("gateway1")).get("katzenpost_clients"))
    say(f"watching the daemon for {warmup + seconds:g} s")
    time.sleep(warmup)
    usage = Usage(net.child("client").process.pid)
    begin, cpu, counts = time.monotonic(), usage.cpu(), requests(net)
    time.sleep(seconds)
    spent, wall, after = usage.cpu() - cpu, time.monotonic() - begin, requests(net)
    taken = after.get("MessageDelivered", 0) - counts.get("MessageDelivered", 0)
    # Each loop comes to the gateway twice: from the client, and from the last layer; then the client acknowledges it.
    sent = after["SendPacket"] - counts["SendPacket"] - taken
    x25519 = nike.by_name("x25519")
    one = best_us(lambda: x25519.derive(bytes(range(32)), bytes([9]) + bytes(31)))
    return {
        "packets sent per second": round(sent / wall, 1),
        "replies taken per second": round(taken / wall, 1),
        "cpu us per packet built and sent, its reply taken": round(spent / sent * 1e6),
        "in X25519 multiplications": round(spent / sent * 1e6 / one, 1),
        "cpu share": round(spent / wall, 3),
        "memory MiB": round(usage.memory() / 2**20, 1),
        "drops in the network": net.drops(),
    }


def main() -> None:
    """The command line."""
    line = parser(__doc__)
    line.add_argument("--lambda-p", type=at_least(1e-4), default=0.1, metavar="N", help="packets per ms")
    line.add_argument("--seconds", type=at_least(1.0), default=20.0, help="to watch the daemon")
    line.add_argument("--warmup", type=at_least(0.0), default=5.0, metavar="SECONDS", help="before them")
    args = line.parse_args()
    rates = {"lambda_p": args.lambda_p, "lambda_l": 0.0001, "lambda_m": 0.0, "mu": 0.05}
    with LiveNetwork(Shape(providers=0, gateways=1, service_nodes=1, epoch="5m", **rates)) as net:
        figures = watch(net, args.seconds, args.warmup)
    show(figures, args.json)


if __name__ == "__main__":
    run(main)
