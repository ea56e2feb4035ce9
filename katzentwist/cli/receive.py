"""``katzentwist receive``: the messages that wait for a user of a Provider (design 2, spec: client 4.7)."""

from __future__ import annotations

import argparse
import base64
import json
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from katzentwist.cli.output import UsageFault
from katzentwist.client import events, tool


def add_parser(subparsers: Any) -> None:
    """The options."""
    parser = subparsers.add_parser(
        "receive",
        help="print the messages that wait for a user",
        description="Connect to a Provider as one of its users and print each message as it comes. A message is "
        "acknowledged, and so deleted at the Provider, only after it was written.",
        epilog="Example: katzentwist receive -f client.toml --user alice --link-key alice.pem -n 1",
    )
    parser.add_argument("-f", "--config", metavar="FILE", required=True, help="client.toml")
    parser.add_argument("--user", metavar="NAME", required=True, help="the user")
    parser.add_argument("--link-key", metavar="FILE", required=True, help="the private link key; made if missing")
    parser.add_argument("--gateway", default="", metavar="NAME", help="use this gateway only")
    parser.add_argument("-n", "--count", type=int, default=0, metavar="COUNT", help="leave after so many messages")
    parser.add_argument("--json", action="store_true", help="one JSON line per message, payload in base64")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Receive until the count is reached, or for ever."""
    if args.count < 0:
        raise UsageFault("-n must not be negative")
    config = tool.read_config(Path(args.config))
    user = tool.User(args.user, Path(args.link_key))
    credentials = tool.load_user_key(user, config, lambda text: print(text, file=sys.stderr, flush=True))

    async def main(reactor: Any) -> int:
        own = _Receiver(reactor, config, credentials=credentials, gateway=args.gateway, keep_plain=True)
        own.limit, own.as_json = args.count, args.json
        own.start()
        try:
            await own.done
            return 0
        except CancelledError:
            return 1 if args.count else 0  # without a count this is how it ends
        finally:
            await own.stop()

    return tool.run(main)


class _Receiver(tool.Tool):
    """Writes out what comes."""

    limit = 0
    as_json = False
    received = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.done: Deferred[None] = Deferred()
        self._said = ""

    def disconnected(self, reason: str) -> None:
        """Say why nothing comes, once per reason."""
        super().disconnected(reason)
        if reason != self._said and not self.done.called:
            self._said = reason
            print(f"katzentwist receive: not connected: {reason}; trying again", file=sys.stderr, flush=True)

    def plain(self, message: events.Plain) -> None:
        """Write, flush, and only then acknowledge. What can not be written stays, and ends this."""
        if self.done.called or (self.limit and self.received >= self.limit):
            return  # it was pushed while we leave; without an acknowledgement it stays for the next time
        try:
            self._write(message.payload)
        except OSError as e:
            self.done.errback(e)
            return
        self.received += 1
        self.client.taken(message)
        if self.limit and self.received >= self.limit:
            # A turn of the reactor, so that the acknowledgement leaves before the session is closed.
            self.reactor.callLater(0.05, self.done.callback, None)

    def _write(self, payload: bytes) -> None:
        if self.as_json:
            text = base64.b64encode(payload).decode()
            sys.stdout.write(json.dumps({"number": self.received + 1, "payload": text}) + "\n")
        else:
            # The padding after a message can not be told from zeros of its own; people do not want to see it.
            sys.stdout.buffer.write(payload.rstrip(b"\0") + b"\n")
        sys.stdout.flush()
