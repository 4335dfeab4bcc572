"""Rooms through the API: creating, speaking, reading, state, redaction."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.engine import sent_transactions
from tests.homeserver import Homeserver, User
from tests.room_state import history_visibility


def state_of(user: User, room_id: str) -> dict[tuple[str, str], Any]:
    events = user.get(f"/rooms/{quote(room_id)}/state").json
    return {(e["type"], e["state_key"]): e["content"] for e in events}


def bodies(page: Any) -> list[str]:
    return [e["content"].get("body") for e in page["chunk"] if e["type"] == "m.room.message"]


def test_a_message_is_read_back_by_the_other_member(alice: User, bob: User) -> None:
    room_id = alice.meet(bob, name="Tea")

    event_id = alice.send(room_id, "hello")

    page = bob.get(f"/rooms/{quote(room_id)}/messages", dir="b", limit=5).json
    assert page["chunk"][0]["event_id"] == event_id
    assert page["chunk"][0]["content"]["body"] == "hello"


def test_a_new_room_has_the_state_its_creator_wished(alice: User, bob: User) -> None:
    room_id = alice.create_room(
        preset="private_chat",
        name="Tea",
        topic="Leaves",
        invite=[bob.user_id],
        initial_state=[
            {
                "type": "m.room.encryption",
                "state_key": "",
                "content": {"algorithm": "m.megolm.v1.aes-sha2"},
            },
            history_visibility("joined"),
        ],
    )

    state = state_of(alice, room_id)

    assert state[("m.room.name", "")] == {"name": "Tea"}
    assert state[("m.room.topic", "")]["topic"] == "Leaves"
    assert state[("m.room.join_rules", "")] == {"join_rule": "invite"}
    assert state[("m.room.history_visibility", "")] == {"history_visibility": "joined"}
    assert state[("m.room.encryption", "")] == {"algorithm": "m.megolm.v1.aes-sha2"}
    assert state[("m.room.member", bob.user_id)]["membership"] == "invite"
    assert state[("m.room.create", "")]["room_version"] in ("11", "12")


def test_the_creator_of_a_version_12_room_is_not_in_its_power_levels(
    homeserver: Homeserver,
) -> None:
    alice = homeserver.register("alice")

    room_id = alice.create_room(room_version="12")

    assert ":" not in room_id
    assert state_of(alice, room_id)[("m.room.power_levels", "")]["users"] == {}


def test_an_unknown_room_version_is_refused(alice: User) -> None:
    reply = alice.post("/createRoom", {"room_version": "org.example.unknown"})

    assert (reply.status, reply.errcode) == (400, "M_UNSUPPORTED_ROOM_VERSION")


@pytest.mark.parametrize(
    "body",
    [
        {"preset": "cosy"},
        {"visibility": "hidden"},
        {"invite": ["bob"]},
        {"initial_state": [{"type": "m.room.create", "content": {}}]},
        {"room_alias_name": "has space\x00"},
        {"invite_3pid": [{"id_server": "x", "id_access_token": "y", "medium": "email"}]},
    ],
)
def test_a_bad_wish_for_a_room_is_refused_and_makes_no_room(alice: User, body: Any) -> None:
    reply = alice.post("/createRoom", body)

    assert reply.status == 400
    assert alice.get("/joined_rooms").json == {"joined_rooms": []}


def test_an_invitation_that_the_rules_forbid_makes_no_room(alice: User, bob: User) -> None:
    reply = alice.post(
        "/createRoom",
        {"invite": [bob.user_id], "power_level_content_override": {"users": {bob.user_id: "x"}}},
    )

    assert reply.status in (400, 403)
    assert alice.get("/joined_rooms").json == {"joined_rooms": []}


def test_an_alias_leads_to_its_room_and_is_taken_only_once(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat", room_alias_name="tea")

    joined = bob.post(f"/join/{quote('#tea:hs.test')}", {})
    taken = bob.post("/createRoom", {"room_alias_name": "tea"})

    assert joined.json == {"room_id": room_id}
    assert taken.errcode == "M_ROOM_IN_USE"
    found = bob.get(f"/directory/room/{quote('#tea:hs.test')}").json
    assert found == {"room_id": room_id, "servers": ["hs.test"]}
    assert alice.get(f"/rooms/{quote(room_id)}/aliases").json == {"aliases": ["#tea:hs.test"]}


def test_only_who_made_an_alias_or_may_name_the_room_deletes_it(
    alice: User, bob: User, room_id: str
) -> None:
    path = f"/directory/room/{quote('#tea:hs.test')}"
    assert alice.put(path, {"room_id": room_id}).status == 200

    refused = bob.request("DELETE", path)
    deleted = alice.request("DELETE", path)

    assert refused.status == 403
    assert deleted.status == 200
    assert alice.get(path).status == 404


def test_a_repeated_transaction_id_answers_the_first_event(alice: User) -> None:
    room_id = alice.create_room()

    first = alice.send(room_id, "once", txn_id="t1")
    second = alice.send(room_id, "twice", txn_id="t1")

    assert first == second
    page = alice.get(f"/rooms/{quote(room_id)}/messages", dir="b", limit=50).json
    assert bodies(page) == ["once"]


def test_a_transaction_id_is_remembered_over_a_restart(
    both_versions: Homeserver, alice: User
) -> None:
    room_id = alice.create_room()
    first = alice.send(room_id, "once", txn_id="t1")

    alice.homeserver = both_versions.restart()

    assert alice.send(room_id, "twice", txn_id="t1") == first


def test_two_devices_may_use_the_same_transaction_id(alice: User) -> None:
    room_id = alice.create_room()
    tablet = alice.login_again()

    assert alice.send(room_id, "a", txn_id="t1") != tablet.send(room_id, "b", txn_id="t1")


def test_everything_is_there_after_a_restart(
    both_versions: Homeserver, alice: User, bob: User
) -> None:
    room_id = alice.meet(bob, name="Tea")
    for number in range(150):
        alice.send(room_id, f"m{number}")
        if number % 10 == 0:
            alice.put(f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": f"t{number}"})
    before = state_of(alice, room_id)

    alice.homeserver = bob.homeserver = both_versions.restart()

    assert state_of(bob, room_id) == before
    seen: list[str] = []
    token = None
    while True:
        query = {"dir": "b", "limit": 40} | ({"from": token} if token else {})
        page = bob.get(f"/rooms/{quote(room_id)}/messages", **query).json
        seen += bodies(page)
        token = page.get("end")
        if token is None:
            break
    assert seen == [f"m{number}" for number in reversed(range(150))]
    bob.send(room_id, "after")


def test_messages_are_paged_forwards_to_the_end(alice: User) -> None:
    room_id = alice.create_room()
    for number in range(25):
        alice.send(room_id, f"m{number}")

    seen: list[str] = []
    token = None
    for _ in range(20):
        query = {"dir": "f", "limit": 7} | ({"from": token} if token else {})
        page = alice.get(f"/rooms/{quote(room_id)}/messages", **query).json
        seen += bodies(page)
        token = page.get("end")
        if token is None:
            break

    assert seen == [f"m{number}" for number in range(25)]


def test_state_that_says_the_same_again_answers_the_same_event(alice: User) -> None:
    room_id = alice.create_room()
    path = f"/rooms/{quote(room_id)}/state/m.room.topic/"

    first = alice.put(path, {"topic": "one"}).json
    again = alice.put(path, {"topic": "one"}).json
    other = alice.put(path, {"topic": "two"}).json

    assert first == again != other
    assert alice.get(f"/rooms/{quote(room_id)}/state/m.room.topic").json == {"topic": "two"}
    event = alice.get(f"/rooms/{quote(room_id)}/state/m.room.topic", format="event").json
    assert event["unsigned"]["prev_content"] == {"topic": "one"}


def test_a_stranger_can_neither_read_nor_speak(alice: User, bob: User) -> None:
    plain_id = alice.create_room()
    event_id = alice.send(plain_id, "secret")
    room_id = quote(plain_id)

    replies = [
        bob.get(f"/rooms/{room_id}/messages", dir="b"),
        bob.get(f"/rooms/{room_id}/state"),
        bob.get(f"/rooms/{room_id}/state/m.room.name"),
        bob.get(f"/rooms/{room_id}/members"),
        bob.get(f"/rooms/{room_id}/joined_members"),
        bob.put(f"/rooms/{room_id}/send/m.room.message/t", {"body": "x"}),
        bob.put(f"/rooms/{room_id}/state/m.room.name/", {"name": "x"}),
        bob.put(f"/rooms/{room_id}/redact/{quote(event_id)}/t", {}),
    ]

    assert [(r.status, r.errcode) for r in replies] == [(403, "M_FORBIDDEN")] * len(replies)
    for room in (room_id, quote("!unknown:hs.test")):  # this one knows no other refusal
        event = bob.get(f"/rooms/{room}/event/{quote(event_id)}")
        assert (event.status, event.errcode) == (404, "M_NOT_FOUND")


def test_a_member_without_the_power_cannot_change_state(bob: User, room_id: str) -> None:
    reply = bob.put(f"/rooms/{quote(room_id)}/state/m.room.name/", {"name": "Bob's"})

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


def test_a_redacted_message_has_lost_its_content_everywhere(
    alice: User, bob: User, room_id: str
) -> None:
    event_id = alice.send(room_id, "regret")

    reply = alice.put(
        f"/rooms/{quote(room_id)}/redact/{quote(event_id)}/t1", {"reason": "too much"}
    )

    assert reply.status == 200
    event = bob.get(f"/rooms/{quote(room_id)}/event/{quote(event_id)}").json
    assert event["content"] == {}
    because = event["unsigned"]["redacted_because"]
    assert because["event_id"] == reply.json["event_id"]
    assert because["content"]["reason"] == "too much"
    page = bob.get(f"/rooms/{quote(room_id)}/messages", dir="b", limit=20).json
    assert "regret" not in str(page)


def test_a_redaction_stays_after_a_restart(both_versions: Homeserver, alice: User) -> None:
    room_id = alice.create_room()
    event_id = alice.send(room_id, "regret")
    alice.put(f"/rooms/{quote(room_id)}/redact/{quote(event_id)}/t1", {})

    alice.homeserver = both_versions.restart()

    event = alice.get(f"/rooms/{quote(room_id)}/event/{quote(event_id)}").json
    assert event["content"] == {}


def test_one_member_cannot_redact_the_words_of_another(
    alice: User, bob: User, room_id: str
) -> None:
    event_id = alice.send(room_id, "mine")

    reply = bob.put(f"/rooms/{quote(room_id)}/redact/{quote(event_id)}/t1", {})

    assert reply.status == 403
    event = alice.get(f"/rooms/{quote(room_id)}/event/{quote(event_id)}").json
    assert event["content"]["body"] == "mine"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ({"body": "x" * 70_000}, 413),
        ({"body": 1.5}, 400),
        ({"body": 2**60}, 400),
    ],
)
def test_attack_3_an_event_beyond_the_limits_is_refused(
    alice: User, content: Any, status: int
) -> None:
    room_id = alice.create_room()

    reply = alice.put(f"/rooms/{quote(room_id)}/send/m.room.message/t1", content)

    assert reply.status == status
    assert alice.send(room_id, "still fine")


def test_attack_14_ids_are_matched_before_they_are_decoded(alice: User) -> None:
    reply = alice.get("/rooms/%21a%2Fstate%2Fx/state")

    assert reply.status == 403


def test_a_commit_that_fails_leaves_nothing_and_the_room_goes_on(
    both_versions: Homeserver, alice: User
) -> None:
    room_id = alice.create_room()
    both_versions.database.fail_at = 3

    reply = alice.put(f"/rooms/{quote(room_id)}/send/m.room.message/t1", {"body": "lost"})

    assert reply.status == 503
    event_id = alice.send_event(room_id, "m.room.message", {"body": "kept"}, txn_id="t1")
    page = alice.get(f"/rooms/{quote(room_id)}/messages", dir="b", limit=50).json
    assert bodies(page) == ["kept"]
    assert page["chunk"][0]["event_id"] == event_id


def test_a_state_that_the_rooms_rules_do_not_allow_is_invalid(alice: User) -> None:
    levels = {"users": {alice.user_id: 10}}

    reply = alice.post("/createRoom", {"name": "Tea", "power_level_content_override": levels})

    assert (reply.status, reply.errcode) == (400, "M_INVALID_ROOM_STATE")


def test_a_refused_room_leaves_its_alias_free(alice: User, bob: User) -> None:
    wish = {
        "room_alias_name": "tea",
        "invite": [bob.user_id],
        "power_level_content_override": {"users": {bob.user_id: "x"}},
    }
    assert alice.post("/createRoom", wish).errcode == "M_BAD_JSON"
    state = [{"type": "m.room.create", "content": {}}]
    refused = {"room_alias_name": "tea", "initial_state": state}
    assert alice.post("/createRoom", refused).status == 400

    assert alice.create_room(room_alias_name="tea")


def test_a_redaction_and_a_message_may_have_the_same_transaction_id(alice: User) -> None:
    room_id = alice.create_room()
    event_id = alice.send(room_id, "regret", txn_id="1")

    reply = alice.put(f"/rooms/{quote(room_id)}/redact/{quote(event_id)}/1", {})

    assert reply.json["event_id"] != event_id
    event = alice.get(f"/rooms/{quote(room_id)}/event/{quote(event_id)}").json
    assert event["content"] == {}


def test_a_transaction_id_is_known_after_more_than_memory_keeps(
    both_versions: Homeserver, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent_transactions, "_MAX_PER_DEVICE", 10)
    room_id = alice.create_room()
    first = alice.send(room_id, "once", txn_id="first")
    for number in range(11):
        alice.send(room_id, f"m{number}")

    again = alice.put(f"/rooms/{quote(room_id)}/send/m.room.message/first", {"body": "twice"})

    assert again.json == {"event_id": first}
    alice.homeserver = both_versions.restart()
    assert alice.send(room_id, "twice", txn_id="first") == first


def test_a_transaction_id_of_yesterday_makes_a_new_event(
    both_versions: Homeserver, alice: User
) -> None:
    room_id = alice.create_room()
    first = alice.send(room_id, "yesterday", txn_id="t")
    alice.homeserver = both_versions.restart()
    alice.homeserver.reactor.rightNow = 25 * 3600.0

    second = alice.send(room_id, "today", txn_id="t")

    assert second != first
    assert alice.send(room_id, "today", txn_id="t") == second


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("state/{long}/", 413),
        ("state/org.example/{long}", 413),
        ("send/{long}/t", 413),
        ("send/m.room.message/{long}", 413),
    ],
)
def test_attack_13_a_name_too_long_for_an_index_is_refused(
    alice: User, path: str, status: int
) -> None:
    room_id = alice.create_room()
    long = "".join(chr(33 + (7 * n * n + 3 * n) % 90) for n in range(8000))

    reply = alice.put(f"/rooms/{quote(room_id)}/{path.format(long=quote(long, safe=''))}", {})

    assert reply.status == status
    assert alice.send(room_id, "still fine")


@pytest.mark.parametrize("state", [{"type": "a\x00b"}, {"type": "a", "state_key": "\x00"}])
def test_attack_13_a_nul_in_a_name_is_refused(alice: User, state: dict[str, str]) -> None:
    reply = alice.post("/createRoom", {"initial_state": [{"content": {}, **state}]})

    assert (reply.status, reply.errcode) == (400, "M_BAD_JSON")


@pytest.mark.parametrize(
    ("content", "errcode"),
    [
        ({"alias": "#tea:hs.test"}, None),
        ({"alias": "#tea:hs.test", "alt_aliases": ["#tea:hs.test"]}, None),
        ({"alias": ""}, None),
        ({"alias": "#nowhere:hs.test"}, "M_BAD_ALIAS"),
        ({"alias": "#other:hs.test"}, "M_BAD_ALIAS"),
        ({"alt_aliases": ["#other:hs.test"]}, "M_BAD_ALIAS"),
        ({"alias": "tea"}, "M_INVALID_PARAM"),
        ({"alias": "#" + "x" * 300 + ":hs.test"}, "M_INVALID_PARAM"),
        ({"alt_aliases": [5]}, "M_INVALID_PARAM"),
    ],
)
def test_a_canonical_alias_must_lead_to_its_room(
    alice: User, content: Any, errcode: str | None
) -> None:
    room_id = alice.create_room()
    alice.put(f"/directory/room/{quote('#tea:hs.test')}", {"room_id": room_id})
    alice.create_room(room_alias_name="other")

    reply = alice.put(f"/rooms/{quote(room_id)}/state/m.room.canonical_alias/", content)

    assert (reply.status, reply.errcode) == ((200, None) if errcode is None else (400, errcode))


def test_a_canonical_alias_goes_with_the_alias(alice: User) -> None:
    room_id = alice.create_room(room_alias_name="tea")
    named = f"/rooms/{quote(room_id)}/state/m.room.canonical_alias/"
    for name in ("milk", "sugar"):
        alice.put(f"/directory/room/{quote(f'#{name}:hs.test')}", {"room_id": room_id})
    others = ["#milk:hs.test", "#sugar:hs.test"]
    alice.put(named, {"alias": "#tea:hs.test", "alt_aliases": others})

    for name in ("tea", "milk"):
        assert alice.request("DELETE", f"/directory/room/{quote(f'#{name}:hs.test')}").status == 200

    assert alice.get(named).json == {"alt_aliases": ["#sugar:hs.test"]}


def test_a_canonical_alias_whose_alias_is_gone_may_stay(
    alice: User, bob: User, room_id: str
) -> None:
    content = {"alias": "#tea:hs.test", "alt_aliases": []}
    bob.put(f"/directory/room/{quote('#tea:hs.test')}", {"room_id": room_id})
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.canonical_alias/", {"alias": "#tea:hs.test"})
    # Bob may delete what he made, but not set the canonical alias.
    assert bob.request("DELETE", f"/directory/room/{quote('#tea:hs.test')}").status == 200

    reply = alice.put(f"/rooms/{quote(room_id)}/state/m.room.canonical_alias/", content)

    assert reply.status == 200


def test_a_malformed_canonical_alias_can_be_mended(alice: User) -> None:
    state = [{"type": "m.room.canonical_alias", "content": {"alias": 5, "alt_aliases": [{}]}}]
    room_id = alice.create_room(initial_state=state)

    reply = alice.put(f"/rooms/{quote(room_id)}/state/m.room.canonical_alias/", {})

    assert reply.status == 200
