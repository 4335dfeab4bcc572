-- compatible-from: 0016
-- Files that users sent, files of other servers that are kept for a while, and thumbnails of both.
-- The bytes are files in data_directory/media; a row is written after its file is safe on the disk.

CREATE TABLE local_media (
    media_id     text COLLATE "C" PRIMARY KEY,
    user_id      text COLLATE "C" NOT NULL,
    created_ts   bigint NOT NULL,
    expires_ts   bigint,
    file_id      text COLLATE "C" UNIQUE,
    content_type text NOT NULL DEFAULT '',
    file_name    text,
    length       bigint NOT NULL DEFAULT 0,
    sha256       bytea,
    is_open      boolean NOT NULL DEFAULT false,
    CHECK ((file_id IS NULL) = (expires_ts IS NOT NULL))
);
CREATE INDEX local_media_by_user ON local_media (user_id) INCLUDE (length);
CREATE INDEX local_media_awaited ON local_media (user_id, expires_ts) WHERE expires_ts IS NOT NULL;
COMMENT ON TABLE local_media IS 'What users of this server sent, and ids that were given out for what they will send';
COMMENT ON COLUMN local_media.expires_ts IS 'null: the content is there; else when the id is forgotten unless it comes';
COMMENT ON COLUMN local_media.file_id IS 'name of the file on the disk; it is nobody''s choice but the server''s';
COMMENT ON COLUMN local_media.is_open IS 'whether it may be downloaded without authentication: what the setting said when it came';

CREATE TABLE remote_media (
    server_name  text COLLATE "C" NOT NULL,
    media_id     text COLLATE "C" NOT NULL,
    file_id      text COLLATE "C" NOT NULL UNIQUE,
    content_type text NOT NULL,
    file_name    text,
    length       bigint NOT NULL,
    sha256       bytea NOT NULL,
    fetched_ts   bigint NOT NULL,
    last_used_ts bigint NOT NULL,
    is_open      boolean NOT NULL,
    PRIMARY KEY (server_name, media_id)
);
CREATE INDEX remote_media_by_use ON remote_media (last_used_ts);
COMMENT ON TABLE remote_media IS 'Copies of other servers'' files; those used least recently are deleted when they take too much';
COMMENT ON COLUMN remote_media.last_used_ts IS 'exact to an hour';

CREATE TABLE thumbnails (
    server_name   text COLLATE "C" NOT NULL,
    media_id      text COLLATE "C" NOT NULL,
    width         integer NOT NULL,
    height        integer NOT NULL,
    method        text NOT NULL,
    file_id       text COLLATE "C" UNIQUE,
    content_type  text NOT NULL,
    animated_type text,
    length        bigint NOT NULL,
    PRIMARY KEY (server_name, media_id, width, height, method)
);
COMMENT ON TABLE thumbnails IS 'Still pictures of a fixed list of sizes, made when they were first asked for';
COMMENT ON COLUMN thumbnails.width IS 'of the size in the list, not of the picture';
COMMENT ON COLUMN thumbnails.file_id IS 'null: the original is no larger and serves itself';
COMMENT ON COLUMN thumbnails.content_type IS 'as found in the bytes, whatever the sender said';
COMMENT ON COLUMN thumbnails.animated_type IS 'content type of the original if it moves; null: it does not';
