-- compatible-from: 0001
-- Keys of devices and users, who has to hear of their changes, and messages to devices.

CREATE SEQUENCE stream_epochs INCREMENT 4294967296 MINVALUE 4294967296;
COMMENT ON SEQUENCE stream_epochs IS
    'Each process takes one value and numbers its streams from there: clients'' tokens hold positions that no '
    'row remembers (of failed writes, of delivered messages), and none of them may come a second time';

CREATE TABLE device_keys (
    user_nid  bigint NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    keys      bytea  NOT NULL,
    PRIMARY KEY (user_nid, device_id),
    FOREIGN KEY (user_nid, device_id) REFERENCES devices DEFERRABLE INITIALLY DEFERRED
);
COMMENT ON TABLE device_keys IS
    'No cascade: whoever deletes a device learns here whether it had keys that others must hear of';
COMMENT ON COLUMN device_keys.keys IS 'canonical JSON as uploaded, without unsigned';

CREATE TABLE one_time_keys (
    user_nid   bigint  NOT NULL,
    device_id  text COLLATE "C" NOT NULL,
    algorithm  text COLLATE "C" NOT NULL,
    key_id     text COLLATE "C" NOT NULL,
    upload_nid bigint  GENERATED ALWAYS AS IDENTITY,
    is_claimed boolean NOT NULL DEFAULT false,
    key        bytea   NOT NULL,
    PRIMARY KEY (user_nid, device_id, algorithm, key_id),
    FOREIGN KEY (user_nid, device_id) REFERENCES devices ON DELETE CASCADE
) WITH (fillfactor = 80);
CREATE INDEX one_time_keys_next ON one_time_keys (user_nid, device_id, algorithm, upload_nid)
    WHERE NOT is_claimed;
COMMENT ON COLUMN one_time_keys.key_id IS 'without the algorithm';
COMMENT ON COLUMN one_time_keys.is_claimed IS
    'the newest claimed keys stay, so that a repeated upload cannot put one of them on offer again';
COMMENT ON COLUMN one_time_keys.key IS 'canonical JSON';

CREATE TABLE fallback_keys (
    user_nid  bigint  NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    algorithm text COLLATE "C" NOT NULL,
    key_id    text COLLATE "C" NOT NULL,
    is_used   boolean NOT NULL DEFAULT false,
    key       bytea   NOT NULL,
    PRIMARY KEY (user_nid, device_id, algorithm),
    FOREIGN KEY (user_nid, device_id) REFERENCES devices ON DELETE CASCADE
);

CREATE TABLE cross_signing_keys (
    user_nid   bigint NOT NULL REFERENCES users,
    usage      text   NOT NULL CHECK (usage IN ('master', 'self_signing', 'user_signing')),
    public_key text COLLATE "C" NOT NULL,
    key        bytea  NOT NULL,
    PRIMARY KEY (user_nid, usage)
);
COMMENT ON COLUMN cross_signing_keys.key IS 'canonical JSON as uploaded, without unsigned';

CREATE TABLE key_signatures (
    target_nid bigint NOT NULL,
    target_key text COLLATE "C" NOT NULL,
    signer_nid bigint NOT NULL,
    signer_key text COLLATE "C" NOT NULL,
    position   bigint NOT NULL,
    signature  text   NOT NULL,
    PRIMARY KEY (target_nid, target_key, signer_nid, signer_key)
);
CREATE INDEX key_signatures_signer ON key_signatures (signer_nid, position);
COMMENT ON TABLE key_signatures IS
    'Verified signatures that came after the key. Those of a user on his own keys are for everybody, others for the signer alone';
COMMENT ON COLUMN key_signatures.target_key IS 'device id, or public part of a master key';
COMMENT ON COLUMN key_signatures.signer_key IS 'public part of a cross-signing key, or device id';
COMMENT ON COLUMN key_signatures.position IS 'in the device_lists stream';

CREATE TABLE device_list_changes (
    user_nid   bigint  PRIMARY KEY REFERENCES users,
    position   bigint  NOT NULL,
    is_pending boolean NOT NULL DEFAULT false
) WITH (fillfactor = 70);
CREATE INDEX device_list_changes_position ON device_list_changes (position);
COMMENT ON TABLE device_list_changes IS 'The last change of each user''s device or cross-signing keys';
COMMENT ON COLUMN device_list_changes.is_pending IS
    'a change was committed that has no position yet; it gets one right after, or at the next start';

CREATE TABLE to_device_messages (
    user_nid  bigint NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    position  bigint NOT NULL,
    message   bytea  NOT NULL,
    PRIMARY KEY (user_nid, device_id, position),
    FOREIGN KEY (user_nid, device_id) REFERENCES devices ON DELETE CASCADE
);
COMMENT ON COLUMN to_device_messages.message IS 'JSON as the device will see it';

CREATE TABLE to_device_transactions (
    user_nid   bigint NOT NULL,
    device_id  text COLLATE "C" NOT NULL,
    txn_hash   bytea  NOT NULL,
    created_ts bigint NOT NULL,
    PRIMARY KEY (user_nid, device_id, txn_hash)
);
CREATE INDEX to_device_transactions_age ON to_device_transactions (created_ts);
COMMENT ON TABLE to_device_transactions IS 'Makes a repeated send do nothing, also after a restart; kept 24 hours';
COMMENT ON COLUMN to_device_transactions.device_id IS 'empty for an application service without a device';
COMMENT ON COLUMN to_device_transactions.txn_hash IS 'SHA-256 of event type and transaction id';
