"""The options that say what a network looks like; testnet and genconfig share them."""

from __future__ import annotations

import argparse
from typing import Any

from katzentwist.cli.output import UsageFault
from katzentwist.errors import KatzentwistError
from katzentwist.testnet.plan import Shape


def add_shape_options(parser: argparse.ArgumentParser, epoch: str = "") -> None:
    """Add them, with the defaults of Shape.

    :param epoch: another default for the epoch length.
    """
    d = Shape()
    parser.add_argument("--mixes", type=int, metavar="N", help=f"number of mixes (default {d.mixes})")
    parser.add_argument("--layers", type=int, metavar="L", help=f"number of mix layers, 1 to 3 (default {d.layers})")
    parser.add_argument("--providers", type=int, metavar="N", help=f"number of Providers (default {d.providers})")
    parser.add_argument("--gateways", type=int, metavar="N", help="number of gateways in the v0.0.99 shape (default 0)")
    parser.add_argument(
        "--service-nodes", type=int, metavar="N", help="number of service nodes in the v0.0.99 shape (default 0)"
    )
    parser.add_argument(
        "--epoch", metavar="DURATION", help=f"epoch length, such as 30s or 20m (default {epoch or d.epoch})"
    )
    parser.add_argument("--base-port", type=int, metavar="P", help="first of the ports to use (default: free ones)")
    parser.add_argument("--wire-kem", metavar="NAME", help=f"KEM of the links (default {d.wire_kem})")
    parser.add_argument("--log-level", metavar="LEVEL", help=f"log level of all programs (default {d.log_level})")


NAMES = ("mixes", "layers", "providers", "gateways", "service_nodes", "epoch", "base_port", "wire_kem", "log_level")


def shape_of(args: argparse.Namespace) -> Shape:
    """The shape that was asked for.

    :raises UsageFault: no network can have it.
    """
    shape = Shape(**given(args))
    try:
        shape.check()
    except KatzentwistError as e:
        raise UsageFault(str(e)) from e
    return shape


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The shape options that were given."""
    return {name: getattr(args, name) for name in NAMES if getattr(args, name) is not None}
