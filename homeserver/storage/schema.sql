-- Generated from the migrations by pg_dump: python -m tests.storage.regenerate_schema


CREATE TABLE public.access_tokens (
    token_hash bytea NOT NULL,
    user_nid bigint NOT NULL,
    device_id text NOT NULL COLLATE pg_catalog."C",
    expires_ts bigint,
    replaces bytea
);

COMMENT ON COLUMN public.access_tokens.token_hash IS 'SHA-256: who reads this table cannot use the tokens';

COMMENT ON COLUMN public.access_tokens.expires_ts IS 'null: never. An expired row stays, to tell a soft logout from an unknown token';

COMMENT ON COLUMN public.access_tokens.replaces IS 'the refresh token it was given for, until its first use spends that one';

CREATE TABLE public.account_data (
    user_nid bigint NOT NULL,
    room_id text NOT NULL COLLATE pg_catalog."C",
    type text NOT NULL COLLATE pg_catalog."C",
    content text NOT NULL,
    "position" bigint NOT NULL
)
WITH (fillfactor='80');

COMMENT ON COLUMN public.account_data.room_id IS 'empty: global. Text, not a number: invited users tag rooms this server does not know';

COMMENT ON COLUMN public.account_data.content IS 'JSON text, not jsonb: any JSON string is a legal value, with U+0000 too';

COMMENT ON COLUMN public.account_data."position" IS 'in the stream account_data, of the last change';

CREATE TABLE public.accounts (
    user_nid bigint NOT NULL,
    password_hash text,
    is_admin boolean DEFAULT false NOT NULL,
    appservice_id text,
    created_ts bigint NOT NULL,
    deactivated_ts bigint
);

COMMENT ON COLUMN public.accounts.password_hash IS 'argon2id in PHC format; null: nobody can log in with a password';

COMMENT ON COLUMN public.accounts.appservice_id IS 'the application service that made the account; null: a person did';

COMMENT ON COLUMN public.accounts.deactivated_ts IS 'null: active. The row stays for ever, so that nobody can take the name again';

CREATE TABLE public.applied_migrations (
    number integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL,
    compatible_from integer
);

CREATE TABLE public.appservice_cursors (
    appservice_id text NOT NULL COLLATE pg_catalog."C",
    delivered bigint NOT NULL,
    sending bigint
);

COMMENT ON TABLE public.appservice_cursors IS 'How far each application service has been told; no copies of events are kept';

COMMENT ON COLUMN public.appservice_cursors.delivered IS 'event_nid of the newest event it has acknowledged, or that did not interest it';

COMMENT ON COLUMN public.appservice_cursors.sending IS 'event_nid of the newest event of the transaction under way: a repetition must carry the same events under the same id';

CREATE TABLE public.client_transactions (
    user_nid bigint NOT NULL,
    device_id text NOT NULL COLLATE pg_catalog."C",
    txn_id text NOT NULL COLLATE pg_catalog."C",
    room_nid bigint NOT NULL,
    event_nid bigint NOT NULL,
    created_ts bigint NOT NULL
);

COMMENT ON TABLE public.client_transactions IS 'Makes a repeated send answer the first event id, also after a restart; kept 24 hours, those of delayed events for ever';

CREATE TABLE public.cross_signing_keys (
    user_nid bigint NOT NULL,
    usage text NOT NULL,
    public_key text NOT NULL COLLATE pg_catalog."C",
    key bytea NOT NULL,
    CONSTRAINT cross_signing_keys_usage_check CHECK ((usage = ANY (ARRAY['master'::text, 'self_signing'::text, 'user_signing'::text])))
);

COMMENT ON COLUMN public.cross_signing_keys.key IS 'canonical JSON as uploaded, without unsigned';

CREATE TABLE public.dead_letters (
    letter_nid bigint NOT NULL,
    server_name text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL,
    item bytea NOT NULL,
    error text NOT NULL,
    created_ts bigint NOT NULL,
    CONSTRAINT dead_letters_kind_check CHECK ((kind = ANY (ARRAY['pdu'::text, 'edu'::text])))
);

COMMENT ON TABLE public.dead_letters IS 'What a server refused by itself, so that it did not hold up the rest; the newest are kept';

ALTER TABLE public.dead_letters ALTER COLUMN letter_nid ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.dead_letters_letter_nid_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.delayed_events (
    delay_nid bigint NOT NULL,
    delay_id text NOT NULL COLLATE pg_catalog."C",
    user_nid bigint NOT NULL,
    device_id text NOT NULL COLLATE pg_catalog."C",
    txn_id text COLLATE pg_catalog."C",
    room_nid bigint NOT NULL,
    event_type text NOT NULL COLLATE pg_catalog."C",
    state_key text COLLATE pg_catalog."C",
    origin_server_ts bigint,
    content bytea NOT NULL,
    delay_ms bigint NOT NULL,
    since_ts bigint NOT NULL,
    "position" bigint NOT NULL,
    due_ts bigint,
    tries integer DEFAULT 0 NOT NULL,
    finalised_ts bigint,
    event_id text,
    error bytea,
    CONSTRAINT delayed_events_check CHECK (((due_ts IS NULL) = (finalised_ts IS NOT NULL))),
    CONSTRAINT delayed_events_check1 CHECK (((finalised_ts IS NOT NULL) OR ((event_id IS NULL) AND (error IS NULL)))),
    CONSTRAINT delayed_events_check2 CHECK (((event_id IS NULL) OR (error IS NULL)))
);

COMMENT ON TABLE public.delayed_events IS 'What is to be sent later, and for some days what became of it';

COMMENT ON COLUMN public.delayed_events.delay_id IS 'who knows it may send, restart and cancel the event: not to be guessed, not to be logged';

COMMENT ON COLUMN public.delayed_events.device_id IS 'the device or application service that handed it in, for txn_id; empty: none';

COMMENT ON COLUMN public.delayed_events.txn_id IS 'makes a repeated request answer the first delay_id; null: a state event by its own path';

COMMENT ON COLUMN public.delayed_events.origin_server_ts IS 'null: the time of sending';

COMMENT ON COLUMN public.delayed_events.content IS 'JSON, not jsonb: any JSON string is a legal value, with U+0000 too';

COMMENT ON COLUMN public.delayed_events.since_ts IS 'when it was handed in or last restarted, as people''s clocks said';

COMMENT ON COLUMN public.delayed_events."position" IS 'number of the room''s last event when it was handed in: what came later is newer';

COMMENT ON COLUMN public.delayed_events.due_ts IS 'when it is tried next, by the clock of the process; null: it is sent, cancelled or has failed';

COMMENT ON COLUMN public.delayed_events.error IS 'JSON of the error for which it was not sent; null beside a finalised_ts without event_id: cancelled';

ALTER TABLE public.delayed_events ALTER COLUMN delay_nid ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.delayed_events_delay_nid_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.destinations (
    server_name text NOT NULL COLLATE pg_catalog."C",
    delivered bigint NOT NULL,
    failing_since_ts bigint,
    next_try_ts bigint,
    failures integer DEFAULT 0 NOT NULL,
    last_success_ts bigint,
    last_cause text,
    last_error text,
    dropped_messages bigint DEFAULT 0 NOT NULL,
    dropped_ts bigint
)
WITH (fillfactor='70');

