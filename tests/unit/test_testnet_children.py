"""The programs of a test network: what is said of one that ends, and when it is started again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.testnet.children import PAUSE, RESTARTS, WITHIN, Child, ChildError, Children
from katzentwist.testnet.plan import Network, Node


class ShellChildren(Children):
    """Shells in place of nodes: each says its number and ends as its script says."""

    script = "exit 3"
    started = 0

    def _start(self, node: Node) -> Child:
        self.started += 1
        output = node.folder / "output.log"
        with output.open("ab") as file:
            process = subprocess.Popen(["/bin/sh", "-c", f"echo run {self.started}; {self.script}"], stdout=file)
        process.wait()
        return Child(node, process, output)


class ReviveTests(SynchronousTestCase):
    """Time is an argument."""

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.node = Node("mix1", "mix", folder, folder / "katzenpost.toml", [], "")
        self.children = ShellChildren(Network(folder, "30s", [self.node], folder))

    def news(self, now: float) -> str:
        """What is said at this time."""
        return "\n".join(self.children.revive(now))

    def test_told_once_and_started_again(self) -> None:
        """Name, status and last words at once; the start after the pause."""
        self.children.start()
        said = self.news(100.0)
        for words in ("mix1 ended with status 3", "output.log:\n    run 1", "started again in"):
            self.assertIn(words, said)
        self.assertEqual(self.news(100.0 + PAUSE - 0.01), "")
        self.assertEqual(self.children.started, 1)
        self.assertIn("mix1 is started again, pid", self.news(100.0 + PAUSE))
        self.assertEqual(self.children.started, 2)

    def test_runs_already(self) -> None:
        """A network whose nodes run is not run twice; a pid file that was left behind does not matter."""
        pids = self.node.folder / "twistd.pid"
        pids.write_text(str(os.getpid()))
        self.assertRaisesRegex(ChildError, f"mix1 runs already, pid {os.getpid()}: end that", self.children.start)
        self.assertEqual(self.children.started, 0)
        with subprocess.Popen(["/bin/true"]) as ended:
            pass
        for left in (str(ended.pid), "", "x"):
            pids.write_text(left)
            self.children.start()
        self.assertEqual(self.children.started, 3)

    def test_signal(self) -> None:
        """What kill does has a name."""
        self.children.script = "kill -9 $$"
        self.children.start()
        self.assertIn("mix1 was ended by SIGKILL", self.news(0.0))
        self.assertRaisesRegex(ChildError, "mix1 was ended by SIGKILL", self.children.check)

    def ends(self, apart: float) -> int:
        """How often it is started again when it ends so many seconds apart; at most 10 times."""
        self.children.start()
        now = 0.0
        for count in range(10):
            try:
                self.news(now)
            except ChildError as e:
                self.assertIn(f"mix1 ended with status 3; the end of {self.node.folder}/output.log:", str(e))
                self.assertIn(f"that was {RESTARTS + 1} times within {WITHIN:g} s", str(e))
                return count
            self.news(now + PAUSE)
            now += apart
        return 10

    def test_too_often(self) -> None:
        """One that ends at once each time is given up."""
        self.assertEqual(self.ends(PAUSE), RESTARTS)

    def test_not_too_often(self) -> None:
        """One that ends now and then is not."""
        self.assertEqual(self.ends(WITHIN / RESTARTS), 10)
