"""What the start of every daemon looks up: its keys, its epoch, its host's addresses."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from katzentwist.clock import Epochs
from katzentwist.config.schema import Report
from katzentwist.crypto import kem, sign
from katzentwist.crypto.keys import identity_hash
from katzentwist.node.keyfiles import KeyPair, load_or_create
from katzentwist.randomness import IRandom


def local_ips() -> Iterable[str]:
    """The IPv4 addresses of this host; asked only for a file without Addresses. No packet is sent."""
    found: dict[str, None] = {}
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            found[probe.getsockname()[0]] = None
    except OSError:
        pass
    try:
        entries = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    except OSError:
        entries = []
    found.update({str(entry[4][0]): None for entry in entries})
    return list(found)


def read_text(path: str) -> str:
    """The text of a file, for configurations that name others."""
    return Path(path).read_text("utf-8")


def load_pairs(
    folder: Path, signature_scheme: str, wire_kem: str, random: IRandom, private: bytes | None = None
) -> tuple[KeyPair, KeyPair]:
    """Identity and link key pair of a data directory; made if missing.

    :param private: an identity private key from the configuration, in place of the files.
    :raises KatzentwistError: a key file is not as it must be.
    """
    scheme = sign.by_name(signature_scheme)
    if private is None:
        identity = load_or_create(folder, "identity", scheme, random)
    else:
        identity = KeyPair(private, scheme.check_private(private))
    return identity, load_or_create(folder, "link", kem.by_name(wire_kem), random)


def key_lines(identifier: str, identity: KeyPair, link: KeyPair, who: str = "Server") -> list[str]:
    """What the start and ``-g`` show of the keys (spec: provider 9)."""
    return [
        f"{who} identifier is: '{identifier}'",
        f"{who} identity public key is: {identity.public.hex().upper()}",
        f"{who} link public key is: {link.public.hex().upper()}",
        f"{who} identity public key hash is: {identity_hash(identity.public).hex()}",
        f"{who} link public key hash is: {identity_hash(link.public).hex()}",
    ]


def epochs_of(configured: str, environment: Mapping[str, str], report: Report | None = None) -> Epochs:
    """The epoch arithmetic; a warning if the environment overrules the file (design D8).

    :raises KatzentwistError: the environment holds no positive duration.
    """
    epochs = Epochs.from_environment(environment, configured)
    if configured and report is not None and epochs != Epochs.from_environment({}, configured):
        report.warn(f"EpochDuration is {configured}, but the environment says {epochs.period:g} s: that counts")
    return epochs
