"""authority.toml in both shapes (spec: pki 10.6, 12)."""

from __future__ import annotations

import base64

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config import authority
from katzentwist.config.schema import Report
from katzentwist.config.whitelist import GATEWAY, MIX, SERVICE
from katzentwist.crypto import kem, keys, sign
from katzentwist.randomness import SeededRandom

RANDOM = SeededRandom("authority.toml")
SCHEME = sign.by_name("Ed25519")
FILES: dict[str, str] = {}
PUBLIC: dict[str, bytes] = {}
for stem in ("mix1", "mix2", "mix3", "gateway1", "service1", "provider1", "provider1s", "auth"):
    PUBLIC[stem] = SCHEME.generate(RANDOM)[1]
    FILES[f"/data/{stem}.pem"] = keys.encode_public(SCHEME, PUBLIC[stem])
LINK = keys.encode_public(kem.by_name("x25519"), kem.by_name("x25519").generate(RANDOM)[1])

SERVER = '[Server]\nAddresses = ["127.0.0.1:29483"]\nDataDir = "/data"\n'
DEBUG = "[Debug]\nMinNodesPerLayer = 1\n"
MIXES = "".join(f'[[Mixes]]\nIdentityKeyPem = "mix{i}.pem"\n' for i in (1, 2, 3))
PROVIDER = '[[Providers]]\nIdentifier = "Provider1"\nIdentityKeyPem = "provider1.pem"\n'
OLDER = SERVER + DEBUG + MIXES + PROVIDER + 'ServiceIdentityKeyPem = "provider1s.pem"\n'
GEOMETRY = """[SphinxGeometry]
PacketLength = 3082
NrHops = 5
HeaderLength = 476
RoutingInfoLength = 410
PerHopRoutingInfoLength = 82
SURBLength = 572
SphinxPlaintextHeaderLength = 2
PayloadTagLength = 32
ForwardPayloadLength = 2574
UserForwardPayloadLength = 2000
NextNodeHopLength = 65
SPRPKeyMaterialLength = 64
NIKEName = "x25519"
KEMName = ""
"""
OWN = f"""[[Authorities]]
Identifier = "auth1"
IdentityPublicKey = '''{FILES["/data/auth.pem"]}'''
PKISignatureScheme = "Ed25519"
LinkPublicKey = '''{LINK}'''
WireKEMScheme = "x25519"
Addresses = ["tcp://127.0.0.1:1"]
"""
NEWER = f"""{OWN}
[Server]
Identifier = "auth1"
WireKEMScheme = "x25519"
PKISignatureScheme = "Ed25519"
Addresses = ["tcp://127.0.0.1:1"]
DataDir = "/data"
{DEBUG}
[[Mixes]]
Identifier = "Mix1"
IdentityPublicKeyPem = "mix1.pem"
[[Mixes]]
Identifier = "mix2"
IdentityPublicKeyPem = "/data/mix2.pem"
[[Mixes]]
Identifier = "mix3"
IdentityPublicKeyPem = "mix3.pem"
[[GatewayNodes]]
Identifier = "gateway1"
IdentityPublicKeyPem = "gateway1.pem"
[[ServiceNodes]]
Identifier = "service1"
IdentityPublicKeyPem = "service1.pem"
{GEOMETRY}
"""


def read_file(path: str) -> str:
    """The key files of these tests."""
    try:
        return FILES[path]
    except KeyError:
        raise FileNotFoundError(2, "No such file", path) from None


def load(text: str) -> tuple[authority.AuthorityConfig, Report]:
    """A configuration that must be good."""
    config, report = authority.load(text, read_file=read_file)
    assert config is not None, report.errors
    return config, report


def errors(text: str) -> str:
    """The mistakes of a bad file."""
    config, report = authority.load(text, read_file=read_file)
    assert config is None
    return "\n".join(str(e) for e in report.errors)


