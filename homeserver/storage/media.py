"""Media: what users sent, copies of other servers' files, thumbnails of both.

Invariant: a row names a file that was on the disk, whole, before the row was written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import ServerName, UserID
from homeserver.storage.query import (
    Txn,
    execute,
    fetch_value,
    find_row,
    find_value,
    list_rows,
    list_values,
)


@dataclass(frozen=True, slots=True)
class ContentRow:
    """What is in a file."""

    file_id: str
    content_type: str
    file_name: str | None
    length: int
    sha256: bytes
    is_open: bool
    """Whether it is given to people who are not logged in."""


@dataclass(frozen=True, slots=True)
class AwaitedRow:
    """An id that was given out for a file which has not come yet."""

    user_id: UserID
    expires_ts: int


@dataclass(frozen=True, slots=True)
class ThumbnailRow:
    file_id: str | None
    """None: the original serves."""
    content_type: str
    animated_type: str | None
    length: int


@dataclass(frozen=True, slots=True)
class UsageRow:
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RemoteKey:
    server_name: ServerName
    media_id: str
    length: int


# --- what users of this server sent


def insert_local(
    txn: Txn, media_id: str, user_id: UserID, content: ContentRow, now_ms: int
) -> None:
    execute(
        txn,
        """
        INSERT INTO local_media (media_id, user_id, created_ts, file_id, content_type, file_name,
                                 length, sha256, is_open)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (
            media_id,
            user_id,
            now_ms,
            content.file_id,
            content.content_type,
            content.file_name,
            content.length,
            content.sha256,
            content.is_open,
        ),
    )


def insert_awaited(
    txn: Txn, media_id: str, user_id: UserID, now_ms: int, expires_ts: int, max_awaited: int
) -> bool:
    """Return False when the user has `max_awaited` such ids already."""
    execute(txn, "SELECT pg_advisory_xact_lock(hashtextextended(%s, 20))", (user_id,))
    return bool(
        execute(
            txn,
            """
            INSERT INTO local_media (media_id, user_id, created_ts, expires_ts)
            SELECT %s, %s, %s, %s
             WHERE (SELECT count(*) FROM local_media
                     WHERE user_id = %s AND expires_ts > %s) < %s""",
            (media_id, user_id, now_ms, expires_ts, user_id, now_ms, max_awaited),
        )
    )


def find_first_expiry(txn: Txn, user_id: UserID, now_ms: int) -> int | None:
    return find_value(
        txn,
        int,
        "SELECT min(expires_ts) FROM local_media WHERE user_id = %s AND expires_ts > %s",
        (user_id, now_ms),
    )


def update_awaited(txn: Txn, media_id: str, content: ContentRow) -> bool:
    """Give an awaited id its content. Return False when it has some, or is forgotten."""
    return bool(
        execute(
            txn,
            """
            UPDATE local_media
               SET expires_ts = NULL, file_id = %s, content_type = %s, file_name = %s,
                   length = %s, sha256 = %s, is_open = %s
             WHERE media_id = %s AND expires_ts IS NOT NULL""",
            (
                content.file_id,
                content.content_type,
                content.file_name,
                content.length,
                content.sha256,
                content.is_open,
                media_id,
            ),
        )
    )


def find_local(txn: Txn, media_id: str) -> ContentRow | None:
    return find_row(
        txn,
        ContentRow,
        """
        SELECT file_id, content_type, file_name, length, sha256, is_open
          FROM local_media WHERE media_id = %s AND file_id IS NOT NULL""",
        (media_id,),
    )


def find_awaited(txn: Txn, media_id: str, now_ms: int) -> AwaitedRow | None:
    return find_row(
        txn,
        AwaitedRow,
        "SELECT user_id, expires_ts FROM local_media WHERE media_id = %s AND expires_ts > %s",
        (media_id, now_ms),
    )


def find_usage(txn: Txn, user_id: UserID) -> UsageRow:
    row = find_row(
        txn,
        UsageRow,
        """
        SELECT count(*), coalesce(sum(length), 0)::bigint
          FROM local_media WHERE user_id = %s""",
        (user_id,),
    )
    assert row is not None, "an aggregate has a row"
    return row


def delete_expired(txn: Txn, now_ms: int) -> int:
    """Forget ids whose content has not come."""
    return execute(txn, "DELETE FROM local_media WHERE expires_ts <= %s", (now_ms,))


# --- copies of other servers' files


