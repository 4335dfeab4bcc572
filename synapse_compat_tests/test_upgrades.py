"""Rooms that are replaced by others."""

import pytest

from synapse_compat_tests.client import Refused, eventually, same_state, shared_room
from synapse_compat_tests.conftest import Pair


def test_an_upgraded_room_says_where_it_goes_on(pair: Pair) -> None:
    alice, bob = pair.users()
    old = shared_room(alice, bob, room_version="10", name="Moving")

    new = alice.post(f"/rooms/{old}/upgrade", {"new_version": "11"})["replacement_room"]

    tombstone = eventually(lambda: bob.state_content(old, "m.room.tombstone"), "the tombstone")
    assert tombstone["replacement_room"] == new
    assert bob.join(new, alice) == new
    predecessor = bob.state_content(new, "m.room.create")["predecessor"]
    assert predecessor["room_id"] == old
    assert bob.state_content(new, "m.room.name") == {"name": "Moving"}
    bob.send(new, "followed")
    alice.see_text(new, "followed")
    same_state(alice, bob, room_id=new)
    same_state(alice, bob, room_id=old)


def test_nobody_talks_in_a_room_that_is_over(pair: Pair) -> None:
    alice, bob = pair.users()
    old = shared_room(alice, bob, room_version="10")

    alice.post(f"/rooms/{old}/upgrade", {"new_version": "11"})
    eventually(lambda: bob.state_content(old, "m.room.tombstone"), "the tombstone")
    same_state(alice, bob, room_id=old)

    with pytest.raises(Refused, match="M_FORBIDDEN"):
        bob.send(old, "anybody?")


def test_the_alias_of_an_upgraded_room_leads_to_the_new_one(pair: Pair) -> None:
    alice, bob = pair.users()
    name = alice.user_id[1:].partition(":")[0]
    old = shared_room(alice, bob, room_version="10", room_alias_name=name)

    new = alice.post(f"/rooms/{old}/upgrade", {"new_version": "11"})["replacement_room"]

    assert bob.join(f"#{name}:{pair.here.name}") == new
    content = bob.state_content(new, "m.room.canonical_alias")
    assert content["alias"] == f"#{name}:{pair.here.name}"


def test_a_room_is_upgraded_to_version_12_by_who_did_not_make_it(pair: Pair) -> None:
    alice, bob = pair.users()
    old = shared_room(alice, bob, room_version="11")
    levels = alice.state_content(old, "m.room.power_levels")
    levels["users"] = {**levels["users"], bob.user_id: 100}
    alice.set_state(old, "m.room.power_levels", levels)
    eventually(
        lambda: bob.state_content(old, "m.room.power_levels")["users"].get(bob.user_id),
        "bob may do it",
    )

    new = bob.post(f"/rooms/{old}/upgrade", {"new_version": "12"})["replacement_room"]

    eventually(lambda: alice.state_content(old, "m.room.tombstone"), "the tombstone")
    alice.join(new, bob)
    alice.set_state(new, "m.room.topic", {"topic": "Still an administrator"})
    bob.send(new, "mine now")
    alice.see_text(new, "mine now")
    same_state(alice, bob, room_id=new)
