"""Kaetzchen services: dispatch, built-in services, plugin processes.

:class:`Kaetzchen` and :func:`run` are for those who write services; they load nothing of a node.
"""

from katzentwist.plugins.kaetzchen import Kaetzchen, run

__all__ = ["Kaetzchen", "run"]