def upsert_remote(
    txn: Txn, server: ServerName, media_id: str, content: ContentRow, now_ms: int
) -> None:
    execute(
        txn,
        """
        INSERT INTO remote_media (server_name, media_id, file_id, content_type, file_name, length,
                                  sha256, fetched_ts, last_used_ts, is_open)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT (server_name, media_id) DO UPDATE
           SET file_id = excluded.file_id, content_type = excluded.content_type,
               file_name = excluded.file_name, length = excluded.length,
               sha256 = excluded.sha256, fetched_ts = excluded.fetched_ts,
               last_used_ts = excluded.last_used_ts, is_open = excluded.is_open""",
        (
            server,
            media_id,
            content.file_id,
            content.content_type,
            content.file_name,
            content.length,
            content.sha256,
            now_ms,
            now_ms,
            content.is_open,
        ),
    )


def find_remote(txn: Txn, server: ServerName, media_id: str) -> ContentRow | None:
    return find_row(
        txn,
        ContentRow,
        """
        SELECT file_id, content_type, file_name, length, sha256, is_open
          FROM remote_media WHERE server_name = %s AND media_id = %s""",
        (server, media_id),
    )


def update_last_used(
    txn: Txn, server: ServerName, media_id: str, now_ms: int, older_than_ts: int
) -> None:
    execute(
        txn,
        """
        UPDATE remote_media SET last_used_ts = %s
         WHERE server_name = %s AND media_id = %s AND last_used_ts < %s""",
        (now_ms, server, media_id, older_than_ts),
    )


def sum_remote_bytes(txn: Txn, own_name: ServerName) -> int:
    """Return what copies of other servers' files take, with their thumbnails."""
    return fetch_value(
        txn,
        int,
        """
        SELECT ((SELECT coalesce(sum(length), 0) FROM remote_media)
              + (SELECT coalesce(sum(length), 0) FROM thumbnails
                  WHERE server_name <> %s AND file_id IS NOT NULL))::bigint""",
        (own_name,),
    )


def list_least_used(txn: Txn, limit: int) -> list[RemoteKey]:
    return list_rows(
        txn,
        RemoteKey,
        "SELECT server_name, media_id, length FROM remote_media ORDER BY last_used_ts LIMIT %s",
        (limit,),
    )


def delete_remote(txn: Txn, server: ServerName, media_id: str) -> list[str]:
    """Forget a copy and its thumbnails; return the files that are to be deleted."""
    return list_values(
        txn,
        str,
        "DELETE FROM thumbnails WHERE server_name = %s AND media_id = %s AND file_id IS NOT NULL"
        " RETURNING file_id",
        (server, media_id),
    ) + list_values(
        txn,
        str,
        """
        WITH serving_itself AS (
            DELETE FROM thumbnails WHERE server_name = %s AND media_id = %s
        )
        DELETE FROM remote_media WHERE server_name = %s AND media_id = %s RETURNING file_id""",
        (server, media_id, server, media_id),
    )


# --- thumbnails


def find_thumbnail(
    txn: Txn, server: ServerName, media_id: str, width: int, height: int, method: str
) -> ThumbnailRow | None:
    return find_row(
        txn,
        ThumbnailRow,
        """
        SELECT file_id, content_type, animated_type, length FROM thumbnails
         WHERE server_name = %s AND media_id = %s AND width = %s AND height = %s
           AND method = %s""",
        (server, media_id, width, height, method),
    )


def upsert_thumbnail(
    txn: Txn,
    server: ServerName,
    media_id: str,
    width: int,
    height: int,
    method: str,
    thumbnail: ThumbnailRow,
) -> None:
    execute(
        txn,
        """
        INSERT INTO thumbnails (server_name, media_id, width, height, method, file_id,
                                content_type, animated_type, length)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT (server_name, media_id, width, height, method) DO UPDATE
           SET file_id = excluded.file_id, content_type = excluded.content_type,
               animated_type = excluded.animated_type, length = excluded.length""",
        (
            server,
            media_id,
            width,
            height,
            method,
            thumbnail.file_id,
            thumbnail.content_type,
            thumbnail.animated_type,
            thumbnail.length,
        ),
    )


# --- files


def list_known_files(txn: Txn, file_ids: Sequence[str]) -> list[str]:
    """Return which of these files a row names."""
    wanted = list(file_ids)
    return list_values(
        txn,
        str,
        """
        SELECT file_id FROM local_media WHERE file_id = ANY(%s)
        UNION ALL SELECT file_id FROM remote_media WHERE file_id = ANY(%s)
        UNION ALL SELECT file_id FROM thumbnails WHERE file_id = ANY(%s)""",
        (wanted, wanted, wanted),
    )
