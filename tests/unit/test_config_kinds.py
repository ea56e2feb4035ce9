"""Files in each other's place (katzentwist.config.kinds)."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.cli import check_config
from katzentwist.config.kinds import FileKind, kind_of
from katzentwist.testnet.plan import Shape, generate

NAMES = {
    FileKind.THIN_CLIENT: "thinclient.toml",
    FileKind.CLIENT: "client.toml",
    FileKind.AUTHORITY: "authority.toml",
    FileKind.NODE: "katzenpost.toml",
}


class KindTests(SynchronousTestCase):
    """The files of a network, with the kinds that they are."""

    def setUp(self) -> None:
        """A network in each shape."""
        self.files: list[tuple[FileKind, Path]] = []
        for shape in (Shape(), Shape(providers=0, gateways=1, service_nodes=1)):
            network = generate(Path(self.mktemp()).absolute(), shape)
            roles = {"authority": FileKind.AUTHORITY}
            self.files += [(roles.get(node.role, FileKind.NODE), node.config) for node in network.nodes]
            self.files.append((FileKind.CLIENT, network.client / "client.toml"))
            self.files.append((FileKind.THIN_CLIENT, network.client / "thinclient.toml"))

    def test_each_reader(self) -> None:
        """Each is read in its own place; in that of another it is called by its name, beside the one that is needed."""
        for kind, path in self.files:
            for wanted, load in check_config.LOADERS.items():
                _, report = load(path.read_text())
                said = [str(error) for error in report.errors]
                if kind is wanted:
                    self.assertEqual(said, [], path)
                    continue
                (mistake,) = said
                self.assertIn(f"this is the {NAMES[kind]} of ", mistake)
                self.assertIn(f"what is needed here is the {NAMES[wanted]} of ", mistake)

    def test_doubtful(self) -> None:
        """A file with a table of its own kind is read as that, and one that tells nothing as what it should be."""
        for wanted, load in check_config.LOADERS.items():
            self.assertIsNone(kind_of({"Server": {}, "Logging": {}}))
            own, other = {
                FileKind.THIN_CLIENT: ("Dial", "Mixes"),
                FileKind.CLIENT: ("PinnedGateways", "Mixes"),
                FileKind.AUTHORITY: ("Mixes", "PKI"),
                FileKind.NODE: ("PKI", "Mixes"),
            }[wanted]
            for text in (f"[{own.lower()}]\n[{other}]\n", "", "[Server]\n"):
                _, report = load(text)
                self.assertTrue(report.errors, (wanted, text))
                self.assertNotIn("this is", " ".join(map(str, report.errors)))
