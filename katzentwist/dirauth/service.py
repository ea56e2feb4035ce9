"""The authority as a service: listeners, the machine, the store, and a look at the clock every second or so.

Uploads are checked and documents are made in the worker threads; answers to uploads come after the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IListeningPort

from katzentwist.clock import ORIGIN, Epochs
from katzentwist.config.authority import AuthorityConfig
from katzentwist.config.whitelist import GATEWAY
from katzentwist.crypto import kem
from katzentwist.crypto.hash import blake2b_256
from katzentwist.crypto.keys import identity_hash
from katzentwist.dirauth._core import KEPT_DOCUMENTS, KEPT_UPLOADS, AuthorityCore, Post, Refused, Upload, examine
from katzentwist.dirauth.listener import MAX_UPLOAD, AuthorityListener
from katzentwist.dirauth.making import Making, Network
from katzentwist.dirauth.state import AuthorityState, Kept
from katzentwist.errors import ConfigError, PKIError, StoreError
from katzentwist.logger import ModuleLogger, notice
from katzentwist.net.accepting import LinkFactory
from katzentwist.net.address import Address
from katzentwist.net.owner import Context
from katzentwist.net.tcp import Transports
from katzentwist.net.turns import Bin
from katzentwist.node.keyfiles import KeyPair
from katzentwist.pki import document
from katzentwist.status.metrics import Metrics
from katzentwist.wire import SessionConfig, SessionKind

LONGEST_SLEEP = 1.0
"""Seconds between two looks at the clock; less if epochs are short."""
WAITING_SHOWN = 10
"""Names of missing nodes in one log line."""


def network_of(config: AuthorityConfig) -> Network:
    """What the configuration says about documents."""
    fixed = config.topology
    return Network(
        parameters=config.parameters,
        geometry_hash=config.geometry.hash(),
        layers=config.layers,
        min_nodes_per_layer=config.min_nodes_per_layer,
        fixed=None if fixed is None else tuple(tuple(identity_hash(key) for key in layer) for layer in fixed),
        gateways=sum(member.kinds == {GATEWAY} for member in config.members),
    )


class AuthorityService(Service):
    """The running authority.

    :param identity: identity key pair; *link* the link key pair.
    :param fail: called with a message when the authority can not go on (the disk failed).
    :param metrics: counts answers, by request and status.
    """

    log = ModuleLogger(namespace="authority")
    name = "authority"

    def __init__(
        self,
        config: AuthorityConfig,
        epochs: Epochs,
        *,
        identity: KeyPair,
        link: KeyPair,
        context: Context,
        transports: Transports,
        call_in_reactor: Callable[..., Any],
        fail: Callable[[str], None],
        metrics: Metrics,
    ) -> None:
        self.config = config
        self.core: AuthorityCore
        self.listener = AuthorityListener(self.is_member, self.post, self.get, metrics)
        self.ports: list[IListeningPort] = []
        self._identity, self._link = identity, link
        self._epochs, self._context, self._transports = epochs, context, transports
        self._fail = fail
        self._metrics = metrics
        self._members = {member.id: member for member in config.members}
        self._state = AuthorityState(Path(config.data_dir), identity_hash(identity.public), call_in_reactor)
        self._timer: IDelayedCall | None = None
        self._busy: set[Deferred[Any]] = set()
        self._bin = Bin(context.turns)
        self._epoch_seen = 0

    # Start and stop ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the store, then listen.

        :raises KatzentwistError: the store or an address can not be used.
        """
        self._check_own_entry()
        kept = await self._state.open()
        now = self._context.clock.wallclock()
        self.core = AuthorityCore(
            self._members,
            network_of(self.config),
            self._epochs,
            now=now,
            bootstrap=self.config.bootstrap_current_epoch,
            signed=kept.signed,
        )
        uploads, documents = await self._context.workers.run(self._restored, kept, self._epochs.number(now))
        for upload in uploads:
            self.core.restore_upload(upload)
        for signed in documents:
            self.core.restore_document(signed)
        self.log.info(
            "restored {uploads} uploads and {documents} documents", uploads=len(uploads), documents=len(documents)
        )
        await self._listen()
        self._show()
        self._tick()

    def _show(self) -> None:
        """Numbers that are read when somebody looks."""
        gauge = self._metrics.gauge
        gauge("authority_members", lambda: len(self._members))
        gauge("authority_missing_uploads", lambda: len(self.core.waiting_for(self._epochs.number(self._now()) + 1)))
        gauge("authority_has_document", lambda: int(self.core.document(self._epochs.number(self._now())) is not None))
        gauge("authority_connections", lambda: self.listener.counts["open"])
        gauge("authority_waiting_requests", lambda: self.listener.counts["waiting"])
        gauge("authority_evicted_connections", lambda: self.listener.counts["evicted"])

    def _check_own_entry(self) -> None:
        own = self.config.own
        if own is not None and own.identity_key != self._identity.public:
            raise ConfigError("our own identity key is not among them; copy identity.public.pem", "Authorities")
        if own is not None and own.link_key != self._link.public:
            raise ConfigError("the LinkPublicKey of our entry is not ours; copy link.public.pem", "Authorities[0]")

    def _restored(self, kept: Kept, now: int) -> tuple[list[Upload], list[document.SignedDocument]]:
        """What of the store is still good; runs in a worker."""
        uploads, documents = [], []
        for epoch, node, payload in kept.uploads:
            try:
                uploads.append(examine(self._members, node, epoch, payload, now))
            except Refused as why:
                self.log.debug("a stored upload for {epoch} is left out: {why}", epoch=epoch, why=str(why))
        for epoch, container in kept.documents:
            if epoch < now - KEPT_DOCUMENTS:
                continue
            try:
                documents.append(document.verify(container, [self._identity.public], now, epoch=epoch))
            except PKIError as why:
                self.log.warn("the stored document of {epoch} is not used: {why}", epoch=epoch, why=str(why))
        return uploads, documents

    async def _listen(self) -> None:
        config = self.config
        scheme = kem.by_name(config.wire_kem)
        session = SessionConfig(
            kem=scheme,
            private=self._link.private,
            public=self._link.public,
            additional_data=identity_hash(self._identity.public),
            kind=SessionKind.PKI,
            handshake_timeout=config.handshake_timeout,
            read_timeout=config.response_timeout,
            max_command=MAX_UPLOAD,
        )
        factory = LinkFactory(self._context, session, self.listener, write_timeout=config.response_timeout)
        for address in config.listen:
            try:
                endpoint = self._transports.listen(Address(address.scheme, address.host, address.port))
                self.ports.append(await endpoint.listen(factory))
            except Exception as error:
                await self.stopService()
                raise ConfigError(f"can not listen on {address.url}: {error}") from error
            notice(self.log, "listening on {address}", address=address.url)

    def stopService(self) -> Deferred[None]:
        """Stop listening, end the connections, finish what is being made, close the store."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._bin.stop()
        return Deferred.fromCoroutine(self._stopped())

    async def _stopped(self) -> None:
        ports, self.ports = self.ports, []
        await gatherResults([maybeDeferred(port.stopListening) for port in ports], consumeErrors=True)
        await self.listener.close_all()
        await gatherResults(list(self._busy), consumeErrors=True)
        await self._state.close()

    # What peers ask ------------------------------------------------------------------------------------------------

    def is_member(self, node: bytes) -> bool:
        """Whether this id is in the white list."""
        return node in self._members

    def get(self, epoch: int) -> tuple[int, bytes]:
        """The answer to get_consensus."""
        status, container = self.core.consensus(epoch, self._now())
        self._metrics.count("authority_requests_total", request="get_consensus", status=status.name)
        return status, container

    async def post(self, peer: bytes, epoch: int, payload: bytes) -> int:
        """The answer to post_descriptor."""
        status = await self._judge(peer, epoch, payload)
        self._metrics.count("authority_requests_total", request="post_descriptor", status=status.name)
        return status

    async def _judge(self, peer: bytes, epoch: int, payload: bytes) -> Post:
        now = self._epochs.number(self._now())
        try:
            upload = await self._context.workers.run(examine, self._members, peer, epoch, payload, now)
        except Refused as refused:
            self.log.debug(
                "upload for {epoch} refused with {status}: {why!r}",
                epoch=epoch,
                status=refused.status.name,
                why=str(refused),
            )
            return refused.status
        decision = self.core.offer(upload)
        if decision.store:
            await self._keep(self._state.save_upload(upload.epoch, upload.node, upload.payload))
            self.core.stored(upload)
            self.log.debug("upload of {node} for {epoch}", node=upload.node.hex()[:16], epoch=epoch)
            self._look()
        elif decision.status is Post.CONFLICT:
            self.log.debug("upload of {node} for {epoch} conflicts", node=upload.node.hex()[:16], epoch=epoch)
        return decision.status

    async def _keep(self, writing: Deferred[None]) -> None:
        """Wait for the disk; without it the authority ends."""
        try:
            await writing
        except StoreError as error:
            self._fail(f"the authority's state can not be kept: {error}")
            raise

    # Documents -----------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        """Wall time. A clock that is set before epoch 0 while we run will be set again: until then it is epoch 0."""
        return max(ORIGIN, self._context.clock.wallclock())

    def _tick(self) -> None:
        """Look at the clock, and again soon."""
        now = self._now()
        epoch = self._epochs.number(now)
        if epoch != self._epoch_seen:
            self._new_epoch(epoch, now)
        self._look()
        sleep = min(LONGEST_SLEEP, self._epochs.period / 64, max(0.01, self.core.next_deadline(now) - now))
        self._timer = self._context.reactor.callLater(sleep, self._tick)

    def _new_epoch(self, epoch: int, now: float) -> None:
        if self._epoch_seen and self.core.document(epoch) is None:
            waiting = self.core.waiting_for(epoch)
            self.log.warn(
                "epoch {epoch} began without a document; {count} of {all} nodes had not uploaded: {names}",
                epoch=epoch,
                count=len(waiting),
                all=len(self._members),
                names=", ".join(member.name or member.id.hex()[:16] for member in waiting[:WAITING_SHOWN]),
            )
        self._epoch_seen = epoch
        self._bin.add(self.core.forget(now))
        self._work(self._keep(self._state.prune(epoch - KEPT_UPLOADS, epoch - KEPT_DOCUMENTS)))

    def _look(self) -> None:
        """Begin every document that is due."""
        now = self._now()
        for epoch in self.core.publishable(now):
            self._work(self._publish(self.core.begin(epoch), self._epochs.number(now)))

    async def _publish(self, making: Making, now: int) -> None:
        random = self._context.random.bytes(32)
        try:
            signed = await self._context.workers.run(partial(making.sign, self._identity.private, random, now))
        except PKIError as why:
            self.core.abandoned(making.epoch)
            self.log.warn("no document for epoch {epoch}: {why!r}", epoch=making.epoch, why=str(why))
            return
        await self._keep(self._state.save_document(making.epoch, signed.raw))
        self.core.published(signed)
        notice(
            self.log,
            "published the document of epoch {epoch}: {mixes} mixes in {layers} layers, {gateways} gateways, "
            "{services} service nodes, {size} bytes, digest {digest}",
            epoch=making.epoch,
            mixes=sum(len(layer) for layer in signed.document.topology),
            layers=len(signed.document.topology),
            gateways=len(signed.document.gateway_nodes),
            services=len(signed.document.service_nodes),
            size=len(signed.raw),
            digest=blake2b_256(signed.raw).hex()[:16],
        )

    def _work(self, coroutine: Any) -> None:
        """Run something in the background; the stop waits for it."""
        working: Deferred[Any] = Deferred.fromCoroutine(coroutine)
        self._busy.add(working)

        def done(result: Any) -> Any:
            self._busy.discard(working)
            return result

        working.addBoth(done)
        working.addErrback(lambda failure: failure.trap(StoreError))  # which was told, and ends the authority
        working.addErrback(lambda failure: self.log.failure("the authority could not do its work", failure))
