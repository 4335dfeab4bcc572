"""Delayed events: handing them in, and managing them until they are sent."""

from urllib.parse import quote

import pytest

from tests.api.delaying import (
    DAY_MS,
    DELAY,
    PREFIX,
    act,
    delay,
    delay_state,
    get_one,
    hand_in,
    scheduled,
    set_state,
    state_of,
    texts,
)
from tests.homeserver import START_MS, Homeserver, User


class TestHandingIn:
    def test_an_event_is_sent_when_its_delay_is_over_and_not_before(
        self, alice: User, room_id: str
    ) -> None:
        delay(alice, room_id, "later", 10_000)

        alice.homeserver.advance(9.999)
        before = texts(alice, room_id)
        alice.homeserver.advance(0.01)

        assert before == []
        assert texts(alice, room_id) == ["later"]
        assert scheduled(alice) == []

    def test_a_state_event_is_set_when_its_delay_is_over(self, alice: User, room_id: str) -> None:
        set_state(alice, room_id, "alice", {"in": "call"})
        delay_state(alice, room_id, "alice", {})

        alice.homeserver.advance(9)
        before = state_of(alice, room_id, "alice")
        alice.homeserver.advance(2)

        assert before == {"in": "call"}
        assert state_of(alice, room_id, "alice") == {}

    def test_the_endpoint_of_its_own_takes_messages_and_states(
        self, alice: User, room_id: str
    ) -> None:
        path = f"{PREFIX}/rooms/{quote(room_id)}/delayed_event"
        message = {"delay_ms": 1000, "content": {"msgtype": "m.text", "body": "later"}}
        state = {"delay_ms": 1000, "content": {"x": 1}, "state_key": "k"}

        first = alice.put(f"{path}/m.room.message/t1", message)
        again = alice.put(f"{path}/m.room.message/t1", message)
        second = alice.put(f"{path}/org.example.call/t2", state)
        alice.homeserver.advance(1.1)

        assert first.status == second.status == 200
        assert first.json == again.json
        assert texts(alice, room_id) == ["later"]
        assert state_of(alice, room_id, "k") == {"x": 1}

    def test_a_repeated_transaction_answers_the_first_delay_id(
        self, alice: User, room_id: str
    ) -> None:
        first = hand_in(alice, room_id, "once", txn_id="t")
        again = hand_in(alice, room_id, "once", txn_id="t")
        other = hand_in(alice, room_id, "once more", txn_id="u")

        alice.homeserver.advance(11)

        assert first.json == again.json != other.json
        assert texts(alice, room_id) == ["once", "once more"]

    @pytest.mark.parametrize("delay_ms", ["0", "-1", "soon", ""])
    def test_a_delay_is_a_positive_number(self, alice: User, room_id: str, delay_ms: str) -> None:
        path = f"/rooms/{quote(room_id)}/send/m.room.message/t1"

        reply = alice.request("PUT", path, {"body": "x"}, query={DELAY: delay_ms})

        assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")
        assert texts(alice, room_id) == []

    def test_too_long_a_delay_is_refused_with_the_longest(self, alice: User, room_id: str) -> None:
        reply = hand_in(alice, room_id, "in two days", 2 * DAY_MS)

        assert (reply.status, reply.errcode) == (400, "ORG.MATRIX.MSC4140_DELAY_TOO_LARGE")
        assert reply.json["org.matrix.msc4140.errcode"] == "M_MAX_DELAY_EXCEEDED"
        assert reply.json["org.matrix.msc4140.max_delay"] == DAY_MS
        assert hand_in(alice, room_id, "in one day", DAY_MS).status == 200

    def test_only_who_is_in_the_room_hands_in(self, alice: User, bob: User, room_id: str) -> None:
        assert hand_in(bob, room_id, "hello").status == 403
        assert hand_in(alice, "!unknown:hs.test", "hello").status == 403

    @pytest.mark.parametrize(
        ("event_type", "content", "status"),
        [
            ("m.room.message", {"body": "x" * 70_000}, 413),
            ("m.room.message", {"body": 1.5}, 400),
            ("t" * 300, {"body": "x"}, 413),
            ("a%00b", {"body": "x"}, 400),
        ],
    )
    def test_what_can_never_be_an_event_is_refused_at_once(
        self, alice: User, room_id: str, event_type: str, content: object, status: int
    ) -> None:
        path = f"/rooms/{quote(room_id)}/send/{event_type}/t1"

        reply = alice.request("PUT", path, content, query={DELAY: 1000})

        assert reply.status == status
        assert scheduled(alice) == []

    def test_the_versions_and_capabilities_say_what_is_taken(self, alice: User) -> None:
        versions = alice.get("/_matrix/client/versions").json
        capabilities = alice.get("/capabilities").json["capabilities"]

        assert versions["unstable_features"]["org.matrix.msc4140"] is True
        assert capabilities["org.matrix.msc4140.delayed_events"] == {
            "max_delay_ms": DAY_MS,
            "max_scheduled": 100,
        }

    def test_without_the_setting_nothing_is_taken_sent_or_advertised(
        self, homeserver: Homeserver
    ) -> None:
        alice = homeserver.register("alice")
        room_id = alice.create_room()

        reply = hand_in(alice, room_id, "later", 1000)
        homeserver.advance(2)

        assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")
        assert texts(alice, room_id) == []
        features = alice.get("/_matrix/client/versions").json["unstable_features"]
        assert "org.matrix.msc4140" not in features
        capabilities = alice.get("/capabilities").json["capabilities"]
        assert "org.matrix.msc4140.delayed_events" not in capabilities


