"""An authority to which a thousand nodes upload in the same second.

    python benchmarks/authority.py --nodes 1000

The authority is a real twistd process with every node on its list; each node uploads over a connection of its own, with
a real handshake and a signed descriptor, all from one second process; it tries again as nodes do. When all have
answers, and the authority has made the document, all nodes fetch it at once. Turns are those of the authority's reactor
(see _probed.py).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _program import at_least, parser, run, say, show, stand_back
from _reactor import run_in_reactor, sleep

sys.path.insert(0, str(Path(__file__).parent.parent))

from _crowd import KEM, LAYERS, ROOT, Control, turns
from _surroundings import HOST, Usage, free_port
from document import LEAST, node
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.error import ConnectError, ConnectionClosed

from katzentwist.clock import Epochs, SystemClock, parse_duration
from katzentwist.config import toml
from katzentwist.config.addresses import Address
from katzentwist.crypto import kem, keys, sign
from katzentwist.crypto.keys import identity_hash
from katzentwist.errors import KatzentwistError, WireError
from katzentwist.net.owner import Context
from katzentwist.net.pkilink import Authority, Caller, Timeouts, request
from katzentwist.net.tcp import Transports
from katzentwist.net.workers import ThreadWorkers
from katzentwist.node.keyfiles import KeyPair, load_or_create, prepare_data_dir
from katzentwist.node.pkiclient import FETCH_ATTEMPTS
from katzentwist.node.pkicore import UPLOAD_BACKOFF
from katzentwist.pki import verify
from katzentwist.pki.upload import SignedUpload
from katzentwist.randomness import SystemRandom
from katzentwist.sphinx import Geometry
from katzentwist.wire.commands import Consensus, GetConsensus, PostDescriptor, PostDescriptorStatus

EPOCH = "2m"
PATIENCE = 30.0
"""Seconds that a node waits for an answer."""
TIMEOUTS = Timeouts(connect=PATIENCE, handshake=PATIENCE)
"""Nodes have less patience with handshakes; but here one process has them all."""
SCHEME = sign.by_name("Ed25519")


class Nodes:
    """All nodes: their keys and their uploads."""

    def __init__(self, count: int) -> None:
        random = SystemRandom()
        ends = max(1, count // 10)
        kinds = ["gateway"] * ends + ["service"] * ends + ["mix"] * (count - 2 * ends)
        self.kinds = kinds
        self.identities = [KeyPair(*SCHEME.generate(random)) for _ in kinds]
        self.links = [KeyPair(*kem.by_name(KEM).generate(random)) for _ in kinds]

    def upload(self, number: int, epoch: int) -> bytes:
        """The signed upload of a node."""
        pair = self.identities[number]
        made = node(number, self.kinds[number], epoch, self.links[number].public, identity_key=pair.public)
        return SignedUpload.sign(pair.private, made).encode()

    def tables(self, folder: Path) -> dict[str, Any]:
        """The white list, with key files in this folder."""
        lists: dict[str, list[dict[str, str]]] = {"GatewayNodes": [], "ServiceNodes": [], "Mixes": []}
        names = {"gateway": "GatewayNodes", "service": "ServiceNodes", "mix": "Mixes"}
        for number, (kind, pair) in enumerate(zip(self.kinds, self.identities, strict=True)):
            file = folder / f"{kind}{number}.pem"
            file.write_text(keys.encode_public(SCHEME, pair.public))
            lists[names[kind]].append({"Identifier": f"{kind}{number}", "IdentityPublicKeyPem": str(file)})
        return lists


class Run:
    """One run."""

    def __init__(self, folder: Path, count: int) -> None:
        reactor.seconds = time.monotonic
        self._folder, self._count = folder, count
        self._random = SystemRandom()
        self._workers = ThreadWorkers(reactor)
        self._context = Context(reactor=reactor, clock=SystemClock(), random=self._random, workers=self._workers)
        self._transports = Transports(reactor)
        self._epochs = Epochs(parse_duration(EPOCH))
        self._nodes = Nodes(count)
        self._port = free_port()
        self._again = self._peak = 0

    def _write(self) -> Path:
        folder = prepare_data_dir(str(self._folder / "auth"))
        identity = load_or_create(folder, "identity", SCHEME, self._random)
        link = load_or_create(folder, "link", kem.by_name(KEM), self._random)
        self._identity = identity
        self._authority = Authority(
            addresses=[Address("tcp", HOST, self._port)],
            identity_hash=identity_hash(identity.public),
            link_key=link.public,
            kem=kem.by_name(KEM),
        )
        tables = {
            "Server": {
                "Identifier": "auth",
                "WireKEMScheme": KEM,
                "PKISignatureScheme": "Ed25519",
                "Addresses": [f"tcp://{HOST}:{self._port}"],
                "DataDir": str(folder),
                "EpochDuration": EPOCH,
            },
            "Logging": {"Level": "NOTICE"},
            "Parameters": {"Mu": 0.005, "LambdaP": 0.001, "LambdaL": 0.0005, "LambdaM": 0.0005},
            "Debug": {"Layers": LAYERS, "MinNodesPerLayer": 1},
            "SphinxGeometry": Geometry.from_user_payload(2000, LAYERS + 2, nike="x25519").to_toml(),
            **self._nodes.tables(folder),
        }
        path = folder / "authority.toml"
        path.write_text(toml.dump(tables))
        return path

    async def measure(self) -> dict[str, Any]:
        """Start, upload, fetch."""
        config = self._write()
        self._workers.start()
        report = self._folder / "authority.turns"
        command = [sys.executable, str(ROOT / "benchmarks/_probed.py"), str(report), "katzendirauth", "-f", str(config)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "KATZENPOST_EPOCH_DURATION": EPOCH}
        with (self._folder / "output.log").open("wb") as output:
            process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                command, cwd=self._folder, env=environment, stdout=output, stderr=output
            )
        stand_back()
        self._process, self._control = process, Control(self._folder / "control")
        try:
            return await self._drive(Usage(process.pid), report)
        except CancelledError:
            raise
        except Exception:
            print((self._folder / "output.log").read_text()[-2000:], file=sys.stderr)
            raise
        finally:
            self._control.stop()
            process.terminate()
            process.wait(10)
            self._workers.stop()

    async def _drive(self, usage: Usage, report: Path) -> dict[str, Any]:
        say("waiting for the authority")
        epoch = await self._ready()
        say(f"{self._count} uploads")
        uploads = [self._upload(i, epoch) for i in range(self._count)]
        memory, cpu, began = usage.memory(), usage.cpu(), time.monotonic()
        answers = await self._all([self._post(i, epoch, raw) for i, raw in enumerate(uploads)], usage)
        uploaded, spent = time.monotonic(), usage.cpu() - cpu
        figures = {
            "nodes": self._count,
            "uploads answered OK": sum(ok for ok, _ in answers),
            "uploads: tried again": self._again,
            "uploads: longest answer s": round(max(seconds for _, seconds in answers), 2),
            "uploads: median answer s": round(statistics.median(seconds for _, seconds in answers), 2),
            "uploads: cpu ms each": round(spent / self._count * 1e3, 2),
            "uploads: turns": turns(report, began, uploaded, self._control),
        }
        raw = b""
        while not raw:
            raw = await self._consensus(epoch)
            await sleep(0.05)
        made = time.monotonic()
        document = verify(raw, [self._identity.public], self._epochs.number(time.time()), epoch=epoch).document
        figures |= {
            "document: nodes": document.size,
            "document: bytes": len(raw),
            "document: seconds after the last answer": round(made - uploaded, 2),
            "document: turns": turns(report, uploaded - 0.1, made, self._control),
        }
        say(f"{self._count} fetches")
        cpu, began = usage.cpu(), time.monotonic()
        fetched = await self._all([self._fetch(epoch, raw) for _ in range(self._count)], usage)
        figures |= {
            "fetches answered": sum(ok for ok, _ in fetched),
            "fetches: longest answer s": round(max(seconds for _, seconds in fetched), 2),
            "fetches: cpu ms each": round((usage.cpu() - cpu) / self._count * 1e3, 2),
            "fetches: turns": turns(report, began, time.monotonic(), self._control),
            "memory MiB before": round(memory / 2**20, 1),
            "memory MiB highest": round(self._peak / 2**20, 1),
        }
        return figures

    async def _ready(self) -> int:
        """Wait until it answers; the epoch to upload for, with time enough in the one before."""
        while True:
            now, elapsed, till = self._epochs.now(time.time())
            try:
                await self._consensus(now)
            except (ConnectError, ConnectionClosed, KatzentwistError):
                if self._process.poll() is not None:
                    raise SystemExit((self._folder / "output.log").read_text()[-2000:]) from None
                await sleep(0.2)
                continue
            if till > 60 and elapsed > 2:
                return now + 1
            await sleep(1)

    async def _all(self, work: list[Any], usage: Usage) -> list[tuple[bool, float]]:
        """What all gave, begun in the same turn."""
        done = DeferredList([Deferred.fromCoroutine(each) for each in work])
        while not done.called:
            self._peak = max(self._peak, usage.memory())
            await sleep(0.05)
        return [result if good else (False, PATIENCE) for good, result in await done]

    async def _post(self, number: int, epoch: int, payload: bytes) -> tuple[bool, float]:
        pair, identity = self._nodes.links[number], self._nodes.identities[number]
        caller = Caller(private=pair.private, public=pair.public, additional_data=identity_hash(identity.public))
        began = time.monotonic()
        command = PostDescriptor(epoch=epoch, payload=payload)
        for pause in (*UPLOAD_BACKOFF, 0):
            try:
                reply = await request(
                    self._context, self._transports, self._authority, command, caller=caller, timeouts=TIMEOUTS
                )
                break
            except (WireError, ConnectError, ConnectionClosed):
                self._again += 1
                await sleep(pause)
        good = isinstance(reply, PostDescriptorStatus) and reply.error_code == 0
        return good, time.monotonic() - began

    async def _fetch(self, epoch: int, raw: bytes) -> tuple[bool, float]:
        began = time.monotonic()
        return await self._consensus(epoch, FETCH_ATTEMPTS) == raw, time.monotonic() - began

    async def _consensus(self, epoch: int, attempts: int = 1) -> bytes:
        command = GetConsensus(epoch=epoch)
        reply = await request(
            self._context, self._transports, self._authority, command, timeouts=TIMEOUTS, attempts=attempts
        )
        return reply.payload if isinstance(reply, Consensus) and not reply.error_code else b""

    def _upload(self, number: int, epoch: int) -> bytes:
        return self._nodes.upload(number, epoch)


def main() -> None:
    """The command line."""
    line = parser(__doc__)
    line.add_argument("--nodes", type=at_least(LEAST), default=1000, metavar="N", help="that upload and fetch")
    args = line.parse_args()

    async def work() -> None:
        show(await Run(Path(folder), args.nodes).measure(), args.json)

    with tempfile.TemporaryDirectory(prefix="katzentwist-authority-", ignore_cleanup_errors=True) as folder:
        run_in_reactor(work)


if __name__ == "__main__":
    run(main)
