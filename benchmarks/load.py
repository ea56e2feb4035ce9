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
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from _compare import CORES, GROWTH, compare
from _highest import highest
from _node import TWISTD
from _rig import Rig, lateness, mib, run
from _storm import Storm
from _surroundings import GATEWAY, MIX, PERIOD, Surroundings

SECONDS, MINUTE = 20.0, 60.0


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


def show(figures: Mapping[str, Any], as_json: bool) -> None:
    """Print figures, verdicts last."""
    if as_json:
        print(json.dumps(figures, indent=2), flush=True)
        return
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"{name}:")
            show({f"  {inner}": of for inner, of in value.items()}, False)
        elif name == "verdicts":
            for verdict in value:
                reached = "reached    " if verdict["reached"] else "NOT reached"
                print(f"{reached}  {verdict['asked']}: {verdict['measured']}")
        else:
            print(f"{name:<38}  {value}", flush=True)


def cores(text: str) -> list[int]:
    """Numbers of cores, with commas between them."""
    return [int(part) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--highest", action="store_true", help="find the highest rate; --rate N begins at N")
    mode.add_argument("--growth", action="store_true", help="compare 1, 10 and 100 peers")
    mode.add_argument("--cores", action="store_true", help="compare one core with both")
    parser.add_argument("--rate", type=float, help="packets per second; 0: as fast as it goes")
    parser.add_argument("--limit", type=int, default=30000, help="packets made per second with --rate 0")
    parser.add_argument("--seconds", type=float, help=f"of each measurement: {SECONDS:g}; --highest: {MINUTE:g}")
    parser.add_argument("--warmup", type=float, default=3)
    parser.add_argument("--role", choices=(MIX, GATEWAY), default=MIX, help="of the node under test")
    parser.add_argument("--peers", type=int, default=1, help="neighbours on each side")
    parser.add_argument("--mu", type=float, default=0.005, help="rate of the delays, per ms")
    parser.add_argument("--storm", type=int, default=0, metavar="N", help="N more neighbours connect at once, half-way")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each with --growth and --cores")
    parser.add_argument("--node-cores", type=cores, default=(), metavar="N,N", help="the node may use only these")
    parser.add_argument("--own-cores", type=cores, default=(), metavar="N,N", help="the generator, while it feeds")
    parser.add_argument("--perf", metavar="FILE", help="let Linux perf record where the node's time goes")
    parser.add_argument("--epoch", default=PERIOD, help="its length, for nodes of ours")
    parser.add_argument("--patience", type=float, default=60, help="seconds until the node must be ready")
    parser.add_argument("--command", default=TWISTD, help="the node under test; {config} is its file")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    args.seconds = args.seconds or (MINUTE if args.highest else SECONDS)
    if args.rate is None and not args.highest:
        args.rate = 1000.0
    return args


def passed_on(args: argparse.Namespace) -> Sequence[str]:
    """What the runs of a comparison share."""
    names = ("rate", "seconds", "warmup", "role", "mu", "epoch", "patience", "command")
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

    run(
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
    main()
