"""Mixing as it leaves a running mix: how long packets really stay (spec: sphinx 14.2, node 4.5 and 4.6).

A mix of a whole network in memory gets packets over its link, and hands them on; the clock is a fake. With 100,000
packets the layers are not opened by cryptography, which would take half a minute: the mix is told what is in them.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.mix import pipeline
from katzentwist.randomness import SeededRandom
from katzentwist.sphinx import Kind, build, choose_path, delay_cap, sample_delay

from ..unit.test_decoy import ks_probability
from .clientnet import EPOCHS, GEOMETRY
from .nodenet import ECHO, PARAMETERS, FakeNode, NodeNet

MU = PARAMETERS.mu
SERIAL, DELAY = slice(0, 8), slice(8, 16)
"""Where a packet that is no Sphinx packet says its number and its delay in ms."""
Delays = dict[bytes, int]


class DistributionTests(SynchronousTestCase):
    """A mix of the first layer, between the gateway and the second layer."""

    def setUp(self) -> None:
        """The network is up; what the mix hands to its links is kept, with the moment."""
        self.net = NodeNet(Path(self.mktemp()), self.id())
        self.net.start()
        self.net.run(20)
        self.addCleanup(self.net.stop)
        document = self.net.document()
        self.mix: FakeNode = next(n for n in self.net.mixes if document.find(n.identity.id).layer == 0)
        self.next_hop: bytes = next(n for n in self.net.mixes if document.find(n.identity.id).layer == 1).identity.id
        self.left: dict[bytes, float] = {}
        self.patch(self.mix.half.connector, "send", self._leave)

    def _leave(self, due: Mapping[bytes, list[bytes]], now: float) -> None:
        self.assertLessEqual(set(due), {self.next_hop})
        for packet in due.get(self.next_hop, []):
            self.left[packet[SERIAL]] = self.net.reactor.seconds()

    def plain(self) -> None:
        """From now on packets carry their delay in plain text."""

        def open_layers(keys: list[bytes], packets: list[bytes], geometry: Any) -> list[pipeline.BatchResult]:
            return [
                (0, p[SERIAL] * 4, Kind.FORWARD, self.next_hop, int.from_bytes(p[DELAY], "big"), p) for p in packets
            ]

        self.patch(pipeline, "unwrap_batch", open_layers)

    def arrive(self, packets: list[bytes]) -> None:
        """Over the link from the gateway."""
        now = self.net.reactor.seconds()
        self.net.gateway.half.connector.send({self.mix.identity.id: packets}, now)
        self.net.run(0)

    def mixed(self, seed: int, count: int, each: int = 64) -> tuple[Delays, dict[bytes, float]]:
        """Delays that senders drew, and when the packets came; *each* come every ms."""
        random = SeededRandom(seed)
        drawn: Delays = {}
        came: dict[bytes, float] = {}
        while len(drawn) < count:
            packets = []
            for number in range(len(drawn), min(count, len(drawn) + each)):
                serial, delay = (seed << 20 | number).to_bytes(8, "big"), sample_delay(MU, random)
                drawn[serial], came[serial] = delay, self.net.reactor.seconds()
                packets.append((serial + delay.to_bytes(8, "big")).ljust(GEOMETRY.packet_length, b"\0"))
            self.arrive(packets)
            self.net.run(0.001)
        return drawn, came

    def probability(self, stays: list[float], seed: int) -> float:
        """That of these stays in s: whole ms, from 1 to the cap, exponential before they were rounded."""
        random, samples = SeededRandom(seed + 1), []
        for stay in stays:
            whole = round(stay * 1000)
            self.assertAlmostEqual(stay * 1000, whole, places=3)
            self.assertTrue(1 <= whole <= delay_cap(MU))
            # The fraction that floor() took away is distributed independently of the whole part: put one back.
            samples.append(whole - 1 - math.log(1 - random.uniform() * (1 - math.exp(-MU))) / MU)
        return ks_probability(samples, lambda x: 1 - math.exp(-MU * x))

    def test_delays(self) -> None:
        """100,000 packets stay as long as the specified distribution says, by a Kolmogorov-Smirnov test (p > 0.01).

        One good run in a hundred fails such a test, so a second seed decides then.
        """
        self.plain()
        for seed in (secrets.randbits(32), secrets.randbits(32)):
            self.left.clear()
            drawn, came = self.mixed(seed, 100_000)
            self.net.run(delay_cap(MU) / 1000)
            self.assertEqual(self.mix.drops(), {})
            self.assertEqual(self.left.keys(), drawn.keys())
            stays = [self.left[serial] - came[serial] for serial in drawn]
            p = self.probability(stays, seed)
            print(f"seed {seed}: p = {p:.3f}")
            if p > 0.01:
                return
        self.fail("not the distribution that is specified")

    def test_whole_packets(self) -> None:
        """3,000 real packets, opened by the mix: each leaves its layer's delay after it came, exactly."""
        random = SeededRandom(7)
        document, paths, gone = self.net.document(), [], {}
        self.patch(
            self.mix.half.connector, "send", lambda due, now: gone.update(dict.fromkeys(chain(*due.values()), now))
        )
        for _ in range(60):
            packets = []
            for _ in range(50):
                path = choose_path(
                    document, self.net.gateway.identity.id, self.net.service.identity.id, ECHO.encode(),
                    base_time=int(self.net.clock.wallclock() * 1000), epochs=EPOCHS, random=random,
                )  # fmt: skip
                packets.append(build(path.hops[:2], bytes(GEOMETRY.forward_payload_length), GEOMETRY, random))
                paths.append((path.hops[0].commands[0].delay, self.net.reactor.seconds()))
            self.arrive(packets)
            self.net.run(0.02)
        self.net.run(delay_cap(MU) / 1000)
        self.assertEqual(self.mix.drops(), {})
        due = sorted(came + delay / 1000 for delay, came in paths)
        self.assertEqual([round(t, 6) for t in sorted(gone.values())], [round(t, 6) for t in due])
        self.assertGreater(self.probability([delay / 1000 for delay, _ in paths], 7), 0.001)

    def test_late(self) -> None:
        """After a stand-still what is later than the slack is dropped and counted; nothing leaves late beyond it."""
        self.plain()
        drawn, came = self.mixed(11, 5_000)
        due = {serial: came[serial] + drawn[serial] / 1000 for serial in drawn}
        slack, before = self.mix.runtime.debug.scheduler_slack / 1000, self.net.reactor.seconds()
        self.net.reactor.advance(0.7)
        self.net.run(delay_cap(MU) / 1000)
        late = {serial for serial, t in due.items() if before < t < before + 0.7 - slack}
        self.assertGreater(len(late), 1000)
        self.assertEqual(drawn.keys() - self.left.keys(), late)
        self.assertEqual(self.mix.drops(), {"scheduler_deadline_blown": len(late)})
        self.assertLessEqual(max(self.left[s] - due[s] for s in self.left), slack)
