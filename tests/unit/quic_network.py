"""UDP in memory on a fake clock: late, lost, twice and out of order, as the test wants it."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock


class UDPNetwork(Clock):
    """A reactor with nothing but time and UDP.

    :ivar loss: share of datagrams that do not arrive.
    :ivar jitter: seconds by which a datagram may be later than another.
    :ivar twice: share of datagrams that arrive two times.
    :ivar carried: datagrams that were sent.
    """

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        self.loss = self.jitter = self.twice = 0.0
        self.latency = 0.005
        self.carried = 0
        self.ports: dict[tuple[str, int], _Port] = {}
        self._random = random.Random(seed)
        self._next = 40000

    def listenUDP(self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192) -> _Port:
        if not port:
            self._next += 1
            port = self._next
        host = interface if interface not in ("", "::") else "::1" if interface else "127.0.0.1"
        made = self.ports[host, port] = _Port(self, (host, port), protocol)
        protocol.makeConnection(made)
        return made

    def carry(self, data: bytes, source: tuple[str, int], target: tuple[str, int]) -> None:
        """Send one datagram."""
        self.carried += 1
        if self._random.random() < self.loss:
            return
        for _ in range(2 if self._random.random() < self.twice else 1):
            late = self.latency + self.jitter * self._random.random()
            self.callLater(late, self._arrive, data, source, target)

    def _arrive(self, data: bytes, source: tuple[str, int], target: tuple[str, int]) -> None:
        port = self.ports.get(target)
        if port is not None:
            port.protocol.datagramReceived(data, source)

    def run(self, seconds: float, step: float = 0.001) -> None:
        """Let time pass."""
        for _ in range(round(seconds / step)):
            self.advance(step)


class _Port:
    def __init__(self, network: UDPNetwork, address: tuple[str, int], protocol: Any) -> None:
        self.network, self.address, self.protocol = network, address, protocol

    def write(self, data: bytes, address: tuple[str, int]) -> None:
        if self.address in self.network.ports:
            self.network.carry(data, self.address, address)

    def getHost(self) -> Any:
        kind = IPv6Address if ":" in self.address[0] else IPv4Address
        return kind("UDP", *self.address)

    def stopListening(self) -> Deferred:
        if self.network.ports.pop(self.address, None) is not None:
            self.protocol.transport = None
        return succeed(None)
