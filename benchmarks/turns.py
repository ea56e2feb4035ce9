"""How long a document of thousands of nodes keeps the reactor of a program: each turn should be under 5 ms.

    python benchmarks/turns.py --role mix --nodes 10000
    python benchmarks/turns.py --role gateway --nodes 10000 --clients 200    # and that many clients fetch it at once
    python benchmarks/turns.py --role client --nodes 10000                   # the client daemon behind that gateway

The program is real (twistd), with a ticker in its reactor; a played authority hands it the document over a real link, a
played layer answers its dials. Turns are told for these moments: a document comes, the next one comes, the epoch
changes.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from _program import at_least, duration, parser, run, say, show, stand_back
from _reactor import run_in_reactor, sleep

sys.path.insert(0, str(Path(__file__).parent.parent))

from _crowd import KEM, Crowd
from _surroundings import Usage
from document import LEAST
from twisted.internet.defer import Deferred, gatherResults

from katzentwist.config.addresses import Address
from katzentwist.crypto import kem
from katzentwist.net.dialling import dial
from katzentwist.net.owner import ILink, LinkOwner
from katzentwist.wire import Command, SessionConfig, SessionKind
from katzentwist.wire.chunks import Reassembly
from katzentwist.wire.commands import Consensus2, GetConsensus2
from katzentwist.wire.legal import CLIENT

EARLY = 0.3
"""Part of an epoch that must be left when the program starts."""
ROLES = {"mix": ("mix1",), "gateway": ("gateway1",), "client": ("gateway1", "client")}


class Fetcher(LinkOwner):
    """A client that asks its gateway for a document. Only the first unpacks it: this process has other work."""

    def __init__(self, epoch: int, unpack: bool) -> None:
        self._epoch = epoch
        self._reassembly = Reassembly() if unpack else None
        self.document: Deferred[bytes] = Deferred()

    def established(self, link: ILink) -> None:
        """Ask."""
        link.send(GetConsensus2(epoch=self._epoch))

    def commandReceived(self, link: ILink, command: Command) -> None:
        """Collect."""
        if not isinstance(command, Consensus2):
            return
        if command.error_code:
            self.document.errback(RuntimeError(f"error code {command.error_code}"))
        elif self._reassembly is not None:
            pieces = self._reassembly.add(command)
            if pieces is not None:
                self.document.callback(b"".join(pieces))
        elif command.chunk_num + 1 == command.chunk_total:
            self.document.callback(b"")

    def closed(self, link: ILink, reason: Exception) -> None:
        """Too early?"""
        if not self.document.called:
            self.document.errback(reason)


async def fetch(crowd: Crowd, clients: int, epoch: int) -> float:
    """Seconds until so many clients have fetched the document, all at once."""
    node = next(n for n in crowd.network.nodes if n.name == "gateway1")
    address = Address("tcp", "127.0.0.1", int(node.addresses[0].rsplit(":", 1)[1]))
    fetchers = [Fetcher(epoch, unpack=i == 0) for i in range(clients)]
    began = time.monotonic()
    for fetcher in fetchers:
        private, public = kem.by_name(KEM).generate(crowd.context.random)
        config = SessionConfig(
            kem=kem.by_name(KEM),
            private=private,
            public=public,
            additional_data=crowd.context.random.bytes(16).hex().encode(),
            kind=SessionKind.MIXNET,
            sizes=crowd.sizes,
            accepts=CLIENT,
            handshake_timeout=60.0,
            read_timeout=None,
        )
        dial(crowd.context, crowd.transports, address, config, fetcher).addErrback(lambda _: None)
    documents = await gatherResults([fetcher.document for fetcher in fetchers], consumeErrors=True)
    if documents[0] != crowd.documents[epoch]:
        raise RuntimeError("the document that came is not the one that was published")
    return time.monotonic() - began


def links(metrics: str) -> tuple[int, int]:
    """Outgoing links (up, down)."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("katzenpost_outgoing_links"))
    up, down = (float(values.get(f'katzenpost_outgoing_links{{state="{s}"}}', 0)) for s in ("up", "down"))
    return int(up), int(down)


