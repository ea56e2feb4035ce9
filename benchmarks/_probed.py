"""Runs one of our programs as twistd does, with a ticker in its reactor that writes down every long turn.

    python benchmarks/_probed.py REPORT [--blame SECONDS] katzenmix -f FILE

REPORT gets one JSON object per line: ``at`` (monotonic seconds) with ``late`` (seconds that the ticker was held up) or
``gc`` (seconds of one garbage collection, and which ``generation``). With --blame the stacks of all threads are written
to REPORT.stacks whenever a turn has lasted so long.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import sys
import time
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
        self._stacks = Path(f"{report}.stacks").open("w") if blame else None  # noqa: SIM115
        self._due = self._began = 0.0
        gc.callbacks.append(self._collected)

    def start(self) -> None:
        """Begin, once the reactor runs."""
        self._arm()

    def _arm(self) -> None:
        self._due = time.monotonic() + INTERVAL
        self._reactor.callLater(INTERVAL, self._tick)
        if self._stacks is not None:
            faulthandler.dump_traceback_later(self._blame + INTERVAL, file=self._stacks)

    def _tick(self) -> None:
        late = time.monotonic() - self._due
        if late > WORTH:
            self._write(late=round(late, 5))
        self._arm()

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
