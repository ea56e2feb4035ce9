"""The two databases of a gateway or Provider, as its file asks for them (spec: provider 1.9 and 2.6)."""

from __future__ import annotations

from pathlib import Path

import attrs

from katzentwist.config.node import NodeConfig, UserPolicy
from katzentwist.config.services import Database
from katzentwist.crypto import kem
from katzentwist.errors import ConfigError
from katzentwist.interfaces import ISpool, IUserDB
from katzentwist.logger import ModuleLogger
from katzentwist.node.extras import missing_extra
from katzentwist.node.runtime import Runtime
from katzentwist.store.embedded import EmbeddedSpool, EmbeddedUserDB

log = ModuleLogger("provider")


def build_stores(
    runtime: Runtime, config: NodeConfig, spool_db: Database
) -> tuple[IUserDB | None, ISpool, UserPolicy | None]:
    """User database, spool, and who is let in; nothing is opened yet.

    :raises ConfigError: a back end needs an extra that is not installed.
    """
    user_db, policy = config.user_db, config.users
    for database, path in ((user_db, "Provider.UserDB.Backend"), (spool_db, "Provider.SpoolDB.Backend")):
        if database is not None and (why := missing_extra(database.backend)):
            raise ConfigError(f"the back end {why}", path)
    postgres = None
    if "sql" in (spool_db.backend, user_db.backend if user_db is not None else ""):
        from katzentwist.store import postgres as sql  # noqa: PLC0415 - needs an extra

        dsn = spool_db.dsn or (user_db.dsn if user_db is not None else "")
        postgres = sql.Postgres(runtime.reactor, dsn, runtime.debug.num_gateway_workers)
    users: IUserDB | None = None
    if user_db is not None:
        link_keys = kem.by_name(config.wire_kem)
        if user_db.backend == "extern":
            from katzentwist.store.http import HTTPUserDB  # noqa: PLC0415 - needs an extra

            users, policy = HTTPUserDB(runtime.reactor, user_db.url, link_keys), _closed(policy)
        elif postgres is not None and user_db.backend == "sql":
            users = sql.PostgresUserDB(postgres, link_keys.public_key_size)
        else:
            users = EmbeddedUserDB(Path(user_db.path), runtime.reactor.callFromThread)
    if postgres is not None and spool_db.backend == "sql":
        return users, sql.PostgresSpool(postgres, user_db is not None and user_db.backend == "sql"), policy
    return users, EmbeddedSpool(Path(spool_db.path), runtime.reactor.callFromThread), policy


def _closed(policy: UserPolicy | None) -> UserPolicy | None:
    """An HTTP service can not be told of new users (spec: provider 2.4)."""
    if policy is None or not (policy.ephemeral or policy.trust_on_first_use):
        return policy
    log.warn(
        "EnableEphemeralClients and TrustOnFirstUse have no effect: the users are those of an HTTP service, "
        "and nobody else is let in"
    )
    return attrs.evolve(policy, ephemeral=False, trust_on_first_use=False)
