"""``keyserver``: identity keys of users, by name (spec: provider 6.2).

=========  ====================================================================
request    ``{"Version": 0, "User": "<name>"}``, trailing zero bytes removed
response   ``{"PublicKey":"...","StatusCode":n,"User":"...","Version":0}``
=========  ====================================================================

Codes: 0 found, 1 not understood or the database failed, 2 no such user or no identity key.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from twisted.internet.defer import Deferred
from zope.interface import implementer

from katzentwist.config.names import MAX_NAME
from katzentwist.errors import NoIdentityError, NoSuchUserError, StoreError
from katzentwist.interfaces import IKaetzchen, IUserDB

FOUND, SYNTAX, UNKNOWN = 0, 1, 2
_SHORT: Final = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPED: Final = "<>&\u2028\u2029"


@implementer(IKaetzchen)
class KeyServer:
    """Looks users up in the node's own database; names are taken as they are given."""

    def __init__(self, users: IUserDB) -> None:
        self._users = users

    async def answer(self, payload: bytes) -> bytes:
        """The response to a request."""
        try:
            name = parse_request(payload.rstrip(b"\0"))
        except (ValueError, RecursionError):  # the latter for a request of nothing but brackets
            return response(SYNTAX, "", "")
        user = name.encode("utf-8", "surrogateescape")
        if not 1 <= len(user) <= MAX_NAME:
            return response(UNKNOWN, name, "")
        try:
            key = await self._users.identity(user)
        except (NoSuchUserError, NoIdentityError):
            return response(UNKNOWN, name, "")
        except StoreError:
            return response(SYNTAX, name, "")
        return response(FOUND, name, base64.b64encode(key).decode("ascii"))

    def handle(self, payload: bytes, has_surb: bool) -> Any:
        """The reply; nothing without a SURB."""
        return Deferred.fromCoroutine(self.answer(payload)) if has_surb else None

    def parameters(self) -> dict[str, Any]:
        """Nothing beside the endpoint."""
        return {}


def parse_request(raw: bytes) -> str:
    """The user name of a request.

    :raises ValueError: not such a request.
    """
    text = raw.decode("utf-8", "surrogateescape")
    value, _ = json.JSONDecoder(object_pairs_hook=_members).raw_decode(text.lstrip(" \t\r\n"))
    if not isinstance(value, _Members):
        raise ValueError("not an object")
    name: Any = ""
    for key, member in value.pairs:
        if key == "Version":
            if member is not None and (isinstance(member, bool) or not isinstance(member, int) or member != 0):
                raise ValueError("wrong version")
        elif key == "User":
            if member is not None:
                name = member
        else:
            raise ValueError(f"unknown member {key!r}")
    if not isinstance(name, str):
        raise ValueError("User is not a text")
    # Escapes of half a pair are no bytes of the request.
    return "".join("\ufffd" if "\ud800" <= c < "\udc80" or "\udcff" < c <= "\udfff" else c for c in name)


class _Members:
    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


def _members(pairs: list[tuple[str, Any]]) -> _Members:
    return _Members(pairs)


def response(code: int, user: str, key: str) -> bytes:
    """The bytes of a response; the order of members and the escapes are those that old clients know."""
    text = f'{{"PublicKey":{_quoted(key)},"StatusCode":{code},"User":{_quoted(user)},"Version":0}}'
    return text.encode("utf-8")


def _quoted(text: str) -> str:
    out = []
    for c in text:
        if c in _SHORT:
            out.append(_SHORT[c])
        elif c < " " or c in _ESCAPED:
            out.append(f"\\u{ord(c):04x}")
        elif "\ud800" <= c <= "\udfff":  # a byte that is not UTF-8
            out.append("\\uFFFD")
        else:
            out.append(c)
    return f'"{"".join(out)}"'
