"""`katzentwist testnet` from outside: what the README promises."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.testnet.plan import Shape
from tests.e2e.processes import LiveNetwork, cli, environment, metrics, processes_with, wait_for


def staying(folder: str) -> subprocess.Popen[str]:
    """A network that stays up, in this folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "katzentwist", "testnet", "--dir", folder],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class TestnetTests(SynchronousTestCase):
    """design 2."""

    def test_ping_and_exit(self) -> None:
        """Five of five pings, status 0, and nothing is left running."""
        with tempfile.TemporaryDirectory() as folder:
            done = cli("testnet", "--dir", f"{folder}/net", "--ping", "5", "--exit")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn("Success rate is 100 percent (5/5)", done.stdout)
            self.assertEqual(processes_with(folder), [])

    def test_interrupt(self) -> None:
        """Ctrl-C ends a network that stays up, with status 0 and nothing left running."""
        with tempfile.TemporaryDirectory() as folder:
            process = staying(f"{folder}/net")
            lines = iter(process.stdout.readline, "")
            self.assertTrue(any("Ctrl-C" in line for line in lines))
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(30), 0)
            process.stdout.close()
            process.stderr.close()
            self.assertEqual(processes_with(folder), [])

    def test_restart_of_the_dead(self) -> None:
        """A program that is killed is named and started again."""
        with tempfile.TemporaryDirectory() as folder:
            process = staying(f"{folder}/net")
            try:
                self.assertTrue(any("Ctrl-C" in line for line in iter(process.stdout.readline, "")))
                [old] = processes_with(f"{folder}/net/mix2")
                os.kill(old, signal.SIGKILL)
                said = iter(process.stderr.readline, "")
                self.assertIn("mix2 was ended by SIGKILL", next(said))
                again = next(line for line in said if "is started again" in line and "pid" in line)
                [new] = processes_with(f"{folder}/net/mix2")
                self.assertEqual(again, f"mix2 is started again, pid {new}\n")
                self.assertNotEqual(new, old)
                self.assertIsNone(process.poll())
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(30)
                process.stdout.close()
                process.stderr.close()
            self.assertEqual(process.returncode, 0)
            self.assertEqual(processes_with(folder), [])

    def test_used_port(self) -> None:
        """A port that is taken: a clear error with the child's last lines, status 1, nothing left."""
        with tempfile.TemporaryDirectory() as folder, socket.socket() as taken:
            made = cli("genconfig", "--out", f"{folder}/net")
            self.assertEqual(made.returncode, 0, made.stderr)
            line = next(x for x in made.stdout.splitlines() if x.startswith("mix1"))
            port = int(line.split("tcp://127.0.0.1:")[1].split()[0])
            taken.bind(("127.0.0.1", port))
            taken.listen()
            done = cli("testnet", "--dir", f"{folder}/net", "--ping", "1", "--exit")
            self.assertEqual(done.returncode, 1)
            self.assertIn("mix1", done.stderr)
            self.assertIn(f"can not listen on tcp://127.0.0.1:{port}", done.stderr)
            self.assertEqual(processes_with(folder), [])

    def test_shape_of_a_tree_is_fixed(self) -> None:
        """Options that contradict a folder that holds a network are wrong usage."""
        with tempfile.TemporaryDirectory() as folder:
            cli("genconfig", "--out", f"{folder}/net")
            done = cli("testnet", "--dir", f"{folder}/net", "--mixes", "6", "--exit")
            self.assertEqual(done.returncode, 2)
            again = cli("genconfig", "--out", f"{folder}/net")
            self.assertEqual(again.returncode, 1)
            self.assertIn("not empty", again.stderr)


class ShapeTests(SynchronousTestCase):
    """Networks of other shapes."""

    def test_v0_0_99_shape(self) -> None:
        """A gateway and a service node in the shape of v0.0.99 serve pings, with two layers and x25519 links."""
        shape = Shape(
            mixes=4, layers=2, providers=0, gateways=1, service_nodes=1, wire_kem="x25519", epoch="30s", mu=0.05
        )
        with LiveNetwork(shape) as net:
            net.start()
            done = net.ping(3)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_provider_forwards(self) -> None:
        """A Provider serves clients who talk to a service node elsewhere, and to none of its own."""
        with LiveNetwork(Shape(service_nodes=1, wire_kem="x25519", epoch="30s", mu=0.05)) as net:
            net.edit("provider1", lambda tables: tables["Provider"].pop("Kaetzchen"))
            net.start()
            done = net.ping(10, "--gateway", "provider1")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr + str(net.drops()))
            there, here = (metrics(net.node(name)) for name in ("servicenode1", "provider1"))
            self.assertGreaterEqual(there["katzenpost_kaetzchen_requests_total"], 10)
            self.assertEqual(here.get("katzenpost_kaetzchen_requests_total", 0), 0)
            # Out of the client's hands into the first layer, and back from the last layer into his queue.
            self.assertGreaterEqual(here["katzenpost_sphinx_unwraps_total"], 20)

    def test_restart(self) -> None:
        """After kill -9 of a mix and its restart the network answers again from the second epoch change on."""
        with LiveNetwork(Shape(epoch="10s", mu=0.05)) as net:
            net.start()
            victim = net.child("mix2")
            victim.process.kill()
            victim.process.wait()
            killed = net.epochs.number(time.time())
            net.children.restart("mix2")
            net.wait_ready()
            wait_for("two epochs", lambda: net.epochs.number(time.time()) >= killed + 2)
            net.wait_ready()
            done = net.ping(5)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr + str(net.drops()))

    def test_tree_is_private(self) -> None:
        """Folders are 0700, files with keys 0600."""
        with LiveNetwork(Shape(epoch="30s")) as net:
            for path in [net.folder, *net.folder.rglob("*")]:
                mode = path.stat().st_mode & 0o777
                self.assertEqual(mode, 0o700 if path.is_dir() else 0o600, path)
