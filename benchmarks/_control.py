"""Says when the machine itself stood still: a ticker per processor that nothing but the machine can hold up.

    python benchmarks/_control.py REPORT

It runs at real-time priority, for which it must be root, wakes each millisecond, and ends with its parent. A virtual
machine may be stopped by its host for tens of milliseconds, which no program in it can help. REPORT gets a line ``at
late`` (monotonic seconds, seconds) for each time that a ticker came late by more than WORTH; it stays empty where
nobody may run at that priority.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import IO

INTERVAL = WORTH = 0.001
"""Seconds."""


def watch(processor: int, report: IO[str]) -> None:
    """The ticker of one processor."""
    parent = os.getppid()
    os.sched_setaffinity(0, {processor})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    while os.getppid() == parent:
        due = time.monotonic() + INTERVAL
        time.sleep(INTERVAL)
        now = time.monotonic()
        if now - due > WORTH:
            report.write(f"{now:.5f} {now - due:.5f}\n")


def main() -> None:
    """A process per processor: threads of one would wait for each other."""
    first, *others = sorted(os.sched_getaffinity(0))
    with Path(sys.argv[1]).open("a", buffering=1) as report:
        for processor in others:
            if os.fork() == 0:
                watch(processor, report)
                os._exit(0)
        watch(first, report)


main()
