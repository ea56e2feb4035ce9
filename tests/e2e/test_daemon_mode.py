"""``twistd`` without ``-n``: start, pid file, log, stop, failures; and what a start that is refused leaves behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config import toml
from katzentwist.testnet.plan import Node, Shape, generate
from tests.e2e.processes import environment, processes_with, twistd, wait_for

TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]


@contextlib.contextmanager
def taken(url: str) -> Iterator[None]:
    """The port of this address is in use."""
    host, _, port = url.removeprefix("tcp://").rpartition(":")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((host, int(port)))
        other.listen()
        yield


class DaemonCase(SynchronousTestCase):
    """One mix of a tree."""

    def setUp(self) -> None:
        # The path of a Unix socket must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="katzentwist-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.addCleanup(self.kill)
        network = generate(self.folder, Shape(epoch="30s"))
        self.authority, self.mix = (next(n for n in network.nodes if n.name == name) for name in ("auth1", "mix1"))
        self.pid_file = self.folder / "twistd.pid"
        self.keys = self.mix.folder / "mixkeys"

    def edit(self, change: Callable[[dict[str, Any]], None], node: Node | None = None) -> None:
        node = node or self.mix
        tables = toml.parse(node.config.read_text())
        change(tables)
        node.config.write_text(toml.dump(tables))

    def daemon(self, node: Node | None = None) -> subprocess.CompletedProcess[str]:
        """Start it in the background; what the one who started it sees."""
        node = node or self.mix
        program = "katzendirauth" if node.role == "authority" else "katzenmix"
        return subprocess.run(
            [
                "/bin/sh",
                "-c",
                'ulimit -S -n 512; exec "$@"',
                "sh",
                *TWISTD,
                f"--pidfile={self.pid_file}",
                program,
                "-f",
                str(node.config),
            ],
            env=environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def kill(self) -> None:
        """Leave nothing running, whatever the test met."""
        for pid in processes_with(str(self.folder)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM) -> None:
        """End the daemon and wait for its end."""
        pid = int(self.pid_file.read_text())
        os.kill(pid, number)
        wait_for("the pid file to go", lambda: not self.pid_file.exists(), 20)
        wait_for("the process to end", lambda: not _alive(pid), 20)

    def kept(self) -> list[str]:
        return sorted(path.name for path in self.keys.glob("mixkey-*.bin"))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


class BackgroundTests(DaemonCase):
    """A daemon."""

    def test_life(self) -> None:
        """It starts in a data directory that is not there yet, with its log in it, and ends in order."""
        data = self.folder / "new"
        self.edit(lambda t: (t["Server"].update(DataDir=str(data)), t["Logging"].update(File="node.log")))
        started = self.daemon()
        self.assertEqual((started.returncode, started.stdout, started.stderr), (0, "", ""))
        log = data / "node.log"
        wait_for("the start", lambda: "management on" in log.read_text())
        self.assertEqual((data.stat().st_mode & 0o777, log.stat().st_mode & 0o777), (0o700, 0o600))
        for name in ("one", "two"):  # not only the first SIGHUP counts
            log.rename(data / name)
            os.kill(int(self.pid_file.read_text()), signal.SIGHUP)
            wait_for("the new log file", log.exists)
        limits = Path(f"/proc/{self.pid_file.read_text()}/limits").read_text()
        soft, hard = re.search(r"Max open files +(\d+) +(\d+)", limits).groups()
        self.assertEqual(int(soft), min(65536, int(hard)))
        self.end()
        self.assertIn("Shutdown complete.", log.read_text())
        self.assertFalse((data / "management_sock").exists())
        self.assertEqual(len(self.kept()), 3)

    def test_two_signals(self) -> None:
        """A supervisor that sends the signal twice in a row does not cut the stop short."""
        self.edit(lambda t: t["Logging"].update(File="node.log"))
        self.assertEqual(self.daemon().returncode, 0)
        wait_for("the start", lambda: "management on" in (self.mix.folder / "node.log").read_text())
        pid = int(self.pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        wait_for("the stop to begin", lambda: "Starting graceful" in (self.mix.folder / "node.log").read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        wait_for("the end", lambda: not _alive(pid), 20)
        self.assertIn("Shutdown complete.", (self.mix.folder / "node.log").read_text())
        self.assertEqual(len(self.kept()), 3)

    def test_refused(self) -> None:
        """A failure reaches whoever started it, whole; status 1, no pid file, no process."""
        with taken(self.mix.addresses[0]):
            refused = self.daemon()
        self.assertEqual(refused.returncode, 1)
        self.assertIn("Address already in use; stop the other program or change the address", refused.stderr)
        self.assertNotIn("Traceback", refused.stderr)
        self.assertIn("[Logging] File", refused.stderr, "a daemon without a log file is told so")
        self.assertFalse(self.pid_file.exists())

    def test_refused_later(self) -> None:
        """The authority finds out once it runs, and still tells."""
        with taken(self.authority.addresses[0]):
            refused = self.daemon(self.authority)
            wait_for("its end", lambda: not self.pid_file.exists(), 20)
        self.assertIn("can not listen on", refused.stderr)


class RefusedStartTests(DaemonCase):
    """What a start that is refused must not cost."""

    def test_last_step(self) -> None:
        """A mistake that shows at the last step, when threads run already, ends the process too."""
        long = self.folder / ("x" * 120)
        self.edit(lambda t: t["Management"].update(Path=str(long)))
        refused = self.daemon()
        self.assertEqual(refused.returncode, 1)
        self.assertIn("Management.Path", refused.stderr)
        foreground = twistd("katzenmix", "-f", str(self.mix.config), cwd=self.folder)
        self.assertEqual(foreground.returncode, 1)
        wait_for("all to end", lambda: not any(map(_alive, processes_with(str(self.folder)))), 10)

    def test_mix_keys(self) -> None:
        """Mix keys of the last run are there for the next start, in the foreground and as a daemon."""
        self.edit(lambda t: t["Logging"].update(File="node.log"))
        self.assertEqual(self.daemon().returncode, 0)
        wait_for("the start", lambda: "management on" in (self.mix.folder / "node.log").read_text())
        self.end()
        before = {name: (self.keys / name).read_bytes() for name in self.kept()}
        self.assertEqual(len(before), 3)
        with taken(self.mix.addresses[0]):
            self.assertEqual(self.daemon().returncode, 1)
            foreground = twistd("katzenmix", "-f", str(self.mix.config), cwd=self.folder)
        self.assertEqual(foreground.returncode, 1)
        self.assertFalse((self.folder / "pid").exists())
        after = {name: (self.keys / name).read_bytes() for name in self.kept()}
        self.assertEqual({n: after.get(n) for n in before if n in after}, {n: before[n] for n in before if n in after})
        self.assertGreaterEqual(len(set(before) & set(after)), 2, "an epoch may have ended meanwhile")
