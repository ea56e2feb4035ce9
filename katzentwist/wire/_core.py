"""One link session without sockets, threads or clocks: handshake, records, commands, time-outs (spec: link 5 to 9).

Bytes go in by :meth:`Session.receive`, come out by :meth:`Session.data_to_send`; everything that happened is in the
returned events. KEM operations are handed out as :class:`~katzentwist.wire.events.Step` events, so that the owner can
run them off the reactor.

========== =========================================  ==========================================
phase      waits for                                  then
========== =========================================  ==========================================
NEW        ``start`` (initiator)                      COMPUTING
READING    a handshake message                        COMPUTING
COMPUTING  ``step_done``                              READING, JUDGING, FIRST or OPEN
JUDGING    ``accept`` or ``refuse``                   COMPUTING, or DEAD
FIRST      the first record, a NoOp (initiator)       OPEN
OPEN       commands, in both directions
DEAD       nothing, ever
========== =========================================  ==========================================

Any mistake of the peer raises HandshakeError or CommandError, and a deadline that passes raises too; the session is
DEAD from then on and has nothing more to send.

A large document is sealed as it is sent: see :mod:`katzentwist.wire.outbox`.

Memory: until the peer is accepted a session buffers less than one handshake message; the initiator may hold
:data:`MAX_AHEAD` bytes behind message 4. After that the bound is ``max_command`` plus what one ``receive`` brings.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from katzentwist.errors import AuthenticationError, CommandError, CryptoError, HandshakeError, WireError
from katzentwist.randomness import IRandom
from katzentwist.wire import commands, noise, records
from katzentwist.wire.commands import Command, SessionKind
from katzentwist.wire.config import SessionConfig
from katzentwist.wire.events import CommandReceived, Established, Event, PacketsReceived, PeerCredentials, Step
from katzentwist.wire.outbox import LARGE, Outbox

MAX_AHEAD = 1 << 17
"""What an initiator buffers behind message 4 while that message is being checked. Stops a flood before it is."""


class Phase(enum.Enum):
    """See the module's table."""

    NEW = "new"
    READING = "reading"
    COMPUTING = "computing"
    JUDGING = "judging"
    FIRST = "first"
    OPEN = "open"
    DEAD = "dead"


