"""``katzentwist genconfig``: the files of a whole network, without running it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from katzentwist.cli.output import print_json, table
from katzentwist.cli.shape import add_shape_options, shape_of
from katzentwist.testnet.plan import generate


def add_parser(subparsers: Any) -> None:
    """The options."""
    parser = subparsers.add_parser(
        "genconfig",
        help="write the configuration and keys of a whole network",
        description="Write the configuration and keys of a whole network on this machine.",
        epilog="Example: katzentwist genconfig --out ./net --mixes 6 --epoch 20m",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write to; must be empty or missing")
    add_shape_options(parser)
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the tree and say what is in it."""
    network = generate(Path(args.out), shape_of(args))
    rows = [(n.name, n.role, ", ".join(n.addresses), str(n.config)) for n in network.nodes]
    if args.json:
        keys = ("name", "role", "addresses", "file")
        print_json({"epoch": network.epoch, "nodes": [dict(zip(keys, row, strict=True)) for row in rows]})
    else:
        print(table([("NAME", "ROLE", "ADDRESS", "FILE"), *rows]))
        print(f"\nclient files: {network.client}\nrun it: katzentwist testnet --dir {network.folder}")
    return 0
