"""``katzentwist testnet``: a whole mix network on one machine, as real processes (design 2)."""

from __future__ import annotations

import argparse
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

import attrs

from katzentwist.cli.output import Progress, UsageFault, print_json, table
from katzentwist.cli.shape import add_shape_options, given, shape_of
from katzentwist.clock import Epochs, parse_duration
from katzentwist.config.client import Socket
from katzentwist.errors import KatzentwistError
from katzentwist.testnet.children import Children
from katzentwist.testnet.plan import Network, Node, generate, read

EPOCH: Final = "30s"
"""The epoch length when none is asked for: long enough for calm, short enough to see epochs pass."""
POLL: Final = 0.1
PATIENCE: Final = 60.0
"""Seconds until a network that has no document, or lacks links, is given up; at least an epoch and a half."""


def add_parser(subparsers: Any) -> None:
    """The options."""
    parser = subparsers.add_parser(
        "testnet",
        help="run a whole mix network on this machine",
        description="Start a directory authority, mixes and Providers as real processes, and ping through them.",
        epilog="Example: katzentwist testnet --ping 5 --exit",
    )
    parser.add_argument("--dir", metavar="DIR", help="folder of the network; one that holds a network is run as it is")
    add_shape_options(parser, EPOCH)
    parser.add_argument("--ping", type=int, default=0, metavar="N", help="send N pings to the echo service")
    parser.add_argument("--exit", action="store_true", help="leave after the pings instead of waiting for Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Start, wait, ping, and leave nothing behind."""
    if args.ping < 0:
        raise UsageFault(f"--ping {args.ping}: must not be negative")
    temporary = None if args.dir else Path(tempfile.mkdtemp(prefix="katzentwist-testnet-"))
    # Ctrl-C and kill both end the network in the same orderly way.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        network = _network(args, temporary)
        return _Run(network, args).run()
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _network(args: argparse.Namespace, temporary: Path | None) -> Network:
    folder = temporary or Path(args.dir)
    if temporary is None and folder.is_dir() and any(folder.iterdir()):
        if given(args):
            raise UsageFault(f"{folder} holds a network already; its shape can not be changed by options")
        return read(folder)
    shape = shape_of(args)
    return generate(folder, shape if args.epoch else attrs.evolve(shape, epoch=EPOCH))


class _Run:
    def __init__(self, network: Network, args: argparse.Namespace) -> None:
        self._network, self._args = network, args
        self._children = Children(network)
        self._progress = Progress()
        self._epochs = Epochs(parse_duration(network.epoch))
        self._began = time.monotonic()
        self._patience = max(PATIENCE, 1.5 * self._epochs.period)

    def run(self) -> int:
        try:
            daemon = self._network.daemon()
            print(f"epoch length {self._network.epoch}, files in {self._network.folder}", flush=True)
            self._children.start()
            self._wait("the first consensus", self._lacking_consensus)
            self._show("the first consensus")
            self._wait("links between the nodes", self._lacking_links)
            self._children.add(daemon)
            self._wait("the client daemon", self._lacking_daemon)
            self._print_table()
            status = self._ping() if self._args.ping else 0
            if not self._args.exit:
                self._stay()
            return status
        except KeyboardInterrupt:
            return 0 if not self._args.exit else 1
        finally:
            self._progress.clear()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._children.stop()

    def _show(self, what: str) -> None:
        self._progress.clear()
        print(f"{what} after {time.monotonic() - self._began:.1f} s", flush=True)

    def _wait(self, what: str, lacking: Any) -> None:
        """Wait until *lacking* names no node any more."""
        while missing := lacking():
            self._children.check()
            spent = time.monotonic() - self._began
            if spent > self._patience:
                names = ", ".join(missing)
                tail = "\n".join(
                    f"  {c.node.name}, the end of {c.output}:\n{c.last_lines()}"
                    for c in self._children
                    if c.node.name in missing
                )
                raise KatzentwistError(f"waited {spent:.0f} s in vain for {what}; missing at: {names}\n{tail}")
            self._progress.show(f"waiting for {what}: {spent:.1f} s, missing at {len(missing)}")
            time.sleep(POLL)

    def _nodes(self) -> list[Node]:
        return [n for n in self._network.nodes if n.role != "authority"]

    def _lacking_consensus(self) -> list[str]:
        now = self._epochs.number(time.time())
        return [n.name for n in self._nodes() if not (n.folder / "consensus" / f"{now}.cbor").exists()]

    def _lacking_links(self) -> list[str]:
        return [n.name for n in self._nodes() if not _links_up(n)]

    def _lacking_daemon(self) -> list[str]:
        return [] if _listens(self._network.listener()) else ["client"]

    def _print_table(self) -> None:
        rows = [(c.node.name, c.node.role, ", ".join(c.node.addresses), str(c.process.pid)) for c in self._children]
        if self._args.json:
            print_json([dict(zip(("name", "role", "address", "pid"), row, strict=True)) for row in rows])
        else:
            print(table([("NAME", "ROLE", "ADDRESS", "PID"), *rows]))
            thin = self._network.client / "thinclient.toml"
            print(f"thin clients: {self._network.daemon().addresses[0]}, file {thin}", flush=True)

    def _ping(self) -> int:
        command = [sys.executable, "-m", "katzentwist", "ping", "-f", str(self._network.client / "client.toml")]
        self._children.check()
        process = subprocess.run(  # noqa: S603 - our own program
            [*command, "-n", str(self._args.ping)], env=self._children.environment(), check=False
        )
        self._children.check()
        return process.returncode

    def _stay(self) -> None:
        print("the network is up; Ctrl-C ends it", flush=True)
        while True:
            for news in self._children.revive(time.monotonic()):
                print(news, file=sys.stderr, flush=True)
            time.sleep(POLL)


def _listens(at: Socket) -> bool:
    """Whether somebody does."""
    try:
        if at.network == "unix":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(f"\0{at.address[1:]}" if at.address.startswith("@") else at.address)
        else:
            with socket.create_connection(at.hostport, timeout=1):
                pass
    except OSError:
        return False
    return True


def _links_up(node: Node) -> bool:
    """Whether the node's metrics tell of outgoing links, all of them up. A node without metrics is not waited for."""
    if not node.metrics:
        return True
    try:
        with urllib.request.urlopen(f"http://{node.metrics}/metrics", timeout=2) as answer:
            text = answer.read().decode()
    except (OSError, urllib.error.URLError):
        return False
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("katzenpost_outgoing_links"))
    up, down = ([float(v) for name, v in values.items() if f'state="{state}"' in name] for state in ("up", "down"))
    return bool(up) and min(up) > 0 and not any(down)