class Session:
    """One session.

    :param initiator: whether we dialled.
    :param unix_time: wall time in seconds; read once, for message 2.
    :param now: monotonic time in seconds, as in all methods; the handshake's deadline counts from here.
    :ivar accepts: commands that the peer may send; the owner may set it once it knows who the peer is.
    :ivar peer: the peer's credentials, once known.
    :ivar stage: where the handshake ended that did not succeed, by the names of the metrics (spec: node 10).
    """

    def __init__(
        self,
        config: SessionConfig,
        *,
        initiator: bool,
        random: IRandom,
        unix_time: Callable[[], float],
        now: float,
    ) -> None:
        self.initiator = initiator
        self.accepts = config.accepts
        self.peer: PeerCredentials | None = None
        self.stage = ""
        self._config = config
        self._unix_time = unix_time
        self._handshake = noise.Handshake(config.kem, config.private, config.public, random)
        self._phase = Phase.NEW if initiator else Phase.READING
        self._number = 1
        self._buffer = bytearray()
        self._out = Outbox()
        self._deadline: float | None = now + config.handshake_timeout
        self._opener: Any = None  # of the native core or its twin
        self._packet_header = b"\x02\0" + config.sizes.packet_length.to_bytes(4, "big")

    @property
    def phase(self) -> Phase:
        """Where the session stands."""
        return self._phase

    @property
    def is_open(self) -> bool:
        """Whether commands may be sent."""
        return self._phase is Phase.OPEN

    def start(self) -> list[Event]:
        """Begin; a Step for the initiator, nothing for the responder."""
        if not self.initiator and self._phase is Phase.READING:
            return []
        self._require(Phase.NEW)
        return self._compute(self._handshake.write_1)

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Bytes from the peer. A dead session ignores them.

        :raises HandshakeError: the handshake is wrong.
        :raises CommandError: a record or command is wrong, or not legal here.
        """
        match self._phase:
            case Phase.DEAD:
                return []
            case Phase.OPEN | Phase.FIRST:
                return self._receive_records(data, now)
            case Phase.READING:
                return self._receive_handshake(data)
            case Phase.COMPUTING if self.initiator and self._number == 4:
                self._buffer += data
                if len(self._buffer) > MAX_AHEAD:
                    self._die(HandshakeError("too much data behind the handshake"))
                return []
            case _:
                return self._die(HandshakeError("data out of turn"))

    def step_done(self, outcome: bytes | HandshakeError, now: float) -> list[Event]:
        """The outcome of the Step that was handed out.

        :raises HandshakeError: the step refused what the peer sent.
        """
        if self._phase is Phase.DEAD:
            return []
        self._require(Phase.COMPUTING)
        if isinstance(outcome, HandshakeError):
            self._die(outcome)
        return self._after_initiator(outcome, now) if self.initiator else self._after_responder(outcome, now)

    def accept(self) -> list[Event]:
        """The peer is who it should be: go on."""
        self._require(Phase.JUDGING)
        if self.initiator:
            auth = noise.encode_auth(self._config.additional_data, 0)
            return self._compute(lambda: self._handshake.write_3(auth))
        return self._compute(self._handshake.write_4)

    def refuse(self) -> NoReturn:
        """The peer is someone else: nothing more is sent.

        :raises AuthenticationError: always.
        """
        self._require(Phase.JUDGING)
        self._die(AuthenticationError("peer refused"))

    def send(self, command: Command) -> None:
        """Queue a command for :meth:`data_to_send`.

        :raises WireError: the session is not open.
        :raises CommandError: the command does not fit this kind of session.
        """
        self._require(Phase.OPEN)
        if isinstance(command, commands.Consensus) and len(command.payload) >= LARGE:
            self._out.add_document(*commands.encode_split(command))
        else:
            self._out.add_command(commands.encode(command, self._config.kind, self._config.sizes))

    def send_packets(self, packets: Sequence[bytes]) -> None:
        """Queue a SendPacket for each packet, all sealed at once.

        :raises WireError: the session is not open.
        :raises CommandError: a packet does not have PL bytes, or this is no mixnet session.
        """
        self._require(Phase.OPEN)
        length = self._packet_length()
        for packet in packets:
            if len(packet) != length:
                raise CommandError("not a packet of this network, or not a mixnet session")
        self._out.add_packets(packets, self._config.sizes.up)

    def _packet_length(self) -> int:
        return self._config.sizes.packet_length if self._config.kind is SessionKind.MIXNET else -1

    def sealing(self) -> tuple[Any, int, int]:
        """Instead of :meth:`send_packets`, for who seals and writes in one: (RecordSealer, packet length, padded size).

        To be used while the session is open, nothing waits in :meth:`data_to_send` and :attr:`has_more` is false.
        """
        self._require(Phase.OPEN)
        return self._out.sealer, self._packet_length(), self._config.sizes.up

    @property
    def has_more(self) -> bool:
        """Whether :meth:`data_to_send` is to be called again when the peer has taken what it gave: documents."""
        return self._out.has_more

    def opening(self) -> tuple[Any, bytes, int]:
        """Instead of :meth:`receive`, for who reads and opens in one: (RecordOpener, start of a SendPacket, its size).

        The start is empty if none may come. What was opened is told by :meth:`heard` and :meth:`opened`.
        """
        self._require(Phase.OPEN)
        return self._opener, self._packet_header if self._packets_may_come() else b"", self._config.sizes.up

    def heard(self, now: float) -> None:
        """Packets came at this time, by way of :meth:`opening`; tell it before :meth:`handle_deadline`.

        It may be told after younger commands, which count more.
        """
        if self._deadline is not None and self._config.read_timeout is not None:
            self._deadline = max(self._deadline, now + self._config.read_timeout)

    def opened(self, commands: Sequence[bytes] | str, now: float) -> list[Event]:
        """Other commands came, or what did was refused, by way of :meth:`opening`.

        :raises CommandError: as :meth:`receive`.
        """
        if self._phase is Phase.DEAD:
            return []
        if isinstance(commands, str):
            self._die(CommandError(f"record refused: {commands}"))
        return self._take(commands, now)

    def data_to_send(self) -> bytes:
        """Bytes for the peer; each is returned once."""
        return self._out.take()

    def next_deadline(self) -> float | None:
        """When to call :meth:`handle_deadline` at the latest, if nothing comes before."""
        return self._deadline

    def handle_deadline(self, now: float) -> list[Event]:
        """Time has passed.

        :raises HandshakeError: the handshake took too long.
        :raises WireError: no complete command came in time.
        """
        if self._deadline is not None and now >= self._deadline:
            if self._phase is Phase.OPEN:
                self._die(WireError(f"no command for {self._config.read_timeout:g} s"))
            self.stage = self._where()
            self._die(HandshakeError("handshake timed out"))
        return []

    def close(self) -> None:
        """Forget everything; the session is dead."""
        if not self.stage and self._phase not in (Phase.OPEN, Phase.DEAD):
            untouched = self._phase is Phase.READING and self._number == 1 and not self._buffer
            self.stage = "premature_close" if untouched else self._where()
        self._phase = Phase.DEAD
        self._deadline = None
        self._buffer = bytearray()
        self._out.close()
        self._opener = None

    def _where(self) -> str:
        """What the handshake is about."""
        match self._phase:
            case Phase.FIRST:
                return "finalization"
            case Phase.JUDGING:
                return "peer_authentication" if self.initiator else "other"
            case Phase.COMPUTING if self.peer is not None and self._number < 4:
                return f"message_{self._number + 1}_send"
            case Phase.READING | Phase.COMPUTING if not (self.initiator and self._number == 1):
                return f"message_{self._number}_receive"
            case _:
                return "message_1_send"

    # The handshake

    def _receive_handshake(self, data: bytes) -> list[Event]:
        self._buffer += data
        if self._number == 1 and not self._buffer.startswith(noise.VERSION[: len(self._buffer)]):
            self._die(HandshakeError("protocol version mismatch"))
        need = self._handshake.sizes(self._number)
        if len(self._buffer) < need:
            return []
        if len(self._buffer) > need + (MAX_AHEAD if self._number == 4 else 0):
            self._die(HandshakeError("data out of turn"))
        message = bytes(self._buffer[:need])
        del self._buffer[:need]
        return self._compute(lambda: self._read(message))

    def _compute(self, work: Callable[[], bytes]) -> list[Event]:
        self._phase = Phase.COMPUTING
        return [Step(work=work)]

    def _read(self, message: bytes) -> bytes:
        """The step after message :attr:`_number`: the next message, or the peer's Authenticate payload."""
        match self._number:
            case 1:
                auth = noise.encode_auth(self._config.additional_data, int(self._unix_time()))
                self._handshake.read_1(message)
                return self._handshake.write_2(auth)
            case 2:
                return self._handshake.read_2(message)
            case 3:
                return self._handshake.read_3(message)
            case _:
                self._handshake.read_4(message)
                return b""

    def _after_initiator(self, outcome: bytes, now: float) -> list[Event]:
        match self._number:
            case 1:  # written
                self._out.add(outcome)
                self._expect(2)
                return []
            case 2 if self.peer is None:  # read
                return self._judge(outcome, int(self._unix_time()))
            case 2:  # accepted, and message 3 written
                self._out.add(outcome)
                self._expect(4)
                return []
            case _:
                self._open_records(now)
                ahead, self._buffer = bytes(self._buffer), bytearray()
                return self._receive_records(ahead, now) if ahead else []

    def _after_responder(self, outcome: bytes, now: float) -> list[Event]:
        if self._number == 1:
            self._out.add(outcome)
            self._expect(3)
            return []
        if self.peer is None:
            return self._judge(outcome, None)
        self._open_records(now)
        self._out.add(outcome)
        self.send(commands.NoOp())
        return [Established(peer=self.peer)]

    def _expect(self, number: int) -> None:
        self._number = number
        self._phase = Phase.READING

    def _judge(self, payload: bytes, own_time: int | None) -> list[Event]:
        additional_data, their_time = noise.decode_auth(payload)
        self.peer = PeerCredentials(
            additional_data=additional_data,
            link_key=self._handshake.remote_static,
            clock_skew=0 if own_time is None else own_time - their_time,
        )
        self._phase = Phase.JUDGING
        return [self.peer]

    # Records

    def _open_records(self, now: float) -> None:
        forth, back = self._handshake.split()
        outgoing, incoming = (forth, back) if self.initiator else (back, forth)
        self._out.sealer = records.RecordSealer(outgoing)
        self._opener = records.RecordOpener(incoming, self._config.body_limit())
        del self._handshake
        self._phase = Phase.FIRST if self.initiator else Phase.OPEN
        self._arm(now)

    def _arm(self, now: float) -> None:
        if self._config.read_timeout is not None:
            self._deadline = now + self._config.read_timeout
        elif self._phase is Phase.OPEN:
            self._deadline = None

    def _receive_records(self, data: bytes, now: float) -> list[Event]:
        try:
            frames = self._opener.feed(data)
        except (CryptoError, ValueError) as error:
            self._die(CommandError(f"record refused: {error}"))
        return self._take(frames, now) if frames else []

    def _take(self, frames: Sequence[bytes], now: float) -> list[Event]:
        try:
            events = self._commands(frames)
        except CommandError as error:
            self._die(error)
        self._arm(now)
        return events

    def _commands(self, frames: Sequence[bytes]) -> list[Event]:
        events: list[Event] = []
        if self._phase is Phase.FIRST:
            first = commands.parse(frames[0], self._config.kind, self._config.sizes)
            if not isinstance(first, commands.NoOp) or self.peer is None:
                raise CommandError("the first command is not a NoOp")
            self._phase = Phase.OPEN
            events.append(Established(peer=self.peer))
            frames = frames[1:]
        packets: list[bytes] = []
        header, size, may_come = self._packet_header, self._config.sizes.up, self._packets_may_come()
        for frame in frames:
            if may_come and len(frame) == size and frame.startswith(header):
                packets.append(frame[commands.HEADER :])  # without making an object of each SendPacket
                continue
            command = self._command(frame)
            if isinstance(command, commands.SendPacket):
                packets.append(command.packet)
                continue
            if packets:
                events.append(PacketsReceived(packets=packets))
                packets = []
            events.append(CommandReceived(command=command))
        if packets:
            events.append(PacketsReceived(packets=packets))
        return events

    def _packets_may_come(self) -> bool:
        accepts = self.accepts
        return self._config.kind is SessionKind.MIXNET and (accepts is None or commands.SendPacket in accepts)

    def _command(self, frame: bytes) -> Command:
        command = commands.parse(frame, self._config.kind, self._config.sizes)
        if self.accepts is not None and type(command) not in self.accepts:
            raise CommandError(f"{type(command).__name__} is not legal here")
        packet = command.packet if isinstance(command, commands.SendPacket | commands.SendRetrievePacket) else None
        if packet is not None and len(packet) != self._config.sizes.packet_length:
            raise CommandError(f"packet of {len(packet)} bytes")
        return command

    def _require(self, phase: Phase) -> None:
        if self._phase is not phase:
            raise WireError(f"the session is {self._phase.value}, not {phase.value}")

    def _die(self, error: WireError) -> NoReturn:
        self.close()
        raise error
