"""Names and keys as text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config.common import parse_key
from katzentwist.config.names import UserNames, check_endpoint, normalize_identifier
from katzentwist.crypto import kem
from katzentwist.errors import ConfigError
from tests.vectorfiles import load, unhex

NAMES = UserNames()
XWING = kem.by_name("XWING")


class UserNameTests(SynchronousTestCase):
    """provider 2.1."""

    def test_vectors(self) -> None:
        """Canonical names, and which names a command may hold."""
        for case in load("provider")["canonical"]:
            raw = unhex(case["name_hex"])
            want = None if case["canonical_hex"] is None else unhex(case["canonical_hex"])
            self.assertEqual(NAMES.canonical(raw), want, case)
            if "command_ok" in case:
                self.assertEqual(
                    NAMES.of_command(raw.decode("utf-8", "surrogateescape")) is not None, case["command_ok"], case
                )

    @given(st.binary(max_size=70))
    def test_total(self, raw: bytes) -> None:
        """Any bytes have a name of 1 to 32 bytes or none, and names are fixed points."""
        name = NAMES.canonical(raw)
        if name is not None:
            self.assertTrue(1 <= len(name) <= 32)
            self.assertEqual(NAMES.canonical(name), name)

    def test_case_sensitive(self) -> None:
        """CaseSensitiveRecipients: letters stay as they are, the rest of PRECIS holds."""
        names = UserNames(case_sensitive=True)
        self.assertEqual(names.canonical(b"Alice\0\0"), b"Alice")
        self.assertEqual(names.canonical("\uff21lice".encode()), b"Alice")
        self.assertEqual(names.of_command("Alice"), b"Alice")
        self.assertIsNone(names.of_command("Al ice"))

    def test_binary(self) -> None:
        """BinaryRecipients: any 1 to 32 bytes, zeros at the end included, but not zeros alone."""
        names = UserNames(binary=True)
        for name in (b"Alice", b"Alice\0", b"\xff" * 32, b"a b"):
            self.assertEqual(names.canonical(name), name)
        for name in (b"", bytes(32), b"x" * 33, b"x".ljust(33, b"\0")):
            self.assertIsNone(names.canonical(name))
        self.assertEqual(names.of_command("A b"), b"A b")
        self.assertIsNone(names.of_command(""))

    def test_delimiter(self) -> None:
        """RecipientDelimiter: cuts recipient ids at its first place unless that is the start; no names of clients."""
        names = UserNames(delimiter="+")
        for recipient, user in ((b"Alice+news", b"alice"), (b"a+b+c", b"a"), (b"+echo", b"+echo"), (b"bob", b"bob")):
            self.assertEqual(names.of_recipient(recipient.ljust(32, b"\0")), user)
        self.assertEqual(names.canonical(b"alice+news"), b"alice+news")
        self.assertEqual(UserNames(delimiter="--").of_recipient(b"a-b--c-"), b"a-b")
        self.assertIsNone(names.of_recipient(bytes(32)))


class ParseKeyTests(SynchronousTestCase):
    """provider 2.2."""

    def test_vectors(self) -> None:
        """Hex, base64, and what is neither."""
        for case in load("provider")["parse_key"]:
            scheme = XWING if "BEGIN XWING" in case["text"] else None
            if case["key_hex"] is None:
                self.assertRaises(ConfigError, parse_key, case["text"], (case["size"],), scheme)
            else:
                self.assertEqual(parse_key(case["text"], (case["size"],), scheme), unhex(case["key_hex"]), case)

    @given(st.text(max_size=100))
    def test_total(self, text: str) -> None:
        """Any text gives a key or our error."""
        try:
            self.assertEqual(len(parse_key(text, (32,))), 32)
        except ConfigError:
            pass


class IdentifierTests(SynchronousTestCase):
    """node 2.1 and 7.1."""

    @given(st.text(max_size=60))
    def test_total(self, text: str) -> None:
        """Any text gives an ASCII name of at most 32 bytes or our error."""
        try:
            self.assertLessEqual(len(normalize_identifier(text).encode("ascii")), 32)
        except ConfigError:
            pass

    @given(st.text(max_size=60))
    def test_endpoints_are_total(self, text: str) -> None:
        """Any text is an endpoint or gives our error."""
        try:
            check_endpoint("x", text)
        except ConfigError:
            pass
