"""Applications of a daemon in memory: they speak frames, nothing more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import attrs
import cbor2
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater

from katzentwist.client.listener import AppFactory
from katzentwist.client.multiplexer import Multiplexer
from katzentwist.net import SynchronousWorkers, parse_address
from katzentwist.thin import protocol
from tests.network.clientnet import FakeNetwork

P = ParamSpec("P")
R = TypeVar("R")

DAEMON = parse_address("tcp://127.0.0.1:64331")


class FakeApp(Protocol):
    """One application.

    :ivar got: (name, fields) of all responses.
    """

    transport: Any

    def __init__(self, network: FakeNetwork, token: bytes | None) -> None:
        self.network, self.token = network, token
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.lost = False
        self._buffer = protocol.FrameBuffer()

    def connectionMade(self) -> None:
        if self.token is not None:
            self.request("session_token", client_instance_token=self.token)

    def dataReceived(self, data: bytes) -> None:
        self._buffer.feed(data)
        for message in self._buffer:
            response = protocol.parse_response(message)
            assert response is not None
            self.got.append(response)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True

    def request(self, name: str, **fields: Any) -> None:
        """Send a request."""
        self.transport.write(protocol.encode_request(name, **fields))

    def raw(self, value: Any) -> None:
        """Send any CBOR."""
        self.transport.write(protocol.frame(cbor2.dumps(value)))

    def send(
        self,
        number: int,
        *,
        payload: bytes | None = None,
        service: str = "echo",
        reliable: bool = False,
        surb: bool = True,
        **changes: Any,
    ) -> bytes:
        """A message; its number is in its ids and its payload."""
        id_ = number.to_bytes(16, "big")
        node = self.network.services[number % 2].descriptor(1, "service").id
        fields = {
            "id": id_,
            "with_surb": surb,
            "surbid": None if reliable or not surb else id_,
            "destination_id_hash": node,
            "recipient_queue_id": f"+{service}".encode(),
            "payload": b"payload %d" % number if payload is None else payload,
            **changes,
        }
        self.request("send_arq_message" if reliable else "send_message", **fields)
        return id_

    def names(self) -> list[str]:
        """The names of all responses."""
        return [name for name, _ in self.got]

    def all(self, name: str) -> list[dict[str, Any]]:
        """The responses of one name."""
        return [fields for n, fields in self.got if n == name]

    def replies(self) -> list[bytes]:
        """The payloads of good replies, without padding."""
        return [r["payload"].rstrip(b"\0") for r in self.all("message_reply_event") if not r["error_code"]]


class SlowWorkers(SynchronousWorkers):
    """What they give comes later."""

    def __init__(self, reactor: Clock, seconds: float) -> None:
        self._reactor, self._seconds = reactor, seconds

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Deferred[R]:
        """See IWorkers."""
        ready: Deferred[Any] = deferLater(self._reactor, self._seconds)
        return ready.addCallback(lambda _: super(SlowWorkers, self).run(function, *args, **kwargs))


class Side:
    """A daemon with its listener, and applications on demand."""

    def __init__(self, network: FakeNetwork, seed: object = 1, **changes: Any) -> None:
        self.network = network
        self.daemon: Multiplexer = network.daemon(seed, **changes)
        self.factory = AppFactory(self.daemon, network.reactor)
        self._port: list[Any] = []
        network.wire.listen(DAEMON).listen(self.factory).addCallback(self._port.append)
        self.daemon.start()

    def app(self, token: bytes | None = b"t" * 16, *, settle: float = 0.5) -> FakeApp:
        """A new connection."""
        app = FakeApp(self.network, token)
        factory = Factory.forProtocol(lambda: app)  # type: ignore[arg-type]
        self.network.wire.connect(DAEMON, factory)
        self.network.run(settle)
        return app

    def delay(self, seconds: float) -> None:
        """From now on it takes so long to make a packet."""
        client = self.daemon.client
        client._context = attrs.evolve(client._context, workers=SlowWorkers(self.network.reactor, seconds))

    def stop(self) -> None:
        """End everything, so that nothing is left on the clock."""
        self.factory.close_all()
        for port in self._port:
            port.stopListening()
        self.network.run(0.2)
        self.daemon.stop().close()  # the coroutine is only begun in tests that need it
