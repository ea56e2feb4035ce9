"""Loggers that keep the module name they are given (spec: node 1.5), and the level NOTICE.

``twisted.logger.Logger`` as a class attribute takes the name of the class instead.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger


class ModuleLogger(Logger):
    """A logger named once; usable as a class attribute.

    An object whose ``_runtime`` is that of one half of a Provider gets the logger of that half.
    """

    def __get__(self, instance: Any, owner: Any = None) -> ModuleLogger:
        return self.of(getattr(getattr(instance, "_runtime", None), "half", ""))

    def of(self, half: str) -> ModuleLogger:
        """The same with the name of a half behind its own: what both halves of a Provider say differs in nothing else.

        :param half: empty where there is only one.
        """
        return ModuleLogger(f"{self.namespace}/{half}", observer=self.observer) if half else self


def notice(log: Logger, message: str, **fields: Any) -> None:
    """Log at NOTICE: what an operator wants to see when nothing is wrong."""
    log.info(message, notice=True, **fields)
