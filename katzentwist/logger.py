"""Loggers that keep the module name they are given (spec: node 1.5), and the level NOTICE.

``twisted.logger.Logger`` as a class attribute takes the name of the class instead.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger


class ModuleLogger(Logger):
    """A logger named once; usable as a class attribute."""

    def __get__(self, instance: Any, owner: Any = None) -> ModuleLogger:
        return self


def notice(log: Logger, message: str, **fields: Any) -> None:
    """Log at NOTICE: what an operator wants to see when nothing is wrong."""
    log.info(message, notice=True, **fields)
