"""The machine of the nonvoting authority, on a clock of our own (spec: pki 10.3, 10.5, 11)."""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.clock import Epochs
from katzentwist.config.authority import Parameters
from katzentwist.config.whitelist import GATEWAY, MIX, SERVICE, Member
from katzentwist.crypto.hash import blake2b_256
from katzentwist.dirauth._core import AuthorityCore, Get, Post, Refused, examine
from katzentwist.dirauth.making import Making, Network
from katzentwist.errors import PKIError
from katzentwist.pki import Descriptor, cbor, document
from tests.unit.dirauth_network import AUTHORITY, AUTHORITY_PUBLIC, RANDOM, Node, network, node, nodes, publish, upload
from tests.unit.test_pki_cert import private
from tests.vectorfiles import load, unhex

VECTORS = load("pki-authority")
EPOCHS = Epochs(120 * 10**9)
START = 6000
"""The epoch in which most tests begin."""


def at(epoch: int, elapsed: float = 1.0) -> float:
    """A time."""
    return EPOCHS.start(epoch) + elapsed


def core_of(members: list[Node], now: float, **arguments: object) -> AuthorityCore:
    """An authority of these nodes."""
    made = arguments.pop("network", network())
    return AuthorityCore({n.id: n.member for n in members}, made, EPOCHS, now=now, **arguments)  # type: ignore[arg-type]


class VectorTests(SynchronousTestCase):
    """Decisions of the reference."""

    def test_posts(self) -> None:
        """Each upload in order gets its status."""
        members = {
            unhex(m["id"]): Member(kinds=frozenset({m["kind"]}), name=m["name"], identity_key=unhex(m["public"]))
            for m in VECTORS["whitelist"]
        }
        epochs, current = Epochs(), VECTORS["now_epoch"]
        now = epochs.start(current) + 1
        core = AuthorityCore(members, network(), epochs, now=now)
        for case in VECTORS["posts"]:
            if case is VECTORS["posts"][-1]:
                core._signed.add(current)
            try:
                made = examine(members, unhex(case["peer"]), case["epoch"], unhex(case["payload"]), current)
                decision = core.offer(made)
                if decision.store:
                    core.stored(made)
                status = decision.status
            except Refused as refused:
                status = refused.status
            self.assertEqual(status, case["status"], case["name"])

    def test_gets(self) -> None:
        """Each request gets its status."""
        members = nodes()
        made = core_of(members, at(START))
        for member in members:
            upload(made, member, START + 1, at(START))
        raw = made.begin(START + 1).sign(AUTHORITY, bytes(32), START)
        for case in VECTORS["gets"]:
            now = at(START, 119.0 if case["after_seven_eighths"] else 1.0)
            core = core_of(members, now)
            for offset in case["have"]:
                epoch = START + offset
                core.restore_document(attrs.evolve(raw, document=attrs.evolve(raw.document, epoch=epoch)))
            status, payload = core.consensus(START + case["ask"], now)
            self.assertEqual(status, case["status"], case)
            self.assertEqual(bool(payload), status == Get.OK)

    def test_documents(self) -> None:
        """Whole documents, byte for byte, from descriptors in any order."""
        for case in VECTORS["documents"]:
            rates = case["parameters"]
            making = Making(
                network=Network(
                    parameters=Parameters(
                        mu=rates["Mu"],
                        lambda_p=rates["LambdaP"],
                        lambda_l=rates["LambdaL"],
                        lambda_m=rates["LambdaM"],
                        lambda_r=rates["LambdaR"],
                    ),
                    geometry_hash=blake2b_256(cbor.encode(case["geometry"])),
                    layers=3,
                    min_nodes_per_layer=1,
                    fixed=tuple(tuple(blake2b_256(unhex(k)) for k in layer) for layer in case["fixed_topology"]),
                    gateways=case["gateways_configured"],
                ),
                epoch=case["epoch"],
                descriptors=[Descriptor.parse(unhex(raw)) for raw in case["descriptors"]],
            )
            made = making.build(unhex(case["srv"]), [unhex(v) for v in case["prior"]], case["genesis"])
            expected = document.Document.from_payload(unhex(case["payload"]))
            self.assertApproximates(made.lambda_g, expected.lambda_g, 1e-15 * expected.lambda_g)
            made = attrs.evolve(made, lambda_g=expected.lambda_g)
            self.assertEqual(made.payload().hex(), case["payload"])
            self.assertEqual(made.sign(private(case["authority_seed"]), case["epoch"]).hex(), case["cert"])


