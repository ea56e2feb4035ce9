"""The command line of the twistd plugins: their options, and the configuration file that these name.

twistd stands in the way of several promises of the command line; each place below says which. Exit status: 0 after a
graceful stop, 1 when the start or the run fails, 2 for wrong usage (spec: node 1.1).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from twisted.python import usage

import katzentwist
from katzentwist.config.schema import Report

C = TypeVar("C")


class DaemonOptions(usage.Options):
    """The options of every plugin; twistd knows no ``-h`` and prints its own ``--version``, so both stand here."""

    default_files: tuple[str, ...] = ()
    program = ""
    summary = ""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["config"] = ""
        self["generate-only"] = False
        self["validate-only"] = False

    def getSynopsis(self) -> str:
        """The usage line."""
        return f"Usage: twistd [twistd options] {self.program} [options]"

    def getUsage(self, width: int | None = None) -> str:
        """The text of ``--help``."""
        default = f"Without -f the file is {', else '.join(self.default_files)} of the current folder."
        example = f"Example: twistd -n {self.program} -f {self.default_files[0]}"
        return f"{self.summary}\n\n{super().getUsage(width)}\n{default}\n{example}\n"

    def opt_config(self, file: str) -> None:
        """The configuration file."""
        self["config"] = file

    opt_f = opt_config

    def opt_validate_only(self) -> None:
        """Check the configuration file, unknown keys included, and exit."""
        self["validate-only"] = True

    def opt_version(self) -> NoReturn:
        """Print the version and exit."""
        print(f"katzentwist {katzentwist.__version__}")  # noqa: T201
        raise SystemExit(0)

    def opt_help(self) -> NoReturn:
        """Print this help and exit."""
        print(self)  # noqa: T201
        raise SystemExit(0)

    opt_h = opt_help
    opt_v = opt_version

    def parseArgs(self, *args: str) -> None:
        """There are no positional arguments."""
        if args:
            raise usage.UsageError(f"unexpected argument: {args[0]}")

    def parseOptions(self, options: Any = None) -> None:
        """Parse; wrong usage ends with status 2, where twistd would end with 1."""
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as e:
            print(f"{self.program}: {e}\n\n{self}", file=sys.stderr)  # noqa: T201
            raise SystemExit(2) from e

    @property
    def file(self) -> Path:
        """The configuration file: as given, or the first default that exists."""
        if self["config"]:
            return Path(self["config"])
        return next((Path(f) for f in self.default_files if Path(f).exists()), Path(self.default_files[0]))


class GeneratingOptions(DaemonOptions):
    """Options of programs that have keys of their own."""

    def opt_generate_only(self) -> None:
        """Make the missing keys, print them, and exit."""
        self["generate-only"] = True

    opt_g = opt_generate_only


def die(message: str) -> NoReturn:
    """End the program before it has started: one message, status 1, no traceback."""
    print(message, file=sys.__stderr__)
    raise SystemExit(1)


def read_config(options: DaemonOptions, load: Callable[[str], tuple[C | None, Report]]) -> tuple[C, Report]:
    """The checked configuration of *options.file*, or the end of the program.

    ``--validate-only`` ends it in either case, and counts unknown keys as errors.
    """
    path = options.file
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8"
        remedy = "" if options["config"] else "; name the file with -f"
        die(f"failed to load config file '{path}': {reason}{remedy}")
    config, report = load(text)
    unknown = "unrecognised configuration keys: " + ", ".join(sorted(set(report.unknown)))
    if config is None:
        mistakes = [e for error in report.errors for e in str(error).splitlines()]
        # What is missing above may be there under a misspelt name.
        lines = "\n".join(f"  {text}" for text in [*mistakes, *([unknown] if report.unknown else [])])
        die(f"failed to load config file '{path}':\n{lines}")
    if options["validate-only"]:
        if report.unknown:
            die(f"config file '{path}': {unknown}")
        for warning in report.warnings:
            print(f"config file '{path}': warning: {warning}", file=sys.stderr)  # noqa: T201
        print(f"configuration file '{path}' is valid")  # noqa: T201
        raise SystemExit(0)
    return config, report
