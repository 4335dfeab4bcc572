"""What people do in rooms, in rooms of every version."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.room_versions import ROOM_VERSIONS, EventIDFormat
from tests.homeserver import Homeserver, Reply, User


class Room:
    """A public room of alice's with bob in it."""

    def __init__(self, homeserver: Homeserver, version: str) -> None:
        self.homeserver = homeserver
        self.version = ROOM_VERSIONS[version]
        self.alice = homeserver.register("alice")
        self.bob = homeserver.register("bob")
        self.room_id = self.alice.create_room(
            room_version=version, preset="public_chat", name="A room"
        )
        assert self.bob.join(self.room_id).status == 200

    def path(self, *parts: str) -> str:
        return "/".join(["/rooms", *(quote(part, safe="") for part in (self.room_id, *parts))])

    def act(self, user: User, action: str, **body: Any) -> Reply:
        return user.post(self.path(action), body)

    def state(self, event_type: str, state_key: str = "") -> Any:
        return self.alice.get(self.path("state", event_type, state_key)).json

    def set_state(self, user: User, event_type: str, content: object, state_key: str = "") -> Reply:
        return user.put(self.path("state", event_type, state_key), content)

    def set_levels(self, **changes: Any) -> Reply:
        return self.set_state(
            self.alice, "m.room.power_levels", self.state("m.room.power_levels") | changes
        )

    def event(self, event_id: str, user: User | None = None) -> Any:
        return (user or self.alice).get(self.path("event", event_id)).json

    def redact(self, user: User, event_id: str, txn_id: str = "t") -> Reply:
        return user.put(self.path("redact", event_id, txn_id), {"reason": "why not"})

    def membership(self, user_id: str) -> str:
        return str(self.state("m.room.member", user_id)["membership"])

    def restart(self) -> None:
        self.homeserver = self.homeserver.restart()
        self.alice.homeserver = self.bob.homeserver = self.homeserver


@pytest.fixture(params=list(ROOM_VERSIONS))
def room(request: pytest.FixtureRequest, homeserver: Homeserver) -> Room:
    return Room(homeserver, request.param)


def test_capabilities_name_every_version_as_stable(homeserver: Homeserver) -> None:
    versions = (
        homeserver.register("alice").get("/capabilities").json["capabilities"]["m.room_versions"]
    )

    assert versions["default"] == "11"
    assert versions["available"] == {str(number): "stable" for number in range(1, 13)}


def test_a_version_nobody_knows_is_refused(homeserver: Homeserver) -> None:
    reply = homeserver.register("alice").post("/createRoom", {"room_version": "13"})

    assert (reply.status, reply.errcode) == (400, "M_UNSUPPORTED_ROOM_VERSION")


def test_a_room_says_which_version_it_is_and_who_made_it(room: Room) -> None:
    create = room.state("m.room.create")

    assert create["room_version"] == room.version.id
    assert create.get("creator") == (
        None if room.version.implicit_room_creator else room.alice.user_id
    )
    assert (":" in room.room_id) is not room.version.room_id_is_create_hash


def test_ids_and_references_have_the_form_of_the_version(room: Room) -> None:
    event_id = room.alice.send(room.room_id, "hello")

    opaque = event_id[1:].split(":")[0]
    assert (":hs.test" in event_id) is (room.version.event_id_format is EventIDFormat.DOMAIN)
    assert len(opaque) == 43
    assert room.event(event_id)["event_id"] == event_id


def test_messages_are_sent_read_and_read_again_after_a_restart(room: Room) -> None:
    first = room.bob.send(room.room_id, "before")

    room.restart()

    second = room.alice.send(room.room_id, "after")
    timeline = room.alice.get(room.path("messages"), dir="b", limit=2).json["chunk"]
    assert [event["event_id"] for event in timeline] == [second, first]
    joined = room.bob.sync()["rooms"]["join"][room.room_id]
    assert [e["event_id"] for e in joined["timeline"]["events"]][-2:] == [first, second]


