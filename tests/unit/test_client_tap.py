"""The front of ``twistd katzenclient`` and its listener: options, exit statuses, texts (spec: client 2.2, 16.4)."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from io import StringIO
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.client import tap
from katzentwist.client.sockets import listen
from katzentwist.config.client import Socket
from katzentwist.errors import ConfigError
from katzentwist.testnet.plan import Shape, generate


class TapTests(SynchronousTestCase):
    """The plugin without twistd."""

    good: str
    thin: str

    def setUp(self) -> None:
        """The files of a client, in the working directory; the streams are caught."""
        self.folder = Path(self.mktemp()).absolute()
        client = generate(self.folder, Shape()).client
        self.good, self.thin = ((client / name).read_text() for name in ("client.toml", "thinclient.toml"))
        before = Path.cwd()
        os.chdir(client)
        self.addCleanup(os.chdir, before)
        self.addCleanup(os.umask, os.umask(0o077))
        self.out = StringIO()
        for stream in ("stdout", "stderr", "__stderr__"):
            self.patch(sys, stream, self.out)

    def run_front(self, *arguments: str) -> tuple[int, str]:
        """The exit status, and what was printed."""

        def front() -> None:
            options = tap.Options()
            options.parseOptions(list(arguments))
            tap.makeService(options)

        self.out.truncate(0)
        status = int(self.assertRaises(SystemExit, front).code or 0)
        return status, self.out.getvalue().strip("\0")

    def test_help(self) -> None:
        """It names the default file and both spellings of the option."""
        status, text = self.run_front("--help")
        self.assertEqual(status, 0)
        self.assertIn("Without -f the file is client.toml of the current folder.", text)
        self.assertIn("-c is the same as -f", text)

    def test_valid(self) -> None:
        """The default file, and each spelling."""
        expected = (0, "configuration file 'client.toml' is valid\n")
        for arguments in ((), ("-f", "client.toml"), ("-c", "client.toml"), ("--config", "client.toml")):
            self.assertEqual(self.run_front("--validate-only", *arguments), expected)

    def test_misspelt(self) -> None:
        """A key that is not known is named beside what is missed for it."""
        Path("client.toml").write_text(self.good.replace("PinnedGateways", "PinedGateways"))
        for mode in ((), ("--validate-only",)):
            status, text = self.run_front(*mode)
            self.assertEqual(status, 1)
            self.assertIn("  PinnedGateways: config: No PinnedGateways block was present\n", text)
            self.assertIn("  unrecognised configuration keys: PinedGateways\n", text)

    def test_other_file(self) -> None:
        """The file of applications in the place of the daemon's is called by its name; so is no file."""
        status, text = self.run_front("-f", "thinclient.toml")
        self.assertEqual(status, 1)
        self.assertIn("this is the thinclient.toml of applications; what is needed here is the client.toml", text)
        status, text = self.run_front("-f", "nowhere.toml")
        self.assertEqual(status, 1)
        self.assertIn("failed to load config file 'nowhere.toml': No such file or directory", text)

    def test_usage(self) -> None:
        """Status 2."""
        for arguments in (("client.toml",), ("--colour",), ("-f",)):
            self.assertEqual(self.run_front(*arguments)[0], 2)


class ListenTests(SynchronousTestCase):
    """Where no listener can be opened."""

    def setUp(self) -> None:
        """A short path: socket names have at most 107 bytes."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def refused(self, address: str, network: str = "unix") -> str:
        """What is said."""
        opening = Deferred.fromCoroutine(listen(reactor, Socket(network=network, address=address), Factory()))
        return str(self.failureResultOf(opening, ConfigError).value)

    def test_unix(self) -> None:
        """Each reason with what helps."""
        file = Path(self.folder) / "file"
        file.write_text("mine")
        taken = "something that is no socket is there already"
        for address, remedy in (
            (f"{self.folder}/nowhere/sock", "make its folder first"),
            (f"{self.folder}/{'x' * 120}", "too long; choose another path"),
            (self.folder, taken),
            (str(file), taken),
        ):
            self.assertIn(remedy, self.refused(address))
        self.assertEqual(file.read_text(), "mine")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(f"{self.folder}/busy")
            other.listen()
            self.assertIn("is another daemon running?", self.refused(f"{self.folder}/busy"))

    def test_tcp(self) -> None:
        """A used port, and an address of another machine."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            text = self.refused(f"127.0.0.1:{other.getsockname()[1]}", "tcp")
        self.assertIn("Listen.Tcp.Address", text)
        self.assertIn("is another daemon running?", text)
        self.assertIn("choose another address", self.refused("192.0.2.1:1", "tcp"))
