"""Profiles, and how rooms learn of a new name."""

from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.defer import Deferred

from homeserver.background import Background
from homeserver.core.identifiers import UserID
from homeserver.requester import Requester
from homeserver.services.federation.remote_profiles import RemoteProfiles
from homeserver.services.federation.requests import FederationRequests
from homeserver.services.profiles import Profiles
from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, Homeserver, NoNetwork, Reply, SteadyRandomness, User


def path(user: User | str, field: str | None = None) -> str:
    user_id = user if isinstance(user, str) else user.user_id
    return f"/profile/{quote(user_id)}" + ("" if field is None else f"/{quote(field)}")


def put(user: User, field: str, value: object) -> Reply:
    return user.put(path(user, field), {field: value})


def test_profile_of_a_new_user_is_empty(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    assert alice.get(path(alice)).json == {}
    assert alice.get(path(alice, "displayname")).status == 404


def test_anybody_reads_what_a_user_says_of_himself(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    fields = {
        "displayname": "Alice",
        "avatar_url": "mxc://hs.test/abc",
        "m.tz": "Europe/Berlin",
        "org.example.pets": {"cats": [1, None, True, "with \0 inside"]},
    }
    for field, value in fields.items():
        assert put(alice, field, value).json == {}

    assert homeserver.request("GET", f"/_matrix/client/v3{path(alice)}").json == fields
    for field, value in fields.items():
        reply = homeserver.request("GET", f"/_matrix/client/v3{path(alice, field)}")
        assert reply.json == {field: value}


def test_field_is_replaced_and_deleted(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    put(alice, "displayname", "Alice")
    put(alice, "displayname", "Alicia")
    put(alice, "org.example.null", None)
    assert alice.get(path(alice)).json == {"displayname": "Alicia", "org.example.null": None}

    assert alice.request("DELETE", path(alice, "displayname")).json == {}
    assert alice.request("DELETE", path(alice, "displayname")).json == {}

    assert alice.get(path(alice)).json == {"org.example.null": None}


def test_unknown_users_are_not_found(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    assert alice.get(path("@nobody:hs.test")).status == 404
    assert alice.get(path("@nobody:hs.test", "displayname")).status == 404


def test_profile_of_another_user_is_only_read(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    mallory = homeserver.register("mallory")
    put(alice, "displayname", "Alice")

    written = mallory.put(path(alice, "displayname"), {"displayname": "Fool"})
    deleted = mallory.request("DELETE", path(alice, "displayname"))

    assert (written.errcode, deleted.errcode) == ("M_FORBIDDEN", "M_FORBIDDEN")
    assert alice.get(path(alice)).json == {"displayname": "Alice"}


@pytest.mark.parametrize(
    ("field", "errcode"),
    [
        ("name", "M_INVALID_PARAM"),
        ("Org.example", "M_INVALID_PARAM"),
        ("org.example.", "M_INVALID_PARAM"),
        ("org..example", "M_INVALID_PARAM"),
        ("org.exämple", "M_INVALID_PARAM"),
        ('org.ex"ample', "M_INVALID_PARAM"),
        ("org.exa\0mple", "M_INVALID_PARAM"),
        ("org." + "x" * 252, "M_KEY_TOO_LARGE"),
    ],
)
def test_fields_outside_the_grammar_are_refused(
    homeserver: Homeserver, field: str, errcode: str
) -> None:
    alice = homeserver.register("alice")

    assert (put(alice, field, 1).status, put(alice, field, 1).errcode) == (400, errcode)
    assert alice.request("DELETE", path(alice, field)).errcode == errcode


def test_longest_field_name_is_accepted(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    assert put(alice, "org." + "x" * 251, 1).status == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("displayname", None),
        ("displayname", 3),
        ("displayname", "x" * 257),
        ("avatar_url", "https://example.org/cat.png"),
        ("avatar_url", "mxc://hs.test/../x"),
        ("avatar_url", "mxc://hs.test/" + "x" * 1000),
        ("avatar_url", None),
        ("m.tz", 1),
        ("m.tz", ""),
    ],
)
def test_values_a_field_cannot_hold_are_refused(
    homeserver: Homeserver, field: str, value: object
) -> None:
    alice = homeserver.register("alice")

    assert put(alice, field, value).status == 400
    assert alice.get(path(alice)).json == {}


def test_body_without_the_field_is_refused(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    reply = alice.put(path(alice, "displayname"), {"avatar_url": "mxc://hs.test/a"})

    assert (reply.status, reply.errcode) == (400, "M_MISSING_PARAM")


def test_profile_stays_below_64_kib_as_a_whole(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    assert put(alice, "org.example.a", "x" * 32_000).status == 200
    assert put(alice, "org.example.b", "x" * 33_000).status == 200

    refused = put(alice, "org.example.c", "x" * 1000)

    assert (refused.status, refused.errcode) == (400, "M_PROFILE_TOO_LARGE")
    assert put(alice, "org.example.a", "x" * 30_000).status == 200
    assert put(alice, "org.example.c", "x" * 1000).status == 200
    assert len(alice.get(path(alice)).body) < 65_536


def test_empty_name_and_avatar_are_taken_away(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    put(alice, "displayname", "Alice")
    put(alice, "avatar_url", "mxc://hs.test/abc")

    assert put(alice, "displayname", "").status == 200
    assert put(alice, "avatar_url", "").status == 200

    assert alice.get(path(alice)).json == {}


def member_of(alice: User, room_id: str) -> Any:
    reply = alice.get(f"/rooms/{quote(room_id)}/state/m.room.member/{quote(alice.user_id)}")
    assert reply.status == 200, reply.json
    return reply.json


def test_new_name_and_avatar_reach_every_room_one_is_in(both_versions: Homeserver) -> None:
    alice = both_versions.register("alice")
    rooms = [alice.create_room(), alice.create_room()]

    put(alice, "displayname", "Alice")
    put(alice, "avatar_url", "mxc://hs.test/abc")

    for room_id in rooms:
        content = member_of(alice, room_id)
        assert content["displayname"] == "Alice"
        assert content["avatar_url"] == "mxc://hs.test/abc"


def test_deleted_name_goes_from_the_rooms(both_versions: Homeserver) -> None:
    alice = both_versions.register("alice")
    room_id = alice.create_room()
    put(alice, "displayname", "Alice")

    alice.request("DELETE", path(alice, "displayname"))

    assert "displayname" not in member_of(alice, room_id)


def test_rooms_are_told_one_change_at_a_time_and_the_last_one_surely(
    both_versions: Homeserver, database: InlineDatabase
) -> None:
    alice = both_versions.register("alice")
    requester = Requester(UserID(alice.user_id), None)
    told: list[Deferred[None]] = []

    def propagate(_user_id: UserID) -> Deferred[None]:
        told.append(Deferred())
        return told[-1]

    profiles = Profiles(
        database,
        Background(both_versions.clock, SteadyRandomness()),
        DEFAULT_CONFIG.server.name,
        propagate=propagate,
        fetch_remote=RemoteProfiles(FederationRequests(NoNetwork()), both_versions.clock).fetch,
    )
    for name in ("A", "B", "C", "C"):
        Deferred.fromCoroutine(
            profiles.set_field(requester, requester.user_id, "displayname", name)
        )
    assert len(told) == 1

    told[0].callback(None)
    assert len(told) == 2
    told[1].callback(None)
    assert len(told) == 2

    Deferred.fromCoroutine(profiles.delete_field(requester, requester.user_id, "displayname"))
    assert len(told) == 3
    told[2].callback(None)


def test_a_room_in_which_the_name_does_not_fit_keeps_it_from_no_other(
    both_versions: Homeserver,
) -> None:
    alice = both_versions.register("alice")
    rooms = [alice.create_room() for _ in range(3)]
    members = [f"/rooms/{quote(r)}/state/m.room.member/{quote(alice.user_id)}" for r in rooms]
    full = {"membership": "join", "org.test": "x" * 64_700}
    assert alice.put(members[0], full).status == 200

    put(alice, "displayname", "A" * 256)

    names = [alice.get(member).json.get("displayname") for member in members]
    assert names == [None, "A" * 256, "A" * 256]