def test_context_relations_and_receipts_find_events_by_their_ids(room: Room) -> None:
    event_id = room.alice.send(room.room_id, "hello")
    relation = {"rel_type": "m.annotation", "event_id": event_id, "key": "+1"}
    reaction = room.bob.send_event(room.room_id, "m.reaction", {"m.relates_to": relation})

    assert room.alice.get(room.path("context", event_id)).json["event"]["event_id"] == event_id
    path = room.path("relations", event_id).replace("/rooms", "/_matrix/client/v1/rooms", 1)
    found = room.alice.get(path).json["chunk"]
    assert [event["event_id"] for event in found] == [reaction]
    assert room.bob.post(room.path("receipt", "m.read", event_id), {}).status == 200
    (receipts,) = room.alice.sync()["rooms"]["join"][room.room_id]["ephemeral"]["events"]
    assert list(receipts["content"]) == [event_id]


def test_people_are_invited_kicked_banned_and_unbanned(room: Room) -> None:
    carol = room.homeserver.register("carol")
    room.set_state(room.alice, "m.room.join_rules", {"join_rule": "invite"})
    assert carol.join(room.room_id).status == 403

    assert room.act(room.alice, "invite", user_id=carol.user_id).status == 200
    assert carol.join(room.room_id).status == 200
    assert room.act(room.bob, "kick", user_id=carol.user_id).status == 403
    assert room.act(room.alice, "kick", user_id=carol.user_id).status == 200
    assert room.membership(carol.user_id) == "leave"
    assert room.act(room.alice, "ban", user_id=carol.user_id).status == 200
    assert room.act(room.alice, "invite", user_id=carol.user_id).status == 403
    assert room.act(room.alice, "unban", user_id=carol.user_id).status == 200
    assert room.membership(carol.user_id) == "leave"
    assert room.act(room.bob, "leave").status == 200
    assert room.membership(room.bob.user_id) == "leave"


def test_state_is_set_by_those_who_have_the_level(room: Room) -> None:
    assert room.set_state(room.bob, "m.room.topic", {"topic": "mine"}).status == 403
    assert room.set_levels(events={"m.room.topic": 0}).status == 200

    assert room.set_state(room.bob, "m.room.topic", {"topic": "mine"}).status == 200

    assert room.state("m.room.topic") == {"topic": "mine"}


@pytest.mark.parametrize("room", ["1", "9", "10"], indirect=True)
def test_levels_as_strings_end_with_version_9(room: Room) -> None:
    reply = room.set_levels(redact="50", kick="50")

    assert reply.status == (400 if room.version.integer_power_levels else 200)
    malformed = room.set_levels(users={"nobody": 50})
    assert (malformed.status, malformed.errcode) == (400, "M_BAD_JSON")


@pytest.mark.parametrize("room", ["5", "6"], indirect=True)
def test_notification_levels_count_from_version_6_on(room: Room) -> None:
    users = room.state("m.room.power_levels")["users"] | {room.bob.user_id: 50}
    room.set_levels(users=users, events={"m.room.power_levels": 50}, notifications={"room": 60})
    levels = room.state("m.room.power_levels") | {"notifications": {"room": 0}}

    reply = room.set_state(room.bob, "m.room.power_levels", levels)

    assert reply.status == (403 if room.version.limit_notifications_power_levels else 200)


@pytest.mark.parametrize("room", ["5", "6"], indirect=True)
def test_floats_and_large_integers_are_content_before_version_6(room: Room) -> None:
    for number, content in enumerate(({"x": 1.5}, {"x": 2**60})):
        reply = room.alice.put(room.path("send", "org.example.test", str(number)), content)
        assert reply.status == (400 if room.version.strict_canonical_json else 200)


@pytest.mark.parametrize("room", ["11", "12"], indirect=True)
def test_creators_of_version_12_are_not_listed_with_a_level(room: Room) -> None:
    users = room.state("m.room.power_levels")["users"]

    assert (room.alice.user_id in users) is not room.version.privileged_creators
    reply = room.set_levels(users={room.alice.user_id: 100})
    assert reply.status == (403 if room.version.privileged_creators else 200)


def test_an_event_is_redacted_by_its_sender_or_a_moderator(room: Room) -> None:
    own, other = room.bob.send(room.room_id, "mine"), room.alice.send(room.room_id, "hers")

    assert room.redact(room.bob, own).status == 200
    assert room.redact(room.bob, other, "t2").status == 403
    reply = room.redact(room.alice, other)

    assert reply.status == 200
    for event_id in (own, other):
        redacted = room.event(event_id)
        assert redacted["content"] == {}
        assert redacted["unsigned"]["redacted_because"]["redacts"] == event_id
    redaction = room.event(reply.json["event_id"])
    assert redaction["redacts"] == redaction["content"]["redacts"] == other
    room.restart()
    assert room.event(own)["content"] == {}


