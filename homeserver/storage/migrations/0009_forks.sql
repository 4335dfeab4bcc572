-- compatible-from: 0009
-- Where rooms forked: what a reader sees follows from event numbers alone only after the last fork.

CREATE INDEX events_forks ON events (room_nid, event_nid) WHERE room_state IS NOT NULL;
COMMENT ON INDEX events_forks IS
    'nearly empty; the newest entry of a room tells from where on its events are in line';
COMMENT ON COLUMN events.room_state IS
    'the state of the room with the event in it; null where the event is in line: the state before it was the room''s, and the state after it became the room''s';
