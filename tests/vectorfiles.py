"""Known answers, in tests/vectors: bytes made by the Go implementation of v0.0.99 from fresh random inputs."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "vectors"


@functools.cache
def load(name: str) -> dict[str, Any]:
    """The vector file *name* (without ``.json``). Fails when it is missing or empty."""
    data: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    if not data:
        raise AssertionError(f"vector file {name} is empty")
    return data


def unhex(text: str | None) -> bytes:
    """Bytes of lower-case hex; None counts as empty."""
    return bytes.fromhex(text or "")
