"""The keyserver (provider 6.2), against a user database in memory."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.errors import NoIdentityError, NoSuchUserError, StoreError
from katzentwist.plugins.builtin.keyserver import KeyServer
from tests.vectorfiles import load, unhex


class Users:
    """Names and identity keys."""

    def __init__(self, keys: dict[bytes, bytes]) -> None:
        self.keys = keys
        self.broken = False

    def identity(self, user: bytes) -> Deferred[bytes]:
        """As IUserDB."""
        if self.broken:
            return fail(StoreError("away"))
        if user not in self.keys:
            return fail(NoSuchUserError("no such user"))
        return succeed(self.keys[user]) if self.keys[user] else fail(NoIdentityError("no identity"))


class KeyServerTests(SynchronousTestCase):
    """Requests and responses."""

    def setUp(self) -> None:
        """The users of the vectors."""
        self.users = Users({u["Name"].encode(): unhex(u["IdHex"]) for u in load("provider")["users"]})
        self.server = KeyServer(self.users)  # type: ignore[arg-type]

    def ask(self, request: bytes, has_surb: bool = True) -> Any:
        """The response."""
        answer = self.server.handle(request, has_surb)
        return answer if answer is None else self.successResultOf(answer)

    def test_vectors(self) -> None:
        """The exact bytes; for lenient cases code 1 is as good."""
        for case in load("provider")["keyserver"]:
            request = unhex(case["request_hex"]) if "request_hex" in case else case["request"].encode()
            got = self.ask(request, has_surb=not case.get("no_surb"))
            expected = None if case["response"] is None else case["response"].encode()
            if case.get("lenient") and got != expected:
                self.assertEqual(json.loads(got)["StatusCode"], 1, case)
            else:
                self.assertEqual(got, expected, case)

    def test_database_failure(self) -> None:
        """Code 1, and the name as it was asked."""
        self.users.broken = True
        self.assertEqual(json.loads(self.ask(b'{"User":"alice"}'))["StatusCode"], 1)
        self.assertEqual(json.loads(self.ask(b'{"User":"alice"}'))["User"], "alice")

    def test_deep_nesting(self) -> None:
        """It is not understood, and nothing worse."""
        for opening in (b"[", b'{"User":'):
            self.assertEqual(json.loads(self.ask(opening * (2000 // len(opening))))["StatusCode"], 1)

    @given(st.binary(max_size=100) | st.text(max_size=60).map(lambda t: json.dumps({"User": t}).encode()))
    def test_any_request(self, request: bytes) -> None:
        """Any bytes get a response that is JSON."""
        self.assertEqual(json.loads(self.ask(request)).keys(), {"PublicKey", "StatusCode", "User", "Version"})
