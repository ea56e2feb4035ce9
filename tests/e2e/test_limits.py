"""The queues and time limits of [Debug] on running nodes (provider 10.3; each test is named after its row).

A network of one mix between two Providers. The first has a slow plugin and sends one packet per wake-up; the second
gives up on packets after a millisecond and delays one at a time.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from katzentwist.testnet.plan import Shape
from tests.e2e.processes import LiveNetwork, environment, metrics, wait_for
from tests.e2e.sharing import SharedNetworkCase
from tests.e2e.test_management import asking

BAD = str(Path(__file__).parent / "badplugin.py")
FIRST, SECOND = "provider1", "provider2"


class LimitTests(SharedNetworkCase):
    """One network for all."""

    timeout = 120

    @classmethod
    def make(cls) -> LiveNetwork:
        """Delays of 200 ms on average, so that packets are in queues."""
        net = LiveNetwork(Shape(mixes=1, layers=1, providers=2, epoch="60s", wire_kem="x25519", mu=0.005, lambda_p=1.0))

        def first(tables: dict[str, Any]) -> None:
            tables["Debug"] = {"DisableRateLimit": True, "SchedulerMaxBurst": 1, "KaetzchenDelay": 300}
            tables["Provider"]["CBORPluginKaetzchen"] = [
                {"Capability": "slow", "Endpoint": "+slow", "Command": BAD, "Config": {"mode": "old", "sleep": "0.3",
                 "note": str(net.folder / "note")}},
            ]  # fmt: skip

        def second(tables: dict[str, Any]) -> None:
            tables["Debug"] = {
                "DisableRateLimit": True,
                "UnwrapDelay": 1,
                "SchedulerQueueSize": 1,
                "NumSphinxWorkers": 1,
            }
            tables["Provider"].pop("Kaetzchen")

        net.edit(FIRST, first)
        net.edit(SECOND, second)
        return net

    def drops(self, name: str, reason: str) -> float:
        """Packets that a node dropped for this reason."""
        return metrics(self.net.node(name)).get(f'katzenpost_dropped_reason_total{{reason="{reason}"}}', 0)

    def burst(self, count: int, gateway: str = FIRST, patience: float = 3.0) -> subprocess.Popen[str]:
        """A client that sends so many echo requests at once, and prints how many came back."""
        client = str(self.net.network.client / "client.toml")
        command = [sys.executable, "-m", "tests.e2e.asking", client, "+echo", "x", "--burst", str(count)]
        process = subprocess.Popen(
            [*command, "--gateway", gateway, "--service", f"{FIRST}-service", "--patience", str(patience)],
            env=environment(), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def stand_still(self, name: str, seconds: float) -> None:
        """Stop a node for a while."""
        process = self.net.child(name).process
        process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            process.send_signal(signal.SIGCONT)

    def test_scheduler_max_burst(self) -> None:
        """With 1 packets still flow, more than one at once too; a busy machine may lose a few."""
        self.assertGreater(int(self.burst(40).communicate(timeout=60)[0]), 30, self.net.drops())

    def test_kaetzchen_delay(self) -> None:
        """Of 12 requests to a service that takes 0.3 s those that waited too long have no answer, the others have."""
        client = self.net.network.client / "client.toml"
        before = self.drops(FIRST, "cbor_kaetzchen_dwell_exceeded")
        done = asking(client, "+slow", "x", "--burst", "12", "--gateway", FIRST, "--service", f"{FIRST}-service")
        late = self.drops(FIRST, "cbor_kaetzchen_dwell_exceeded") - before
        served = int(done.stdout)
        self.assertTrue(served >= 1 and late >= 1 and served + late <= 12, (served, late, done.stderr))

    def test_unwrap_delay_and_scheduler_queue_size(self) -> None:
        """A gateway that gives up after 1 ms, and delays one packet, finds hundreds at once: it drops, and says why.

        They come over four links, so that one turn brings more than are unwrapped on the spot.
        """
        unwrapped = metrics(self.net.node(SECOND))["katzenpost_sphinx_unwraps_total"]
        sending = [self.burst(500, SECOND, patience=2.0) for _ in range(4)]
        wait_for(
            "packets", lambda: metrics(self.net.node(SECOND))["katzenpost_sphinx_unwraps_total"] > unwrapped + 50, 30
        )
        self.stand_still(SECOND, 1.0)
        for process in sending:
            process.communicate(timeout=60)
        self.assertGreater(self.drops(SECOND, "unwrap_dwell_exceeded"), 0)
        self.assertGreater(self.drops(SECOND, "scheduler_queue_overflow"), 0)
        self.assertEqual(self.drops(FIRST, "scheduler_queue_overflow"), 0)

    def test_scheduler_slack(self) -> None:
        """A mix that stands still with packets in its queue: those that are late then are dropped."""
        before = self.drops("mix1", "scheduler_deadline_blown")
        sending = self.burst(300)
        wait_for("packets in the queue", lambda: metrics(self.net.node("mix1"))["katzenpost_delayed_packets"] > 30, 30)
        self.stand_still("mix1", 1.5)
        self.assertLess(int(sending.communicate(timeout=60)[0]), 300)
        self.assertGreater(self.drops("mix1", "scheduler_deadline_blown"), before)

    def test_zz_send_slack(self) -> None:
        """Packets for a mix that does not read wait in the send queue for 50 ms, no longer. (It runs last.)"""
        before = self.drops(FIRST, "outgoing_send_deadline_blown")
        process = self.net.child("mix1").process
        process.send_signal(signal.SIGSTOP)
        try:
            self.burst(6000, patience=1.0)
            wait_for("drops", lambda: self.drops(FIRST, "outgoing_send_deadline_blown") > before, 40)
        finally:
            process.send_signal(signal.SIGCONT)
