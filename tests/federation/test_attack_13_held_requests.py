"""Class 13: requests about a room whose members are not known yet, by who has no right to them."""

import dataclasses
from collections.abc import Callable
from urllib.parse import quote

import pytest

from tests.federation.network import MemoryNetwork
from tests.federation.partial_rooms import Scene, enter_partially
from tests.homeserver import Homeserver, User


@pytest.fixture
def stranger(scene: Scene) -> User:
    return scene.bob.homeserver.register("stranger")


Ask = Callable[[Scene, User], tuple[str, str, object]]


def member_path(scene: Scene, user_id: str) -> str:
    return f"{scene.path}/state/m.room.member/{quote(user_id)}"


ASKED: dict[str, Ask] = {
    "state": lambda scene, _: ("GET", f"{scene.path}/state", None),
    "members": lambda scene, _: ("GET", f"{scene.path}/members", None),
    "joined members": lambda scene, _: ("GET", f"{scene.path}/joined_members", None),
    "a member": lambda scene, _: ("GET", member_path(scene, "@member0:a.test"), None),
    "leave": lambda scene, _: ("POST", f"{scene.path}/leave", {}),
    "knock": lambda scene, _: ("POST", f"/knock/{quote(scene.room_id)}", {}),
    "kick": lambda scene, _: ("POST", f"{scene.path}/kick", {"user_id": "@member0:a.test"}),
    "invite": lambda scene, _: ("POST", f"{scene.path}/invite", {"user_id": "@nobody:a.test"}),
    "leave as state": lambda scene, user: (
        "PUT",
        member_path(scene, user.user_id),
        {"membership": "leave"},
    ),
    "knock as state": lambda scene, user: (
        "PUT",
        member_path(scene, user.user_id),
        {"membership": "knock"},
    ),
    "ban as state": lambda scene, _: (
        "PUT",
        member_path(scene, "@member0:a.test"),
        {"membership": "ban"},
    ),
    "invite as state": lambda scene, _: (
        "PUT",
        member_path(scene, "@nobody:a.test"),
        {"membership": "invite"},
    ),
    "a member that nobody is": lambda scene, _: (
        "PUT",
        member_path(scene, "nobody"),
        {"membership": "join"},
    ),
}


@pytest.mark.parametrize("asked", ASKED)
def test_attack_13_who_has_no_right_is_refused_at_once(
    scene: Scene, stranger: User, asked: str
) -> None:
    method, path, body = ASKED[asked](scene, stranger)

    reply = stranger.start_request(method, path, body).reply()

    assert reply.status in (403, 404)
    assert scene.is_partial


@pytest.mark.parametrize("asked", [name for name in ASKED if "knock" not in name])
def test_attack_13_who_has_no_right_does_not_learn_whether_there_is_such_a_room(
    scene: Scene, stranger: User, asked: str
) -> None:
    elsewhere = dataclasses.replace(scene, room_id="!unknown:b.test")
    asked_of = [ASKED[asked](where, stranger) for where in (scene, elsewhere)]

    known, unknown = (stranger.request(*one) for one in asked_of)

    assert (known.status, known.json) == (unknown.status, unknown.json)


@pytest.mark.parametrize("asked", ["leave", "leave as state"])
def test_who_has_left_before_the_members_are_known_stays_so(scene: Scene, asked: str) -> None:
    dave = scene.bob.homeserver.register("dave")
    assert dave.request("POST", f"/join/{quote(scene.room_id)}", {}).status == 200
    for _ in range(2):
        method, path, body = ASKED[asked](scene, dave)
        assert dave.start_request(method, path, body).reply().status == 200
    assert scene.is_partial


def test_a_knock_waits_where_the_room_takes_knocks(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, c: Homeserver
) -> None:
    """Whether the user is banned is only known with the members."""
    banned, dave = b.register("banned"), b.register("dave")
    scene = enter_partially(network, a, b, c, banned=banned.user_id)
    rule = {"join_rule": "knock"}
    assert scene.alice.put(f"{scene.path}/state/m.room.join_rules", rule).status == 200
    network.settle()
    asked = [
        user.start_request("POST", f"/knock/{quote(scene.room_id)}", {}) for user in (banned, dave)
    ]
    network.settle()
    assert scene.is_partial
    assert not any(one.answered for one in asked)

    scene.complete()

    assert [one.reply().status for one in asked] == [403, 200]


def test_who_is_removed_while_he_waits_for_the_members_does_not_read_them(scene: Scene) -> None:
    dave = scene.bob.homeserver.register("dave")
    assert dave.request("POST", f"/join/{quote(scene.room_id)}", {}).status == 200
    late = scene.alice.homeserver.register("late")
    paths = [f"{scene.path}/state", f"{scene.path}/members", member_path(scene, late.user_id)]
    asked = [dave.start_request("GET", path) for path in paths]
    assert not any(one.answered for one in asked)
    assert scene.alice.post(f"{scene.path}/kick", {"user_id": dave.user_id}).status == 200
    assert late.join(scene.room_id).status == 200
    scene.network.settle()

    scene.complete()

    state, members, member = (one.reply() for one in asked)
    shown = {event["state_key"] for event in [*state.json, *members.json["chunk"]]}
    assert "@member0:a.test" in shown
    assert late.user_id not in shown
    assert member.status == 404
