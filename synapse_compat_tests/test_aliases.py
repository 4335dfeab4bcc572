"""Names of rooms, asked for across servers."""

from urllib.parse import quote

import pytest

from synapse_compat_tests.client import Refused, User, eventually, register, same_state, shared_room
from synapse_compat_tests.conftest import Pair
from synapse_compat_tests.test_moderation import promote


def alias_of(user: User, name: str) -> str:
    return f"#{name}-{user.user_id[1:]}"


def set_alias(user: User, alias: str, room_id: str) -> None:
    user.put(f"/directory/room/{quote(alias)}", {"room_id": room_id})


def test_an_alias_is_resolved_on_the_other_server(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="public_chat")
    alias = alias_of(alice, "named")
    set_alias(alice, alias, room_id)

    found = bob.get(f"/directory/room/{quote(alias)}")

    assert found["room_id"] == room_id
    assert pair.here.name in found["servers"]


def test_an_alias_taken_away_is_not_found_on_the_other_server(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="public_chat")
    alias = alias_of(alice, "short-lived")
    set_alias(alice, alias, room_id)
    alice.request("DELETE", f"/directory/room/{quote(alias)}")

    with pytest.raises(Refused, match="M_NOT_FOUND"):
        bob.get(f"/directory/room/{quote(alias)}")
    with pytest.raises(Refused, match="M_NOT_FOUND"):
        bob.join(alias)


def test_a_room_of_another_server_gets_an_alias_here(pair: Pair) -> None:
    alice, bob = pair.users()
    carol = register(pair.here, "carol")
    room_id = shared_room(alice, bob)
    alias = alias_of(bob, "adopted")

    set_alias(bob, alias, room_id)

    assert carol.join(alias) == room_id
    bob.see_membership(room_id, carol, "join")


def test_the_main_alias_may_be_one_of_another_server(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    promote(alice, room_id, bob, 50)
    mine, theirs = alias_of(alice, "main"), alias_of(bob, "main")
    set_alias(alice, mine, room_id)
    set_alias(bob, theirs, room_id)

    content = {"alias": theirs, "alt_aliases": [mine]}
    bob.set_state(room_id, "m.room.canonical_alias", content)

    eventually(
        lambda: alice.state_content(room_id, "m.room.canonical_alias") == content, "the alias"
    )
    same_state(alice, bob, room_id=room_id)


def test_the_main_alias_must_lead_to_the_room(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = shared_room(alice, bob)
    elsewhere = bob.create_room(preset="public_chat")
    alias = alias_of(bob, "elsewhere")
    set_alias(bob, alias, elsewhere)

    with pytest.raises(Refused, match="M_BAD_ALIAS"):
        alice.set_state(room_id, "m.room.canonical_alias", {"alias": alias})
    with pytest.raises(Refused, match="M_BAD_ALIAS"):
        alice.set_state(room_id, "m.room.canonical_alias", {"alias": f"#nowhere:{pair.there.name}"})
