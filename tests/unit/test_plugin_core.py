"""The rules of one plugin connection (node 7.9)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.errors import PluginError
from katzentwist.plugins._core import MAX_STRAYS, PATIENCE, Exchange, Ledger, Shape
from katzentwist.plugins.messages import PluginRequest, PluginResponse

OLD = PluginResponse(payload=b"", new_shape=False)


def new(number: int) -> PluginResponse:
    """A response of the new shape."""
    return PluginResponse(payload=b"", id=number)


class ExchangeTests(SynchronousTestCase):
    """One process."""

    def test_unknown_becomes_new(self) -> None:
        """One at a time until the first response shows the shape; then without waiting."""
        exchange = Exchange()
        self.assertTrue(exchange.ready)
        exchange.sent(1, 0.0)
        self.assertFalse(exchange.ready)
        self.assertEqual(exchange.deadline(), PATIENCE)
        self.assertEqual(exchange.received(new(1)), 1)
        for number in range(2, 10):
            self.assertTrue(exchange.ready)
            exchange.sent(number, 1.0)
        self.assertIsNone(exchange.deadline())
        self.assertEqual(exchange.received(new(7)), 7)
        self.assertEqual(exchange.load(2.0), 7)
        self.assertEqual(exchange.load(2.0 + PATIENCE), 0)

    def test_unknown_becomes_old(self) -> None:
        """A response without ID and SURB answers the oldest request, and the plugin stays synchronous."""
        exchange = Exchange()
        exchange.sent(1, 0.0)
        exchange.time_out()
        self.assertTrue(exchange.ready)
        exchange.sent(2, 30.0)
        self.assertEqual(exchange.received(OLD), 1)
        self.assertFalse(exchange.ready)
        self.assertEqual(exchange.received(OLD), 2)
        self.assertTrue(exchange.ready)
        exchange.sent(3, 31.0)
        # Whatever keys its responses have from now on.
        self.assertEqual(exchange.received(new(99)), 3)
        exchange.sent(4, 32.0)
        self.assertRaises(PluginError, exchange.time_out)

    def test_out_of_step(self) -> None:
        """An old-shape answer to nothing ends the process."""
        self.assertRaises(PluginError, Exchange().received, OLD)
        self.assertRaises(PluginError, Exchange(Shape.OLD).received, new(1))

    def test_fixed(self) -> None:
        """The configuration may name the shape."""
        exchange = Exchange(Shape.NEW)
        exchange.sent(1, 0.0)
        self.assertTrue(exchange.ready)
        self.assertEqual(exchange.received(OLD), 0)
        request = PluginRequest(id=1, payload=b"x", surb=b"s", has_surb=True)
        self.assertEqual(exchange.encode(request, 5), request.encode())
        self.assertEqual(Exchange(Shape.OLD).encode(request, 5), request.encode_old(5))
        self.assertNotIn(b"SURB\x41", Exchange(Shape.OLD).encode(request, 5).replace(b"HasSURB", b""))

    def test_strays(self) -> None:
        """Some responses to nothing are fine, a flood is not."""
        exchange = Exchange()
        for _ in range(MAX_STRAYS):
            exchange.useful(False)
        exchange.useful(True)
        for _ in range(MAX_STRAYS):
            exchange.useful(False)
        self.assertRaises(PluginError, exchange.useful, False)

    @given(st.sampled_from(list(Shape)), st.lists(st.sampled_from(["send", "new", "old", "late"]), max_size=40))
    def test_any_order(self, shape: Shape, steps: list[str]) -> None:
        """Whatever happens in whatever order: an answer, or our error."""
        exchange, number = Exchange(shape), 0
        for step in steps:
            try:
                if step == "send" and exchange.ready:
                    number += 1
                    exchange.sent(number, float(number))
                elif step == "late" and exchange.deadline() is not None:
                    exchange.time_out()
                elif step in ("new", "old"):
                    self.assertIn(exchange.received(new(number) if step == "new" else OLD), range(number + 1))
            except PluginError:
                return


class LedgerTests(SynchronousTestCase):
    """What may still be answered."""

    def test_once(self) -> None:
        """An entry can be taken once, and while it lives."""
        ledger: Ledger[str] = Ledger(lifetime=10.0, most=3)
        ledger.add(1, "a", 0.0)
        self.assertEqual(ledger.take(1, 1.0), "a")
        self.assertIsNone(ledger.take(1, 1.0))
        ledger.add(2, "b", 1.0)
        self.assertIsNone(ledger.take(2, 11.0))

    def test_bounds(self) -> None:
        """The oldest ones leave."""
        ledger: Ledger[str] = Ledger(lifetime=10.0, most=3)
        forgotten = [ledger.add(number, str(number), float(number)) for number in range(5)]
        self.assertEqual(forgotten, [[], [], [], ["0"], ["1"]])
        self.assertEqual([ledger.take(n, 5.0) for n in range(5)], [None, None, "2", "3", "4"])
        ledger.add(6, "x", 6.0)
        self.assertEqual(ledger.add(7, "y", 20.0), [])  # the other one was too old
        self.assertEqual(len(ledger), 1)