COMMENT ON TABLE public.destinations IS 'How far each other server has been told, and what keeps it from being told more';

COMMENT ON COLUMN public.destinations.delivered IS 'position in outgoing_events up to which it has been sent all that concerns it';

COMMENT ON COLUMN public.destinations.failing_since_ts IS 'null: the last request was answered';

COMMENT ON COLUMN public.destinations.dropped_messages IS 'messages to devices that waited too long, or were too many; ever';

COMMENT ON COLUMN public.destinations.dropped_ts IS 'when that happened last';

CREATE TABLE public.device_keys (
    user_nid bigint NOT NULL,
    device_id text NOT NULL COLLATE pg_catalog."C",
    keys bytea NOT NULL
);

COMMENT ON TABLE public.device_keys IS 'No cascade: whoever deletes a device learns here whether it had keys that others must hear of';

COMMENT ON COLUMN public.device_keys.keys IS 'canonical JSON as uploaded, without unsigned';

CREATE TABLE public.device_list_changes (
    user_nid bigint NOT NULL,
    "position" bigint NOT NULL,
    is_pending boolean DEFAULT false NOT NULL
)
WITH (fillfactor='70');

COMMENT ON TABLE public.device_list_changes IS 'The last change of each user''s device or cross-signing keys';

COMMENT ON COLUMN public.device_list_changes.is_pending IS 'a change was committed that has no position yet; it gets one right after, or at the next start';

CREATE TABLE public.device_list_streams (
    user_nid bigint NOT NULL,
    stream_id bigint NOT NULL
)
WITH (fillfactor='70');

COMMENT ON TABLE public.device_list_streams IS 'The last stream_id of each local user: the next m.device_list_update refers to it';

CREATE TABLE public.devices (
    user_nid bigint NOT NULL,
    device_id text NOT NULL COLLATE pg_catalog."C",
    display_name text,
    last_seen_ts bigint,
    last_seen_ip text
)
WITH (fillfactor='80');

COMMENT ON COLUMN public.devices.last_seen_ts IS 'written at most every five minutes';

CREATE TABLE public.event_bytes (
    room_nid bigint NOT NULL,
    event_nid bigint NOT NULL,
    pdu bytea NOT NULL
);

COMMENT ON COLUMN public.event_bytes.pdu IS 'canonical JSON exactly as signed: reused for federation, never re-serialised';

CREATE TABLE public.event_epochs (
    first_nid bigint NOT NULL,
    newest_before bigint NOT NULL,
    CONSTRAINT event_epochs_check CHECK ((newest_before < first_nid))
);

COMMENT ON TABLE public.event_epochs IS 'One row a start: no event, and so no token of this history, is between the two numbers';

COMMENT ON COLUMN public.event_epochs.first_nid IS 'Where the process began; it may be in tokens though no event has the number';

COMMENT ON COLUMN public.event_epochs.newest_before IS 'The newest event there was then';

CREATE TABLE public.event_relations (
    room_nid bigint NOT NULL,
    child_nid bigint NOT NULL,
    parent_id bytea NOT NULL,
    rel_type text NOT NULL COLLATE pg_catalog."C",
    type_nid integer NOT NULL,
    sender_nid bigint NOT NULL,
    depth bigint NOT NULL,
    origin_server_ts bigint NOT NULL,
    annotation_key bytea,
    can_replace boolean NOT NULL
);

COMMENT ON TABLE public.event_relations IS 'Children and their parents, by m.relates_to; written with the child, deleted with its redaction, which takes the relation away. The rest is copied from events so that children can be chosen and ordered by index alone';

COMMENT ON COLUMN public.event_relations.parent_id IS 'as in events.event_id; not a number, because a child may come before its parent, or name one that never comes';

COMMENT ON COLUMN public.event_relations.annotation_key IS 'UTF-8, of an m.annotation; bytes, because it may hold a NUL';

COMMENT ON COLUMN public.event_relations.can_replace IS 'the child by itself is a valid m.replace; sender and type must still be those of the parent';

CREATE TABLE public.event_types (
    type_nid integer NOT NULL,
    type text NOT NULL COLLATE pg_catalog."C"
);

ALTER TABLE public.event_types ALTER COLUMN type_nid ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.event_types_type_nid_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.events (
    room_nid bigint NOT NULL,
    event_nid bigint NOT NULL,
    event_id bytea NOT NULL,
    type_nid integer NOT NULL,
    sender_nid bigint NOT NULL,
    slot_nid bigint,
    depth bigint NOT NULL,
    origin_server_ts bigint NOT NULL,
    state_before bigint,
    state_after bigint,
    replaces bigint,
    redacted_by bigint,
    flags smallint DEFAULT 0 NOT NULL,
    prev_events bigint[] NOT NULL,
    auth_events bigint[] NOT NULL,
    room_state bigint
);

COMMENT ON COLUMN public.events.event_nid IS 'assigned in commit order by the server: the position in the events stream';

COMMENT ON COLUMN public.events.event_id IS 'the 32-byte hash from room version 3 on; the text before';

COMMENT ON COLUMN public.events.slot_nid IS 'null: not a state event';

COMMENT ON COLUMN public.events.state_before IS 'null: outlier, whose place in the room is not known';

COMMENT ON COLUMN public.events.state_after IS 'equal to state_before but for accepted state events';

COMMENT ON COLUMN public.events.replaces IS 'event_nid that held the slot before';

COMMENT ON COLUMN public.events.flags IS 'bits: 1 outlier, 2 rejected, 4 soft-failed, 8 historical (not in the stream)';

COMMENT ON COLUMN public.events.prev_events IS 'known parents only; unknown ones are in missing_parents';

COMMENT ON COLUMN public.events.room_state IS 'the state of the room with the event in it; null where the event is in line: the state before it was the room''s, and the state after it became the room''s';

CREATE TABLE public.fallback_keys (
    user_nid bigint NOT NULL,
    device_id text NOT NULL COLLATE pg_catalog."C",
    algorithm text NOT NULL COLLATE pg_catalog."C",
    key_id text NOT NULL COLLATE pg_catalog."C",
    is_used boolean DEFAULT false NOT NULL,
    key bytea NOT NULL
);

CREATE TABLE public.filters (
    user_nid bigint NOT NULL,
    filter_id text NOT NULL COLLATE pg_catalog."C",
    filter_nid bigint NOT NULL,
    definition text NOT NULL
);

COMMENT ON COLUMN public.filters.filter_id IS 'hash of the definition: equal filters of a user are one';

COMMENT ON COLUMN public.filters.filter_nid IS 'tells the oldest filter of a user, which goes when there are too many';

ALTER TABLE public.filters ALTER COLUMN filter_nid ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.filters_filter_nid_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.inbound_transactions (
    origin text NOT NULL COLLATE pg_catalog."C",
    txn_id text NOT NULL COLLATE pg_catalog."C",
    response bytea NOT NULL,
    received_ts bigint NOT NULL
);

