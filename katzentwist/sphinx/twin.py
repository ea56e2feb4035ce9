"""Sphinx in pure Python: the reference and test oracle of the native core, and the only code for x448 and KEMs.

Every function gives the bytes that its native counterpart gives for the same random stream. NIKE and KEM Sphinx differ
in where the secrets come from and in what stands in a block's end (spec: sphinx 15); the rest is shared. AEZ and X25519
come from :mod:`katzentwist.crypto`, so that with the native core x448 and KEM Sphinx are fast enough for use; the tests
switch these two to Python as well.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence

import attrs

from katzentwist.crypto import kem, nike
from katzentwist.crypto.aez import sprp_decrypt, sprp_encrypt
from katzentwist.crypto.hash import sha512_256
from katzentwist.errors import CryptoError, SphinxError
from katzentwist.randomness import IRandom
from katzentwist.sphinx import commands as routing
from katzentwist.sphinx._hopkeys import HopKeys, xor
from katzentwist.sphinx.geometry import (
    AD,
    MAC_LENGTH,
    NEXT_NODE_HOP_LENGTH,
    NODE_ID_LENGTH,
    PAYLOAD_TAG_LENGTH,
    SPRP_IV_LENGTH,
    SPRP_KEY_LENGTH,
    SPRP_KEY_MATERIAL_LENGTH,
    Geometry,
)
from katzentwist.sphinx.types import NO_KEY, BatchResult, PathHop, Unwrapped

Encapsulate = Callable[[bytes], tuple[bytes, bytes]]
"""Public key -> (ciphertext, shared secret)."""


@attrs.frozen
class Header:
    """A built header and the keys of its hops, in path order."""

    data: bytes
    keys: list[HopKeys] = attrs.field(repr=False)


# Building


def build(
    path: Sequence[PathHop],
    payload: bytes,
    geometry: Geometry,
    random: IRandom,
    encapsulate: Encapsulate | None = None,
) -> bytes:
    """A forward packet (spec: sphinx 8). The random stream is read as :func:`build_header` says.

    :raises SphinxError: wrong payload length, path or commands.
    """
    if len(payload) != geometry.forward_payload_length:
        raise SphinxError(f"invalid payload length: {len(payload)}, expected {geometry.forward_payload_length}")
    header = build_header(path, geometry, random, encapsulate)
    body = bytes(PAYLOAD_TAG_LENGTH) + payload
    for keys in reversed(header.keys):
        body = sprp_encrypt(keys.sprp_key, keys.iv, body)
    return header.data + body


def build_header(
    path: Sequence[PathHop], geometry: Geometry, random: IRandom, encapsulate: Encapsulate | None = None
) -> Header:
    """Header and hop keys (spec: sphinx 7).

    Draws the ephemeral private key (or what each encapsulation takes, in path order), then the filler of the unused
    hops, if any.

    :param encapsulate: stands in for the KEM's, to replay vectors.
    """
    check_path(path, geometry)
    if geometry.kem_name:
        elements, keys = _kem_secrets(path, geometry, random, encapsulate)
    else:
        elements, keys = _nike_secrets(path, geometry, random)

    per_hop = geometry.per_hop_routing_info_length
    streams = [k.keystream(geometry.routing_info_length + per_hop) for k in keys]
    fillers: list[bytes] = []
    for i, stream in enumerate(streams):
        filler = stream[len(stream) - (i + 1) * per_hop :]
        fillers.append(xor(filler[: i * per_hop], fillers[-1]) + filler[i * per_hop :] if i else filler)

    unused = (geometry.nr_hops - len(path)) * per_hop
    routing_info = random.bytes(unused) if unused else b""
    mac = b""
    for i in reversed(range(len(path))):
        last = i == len(path) - 1
        block = routing.encode(path[i].commands)
        if not last:
            block += routing.NextNodeHop(path[i + 1].id, mac).encode()
        block = block.ljust(per_hop, b"\0")
        if geometry.kem_name and not last:
            block = block[: geometry.command_block_length] + elements[i + 1]
        routing_info = xor(block + routing_info, streams[i][: per_hop + len(routing_info)])
        mac = keys[i].mac(AD + elements[i] + routing_info + (fillers[i - 1] if i else b""))
    return Header(AD + elements[0] + routing_info + mac, keys)


def check_path(path: Sequence[PathHop], geometry: Geometry) -> None:
    """The checks on path and commands, before any key is drawn.

    :raises SphinxError: with the texts of section 7.
    """
    if not 1 <= len(path) <= geometry.nr_hops or any(len(hop.id) != NODE_ID_LENGTH for hop in path):
        raise SphinxError("sphinx: invalid path")
    room = geometry.command_block_length
    # From the last hop on, the order in which the blocks are serialised.
    for i, hop in reversed(list(enumerate(path))):
        if any(isinstance(command, routing.NextNodeHop) for command in hop.commands):
            raise SphinxError("sphinx: invalid commands, NextNodeHop")
        used = len(routing.encode(hop.commands))
        if used > room:
            raise SphinxError("sphinx: invalid commands, oversized serialized block")
        if i < len(path) - 1 and room - used < NEXT_NODE_HOP_LENGTH:
            raise SphinxError("sphinx: invalid commands, insufficient remaining capacity")


def _nike_secrets(path: Sequence[PathHop], geometry: Geometry, random: IRandom) -> tuple[list[bytes], list[HopKeys]]:
    """The group element that each hop sees, and each hop's keys."""
    scheme = nike.by_name(geometry.nike_name)
    private, element = scheme.generate(random)
    elements: list[bytes] = []
    keys: list[HopKeys] = []
    factors: list[bytes] = []
    for hop in path:
        if factors:
            element = scheme.blind(element, factors[-1])
        try:
            secret = scheme.derive(private, hop.public_key)
            for factor in factors:
                secret = scheme.blind(secret, factor)
        except CryptoError as error:
            raise SphinxError(f"sphinx: invalid mix key of hop {len(keys)}: {error}") from None
        elements.append(element)
        keys.append(HopKeys.from_secret(secret))
        factors.append(scheme.blinding_factor(keys[-1].blinding_seed))
    return elements, keys


