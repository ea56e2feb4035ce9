"""The node under test: any command line with a configuration file, as a process of its own."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Collection, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

from _surroundings import HOST, Usage
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread

T = TypeVar("T")
ROOT = Path(__file__).parent.parent
TWISTD: Final = "{python} -c 'from twisted.scripts.twistd import run; run()' -n --pidfile={pid} katzenmix -f {config}"
"""As an operator runs it."""
LOOK: Final = 0.2
"""Seconds between two looks whether the process is still there."""
GRACE: Final = 10.0
"""Seconds that it may take to end."""
ANSWER: Final = 10.0
"""Seconds that its metrics may take: under overload they wait their turn."""


def words_of(command: str, *, config: object, pid: object) -> list[str]:
    """The words of a command line.

    :param command: ``{config}`` in it stands for the file, ``{pid}`` for a pid file, ``{python}`` for this Python.
    :raises ValueError: it is none.
    """
    try:
        words = shlex.split(command.format(config=config, pid=pid, python=sys.executable))
    except LookupError as e:
        raise ValueError(f"{{{e.args[0]}}} is unknown") from e
    if not words:
        raise ValueError("it is empty")
    if shutil.which(words[0]) is None:
        raise ValueError(f"there is no program {words[0]!r}")
    return words


class Node:
    """The process.

    :param command: see :func:`words_of`.
    :param cores: numbers of the cores that it may use; empty: all.
    """

    def __init__(self, command: str, config: Path, metrics_port: int, cores: Collection[int] = ()) -> None:
        self._port, self._output = metrics_port, config.parent / "output.log"
        self._pid = config.parent / "twistd.pid"
        words = words_of(command, config=config, pid=self._pid)
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                words,
                cwd=config.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=output,
                # No session of its own: the kernel gives each its share, whatever the priority of the storm in ours.
                process_group=0,
            )
        if cores:
            os.sched_setaffinity(self.process.pid, cores)  # its threads begin later, and get it from the first one
        self.usage = Usage(self.process.pid)

    def guard(self, work: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Do *work*; it is cancelled when the process ends first.

        :raises SystemExit: (in the Deferred) that is what happened.
        """
        running = Deferred.fromCoroutine(work)

        def look() -> None:
            if self.process.poll() is not None:
                watch.stop()
                running.cancel()

        def over(result: Any) -> Any:
            if watch.running:
                watch.stop()
                return result
            result.trap(CancelledError)
            status = self.process.returncode
            hint = "" if status else ": it must stay in the foreground, as twistd -n does"
            raise SystemExit(f"the node under test ended with status {status}{hint}")

        watch = LoopingCall(look)
        running.addBoth(over)
        watch.start(LOOK, now=False)
        return running

    async def drops(self) -> dict[str, int]:
        """Packets that the node dropped so far, by reason."""
        rows = [line.split('"') for line in await self._metrics("katzenpost_dropped_reason_total{")]
        return {reason: int(float(rest.split()[-1])) for _, reason, rest in rows}

    async def waiting(self) -> int:
        """Packets that wait for their time."""
        return sum(int(float(line.split()[-1])) for line in await self._metrics("katzenpost_delayed_packets"))

    async def _metrics(self, series: str) -> list[str]:
        """The lines of its metrics page that begin so.

        :raises SystemExit: it does not answer.
        """
        page = f"http://{HOST}:{self._port}/metrics"

        def read() -> list[str]:
            with urllib.request.urlopen(page, timeout=ANSWER) as answer:
                text: str = answer.read().decode()
            return [line for line in text.splitlines() if line.startswith(series)]

        try:
            return await deferToThread(read)
        except OSError as e:
            raise SystemExit(f"{page}, where the node under test counts its drops, does not answer: {e}") from e

    def record(self, file: str, seconds: float) -> None:
        """Let Linux perf sample it; read the file with ``perf report``."""
        words = ["perf", "record", "-q", "-g", "-e", "cpu-clock", "-F", "2503", "-o", file]
        subprocess.Popen([*words, "-p", str(self.process.pid), "--", "sleep", str(seconds)])

    def stop(self) -> None:
        """SIGTERM, also to what it started; SIGKILL when that is not enough."""
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def _signal(self, which: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, which)
        with contextlib.suppress(OSError, ValueError):  # it is no daemon
            os.kill(int(self._pid.read_text()), which)

    def last_words(self) -> str:
        """The end of its output."""
        return self._output.read_text(errors="replace")[-3000:]
