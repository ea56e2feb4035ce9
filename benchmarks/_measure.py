"""Measuring on a noisy machine: the best of several runs counts."""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable
from typing import Any


def best_us(call: Callable[[], object], seconds: float = 0.4, runs: int = 7) -> float:
    """Microseconds of one call: the best of *runs* runs, which take about *seconds* together."""
    start = time.perf_counter()
    call()
    once = max(time.perf_counter() - start, 1e-7)
    repeat = max(1, int(seconds / runs / once))
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        for _ in range(repeat):
            call()
        best = min(best, (time.perf_counter() - start) / repeat)
    return best * 1e6


def thread_gain(call: Callable[[], object], threads: int = 2, repeat: int = 8, runs: int = 7) -> float:
    """How many times the work of one thread *threads* threads do in the same time."""

    def work() -> None:
        for _ in range(repeat):
            call()

    def seconds(workers: int) -> float:
        pool = [threading.Thread(target=work) for _ in range(workers)]
        start = time.perf_counter()
        for thread in pool:
            thread.start()
        for thread in pool:
            thread.join()
        return time.perf_counter() - start

    one = min(seconds(1) for _ in range(runs))
    return threads * one / min(seconds(threads) for _ in range(runs))


def show(figures: dict[str, Any], as_json: bool) -> None:
    """Print figures, a line for each or one JSON object."""
    print(
        json.dumps(figures, indent=2) if as_json else "\n".join(f"{name}: {value}" for name, value in figures.items())
    )


def report(title: str, measure: Callable[[], dict[str, float | str]]) -> None:
    """Measure and print, as a table or with ``--json``."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    figures = measure()
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    print(title)
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"  {name:<{width}}  {value if isinstance(value, str) else format(value, '.2f')}")
