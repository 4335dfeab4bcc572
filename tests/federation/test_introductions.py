"""Local users of whom other servers have yet to hear, while rooms and members change."""

from urllib.parse import quote

import pytest

from homeserver.core.identifiers import ServerName
from tests.api.signed_keys import upload_device_keys
from tests.database import hold
from tests.federation.meeting import enter, meet
from tests.federation.network import MemoryNetwork
from tests.federation.partial_rooms import enter_partially
from tests.homeserver import Homeserver, User


def who_asked_for_devices(network: MemoryNetwork, user: User) -> list[str]:
    """Who is introduced to a user of another server asks for his devices."""
    path = f"/user/devices/{quote(user.user_id)}"
    return [by for by, _, _, target in network.requests if target.endswith(path)]


def test_who_joins_while_somebody_is_introduced_is_introduced_as_well(
    network: MemoryNetwork, monkeypatch: pytest.MonkeyPatch, a: Homeserver, alice: User, bob: User
) -> None:
    """The note of it is there with the commit, a moment before memory knows of the join."""
    anna = a.register("anna")
    upload_device_keys(anna)
    room_id = meet(alice, bob)
    anna.sync()
    let_go = hold(a.database, "_write_txn", monkeypatch, is_done=True)
    joining = anna.start_request("POST", f"/join/{quote(room_id)}", {})
    assert not joining.answered

    a.server.device_updates.note_newcomers()
    network.settle()
    let_go()
    assert joining.reply().status == 200
    network.advance(30)

    assert who_asked_for_devices(network, anna) == ["b.test"]


def test_who_is_introduced_while_the_members_come_is_so_to_servers_that_come_with_them(
    network: MemoryNetwork,
    monkeypatch: pytest.MonkeyPatch,
    a: Homeserver,
    b: Homeserver,
    c: Homeserver,
) -> None:
    network.altered[ServerName("a.test"), "/send_join/"] = lambda answer: {
        **answer,
        "servers_in_room": ["a.test"],
    }
    scene = enter_partially(network, a, b, c)
    dora = b.register("dora")
    upload_device_keys(dora)
    let_go = hold(b.database, "_store_introduction", monkeypatch, is_done=False)
    enter(dora, scene.room_id)

    scene.complete()
    let_go()
    network.advance(30)

    assert sorted(who_asked_for_devices(network, dora)) == ["a.test", "c.test"]
