"""CPU of link handshakes and of the record layer, in one process and one thread.

    python benchmarks/handshake.py --kem xwing

Milliseconds per handshake for each side, timed apart, and microseconds per 3088-byte command sealed and opened in
batches.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from _program import at_least, parser, run, show

from katzentwist.crypto import kem, native
from katzentwist.randomness import SystemRandom
from katzentwist.wire import CommandSizes, PeerCredentials, Session, SessionConfig, SessionKind, Step, records

SIZES = CommandSizes(packet_length=3082, payload_length=2606)


def one_handshake(scheme: kem.Kem) -> dict[str, float]:
    """CPU seconds of each side."""
    random, spent, sides = SystemRandom(), {"initiator": 0.0, "responder": 0.0}, {}
    for role in spent:
        private, public = scheme.generate(random)
        config = SessionConfig(
            kem=scheme,
            private=private,
            public=public,
            additional_data=bytes(32),
            kind=SessionKind.MIXNET,
            sizes=SIZES,
        )
        sides[role] = Session(config, initiator=role == "initiator", random=random, unix_time=lambda: 0, now=0.0)

    def turn(role: str, data: bytes | None) -> None:
        session, begin = sides[role], time.process_time()
        events = session.start() if data is None else session.receive(data, 0.0)
        while events and isinstance(events[0], Step | PeerCredentials):
            event = events[0]
            events = session.step_done(event.run(), 0.0) if isinstance(event, Step) else session.accept()
        spent[role] += time.process_time() - begin

    turn("initiator", None)
    for source, target in (("initiator", "responder"), ("responder", "initiator")) * 2:
        turn(target, sides[source].data_to_send())
    if not all(session.is_open for session in sides.values()):
        raise SystemExit("the handshake did not come to its end")
    return spent


def record_layer(batch: int, rounds: int) -> tuple[float, float]:
    """(seal, open) in CPU seconds per command."""
    sealer, opener = records.RecordSealer(bytes(32)), records.RecordOpener(bytes(32), SIZES.down + 31)
    packets = [bytes(3082)] * batch
    begin = time.process_time()
    streams = [sealer.seal_packets(packets, SIZES.up) for _ in range(rounds)]
    middle = time.process_time()
    for stream in streams:
        if len(opener.feed(stream)) != batch:
            raise SystemExit("records went missing")
    end = time.process_time()
    return (middle - begin) / batch / rounds, (end - middle) / batch / rounds


def main() -> None:
    """Measure and print."""
    line = parser(__doc__)
    known = [name.lower() for name in kem.names()]
    line.add_argument("--kem", type=str.lower, choices=known, default="xwing", help="of the links")
    line.add_argument("--count", type=at_least(1), default=100, metavar="N", help="handshakes")
    line.add_argument("--batch", type=at_least(1, 10_000), default=64, metavar="N", help="packets per batch")
    options = line.parse_args()
    scheme = kem.by_name(options.kem)
    one_handshake(scheme)
    runs = [one_handshake(scheme) for _ in range(options.count)]
    seal, unseal = record_layer(options.batch, 20)
    facts = {
        "kem": scheme.name,
        "code": native.description(),
        "initiator_ms": 1e3 * statistics.mean(r["initiator"] for r in runs),
        "responder_ms": 1e3 * statistics.mean(r["responder"] for r in runs),
        "seal_us": 1e6 * seal,
        "open_us": 1e6 * unseal,
    }
    if options.json:
        show(facts, True)
        return
    print(f"{facts['kem']}, {facts['code']}")
    print(f"handshake: initiator {facts['initiator_ms']:.2f} ms, responder {facts['responder_ms']:.2f} ms of CPU")
    print(f"record of 3088 bytes: seal {facts['seal_us']:.1f} us, open {facts['open_us']:.1f} us of CPU")


if __name__ == "__main__":
    run(main)
