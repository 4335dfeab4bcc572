"""Joining, leaving, inviting, kicking, banning, knocking through the API."""

from urllib.parse import quote

import pytest

from tests.homeserver import Homeserver, User


def membership_of(user: User, room_id: str, other: User) -> str:
    reply = user.get(f"/rooms/{quote(room_id)}/state/m.room.member/{quote(other.user_id)}")
    return str(reply.json["membership"])


def test_a_private_room_is_joined_only_by_invitation(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="private_chat")
    assert bob.join(room_id).status == 403

    invited = alice.post(f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})

    assert invited.status == 200
    assert bob.join(room_id).status == 200
    assert bob.get("/joined_rooms").json == {"joined_rooms": [room_id]}


def test_joining_twice_is_joining_once(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")

    assert bob.join(room_id).json == bob.join(room_id).json == {"room_id": room_id}


def test_an_invitation_is_rejected_by_leaving(alice: User, bob: User) -> None:
    room_id = alice.create_room(invite=[bob.user_id])

    assert bob.post(f"/rooms/{quote(room_id)}/leave", {}).status == 200

    assert membership_of(alice, room_id, bob) == "leave"
    assert bob.join(room_id).status == 403


def test_a_kicked_user_may_come_back_and_a_banned_one_may_not(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.join(room_id)
    target = {"user_id": bob.user_id, "reason": "noise"}

    assert alice.post(f"/rooms/{quote(room_id)}/kick", target).status == 200
    assert bob.join(room_id).status == 200
    assert alice.post(f"/rooms/{quote(room_id)}/ban", target).status == 200
    assert bob.join(room_id).status == 403
    assert alice.post(f"/rooms/{quote(room_id)}/unban", target).status == 200
    assert bob.join(room_id).status == 200


@pytest.mark.parametrize("action", ["invite", "kick", "ban", "unban"])
def test_a_member_without_power_acts_on_nobody(
    both_versions: Homeserver, alice: User, bob: User, action: str
) -> None:
    carol = both_versions.register("carol")
    room_id = alice.create_room(preset="public_chat", power_level_content_override={"invite": 50})
    bob.join(room_id)
    if action == "kick":
        carol.join(room_id)
    if action == "unban":
        alice.post(f"/rooms/{quote(room_id)}/ban", {"user_id": carol.user_id})

    reply = bob.post(f"/rooms/{quote(room_id)}/{action}", {"user_id": carol.user_id})

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


def test_who_is_not_banned_is_not_unbanned(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.join(room_id)

    reply = alice.post(f"/rooms/{quote(room_id)}/unban", {"user_id": bob.user_id})

    assert (reply.status, reply.errcode) == (403, "M_BAD_STATE")
    assert membership_of(alice, room_id, bob) == "join"


def test_a_stranger_cannot_invite(alice: User, bob: User) -> None:
    room_id = alice.create_room()

    reply = bob.post(f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})

    assert reply.status == 403


def test_a_knock_is_answered_by_an_invitation(alice: User, bob: User) -> None:
    room_id = alice.create_room(
        initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
    )

    assert bob.post(f"/knock/{quote(room_id)}", {"reason": "tea?"}).status == 200
    assert membership_of(alice, room_id, bob) == "knock"
    alice.post(f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})

    assert bob.join(room_id).status == 200


def test_a_restricted_room_opens_to_members_of_the_room_it_names(
    both_versions: Homeserver, alice: User, bob: User
) -> None:
    carol = both_versions.register("carol")
    club = alice.create_room(preset="public_chat")
    room_id = alice.create_room(
        initial_state=[
            {
                "type": "m.room.join_rules",
                "content": {
                    "join_rule": "restricted",
                    "allow": [{"type": "m.room_membership", "room_id": club}],
                },
            }
        ]
    )
    bob.join(club)

    assert bob.join(room_id).status == 200
    assert carol.join(room_id).status == 403


def test_attack_8_nobody_says_himself_who_lets_him_into_a_restricted_room(
    both_versions: Homeserver, alice: User
) -> None:
    carol = both_versions.register("carol")
    club = alice.create_room()
    allow = [{"type": "m.room_membership", "room_id": club}]
    rules = {"join_rule": "restricted", "allow": allow}
    room_id = alice.create_room(initial_state=[{"type": "m.room.join_rules", "content": rules}])
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(carol.user_id)}"

    for authorizer in (alice.user_id, "@alice:elsewhere.test"):
        content = {"membership": "join", "join_authorised_via_users_server": authorizer}
        assert carol.put(path, content).status == 403
    assert carol.get("/joined_rooms").json == {"joined_rooms": []}


