"""Mix keys: one key pair per epoch, with the tags seen under it (spec: node 3)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from katzentwist.crypto import kem, nike
from katzentwist.crypto.kem import Kem
from katzentwist.crypto.nike import Nike
from katzentwist.errors import ConfigError, CryptoError
from katzentwist.mix.replay import KEY_SIZE, ReplaySet, new_replay_set
from katzentwist.node.keyfiles import UNFINISHED, write_bytes
from katzentwist.randomness import IRandom
from katzentwist.sphinx import Geometry

AHEAD: Final = 2
"""A descriptor for epoch e carries the keys of e .. e + AHEAD."""
MOST_TAGS: Final = 1 << 26
"""Packets under one key, at most 0.8 GB of memory: 56,000 per second for an epoch of 20 minutes. A key that has seen
so many unwraps nothing more: to forget tags would open the door to replays."""
MAGIC: Final = b"KMK1"
KIND_NIKE, KIND_KEM = 0, 1


@attrs.frozen
class MixKey:
    """The key pair of one epoch."""

    epoch: int
    private: bytes = attrs.field(repr=False)
    public: bytes
    seen: ReplaySet = attrs.field(repr=False)


class MixKeys:
    """The keys of one half.

    :param geometry: says which scheme the keys are of.
    """

    def __init__(self, geometry: Geometry, random: IRandom) -> None:
        self._scheme: Nike | Kem = (
            nike.by_name(geometry.nike_name) if geometry.nike_name else kem.by_name(geometry.kem_name)
        )
        self._random = random
        self._keys: dict[int, MixKey] = {}

    def __contains__(self, epoch: int) -> bool:
        return epoch in self._keys

    def generate(self, epoch: int) -> bool:
        """Make the missing keys of *epoch* .. *epoch* + 2; True if any was made."""
        missing = [e for e in range(epoch, epoch + AHEAD + 1) if e not in self._keys]
        for e in missing:
            private, public = self._scheme.generate(self._random)
            self._keys[e] = MixKey(e, private, public, new_replay_set(self._random))
        return bool(missing)

    def prune(self, now: int) -> None:
        """Forget keys of epochs before now - 1."""
        for old in [e for e in self._keys if e < now - 1]:
            del self._keys[old]

    def public(self, epoch: int) -> Mapping[int, bytes]:
        """What the descriptor for *epoch* says."""
        return {e: self._keys[e].public for e in range(epoch, epoch + AHEAD + 1)}

    def candidates(self, now: int) -> list[MixKey]:
        """The keys to try, in order: now, the one before, the next (spec: node 3.2); empty without a key for now.

        Keys that have seen :data:`MOST_TAGS` packets are left out.
        """
        if now not in self._keys:
            return []
        held = [self._keys[e] for e in (now, now - 1, now + 1) if e in self._keys]
        return [key for key in held if len(key.seen) < MOST_TAGS]

    def tags(self) -> int:
        """Packets that all keys have seen."""
        return sum(len(key.seen) for key in self._keys.values())

    # Persistence over a clean restart (spec: node 3.5) --------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write every key with its replay tags; each file whole or not at all.

        :raises CryptoError: a file can not be written.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for key in self._keys.values():
            kind = KIND_NIKE if isinstance(self._scheme, Nike) else KIND_KEM
            write_bytes(_tag_file(folder, key.epoch), [key.seen.key, *key.seen.dump()])
            write_bytes(_key_file(folder, key.epoch), [MAGIC, bytes([kind]), key.private])

    def load(self, folder: Path, now: int) -> list[int]:
        """Take over the keys of now .. now + 2 and delete every file; the epochs that were found.

        A key is deleted from disk before it is used, and so is what a save left that was cut short: a crash leaves none
        behind.

        :raises ConfigError: a file is damaged or can not be deleted.
        """
        found = []
        for path in sorted(folder.glob("mixkey-*.bin")) if folder.is_dir() else ():
            text = path.name.removeprefix("mixkey-").removesuffix(".bin")
            epoch = int(text) if text.isdigit() else -1
            try:
                body = path.read_bytes()
                path.unlink()
                tags = _tag_file(folder, epoch)
                entries = b""
                with contextlib.suppress(FileNotFoundError):
                    entries = tags.read_bytes()
                    tags.unlink()
            except OSError as e:
                raise ConfigError(
                    f"persisted mix key {path}: {e.strerror}; remove it", "Server.PersistMixKeysOnShutdown"
                ) from e
            if now <= epoch <= now + AHEAD:
                self._keys[epoch] = self._restored(path, epoch, body, entries)
                found.append(epoch)
        with contextlib.suppress(OSError):
            for leftover in (*folder.glob("mixkey-*.tags"), *folder.glob(f".mixkey-*{UNFINISHED}")):
                leftover.unlink()
        return found

    def _restored(self, path: Path, epoch: int, body: bytes, entries: bytes) -> MixKey:
        kind = KIND_NIKE if isinstance(self._scheme, Nike) else KIND_KEM
        private = body[len(MAGIC) + 1 :]
        if body[: len(MAGIC)] != MAGIC or body[len(MAGIC) : len(MAGIC) + 1] != bytes([kind]):
            raise ConfigError(f"mixkey: persisted key file for epoch {epoch} has the wrong format: {path}")
        try:
            public = (
                self._scheme.public(private) if isinstance(self._scheme, Nike) else self._scheme.check_private(private)
            )
        except CryptoError as e:
            raise ConfigError(
                f"mixkey: persisted key file for epoch {epoch} is truncated or damaged: {path}: {e}"
            ) from e
        seen = new_replay_set(self._random, entries[:KEY_SIZE] if len(entries) >= KEY_SIZE else None)
        seen.restore(entries[KEY_SIZE:])
        return MixKey(epoch, private, public, seen)

    def wipe(self) -> None:
        """Forget all keys."""
        self._keys.clear()


def default_folder(node_id: bytes) -> Path:
    """Where keys wait for the next start when the operator names no folder: memory, where there is such a folder."""
    return Path("/dev/shm") / f"katzenpost-mixkeys-{node_id.hex()}"  # noqa: S108


def _key_file(folder: Path, epoch: int) -> Path:
    return folder / f"mixkey-{epoch}.bin"


def _tag_file(folder: Path, epoch: int) -> Path:
    return folder / f"mixkey-{epoch}.tags"


def prepare_folder(folder: Path) -> None:
    """Make the folder for :meth:`MixKeys.save`, so that what is in its way is told at the start and not at the stop.

    :raises ConfigError: it can not be made or written, or is open to others.
    """
    key = "Server.PersistMixKeysOnShutdownDir"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as e:
        raise ConfigError(f"can not make the folder {folder}: {e.strerror}; choose another", key) from e
    if status.st_mode & 0o077 or status.st_uid != os.getuid():
        raise ConfigError(f"{folder} is open to others; run: chmod 700 {folder}", key)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"can not write to {folder}; run: chmod 700 {folder}, or choose another", key)
