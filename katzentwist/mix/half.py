"""One half of a node: a mix, or the gateway or service half of a Provider (design D4).

A packet enters at :mod:`~katzentwist.mix.incoming`, is unwrapped by :mod:`~katzentwist.mix.pipeline`, waits in
:mod:`~katzentwist.mix.scheduler`, and leaves by :mod:`~katzentwist.mix.outgoing`. What ends here goes to the
:class:`~katzentwist.mix.ends.IPacketEnd` of the half.
"""

from __future__ import annotations

from typing import Any, Final

from zope.interface import implementer

from katzentwist.clock import mark
from katzentwist.config.halves import Half as HalfConfig
from katzentwist.config.halves import Kind
from katzentwist.errors import PKIError, SphinxError
from katzentwist.logger import ModuleLogger
from katzentwist.mix.decoy import DecoySource
from katzentwist.mix.drops import DropReason, drop
from katzentwist.mix.ends import EndedPacket, IClients, IPacketEnd, IReplier
from katzentwist.mix.incoming import Incoming, Listeners
from katzentwist.mix.mixkeys import MixKeys
from katzentwist.mix.outgoing import Connector
from katzentwist.mix.peers import Neighbours, Self
from katzentwist.mix.pipeline import Pipeline
from katzentwist.mix.scheduler import DelayQueue, MemoryQueue, Scheduler, delay_limit
from katzentwist.node.identity import Identity
from katzentwist.node.runtime import Runtime
from katzentwist.pki.document import SignedDocument
from katzentwist.pki.upload import LoopStats
from katzentwist.sphinx import delay_cap, reply_packet

ROUNDING: Final = 1e-6
"""What is due so soon after a mark belongs to it."""
SLICE: Final = 0.001
"""Seconds after which a half lets others have their turn, after a burst. One burst a turn would bound the rate of a
busy node."""


