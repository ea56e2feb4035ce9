"""The highest rate that a node holds, and what it does at half of it and at twice of it."""

from __future__ import annotations

from typing import Any, Final

import attrs
from _program import say
from _reactor import sleep
from _rig import Part, Rig, lateness, mib

SHARE: Final = 0.001
"""Most of what is due that may be lost, or not taken, at a rate that is held."""
FIRST: Final = 500.0
"""Packets per second of the first trial; each next one has four times as many until one fails."""
TRIAL: Final = 4.0
"""Seconds of a short trial."""
WARMUP: Final = 1.0
"""Seconds before each part that do not count."""
CLOSE: Final = 1.06
"""How close the bounds come to each other before the long trial, and the step down when that one fails."""
LONG_TRIALS: Final = 6
SHORT: Final = 20.0
"""Most seconds of the parts at half and at twice the rate."""
TAIL: Final = 5.0
"""Seconds after the overload in which the node is watched."""
WELL: Final = 0.005
"""Seconds of lateness of a node that is well, at 99 %."""
SLACKS: Final = 0.250 + 0.450 + 0.050
"""UnwrapDelay, SchedulerSlack and SendSlack, in seconds: longer no packet may be late."""
SCHEDULER_SLACK: Final = 0.450
FLAT: Final = 1.1
"""Memory at the end of the overload against that after a quarter of it."""


@attrs.frozen
class Verdict:
    """Whether a figure that was asked for is reached."""

    asked: str
    measured: Any
    reached: bool


def last_drop(part: Part) -> float:
    """Seconds from the end of the load until the last drop was seen; 0 without any."""
    return next(at for at, drops in part.dropped if drops == part.dropped[-1][1]) if part.drops else 0.0


def after(part: Part) -> list[tuple[float, float]]:
    """(seconds since the end of the load, lateness) of the packets that were fed then, in this order."""
    pairs = zip(part.fed, part.late, strict=True)
    return sorted((fed - part.ended, late) for fed, late in pairs if fed >= part.ended)


def on_time(part: Part) -> float:
    """Seconds from the end of the load on which 99 % of the packets that were fed were at most :data:`WELL` late."""
    found, late = part.dropped[-1][0], 0
    for count, (since, lateness_of) in enumerate(reversed(after(part)), 1):
        late += lateness_of > WELL
        if late <= 0.01 * count:
            found = since
    return found


async def highest(rig: Rig, seconds: float, candidate: float | None) -> dict[str, Any]:
    """All three parts.

    :param seconds: for which the rate must be held.
    :param candidate: packets per second to begin with; None: find one by short trials.
    """
    idle = rig.node.usage.memory()
    held = await _hold(rig, seconds, candidate or await _search(rig))
    short = min(SHORT, seconds)
    half = await _part(rig, held.rate / 2, short)
    over = await _part(rig, held.rate * 2, short, tail=TAIL)
    calm, busy = half.figures(), over.figures()
    quarter, end = over.memory[len(over.memory) // 4], over.memory[-1]
    well, worst = max(last_drop(over), on_time(over)), max(over.late)
    cost, latest = calm["ratio to one x25519"], calm["lateness ms max"]
    verdicts = [
        Verdict("half: CPU per forwarded packet at most 5 X25519", cost, cost <= 5),
        Verdict("half: CPU per forwarded packet, the goal: 3.2 X25519", cost, cost <= 3.2),
        Verdict("half: 99 % under 5 ms late", calm["lateness ms 99%"], calm["lateness ms 99%"] < WELL * 1e3),
        Verdict("half: none later than SchedulerSlack", latest, latest <= SCHEDULER_SLACK * 1e3),
        Verdict("overload: every loss is counted by the node", over.unexplained, over.unexplained <= 0),
        Verdict("overload: none later than the slacks, 750 ms", busy["lateness ms max"], worst <= SLACKS),
        Verdict("overload: memory flat from the first quarter on", round(end / quarter, 3), end <= FLAT * quarter),
        Verdict("overload: well within 1 s after its end", round(well, 2), well <= 1.0),
    ]
    return {
        "highest packets/s": round(held.rate),
        f"the highest, {seconds:g} s": held.figures(),
        f"half, {short:g} s": calm,
        f"twice, {short:g} s": {
            **busy,
            "memory MiB idle": mib(idle),
            "memory MiB after a quarter": mib(quarter),
            "memory MiB at the end": mib(end),
            "last drop seen s after its end": round(last_drop(over), 2),
            "on time again s after its end": round(on_time(over), 2),
            **lateness([late for _, late in after(over)], "fed after its end: "),
        },
        "verdicts": [attrs.asdict(verdict) for verdict in verdicts],
    }


async def _part(rig: Rig, rate: float, seconds: float, tail: float = 0.0) -> Part:
    part = await rig.part(rate, seconds, WARMUP, tail=tail)
    part.check()
    say(
        f"{rate:.0f} packets/s for {seconds:g} s: {part.lost} lost, {part.held} not taken "
        f"({part.lost_share:.2%}), CPU of the node {part.cpu / part.wall:.2f}, ours {part.own / part.wall:.2f}"
    )
    await sleep(1.0)
    return part


async def _search(rig: Rig) -> float:
    """The highest rate that short trials hold."""
    low, high = 0.0, FIRST
    while (await _part(rig, high, TRIAL)).lost_share <= SHARE:
        low, high = high, 4 * high
    if not low:
        raise SystemExit(f"{FIRST:.0f} packets/s are too many already; give a lower --rate")
    while high > CLOSE * low:
        middle = (low * high) ** 0.5
        if (await _part(rig, middle, TRIAL)).lost_share <= SHARE:
            low = middle
        else:
            high = middle
    return low


async def _hold(rig: Rig, seconds: float, candidate: float) -> Part:
    """The first rate, from *candidate* downwards, that is held for so long."""
    for _ in range(LONG_TRIALS):
        part = await _part(rig, candidate, seconds)
        if part.lost_share <= SHARE:
            return part
        candidate /= CLOSE
    raise SystemExit(f"not even {candidate * CLOSE:.0f} packets/s are held for {seconds:g} s")