def _kem_secrets(
    path: Sequence[PathHop], geometry: Geometry, random: IRandom, encapsulate: Encapsulate | None
) -> tuple[list[bytes], list[HopKeys]]:
    """The ciphertext for each hop, and each hop's keys."""
    scheme = kem.by_name(geometry.kem_name)
    ciphertexts, keys = [], []
    for i, hop in enumerate(path):
        try:
            if encapsulate is None:
                ciphertext, secret = scheme.encapsulate(hop.public_key, random)
            else:
                ciphertext, secret = encapsulate(hop.public_key)
        except CryptoError as error:
            raise SphinxError(f"KEMSphinx: invalid mix key of hop {i}: {error}") from None
        ciphertexts.append(ciphertext)
        keys.append(HopKeys.from_secret(secret))
    return ciphertexts, keys


# Unwrapping


def unwrap(private_key: bytes, packet: bytes, geometry: Geometry) -> Unwrapped:
    """One hop's work (spec: sphinx 9). *packet* is not changed.

    :raises SphinxError: with the texts of sections 9 and 15; it carries the replay tag from the MAC check on.
    :raises CryptoError: the private key has the wrong length.
    """
    prefix = "KEMSphinx" if geometry.kem_name else "sphinx"
    if len(packet) < geometry.header_length:
        raise SphinxError(f"{prefix}: invalid packet, truncated")
    if packet[: len(AD)] != AD:
        raise SphinxError(f"{prefix}: invalid packet, unknown version")
    mac_at = geometry.header_length - MAC_LENGTH
    info_at = mac_at - geometry.routing_info_length
    element = packet[len(AD) : info_at]
    keys = HopKeys.from_secret(_hop_secret(private_key, element, geometry))
    tag = sha512_256(element)
    try:
        if not hmac.compare_digest(keys.mac(packet[:mac_at]), packet[mac_at : geometry.header_length]):
            raise SphinxError(f"{prefix}: invalid packet, MAC mismatch")
        per_hop = geometry.per_hop_routing_info_length
        stream = keys.keystream(geometry.routing_info_length + per_hop)
        routing_info = xor(packet[info_at:mac_at] + bytes(per_hop), stream)
        commands = _parse(routing_info[: geometry.command_block_length], prefix)
        payload = packet[geometry.header_length :]
        if payload:
            payload = sprp_decrypt(keys.sprp_key, keys.iv, payload)
        for command in commands:
            if isinstance(command, routing.NextNodeHop):
                element = _next_element(element, keys, routing_info, geometry)
                rest = routing_info[per_hop:]
                return Unwrapped(None, tag, commands, AD + element + rest + command.mac + payload)
        return Unwrapped(_open_payload(payload, commands), tag, commands, None)
    except SphinxError as error:
        raise SphinxError(str(error), tag) from None


