-- compatible-from: 0001
-- The event graph. Text forms (user ids, types, state keys, room ids) live once, in the dictionary
-- tables; everything else speaks in numbers ("nid"). Every large table leads with room_nid, so that
-- it can be partitioned by room.

CREATE TABLE server_identity (
    -- one row: the name this database belongs to. A server of another name refuses to start on it.
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    server_name text    NOT NULL,
    state_hash_key bytea NOT NULL DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
);
COMMENT ON COLUMN server_identity.state_hash_key IS 'secret key of the set hashes in state_segments';

CREATE TABLE users (
    user_nid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id  text COLLATE "C" NOT NULL UNIQUE
);
COMMENT ON TABLE users IS 'Dictionary of every user id ever seen, local or remote; accounts are in accounts';

CREATE TABLE event_types (
    type_nid integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    type     text COLLATE "C" NOT NULL UNIQUE
);

CREATE TABLE state_slots (
    slot_nid  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    type_nid  integer NOT NULL REFERENCES event_types,
    state_key text COLLATE "C" NOT NULL,
    UNIQUE (type_nid, state_key)
);
COMMENT ON TABLE state_slots IS 'Dictionary of (type, state_key); shared by all rooms';

CREATE TABLE rooms (
    room_nid     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    room_id      text COLLATE "C" NOT NULL UNIQUE,
    room_version text NOT NULL
);

