-- The database of a katzentwist Provider: users and the messages that wait for them.
--
-- For psql, run by the owner of an empty database (PostgreSQL 9.5 or newer):
--
--   psql -U provider --password -d katzenpost -h 127.0.0.1 -f create_database-postgresql.sql
--
-- With -v spoolOnly=true the database keeps messages only, for a Provider whose users are elsewhere.
-- Everything is created in one transaction; if a table is there already, nothing is changed.

\set ON_ERROR_STOP on
\set katzentwist_spool_only :spoolOnly

BEGIN;

DO $$
BEGIN
    IF current_setting('server_version_num')::integer < 90500 THEN
        RAISE EXCEPTION 'PostgreSQL 9.5 or newer is needed, this is %', current_setting('server_version');
    END IF;
END
$$;

CREATE TABLE metadata (
    schema_version smallint NOT NULL,
    spool_only     boolean  NOT NULL
);
CREATE UNIQUE INDEX metadata_has_one_row ON metadata ((true));

INSERT INTO metadata (schema_version, spool_only)
VALUES (0, CASE :'katzentwist_spool_only' WHEN ':' || 'spoolOnly' THEN 'false'
                                          ELSE :'katzentwist_spool_only' END::boolean);

CREATE TABLE users (
    user_id            bigserial PRIMARY KEY,
    user_name          bytea NOT NULL UNIQUE,
    authentication_key bytea NOT NULL,
    identity_key       bytea
);

CREATE TABLE spool (
    message_id   bigserial PRIMARY KEY,
    user_id      bigint REFERENCES users (user_id) ON DELETE CASCADE,
    surb_id      bytea,
    message_body bytea NOT NULL
);
CREATE INDEX spool_user_id ON spool (user_id, message_id);

CREATE FUNCTION metadata_get() RETURNS record AS $$
DECLARE
    found record;
BEGIN
    SELECT m.schema_version, m.spool_only INTO found FROM metadata AS m;
    RETURN found;
END
$$ LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT;

CREATE FUNCTION user_get_authentication_key(p_user bytea) RETURNS bytea AS $$
DECLARE
    found bytea;
BEGIN
    SELECT u.authentication_key INTO STRICT found FROM users AS u WHERE u.user_name = p_user;
    RETURN found;
END
$$ LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT;

CREATE FUNCTION user_set_authentication_key(p_user bytea, p_key bytea, p_update boolean) RETURNS void AS $$
BEGIN
    IF p_update THEN
        UPDATE users SET authentication_key = p_key WHERE users.user_name = p_user;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'no such user' USING ERRCODE = 'no_data_found';
        END IF;
    ELSE
        INSERT INTO users (user_name, authentication_key) VALUES (p_user, p_key);
    END IF;
END
$$ LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT;

CREATE FUNCTION user_get_identity_key(p_user bytea) RETURNS bytea AS $$
DECLARE
    found bytea;
BEGIN
    SELECT u.identity_key INTO STRICT found FROM users AS u WHERE u.user_name = p_user;
    RETURN found;
END
$$ LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT;

CREATE FUNCTION user_set_identity_key(p_user bytea, p_key bytea) RETURNS void AS $$
BEGIN
    UPDATE users SET identity_key = p_key WHERE users.user_name = p_user;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such user' USING ERRCODE = 'no_data_found';
    END IF;
END
$$ LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT;

CREATE FUNCTION user_delete(p_user bytea) RETURNS void AS $$
BEGIN
    DELETE FROM users WHERE users.user_name = p_user;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such user' USING ERRCODE = 'no_data_found';
    END IF;
END
$$ LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT;

CREATE FUNCTION spool_store(p_user bytea, p_surb_id bytea, p_body bytea) RETURNS void AS $$
DECLARE
    owner bigint;
BEGIN
    SELECT u.user_id INTO owner FROM users AS u WHERE u.user_name = p_user;
    IF owner IS NULL THEN
        IF NOT (SELECT m.spool_only FROM metadata AS m) THEN
            RAISE EXCEPTION 'no such user' USING ERRCODE = 'no_data_found';
        END IF;
        INSERT INTO users (user_name) VALUES (p_user) ON CONFLICT (user_name) DO NOTHING;
        SELECT u.user_id INTO STRICT owner FROM users AS u WHERE u.user_name = p_user;
    END IF;
    INSERT INTO spool (user_id, surb_id, message_body) VALUES (owner, p_surb_id, p_body);
