-- compatible-from: 0001
-- What users keep on the server for themselves: account data, push rules, filters, and how far they
-- have read. Positions come from the streams account_data and receipts, not from sequences.

CREATE TABLE account_data (
    user_nid bigint NOT NULL REFERENCES users,
    room_id  text COLLATE "C" NOT NULL,
    type     text COLLATE "C" NOT NULL,
    content  text   NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (user_nid, room_id, type)
) WITH (fillfactor = 80);
CREATE INDEX account_data_changes ON account_data (user_nid, position);
COMMENT ON COLUMN account_data.room_id IS 'empty: global. Text, not a number: invited users tag rooms this server does not know';
COMMENT ON COLUMN account_data.content IS 'JSON text, not jsonb: any JSON string is a legal value, with U+0000 too';
COMMENT ON COLUMN account_data.position IS 'in the stream account_data, of the last change';

CREATE TABLE push_rules (
    user_nid bigint PRIMARY KEY REFERENCES users,
    ruleset  text   NOT NULL,
    position bigint NOT NULL
);
COMMENT ON TABLE push_rules IS 'Users without a row have the predefined rules and no others';
COMMENT ON COLUMN push_rules.ruleset IS 'JSON text: only what differs from the predefined rules, see core/push_rules.py';
COMMENT ON COLUMN push_rules.position IS 'in the stream account_data: clients see push rules as account data';

CREATE TABLE filters (
    user_nid   bigint NOT NULL REFERENCES users,
    filter_id  text COLLATE "C" NOT NULL,
    filter_nid bigint GENERATED ALWAYS AS IDENTITY,
    definition text   NOT NULL,
    PRIMARY KEY (user_nid, filter_id)
);
COMMENT ON COLUMN filters.filter_id IS 'hash of the definition: equal filters of a user are one';
COMMENT ON COLUMN filters.filter_nid IS 'tells the oldest filter of a user, which goes when there are too many';

CREATE TABLE receipts (
    room_nid  bigint   NOT NULL REFERENCES rooms,
    user_nid  bigint   NOT NULL REFERENCES users,
    kind      smallint NOT NULL,
    thread_id text COLLATE "C" NOT NULL,
    event_nid bigint   NOT NULL,
    event_id  bytea    NOT NULL,
    ts        bigint   NOT NULL,
    position  bigint   NOT NULL,
    PRIMARY KEY (room_nid, user_nid, kind, thread_id)
) WITH (fillfactor = 80);
CREATE INDEX receipts_changes ON receipts (room_nid, position);
COMMENT ON TABLE receipts IS 'Up to where users have read. Commits need not be durable: a lost receipt is sent again';
COMMENT ON COLUMN receipts.kind IS '1 m.read, 2 m.read.private';
COMMENT ON COLUMN receipts.thread_id IS 'empty: unthreaded; else main or the event id of the thread root';
COMMENT ON COLUMN receipts.event_id IS 'as in events; here too, so that reading receipts touches no event';
COMMENT ON COLUMN receipts.position IS 'in the stream receipts, of the last change';
