"""What all benchmarks have in common as programs: the command line, progress, figures, and an end in order."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).parent.parent))

from katzentwist.clock import parse_duration
from katzentwist.errors import ConfigError

T = TypeVar("T", int, float)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Tells the defaults, where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str:
        told = action.help or ""
        if action.default in (None, False, (), argparse.SUPPRESS) or "default" in told:
            return told
        return f"{told} (default: {str(action.default).replace('%', '%%')})"


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with ``--json``."""
    made = argparse.ArgumentParser(description=description, formatter_class=_Help)
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def at_least(least: T, most: T | None = None) -> Callable[[str], T]:
    """Numbers from *least* to *most*, for ``type=`` of an option: whole ones if *least* is.

    :raises argparse.ArgumentTypeError: (when called) it is none; says what to write.
    """
    kind, name = type(least), "a whole number" if isinstance(least, int) else "a number"
    wanted = f"{name} of at least {least:.10g}" if most is None else f"{name} from {least:.10g} to {most:.10g}"

    def read(text: str) -> T:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not math.isfinite(value) or value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"write {wanted} instead of {text!r}")
        return value

    return read


def duration(text: str) -> str:
    """A duration as configuration files write it, for ``type=`` of an option.

    :raises argparse.ArgumentTypeError: it is none; says what to write.
    """
    try:
        parse_duration(text)
    except ConfigError as e:
        raise argparse.ArgumentTypeError(str(e)) from e
    return text


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def show(figures: Mapping[str, Any], as_json: bool) -> None:
    """Print figures, one JSON object or a line for each; verdicts last."""
    if as_json:
        print(json.dumps(figures, indent=2), flush=True)
        return
    width = max(map(len, figures), default=0)
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"{name}:" if value else f"{name:<{width}}  none")
            show({f"  {inner}": of for inner, of in value.items()}, False)
        elif name == "verdicts":
            for verdict in value:
                reached = "reached    " if verdict["reached"] else "NOT reached"
                print(f"{reached}  {verdict['asked']}: {verdict['measured']}")
        else:
            print(f"{name:<{width}}  {value}", flush=True)


def run(main: Callable[[], None]) -> None:
    """Run a benchmark. Ctrl-C and SIGTERM end it through each ``with`` and ``finally``, with status 1."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None


def stand_back() -> None:
    """Let all threads of this process take the processors only when a program on trial leaves them.

    What this process plays would be on other machines. (To be nice would not do: a thread on trial would still wait for
    another one of its program while a nice one has the other processor.) A program must be started before: it would
    inherit this.
    """
    for thread in os.listdir("/proc/self/task"):
        os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
