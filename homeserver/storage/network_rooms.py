"""The room lists of networks that application services bridge to."""

from dataclasses import dataclass

from homeserver.storage.query import Txn, execute, list_rows


@dataclass(frozen=True, slots=True)
class NetworkRoom:
    appservice_id: str
    network_id: str
    room_nid: int


def list_network_rooms(txn: Txn) -> list[NetworkRoom]:
    return list_rows(
        txn, NetworkRoom, "SELECT appservice_id, network_id, room_nid FROM network_rooms"
    )


def insert_network_room(txn: Txn, appservice_id: str, network_id: str, room_nid: int) -> None:
    execute(
        txn,
        "INSERT INTO network_rooms (appservice_id, network_id, room_nid) VALUES (%s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        (appservice_id, network_id, room_nid),
    )


def delete_network_room(txn: Txn, appservice_id: str, network_id: str, room_nid: int) -> None:
    execute(
        txn,
        "DELETE FROM network_rooms WHERE appservice_id = %s AND network_id = %s AND room_nid = %s",
        (appservice_id, network_id, room_nid),
    )
