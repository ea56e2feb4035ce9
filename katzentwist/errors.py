"""The exceptions of katzentwist: one root, one branch per part.

Cores and formats raise these and nothing else on bad input, whatever the input is; the layer above turns one into a log
line, a count and a hang-up.
"""

from __future__ import annotations


class KatzentwistError(Exception):
    """Root of all errors of this package."""


class CryptoError(KatzentwistError):
    """A primitive refused its input: wrong length, low-order point, bad ciphertext, bad signature."""


class KeyFileError(CryptoError):
    """A PEM text or key file is not what the configured scheme expects."""


class SphinxError(KatzentwistError):
    """A packet, SURB, path or geometry is invalid.

    :ivar replay_tag: the packet's replay tag where unwrapping had got far enough to know it, else None.
    """

    def __init__(self, message: str, replay_tag: bytes | None = None) -> None:
        super().__init__(message)
        self.replay_tag = replay_tag


class WireError(KatzentwistError):
    """The link session can not go on."""


class HandshakeError(WireError):
    """The handshake failed: wrong version, bad tag, refused key."""


class AuthenticationError(HandshakeError):
    """The peer is not who it must be."""


class CommandError(WireError):
    """A command is malformed or not legal on this session."""


class PKIError(KatzentwistError):
    """A certificate, descriptor or document is invalid, or not to be had."""


class StoreError(KatzentwistError):
    """A database can not do what was asked."""


class SpoolFullError(StoreError):
    """There is no room for another message; the database is well."""


class NoSuchUserError(StoreError):
    """The user is not in the database."""


class NoIdentityError(StoreError):
    """The user has no identity key."""


class UserExistsError(StoreError):
    """The user is in the database already."""


class PluginError(KatzentwistError):
    """A plugin process broke its protocol."""


class ConfigError(KatzentwistError):
    """One mistake in a configuration file.

    :ivar path: the key path, for example ``Server.Addresses``; empty when the whole file is meant.
    """

    LONGEST = 2000
    """Characters of a message; one may quote what the file says."""

    def __init__(self, message: str, path: str = "") -> None:
        text = f"{path}: {message}" if path else message
        super().__init__(text if len(text) <= self.LONGEST else f"{text[: self.LONGEST]}...")
        self.path = path


class ConfigErrors(ConfigError):
    """All mistakes of one configuration file, one line each."""

    def __init__(self, errors: list[ConfigError]) -> None:
        super().__init__("")
        self.args = ("\n".join(str(e) for e in errors),)
        self.errors = errors
