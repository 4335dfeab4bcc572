"""Access tokens and refresh tokens, by their SHA-256.

spec: client-server-api/#refreshing-access-tokens, v1.19
Invariant: a refresh token stays good until its successor (the access token or the refresh token
given for it) is used; that use spends it, and a spent one shown again is theft.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import DeviceID, UserID
from homeserver.storage.query import Txn, execute, find_row, list_values


@dataclass(frozen=True, slots=True)
class Session:
    user_id: UserID
    user_nid: int
    device_id: DeviceID
    expires_ts: int | None
    replaces: bytes | None
    """The refresh token that the first use of this access token spends."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Hashes of what one login or refresh gives."""

    access: bytes
    expires_ts: int | None
    refresh: bytes | None


@dataclass(frozen=True, slots=True)
class RefreshToken:
    user_nid: int
    device_id: DeviceID
    replaces: bytes | None
    spent_ts: int | None


def find_session(txn: Txn, token_hash: bytes) -> Session | None:
    """Return None for unknown tokens and deactivated users."""
    return find_row(
        txn,
        Session,
        """
        SELECT user_id, user_nid, device_id, expires_ts, replaces
          FROM access_tokens JOIN users USING (user_nid) JOIN accounts USING (user_nid)
         WHERE token_hash = %s AND deactivated_ts IS NULL""",
        (token_hash,),
    )


def list_live_tokens(txn: Txn, token_hashes: Sequence[bytes]) -> set[bytes]:
    """Return those in use that are neither replaced nor ended; time does not count."""
    found = list_values(
        txn,
        bytes,
        """
        SELECT token_hash
          FROM access_tokens JOIN accounts USING (user_nid)
         WHERE token_hash = ANY(%s) AND deactivated_ts IS NULL
           AND replaces IS NULL AND expires_ts IS DISTINCT FROM 0""",
        (list(token_hashes),),
    )
    return set(found)


def insert_tokens(
    txn: Txn, user_nid: int, device_id: DeviceID, tokens: Tokens, replaces: bytes | None = None
) -> None:
    execute(
        txn,
        """
        INSERT INTO access_tokens (token_hash, user_nid, device_id, expires_ts, replaces)
        VALUES (%s, %s, %s, %s, %s)""",
        (tokens.access, user_nid, device_id, tokens.expires_ts, replaces),
    )
    if tokens.refresh is not None:
        execute(
            txn,
            """
            INSERT INTO refresh_tokens (token_hash, user_nid, device_id, replaces)
            VALUES (%s, %s, %s, %s)""",
            (tokens.refresh, user_nid, device_id, replaces),
        )


def delete_tokens(txn: Txn, user_nid: int, device_id: DeviceID) -> None:
    """Delete every token of the device."""
    values = (user_nid, device_id)
    execute(txn, "DELETE FROM access_tokens WHERE user_nid = %s AND device_id = %s", values)
    execute(txn, "DELETE FROM refresh_tokens WHERE user_nid = %s AND device_id = %s", values)


def find_refresh_token(txn: Txn, token_hash: bytes) -> RefreshToken | None:
    """Lock the row: of two refreshes with one token the second sees what the first did."""
    return find_row(
        txn,
        RefreshToken,
        """
        SELECT user_nid, device_id, replaces, spent_ts
          FROM refresh_tokens JOIN accounts USING (user_nid)
         WHERE token_hash = %s AND deactivated_ts IS NULL
           FOR UPDATE OF refresh_tokens""",
        (token_hash,),
    )


def delete_successors(txn: Txn, token_hash: bytes, user_nid: int, device_id: DeviceID) -> None:
    """Delete what was given for this refresh token and never used."""
    values = (user_nid, device_id, token_hash)
    execute(
        txn,
        "DELETE FROM access_tokens WHERE user_nid = %s AND device_id = %s AND replaces = %s",
        values,
    )
    execute(
        txn,
        "DELETE FROM refresh_tokens WHERE user_nid = %s AND device_id = %s AND replaces = %s",
        values,
    )


def spend_refresh_token(
    txn: Txn, token_hash: bytes, user_nid: int, device_id: DeviceID, *, spent_ts: int, keep_ts: int
) -> None:
    """Note that a successor of this token is in use: neither it nor older access tokens go on.

    The access token before stays for a while, expired, so that a request that was under way with it
    is told of a soft logout.
    keep_ts   tokens spent before this are forgotten
    """
    device = (user_nid, device_id)
    execute(
        txn,
        """
        UPDATE refresh_tokens SET spent_ts = %s
         WHERE user_nid = %s AND device_id = %s AND token_hash = %s AND spent_ts IS NULL""",
        (spent_ts, *device, token_hash),
    )
    execute(
        txn,
        "DELETE FROM access_tokens WHERE user_nid = %s AND device_id = %s AND expires_ts = 0",
        device,
    )
    execute(
        txn,
        """
        UPDATE access_tokens SET expires_ts = 0
         WHERE user_nid = %s AND device_id = %s AND replaces IS DISTINCT FROM %s""",
        (*device, token_hash),
    )
    execute(
        txn,
        "UPDATE access_tokens SET replaces = NULL WHERE user_nid = %s AND device_id = %s",
        device,
    )
    execute(
        txn,
        """
        UPDATE refresh_tokens SET replaces = NULL
         WHERE user_nid = %s AND device_id = %s AND replaces = %s""",
        (*device, token_hash),
    )
    execute(
        txn,
        "DELETE FROM refresh_tokens WHERE user_nid = %s AND device_id = %s AND spent_ts < %s",
        (*device, keep_ts),
    )


def expire_tokens(txn: Txn, user_nid: int, device_id: DeviceID) -> None:
    """End the session of a device whose refresh token was stolen; the device itself stays."""
    values = (user_nid, device_id)
    execute(
        txn,
        """
        UPDATE access_tokens SET expires_ts = 0, replaces = NULL
         WHERE user_nid = %s AND device_id = %s""",
        values,
    )
    execute(txn, "DELETE FROM refresh_tokens WHERE user_nid = %s AND device_id = %s", values)
