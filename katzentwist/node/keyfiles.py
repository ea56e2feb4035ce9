"""The data directory and the key files in it (spec: link 4.3). Every error names the file and the remedy."""

from __future__ import annotations

import contextlib
import hmac
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import attrs

from katzentwist.crypto import keys
from katzentwist.errors import ConfigError, CryptoError, KeyFileError
from katzentwist.randomness import IRandom

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
UNFINISHED = ".new"
"""How the hidden file ends into which a file is written first."""


class PairScheme(keys.KeyScheme, Protocol):
    """A scheme that can make and check key pairs: a KEM or a signature scheme."""

    def generate(self, random: IRandom) -> tuple[bytes, bytes]:
        """A new (private, public)."""

    def check_private(self, private: bytes) -> bytes:
        """The public key of a private key."""


@attrs.frozen
class KeyPair:
    """A serialised key pair."""

    private: bytes = attrs.field(repr=False)
    public: bytes


def prepare_data_dir(path: str, key: str = "Server.DataDir") -> Path:
    """The data directory: made with mode 0700 if missing, refused if it is open to others.

    :raises ConfigError: under the path *key*.
    """
    folder = Path(path)
    if not folder.is_absolute():
        raise ConfigError(f"{path!r} is not an absolute path; write the full path", key)
    try:
        folder.mkdir(mode=DIRECTORY_MODE)
        folder.chmod(DIRECTORY_MODE)  # the umask may have taken bits away
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(f"can not make {path}: {error.strerror}; make its parent folder first", key) from error
    try:
        found = folder.lstat()  # a link is no directory (spec: node 1.2)
    except OSError as error:
        raise ConfigError(f"can not look at {path}: {error.strerror}", key) from error
    if not stat.S_ISDIR(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "not a directory"
        raise ConfigError(f"{path} is {kind}; write the path of a directory", key)
    mode = stat.S_IMODE(found.st_mode)
    if mode != DIRECTORY_MODE:
        raise ConfigError(f"{path} has mode {mode:04o}, it must be 0700; run: chmod 700 {path}", key)
    return folder


def load_or_create(data_dir: Path, stem: str, scheme: PairScheme, random: IRandom) -> KeyPair:
    """The pair in ``STEM.private.pem`` and ``STEM.public.pem``; made and saved when neither file is there.

    :raises KeyFileError: only one file exists, one can not be read or does not hold the configured scheme's key, or the
        two do not belong together.
    """
    private_file, public_file = data_dir / f"{stem}.private.pem", data_dir / f"{stem}.public.pem"
    there = [path for path in (private_file, public_file) if os.path.lexists(path)]
    if not there:
        pair = KeyPair(*scheme.generate(random))
        write_file(private_file, keys.encode_private(scheme, pair.private))
        write_file(public_file, keys.encode_public(scheme, pair.public))
        return pair
    if len(there) == 1:
        missing = public_file if there[0] == private_file else private_file
        raise KeyFileError(
            f"{there[0]} exists but {missing} does not; restore {missing.name} from a backup, or remove "
            f"{there[0].name} to have a new pair made"
        )
    private = read_private(private_file, scheme)
    public = read_public(public_file, scheme)
    if not hmac.compare_digest(scheme.check_private(private), public):
        raise KeyFileError(f"{public_file} does not belong to {private_file}; restore both from one backup")
    return KeyPair(private, public)


def read_private(path: Path, scheme: PairScheme) -> bytes:
    """A private key file, its public part checked.

    :raises KeyFileError: naming the file.
    """
    with _naming(path):
        private = keys.decode_private(scheme, _text(path))
        scheme.check_private(private)
        return private


def read_public(path: Path, scheme: keys.KeyScheme) -> bytes:
    """A public key file.

    :raises KeyFileError: naming the file.
    """
    with _naming(path):
        return keys.decode_public(scheme, _text(path))


def write_file(path: Path, text: str) -> None:
    """Write *text* with mode 0600 so that a crash leaves either nothing or the whole file.

    :raises KeyFileError: the file can not be written.
    """
    write_bytes(path, [text.encode("ascii")])


def write_bytes(path: Path, pieces: Iterable[bytes]) -> None:
    """Write *pieces* one after the other, as :func:`write_file` does."""
    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, FILE_MODE)
            file.writelines(pieces)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):  # on a full disk a part of it would stay, of a key perhaps
            temporary.unlink()
        raise KeyFileError(f"can not write {path}: {error.strerror}") from error


def _text(path: Path) -> str:
    return path.read_bytes().decode("ascii", "replace")


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Give every error the name of the file."""
    try:
        yield
    except OSError as error:
        raise KeyFileError(f"can not read {path}: {error.strerror}; check its owner and mode (0600)") from error
    except CryptoError as error:
        raise KeyFileError(f"{path}: {error}; is the configured scheme the one the key was made for?") from error
