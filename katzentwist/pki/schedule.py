"""All deadlines inside an epoch, as functions of its duration (spec: pki 1.2).

Every value is in seconds, truncated to a nanosecond. "elapsed" counts from the start of the epoch, "till" to its end.
"""

from __future__ import annotations

from typing import Final

import attrs

from katzentwist.clock import SECOND, Epochs

NODE_FETCH_LIMIT: Final = 180.0
"""The longest fetch cycle of a node; not scaled."""
CLIENT_FETCH_LIMIT: Final = 30.0
"""The longest fetch of a client daemon; not scaled."""


@attrs.frozen
class Schedule:
    """The timers that follow P."""

    epochs: Epochs = Epochs()

    def _part(self, numerator: int, denominator: int) -> float:
        return (self.epochs.period_ns // denominator) * numerator / SECOND

    @property
    def descriptor_deadline(self) -> float:
        """``D1`` of a voting authority, elapsed; the single authority waits so long for missing nodes."""
        return self._part(1, 8)

    @property
    def vote_deadline(self) -> float:
        """``D2``, elapsed."""
        return self._part(2, 8)

    @property
    def reveal_deadline(self) -> float:
        """``D3``, elapsed."""
        return self._part(3, 8)

    @property
    def certificate_deadline(self) -> float:
        """``D4``, elapsed."""
        return self._part(4, 8)

    @property
    def publication_deadline(self) -> float:
        """``D5``, elapsed: from here on a voting network has the document of the next epoch."""
        return self._part(5, 8)

    @property
    def never_limit(self) -> float:
        """Elapsed, after which a document of the next epoch that is not there will never exist."""
        return self._part(7, 8)

    @property
    def node_first_wake(self) -> float:
        """Delay of a node's first wake-up after its start."""
        return self._part(1, 64)

    @property
    def poll_interval(self) -> float:
        """Between two looks of a node or client daemon that lacks a document."""
        return self._part(1, 16)

    @property
    def upload_window(self) -> float:
        """Elapsed, before which a node uploads to a voting network: ``D1 - D1/6``."""
        first = self.epochs.period_ns // 8
        return (first - first // 6) / SECOND

    @property
    def next_document_wanted(self) -> float:
        """Elapsed, after which a node wants the document of the next epoch."""
        return self._part(1, 8)

    @property
    def early_slack(self) -> float:
        """How long before an epoch nodes connect and send for it."""
        return self._part(1, 8)

    @property
    def client_next_document_till(self) -> float:
        """Till, below which a client daemon wants the document of the next epoch."""
        return self._part(5, 16)

    @property
    def client_idle(self) -> float:
        """What a client daemon that holds both documents sleeps beyond the end of the epoch."""
        return self._part(11, 16)

    @property
    def replica_poll_interval(self) -> float:
        """Between two looks of a courier or replica."""
        return self._part(1, 32)

    @property
    def replica_next_document_till(self) -> float:
        """Till, below which a courier or replica wants the document of the next epoch."""
        return self._part(1, 16)
