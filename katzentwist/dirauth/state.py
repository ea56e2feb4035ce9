"""What the authority must not forget: uploads that it acknowledged and documents that it signed (spec: pki 10.7, 11.5).

One embedded database, ``persistence.db`` in the data directory, with group commit and full sync. The row of a document
stays for ever, without its bytes once they are old: so no epoch ever gets a second document, whatever the clock does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred

from katzentwist.errors import StoreError
from katzentwist.store.database import Database, Schema

FILE_NAME: Final = "persistence.db"

SCHEMA: Final = Schema(
    name="authority",
    steps={
        1: (
            "CREATE TABLE identity (id BLOB NOT NULL)",
            "CREATE TABLE uploads (epoch INTEGER, node BLOB, payload BLOB NOT NULL, PRIMARY KEY (epoch, node))",
            "CREATE TABLE documents (epoch INTEGER PRIMARY KEY, container BLOB)",
        )
    },
)


@attrs.frozen(kw_only=True)
class Kept:
    """What the store holds.

    :ivar uploads: (epoch, node id, signed upload).
    :ivar documents: (epoch, container), in order of epochs.
    :ivar signed: every epoch that ever had a document.
    """

    uploads: list[tuple[int, bytes, bytes]]
    documents: list[tuple[int, bytes]]
    signed: list[int]


class AuthorityState:
    """The store.

    :param folder: the data directory.
    :param identity: id of the authority's identity key, 32 bytes; a store of another identity is refused.
    :param call_in_reactor: ``reactor.callFromThread``.
    """

    def __init__(self, folder: Path, identity: bytes, call_in_reactor: Callable[..., Any]) -> None:
        self._database = Database(folder / FILE_NAME, SCHEMA, call_in_reactor)
        self._identity = identity

    def open(self) -> Deferred[Kept]:
        """Open or create it, and read everything.

        :raises StoreError: (in the Deferred) not ours, damaged, locked, of another identity.
        """

        async def opened() -> Kept:
            await self._database.open()
            try:
                return await self._database.run(self._read)
            except StoreError:
                await self._database.close()
                raise

        return Deferred.fromCoroutine(opened())

    def _read(self, connection: sqlite3.Connection) -> Kept:
        row = connection.execute("SELECT id FROM identity").fetchone()
        if row is None:
            connection.execute("INSERT INTO identity VALUES (?)", (self._identity,))
        elif row[0] != self._identity:
            raise StoreError(
                f"{self._database.path} belongs to the identity {row[0].hex()}, not to ours; restore the key files, or "
                "move the database away"
            )
        uploads = connection.execute("SELECT epoch, node, payload FROM uploads").fetchall()
        documents = connection.execute("SELECT epoch, container FROM documents ORDER BY epoch").fetchall()
        return Kept(
            uploads=uploads,
            documents=[(epoch, container) for epoch, container in documents if container is not None],
            signed=[epoch for epoch, _ in documents],
        )

    def save_upload(self, epoch: int, node: bytes, payload: bytes) -> Deferred[None]:
        """Keep an upload; fires when it is on disk.

        :raises StoreError: (in the Deferred) the disk failed.
        """

        def job(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO uploads VALUES (?, ?, ?)", (epoch, node, payload))

        return self._database.run(job)

    def save_document(self, epoch: int, container: bytes) -> Deferred[None]:
        """Keep a document; fires when it is on disk.

        :raises StoreError: (in the Deferred) the disk failed, or the epoch has a document already.
        """

        def job(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO documents VALUES (?, ?)", (epoch, container))

        return self._database.run(job)

    def prune(self, uploads_from: int, documents_from: int) -> Deferred[None]:
        """Drop uploads, and the bytes of documents, of epochs before these."""

        def job(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM uploads WHERE epoch < ?", (uploads_from,))
            connection.execute(
                "UPDATE documents SET container = NULL WHERE epoch < ? AND container IS NOT NULL", (documents_from,)
            )

        return self._database.run(job)

    def close(self) -> Deferred[None]:
        """Finish what waits and close."""
        return self._database.close()
