"""``katzentwist ping``: echo packets through the network (design 2, spec: client 16.5)."""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from pathlib import Path
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeoutError

from katzentwist.cli.output import Progress, UsageFault, print_json
from katzentwist.client import tool
from katzentwist.client.compose import ComposeError, Outgoing
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import Document
from katzentwist.randomness import IRandom, SystemRandom
from katzentwist.sphinx import delay_cap

NONCE: Final = 32
TEXT: Final = (b"katzentwist ping. " * 60)[:1000]
UNKNOWN_TIMEOUT: Final = 60.0
ALLOWANCE: Final = 500
"""Milliseconds of grace per hop."""
GOOD, FAIR = 90, 50
"""Percent from which the rate line is green, and cyan."""


def add_parser(subparsers: Any) -> None:
    """The options."""
    parser = subparsers.add_parser(
        "ping",
        help="send echo packets through the network",
        description="Send packets to a service that sends them back, and print the round-trip times.",
        epilog="Example: katzentwist ping -f client.toml -n 5",
    )
    parser.add_argument("-f", "--config", metavar="FILE", help="client.toml; connects to a gateway by itself")
    parser.add_argument("--thin", metavar="FILE", help="thinclient.toml; goes through a running client daemon")
    parser.add_argument("-n", "--count", type=int, default=5, metavar="N", help="pings (default 5)")
    parser.add_argument("-s", "--service", default="echo", metavar="NAME", help="capability (default echo)")
    parser.add_argument("-C", "--concurrency", type=int, default=1, metavar="N", help="pings at once (default 1)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--user", metavar="NAME", help="connect as this user of a Provider (with --link-key)")
    parser.add_argument("--link-key", metavar="FILE", help="the user's private link key; made if missing")
    parser.add_argument("--gateway", default="", metavar="NAME", help="use this gateway only")
    parser.set_defaults(run=run)


def check(args: argparse.Namespace) -> None:
    """:raises UsageFault: options that do not go together."""
    if bool(args.config) == bool(args.thin):
        raise UsageFault("give either -f client.toml or --thin thinclient.toml")
    if args.count < 1 or args.concurrency < 1:
        raise UsageFault("-n and -C must be at least 1")
    if bool(args.user) != bool(args.link_key):
        raise UsageFault("--user and --link-key belong together")
    if args.thin and (args.user or args.gateway):
        raise UsageFault("--user and --gateway need -f client.toml; the daemon chooses for --thin")


def run(args: argparse.Namespace) -> int:
    """Ping."""
    check(args)
    show = Show(as_json=args.json, count=args.count)
    config = tool.read_config(Path(args.config))
    credentials = None
    if args.user:
        user = tool.User(args.user, Path(args.link_key))
        credentials = tool.load_user_key(user, config, show.aside)

    async def main(reactor: Any) -> int:
        own = tool.Tool(reactor, config, credentials=credentials, gateway=args.gateway)
        own.start()
        try:
            return await _Pinging(own, args, show).run()
        finally:
            await own.stop()

    return tool.run(main)


@attrs.frozen(kw_only=True)
class Result:
    """One ping; *seconds* is None when it failed, *expected* the sum of the delays that it was given."""

    number: int
    seconds: float | None
    expected: float = 0.0
    error: str = ""


class Show:
    """What the user sees."""

    def __init__(self, *, as_json: bool, count: int) -> None:
        self._json, self._count = as_json, count
        self.progress = Progress()
        self.results: list[Result] = []
        self.service = ""

    def aside(self, text: str) -> None:
        """A remark that is no result."""
        print(text, file=sys.stderr if self._json else sys.stdout, flush=True)

    def waiting(self, text: str) -> None:
        """What is being waited for."""
        if not self._json:
            self.progress.show(text)

    def begin(self, service: str, patience: float) -> None:
        """Before the first ping."""
        self.service = service
        self.progress.clear()
        if not self._json:
            what = f"Sending {self._count} Sphinx packets to {service}"
            print(f"{what} (per-packet timeout {patience:.3f}s)", flush=True)

    def add(self, result: Result) -> None:
        """One ping is over."""
        self.results.append(result)
        if self._json:
            return
        if result.seconds is None:
            print(f"ping {result.number}: {result.error}", flush=True)
        else:
            spent = f"{result.seconds:.3f} s, delays {result.expected:.3f} s"
            print(f"reply {result.number} from {self.service}: {spent}", flush=True)

    def end(self) -> int:
        """The summary; the exit status."""
        times = sorted(r.seconds for r in self.results if r.seconds is not None)
        good, total = len(times), self._count
        percent = 100 * good // total
        if self._json:
            print_json(
                {
                    "service": self.service,
                    "sent": total,
                    "received": good,
                    "min": times[0] if times else None,
                    "median": statistics.median(times) if times else None,
                    "max": times[-1] if times else None,
                    "pings": [attrs.asdict(r) for r in sorted(self.results, key=lambda r: r.number)],
                }
            )
        else:
            print(_coloured(f"Success rate is {percent} percent ({good}/{total})", percent))
            if times:
                middle = statistics.median(times)
                print(f"round trip min/median/max = {times[0]:.3f}/{middle:.3f}/{times[-1]:.3f} s", flush=True)
        if good < total:
            print(f"ping success rate below 100%: {total - good}/{total} pings failed", file=sys.stderr)
        return 0 if good == total else 1