class UploadTests(SynchronousTestCase):
    """What may be uploaded."""

    def setUp(self) -> None:
        """An authority of five nodes."""
        self.nodes = nodes()
        self.now = at(START)
        self.core = core_of(self.nodes, self.now)

    def refused(self, sender: Node, epoch: int, **changes: object) -> Post:
        """The status of a refusal."""
        return self.assertRaises(Refused, upload, self.core, sender, epoch, self.now, **changes).status

    def test_without_a_signature(self) -> None:
        """Forbidden, and no crash (as upstream's)."""
        mix = self.nodes[0]
        payload = cbor.decode(mix.payload(START + 1))
        payload["Signature"] = None
        error = self.assertRaises(Refused, examine, self.core.members, mix.id, START + 1, cbor.encode(payload), START)
        self.assertEqual(error.status, Post.FORBIDDEN)

    def test_kinds(self) -> None:
        """An entry that admits both kinds takes a gateway or a service node, not a mix."""
        either = node("p", GATEWAY)
        member = Member(kinds=frozenset({GATEWAY, SERVICE}), name="p", identity_key=either.public)
        members = {member.id: member}
        for kind, good in ((GATEWAY, True), (SERVICE, True), (MIX, False)):
            sender = Node("p", kind, either.private, either.public)
            arguments = (members, sender.id, START + 1, sender.payload(START + 1), START)
            if good:
                examine(*arguments)
            else:
                self.assertEqual(self.assertRaises(Refused, examine, *arguments).status, Post.FORBIDDEN)

    def test_any_name(self) -> None:
        """A mix without a name in the white list may call itself what it likes."""
        mix = self.nodes[0]
        self.assertEqual(self.refused(mix, START + 1, name="other"), Post.FORBIDDEN)
        members = {mix.id: attrs.evolve(mix.member, name=None)}
        examine(members, mix.id, START + 1, mix.payload(START + 1, name="other"), START)

    def test_repeats(self) -> None:
        """Identical again is fine, with other statistics too; different is a conflict."""
        mix = self.nodes[0]
        self.assertEqual(upload(self.core, mix, START + 1, self.now), Post.OK)
        self.assertEqual(upload(self.core, mix, START + 1, self.now), Post.OK)
        self.assertEqual(upload(self.core, mix, START + 1, self.now, link_key=b"x"), Post.CONFLICT)

    def test_pending(self) -> None:
        """A repeat of what is just being stored waits for the store too; a different one conflicts already."""
        mix = self.nodes[0]
        first = examine(self.core.members, mix.id, START + 1, mix.payload(START + 1), START)
        self.assertTrue(self.core.offer(first).store)
        self.assertTrue(self.core.offer(first).store)
        other = examine(self.core.members, mix.id, START + 1, mix.payload(START + 1, link_key=b"x"), START)
        self.assertEqual(self.core.offer(other).status, Post.CONFLICT)
        self.core.stored(first)
        self.core.stored(first)
        self.assertEqual(len(self.core.uploads(START + 1)), 1)
        self.assertFalse(self.core.offer(first).store)

    def test_epochs(self) -> None:
        """One epoch back, now, one ahead."""
        mix = self.nodes[0]
        for epoch in (START - 1, START, START + 1):
            self.assertEqual(upload(self.core, mix, epoch, self.now), Post.OK)
        for epoch in (START - 2, START + 2):
            self.assertEqual(self.refused(mix, epoch), Post.INVALID)

    def test_after_the_document(self) -> None:
        """Late-comers conflict, identical repeats do not."""
        for member in self.nodes:
            upload(self.core, member, START + 1, self.now)
        publish(self.core, self.now)
        self.assertEqual(upload(self.core, self.nodes[0], START + 1, self.now), Post.OK)
        self.core._uploads[START + 1].pop(self.nodes[0].id)
        self.assertEqual(upload(self.core, self.nodes[0], START + 1, self.now), Post.CONFLICT)


