"""``katzentwist consensus``: fetch, verify and print a PKI document (design 2)."""

from __future__ import annotations

import argparse
import base64
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet.error import ConnectError, ConnectionClosed

from katzentwist.cli.output import Progress, UsageFault, print_json, table
from katzentwist.client import tool
from katzentwist.clock import SystemClock
from katzentwist.config import authority
from katzentwist.crypto import kem, keys, sign
from katzentwist.errors import PKIError
from katzentwist.net.owner import Context
from katzentwist.net.pkilink import Authority, request
from katzentwist.net.tcp import Transports
from katzentwist.net.workers import SynchronousWorkers
from katzentwist.node.keyfiles import read_public
from katzentwist.node.startup import epochs_of, local_ips
from katzentwist.pki.cert import Certificate
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import LAYER_GATEWAY, LAYER_SERVICE, Document, verify
from katzentwist.randomness import SystemRandom
from katzentwist.thin import ThinClient
from katzentwist.wire.codes import ConsensusCode
from katzentwist.wire.commands import Command, Consensus, GetConsensus

T = TypeVar("T")


def add_parser(subparsers: Any) -> None:
    """The options."""
    parser = subparsers.add_parser(
        "consensus",
        help="fetch, verify and print a PKI document",
        description="Fetch a PKI document through a gateway, a client daemon or from an authority, or read it from a "
        "file; verify it, and print it with those who signed it.",
        epilog="Example: katzentwist consensus -f client.toml",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="a signed document; with -f verified by its keys")
    parser.add_argument("-f", "--config", metavar="FILE", help="client.toml; connects to a gateway by itself")
    parser.add_argument("--thin", metavar="FILE", help="thinclient.toml; goes through a running client daemon")
    parser.add_argument("--authority", metavar="FILE", help="authority.toml; asks that authority")
    parser.add_argument("--save", metavar="FILE", help="write the signed document to this file too")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(run=run)


@attrs.frozen(kw_only=True)
class Found:
    """A document and what is known of its signatures: id -> (name, whether it signed, and rightly).

    :ivar verified: False when no keys were at hand.
    """

    raw: bytes = attrs.field(repr=False)
    document: Document
    signers: Mapping[bytes, tuple[str, bool]]
    verified: bool = True


def run(args: argparse.Namespace) -> int:
    """Fetch and print."""
    sources = [s for s in (args.file or args.config, args.thin, args.authority) if s]
    if len(sources) != 1:
        raise UsageFault("give one of -f client.toml, --thin thinclient.toml, --authority authority.toml, FILE")
    if args.file:
        found = from_file(Path(args.file), args.config)
    elif args.config:
        found = through_gateway(Path(args.config))
    elif args.thin:
        found = through_daemon(Path(args.thin))
    else:
        found = from_authority(Path(args.authority))
    if args.save:
        Path(args.save).write_bytes(found.raw)
    if args.json:
        print_json(facts(found))
    else:
        print("\n".join(lines(found)))
    return 0


# Sources --------------------------------------------------------------------------------------------------------------


def from_file(path: Path, client_file: str | None) -> Found:
    """A document on disk, verified if the keys of a client file are given; its age does not count."""
    raw = path.read_bytes()
    try:
        certificate = Certificate.parse(raw)
        document = Document.from_payload(certificate.certified)
    except PKIError as e:
        hint = "; a configuration file goes behind -f, --thin or --authority" if path.suffix == ".toml" else ""
        raise PKIError(f"{path} is no signed document: {e}{hint}") from e
    if client_file is None:
        signers = {s.signer: (s.signer.hex(), False) for s in certificate.signatures.values()}
        return Found(raw=raw, document=document, signers=signers, verified=False)
    config = tool.read_config(Path(client_file))
    names = {a.id: a.identifier for a in config.authorities}
    return checked(raw, {a.identity_key: names[a.id] for a in config.authorities}, document.epoch)


def checked(raw: bytes, names: Mapping[bytes, str], now: int) -> Found:
    """Verify with the keys of *names*.

    :raises PKIError: it is not good.
    """
    signed = verify(raw, list(names), now)
    by_id = {keys.identity_hash(key): name for key, name in names.items()}
    signers = {i: (name, i in signed.signers) for i, name in by_id.items()}
    return Found(raw=raw, document=signed.document, signers=signers)


def through_gateway(path: Path) -> Found:
    """As a client."""
    config = tool.read_config(path)
    progress = Progress()

    async def fetch(reactor: Any) -> Found:
        own = tool.Tool(reactor, config)
        own.start()
        try:
            await own.ready(connected=False, say=progress.show)
            progress.clear()
            signed = own.core.signed_document()
            if signed is None:
                raise tool.ToolError("the epoch of the document is over; ask again")
            names = {a.id: a.identifier for a in config.authorities}
            signers = {i: (name, i in signed.signers) for i, name in names.items()}
            return Found(raw=signed.raw, document=signed.document, signers=signers)
        finally:
            await own.stop()

    return _run(fetch)


