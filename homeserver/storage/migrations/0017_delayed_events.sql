-- compatible-from: 0017
-- Events that clients have handed in to be sent later.

CREATE TABLE delayed_events (
    delay_nid        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    delay_id         text COLLATE "C" NOT NULL UNIQUE,
    user_nid         bigint NOT NULL,
    device_id        text COLLATE "C" NOT NULL,
    txn_id           text COLLATE "C",
    room_nid         bigint NOT NULL,
    event_type       text COLLATE "C" NOT NULL,
    state_key        text COLLATE "C",
    origin_server_ts bigint,
    content          bytea  NOT NULL,
    delay_ms         bigint NOT NULL,
    since_ts         bigint NOT NULL,
    position         bigint NOT NULL,
    due_ts           bigint,
    tries            integer NOT NULL DEFAULT 0,
    finalised_ts     bigint,
    event_id         text,
    error            bytea,
    CHECK ((due_ts IS NULL) = (finalised_ts IS NOT NULL)),
    CHECK (finalised_ts IS NOT NULL OR (event_id IS NULL AND error IS NULL)),
    CHECK (event_id IS NULL OR error IS NULL)
);
CREATE INDEX delayed_events_due ON delayed_events (due_ts) WHERE due_ts IS NOT NULL;
CREATE INDEX delayed_events_by_user ON delayed_events (user_nid, finalised_ts);
CREATE INDEX delayed_events_finalised ON delayed_events (finalised_ts) WHERE finalised_ts IS NOT NULL;
CREATE UNIQUE INDEX delayed_events_transaction
    ON delayed_events (user_nid, device_id, room_nid, txn_id) WHERE txn_id IS NOT NULL;
COMMENT ON TABLE delayed_events IS 'What is to be sent later, and for some days what became of it';
COMMENT ON COLUMN delayed_events.delay_id IS 'who knows it may send, restart and cancel the event: not to be guessed, not to be logged';
COMMENT ON COLUMN delayed_events.device_id IS 'the device or application service that handed it in, for txn_id; empty: none';
COMMENT ON COLUMN delayed_events.txn_id IS 'makes a repeated request answer the first delay_id; null: a state event by its own path';
COMMENT ON COLUMN delayed_events.origin_server_ts IS 'null: the time of sending';
COMMENT ON COLUMN delayed_events.content IS 'JSON, not jsonb: any JSON string is a legal value, with U+0000 too';
COMMENT ON COLUMN delayed_events.since_ts IS 'when it was handed in or last restarted, as people''s clocks said';
COMMENT ON COLUMN delayed_events.position IS 'number of the room''s last event when it was handed in: what came later is newer';
COMMENT ON COLUMN delayed_events.due_ts IS 'when it is tried next, by the clock of the process; null: it is sent, cancelled or has failed';
COMMENT ON COLUMN delayed_events.error IS 'JSON of the error for which it was not sent; null beside a finalised_ts without event_id: cancelled';

-- The events that became of them are remembered for ever, under a device that no client can have.
DROP INDEX client_transactions_age;
CREATE INDEX client_transactions_age ON client_transactions (created_ts)
    WHERE device_id <> E'\x1fdelayed';
COMMENT ON TABLE client_transactions IS 'Makes a repeated send answer the first event id, also after a restart; kept 24 hours, those of delayed events for ever';