class OlderShapeTests(SynchronousTestCase):
    """The file of the older nonvoting authority."""

    def test_defaults(self) -> None:
        """What may be left out has the defaults of the specification."""
        config, report = load(OLDER)
        self.assertEqual((config.identifier, config.wire_kem, config.signature_scheme), ("auth1", "x25519", "Ed25519"))
        self.assertEqual([a.url for a in config.addresses], ["tcp://127.0.0.1:29483"])
        self.assertEqual(config.listen, config.addresses)
        self.assertEqual((config.handshake_timeout, config.response_timeout), (3, 30))
        self.assertEqual((config.layers, config.min_nodes_per_layer, config.bootstrap_current_epoch), (3, 1, False))
        self.assertEqual(config.parameters, authority.Parameters())
        self.assertEqual(config.geometry.packet_length, 3082)
        self.assertEqual((config.logging.level, config.topology, config.own), ("NOTICE", None, None))
        self.assertEqual((report.unknown, report.warnings), ([], []))

    def test_members(self) -> None:
        """Mixes without names, and both halves of the Provider."""
        config, _ = load(OLDER)
        found = [(sorted(m.kinds), m.name, m.identity_key) for m in config.members]
        self.assertEqual(found[0], ([MIX], None, PUBLIC["mix1"]))
        self.assertEqual(found[3], ([GATEWAY], "provider1", PUBLIC["provider1"]))
        self.assertEqual(found[4], ([SERVICE], "provider1-service", PUBLIC["provider1s"]))

    def test_authority_table(self) -> None:
        """[Authority] is the older name of [Server]; both are an error."""
        load(OLDER.replace("[Server]", "[Authority]"))
        self.assertIn("keep [Server]", errors(OLDER + '[Authority]\nDataDir = "/data"\n'))
        self.assertIn("No Server block", errors(MIXES))

    def test_two_entries(self) -> None:
        """A Provider as two entries, each of either kind; one entry alone is not enough."""
        second = PROVIDER.replace("Provider1", "other").replace("provider1.pem", "provider1s.pem")
        config, _ = load(SERVER + DEBUG + MIXES + PROVIDER + second)
        self.assertEqual([sorted(m.kinds) for m in config.members[3:]], [[GATEWAY, SERVICE]] * 2)
        self.assertIn("ServiceIdentityKeyPem", errors(SERVER + DEBUG + MIXES + PROVIDER))

    def test_key_texts(self) -> None:
        """Keys in base64 and hex, and PEM text in the place of a file name."""
        texts = OLDER.replace('IdentityKeyPem = "mix1.pem"', f'IdentityKey = "{PUBLIC["mix1"].hex()}"')
        texts = texts.replace(
            'IdentityKeyPem = "mix2.pem"', f'IdentityKey = "{base64.b64encode(PUBLIC["mix2"]).decode()}"'
        )
        texts = texts.replace('"mix3.pem"', f"'''{FILES['/data/mix3.pem']}'''")
        self.assertEqual(load(texts)[0].members, load(OLDER)[0].members)

    def test_old_parameters(self) -> None:
        """Keys without a place in a document are accepted and named once; zero means the default."""
        config, report = load(OLDER + "[Parameters]\nSendRatePerMinute = 60\nMu = 0.005\nMuMaxDelay = 9\nLambdaP = 0\n")
        self.assertEqual((config.parameters.mu, config.parameters.lambda_p), (0.005, 0.00025))
        self.assertEqual(len(report.warnings), 1)
        self.assertIn("SendRatePerMinute, MuMaxDelay", report.warnings[0])

    def test_generate_only(self) -> None:
        """For key generation neither white list nor key files are needed."""
        config, report = authority.load(SERVER + "[[Mixes]]\n")
        assert config is not None, report.errors
        self.assertTrue(config.generate_only)
        config, _ = load(SERVER + "[Debug]\nGenerateOnly = true\n")
        self.assertTrue(config.generate_only)


class NewerShapeTests(SynchronousTestCase):
    """The file of v0.0.99 with one authority."""

    def test_reads(self) -> None:
        """The entry is ours, names are normalised, an absolute path stays as it is."""
        config, report = load(NEWER)
        assert config.own is not None
        self.assertEqual(config.own.identity_key, PUBLIC["auth"])
        names = [m.name for m in config.members]
        self.assertEqual(names, ["mix1", "mix2", "mix3", "gateway1", "service1"])
        self.assertEqual(report.unknown, [])

    def test_mandatory(self) -> None:
        """Schemes and geometry may not be left out here."""
        text = NEWER.replace(GEOMETRY, "").replace('Identifier = "auth1"\nWireKEMScheme = "x25519"\nPKI', "#PKI")
        found = errors(text.replace('#PKISignatureScheme = "Ed25519"', ""))
        for path in ("Server.WireKEMScheme", "Server.PKISignatureScheme", "SphinxGeometry"):
            self.assertIn(path, found)

    def test_no_voting(self) -> None:
        """More than one authority: voting is not supported."""
        self.assertIn("voting is not supported", errors(OWN + NEWER))

    def test_topology(self) -> None:
        """Fixed layers hold mixes of the list, each once."""
        layers = "".join(
            f'[[Topology.Layers]]\n[[Topology.Layers.Nodes]]\nIdentifier="m"\nIdentityPublicKeyPem = "mix{i}.pem"\n'
            for i in (1, 2, 3)
        )
        self.assertEqual(load(NEWER + layers)[0].topology, tuple((PUBLIC[f"mix{i}"],) for i in (1, 2, 3)))
        self.assertIn("already", errors(NEWER + layers.replace("mix2", "mix1")))
        self.assertIn("[[Mixes]]", errors(NEWER + layers.replace("mix2", "gateway1")))

    def test_replicas(self) -> None:
        """Storage replicas are refused by name."""
        self.assertIn("not supported", errors(NEWER + '[[StorageReplicas]]\nIdentifier = "r"\n'))


