"""With whom a user begins and ceases to share rooms, as device lists tell it.

spec: client-server-api/#tracking-the-device-list-for-a-user, v1.19.
"""

import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.api.signed_keys import upload_device_keys
from tests.api.sliding import room_list, slide
from tests.homeserver import Homeserver, User
from tests.inbound_stage import Stage

E2EE = room_list() | {"extensions": {"e2ee": {"enabled": True}}}
LAZY = json.dumps({"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 3}}})


@pytest.fixture
def carol(both_versions: Homeserver) -> User:
    return both_versions.register("carol")


class Watcher:
    """Asks in each way there is what has changed since it was made."""

    def __init__(self, user: User) -> None:
        self._user = user
        self._since = user.sync()["next_batch"]
        self._pos = slide(user, E2EE)["pos"]

    def answers(self) -> list[Any]:
        """(changed, left) by sync, by sliding sync, and by /keys/changes."""
        query = {"from": self._since, "to": self._since}
        return [
            _lists(self._user.sync(self._since).get("device_lists", {})),
            _lists(
                slide(self._user, E2EE, self._pos)["extensions"]["e2ee"].get("device_lists", {})
            ),
            _lists(self._user.get("/keys/changes", **query).json),
        ]


def _lists(told: Any) -> tuple[list[str], list[str]]:
    return told.get("changed", []), told.get("left", [])


def rename(user: User, room_id: str, name: str) -> None:
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(user.user_id)}"
    assert user.put(path, {"membership": "join", "displayname": name}).status == 200


@pytest.mark.parametrize("end", ["rejecting", "being banned"])
def test_attack_8_who_never_was_in_a_room_is_not_told_who_is(
    alice: User, bob: User, end: str
) -> None:
    room_id = alice.create_room(invite=[bob.user_id])
    watcher = Watcher(bob)

    if end == "rejecting":
        bob.act(room_id, "leave")
    else:
        alice.act(room_id, "ban", bob)

    assert watcher.answers() == [([], [])] * 3


def test_attack_8_who_has_left_is_not_told_who_came_later(
    alice: User, bob: User, carol: User
) -> None:
    room_id = alice.meet(bob)
    watcher = Watcher(bob)

    bob.act(room_id, "leave")
    carol.join(room_id)

    assert watcher.answers() == [([], [alice.user_id])] * 3


def test_who_left_after_the_user_did_is_left_behind(alice: User, bob: User, carol: User) -> None:
    room_id = alice.meet(bob, carol)
    watcher = Watcher(bob)

    bob.act(room_id, "leave")
    carol.act(room_id, "leave")

    assert watcher.answers() == [([], [alice.user_id, carol.user_id])] * 3


def test_who_leaves_and_forgets_is_left_behind(alice: User, bob: User) -> None:
    room_id = alice.meet(bob)
    watcher = Watcher(alice)

    bob.act(room_id, "leave")
    bob.act(room_id, "forget")

    assert watcher.answers() == [([], [bob.user_id])] * 3


@pytest.mark.parametrize("use_state_after", ["false", "true"])
@pytest.mark.parametrize("full_state", ["false", "true"])
@pytest.mark.parametrize("chosen", [LAZY, "{}"], ids=["lazy", "all"])
def test_who_has_come_and_renamed_himself_in_a_gap_is_met(
    alice: User, bob: User, chosen: str, full_state: str, use_state_after: str
) -> None:
    room_id = alice.meet()
    since = alice.sync()["next_batch"]
    bob.join(room_id)
    rename(bob, room_id, "Robert")
    for number in range(12):
        alice.send(room_id, str(number))

    found = alice.sync(since, filter=chosen, full_state=full_state, use_state_after=use_state_after)

    assert _lists(found["device_lists"]) == ([bob.user_id], [])


def test_who_only_renames_himself_is_not_met(alice: User, bob: User, room_id: str) -> None:
    watcher = Watcher(alice)

    rename(bob, room_id, "Robert")

    assert watcher.answers() == [([], [])] * 3


def test_whom_a_resolution_has_put_out_is_left_behind(homeserver: Homeserver) -> None:
    stage = Stage(homeserver, "11")
    bob = stage.joined("bob", 50)
    carol = homeserver.register("carol")
    before = stage.remote.graph.tips()
    assert carol.join(stage.room_id).status == 200
    watcher = Watcher(stage.alice)

    stage.feed(
        stage.remote.send(
            "m.room.join_rules", bob, {"join_rule": "invite"}, state_key="", prev=before
        )
    )

    assert stage.room.membership_of(carol.user_id) == "leave"  # type: ignore[arg-type]  # a user id
    assert watcher.answers() == [([], [carol.user_id])] * 3


def test_leaving_many_behind_asks_for_the_rooms_of_nobody_else(
    both_versions: Homeserver,
    alice: User,
    bob: User,
    carol: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("homeserver.services.device_lists._FEW", 4)
    guests = [both_versions.register(name) for name in ("dan", "eve", "frank", "grace")]
    room_id = alice.meet(bob, carol, *guests)
    carol.meet(bob)
    since = bob.sync()["next_batch"]
    bob.act(room_id, "leave")
    bob.homeserver = both_versions.restart()
    statements = both_versions.database.statements
    before = len(statements)

    found = bob.sync(since)["device_lists"]

    assert found["left"] == sorted(user.user_id for user in (alice, *guests))
    asked = [one for one in statements[before:] if "left_nid, forgotten" in one]
    assert len(asked) == 1


@pytest.mark.usefixtures("room_id")
def test_the_users_own_new_device_is_told_to_his_others(alice: User) -> None:
    watcher = Watcher(alice)

    upload_device_keys(alice.login_again())

    assert watcher.answers() == [([alice.user_id], [])] * 3
