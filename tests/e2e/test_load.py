"""benchmarks/load.py with real nodes, slowly and shortly: what it says, and that it ends when the node does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from katzentwist.crypto.native import native
from tests.e2e.processes import ROOT, environment, processes_with, wait_for

COMMON = ("--json", "--epoch", "60s", "--rate", "300", "--seconds", "2", "--warmup", "0.5")


class LoadTests(TestCase):
    """One run each."""

    timeout = 150
    skip = None if native is not None else "the native core is not built"

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """The generator; *more* for its environment."""
        words = [sys.executable, str(ROOT / "benchmarks" / "load.py"), *COMMON, *arguments]
        process = subprocess.Popen(
            words, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def figures(self, *arguments: str) -> dict[str, Any]:
        """What a run that must end well prints."""
        process = self.start(*arguments)
        out, said = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, said)
        figures: dict[str, Any] = json.loads(out)
        return figures

    def read_until(self, process: subprocess.Popen[str], word: str) -> None:
        """Read its progress."""
        said = []
        while word not in "".join(said[-1:]):
            said.append(process.stderr.readline())
            self.assertTrue(said[-1], "".join(said))

    def assertForwards(self, figures: dict[str, Any]) -> None:
        """Everything came, once, unchanged, in its place."""
        for name in ("lost", "wrong or twice", "lost without a count"):
            self.assertEqual(figures[name], 0, figures)
        self.assertTrue(240 < figures["forwarded packets/s"] < 360, figures)
        self.assertTrue(0 <= figures["lateness ms median"] <= figures["lateness ms 99%"] < 450, figures)
        self.assertTrue(20 < figures["memory MiB idle"] < 200, figures)

    def test_mix(self) -> None:
        """A mix with two neighbours on each side."""
        figures = self.figures("--peers", "2")
        self.assertForwards(figures)
        self.assertEqual(figures["peers"], 2)

    def test_gateway(self) -> None:
        """A gateway whose packets come from clients, while more of them connect."""
        figures = self.figures("--role", "gateway", "--storm", "5")
        self.assertForwards(figures)
        self.assertGreater(float(figures["storm seconds"]), 0)

    def test_highest(self) -> None:
        """The rate that was given is held, or a lower one on a busy machine; a verdict for each figure."""
        figures = self.figures("--highest", "--seconds", "1")
        self.assertTrue(200 < figures["highest packets/s"] <= 300, figures)
        self.assertEqual(figures["half, 1 s"]["lost"], 0)
        self.assertEqual(len(figures["verdicts"]), 8)
        self.assertTrue(all(isinstance(v["reached"], bool) for v in figures["verdicts"]), figures)

    def test_ends_at_once(self) -> None:
        """A node that ends before it has done anything: status 1, and what it said."""
        process = self.start("--command", "sh -c 'echo my last words; exit 3'")
        out, said = process.communicate(timeout=60)
        self.assertEqual((process.returncode, out), (1, ""))
        self.assertIn("ended with status 3", said)
        self.assertIn("my last words", said)

    def test_dies(self) -> None:
        """A node that is killed while it is fed."""
        with tempfile.TemporaryDirectory() as folder:
            pid = Path(folder) / "pid"
            twistd = "{python} -c 'from twisted.scripts.twistd import run; run()' -n"
            process = self.start("--seconds", "60", "--command", f"{twistd} --pidfile={pid} katzenmix -f {{config}}")
            self.read_until(process, "making")
            os.kill(int(wait_for("the pid", lambda: pid.read_text() if pid.exists() else "")), signal.SIGKILL)
            _, said = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 1)
        self.assertIn("ended with status -9", said)

    def test_interrupted(self) -> None:
        """SIGTERM while it feeds, alone or as one run of several: status 1, and no process or file stays behind."""
        for arguments in ((), ("--growth",)):
            with tempfile.TemporaryDirectory() as folder:
                process = self.start("--seconds", "60", "--epoch", "20s", *arguments, TMPDIR=folder)
                self.read_until(process, "feeding")
                self.assertTrue(processes_with("katzenmix", folder))
                process.terminate()
                out, said = process.communicate(timeout=30)
                self.assertEqual((process.returncode, out), (1, ""), said)
                self.assertIn("interrupted", said)
                self.assertNotIn("Traceback", said)
                self.assertEqual(os.listdir(folder), [])
                self.assertEqual(processes_with("", folder), [])

    def test_never_ready(self) -> None:
        """A node that runs and does nothing; what it started ends with it."""
        with tempfile.TemporaryDirectory() as folder:
            process = self.start("--patience", "1", "--command", "sh -c 'sleep 60; true'", TMPDIR=folder)
            _, said = process.communicate(timeout=30)
            self.assertEqual(process.returncode, 1)
            self.assertIn("not ready after 1 s", said)
            self.assertEqual(processes_with("", folder), [])

    def test_background(self) -> None:
        """A node that leaves the foreground: that is told, and it ends."""
        with tempfile.TemporaryDirectory() as folder:
            twistd = "{python} -c 'from twisted.scripts.twistd import run; run()' --pidfile={pid}"
            process = self.start("--command", f"{twistd} katzenmix -f {{config}}", TMPDIR=folder)
            _, said = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 1)
            self.assertIn("it must stay in the foreground", said)
            wait_for("its end", lambda: not processes_with("katzenmix", folder))
