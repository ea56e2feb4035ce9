"""Topology, gateway decoy rate and shared random, against their vectors (spec: pki 7.3, 8, 9)."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.pki import sharedrandom, topology
from katzentwist.pki.descriptor import Descriptor
from tests.vectorfiles import load, unhex

VECTORS = load("pki-topology")
RANDOM = load("pki-sharedrandom")


def nodes(keys: list[str]) -> list[Descriptor]:
    """Mixes with these identity keys."""
    return [
        Descriptor(name=f"m{i}", link_key=b"l", mix_keys={}, addresses={}, identity_key=unhex(key))
        for i, key in enumerate(keys)
    ]


def ids(layers: topology.Layers) -> list[list[str]]:
    """The layers as the vectors have them."""
    return [[node.id.hex() for node in layer] for layer in layers]


class TopologyTests(SynchronousTestCase):
    """Which node goes where."""

    def test_permutations(self) -> None:
        """One generator gives the sequence of the reference."""
        for case in VECTORS["perm"]:
            draws = topology.Permutations(unhex(case["key"]))
            for step in case["sequence"]:
                self.assertEqual(draws.perm(step["n"]), step["perm"])

    def test_random(self) -> None:
        """A fresh assignment; the order of the input does not matter."""
        for case in VECTORS["random"]:
            mixes = nodes(case["identity_keys_sorted"])
            made = topology.random(mixes[::-1], case["layers"], unhex(case["srv"]))
            self.assertEqual(ids(made), case["topology"])

    def test_derived(self) -> None:
        """An assignment that follows the document before."""
        for case in VECTORS["from_previous"]:
            previous = [[unhex(node) for node in layer] for layer in case["previous"]]
            mixes = nodes(case["identity_keys_sorted"])
            made = topology.derived(mixes, previous, case["layers"], unhex(case["srv"]))
            self.assertEqual(ids(made), case["topology"])

    def test_other_number_of_layers(self) -> None:
        """A document with another number of layers can not be followed."""
        case: dict[str, Any] = VECTORS["random"][0]
        mixes = nodes(case["identity_keys_sorted"])
        made = topology.derived(mixes, [[mixes[0].id]], case["layers"], unhex(case["srv"]))
        self.assertEqual(ids(made), case["topology"])

    def test_fixed(self) -> None:
        """Configured layers keep their order and lose who did not upload."""
        mixes = nodes(VECTORS["random"][0]["identity_keys_sorted"])
        layers = [[mixes[1].id, bytes(32), mixes[0].id], [bytes(32)]]
        self.assertEqual(topology.fixed(layers, {m.id: m for m in mixes}), [[mixes[1], mixes[0]], []])

    def test_lambda_g(self) -> None:
        """The gateways' decoy rate, but for the last bit."""
        for case in VECTORS["lambda_g"]:
            rate = topology.lambda_g(
                gateways=case["gateways"],
                widest=max(case["layer_sizes"]),
                mu=case["Mu"],
                lambda_p=case["LambdaP"],
                lambda_l=case["LambdaL"],
            )
            self.assertApproximates(rate, case["LambdaG"], 1e-15 * case["LambdaG"])


class SharedRandomTests(SynchronousTestCase):
    """Commits, reveals and values."""

    def test_commit_reveal(self) -> None:
        """Both have the bytes of the reference."""
        for case in RANDOM["commit_reveal"]:
            revealed = sharedrandom.reveal(case["epoch"], unhex(case["random"]))
            self.assertEqual(revealed.hex(), case["reveal"])
            self.assertEqual(sharedrandom.commit(revealed).hex(), case["commit"])
            self.assertEqual(sharedrandom.epoch_of(revealed), case["epoch"])

    def test_matches(self) -> None:
        """A reveal fits its commit or does not."""
        for case in RANDOM["verify"]:
            self.assertEqual(
                sharedrandom.matches(unhex(case["commit"]), unhex(case["reveal"])), case["ok"], case["name"]
            )

    def test_value(self) -> None:
        """The value of an epoch from all reveals and the value before."""
        for case in RANDOM["srv"]:
            reveals = {unhex(signer): unhex(revealed) for signer, revealed in case["reveals"].items()}
            previous = None if case["previous"] is None else unhex(case["previous"])
            self.assertEqual(sharedrandom.value(case["epoch"], reveals, previous).hex(), case["srv"])

    def test_prior_values(self) -> None:
        """They begin with the genesis value, stay, and rotate every 504 epochs."""
        a, b, c = b"a" * 32, b"b" * 32, b"c" * 32
        self.assertEqual(sharedrandom.prior_values(7, a, ()), (a, a))
        self.assertEqual(sharedrandom.prior_values(505, a, (b, c)), (b, c))
        self.assertEqual(sharedrandom.prior_values(1008, a, (b, c)), (a, b))
