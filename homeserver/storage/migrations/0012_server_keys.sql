-- compatible-from: 0012
-- Keys of other servers. An event is checked by the key that was valid when it was made, so a key
-- stays when its server has another one.

CREATE TABLE server_keys (
    server_name    text COLLATE "C" NOT NULL,
    key_id         text COLLATE "C" NOT NULL,
    public_key     text   NOT NULL,
    valid_until_ts bigint NOT NULL,
    is_old         boolean NOT NULL,
    PRIMARY KEY (server_name, key_id)
);
COMMENT ON COLUMN server_keys.valid_until_ts IS 'by the server''s word, but at most seven days after it was asked; of an old key, when it expired';
COMMENT ON COLUMN server_keys.is_old IS 'good for the events of its time, not for requests';

CREATE TABLE server_key_responses (
    server_name    text COLLATE "C" PRIMARY KEY,
    response       bytea  NOT NULL,
    valid_until_ts bigint NOT NULL,
    fetched_ts     bigint NOT NULL
);
COMMENT ON TABLE server_key_responses IS 'What each server last said of its keys, for servers that ask this one as a notary';
COMMENT ON COLUMN server_key_responses.response IS 'JSON as signed by the server, without other signatures';
