"""Runs of load.py against each other: more peers, more cores."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from _program import say

LOAD: Final = str(Path(__file__).with_name("load.py"))
GRACE: Final = 240.0
"""Seconds that a run may take beyond what it measures: packets are made, the node starts and ends."""
CPU: Final = "cpu us per forwarded packet"
SCALED: Final = "ratio to one x25519"
WITHIN: Final = 1.1
GROWTH: Final = {f"{peers} peers": ("--peers", str(peers)) for peers in (1, 10, 100)}
"""The same packets per second, Mu and number of packets; only the number of neighbours on each side differs."""
CORES: Final = {"one core": ("--node-cores", "0", "--own-cores", "1"), "both cores": ()}
"""The same packets per second. Pinned to one core the node has it alone; on both it shares them with the generator."""


def compare(
    variants: Mapping[str, Sequence[str]], common: Sequence[str], seconds: float, repeat: int
) -> dict[str, Any]:
    """Medians of the CPU per packet of each variant, in turn so often, so that a noisy hour hits all of them alike.

    :param common: arguments of load.py for all.
    :raises SystemExit: a run failed.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    for _ in range(repeat):
        for name, own in variants.items():
            runs[name].append(_run([*common, *own], seconds))
            last = runs[name][-1]
            say(f"{name}: {last[CPU]} us of CPU per packet, {last[SCALED]} X25519, lost {last['lost']}")
    figures: dict[str, Any] = {}
    for name, of_one in runs.items():
        figures[f"{name}: {CPU}, median"] = round(statistics.median(run[CPU] for run in of_one), 1)
        figures[f"{name}: all"] = [run[CPU] for run in of_one]
        figures[f"{name}: {SCALED}, all"] = [run[SCALED] for run in of_one]
        figures[f"{name}: lateness ms 99%, all"] = [run["lateness ms 99%"] for run in of_one]
        figures[f"{name}: lost"] = sum(run["lost"] for run in of_one)
    medians = [figures[f"{name}: {CPU}, median"] for name in runs]
    ratio = round(max(medians) / min(medians), 3)
    asked = f"cost per packet within 10 %: {', '.join(runs)}"
    return {**figures, "verdicts": [{"asked": asked, "measured": ratio, "reached": ratio <= WITHIN}]}


def _run(arguments: Sequence[str], seconds: float) -> dict[str, Any]:
    words = [sys.executable, LOAD, "--json", *arguments]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as run:
        try:
            out, _ = run.communicate(timeout=seconds + GRACE)
        except subprocess.TimeoutExpired as e:
            raise SystemExit(f"a run did not end within {e.timeout:g} s") from e
        finally:
            run.terminate()  # it ends its node
            run.wait()
    if run.returncode:
        raise SystemExit(f"a run failed with status {run.returncode}")
    figures: dict[str, Any] = json.loads(out)
    return figures
