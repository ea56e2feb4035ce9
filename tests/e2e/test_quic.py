"""Transports of running nodes (provider 10.2; each test is named after its row): QUIC, IPv6, BindAddresses."""

from __future__ import annotations

import socket
import time
from typing import Any

from katzentwist.config import toml
from katzentwist.pki.document import Document
from katzentwist.testnet.plan import Node, Shape
from tests.backends.servers import free_port
from tests.e2e.processes import LiveNetwork, metrics, wait_for
from tests.e2e.sharing import SharedNetworkCase


def has_ipv6() -> bool:
    """Whether ::1 can be bound."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def udp_is_bound(host: str, port: int) -> bool:
    """Whether somebody has the UDP port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def accepts(host: str, port: int) -> bool:
    """Whether somebody listens on the TCP port."""
    try:
        socket.create_connection((host, port), 2).close()
    except OSError:
        return False
    return True


class TransportTests(SharedNetworkCase):
    """mix1 is reached by QUIC, mix2 by QUIC on IPv6, mix3 by another port than it is bound to, the Provider by http://."""

    ports: dict[str, int]

    @classmethod
    def make(cls) -> LiveNetwork:
        """The network, its addresses changed."""
        net = LiveNetwork(Shape(epoch="10s", wire_kem="x25519", mu=0.05))
        cls.host6 = "[::1]" if has_ipv6() else "127.0.0.1"
        cls.ports = {name: free_port() for name in ("quic", "six", "tcp", "second")}

        def quic(tables: dict[str, Any]) -> None:
            tables["Server"]["Addresses"] = [f"quic://127.0.0.1:{cls.ports['quic']}"]

        def six(tables: dict[str, Any]) -> None:
            tables["Server"]["Addresses"] = [f"quic://{cls.host6}:{cls.ports['six']}"]

        def both(tables: dict[str, Any]) -> None:
            cls.old = tables["Server"]["Addresses"][0]
            tables["Server"]["Addresses"] = [f"tcp://127.0.0.1:{cls.ports['tcp']}"]
            tables["Server"]["BindAddresses"] = [
                f"tcp://127.0.0.1:{cls.ports['tcp']}", f"tcp4://127.0.0.1:{cls.ports['second']}",
            ]  # fmt: skip

        def provider(tables: dict[str, Any]) -> None:
            own = tables["Server"]["Addresses"][0]
            tables["Server"]["Addresses"] = [own.replace("tcp://", "http://"), own]
            tables["Provider"]["ServiceAddresses"] = [f"quic://127.0.0.1:{free_port()}"]

        for name, change in (("mix1", quic), ("mix2", six), ("mix3", both), ("provider1", provider)):
            net.edit(name, change)
        return net

    def document(self) -> Document:
        """The newest document that a node holds."""
        files = sorted((self.net.node("mix3").folder / "consensus").glob("*.cbor"), key=lambda f: int(f.stem))
        return Document.parse(files[-1].read_bytes(), int(files[-1].stem))

    def address(self, name: str) -> dict[str, Any]:
        """What the document says of a node."""
        document = self.document()
        nodes = [*(d for layer in document.topology for d in layer), *document.gateway_nodes, *document.service_nodes]
        (found,) = [d for d in nodes if d.name == name]
        return dict(found.addresses)

    def test_http_address_is_quic(self) -> None:
        """UDP port bound, no TCP; other nodes dial it; advertised as quic, also where the file spells it http://."""
        for name, port, host in (("mix1", "quic", "127.0.0.1"), ("mix2", "six", self.host6.strip("[]"))):
            self.assertTrue(udp_is_bound(host, self.ports[port]))
            self.assertFalse(accepts(host, self.ports[port]))
            self.assertEqual(list(self.address(name)), ["quic"])
            wait_for("links", lambda name=name: self.incoming(self.net.node(name)) > 0, 15)
        (url,) = self.address("provider1")["quic"]
        self.assertTrue(url.startswith("quic://127.0.0.1:"), url)
        self.assertEqual(list(self.address("mix2")["quic"]), [f"quic://{self.host6}:{self.ports['six']}"])

    def incoming(self, node: Node) -> float:
        """Links that others have to a node."""
        return metrics(node).get("katzenpost_incoming_links", 0)

    def test_pings(self) -> None:
        """Over links of both kinds, the Provider's service half by QUIC alone."""
        done = self.net.ping(5)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr + str(self.net.drops()))

    def test_several_addresses(self) -> None:
        """All are listened on and advertised."""
        tables = toml.parse(self.net.node("provider1").config.read_text())
        port = int(tables["Server"]["Addresses"][1].rpartition(":")[2])
        self.assertTrue(accepts("127.0.0.1", port))
        self.assertTrue(udp_is_bound("127.0.0.1", port))
        self.assertEqual(set(self.address("provider1")), {"quic", "tcp4"})

    def test_bind_addresses(self) -> None:
        """Bound instead of Addresses, not advertised."""
        self.assertTrue(accepts("127.0.0.1", self.ports["second"]))
        self.assertTrue(accepts("127.0.0.1", self.ports["tcp"]))
        self.assertFalse(accepts("127.0.0.1", int(self.old.rpartition(":")[2])))
        self.assertEqual(self.address("mix3"), {"tcp4": (f"tcp://127.0.0.1:{self.ports['tcp']}",)})

    def test_strangers_on_udp(self) -> None:
        """Noise on the UDP port disturbs nobody."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
            for size in range(0, 1400, 7):
                noise.sendto(bytes((size + n * n) % 256 for n in range(size)), ("127.0.0.1", self.ports["quic"]))
        done = self.net.ping(2)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertNotIn("Traceback", (self.net.node("mix1").folder / "output.log").read_text())

    def test_zz_quic_link_lives(self) -> None:
        """A quiet QUIC link outlives the idle time-out of 30 s by its PINGs. (It runs last.)

        Links also end when a busy machine makes a node miss an epoch of 10 s, so one of three times will do. Without
        PINGs they end each time.
        """
        for _ in range(3):
            before = metrics(self.net.node("provider1"))["katzenpost_outgoing_connections_total"]
            time.sleep(33)
            if metrics(self.net.node("provider1"))["katzenpost_outgoing_connections_total"] == before:
                break
        else:
            self.fail("links do not live for 33 s")
        self.assertGreater(self.incoming(self.net.node("mix1")) + self.incoming(self.net.node("mix2")), 0)
