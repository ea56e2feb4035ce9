"""Node files: every case of the reference, and what the older shape adds."""

from __future__ import annotations

import copy

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config import node, toml
from katzentwist.config.addresses import descriptor_map
from katzentwist.config.debug import Debug, resolve_debug, with_runtime
from katzentwist.config.halves import Kind
from katzentwist.config.node import NodeConfig
from katzentwist.config.nodetables import DebugTable
from katzentwist.errors import ConfigError
from tests.vectorfiles import load

MAY_REFUSE = {
    "both",
    "addresses []",
    "voting empty passes",
    "geometry broken",
    "same endpoint passes",
    "unknown capability passes",
    "plugin nonstring config passes",
    "management relative",
    "http hostname allowed",
}
"""Cases that upstream loads although they can not work; node 12.1 allows to refuse them."""
DEBUG_KEYS = {
    "ConnectTimeout": "connect_timeout",
    "DecoySlack": "decoy_slack",
    "GatewayDelay": "gateway_delay",
    "HandshakeTimeout": "handshake_timeout",
    "KaetzchenDelay": "kaetzchen_delay",
    "ReauthInterval": "reauth_interval",
    "SchedulerSlack": "scheduler_slack",
    "SendDecoyTraffic": "send_decoy_traffic",
    "SendSlack": "send_slack",
    "ServiceDelay": "service_delay",
    "UnwrapDelay": "unwrap_delay",
    "SchedulerQueueSize": "scheduler_queue_size",
}


class VectorTests(SynchronousTestCase):
    """The files of vectors/node.json."""

    def test_config(self) -> None:
        """Every case loads or is refused as upstream does, with the same values."""
        for case in load("node")["config"]:
            name = case["name"]
            config, report = node.load(case["toml"])
            if config is None:
                self.assertTrue(
                    not case["ok"] or name in MAY_REFUSE or name.startswith("endpoint xxxxx"), (name, report)
                )
                continue
            self.assertTrue(case["ok"], name)
            self._compare(config, case["resolved"], name)

    def _compare(self, config: NodeConfig, resolved: dict, name: str) -> None:
        self.assertEqual(config.identifier, resolved["Identifier"], name)
        self.assertEqual(
            [a.url.lower() for a in config.halves[0].addresses], [a.lower() for a in resolved["Addresses"]]
        )
        self.assertEqual(config.logging.level, resolved["LogLevel"], name)
        if config.management_path is not None:
            self.assertEqual(config.management_path, resolved["ManagementPath"], name)
        if "SpoolDB" in resolved:
            self.assertEqual(config.spool_db.path, resolved["SpoolDB"], name)
        for key, attribute in DEBUG_KEYS.items():
            self.assertEqual(getattr(config.debug, attribute), resolved["Debug"][key], (name, key))

    def test_errors_name_the_key(self) -> None:
        """Refused files say at which key, in the words of the reference up to its last colon where they are stable."""
        for case in load("node")["config"]:
            if case["ok"]:
                continue
            _, report = node.load(case["toml"])
            self.assertTrue(report.errors, case["name"])
            self.assertTrue(all(str(e) for e in report.errors))

    def test_address_map(self) -> None:
        """What a descriptor advertises."""
        for case in load("node")["address_map"]:
            if case["ok"]:
                self.assertEqual(descriptor_map(case["addresses"], lambda host: []), case["map"])
            else:
                self.assertRaises(ConfigError, descriptor_map, case["addresses"], lambda host: [])

    def test_runtime_defaults(self) -> None:
        """Worker counts and burst from the number of CPUs and the measured rate."""
        for case in load("node")["runtime_defaults"]:
            given = case["in"]
            table = DebugTable(
                num_sphinx_workers=given["NumSphinxWorkers"],
                num_gateway_workers=given["NumGatewayWorkers"],
                num_service_workers=given["NumServiceWorkers"],
                num_kaetzchen_workers=given["NumKaetzchenWorkers"],
                scheduler_max_burst=given["SchedulerMaxBurst"],
            )
            got: Debug = with_runtime(resolve_debug(table, older=False), case["num_cpu"], case["saturated"])
            out = case["out"]
            self.assertEqual(
                [
                    got.num_sphinx_workers,
                    got.num_gateway_workers,
                    got.num_service_workers,
                    got.num_kaetzchen_workers,
                    got.scheduler_max_burst,
                ],
                [
                    out["NumSphinxWorkers"],
                    out["NumGatewayWorkers"],
                    out["NumServiceWorkers"],
                    out["NumKaetzchenWorkers"],
                    out["SchedulerMaxBurst"],
                ],
                case,
            )


PROVIDER = """
[Server]
Identifier = "Example.COM"
Addresses = [{addresses}]
DataDir = "/var/lib/kp"
IsProvider = true
{server}
[PKI.Nonvoting]
Address = "192.0.2.2:2323"
PublicKey = "kAiVchOBwHVtKJVFJLsdCQ9UyN2SlfhLHYqT8ePBetg="
{rest}
"""


