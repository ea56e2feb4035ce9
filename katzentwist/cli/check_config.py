"""``katzentwist check-config``: look at configuration files of every kind."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from katzentwist.cli.output import print_json
from katzentwist.config import authority, thinclient, toml
from katzentwist.config.schema import Report, lookup
from katzentwist.errors import ConfigError
from katzentwist.node.extras import load_client, load_node
from katzentwist.node.startup import local_ips, read_text

Load = Callable[[str], tuple[Any, Report]]


def add_parser(subparsers: Any) -> None:
    """The options."""
    parser = subparsers.add_parser(
        "check-config",
        help="check configuration files",
        description="Check files of nodes, authorities, clients and thin clients; unknown keys are errors.",
        epilog="Example: katzentwist check-config /etc/katzenpost/katzenpost.toml client.toml",
    )
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check every file; 1 if any has a mistake."""
    results = {name: check(Path(name)) for name in args.files}
    if args.json:
        print_json({name: attrs.asdict(finding) for name, finding in results.items()})
    else:
        for name, found in results.items():
            if found.errors:
                print(f"{name}: {found.kind} file, {len(found.errors)} mistake{'s' * (len(found.errors) > 1)}:")
            else:
                print(f"{name}: {found.kind} file, valid")
            for line in (*found.errors, *(f"warning: {warning}" for warning in found.warnings)):
                print(f"  {line}")
    return 1 if any(found.errors for found in results.values()) else 0


@attrs.frozen
class Finding:
    """The kind of a file, its mistakes, and what works but should be known."""

    kind: str
    errors: list[str]
    warnings: list[str] = attrs.field(factory=list)


def check(path: Path) -> Finding:
    """Look at one file."""
    try:
        text = path.read_text("utf-8")
    except OSError as e:
        return Finding("unknown", [f"can not be read: {e.strerror}"])
    except UnicodeDecodeError as e:
        return Finding("unknown", [f"not UTF-8: {e}"])
    try:
        tables = toml.parse(text)
    except ConfigError as e:
        return Finding("unknown", [str(e)])
    kind, load = kind_of(tables)
    _, report = load(text)
    unknown = [f"{key}: unknown key" for key in sorted(set(report.unknown))]
    return Finding(kind, [*map(str, report.errors), *unknown], report.warnings)


def kind_of(tables: dict[str, Any]) -> tuple[str, Load]:
    """What sort of file this is, by the tables that only it has."""

    def has(name: str) -> bool:
        return lookup(tables, name) is not None

    if has("Dial"):
        return "thin client", thinclient.load
    if has("Listen") or has("PinnedGateways") or has("VotingAuthority"):
        return "client", load_client
    authority_tables = ("Mixes", "Providers", "GatewayNodes", "ServiceNodes", "Authorities", "Authority", "Parameters")
    if any(has(name) for name in authority_tables):
        return "authority", lambda text: authority.load(text, local_ips=local_ips(), read_file=read_text)
    return "node", load_node
