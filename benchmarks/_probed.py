"""Runs one of our programs as twistd does, with a probe in its reactor that writes down every long turn.

    python benchmarks/_probed.py REPORT [--blame SECONDS] katzenmix -f FILE

A ticker in the reactor asks to be called in a millisecond, again and again; by how much it comes late is how long the
reactor was held up. REPORT gets one JSON object per line, with the time ``at`` which (monotonic seconds), and

- ``late``: seconds that the ticker was held up. Where they went, since it was armed: ``cpu`` of the reactor's thread,
  ``queued`` for a processor that another thread or process had (preemption), and ``waited`` for anything else: the
  interpreter lock, or a disk. Of that, ``waking`` is what went by after a timer was due and before the reactor's poll
  had returned; the kernel rounds it up to a millisecond. ``faults`` counts pages that had to be read from a disk (or,
  in a virtual machine, from the host). ``calls`` are the longest things that the reactor called.
- or ``gc``: seconds of one garbage collection, of which ``generation``, in which ``thread``.

With --blame the stacks of all threads are written to REPORT.stacks whenever a turn has lasted so long; a thread of its
own looks, as soon as it gets the interpreter lock.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

INTERVAL = 0.001
WORTH = 0.002
"""Seconds; shorter ones are the machine's own."""
CALL_WORTH = 0.0005
CALLS_TOLD = 3


class _Poller:
    """The reactor's epoll object, which adds up how long it was rightly asleep: until the ticker was due."""

    def __init__(self, poller: Any, probe: Probe) -> None:
        self._poller, self._probe = poller, probe

    def poll(self, timeout: float, most: int) -> Any:
        """As that of epoll."""
        began = time.monotonic()
        try:
            return self._poller.poll(timeout, most)
        finally:
            self._probe.polled(began, time.monotonic())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)


def _queued(schedule: int) -> float:
    """Seconds that a thread was ready to run and did not."""
    return int(os.pread(schedule, 100, 0).split()[1]) / 1e9


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt


class Probe:
    """The ticker, and what it needs to tell why it was late."""

    def __init__(self, reactor: Any, report: Path, blame: float) -> None:
        self._reactor, self._blame = reactor, blame
        self._file = report.open("w", buffering=1)
        self._stacks = Path(f"{report}.stacks")
        self._armed = self._due = self._began = self._cpu = self._queued = self._idle = self._waking = 0.0
        self._faults = 0
        self._calls: list[tuple[float, str]] = []
        self._schedule = -1
        gc.callbacks.append(self._collected)

    def start(self) -> None:
        """Begin, once the reactor runs."""
        reactor = self._reactor
        self._call_later = reactor.callLater
        self._schedule = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        reactor._poller = _Poller(reactor._poller, self)
        reactor.callLater = self._later
        self._read_or_write = reactor._doReadOrWrite
        reactor._doReadOrWrite = self._ready
        self._from_thread = reactor.callFromThread
        reactor.callFromThread = self._called
        self._arm()
        if self._blame:
            threading.Thread(target=self._watch, daemon=True).start()

    # What the reactor calls ----------------------------------------------------------------------------------------

    def _timed(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._time(function, function, args, kwargs)

    def _time(self, what: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        began = time.monotonic()
        try:
            return function(*args, **kwargs)
        finally:
            took = time.monotonic() - began
            if took > CALL_WORTH:
                self._calls.append((took, str(getattr(what, "__qualname__", type(what).__qualname__))))

    def _later(self, delay: float, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._call_later(delay, self._timed, function, *args, **kwargs)

    def _called(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._from_thread(self._timed, function, *args, **kwargs)

    def _ready(self, selectable: Any, fd: int, event: int) -> None:
        self._time(selectable, self._read_or_write, (selectable, fd, event), {})

    # The ticker ----------------------------------------------------------------------------------------------------

    def polled(self, began: float, ended: float) -> None:
        """The reactor was in its poll from then until then."""
        self._idle += max(0.0, min(ended, self._due) - began)
        self._waking += max(0.0, ended - max(began, self._due))

    def _arm(self) -> None:
        self._calls.clear()
        self._idle = self._waking = 0.0
        self._cpu, self._queued, self._faults = time.thread_time(), _queued(self._schedule), _faults()
        self._armed = time.monotonic()
        self._due = self._armed + INTERVAL
        self._call_later(INTERVAL, self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._due > WORTH:
            cpu, queued = time.thread_time() - self._cpu, _queued(self._schedule) - self._queued
            self._write(
                late=now - self._due,
                cpu=cpu,
                queued=queued,
                waited=max(0.0, now - self._armed - self._idle - cpu - queued),
                waking=self._waking,
                faults=_faults() - self._faults,
                calls=[[name, round(took, 5)] for took, name in sorted(self._calls, reverse=True)[:CALLS_TOLD]],
            )
        self._arm()

    def _watch(self) -> None:
        """Not by faulthandler: it looks at threads that run, and now and then it crashes."""
        seen = 0.0
        with self._stacks.open("w") as file:
            while True:
                time.sleep(INTERVAL)
                due = self._due
                late = time.monotonic() - due
                if late < self._blame or due == seen:
                    continue
                seen = due
                print(f"-- {time.monotonic():.4f}, late by {late * 1e3:.1f} ms", file=file)
                for number, frame in sys._current_frames().items():
                    if number != threading.get_ident():
                        print("-", number, *traceback.format_stack(frame), sep="\n", file=file)
                file.flush()

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.monotonic()
        elif (took := time.monotonic() - self._began) > WORTH:
            self._write(gc=took, generation=info["generation"], thread=threading.current_thread().name)

    def _write(self, **facts: Any) -> None:
        rounded = {name: round(fact, 5) if isinstance(fact, float) else fact for name, fact in facts.items()}
        self._file.write(json.dumps({"at": round(time.monotonic(), 4), **rounded}) + "\n")


def main() -> None:
    """Install the ticker, then become twistd."""
    report, *words = sys.argv[1:]
    blame = 0.0
    if words[0] == "--blame":
        blame, words = float(words[1]), words[2:]
    from twisted.internet import reactor  # noqa: PLC0415 - twistd would choose it later
    from twisted.scripts.twistd import run  # noqa: PLC0415

    probe = Probe(reactor, Path(report), blame)
    reactor.callWhenRunning(probe.start)
    sys.argv = ["twistd", "-n", f"--pidfile={report}.pid", *words]
    run()


main()