class PublishingTests(SynchronousTestCase):
    """When documents appear, over epochs."""

    def setUp(self) -> None:
        """An authority of five nodes."""
        self.nodes = nodes()

    def run_epoch(self, core: AuthorityCore, epoch: int, missing: int = 0, elapsed: float = 1.0) -> list[int]:
        """All but *missing* nodes upload for the next epoch at some time of *epoch*."""
        now = at(epoch, elapsed)
        core.forget(now)
        for member in self.nodes[missing:]:
            upload(core, member, epoch + 1, now)
        return publish(core, now)

    def test_many_epochs(self) -> None:
        """A network runs: one document per epoch, nodes stay in their layers, genesis stays, old state goes."""
        core = core_of(self.nodes, at(START))
        layers = None
        for epoch in range(START, START + 10):
            self.assertEqual(self.run_epoch(core, epoch), [epoch + 1])
            made = core.document(epoch + 1)
            assert made is not None
            document.verify(made.raw, [AUTHORITY_PUBLIC], epoch, epoch=epoch + 1, geometry_hash=bytes(32))
            now_layers = [[n.id for n in layer] for layer in made.document.topology]
            self.assertEqual(layers or now_layers, now_layers)
            self.assertEqual(made.document.genesis_epoch, START + 1)
            layers = now_layers
        self.assertLessEqual(len(core._documents), 5)
        self.assertLessEqual(len(core._uploads), 3)

    def test_forgotten(self) -> None:
        """Whoever lets old state go gets the descriptors that were in it: freeing thousands is work of its own."""
        core = core_of(self.nodes, at(START))
        self.run_epoch(core, START)
        before = core.document(START + 1)
        assert before is not None
        self.assertEqual(core.forget(at(START + 1)), [])
        forgotten = core.forget(at(START + 20))
        self.assertEqual({node.id for node in forgotten}, {node.id for node in self.nodes})
        self.assertEqual(len(forgotten), 2 * len(self.nodes), "of the uploads and of the document")
        self.assertEqual((core._documents, core._uploads, core.forget(at(START + 21))), ({}, {}, []))

    def test_missing_node(self) -> None:
        """With a node missing the authority waits for the descriptor deadline."""
        self.nodes = nodes(4)
        core = core_of(self.nodes, at(START, 0.0))
        self.assertEqual(self.run_epoch(core, START, missing=1), [])
        self.assertEqual(core.waiting_for(START + 1), [self.nodes[0].member])
        self.assertEqual(core.next_deadline(at(START)), at(START, 15.0))
        self.assertEqual(core.publishable(at(START, 14.9)), [])
        self.assertEqual(publish(core, at(START, 15.0)), [START + 1])
        self.assertEqual(core.next_deadline(at(START, 15.0)), at(START + 1, 0.0))

    def test_started_late(self) -> None:
        """A network that starts after the deadline: slow nodes get as long, not a document without them at once."""
        self.nodes = nodes(4)
        core = core_of(self.nodes, at(START, 80.0))
        self.assertEqual(self.run_epoch(core, START, missing=1, elapsed=81.0), [])
        self.assertEqual(core.next_deadline(at(START, 81.0)), at(START, 95.0))
        upload(core, self.nodes[0], START + 1, at(START, 94.0))
        self.assertEqual(publish(core, at(START, 94.0)), [START + 1])
        made = core.document(START + 1)
        assert made is not None
        self.assertEqual(sum(map(len, made.document.topology)), 4)
        # The next epoch has the usual deadline again.
        self.assertEqual(self.run_epoch(core, START + 1, missing=1), [])
        self.assertEqual(publish(core, at(START + 1, 15.0)), [START + 2])

    def test_started_at_the_end(self) -> None:
        """However late the start: the document is made before its epoch begins."""
        self.nodes = nodes(4)
        core = core_of(self.nodes, at(START, 116.0))
        self.assertEqual(self.run_epoch(core, START, missing=1, elapsed=117.0), [])
        self.assertEqual(core.next_deadline(at(START, 117.0)), at(START, 118.0))
        self.assertEqual(publish(core, at(START, 118.0)), [START + 1])

    def test_too_few(self) -> None:
        """Below the minimum there is no document, until the missing node comes, however late."""
        core = core_of(self.nodes, at(START))
        self.assertEqual(self.run_epoch(core, START, missing=1, elapsed=20.0), [])
        self.assertEqual(core.consensus(START + 1, at(START, 20.0))[0], Get.NOT_FOUND)
        self.assertEqual(core.consensus(START + 1, at(START, 110.0))[0], Get.GONE)
        upload(core, self.nodes[0], START + 1, at(START, 111.0))
        self.assertEqual(publish(core, at(START, 111.0)), [START + 1])
        self.assertEqual(core.consensus(START + 1, at(START, 111.0))[0], Get.OK)

    def test_each_kind_is_needed(self) -> None:
        """No gateway or no service node: no document."""
        core = core_of(self.nodes, at(START))
        for member in self.nodes[:-1]:
            upload(core, member, START + 1, at(START, 20.0))
        self.assertEqual(core.publishable(at(START, 20.0)), [])
        self.assertIn("service", core._plan(START + 1).missing())

    def test_gap(self) -> None:
        """An epoch without a document starts a new genesis."""
        core = core_of(self.nodes, at(START))
        self.run_epoch(core, START)
        self.run_epoch(core, START + 2)
        made = core.document(START + 3)
        assert made is not None
        self.assertEqual(made.document.genesis_epoch, START + 3)
        self.assertEqual(made.document.prior_shared_random, [made.document.shared_random_value] * 2)

    def test_only_one_is_made(self) -> None:
        """While a document is made no other is begun, and uploads conflict."""
        core = core_of(self.nodes, at(START))
        for member in self.nodes:
            upload(core, member, START + 1, at(START))
        self.assertEqual(core.publishable(at(START)), [START + 1])
        core.begin(START + 1)
        self.assertEqual(core.publishable(at(START)), [])

    def test_restart(self) -> None:
        """A restarted authority keeps document, genesis and layers, and signs nothing twice."""
        core = core_of(self.nodes, at(START))
        self.run_epoch(core, START)
        made = core.document(START + 1)
        assert made is not None
        again = core_of(self.nodes, at(START, 30.0), signed=[START + 1])
        again.restore_document(made)
        for member in self.nodes:
            now = at(START, 30.0)
            again.restore_upload(examine(again.members, member.id, START + 1, member.payload(START + 1), START))
            self.assertEqual(upload(again, member, START + 1, now), Post.OK)
        self.assertEqual(again.publishable(at(START, 30.0)), [])
        self.assertEqual(again.consensus(START + 1, at(START, 30.0)), (Get.OK, made.raw))
        self.run_epoch(again, START + 1)
        later = again.document(START + 2)
        assert later is not None
        self.assertEqual(later.document.genesis_epoch, START + 1)

    def test_clock_goes_back(self) -> None:
        """After a step back the documents of the future are served, and none is signed again."""
        core = core_of(self.nodes, at(START))
        self.run_epoch(core, START)
        core.forget(at(START - 10))
        self.assertEqual(core.consensus(START + 1, at(START - 10))[0], Get.OK)
        self.assertEqual(self.run_epoch(core, START), [])

    def test_not_well_formed(self) -> None:
        """A set of descriptors that makes no document is not tried again and again."""
        core = core_of(self.nodes, at(START), network=network(fixed=((self.nodes[0].id,), (bytes(32),))))
        for member in self.nodes:
            upload(core, member, START + 1, at(START))
        making = core.begin(START + 1)
        self.assertRaises(PKIError, making.sign, AUTHORITY, RANDOM.bytes(32), START)
        core.abandoned(START + 1)
        self.assertEqual(core.publishable(at(START)), [])

    def test_fixed_layers(self) -> None:
        """Fixed layers are kept; the minimum counts in each of them."""
        fixed = tuple((n.id,) for n in self.nodes[:3])
        core = core_of(self.nodes, at(START), network=network(fixed=fixed))
        self.assertEqual(self.run_epoch(core, START, missing=1, elapsed=30.0), [])
        self.assertEqual(self.run_epoch(core, START, elapsed=31.0), [START + 1])
        made = core.document(START + 1)
        assert made is not None
        self.assertEqual([tuple(n.id for n in layer) for layer in made.document.topology], list(fixed))