COMMENT ON TABLE public.inbound_transactions IS 'Answers to repeated transactions; kept a day';

CREATE TABLE public.invite_states (
    user_nid bigint NOT NULL,
    room_nid bigint NOT NULL,
    state bytea NOT NULL
);

COMMENT ON TABLE public.invite_states IS 'Stripped state shown to a user who is invited or has knocked, as a JSON array';

CREATE TABLE public.key_signatures (
    target_nid bigint NOT NULL,
    target_key text NOT NULL COLLATE pg_catalog."C",
    signer_nid bigint NOT NULL,
    signer_key text NOT NULL COLLATE pg_catalog."C",
    "position" bigint NOT NULL,
    signature text NOT NULL
);

COMMENT ON TABLE public.key_signatures IS 'Verified signatures that came after the key. Those of a user on his own keys are for everybody, others for the signer alone';

COMMENT ON COLUMN public.key_signatures.target_key IS 'device id, or public part of a master key';

COMMENT ON COLUMN public.key_signatures.signer_key IS 'public part of a cross-signing key, or device id';

COMMENT ON COLUMN public.key_signatures."position" IS 'in the device_lists stream';

CREATE TABLE public.local_media (
    media_id text NOT NULL COLLATE pg_catalog."C",
    user_id text NOT NULL COLLATE pg_catalog."C",
    created_ts bigint NOT NULL,
    expires_ts bigint,
    file_id text COLLATE pg_catalog."C",
    content_type text DEFAULT ''::text NOT NULL,
    file_name text,
    length bigint DEFAULT 0 NOT NULL,
    sha256 bytea,
    is_open boolean DEFAULT false NOT NULL,
    CONSTRAINT local_media_check CHECK (((file_id IS NULL) = (expires_ts IS NOT NULL)))
);

COMMENT ON TABLE public.local_media IS 'What users of this server sent, and ids that were given out for what they will send';

COMMENT ON COLUMN public.local_media.expires_ts IS 'null: the content is there; else when the id is forgotten unless it comes';

COMMENT ON COLUMN public.local_media.file_id IS 'name of the file on the disk; it is nobody''s choice but the server''s';

COMMENT ON COLUMN public.local_media.is_open IS 'whether it may be downloaded without authentication: what the setting said when it came';

CREATE TABLE public.missing_parents (
    room_nid bigint NOT NULL,
    event_nid bigint NOT NULL,
    parent_id bytea NOT NULL
);

CREATE TABLE public.network_rooms (
    appservice_id text NOT NULL COLLATE pg_catalog."C",
    network_id text NOT NULL COLLATE pg_catalog."C",
    room_nid bigint NOT NULL
);

COMMENT ON TABLE public.network_rooms IS 'Rooms that an application service has put into the directory of a network it bridges to; the directory of the server itself is public_rooms';

CREATE TABLE public.notifications (
    room_nid bigint NOT NULL,
    event_nid bigint NOT NULL,
    part smallint NOT NULL,
    users bigint[],
    sender_nid bigint NOT NULL,
    thread_id text NOT NULL COLLATE pg_catalog."C",
    is_mark boolean NOT NULL,
    is_notify boolean NOT NULL,
    is_highlight boolean NOT NULL,
    actions text NOT NULL
);

COMMENT ON TABLE public.notifications IS 'What push rules said of the newest events of each room, for its local members; older rows are deleted, so counts are of these alone. Without rows an event notifies nobody and marks nothing as read';

COMMENT ON COLUMN public.notifications.users IS 'null (part 0): everybody whom no other row of the event names';

COMMENT ON COLUMN public.notifications.thread_id IS 'main, or the event id of the thread root';

COMMENT ON COLUMN public.notifications.is_mark IS 'by sending the event its sender, who is local, has read the thread up to it';

COMMENT ON COLUMN public.notifications.is_notify IS 'false: nothing is told, though everybody else may be';

COMMENT ON COLUMN public.notifications.actions IS 'JSON text: the actions of the push rule that matched';

CREATE TABLE public.one_time_keys (
    user_nid bigint NOT NULL,
    device_id text NOT NULL COLLATE pg_catalog."C",
    algorithm text NOT NULL COLLATE pg_catalog."C",
    key_id text NOT NULL COLLATE pg_catalog."C",
    upload_nid bigint NOT NULL,
    is_claimed boolean DEFAULT false NOT NULL,
    key bytea NOT NULL
)
WITH (fillfactor='80');

COMMENT ON COLUMN public.one_time_keys.key_id IS 'without the algorithm';

COMMENT ON COLUMN public.one_time_keys.is_claimed IS 'the newest claimed keys stay, so that a repeated upload cannot put one of them on offer again';

COMMENT ON COLUMN public.one_time_keys.key IS 'canonical JSON';

ALTER TABLE public.one_time_keys ALTER COLUMN upload_nid ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.one_time_keys_upload_nid_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.openid_tokens (
    token_hash bytea NOT NULL,
    user_nid bigint NOT NULL,
    expires_ts bigint NOT NULL
);

COMMENT ON COLUMN public.openid_tokens.token_hash IS 'SHA-256: who reads the table cannot pass for anybody';

CREATE TABLE public.out_of_band_memberships (
    room_nid bigint NOT NULL,
    user_nid bigint NOT NULL,
    event_nid bigint NOT NULL,
    event_id bytea NOT NULL,
    pdu bytea NOT NULL
);

COMMENT ON TABLE public.out_of_band_memberships IS 'Newest member event of each local user in rooms that this server is not in: invitations, knocks, and what ended them. Not in events, because nobody here can check what they cite';

COMMENT ON COLUMN public.out_of_band_memberships.event_nid IS 'position in the events stream, as in room_memberships';

CREATE TABLE public.outgoing_edus (
    edu_nid bigint NOT NULL,
    server_name text NOT NULL COLLATE pg_catalog."C",
    lane smallint NOT NULL,
    edu_type text NOT NULL,
    content bytea NOT NULL,
    about text COLLATE pg_catalog."C",
    created_ts bigint NOT NULL
);

COMMENT ON TABLE public.outgoing_edus IS 'Those that must not be lost: messages to devices, changes of devices and keys. Deleted when they are delivered';

COMMENT ON COLUMN public.outgoing_edus.lane IS '0 to-device, 1 devices and keys: lower lanes go first';

COMMENT ON COLUMN public.outgoing_edus.about IS 'whose devices or keys have changed: of many such changes the last is enough';

ALTER TABLE public.outgoing_edus ALTER COLUMN edu_nid ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.outgoing_edus_edu_nid_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.outgoing_events (
    "position" bigint NOT NULL,
    room_nid bigint NOT NULL,
    event_nid bigint NOT NULL,
    origin text COLLATE pg_catalog."C"
);

COMMENT ON TABLE public.outgoing_events IS 'Which events other servers of their rooms must be sent by this one; to whom, the room says when they are sent';

COMMENT ON COLUMN public.outgoing_events."position" IS 'in the events stream: of the event itself, or of when it was taken in for another server';