CREATE TABLE room_heads (
    room_nid      bigint PRIMARY KEY REFERENCES rooms,
    extremities   bigint[] NOT NULL,
    current_state bigint NOT NULL,
    last_event    bigint NOT NULL,
    epoch         bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
COMMENT ON TABLE room_heads IS 'What moves with every event of a room; apart from rooms so that updates stay in their page';
COMMENT ON COLUMN room_heads.extremities IS 'event_nids without a known child';
COMMENT ON COLUMN room_heads.current_state IS 'state id after the extremities, see state_segments';
COMMENT ON COLUMN room_heads.last_event IS 'event_nid of the newest event that clients may be shown';
COMMENT ON COLUMN room_heads.epoch IS 'fencing: the owner process''s epoch at its last write';

CREATE TABLE events (
    room_nid         bigint   NOT NULL,
    event_nid        bigint   NOT NULL,
    event_id         bytea    NOT NULL,
    type_nid         integer  NOT NULL,
    sender_nid       bigint   NOT NULL,
    slot_nid         bigint,
    depth            bigint   NOT NULL,
    origin_server_ts bigint   NOT NULL,
    state_before     bigint,
    state_after      bigint,
    replaces         bigint,
    redacted_by      bigint,
    flags            smallint NOT NULL DEFAULT 0,
    prev_events      bigint[] NOT NULL,
    auth_events      bigint[] NOT NULL,
    PRIMARY KEY (room_nid, event_nid)
);
CREATE UNIQUE INDEX events_event_id ON events (event_id, room_nid);
-- "+ 0": only a query written for this index may use it. Of several indexes that lead with room_nid
-- the planner takes any while its statistics do not know the room, and reads all of a new room for
-- each event that the primary key would find at once.
CREATE INDEX events_timeline ON events ((room_nid + 0), depth, event_nid);
COMMENT ON COLUMN events.event_nid IS 'assigned in commit order by the server: the position in the events stream';
COMMENT ON COLUMN events.event_id IS 'the 32-byte hash from room version 3 on; the text before';
COMMENT ON COLUMN events.slot_nid IS 'null: not a state event';
COMMENT ON COLUMN events.state_before IS 'null: outlier, whose place in the room is not known';
COMMENT ON COLUMN events.state_after IS 'equal to state_before but for accepted state events';
COMMENT ON COLUMN events.replaces IS 'event_nid that held the slot before';
COMMENT ON COLUMN events.flags IS 'bits: 1 outlier, 2 rejected, 4 soft-failed, 8 historical (not in the stream)';
COMMENT ON COLUMN events.prev_events IS 'known parents only; unknown ones are in missing_parents';

CREATE TABLE event_bytes (
    room_nid  bigint NOT NULL,
    event_nid bigint NOT NULL,
    pdu       bytea  NOT NULL,
    PRIMARY KEY (room_nid, event_nid)
);
COMMENT ON COLUMN event_bytes.pdu IS 'canonical JSON exactly as signed: reused for federation, never re-serialised';

CREATE TABLE missing_parents (
    room_nid  bigint NOT NULL,
    event_nid bigint NOT NULL,
    parent_id bytea  NOT NULL,
    PRIMARY KEY (room_nid, event_nid, parent_id)
);
CREATE INDEX missing_parents_parent ON missing_parents (parent_id);

CREATE TABLE state_segments (
    room_nid         bigint   NOT NULL,
    segment_nid      bigint   NOT NULL,
    parent_state     bigint,
    base_segment     bigint   NOT NULL,
    checkpoint       bytea   ,
    changes          bytea    NOT NULL,
    change_count     smallint NOT NULL,
    since_checkpoint integer  NOT NULL,
    state_hash       bytea    NOT NULL,
    PRIMARY KEY (room_nid, segment_nid)
) WITH (fillfactor = 70);
ALTER TABLE state_segments ALTER COLUMN checkpoint SET STORAGE EXTERNAL;
COMMENT ON TABLE state_segments IS
    'Room states as chains of changes. State id = segment_nid * 128 + n: the state after the first n changes of the segment. '
    'One row holds up to 127 changes, so a change costs its 16 bytes and little more; a full checkpoint is written '
    'only after changes in proportion to the state''s size';
COMMENT ON COLUMN state_segments.parent_state IS 'the state that n = 0 stands for; null when the checkpoint says it';
COMMENT ON COLUMN state_segments.base_segment IS 'the segment of this chain that has the checkpoint';
COMMENT ON COLUMN state_segments.checkpoint IS 'packed by core/state_map.py: the full state at n = 0';
COMMENT ON COLUMN state_segments.changes IS 'packed by core/state_map.py';
COMMENT ON COLUMN state_segments.since_checkpoint IS 'changes between the base checkpoint and n = 0 of this segment';
COMMENT ON COLUMN state_segments.state_hash IS 'keyed set hash of the state after all changes of the row';

CREATE TABLE room_memberships (
    user_nid   bigint   NOT NULL REFERENCES users,
    room_nid   bigint   NOT NULL REFERENCES rooms,
    membership smallint NOT NULL,
    event_nid  bigint   NOT NULL,
    joined_nid bigint,
    left_nid   bigint,
    forgotten  boolean  NOT NULL DEFAULT false,
    PRIMARY KEY (user_nid, room_nid)
);
CREATE INDEX room_memberships_room ON room_memberships (room_nid, membership);
COMMENT ON TABLE room_memberships IS 'Current membership by user: derived from room state, committed with it';
COMMENT ON COLUMN room_memberships.membership IS '1 join, 2 invite, 3 leave, 4 ban, 5 knock';
COMMENT ON COLUMN room_memberships.joined_nid IS 'event_nid that began the last stay in the room; null: never joined';
COMMENT ON COLUMN room_memberships.left_nid IS 'event_nid that ended the last stay; null: it has not ended, or there was none';

CREATE TABLE invite_states (
    user_nid bigint NOT NULL,
    room_nid bigint NOT NULL,
    state    bytea  NOT NULL,
    PRIMARY KEY (user_nid, room_nid)
);
COMMENT ON TABLE invite_states IS 'Stripped state shown to a user who is invited or has knocked, as a JSON array';

CREATE TABLE client_transactions (
    user_nid  bigint NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    txn_id    text COLLATE "C" NOT NULL,
    room_nid  bigint NOT NULL,
    event_nid bigint NOT NULL,
    created_ts bigint NOT NULL,
    PRIMARY KEY (user_nid, device_id, txn_id, room_nid)
);
CREATE INDEX client_transactions_age ON client_transactions (created_ts);
COMMENT ON TABLE client_transactions IS 'Makes a repeated send answer the first event id, also after a restart; kept 24 hours';

CREATE TABLE room_aliases (
    alias      text COLLATE "C" PRIMARY KEY,
    room_nid   bigint NOT NULL REFERENCES rooms,
    creator_nid bigint NOT NULL REFERENCES users
);
CREATE INDEX room_aliases_room ON room_aliases (room_nid);

CREATE TABLE public_rooms (
    room_nid bigint PRIMARY KEY REFERENCES rooms
);
