"""A live network with client daemons, shared by the tests of one run, and the published thin client in its own venv."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config import toml
from katzentwist.testnet.children import Child
from katzentwist.testnet.plan import Node, Shape
from katzentwist.thin.blocking import ThinClient
from tests.e2e.processes import ROOT, LiveNetwork, environment, metrics, wait_for
from tests.e2e.sharing import find_our_python

PUBLISHED = "katzenpost-thinclient==0.0.25"


SHAPE = Shape(epoch="60s", lambda_p=0.02, lambda_l=0.001, mu=0.02, providers=2)
"""Epochs that leave nodes on a busy machine 7.5 s to upload their descriptors."""
TWO_EPOCHS = 150.0


class ClientSide:
    """A network, and the daemons that were started on it; a context manager.

    Its first Provider has a service ``record``, which writes down what it gets, and ``http``, the proxy of examples/.

    :ivar recorded: where that is.
    """

    def __init__(self, shape: Shape = SHAPE) -> None:
        self.live = LiveNetwork(shape)
        self.folder = self.live.network.client
        self.recorded = self.live.folder / "recorded"
        self._daemons: list[Daemon] = []
        find_our_python()
        self.live.edit("provider1", self._add_services)
        try:
            self.live.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ClientSide:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add_services(self, tables: dict[str, Any]) -> None:
        def plugin(name: str, command: str | Path, **config: str) -> dict[str, Any]:
            return {"Capability": name, "Endpoint": f"+{name}", "Command": str(command), "Config": config}

        # A copy: other tests look for processes of examples/.
        proxy = shutil.copy(ROOT / "examples" / "http_proxy_service.py", self.folder)
        tables["Provider"]["CBORPluginKaetzchen"] = [
            plugin("record", Path(__file__).parent / "recorder.py", file=str(self.recorded)),
            plugin("http", proxy, host="127.0.0.1"),
        ]

    def close(self) -> None:
        """End everything."""
        for daemon in self._daemons:
            daemon.stop(signal.SIGKILL)
        self.live.__exit__(None, None, None)

    def daemon(self, listen: dict[str, Any] | None = None, **tables: Any) -> Daemon:
        """Prepare one, with a listener of its own."""
        name = f"client{len(self._daemons) + 1}"
        folder = self.live.network.folder / name
        folder.mkdir(mode=0o700)
        config = toml.parse((self.folder / "client.toml").read_text())
        config["Listen"] = listen or {"Unix": {"Address": f"@katzentwist-{os.getpid()}-{id(self)}-{name}"}}
        config.update(tables)
        (folder / "client.toml").write_text(toml.dump(config))
        dial = {kind: {"Address": table["Address"]} for kind, table in config["Listen"].items()}
        (folder / "thinclient.toml").write_text(toml.dump({"Dial": dial}))
        log = Path(config["Logging"].get("File") or folder / "output.log")
        self._daemons.append(Daemon(self, Node(name, "client", folder, folder / "client.toml", [], ""), log))
        return self._daemons[-1]

    def records(self) -> str:
        """What reached ``record``: a line per message, payload in hexadecimal and whether it had a SURB."""
        return self.recorded.read_text() if self.recorded.exists() else ""

    def clients(self) -> int:
        """Sessions of clients at all gateways."""
        return sum(int(metrics(n)["katzenpost_clients"]) for n in self.live.network.nodes if n.role == "provider")

    def tcp(self) -> dict[str, Any]:
        """The listener that testnet writes."""
        listen: dict[str, Any] = toml.parse((self.folder / "client.toml").read_text())["Listen"]
        return listen

    def complete(self, document: Mapping[str, Any] | None) -> bool:
        """Whether a document is that of this epoch and lists every node."""
        if document is None or document["Epoch"] != self.live.epochs.number(time.time()):
            return False
        roles = [n.role for n in self.live.network.nodes]
        listed = [document["GatewayNodes"], document["ServiceNodes"], *document["Topology"]]
        providers = roles.count("provider")
        return sum(map(len, listed)) == len(roles) - roles.count("authority") + providers


class Daemon:
    """One client daemon; a context manager."""

    def __init__(self, side: ClientSide, node: Node, log: Path) -> None:
        self.side, self.node = side, node
        self.thin = node.folder / "thinclient.toml"
        self._log = log
        self._child: Child | None = None

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def start(self) -> None:
        """Start it and wait until it is connected and knows all nodes."""
        before = self.log().count("connected to gateway")
        self._child = self.side.live.children._start(self.node)
        wait_for("the daemon's session", lambda: self.log().count("NOTI client: connected to gateway") > before)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until applications see a complete document of this epoch, and a session with a gateway."""
        with ThinClient(self.thin) as app:
            wait_for(
                "a complete document and a session",
                lambda: app.is_connected() and self.side.complete(app.pki_document()),
                TWO_EPOCHS,
            )

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._child is not None
        return self._child.process.pid

    def log(self) -> str:
        """What it wrote."""
        return self._log.read_text() if self._log.exists() else ""

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        """End it; the exit status, None if it never ran."""
        if self._child is None:
            return None
        if self._child.process.poll() is None:
            self._child.process.send_signal(number)
        return self._child.process.wait(30)

    def __exit__(self, *_: object) -> None:
        self.stop()


class ClientSideCase(SynchronousTestCase):
    """Tests that share one network; it ends with the last of them, or with the program if only some are run."""

    _done: ClassVar[set[str]] = set()
    side: ClientSide

    def setUp(self) -> None:
        """Start the network if it does not run."""
        self.side = client_side()

    def tearDown(self) -> None:
        """End the network after the last test."""
        self._done.add(self.id())
        names = unittest.defaultTestLoader.getTestCaseNames
        running = [c for c in ClientSideCase.__subclasses__() if not getattr(c, "skip", "")]
        if self._done >= {f"{c.__module__}.{c.__name__}.{n}" for c in running for n in names(c)}:
            self._done.clear()
            atexit.unregister(self.side.close)
            self.side.close()
            client_side.cache_clear()


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
    # trial -j hands its path on: pip would find there what the environment needs, and not install it.
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    python = str(Path(folder) / "bin" / "python")
    try:
        for command, timeout in (
            ([sys.executable, "-m", "venv", folder], 60),
            ([python, "-m", "pip", "install", "-q", PUBLISHED], 180),
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=timeout, env=clean)
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