COMMENT ON COLUMN public.outgoing_events.origin IS 'the server that has it already; null: it was made here';

CREATE TABLE public.partial_state_rooms (
    room_nid bigint NOT NULL,
    join_nid bigint NOT NULL,
    servers text[] NOT NULL,
    whole_nid bigint
);

COMMENT ON TABLE public.partial_state_rooms IS 'Rooms joined with members left out of the state';

COMMENT ON COLUMN public.partial_state_rooms.join_nid IS 'event_nid of the join; the state of what came after it is to be computed again';

COMMENT ON COLUMN public.partial_state_rooms.servers IS 'the servers that were in the room at the join; the first one answered it';

COMMENT ON COLUMN public.partial_state_rooms.whole_nid IS 'position in the events stream at which the whole state came; null: it has not come yet';

CREATE TABLE public.pending_device_updates (
    user_nid bigint NOT NULL,
    device_id text NOT NULL COLLATE pg_catalog."C"
);

COMMENT ON TABLE public.pending_device_updates IS 'Written with each change of a local device or key; deleted in the transaction that stores what other servers are sent of it';

COMMENT ON COLUMN public.pending_device_updates.device_id IS 'empty: the cross-signing keys of the user';

CREATE TABLE public.pending_introductions (
    user_nid bigint NOT NULL,
    room_nid bigint NOT NULL,
    servers text[]
);

COMMENT ON TABLE public.pending_introductions IS 'Local users who have come into a room that other servers are in: written with the join, deleted in the transaction that stores what those servers are sent of the devices';

COMMENT ON COLUMN public.pending_introductions.servers IS 'these alone have turned out to be in the room; null: the user has just come, and all of them count';

CREATE TABLE public.profile_fields (
    user_nid bigint NOT NULL,
    field text NOT NULL COLLATE pg_catalog."C",
    value text NOT NULL
);

COMMENT ON COLUMN public.profile_fields.value IS 'JSON text, not jsonb: any JSON string is a legal value, with U+0000 too';

CREATE TABLE public.public_rooms (
    room_nid bigint NOT NULL
);

CREATE TABLE public.push_rules (
    user_nid bigint NOT NULL,
    ruleset text NOT NULL,
    "position" bigint NOT NULL
);

COMMENT ON TABLE public.push_rules IS 'Users without a row have the predefined rules and no others';

COMMENT ON COLUMN public.push_rules.ruleset IS 'JSON text: only what differs from the predefined rules, see core/push_rules.py';

COMMENT ON COLUMN public.push_rules."position" IS 'in the stream account_data: clients see push rules as account data';

CREATE TABLE public.receipts (
    room_nid bigint NOT NULL,
    user_nid bigint NOT NULL,
    kind smallint NOT NULL,
    thread_id text NOT NULL COLLATE pg_catalog."C",
    event_nid bigint NOT NULL,
    event_id bytea NOT NULL,
    ts bigint NOT NULL,
    "position" bigint NOT NULL
)
WITH (fillfactor='80');

COMMENT ON TABLE public.receipts IS 'Up to where users have read. Commits need not be durable: a lost receipt is sent again';

COMMENT ON COLUMN public.receipts.kind IS '1 m.read, 2 m.read.private';

COMMENT ON COLUMN public.receipts.thread_id IS 'empty: unthreaded; else main or the event id of the thread root';

COMMENT ON COLUMN public.receipts.event_id IS 'as in events; here too, so that reading receipts touches no event';

COMMENT ON COLUMN public.receipts."position" IS 'in the stream receipts, of the last change';

CREATE TABLE public.received_to_device (
    origin text NOT NULL COLLATE pg_catalog."C",
    id_hash bytea NOT NULL,
    received_ts bigint NOT NULL
);

COMMENT ON TABLE public.received_to_device IS 'Makes a message that another server repeats do nothing; kept longer than servers try again';

COMMENT ON COLUMN public.received_to_device.id_hash IS 'SHA-256 of the message_id';

CREATE TABLE public.refresh_tokens (
    token_hash bytea NOT NULL,
    user_nid bigint NOT NULL,
    device_id text NOT NULL COLLATE pg_catalog."C",
    replaces bytea,
    spent_ts bigint
);

COMMENT ON COLUMN public.refresh_tokens.replaces IS 'the refresh token it was given for, until its first use spends that one';

COMMENT ON COLUMN public.refresh_tokens.spent_ts IS 'when a successor was used; shown again after that, the token was stolen';

CREATE TABLE public.remote_device_lists (
    user_nid bigint NOT NULL,
    stream_id bigint DEFAULT 0 NOT NULL,
    needs_resync boolean DEFAULT true NOT NULL,
    marks bigint DEFAULT 1 NOT NULL
)
WITH (fillfactor='70');

COMMENT ON TABLE public.remote_device_lists IS 'Users of other servers whose devices and keys are kept here, as they share a room with a local user';

COMMENT ON COLUMN public.remote_device_lists.stream_id IS 'of the last update that is in the list';

COMMENT ON COLUMN public.remote_device_lists.marks IS 'how often the list was found wanting: an answer that was asked for before the last mark does not settle it';

CREATE TABLE public.remote_devices (
    user_nid bigint NOT NULL,
    device_id text NOT NULL COLLATE pg_catalog."C",
    keys bytea NOT NULL,
    display_name text
);

COMMENT ON COLUMN public.remote_devices.keys IS 'canonical JSON, without unsigned; checked for form and owner';

CREATE TABLE public.remote_media (
    server_name text NOT NULL COLLATE pg_catalog."C",
    media_id text NOT NULL COLLATE pg_catalog."C",
    file_id text NOT NULL COLLATE pg_catalog."C",
    content_type text NOT NULL,
    file_name text,
    length bigint NOT NULL,
    sha256 bytea NOT NULL,
    fetched_ts bigint NOT NULL,
    last_used_ts bigint NOT NULL,
    is_open boolean NOT NULL
);

COMMENT ON TABLE public.remote_media IS 'Copies of other servers'' files; those used least recently are deleted when they take too much';

COMMENT ON COLUMN public.remote_media.last_used_ts IS 'exact to an hour';

CREATE TABLE public.room_aliases (
    alias text NOT NULL COLLATE pg_catalog."C",
    room_nid bigint NOT NULL,
    creator_nid bigint NOT NULL
);

CREATE TABLE public.room_heads (
    room_nid bigint NOT NULL,
    extremities bigint[] NOT NULL,
    current_state bigint NOT NULL,
    last_event bigint NOT NULL,
    epoch bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='50');

COMMENT ON TABLE public.room_heads IS 'What moves with every event of a room; apart from rooms so that updates stay in their page';

COMMENT ON COLUMN public.room_heads.extremities IS 'event_nids without a known child';

COMMENT ON COLUMN public.room_heads.current_state IS 'state id after the extremities, see state_segments';

COMMENT ON COLUMN public.room_heads.last_event IS 'event_nid of the newest event that clients may be shown';

