"""How much one mix forwards: real links, real packets, CPU by the operating system's books.

    python benchmarks/load.py --rate 2000 --seconds 20
    python benchmarks/load.py --rate 0                  # as fast as it takes them
    python benchmarks/load.py --command 'server -f {config}'   # another node in the same place

The generator plays an authority and the neighbours (see _surroundings.py), prepares all packets beforehand, feeds them
at the chosen rate, and checks what comes out: each packet once, at the right neighbour, and how late.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _measure import best_us
from _reactor import run_in_reactor
from _surroundings import GEOMETRY, HOST, Neighbour, Surroundings, Usage, _sleep
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from katzentwist.crypto import nike
from katzentwist.crypto.hash import hkdf_expand
from katzentwist.randomness import SystemRandom
from katzentwist.sphinx import NodeDelay, PathHop, Recipient, build, sample_delay

ROOT = Path(__file__).parent.parent
X25519 = nike.by_name("x25519")
STEP = 0.002
"""Seconds between two looks at what is to be sent."""


class Recorded(SystemRandom):
    """The system's generator, remembering the first draw: the ephemeral key of a packet."""

    def __init__(self) -> None:
        super().__init__()
        self.first = b""

    def bytes(self, n: int) -> bytes:
        """*n* bytes."""
        drawn = super().bytes(n)
        self.first = self.first or drawn
        return drawn


def prepare(mix: PathHop, receivers: Sequence[Neighbour], count: int, mu: float) -> list[tuple[bytes, bytes, int, int]]:
    """(packet, group element after the mix, delay in ms, number of the receiver) for each packet."""
    payload = bytes(GEOMETRY.forward_payload_length)
    random = SystemRandom()
    last = {i: PathHop(node.identity.id, node.mix_key[1], (Recipient(bytes(32)),)) for i, node in enumerate(receivers)}

    def one(serial: int) -> tuple[bytes, bytes, int, int]:
        to = serial % len(receivers)
        delay = sample_delay(mu, random)
        recorded = Recorded()
        packet = build([PathHop(mix.id, mix.public_key, (NodeDelay(delay),)), last[to]], payload, GEOMETRY, recorded)
        secret = X25519.derive(recorded.first, mix.public_key)
        okm = hkdf_expand(secret, b"katzenpost-kdf-v0-hkdf-sha256", 160)
        element = X25519.blind(packet[2:34], X25519.blinding_factor(okm[128:160]))
        return packet, element, delay, to

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, range(count), chunksize=64))


