"""Loop decoys of a node: when, along which path, and what became of them (spec: node 8).

:class:`DecoyCore` decides and remembers, sans-IO; :class:`DecoySource` has the timer and sends. A loop goes from this
half to an echo service and back by a SURB to the half's own decoy id.

=========  ====  ==========================================
SURB id    size  content
=========  ====  ==========================================
base       8     Unix time of the start, big-endian
random     8     one of this loop
=========  ====  ==========================================
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import attrs
from twisted.python.failure import Failure

from katzentwist.clock import Epochs
from katzentwist.config.halves import Kind
from katzentwist.errors import SphinxError
from katzentwist.logger import ModuleLogger
from katzentwist.mix.drops import DropReason, drop
from katzentwist.node.runtime import Runtime
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import Document
from katzentwist.pki.upload import LoopStats
from katzentwist.randomness import IRandom
from katzentwist.sphinx import (
    Geometry,
    Path,
    build,
    build_block,
    choose_path,
    decrypt_reply,
    delay_cap,
    new_surb,
)

SERVICE: Final = "echo"
ATTEMPTS: Final = 3
KEPT: Final = 7
"""Epochs of statistics."""
BASE_SIZE: Final = 8
MAKING: Final = 64
"""Most loops that are being made at once: 12 ms of work. A processor that can not keep up with the rate leaves some
out."""


@attrs.frozen
class Plan:
    """A loop that may be sent: both paths, its SURB id, and how long it should take in ms."""

    forward: Path
    reply: Path
    surb_id: bytes
    duration: int

    def segments(self) -> Iterator[bytes]:
        """Ids of two consecutive hops each; the place where forward and reply path meet is none."""
        for path in (self.forward, self.reply):
            for one, next_one in zip(path.hops, path.hops[1:], strict=False):
                yield one.id + next_one.id


@attrs.frozen
class _Loop:
    keys: bytes = attrs.field(repr=False)
    eta: float
    segments: tuple[bytes, ...]


@attrs.define
class _Epoch:
    sent: Counter[bytes] = attrs.field(factory=Counter)
    completed: Counter[bytes] = attrs.field(factory=Counter)


class DecoyCore:
    """The decoys of one half. Monotonic times in seconds, wall times in Unix seconds.

    :param started: wall time of the start.
    :param slack: seconds past the expected arrival until a loop counts as lost.
    """

    def __init__(
        self,
        *,
        kind: Kind,
        node: bytes,
        decoy_id: bytes,
        started: float,
        slack: float,
        geometry: Geometry,
        epochs: Epochs,
        random: IRandom,
    ) -> None:
        self._kind, self._node, self._decoy_id, self._slack = kind, node, decoy_id, slack
        self._geometry, self._epochs, self._random = geometry, epochs, random
        self._base = int(started).to_bytes(BASE_SIZE, "big")
        self._loops: dict[bytes, _Loop] = {}
        self._statistics: dict[int, _Epoch] = {}
        self.document: Document | None = None

    # When ----------------------------------------------------------------------------------------------------------

    @property
    def rate(self) -> float:
        """Loops per ms; 0 for none."""
        if self.document is None:
            return 0.0
        rate = self.document.lambda_g if self._kind is Kind.GATEWAY else self.document.lambda_m
        return rate if rate > 0 and math.isfinite(rate) else 0.0

    def pause(self) -> int | None:
        """Whole ms until the next loop; None while there are to be none."""
        if not self.rate:
            return None
        cap = delay_cap(self.rate)
        wake = math.floor(self._random.exponential(self.rate))
        return min(wake, cap) if cap else wake

    # Where ---------------------------------------------------------------------------------------------------------

    def plan(self, wall: float) -> Plan:
        """Draw a loop.

        :raises SphinxError: there is no document, no service or no path now.
        """
        if self.document is None:
            raise SphinxError("no document")
        service, recipient = self._service(self.document)
        base = int(wall * 1000)
        for _ in range(ATTEMPTS):
            surb_id = self._base + self._random.bytes(16 - BASE_SIZE)
            forward = choose_path(
                self.document,
                self._node,
                service.id,
                recipient,
                base_time=base,
                epochs=self._epochs,
                random=self._random,
                surb_id=surb_id,
            )
            reply = choose_path(
                self.document,
                service.id,
                self._node,
                self._decoy_id,
                base_time=forward.end_time,
                epochs=self._epochs,
                random=self._random,
                surb_id=surb_id,
                forward=False,
            )
            duration = reply.end_time - base
            if duration < 2000 * self._epochs.period:
                return Plan(forward, reply, surb_id, duration)
        raise SphinxError("all paths take too long")

    def _service(self, document: Document) -> tuple[Descriptor, bytes]:
        left = list(document.service_nodes)
        while left:
            node = left.pop(self._random.below(len(left)))
            endpoint = (node.kaetzchen or {}).get(SERVICE, {}).get("endpoint")
            if isinstance(endpoint, str) and endpoint:
                return node, endpoint.encode()
        raise SphinxError(f"no service node offers {SERVICE}")

    # What became of them -------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Loops under way."""
        return len(self._loops)

    def sent(self, plan: Plan, keys: bytes, now: float, epoch: int) -> None:
        """A loop left."""
        segments = tuple(plan.segments())
        self._loops[plan.surb_id] = _Loop(keys, now + plan.duration / 1000, segments)
        self._of(epoch).sent.update(segments)

    def reply(self, surb_id: bytes, payload: bytes, epoch: int) -> DropReason | None:
        """A packet for the decoy id came; None when it completes a loop."""
        if surb_id[:BASE_SIZE] != self._base:
            return DropReason.DECOY_INVALID_SURB_ID_BASE
        loop = self._loops.get(surb_id)
        if loop is None:
            return DropReason.DECOY_UNKNOWN_SURB_ID
        try:
            decrypt_reply(loop.keys, payload, self._geometry)
        except SphinxError:
            return DropReason.DECOY_SURB_DECRYPT_FAILED
        del self._loops[surb_id]
        self._of(epoch).completed.update(loop.segments)
        return None

    def sweep(self, now: float) -> int:
        """Forget the loops that should have been back long ago; how many."""
        lost = [i for i, loop in self._loops.items() if loop.eta + self._slack <= now]
        for surb_id in lost:
            del self._loops[surb_id]
        return len(lost)

    def _of(self, epoch: int) -> _Epoch:
        if epoch not in self._statistics:
            self._statistics[epoch] = _Epoch()
            for old in [e for e in self._statistics if e <= epoch - KEPT]:
                del self._statistics[old]
        return self._statistics[epoch]

    def report(self, epoch: int) -> LoopStats:
        """What to post with the descriptor for *epoch*: the share of loops that came back in epoch - 2, by segment."""
        seen = self._statistics.get(epoch - 2, _Epoch())
        ratios = {segment: seen.completed[segment] / count for segment, count in seen.sent.items()}
        return LoopStats(epoch=epoch, segment_ratios=ratios, mix_identity_hash=self._node)


