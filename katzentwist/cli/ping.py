"""``katzentwist ping``: echo packets through the network (design 2, spec: client 16.5)."""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any, Final, Protocol

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeoutError

from katzentwist.cli.output import Progress, UsageFault, print_json
from katzentwist.client import tool
from katzentwist.client.compose import ComposeError, Outgoing
from katzentwist.errors import KatzentwistError
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import Document
from katzentwist.randomness import IRandom, SystemRandom
from katzentwist.sphinx import delay_cap
from katzentwist.thin import MessageReplyEvent, MessageSentEvent, NotSentError, ThinClient

NONCE: Final = 32
TEXT: Final = (b"katzentwist ping. " * 60)[:1000]
UNKNOWN_TIMEOUT: Final = 60.0
ALLOWANCE: Final = 500
"""Milliseconds of grace per hop."""
TICKS: Final = 10
"""Mean intervals of LambdaP that a ping through a daemon may wait before it leaves."""
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
    if args.thin:
        return tool.run(lambda reactor: _through_daemon(reactor, args, show))
    config = tool.read_config(Path(args.config))
    credentials = None
    if args.user:
        user = tool.User(args.user, Path(args.link_key))
        credentials = tool.load_user_key(user, config, show.aside)

    async def main(reactor: Any) -> int:
        own = tool.Tool(reactor, config, credentials=credentials, gateway=args.gateway)
        own.start()
        try:
            await own.ready(say=show.waiting)
            return await Pinging(_Own(own, args.service), args, show).run()
        finally:
            await own.stop()

    return tool.run(main)


async def _through_daemon(reactor: Any, args: argparse.Namespace, show: Show) -> int:
    client = ThinClient(args.thin, reactor)
    show.waiting("waiting for the client daemon and a document")
    await client.start()
    try:
        return await Pinging(_Thin(client, reactor, args.service), args, show).run()
    finally:
        await client.stop()


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


class Way(Protocol):
    """How pings travel: over a session of our own, or through a daemon.

    :ivar target: the service, for people.
    :ivar patience: seconds for one ping.
    :ivar limit: bytes of the largest payload.
    """

    target: str
    patience: float
    limit: int

    async def ping(self, payload: bytes) -> tuple[bytes, float, float]:
        """(reply, seconds, expected seconds).

        :raises PingError: there was none.
        """


class PingError(KatzentwistError):
    """One ping failed."""


class _Own:
    """Over a session of our own; paced by nothing but the gateway's rate limit."""

    def __init__(self, own: tool.Tool, capability: str) -> None:
        document = own.core.document()
        if document is None:
            raise tool.ToolError("the document of this epoch is gone")
        self._tool, self._random = own, SystemRandom()
        node, endpoint = find_service(document, capability, self._random)
        self._node, self._endpoint = node.id, endpoint.encode()
        self.target = f"{endpoint}@{node.name}"
        self.patience = timeout_for(document.mu, len(document.topology))
        self.limit = own.core.config.geometry.user_forward_payload_length

    async def ping(self, payload: bytes) -> tuple[bytes, float, float]:
        """See Way."""
        reply: Deferred[bytes] = Deferred()
        message = Outgoing(
            destination=self._node, recipient=self._endpoint, payload=payload, surb_id=self._random.bytes(16)
        )
        await self._tool.turn()
        began = self._tool.clock.monotonic()
        try:
            sent = await self._tool.client.send(message, tag=reply)
        except ComposeError as e:
            raise PingError(f"not sent: {e}") from e
        reply.addTimeout(self.patience, self._tool.reactor)
        try:
            answer = await reply
        except DeferredTimeoutError:
            raise PingError(f"no reply in {self.patience:.3f} s") from None
        return answer, self._tool.clock.monotonic() - began, sent.reply_eta


class _Thin:
    """Through a running daemon; the time counts from the hand-over to the gateway."""

    def __init__(self, client: ThinClient, reactor: Any, capability: str) -> None:
        document = client.pki_document()
        if document is None:
            raise tool.ToolError("the client daemon has no document yet; is the network up?")
        service = client.get_service(capability)
        self._destination = service.to_destination()
        self._client, self._reactor = client, reactor
        self._sent: dict[bytes, tuple[float, float]] = {}
        self._waiting: dict[bytes, Deferred[bytes]] = {}
        endpoint, name = service.recipient_queue_id.decode("utf-8", "replace"), service.mix_descriptor["Name"]
        self.target = f"{endpoint}@{name}"
        # A packet waits for its tick too, behind those of other applications.
        self.patience = timeout_for(document["Mu"], len(document["Topology"])) + TICKS / document["LambdaP"] / 1000
        self.limit = client.geometry.UserForwardPayloadLength if client.geometry is not None else NONCE
        self._events = Deferred.fromCoroutine(self._listen(client.event_sink()))

    async def _listen(self, sink: Any) -> None:
        async for event in sink:
            if isinstance(event, MessageSentEvent) and event.surbid in self._waiting:
                if event.err:
                    self._waiting[event.surbid].errback(PingError(f"not sent: {event.err}"))
                self._sent[event.surbid] = self._reactor.seconds(), event.reply_eta / 1e9
            elif isinstance(event, MessageReplyEvent) and event.surbid in self._waiting:
                waiting = self._waiting[event.surbid]
                if not waiting.called:
                    waiting.callback(event.payload)

    async def ping(self, payload: bytes) -> tuple[bytes, float, float]:
        """See Way."""
        surb_id = self._client.new_surb_id()
        reply: Deferred[bytes] = Deferred()
        self._waiting[surb_id] = reply
        try:
            await self._client.send_message(surb_id, payload, *self._destination)
            reply.addTimeout(self.patience, self._reactor)
            answer = await reply
        except NotSentError as e:
            raise PingError(f"not sent: {e}") from e
        except DeferredTimeoutError:
            raise PingError(f"no reply in {self.patience:.3f} s") from None
        finally:
            del self._waiting[surb_id]
        began, expected = self._sent.pop(surb_id, (self._reactor.seconds(), 0.0))
        return answer, self._reactor.seconds() - began, expected


class Pinging:
    """All pings, some at a time."""

    def __init__(self, way: Way, args: argparse.Namespace, show: Show) -> None:
        self._way, self._args, self._show = way, args, show
        self._next = 0
        self._random = SystemRandom()

    async def run(self) -> int:
        """The exit status."""
        self._show.begin(self._way.target, self._way.patience)
        lanes = range(min(self._args.concurrency, self._args.count))
        await gatherResults([Deferred.fromCoroutine(self._lane()) for _ in lanes], consumeErrors=True)
        return self._show.end()

    async def _lane(self) -> None:
        while self._next < self._args.count:
            self._next += 1
            number = self._next
            payload = make_payload(self._random, self._way.limit)
            try:
                answer, seconds, expected = await self._way.ping(payload)
            except PingError as e:
                self._show.add(Result(number=number, seconds=None, error=str(e)))
                continue
            if is_reply(answer, payload):
                self._show.add(Result(number=number, seconds=seconds, expected=expected))
            else:
                error = "another reply than what was sent"
                self._show.add(Result(number=number, seconds=None, expected=expected, error=error))
