"""How far each application service has been told."""

from dataclasses import dataclass

from homeserver.storage.query import Txn, execute, find_row


@dataclass(frozen=True, slots=True)
class Cursor:
    delivered: int
    sending: int | None


def find_cursor(txn: Txn, appservice_id: str) -> Cursor | None:
    return find_row(
        txn,
        Cursor,
        "SELECT delivered, sending FROM appservice_cursors WHERE appservice_id = %s",
        (appservice_id,),
    )


def upsert_cursor(txn: Txn, appservice_id: str, delivered: int, sending: int | None) -> None:
    execute(
        txn,
        """
        INSERT INTO appservice_cursors (appservice_id, delivered, sending) VALUES (%s, %s, %s)
        ON CONFLICT (appservice_id) DO UPDATE
           SET delivered = excluded.delivered, sending = excluded.sending""",
        (appservice_id, delivered, sending),
    )
