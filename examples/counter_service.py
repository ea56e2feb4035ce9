#!/usr/bin/env python3
"""A service that counts: how many requests it has seen, and what the client said.

Needs katzentwist installed. In the node's configuration::

    [[Provider.CBORPluginKaetzchen]]
    Capability = "counter"
    Endpoint = "+counter"
    Command = "/path/to/counter_service.py"
    [Provider.CBORPluginKaetzchen.Config]
    greeting = "hello"
"""

from __future__ import annotations

import os

from katzentwist.plugins import Kaetzchen, run


class Counter(Kaetzchen):
    """Request: any text. Response: ``<greeting> <number> <text>``."""

    count = 0

    def configured(self) -> None:
        self.greeting = self.config.get("greeting", "number")
        self.log(f"counting as process {os.getpid()}")

    def handle(self, payload: bytes, has_surb: bool) -> bytes | None:
        self.count += 1
        text = payload.rstrip(b"\0")  # the network pads requests with zero bytes
        return f"{self.greeting} {self.count} ".encode() + text

    def parameters(self) -> dict[str, object]:
        return {"greeting": self.greeting}


if __name__ == "__main__":
    run(Counter())