@pytest.mark.parametrize("room", ["1", "7", "8", "12"], indirect=True)
def test_a_redaction_spares_what_the_version_protects(room: Room) -> None:
    rules = {"join_rule": "restricted", "allow": [], "other": 1}
    event_id = room.set_state(room.alice, "m.room.join_rules", rules).json["event_id"]

    room.redact(room.alice, event_id)

    expected: Any = {"join_rule": "restricted"} | (
        {"allow": []} if int(room.version.id) >= 8 else {}
    )
    assert room.event(event_id)["content"] == expected


@pytest.mark.parametrize("room", ["1", "5", "6"], indirect=True)
def test_aliases_are_state_of_their_server_before_version_6(room: Room) -> None:
    content = {"aliases": ["#a:hs.test"]}

    of_server = room.set_state(room.bob, "m.room.aliases", content, "hs.test")
    of_other = room.set_state(room.alice, "m.room.aliases", content, "other.test")

    before_6 = room.version.special_case_aliases
    assert of_server.status == (200 if before_6 else 403)
    assert of_other.status == (403 if before_6 else 200)


@pytest.mark.parametrize("room", ["6", "7", "12"], indirect=True)
def test_knocking_begins_with_version_7(room: Room) -> None:
    carol = room.homeserver.register("carol")
    room.set_state(room.alice, "m.room.join_rules", {"join_rule": "knock"})

    reply = carol.post(f"/knock/{quote(room.room_id)}", {})

    assert reply.status == (200 if room.version.knock else 403)
    if room.version.knock:
        assert room.membership(carol.user_id) == "knock"
        assert room.act(room.alice, "invite", user_id=carol.user_id).status == 200
        assert carol.join(room.room_id).status == 200


@pytest.mark.parametrize("join_rule", ["restricted", "knock_restricted"])
@pytest.mark.parametrize("room", ["7", "8", "9", "10", "12"], indirect=True)
def test_members_of_another_room_are_let_in(room: Room, join_rule: str) -> None:
    carol, dave = room.homeserver.register("carol"), room.homeserver.register("dave")
    other = room.bob.create_room(preset="public_chat")
    assert carol.join(other).status == 200
    allow = [{"type": "m.room_membership", "room_id": other}]
    rules = {"join_rule": join_rule, "allow": allow}
    room.set_state(room.alice, "m.room.join_rules", rules)

    version = room.version
    lets_in = version.restricted_join if join_rule == "restricted" else version.knock_restricted
    assert carol.join(room.room_id).status == (200 if lets_in else 403)
    assert dave.join(room.room_id).status == 403
    if lets_in:
        member = room.state("m.room.member", carol.user_id)
        assert member["join_authorised_via_users_server"] == room.alice.user_id
        carol.put(f"/profile/{quote(carol.user_id)}/displayname", {"displayname": "C"})
        member = room.state("m.room.member", carol.user_id)
        assert member == {"membership": "join", "displayname": "C"}
        knock = dave.post(f"/knock/{quote(room.room_id)}", {})
        assert knock.status == (200 if join_rule == "knock_restricted" else 403)


def test_nobody_is_let_in_when_no_member_may_invite(homeserver: Homeserver) -> None:
    room = Room(homeserver, "11")
    carol = homeserver.register("carol")
    other = room.bob.create_room(preset="public_chat")
    carol.join(other)
    allow = [{"type": "m.room_membership", "room_id": other}]
    room.set_state(room.alice, "m.room.join_rules", {"join_rule": "restricted", "allow": allow})
    room.set_levels(invite=50)
    room.act(room.alice, "leave")

    assert carol.join(room.room_id).status == 403


@pytest.mark.parametrize("additional", ["bob", ["bob"], [3]])
def test_malformed_additional_creators_are_refused(
    homeserver: Homeserver, additional: object
) -> None:
    alice = homeserver.register("alice")
    wish = {"room_version": "12", "creation_content": {"additional_creators": additional}}

    assert alice.post("/createRoom", wish).status == 400
    assert alice.post("/createRoom", {**wish, "room_version": "11"}).status == 200