class MistakeTests(SynchronousTestCase):
    """All mistakes at once, each with its path."""

    def test_each(self) -> None:
        """One mistake at a time."""
        for old, new, path in (
            ('DataDir = "/data"', 'DataDir = "data"', "Server.DataDir"),
            ("MinNodesPerLayer = 1", "MinNodesPerLayer = 2", "Mixes"),
            ("MinNodesPerLayer = 1", "Layers = 4", "Debug.Layers"),
            ('"mix1.pem"', '"nothing.pem"', "Mixes[0].IdentityKeyPem"),
            ('IdentityKeyPem = "mix1.pem"', "", "Mixes[0].IdentityKeyPem"),
            ('"mix1.pem"', '"mix2.pem"', "more than once"),
            ('Identifier = "Provider1"', "", "Providers[0].Identifier"),
            ('"Provider1"', '"under_score"', "Providers[0].Identifier"),
            ('"Provider1"', f'"{"p" * 30}"', "Providers[0].ServiceIdentifier"),
            ('"127.0.0.1:29483"', '"example.org:29483"', "Server.Addresses"),
            ('"127.0.0.1:29483"', '"127.0.0.1"', "Server.Addresses"),
            ('["127.0.0.1:29483"]', "[]", "Server.Addresses"),
            ('DataDir = "/data"', 'DataDir = "/data"\nDisableIPv4 = true', "DisableIPv4"),
            ('DataDir = "/data"', 'DataDir = "/data"\nMetricsAddress = "here"', "Server.MetricsAddress"),
            ('DataDir = "/data"', 'DataDir = "/data"\nEpochDuration = "0s"', "Server.EpochDuration"),
            ('DataDir = "/data"', 'DataDir = "/data"\nHandshakeTimeoutSec = -1', "Server.HandshakeTimeoutSec"),
            ("[Debug]", "[Parameters]\nMu = -1.0\n[Debug]", "Parameters.Mu"),
            ("[Debug]", "[Parameters]\nMu = nan\n[Debug]", "Parameters.Mu"),
            ("[Debug]", '[Logging]\nLevel = "LOUD"\n[Debug]', "Logging.Level"),
        ):
            self.assertIn(old, OLDER)
            self.assertIn(path, errors(OLDER.replace(old, new, 1)), new)

    def test_all_at_once(self) -> None:
        """Mistakes do not hide each other."""
        text = OLDER.replace('"/data"', '"data"', 1).replace('"mix1.pem"', '"none.pem"')
        self.assertGreaterEqual(len(errors(text).splitlines()), 2)

    def test_hops(self) -> None:
        """A geometry of four hops has no room for three layers."""
        text = OLDER.replace("[Debug]", '[SphinxGeometry]\nNrHops = 4\nNIKEName = "x25519"\n[Debug]')
        self.assertIn("SphinxGeometry", errors(text))

    def test_unknown_keys(self) -> None:
        """They are noted with their path."""
        self.assertEqual(load(OLDER.replace("[Debug]", "[Debug]\nColour = 1"))[1].unknown, ["Debug.Colour"])

    def test_default_address(self) -> None:
        """Without Addresses: the first public IPv4 address."""
        text = OLDER.replace('Addresses = ["127.0.0.1:29483"]\n', "")
        self.assertIn("Server.Addresses", errors(text))
        config, _ = authority.load(text, read_file=read_file, local_ips=["127.0.0.1", "8.8.8.8"])
        assert config is not None
        self.assertEqual(config.addresses[0].url, "tcp://8.8.8.8:62472")

    def test_not_toml(self) -> None:
        """A syntax error is a mistake as any other."""
        self.assertIn("not valid TOML", errors("["))