END
$$ LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT;

-- (message_body bytea, surb_id bytea, remaining integer): the first entry; with p_advance that after it, which is then
-- the first one.
CREATE FUNCTION spool_get(p_user bytea, p_advance boolean) RETURNS record AS $$
DECLARE
    entry  record;
    bodies bytea[] := '{}';
    ids    bytea[] := '{}';
    answer record;
    gone   boolean := NOT p_advance;
BEGIN
    FOR entry IN
        SELECT s.message_id, s.message_body, s.surb_id
          FROM spool AS s JOIN users AS u ON u.user_id = s.user_id
         WHERE u.user_name = p_user
         ORDER BY s.message_id
         LIMIT CASE WHEN p_advance THEN 3 ELSE 2 END
           FOR UPDATE OF s
    LOOP
        IF gone THEN
            bodies := array_append(bodies, entry.message_body);
            ids := array_append(ids, entry.surb_id);
        ELSE
            DELETE FROM spool WHERE spool.message_id = entry.message_id;
            gone := true;
        END IF;
    END LOOP;
    SELECT bodies[1], ids[1], CASE WHEN cardinality(bodies) > 1 THEN 1 ELSE 0 END::integer INTO answer;
    RETURN answer;
END
$$ LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT;

-- What follows is our own. A server does without it where it is missing.

-- Users who were let in without being known, and whom the server forgets when they stay away.
CREATE TABLE ephemeral_users (
    user_id bigint PRIMARY KEY REFERENCES users (user_id) ON DELETE CASCADE
);

-- The first entry with its number, after the entry p_delete is deleted (NULL: none). Naming the entry makes it safe to
-- ask again when the connection broke before the answer came.
CREATE FUNCTION spool_advance(p_user bytea, p_delete bigint)
    RETURNS TABLE (message_id bigint, message_body bytea, surb_id bytea, remaining integer) AS $$
DECLARE
    owner bigint;
    entry record;
BEGIN
    SELECT u.user_id INTO owner FROM users AS u WHERE u.user_name = p_user;
    IF p_delete IS NOT NULL THEN
        DELETE FROM spool AS s WHERE s.message_id = p_delete AND s.user_id = owner;
    END IF;
    remaining := -1;
    FOR entry IN
        SELECT s.message_id, s.message_body, s.surb_id FROM spool AS s
         WHERE s.user_id = owner ORDER BY s.message_id LIMIT 2
    LOOP
        IF remaining < 0 THEN
            message_id := entry.message_id;
            message_body := entry.message_body;
            surb_id := entry.surb_id;
        END IF;
        remaining := remaining + 1;
    END LOOP;
    IF remaining >= 0 THEN
        RETURN NEXT;
    END IF;
END
$$ LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT;

DO $$
BEGIN
    IF (SELECT m.spool_only FROM metadata AS m) THEN
        DROP FUNCTION user_get_authentication_key(bytea);
        DROP FUNCTION user_set_authentication_key(bytea, bytea, boolean);
        DROP FUNCTION user_get_identity_key(bytea);
        DROP FUNCTION user_set_identity_key(bytea, bytea);
        DROP TABLE ephemeral_users;
        ALTER TABLE users DROP COLUMN authentication_key, DROP COLUMN identity_key;
    END IF;
END
$$;

-- The functions work with their owner's rights, so nobody else may call them unless the owner says so, for example
-- GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO server_role;
DO $$
DECLARE
    function regprocedure;
BEGIN
    FOR function IN
        SELECT p.oid FROM pg_proc AS p
         WHERE p.pronamespace = current_schema()::regnamespace
           AND p.proname IN ('metadata_get', 'user_get_authentication_key', 'user_set_authentication_key',
                             'user_get_identity_key', 'user_set_identity_key', 'user_delete', 'spool_store',
                             'spool_get', 'spool_advance')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function);
    END LOOP;
END
$$;

COMMIT;
