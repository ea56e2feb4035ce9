"""The nonvoting authority of a network that is played: real links, the real listener, and what the player answers."""

from __future__ import annotations

from collections.abc import Callable

from katzentwist.crypto.kem import Kem
from katzentwist.dirauth.listener import AuthorityListener, Getter, Poster
from katzentwist.net.accepting import LinkFactory
from katzentwist.net.owner import Context
from katzentwist.node.identity import Identity
from katzentwist.status.metrics import Metrics
from katzentwist.wire import SessionConfig, SessionKind


def authority_factory(
    context: Context,
    kem: Kem,
    keys: Identity,
    *,
    post: Poster,
    get: Getter,
    is_member: Callable[[bytes], bool] = lambda node: True,
) -> LinkFactory:
    """What listens at the authority.

    :param kem: of its links.
    :param post: as an upload comes: (peer, epoch, payload) -> status.
    :param get: as a document is asked for: epoch -> (status, container).
    :param is_member: whether a node may upload; all may by default.
    """
    session = SessionConfig(
        kem=kem,
        private=keys.link.private,
        public=keys.link.public,
        additional_data=keys.id,
        kind=SessionKind.PKI,
    )
    return LinkFactory(context, session, AuthorityListener(is_member, post, get, Metrics()))