def _hop_secret(private_key: bytes, element: bytes, geometry: Geometry) -> bytes:
    if geometry.kem_name:
        scheme = kem.by_name(geometry.kem_name)
        _check_private_key(private_key, scheme.private_key_size)
        try:
            return scheme.decapsulate(private_key, element)
        except CryptoError as error:
            raise SphinxError(f"KEMSphinx: failed to decrypt KEM: {error}") from None
    exchange = nike.by_name(geometry.nike_name)
    _check_private_key(private_key, exchange.private_key_size)
    try:
        return exchange.derive(private_key, element)
    except CryptoError:
        raise SphinxError("sphinx: invalid packet, low order group element") from None


def _check_private_key(private_key: bytes, size: int) -> None:
    if len(private_key) != size:
        raise CryptoError(f"a mix key has {size} bytes, not {len(private_key)}")


def _parse(block: bytes, prefix: str) -> tuple[routing.Command, ...]:
    commands: list[routing.Command] = []
    for command in routing.iterate(block):
        for kind, name in ((routing.NextNodeHop, "next_node"), (routing.SurbReply, "surb_reply")):
            if isinstance(command, kind) and any(isinstance(other, kind) for other in commands):
                raise SphinxError(f"{prefix}: invalid packet, > 1 {name}")
        commands.append(command)
    return tuple(commands)


def _next_element(element: bytes, keys: HopKeys, routing_info: bytes, geometry: Geometry) -> bytes:
    if geometry.kem_name:
        return routing_info[geometry.command_block_length : geometry.per_hop_routing_info_length]
    scheme = nike.by_name(geometry.nike_name)
    try:
        return scheme.blind(element, scheme.blinding_factor(keys.blinding_seed))
    except CryptoError:
        raise SphinxError("sphinx: invalid packet, low order group element") from None


def _open_payload(payload: bytes, commands: tuple[routing.Command, ...]) -> bytes:
    if len(payload) < PAYLOAD_TAG_LENGTH:
        raise SphinxError("sphinx: truncated payload")
    if any(isinstance(command, routing.SurbReply) for command in commands):
        return payload
    return _without_tag(payload)


def _without_tag(payload: bytes) -> bytes:
    if not hmac.compare_digest(payload[:PAYLOAD_TAG_LENGTH], bytes(PAYLOAD_TAG_LENGTH)):
        raise SphinxError("sphinx: payload auth failed")
    return payload[PAYLOAD_TAG_LENGTH:]


def unwrap_batch(keys: Sequence[bytes], packets: Sequence[bytes], geometry: Geometry) -> list[BatchResult]:
    """Each packet with the first key that unwraps it (spec: sphinx 12); see :data:`BatchResult`."""
    return [_unwrap_and_sort(keys, packet, geometry) for packet in packets]


