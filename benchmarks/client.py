"""Many applications on one daemon: latencies, throughput, memory, CPU per packet.

    python benchmarks/client.py --apps 100 --messages 50 --rate 100

Starts a network and a daemon as real processes. LambdaP is raised to *rate* packets per second, since it is what paces
all applications together; every reply is checked to be for its asker. With ``--deaf`` one more application asks for
documents all the time and reads none.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from _program import at_least, parser, run, say, show
from _rig import mib
from _surroundings import Usage

from katzentwist.testnet.plan import Shape
from katzentwist.thin import ThinClientError
from katzentwist.thin.aio import ThinClient
from katzentwist.thin.config import load_dial
from katzentwist.thin.protocol import encode_request
from tests.e2e.processes import LiveNetwork

DEAF_RATE = 400
"""Requests per second: some MB of answers."""


async def be_deaf(thin: Path) -> dict[str, Any]:
    """Ask and never read, until the daemon has enough of it."""
    host, _, port = load_dial(thin).address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1)
    began, asked = time.monotonic(), 0
    request = encode_request("get_pki_document", query_id=bytes(16), epoch=0)
    while not writer.is_closing():
        writer.write(request)
        asked += 1
        await asyncio.sleep(max(0.0, began + asked / DEAF_RATE - time.monotonic()))
    seconds = round(time.monotonic() - began, 1)
    return {"seconds until the application that does not read was cut off": seconds, "its requests": asked}


async def measure(thin: Path, usage: Usage, apps: int, messages: int, patience: float, deaf: bool) -> dict[str, Any]:
    """Connect, idle, then send."""
    probe = ThinClient(thin)
    for _ in range(100):
        try:
            await probe.start()
            break
        except ThinClientError:
            await asyncio.sleep(0.2)
    for _ in range(300):
        if probe.is_connected() and probe.pki_document() is not None:
            break
        await asyncio.sleep(0.1)
    before = usage.memory()
    clients = [ThinClient(thin) for _ in range(apps)]
    for client in clients:
        await client.start()
    await asyncio.sleep(1)
    each = (usage.memory() - before) / apps / 1024
    figures: dict[str, Any] = {
        "applications": apps,
        "memory MiB with idle applications": mib(usage.memory()),
        "KiB per idle application": round(each, 1),
    }

    latencies: list[float] = []
    failures: list[Exception] = []
    wrong = 0

    async def use(number: int, client: ThinClient) -> None:
        nonlocal wrong
        node, queue = client.get_service("echo").to_destination()

        async def one(i: int) -> None:
            nonlocal wrong
            payload = b"application %d message %d." % (number, i)
            began = time.monotonic()
            try:
                reply = await client.blocking_send_message(payload, node, queue, patience)
            except ThinClientError as e:
                failures.append(e)
                return
            latencies.append(time.monotonic() - began)
            wrong += not reply.startswith(payload)

        await asyncio.gather(*(one(i) for i in range(messages)))

    say(f"{apps * messages} messages")
    beside = asyncio.ensure_future(be_deaf(thin)) if deaf else None
    began, spent = time.monotonic(), usage.cpu()
    results = await asyncio.gather(*(use(i, c) for i, c in enumerate(clients)), return_exceptions=True)
    seconds, used = time.monotonic() - began, usage.cpu() - spent
    failures += [r for r in results if isinstance(r, Exception)]
    latencies.sort()
    count = apps * messages
    for failure in failures[:3]:
        print(repr(failure), file=sys.stderr)
    figures |= {
        "messages": count,
        "replies": len(latencies),
        "replies to the wrong asker": wrong,
        "seconds": round(seconds, 1),
        "cpu us per message with its reply": round(used / count * 1e6),
        "memory MiB at the end": mib(usage.memory()),
    }
    for share in (0.05, 0.5, 0.95, 0.99):
        if latencies:
            figures[f"latency s with the queue, {share:.0%}"] = round(latencies[int(len(latencies) * share)], 2)
    if beside is not None:
        figures |= await asyncio.wait_for(beside, 90)
    single = []
    node, queue = probe.get_service("echo").to_destination()
    for _ in range(20):
        began = time.monotonic()
        await probe.blocking_send_message(b"alone", node, queue, 60)
        single.append(time.monotonic() - began)
    figures["latency s without a queue, median of 20"] = round(statistics.median(single), 3)
    await asyncio.gather(*(c.stop() for c in [probe, *clients]))
    return figures


def main() -> None:
    """Run it."""
    line = parser(__doc__)
    line.add_argument("--apps", type=at_least(1), default=100, metavar="N", help="applications")
    line.add_argument("--messages", type=at_least(1), default=50, metavar="N", help="messages of each")
    line.add_argument("--rate", type=at_least(0.1), default=100.0, metavar="N", help="packets per second of the daemon")
    line.add_argument("--deaf", action="store_true", help="one more application that never reads")
    args = line.parse_args()
    say("starting the network")
    shape = Shape(epoch="5m", lambda_p=args.rate / 1000, lambda_l=0.0001, mu=0.05)
    with LiveNetwork(shape) as net:
        net.start()
        net.children.add(net.network.daemon())
        usage = Usage(net.child("client").process.pid)
        patience = 2 * args.apps * args.messages / args.rate + 10
        thin = net.network.client / "thinclient.toml"
        figures = asyncio.run(measure(thin, usage, args.apps, args.messages, patience, args.deaf))
        figures["dropped by the nodes"] = {reason: count for reason, count in net.drops().items() if count}
    show(figures, args.json)


if __name__ == "__main__":
    run(main)
