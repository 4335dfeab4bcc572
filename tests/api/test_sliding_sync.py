"""Sliding sync through the API: lists, rooms, connections."""

from typing import Any
from urllib.parse import quote

from tests.api.sliding import (
    EVERY_STATE,
    ask,
    poll,
    room_list,
    slide,
    slots,
    subscription,
    texts,
)
from tests.homeserver import Homeserver, User

LAZY = [["m.room.member", "$LAZY"]]


def test_versions_say_that_sliding_sync_is_there(alice: User) -> None:
    features = alice.get("/_matrix/client/versions").json["unstable_features"]

    assert features["org.matrix.simplified_msc3575"] is True


def test_a_growing_window_tells_each_room_once(alice: User) -> None:
    rooms = [alice.create_room(name=f"room {number}") for number in range(5)]
    state = [["m.room.name", ""], ["m.room.member", "$ME"]]

    first = slide(alice, room_list(1, state=state))
    second = slide(alice, room_list(3, state=state), first["pos"])
    third = slide(alice, room_list(99, state=state), second["pos"])

    assert first["lists"]["all_rooms"]["count"] == 5
    assert list(first["rooms"]) == [rooms[4], rooms[3]]
    assert list(second["rooms"]) == [rooms[2], rooms[1]]
    assert list(third["rooms"]) == [rooms[0]]
    room = third["rooms"][rooms[0]]
    assert room["initial"] is True
    assert room["name"] == "room 0"
    assert room["membership"] == "join"
    assert room["joined_count"] == 1
    assert slots(room) == {("m.room.name", ""), ("m.room.member", alice.user_id)}
    assert len(room["timeline"]) == 1
    assert room["limited"] is True
    assert room["num_live"] == 0


def test_a_message_lifts_its_room_into_the_window_with_a_live_event(alice: User, bob: User) -> None:
    old = alice.create_room(preset="public_chat")
    new = alice.create_room(preset="public_chat")
    bob.join(old)
    bob.join(new)
    first = slide(alice, room_list(0))
    assert list(first["rooms"]) == [new]
    pending = poll(alice, room_list(0), first["pos"])
    assert not pending.answered

    bob.send(old, "hello")

    response = pending.reply().json
    assert list(response["rooms"]) == [old]
    room = response["rooms"][old]
    assert texts(room) == ["hello"]
    assert room["num_live"] == 1
    assert room["initial"] is True


def test_only_what_is_new_is_told_of_a_known_room(alice: User, bob: User) -> None:
    room_id = alice.meet(bob, name="Tea")
    first = slide(alice, room_list(state=EVERY_STATE))

    bob.send(room_id, "one")
    bob.put(f"/rooms/{quote(room_id)}/typing/{bob.user_id}", {"typing": True})
    room = slide(alice, room_list(5, timeline_limit=1, state=EVERY_STATE), first["pos"])["rooms"][
        room_id
    ]

    assert texts(room) == ["one"]
    assert room["limited"] is False
    assert room["bump_stamp"] > first["rooms"][room_id]["bump_stamp"]
    assert not {"name", "joined_count", "required_state", "initial", "membership"} & room.keys()


def test_changed_state_is_told_and_its_summary_too(alice: User) -> None:
    room_id = alice.create_room(name="Tea")
    body = room_list(state=[["m.room.name", ""]])
    first = slide(alice, body)

    alice.put(f"/rooms/{quote(room_id)}/state/m.room.name/", {"name": "Coffee"})
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": "untold"})
    second = slide(alice, body, first["pos"])
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.name/", {})
    third = slide(alice, body, second["pos"])

    room = second["rooms"][room_id]
    assert room["name"] == "Coffee"
    assert [e["content"] for e in room["required_state"]] == [{"name": "Coffee"}]
    assert room["limited"] is True
    assert third["rooms"][room_id]["name"] is None


