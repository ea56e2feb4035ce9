"""When a node fetches and uploads (spec: node 4.10, pki 13.6)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.clock import Epochs
from katzentwist.node.pkicore import Fetch, PKICore, Upload
from katzentwist.randomness import SeededRandom

PERIOD = 1200
EPOCHS = Epochs(PERIOD * 10**9)
NOW = 1000
START = EPOCHS.start(NOW)


def core(single: bool) -> PKICore:
    """A worker that started long ago."""
    return PKICore(EPOCHS, SeededRandom(1), halves=1, single=single, started=-1e6)


def signed(epoch: int) -> Any:
    """As much of a document as the worker looks at."""
    return SimpleNamespace(document=SimpleNamespace(epoch=epoch))


class VotingTests(SynchronousTestCase):
    """Several authorities: as v0.0.99 nodes do."""

    def due(self, made: PKICore, elapsed: float) -> list[Any]:
        """What is due so many seconds into the epoch."""
        return made.due(START + elapsed, elapsed)

    def test_upload_window(self) -> None:
        """A descriptor for the next epoch, within 5P/48 of the start of this one, and never later."""
        uploads = [a for a in self.due(core(False), 1.0) if isinstance(a, Upload)]
        self.assertEqual([(u.epoch, round(u.budget)) for u in uploads], [(NOW + 1, 124)])
        self.assertFalse([a for a in self.due(core(False), 126.0) if isinstance(a, Upload)])

    def test_next_document(self) -> None:
        """The document of the next epoch is asked for from 5P/8 on, then every P/16."""
        made = core(False)
        for e in range(NOW - 2, NOW + 1):
            made.fetched(signed(e))
        self.assertEqual([a for a in self.due(made, 740.0) if isinstance(a, Fetch)], [])
        self.assertEqual(self.due(made, 751.0), [Fetch(NOW + 1)])
        made.fetch_failed(NOW + 1, 751.0, gone=False, not_yet=True)
        self.assertEqual(self.due(made, 760.0), [])
        self.assertEqual(self.due(made, 751.0 + 75 * 1.2), [Fetch(NOW + 1)])

    def test_missing_documents(self) -> None:
        """Those of now and the two epochs before, newest first; gone ones are not asked for again."""
        made = core(False)
        self.assertEqual([a.epoch for a in self.due(made, 300.0)], [NOW, NOW - 1, NOW - 2])
        made.fetch_failed(NOW - 2, 300.0, gone=True, not_yet=False)
        made.fetch_failed(NOW, 300.0, gone=False, not_yet=False)
        self.assertEqual([a.epoch for a in self.due(made, 500.0)], [NOW])
        self.assertTrue(made.is_gone(NOW - 2))

    def test_one_upload(self) -> None:
        """After success or a final refusal nothing more is uploaded for that epoch."""
        made = core(False)
        self.due(made, 1.0)
        made.uploaded(0, NOW + 1, 1.0)
        self.assertFalse([a for a in self.due(made, 60.0) if isinstance(a, Upload)])

    def test_upload_backoff(self) -> None:
        """A failed upload is tried again after 2 s, then 4 s."""
        made = core(False)
        self.due(made, 1.0)
        made.upload_failed(0, NOW + 1, 1.0)
        self.assertFalse([a for a in self.due(made, 2.5) if isinstance(a, Upload)])
        self.assertTrue([a for a in self.due(made, 3.1) if isinstance(a, Upload)])
        made.upload_failed(0, NOW + 1, 3.1)
        self.assertFalse([a for a in self.due(made, 6.0) if isinstance(a, Upload)])
        self.assertTrue([a for a in self.due(made, 7.2) if isinstance(a, Upload)])

    def test_never_for_now(self) -> None:
        """Several authorities never get a descriptor for the current epoch."""
        made = core(False)
        self.due(made, 1.0)
        made.fetch_failed(NOW, 1.0, gone=False, not_yet=True)
        self.assertNotIn(NOW, [a.epoch for a in self.due(made, 90.0) if isinstance(a, Upload)])


class SingleTests(SynchronousTestCase):
    """One authority, ours."""

    def test_upload_any_time(self) -> None:
        """At any time of the epoch, and for now when it says that the document of now is not there yet."""
        made = core(True)
        first = made.due(START + 900.0, 900.0)
        self.assertEqual([a.epoch for a in first if isinstance(a, Upload)], [NOW + 1])
        made.fetch_failed(NOW, 900.0, gone=False, not_yet=True)
        again = made.due(START + 901.0, 901.0)
        self.assertEqual([a.epoch for a in again if isinstance(a, Upload)], [NOW])

    def test_eager_after_upload(self) -> None:
        """The document is asked for a second after an upload, then ever more rarely, up to P/16."""
        made = core(True)
        made.due(START + 10.0, 10.0)
        made.uploaded(0, NOW + 1, 10.0)
        made.fetch_failed(NOW + 1, 10.0, gone=False, not_yet=True)
        moments = []
        t = 10.0
        while t < 600.0:
            t += 0.25
            if Fetch(NOW + 1) in made.due(START + t, t):
                moments.append(t)
                made.fetch_failed(NOW + 1, t, gone=False, not_yet=True)
        gaps = [b - a for a, b in zip(moments, moments[1:], strict=False)]
        self.assertLess(moments[0], 12.0)
        self.assertTrue(all(g <= 75 * 1.2 + 0.5 for g in gaps))
        self.assertGreater(gaps[-1], 55)

    def test_gone_is_not_final_for_the_next_epoch(self) -> None:
        """A network that starts late in an epoch hears Gone for the next one, and asks again."""
        made = core(True)
        made.due(START + 1190.0, 0.0)
        made.fetch_failed(NOW + 1, 0.0, gone=True, not_yet=False)
        self.assertIn(Fetch(NOW + 1), made.due(START + 1195.0, 5.0))
        made.fetch_failed(NOW, 5.0, gone=True, not_yet=False)
        self.assertNotIn(Fetch(NOW), made.due(START + 1199.0, 100.0))

    def test_wall_clock_steps(self) -> None:
        """A clock that jumps to another epoch only changes what is wanted."""
        made = core(True)
        made.fetched(signed(NOW))
        later = made.due(EPOCHS.start(NOW + 5) + 1, 20.0)
        self.assertIn(Fetch(NOW + 5), later)
        self.assertEqual(made.documents, {})

    def test_first_wake(self) -> None:
        """Nothing before P/64 after the start."""
        made = PKICore(EPOCHS, SeededRandom(1), halves=2, single=True, started=100.0)
        self.assertEqual(made.due(START + 5, 118.0), [])
        actions = made.due(START + 5, 119.0)
        self.assertEqual(sorted(a.half for a in actions if isinstance(a, Upload)), [0, 1])
