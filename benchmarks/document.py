"""How long a PKI document of many nodes takes: make, parse, verify, check; and how much memory.

    python benchmarks/document.py --nodes 10000 --authorities 3

Nodes are mixes in three layers, a tenth of them gateways and a tenth service nodes, with XWING link keys, as in a
network of v0.0.99.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from _program import at_least, parser, run, show

from katzentwist.crypto.hash import blake2b_256
from katzentwist.crypto.sign import by_name
from katzentwist.pki import Descriptor, Document, cert, topology, verify
from katzentwist.pki.document import LIFETIME

EPOCH = 6000000
LAYERS = 3
LEAST = LAYERS + 2
"""Nodes of the smallest network: a mix in each layer, a gateway, a service node."""
PORT = 20000


def node(
    number: int, kind: str, epoch: int = EPOCH, link_key: bytes = b"", host: str = "", identity_key: bytes = b""
) -> Descriptor:
    """A descriptor with keys that look random and are not, but for *link_key*."""
    secret = number.to_bytes(4, "big")
    host = host or f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    return Descriptor(
        name=f"{kind}{number}",
        epoch=epoch,
        link_key=link_key or b"".join(blake2b_256(secret + bytes([i])) for i in range(38)),
        mix_keys={epoch + i: blake2b_256(secret + bytes([100 + i])) for i in range(3)},
        addresses={"tcp4": [f"tcp://{host}:{PORT}"]},
        kaetzchen={"echo": {"endpoint": "+echo"}, "keyserver": {"endpoint": "+keyserver"}}
        if kind == "service"
        else None,
        kaetzchen_advertized_data={} if kind == "service" else None,
        identity_key=identity_key or blake2b_256(secret),
        is_gateway_node=kind == "gateway",
        is_service_node=kind == "service",
        authentication_type="tofu" if kind == "gateway" else "",
    )


def document(nodes: int) -> Document:
    """A document of so many nodes."""
    gateways = max(1, nodes // 10)
    mixes = [node(i, "mix") for i in range(nodes - 2 * gateways)]
    return Document(
        mu=0.02,
        epoch=EPOCH,
        lambda_g=0.1,
        lambda_l=0.001,
        lambda_m=0.0005,
        lambda_p=0.005,
        lambda_r=0.005,
        topology=topology.random(mixes, LAYERS, bytes(32)),
        gateway_nodes=[node(nodes + i, "gateway") for i in range(gateways)],
        genesis_epoch=EPOCH,
        service_nodes=[node(2 * nodes + i, "service") for i in range(gateways)],
        prior_shared_random=[bytes(32), bytes(32)],
        shared_random_value=bytes(32),
        sphinx_geometry_hash=bytes(32),
    )


def timed(call: Callable[[], Any], rounds: int = 3) -> float:
    """The shortest time of some rounds, in seconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(nodes: int, authorities: int) -> dict[str, float]:
    """All figures: sizes in bytes, times in seconds."""
    scheme = by_name("Ed25519")
    pairs = [scheme.keypair_from_seed(blake2b_256(bytes([i]))) for i in range(authorities)]
    keys = [public for _, public in pairs]
    made = document(nodes)
    raw = made.sign(pairs[0][0], EPOCH)
    for private, _ in pairs[1:]:
        raw = cert.sign_also(private, raw, EPOCH)
    parsed = Document.parse(raw, EPOCH)
    figures = {
        "nodes": nodes,
        "authorities": authorities,
        "bytes": len(raw),
        "verify_signatures_s": timed(lambda: cert.verify_threshold(raw, keys, len(keys), EPOCH)),
        "parse_s": timed(lambda: Document.parse(raw, EPOCH)),
        "well_formed_s": timed(lambda: parsed.check(keys, EPOCH)),
        "verify_all_s": timed(lambda: verify(raw, keys, EPOCH, epoch=EPOCH)),
        "encode_s": timed(lambda: Document.parse(raw, EPOCH).payload()),
        "topology_s": timed(lambda: topology.random([n for layer in made.topology for n in layer], LAYERS, bytes(32))),
    }
    tracemalloc.start()
    kept = verify(raw, keys, EPOCH)
    figures["kept_bytes"], figures["peak_bytes"] = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept.document.epoch + LIFETIME > EPOCH
    return figures


def main() -> None:
    """Measure and print."""
    line = parser(__doc__)
    line.add_argument("--nodes", type=at_least(LEAST), default=1000, metavar="N", help="of the document")
    line.add_argument("--authorities", type=at_least(1, 100), default=1, metavar="N", help="who signed it")
    options = line.parse_args()
    figures = measure(options.nodes, options.authorities)
    if options.json:
        show(figures, True)
        return
    for name, value in figures.items():
        print(f"{name:22} {value * 1000:10.1f} ms" if name.endswith("_s") else f"{name:22} {value:10}")


if __name__ == "__main__":
    run(main)
