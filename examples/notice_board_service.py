#!/usr/bin/env python3
"""A notice board: anybody may pin a line to a topic, anybody may read the last lines. One file per topic.

Needs katzentwist installed. Shows an ``async`` service that keeps data, and requests with a format of their own::

    request    PUT <topic> <text>     response    OK
               GET <topic>                        the last lines, newest first, as many as fit

In the node's configuration::

    [[Provider.CBORPluginKaetzchen]]
    Capability = "board"
    Endpoint = "+board"
    Command = "/path/to/notice_board_service.py"
    [Provider.CBORPluginKaetzchen.Config]
    folder = "/var/lib/board"
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from katzentwist.plugins import Kaetzchen, run

LINES = 100


class NoticeBoard(Kaetzchen):
    """The board."""

    def configured(self) -> None:
        self.folder = Path(self.config["folder"])
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def handle(self, payload: bytes, has_surb: bool) -> bytes | None:
        words = payload.rstrip(b"\0").split(b" ", 2)
        match words:
            case [b"PUT", topic, text]:
                await asyncio.to_thread(self.put, topic, text)
                return b"OK"
            case [b"GET", topic]:
                return await asyncio.to_thread(self.get, topic, len(payload))
        return b"ERROR: PUT <topic> <text> or GET <topic>"

    def file(self, topic: bytes) -> Path:
        # A topic comes from strangers, so it never becomes part of a path.
        return self.folder / hashlib.sha256(topic).hexdigest()

    def put(self, topic: bytes, text: bytes) -> None:
        file = self.file(topic)
        old = file.read_bytes().splitlines()[: LINES - 1] if file.exists() else []
        file.write_bytes(b"\n".join([text.replace(b"\n", b" "), *old]))

    def get(self, topic: bytes, room: int) -> bytes:
        file = self.file(topic)
        return file.read_bytes()[:room] if file.exists() else b""


if __name__ == "__main__":
    run(NoticeBoard())