async def measure(crowd: Crowd, args: argparse.Namespace) -> dict[str, Any]:
    """All phases."""
    await crowd.listen()
    _, _, left = crowd.epochs.now(time.time())
    if left < EARLY * crowd.epochs.period:
        await sleep(left)  # too late for a document of this epoch
    running = ROLES[args.role]
    name = running[-1]
    usage = [Usage(crowd.start(each).pid) for each in running][-1]
    stand_back()
    epoch = crowd.epochs.number(time.time())

    async def until_served(number: int) -> float:
        while number not in crowd.served:
            crowd.check()
            await sleep(0.1)
        return crowd.served[number]

    figures: dict[str, Any] = {"role": args.role, "nodes": args.nodes}
    memory = 0
    say("waiting for the program to fetch the document")
    came = await until_served(epoch)
    metrics = next((n.metrics for n in crowd.network.nodes if n.name == name), "")
    await sleep(args.settle)
    figures["document bytes"] = len(crowd.documents[epoch])
    figures["the first document"] = crowd.turns(name, came - 0.1, time.monotonic())
    if metrics:
        say("waiting until all its links are up")
        while not figures.get("links up") or links(metrics)[1]:
            await sleep(1)
            figures["links up"] = links(metrics)[0]
        figures["until all links were up"] = crowd.turns(name, came - 0.1, time.monotonic())
        figures["seconds until all links were up"] = round(time.monotonic() - came, 1)
    if args.clients:
        say(f"{args.clients} clients fetch the document")
        began = time.monotonic()
        before, cpu = usage.memory(), usage.cpu()
        fetching = Deferred.fromCoroutine(fetch(crowd, args.clients, epoch))
        peak = 0
        while not fetching.called:
            peak = max(peak, usage.memory())
            await sleep(0.1)
        figures[f"{args.clients} clients fetch"] = {
            "seconds": round(await fetching, 1),
            "cpu ms per client": round((usage.cpu() - cpu) / args.clients * 1e3, 1),
            "memory MiB more": round((peak - before) / 2**20, 1),
            **crowd.turns(name, began, time.monotonic()),
        }
    say(f"waiting for the next document and the next epoch, {crowd.epochs.now(time.time())[2]:.0f} s")
    came = await until_served(epoch + 1)
    await sleep(args.settle)
    figures["the next document"] = crowd.turns(name, came - 0.1, time.monotonic())
    while crowd.epochs.number(time.time()) == epoch:
        memory = max(memory, usage.memory())
        await sleep(0.05)
    change = time.monotonic()
    await sleep(args.settle)
    figures["the epoch changes"] = crowd.turns(name, change - 0.2, time.monotonic())
    figures["memory MiB"] = round(max(memory, usage.memory()) / 2**20, 1)
    figures["cpu seconds"] = round(usage.cpu(), 1)
    crowd.check()
    return figures


def main() -> None:
    """The command line."""
    line = parser(__doc__)
    line.add_argument("--role", choices=ROLES, default="mix", help="of the program on trial")
    line.add_argument("--nodes", type=at_least(LEAST), default=10000, metavar="N", help="of the document")
    line.add_argument(
        "--clients", type=at_least(0), default=0, metavar="N", help="with --role gateway: clients that fetch at once"
    )
    line.add_argument("--epoch", type=duration, default="1m", metavar="TIME", help="its length")
    line.add_argument("--settle", type=at_least(0.0), default=6.0, metavar="SECONDS", help="to watch after each event")
    line.add_argument(
        "--blame",
        type=at_least(0.0),
        default=0.0,
        metavar="SECONDS",
        help="write the stacks of longer turns to the log",
    )
    line.add_argument("--keep", action="store_true", help="keep the folder with reports and logs")
    args = line.parse_args()
    if args.clients and args.role != "gateway":
        line.error("--clients need a gateway: write --role gateway, or leave them out")

    async def work() -> None:
        show(await measure(crowd, args), args.json)

    with contextlib.ExitStack() as stack:
        if args.keep:
            folder = tempfile.mkdtemp(prefix="katzentwist-turns-")
            stack.callback(say, folder)
        else:
            made = tempfile.TemporaryDirectory(prefix="katzentwist-turns-", ignore_cleanup_errors=True)
            folder = stack.enter_context(made)
        crowd = Crowd(Path(folder), args.nodes, args.epoch, ROLES[args.role], args.blame)
        run_in_reactor(work, clean_up=crowd.stop)


if __name__ == "__main__":
    run(main)
