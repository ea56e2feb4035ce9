"""The configuration object of the library (spec: client 3, 16.1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from katzentwist.config import thinclient
from katzentwist.config.client import Socket
from katzentwist.errors import ConfigError, ConfigErrors
from katzentwist.thin.events import CALLBACKS

NAMES: Final = tuple(name for names in CALLBACKS.values() for name in names)


def load_dial(path: str | Path) -> Socket:
    """Where a ``thinclient.toml`` says the daemon is.

    :raises ConfigError: naming the file, the key and the remedy.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "not UTF-8"
        raise ConfigError(f"can not read {path}: {why}; name the thinclient.toml of the daemon") from e
    config, report = thinclient.load(text)
    if config is None:
        raise ConfigErrors([ConfigError(f"{path}: {error}") for error in report.errors])
    return config.dial


class Config:
    """Where the daemon is, and callbacks.

    :param filepath: a ``thinclient.toml``.
    :param callbacks: by name, see :data:`NAMES`; an unknown name is a TypeError.
    """

    def __init__(self, filepath: str | Path, **callbacks: Callable[[Any], Any] | None) -> None:
        self.dial = load_dial(filepath)
        check_names(callbacks)
        self.callbacks = {name: call for name, call in callbacks.items() if call is not None}

    @classmethod
    def of(cls, given: Any) -> Config:
        """A Config, or what one is made from."""
        if isinstance(given, cls):
            return given
        if isinstance(given, Socket):
            config = cls.__new__(cls)
            config.dial, config.callbacks = given, {}
            return config
        return cls(given)


def check_names(callbacks: Any) -> None:
    """:raises TypeError: no such callback."""
    unknown = sorted(set(callbacks) - set(NAMES))
    if unknown:
        raise TypeError(f"unknown callback(s) {', '.join(unknown)}; known are {', '.join(NAMES)}")