COMMENT ON COLUMN public.room_heads.epoch IS 'fencing: the owner process''s epoch at its last write';

CREATE TABLE public.room_memberships (
    user_nid bigint NOT NULL,
    room_nid bigint NOT NULL,
    membership smallint NOT NULL,
    event_nid bigint NOT NULL,
    joined_nid bigint,
    left_nid bigint,
    forgotten boolean DEFAULT false NOT NULL
);

COMMENT ON TABLE public.room_memberships IS 'Current membership by user: derived from room state, committed with it';

COMMENT ON COLUMN public.room_memberships.membership IS '1 join, 2 invite, 3 leave, 4 ban, 5 knock';

COMMENT ON COLUMN public.room_memberships.joined_nid IS 'event_nid that began the last stay in the room; null: never joined';

COMMENT ON COLUMN public.room_memberships.left_nid IS 'event_nid that ended the last stay; null: it has not ended, or there was none';

CREATE TABLE public.rooms (
    room_nid bigint NOT NULL,
    room_id text NOT NULL COLLATE pg_catalog."C",
    room_version text NOT NULL
);

ALTER TABLE public.rooms ALTER COLUMN room_nid ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.rooms_room_nid_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.sending_progress (
    is_only boolean DEFAULT true NOT NULL,
    "position" bigint NOT NULL,
    CONSTRAINT sending_progress_is_only_check CHECK (is_only)
);

COMMENT ON TABLE public.sending_progress IS 'Servers without a row in destinations have nothing to be told up to this position';

CREATE TABLE public.server_identity (
    only_row boolean DEFAULT true NOT NULL,
    server_name text NOT NULL,
    state_hash_key bytea DEFAULT (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())) NOT NULL,
    CONSTRAINT server_identity_only_row_check CHECK (only_row)
);

COMMENT ON COLUMN public.server_identity.state_hash_key IS 'secret key of the set hashes in state_segments';

CREATE TABLE public.server_key_responses (
    server_name text NOT NULL COLLATE pg_catalog."C",
    response bytea NOT NULL,
    valid_until_ts bigint NOT NULL,
    fetched_ts bigint NOT NULL
);

COMMENT ON TABLE public.server_key_responses IS 'What each server last said of its keys, for servers that ask this one as a notary';

COMMENT ON COLUMN public.server_key_responses.response IS 'JSON as signed by the server, without other signatures';

CREATE TABLE public.server_keys (
    server_name text NOT NULL COLLATE pg_catalog."C",
    key_id text NOT NULL COLLATE pg_catalog."C",
    public_key text NOT NULL,
    valid_until_ts bigint NOT NULL,
    is_old boolean NOT NULL
);

COMMENT ON COLUMN public.server_keys.valid_until_ts IS 'by the server''s word, but at most seven days after it was asked; of an old key, when it expired';

COMMENT ON COLUMN public.server_keys.is_old IS 'good for the events of its time, not for requests';

CREATE TABLE public.staged_events (
    staged_nid bigint NOT NULL,
    origin text NOT NULL COLLATE pg_catalog."C",
    room_id text NOT NULL COLLATE pg_catalog."C",
    pdu bytea NOT NULL,
    received_ts bigint NOT NULL
);

COMMENT ON TABLE public.staged_events IS 'Events whose transaction was answered before they were worked through; read again after a restart';

ALTER TABLE public.staged_events ALTER COLUMN staged_nid ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.staged_events_staged_nid_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.state_segments (
    room_nid bigint NOT NULL,
    segment_nid bigint NOT NULL,
    parent_state bigint,
    base_segment bigint NOT NULL,
    checkpoint bytea,
    changes bytea NOT NULL,
    change_count smallint NOT NULL,
    since_checkpoint integer NOT NULL,
    state_hash bytea NOT NULL
)
WITH (fillfactor='70');
ALTER TABLE ONLY public.state_segments ALTER COLUMN checkpoint SET STORAGE EXTERNAL;

COMMENT ON TABLE public.state_segments IS 'Room states as chains of changes. State id = segment_nid * 128 + n: the state after the first n changes of the segment. One row holds up to 127 changes, so a change costs its 16 bytes and little more; a full checkpoint is written only after changes in proportion to the state''s size';

COMMENT ON COLUMN public.state_segments.parent_state IS 'the state that n = 0 stands for; null when the checkpoint says it';

COMMENT ON COLUMN public.state_segments.base_segment IS 'the segment of this chain that has the checkpoint';

COMMENT ON COLUMN public.state_segments.checkpoint IS 'packed by core/state_map.py: the full state at n = 0';

COMMENT ON COLUMN public.state_segments.changes IS 'packed by core/state_map.py';

COMMENT ON COLUMN public.state_segments.since_checkpoint IS 'changes between the base checkpoint and n = 0 of this segment';

COMMENT ON COLUMN public.state_segments.state_hash IS 'keyed set hash of the state after all changes of the row';

CREATE TABLE public.state_slots (
    slot_nid bigint NOT NULL,
    type_nid integer NOT NULL,
    state_key text NOT NULL COLLATE pg_catalog."C"
);

COMMENT ON TABLE public.state_slots IS 'Dictionary of (type, state_key); shared by all rooms';

ALTER TABLE public.state_slots ALTER COLUMN slot_nid ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.state_slots_slot_nid_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE SEQUENCE public.stream_epochs
    START WITH 4294967296
    INCREMENT BY 4294967296
    MINVALUE 4294967296
    NO MAXVALUE
    CACHE 1;

COMMENT ON SEQUENCE public.stream_epochs IS 'Each process takes one value and numbers its streams from there: clients'' tokens hold positions that no row remembers (of failed writes, of delivered messages), and none of them may come a second time';

CREATE TABLE public.thumbnails (
    server_name text NOT NULL COLLATE pg_catalog."C",
    media_id text NOT NULL COLLATE pg_catalog."C",
    width integer NOT NULL,
    height integer NOT NULL,
    method text NOT NULL,
    file_id text COLLATE pg_catalog."C",
    content_type text NOT NULL,
    animated_type text,
    length bigint NOT NULL
);

COMMENT ON TABLE public.thumbnails IS 'Still pictures of a fixed list of sizes, made when they were first asked for';

COMMENT ON COLUMN public.thumbnails.width IS 'of the size in the list, not of the picture';

COMMENT ON COLUMN public.thumbnails.file_id IS 'null: the original is no larger and serves itself';

COMMENT ON COLUMN public.thumbnails.content_type IS 'as found in the bytes, whatever the sender said';

COMMENT ON COLUMN public.thumbnails.animated_type IS 'content type of the original if it moves; null: it does not';

CREATE TABLE public.to_device_messages (
    user_nid bigint NOT NULL,
    device_id text NOT NULL COLLATE pg_catalog."C",
    "position" bigint NOT NULL,
    message bytea NOT NULL
);

COMMENT ON COLUMN public.to_device_messages.message IS 'JSON as the device will see it';

CREATE TABLE public.to_device_transactions (
    user_nid bigint NOT NULL,
    device_id text NOT NULL COLLATE pg_catalog."C",
    txn_hash bytea NOT NULL,
    created_ts bigint NOT NULL
);

