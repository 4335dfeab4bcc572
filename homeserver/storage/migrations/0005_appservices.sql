-- compatible-from: 0001

CREATE TABLE appservice_cursors (
    appservice_id text COLLATE "C" PRIMARY KEY,
    delivered     bigint NOT NULL,
    sending       bigint
);
COMMENT ON TABLE appservice_cursors IS 'How far each application service has been told; no copies of events are kept';
COMMENT ON COLUMN appservice_cursors.delivered IS 'event_nid of the newest event it has acknowledged, or that did not interest it';
COMMENT ON COLUMN appservice_cursors.sending IS 'event_nid of the newest event of the transaction under way: a repetition must carry the same events under the same id';
