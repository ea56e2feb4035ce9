"""Links: the session core on a Twisted transport, the same for listeners, diallers, gateways and authorities.

A :class:`LinkProtocol` moves bytes, runs handshake steps in the workers, keeps one timer, and tells an
:class:`ILinkOwner` what happened. Who the peer may be and what commands mean is the owner's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from katzentwist.errors import HandshakeError, WireError
from katzentwist.net import tcp
from katzentwist.net.bursts import Sink
from katzentwist.net.direct import Direct
from katzentwist.net.limits import HalfOpen, HandshakeLimits
from katzentwist.net.owner import Context, ILink, ILinkOwner
from katzentwist.wire import (
    Command,
    CommandReceived,
    Established,
    Event,
    PacketsReceived,
    PeerCredentials,
    Phase,
    Session,
    SessionConfig,
    SessionKind,
    Step,
)
from katzentwist.wire.legal import Accepted

WRITE_TIMEOUT = 60.0
"""Seconds in which a peer must take what is being sent (spec: link 11.2)."""
CLOSE_GRACE = 5.0
"""Seconds that a closed link gets to send what is in its buffer."""


@implementer(ILink, IPushProducer)
class LinkProtocol(Protocol):
    """One connection. Made by :class:`katzentwist.net.LinkFactory` or :func:`katzentwist.net.dial`."""

    log = Logger()
    transport: Any

    def __init__(
        self,
        context: Context,
        config: SessionConfig,
        owner: ILinkOwner,
        *,
        initiator: bool,
        limits: HandshakeLimits | None = None,
        keepalive: int = tcp.NODE_KEEPALIVE,
        write_timeout: float = WRITE_TIMEOUT,
    ) -> None:
        self.initiator = initiator
        self.established = False
        self.writable = True
        self.remote_address = ""
        self._context = context
        self._config = config
        self._owner = owner
        self._limits = limits
        self._half_open: HalfOpen | None = None
        self._keepalive = keepalive
        self._write_timeout = write_timeout
        self._began = 0.0
        self._session: Session
        self._timer: IDelayedCall | None = None
        self._timer_at = 0.0
        self._write_timer: IDelayedCall | None = None
        self._close_timer: IDelayedCall | None = None
        self._reason: Exception | None = None
        self._closing = False
        self._holds = 0
        self._paused = False
        self._direct: Direct | None = None
        """The native core's hands on the socket, where it may have them."""
        self._full = False
        """Whether the transport's buffer is."""
        self._sending = False
        """Whether the next piece of a document waits for its turn."""
        self._sink: Sink | None = None

    # For the owner

    @property
    def stage(self) -> str:
        """See ILink."""
        return self._session.stage

    @property
    def age(self) -> float:
        """See ILink."""
        return self._context.reactor.seconds() - self._began

    @property
    def peer(self) -> PeerCredentials | None:
        """See ILink."""
        return self._session.peer

    @property
    def accepts(self) -> Accepted | None:
        """See ILink."""
        return self._session.accepts

    @accepts.setter
    def accepts(self, accepted: Accepted | None) -> None:
        self._session.accepts = accepted

    @property
    def sender(self) -> Any:
        """See ILink."""
        return None if self._direct is None else self._direct.sender

    def send(self, command: Command) -> bool:
        """See ILink."""
        if self._closing or not self._session.is_open:
            return False
        self._session.send(command)
        self._flush()
        return True

    def sendPackets(self, packets: list[bytes]) -> bool:
        """See ILink."""
        direct, transport = self._direct, self.transport
        if direct is not None and self.writable and not (transport.dataBuffer or transport._tempDataBuffer):
            direct.sender.open = True
            direct.sender.send(packets)
            return True
        if self._closing or not self._session.is_open:
            return False
        self._session.send_packets(packets)
        self._flush()
        return True

    def passOn(self, sink: Sink | None) -> None:
        """See ILink."""
        self._sink = sink
        if self._direct is not None:
            self._direct.pass_on(sink)

    def pause(self) -> None:
        """See ILink."""
        if not self._paused:
            self._paused = True
            self._hold()

    def resume(self) -> None:
        """See ILink."""
        if self._paused:
            self._paused = False
            self._release()

    def close(self) -> None:
        """See ILink."""
        self._disconnect(WireError("closed by us"))

    # Twisted's side

    def connectionMade(self) -> None:
        """Start the handshake."""
        context = self._context
        self._began = context.reactor.seconds()
        peer = self.transport.getPeer()
        self.remote_address = str(getattr(peer, "host", ""))
        tcp.tune(self.transport, self._keepalive)
        self._session = Session(
            self._config,
            initiator=self.initiator,
            random=context.random,
            unix_time=context.clock.wallclock,
            now=self._began,
        )
        self.transport.registerProducer(self, True)
        if self._limits is not None:
            self._half_open = self._limits.enter(self.remote_address, self._evicted)
        self._feed(self._session.start)

    def dataReceived(self, data: bytes) -> None:
        """Bytes of the peer, where Twisted reads them: in the handshake, and on transports other than TCP."""
        if self.established:
            self._feed(self._session.receive, data, self._context.reactor.seconds())
        else:
            self._hold()
            self._context.turns.add(self._handshake, self._session.receive, data)

    # Reading

    def _hold(self) -> None:
        """Read nothing until :meth:`_release` was called as often."""
        self._holds += 1
        if self._direct is not None and self._direct.reading:
            self._direct.stop_reading()
        elif self._holds == 1:
            self.transport.pauseProducing()

    def _release(self) -> None:
        self._holds -= 1
        if self._holds == 0 and not self._closing and (self._direct is None or not self._direct.read(self._sink)):
            self.transport.resumeProducing()

    def burst(self, packets: list[bytes], rest: Sequence[bytes] | str | None, now: float) -> None:
        """See bursts.Reader."""
        direct = self._direct
        if direct is None:  # it was closed since it was read, by what another link brought
            return
        if packets:
            direct.heard = now
            self._came(packets)
        if rest is None:
            direct.stop_reading()
            self.transport.resumeProducing()
        elif rest:
            self._feed(self._session.opened, rest, now)

    def _came(self, packets: list[bytes]) -> None:
        if self._sink is not None:
            self._sink(packets)
        else:
            self._owner.packetsReceived(self, packets)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the owner, once."""
        self._end_direct()
        self._session.close()
        self._leave_limits()
        for timer in (self._timer, self._write_timer, self._close_timer):
            if timer is not None and timer.active():
                timer.cancel()
        self._timer = self._write_timer = self._close_timer = None
        self._closing = True
        lost = reason.value if isinstance(reason.value, Exception) else WireError("connection lost")
        self._owner.closed(self, self._reason or lost)

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self.writable, self._full = False, True
        if self._write_timer is None:
            self._write_timer = self._context.reactor.callLater(self._write_timeout, self._write_timed_out)

    def resumeProducing(self) -> None:
        """There is room again."""
        self._full = False
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        self._send_on()

    def stopProducing(self) -> None:
        """The transport is going away; connectionLost follows."""

    # Events

    def _feed(self, turn: Callable[..., list[Event]], *args: Any) -> None:
        """Run the session one step further and deliver what happened."""
        if self._closing:
            return
        try:
            events = turn(*args)
        except WireError as error:
            self._flush()
            # Its frames hold this link, and what it read, until everything is looked at for garbage.
            self._disconnect(error.with_traceback(None))
            return
        for event in events:
            if self._closing:
                return
            self._deliver(event)
        self._flush()
        self._arm()

    def _deliver(self, event: Event) -> None:
        match event:
            case PacketsReceived():
                self._came(event.packets)
            case CommandReceived():
                self._owner.commandReceived(self, event.command)
            case Established():
                self.established = True
                if self._config.kind is SessionKind.MIXNET:
                    self._direct = Direct.of(self._context.bursts, self.transport, self._session, self)
                self._leave_limits()
                self._flush()
                self._owner.established(self)
            case PeerCredentials():
                self._wait_for(maybeDeferred(self._owner.authenticate, self, event), self._judged)
            case Step():
                self._wait_for(self._context.workers.run(event.run), self._stepped)

    def _wait_for(self, waiting: Deferred[Any], then: Callable[[Any], None]) -> None:
        """Read nothing while something is being found out; then go on."""
        self._hold()
        waiting.addCallback(then)
        waiting.addErrback(self.failed)
        waiting.addCallback(lambda _: self._release())

    def _stepped(self, outcome: bytes | HandshakeError) -> None:
        self._hold()
        self._context.turns.add(self._handshake, self._session.step_done, outcome)

    def _handshake(self, step: Callable[..., list[Event]], what: Any) -> None:
        """A turn of the handshake."""
        try:
            self._feed(step, what, self._context.reactor.seconds())
        except Exception:
            self.failed(Failure())
        self._release()

    def _judged(self, accepted: bool) -> None:
        if self._session.phase is Phase.JUDGING:
            self._feed(self._session.accept if accepted else self._session.refuse)

    def failed(self, failure: Failure) -> None:
        """See bursts.Reader."""
        self.log.failure("A link failed because of an error of ours", failure)
        self._disconnect(WireError("internal error"))

    # Output, timers, the end

    def _flush(self) -> None:
        data = self._session.data_to_send()
        if data:
            if self._direct is not None:
                self._direct.sender.open = False  # until sendPackets() finds that all of it was written
            tcp.write(self.transport, data)
        if self._session.has_more:
            self.writable = False
            self._send_on()

    def _end_direct(self) -> None:
        if self._direct is not None:
            self._direct.end()
            self._direct = None

    def _send_on(self) -> None:
        """There may be room: for the next piece of a document, or for whatever the owner has."""
        if self._sending or self._full:
            return
        if self._session.has_more:
            self._sending = True
            self._context.turns.add(self._send_piece)
        elif not self._closing:
            self.writable = True
            if self.established:
                self._owner.writable(self)
        elif self._session.is_open:
            self._hang_up()

    def _send_piece(self) -> None:
        self._sending = False
        data = self._session.data_to_send()
        if data:
            tcp.write(self.transport, data)
            self._send_on()

    def _arm(self) -> None:
        """Keep one timer; one that is early only looks again, so that traffic does not move it each time."""
        deadline = self._session.next_deadline()
        if deadline is None or (self._timer is not None and deadline >= self._timer_at):
            return
        self._timer_at = deadline
        delay = max(0.0, deadline - self._context.reactor.seconds())
        if self._timer is None:
            self._timer = self._context.reactor.callLater(delay, self._timed)
        else:
            self._timer.reset(delay)

    def _timed(self) -> None:
        """Thousands of links that were made in the same second are timed in the same one."""
        self._timer = None
        self._context.turns.add(self._look_at_clock)

    def _look_at_clock(self) -> None:
        if self._direct is not None:
            self._direct.note_heard()
            self._session.heard(self._direct.heard)
        self._feed(self._session.handle_deadline, self._context.reactor.seconds())

    def _write_timed_out(self) -> None:
        self._write_timer = None
        self._disconnect(WireError("the peer does not read"))
        self._abort()

    def _evicted(self) -> None:
        self._disconnect(HandshakeError("too many handshakes at once"))
        self._abort()

    def _disconnect(self, reason: Exception) -> None:
        if self._closing:
            return
        self._closing = True
        self._end_direct()
        self._reason = reason
        self._leave_limits()
        self._close_timer = self._context.reactor.callLater(CLOSE_GRACE, self._abort)
        if not self._session.has_more:
            self._hang_up()

    def _hang_up(self) -> None:
        self._session.close()
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _abort(self) -> None:
        if self._close_timer is not None and self._close_timer.active():
            self._close_timer.cancel()
        self.transport.abortConnection()

    def _leave_limits(self) -> None:
        if self._half_open is not None and self._limits is not None:
            self._limits.leave(self._half_open)
            self._half_open = None
