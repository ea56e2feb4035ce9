"""Notices when the civil time jumps: set by hand or by NTP, or the machine slept (spec: node 1.5). Sans-IO."""

from __future__ import annotations

from typing import Final

import attrs

BACKWARD: Final = 0.5
"""Seconds back that are a jump; slewing a clock stays far below."""
FORWARD: Final = 2.0


@attrs.define
class ClockWatch:
    """Compares both clocks at every look."""

    _offset: float | None = None

    def jump(self, wall: float, mono: float) -> float:
        """Seconds by which wall time jumped since the last look, negative for backwards; 0 if it did not.

        After a suspend it is the time slept, since the monotonic clock stood still.
        """
        before, self._offset = self._offset, wall - mono
        moved = 0.0 if before is None else self._offset - before
        return moved if moved < -BACKWARD or moved > FORWARD else 0.0
