"""The seams between layers, as zope interfaces. Methods that touch a database return Deferreds."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from zope.interface import Interface


@attrs.frozen
class SpoolEntry:
    """A message that waits for a user; *surb_id* is None for a plain message.

    :ivar number: what the database calls it; None where it has no names for entries.
    """

    message: bytes = attrs.field(repr=False)
    surb_id: bytes | None
    number: int | None = attrs.field(default=None, eq=False)


class ISpool(Interface):
    """Messages that wait, a queue per user (spec: provider 4.1). User names are canonical, 1 to 32 bytes.

    All methods raise StoreError (in the Deferred) when the database fails.
    """

    def open() -> Deferred[None]:
        """Open the database."""

    def store_message(user: bytes, message: bytes) -> Deferred[None]:
        """Append a plain message; on disk when it fires."""

    def store_surb_reply(user: bytes, surb_id: bytes, message: bytes) -> Deferred[None]:
        """Append a SURB reply; on disk when it fires."""

    def get(user: bytes, advance: bool) -> Deferred[tuple[SpoolEntry | None, int]]:
        """The first entry and 1 if more follow, else 0; with *advance*, delete the first one before."""

    def advance(user: bytes, entry: SpoolEntry) -> Deferred[tuple[SpoolEntry | None, int]]:
        """Delete the first entry if it is *entry*, got before; the new first entry and 1 if more follow, else 0.

        Unlike ``get(user, True)`` it may be repeated when it is not known whether the last try arrived.
        """

    def remove(user: bytes) -> Deferred[None]:
        """Delete the queue of a user; an unknown user is fine."""

    def vacuum(keep: Any) -> Deferred[None]:
        """Delete the queues of all users but those in the set *keep*."""

    def users() -> Deferred[list[bytes]]:
        """The users who have a queue."""

    def close() -> Deferred[None]:
        """Close the database."""


class IUserDB(Interface):
    """Users with their keys (spec: provider 2.3). Names are canonical.

    All methods raise StoreError (in the Deferred) when the database fails; NoSuchUserError, NoIdentityError and
    UserExistsError are the distinguishable ones.
    """

    def open() -> Deferred[None]:
        """Open the database."""

    def exists(user: bytes) -> Deferred[bool]:
        """Whether the user has a link key."""

    def is_valid(user: bytes, link_key: bytes) -> Deferred[bool]:
        """Whether the user exists with this link key."""

    def add(user: bytes, link_key: bytes, update: bool = False, ephemeral: bool = False) -> Deferred[None]:
        """Create a user, or with *update* replace the link key of an existing one and make it permanent."""

    def link(user: bytes) -> Deferred[bytes]:
        """The link key."""

    def set_identity(user: bytes, key: bytes | None) -> Deferred[None]:
        """Set or, with None, remove the identity key."""

    def identity(user: bytes) -> Deferred[bytes]:
        """The identity key."""

    def remove(user: bytes) -> Deferred[None]:
        """Delete the user with both keys."""

    def ephemeral_users() -> Deferred[list[bytes]]:
        """Users who were let in without being known."""

    def users() -> Deferred[list[bytes]]:
        """All users."""

    def close() -> Deferred[None]:
        """Close the database."""


class IKaetzchen(Interface):
    """A built-in service."""

    def handle(payload: bytes, has_surb: bool) -> Any:
        """The reply to a request, bytes or None, or a Deferred of one.

        :param payload: the user payload with its padding.
        """

    def parameters() -> dict[str, Any]:
        """What the descriptor says beside the endpoint."""
