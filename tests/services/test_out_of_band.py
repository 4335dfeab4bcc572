"""Invitations and knocks in rooms that this server is not in."""

from typing import Any

import pytest

from homeserver.core.errors import SignatureInvalid
from homeserver.core.events import Event
from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.errors import BadRequest, Forbidden, NotFound
from tests.homeserver import Homeserver
from tests.remote_room import RemoteStage
from tests.simulated_server import SimulatedServer, key_of

NAME: JsonObject = {
    "type": "m.room.name",
    "state_key": "",
    "sender": "@creator:remote.test",
    "content": {"name": "Elsewhere"},
}


@pytest.fixture(params=["10", "11", "12"])
def stage(request: pytest.FixtureRequest, homeserver: Homeserver) -> RemoteStage:
    return RemoteStage(homeserver, request.param, join_rule="invite")


def invite(stage: RemoteStage, *, state: list[JsonObject] | None = None) -> Event:
    event = stage.remote.member(stage.creator, "invite", stage.alice.user_id)
    stage.do(
        stage.rooms.out_of_band.take_in_invite(
            stage.room_id,
            stage.remote.version,
            stage.rooms.resident.sign(event),
            [NAME] if state is None else state,
        )
    )
    return event


def test_an_invitation_is_shown_with_the_state_that_came_with_it(stage: RemoteStage) -> None:
    since = stage.alice.sync()["next_batch"]

    event = invite(stage)
    for shown in (stage.synced("invite"), stage.synced("invite", since)):
        told = shown["invite_state"]["events"]
        assert told[0] == NAME
        assert told[1]["content"] == {"membership": "invite"}
        assert told[1]["sender"] == event.sender
    assert stage.find_room() is None


def test_it_wakes_a_sync_and_is_told_once(stage: RemoteStage) -> None:
    since = stage.alice.sync()["next_batch"]
    pending = stage.alice.start_request("GET", "/sync", query={"since": since, "timeout": 30_000})

    invite(stage)
    body = pending.reply().json
    assert stage.room_id in body["rooms"]["invite"]
    assert stage.synced("invite", body["next_batch"]) is None


def test_it_is_there_after_a_restart_and_later_tokens_stay_later(stage: RemoteStage) -> None:
    invite(stage)
    since = stage.alice.sync()["next_batch"]

    stage.restart()
    assert stage.synced("invite") is not None
    assert stage.synced("invite", since) is None
    stage.alice.create_room()
    assert len(stage.alice.sync(since)["rooms"]["join"]) == 1


def test_malformed_stripped_state_is_not_shown(stage: RemoteStage) -> None:
    bad: list[JsonObject] = [
        {**NAME, "content": []},
        {**NAME, "sender": 7},
        {**NAME, "type": None},
        {"type": "m.room.topic"},
        {**NAME, "extra": "not a field of stripped state"},
    ]

    invite(stage, state=bad)
    assert stage.synced("invite")["invite_state"]["events"][:-1] == [NAME]


def test_a_rejection_that_nobody_can_be_told_of_is_a_leave_here(stage: RemoteStage) -> None:
    invite(stage)
    since = stage.alice.sync()["next_batch"]

    stage.do(
        stage.rooms.out_of_band.reject_locally(
            UserID(stage.alice.user_id), stage.room_id, "not today"
        )
    )
    shown = stage.synced("leave", since)["timeline"]["events"]
    assert [event["content"] for event in shown] == [{"membership": "leave", "reason": "not today"}]
    assert stage.synced("invite") is None
    stage.restart()
    assert stage.synced("invite") is None
    assert stage.synced("leave", since) is not None


def test_a_rejection_the_other_server_accepted_is_shown_too(stage: RemoteStage) -> None:
    invite(stage)
    since = stage.alice.sync()["next_batch"]
    leave = stage.make_member(stage.alice, "leave")

    stage.do(stage.rooms.out_of_band.take_in_leave(leave))
    shown = stage.synced("leave", since)["timeline"]["events"]
    assert [event["event_id"] for event in shown] == [leave.event_id]


def test_there_is_nothing_to_reject_without_an_invitation(stage: RemoteStage) -> None:
    leave = stage.make_member(stage.alice, "leave")

    for attempt in (
        stage.rooms.out_of_band.reject_locally(UserID(stage.alice.user_id), stage.room_id),
        stage.rooms.out_of_band.take_in_leave(leave),
    ):
        with pytest.raises(NotFound):
            stage.do(attempt)


