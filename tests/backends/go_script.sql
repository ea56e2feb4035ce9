-- Tables and functions as provider 5.2 and 5.3 describe those of the original script, flaws included: the ambiguous
-- column in user_set_authentication_key, and rows without user in spool_store. :spoolOnly is not read here.
BEGIN;
CREATE TABLE metadata (schema_version smallint NOT NULL, spool_only boolean NOT NULL);
INSERT INTO metadata VALUES (0, false);
CREATE TABLE users (user_id bigserial PRIMARY KEY, user_name bytea NOT NULL UNIQUE,
                    authentication_key bytea NOT NULL, identity_key bytea);
CREATE TABLE spool (message_id bigserial PRIMARY KEY, user_id bigint REFERENCES users ON DELETE CASCADE,
                    surb_id bytea, message_body bytea NOT NULL);
CREATE INDEX spool_user ON spool (user_id);

CREATE FUNCTION metadata_get() RETURNS record AS $$
DECLARE r record;
BEGIN
    SELECT schema_version, spool_only INTO r FROM metadata;
    RETURN r;
END $$ LANGUAGE plpgsql STABLE;

CREATE FUNCTION user_get_authentication_key(name bytea) RETURNS bytea AS $$
DECLARE k bytea;
BEGIN
    SELECT authentication_key INTO STRICT k FROM users WHERE users.user_name = name;
    RETURN k;
END $$ LANGUAGE plpgsql STABLE;

CREATE FUNCTION user_set_authentication_key(user_name bytea, k bytea, is_update boolean) RETURNS void AS $$
BEGIN
    IF is_update THEN
        UPDATE users SET authentication_key = k WHERE user_name = user_name;
        IF NOT FOUND THEN RAISE no_data_found; END IF;
    ELSE
        INSERT INTO users (user_name, authentication_key) VALUES (user_set_authentication_key.user_name, k);
    END IF;
END $$ LANGUAGE plpgsql;

CREATE FUNCTION user_get_identity_key(name bytea) RETURNS bytea AS $$
DECLARE k bytea;
BEGIN
    SELECT identity_key INTO STRICT k FROM users WHERE users.user_name = name;
    RETURN k;
END $$ LANGUAGE plpgsql STABLE;

CREATE FUNCTION user_set_identity_key(name bytea, k bytea) RETURNS void AS $$
BEGIN
    UPDATE users SET identity_key = k WHERE users.user_name = name;
    IF NOT FOUND THEN RAISE no_data_found; END IF;
END $$ LANGUAGE plpgsql;

CREATE FUNCTION user_delete(name bytea) RETURNS void AS $$
BEGIN
    DELETE FROM users WHERE users.user_name = name;
    IF NOT FOUND THEN RAISE no_data_found; END IF;
END $$ LANGUAGE plpgsql;

CREATE FUNCTION spool_store(name bytea, surb bytea, body bytea) RETURNS void AS $$
BEGIN
    INSERT INTO spool (user_id, surb_id, message_body)
    VALUES ((SELECT user_id FROM users WHERE users.user_name = name), surb, body);
END $$ LANGUAGE plpgsql;

CREATE FUNCTION spool_get(name bytea, advance boolean,
                          OUT message_body bytea, OUT surb_id bytea, OUT remaining integer) AS $$
DECLARE
    r record;
    seen integer := 0;
BEGIN
    remaining := 0;
    FOR r IN SELECT s.* FROM spool s JOIN users u USING (user_id) WHERE u.user_name = name
             ORDER BY s.message_id LIMIT 3 FOR UPDATE OF s LOOP
        IF advance AND seen = 0 THEN
            DELETE FROM spool WHERE message_id = r.message_id;
            advance := false;
        ELSE
            seen := seen + 1;
            IF seen = 1 THEN
                message_body := r.message_body;
                surb_id := r.surb_id;
            ELSE
                remaining := 1;
            END IF;
        END IF;
    END LOOP;
END $$ LANGUAGE plpgsql;
COMMIT;
