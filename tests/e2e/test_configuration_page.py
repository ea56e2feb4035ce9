"""The whole files that docs/configuration.md shows: valid as they are, and a network once they have places and keys."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.cli.main import main
from katzentwist.config import toml
from katzentwist.crypto import keys, sign
from katzentwist.testnet.plan import Shape
from tests.e2e.processes import LiveNetwork

PAGE = Path(__file__).parent.parent.parent / "docs" / "configuration.md"
KINDS = {
    "`authority.toml`": "authority",
    "`katzenpost.toml` of a mix": "node",
    "`katzenpost.toml` of the Provider": "node",
    "`client.toml`": "client",
}


def examples() -> dict[str, str]:
    """The files of the page, by their headings."""
    section = PAGE.read_text("utf-8").partition("## The smallest network\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"### ([^\n]*)\n\n```toml\n(.*?)```\n", section, re.DOTALL))


class ExampleTests(SynchronousTestCase):
    """The section "The smallest network"."""

    def test_valid(self) -> None:
        """check-config has nothing to say of them."""
        found = examples()
        self.assertEqual(list(found), list(KINDS))
        for title, kind in KINDS.items():
            file = Path(self.mktemp())
            file.write_text(found[title])
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                status = main(["check-config", str(file)])
            self.assertEqual((status, out.getvalue()), (0, f"{file}: {kind} file, valid\n"))

    def test_network(self) -> None:
        """With addresses and keys of their own they ping. (The rates are those of a test network: pings take half a
        minute with the defaults.)"""
        files = {title: toml.parse(text) for title, text in examples().items()}
        authority, mix, provider, client = files.values()
        with LiveNetwork(Shape(wire_kem="x25519", epoch="20s")) as net:
            nodes = {node.name: node for node in net.network.nodes}

            def place(name: str, tables: dict[str, Any]) -> None:
                server = {**tables["Server"], "Addresses": nodes[name].addresses, "DataDir": str(nodes[name].folder)}
                if name != "auth1":
                    server["MetricsAddress"] = nodes[name].metrics  # by which the test sees that it is up
                nodes[name].config.write_text(toml.dump({**tables, "Server": server}))

            def pem(name: str) -> str:
                return (net.folder / name / "identity.public.pem").read_text()

            def key(name: str) -> str:
                return keys.decode_public(sign.by_name("Ed25519"), pem(name)).hex()

            for number, entry in enumerate(authority["Mixes"]):
                entry["IdentityKey"] = key(f"mix{number + 1}")
            [entry] = authority["Providers"]
            entry.update(IdentityKey=key("provider1"), ServiceIdentityKeyPem=pem("provider1/service"))
            authority["Debug"]["BootstrapCurrentEpoch"] = True
            authority["Parameters"] = {"Mu": 0.02, "LambdaP": 0.02}
            place("auth1", authority)
            for tables in (mix, provider):
                tables["PKI"]["Nonvoting"].update(
                    Address=nodes["auth1"].addresses[0].removeprefix("tcp://"), PublicKey=key("auth1")
                )
            for number in range(1, 4):
                mix["Server"]["Identifier"] = f"mix{number}"
                place(f"mix{number}", mix)
            place("provider1", provider)
            client["NonvotingAuthority"]["PublicKey"] = key("auth1")
            [gateway] = client["PinnedGateways"]["Gateways"]
            gateway.update(
                IdentityKey=pem("provider1"),
                LinkKey=(nodes["provider1"].folder / "link.public.pem").read_text(),
                Addresses=nodes["provider1"].addresses,
            )
            client["EpochDuration"] = net.network.epoch
            (net.network.client / "client.toml").write_text(toml.dump(client))
            net.start()
            done = net.ping(3)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr + str(net.drops()))
