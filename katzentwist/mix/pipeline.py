"""From the link to a decision: packets wait here for a Sphinx worker, are unwrapped in batches, and leave sorted.

A packet enters by :meth:`Pipeline.intake`. Batches are as large as what waits, up to :data:`BATCH`; each is one native
call without the interpreter lock, in a worker thread or, when there are few, on the spot (spec: node 4.1 to 4.5).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from twisted.python.failure import Failure

from katzentwist.config.halves import Kind as NodeKind
from katzentwist.logger import ModuleLogger
from katzentwist.mix.drops import DropReason, drop
from katzentwist.mix.ends import EndedPacket
from katzentwist.mix.mixkeys import MixKey, MixKeys
from katzentwist.mix.route import Fate, forward_delay, route
from katzentwist.net.workers import SynchronousWorkers
from katzentwist.node.runtime import Runtime
from katzentwist.sphinx import BatchResult, Kind, unwrap_batch

BATCH: Final = 64
"""Most packets per native call: at 60 us each a thread is busy for 4 ms, so batches delay each other little."""
INLINE: Final = 32
"""So many packets, 1.4 ms of work, are unwrapped on the spot in one turn: waking a thread, and being woken by it, costs
more than it frees while the reactor has time, and nothing else waits for it."""
SHARE: Final = 0.85
"""Of the reactor's time, what packets may take before threads unwrap them."""
SAVED: Final = 0.003
"""Seconds of it that may be left from a quiet time."""
AROUND: Final = 12e-6
"""Seconds of the reactor that a packet takes besides: to be read, to wait, to be sent."""
INBOUND_LIMIT: Final = 8192
"""Packets that wait for a worker, 25 MB of them, from which links are not read on until half of them are gone."""

HERE: Final = SynchronousWorkers()

_Waiting = tuple[float, bool, list[bytes]]
"""(arrival, from a client, packets)."""
_FORWARD: Final = int(Kind.FORWARD)
_FAILED: Final = frozenset({int(Kind.INVALID), int(Kind.REDUNDANT)})


class _Spare:
    """Time that the reactor has for packets: SHARE of what passes, and no more than SAVED of it saved up."""

    def __init__(self) -> None:
        self._left, self._seen = SAVED, 0.0

    def some(self, now: float) -> bool:
        """Whether there is any."""
        self._left = min(SAVED, self._left + SHARE * (now - self._seen))
        self._seen = now
        return self._left > 0

    def use(self, seconds: float) -> None:
        """Take it; there may be less than nothing then."""
        self._left -= seconds