def test_of_the_summary_only_what_differs_is_told(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat", name="Tea")
    pos = slide(alice, room_list())["pos"]
    alice.send(room_id, "no change of state")
    pos = slide(alice, room_list(), pos)["pos"]
    bob.join(room_id)

    room = slide(alice, room_list(), pos)["rooms"][room_id]

    assert room["joined_count"] == 2
    assert not {"name", "invited_count", "avatar"} & room.keys()


def test_unread_counts_follow_messages_and_receipts(alice: User, bob: User, room_id: str) -> None:
    first = slide(alice, room_list())
    pending = poll(alice, room_list(), first["pos"])
    event_id = bob.send(room_id, f"hello {alice.user_id}")
    second = pending.reply().json
    pending = poll(alice, room_list(), second["pos"])
    alice.post(f"/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}", {})
    third = pending.reply().json
    alice.send(room_id, "mine")
    fourth = slide(alice, room_list(), third["pos"])

    def count(response: Any) -> Any:
        return response["rooms"][room_id].get("notification_count")

    assert [count(r) for r in (first, second, third, fourth)] == [0, 1, 0, None]
    assert third["rooms"][room_id]["highlight_count"] == 0


def test_a_request_repeated_with_the_same_pos_is_answered_again(
    alice: User, bob: User, room_id: str
) -> None:
    first = slide(alice, room_list())
    bob.send(room_id, "one")

    lost = slide(alice, room_list(), first["pos"])
    again = slide(alice, room_list(), first["pos"])

    assert texts(lost["rooms"][room_id]) == texts(again["rooms"][room_id]) == ["one"]
    after = slide(alice, room_list(), again["pos"])
    assert after["rooms"] == {}


def test_a_pos_is_forgotten_when_its_answer_has_been_used(alice: User) -> None:
    first = slide(alice, room_list())
    second = slide(alice, room_list(), first["pos"])
    slide(alice, room_list(), second["pos"])

    reply = ask(alice, room_list(), first["pos"])

    assert (reply.status, reply.errcode) == (400, "M_UNKNOWN_POS")


def test_the_pos_of_another_user_or_device_or_connection_is_unknown(alice: User, bob: User) -> None:
    pos = slide(alice, room_list())["pos"]
    other_connection = {**room_list(), "conn_id": "other"}

    replies = [
        ask(bob, room_list(), pos),
        ask(alice.login_again(), room_list(), pos),
        ask(alice, other_connection, pos),
        ask(alice, room_list(), "s1_1_1_1_1_1_1"),
    ]

    assert [(r.status, r.errcode) for r in replies] == [(400, "M_UNKNOWN_POS")] * 4
    assert ask(alice, room_list(), pos).status == 200


def test_a_connection_is_gone_after_a_restart(both_versions: Homeserver, alice: User) -> None:
    pos = slide(alice, room_list())["pos"]

    restarted = both_versions.restart()
    again = alice.at(restarted)
    reply = ask(again, room_list(), pos)

    assert (reply.status, reply.errcode) == (400, "M_UNKNOWN_POS")
    restarted.stop()


def test_a_device_has_a_bounded_number_of_connections(alice: User) -> None:
    first = slide(alice, {**room_list(), "conn_id": "first"})["pos"]
    for number in range(16):
        slide(alice, {**room_list(), "conn_id": f"c{number}"})

    reply = ask(alice, {**room_list(), "conn_id": "first"}, first)

    assert reply.errcode == "M_UNKNOWN_POS"


def test_a_connection_expires_when_it_is_idle(both_versions: Homeserver, alice: User) -> None:
    pos = slide(alice, room_list())["pos"]

    both_versions.advance(8 * 24 * 3600)

    assert ask(alice, room_list(), pos).errcode == "M_UNKNOWN_POS"


def test_without_news_the_answer_comes_at_the_timeout(
    both_versions: Homeserver, alice: User
) -> None:
    alice.create_room()
    pos = slide(alice, room_list())["pos"]
    pending = poll(alice, room_list(), pos, 10_000)

    both_versions.advance(9)
    assert not pending.answered
    both_versions.advance(2)

    assert pending.reply().json["rooms"] == {}


def test_a_request_that_is_cut_off_takes_nothing_away(alice: User, bob: User, room_id: str) -> None:
    pos = slide(alice, room_list())["pos"]
    pending = poll(alice, room_list(), pos)
    assert not pending.answered
    pending.disconnect()

    bob.send(room_id, "hello")

    assert texts(slide(alice, room_list(), pos)["rooms"][room_id]) == ["hello"]


def test_a_longer_timeline_is_told_at_once(alice: User) -> None:
    room_id = alice.create_room()
    for number in range(5):
        alice.send(room_id, str(number))
    first = slide(alice, room_list())
    assert texts(first["rooms"][room_id]) == ["4"]

    body = room_list() | subscription(room_id, timeline_limit=4)
    second = slide(alice, body, first["pos"])
    third = slide(alice, body, second["pos"])

    room = second["rooms"][room_id]
    assert texts(room) == ["1", "2", "3", "4"]
    assert room["expanded_timeline"] is True
    assert room["num_live"] == 0
    assert "initial" not in room
    assert third["rooms"] == {}


def test_a_timeline_that_the_client_has_is_not_told_again(alice: User) -> None:
    room_id = alice.create_room()
    first = slide(alice, room_list(timeline_limit=2))
    pos = first["pos"]
    for number in range(3):
        alice.send(room_id, str(number))
        pos = slide(alice, room_list(timeline_limit=2), pos)["pos"]

    response = slide(alice, room_list(timeline_limit=5), pos)

    assert response["rooms"] == {}


def test_more_required_state_is_told_at_once(alice: User) -> None:
    room_id = alice.create_room(name="Tea", topic="leaves")
    first = slide(alice, room_list(state=[["m.room.name", ""]]))

    body = room_list(state=[["m.room.name", ""], ["m.room.topic", ""]])
    second = slide(alice, body, first["pos"])
    third = slide(alice, body, second["pos"])

    assert slots(second["rooms"][room_id]) == {("m.room.topic", "")}
    assert "timeline" not in second["rooms"][room_id]
    assert third["rooms"] == {}


def test_lazy_members_are_told_once_when_they_speak(alice: User, bob: User, room_id: str) -> None:
    alice.send(room_id, "first")
    first = slide(alice, room_list(state=LAZY))
    assert slots(first["rooms"][room_id]) == {("m.room.member", alice.user_id)}

    bob.send(room_id, "two")
    second = slide(alice, room_list(state=LAZY), first["pos"])
    bob.send(room_id, "three")
    third = slide(alice, room_list(state=LAZY), second["pos"])

    assert slots(second["rooms"][room_id]) == {("m.room.member", bob.user_id)}
    assert "required_state" not in third["rooms"][room_id]


def test_every_state_but_members_with_lazy_loading(alice: User, room_id: str) -> None:
    alice.send(room_id, "hello")

    room = slide(alice, room_list(state=[["*", "*"], *LAZY]))["rooms"][room_id]

    told = slots(room)
    assert {("m.room.create", ""), ("m.room.join_rules", "")} <= told
    assert {slot for slot in told if slot[0] == "m.room.member"} == {
        ("m.room.member", alice.user_id)
    }


def test_required_state_in_the_form_of_the_proposal(alice: User, bob: User) -> None:
    room_id = alice.meet(bob, name="Tea")
    body = {
        "lists": {
            "a": {
                "range": [0, 9],
                "timeline_limit": 1,
                "required_state": {
                    "include": [{}],
                    "exclude": [{"type": "m.room.create", "state_key": ""}],
                },
            }
        }
    }

    room = slide(alice, body)["rooms"][room_id]

    told = slots(room)
    assert ("m.room.create", "") not in told
    assert {("m.room.name", ""), ("m.room.member", bob.user_id)} <= told
    assert room["lists"] == ["a"]


def test_a_room_without_a_name_has_heroes(alice: User, bob: User, room_id: str) -> None:
    bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Bob"})

    room = slide(alice, room_list())["rooms"][room_id]

    assert "name" not in room
    assert room["heroes"] == [{"user_id": bob.user_id, "displayname": "Bob"}]
    assert (room["joined_count"], room["invited_count"]) == (2, 0)


def test_bump_stamps_ignore_what_is_no_activity(alice: User) -> None:
    room_id = alice.create_room()
    alice.send(room_id, "activity")
    first = slide(alice, room_list())

    alice.send_event(room_id, "org.example.other", {})
    room = slide(alice, room_list(), first["pos"])["rooms"][room_id]

    assert "bump_stamp" not in room
    assert len(room["timeline"]) == 1


def test_prev_batch_and_pos_serve_for_messages(alice: User) -> None:
    room_id = alice.create_room()
    for number in range(3):
        alice.send(room_id, str(number))
    response = slide(alice, room_list())
    room = response["rooms"][room_id]
    path = f"/rooms/{quote(room_id)}/messages"

    before = alice.get(path, dir="b", **{"from": room["prev_batch"]}, limit=1).json["chunk"]
    newest = alice.get(path, dir="b", **{"from": response["pos"]}, limit=1).json["chunk"]

    assert [e["content"]["body"] for e in before] == ["1"]
    assert [e["content"]["body"] for e in newest] == ["2"]


def test_wrong_requests_are_refused(alice: User) -> None:
    room_id = alice.create_room()
    wrong = [
        {"lists": {"a": {"required_state": [], "timeline_limit": -1}}},
        {"lists": {"a": {"required_state": ["m.room.name"], "timeline_limit": 1}}},
        {"lists": {"a": {"required_state": [], "timeline_limit": 1, "range": [5, 1]}}},
        {"lists": {f"l{n}": room_list()["lists"]["all_rooms"] for n in range(101)}},
        {"room_subscriptions": {room_id: {"timeline_limit": 1, "required_state": 7}}},
        {"extensions": {"to_device": {"enabled": True, "since": "abc"}}},
    ]

    replies = [ask(alice, body) for body in wrong]

    assert [(r.status, r.errcode) for r in replies] == [(400, "M_INVALID_PARAM")] * len(wrong)


def test_the_usual_answer_reads_nothing_from_the_database(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    body = room_list(state=[["m.room.name", ""], *LAZY], not_room_types=["m.space"]) | {
        "extensions": {
            name: {"enabled": True}
            for name in ("account_data", "receipts", "typing", "to_device", "e2ee")
        }
    }
    first = slide(alice, body)
    bob.send(room_id, "one")
    second = slide(alice, body, first["pos"])
    pending = poll(alice, body, second["pos"])
    bob.send(room_id, "two")
    pending.reply()
    bob.send(room_id, "three")

    statements = both_versions.database.statements
    statements.clear()
    response = slide(alice, body, pending.reply().json["pos"])

    assert texts(response["rooms"][room_id]) == ["three"]
    assert statements == []


def test_ranges_that_overlap_show_each_room_once_and_in_order(alice: User) -> None:
    rooms = [alice.create_room() for _ in range(6)][::-1]
    body = room_list()
    body["lists"]["all_rooms"]["ranges"] = [[3, 4], [0, 0], [0, 1], [3, 3], [9, 9]]

    found = slide(alice, body)

    assert list(found["rooms"]) == [rooms[0], rooms[1], rooms[3], rooms[4]]
    assert found["lists"]["all_rooms"]["count"] == 6


def test_a_filter_may_name_tags_that_no_room_has(alice: User) -> None:
    plain, tagged = alice.create_room(), alice.create_room()
    alice.put(f"/user/{alice.user_id}/rooms/{tagged}/tags/u.tea", {})
    both = [tagged, plain]

    for chosen, expected in (
        ({"tags": ["u.tea", "u.no"]}, [tagged]),
        ({"tags": ["u.no"]}, []),
        ({"not_tags": ["u.tea"]}, [plain]),
        ({"not_tags": ["u.no"]}, both),
        ({"room_types": [None], "not_room_types": ["m.space"]}, both),
        ({"room_types": ["m.space"]}, []),
        ({"not_room_types": [None]}, []),
    ):
        assert list(slide(alice, room_list(**chosen))["rooms"]) == expected
