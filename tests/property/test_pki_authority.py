"""Any sequence of uploads, steps of the clock and restarts: the promises of the authority hold."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.clock import Epochs
from katzentwist.dirauth._core import AuthorityCore, Get, Post, Refused, Upload, examine
from katzentwist.pki.document import SignedDocument
from tests.unit.dirauth_network import AUTHORITY, RANDOM, network, nodes

NODES = nodes()
EPOCHS = Epochs(120 * 10**9)
PAYLOADS: dict[tuple[int, int, bool], bytes] = {}


def payload(number: int, epoch: int, other: bool) -> bytes:
    """A signed upload, made once."""
    key = (number, epoch, other)
    if key not in PAYLOADS:
        PAYLOADS[key] = NODES[number].payload(epoch, **({"link_key": b"other"} if other else {}))
    return PAYLOADS[key]


class AuthorityMachine(RuleBasedStateMachine):
    """The core with a store that is a dictionary."""

    @initialize(bootstrap=st.booleans())
    def begin(self, bootstrap: bool) -> None:
        """An authority with an empty store."""
        self.now = EPOCHS.start(6000) + 1
        self.bootstrap = bootstrap
        self.uploads: dict[tuple[int, bytes], Upload] = {}
        self.documents: dict[int, SignedDocument] = {}
        self.served: dict[int, bytes] = {}
        self.restart()

    @rule()
    def restart(self) -> None:
        """Killed and started again: only the store remains."""
        members = {node.id: node.member for node in NODES}
        self.core = AuthorityCore(
            members, network(), EPOCHS, now=self.now, bootstrap=self.bootstrap, signed=self.documents
        )
        for upload in self.uploads.values():
            self.core.restore_upload(upload)
        for document in self.documents.values():
            self.core.restore_document(document)

    @rule(step=st.sampled_from([0.5, 10.0, 16.0, 60.0, 119.0, 121.0, 400.0, -30.0, -300.0]))
    def step(self, step: float) -> None:
        """Time passes, or the clock is set back."""
        self.now += step
        self.core.forget(self.now)

    @rule(number=st.integers(0, len(NODES) - 1), ahead=st.integers(-1, 1), other=st.booleans(), lost=st.booleans())
    def upload(self, number: int, ahead: int, other: bool, lost: bool) -> None:
        """A node uploads; the process may be killed before the disk has it."""
        current = EPOCHS.number(self.now)
        epoch = current + ahead
        made = examine(self.core.members, NODES[number].id, epoch, payload(number, epoch, other), current)
        decision = self.core.offer(made)
        held = self.uploads.get((epoch, made.node))
        if decision.store:
            if lost:
                self.restart()
                return
            self.uploads[epoch, made.node] = made
            self.core.stored(made)
        elif decision.status is Post.OK:
            assert held is not None and held.descriptor == made.descriptor

    @rule()
    def everybody(self) -> None:
        """All nodes upload for the next epoch."""
        for number in range(len(NODES)):
            self.upload(number, 1, False, False)

    @rule(lost=st.booleans())
    def publish(self, lost: bool) -> None:
        """What is due is made; the process may be killed before the disk has it."""
        for epoch in self.core.publishable(self.now):
            making = self.core.begin(epoch)
            assert epoch not in self.documents
            signed = making.sign(AUTHORITY, RANDOM.bytes(32), EPOCHS.number(self.now))
            if lost:
                self.restart()
                return
            self.documents[epoch] = signed
            self.core.published(signed)

    @invariant()
    def promises(self) -> None:
        """What is served is what is stored, and never changes."""
        current = EPOCHS.number(self.now)
        for epoch in range(current - 4, current + 3):
            status, raw = self.core.consensus(epoch, self.now)
            if status is Get.OK:
                assert raw == self.documents[epoch].raw
                assert self.served.setdefault(epoch, raw) == raw
            else:
                assert epoch not in self.core._documents or epoch < current - 3
        assert self.core.next_deadline(self.now) > self.now - 1e-6


class AuthorityProperties(SynchronousTestCase):
    """Run the machine."""

    def test_promises(self) -> None:
        """Nothing acknowledged is forgotten, no epoch gets a second document."""
        machine = AuthorityMachine.TestCase
        machine.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
        machine("runTest").runTest()

    def test_refusals_have_a_status(self) -> None:
        """Any bytes as an upload: Invalid or Forbidden."""
        members = {node.id: node.member for node in NODES}
        for raw in (b"", b"\xa0", b"\xf6", payload(0, 6001, False)[:-1], bytes(1000)):
            error = self.assertRaises(Refused, examine, members, NODES[0].id, 6001, raw, 6000)
            self.assertEqual(error.status, Post.INVALID)