class Load:
    """One run."""

    def __init__(self, args: argparse.Namespace, around: Surroundings) -> None:
        self._args, self._around = args, around
        self._due: dict[bytes, tuple[float, int]] = {}
        self.sent = self.received = self.wrong = 0
        self.held_back = 0
        self.lateness: list[float] = []
        self.calm: list[float] = []
        self._measuring = False
        for i, node in enumerate(around.receivers):
            node.took = lambda _, packets, i=i: self._took(i, packets)

    def _took(self, receiver: int, packets: list[bytes]) -> None:
        now = time.monotonic()
        for packet in packets:
            expected = self._due.pop(packet[2:34], None)
            if expected is None or expected[1] != receiver:
                self.wrong += 1
                continue
            self.received += 1
            if self._measuring:
                self.lateness.append(now - expected[0])

    async def feed(self, packets: list[tuple[bytes, bytes, int, int]], rate: float, seconds: float) -> None:
        """Send at *rate* per second; 0: as fast as the links take them."""
        senders = self._around.senders
        began = time.monotonic()
        position = 0
        while position < len(packets) and (now := time.monotonic()) - began < seconds:
            until = min(len(packets), int((now - began) * rate)) if rate else position + 64 * len(senders)
            batches: list[list[bytes]] = [[] for _ in senders]
            # A link that is full takes nothing: what waits in the generator says nothing about the node.
            full = {i for i, node in enumerate(senders) if node.link is None or not node.link.writable}
            for serial in range(position, min(until, len(packets))):
                if serial % len(senders) in full:
                    self.held_back += 1
                    continue
                packet, element, delay, to = packets[serial]
                self._due[element] = (now + delay / 1000, to)
                batches[serial % len(senders)].append(packet)
            position = max(position, min(until, len(packets)))
            for node, batch in zip(senders, batches, strict=True):
                if batch and node.link is not None:
                    self.sent += len(batch)
                    node.link.sendPackets(batch)
            await _sleep(STEP)
            while not rate and not all(n.link.writable for n in senders):
                await _sleep(STEP)

    async def run(self) -> dict[str, Any]:
        args, around = self._args, self._around
        config = around.write_node()
        await around.listen()
        process = start(args.command, config)
        try:
            return await self._measure(process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)

    async def _measure(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        args, around = self._args, self._around
        epoch, _, till = around.epochs.now(time.time())
        descriptor = await around.uploaded(epoch)
        await around.connect()
        mix = PathHop(around.node.id, descriptor.mix_keys[epoch], ())
        usage = Usage(process.pid)
        idle = usage.memory()
        amount = int((args.rate or args.limit) * (args.warmup + args.seconds))
        say(f"preparing {amount} packets")
        packets = await _thread(prepare, mix, around.receivers, amount, args.mu)
        split = int(len(packets) * args.warmup / (args.warmup + args.seconds))
        if till < args.warmup + args.seconds + 30:
            say("the epoch ends during the run; keys of the next one serve as well")
        own = time.process_time
        storm = around.storm() if args.storm else None
        await self.feed(packets[:split], args.rate, args.warmup)
        self._measuring = True
        before = (usage.cpu(), own(), time.monotonic(), self.sent, self.received)
        peak = 0
        stormed = ""
        if args.perf:
            record(args.perf, process.pid, args.seconds * 0.9)
        done = Deferred.fromCoroutine(self.feed(packets[split:], args.rate, args.seconds))
        while not done.called:
            peak = max(peak, usage.memory())
            await _sleep(0.5)
            if storm is not None and not self.calm and time.monotonic() - before[2] > args.seconds / 2:
                self.calm, self.lateness = self.lateness, []
                storm.stdin.write("go\n")
                storm.stdin.flush()
        await done
        if storm is not None:
            stormed = storm.stdout.readline().strip()
            storm.stdin.close()
        after = (usage.cpu(), own(), time.monotonic(), self.sent, self.received)
        await _sleep(args.drain)
        cpu, mine, wall, sent, received = (b - a for a, b in zip(before, after, strict=True))
        drops = scrape(around.metrics_port)
        multiplication = best_us(lambda: X25519.derive(bytes(range(32)), mix.public_key))
        per_packet = cpu / max(received, 1) * 1e6
        late = sorted(self.lateness) or [0.0]
        return {
            "offered packets/s": round(sent / wall, 1),
            "forwarded packets/s": round(received / wall, 1),
            "cpu us per forwarded packet": round(per_packet, 1),
            "x25519 us": round(multiplication, 1),
            "ratio to one x25519": round(per_packet / multiplication, 2),
            "cpu share of the node": round(cpu / wall, 2),
            "cpu share of the generator": round(mine / wall, 2),
            "not offered, link full": self.held_back,
            "lost": self.sent - self.received,
            "lost share": round(1 - self.received / max(self.sent, 1), 5),
            "wrong or twice": self.wrong,
            "drops": drops,
            "lateness ms median": round(statistics.median(late) * 1e3, 2),
            "lateness ms 99%": round(late[int(len(late) * 0.99)] * 1e3, 2),
            "lateness ms max": round(late[-1] * 1e3, 2),
            "memory MiB idle": round(idle / 2**20, 1),
            "memory MiB peak": round(peak / 2**20, 1),
            **({"storm": args.storm, "storm seconds": stormed, **self._calm()} if args.storm else {}),
            "peers": len(around.senders),
            "cores": os.cpu_count(),
        }

    def _calm(self) -> dict[str, float]:
        """Lateness before the storm."""
        late = sorted(self.calm) or [0.0]
        return {
            "before the storm: lateness ms 99%": round(late[int(len(late) * 0.99)] * 1e3, 2),
            "before the storm: lateness ms max": round(late[-1] * 1e3, 2),
        }


def _thread(function: Any, *args: Any) -> Deferred[Any]:
    return deferToThread(function, *args)


def start(command: str, config: Path) -> subprocess.Popen[bytes]:
    """The node under test."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    output = (config.parent / "output.log").open("wb")
    words = shlex.split(command.format(config=config, python=sys.executable, pid=config.parent / "twistd.pid"))
    return subprocess.Popen(words, cwd=config.parent, env=environment, stdout=output, stderr=output)


def record(file: str, pid: int, seconds: float) -> None:
    """Let Linux perf sample a process; read the file with ``perf report``."""
    words = ["perf", "record", "-q", "-g", "-e", "cpu-clock", "-F", "2500", "-o", file, "-p", str(pid)]
    subprocess.Popen([*words, "--", "sleep", str(seconds)])


def scrape(port: int) -> dict[str, int]:
    """Drops by reason."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if line.startswith("katzenpost_dropped_reason_total{")]
    return {line.split('"')[1]: int(float(line.rsplit(" ", 1)[1])) for line in found}


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr)


TWISTD = "{python} -c 'from twisted.scripts.twistd import run; run()' -n --pidfile={pid} katzenmix -f {config}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=1000, help="packets per second; 0: as fast as it goes")
    parser.add_argument("--limit", type=int, default=8000, help="packets prepared per second with --rate 0")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--warmup", type=float, default=3)
    parser.add_argument("--drain", type=float, default=3, help="seconds to wait for delayed packets")
    parser.add_argument("--peers", type=int, default=1, help="neighbours on each side")
    parser.add_argument("--mu", type=float, default=0.005, help="rate of the delays, per ms")
    parser.add_argument("--storm", type=int, default=0, metavar="N", help="N more neighbours connect at once, half-way")
    parser.add_argument("--perf", metavar="FILE", help="let Linux perf record where the node's time goes")
    parser.add_argument("--command", default=TWISTD, help="the node under test; {config} is its file")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="katzentwist-load-"))
    around = Surroundings(folder, args.peers, args.peers, args.mu, idle=args.storm)

    async def work() -> None:
        figures = await Load(args, around).run()
        if args.json:
            print(json.dumps(figures, indent=2))
        else:
            width = max(map(len, figures))
            print("\n".join(f"{name:<{width}}  {value}" for name, value in figures.items()))

    def clean_up() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        around.workers.stop()

    run_in_reactor(
        work,
        explain=lambda: print((folder / "node" / "output.log").read_text()[-3000:], file=sys.stderr),
        clean_up=clean_up,
    )


if __name__ == "__main__":
    main()
