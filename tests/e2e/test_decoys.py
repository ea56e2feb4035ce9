"""A network with decoys and queues on disk; and the dashboard, held against what it shows (node 8, 10, provider 12)."""

from __future__ import annotations

import json
import re
import signal
import stat
from pathlib import Path
from typing import Any

from katzentwist.testnet.plan import Node, Shape
from tests.e2e.processes import ROOT, LiveNetwork, cli, metrics, wait_for
from tests.e2e.sharing import SharedNetworkCase
from tests.e2e.test_management import asking

SERIES = re.compile(r"\b(?:katzenpost|process)_[a-z0-9_]+")


class DecoyTests(SharedNetworkCase):
    """One network; every node sends decoys and keeps its delayed packets on disk."""

    @classmethod
    def make(cls) -> LiveNetwork:
        """About 20 loops per second and node."""
        net = LiveNetwork(Shape(epoch="10s", wire_kem="x25519", mu=0.02, lambda_p=0.02, lambda_m=0.02))
        plugin = {"Capability": "slow", "Endpoint": "+slow", "Command": str(Path(__file__).parent / "badplugin.py")}

        def change(tables: dict[str, Any]) -> None:
            tables["Debug"] = {"SendDecoyTraffic": True, "SchedulerExternalMemoryQueue": True, "DecoySlack": 1000}
            if "Provider" in tables:
                tables["Provider"]["CBORPluginKaetzchen"] = [{**plugin, "Config": {"mode": "hang"}}]

        for node in net.network.nodes:
            if node.role != "authority":
                net.edit(node.name, change)
        return net

    def nodes(self) -> list[Node]:
        """All but the authority."""
        return [n for n in self.net.network.nodes if n.metrics]

    def test_loops_come_back(self) -> None:
        """Every kind of node sends loops, they come back, and no reply is dropped as foreign."""
        for node in self.nodes():
            wait_for(
                f"50 loops of {node.name}", lambda n=node: metrics(n)["katzenpost_decoy_loops_completed_total"] > 50
            )
        for node in self.nodes():
            values = metrics(node)
            sent, back = (values[f"katzenpost_decoy_loops_{x}_total"] for x in ("sent", "completed"))
            # A loop takes about a second, so some are under way.
            self.assertGreater(back, 0.5 * sent, node.name)
        self.assertEqual([r for r in self.net.drops() if r.startswith("decoy")], [])

    def test_queue_on_disk(self) -> None:
        """A private file for each half; packets go through it."""
        provider = self.net.node("provider1").folder
        for path in (provider / "external_queue.db", provider / "external_queue-service.db"):
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        mix = self.net.node("mix1").folder / "external_queue.db"
        wait_for("packets in the file", lambda: mix.stat().st_size, 20)
        done = self.net.ping(3)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual([r for r in self.net.drops() if r.startswith("bolt")], [])

    def test_dashboard(self) -> None:
        """The dashboard uses only series that the nodes show."""
        asking(self.net.network.client / "client.toml", "+nobody", "x", "--patience", "1")
        shown = {name.partition("{")[0] for node in self.nodes() for name in metrics(node)}
        board = json.loads((ROOT / "contrib" / "grafana" / "katzentwist.json").read_text())
        used = {s for panel in board["panels"] for t in panel.get("targets", ()) for s in SERIES.findall(t["expr"])}
        self.assertGreater(len(used), 20)
        self.assertEqual(sorted(used - shown), [])

    def test_zy_decoy_slack(self) -> None:
        """Loops to a silent service count as lost a second after they should be back. (The service stays silent.)"""
        before = {n.name: metrics(n)["katzenpost_decoy_loops_lost_total"] for n in self.nodes()}
        done = cli("manage", str(self.net.node("provider1").folder), "STOP_KAETZCHEN", "echo")
        self.assertEqual(done.stdout, "250 echo\n")
        for node in self.nodes():
            wait_for(
                f"lost loops of {node.name}",
                lambda n=node: metrics(n)["katzenpost_decoy_loops_lost_total"] > before[n.name] + 10,
                8,
            )

    def test_zz_files_at_the_end(self) -> None:
        """kill -9 leaves the file, which the next start makes anew; a clean stop deletes it."""
        mix = self.net.node("mix1")
        queue = mix.folder / "external_queue.db"
        child = self.net.child("mix1")
        child.process.send_signal(signal.SIGKILL)
        child.process.wait()
        queue.write_bytes(b"stale" * 1000)
        again = self.net.children._start(mix)
        try:
            wait_for("the new file", lambda: queue.read_bytes()[:5] != b"stale", 20)
            wait_for("the end of the start", lambda: (mix.folder / "management_sock").exists(), 20)
        finally:
            again.process.terminate()
            self.assertEqual(again.process.wait(15), 0)
        self.assertFalse(queue.exists())