class TestManaging:
    def test_a_restart_begins_the_delay_anew(self, alice: User, room_id: str) -> None:
        delay_id = delay(alice, room_id, "gone", 10_000)

        for _ in range(3):
            alice.homeserver.advance(9)
            assert act(alice, delay_id, "restart").status == 200
        shown = get_one(alice, delay_id)
        alice.homeserver.advance(9)
        before = texts(alice, room_id)
        alice.homeserver.advance(1.1)

        assert shown["delayed_since_ts"] == START_MS + 27_000
        assert before == []
        assert texts(alice, room_id) == ["gone"]

    def test_a_cancelled_event_is_never_sent(self, alice: User, room_id: str) -> None:
        delay_id = delay(alice, room_id, "never")

        assert act(alice, delay_id, "cancel").status == 200
        assert act(alice, delay_id, "cancel").status == 200
        alice.homeserver.advance(20)

        assert texts(alice, room_id) == []
        assert scheduled(alice) == []
        assert get_one(alice, delay_id)["finalised"] == {"finalised_ts": START_MS}

    def test_an_event_can_be_sent_at_once_and_is_sent_once(self, alice: User, room_id: str) -> None:
        delay_id = delay(alice, room_id, "now")

        assert act(alice, delay_id, "send").status == 200
        assert act(alice, delay_id, "send").status == 200
        alice.homeserver.advance(20)

        assert texts(alice, room_id) == ["now"]

    @pytest.mark.parametrize(
        ("done", "wanted"),
        [("send", "cancel"), ("send", "restart"), ("cancel", "send"), ("cancel", "restart")],
    )
    def test_what_comes_too_late_is_a_conflict(
        self, alice: User, room_id: str, done: str, wanted: str
    ) -> None:
        delay_id = delay(alice, room_id, "x")
        act(alice, delay_id, done)

        reply = act(alice, delay_id, wanted)

        assert (reply.status, reply.errcode) == (409, "M_NOT_FOUND")

    def test_an_earlier_revision_names_the_action_in_the_body(
        self, alice: User, room_id: str
    ) -> None:
        delay_id = delay(alice, room_id, "x")
        path = f"{PREFIX}/delayed_events/{delay_id}"

        assert alice.post(path, {}).errcode == "M_MISSING_PARAM"
        assert alice.post(path, {"action": "sing"}).status == 400
        assert alice.post(path, {"action": "restart"}).status == 200
        assert alice.post(path, {"action": "send"}).status == 200

        assert texts(alice, room_id) == ["x"]

    def test_whoever_knows_the_id_may_manage_without_a_token(
        self, alice: User, room_id: str
    ) -> None:
        delay_id = delay(alice, room_id, "the call's server says that you are gone")

        reply = alice.homeserver.request("POST", f"{PREFIX}/delayed_events/{delay_id}/send")

        assert reply.status == 200
        assert len(texts(alice, room_id)) == 1

    @pytest.mark.parametrize("action", ["send", "cancel", "restart"])
    def test_another_user_neither_sees_nor_manages_it(
        self, alice: User, bob: User, room_id: str, action: str
    ) -> None:
        delay_id = delay(alice, room_id, "mine")

        refused = act(bob, delay_id, action)

        assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")
        assert bob.get(f"{PREFIX}/delayed_events/{delay_id}").status == 404
        assert scheduled(bob) == []
        assert [one["delay_id"] for one in scheduled(alice)] == [delay_id]

    @pytest.mark.parametrize("delay_id", ["unknown", quote("ü" * 500)])
    def test_an_unknown_id_is_not_found(self, alice: User, delay_id: str) -> None:
        assert act(alice, delay_id, "send").status == 404
        assert alice.get(f"{PREFIX}/delayed_events/{delay_id}").status == 404

    def test_a_send_that_is_refused_leaves_it_scheduled(
        self, alice: User, bob: User, room_id: str
    ) -> None:
        bob.join(room_id)
        delay_id = delay(bob, room_id, "let me in")
        bob.post(f"/rooms/{quote(room_id)}/leave", {})

        refused = act(bob, delay_id, "send")
        bob.join(room_id)

        assert refused.status == 403
        assert act(bob, delay_id, "send").status == 200
        assert texts(bob, room_id) == ["let me in"]

    def test_they_are_listed_as_they_will_be_sent(self, alice: User, room_id: str) -> None:
        last = delay(alice, room_id, "last", 30_000)
        first = delay_state(alice, room_id, "k", {"x": 1}, 10_000)
        second = delay(alice, room_id, "second", 20_000)

        found = scheduled(alice)

        assert [one["delay_id"] for one in found] == [first, second, last]
        assert found[0] == {
            "delay_id": first,
            "room_id": room_id,
            "type": "org.example.call",
            "state_key": "k",
            "content": {"x": 1},
            "delay_ms": 10_000,
            "delayed_since_ts": START_MS,
            "delay": 10_000,
            "running_since": START_MS,
        }
        assert get_one(alice, first) == found[0]