def provider(rest: str = "", server: str = "", addresses: str = '"192.0.2.1:29483"') -> tuple:
    """A Provider's file."""
    return node.load(PROVIDER.format(addresses=addresses, server=server, rest=rest))


class FamilyTests(SynchronousTestCase):
    """tcp4 and tcp6 in a file of v0.0.99 (spec: link 2.1, node 11): loaded as upstream does, with a warning."""

    good: dict

    def setUp(self) -> None:
        case = next(c for c in load("node")["config"] if c["name"] == "bind")
        self.good = toml.parse(case["toml"])

    def test_own_addresses(self) -> None:
        """The start can not listen there, or not advertise it."""
        for key in ("Addresses", "BindAddresses"):
            tables = copy.deepcopy(self.good)
            tables["Server"][key] = ["tcp6://192.0.2.1:5"]
            config, report = node.load(toml.dump(tables))
            self.assertIsNotNone(config, report)
            wanted = f'Server.{key}: address "tcp6://192.0.2.1:5" is IPv4, its scheme wants IPv6; the start will fail'
            self.assertIn(wanted, report.warnings)

    def test_authority(self) -> None:
        """Only the other addresses of an authority are dialled; it must have one."""
        [authority] = self.good["PKI"]["Voting"]["Authorities"]
        authority["Addresses"] = ["tcp6://192.0.2.1:5", "tcp://192.0.2.1:6"]
        config, report = node.load(toml.dump(self.good))
        self.assertEqual([a.url for a in config.authorities[0].addresses], ["tcp://192.0.2.1:6"])
        self.assertIn("wants IPv6; it is left out", "".join(report.warnings))
        authority["Addresses"].pop()
        config, report = node.load(toml.dump(self.good))
        self.assertIn("No valid Addresses in ['tcp6://192.0.2.1:5']", str(report.errors[0]))


