"""Rows of docs/acceptance.md about a node's start, its authority and its log, from outside."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from katzentwist.testnet.plan import Shape, generate
from tests.backends.servers import free_port
from tests.e2e.processes import LiveNetwork, cli, metrics, twistd, wait_for
from tests.e2e.test_users import nonvoting


class DefaultFileTests(SynchronousTestCase):
    """katzenmix without -f."""

    def test_default_file(self) -> None:
        """It reads katzenpost.toml of the folder it is started in; without one it names the file."""
        folder = Path(self.mktemp()).resolve()
        mix = generate(folder, Shape(epoch="30s")).nodes[1]
        done = twistd("katzenmix", "--validate-only", cwd=mix.config.parent)
        self.assertEqual((done.returncode, done.stdout), (0, "configuration file 'katzenpost.toml' is valid\n"))
        empty = folder / "empty"
        empty.mkdir()
        done = twistd("katzenmix", "--validate-only", cwd=empty)
        self.assertEqual(done.returncode, 1)
        self.assertIn("failed to load config file 'katzenpost.toml'", done.stderr)
        self.assertNotIn("Traceback", done.stderr)


def silent(case: SynchronousTestCase) -> int:
    """A port that answers no connection attempt: its backlog is full."""
    listener = socket.socket()
    case.addCleanup(listener.close)
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for _ in range(20):
        attempt = socket.socket()
        case.addCleanup(attempt.close)
        attempt.settimeout(0.3)
        try:
            attempt.connect(listener.getsockname())
        except TimeoutError:
            return int(listener.getsockname()[1])
    raise SkipTest("this kernel accepts connections beyond the backlog")


class AuthorityTests(SynchronousTestCase):
    """A network of four mixes.

    The authority does not list mix4, mix3 has a wrong key of it, nobody can connect to mix2, whose log goes to standard
    output. Two mixes are enough for the document.
    """

    timeout = 240

    def setUp(self) -> None:
        """Start it."""
        self.net = LiveNetwork(Shape(mixes=4, epoch="10s", wire_kem="x25519"))
        self.addCleanup(self.net.__exit__)
        self.left_out: list[dict[str, Any]] = []

        def authority(tables: dict[str, Any]) -> None:
            self.left_out.append(tables["Mixes"].pop())
            tables["Debug"].update(Layers=2, MinNodesPerLayer=1)
            tables["Logging"]["Level"] = "DEBUG"
            tables["Server"]["MetricsAddress"] = self.net.node("auth1").metrics = f"127.0.0.1:{free_port()}"

        def mix2(tables: dict[str, Any]) -> None:
            tables["Server"]["BindAddresses"] = tables["Server"]["Addresses"]
            tables["Server"]["Addresses"] = [f"tcp://127.0.0.1:{silent(self)}"]
            tables["Logging"] = {"Level": "INFO"}

        def mix3(tables: dict[str, Any]) -> None:
            nonvoting(tables, "hex")
            tables["PKI"]["Nonvoting"]["PublicKey"] = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"

        for node in self.net.network.nodes:
            self.net.edit(node.name, lambda t: t.update(Logging={"File": "node.log", "Level": "INFO"}))
            if node.role != "authority":
                self.net.edit(node.name, lambda t: t.update(Debug={"ConnectTimeout": 500}))
        for name, change in (("auth1", authority), ("mix2", mix2), ("mix3", mix3)):
            self.net.edit(name, change)
        self.net.children.start()

    def log(self, name: str) -> str:
        """What a program has written to its file."""
        path = self.net.node(name).folder / "node.log"
        return path.read_text() if path.exists() else ""

    def members(self) -> set[str]:
        """The nodes of the document of now; empty if there is none."""
        done = cli("consensus", "--authority", str(self.net.node("auth1").config), "--json")
        return {node["name"] for node in json.loads(done.stdout)["nodes"]} if done.returncode == 0 else set()

    def end(self, name: str) -> None:
        """SIGTERM ends a program with status 0."""
        process = self.net.child(name).process
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(10), 0, name)

    def rotate(self, name: str) -> None:
        """Move the file away, SIGHUP: what comes is in a new file, twice."""
        path = self.net.node(name).folder / "node.log"
        for number in (1, 2):
            moved = path.rename(path.with_suffix(f".{number}"))
            self.net.child(name).process.send_signal(signal.SIGHUP)
            wait_for(f"a new log of {name}", lambda: self.log(name))
            size = moved.stat().st_size
            before = len(self.log(name))
            wait_for(f"more in the log of {name}", lambda before=before: len(self.log(name)) > before)
            self.assertEqual(moved.stat().st_size, size)

    def test_rows(self) -> None:
        """One after the other; the network needs longer than all of them."""
        members = wait_for("a document", self.members)
        self.assertEqual(members, {"mix1", "mix2", "provider1", "provider1-service"})
        self.check_metrics()
        self.check_connect_timeout()
        self.check_rotation()
        self.check_white_list()
        self.check_wrong_key()
        output = self.net.child("mix2").output
        wait_for("more output of mix2", lambda: "document of epoch" in output.read_text()[self.output_before :])
        for name in ("auth1", "mix2", "mix4"):
            self.end(name)

    def check_metrics(self) -> None:
        """The authority shows its members, their uploads and its documents."""
        values = metrics(self.net.node("auth1"))
        self.assertEqual(values["katzenpost_authority_members"], 5)
        self.assertEqual(values["katzenpost_authority_has_document"], 1)
        self.assertGreaterEqual(values['katzenpost_authority_requests_total{request="post_descriptor",status="OK"}'], 4)
        self.assertNotIn("katzenpost_sphinx_unwraps_total", values)

    def check_connect_timeout(self) -> None:
        """The dial of mix2 is given up, and tried again, long before the default of 60 s."""
        nodes = [self.net.node(name) for name in ("mix1", "provider1")]
        series = 'katzenpost_outgoing_dial_failures_total{reason="timeout"}'
        wait_for("two time-outs", lambda: max(metrics(node).get(series, 0) for node in nodes) >= 2, 45)
        self.assertIn("can not connect to mix2: ", self.log("mix1") + self.log("provider1"))

    def check_rotation(self) -> None:
        """Of a node and of the authority; mix2, which logs to standard output, hears the signal too."""
        self.output_before = len(self.net.child("mix2").output.read_text())
        self.net.child("mix2").process.send_signal(signal.SIGHUP)
        self.rotate("mix4")
        self.rotate("auth1")

    def check_white_list(self) -> None:
        """mix4 hears that it is in no document, until the authority lists it."""
        wait_for("a hint", lambda: "node 'mix4' is not in the document of" in self.log("mix4"))
        self.assertNotIn("is it white-listed?", self.log("mix1"))
        self.net.edit("auth1", lambda t: t["Mixes"].append(self.left_out[0]))
        self.end("auth1")
        self.net.children.restart("auth1")
        wait_for("mix4 in a document", lambda: "mix4" in self.members())

    def check_wrong_key(self) -> None:
        """mix3 says so, runs on, and has taken no document."""
        self.net.children.check()
        self.assertIn("no document for epoch", self.log("mix3"))
        self.assertIn("peer refused", self.log("mix3"))
        self.assertNotIn("INFO pki: document of epoch", self.log("mix3"))
