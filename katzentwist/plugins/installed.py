"""Services that other packages bring along: entry points of the group ``katzentwist.kaetzchen``.

The name of the entry point is the capability; its object is called with the ``Config`` table of the configuration and
gives an :class:`~katzentwist.interfaces.IKaetzchen`. Such a service runs in the node's process, so only what the
operator installed there and names in the configuration is ever loaded.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any, Final, cast

from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from katzentwist.errors import ConfigError
from katzentwist.interfaces import IKaetzchen

GROUP: Final = "katzentwist.kaetzchen"


def is_installed(capability: str) -> bool:
    """Whether a package brings a service of this capability; nothing of it is loaded."""
    return bool(metadata.entry_points(group=GROUP, name=capability))


def installed(capability: str, config: dict[str, Any]) -> IKaetzchen | None:
    """The service of this capability, or None if no package brings one.

    :raises ConfigError: it can not be loaded, refuses its configuration, or is no service.
    """
    found = list(metadata.entry_points(group=GROUP, name=capability))
    if not found:
        return None
    try:
        service = found[0].load()(config)
        verifyObject(IKaetzchen, service)
    except Invalid as e:
        raise ConfigError(f"Kaetzchen '{capability}': {found[0].value} gives no IKaetzchen: {e}") from e
    except Exception as e:  # foreign code; the operator wants to know which
        raise ConfigError(f"Kaetzchen '{capability}': {found[0].value} failed: {type(e).__name__}: {e}") from e
    return cast(IKaetzchen, service)