class ProviderTests(SynchronousTestCase):
    """The older shape (spec: provider 1)."""

    def ok(self, *args: str, **kwargs: str) -> NodeConfig:
        """Load, or fail with the mistakes."""
        config, report = provider(*args, **kwargs)
        self.assertIsNotNone(config, report.errors)
        return config

    def refused(self, needle: str, *args: str, **kwargs: str) -> None:
        """Must be refused with this in a message."""
        config, report = provider(*args, **kwargs)
        self.assertIsNone(config)
        self.assertIn(needle, "\n".join(map(str, report.errors)))

    def test_two_halves(self) -> None:
        """A Provider has a gateway half and a service half, one port and one name apart."""
        config = self.ok()
        gateway, service = config.halves
        self.assertEqual((gateway.kind, service.kind), (Kind.GATEWAY, Kind.SERVICE))
        self.assertEqual(gateway.identifier, "example.com")
        self.assertEqual(service.identifier, "example.com-service")
        self.assertEqual([a.url for a in service.listen], ["tcp://192.0.2.1:29484"])
        self.assertEqual(config.wire_kem, "x25519")
        self.assertEqual(config.debug.handshake_timeout, 30000)
        self.assertEqual(config.geometry.packet_length, 3082)

    def test_old_schemes(self) -> None:
        """tcp6 is rewritten to tcp, http means QUIC."""
        config = self.ok(addresses='"tcp6://[2001:db8::1]:1", "http://192.0.2.1:5"')
        self.assertEqual([a.url for a in config.halves[0].addresses], ["tcp://[2001:db8::1]:1", "quic://192.0.2.1:5"])

    def test_wrong_family(self) -> None:
        """tcp6 with an IPv4 address is a mistake."""
        self.refused("wants IPv6", addresses='"tcp6://192.0.2.1:1"')

    def test_as_written(self) -> None:
        """An older spelling is told as the file has it."""
        for text, words in (
            ("http://192.0.2.1", "'http://192.0.2.1' is invalid: Must contain Port"),
            ("http://mix.example:5", '"http://mix.example:5" has hostname'),
            ("192.0.2.1", "'192.0.2.1' is invalid: Must contain Port"),
            ("192.0.2.1:70000", "'192.0.2.1:70000' is invalid: port 70000"),
        ):
            self.refused(words, addresses=f'"{text}"')
            config, report = provider()
            self.assertIsNotNone(config, report)
            file = PROVIDER.replace("192.0.2.2:2323", text).format(addresses='"tcp://192.0.2.1:1"', server="", rest="")
            _, report = node.load(file)
            self.assertIn(words, str(report.errors[0]))
            self.assertEqual([e.path for e in report.errors], ["PKI.Nonvoting.Address"])

    def test_malformed_example(self) -> None:
        """The document's own malformed address is refused."""
        self.refused("not an IP literal", addresses='"http://192.168.0.2.1:15242"')

    def test_published_data(self) -> None:
        """What has no form in a descriptor is refused where it stands; an empty table is published too."""
        plugin = '[[Provider.CBORPluginKaetzchen]]\nCapability = "zec"\nEndpoint = "+zec"\nCommand = "/x"\n'
        data = "[Provider.CBORPluginKaetzchen.PKIAdvertizedData.zec]\n"
        where = "Provider.CBORPluginKaetzchen[0].PKIAdvertizedData"
        for text, words in (
            ("since = 2020-01-01", f"{where}.since: a date"),
            ("a = [{b = 07:32:00}]", f"{where}.a.0.b: a date"),
            ("a = 18446744073709551616", f"{where}.a: a number of more than 64 bits"),
            ("a = [[[[[[[[1]]]]]]]]", "is nested more than 8 levels deep"),
        ):
            self.refused(words, plugin + data + text)
        self.assertEqual(self.ok(plugin + data).services[0].advertised_data, {})
        self.assertEqual(
            self.ok(plugin + data + "a = [1.5, {b = true}]").services[0].advertised_data, {"a": [1.5, {"b": True}]}
        )

    def test_unreachable(self) -> None:
        """Other nodes dial tcp4, tcp6 and quic only."""
        server = 'OnlyAdvertiseAltAddresses = true\n[Server.AltAddresses]\n{} = ["192.0.2.9:1"]'
        for transport, warned in (("tcp", True), ("tcp4", False), ("quic", False)):
            _, report = provider(server=server.format(transport))
            self.assertEqual("can reach this one" in "".join(report.warnings), warned, report)

    def test_epochs_too_short(self) -> None:
        """No network can work with them."""
        self.refused("Server.EpochDuration: '999ms' is shorter than a second", server='EpochDuration = "999ms"')

    def test_two_databases_in_one_file(self) -> None:
        """Users and spool can not share a file."""
        provider = '[Provider.UserDB.Bolt]\nUserDB = "a.db"\n[Provider.SpoolDB.Bolt]\nSpoolDB = "a.db"\n'
        self.refused("is the file of the user database too", provider)

    def test_management_switches(self) -> None:
        """The table of provider 1.5."""
        for text, on in (
            ("", False),
            ("[Management]\nEnable = true", True),
            ("[Management]\nDisable = true", False),
            ("[Management]\nDisable = false", True),
            ("[Management]\nEnable = true\nDisable = true", False),
            ("[Management]\n", False),
        ):
            self.assertEqual(self.ok(text).management_path is not None, on, text)

    def test_databases(self) -> None:
        """Backends by name and by table."""
        config = self.ok("[Provider.UserDB.ExternUserDB]\nProviderURL = 'http://localhost:8080/'")
        self.assertEqual((config.user_db.backend, config.user_db.url), ("extern", "http://localhost:8080"))
        config = self.ok("[Provider.UserDB]\nBackend='bolt'\n[Provider.UserDB.Bolt]\nUserDB = 'my_users.db'")
        self.assertEqual(config.user_db.path, "/var/lib/kp/my_users.db")
        sql = "[Provider.SQLDB]\nBackend='pgx'\nDataSourceName='host=x'\n[Provider.UserDB]\nBackend='sql'"
        self.assertEqual(self.ok(sql).user_db.dsn, "host=x")
        self.refused("without a SQLDB block", "[Provider.SpoolDB]\nBackend='sql'")
        self.refused("Invalid UserDB Backend", "[Provider.UserDB]\nBackend='x'")
        self.refused("http schema", "[Provider.UserDB.Extern]\nProviderURL='ftp://a'")

    def test_plugin_spellings(self) -> None:
        """The document's PluginKaetzchen.Config reaches the plugin."""
        text = (
            "[[Provider.CBORPluginKaetzchen]]\nCapability='zec'\nEndpoint='+zec'\nCommand='/bin/x'\nMaxConcurrency=3\n"
            "[Provider.PluginKaetzchen.Config]\nlog_dir='/var/log'\n"
        )
        service = self.ok(text).services[0]
        self.assertEqual((service.config, service.max_concurrency), ({"log_dir": "/var/log"}, 3))

    def test_plugin_list_of_no_tables(self) -> None:
        """The older spelling as a list of something else is a mistake like others."""
        self.refused("must be a table", "[Provider]\nPluginKaetzchen=['x']")

    def test_all_mistakes_at_once(self) -> None:
        """Every mistake of a file is reported, each with its path."""
        _, report = node.load("[Server]\nDataDir='x'\nAddresses=['foo']\n[PKI]\n[Debug]\nUnwrapDelay='a'\n")
        text = "\n".join(map(str, report.errors))
        for needle in (
            "Server.DataDir",
            "Server.Addresses",
            "Server.Identifier",
            "Debug.UnwrapDelay",
            "SphinxGeometry",
        ):
            self.assertIn(needle, text)

    def test_unknown_keys(self) -> None:
        """Unknown keys are listed with their paths; known spellings are not."""
        _, report = provider("[Management]\nDisable = true\nFoo = 1\n", server="Bar = 2")
        self.assertEqual(sorted(report.unknown), ["Management.Foo", "Server.Bar"])

    def test_identity_key(self) -> None:
        """[Debug] IdentityKey is the seed in hex; it stands in for the file."""
        config, report = provider(f"[Debug]\nIdentityKey='{'01' * 32}'")
        self.assertIsNotNone(config.halves[0].identity_key)
        self.assertTrue(any("NOT be used" in w for w in report.warnings))
