"""Runs one of our programs as twistd does, with a ticker in its reactor that writes down every long turn.

    python benchmarks/_probed.py REPORT [--blame SECONDS] katzenmix -f FILE

REPORT gets one JSON object per line: ``at`` (monotonic seconds) with ``late`` (seconds that the ticker was held up) or
``gc`` (seconds of one garbage collection, and which ``generation``). With --blame the stacks of all threads are written
to REPORT.stacks whenever a turn has lasted so long; a thread of its own looks, as soon as it gets the interpreter lock.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

INTERVAL = 0.001
WORTH = 0.002
"""Seconds; shorter ones are the machine's own."""


class Probe:
    """The ticker."""

    def __init__(self, reactor: Any, report: Path, blame: float) -> None:
        self._reactor, self._blame = reactor, blame
        self._file = report.open("w", buffering=1)
        self._stacks = Path(f"{report}.stacks")
        self._due = self._began = 0.0
        gc.callbacks.append(self._collected)

    def start(self) -> None:
        """Begin, once the reactor runs."""
        self._arm()
        if self._blame:
            threading.Thread(target=self._watch, daemon=True).start()

    def _arm(self) -> None:
        self._due = time.monotonic() + INTERVAL
        self._reactor.callLater(INTERVAL, self._tick)

    def _tick(self) -> None:
        late = time.monotonic() - self._due
        if late > WORTH:
            self._write(late=round(late, 5))
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
            self._write(gc=round(took, 5), generation=info["generation"])

    def _write(self, **facts: float) -> None:
        self._file.write(json.dumps({"at": round(time.monotonic(), 4), **facts}) + "\n")


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
