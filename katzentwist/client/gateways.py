"""Which gateway, when, and as whom (spec: client 4.1 to 4.3, 4.7). Sans-IO."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from katzentwist.config.addresses import Address, parse_url
from katzentwist.config.client import Gateway
from katzentwist.crypto.kem import Kem
from katzentwist.errors import ConfigError
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import Document
from katzentwist.randomness import IRandom
from katzentwist.wire import PeerCredentials

STEP: Final = 15.0
LONGEST: Final = 120.0
AFTER_SESSION: Final = 2.0
NAME_BYTES: Final = 16
QUEUE_ID: Final = 32
DIALLED: Final = ("tcp", "tcp4", "tcp6", "quic", "onion")


@attrs.frozen(kw_only=True)
class Target:
    """A gateway to dial.

    :ivar kem: name of the KEM of its link key.
    """

    name: str
    id: bytes
    link_key: bytes = attrs.field(repr=False)
    kem: str
    addresses: tuple[Address, ...]

    def is_peer(self, credentials: PeerCredentials) -> bool:
        """Whether these are this gateway's credentials (spec: link 10.1)."""
        known = hmac.compare_digest(credentials.additional_data, self.id)
        return hmac.compare_digest(credentials.link_key, self.link_key) and known


@attrs.frozen(kw_only=True)
class Credentials:
    """Who the client is to its gateway.

    :ivar additional_data: its user name, as sent in the handshake.
    """

    private: bytes = attrs.field(repr=False)
    public: bytes = attrs.field(repr=False)
    additional_data: bytes = attrs.field(repr=False)

    @property
    def queue_id(self) -> bytes:
        """The recipient of replies: the name, zero-padded."""
        return self.additional_data.ljust(QUEUE_ID, b"\0")

    @classmethod
    def fresh(cls, kem: Kem, random: IRandom) -> Credentials:
        """Nobody in particular: a new key and a new name for every session."""
        private, public = kem.generate(random)
        return cls(private=private, public=public, additional_data=random.bytes(NAME_BYTES).hex().encode())

    @classmethod
    def fixed(cls, kem: Kem, name: str, private: bytes) -> Credentials:
        """A user of a Provider.

        :raises ConfigError: the name is empty or longer than 32 bytes.
        """
        raw = name.encode()
        if not 0 < len(raw) <= QUEUE_ID:
            raise ConfigError(f"a user name has 1 to {QUEUE_ID} bytes, {name!r} has {len(raw)}")
        return cls(private=private, public=kem.check_private(private), additional_data=raw)


@attrs.define
class Backoff:
    """The pauses before dials: 0, 15, 30, ... 120, 120 s; 2 s after a session that worked; each times 0.5 to 1.5.

    :ivar step: what each attempt adds.
    """

    step: float = STEP
    longest: float = LONGEST
    _delay: float = 0.0

    def next(self, random: IRandom) -> float:
        """The pause before the next dial."""
        delay, self._delay = self._delay, min(self._delay + self.step, self.longest)
        return delay * (0.5 + random.uniform())

    def received(self) -> None:
        """A command came on an established session."""
        self._delay = AFTER_SESSION


def pinned_target(gateway: Gateway, transports: Sequence[str]) -> Target:
    """A gateway of the configuration."""
    by_scheme = {s: tuple(a for a in gateway.addresses if a.scheme == s) for s in transports}
    addresses = tuple(a for s in transports if s in DIALLED for a in by_scheme[s])
    return Target(
        name=gateway.name, id=gateway.id, link_key=gateway.link_key, kem=gateway.wire_kem, addresses=addresses
    )


def listed_target(descriptor: Descriptor, transports: Sequence[str], kem: str) -> Target:
    """A gateway of a document. The key of the map names the transport; the URL inside usually says ``tcp``."""
    return Target(
        name=descriptor.name,
        id=descriptor.id,
        link_key=descriptor.link_key,
        kem=kem,
        addresses=tuple(a for t in transports for a in _parsed(descriptor.addresses, t)),
    )


def _parsed(addresses: Mapping[str, Sequence[str]], transport: str) -> list[Address]:
    out = []
    for url in addresses.get(transport, ()):
        try:
            address = parse_url(url)
        except ConfigError:
            continue  # what a stranger put into its descriptor is no reason to stop
        if address.scheme in DIALLED and address.port and address.host:
            out.append(address)
    return out


@attrs.frozen(kw_only=True)
class Gateways:
    """The choice among gateways.

    :ivar only: the name of the one gateway to use; empty for any.
    """

    pinned: tuple[Gateway, ...]
    transports: tuple[str, ...]
    kem: str
    only: str = ""

    def choose(self, document: Document | None, random: IRandom) -> Target | None:
        """One at random: of the document if there is one, else of the pinned ones."""
        listed = [d for d in document.gateway_nodes if self.only in ("", d.name)] if document else []
        if listed:
            return listed_target(listed[random.below(len(listed))], self.transports, self.kem)
        pinned = [g for g in self.pinned if self.only in ("", g.name)]
        return pinned_target(pinned[random.below(len(pinned))], self.transports) if pinned else None

    def current(self, target: Target, document: Document | None) -> Target | None:
        """The gateway as the document describes it now, None if it is not listed.

        Without a document it is taken as it is, and so is the only one: what waits there can be had nowhere else, nor
        the document that lists it again.
        """
        if document is None:
            return target
        for descriptor in document.gateway_nodes:
            if descriptor.id == target.id:
                return listed_target(descriptor, self.transports, self.kem)
        return target if self.only else None
