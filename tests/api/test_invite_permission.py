"""Who blocks invitations is not invited, and told of none."""

from urllib.parse import quote

import pytest

from tests.api.sliding import room_list, slide
from tests.homeserver import Homeserver, Reply, User

BLOCKED = (403, "M_INVITE_BLOCKED")


def permit(user: User, **content: object) -> None:
    path = f"/user/{quote(user.user_id)}/account_data/m.invite_permission_config"
    assert user.put(path, content).status == 200


def invite(user: User, room_id: str, other: User) -> Reply:
    return user.post(f"/rooms/{quote(room_id)}/invite", {"user_id": other.user_id})


def test_who_blocks_invitations_is_not_invited(alice: User, bob: User) -> None:
    room_id = alice.create_room()
    member = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
    permit(bob, default_action="block")

    replies = [
        invite(alice, room_id, bob),
        alice.put(member, {"membership": "invite"}),
        alice.post("/createRoom", {"invite": [bob.user_id]}),
    ]

    assert [(reply.status, reply.errcode) for reply in replies] == [BLOCKED] * 3
    assert alice.get(member).status == 404
    assert alice.get("/joined_rooms").json == {"joined_rooms": [room_id]}


@pytest.mark.parametrize(
    "content", [{}, {"default_action": "allow"}, {"default_action": ["block"]}]
)
def test_whatever_is_not_block_lets_invitations_in(
    alice: User, bob: User, content: dict[str, object]
) -> None:
    permit(bob, default_action="block")
    permit(bob, **content)

    assert invite(alice, alice.create_room(), bob).status == 200


def test_an_invitation_is_not_shown_while_they_are_blocked(
    homeserver: Homeserver,
) -> None:
    alice, bob = homeserver.register("alice"), homeserver.register("bob")
    since = bob.sync()["next_batch"]
    room_id = alice.create_room(invite=[bob.user_id])
    permit(bob, default_action="block")

    assert "rooms" not in bob.sync(since)
    assert "rooms" not in bob.sync()
    assert slide(bob, room_list())["rooms"] == {}

    permit(bob)
    assert list(bob.sync()["rooms"]["invite"]) == [room_id]
    assert bob.join(room_id).status == 200