COMMENT ON TABLE public.to_device_transactions IS 'Makes a repeated send do nothing, also after a restart; kept 24 hours';

COMMENT ON COLUMN public.to_device_transactions.device_id IS 'empty for an application service without a device';

COMMENT ON COLUMN public.to_device_transactions.txn_hash IS 'SHA-256 of event type and transaction id';

CREATE TABLE public.users (
    user_nid bigint NOT NULL,
    user_id text NOT NULL COLLATE pg_catalog."C"
);

COMMENT ON TABLE public.users IS 'Dictionary of every user id ever seen, local or remote; accounts are in accounts';

ALTER TABLE public.users ALTER COLUMN user_nid ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.users_user_nid_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.waiting_redactions (
    room_nid bigint NOT NULL,
    target_id bytea NOT NULL,
    redaction_nid bigint NOT NULL
);

COMMENT ON TABLE public.waiting_redactions IS 'Accepted redactions whose target has not been seen; they take effect when it is';

ALTER TABLE ONLY public.access_tokens
    ADD CONSTRAINT access_tokens_pkey PRIMARY KEY (token_hash);

ALTER TABLE ONLY public.account_data
    ADD CONSTRAINT account_data_pkey PRIMARY KEY (user_nid, room_id, type);

ALTER TABLE ONLY public.accounts
    ADD CONSTRAINT accounts_pkey PRIMARY KEY (user_nid);

ALTER TABLE ONLY public.applied_migrations
    ADD CONSTRAINT applied_migrations_pkey PRIMARY KEY (number);

ALTER TABLE ONLY public.appservice_cursors
    ADD CONSTRAINT appservice_cursors_pkey PRIMARY KEY (appservice_id);

ALTER TABLE ONLY public.client_transactions
    ADD CONSTRAINT client_transactions_pkey PRIMARY KEY (user_nid, device_id, txn_id, room_nid);

ALTER TABLE ONLY public.cross_signing_keys
    ADD CONSTRAINT cross_signing_keys_pkey PRIMARY KEY (user_nid, usage);

ALTER TABLE ONLY public.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (letter_nid);

ALTER TABLE ONLY public.delayed_events
    ADD CONSTRAINT delayed_events_delay_id_key UNIQUE (delay_id);

ALTER TABLE ONLY public.delayed_events
    ADD CONSTRAINT delayed_events_pkey PRIMARY KEY (delay_nid);

ALTER TABLE ONLY public.destinations
    ADD CONSTRAINT destinations_pkey PRIMARY KEY (server_name);

ALTER TABLE ONLY public.device_keys
    ADD CONSTRAINT device_keys_pkey PRIMARY KEY (user_nid, device_id);

ALTER TABLE ONLY public.device_list_changes
    ADD CONSTRAINT device_list_changes_pkey PRIMARY KEY (user_nid);

ALTER TABLE ONLY public.device_list_streams
    ADD CONSTRAINT device_list_streams_pkey PRIMARY KEY (user_nid);

ALTER TABLE ONLY public.devices
    ADD CONSTRAINT devices_pkey PRIMARY KEY (user_nid, device_id);

ALTER TABLE ONLY public.event_bytes
    ADD CONSTRAINT event_bytes_pkey PRIMARY KEY (room_nid, event_nid);

ALTER TABLE ONLY public.event_epochs
    ADD CONSTRAINT event_epochs_pkey PRIMARY KEY (first_nid);

ALTER TABLE ONLY public.event_relations
    ADD CONSTRAINT event_relations_pkey PRIMARY KEY (room_nid, child_nid);

ALTER TABLE ONLY public.event_types
    ADD CONSTRAINT event_types_pkey PRIMARY KEY (type_nid);

ALTER TABLE ONLY public.event_types
    ADD CONSTRAINT event_types_type_key UNIQUE (type);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (room_nid, event_nid);

ALTER TABLE ONLY public.fallback_keys
    ADD CONSTRAINT fallback_keys_pkey PRIMARY KEY (user_nid, device_id, algorithm);

ALTER TABLE ONLY public.filters
    ADD CONSTRAINT filters_pkey PRIMARY KEY (user_nid, filter_id);

ALTER TABLE ONLY public.inbound_transactions
    ADD CONSTRAINT inbound_transactions_pkey PRIMARY KEY (origin, txn_id);

ALTER TABLE ONLY public.invite_states
    ADD CONSTRAINT invite_states_pkey PRIMARY KEY (user_nid, room_nid);

ALTER TABLE ONLY public.key_signatures
    ADD CONSTRAINT key_signatures_pkey PRIMARY KEY (target_nid, target_key, signer_nid, signer_key);

ALTER TABLE ONLY public.local_media
    ADD CONSTRAINT local_media_file_id_key UNIQUE (file_id);

ALTER TABLE ONLY public.local_media
    ADD CONSTRAINT local_media_pkey PRIMARY KEY (media_id);

ALTER TABLE ONLY public.missing_parents
    ADD CONSTRAINT missing_parents_pkey PRIMARY KEY (room_nid, event_nid, parent_id);

ALTER TABLE ONLY public.network_rooms
    ADD CONSTRAINT network_rooms_pkey PRIMARY KEY (appservice_id, network_id, room_nid);

ALTER TABLE ONLY public.notifications
    ADD CONSTRAINT notifications_pkey PRIMARY KEY (room_nid, event_nid, part);

ALTER TABLE ONLY public.one_time_keys
    ADD CONSTRAINT one_time_keys_pkey PRIMARY KEY (user_nid, device_id, algorithm, key_id);

ALTER TABLE ONLY public.openid_tokens
    ADD CONSTRAINT openid_tokens_pkey PRIMARY KEY (token_hash);

ALTER TABLE ONLY public.out_of_band_memberships
    ADD CONSTRAINT out_of_band_memberships_pkey PRIMARY KEY (room_nid, user_nid);

ALTER TABLE ONLY public.outgoing_edus
    ADD CONSTRAINT outgoing_edus_pkey PRIMARY KEY (edu_nid);

ALTER TABLE ONLY public.outgoing_events
    ADD CONSTRAINT outgoing_events_pkey PRIMARY KEY ("position");

ALTER TABLE ONLY public.partial_state_rooms
    ADD CONSTRAINT partial_state_rooms_pkey PRIMARY KEY (room_nid);

ALTER TABLE ONLY public.pending_device_updates
    ADD CONSTRAINT pending_device_updates_pkey PRIMARY KEY (user_nid, device_id);

ALTER TABLE ONLY public.pending_introductions
    ADD CONSTRAINT pending_introductions_pkey PRIMARY KEY (user_nid, room_nid);

ALTER TABLE ONLY public.profile_fields
    ADD CONSTRAINT profile_fields_pkey PRIMARY KEY (user_nid, field);

ALTER TABLE ONLY public.public_rooms
    ADD CONSTRAINT public_rooms_pkey PRIMARY KEY (room_nid);

ALTER TABLE ONLY public.push_rules
    ADD CONSTRAINT push_rules_pkey PRIMARY KEY (user_nid);

