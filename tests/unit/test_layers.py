"""The layers of the architecture: an arrow down is the only import allowed (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent.parent / "katzentwist"

BELOW = {"cbor", "errors", "interfaces", "clock", "randomness", "logger", ""}
"""Modules below every layer; "" is the package itself, for its version."""
LAYERS = {
    "crypto": 0,
    "sphinx": 1,
    "wire": 1,
    "pki": 1,
    "config": 1,
    "net": 3,
    "status": 4,
    "node": 4,
    "store": 4,
    "plugins": 4,
    "management": 4,
    "mix": 5,
    "provider": 5,
    "dirauth": 5,
    "client": 5,
    "thin": 5,
    "testnet": 6,
    "cli": 6,
    "testing": 7,
}
ROLES = {name for name, layer in LAYERS.items() if layer == 5}
EXCEPTIONS = {
    ("plugins", "mix"): "services count what they do not serve under the drop reasons of the packet path",
    ("management", "mix"): "commands act on the parts of a node",
    ("management", "provider"): "commands act on the parts of a node",
    ("provider", "mix"): "a half of a Provider is a mix with an end for packets",
    ("client", "thin"): "the daemon speaks the thin client protocol, which counts as a format",
}
COMPOSERS = {"mix/service.py", "mix/tap.py"}
"""They put a node together, so they see provider/ and everything else."""
CORES = ("crypto", "sphinx", "wire", "pki", "config")
FORBIDDEN_IN_CORES = {"twisted.internet", "time", "random", "socket", "os", "threading", "asyncio"}


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all imports of a module, type-checking ones too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def modules() -> Iterator[tuple[str, str, Path]]:
    """(layer's folder, path inside the package, file)."""
    for path in sorted(ROOT.rglob("*.py")):
        inside = path.relative_to(ROOT)
        yield (inside.parts[0] if len(inside.parts) > 1 else ""), inside.as_posix(), path


class LayerTests(SynchronousTestCase):
    """One test per rule."""

    def test_arrows_point_down(self) -> None:
        """No module imports a layer above its own, and no role another."""
        bad = []
        for own, inside, path in modules():
            for name in imports(path):
                if not name.startswith("katzentwist."):
                    continue
                other = name.split(".")[1]
                if own == "" or other in BELOW or other == own or (own, other) in EXCEPTIONS:
                    continue
                if inside in COMPOSERS and LAYERS[other] <= LAYERS[own]:
                    continue
                if other not in LAYERS or LAYERS[other] > LAYERS[own] or (own in ROLES and other in ROLES):
                    bad.append(f"{inside} imports {name}")
        self.assertEqual(bad, [])

    def test_cores_have_no_io(self) -> None:
        """Formats and cores know no reactor, clock, files or chance; every ``_core`` module too."""
        allowed = {"crypto/native.py": {"os"}}
        bad = []
        for own, inside, path in modules():
            if own not in CORES and not inside.endswith("_core.py"):
                continue
            for name in imports(path):
                for forbidden in FORBIDDEN_IN_CORES - allowed.get(inside, set()):
                    if name == forbidden or name.startswith(forbidden + "."):
                        bad.append(f"{inside} imports {name}")
        self.assertEqual(bad, [])

    def test_only_crypto_imports_crypto(self) -> None:
        """nacl, cryptography and the native module stay behind one wall."""
        walls = ("nacl", "cryptography", "katzentwist._native")
        bad = [
            f"{inside} imports {name}"
            for own, inside, path in modules()
            for name in imports(path)
            # QUIC brings its own TLS, which wants a certificate.
            if name.startswith(walls) and own != "crypto" and not inside.startswith("net/quic")
        ]
        self.assertEqual(bad, [])

    def test_only_store_names_sql(self) -> None:
        """Databases stay behind one wall."""
        walls = ("sqlite3", "psycopg2", "txpostgres")
        allowed = {"dirauth/state.py", "mix/diskqueue.py"}
        bad = [
            f"{inside} imports {name}"
            for own, inside, path in modules()
            for name in imports(path)
            if name.startswith(walls) and own != "store" and inside not in allowed
        ]
        self.assertEqual(bad, [])
