"""Real processes in tests: a network of twistd children on loopback, with bounded waits and nothing left behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from katzentwist.clock import Epochs, parse_duration
from katzentwist.config import toml
from katzentwist.testnet.children import Child, Children
from katzentwist.testnet.plan import Network, Node, Shape, generate

ROOT = Path(__file__).parent.parent.parent
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n"]
PATIENCE = 60.0


def environment(**more: str) -> dict[str, str]:
    """Ours, with the source tree on the path."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def wait_for(what: str, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """The first true value of *condition*; fails after *seconds*."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.05)


def cli(*arguments: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """Run the katzentwist command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "katzentwist", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def twistd(program: str, *arguments: str, cwd: Path, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Run a plugin in the foreground to its end."""
    return subprocess.run(
        [*TWISTD, f"--pidfile={cwd / 'pid'}", program, *arguments],
        env=environment(),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def processes_with(text: str, of: str = "") -> list[int]:
    """Processes whose command line holds *text*, and whose environment *of*: others may run the same tests."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if text.encode() in (entry / "cmdline").read_bytes() and (
                    not of or of.encode() in (entry / "environ").read_bytes()
                ):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def metrics(node: Node) -> dict[str, float]:
    """All series of a node; those of a Provider's two halves, and of what they share, are added up."""
    with urllib.request.urlopen(f"http://{node.metrics}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    out: dict[str, float] = {}
    for name, value in (line.rsplit(" ", 1) for line in lines if line and line[0] != "#"):
        name = re.sub(r',half="\w+"', "", re.sub(r'\{half="\w+"\}', "", name))
        out[name] = out.get(name, 0) + float(value)
    return out


LEFT = 4.0
"""Seconds of an epoch in which a tool is started, gets its document and sends some packets."""


class LiveNetwork:
    """A network that runs. Use it as a context manager; changes to the files come before :meth:`start`."""

    def __init__(self, shape: Shape) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="katzentwist-e2e-")
        self.folder = Path(self._folder.name) / "net"
        self.network: Network = generate(self.folder, shape)
        self.children = Children(self.network)
        self.epochs = Epochs(parse_duration(shape.epoch))

    def __enter__(self) -> LiveNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        self.children.stop()
        self._folder.cleanup()

    def node(self, name: str) -> Node:
        """The node of this name."""
        return next(n for n in self.network.nodes if n.name == name)

    def child(self, name: str) -> Child:
        """The process of this node."""
        return next(c for c in self.children if c.node.name == name)

    def edit(self, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the configuration of a node."""
        path = self.node(name).config
        tables = toml.parse(path.read_text())
        change(tables)
        path.write_text(toml.dump(tables))

    def start(self) -> None:
        """Start everything and wait until all links are up."""
        self.children.start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait for documents and links."""
        for node in self.network.nodes:
            if node.role != "authority":
                wait_for(f"links of {node.name}\n{self.child(node.name).last_lines()}", lambda n=node: self._up(n))

    def _up(self, node: Node) -> bool:
        self.children.check()
        try:
            values = metrics(node)
        except OSError:
            return False
        up, down = (values.get(f'katzenpost_outgoing_links{{state="{s}"}}', 0) for s in ("up", "down"))
        return up > 0 and down == 0

    def wait_for_time(self) -> None:
        """Wait for the next epoch if this one is over soon.

        A packet that is under way then is lost where the next document has put its mixes into other layers (spec: node
        4.8). That is right, but with epochs of 10 s it is a packet in thirty.
        """
        _, _, till = self.epochs.now(time.time())
        if till < LEFT:
            time.sleep(till + 0.3)

    def ping(self, count: int, *more: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Ping the echo service, not over the end of an epoch."""
        self.wait_for_time()
        client = str(self.network.client / "client.toml")
        return cli("ping", "-f", client, "-n", str(count), *more, timeout=timeout)

    def refused(self, name: str, *more: str) -> bool:
        """Whether a client with these options is turned away by the gateway of this name; it would go on trying."""
        series = 'katzenpost_incoming_peer_validation_failures_total{reason="client_dropped_from_userdb"}'
        before = metrics(self.node(name)).get(series, 0)
        client = str(self.network.client / "client.toml")
        trying = subprocess.Popen(
            [sys.executable, "-m", "katzentwist", "ping", "-f", client, "-n", "1", *more],
            env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE / 2
        try:
            while trying.poll() is None and time.monotonic() < deadline:
                if metrics(self.node(name)).get(series, 0) > before:
                    return True
                time.sleep(0.05)
            return False
        finally:
            trying.kill()
            trying.wait()

    def drops(self) -> dict[str, int]:
        """Drops of all nodes by reason."""
        out: dict[str, int] = {}
        for node in self.network.nodes:
            if node.metrics:
                for name, value in metrics(node).items():
                    match = re.fullmatch(r'katzenpost_dropped_reason_total\{reason="(.*)"\}', name)
                    if match:
                        out[match[1]] = out.get(match[1], 0) + int(value)
        return out
