-- compatible-from: 0013
-- What other servers must be told, and what they have told this one and is not worked through yet.

CREATE TABLE outgoing_events (
    position  bigint PRIMARY KEY,
    room_nid  bigint NOT NULL,
    event_nid bigint NOT NULL,
    origin    text COLLATE "C"
);
COMMENT ON TABLE outgoing_events IS 'Which events other servers of their rooms must be sent by this one; to whom, the room says when they are sent';
COMMENT ON COLUMN outgoing_events.position IS 'in the events stream: of the event itself, or of when it was taken in for another server';
COMMENT ON COLUMN outgoing_events.origin IS 'the server that has it already; null: it was made here';

CREATE TABLE destinations (
    server_name      text COLLATE "C" PRIMARY KEY,
    delivered        bigint NOT NULL,
    failing_since_ts bigint,
    next_try_ts      bigint,
    failures         integer NOT NULL DEFAULT 0,
    last_success_ts  bigint,
    last_cause       text,
    last_error       text
) WITH (fillfactor = 70);
COMMENT ON TABLE destinations IS 'How far each other server has been told, and what keeps it from being told more';
COMMENT ON COLUMN destinations.delivered IS 'position in outgoing_events up to which it has been sent all that concerns it';
COMMENT ON COLUMN destinations.failing_since_ts IS 'null: the last request was answered';

CREATE TABLE sending_progress (
    is_only  boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    position bigint NOT NULL
);
COMMENT ON TABLE sending_progress IS 'Servers without a row in destinations have nothing to be told up to this position';
INSERT INTO sending_progress (position) VALUES (0);

CREATE TABLE outgoing_edus (
    edu_nid     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    server_name text COLLATE "C" NOT NULL,
    lane        smallint NOT NULL,
    edu_type    text NOT NULL,
    content     bytea NOT NULL
);
CREATE INDEX outgoing_edus_by_server ON outgoing_edus (server_name, lane, edu_nid);
COMMENT ON TABLE outgoing_edus IS 'Those that must not be lost: messages to devices, changes of devices and keys. Deleted when they are delivered';
COMMENT ON COLUMN outgoing_edus.lane IS '0 to-device, 1 devices and keys: lower lanes go first';

CREATE TABLE dead_letters (
    letter_nid  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    server_name text COLLATE "C" NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('pdu', 'edu')),
    item        bytea NOT NULL,
    error       text NOT NULL,
    created_ts  bigint NOT NULL
);
CREATE INDEX dead_letters_by_server ON dead_letters (server_name, letter_nid);
COMMENT ON TABLE dead_letters IS 'What a server refused by itself, so that it did not hold up the rest; the newest are kept';

CREATE TABLE inbound_transactions (
    origin      text COLLATE "C" NOT NULL,
    txn_id      text COLLATE "C" NOT NULL,
    response    bytea NOT NULL,
    received_ts bigint NOT NULL,
    PRIMARY KEY (origin, txn_id)
);
CREATE INDEX inbound_transactions_by_age ON inbound_transactions (received_ts);
COMMENT ON TABLE inbound_transactions IS 'Answers to repeated transactions; kept a day';

CREATE TABLE staged_events (
    staged_nid  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    origin      text COLLATE "C" NOT NULL,
    room_id     text COLLATE "C" NOT NULL,
    pdu         bytea NOT NULL,
    received_ts bigint NOT NULL
);
COMMENT ON TABLE staged_events IS 'Events whose transaction was answered before they were worked through; read again after a restart';
