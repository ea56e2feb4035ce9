"""Epochs and durations (spec: pki 1), against pki-epoch.json."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from katzentwist.clock import ORIGIN, Epochs, IClock, SystemClock, parse_duration
from katzentwist.errors import ConfigError
from tests.vectorfiles import load

VECTORS = load("pki-epoch")


class EpochTests(SynchronousTestCase):
    """The arithmetic of epochs."""

    def test_origin(self) -> None:
        """Epochs count from June 2017."""
        self.assertEqual(VECTORS["origin_unix"], ORIGIN)

    def test_vectors(self) -> None:
        """Number, elapsed and till agree with the reference to the nanosecond."""
        for case in VECTORS["cases"]:
            epochs = Epochs(case["period_ns"])
            number, elapsed = epochs.split_ns(case["unix"])
            self.assertEqual((number, elapsed), (case["epoch"], case["elapsed_ns"]), case)
            self.assertEqual(case["till_ns"], epochs.period_ns - elapsed)
            self.assertEqual(epochs.now(case["unix"]), (number, elapsed / 10**9, case["till_ns"] / 10**9))

    def test_contains(self) -> None:
        """A second is in an epoch from its start to the start of the next."""
        for case in VECTORS["is_in_epoch"]:
            self.assertEqual(case["result"], Epochs(case["period_ns"]).contains(case["epoch"], case["unix"]), case)

    def test_start_is_inside(self) -> None:
        """start() gives a time that number() counts into that epoch, also for durations no float can hold."""
        for period in (1, 7, 333333333, 10**9 // 3, 10**9, 1200 * 10**9):
            epochs = Epochs(period)
            for epoch in (0, 1, 2, 1000003, 6000001):
                self.assertGreaterEqual(epochs.number(epochs.start(epoch)), epoch)
        self.assertEqual(Epochs().number(Epochs().start(250000)), 250000)

    def test_before_the_origin(self) -> None:
        """A clock before the origin is an error that says so."""
        error = self.assertRaises(ConfigError, Epochs().number, ORIGIN - 1)
        self.assertIn("set the clock", str(error))

    def test_period_must_be_positive(self) -> None:
        """Zero and negative durations are refused."""
        for period in (0, -1):
            self.assertRaises(ConfigError, Epochs, period)

    def test_environment_wins(self) -> None:
        """The environment beats the configuration; with neither it is 20 minutes."""
        self.assertEqual(Epochs.from_environment({"KATZENPOST_EPOCH_DURATION": "2m"}, "3m").period, 120)
        self.assertEqual(Epochs.from_environment({"KATZENPOST_EPOCH_DURATION": ""}, "3m").period, 180)
        self.assertEqual(Epochs.from_environment({}).period, 1200)


class DurationTests(SynchronousTestCase):
    """The syntax of durations."""

    def test_vectors(self) -> None:
        """Accepted and refused texts agree with the reference."""
        for case in VECTORS["durations"]:
            if case.get("error"):
                self.assertRaises(ConfigError, parse_duration, case["text"])
            else:
                self.assertEqual(case["ns"], parse_duration(case["text"]), case["text"])

    def test_hostile_texts(self) -> None:
        """Absurd lengths and digits of other scripts are syntax errors, not crashes."""
        for text in ("9" * 5000 + "s", "1s" * 1000, "\u0661s", "1s\n"):
            self.assertRaises(ConfigError, parse_duration, text)


class SystemClockTests(SynchronousTestCase):
    """The real clock."""

    def test_interface(self) -> None:
        """It provides IClock, and time passes."""
        clock = SystemClock()
        self.assertTrue(verifyObject(IClock, clock))
        self.assertLessEqual(clock.monotonic(), clock.monotonic())
        self.assertGreater(clock.wallclock(), ORIGIN)
