"""A live network with client daemons, shared by the tests of one run, and the published thin client in its own venv."""

from __future__ import annotations

import atexit
import functools
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from katzentwist.config import toml
from katzentwist.testnet.children import Child
from katzentwist.testnet.plan import Node, Shape
from tests.e2e.processes import LiveNetwork, environment, wait_for

PUBLISHED = "katzenpost-thinclient==0.0.25"


class ClientSide:
    """The network, and the daemons that were started on it."""

    def __init__(self) -> None:
        self.live = LiveNetwork(Shape(epoch="30s", lambda_p=0.02, lambda_l=0.001, mu=0.02, providers=2))
        self.live.start()
        self.folder = self.live.network.client
        self._started = 0

    def close(self) -> None:
        """End everything."""
        self.live.__exit__(None, None, None)

    def daemon(self, listen: dict[str, Any] | None = None, **tables: Any) -> Daemon:
        """Start one, with a listener of its own."""
        self._started += 1
        folder = self.live.network.folder / f"client{self._started}"
        folder.mkdir(mode=0o700)
        config = toml.parse((self.folder / "client.toml").read_text())
        if listen is not None:
            config["Listen"] = listen
        config.update(tables)
        (folder / "client.toml").write_text(toml.dump(config))
        dial = {kind: {"Address": table["Address"]} for kind, table in config["Listen"].items()}
        (folder / "thinclient.toml").write_text(toml.dump({"Dial": dial}))
        return Daemon(self, Node(folder.name, "client", folder, folder / "client.toml", [], ""))


class Daemon:
    """One client daemon; a context manager."""

    def __init__(self, side: ClientSide, node: Node) -> None:
        self.side, self.node = side, node
        self.thin = node.folder / "thinclient.toml"
        self._child: Child

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def start(self) -> None:
        """Start it and wait until it is connected."""
        before = self.log().count("connected to gateway")
        self._child = self.side.live.children._start(self.node)
        wait_for("the daemon's session", lambda: self.log().count("NOTI client: connected to gateway") > before)

    def log(self) -> str:
        """What it wrote."""
        file = self.node.folder / "output.log"
        return file.read_text() if file.exists() else ""

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; the exit status."""
        if self._child.process.poll() is None:
            self._child.process.send_signal(number)
        return self._child.process.wait(10)

    def __exit__(self, *_: object) -> None:
        self.stop()


@functools.cache
def client_side() -> ClientSide:
    """The network of this run."""
    side = ClientSide()
    atexit.register(side.close)
    return side


@functools.cache
def published_python() -> str | None:
    """A Python that has the published thin client; None if it can not be had."""
    folder = tempfile.mkdtemp(prefix="katzentwist-published-")
    atexit.register(shutil.rmtree, folder, True)
    try:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True, timeout=60)
        python = str(Path(folder) / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", PUBLISHED], check=True, capture_output=True, timeout=180)
    except (OSError, subprocess.SubprocessError):
        return None
    return python


def run_script(python: str, script: str, *arguments: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    """Run a script to its end."""
    return subprocess.run(
        [python, "-c", script, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
