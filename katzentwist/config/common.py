"""Tables that several daemons share: logging, geometry, the authorities of a network, keys as text."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Protocol

import attrs

from katzentwist.clock import parse_duration
from katzentwist.config import schema
from katzentwist.config.addresses import Address, check_place, family_mistake, parse_url
from katzentwist.config.schema import Report, key, lookup
from katzentwist.crypto import kem, keys, sign
from katzentwist.errors import ConfigError, CryptoError, SphinxError
from katzentwist.sphinx import Geometry

LEVELS = ("ERROR", "WARNING", "NOTICE", "INFO", "DEBUG")


@attrs.frozen(kw_only=True)
class LoggingTable:
    """Where the log goes and how much of it (spec: node 2.2)."""

    disable: bool = key("Disable", schema.boolean, "Log nothing at all.", default=False)
    file: str = key("File", schema.text, "Log file; relative names lie in DataDir. Empty: standard output.", default="")
    level: str = key("Level", schema.text, "ERROR, WARNING, NOTICE, INFO or DEBUG.", default="NOTICE")
    format: str = key(
        "Format", schema.one_of("text", "json"), "Ours: lines of text, or one JSON object per line.", default="text"
    )


@attrs.frozen(kw_only=True)
class Logging:
    """The checked logging settings; *file* is absolute or empty for standard output."""

    disable: bool
    file: str
    level: str
    json: bool


def resolve_logging(table: LoggingTable | None, data_dir: str, report: Report) -> Logging:
    """Check the level; put a relative file into *data_dir*."""
    table = table or LoggingTable()
    level = (table.level or "NOTICE").upper()
    if level not in LEVELS:
        report.error(f"Level '{table.level}' is invalid; one of {', '.join(LEVELS)}", "Logging.Level")
        level = "NOTICE"
    file = str(PurePosixPath(data_dir) / table.file) if table.file else ""
    return Logging(disable=table.disable, file=file, level=level, json=table.format == "json")


@attrs.frozen(kw_only=True)
class AuthorityTable:
    """A directory authority of the network (spec: node 2.5)."""

    identifier: str = key("Identifier", schema.text, "Name, for the log.", default="")
    identity_key: str = key("IdentityPublicKey", schema.text, "PEM text of the identity key.", default="")
    signature_scheme: str = key("PKISignatureScheme", schema.text, "Signature scheme of the network.", default="")
    link_key: str = key("LinkPublicKey", schema.text, "PEM text of the link key.", default="")
    wire_kem: str = key("WireKEMScheme", schema.text, "KEM of the authority's link.", default="")
    addresses: tuple[str, ...] = key("Addresses", schema.texts, "Its URLs.", default=())


@attrs.frozen(kw_only=True)
class Authority:
    """A checked authority; *link_key* is None where any is accepted (spec: provider 1.3)."""

    identifier: str
    identity_key: bytes
    signature_scheme: str
    link_key: bytes | None
    wire_kem: str
    addresses: tuple[Address, ...]

    @property
    def id(self) -> bytes:
        """32 bytes: the hash of the identity key."""
        return keys.identity_hash(self.identity_key)


def resolve_authority(table: AuthorityTable, path: str, allow_hostnames: bool, report: Report) -> Authority | None:
    """Check one authority entry; None after errors."""
    before = len(report.errors)
    name = table.identifier
    if not name:
        report.error("Identifier is not set", f"{path}.Identifier")
    peer = resolve_peer(
        table, path, ("IdentityPublicKey", "LinkPublicKey"), allow_hostnames, report, who=f'PKI authority "{name}": '
    )
    if len(report.errors) > before:
        return None
    return Authority(
        identifier=name,
        identity_key=peer.identity_key,
        signature_scheme=peer.signature_scheme,
        link_key=peer.link_key,
        wire_kem=peer.wire_kem,
        addresses=peer.addresses,
    )


class PeerTable(Protocol):
    """The keys that tables of authorities and of pinned gateways have in common."""

    @property
    def identity_key(self) -> str:
        """PEM text."""

    @property
    def signature_scheme(self) -> str:
        """PKISignatureScheme: what the identity key is of."""

    @property
    def link_key(self) -> str:
        """PEM text."""

    @property
    def wire_kem(self) -> str:
        """WireKEMScheme: what the link key is of."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """URLs."""


@attrs.frozen(kw_only=True)
class Peer:
    """Somebody to dial, checked. After errors, what they are about is empty."""

    identity_key: bytes
    signature_scheme: str
    link_key: bytes
    wire_kem: str
    addresses: tuple[Address, ...]


def resolve_peer(
    table: PeerTable, path: str, names: tuple[str, str], allow_hostnames: bool, report: Report, *, who: str
) -> Peer:
    """Check the two schemes, the two keys and the addresses of an entry.

    :param names: how the identity key and the link key are called in the file.
    :param who: begins the errors about addresses.
    """
    where = f"{path}.Addresses"
    signature_scheme = known_signature_scheme(table.signature_scheme, f"{path}.PKISignatureScheme", report)
    wire_kem = known_kem(table.wire_kem, f"{path}.WireKEMScheme", report)
    identity = link = b""
    if signature_scheme:
        identity = pem_key(table.identity_key, sign.by_name(signature_scheme), f"{path}.{names[0]}", report)
    if wire_kem:
        link = pem_key(table.link_key, kem.by_name(wire_kem), f"{path}.{names[1]}", report)
    addresses = parse_addresses(table.addresses, where, allow_hostnames, report, who)
    usable = tuple(address for address in addresses if not family_mistake(address))
    for address in addresses:
        if mistake := family_mistake(address):  # upstream loads such a file, and dials the other addresses
            report.warn(f"{where}: {mistake}; it is left out")
    if not usable and len(addresses) == len(table.addresses):
        report.error(f"{who}No valid Addresses in {list(table.addresses)}", where)
    return Peer(
        identity_key=identity,
        signature_scheme=signature_scheme,
        link_key=link,
        wire_kem=wire_kem,
        addresses=usable,
    )


def resolve_authorities(
    tables: tuple[AuthorityTable, ...], path: str, allow_hostnames: bool, report: Report
) -> tuple[Authority, ...]:
    """All authorities of a voting configuration: at least one, all different."""
    if not tables:
        report.error("at least one authority must be listed", path)
    out = [resolve_authority(t, f"{path}[{i}]", allow_hostnames, report) for i, t in enumerate(tables)]
    good = tuple(a for a in out if a is not None)
    if len({a.identifier for a in good}) < len(good):
        report.error("two authorities have the same Identifier", path)
    if len({a.identity_key for a in good}) < len(good):
        report.error("two authorities have the same IdentityPublicKey", path)
    return good


def known_kem(name: str, path: str, report: Report, missing: str = "is not set") -> str:
    """The canonical spelling of a KEM, or "" after an error."""
    return _known(name, kem.by_name, path, report, missing)


def known_signature_scheme(name: str, path: str, report: Report, missing: str = "is not set") -> str:
    """The canonical spelling of a signature scheme, or "" after an error."""
    return _known(name, sign.by_name, path, report, missing)


def _known(name: str, by_name: Any, path: str, report: Report, missing: str) -> str:
    if not name:
        report.error(missing, path)
        return ""
    try:
        return str(by_name(name).name)
    except CryptoError as e:
        report.error(str(e), path)
        return ""


def pem_key(text: str, scheme: keys.KeyScheme, path: str, report: Report) -> bytes:
    """The public key in a PEM text, or nothing after an error."""
    if not text:
        report.error("is not set", path)
        return b""
    try:
        return keys.decode_public(scheme, text)
    except CryptoError as e:
        report.error(str(e), path)
        return b""


def parse_key(text: str, sizes: tuple[int, ...], scheme: keys.KeyScheme | None = None) -> bytes:
    """A public key from PEM, hex or padded base64 text (spec: provider 2.2).

    :param sizes: the lengths in bytes that are acceptable.
    :param scheme: the scheme whose PEM type is expected; PEM is refused without one.
    :raises ConfigError: none of the forms, or a wrong length.
    """
    if "-----BEGIN" in text:
        if scheme is None:
            raise ConfigError("a PEM block is not accepted here; write the key in hex or base64")
        try:
            raw = keys.decode_public(scheme, _unfold_pem(text.strip()))
        except CryptoError as e:
            raise ConfigError(str(e)) from e
    elif text and len(text) % 2 == 0 and re.fullmatch("[0-9a-fA-F]+", text):
        raw = bytes.fromhex(text)
    else:
        try:
            raw = base64.b64decode(text.encode("ascii"), validate=True)
        except (binascii.Error, UnicodeEncodeError, ValueError) as e:
            raise ConfigError("neither hex nor padded base64 nor PEM") from e
    if len(raw) not in sizes:
        raise ConfigError(f"the key has {len(raw)} bytes, expected {' or '.join(map(str, sizes))}")
    return raw


def _unfold_pem(text: str) -> str:
    """The one-line spellings of a PEM block (``\\n`` as two characters, or blanks) as real lines."""
    text = text.replace("\\n", "\n")
    match = re.fullmatch(r"\s*(-----BEGIN [^-]+-----)(.*)(-----END [^-]+-----)\s*", text, re.DOTALL)
    if match is None:
        return text
    head, body, tail = match.groups()
    return "\n".join([head, *body.split(), tail]) + "\n"


def resolve_geometry(table: Mapping[str, Any] | None, report: Report, default: bool) -> Geometry:
    """The network's geometry; without a table the standard one where *default* allows it (spec: provider 1.10)."""
    standard = Geometry.from_user_payload(2000, 5, nike="x25519")
    if table is None:
        if not default:
            report.error("config: No SphinxGeometry block was present", "SphinxGeometry")
        return standard
    try:
        return Geometry.from_toml(table)
    except SphinxError as e:
        report.error(str(e), "SphinxGeometry")
        return standard


