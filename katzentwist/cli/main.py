"""The ``katzentwist`` command for people (design 2)."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import katzentwist
from katzentwist.cli.output import UsageFault, fail
from katzentwist.errors import KatzentwistError

COMMANDS: Final = ("testnet", "genconfig", "ping", "receive", "consensus", "manage", "check_config", "version")
"""Modules of this package, in the order of the help."""


def parser() -> argparse.ArgumentParser:
    """All subcommands."""
    top = argparse.ArgumentParser(
        prog="katzentwist",
        description="Tools for the Katzenpost mix network: a whole network on one machine, pings, documents.",
        epilog="Example: katzentwist testnet --ping 5 --exit",
    )
    top.add_argument("--version", action="version", version=f"katzentwist {katzentwist.__version__}")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"katzentwist.cli.{name}").add_parser(subparsers)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand: 0 done, 1 failed, 2 wrong usage."""
    args = parser().parse_args(arguments)
    try:
        return int(args.run(args))
    except UsageFault as e:
        fail(args.command, str(e))
        return 2
    except KatzentwistError as e:
        fail(args.command, str(e))
        return 1
    except BrokenPipeError:  # who read our output, such as head, has enough; what is left of it can not be flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as e:
        fail(args.command, f"{e.filename}: {e.strerror}" if e.filename and e.strerror else str(e))
        return 1
    except KeyboardInterrupt:
        return 1


def console() -> None:
    """The console script."""
    sys.exit(main())
