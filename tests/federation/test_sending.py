"""Events on their way to other servers: delivery, outages, restarts, refusals."""

from urllib.parse import quote

from twisted.internet.defer import Deferred

from homeserver.config import LimitsSection
from homeserver.core.identifiers import RoomID, ServerName
from homeserver.storage import outgoing_events
from tests.federation.conftest import MakeServer
from tests.federation.meeting import meet, texts
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User
from tests.results import result_of


def test_what_is_said_on_one_server_is_heard_on_the_other(
    a: Homeserver, alice: User, bob: User
) -> None:
    room_id = meet(alice, bob)

    alice.send(room_id, "from a")
    a.settle()
    bob.send(room_id, "from b")

    assert texts(bob, room_id) == ["from a", "from b"]
    assert texts(alice, room_id) == ["from a", "from b"]


def test_a_join_through_one_server_is_passed_on_to_the_others(
    alice: User, bob: User, carol: User
) -> None:
    room_id = meet(alice, bob, carol)

    joined = bob.get(f"/rooms/{quote(room_id)}/joined_members").json["joined"]
    assert set(joined) == {alice.user_id, bob.user_id, carol.user_id}


def test_a_server_that_was_away_hears_what_it_has_missed_in_order(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User
) -> None:
    room_id = meet(alice, bob)
    network.cut_off(b.name)
    for number in range(120):
        alice.send(room_id, f"missed {number}")
        if number % 40 == 0:
            network.advance(60)

    network.heal()
    network.advance(4000)

    assert texts(bob, room_id) == [f"missed {number}" for number in range(20, 120)]


def test_what_was_not_delivered_before_a_restart_is_delivered_after_it(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, alice: User, bob: User
) -> None:
    room_id = meet(alice, bob)
    network.cut_off(b.name)
    alice.send(room_id, "before the restart")
    a.settle()

    network.add(a.restart())
    network.heal()
    network.advance(30)

    assert texts(bob, room_id) == ["before the restart"]


def test_a_server_that_stays_away_does_not_fill_the_database(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, alice: User, bob: User
) -> None:
    room_id = meet(alice, bob)
    network.cut_off(b.name)
    for number in range(520):
        alice.send(room_id, f"missed {number}")
    network.advance(400)

    kept = result_of(a.database.run(outgoing_events.list_outgoing, 0, 2**62, 10_000))
    network.heal()
    network.advance(4000)

    assert len(kept) == 501
    assert texts(bob, room_id)[-1] == "missed 519"


def test_who_is_kicked_last_of_a_server_is_told(a: Homeserver, alice: User, bob: User) -> None:
    room_id = meet(alice, bob)

    alice.post(f"/rooms/{quote(room_id)}/kick", {"user_id": bob.user_id})
    a.settle()

    assert room_id not in bob.get("/joined_rooms").json["joined_rooms"]


def test_who_is_kicked_last_of_a_server_is_told_after_a_restart(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, alice: User, bob: User
) -> None:
    """No server that is in the room would lead to his."""
    room_id = meet(alice, bob)
    network.cut_off(b.name)
    alice.post(f"/rooms/{quote(room_id)}/kick", {"user_id": bob.user_id})
    a.settle()

    network.add(a.restart())
    network.heal()
    network.advance(4000)

    assert room_id not in bob.get("/joined_rooms").json["joined_rooms"]


def test_who_was_kicked_before_much_else_was_said_is_told(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User, carol: User
) -> None:
    """Those in the room are sent the last event alone; that one is not for him."""
    room_id = meet(alice, bob, carol)
    network.cut_off(b.name)
    alice.post(f"/rooms/{quote(room_id)}/kick", {"user_id": bob.user_id})
    for number in range(520):
        alice.send(room_id, f"missed {number}")
    network.advance(100)

    network.heal()
    network.advance(4000)

    assert room_id not in bob.get("/joined_rooms").json["joined_rooms"]


