"""Measuring on a noisy machine: the best of several runs counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


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
