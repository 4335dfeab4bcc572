-- compatible-from: 0001
-- Accounts of this server's users, their devices, the tokens that prove them, and their profiles.

CREATE TABLE accounts (
    user_nid       bigint PRIMARY KEY REFERENCES users,
    password_hash  text,
    is_admin       boolean NOT NULL DEFAULT false,
    appservice_id  text,
    created_ts     bigint  NOT NULL,
    deactivated_ts bigint
);
COMMENT ON COLUMN accounts.password_hash IS 'argon2id in PHC format; null: nobody can log in with a password';
COMMENT ON COLUMN accounts.appservice_id IS 'the application service that made the account; null: a person did';
COMMENT ON COLUMN accounts.deactivated_ts IS 'null: active. The row stays for ever, so that nobody can take the name again';

CREATE TABLE devices (
    user_nid     bigint NOT NULL REFERENCES accounts,
    device_id    text COLLATE "C" NOT NULL,
    display_name text,
    last_seen_ts bigint,
    last_seen_ip text,
    PRIMARY KEY (user_nid, device_id)
) WITH (fillfactor = 80);
COMMENT ON COLUMN devices.last_seen_ts IS 'written at most every five minutes';

CREATE TABLE access_tokens (
    token_hash bytea  PRIMARY KEY,
    user_nid   bigint NOT NULL,
    device_id  text COLLATE "C" NOT NULL,
    expires_ts bigint,
    replaces   bytea,
    FOREIGN KEY (user_nid, device_id) REFERENCES devices ON DELETE CASCADE
);
CREATE INDEX access_tokens_device ON access_tokens (user_nid, device_id);
COMMENT ON COLUMN access_tokens.token_hash IS 'SHA-256: who reads this table cannot use the tokens';
COMMENT ON COLUMN access_tokens.expires_ts IS 'null: never. An expired row stays, to tell a soft logout from an unknown token';
COMMENT ON COLUMN access_tokens.replaces IS 'the refresh token it was given for, until its first use spends that one';

CREATE TABLE refresh_tokens (
    token_hash bytea  PRIMARY KEY,
    user_nid   bigint NOT NULL,
    device_id  text COLLATE "C" NOT NULL,
    replaces   bytea,
    spent_ts   bigint,
    FOREIGN KEY (user_nid, device_id) REFERENCES devices ON DELETE CASCADE
);
CREATE INDEX refresh_tokens_device ON refresh_tokens (user_nid, device_id);
COMMENT ON COLUMN refresh_tokens.replaces IS 'the refresh token it was given for, until its first use spends that one';
COMMENT ON COLUMN refresh_tokens.spent_ts IS 'when a successor was used; shown again after that, the token was stolen';

CREATE TABLE profile_fields (
    user_nid bigint NOT NULL REFERENCES accounts,
    field    text COLLATE "C" NOT NULL,
    value    text   NOT NULL,
    PRIMARY KEY (user_nid, field)
);
COMMENT ON COLUMN profile_fields.value IS 'JSON text, not jsonb: any JSON string is a legal value, with U+0000 too';
