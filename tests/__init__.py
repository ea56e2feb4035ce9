"""All tests. ``python -m twisted.trial tests`` from the root of the tree."""

from __future__ import annotations

import socket
from typing import Final

from hypothesis import HealthCheck, settings

from katzentwist.testnet import plan

# On a busy machine a draw may be slow or large for reasons that are not the code's; what is asserted stays the same.
settings.register_profile("katzentwist", deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("katzentwist")

PORTS: Final = 1000
"""The share of one process; a network has a dozen."""


def _own_ports() -> socket.socket | None:
    """Pick ports from a share that no other process has: it is held as long as the socket is there.

    A port is chosen before its program listens, so two workers that start networks side by side would choose the same.
    """
    for first in range(plan.FREE_PORTS.start, plan.FREE_PORTS.stop, PORTS):
        holder = socket.socket(socket.AF_UNIX)
        try:
            holder.bind(f"\0katzentwist-tests-{first}")
        except (OSError, ValueError):  # another's, or no Linux
            holder.close()
            continue
        plan.FREE_PORTS = range(first, first + PORTS)
        return holder
    return None


_HELD = _own_ports()
