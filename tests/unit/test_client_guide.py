"""The client guide: its programs are the examples, its lines run, its doctests hold."""

from __future__ import annotations

import ast
import doctest
import re
from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from katzentwist import thin
from katzentwist.config import thinclient
from katzentwist.config.client import Socket
from katzentwist.thin import blocking, errors, events, services
from tests.e2e.processes import ROOT

GUIDE = (ROOT / "docs" / "client-guide.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", GUIDE, re.DOTALL)


class GuideTests(SynchronousTestCase):
    """docs/client-guide.md."""

    def test_echo(self) -> None:
        """The first program is examples/echo_client.py, and its code has at most ten lines."""
        program = BLOCKS[0][1]
        example = (ROOT / "examples" / "echo_client.py").read_text()
        self.assertTrue(example.endswith(program))
        self.assertLessEqual(len([x for x in program.splitlines() if x.strip()]), 10)

    def test_python_blocks(self) -> None:
        """Every block is Python, and every method of a client that it calls exists."""
        for language, text in BLOCKS:
            if language != "python":
                continue
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in ("client", "thin_client"):
                    self.assertTrue(hasattr(blocking.ThinClient, node.attr), node.attr)

    def test_callbacks_as_printed(self) -> None:
        """The block of the Katzenpost guide runs as it is printed there."""
        [block] = [text for _, text in BLOCKS if "# Create client with callbacks" in text]

        class Started(thin.ThinClient):
            def __init__(self, config: object, **callbacks: object) -> None:
                super().__init__(config, Clock(), **callbacks)  # type: ignore[arg-type]

            def start(self) -> None:  # type: ignore[override]
                started.append(self)

        started: list[Started] = []
        exec(block, {"ThinClient": Started, "config": Socket(network="tcp", address="127.0.0.1:1")})
        self.assertEqual(len(started[0]._callbacks), 3)

    def test_asking_again(self) -> None:
        """The loop of the guide: growing pauses until an answer, an end to its patience, and no second try of what was
        refused."""
        [block] = [text for _, text in BLOCKS if "def ask(" in text]
        clock = Clock()
        names: dict[str, Any] = {}
        exec(block, names)
        names["time"] = SimpleNamespace(monotonic=clock.seconds, sleep=clock.advance)

        def asked(*ends: Exception | bytes) -> tuple[bytes, float]:
            left, began = list(ends), clock.seconds()

            def send(*_: object, timeout_seconds: float) -> bytes:
                end = left.pop(0)
                if isinstance(end, bytes):
                    return end
                raise end

            return names["ask"](SimpleNamespace(blocking_send_message=send), b"", b"", b""), clock.seconds() - began

        overdue = thin.OverdueError("late")
        self.assertEqual(asked(b"at once"), (b"at once", 0))
        self.assertEqual(asked(overdue, thin.LostError("x"), thin.NotSentError("x"), b"then"), (b"then", 1 + 2 + 4))
        self.assertRaises(thin.RefusedError, asked, thin.RefusedError("no"), b"not reached")
        began = clock.seconds()
        self.assertRaises(thin.OverdueError, asked, *[overdue] * 100)
        self.assertTrue(40 * 60 <= clock.seconds() - began <= 45 * 60)

    def test_toml_blocks(self) -> None:
        """The configuration files load."""
        files = [text for language, text in BLOCKS if language == "toml"]
        self.assertEqual(len(files), 2)
        for text in files:
            config, report = thinclient.load(text)
            self.assertIsNotNone(config, report.errors)

    def test_tables(self) -> None:
        """Exceptions, events and callbacks of the tables exist."""
        for name in re.findall(r"`(\w+(?:Error|Event|Collected|Disconnected))`", GUIDE):
            self.assertTrue(hasattr(thin, name), name)
        for name in re.findall(r"`(on_\w+)`", GUIDE):
            self.assertIn(name, {n for names in events.CALLBACKS.values() for n in names})

    def test_doctests(self) -> None:
        """Of the library's modules."""
        for module in (errors, events, services):
            self.assertEqual(doctest.testmod(module).failed, 0)
