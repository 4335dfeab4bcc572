-- compatible-from: 0001
-- What only events of other servers need.

ALTER TABLE events ADD COLUMN room_state bigint;
COMMENT ON COLUMN events.room_state IS
    'state id of the room''s current state once the event was in; null: state_after, as in a room without forks';

CREATE TABLE waiting_redactions (
    room_nid      bigint NOT NULL,
    target_id     bytea  NOT NULL,
    redaction_nid bigint NOT NULL,
    PRIMARY KEY (room_nid, target_id, redaction_nid)
);
COMMENT ON TABLE waiting_redactions IS 'Accepted redactions whose target has not been seen; they take effect when it is';
