"""The ports of a test network."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.client.tool import ToolError
from katzentwist.config.client import Socket
from katzentwist.errors import ConfigError
from katzentwist.randomness import SeededRandom
from katzentwist.testnet import plan
from katzentwist.testnet.plan import FREE_PORTS, Shape, generate

OUTGOING = 32768
"""Linux gives this port and higher ones to outgoing connections."""


class PortTests(SynchronousTestCase):
    """Free ones, or in a row."""

    def ports(self, **shape: int) -> list[int]:
        """All ports of a network; a Provider has one more for its service half."""
        with tempfile.TemporaryDirectory() as folder:
            network = generate(Path(folder) / "net", Shape(**shape))  # type: ignore[arg-type]
            nodes = [*network.nodes, network.daemon()]
            urls = [a if "://" in a else f"tcp://{a}" for n in nodes for a in (*n.addresses, n.metrics) if a]
            found = [urlsplit(url).port or 0 for url in urls]
            return found + [urlsplit(n.addresses[0]).port + 1 for n in nodes if n.role == "provider"]  # type: ignore[operator]

    def test_chosen(self) -> None:
        """None twice, and none that an outgoing connection may take before its program listens."""
        found = self.ports(providers=2)
        self.assertEqual(len(set(found)), len(found))
        self.assertLess(max(found), OUTGOING)

    def test_taken(self) -> None:
        """What somebody listens on is left alone; with nothing free it is said."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            self.patch(plan, "FREE_PORTS", [port])
            error = self.assertRaises(ConfigError, plan.Ports(0, SeededRandom("ports")).take, 1)
            self.assertIn("--base-port", str(error))
            self.patch(plan, "FREE_PORTS", [port] * 20 + list(FREE_PORTS[:20]))
            self.assertNotEqual(plan.Ports(0, SeededRandom("ports")).take(1), port)

    def test_in_a_row(self) -> None:
        """From the one that was asked for, up to the last there is."""
        found = sorted(self.ports(base_port=20000))
        self.assertEqual(found, list(range(20000, 20000 + len(found))))
        self.assertRaises(ConfigError, self.ports, base_port=65530)


class ReadTests(SynchronousTestCase):
    """A tree that was changed by hand."""

    def setUp(self) -> None:
        """A network, of which a file is changed."""
        self.folder = Path(self.mktemp()).absolute()
        generate(self.folder, Shape())

    def test_node(self) -> None:
        """A mistake is told with its file."""
        path = self.folder / "mix1" / "katzenpost.toml"
        for content, said in ((b"x", "not valid TOML"), (b"\xff", "can't decode"), (b"Server = 5", r"no \[Server\]")):
            path.write_bytes(content)
            self.assertRaisesRegex(ConfigError, f"{path}.*{said}", plan.read, self.folder)

    def test_daemon(self) -> None:
        """It may listen on any socket that its file can name; mistakes are told with the file."""
        path = self.folder / "client" / "client.toml"
        text = path.read_text()
        for address in ("/run/client.sock", "@client"):
            path.write_text(text[: text.index("[Listen.Tcp]")] + f'[Listen.Unix]\nAddress = "{address}"\n')
            network = plan.read(self.folder)
            self.assertEqual(network.listener(), Socket(network="unix", address=address))
            self.assertEqual(network.daemon().addresses, [address])
        path.write_text(text.replace("[Listen.Tcp]", "[Listen.Tpc]"))
        self.assertRaisesRegex(ToolError, f"{path} has mistakes", plan.read(self.folder).daemon)
