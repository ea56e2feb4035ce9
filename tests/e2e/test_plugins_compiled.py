"""Echo plugins in Go and Rust, with those languages' own CBOR libraries, in both protocols, under a running Provider.

Skipped aloud where there is no compiler, or its packages can not be fetched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from katzentwist.testnet.plan import Shape
from tests.e2e.processes import ROOT, LiveNetwork, metrics
from tests.e2e.test_management import asking

EXAMPLES = ROOT / "examples"
BUILD_SECONDS = 200


def cached(name: str) -> Path:
    """A folder for what was built, so that it is quick the next time."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / f"katzentwist-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def build(compiler: str, command: list[str], folder: Path, more: dict[str, str]) -> None:
    """Run a compiler; its complaints about our program are a failure, missing packages are none."""
    if shutil.which(compiler) is None:
        raise SkipTest(f"there is no {compiler} on the path")
    try:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **more}, capture_output=True, text=True, timeout=BUILD_SECONDS,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SkipTest(f"{compiler} was not done within {BUILD_SECONDS} s") from None
    if "error[" in done.stderr or "main.go:" in done.stderr:
        raise AssertionError(done.stderr)
    if done.returncode:
        raise SkipTest(f"{compiler} can not build {folder.name}: {done.stderr[-1000:]}")


def build_go() -> Path:
    """examples/echo_go."""
    program = cached("echo-go") / "echo-service"
    build("go", ["go", "build", "-o", str(program), "."], EXAMPLES / "echo_go", {})
    return program


def build_rust() -> Path:
    """examples/echo_rust."""
    target = cached("echo-rust")
    build("cargo", ["cargo", "build", "--quiet"], EXAMPLES / "echo_rust", {"CARGO_TARGET_DIR": str(target)})
    return target / "debug" / "echo-service"


class CompiledTests(SynchronousTestCase):
    """One network for each language: the plugin twice, as it is and with ``-protocol old``."""

    timeout = 300

    def check(self, build_program: Callable[[], Path]) -> None:
        """Answers come back through the mix network, requests without SURB are swallowed, nothing stays behind."""
        program = str(build_program())
        sockets = tempfile.mkdtemp(prefix="kt-")
        self.addCleanup(shutil.rmtree, sockets)
        self.patch(os, "environ", os.environ | {"TMPDIR": sockets})

        def provider(tables: dict[str, Any]) -> None:
            tables["Provider"]["CBORPluginKaetzchen"] = [
                {"Capability": "echo5", "Endpoint": "+new", "Command": program},
                {"Capability": "echo3", "Endpoint": "+old", "Command": program, "Config": {"protocol": "old"}},
            ]

        with LiveNetwork(Shape(epoch="30s", wire_kem="x25519", mu=0.05, lambda_p=0.02)) as net:
            net.edit("provider1", provider)
            net.start()
            client = net.network.client / "client.toml"
            for endpoint in ("+new", "+old"):
                done = asking(client, endpoint, "hello")
                self.assertEqual(bytes.fromhex(done.stdout).rstrip(b"\0"), b"hello", done.stderr)
                self.assertEqual(asking(client, endpoint, "nobody waits", "--no-surb").returncode, 0)
                done = asking(client, endpoint, "text", "--burst", "4", "--quiet", "0.5")
                self.assertEqual(done.stdout.strip(), "4", done.stderr)
            values = metrics(net.node("provider1"))
            self.assertEqual(values.get("katzenpost_plugin_restarts_total"), 0)
            self.assertEqual([r for r in net.drops() if "kaetzchen" in r], [])

    def test_go(self) -> None:
        """With fxamacker/cbor, the library of the plugins that Katzenpost ships."""
        self.check(build_go)

    def test_rust(self) -> None:
        """With ciborium and serde."""
        self.check(build_rust)
