"""The loader of the native core (design D7).

``native`` is the extension module ``katzentwist._native``, or None where it was not built or ``KATZENTWIST_PURE=1`` is
set; then the pure-Python twins run, which give the same bytes, slowly.
"""

from __future__ import annotations

import os
from types import ModuleType

PURE_ENVIRONMENT_KEY = "KATZENTWIST_PURE"
INTERFACE = 8
"""Counts changes of what the native core offers; the same number stands in native/src/lib.rs."""

_why_not = ""
native: ModuleType | None = None
"""The extension module or None; its functions are typed in ``_native.pyi``."""

if os.environ.get(PURE_ENVIRONMENT_KEY, "") not in ("", "0"):
    _why_not = f"{PURE_ENVIRONMENT_KEY} is set"
else:
    try:
        from katzentwist import _native

        # A module that was built from other sources, left over in the tree, would fail later and in odd places.
        if getattr(_native, "INTERFACE", 0) == INTERFACE:
            native = _native
        else:
            _why_not = "the native core was built from other sources; run pip install -e . again"
    except ImportError as error:
        _why_not = str(error)


def description() -> str:
    """One line for ``katzentwist version`` and the start of a daemon: which code does the cryptography, and why."""
    if native is None:
        return f"pure Python, slow ({_why_not})"
    return f"native ({native.description()})"