@pytest.mark.parametrize("membership", ["leave", "ban"])
def test_an_invitation_is_taken_back_by_an_event_of_the_room(
    stage: RemoteStage, membership: str
) -> None:
    invite(stage)
    since = stage.alice.sync()["next_batch"]
    end = stage.remote.member(stage.creator, membership, stage.alice.user_id)

    assert stage.do(stage.rooms.out_of_band.receive(stage.room_id, end.pdu)) is True
    shown = stage.synced("leave", since)["timeline"]["events"]
    assert [event["event_id"] for event in shown] == [end.event_id]
    assert stage.synced("invite") is None


def test_attack_3_a_stranger_cannot_take_an_invitation_back(stage: RemoteStage) -> None:
    event = invite(stage)
    evil = SimulatedServer("evil.test", stage.remote.version, stage.room_id)
    end = evil.make(
        "m.room.member", "@mallory:evil.test", {"membership": "leave"},
        state_key=stage.alice.user_id, prev=[event.event_id], auth=[], depth=9,
    )  # fmt: skip

    assert stage.do(stage.rooms.out_of_band.receive(stage.room_id, end.pdu)) is False
    assert stage.synced("invite") is not None


def test_attack_3_a_forged_retraction_is_refused(stage: RemoteStage) -> None:
    invite(stage)
    end = stage.remote.make(
        "m.room.member", stage.creator, {"membership": "leave"},
        state_key=stage.alice.user_id, key=key_of("evil.test"),
    )  # fmt: skip

    with pytest.raises(SignatureInvalid):
        stage.do(stage.rooms.out_of_band.receive(stage.room_id, end.pdu))
    assert stage.synced("invite") is not None


def test_other_events_of_rooms_we_are_not_in_are_left_alone(stage: RemoteStage) -> None:
    invite(stage)
    others = [
        stage.remote.say(stage.creator, "hello?"),
        stage.remote.member(stage.creator, "leave", "@stranger:hs.test", prev=None),
    ]

    for event in others:
        assert stage.do(stage.rooms.out_of_band.receive(stage.room_id, event.pdu)) is False


def test_a_knock_is_shown_with_what_the_room_is_called(stage: RemoteStage) -> None:
    stage.remote.send("m.room.join_rules", stage.creator, {"join_rule": "knock"}, state_key="")
    knock = stage.make_member(stage.alice, "knock")
    stage.remote.graph.add(knock)

    taking = stage.rooms.out_of_band.take_in_knock(
        stage.room_id, stage.remote.version, knock, [NAME]
    )
    stage.do(taking)
    told = stage.synced("knock")["knock_state"]["events"]
    assert [event["type"] for event in told] == ["m.room.name", "m.room.member"]
    found = stage.do(stage.rooms.out_of_band.find(UserID(stage.alice.user_id), stage.room_id))
    assert (found.membership, found.event.event_id) == ("knock", knock.event_id)


def test_after_an_invitation_comes_the_join(stage: RemoteStage) -> None:
    event = invite(stage)
    since = stage.alice.sync()["next_batch"]

    join = stage.join()
    assert stage.state() == stage.remote.graph.after[join.event_id]
    part = stage.synced(since=since)
    shown = part["timeline"]["events"]
    assert [each["event_id"] for each in shown] == [join.event_id]
    assert shown[0]["unsigned"]["replaces_state"] == event.event_id
    assert stage.synced("invite") is None
    user_id = UserID(stage.alice.user_id)
    assert stage.do(stage.rooms.out_of_band.find(user_id, stage.room_id)) is None


def test_who_has_left_a_room_of_others_can_be_invited_back(stage: RemoteStage) -> None:
    invite(stage)
    stage.join()
    leave = stage.make_member(stage.alice, "leave")
    stage.remote.graph.add(leave)
    stage.feed(leave)
    since = stage.alice.sync()["next_batch"]

    invite(stage)
    assert stage.synced("invite", since) is not None
    stage.restart()
    assert stage.synced("invite", since) is not None
    stage.do(stage.rooms.out_of_band.reject_locally(UserID(stage.alice.user_id), stage.room_id))
    assert stage.synced("invite") is None
    join_again: Any = stage.remote.member(stage.creator, "invite", stage.alice.user_id)
    assert join_again.membership == "invite"


def test_an_invitation_into_a_room_we_are_in_comes_another_way(stage: RemoteStage) -> None:
    invite(stage)
    stage.join()

    with pytest.raises(Forbidden):
        invite(stage)


def test_a_room_has_one_version(stage: RemoteStage) -> None:
    event = invite(stage)
    other = ROOM_VERSIONS["11" if stage.remote.version.id != "11" else "10"]

    with pytest.raises((BadRequest, Forbidden)):
        stage.do(stage.rooms.out_of_band.take_in_invite(stage.room_id, other, event, []))
