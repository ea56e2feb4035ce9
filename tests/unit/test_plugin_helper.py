"""The helper for services in Python, as a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import cbor2
from twisted.trial.unittest import SynchronousTestCase

EXAMPLE = Path(__file__).parents[2] / "examples" / "counter_service.py"


class EndTests(SynchronousTestCase):
    """How a service ends."""

    def test_terminated(self) -> None:
        """SIGTERM ends it in order while the node is connected: its own line is all that the node's log gets."""
        with (
            subprocess.Popen(
                [sys.executable, EXAMPLE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as process,
            socket.socket(socket.AF_UNIX) as node,
        ):
            self.addCleanup(process.kill)
            assert process.stdout is not None
            assert process.stderr is not None
            node.settimeout(20)
            node.connect(process.stdout.readline().strip())
            # An answer shows that it has accepted the connection.
            node.sendall(cbor2.dumps({"ID": 1, "Payload": b"\0" * 100, "SURB": b"s", "HasSURB": True}))
            self.assertTrue(node.recv(1))
            process.terminate()
            said = process.stderr.read()
            self.assertEqual(process.wait(20), 0)
        self.assertRegex(said, r"\Acounting as process \d+\n\Z")
