"""Keys as PEM texts, and the identity hash (spec: link 4.2, 4.3). Text in, bytes out; files are node/keyfiles.py's.

One block: ``-----BEGIN T-----``, base64 in lines of 64 characters, ``-----END T-----``, where T is the scheme's name in
upper case, a blank, and ``PUBLIC KEY`` or ``PRIVATE KEY``.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Protocol

from katzentwist.crypto.hash import blake2b_256
from katzentwist.errors import KeyFileError

_BEGIN = re.compile(r"^-----BEGIN ([^\r\n]*?)-----[ \t]*\r?$", re.MULTILINE)
_LINE = 64


class KeyScheme(Protocol):
    """What a KEM, a NIKE and a signature scheme have in common."""

    @property
    def name(self) -> str:
        """The canonical name."""

    @property
    def public_key_size(self) -> int:
        """Bytes of a public key."""

    @property
    def private_key_size(self) -> int:
        """Bytes of a serialised private key."""


def identity_hash(public: bytes) -> bytes:
    """H256 of the raw public key: node id, topology key, and AD of the handshake."""
    return blake2b_256(public)


def encode_public(scheme: KeyScheme, public: bytes) -> str:
    """The PEM text of a public key.

    :raises KeyFileError: wrong size, or all zero.
    """
    return _encode(f"{scheme.name.upper()} PUBLIC KEY", public, scheme.public_key_size)


def encode_private(scheme: KeyScheme, private: bytes) -> str:
    """The PEM text of a private key.

    :raises KeyFileError: wrong size, or all zero.
    """
    return _encode(f"{scheme.name.upper()} PRIVATE KEY", private, scheme.private_key_size)


def decode_public(scheme: KeyScheme, text: str) -> bytes:
    """The key in the first PEM block of *text*.

    :raises KeyFileError: no block, another type than the configured scheme's, bad base64, wrong size, all zero.
    """
    return _decode(f"{scheme.name.upper()} PUBLIC KEY", text, scheme.public_key_size)


def decode_private(scheme: KeyScheme, text: str) -> bytes:
    """As :func:`decode_public`, for a private key. Whether its public part fits is the scheme's ``check_private``."""
    return _decode(f"{scheme.name.upper()} PRIVATE KEY", text, scheme.private_key_size)


def first_block(text: str) -> tuple[str, bytes]:
    """(type in upper case, binary) of the first PEM block; text around it is skipped.

    :raises KeyFileError: there is none, or it is damaged.
    """
    begin = _BEGIN.search(text)
    if begin is None:
        raise KeyFileError("no PEM block found (a line -----BEGIN ...----- is expected)")
    kind = begin.group(1)
    end = text.find(f"\n-----END {kind}-----", begin.end())
    if end < 0:
        raise KeyFileError(f"the PEM block {kind!r} has no end line")
    try:
        binary = base64.b64decode("".join(text[begin.end() : end].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise KeyFileError(f"the PEM block {kind!r} is not valid base64") from error
    return kind.upper(), binary


def _encode(kind: str, binary: bytes, size: int) -> str:
    _check(kind, binary, size)
    text = base64.b64encode(binary).decode("ascii")
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    return "\n".join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----", ""])


def _decode(kind: str, text: str, size: int) -> bytes:
    found, binary = first_block(text)
    if found != kind:
        raise KeyFileError(f"the PEM block is a {found!r}; the configured scheme needs a {kind!r}")
    _check(kind, binary, size)
    return binary


def _check(kind: str, binary: bytes, size: int) -> None:
    if len(binary) != size:
        raise KeyFileError(f"a {kind!r} has {size} bytes, not {len(binary)}")
    if not any(binary):
        raise KeyFileError(f"the {kind!r} is all zero")
