"""Events that another server asks for one by one."""

from urllib.parse import quote

import pytest

from tests.federation.asking import ask
from tests.homeserver import Homeserver


@pytest.mark.parametrize(("visibility", "shown"), [("shared", True), ("joined", False)])
def test_an_event_that_a_server_may_not_see_is_given_redacted(
    a: Homeserver, b: Homeserver, visibility: str, shown: bool
) -> None:
    alice, bob = a.register("alice"), b.register("bob")
    rule = {
        "type": "m.room.history_visibility",
        "state_key": "",
        "content": {"history_visibility": visibility},
    }
    room_id = alice.create_room(preset="public_chat", initial_state=[rule])
    event_id = alice.send(room_id, "before")
    bob.request("POST", f"/join/{quote(room_id)}", {}, query={"via": "a.test"})

    reply = ask(a, "b.test", "GET", f"/event/{quote(event_id)}")

    assert reply.status == 200
    (pdu,) = reply.json["pdus"]
    assert pdu["sender"] == alice.user_id
    assert pdu["content"].get("body") == ("before" if shown else None)


def test_an_event_of_a_room_that_a_server_is_not_in_is_refused(
    a: Homeserver, b: Homeserver
) -> None:
    del b
    alice = a.register("alice")
    room_id = alice.create_room(preset="public_chat")
    event_id = alice.send(room_id, "among ourselves")

    assert ask(a, "b.test", "GET", f"/event/{quote(event_id)}").status == 403
