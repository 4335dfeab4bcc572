-- compatible-from: 0008
-- Whom each event notifies, written with the event. What most members of the room are told is one
-- row that names nobody; members who are told something else are named in rows of their own.

CREATE TABLE notifications (
    room_nid     bigint   NOT NULL,
    event_nid    bigint   NOT NULL,
    part         smallint NOT NULL,
    users        bigint[],
    sender_nid   bigint   NOT NULL,
    thread_id    text COLLATE "C" NOT NULL,
    is_mark      boolean  NOT NULL,
    is_notify    boolean  NOT NULL,
    is_highlight boolean  NOT NULL,
    actions      text     NOT NULL,
    PRIMARY KEY (room_nid, event_nid, part)
);
COMMENT ON TABLE notifications IS
    'What push rules said of the newest events of each room, for its local members; older rows are deleted, so counts are of these alone. '
    'Without rows an event notifies nobody and marks nothing as read';
COMMENT ON COLUMN notifications.users IS 'null (part 0): everybody whom no other row of the event names';
COMMENT ON COLUMN notifications.thread_id IS 'main, or the event id of the thread root';
COMMENT ON COLUMN notifications.is_mark IS 'by sending the event its sender, who is local, has read the thread up to it';
COMMENT ON COLUMN notifications.is_notify IS 'false: nothing is told, though everybody else may be';
COMMENT ON COLUMN notifications.actions IS 'JSON text: the actions of the push rule that matched';
