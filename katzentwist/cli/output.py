"""How subcommands talk: errors on standard error, a progress line on terminals only, JSON where asked for."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any, TextIO

from katzentwist.errors import KatzentwistError


class UsageFault(KatzentwistError):
    """The options contradict each other: exit status 2."""


def fail(command: str, message: str) -> None:
    """One error on standard error."""
    print(f"katzentwist {command}: {message}", file=sys.stderr)


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(value, indent=2, sort_keys=True))


class Progress:
    """A line that is written over again; nothing where standard output is no terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._shown = self._stream.isatty()

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._shown:
            # A line that wraps could not be written over.
            columns = shutil.get_terminal_size().columns
            self._stream.write(f"\r\x1b[K{text[: columns - 1]}")
            self._stream.flush()

    def clear(self) -> None:
        """Take the line away."""
        self.show("")


def table(rows: list[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)
