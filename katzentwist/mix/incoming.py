"""Links that others dial: who is let in, and what they may send (spec: node 5)."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort

from katzentwist.config.addresses import Address, family_mistake
from katzentwist.crypto import kem
from katzentwist.errors import ConfigError, StoreError
from katzentwist.logger import ModuleLogger, notice
from katzentwist.mix.drops import DropReason, drop
from katzentwist.mix.ends import IClients
from katzentwist.mix.peers import Direction, Neighbours, Verdict
from katzentwist.mix.pipeline import Pipeline
from katzentwist.net.accepting import LinkFactory
from katzentwist.net.owner import ILink, LinkOwner
from katzentwist.net.registry import LinkRegistry
from katzentwist.net.turns import Gradual
from katzentwist.node.identity import Identity
from katzentwist.node.runtime import Repeating, Runtime
from katzentwist.wire import Command, PeerCredentials, SessionConfig, SessionKind
from katzentwist.wire.commands import Disconnect
from katzentwist.wire.legal import GATEWAY_LISTENER, NODE_LISTENER

OTHER_FILES: Final = 8192
"""Open files that accepted links leave to handshakes, to the links that we dial, and to databases."""


def most_links() -> int:
    """How many links may be accepted: what the open files allow without the others, and at least half of them."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(files // 2, files - OTHER_FILES)


@attrs.define(eq=False)
class _Peer:
    """What is known of an established link."""

    client: bool
    can_send: bool


