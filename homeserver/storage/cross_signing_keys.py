"""Cross-signing keys of users, and the signatures that were added to keys afterwards."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import DeviceID, UserID
from homeserver.storage.query import Txn, execute, insert_many, list_rows, list_values


@dataclass(frozen=True, slots=True)
class CrossSigningKey:
    user_nid: int
    usage: str
    """master, self_signing or user_signing."""
    public_key: str
    key: bytes
    """Canonical JSON."""


@dataclass(frozen=True, slots=True)
class KeySignature:
    target_nid: int
    target_key: str
    """Device id, or public part of a master key."""
    signer_nid: int
    signer_key: str
    """Public part of a cross-signing key, or device id."""
    signature: str


@dataclass(frozen=True, slots=True)
class VisibleSignature:
    target_nid: int
    target_key: str
    signer_id: UserID
    signer_key: str
    signature: str


def lock_keys_of(txn: Txn, user_nid: int) -> None:
    """Let nobody else change cross-signing keys of the user until the transaction ends."""
    execute(txn, "SELECT FROM users WHERE user_nid = %s FOR NO KEY UPDATE", (user_nid,))


def list_cross_signing_keys(txn: Txn, user_nids: Sequence[int]) -> list[CrossSigningKey]:
    return list_rows(
        txn,
        CrossSigningKey,
        """
        SELECT user_nid, usage, public_key, key FROM cross_signing_keys
         WHERE user_nid = ANY(%s)""",
        (list(user_nids),),
    )


def upsert_cross_signing_keys(txn: Txn, keys: Iterable[CrossSigningKey]) -> None:
    insert_many(
        txn,
        """
        INSERT INTO cross_signing_keys (user_nid, usage, public_key, key) VALUES %s
        ON CONFLICT (user_nid, usage) DO UPDATE
           SET public_key = excluded.public_key, key = excluded.key""",
        [(k.user_nid, k.usage, k.public_key, k.key) for k in keys],
    )


def delete_cross_signing_keys(txn: Txn, keys: Sequence[CrossSigningKey]) -> None:
    """Delete the keys (of one user) with the signatures on them and by them."""
    for key in keys:
        execute(
            txn,
            "DELETE FROM cross_signing_keys WHERE user_nid = %s AND public_key = %s",
            (key.user_nid, key.public_key),
        )
        execute(
            txn,
            """
            DELETE FROM key_signatures
             WHERE (target_nid = %(user)s AND target_key = %(key)s)
                OR (signer_nid = %(user)s AND signer_key = %(key)s)""",
            {"user": key.user_nid, "key": key.public_key},
        )


def delete_keys_of(txn: Txn, user_nids: Sequence[int]) -> None:
    """Delete the keys of users who are out of sight. Signatures stay, should they come back."""
    execute(txn, "DELETE FROM cross_signing_keys WHERE user_nid = ANY(%s)", (list(user_nids),))


def insert_signatures(txn: Txn, position: int, signatures: Iterable[KeySignature]) -> list[int]:
    """Store those that are new, and return the users whose keys they are on."""
    found: list[int] = []
    for s in signatures:
        found += list_values(
            txn,
            int,
            """
            INSERT INTO key_signatures
                   (target_nid, target_key, signer_nid, signer_key, position, signature)
            VALUES (%s, %s, %s, %s, %s, %s)
            ON CONFLICT (target_nid, target_key, signer_nid, signer_key) DO UPDATE
               SET position = excluded.position, signature = excluded.signature
             WHERE key_signatures.signature <> excluded.signature
            RETURNING target_nid""",
            (s.target_nid, s.target_key, s.signer_nid, s.signer_key, position, s.signature),
        )
    return found


def list_visible_signatures(
    txn: Txn, target_nids: Sequence[int], reader_nid: int | None
) -> list[VisibleSignature]:
    """Signatures on keys of these users that are their own or the reader's."""
    return list_rows(
        txn,
        VisibleSignature,
        """
        SELECT target_nid, target_key, user_id, signer_key, signature
          FROM key_signatures JOIN users ON user_nid = signer_nid
         WHERE target_nid = ANY(%s) AND (signer_nid = target_nid OR signer_nid = %s)""",
        (list(target_nids), reader_nid),
    )


def list_signed_since(txn: Txn, signer_id: UserID, since: int) -> list[UserID]:
    """Other users on whose keys the signer has put signatures after a position."""
    return [
        UserID(user_id)
        for user_id in list_values(
            txn,
            str,
            """
            SELECT DISTINCT target.user_id
              FROM key_signatures AS s
              JOIN users AS signer ON signer.user_nid = s.signer_nid
              JOIN users AS target ON target.user_nid = s.target_nid
             WHERE signer.user_id = %s AND s.position > %s AND s.signer_nid <> s.target_nid""",
            (signer_id, since),
        )
    ]


def delete_device_signatures(txn: Txn, user_nid: int, device_ids: Sequence[DeviceID]) -> None:
    """Delete the signatures on keys of these devices, and those the devices have made."""
    execute(
        txn,
        """
        DELETE FROM key_signatures
         WHERE (target_nid = %(user)s AND target_key = ANY(%(devices)s::text[]))
            OR (signer_nid = %(user)s AND signer_key = ANY(%(devices)s::text[]))""",
        {"user": user_nid, "devices": list(device_ids)},
    )