def test_a_forgotten_room_must_have_been_left(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.join(room_id)

    assert bob.post(f"/rooms/{quote(room_id)}/forget", {}).status == 400
    bob.post(f"/rooms/{quote(room_id)}/leave", {})
    assert bob.post(f"/rooms/{quote(room_id)}/forget", {}).status == 200


def test_members_are_listed_by_membership(
    both_versions: Homeserver, alice: User, bob: User
) -> None:
    carol = both_versions.register("carol")
    room_id = alice.create_room(preset="public_chat", invite=[carol.user_id])
    bob.join(room_id)
    path = f"/rooms/{quote(room_id)}/members"

    joined = {e["state_key"] for e in alice.get(path, membership="join").json["chunk"]}
    others = {e["state_key"] for e in alice.get(path, not_membership="join").json["chunk"]}

    assert joined == {alice.user_id, bob.user_id}
    assert others == {carol.user_id}
    listed = alice.get(f"/rooms/{quote(room_id)}/joined_members").json["joined"]
    assert set(listed) == joined


def test_a_new_display_name_reaches_the_rooms(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.join(room_id)

    bob.put(f"/profile/{quote(bob.user_id)}/displayname", {"displayname": "Bob B."})

    member = alice.get(f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}").json
    assert member["displayname"] == "Bob B."


def test_who_has_left_sees_the_room_as_it_was_then(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat", name="Before")
    bob.join(room_id)
    alice.send(room_id, "seen")
    bob.post(f"/rooms/{quote(room_id)}/leave", {})
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.name/", {"name": "After"})
    secret = alice.send(room_id, "unseen")

    page = bob.get(f"/rooms/{quote(room_id)}/messages", dir="b", limit=50).json
    name = bob.get(f"/rooms/{quote(room_id)}/state/m.room.name").json

    assert "seen" in str(page)
    assert "unseen" not in str(page)
    assert name == {"name": "Before"}
    assert bob.get(f"/rooms/{quote(room_id)}/event/{quote(secret)}").status == 404


@pytest.mark.parametrize(
    ("visibility", "sees_old", "sees_invited"),
    [
        ("world_readable", True, True),
        ("shared", True, True),
        ("invited", False, True),
        ("joined", False, False),
    ],
)
def test_attack_8_history_is_as_visible_as_the_room_said_then(
    alice: User, bob: User, visibility: str, *, sees_old: bool, sees_invited: bool
) -> None:
    room_id = alice.create_room(
        preset="private_chat",
        initial_state=[
            {
                "type": "m.room.history_visibility",
                "content": {"history_visibility": visibility},
            }
        ],
    )
    old = alice.send(room_id, "old")
    alice.post(f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})
    invited = alice.send(room_id, "while invited")
    bob.join(room_id)
    new = alice.send(room_id, "new")

    page = bob.get(f"/rooms/{quote(room_id)}/messages", dir="b", limit=50).json
    seen = {e["event_id"] for e in page["chunk"]}
    fetched = {
        event_id
        for event_id in (old, invited, new)
        if bob.get(f"/rooms/{quote(room_id)}/event/{quote(event_id)}").status == 200
    }

    expected = {new} | ({old} if sees_old else set()) | ({invited} if sees_invited else set())
    assert fetched == expected
    assert seen & {old, invited, new} == expected


def put_member(user: User, room_id: str, of: User, membership: str) -> int:
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(of.user_id)}"
    return user.put(path, {"membership": membership}).status


def test_ones_own_membership_is_also_set_as_state(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="private_chat")
    assert put_member(bob, room_id, bob, "join") == 403
    assert put_member(bob, "!unknown:hs.test", bob, "join") == 404

    for membership in ("leave", "join"):
        alice.post(f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})
        assert put_member(bob, room_id, bob, membership) == 200
        assert membership_of(alice, room_id, bob) == membership

    assert put_member(bob, room_id, alice, "leave") == 403


def test_a_knock_is_also_set_as_state(alice: User, bob: User) -> None:
    room_id = alice.create_room(
        initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
    )

    assert put_member(bob, room_id, bob, "join") == 403
    assert put_member(bob, room_id, bob, "knock") == 200

    assert membership_of(alice, room_id, bob) == "knock"


def test_leaving_a_room_that_is_then_forgotten_is_told_to_other_devices(
    both_versions: Homeserver, alice: User, bob: User
) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.join(room_id)
    phone = bob.login_again()
    since = phone.sync()["next_batch"]
    bob.post(f"/rooms/{quote(room_id)}/leave", {})
    bob.post(f"/rooms/{quote(room_id)}/forget", {})

    told = phone.sync(since)

    (event,) = told["rooms"]["leave"][room_id]["timeline"]["events"]
    assert event["content"]["membership"] == "leave"
    assert "rooms" not in phone.sync(told["next_batch"])
    everything = '{"room":{"include_leave":true}}'
    assert "rooms" not in phone.sync(filter=everything)

    alice.homeserver = phone.homeserver = both_versions.restart()
    assert room_id in phone.sync(since)["rooms"]["leave"]
    alice.post(f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})
    assert list(phone.sync(since)["rooms"]) == ["invite"]


@pytest.mark.parametrize("use_state_after", ["false", "true"])
def test_who_is_kicked_and_banned_meanwhile_is_told_of_both(
    alice: User, bob: User, use_state_after: str
) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.join(room_id)
    since = bob.sync()["next_batch"]
    target = {"user_id": bob.user_id}
    alice.post(f"/rooms/{quote(room_id)}/kick", target)
    alice.send(room_id, "he is gone")
    alice.post(f"/rooms/{quote(room_id)}/ban", target)

    room = bob.sync(since, use_state_after=use_state_after)["rooms"]["leave"][room_id]

    told = [event["content"]["membership"] for event in room["timeline"]["events"]]
    assert told == ["leave", "ban"]
    if use_state_after == "true":
        assert [e["content"]["membership"] for e in room["state_after"]["events"]] == ["ban"]