class Pipeline:
    """The intake of one half.

    :param schedule: ``(delay in seconds, next hop, packet, now)`` for a forward packet.
    :param deliver: takes a packet that ends here.
    :param decoy: takes ``(surb id, payload)`` of a reply to this half's own decoys.
    :ivar drained: called when there is room again after :attr:`full` was true.
    """

    log = ModuleLogger("crypto")

    def __init__(
        self,
        runtime: Runtime,
        kind: NodeKind,
        keys: MixKeys,
        decoy_id: bytes,
        *,
        schedule: Callable[[float, bytes, bytes, float], None],
        deliver: Callable[[EndedPacket], None],
        decoy: Callable[[bytes, bytes], None],
        after_batch: Callable[[], None],
    ) -> None:
        self._runtime, self._kind, self._keys, self._decoy_id = runtime, kind, keys, decoy_id
        self._schedule, self._deliver, self._decoy, self._after_batch = schedule, deliver, decoy, after_batch
        self._unwraps = runtime.metrics.series("sphinx_unwraps_total")
        self._waiting: deque[_Waiting] = deque()
        self._count = 0
        self._busy = 0
        self._spare = _Spare()
        self._looking = self._closed = False
        self.full = False
        self.drained: Callable[[], None] = lambda: None
        self._patience = runtime.debug.unwrap_delay / 1000
        self._period = runtime.epochs.period

    def __len__(self) -> int:
        """Packets that wait for a worker."""
        return self._count

    def intake(self, packets: list[bytes], from_client: bool) -> None:
        """Take packets of the right length. If :attr:`full` is true then, the caller should stop reading a while."""
        self._waiting.append((self._runtime.clock.monotonic(), from_client, packets))
        self._count += len(packets)
        self.full = self.full or self._count >= INBOUND_LIMIT
        self._look_soon()

    def _look_soon(self) -> None:
        if not self._looking:
            # At the end of this turn, so that what other links brought in it goes into the same batch.
            self._looking = True
            self._runtime.reactor.callLater(0, self._look)

    def _look(self) -> None:
        self._looking = False
        self._work()

    def _work(self) -> None:
        """Unwrap a few waiting packets, or give all to idle workers."""
        while self._waiting and self._busy < self._runtime.debug.num_sphinx_workers:
            now = self._runtime.clock.monotonic()
            here = not self._busy and not self._runtime.context.turns.pending and self._spare.some(now)
            arrivals, packets = self._take(now, INLINE if here else BATCH)
            if not packets:
                continue
            keys = self._keys.candidates(self._runtime.epoch()[0])
            if not keys:
                drop(self._runtime.metrics, DropReason.UNWRAP_FAILED, len(packets))
                continue
            self._busy += 1
            (HERE if here else self._runtime.workers).submit(
                unwrap_batch,
                ([k.private for k in keys], packets, self._runtime.geometry),
                partial(self._finished, arrivals, keys, now, here),
            )
            self._spare.use(AROUND * len(packets))
            if here:
                self._spare.use(self._runtime.clock.monotonic() - now)
                if self._waiting:
                    self._look_soon()
                break
        if self.full and self._count <= INBOUND_LIMIT // 2:
            self.full = False
            self.drained()

    def _take(self, now: float, most: int) -> tuple[list[tuple[float, bool]], list[bytes]]:
        """The next batch, with (arrival, from a client) for each packet; those that waited too long are dropped."""
        arrivals: list[tuple[float, bool]] = []
        packets: list[bytes] = []
        while self._waiting and len(packets) < most:
            arrival, from_client, group = self._waiting.popleft()
            if now - arrival > self._patience:
                drop(self._runtime.metrics, DropReason.UNWRAP_DWELL_EXCEEDED, len(group))
                self._count -= len(group)
                continue
            room = most - len(packets)
            if len(group) > room:
                self._waiting.appendleft((arrival, from_client, group[room:]))
                group = group[:room]
            self._count -= len(group)
            packets += group
            arrivals += [(arrival, from_client)] * len(group)
        return arrivals, packets

    def _finished(
        self,
        arrivals: list[tuple[float, bool]],
        keys: list[MixKey],
        began: float,
        here: bool,
        results: list[BatchResult] | Failure,
    ) -> None:
        self._busy -= 1
        if self._closed:
            drop(self._runtime.metrics, DropReason.SHUTDOWN, len(arrivals))
            return
        try:
            if isinstance(results, Failure):
                drop(self._runtime.metrics, DropReason.UNWRAP_FAILED, len(arrivals))
                self.log.failure("unwrapping failed because of an error of ours", failure=results)
            else:
                self._unwrapped(results, arrivals, keys, began)
        finally:
            if not here:
                self._work()

    def _unwrapped(
        self, results: list[BatchResult], arrivals: list[tuple[float, bool]], keys: list[MixKey], began: float
    ) -> None:
        replayed = self._replays(results, keys)
        passes = self._kind is not NodeKind.SERVICE
        for result, (arrival, from_client), again in zip(results, arrivals, replayed, strict=True):
            if again:
                continue
            kind = result[2]
            if kind == _FORWARD and passes:
                delay = forward_delay(result[4], began - arrival, self._period)  # type: ignore[arg-type]
                if isinstance(delay, DropReason):
                    drop(self._runtime.metrics, delay)
                else:
                    # From when its batch began: that others were unwrapped with it must not delay it.
                    self._schedule(delay, result[3], result[5], began)  # type: ignore[arg-type]
            else:
                self._end(Kind(kind), result, arrival, from_client, began)
        self._after_batch()

    def _replays(self, results: list[BatchResult], keys: list[MixKey]) -> list[bool]:
        """For each result, whether it is not to be processed: a replay, or counted as failed already."""
        metrics = self._runtime.metrics
        out = [True] * len(results)
        unwrapped = 0
        for number, key in enumerate(keys):
            places = [at for at, result in enumerate(results) if result[0] == number and result[2] not in _FAILED]
            if places:
                unwrapped += len(places)
                for at, again in zip(places, key.seen.test_and_set([results[at][1] for at in places]), strict=True):  # type: ignore[misc]
                    out[at] = again
        refused = sum(out)
        if refused:
            drop(metrics, DropReason.UNWRAP_FAILED, refused)
            if replays := refused - (len(results) - unwrapped):
                metrics.count("replayed_packets_total", replays)
        self._unwraps.amount += len(results) - refused
        return out

    def _end(self, kind: Kind, result: BatchResult, arrival: float, from_client: bool, began: float) -> None:
        """A packet that is not to be forwarded."""
        _, _, _, a, b, payload = result
        recipient = a if isinstance(a, bytes) and kind in (Kind.TO_USER, Kind.SURB_REPLY) else None
        fate = route(
            self._kind,
            kind,
            has_payload=kind is not Kind.FORWARD and payload is not None,
            recipient=recipient,
            from_client=from_client,
            decoy_id=self._decoy_id,
        )
        if isinstance(fate, DropReason):
            drop(self._runtime.metrics, fate)
        elif payload is None or recipient is None:
            drop(self._runtime.metrics, DropReason.INVALID_PACKET)
        elif fate is Fate.DECOY:
            self._decoy(b if isinstance(b, bytes) else b"", payload)
        else:
            self._deliver(
                EndedPacket(
                    kind=kind,
                    recipient=recipient,
                    delay_ms=b if isinstance(b, int) else 0,
                    surb_id=b if isinstance(b, bytes) else None,
                    payload=payload,
                    arrived=arrival,
                    began=began,
                )
            )

    def close(self) -> None:
        """Drop what waits, and what is being unwrapped when it comes back."""
        self._closed = True
        if self._count:
            drop(self._runtime.metrics, DropReason.SHUTDOWN, self._count)
        self._waiting.clear()
        self._count = 0