ALTER TABLE ONLY public.receipts
    ADD CONSTRAINT receipts_pkey PRIMARY KEY (room_nid, user_nid, kind, thread_id);

ALTER TABLE ONLY public.received_to_device
    ADD CONSTRAINT received_to_device_pkey PRIMARY KEY (origin, id_hash);

ALTER TABLE ONLY public.refresh_tokens
    ADD CONSTRAINT refresh_tokens_pkey PRIMARY KEY (token_hash);

ALTER TABLE ONLY public.remote_device_lists
    ADD CONSTRAINT remote_device_lists_pkey PRIMARY KEY (user_nid);

ALTER TABLE ONLY public.remote_devices
    ADD CONSTRAINT remote_devices_pkey PRIMARY KEY (user_nid, device_id);

ALTER TABLE ONLY public.remote_media
    ADD CONSTRAINT remote_media_file_id_key UNIQUE (file_id);

ALTER TABLE ONLY public.remote_media
    ADD CONSTRAINT remote_media_pkey PRIMARY KEY (server_name, media_id);

ALTER TABLE ONLY public.room_aliases
    ADD CONSTRAINT room_aliases_pkey PRIMARY KEY (alias);

ALTER TABLE ONLY public.room_heads
    ADD CONSTRAINT room_heads_pkey PRIMARY KEY (room_nid);

ALTER TABLE ONLY public.room_memberships
    ADD CONSTRAINT room_memberships_pkey PRIMARY KEY (user_nid, room_nid);

ALTER TABLE ONLY public.rooms
    ADD CONSTRAINT rooms_pkey PRIMARY KEY (room_nid);

ALTER TABLE ONLY public.rooms
    ADD CONSTRAINT rooms_room_id_key UNIQUE (room_id);

ALTER TABLE ONLY public.sending_progress
    ADD CONSTRAINT sending_progress_pkey PRIMARY KEY (is_only);

ALTER TABLE ONLY public.server_identity
    ADD CONSTRAINT server_identity_pkey PRIMARY KEY (only_row);

ALTER TABLE ONLY public.server_key_responses
    ADD CONSTRAINT server_key_responses_pkey PRIMARY KEY (server_name);

ALTER TABLE ONLY public.server_keys
    ADD CONSTRAINT server_keys_pkey PRIMARY KEY (server_name, key_id);

ALTER TABLE ONLY public.staged_events
    ADD CONSTRAINT staged_events_pkey PRIMARY KEY (staged_nid);

ALTER TABLE ONLY public.state_segments
    ADD CONSTRAINT state_segments_pkey PRIMARY KEY (room_nid, segment_nid);

ALTER TABLE ONLY public.state_slots
    ADD CONSTRAINT state_slots_pkey PRIMARY KEY (slot_nid);

ALTER TABLE ONLY public.state_slots
    ADD CONSTRAINT state_slots_type_nid_state_key_key UNIQUE (type_nid, state_key);

ALTER TABLE ONLY public.thumbnails
    ADD CONSTRAINT thumbnails_file_id_key UNIQUE (file_id);

ALTER TABLE ONLY public.thumbnails
    ADD CONSTRAINT thumbnails_pkey PRIMARY KEY (server_name, media_id, width, height, method);

ALTER TABLE ONLY public.to_device_messages
    ADD CONSTRAINT to_device_messages_pkey PRIMARY KEY (user_nid, device_id, "position");

ALTER TABLE ONLY public.to_device_transactions
    ADD CONSTRAINT to_device_transactions_pkey PRIMARY KEY (user_nid, device_id, txn_hash);

ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (user_nid);

ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_user_id_key UNIQUE (user_id);

ALTER TABLE ONLY public.waiting_redactions
    ADD CONSTRAINT waiting_redactions_pkey PRIMARY KEY (room_nid, target_id, redaction_nid);

CREATE INDEX access_tokens_device ON public.access_tokens USING btree (user_nid, device_id);

CREATE INDEX account_data_changes ON public.account_data USING btree (user_nid, "position");

CREATE INDEX client_transactions_age ON public.client_transactions USING btree (created_ts) WHERE (device_id <> 'delayed'::text);

CREATE INDEX dead_letters_by_server ON public.dead_letters USING btree (server_name, letter_nid);

CREATE INDEX delayed_events_by_user ON public.delayed_events USING btree (user_nid, finalised_ts);

CREATE INDEX delayed_events_due ON public.delayed_events USING btree (due_ts) WHERE (due_ts IS NOT NULL);

CREATE INDEX delayed_events_finalised ON public.delayed_events USING btree (finalised_ts) WHERE (finalised_ts IS NOT NULL);

CREATE UNIQUE INDEX delayed_events_transaction ON public.delayed_events USING btree (user_nid, device_id, room_nid, txn_id) WHERE (txn_id IS NOT NULL);

CREATE INDEX device_list_changes_position ON public.device_list_changes USING btree ("position");

CREATE INDEX event_relations_by_sender ON public.event_relations USING btree (room_nid, parent_id, sender_nid, rel_type, origin_server_ts);

CREATE INDEX event_relations_children ON public.event_relations USING btree (room_nid, parent_id, rel_type, depth, child_nid) INCLUDE (sender_nid);

CREATE INDEX event_relations_threads ON public.event_relations USING btree (room_nid, depth, child_nid) WHERE (rel_type = 'm.thread'::text);

CREATE UNIQUE INDEX events_event_id ON public.events USING btree (event_id, room_nid);

CREATE INDEX events_forks ON public.events USING btree (room_nid, event_nid) WHERE (room_state IS NOT NULL);

COMMENT ON INDEX public.events_forks IS 'nearly empty; the newest entry of a room tells from where on its events are in line';

CREATE INDEX events_timeline ON public.events USING btree (((room_nid + 0)), depth, event_nid);

CREATE INDEX events_timestamp ON public.events USING btree (((room_nid + 0)), origin_server_ts, event_nid);

COMMENT ON INDEX public.events_timestamp IS 'for timestamp_to_event: senders choose the timestamp, so no other order tells of it';

CREATE INDEX inbound_transactions_by_age ON public.inbound_transactions USING btree (received_ts);

CREATE INDEX key_signatures_signer ON public.key_signatures USING btree (signer_nid, "position");

CREATE INDEX local_media_awaited ON public.local_media USING btree (user_id, expires_ts) WHERE (expires_ts IS NOT NULL);

CREATE INDEX local_media_by_user ON public.local_media USING btree (user_id) INCLUDE (length);

CREATE INDEX missing_parents_parent ON public.missing_parents USING btree (parent_id);

CREATE INDEX one_time_keys_next ON public.one_time_keys USING btree (user_nid, device_id, algorithm, upload_nid) WHERE (NOT is_claimed);

CREATE INDEX openid_tokens_expiry ON public.openid_tokens USING btree (expires_ts);

CREATE INDEX out_of_band_memberships_position ON public.out_of_band_memberships USING btree (event_nid);

CREATE INDEX outgoing_edus_by_server ON public.outgoing_edus USING btree (server_name, lane, edu_nid);

