"""Connected strangers that send garbage, half a handshake or nothing can not stop, crash or slow the others."""

from __future__ import annotations

import json
import os
import socket
import statistics

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.testnet.plan import Shape
from tests.e2e.processes import LiveNetwork, metrics

STRANGERS = 200
FIRST_MESSAGE = 1217
"""Bytes of handshake message 1 with xwing."""


class StrangerTests(SynchronousTestCase):
    """spec: link 5.7, 11."""

    def test_two_hundred(self) -> None:
        """Pings take at most twice as long with 200 strangers, and no node grows by more than 32 MiB."""
        with LiveNetwork(Shape(epoch="60s", mu=0.02, lambda_p=0.05)) as net:
            net.start()
            before, memory = self._median(net), self._memory(net)
            sockets = self._strangers(net)
            try:
                after = self._median(net)
                grown = max(now - then for now, then in zip(self._memory(net), memory, strict=True))
            finally:
                for s in sockets:
                    s.close()
            net.children.check()
            print(f"median beyond the encoded delays: {before * 1e3:.1f} ms, with strangers {after * 1e3:.1f} ms")
            self.assertLess(after, 2 * before + 0.02)
            self.assertLess(grown, 32 * 2**20)

    def _median(self, net: LiveNetwork) -> float:
        done = net.ping(10, "-C", "3", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return statistics.median(p["seconds"] - p["expected"] for p in json.loads(done.stdout)["pings"])

    def _memory(self, net: LiveNetwork) -> list[float]:
        return [metrics(n)["process_resident_memory_bytes"] for n in net.network.nodes if n.metrics]

    def _strangers(self, net: LiveNetwork) -> list[socket.socket]:
        ports = [int(a.rsplit(":", 1)[1]) for n in net.network.nodes for a in n.addresses]
        sockets = []
        for i in range(STRANGERS):
            s = socket.create_connection(("127.0.0.1", ports[i % len(ports)]))
            sockets.append(s)
            if i % 3 == 0:
                s.sendall(os.urandom(5000))
            elif i % 3 == 1:
                # A whole first message, then silence: the most that a stranger can make a node compute.
                s.sendall(b"\x03" + os.urandom(FIRST_MESSAGE - 1))
        return sockets
