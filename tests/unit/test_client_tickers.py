"""Tickers, rates, retention (spec: client 6.1, 7.2, 7.4; vectors client.json rates and paths)."""

from __future__ import annotations

import math
import os

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.client import arq
from katzentwist.client.compose import retention
from katzentwist.client.pacing import Pacer
from katzentwist.client.sender import GATEWAY_LATER
from katzentwist.client.tickers import Ticker
from katzentwist.provider.ratelimit import RateLimit, TokenBucket
from katzentwist.randomness import SeededRandom
from katzentwist.sphinx import delay_cap
from tests.vectorfiles import load

VECTORS = load("client")
DRAWS = 100_000


def kolmogorov_smirnov(distance: float, count: int) -> float:
    """The p value of a distance between a sample and its distribution."""
    root = math.sqrt(count)
    x = (root + 0.12 + 0.11 / root) * distance
    terms = ((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 101))
    return min(1.0, max(0.0, 2 * sum(terms)))


class TickerTests(SynchronousTestCase):
    """From a rate to intervals."""

    def test_vectors(self) -> None:
        """Means and caps of the reference."""
        for case in VECTORS["rates"]:
            ticker = Ticker.from_rate(case["lambda"])
            assert ticker is not None
            if case["mean_ms"]:
                self.assertEqual((ticker.mean, ticker.cap), (case["mean_ms"], case["ticker_cap_ms"]))
            else:  # ours: a rate above one per ms ticks each ms on average
                self.assertEqual(ticker.mean, 1)
            self.assertEqual(delay_cap(case["lambda"]), case["mu_cap_ms"])

    def test_off(self) -> None:
        """No rate, no ticks."""
        for rate in (0.0, -1.0, math.nan, math.inf, 1e-320):
            self.assertIsNone(Ticker.from_rate(rate))

    def test_distribution(self) -> None:
        """100,000 intervals against the floored exponential: Kolmogorov-Smirnov, p > 0.01."""
        seed = os.environ.get("KATZENTWIST_TEST_SEED", "ticker 1")
        for rate in (0.005, 0.001, 0.0005):
            ticker = Ticker.from_rate(rate)
            assert ticker is not None
            random = SeededRandom(f"{seed} {rate}")
            draws = sorted(round(ticker.interval(random) * 1000) for _ in range(DRAWS))
            distance, seen = 0.0, 0
            while seen < DRAWS:
                value = draws[seen]
                below = seen / DRAWS
                distance = max(distance, abs(below - (1 - math.exp(-value / ticker.mean))))
                while seen < DRAWS and draws[seen] == value:
                    seen += 1
                distance = max(distance, abs(seen / DRAWS - (1 - math.exp(-(value + 1) / ticker.mean))))
            p = kolmogorov_smirnov(distance, DRAWS)
            mean = sum(draws) / DRAWS
            print(f"rate {rate}: n={DRAWS} mean={mean:.2f} ms D={distance:.5f} p={p:.3f} seed={seed!r}")
            self.assertGreater(p, 0.01)
            self.assertLessEqual(draws[-1], ticker.cap)


class PathVectorTests(SynchronousTestCase):
    """Times that follow from a path."""

    def test_retention_and_deadlines(self) -> None:
        """How long replies are awaited, and when an ARQ message goes again."""
        for case in VECTORS["paths"]:
            eta = case["reply_eta_ns"] / 1e9
            hops = [h.get("delay_ms", 0) for h in case["forward"] + (case["reverse"] or [])]
            self.assertAlmostEqual(eta, sum(hops) / 1000)

            class Document:
                topology = range(case["layers"])

            self.assertAlmostEqual(retention(eta, Document()), case["retention_ns"] / 1e9)  # type: ignore[arg-type]
            self.assertAlmostEqual(eta + 20, case["arq_deadline_offset_ns"] / 1e9)
            self.assertAlmostEqual(eta + arq.GARBAGE_AFTER, case["old_gc_offset_ns"] / 1e9)

    def test_unknown_layers(self) -> None:
        """Nine hops are assumed without a document."""
        self.assertAlmostEqual(retention(1.0, None), 5.5)


class PacerTests(SynchronousTestCase):
    """Staying below the gateway's limit."""

    def test_tokens(self) -> None:
        """One packet at once, then one per interval, and what was not used accumulates."""
        pacer = Pacer()
        pacer.use_rates(0.001, 0.0005)
        pacer.connected(100.0)
        self.assertEqual(pacer.wait(100.0), 0.0)
        wait = pacer.wait(100.0)
        self.assertAlmostEqual(wait, math.ceil(1e6 / (1.1 * 0.0015)) / 1e9 * 1.02)
        self.assertEqual(pacer.wait(100.0 + wait + 1e-9), 0.0)
        self.assertGreater(pacer.wait(100.0 + wait + 1e-9), 0.0)
        self.assertEqual([pacer.wait(110.0) > 0 for _ in range(20)].index(True), 15)

    def test_no_limit(self) -> None:
        """Without rates there is none."""
        pacer = Pacer()
        pacer.use_rates(0.0, 0.0)
        pacer.connected(0.0)
        self.assertEqual([pacer.wait(0.0) for _ in range(5)], [0.0] * 5)

    def test_overdrawn(self) -> None:
        """A packet without a token costs the one that was being earned, since the gateway may count it first."""
        pacer = Pacer()
        pacer.use_rates(0.001, 0.0005)
        pacer.connected(100.0)
        pacer.wait(100.0)
        interval = pacer.wait(100.0)
        pacer.overdrawn(100.0 + 0.9 * interval)
        self.assertAlmostEqual(pacer.wait(100.0 + 1.5 * interval), 0.4 * interval)
        self.assertEqual(pacer.wait(100.0 + 1.9 * interval + 1e-9), 0.0)
        before = Pacer(interval, 0, 200.0)
        before.overdrawn(100.0)  # a session that counts from a moment later
        self.assertAlmostEqual(before.wait(200.0), interval)

    def test_beside_a_gateway(self) -> None:
        """In 200 sessions of Poisson ticks no packet with a token is dropped, wherever the gateway begins to count."""
        random = SeededRandom("pacer 1")
        rates = (0.001, 0.0005)
        paid = dropped_decoys = 0
        for _ in range(200):
            lag = GATEWAY_LATER * random.uniform()
            gateway, pacer = TokenBucket(), Pacer()
            pacer.use_rates(*rates)
            pacer.connected(GATEWAY_LATER)
            gateway.set_limit(RateLimit.from_rates(*rates), lag)
            now = 0.0
            while now < 120.0:
                now += random.exponential(sum(rates)) / 1000
                token = not pacer.wait(now)
                if not token:
                    pacer.overdrawn(now)
                allowed = gateway.allow(max(now, lag))
                self.assertTrue(allowed or not token)
                paid += token
                dropped_decoys += not allowed
        # Neither a limit that never bites nor one that leaves nothing for applications would show anything.
        self.assertGreater(dropped_decoys, 100)
        self.assertGreater(paid, 0.7 * 200 * 120 * 1.5)
