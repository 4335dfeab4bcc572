"""One-time and fallback keys of devices, for those who want to begin a session with them.

Invariant: a one-time key is marked as claimed in the transaction that reads it for a claim, under
its row lock, and a claimed key is never on offer again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import DeviceID, UserID
from homeserver.storage.query import (
    Txn,
    execute,
    insert_many,
    list_rows,
    list_tuples,
    list_values,
)

_KEPT_CLAIMED = 1_000


@dataclass(frozen=True, slots=True)
class Key:
    algorithm: str
    key_id: str
    """Without the algorithm."""
    key: bytes
    """Canonical JSON."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    algorithm: str
    key_id: str
    key: bytes
    is_claimed: bool


@dataclass(frozen=True, slots=True)
class Claim:
    user_id: UserID
    device_id: DeviceID
    algorithm: str


@dataclass(frozen=True, slots=True)
class ClaimedKey:
    user_id: UserID
    device_id: DeviceID
    algorithm: str
    key_id: str
    key: bytes


def list_same_ids(
    txn: Txn, user_nid: int, device_id: DeviceID, keys: Sequence[Key]
) -> list[StoredKey]:
    """What is stored under the ids of `keys`; the rows stay locked, so that none is claimed."""
    return list_rows(
        txn,
        StoredKey,
        """
        SELECT algorithm, key_id, key, is_claimed FROM one_time_keys
         WHERE user_nid = %s AND device_id = %s
           AND (algorithm, key_id) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
         ORDER BY algorithm, key_id FOR UPDATE""",
        (user_nid, device_id, [k.algorithm for k in keys], [k.key_id for k in keys]),
    )


def upsert_one_time_keys(txn: Txn, user_nid: int, device_id: DeviceID, keys: Sequence[Key]) -> None:
    """Offer the keys, after those that are offered already."""
    insert_many(
        txn,
        """
        INSERT INTO one_time_keys (user_nid, device_id, algorithm, key_id, key) VALUES %s
        ON CONFLICT (user_nid, device_id, algorithm, key_id) DO UPDATE
           SET key = excluded.key, is_claimed = false, upload_nid = DEFAULT""",
        [(user_nid, device_id, k.algorithm, k.key_id, k.key) for k in keys],
    )


def delete_long_claimed(txn: Txn, user_nid: int, device_id: DeviceID) -> None:
    """Forget all but the newest claimed keys of a device."""
    execute(
        txn,
        """
        DELETE FROM one_time_keys
         WHERE user_nid = %(user)s AND device_id = %(device)s AND is_claimed
           AND upload_nid <= (
               SELECT upload_nid FROM one_time_keys
                WHERE user_nid = %(user)s AND device_id = %(device)s AND is_claimed
                ORDER BY upload_nid DESC OFFSET %(kept)s LIMIT 1)""",
        {"user": user_nid, "device": device_id, "kept": _KEPT_CLAIMED},
    )


def count_one_time_keys(txn: Txn, user_nid: int, device_id: DeviceID) -> dict[str, int]:
    """Return algorithm -> number of unclaimed keys, where there are any."""
    rows = list_tuples(
        txn,
        """
        SELECT algorithm, count(*) FROM one_time_keys
         WHERE user_nid = %s AND device_id = %s AND NOT is_claimed GROUP BY algorithm""",
        (user_nid, device_id),
    )
    return dict(rows)


def claim_one_time_keys(txn: Txn, claims: Sequence[Claim]) -> list[ClaimedKey]:
    """Take the oldest key for each claim; a key that another transaction takes is passed over.

    `claims` holds no duplicates: a claim gives one key.
    """
    return list_rows(
        txn,
        ClaimedKey,
        """
        WITH taken AS MATERIALIZED (
            SELECT wanted.user_id, oldest.*
              FROM unnest(%s::text[], %s::text[], %s::text[])
                   AS wanted (user_id, device_id, algorithm)
              JOIN users USING (user_id)
             CROSS JOIN LATERAL (
                   SELECT user_nid, device_id, algorithm, key_id FROM one_time_keys AS keys
                    WHERE keys.user_nid = users.user_nid AND keys.device_id = wanted.device_id
                      AND keys.algorithm = wanted.algorithm AND NOT keys.is_claimed
                    ORDER BY upload_nid LIMIT 1
                      FOR UPDATE SKIP LOCKED) AS oldest)
        UPDATE one_time_keys AS keys SET is_claimed = true
          FROM taken
         WHERE keys.user_nid = taken.user_nid AND keys.device_id = taken.device_id
           AND keys.algorithm = taken.algorithm AND keys.key_id = taken.key_id
        RETURNING taken.user_id, keys.device_id, keys.algorithm, keys.key_id, keys.key""",
        _columns(claims),
    )


def use_fallback_keys(txn: Txn, claims: Sequence[Claim]) -> list[ClaimedKey]:
    """Return the fallback key for each claim that has one, and note that it has been used."""
    return list_rows(
        txn,
        ClaimedKey,
        """
        WITH wanted AS (
            SELECT * FROM unnest(%s::text[], %s::text[], %s::text[])
                          AS wanted (user_id, device_id, algorithm)
              JOIN users USING (user_id)),
        used AS (
            UPDATE fallback_keys AS keys SET is_used = true
              FROM wanted
             WHERE keys.user_nid = wanted.user_nid AND keys.device_id = wanted.device_id
               AND keys.algorithm = wanted.algorithm AND NOT keys.is_used)
        SELECT user_id, device_id, algorithm, key_id, key
          FROM wanted JOIN fallback_keys USING (user_nid, device_id, algorithm)""",
        _columns(claims),
    )


def upsert_fallback_keys(txn: Txn, user_nid: int, device_id: DeviceID, keys: Sequence[Key]) -> None:
    """Put each key in the place of its algorithm's; one that is there already stays as it is."""
    insert_many(
        txn,
        """
        INSERT INTO fallback_keys (user_nid, device_id, algorithm, key_id, key) VALUES %s
        ON CONFLICT (user_nid, device_id, algorithm) DO UPDATE
           SET key_id = excluded.key_id, key = excluded.key, is_used = false
         WHERE (fallback_keys.key_id, fallback_keys.key) <> (excluded.key_id, excluded.key)""",
        [(user_nid, device_id, k.algorithm, k.key_id, k.key) for k in keys],
    )


def list_unused_fallback_types(txn: Txn, user_nid: int, device_id: DeviceID) -> list[str]:
    return list_values(
        txn,
        str,
        """
        SELECT algorithm FROM fallback_keys
         WHERE user_nid = %s AND device_id = %s AND NOT is_used ORDER BY algorithm""",
        (user_nid, device_id),
    )


def delete_all_keys(txn: Txn, user_nid: int, device_id: DeviceID) -> None:
    """Delete one-time and fallback keys, for a device whose identity keys were replaced."""
    execute(
        txn,
        "DELETE FROM one_time_keys WHERE user_nid = %s AND device_id = %s",
        (user_nid, device_id),
    )
    execute(
        txn,
        "DELETE FROM fallback_keys WHERE user_nid = %s AND device_id = %s",
        (user_nid, device_id),
    )


def _columns(claims: Sequence[Claim]) -> tuple[list[str], list[str], list[str]]:
    return (
        [claim.user_id for claim in claims],
        [claim.device_id for claim in claims],
        [claim.algorithm for claim in claims],
    )
