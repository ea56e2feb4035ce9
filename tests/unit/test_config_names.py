"""Names and keys as text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config.common import parse_key
from katzentwist.config.names import canonical_user, check_endpoint, command_user, normalize_identifier
from katzentwist.crypto import kem
from katzentwist.errors import ConfigError
from tests.vectorfiles import load, unhex

XWING = kem.by_name("XWING")


class UserNameTests(SynchronousTestCase):
    """provider 2.1."""

    def test_vectors(self) -> None:
        """Canonical names, and which names a command may hold."""
        for case in load("provider")["canonical"]:
            raw = unhex(case["name_hex"])
            want = None if case["canonical_hex"] is None else unhex(case["canonical_hex"])
            self.assertEqual(canonical_user(raw), want, case)
            if "command_ok" in case:
                self.assertEqual(
                    command_user(raw.decode("utf-8", "surrogateescape")) is not None, case["command_ok"], case
                )

    @given(st.binary(max_size=70))
    def test_total(self, raw: bytes) -> None:
        """Any bytes have a name of 1 to 32 bytes or none, and names are fixed points."""
        name = canonical_user(raw)
        if name is not None:
            self.assertTrue(1 <= len(name) <= 32)
            self.assertEqual(canonical_user(name), name)


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
