-- compatible-from: 0011
-- A backup that is restored takes the database back, but clients keep tokens of what came after it.
-- Each start of the server therefore begins its numbers at the time of day, beyond all that were
-- given out before, and writes down the gap: a position in a gap is from a lost history.

CREATE TABLE event_epochs (
    first_nid     bigint PRIMARY KEY,
    newest_before bigint NOT NULL,
    CHECK (newest_before < first_nid)
);
COMMENT ON TABLE event_epochs IS
    'One row a start: no event, and so no token of this history, is between the two numbers';
COMMENT ON COLUMN event_epochs.first_nid IS
    'Where the process began; it may be in tokens though no event has the number';
COMMENT ON COLUMN event_epochs.newest_before IS 'The newest event there was then';
