-- compatible-from: 0019
-- Rooms that were joined without their members, once they have them; and users whom servers of a
-- room have yet to hear of.

ALTER TABLE partial_state_rooms ADD COLUMN whole_nid bigint;
COMMENT ON TABLE partial_state_rooms IS 'Rooms joined with members left out of the state';
COMMENT ON COLUMN partial_state_rooms.whole_nid IS 'position in the events stream at which the whole state came; null: it has not come yet';

CREATE TABLE pending_introductions (
    user_nid bigint NOT NULL REFERENCES users,
    room_nid bigint NOT NULL REFERENCES rooms,
    servers  text[],
    PRIMARY KEY (user_nid, room_nid)
);
COMMENT ON TABLE pending_introductions IS
    'Local users who have come into a room that other servers are in: written with the join, deleted in the transaction that stores what those servers are sent of the devices';
COMMENT ON COLUMN pending_introductions.servers IS
    'these alone have turned out to be in the room; null: the user has just come, and all of them count';
