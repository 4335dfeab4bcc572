-- compatible-from: 0018
-- What waits for servers that stay away is bounded.

ALTER TABLE outgoing_edus ADD COLUMN about text COLLATE "C";
ALTER TABLE outgoing_edus ADD COLUMN created_ts bigint NOT NULL
    DEFAULT (extract(epoch FROM now()) * 1000)::bigint;
ALTER TABLE outgoing_edus ALTER COLUMN created_ts DROP DEFAULT;
COMMENT ON COLUMN outgoing_edus.about IS 'whose devices or keys have changed: of many such changes the last is enough';

ALTER TABLE destinations ADD COLUMN dropped_messages bigint NOT NULL DEFAULT 0;
ALTER TABLE destinations ADD COLUMN dropped_ts bigint;
COMMENT ON COLUMN destinations.dropped_messages IS 'messages to devices that waited too long, or were too many; ever';
COMMENT ON COLUMN destinations.dropped_ts IS 'when that happened last';