class BootstrapTests(SynchronousTestCase):
    """A document for the current epoch (spec: pki 11.4)."""

    def test_all_nodes(self) -> None:
        """In the first epoch, once all nodes uploaded for it; not found until then, gone without the option."""
        members = nodes()
        core = core_of(members, at(START), bootstrap=True)
        self.assertEqual(core.consensus(START, at(START))[0], Get.NOT_FOUND)
        self.assertEqual(core_of(members, at(START)).consensus(START, at(START))[0], Get.GONE)
        for member in members:
            self.assertEqual(publish(core, at(START, 50.0)), [])
            upload(core, member, START, at(START, 50.0))
        self.assertEqual(publish(core, at(START, 50.0)), [START])
        self.assertEqual(core.consensus(START, at(START, 50.0))[0], Get.OK)

    def test_both(self) -> None:
        """The document of the next epoch comes first and is not delayed; it then continues the genesis or not."""
        members = nodes()
        core = core_of(members, at(START), bootstrap=True)
        for member in members:
            upload(core, member, START, at(START))
            upload(core, member, START + 1, at(START))
        self.assertEqual(publish(core, at(START)), [START + 1, START])

    def test_start_at_the_end_of_an_epoch(self) -> None:
        """What was not finished in the first epoch may come in the one after it; nothing later."""
        members = nodes()
        core = core_of(members, at(START), bootstrap=True)
        self.assertEqual(core.consensus(START + 1, at(START + 1))[0], Get.NOT_FOUND)
        for member in members:
            upload(core, member, START + 1, at(START + 1))
        self.assertEqual(publish(core, at(START + 1)), [START + 1])
        self.assertEqual(core.consensus(START + 2, at(START + 2))[0], Get.GONE)
        for member in members:
            upload(core, member, START + 2, at(START + 2))
        self.assertEqual(core.publishable(at(START + 2)), [])
