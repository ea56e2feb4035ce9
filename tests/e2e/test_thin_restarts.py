"""Gateways and epochs that come and go, as applications see it; in small networks of their own."""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.testnet.plan import Shape
from tests.e2e import published
from tests.e2e.clientside import TWO_EPOCHS, ClientSide, Daemon
from tests.e2e.processes import cli, wait_for
from tests.e2e.published import Watcher

SMALL = Shape(epoch="60s", mixes=1, layers=1, providers=1, lambda_p=0.02, lambda_l=0.001, mu=0.02)
EPOCHS = 3


class RestartTests(SynchronousTestCase):
    """The only gateway ends and is started again (spec: client 20.1)."""

    def test_gateway_restarted(self) -> None:
        """False once, true once; then the published library and our ping get through again."""
        with ClientSide(SMALL) as side, side.daemon() as daemon, Watcher(daemon) as app:
            self.assertEqual(app.ask("before"), {"echo": "before"})
            self.restart(side, daemon, app)
            self.assertEqual(app.ask("after"), {"echo": "after"})
            self.assertEqual(app.all("connected"), [True, False, True])
            self.assertEqual(app.all("graceful"), [])
            self.assertEqual(len(set(app.all("instance"))), 1)
            done = cli("ping", "--thin", str(daemon.thin), "-n", "2", timeout=120)
            self.assertIn("(2/2)", done.stdout, done.stderr)

    def restart(self, side: ClientSide, daemon: Daemon, app: Watcher) -> None:
        """SIGTERM: kill -9 would cost the gateway its mix keys, and so the rest of the epoch."""
        gateway = side.live.child("provider1").process
        gateway.terminate()
        gateway.wait()
        wait_for("the loss", lambda: "WARN client: not connected" in daemon.log())
        wait_for("the application to hear of it", lambda: False in app.all("connected"))
        self.assertEqual(app.ask("meanwhile"), {"error": "ThinClientOfflineError"})
        side.live.children.restart("provider1")
        # The second dial after a session comes 17 s after the first, times 0.5 to 1.5 (client 4.2).
        wait_for("the session", lambda: daemon.log().count("NOTI client: connected to gateway") > 1, TWO_EPOCHS)
        side.live.wait_ready()
        daemon.wait_ready()
        wait_for("the application to hear of it", lambda: app.all("connected")[-1])


class EpochTests(SynchronousTestCase):
    """Documents of one epoch after the other (spec: client 20.1)."""

    def test_three_epochs(self) -> None:
        """One event for each, ``pki_document`` follows, and no echo is lost, across each boundary too."""
        with ClientSide(attrs.evolve(SMALL, epoch="10s")) as side, side.daemon() as daemon:
            out = published.run(published.EPOCHS, daemon)
            self.assertEqual(out["failed"], [])
            first = out["events"][0]
            self.assertEqual(out["events"], list(range(first, first + EPOCHS + 1)))
            self.assertEqual(out["held"], out["events"])
            self.assertGreater(out["echoes"], 5 * EPOCHS)
