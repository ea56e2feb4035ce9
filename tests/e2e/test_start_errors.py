"""Wrong configuration: each mistake gives one message with file, key, value and remedy, status 1, and no traceback."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config import toml
from katzentwist.crypto import kem, keys, sign
from katzentwist.testnet.plan import Network, Shape, generate
from tests.e2e.processes import twistd


class StartErrorTests(SynchronousTestCase):
    """The mistakes that the issue of first light lists, and their neighbours."""

    def setUp(self) -> None:
        """A tree of files."""
        self.folder = Path(self.mktemp()).resolve()
        self.network: Network = generate(self.folder, Shape(epoch="30s"))

    def refused(self, needles: list[str], *, name: str = "mix1", options: tuple[str, ...] = ()) -> None:
        """Start a node; it must end with status 1 and these words."""
        node = next(n for n in self.network.nodes if n.name == name)
        program = "katzendirauth" if node.role == "authority" else "katzenmix"
        done = twistd(program, "-f", str(node.config), *options, cwd=self.folder)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertNotIn("Traceback", done.stdout + done.stderr)
        for needle in needles:
            self.assertIn(needle, done.stderr)

    def edit(self, change: Callable[[dict[str, Any]], None], name: str = "mix1") -> str:
        """Change a file; its path."""
        node = next(n for n in self.network.nodes if n.name == name)
        tables = toml.parse(node.config.read_text())
        change(tables)
        node.config.write_text(toml.dump(tables))
        return str(node.config)

    def edited(self, change: Callable[[dict[str, Any]], None], needles: list[str], name: str = "mix1") -> None:
        """Change a file, start, expect the message."""
        file = self.edit(change, name)
        self.refused([file, *needles], name=name)

    def test_missing_key(self) -> None:
        """A mandatory key is not there."""
        self.edited(lambda t: t["Server"].pop("Identifier"), ["Server.Identifier", "not set"])

    def test_bad_address(self) -> None:
        """An address without port."""
        self.edited(lambda t: t["Server"].update(Addresses=["tcp://127.0.0.1"]), ["Server.Addresses", "Port"])

    def test_bad_pem(self) -> None:
        """The key of the authority is damaged."""

        def change(t: dict[str, Any]) -> None:
            t["PKI"]["Voting"]["Authorities"][0]["IdentityPublicKey"] = "-----BEGIN X-----\nAA==\n-----END X-----\n"

        self.edited(change, ["PKI.Voting.Authorities[0].IdentityPublicKey", "ED25519 PUBLIC KEY"])

    def test_unknown_scheme(self) -> None:
        """A KEM that nobody has."""
        self.edited(lambda t: t["Server"].update(WireKEM="rot13"), ["Server.WireKEM", "rot13"])

    def test_wrong_type(self) -> None:
        """A text where a number belongs."""
        self.edited(lambda t: t.update(Debug={"UnwrapDelay": "soon"}), ["Debug.UnwrapDelay", "'soon'"])

    def test_wrong_geometry(self) -> None:
        """A geometry whose numbers disagree."""
        self.edited(lambda t: t["SphinxGeometry"].update(PacketLength=3000), ["SphinxGeometry", "PacketLength"])

    def test_not_toml(self) -> None:
        """A file that is no TOML says where."""
        self.network.nodes[1].config.write_text("[Server\n")
        self.refused(["not valid TOML", "line 1"])

    def test_unreadable_file(self) -> None:
        """A file that is not there."""
        done = twistd("katzenmix", "-f", "nowhere.toml", cwd=self.folder)
        self.assertEqual(done.returncode, 1)
        self.assertIn("nowhere.toml", done.stderr)
        self.assertIn("No such file", done.stderr)

    def test_data_dir_mode(self) -> None:
        """A data directory that is open to others."""
        (self.folder / "mix1").chmod(0o755)
        self.refused(["0755", "chmod 700"])

    def test_data_dir_is_a_file(self) -> None:
        """A file in the place of the data directory."""

        (self.folder / "file").write_text("")
        self.edit(lambda t: t["Server"].update(DataDir=str(self.folder / "file")))
        self.refused(["is not a directory"])

    def test_data_dir_is_a_link(self) -> None:
        """A symbolic link is no directory (node 1.2)."""
        folder = self.network.nodes[1].folder
        folder.rename(folder.with_name("elsewhere"))
        folder.symlink_to(folder.with_name("elsewhere"))
        self.refused(["a symbolic link", str(folder)])

    def test_half_a_key_pair(self) -> None:
        """One file of a key pair is missing."""
        (self.folder / "mix1" / "link.public.pem").unlink()
        self.refused(["link.public.pem", "link.private.pem"])

    def test_keys_of_two_pairs(self) -> None:
        """Public and private file do not belong together."""
        other = (self.folder / "mix2" / "identity.public.pem").read_text()
        (self.folder / "mix1" / "identity.public.pem").write_text(other)
        self.refused(["identity.public.pem", "does not belong"])

    def test_family(self) -> None:
        """An IPv4 address under tcp6."""
        self.edit(lambda t: t["Server"].update(BindAddresses=["tcp6://127.0.0.1:1"]))
        self.refused(["Server.BindAddresses", "tcp6://127.0.0.1:1", "IPv4, its scheme wants IPv6"])

    def test_no_place_for_mix_keys(self) -> None:
        """A file is in the way of the folder for mix keys: told now, not when the node ends and they are lost."""
        (self.folder / "file").write_text("")
        place = str(self.folder / "file" / "keys")
        self.edit(lambda t: t["Server"].update(PersistMixKeysOnShutdownDir=place))
        self.refused(["Server.PersistMixKeysOnShutdownDir", place, "Not a directory"])

    def test_port_in_use(self) -> None:
        """Somebody else listens there."""
        node = next(n for n in self.network.nodes if n.name == "mix1")
        port = int(node.addresses[0].rsplit(":", 1)[1])
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", port))
            taken.listen()
            self.refused([f"can not listen on tcp://127.0.0.1:{port}", "change the address"])

    def test_authority_port_in_use(self) -> None:
        """The authority says the same."""
        port = int(self.network.nodes[0].addresses[0].rsplit(":", 1)[1])
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", port))
            taken.listen()
            self.refused([str(port)], name="auth1")

    def test_bad_epoch_duration(self) -> None:
        """An epoch duration in the environment that is none."""
        os.environ["KATZENPOST_EPOCH_DURATION"] = "nonsense"
        try:
            self.refused(["nonsense", "duration"])
        finally:
            del os.environ["KATZENPOST_EPOCH_DURATION"]

    def test_foreign_database(self) -> None:
        """A BoltDB file in the place of the spool is refused, not overwritten."""
        spool = self.folder / "provider1" / "spool.db"
        body = bytes(16) + bytes.fromhex("edda0ced") + bytes(4000)
        spool.write_bytes(body)
        self.refused(["spool.db", "BoltDB"], name="provider1")
        self.assertEqual(spool.read_bytes(), body)

    def test_unknown_service(self) -> None:
        """A built-in service that does not exist."""

        unknown = {"Capability": "teleport", "Endpoint": "+teleport"}
        self.edited(
            lambda t: t["Provider"].update(Kaetzchen=[unknown]),
            ["Provider.Kaetzchen[0].Capability", "Unsupported capability", "teleport", "echo"],
            name="provider1",
        )


class CommandLineTests(SynchronousTestCase):
    """spec: node 1.1, provider 9."""

    def setUp(self) -> None:
        """A tree of files."""
        self.folder = Path(self.mktemp()).resolve()
        self.network = generate(self.folder, Shape(epoch="30s"))
        self.mix = self.network.nodes[1].config

    def run_mix(self, *options: str) -> Any:
        """Run katzenmix to its end."""
        return twistd("katzenmix", *options, cwd=self.folder)

    def test_help(self) -> None:
        """-h shows -f with its default and -g, status 0."""
        done = self.run_mix("-h")
        self.assertEqual(done.returncode, 0)
        for needle in ("-f", "katzenpost.toml", "-g"):
            self.assertIn(needle, done.stdout)

    def test_version(self) -> None:
        """--version is ours."""
        self.assertIn("katzentwist", self.run_mix("--version").stdout)

    def test_unknown_option(self) -> None:
        """Wrong usage has status 2."""
        self.assertEqual(self.run_mix("--frobnicate").returncode, 2)

    def test_validate_only(self) -> None:
        """A good file is valid; unknown keys are mistakes."""
        done = self.run_mix("-f", str(self.mix), "--validate-only")
        self.assertEqual((done.returncode, done.stdout), (0, f"configuration file '{self.mix}' is valid\n"))
        self.mix.write_text(self.mix.read_text() + "\n[Debug]\nFoo = 1\n")
        done = self.run_mix("-f", str(self.mix), "--validate-only")
        self.assertEqual(done.returncode, 1)
        self.assertIn("unrecognised configuration keys: Debug.Foo", done.stderr)

    def test_generate_only(self) -> None:
        """-g makes the missing keys and prints the same lines each time, in their order; it opens nothing."""
        for path in (self.folder / "provider1").rglob("*.pem"):
            path.unlink()
        provider = next(n for n in self.network.nodes if n.name == "provider1").config
        first = self.run_mix("-f", str(provider), "-g")
        again = self.run_mix("-f", str(provider), "-g")
        self.assertEqual(first.returncode, 0, first.stderr)
        stamp, said = r"(?m)^\d\d:\d\d:\d\d\.\d\d\d ", []
        for done in (first, again):
            self.assertEqual(len(re.findall(stamp, done.stdout)), len(done.stdout.splitlines()))
            lines = re.sub(stamp, "", done.stdout).splitlines()
            said.append([line for line in lines if "native core is missing" not in line])
        self.assertEqual(said[0], said[1])
        expected = [
            "NOTI server: katzentwist is experimental",
            "(NOTI|WARN) server: AEZv5 implementation (IS NOT|is) hardware accelerated",
        ]
        for who, name, folder in (("Server", "provider1", ""), ("Service", "provider1-service", "service")):
            identity, link = (
                keys.decode_public(scheme, (self.folder / "provider1" / folder / f"{stem}.public.pem").read_text())
                for stem, scheme in (("identity", sign.by_name("Ed25519")), ("link", kem.by_name("xwing")))
            )
            expected += [
                f"NOTI server: {who} {line}"
                for line in (
                    f"identifier is: '{name}'$",
                    f"identity public key is: {identity.hex().upper()}$",
                    f"link public key is: {link.hex().upper()}$",
                    f"identity public key hash is: {keys.identity_hash(identity).hex()}$",
                    f"link public key hash is: {keys.identity_hash(link).hex()}$",
                )
            ]
        for line, pattern in zip(said[0], expected, strict=True):
            self.assertRegex(line, pattern)
        self.assertFalse((self.folder / "provider1" / "spool.db").exists())
        self.assertEqual((self.folder / "provider1" / "identity.public.pem").stat().st_mode & 0o777, 0o600)
