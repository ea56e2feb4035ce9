"""PEM texts and key files."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.crypto import kem, keys, sign
from katzentwist.errors import ConfigError, KeyFileError
from katzentwist.node import keyfiles
from katzentwist.randomness import SeededRandom
from tests import vectorfiles
from tests.vectorfiles import unhex


def scheme_of(case):
    """The scheme object of a pem vector; x25519 as NIKE and as KEM share their texts."""
    return sign.by_name(case["scheme"]) if case["kind"].startswith("sign") else kem.by_name(case["scheme"])


class PemTests(SynchronousTestCase):
    """Texts against the vectors, and what is refused."""

    def test_vectors(self) -> None:
        """Texts are reproduced to the letter, read back, and hash to the identity."""
        counted = 0
        for case in vectorfiles.load("link")["pem"]:
            binary = unhex(case["binary"])
            if not binary:
                kind, _ = keys.first_block(case["pem"])
                self.assertEqual(kind, f"{case['scheme'].upper()} {case['kind'].split()[1].upper()} KEY")
                continue
            scheme = scheme_of(case)
            public = case["kind"].endswith("public")
            encode, decode = (
                (keys.encode_public, keys.decode_public) if public else (keys.encode_private, keys.decode_private)
            )
            self.assertEqual(encode(scheme, binary), case["pem"])
            self.assertEqual(decode(scheme, case["pem"]), binary)
            if "hash" in case:
                self.assertEqual(keys.identity_hash(binary).hex(), case["hash"])
            counted += 1
        self.assertTrue(counted >= 10)

    def test_first_block(self) -> None:
        """Text before the first block is skipped; a second block is not looked at; the type's case does not matter."""
        scheme = kem.by_name("x25519")
        one, two = bytes([1] * 32), bytes([2] * 32)
        text = "# a note\n" + keys.encode_public(scheme, one) + keys.encode_public(scheme, two)
        self.assertEqual(keys.decode_public(scheme, text), one)
        self.assertEqual(keys.decode_public(scheme, text.replace("\n", "\r\n")), one)
        self.assertEqual(keys.decode_public(scheme, text.replace("X25519", "x25519")), one)
        error = self.assertRaises(
            KeyFileError, keys.decode_public, scheme, keys.encode_private(scheme, one) + keys.encode_public(scheme, two)
        )
        self.assertIn("X25519 PUBLIC KEY", str(error))

    def test_refused(self) -> None:
        """No block, no end, bad base64, a wrong size, another scheme, and zeros."""
        scheme, text = kem.by_name("x25519"), keys.encode_public(kem.by_name("x25519"), bytes([7] * 32))
        for bad in ("", "hello", text.replace("END", "FIN"), text.replace("Bw", "B*"), text.replace("Bw", "", 1)):
            self.assertRaises(KeyFileError, keys.decode_public, scheme, bad)
        self.assertRaises(KeyFileError, keys.decode_public, kem.by_name("XWING"), text)
        self.assertRaises(KeyFileError, keys.encode_public, scheme, bytes(32))
        self.assertRaises(KeyFileError, keys.encode_private, scheme, bytes(31))

    def test_any_text(self) -> None:
        """Any text gives a key or our error."""

        @given(st.one_of(st.text(), st.text().map(lambda t: f"-----BEGIN A-----\n{t}\n-----END A-----")))
        def check(text: str) -> None:
            with contextlib.suppress(KeyFileError):
                keys.decode_public(kem.by_name("x25519"), text)

        check()


class DataDirTests(SynchronousTestCase):
    """The data directory's rules."""

    def test_made_private(self) -> None:
        """A missing directory is made with mode 0700, whatever the umask."""
        path = Path(self.mktemp()).absolute()
        before = os.umask(0o277)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            keyfiles.prepare_data_dir(str(path))
        finally:
            os.umask(before)
        self.assertEqual(path.stat().st_mode & 0o7777, 0o700)
        keyfiles.prepare_data_dir(str(path))

    def test_refused(self) -> None:
        """A relative path, an open mode, a file, a missing parent: each with a remedy."""
        self.assertIn("absolute", str(self.assertRaises(ConfigError, keyfiles.prepare_data_dir, "data")))
        path = Path(self.mktemp()).absolute()
        path.mkdir(mode=0o755)
        path.chmod(0o755)
        self.assertIn("chmod 700", str(self.assertRaises(ConfigError, keyfiles.prepare_data_dir, str(path))))
        (path / "file").write_text("")
        self.assertRaises(ConfigError, keyfiles.prepare_data_dir, str(path / "file"))
        self.assertRaises(ConfigError, keyfiles.prepare_data_dir, str(path / "no" / "such"))


class KeyFileTests(SynchronousTestCase):
    """Load or create a pair."""

    def setUp(self) -> None:
        path = Path(self.mktemp()).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.folder = keyfiles.prepare_data_dir(str(path))
        self.scheme = sign.by_name("Ed25519")

    def load(self, seed: int = 1) -> keyfiles.KeyPair:
        return keyfiles.load_or_create(self.folder, "identity", self.scheme, SeededRandom(seed))

    def error(self) -> str:
        return str(self.assertRaises(KeyFileError, self.load))

    def test_create_then_load(self) -> None:
        """The first call makes both files with mode 0600; the second reads the same pair; nothing else is left."""
        pair = self.load()
        names = sorted(p.name for p in self.folder.iterdir())
        self.assertEqual(names, ["identity.private.pem", "identity.public.pem"])
        for path in self.folder.iterdir():
            self.assertEqual(path.stat().st_mode & 0o7777, 0o600)
        self.assertEqual(self.load(2), pair)
        self.assertNotIn(repr(pair.private), repr(pair))

    def test_exactly_one(self) -> None:
        """One file alone is refused, and the message names both."""
        for name in ("identity.private.pem", "identity.public.pem"):
            self.load()
            (self.folder / name).unlink()
            message = self.error()
            self.assertIn(name, message)
            self.assertIn("backup", message)
            for path in self.folder.iterdir():
                path.unlink()

    def test_other_pair(self) -> None:
        """A public file of another pair is refused."""
        self.load()
        _, public = self.scheme.generate(SeededRandom(9))
        keyfiles.write_file(self.folder / "identity.public.pem", keys.encode_public(self.scheme, public))
        self.assertIn("does not belong", self.error())

    def test_damage(self) -> None:
        """Damaged, foreign and unreadable files are named."""
        self.load()
        private = self.folder / "identity.private.pem"
        private.write_text("nonsense")
        self.assertIn(str(private), self.error())
        private.unlink()
        private.mkdir()
        self.assertIn(str(private), self.error())

    def test_write_fails(self) -> None:
        """A folder that vanished is our error."""
        self.assertRaises(KeyFileError, keyfiles.write_file, self.folder / "gone" / "x.pem", "text")

    def test_full_disk(self) -> None:
        """A file that can not be written whole leaves no part of it."""

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        self.patch(keyfiles.os, "fsync", full)
        self.assertIn("No space left", self.error())
        self.assertEqual(list(self.folder.iterdir()), [])