CREATE INDEX receipts_changes ON public.receipts USING btree (room_nid, "position");

CREATE INDEX received_to_device_age ON public.received_to_device USING btree (received_ts);

CREATE INDEX refresh_tokens_device ON public.refresh_tokens USING btree (user_nid, device_id);

CREATE INDEX remote_device_lists_to_resync ON public.remote_device_lists USING btree (user_nid) WHERE needs_resync;

CREATE INDEX remote_media_by_use ON public.remote_media USING btree (last_used_ts);

CREATE INDEX room_aliases_room ON public.room_aliases USING btree (room_nid);

CREATE INDEX room_memberships_room ON public.room_memberships USING btree (room_nid, membership);

CREATE INDEX to_device_transactions_age ON public.to_device_transactions USING btree (created_ts);

ALTER TABLE ONLY public.access_tokens
    ADD CONSTRAINT access_tokens_user_nid_device_id_fkey FOREIGN KEY (user_nid, device_id) REFERENCES public.devices(user_nid, device_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.account_data
    ADD CONSTRAINT account_data_user_nid_fkey FOREIGN KEY (user_nid) REFERENCES public.users(user_nid);

ALTER TABLE ONLY public.accounts
    ADD CONSTRAINT accounts_user_nid_fkey FOREIGN KEY (user_nid) REFERENCES public.users(user_nid);

ALTER TABLE ONLY public.cross_signing_keys
    ADD CONSTRAINT cross_signing_keys_user_nid_fkey FOREIGN KEY (user_nid) REFERENCES public.users(user_nid);

ALTER TABLE ONLY public.device_keys
    ADD CONSTRAINT device_keys_user_nid_device_id_fkey FOREIGN KEY (user_nid, device_id) REFERENCES public.devices(user_nid, device_id) DEFERRABLE INITIALLY DEFERRED;

ALTER TABLE ONLY public.device_list_changes
    ADD CONSTRAINT device_list_changes_user_nid_fkey FOREIGN KEY (user_nid) REFERENCES public.users(user_nid);

ALTER TABLE ONLY public.device_list_streams
    ADD CONSTRAINT device_list_streams_user_nid_fkey FOREIGN KEY (user_nid) REFERENCES public.users(user_nid);

ALTER TABLE ONLY public.devices
    ADD CONSTRAINT devices_user_nid_fkey FOREIGN KEY (user_nid) REFERENCES public.accounts(user_nid);

ALTER TABLE ONLY public.fallback_keys
    ADD CONSTRAINT fallback_keys_user_nid_device_id_fkey FOREIGN KEY (user_nid, device_id) REFERENCES public.devices(user_nid, device_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.filters
    ADD CONSTRAINT filters_user_nid_fkey FOREIGN KEY (user_nid) REFERENCES public.users(user_nid);

ALTER TABLE ONLY public.network_rooms
    ADD CONSTRAINT network_rooms_room_nid_fkey FOREIGN KEY (room_nid) REFERENCES public.rooms(room_nid);

ALTER TABLE ONLY public.one_time_keys
    ADD CONSTRAINT one_time_keys_user_nid_device_id_fkey FOREIGN KEY (user_nid, device_id) REFERENCES public.devices(user_nid, device_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.openid_tokens
    ADD CONSTRAINT openid_tokens_user_nid_fkey FOREIGN KEY (user_nid) REFERENCES public.users(user_nid);

ALTER TABLE ONLY public.out_of_band_memberships
    ADD CONSTRAINT out_of_band_memberships_room_nid_fkey FOREIGN KEY (room_nid) REFERENCES public.rooms(room_nid);

ALTER TABLE ONLY public.out_of_band_memberships
    ADD CONSTRAINT out_of_band_memberships_user_nid_fkey FOREIGN KEY (user_nid) REFERENCES public.users(user_nid);

ALTER TABLE ONLY public.partial_state_rooms
    ADD CONSTRAINT partial_state_rooms_room_nid_fkey FOREIGN KEY (room_nid) REFERENCES public.rooms(room_nid);

ALTER TABLE ONLY public.pending_device_updates
    ADD CONSTRAINT pending_device_updates_user_nid_fkey FOREIGN KEY (user_nid) REFERENCES public.users(user_nid);

ALTER TABLE ONLY public.pending_introductions
    ADD CONSTRAINT pending_introductions_room_nid_fkey FOREIGN KEY (room_nid) REFERENCES public.rooms(room_nid);

ALTER TABLE ONLY public.pending_introductions
    ADD CONSTRAINT pending_introductions_user_nid_fkey FOREIGN KEY (user_nid) REFERENCES public.users(user_nid);

ALTER TABLE ONLY public.profile_fields
    ADD CONSTRAINT profile_fields_user_nid_fkey FOREIGN KEY (user_nid) REFERENCES public.accounts(user_nid);

ALTER TABLE ONLY public.public_rooms
    ADD CONSTRAINT public_rooms_room_nid_fkey FOREIGN KEY (room_nid) REFERENCES public.rooms(room_nid);

ALTER TABLE ONLY public.push_rules
    ADD CONSTRAINT push_rules_user_nid_fkey FOREIGN KEY (user_nid) REFERENCES public.users(user_nid);

ALTER TABLE ONLY public.receipts
    ADD CONSTRAINT receipts_room_nid_fkey FOREIGN KEY (room_nid) REFERENCES public.rooms(room_nid);

ALTER TABLE ONLY public.receipts
    ADD CONSTRAINT receipts_user_nid_fkey FOREIGN KEY (user_nid) REFERENCES public.users(user_nid);

ALTER TABLE ONLY public.refresh_tokens
    ADD CONSTRAINT refresh_tokens_user_nid_device_id_fkey FOREIGN KEY (user_nid, device_id) REFERENCES public.devices(user_nid, device_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.remote_device_lists
    ADD CONSTRAINT remote_device_lists_user_nid_fkey FOREIGN KEY (user_nid) REFERENCES public.users(user_nid);

ALTER TABLE ONLY public.remote_devices
    ADD CONSTRAINT remote_devices_user_nid_fkey FOREIGN KEY (user_nid) REFERENCES public.remote_device_lists(user_nid) ON DELETE CASCADE;

ALTER TABLE ONLY public.room_aliases
    ADD CONSTRAINT room_aliases_creator_nid_fkey FOREIGN KEY (creator_nid) REFERENCES public.users(user_nid);

ALTER TABLE ONLY public.room_aliases
    ADD CONSTRAINT room_aliases_room_nid_fkey FOREIGN KEY (room_nid) REFERENCES public.rooms(room_nid);

ALTER TABLE ONLY public.room_heads
    ADD CONSTRAINT room_heads_room_nid_fkey FOREIGN KEY (room_nid) REFERENCES public.rooms(room_nid);

ALTER TABLE ONLY public.to_device_messages
    ADD CONSTRAINT to_device_messages_user_nid_device_id_fkey FOREIGN KEY (user_nid, device_id) REFERENCES public.devices(user_nid, device_id) ON DELETE CASCADE;
