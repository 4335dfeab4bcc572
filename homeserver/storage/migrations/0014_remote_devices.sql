-- compatible-from: 0014
-- Devices and keys across servers: what others must be told of ours, and what is known of theirs.

CREATE TABLE pending_device_updates (
    user_nid  bigint NOT NULL REFERENCES users,
    device_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (user_nid, device_id)
);
COMMENT ON TABLE pending_device_updates IS
    'Written with each change of a local device or key; deleted in the transaction that stores what other servers are sent of it';
COMMENT ON COLUMN pending_device_updates.device_id IS 'empty: the cross-signing keys of the user';

CREATE TABLE device_list_streams (
    user_nid  bigint PRIMARY KEY REFERENCES users,
    stream_id bigint NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE device_list_streams IS 'The last stream_id of each local user: the next m.device_list_update refers to it';

CREATE TABLE remote_device_lists (
    user_nid     bigint PRIMARY KEY REFERENCES users,
    stream_id    bigint  NOT NULL DEFAULT 0,
    needs_resync boolean NOT NULL DEFAULT true,
    marks        bigint  NOT NULL DEFAULT 1
) WITH (fillfactor = 70);
CREATE INDEX remote_device_lists_to_resync ON remote_device_lists (user_nid) WHERE needs_resync;
COMMENT ON TABLE remote_device_lists IS
    'Users of other servers whose devices and keys are kept here, as they share a room with a local user';
COMMENT ON COLUMN remote_device_lists.stream_id IS 'of the last update that is in the list';
COMMENT ON COLUMN remote_device_lists.marks IS
    'how often the list was found wanting: an answer that was asked for before the last mark does not settle it';

CREATE TABLE remote_devices (
    user_nid     bigint NOT NULL REFERENCES remote_device_lists ON DELETE CASCADE,
    device_id    text COLLATE "C" NOT NULL,
    keys         bytea  NOT NULL,
    display_name text,
    PRIMARY KEY (user_nid, device_id)
);
COMMENT ON COLUMN remote_devices.keys IS 'canonical JSON, without unsigned; checked for form and owner';

CREATE TABLE received_to_device (
    origin      text COLLATE "C" NOT NULL,
    id_hash     bytea  NOT NULL,
    received_ts bigint NOT NULL,
    PRIMARY KEY (origin, id_hash)
);
CREATE INDEX received_to_device_age ON received_to_device (received_ts);
COMMENT ON TABLE received_to_device IS
    'Makes a message that another server repeats do nothing; kept longer than servers try again';
COMMENT ON COLUMN received_to_device.id_hash IS 'SHA-256 of the message_id';
