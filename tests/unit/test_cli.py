"""What the katzentwist command says of wrong arguments and files: a line on standard error, the promised status."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.cli.main import main
from katzentwist.cli.output import Progress
from katzentwist.client.tool import Tool, ToolError
from katzentwist.config.client import load
from katzentwist.testnet.plan import Shape, generate

FAILED, USAGE = 1, 2


class CommandTests(SynchronousTestCase):
    """Without a network."""

    def refused(self, status: int, *arguments: str) -> str:
        """Run it; what it said in its last line."""
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            try:
                got = main(arguments)
            except SystemExit as e:  # out of argparse
                got = e.code
        self.assertEqual(got, status, said.getvalue())
        return said.getvalue().splitlines()[-1]

    def test_impossible_shape(self) -> None:
        """Options of which no network can be made are wrong usage, and nothing is written."""
        folder = self.mktemp()
        for command in (("testnet", "--dir"), ("genconfig", "--out")):
            for options, words in (
                (("--mixes", "0"), "--mixes 0: 3 layers need at least as many mixes"),
                (("--epoch", "5"), "'5' is not a duration"),
                (("--epoch", "1s"), "--epoch 1s"),
                (("--wire-kem", "rot13"), "rot13"),
            ):
                self.assertIn(words, self.refused(USAGE, *command, folder, *options))
        self.assertFalse(Path(folder).exists())

    def test_unusable_folder(self) -> None:
        """A folder that can not be made is named, with the reason in words."""
        file = Path(self.mktemp()).absolute()
        file.touch()
        for command in (("testnet", "--dir"), ("genconfig", "--out")):
            self.assertEqual(
                self.refused(FAILED, *command, f"{file}/net"), f"katzentwist {command[0]}: {file}/net: Not a directory"
            )

    def test_no_document(self) -> None:
        """A file that is no document is named; for a configuration file the right option is told."""
        file = Path(self.mktemp() + ".toml")
        file.write_text("[Dial]\n")
        said = self.refused(FAILED, "consensus", str(file))
        self.assertIn(f"{file} is no signed document: ", said)
        self.assertIn("behind -f, --thin or --authority", said)
        other = file.rename(file.with_suffix(".cbor"))
        self.assertNotIn("behind -f", self.refused(FAILED, "consensus", str(other)))

    def test_unreadable_file(self) -> None:
        """Whatever the option: the reason in words."""
        file = Path(self.mktemp())
        file.write_bytes(b"\xff\xfe")
        for command in (("ping", "-f"), ("consensus", "-f"), ("consensus", "--authority")):
            self.assertIn(f"can not read {file}: not UTF-8", self.refused(FAILED, *command, str(file)))

    def test_reader_gone(self) -> None:
        """Who reads the output, such as ``head``, may end first: that is no error to tell."""
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "wb") as gone:
            ended = subprocess.run(
                [sys.executable, "-u", "-m", "katzentwist", "version"], stdout=gone, stderr=subprocess.PIPE, check=False
            )
        self.assertEqual((ended.returncode, ended.stderr), (FAILED, b""))

    def test_silent_authority(self) -> None:
        """One that does not run is named, with its address and the reason."""
        (node, *_) = generate(Path(self.mktemp()).absolute(), Shape()).nodes
        command = [sys.executable, "-m", "katzentwist", "consensus", "--authority", str(node.config)]
        ended = subprocess.run(command, capture_output=True, check=False, text=True)
        self.assertEqual((ended.returncode, ended.stdout), (FAILED, ""))
        (said,) = ended.stderr.splitlines()
        self.assertIn(f"no answer from auth1 at {node.addresses[0]}: Connection was refused", said)

    def test_management_socket(self) -> None:
        """The socket is what is missing; a command is not needed."""
        self.assertEqual(
            self.refused(USAGE, "manage"),
            "katzentwist manage: error: the following arguments are required: SOCKET",
        )


class WaitingTests(SynchronousTestCase):
    """What a command says while it waits for a gateway."""

    def test_reason(self) -> None:
        """What is waited for, how long still, and why it is not there yet; at the end the same as an error."""
        network = generate(Path(self.mktemp()), Shape(epoch="20m"))
        config, _ = load((network.client / "client.toml").read_text())
        assert config is not None
        clock = Clock()
        tool = Tool(clock, config)
        tool.clock = SeenClock(clock)  # type: ignore[assignment]
        tool.why_not = "gateway provider1: Connection refused"
        said: list[str] = []
        waiting = Deferred.fromCoroutine(tool.ready(3.0, say=said.append))
        clock.pump([1.0] * 3)
        self.assertEqual(
            said,
            [f"no gateway session yet, {s} s left: {tool.why_not}" for s in (3, 2, 1)],
        )
        self.assertIn(tool.why_not, str(self.failureResultOf(waiting, ToolError).value))

    def test_one_line(self) -> None:
        """It never wraps, so that it can be written over; where there is no terminal it is not written at all."""
        self.patch(os, "get_terminal_size", lambda *_: os.terminal_size((20, 5)))
        self.patch(os, "environ", {})
        for terminal, said in ((Terminal(), "\r\x1b[Kwaiting for a gatew"), (io.StringIO(), "")):
            Progress(terminal).show("waiting for a gateway session")
            self.assertEqual(terminal.getvalue(), said)


class Terminal(io.StringIO):
    """Text on a terminal."""

    def isatty(self) -> bool:
        return True


class SeenClock:
    """A fake clock as the tool reads it."""

    def __init__(self, clock: Clock) -> None:
        self.monotonic = self.wallclock = clock.seconds