def make_packet(plan: Plan, geometry: Geometry, random: IRandom) -> tuple[bytes, bytes]:
    """(packet, keys of the SURB in it). Pure; takes about a millisecond in native code.

    :raises SphinxError: a mix key of the document is refused.
    """
    surb, keys = new_surb(plan.reply.hops, geometry, random)
    block = build_block(bytes(geometry.user_forward_payload_length), surb, geometry)
    return build(plan.forward.hops, block, geometry, random), keys


class DecoySource:
    """Sends the loops of one half.

    :param send: ``({node: packets}, now)``, straight to the link.
    """

    log = ModuleLogger("decoy")

    def __init__(
        self,
        runtime: Runtime,
        kind: Kind,
        node: bytes,
        decoy_id: bytes,
        send: Callable[[Mapping[bytes, list[bytes]], float], None],
    ) -> None:
        self._runtime, self._send = runtime, send
        self._timer: Any = None
        self._stopped = False
        self._making = 0
        self.core = DecoyCore(
            kind=kind,
            node=node,
            decoy_id=decoy_id,
            started=runtime.clock.wallclock(),
            slack=runtime.debug.decoy_slack / 1000,
            geometry=runtime.geometry,
            epochs=runtime.epochs,
            random=runtime.random,
        )

    def use(self, document: Document | None) -> None:
        """The document of the current epoch; another one restarts the wait, None is a pause."""
        if document is self.core.document or self._stopped:
            return
        self.core.document = document
        if document is not None:
            self._runtime.metrics.count("pki_docs_per_epoch_total", epoch=str(document.epoch))
        self._cancel()
        self._wait()

    def _cancel(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _wait(self) -> None:
        pause = self.core.pause()
        if pause is not None:
            self._timer = self._runtime.reactor.callLater(pause / 1000, self._wake)

    def _wake(self) -> None:
        document = self.core.document
        if document is not None and document.epoch == self._runtime.epoch()[0]:
            self._launch()
        lost = self.core.sweep(self._runtime.clock.monotonic())
        if lost:
            self._runtime.metrics.count("decoy_loops_lost_total", lost)
            self.log.info("{count} decoy loops did not come back", count=lost)
        self._wait()

    def _launch(self) -> None:
        runtime = self._runtime
        if self._making >= MAKING:
            runtime.metrics.count("decoy_loops_left_out_total")
            return
        try:
            plan = self.core.plan(runtime.clock.wallclock())
        except SphinxError as e:
            self.log.debug("no decoy now: {why}", why=str(e))
            return
        self._making += 1
        made = runtime.workers.run(make_packet, plan, runtime.geometry, runtime.random)
        made.addBoth(self._no_longer_making)
        made.addCallback(self._made, plan)
        made.addErrback(self._failed)

    def _no_longer_making(self, result: Any) -> Any:
        self._making -= 1
        return result

    def _made(self, made: tuple[bytes, bytes], plan: Plan) -> None:
        if self._stopped:
            return
        packet, keys = made
        now = self._runtime.clock.monotonic()
        self.core.sent(plan, keys, now, self._runtime.epoch()[0])
        self._runtime.metrics.count("decoy_loops_sent_total")
        self._send({plan.forward.hops[0].id: [packet]}, now)

    def _failed(self, failure: Failure) -> None:
        if failure.check(SphinxError):
            self.log.debug("no decoy now: {why}", why=failure.getErrorMessage())
        else:
            self.log.failure("making a decoy failed because of an error of ours", failure=failure)

    def reply(self, surb_id: bytes, payload: bytes) -> None:
        """A packet for the decoy id."""
        reason = self.core.reply(surb_id, payload, self._runtime.epoch()[0])
        if reason is None:
            self._runtime.metrics.count("decoy_loops_completed_total")
        else:
            drop(self._runtime.metrics, reason)

    def stop(self) -> None:
        """No more."""
        self._stopped = True
        self._cancel()