def test_what_a_new_server_was_told_is_deleted_though_it_could_not_be_stored_at_first(
    network: MemoryNetwork, a: Homeserver, alice: User, bob: User
) -> None:
    a.database.fail_on = "INSERT INTO destinations"
    room_id = meet(alice, bob)
    alice.send(room_id, "heard")
    a.settle()
    a.database.fail_on = None

    network.advance(400)

    assert texts(bob, room_id) == ["heard"]
    assert result_of(a.database.run(outgoing_events.list_outgoing, 0, 2**62, 10)) == []


def test_an_invitation_is_taken_back(a: Homeserver, alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="private_chat")
    alice.post(f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})
    assert room_id in bob.sync()["rooms"]["invite"]

    alice.post(f"/rooms/{quote(room_id)}/kick", {"user_id": bob.user_id})
    a.settle()

    assert room_id not in bob.sync().get("rooms", {}).get("invite", {})


def test_a_room_of_three_servers_heals_after_a_partition(
    network: MemoryNetwork, c: Homeserver, alice: User, bob: User, carol: User
) -> None:
    room_id = meet(alice, bob, carol)
    network.cut_off(c.name)
    alice.send(room_id, "one side")
    carol.send(room_id, "other side")
    bob.send(room_id, "one side too")
    network.advance(60)

    network.heal()
    network.advance(4000)
    for user in (alice, bob, carol):
        user.send(room_id, f"after it, {user.user_id}")
        network.advance(1)

    assert {frozenset(texts(user, room_id)) for user in (alice, bob, carol)} == {
        frozenset(texts(alice, room_id))
    }
    assert len(texts(alice, room_id)) == 6


def test_the_servers_of_a_test_are_made_only_when_they_are_asked_for(
    make_server: MakeServer, network: MemoryNetwork
) -> None:
    make_server("a.test")

    assert list(network.servers) == ["a.test"]


def test_rooms_that_do_not_stay_in_memory_are_told_of_all_the_same(
    make_server: MakeServer, b: Homeserver, c: Homeserver
) -> None:
    a = make_server("a.test", limits=LimitsSection(live_rooms_bytes=1))
    alice, bob, carol = a.register("alice"), b.register("bob"), c.register("carol")
    other = alice.create_room()

    room_id = meet(alice, bob, carol)
    alice.send(other, "puts the other room out of memory")
    alice.send(room_id, "heard")

    joined = bob.get(f"/rooms/{quote(room_id)}/joined_members").json["joined"]
    assert carol.user_id in joined
    assert texts(bob, room_id) == ["heard"]
    assert texts(carol, room_id) == ["heard"]


def test_an_event_of_a_room_that_has_just_left_memory_is_passed_on(
    make_server: MakeServer, b: Homeserver, c: Homeserver
) -> None:
    a = make_server("a.test", limits=LimitsSection(live_rooms_bytes=1))
    alice, bob, carol = a.register("alice"), b.register("bob"), c.register("carol")
    room_id = meet(alice, bob)
    sender = a.server.federation_sender
    live_rooms = a.server.live_rooms
    bob.send(room_id, "first")
    shared = meet(alice, bob, carol)
    event_id = bob.send(shared, "from bob")
    a.settle()
    room = live_rooms.find_loaded(RoomID(shared))
    assert room is not None
    found = next(one for one in room.recent if one.event_id == event_id)
    alice.send(room_id, "puts the shared room out of memory")
    a.settle()
    assert live_rooms.find_loaded(RoomID(shared)) is None

    told = Deferred.fromCoroutine(
        sender.relay(ServerName("b.test"), RoomID(shared), found.event, found.event_nid)
    )
    a.settle()

    assert told.called
    kept = result_of(a.database.run(outgoing_events.list_outgoing, 0, 2**62, 100))
    assert [row.pdu for row in kept if row.origin == "b.test"][-1] == found.event.pdu_bytes
