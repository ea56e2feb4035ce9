"""How many handshakes may be under way at once, so that silent strangers can not starve others."""

from __future__ import annotations

from collections.abc import Callable

import attrs

MAX_HALF_OPEN = 2048
"""Half-open handshakes of one listener. Each holds less than one message (2.7 kB for xwing) and one socket."""
MAX_HALF_OPEN_PER_ADDRESS = 1024
"""The same for one remote address: hundreds of clients behind one may all come back in the same second."""


@attrs.define(eq=False)
class HalfOpen:
    """One handshake under way."""

    address: str
    abort: Callable[[], None]


class HandshakeLimits:
    """Counts half-open handshakes and ends the oldest ones when there are too many.

    The newest is always let in: an honest handshake takes milliseconds, so what has been waiting longest is the least
    likely to be one. Beyond *per_address* the oldest of that address goes, beyond *total* the oldest of the address
    that has most.

    :ivar evicted: how many were ended so far.
    """

    def __init__(self, total: int = MAX_HALF_OPEN, per_address: int = MAX_HALF_OPEN_PER_ADDRESS) -> None:
        self.evicted = 0
        self._total = total
        self._per_address = per_address
        self._count = 0
        self._waiting: dict[str, dict[HalfOpen, None]] = {}

    def __len__(self) -> int:
        return self._count

    def enter(self, address: str, abort: Callable[[], None]) -> HalfOpen:
        """A handshake begins; *abort* must end it and may call :meth:`leave`."""
        own = self._waiting.setdefault(address, {})
        if len(own) >= self._per_address:
            self._evict(own)
        elif self._count >= self._total:
            self._evict(max(self._waiting.values(), key=len))
        entry = HalfOpen(address, abort)
        self._waiting.setdefault(address, {})[entry] = None
        self._count += 1
        return entry

    def leave(self, entry: HalfOpen) -> None:
        """It ended, well or badly; the second call does nothing."""
        own = self._waiting.get(entry.address, {})
        if entry in own:
            del own[entry]
            self._count -= 1
            if not own:
                del self._waiting[entry.address]

    def _evict(self, group: dict[HalfOpen, None]) -> None:
        oldest = next(iter(group))
        self.leave(oldest)
        self.evicted += 1
        oldest.abort()
