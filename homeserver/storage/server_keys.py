"""Keys of other servers, and what they last said of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import ServerName
from homeserver.storage.query import (
    Txn,
    execute,
    find_row,
    insert_many,
    list_rows,
    list_values,
)


@dataclass(frozen=True, slots=True)
class StoredKey:
    key_id: str
    public_key: str
    """Unpadded base64."""
    valid_until_ts: int
    is_old: bool


@dataclass(frozen=True, slots=True)
class StoredResponse:
    response: bytes
    valid_until_ts: int
    fetched_ts: int


def list_keys(txn: Txn, server: ServerName) -> list[StoredKey]:
    return list_rows(
        txn,
        StoredKey,
        "SELECT key_id, public_key, valid_until_ts, is_old FROM server_keys WHERE server_name = %s",
        (server,),
    )


def delete_replaced(
    txn: Txn, server: ServerName, keys: Sequence[StoredKey], now_ms: int
) -> list[str]:
    """Delete keys whose ids these have now, if they are no longer valid; return the ids."""
    return list_values(
        txn,
        str,
        """
        DELETE FROM server_keys AS known
         USING unnest(%s::text[], %s::text[]) AS said (key_id, public_key)
         WHERE known.server_name = %s AND known.key_id = said.key_id
           AND known.public_key <> said.public_key AND known.valid_until_ts < %s
        RETURNING known.key_id""",
        ([key.key_id for key in keys], [key.public_key for key in keys], server, now_ms),
    )


def upsert_keys(txn: Txn, server: ServerName, keys: Sequence[StoredKey]) -> None:
    """Store keys; one that is stored stays as it is, and lasts as long as was ever said."""
    insert_many(
        txn,
        """
        INSERT INTO server_keys (server_name, key_id, public_key, valid_until_ts, is_old)
        VALUES %s
        ON CONFLICT (server_name, key_id) DO UPDATE
           SET valid_until_ts = CASE WHEN excluded.is_old THEN excluded.valid_until_ts
                                     ELSE greatest(server_keys.valid_until_ts,
                                                   excluded.valid_until_ts) END,
               is_old = excluded.is_old
         WHERE server_keys.public_key = excluded.public_key""",
        [(server, k.key_id, k.public_key, k.valid_until_ts, k.is_old) for k in keys],
    )


def find_response(txn: Txn, server: ServerName) -> StoredResponse | None:
    return find_row(
        txn,
        StoredResponse,
        "SELECT response, valid_until_ts, fetched_ts FROM server_key_responses"
        " WHERE server_name = %s",
        (server,),
    )


def upsert_response(txn: Txn, server: ServerName, response: StoredResponse) -> None:
    execute(
        txn,
        """
        INSERT INTO server_key_responses (server_name, response, valid_until_ts, fetched_ts)
        VALUES (%s, %s, %s, %s)
        ON CONFLICT (server_name) DO UPDATE
           SET response = excluded.response, valid_until_ts = excluded.valid_until_ts,
               fetched_ts = excluded.fetched_ts""",
        (server, response.response, response.valid_until_ts, response.fetched_ts),
    )
