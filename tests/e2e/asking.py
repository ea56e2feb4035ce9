"""A client for tests: ``python -m tests.e2e.asking CLIENT.TOML ENDPOINT TEXT``, or ``... --burst N --quiet S``.

Prints the reply as hex, or nothing and status 1 when none comes; with ``--burst`` how many of N packets that were sent
at once came back.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from katzentwist.client import tool
from katzentwist.client.compose import Outgoing
from katzentwist.randomness import SystemRandom


def main() -> int:
    """Ask."""
    parser = argparse.ArgumentParser()
    parser.add_argument("client")
    parser.add_argument("endpoint")
    parser.add_argument("text")
    parser.add_argument("--no-surb", action="store_true")
    parser.add_argument("--burst", type=int, default=1)
    parser.add_argument("--quiet", type=float, default=0.0)
    parser.add_argument("--patience", type=float, default=10.0)
    parser.add_argument("--gateway", default="")
    parser.add_argument("--service", default="")
    args = parser.parse_args()

    async def ask(reactor: Any) -> int:
        own = tool.Tool(reactor, tool.read_config(Path(args.client)), gateway=args.gateway)
        own.start()
        try:
            document = await own.ready()
            await deferLater(reactor, args.quiet)
            node = next(d.id for d in document.service_nodes if args.service in ("", d.name))
            replies = [await send(own, node) for _ in range(args.burst)]
            if args.no_surb:
                await deferLater(reactor, 2.0)
                return 0
            results = await DeferredList(replies, consumeErrors=True)
        finally:
            await own.stop()
        good = [reply for success, reply in results if success]
        print(len(good) if args.burst > 1 else "".join(r.hex() for r in good))
        return 0 if good else 1

    async def send(own: tool.Tool, node: bytes) -> Deferred[bytes]:
        reply: Deferred[bytes] = Deferred()
        message = Outgoing(
            destination=node,
            recipient=args.endpoint.encode(),
            payload=args.text.encode(),
            surb_id=None if args.no_surb else SystemRandom().bytes(16),
        )
        await own.client.send(message, tag=reply)
        return reply.addTimeout(args.patience, own.reactor)

    return tool.run(ask)


if __name__ == "__main__":
    sys.exit(main())
