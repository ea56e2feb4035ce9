"""``katzentwist version``: what is installed."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata
from typing import Any

import katzentwist
from katzentwist.cli.output import print_json, table
from katzentwist.crypto import native

PACKAGES = ("twisted", "cryptography", "pynacl", "cbor2", "attrs", "txpostgres", "aioquic", "treq")


def add_parser(subparsers: Any) -> None:
    """The options."""
    parser = subparsers.add_parser(
        "version",
        help="show the version, the native core, and the libraries",
        description="Show the version, whether the native core is in use, and the libraries.",
        epilog="Example: katzentwist version --json",
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the facts."""
    facts = {
        "katzentwist": katzentwist.__version__,
        "native core": native.description(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }
    if args.json:
        print_json(facts)
    else:
        print(table(list(facts.items())))
    return 0


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