def check_data_dir(data_dir: str, report: Report, path: str = "Server.DataDir") -> None:
    """DataDir must be an absolute path."""
    if not data_dir.startswith("/"):
        report.error(f"DataDir '{data_dir}' is not an absolute path", path)


def check_duration(text: str, path: str, report: Report) -> None:
    """EpochDuration must be at least a second, where it is set: less leaves no time for a document."""
    if not text:
        return
    try:
        if parse_duration(text) < 10**9:
            report.error(f"{text!r} is shorter than a second; write for example 20m", path)
    except ConfigError as e:
        report.error(str(e), path)


def parse_addresses(
    texts: tuple[str, ...], path: str, allow_hostnames: bool, report: Report, prefix: str = "", *, older: bool = False
) -> tuple[Address, ...]:
    """Parse and check a list of URLs, noting every bad one. Their families are not checked.

    :param older: take the spellings of older files too.
    """
    out = []
    for text in texts:
        try:
            address = parse_url(text, older=older)
            check_place(address, allow_hostnames, text)
            out.append(address)
        except ConfigError as e:
            report.error(f"{prefix}{e}", path)
    return tuple(out)


def missing_table(raw: Mapping[str, Any], name: str, report: Report) -> bool:
    """Note a mandatory table that is not there."""
    if lookup(raw, name) is None:
        report.refuse(ConfigError(f"config: No {name} block was present", name), [name])
        return True
    return False
