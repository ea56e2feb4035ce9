"""Clients for tests of users and spools: ``python -m tests.e2e.mailing CLIENT.TOML COMMAND ...``.

``send NODE USER TEXT...`` sends plain messages to a user at a service node; ``--acks`` waits for the SURB-ACKs.
``away NODE COUNT`` sends requests to echo, hangs up, connects again and prints how many replies came.
``hold SECONDS`` connects, says ``up``, and prints how often the connection was lost.
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


class Counting(tool.Tool):
    """Counts what happens."""

    replies = losses = 0

    def replied(self, reply: Any) -> None:
        self.replies += 1
        super().replied(reply)

    def disconnected(self, reason: str) -> None:
        self.losses += 1
        super().disconnected(reason)


async def send(own: Counting, node: str, recipient: str, text: bytes, surb: bool) -> Deferred[bytes]:
    """One message to a recipient at the service node of this name."""
    document = await own.ready()
    (destination,) = [d.id for d in document.service_nodes if d.name == node]
    reply: Deferred[bytes] = Deferred()
    message = Outgoing(
        destination=destination,
        recipient=recipient.encode(),
        payload=text,
        surb_id=SystemRandom().bytes(16) if surb else None,
    )
    await own.client.send(message, tag=reply)
    return reply


async def run_send(own: Counting, args: argparse.Namespace) -> int:
    replies = []
    for text in args.texts:
        # One after the other, so that the order in which they arrive is the order in which they are sent.
        reply = await send(own, args.node, args.recipient, text.encode(), args.acks)
        if args.acks:
            reply.addTimeout(args.patience, own.reactor)
            replies += await DeferredList([reply], consumeErrors=True)
        else:
            await deferLater(own.reactor, args.pause)
    print(sum(success for success, _ in replies) if args.acks else len(args.texts))
    return 0


async def run_away(own: Counting, args: argparse.Namespace) -> int:
    await own.ready()
    replies = [await send(own, args.node, "+echo", b"%d" % n, True) for n in range(args.count)]
    own.client._link.close()
    results = await DeferredList([r.addTimeout(30, own.reactor) for r in replies], consumeErrors=True)
    good = [payload.rstrip(b"\0") for success, payload in results if success]
    await deferLater(own.reactor, 1.0)
    print(len(set(good)), own.replies, own.losses)
    return 0


async def run_hold(own: Counting, args: argparse.Namespace) -> int:
    print("up", flush=True)
    before = own.losses
    await deferLater(own.reactor, args.seconds)
    print(own.losses - before, flush=True)
    return 0


def main() -> int:
    """Do it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("client")
    parser.add_argument("--user")
    parser.add_argument("--link-key")
    parser.add_argument("--gateway", default="")
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("send")
    one.add_argument("--acks", action="store_true")
    one.add_argument("--pause", type=float, default=0.4)
    one.add_argument("--patience", type=float, default=10.0)
    one.add_argument("node")
    one.add_argument("recipient")
    one.add_argument("texts", nargs="+")
    one.set_defaults(run=run_send)
    one = commands.add_parser("away")
    one.add_argument("node")
    one.add_argument("count", type=int)
    one.set_defaults(run=run_away)
    one = commands.add_parser("hold")
    one.add_argument("seconds", type=float)
    one.set_defaults(run=run_hold)
    args = parser.parse_args()

    async def work(reactor: Any) -> int:
        config = tool.read_config(Path(args.client))
        credentials = None
        if args.user:
            credentials = tool.load_user_key(tool.User(args.user, Path(args.link_key)), config, lambda text: None)
        own = Counting(reactor, config, credentials=credentials, gateway=args.gateway)
        own.start()
        try:
            await own.ready()
            return await args.run(own, args)
        finally:
            await own.stop()

    return tool.run(work)


if __name__ == "__main__":
    sys.exit(main())
