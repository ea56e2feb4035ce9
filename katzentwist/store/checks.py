"""What every back end checks before it stores (spec: provider 4.1)."""

from __future__ import annotations

from typing import Final

from katzentwist.errors import StoreError

MAX_NAME: Final = 32
SURB_ID_SIZE: Final = 16


def check_user(user: bytes) -> None:
    """:raises StoreError: not 1 to 32 bytes."""
    if not 1 <= len(user) <= MAX_NAME:
        raise StoreError(f"spool: invalid username of {len(user)} bytes")


def check_surb_id(surb_id: bytes) -> None:
    """:raises StoreError: not 16 bytes."""
    if len(surb_id) != SURB_ID_SIZE:
        raise StoreError("spool: SURBReply is missing ID")


def check_key(link_key: bytes) -> None:
    """:raises StoreError: no key."""
    if not link_key:
        raise StoreError("a user needs a link key")
