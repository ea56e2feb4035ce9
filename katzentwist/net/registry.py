"""Established links by peer: newest wins (spec: link 9.4)."""

from __future__ import annotations

import hmac
from collections.abc import Iterator

from katzentwist.net.owner import ILink


class LinkRegistry:
    """The established incoming links of a node, over all of its listeners."""

    def __init__(self) -> None:
        self._links: dict[bytes, list[ILink]] = {}

    def __len__(self) -> int:
        return sum(len(links) for links in self._links.values())

    def __iter__(self) -> Iterator[ILink]:
        """A snapshot, so that links may be closed while it is walked."""
        return iter([link for links in self._links.values() for link in links])

    def add(self, link: ILink) -> int:
        """Call it in established(). Closes every other link with the same AD and link key.

        :returns: how many were closed.
        """
        links = self._links.setdefault(link.peer.additional_data, [])
        key = link.peer.link_key
        old = [other for other in links if hmac.compare_digest(other.peer.link_key, key)]
        links.append(link)
        for other in old:
            links.remove(other)
            other.close()
        return len(old)

    def remove(self, link: ILink) -> None:
        """Call it in closed(); links that were never added are ignored."""
        if link.peer is None:
            return
        links = self._links.get(link.peer.additional_data, [])
        if link in links:
            links.remove(link)
            if not links:
                del self._links[link.peer.additional_data]

    def newest(self, additional_data: bytes) -> ILink | None:
        """The link that was established last with this AD."""
        links = self._links.get(additional_data)
        return links[-1] if links else None
