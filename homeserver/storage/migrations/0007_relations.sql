-- compatible-from: 0007

CREATE TABLE event_relations (
    room_nid         bigint   NOT NULL,
    child_nid        bigint   NOT NULL,
    parent_id        bytea    NOT NULL,
    rel_type         text COLLATE "C" NOT NULL,
    type_nid         integer  NOT NULL,
    sender_nid       bigint   NOT NULL,
    depth            bigint   NOT NULL,
    origin_server_ts bigint   NOT NULL,
    annotation_key   bytea,
    can_replace      boolean  NOT NULL,
    PRIMARY KEY (room_nid, child_nid)
);
CREATE INDEX event_relations_children
    ON event_relations (room_nid, parent_id, rel_type, depth, child_nid) INCLUDE (sender_nid);
CREATE INDEX event_relations_by_sender
    ON event_relations (room_nid, parent_id, sender_nid, rel_type, origin_server_ts);
CREATE INDEX event_relations_threads
    ON event_relations (room_nid, depth, child_nid) WHERE rel_type = 'm.thread';
COMMENT ON TABLE event_relations IS
    'Children and their parents, by m.relates_to; written with the child, deleted with its redaction, which takes the relation away. '
    'The rest is copied from events so that children can be chosen and ordered by index alone';
COMMENT ON COLUMN event_relations.parent_id IS
    'as in events.event_id; not a number, because a child may come before its parent, or name one that never comes';
COMMENT ON COLUMN event_relations.annotation_key IS 'UTF-8, of an m.annotation; bytes, because it may hold a NUL';
COMMENT ON COLUMN event_relations.can_replace IS 'the child by itself is a valid m.replace; sender and type must still be those of the parent';

CREATE INDEX events_timestamp ON events ((room_nid + 0), origin_server_ts, event_nid);
COMMENT ON INDEX events_timestamp IS 'for timestamp_to_event: senders choose the timestamp, so no other order tells of it';