def _unwrap_and_sort(keys: Sequence[bytes], packet: bytes, geometry: Geometry) -> BatchResult:
    if len(packet) != geometry.packet_length:
        return NO_KEY, None, routing.Kind.INVALID, f"invalid Sphinx packet size: {len(packet)}", None, None
    last_error = SphinxError("")
    for index, key in enumerate(keys):
        try:
            found = unwrap(key, packet, geometry)
        except SphinxError as error:
            last_error = error
            continue
        return _sort(index, found)
    return NO_KEY, last_error.replay_tag, routing.Kind.INVALID, str(last_error), None, None


def _sort(index: int, found: Unwrapped) -> BatchResult:
    try:
        wanted = routing.Routing.from_commands(found.commands)
    except SphinxError:
        return index, found.replay_tag, routing.Kind.REDUNDANT, routing.REDUNDANT_COMMAND, None, None
    match wanted.kind:
        case routing.Kind.FORWARD if wanted.next_hop is not None:
            return index, found.replay_tag, routing.Kind.FORWARD, wanted.next_hop.id, wanted.delay, found.next_packet
        case routing.Kind.TO_USER:
            return index, found.replay_tag, routing.Kind.TO_USER, wanted.recipient, wanted.delay, found.payload
        case routing.Kind.SURB_REPLY:
            return index, found.replay_tag, routing.Kind.SURB_REPLY, wanted.recipient, wanted.surb_id, found.payload
        case _:
            return index, found.replay_tag, routing.Kind.SENSELESS, routing.SENSELESS_COMMANDS, None, None


# SURBs


def new_surb(
    path: Sequence[PathHop], geometry: Geometry, random: IRandom, encapsulate: Encapsulate | None = None
) -> tuple[bytes, bytes]:
    """(SURB, its decryption keys) (spec: sphinx 10). Draws the payload key, then what :func:`build_header` draws."""
    check_path(path, geometry)
    payload_key = random.bytes(SPRP_KEY_MATERIAL_LENGTH)
    header = build_header(path, geometry, random, encapsulate)
    hop_keys = b"".join([keys.sprp_key + keys.iv for keys in reversed(header.keys)])
    return header.data + path[0].id + payload_key, hop_keys + payload_key


def packet_from_surb(surb: bytes, reply: bytes, geometry: Geometry) -> tuple[bytes, bytes]:
    """(packet, id of the node to hand it to); any reply length.

    :raises SphinxError: the SURB has the wrong length.
    """
    if len(surb) != geometry.surb_length:
        raise SphinxError("sphinx: invalid packet, truncated SURB")
    header, rest = surb[: geometry.header_length], surb[geometry.header_length :]
    key, iv = rest[NODE_ID_LENGTH : NODE_ID_LENGTH + SPRP_KEY_LENGTH], rest[-SPRP_IV_LENGTH:]
    return header + sprp_encrypt(key, iv, bytes(PAYLOAD_TAG_LENGTH) + reply), rest[:NODE_ID_LENGTH]


def check_reply(keys: bytes, payload: bytes) -> None:
    """The checks of :func:`decrypt_reply` on lengths."""
    if not keys or len(keys) % SPRP_KEY_MATERIAL_LENGTH:
        raise SphinxError("sphinx: invalid SURB decryption keys")
    if len(payload) < PAYLOAD_TAG_LENGTH:
        raise SphinxError("sphinx: truncated payload")


def decrypt_reply(keys: bytes, payload: bytes) -> bytes:
    """The reply in a payload that came out at the last hop, tag included; zero-padded as its sender padded it.

    :raises SphinxError: malformed keys, short payload, or a payload that is not for these keys.
    """
    check_reply(keys, payload)
    parts = [keys[at : at + SPRP_KEY_MATERIAL_LENGTH] for at in range(0, len(keys), SPRP_KEY_MATERIAL_LENGTH)]
    for part in parts[:-1]:
        payload = sprp_encrypt(part[:SPRP_KEY_LENGTH], part[SPRP_KEY_LENGTH:], payload)
    payload = sprp_decrypt(parts[-1][:SPRP_KEY_LENGTH], parts[-1][SPRP_KEY_LENGTH:], payload)
    return _without_tag(payload)