class Incoming(LinkOwner):
    """All accepted links of one half, over all its listeners.

    :param clients: takes the peers that are no nodes; None at a mix or service node, which refuses them.
    """

    log = ModuleLogger("incoming")

    def __init__(
        self,
        runtime: Runtime,
        identity: Identity,
        neighbours: Neighbours,
        pipeline: Pipeline,
        clients: IClients | None,
    ) -> None:
        self._runtime, self._identity = runtime, identity
        self._neighbours, self._pipeline, self._clients = neighbours, pipeline, clients
        self._packets = runtime.metrics.series("incoming_requests_total", command="*commands.SendPacket")
        self.links = LinkRegistry()
        self._peers: dict[ILink, _Peer] = {}
        self._paused: set[ILink] = set()
        self._most = most_links()
        pipeline.drained = self._read_on
        self._sink = self._from_nodes  # one object: packets of the same sink come together
        self._rechecks = Repeating(runtime.reactor, lambda: runtime.debug.reauth_interval / 1000, self.recheck)
        self._judging = Gradual(runtime.context.turns, self._recheck)

    def factory(self) -> LinkFactory:
        """The factory of a listener."""
        runtime = self._runtime
        config = SessionConfig(
            kem=kem.by_name(runtime.config.wire_kem),
            private=self._identity.link.private,
            public=self._identity.link.public,
            additional_data=self._identity.id,
            kind=SessionKind.MIXNET,
            sizes=runtime.sizes,
            accepts=NODE_LISTENER,
            handshake_timeout=runtime.debug.handshake_timeout / 1000,
        )
        return LinkFactory(runtime.context, config, self, limits=runtime.limits, ready=self._ready)

    def _ready(self) -> bool:
        if len(self._peers) >= self._most:
            self._runtime.metrics.count("incoming_refused_too_many_total")
            return False
        ready = self._neighbours.ready(*self._runtime.epoch())
        if not ready:
            self._runtime.metrics.count("incoming_refused_no_pki_doc_total")
        return ready

    def start(self) -> None:
        """Begin to check peers again and again."""
        self._rechecks.start()

    def stop(self) -> None:
        """Close every link."""
        self._rechecks.stop()
        self._judging.stop()
        for link in list(self._peers):
            link.close()

    # Who is let in -------------------------------------------------------------------------------------------------

    def _judge(self, credentials: PeerCredentials) -> Verdict:
        now, near_end = self._runtime.epoch()
        return self._neighbours.authenticate(
            credentials.additional_data, credentials.link_key, Direction.INCOMING, now, near_end
        )

    def authenticate(self, link: ILink, credentials: PeerCredentials) -> bool | Deferred[bool]:
        """Nodes of the layer before ours; at a gateway clients too (spec: node 5.3)."""
        verdict = self._judge(credentials)
        if verdict.valid:
            self._peers[link] = _Peer(client=False, can_send=verdict.can_send)
            return True
        # A node id is never a client, whatever key it shows: a mix that came too early must not become one.
        if self._clients is None or self._neighbours.knows(credentials.additional_data):
            self._refused("unknown_mix")
            return False
        link.accepts = GATEWAY_LISTENER
        self._peers[link] = _Peer(client=True, can_send=True)
        return self._clients.admit(credentials).addCallbacks(self._admitted, self._not_admitted)

    def _admitted(self, yes: bool) -> bool:
        if not yes:
            self._refused("client_dropped_from_userdb")
        return yes

    def _not_admitted(self, failure: Any) -> bool:
        failure.trap(StoreError)
        self._refused("client_dropped_from_userdb")
        return False

    def _refused(self, reason: str) -> None:
        self._runtime.metrics.count("incoming_peer_validation_failures_total", reason=reason)
        self.log.debug("peer refused: {reason}", reason=reason)

    def established(self, link: ILink) -> None:
        """Newest wins among links of the same peer and key."""
        peer = self._peers.get(link)
        if peer is None:
            link.close()
            return
        self.links.add(link)
        self._pass_on(link, peer)
        self._runtime.metrics.handshake("incoming", link.age)
        if peer.client and self._clients is not None:
            self._clients.opened(link)

    def closed(self, link: ILink, reason: Exception) -> None:
        """Forget the link."""
        self.links.remove(link)
        self._paused.discard(link)
        peer = self._peers.pop(link, None)
        if not link.established:
            self._runtime.metrics.handshake("incoming", link.age, link.stage or "other")
            self.log.debug("handshake failed: {reason}", reason=str(reason))
        elif peer is not None and peer.client and self._clients is not None:
            self._clients.closed(link)

    def recheck(self) -> None:
        """Authenticate every peer again (spec: link 9.5)."""
        self._judging.start(list(self._peers.items()))

    def _recheck(self, entry: tuple[ILink, _Peer]) -> None:
        link, peer = entry
        if not link.established or link.peer is None or link not in self._peers:
            return
        if peer.client:
            if self._clients is not None:
                self._clients.recheck(link)
            return
        verdict = self._judge(link.peer)
        peer.can_send = verdict.can_send
        self._pass_on(link, peer)
        if not verdict.valid:
            link.close()

    # What they send ------------------------------------------------------------------------------------------------

    def _pass_on(self, link: ILink, peer: _Peer) -> None:
        """What nodes send that may send needs no look at who it was."""
        link.passOn(self._sink if peer.can_send and not peer.client else None)

    def _from_nodes(self, packets: list[bytes]) -> None:
        """SendPackets of nodes: on to the pipeline."""
        self._packets.amount += len(packets)
        self._pipeline.intake(packets, False)
        if self._pipeline.full:  # who sends more than can be unwrapped waits: TCP holds him back (spec: node 4)
            for link, peer in self._peers.items():
                if link.established and not peer.client:
                    self._pause(link)

    def _pause(self, link: ILink) -> None:
        self._paused.add(link)
        link.pause()

    def packetsReceived(self, link: ILink, packets: list[bytes]) -> None:
        """SendPackets of a client, or of a node that may not send."""
        peer = self._peers[link]
        if not peer.can_send:
            drop(self._runtime.metrics, DropReason.INCOMING_OUT_OF_EPOCH, len(packets))
            return
        self._packets.amount += len(packets)
        if peer.client and self._clients is not None:
            packets = self._clients.allow(link, packets)
            if packets:
                self._pipeline.intake(packets, True)
                if self._pipeline.full:
                    self._pause(link)

    def _read_on(self) -> None:
        """The pipeline has room again."""
        paused, self._paused = self._paused, set()
        for link in paused:
            link.resume()

    def commandReceived(self, link: ILink, command: Command) -> None:
        """Everything else; what is not legal ended the session before it came here."""
        peer = self._peers[link]
        if not peer.can_send:
            drop(self._runtime.metrics, DropReason.INCOMING_OUT_OF_EPOCH)
            return
        self._runtime.metrics.count("incoming_requests_total", command=f"*commands.{type(command).__name__}")
        if isinstance(command, Disconnect):
            link.close()
        elif peer.client and self._clients is not None:
            self._clients.command(link, command)

    def writable(self, link: ILink) -> None:
        """Clients wait for their documents; pushes wait for their acknowledgement anyway."""
        if self._clients is not None and link in self._peers and self._peers[link].client:
            self._clients.writable(link)


class Listeners:
    """The listening sockets of one half; bound at once, so that a used port ends the start."""

    log = ModuleLogger("listener")

    def __init__(self, runtime: Runtime, addresses: Sequence[Address], incoming: Incoming) -> None:
        self._runtime, self._addresses, self._incoming = runtime, addresses, incoming
        self._ports: list[IListeningPort] = []

    async def start(self) -> None:
        """Listen on every address.

        :raises ConfigError: an address can not be listened on.
        """
        for address in self._addresses:
            if mistake := family_mistake(address):
                raise ConfigError(mistake, "Server.BindAddresses")
            endpoint = self._runtime.transports.listen(address)
            try:
                self._ports.append(await endpoint.listen(self._incoming.factory()))
            except CannotListenError as e:
                raise ConfigError(
                    f"can not listen on {address.url}: {e.socketError}; stop the other program or change the address",
                    "Server.Addresses",
                ) from e
            notice(self.log, "listening on {address}", address=address.url)

    async def stop(self) -> None:
        """Stop accepting."""
        ports, self._ports = self._ports, []
        for port in ports:
            stopped = port.stopListening()
            if isinstance(stopped, Deferred):
                await stopped