@implementer(IReplier)
class Half:
    """The packet path of one identity.

    :param end: takes packets that end here; None at a mix.
    :param clients: takes clients; None but at a gateway.
    :param queue: where delayed packets are kept; None means in memory.
    """

    def __init__(
        self,
        runtime: Runtime,
        config: HalfConfig,
        identity: Identity,
        keys: MixKeys,
        *,
        end: IPacketEnd | None = None,
        clients: IClients | None = None,
        queue: DelayQueue | None = None,
    ) -> None:
        self.runtime, self.config, self.identity, self.keys = runtime, config, identity, keys
        self.kind: Kind = config.kind
        self.log = ModuleLogger("scheduler").of(runtime.half)
        self._end = end
        self._timer: Any = None
        self._timer_at = 0.0
        self.decoy_id: bytes = runtime.random.bytes(32)
        self.neighbours = Neighbours(
            Self(
                kind=config.kind,
                name=config.identifier,
                id=identity.id,
                identity_key=identity.identity.public,
                link_key=identity.link.public,
            )
        )
        self.connector = Connector(runtime, identity, self.neighbours)
        self.decoys: DecoySource | None = None
        if runtime.debug.send_decoy_traffic:
            self.decoys = DecoySource(runtime, config.kind, identity.id, self.decoy_id, self.connector.send)
        if queue is None:  # an empty one counts as false
            limit = max(0, runtime.debug.scheduler_queue_size)
            queue = MemoryQueue(runtime.random, self._drop, limit, self.connector.senders)
        self.scheduler = Scheduler(
            queue=queue,
            max_delay=3 * runtime.epochs.period,
            slack=runtime.debug.scheduler_slack / 1000,
            burst=max(1, runtime.debug.scheduler_max_burst),
            hop=self.connector.hops.get,
            dropped=self._drop,
        )
        self.pipeline = Pipeline(
            runtime,
            config.kind,
            keys,
            self.decoy_id,
            schedule=self.scheduler.enqueue,
            deliver=self._deliver,
            decoy=self._decoy_reply,
            after_batch=self._batch_done,
        )
        self.incoming = Incoming(runtime, identity, self.neighbours, self.pipeline, clients)
        self.listeners = Listeners(runtime, config.listen, self.incoming)

    def _drop(self, reason: DropReason, amount: int = 1) -> None:
        drop(self.runtime.metrics, reason, amount)

    # Life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to dial and to check peers; the listeners are started apart, since they may fail."""
        self.connector.start()
        self.incoming.start()

    async def stop(self) -> None:
        """Close everything; delayed packets are lost, and counted."""
        await self.listeners.stop()
        self.incoming.stop()
        if self.decoys is not None:
            self.decoys.stop()
        self.connector.stop()
        self.pipeline.close()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if len(self.scheduler.queue):
            self._drop(DropReason.SHUTDOWN, len(self.scheduler.queue))
        self.scheduler.queue.close()

    # Documents -----------------------------------------------------------------------------------------------------

    def take_document(self, signed: SignedDocument) -> None:
        """Use a document.

        :raises PKIError: this half does not find itself in it.
        """
        try:
            self.neighbours.add(signed)
        except PKIError:
            self.runtime.metrics.count("failed_pki_cache_generation_per_epoch_total", epoch=str(signed.document.epoch))
            raise
        if self.decoys is None or signed.document.epoch != self.runtime.epoch()[0]:
            self.runtime.metrics.count("documents_ignored_total")
        self.documents_changed()

    def documents_changed(self) -> None:
        """A document came, or an epoch began."""
        now, _ = self.runtime.epoch()
        self.neighbours.forget_before(now - 2)
        self.keys.prune(now)
        view = self.neighbours.views.get(now)
        if view is not None:
            self.scheduler.max_delay = delay_limit(delay_cap(view.document.mu), self.runtime.epochs.period)
        self.connector.sweep()
        if view is not None:
            # Without the document of now nobody would pass. Links that stand may stay until it comes (spec: node 4.9),
            # or until the next reauthentication at its usual time.
            self.connector.recheck()
            self.incoming.recheck()
        if self.decoys is not None:
            self.decoys.use(view.document if view is not None else None)

    def loop_stats(self, epoch: int) -> LoopStats | None:
        """What goes with the descriptor for *epoch*; None without decoys."""
        return self.decoys.core.report(epoch) if self.decoys is not None else None

    # The scheduler's clock -----------------------------------------------------------------------------------------

    def _batch_done(self) -> None:
        """A batch of packets has joined the queue."""
        self.runtime.metrics.observe("mix_queue_size", len(self.scheduler.queue))
        self._arm()

    def _arm(self) -> None:
        """Keep one wake-up, at the first mark from when something is due: packets of one ms leave in one write."""
        due = self.scheduler.next_deadline()
        if due is None:
            return
        now = self.runtime.clock.monotonic()
        due = mark(due) if due > now else now  # else the last burst was not all
        if self._timer is not None and self._timer.active():
            if due >= self._timer_at:
                return
            self._timer.cancel()
        self._timer_at = due
        self._timer = self.runtime.reactor.callLater(max(0.0, due - now), self._wake)

    def _wake(self) -> None:
        now = woken = self.runtime.clock.monotonic()
        more = True
        while more and now - woken < SLICE:
            left, more = self.scheduler.dispatch(now + ROUNDING)
            if left:
                self.connector.send(left, now)
            now = self.runtime.clock.monotonic()
        self._arm()

    # Packets that end here -----------------------------------------------------------------------------------------

    def _deliver(self, packet: EndedPacket) -> None:
        if self._end is None:
            self._drop(DropReason.MIX_RECEIVED_NON_FORWARD)
        else:
            self._end.deliver(self, packet)

    def _decoy_reply(self, surb_id: bytes, payload: bytes) -> None:
        if self.decoys is None:
            self._drop(DropReason.DECOY_UNKNOWN_SURB_ID)
        else:
            self.decoys.reply(surb_id, payload)

    def reply(self, surb: bytes, payload: bytes, delay: float) -> None:
        """Send *payload* by *surb* after *delay* seconds."""
        try:
            packet, first_hop = reply_packet(surb, payload, self.runtime.geometry)
        except SphinxError as e:
            self.log.debug("reply dropped: {why}", why=str(e))
            self._drop(DropReason.INVALID_PACKET)
            return
        self.scheduler.enqueue(max(0.0, delay), first_hop, packet, self.runtime.clock.monotonic())
        self._arm()