def _coloured(text: str, percent: int) -> str:
    if not sys.stdout.isatty():
        return text
    colour = 32 if percent >= GOOD else 36 if percent >= FAIR else 31
    return f"\x1b[{colour}m{text}\x1b[0m"


def make_payload(random: IRandom, limit: int) -> bytes:
    """A CBOR byte string: random bytes and a fixed text, cut to what fits."""
    body = (random.bytes(NONCE) + TEXT)[: limit - 3]
    return b"\x59" + len(body).to_bytes(2, "big") + body


def is_reply(payload: bytes, request: bytes) -> bool:
    """Whether the first CBOR item of the reply is the request; the padding after it does not count."""
    return payload.startswith(request)


def timeout_for(mu: float, layers: int) -> float:
    """Seconds in which nearly every reply comes (spec: client 16.5)."""
    cap = delay_cap(mu)
    return (2 * layers + 3) * (cap + ALLOWANCE) / 1000 if cap else UNKNOWN_TIMEOUT


def find_service(document: Document, capability: str, random: IRandom) -> tuple[Descriptor, str]:
    """A random service node that offers *capability*, and its endpoint.

    :raises ToolError: there is none.
    """
    found = [
        (node, str(node.kaetzchen[capability]["endpoint"]))
        for node in document.service_nodes
        if node.kaetzchen and "endpoint" in node.kaetzchen.get(capability, {})
    ]
    if not found:
        offered = sorted({name for node in document.service_nodes for name in node.kaetzchen or {}})
        raise tool.ToolError(f"no service '{capability}' in the document; it offers: {', '.join(offered) or 'nothing'}")
    return found[random.below(len(found))]


class _Pinging:
    """All pings, over a session of our own."""

    def __init__(self, own: tool.Tool, args: argparse.Namespace, show: Show) -> None:
        self._tool, self._args, self._show = own, args, show
        self._next = 0
        self._random = SystemRandom()

    async def run(self) -> int:
        self._show.waiting("waiting for a gateway and a document")
        document = await self._tool.ready()
        node, endpoint = find_service(document, self._args.service, self._random)
        timeout = timeout_for(document.mu, len(document.topology))
        self._show.begin(f"{endpoint}@{node.name}", timeout)
        lanes = [
            Deferred.fromCoroutine(self._lane(node.id, endpoint.encode(), timeout))
            for _ in range(min(self._args.concurrency, self._args.count))
        ]
        await gatherResults(lanes)
        return self._show.end()

    async def _lane(self, node: bytes, endpoint: bytes, patience: float) -> None:
        while self._next < self._args.count:
            self._next += 1
            self._show.add(await self._ping(self._next, node, endpoint, patience))

    async def _ping(self, number: int, node: bytes, endpoint: bytes, patience: float) -> Result:
        limit = self._tool.core.config.geometry.user_forward_payload_length
        payload = make_payload(self._random, limit)
        surb_id = self._random.bytes(16)
        reply: Deferred[bytes] = Deferred()
        message = Outgoing(destination=node, recipient=endpoint, payload=payload, surb_id=surb_id)
        await self._tool.turn()
        began = self._tool.clock.monotonic()
        try:
            sent = await self._tool.client.send(message, tag=reply)
        except ComposeError as e:
            return Result(number=number, seconds=None, error=f"not sent: {e}")
        reply.addTimeout(math.ceil(patience), self._tool.reactor)
        try:
            answer = await reply
        except DeferredTimeoutError:
            return Result(number=number, seconds=None, expected=sent.reply_eta, error=f"no reply in {patience:.3f} s")
        seconds = self._tool.clock.monotonic() - began
        if not is_reply(answer, payload):
            return Result(
                number=number, seconds=None, expected=sent.reply_eta, error="another reply than what was sent"
            )
        return Result(number=number, seconds=seconds, expected=sent.reply_eta)
