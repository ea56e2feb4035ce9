"""How much one mix or gateway forwards: real links, real packets, CPU by the operating system's books.

    python benchmarks/load.py --rate 2000               # 20 s after a warm-up of 3 s
    python benchmarks/load.py --rate 0                  # as fast as it takes them
    python benchmarks/load.py --highest                 # the highest rate, half of it, twice of it; minutes
    python benchmarks/load.py --growth --rate 5000      # 1, 10 and 100 peers against each other
    python benchmarks/load.py --cores --rate 8000       # one core against both
    python benchmarks/load.py --command 'server -f {config}'   # another node in the same place

The generator plays an authority and the neighbours (_surroundings.py), makes all packets beforehand (_packets.py),
feeds them at the chosen rate (_traffic.py), and checks what comes out: each packet once, unchanged, at the right
neighbour, and how late. Every packet that does not come must have been counted by the node as dropped (_rig.py). The
exit status is 1 if a packet is wrong, twice, or lost without a count, or if the node ends; figures that are not reached
are told, and no failure.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from _compare import CORES, GROWTH, compare
from _highest import highest
from _node import TWISTD, words_of
from _program import at_least, duration, parser, run, show
from _rig import Rig, lateness, mib, run_rig
from _storm import Storm
from _surroundings import GATEWAY, MIX, PERIOD, Surroundings

RATE, SECONDS, MINUTE = 1000.0, 20.0, 60.0
_COMPARED: Final = ("peers", "storm", "node_cores", "own_cores", "perf")
ALONE: Final = {"--highest": ("storm", "perf", "limit"), "--growth": _COMPARED, "--cores": _COMPARED}
"""Options that mean nothing beside another one."""


async def once(rig: Rig, args: argparse.Namespace) -> dict[str, Any]:
    """One rate."""
    idle = rig.node.usage.memory()
    storm = Storm(rig.around) if args.storm else None

    def begun() -> None:
        if args.perf:
            rig.node.record(args.perf, args.seconds * 0.9)

    try:
        if storm is not None:
            await storm.ready()
        part = await rig.part(
            args.rate,
            args.seconds,
            args.warmup,
            limit=args.limit,
            begun=begun,
            half_time=storm.begin if storm is not None else lambda: None,
        )
        figures = {**part.figures(), "memory MiB idle": mib(idle), "peers": args.peers, "cores": os.cpu_count()}
        if storm is not None:
            figures |= {
                "storm": args.storm,
                "storm seconds": await storm.seconds(),
                **lateness(part.late[: part.half], "before the storm: "),
                **lateness(part.late[part.half :], "in the storm and after: "),
            }
    finally:
        if storm is not None:
            storm.stop()
    show(figures, args.json)
    part.check()
    return figures


def cores(text: str) -> list[int]:
    """Numbers of cores, with commas between them, for ``type=`` of an option."""
    there = os.sched_getaffinity(0)
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not there.issuperset(found):
        known = ",".join(map(str, sorted(there)))
        raise argparse.ArgumentTypeError(f"write some of {known}, with commas between them, instead of {text!r}")
    return found


def command(text: str) -> str:
    """A command line, for ``type=`` of an option."""
    try:
        words_of(text, config="", pid="")
    except ValueError as e:
        raise argparse.ArgumentTypeError(
            f"write a program and its arguments, with {{config}} for the file, instead of {text!r}: {e}"
        ) from e
    return text


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    line = parser(__doc__)
    mode = line.add_mutually_exclusive_group()
    mode.add_argument(
        "--highest", action="store_true", help="find the highest rate that is held; --rate N: N, or the first below it"
    )
    mode.add_argument("--growth", action="store_true", help="compare 1, 10 and 100 peers")
    mode.add_argument("--cores", action="store_true", help="compare one core with both")
    line.add_argument(
        "--rate", type=at_least(0.0), metavar="N", help=f"packets per second; 0: as fast as it goes (default: {RATE:g})"
    )
    line.add_argument(
        "--limit", type=at_least(1), default=30000, metavar="N", help="packets made per second with --rate 0"
    )
    line.add_argument(
        "--seconds", type=at_least(1.0), help=f"of each measurement (default: {SECONDS:g}; with --highest {MINUTE:g})"
    )
    line.add_argument("--warmup", type=at_least(0.0), default=3.0, metavar="SECONDS", help="before them; --highest: 1")
    line.add_argument("--role", choices=(MIX, GATEWAY), default=MIX, help="of the node under test")
    line.add_argument("--peers", type=at_least(1), default=1, metavar="N", help="neighbours on each side")
    line.add_argument(
        "--mu", type=at_least(1e-9), default=0.005, help="rate of the delays, per ms; 0.005: 200 ms in the mean"
    )
    line.add_argument(
        "--storm", type=at_least(0), default=0, metavar="N", help="N more neighbours connect at once, half-way"
    )
    line.add_argument(
        "--repeat", type=at_least(1), default=3, metavar="N", help="runs of each with --growth and --cores"
    )
    line.add_argument("--node-cores", type=cores, default=(), metavar="N,N", help="the node may use only these")
    line.add_argument("--own-cores", type=cores, default=(), metavar="N,N", help="the generator, while it feeds")
    line.add_argument("--perf", metavar="FILE", help="let Linux perf record where the node's time goes")
    line.add_argument("--epoch", type=duration, default=PERIOD, metavar="TIME", help="its length, for nodes of ours")
    line.add_argument(
        "--patience", type=at_least(1.0), default=60.0, metavar="SECONDS", help="until the node must be ready"
    )
    line.add_argument("--command", type=command, default=TWISTD, help="the node under test; {config} is its file")
    args = line.parse_args(words)
    chosen = next((f"--{name}" for name in ("highest", "growth", "cores") if getattr(args, name)), "")
    for name in ALONE.get(chosen, ()):
        if getattr(args, name) != line.get_default(name):
            line.error(f"leave --{name.replace('_', '-')} out: {chosen} is measured without it")
    if args.cores and len(os.sched_getaffinity(0)) < 2:
        line.error("--cores compares two cores with one: this machine has one")
    if args.perf and not shutil.which("perf"):
        line.error("--perf needs the program perf of Linux: install it, or leave --perf out")
    if args.perf and not os.access(Path(args.perf).absolute().parent, os.W_OK):
        line.error(f"--perf: nothing can be written to {args.perf}; name a file in a folder that is there")
    args.seconds = args.seconds or (MINUTE if args.highest else SECONDS)
    if args.rate is None and not args.highest:
        args.rate = RATE
    return args


def passed_on(args: argparse.Namespace) -> Sequence[str]:
    """What the runs of a comparison share."""
    names = ("rate", "limit", "seconds", "warmup", "role", "mu", "epoch", "patience", "command")
    return [word for name in names for word in (f"--{name}", str(getattr(args, name)))]


def main() -> None:
    """Measure and print."""
    args = arguments()
    if args.growth or args.cores:
        variants, seconds = GROWTH if args.growth else CORES, args.seconds + args.warmup
        show(compare(variants, passed_on(args), seconds, args.repeat), args.json)
        return

    async def work(rig: Rig) -> None:
        if args.highest:
            show(await highest(rig, args.seconds, args.rate), args.json)
        else:
            await once(rig, args)

    run_rig(
        lambda folder: Surroundings(
            folder, args.peers, args.peers, args.mu, idle=args.storm, period=args.epoch, role=args.role
        ),
        work,
        command=args.command,
        patience=args.patience,
        node_cores=args.node_cores,
        own_cores=args.own_cores,
    )


if __name__ == "__main__":
    run(main)
