"""The timers that follow the epoch duration (spec: pki 1.2)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.clock import Epochs
from katzentwist.pki.schedule import Schedule

TABLE = {
    "descriptor_deadline": (150, 15),
    "vote_deadline": (300, 30),
    "reveal_deadline": (450, 45),
    "certificate_deadline": (600, 60),
    "publication_deadline": (750, 75),
    "never_limit": (1050, 105),
    "node_first_wake": (18.75, 1.875),
    "poll_interval": (75, 7.5),
    "upload_window": (125, 12.5),
    "next_document_wanted": (150, 15),
    "early_slack": (150, 15),
    "client_next_document_till": (375, 37.5),
    "replica_poll_interval": (37.5, 3.75),
    "replica_next_document_till": (75, 7.5),
}


class ScheduleTests(SynchronousTestCase):
    """The table of the specification."""

    def test_table(self) -> None:
        """At 20 minutes and at 2 minutes."""
        long, short = Schedule(), Schedule(Epochs(120 * 10**9))
        for name, (at20, at2) in TABLE.items():
            self.assertEqual((getattr(long, name), getattr(short, name)), (at20, at2), name)
        self.assertEqual(long.client_idle, 825)

    def test_order(self) -> None:
        """Deadlines keep their order for odd durations too."""
        for period in (1, 7, 999, 10**9 + 1):
            s = Schedule(Epochs(period))
            ordered = (s.upload_window, s.descriptor_deadline, s.vote_deadline, s.publication_deadline, s.never_limit)
            self.assertEqual(sorted(ordered), list(ordered))
