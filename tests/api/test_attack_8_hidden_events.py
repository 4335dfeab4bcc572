"""Attack class 8: events that were kept but not let in are told to nobody, on any endpoint."""

from urllib.parse import quote

import pytest

from homeserver.storage.events import OUTLIER, REJECTED, SOFT_FAILED
from tests.api.relating import related
from tests.api.sliding import slide, subscription
from tests.homeserver import Homeserver, User


@pytest.mark.parametrize("flag", [OUTLIER, REJECTED, SOFT_FAILED])
def test_attack_8_what_was_not_let_in_is_told_to_nobody(
    both_versions: Homeserver, alice: User, bob: User, room_id: str, flag: int
) -> None:
    root = alice.send(room_id, "root")
    since = bob.sync()["next_batch"]
    evil = related(alice, room_id, root, "m.reference", content={"body": "evil"})
    alice.send(room_id, "last")
    with both_versions.database._connection.cursor() as cursor:
        cursor.execute(
            "UPDATE events SET flags = flags | %s WHERE event_nid = (SELECT max(event_nid) - 1"
            " FROM events)",
            (flag,),
        )
        assert cursor.rowcount == 1
        cursor.execute("DELETE FROM event_relations")  # the engine writes none for such events
    bob.homeserver = both_versions.restart()
    room = f"/rooms/{quote(room_id)}"

    told = [
        bob.sync(),
        bob.sync(since),
        slide(bob, subscription(room_id)),
        bob.get(f"{room}/messages", dir="b", limit=100).json,
        bob.get(f"{room}/messages", dir="f", limit=100).json,
        bob.get(f"{room}/context/{quote(root)}", limit=100).json,
        bob.get(f"/_matrix/client/v1{room}/relations/{quote(root)}").json,
    ]

    assert all("last" in str(one) for one in told[:6])
    assert not any("evil" in str(one) for one in told)
    assert bob.get(f"{room}/event/{quote(evil)}").status == 404
    assert bob.get(f"{room}/context/{quote(evil)}").status == 404
