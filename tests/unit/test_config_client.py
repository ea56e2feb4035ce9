"""client.toml and thinclient.toml (spec: client 2, 3)."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config import client, thinclient, toml
from katzentwist.testnet.plan import Shape, generate

THIN = '[Dial]\n  [Dial.Tcp]\n    Address = "127.0.0.1:64331"\n    Network = "tcp"\n'


class ClientFileTests(SynchronousTestCase):
    """One change at a time to a file that works."""

    good: dict[str, Any]

    def setUp(self) -> None:
        if not hasattr(type(self), "good"):
            with tempfile.TemporaryDirectory() as folder:
                network = generate(Path(folder) / "net", Shape())
                type(self).good = toml.parse((network.client / "client.toml").read_text())

    def load(self, change: Any = None) -> tuple[client.ClientConfig | None, list[str]]:
        """The configuration after a change, and its errors."""
        tables = copy.deepcopy(self.good)
        if change is not None:
            change(tables)
        config, report = client.load(toml.dump(tables))
        return config, [str(e) for e in report.errors]

    def refused(self, text: str, path: str, **changes: Any) -> None:
        """One error, with this text and key path; a value of None removes a key, dots go into tables."""

        def change(tables: dict[str, Any]) -> None:
            for dotted, value in changes.items():
                *folders, key = dotted.split("__")
                table: Any = tables
                for folder in folders:
                    table = table[int(folder)] if isinstance(table, list) else table.setdefault(folder, {})
                if value is None:
                    del table[key]
                else:
                    table[key] = value

        config, errors = self.load(change)
        self.assertIsNone(config)
        self.assertTrue(any(text in e and e.startswith(path) for e in errors), (text, errors))
        for error in errors:
            self.assertNotIn("Traceback", error)

    def test_good(self) -> None:
        """What genconfig writes, and its defaults."""
        config, errors = self.load()
        assert config is not None
        self.assertEqual(errors, [])
        self.assertEqual((config.grace, config.arq_slop, config.disable_decoys), (600.0, 20.0, False))
        self.assertEqual(config.transports, ("tcp", "tcp4", "tcp6", "quic", "ws", "onion"))
        self.assertEqual(config.proxy.type, "none")

    def test_texts(self) -> None:
        """The texts of client 2.1 to 2.6, each with its key."""
        gateway, peer = "PinnedGateways__Gateways__0__", "VotingAuthority__Peers__0__"
        cases: list[tuple[str, str, dict[str, Any]]] = [
            ("WireKEMScheme is empty string", "WireKEMScheme", {"WireKEMScheme": None}),
            ("unknown KEM 'rot13'", "WireKEMScheme", {"WireKEMScheme": "rot13"}),
            ("invalid duration", "SessionGracePeriod", {"SessionGracePeriod": "ten"}),
            ("negative", "SessionGracePeriod", {"SessionGracePeriod": -1}),
            ("invalid duration", "SessionGracePeriod", {"SessionGracePeriod": "-1s"}),
            ("no listen transport configured", "Listen", {"Listen": {}}),
            ("exactly one listen", "Listen", {"Listen__Unix": {"Address": "/x"}}),
            ("is not an IP literal", "Listen.Tcp", {"Listen__Tcp__Address": "localhost:1"}),
            ("udp", "Listen.Tcp.Network", {"Listen__Tcp__Network": "udp"}),
            ("No SphinxGeometry block was present", "SphinxGeometry", {"SphinxGeometry": None}),
            ("NIKEName or KEMName must be set", "SphinxGeometry", {"SphinxGeometry__NIKEName": ""}),
            ("No PinnedGateways block was present", "PinnedGateways", {"PinnedGateways": None}),
            ("no gateway is pinned", "PinnedGateways", {"PinnedGateways__Gateways": []}),
            ("No valid Addresses in []", "PinnedGateways", {gateway + "Addresses": []}),
            ("is not an IP literal", "PinnedGateways", {gateway + "Addresses": ["tcp://gw:1"]}),
            ("", "PinnedGateways.Gateways[0].LinkKey", {gateway + "LinkKey": "nonsense"}),
            ("No VotingAuthority block was present", "VotingAuthority", {"VotingAuthority": None}),
            ("", "VotingAuthority.Peers[0]", {peer + "IdentityPublicKey": "nonsense"}),
            ("Type 'http' is invalid", "UpstreamProxy", {"UpstreamProxy": {"Type": "http"}}),
            ("Network 'udp' is invalid", "UpstreamProxy", {"UpstreamProxy": {"Type": "socks5", "Network": "udp"}}),
            (
                "Address 'foo:1' is invalid",
                "UpstreamProxy",
                {"UpstreamProxy": {"Type": "socks5", "Network": "tcp", "Address": "foo:1"}},
            ),
            (
                "Both User and Password must be specified",
                "UpstreamProxy",
                {"UpstreamProxy": {"Type": "socks5", "Network": "tcp", "Address": "127.0.0.1:1", "User": "a"}},
            ),
            (
                "Tor SOCKS5 conflicts",
                "UpstreamProxy",
                {"UpstreamProxy": {"Type": "tor+socks5", "Network": "tcp", "Address": "127.0.0.1:1", "User": "a"}},
            ),
            ("log file path must be absolute path", "Logging", {"Logging__File": "x.log"}),
            ("TRACE", "Logging", {"Logging__Level": "TRACE"}),
            ("must not be there", "PigeonholeGeometry", {"PigeonholeGeometry": {"a": 1}}),
            ("not supported", "CachedDocument", {"CachedDocument": {"a": 1}}),
        ]
        for text, path, changes in cases:
            self.refused(text, path, **changes)

    def test_all_at_once(self) -> None:
        """Every mistake of a file is reported in one run."""

        def change(tables: dict[str, Any]) -> None:
            tables["WireKEMScheme"] = "rot13"
            del tables["Listen"], tables["VotingAuthority"]

        self.assertGreaterEqual(len(self.load(change)[1]), 3)

    def test_accepted(self) -> None:
        """Durations of both kinds, sockets of all kinds, proxies, other letter case, unknown keys."""

        def with_(**values: Any) -> client.ClientConfig:
            config, errors = self.load(lambda tables: tables.update(values))
            assert config is not None, errors
            return config

        self.assertEqual(with_(SessionGracePeriod="1h30m").grace, 5400.0)
        self.assertEqual(with_(SessionGracePeriod=5 * 10**9).grace, 5.0)
        self.assertEqual(with_(SessionGracePeriod="0s").grace, 600.0)
        self.assertEqual(with_(Listen={"Unix": {"Address": "@name"}}).listen.address, "@name")  # type: ignore[union-attr]
        self.assertEqual(with_(listen={"tcp": {"address": "[::1]:5"}}, Listen=self.good["Listen"]).wire_kem, "XWING")
        proxy = with_(UpstreamProxy={"Type": "SOCKS5", "Network": "tcp", "Address": "127.0.0.1:9050"}).proxy
        self.assertEqual((proxy.type, proxy.address), ("socks5", "127.0.0.1:9050"))
        self.assertEqual(with_(Debug={"ARQSlop": 7, "DisableDecoyTraffic": True}).arq_slop, 7.0)
        _, report = client.load(toml.dump({**self.good, "Nonsense": 1}))
        self.assertEqual((report.errors, report.unknown), ([], ["Nonsense"]))

    def test_nonvoting(self) -> None:
        """The older table is one authority."""

        def change(tables: dict[str, Any]) -> None:
            [peer] = tables.pop("VotingAuthority")["Peers"]
            tables["NonvotingAuthority"] = {"Address": "127.0.0.1:1", "PublicKey": peer["IdentityPublicKey"]}

        config, errors = self.load(change)
        assert config is not None, errors
        good, _ = self.load()
        assert good is not None
        self.assertEqual(config.authorities[0].identity_key, good.authorities[0].identity_key)


class ThinFileTests(SynchronousTestCase):
    """Strict everywhere."""

    def refused(self, text: str, expected: str) -> None:
        """One error with this text."""
        config, report = thinclient.load(text)
        self.assertIsNone(config)
        self.assertIn(expected, str(report.errors[0]))

    def test_good(self) -> None:
        """TCP and UNIX."""
        config, report = thinclient.load(THIN)
        assert config is not None, report.errors
        self.assertEqual((config.dial.network, config.dial.hostport), ("tcp", ("127.0.0.1", 64331)))
        config, _ = thinclient.load('[Dial.Unix]\nAddress = "@katzenpost"\n')
        assert config is not None
        self.assertEqual((config.dial.network, config.dial.address), ("unix", "@katzenpost"))

    def test_texts(self) -> None:
        """The texts of client 3."""
        self.refused(THIN + "[SphinxGeometry]\nx = 1\n", "unknown top-level key(s) ['SphinxGeometry']")
        self.refused("", "missing required top-level key(s) ['Dial']")
        self.refused("[Dial]\n", "transport: no dial transport configured")
        both = THIN + '[Dial.Unix]\nAddress = "/x"\n'
        self.refused(both, "transport: exactly one dial transport must be configured")
        self.refused("[Dial.Http]\nAddress = 'x'\n", "unknown subtable(s)")
        self.refused(THIN + "Colour = 'red'\n", "has unknown key(s)")
        self.refused("[Dial.Tcp]\nNetwork = 'tcp'\n", "missing required key 'Address'")
        self.refused("[Dial.Tcp]\nAddress = 7\n", "must be text")
        self.refused("[Dial.Tcp]\nAddress = 'nowhere'\n", "is invalid")
        self.refused("Dial = 1\n", "must be a table")

    @given(st.text(max_size=200))
    def test_any_text(self, text: str) -> None:
        """A configuration or errors."""
        config, report = thinclient.load(text)
        self.assertEqual(config is None, bool(report.errors))
