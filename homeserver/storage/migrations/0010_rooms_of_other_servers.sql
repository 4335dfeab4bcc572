-- compatible-from: 0010
-- Rooms that began on other servers.

CREATE TABLE out_of_band_memberships (
    room_nid  bigint NOT NULL REFERENCES rooms,
    user_nid  bigint NOT NULL REFERENCES users,
    event_nid bigint NOT NULL,
    event_id  bytea  NOT NULL,
    pdu       bytea  NOT NULL,
    PRIMARY KEY (room_nid, user_nid)
);
COMMENT ON TABLE out_of_band_memberships IS 'Newest member event of each local user in rooms that this server is not in: invitations, knocks, and what ended them. Not in events, because nobody here can check what they cite';
COMMENT ON COLUMN out_of_band_memberships.event_nid IS 'position in the events stream, as in room_memberships';
CREATE INDEX out_of_band_memberships_position ON out_of_band_memberships (event_nid);

CREATE TABLE partial_state_rooms (
    room_nid bigint NOT NULL PRIMARY KEY REFERENCES rooms,
    join_nid bigint NOT NULL,
    servers  text[] NOT NULL
);
COMMENT ON TABLE partial_state_rooms IS 'Rooms joined with members left out of the state, until the whole state has come';
COMMENT ON COLUMN partial_state_rooms.join_nid IS 'event_nid of the join; the state of what came after it is to be computed again';
COMMENT ON COLUMN partial_state_rooms.servers IS 'the servers that were in the room at the join; the first one answered it';
