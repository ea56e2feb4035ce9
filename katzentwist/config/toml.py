"""The only TOML reader and writer.

Files are read with the standard library (the ``toml`` package refuses valid ones) and written with ``toml``.
"""

from __future__ import annotations

import tomllib
from typing import Any

import toml

from katzentwist.errors import ConfigError


def parse(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    :raises ConfigError: not TOML; the message has line and column.
    """
    try:
        return tomllib.loads(text)
    except ValueError as e:  # TOMLDecodeError, or a number with more digits than Python reads
        raise ConfigError(f"not valid TOML: {e}") from e
    except RecursionError as e:
        raise ConfigError("not valid TOML: nested too deeply") from e


def dump(tables: dict[str, Any]) -> str:
    """TOML text of *tables*; keys stay in their order, multi-line texts (PEM) become one line with ``\\n``."""
    return toml.dumps(tables)