def from_authority(path: Path) -> Found:
    """Ask an authority, whose public keys lie in its DataDir."""
    config = tool.read_file(path, lambda text: authority.load(text, local_ips=local_ips()))
    folder = Path(config.data_dir)
    identity = read_public(folder / "identity.public.pem", sign.by_name(config.signature_scheme))
    peer = Authority(
        addresses=config.addresses,
        identity_hash=keys.identity_hash(identity),
        link_key=read_public(folder / "link.public.pem", kem.by_name(config.wire_kem)),
        kem=kem.by_name(config.wire_kem),
        name=config.identifier,
    )
    epoch = epochs_of(config.epoch_duration, {}).number(SystemClock().wallclock())

    async def fetch(reactor: Any) -> Command:
        context = Context(reactor=reactor, clock=SystemClock(), random=SystemRandom(), workers=SynchronousWorkers())
        try:
            return await request(context, Transports(reactor), peer, GetConsensus(epoch))
        except (ConnectError, ConnectionClosed) as e:
            urls = ", ".join(address.url for address in config.addresses)
            raise tool.ToolError(f"no answer from {config.identifier} at {urls}: {e}") from e

    reply = _run(fetch)
    if not isinstance(reply, Consensus) or reply.error_code != ConsensusCode.OK:
        why = "will never have" if getattr(reply, "error_code", 0) == ConsensusCode.GONE else "does not have yet"
        raise tool.ToolError(f"{config.identifier} {why} the document of epoch {epoch}")
    return checked(reply.payload, {identity: config.identifier}, epoch)


def through_daemon(path: Path) -> Found:
    """Ask a running client daemon, for the document and for the keys."""

    async def fetch(reactor: Any) -> Found:
        client = ThinClient(path, reactor)
        await client.start()
        try:
            raw, epoch = await client.get_pki_document_raw()
            names = {}
            for entry in await client.get_directory_authorities():
                scheme = sign.by_name(entry["pki_signature_scheme"])
                names[keys.decode_public(scheme, entry["identity_public_key_pem"])] = str(entry["identifier"])
            return checked(raw, names, epoch)
        finally:
            await client.stop()

    return _run(fetch)


def _run(fetch: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """What *fetch* gives, under the reactor.

    :raises KeyboardInterrupt: a signal came first.
    """
    found: list[T] = []

    async def main(reactor: Any) -> int:
        found.append(await fetch(reactor))
        return 0

    if tool.run(main):
        raise KeyboardInterrupt
    return found[0]


# Output ---------------------------------------------------------------------------------------------------------------


def _layer(number: int) -> str:
    return {LAYER_GATEWAY: "gateway", LAYER_SERVICE: "service"}.get(number, f"mix layer {number}")


def _services(node: Descriptor) -> dict[str, str]:
    return {name: str(p.get("endpoint", "")) for name, p in (node.kaetzchen or {}).items()}


def facts(found: Found) -> dict[str, Any]:
    """For ``--json``."""
    d = found.document
    return {
        "epoch": d.epoch,
        "genesis_epoch": d.genesis_epoch,
        "version": d.version,
        "verified": found.verified,
        "signers": [
            {"name": name, "id": signer.hex(), "signed": good or not found.verified}
            for signer, (name, good) in found.signers.items()
        ],
        "rates": {
            "Mu": d.mu,
            "LambdaP": d.lambda_p,
            "LambdaL": d.lambda_l,
            "LambdaM": d.lambda_m,
            "LambdaG": d.lambda_g,
            "LambdaR": d.lambda_r,
        },
        "sphinx_geometry_hash": d.sphinx_geometry_hash.hex(),
        "nodes": [
            {
                "name": place.descriptor.name,
                "place": _layer(place.layer),
                "id": place.descriptor.id.hex(),
                "identity_key": base64.b64encode(place.descriptor.identity_key).decode(),
                "addresses": {t: list(urls) for t, urls in place.descriptor.addresses.items()},
                "services": _services(place.descriptor),
                "mix_key_epochs": sorted(place.descriptor.mix_keys),
            }
            for place in d.places()
        ],
    }


def lines(found: Found) -> list[str]:
    """For people."""
    d = found.document
    rates = ", ".join(f"{n} {v:g}" for n, v in facts(found)["rates"].items() if v)
    rows: list[tuple[str, ...]] = [("PLACE", "NAME", "ADDRESSES", "SERVICES", "ID")]
    for place in d.places():
        node = place.descriptor
        urls = " ".join(url for group in node.addresses.values() for url in group)
        rows.append((_layer(place.layer), node.name, urls, " ".join(_services(node)), node.id.hex()[:16]))
    out = [f"PKI document of epoch {d.epoch}", f"rates per ms: {rates}", "", table(rows), ""]
    if not found.verified:
        out.append("signatures NOT verified (give -f client.toml for its keys); it names these signers:")
        out += [f"  {name}" for name, _ in found.signers.values()]
        return out
    good = [(name, signer) for signer, (name, ok) in found.signers.items() if ok]
    bad = [(name, signer) for signer, (name, ok) in found.signers.items() if not ok]
    out.append(f"signed by {len(good)} of {len(good) + len(bad)} directory authorities:")
    out += [f"  {name} ({signer.hex()})" for name, signer in sorted(good)]
    out += [f"  {name} ({signer.hex()}) did NOT sign" for name, signer in sorted(bad)]
    return out
