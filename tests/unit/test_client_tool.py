"""How the tools that run a client of their own end: Ctrl-C and SIGTERM, with no network to talk to."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.cli import receive
from katzentwist.client import events, tool
from katzentwist.testnet.plan import Shape, generate

WORKING = """
import os, signal
from twisted.internet.defer import Deferred
from katzentwist.client import tool
from katzentwist.net.workers import ThreadWorkers

async def main(reactor):
    workers = ThreadWorkers(reactor)
    workers.start()
    try:
        await workers.run(int)
        reactor.callLater(0, os.kill, os.getpid(), signal.SIGTERM)
        await Deferred()
    finally:
        workers.stop()
        print("stopped")

raise SystemExit(tool.run(main))
"""
"""A tool that has used its worker threads, and then waits for what never comes."""


class InterruptTests(SynchronousTestCase):
    """Their worker threads must not keep a process alive that was told to end."""

    def setUp(self) -> None:
        """The files of a network that does not run."""
        self.folder = Path(self.mktemp()).absolute()
        self.config = str(generate(self.folder, Shape()).client / "client.toml")

    def interrupted(self, number: int, *arguments: str) -> int:
        """The exit status of a tool that got this signal once it had tried to connect; -9 if it went on for 20 s."""
        options = ["-f", self.config, "--user", "alice", "--link-key", str(self.folder / "alice.pem")]
        command = [sys.executable, "-m", "katzentwist", arguments[0], *options, *arguments[1:]]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            late = threading.Timer(20, process.kill)
            late.start()
            assert process.stderr is not None
            while "not connected" not in (line := process.stderr.readline()):
                self.assertTrue(line, "it ended by itself")
            process.send_signal(number)
            rest = process.stderr.read()
            status = process.wait()
            late.cancel()
        self.assertNotIn("Traceback", rest)
        return status

    def test_receive_for_ever(self) -> None:
        """Being interrupted is the ordinary end of this one."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self.assertEqual(self.interrupted(number, "receive"), 0)

    def test_receive_a_number(self) -> None:
        """Fewer messages came than were asked for."""
        self.assertEqual(self.interrupted(signal.SIGTERM, "receive", "-n", "1"), 1)

    def test_threads(self) -> None:
        """They are stopped, and the process ends; one that went on would be killed, which is an error here."""
        done = subprocess.run([sys.executable, "-c", WORKING], timeout=20, capture_output=True, text=True, check=False)
        self.assertEqual((done.stdout, done.stderr, done.returncode), ("stopped\n", "", 1))


class ReceiverTests(SynchronousTestCase):
    """What becomes of a message."""

    def setUp(self) -> None:
        """A receiver that was not started."""
        config = tool.read_config(generate(Path(self.mktemp()).absolute(), Shape()).client / "client.toml")
        self.reactor = Clock()
        self.receiver = receive._Receiver(self.reactor, config, keep_plain=True)
        self.receiver.as_json = True
        self.taken: list[int] = []
        self.patch(self.receiver.client, "taken", lambda message: self.taken.append(message.sequence))

    def message(self, sequence: int) -> events.Plain:
        """One of several."""
        return events.Plain(session=1, sequence=sequence, payload=b"x")

    def test_written(self) -> None:
        """It is acknowledged; the last one that was asked for ends the command, and further ones stay."""
        self.receiver.limit = 1
        self.patch(sys, "stdout", io.StringIO())
        self.receiver.plain(self.message(1))
        self.receiver.plain(self.message(2))
        self.assertEqual(self.taken, [1])
        self.assertNoResult(self.receiver.done)
        self.reactor.advance(0.1)
        self.successResultOf(self.receiver.done)

    def test_not_written(self) -> None:
        """It is not acknowledged, and the command ends with the error: a full disk, or head that has enough."""

        class Full(io.StringIO):
            def flush(self) -> None:
                raise BrokenPipeError

        self.receiver.limit = 1
        self.patch(sys, "stdout", Full())
        self.receiver.plain(self.message(1))
        self.receiver.plain(self.message(1))
        self.assertEqual(self.taken, [])
        self.failureResultOf(self.receiver.done, BrokenPipeError)
