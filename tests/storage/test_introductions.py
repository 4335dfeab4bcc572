"""Whom servers of a room have yet to hear of."""

import pytest

from homeserver.core.identifiers import RoomID, ServerName, UserID
from homeserver.storage import dictionaries, rooms
from homeserver.storage.introductions import (
    NewIntroduction,
    insert_introductions,
    list_introductions,
)
from homeserver.storage.query import Txn

ALICE = UserID("@alice:hs.test")
A, B = [ServerName("a.test")], [ServerName("b.test")]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([None, None], None),
        ([None, A], None),
        ([A, None], None),
        ([A, B], [*A, *B]),
        ([[], B, A], [*B, *A]),
    ],
)
def test_who_comes_into_a_room_again_is_introduced_once(
    txn: Txn,
    told: list[list[ServerName] | None],
    expected: list[ServerName] | None,
    *,
    at_once: bool,
) -> None:
    user_nid = dictionaries.intern_users(txn, [ALICE])[ALICE]
    room_nid = rooms.insert_room(txn, RoomID("!a:hs.test"), "11")
    assert room_nid is not None
    rows = [NewIntroduction(user_nid, room_nid, servers) for servers in told]

    for some in [rows] if at_once else [[row] for row in rows]:
        insert_introductions(txn, some)

    (found,) = list_introductions(txn, 10)
    assert (found.user_id, found.servers) == (ALICE, expected)
