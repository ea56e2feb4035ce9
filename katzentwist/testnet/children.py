"""The real twistd processes of a test network: started, watched, ended (design 2, testnet)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import attrs

import katzentwist
from katzentwist.errors import KatzentwistError
from katzentwist.testnet.plan import Network, Node

GRACE: Final = 5.0
"""Seconds that children get to end after SIGTERM."""
LAST_LINES: Final = 15
PAUSE: Final = 2.0
"""Seconds from the end of a program to its next start."""
RESTARTS: Final = 3
WITHIN: Final = 60.0
"""So often within so many seconds a program is started again."""
PROGRAMS: Final = {"authority": "katzendirauth", "client": "katzenclient", "client daemon": "katzenclient"}


class ChildError(KatzentwistError):
    """A program of the network ended by itself."""


@attrs.define
class Child:
    """One program.

    :ivar ends: when it ended by itself, monotonic seconds.
    :ivar down: whether that was told, and it is to be started again.
    """

    node: Node
    process: subprocess.Popen[bytes]
    output: Path
    ends: list[float] = attrs.field(factory=list)
    down: bool = False

    def ending(self) -> str:
        """How it ended and what it wrote last; empty while it runs."""
        status = self.process.poll()
        if status is None:
            return ""
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"{self.node.name} {how}; the end of {self.output}:\n{self.last_lines()}"

    def last_lines(self) -> str:
        """The end of what it wrote."""
        try:
            lines = self.output.read_text("utf-8", "replace").splitlines()[-LAST_LINES:]
        except OSError:
            return ""
        return "\n".join(f"    {line}" for line in lines)


class Children:
    """All programs of one network. Each writes to ``output.log`` in its own folder."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._children: list[Child] = []

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children)

    def start(self) -> None:
        """Start everything.

        :raises ChildError: a program can not be started, or one runs already, so that the network would be run twice.
        """
        for node in self.network.nodes:
            if pid := running(node):
                raise ChildError(
                    f"{node.name} runs already, pid {pid}: end that network first; if {pid} is another program, "
                    f"remove {pid_file(node)}"
                )
        for node in self.network.nodes:
            self._children.append(self._start(node))

    def add(self, node: Node) -> None:
        """Start one more program.

        :raises ChildError: it can not be started.
        """
        self._children.append(self._start(node))

    def restart(self, name: str) -> None:
        """Start a program again that has ended.

        :raises ChildError: it can not be started.
        """
        child = next(child for child in self._children if child.node.name == name)
        child.process = self._start(child.node).process

    def revive(self, now: float) -> Iterator[str]:
        """Start again, after a pause, what ended by itself; what to say of it. To be called time and again.

        :param now: monotonic seconds.
        :raises ChildError: a program ends too often, or can not be started.
        """
        for child in self._children:
            ending = child.ending()
            if not ending:
                continue
            if not child.down:
                child.down = True
                child.ends = [*(then for then in child.ends if now - then < WITHIN), now]
                if len(child.ends) > RESTARTS:
                    raise ChildError(f"{ending}\nthat was {len(child.ends)} times within {WITHIN:g} s: giving up")
                yield f"{ending}\nit is started again in {PAUSE:g} s"
            elif now >= child.ends[-1] + PAUSE:
                self.restart(child.node.name)
                child.down = False
                yield f"{child.node.name} is started again, pid {child.process.pid}"

    def _start(self, node: Node) -> Child:
        output = node.folder / "output.log"
        command = [
            sys.executable,
            "-c",
            "from twisted.scripts.twistd import run; run()",
            "--nodaemon",
            f"--pidfile={pid_file(node)}",
            PROGRAMS.get(node.role, "katzenmix"),
            "-f",
            str(node.config),
        ]
        file: IO[bytes]
        try:
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                process = subprocess.Popen(  # noqa: S603 - our own program
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    cwd=node.folder,
                    env=self.environment(),
                    start_new_session=True,
                )
        except OSError as e:
            raise ChildError(f"can not start {node.name}: {e}") from e
        return Child(node, process, output)

    def environment(self) -> dict[str, str]:
        """The environment of the programs."""
        environment = dict(os.environ)
        # The folder says which epoch it was made for; an override in our own environment would split the network.
        environment["KATZENPOST_EPOCH_DURATION"] = self.network.epoch
        # Run from a source tree the plugins are found only if the tree is on the path of the children too.
        root = str(Path(katzentwist.__file__).parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        return environment

    def check(self) -> None:
        """:raises ChildError: one of them has ended."""
        for child in self._children:
            if ending := child.ending():
                raise ChildError(ending)

    def stop(self) -> None:
        """End everything: SIGTERM, a grace period, SIGKILL. Nothing is left running."""
        for child in reversed(self._children):
            if child.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
        for child in self._children:
            if child.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()
        self._children.clear()


def pid_file(node: Node) -> Path:
    """Where twistd keeps the number of its process."""
    return node.folder / "twistd.pid"


def running(node: Node) -> int:
    """The process that the file names, as twistd sees it; 0 if there is none."""
    try:
        pid = int(pid_file(node).read_text("ascii"))
        os.kill(pid, 0)
    except PermissionError:
        return pid
    except (OSError, ValueError, OverflowError):
        return 0
    return pid
