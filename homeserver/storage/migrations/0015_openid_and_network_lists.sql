-- compatible-from: 0015
-- Tokens by which users prove to others who they are, and the room lists of bridged networks.

CREATE TABLE openid_tokens (
    token_hash bytea PRIMARY KEY,
    user_nid   bigint NOT NULL REFERENCES users,
    expires_ts bigint NOT NULL
);
CREATE INDEX openid_tokens_expiry ON openid_tokens (expires_ts);
COMMENT ON COLUMN openid_tokens.token_hash IS 'SHA-256: who reads the table cannot pass for anybody';

CREATE TABLE network_rooms (
    appservice_id text COLLATE "C" NOT NULL,
    network_id    text COLLATE "C" NOT NULL,
    room_nid      bigint NOT NULL REFERENCES rooms,
    PRIMARY KEY (appservice_id, network_id, room_nid)
);
COMMENT ON TABLE network_rooms IS 'Rooms that an application service has put into the directory of a network it bridges to; the directory of the server itself is public_rooms';
