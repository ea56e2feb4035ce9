#!/usr/bin/env python3
"""A service that writes down what it gets, each request as a line of hexadecimal digits, and answers nothing."""

from __future__ import annotations

from pathlib import Path

from katzentwist.plugins import Kaetzchen, run


class Recorder(Kaetzchen):
    """Its ``Config`` names the ``file``."""

    def handle(self, payload: bytes, has_surb: bool) -> bytes | None:
        """Write it down."""
        with Path(self.config["file"]).open("a") as file:
            file.write(f"{payload.hex()} {has_surb}\n")
        return None


if __name__ == "__main__":
    run(Recorder())
