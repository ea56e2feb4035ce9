"""``katzentwist check-config``: look at configuration files of every kind."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs

from katzentwist.cli.output import print_json
from katzentwist.config import authority, thinclient, toml
from katzentwist.config.kinds import FileKind, kind_of
from katzentwist.config.schema import Report
from katzentwist.errors import ConfigError
from katzentwist.node.extras import load_client, load_node
from katzentwist.node.startup import local_ips, read_text

LOADERS: Final[dict[FileKind, Callable[[str], tuple[Any, Report]]]] = {
    FileKind.THIN_CLIENT: thinclient.load,
    FileKind.CLIENT: load_client,
    FileKind.AUTHORITY: lambda text: authority.load(text, local_ips=local_ips(), read_file=read_text),
    FileKind.NODE: load_node,
}


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
    kind = kind_of(tables) or FileKind.NODE
    _, report = LOADERS[kind](text)
    unknown = [f"{key}: unknown key" for key in sorted(set(report.unknown))]
    return Finding(kind.value, [*map(str, report.errors), *unknown], report.warnings)
