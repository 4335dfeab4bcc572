"""Delayed events: handing them in, managing them, and that they are sent in time and once."""

import dataclasses
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.identifiers import ServerName
from homeserver.services.appservices import Appservice
from tests.api.delaying import (
    CONFIG,
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
from tests.api.test_appservices import GHOST, REGISTRATION, ask, room_with_ghost
from tests.database import InlineDatabase
from tests.homeserver import START_MS, Homeserver, User


@pytest.fixture(params=["11", "12"])
def server(request: pytest.FixtureRequest, database: InlineDatabase) -> Iterator[Homeserver]:
    section = dataclasses.replace(CONFIG.server, default_room_version=request.param)
    homeserver = Homeserver(database, dataclasses.replace(CONFIG, server=section))
    yield homeserver
    homeserver.stop()


@pytest.fixture
def alice(server: Homeserver) -> User:
    return server.register("alice")


@pytest.fixture
def bob(server: Homeserver) -> User:
    return server.register("bob")


@pytest.fixture
def room_id(alice: User) -> str:
    """A room of alice's in which everybody may set the state of a call."""
    return alice.create_room(
        preset="public_chat",
        power_level_content_override={"events": {"org.example.call": 0}},
    )


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


class TestSending:
    def test_its_sender_alone_is_told_the_delay_id(
        self, alice: User, bob: User, room_id: str
    ) -> None:
        bob.join(room_id)
        delay_id = delay(alice, room_id, "later")
        alice.homeserver.advance(11)
        name = "org.matrix.msc4140.delay_id"

        def unsigned(user: User) -> Any:
            path = f"/rooms/{quote(room_id)}/messages"
            (event,) = user.get(path, dir="b", limit=1).json["chunk"]
            return event["unsigned"]

        before = unsigned(alice), unsigned(alice.login_again()), unsigned(bob)
        alice.homeserver.advance(3 * 24 * 3600)
        alice.homeserver = bob.homeserver = alice.homeserver.restart()
        after = unsigned(alice), unsigned(bob)

        assert [one.get(name) for one in before] == [delay_id, delay_id, None]
        assert [one.get(name) for one in after] == [delay_id, None]
        assert "transaction_id" not in before[0]
        alice.homeserver.stop()

    def test_a_redaction_can_be_delayed(self, alice: User, room_id: str) -> None:
        event_id = alice.send(room_id, "this text destroys itself")
        path = f"/rooms/{quote(room_id)}/send/m.room.redaction/t"
        alice.request("PUT", path, {"redacts": event_id}, query={DELAY: 5000})

        alice.homeserver.advance(6)

        event = alice.get(f"/rooms/{quote(room_id)}/event/{quote(event_id)}").json
        assert event["content"] == {}

    def test_what_the_room_refuses_is_finalised_with_the_error(
        self, alice: User, bob: User, room_id: str
    ) -> None:
        bob.join(room_id)
        delay_id = delay(bob, room_id, "too late")
        alice.post(f"/rooms/{quote(room_id)}/kick", {"user_id": bob.user_id})

        alice.homeserver.advance(11)

        finalised = get_one(bob, delay_id)["finalised"]
        assert finalised["error"]["errcode"] == "M_FORBIDDEN"
        assert finalised["finalised_ts"] == START_MS + 11_000
        assert scheduled(bob) == []

    def test_power_counts_when_it_is_sent(self, alice: User, bob: User) -> None:
        room_id = alice.create_room(preset="public_chat")
        bob.join(room_id)
        delay_id = delay_state(bob, room_id, "", {"x": 1})
        alice.homeserver.advance(11)

        assert get_one(bob, delay_id)["finalised"]["error"]["errcode"] == "M_FORBIDDEN"

    def test_what_was_sent_is_finalised_with_the_event(self, alice: User, room_id: str) -> None:
        delay_id = delay(alice, room_id, "later")

        alice.homeserver.advance(11)

        event_id = get_one(alice, delay_id)["finalised"]["event_id"]
        event = alice.get(f"/rooms/{quote(room_id)}/event/{quote(event_id)}").json
        assert event["content"]["body"] == "later"

    def test_another_users_newer_state_cancels_it_at_once(
        self, alice: User, bob: User, room_id: str
    ) -> None:
        bob.join(room_id)
        delay_id = delay_state(bob, room_id, "chair", {"who": "bob"})
        kept = delay_state(bob, room_id, "table", {"who": "bob"})

        set_state(alice, room_id, "chair", {"who": "alice"})

        assert [one["delay_id"] for one in scheduled(bob)] == [kept]
        error = get_one(bob, delay_id)["finalised"]["error"]
        assert error["errcode"] == "ORG.MATRIX.MSC4140_CANCELLED_BY_STATE_UPDATE"
        bob.homeserver.advance(11)
        assert state_of(bob, room_id, "chair") == {"who": "alice"}
        assert state_of(bob, room_id, "table") == {"who": "bob"}

    def test_the_users_own_newer_state_does_not_cancel_it(self, alice: User, room_id: str) -> None:
        delay_state(alice, room_id, "alice", {"in": "no call"})

        set_state(alice, room_id, "alice", {"in": "call"})
        alice.homeserver.advance(11)

        assert state_of(alice, room_id, "alice") == {"in": "no call"}

    def test_a_membership_can_be_delayed_and_anothers_ban_cancels_it(
        self, alice: User, bob: User, room_id: str
    ) -> None:
        bob.join(room_id)
        member = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
        leaving = {"membership": "leave", "reason": "gone for long"}
        for _ in range(2):
            reply = bob.request("PUT", member, leaving, query={DELAY: 60_000})
            assert reply.status == 200

        act(bob, scheduled(bob)[0]["delay_id"], "send")
        alice.post(f"/rooms/{quote(room_id)}/ban", {"user_id": bob.user_id})
        alice.homeserver.advance(61)

        assert alice.get(member).json["membership"] == "ban"
        assert scheduled(bob) == []


class TestOwners:
    def test_an_event_outlives_the_session_that_handed_it_in(
        self, alice: User, room_id: str
    ) -> None:
        phone = alice.login_again()
        delay(phone, room_id, "I am gone")

        phone.post("/logout", {})
        alice.homeserver.advance(11)

        assert texts(alice, room_id) == ["I am gone"]

    def test_an_application_service_delays_for_its_users_and_chooses_the_time(
        self, database: InlineDatabase
    ) -> None:
        service = Appservice(REGISTRATION, ServerName("hs.test"))
        server = Homeserver(database, CONFIG, [service])
        alice = server.register("alice")
        room_id = room_with_ghost(server, alice)
        path = f"/v3/rooms/{quote(room_id)}/send/m.room.message/t"
        said = {"msgtype": "m.text", "body": "later"}

        made = ask(server, "PUT", path, said, user_id=GHOST, ts=1234, **{DELAY: 10_000}).json
        again = ask(server, "PUT", path, said, user_id=GHOST, ts=1234, **{DELAY: 10_000}).json
        found = f"/unstable/org.matrix.msc4140/delayed_events/{made['delay_id']}"
        ghosts = ask(server, "GET", found, None, user_id=GHOST)
        bots = ask(server, "GET", found, None)
        server.advance(11)

        assert made == again
        assert (ghosts.status, bots.status) == (200, 404)
        (event,) = alice.get(f"/rooms/{quote(room_id)}/messages", dir="b", limit=1).json["chunk"]
        assert (event["sender"], event["origin_server_ts"]) == (GHOST, 1234)
        server.stop()

    def test_nothing_of_a_deactivated_user_is_sent_or_kept(
        self, alice: User, bob: User, room_id: str, database: InlineDatabase
    ) -> None:
        bob.join(room_id)
        sent, waiting = delay(bob, room_id, "sent"), delay(bob, room_id, "not sent")
        act(bob, sent, "send")
        identifier = {"type": "m.id.user", "user": bob.user_id}
        proof = {"type": "m.login.password", "identifier": identifier}
        body = {"auth": {**proof, "password": "a-long-password"}}

        assert bob.post("/account/deactivate", body).status == 200
        alice.homeserver.advance(20)

        assert texts(alice, room_id) == ["sent"]
        reply = bob.homeserver.request("POST", f"{PREFIX}/delayed_events/{waiting}/send")
        assert reply.status == 404


class TestRestarts:
    def test_what_is_scheduled_survives_a_restart(self, alice: User, room_id: str) -> None:
        delay(alice, room_id, "later")
        alice.homeserver.advance(5)

        alice.homeserver = alice.homeserver.restart()  # whose clock begins anew
        alice.homeserver.advance(9)
        before = texts(alice, room_id)
        alice.homeserver.advance(1.1)

        assert before == []
        assert texts(alice, room_id) == ["later"]
        alice.homeserver.stop()

    def test_what_came_due_meanwhile_is_sent_at_the_start_in_order(
        self, alice: User, room_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in (3, 1, 2):
            delay(alice, room_id, f"{number}", number * 10_000)
        alice.homeserver.stop()

        monkeypatch.setattr("tests.homeserver.START_MS", START_MS + 3_600_000)
        alice.homeserver = Homeserver(alice.homeserver.database, CONFIG)
        alice.homeserver.advance(0.01)

        assert texts(alice, room_id) == ["1", "2", "3"]
        alice.homeserver.stop()

    def test_what_was_sent_but_not_noted_is_not_sent_twice(
        self,
        alice: User,
        room_id: str,
        database: InlineDatabase,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        delay_id = delay(alice, room_id, "once")
        database.lose_next_answer = True
        database.fail_at_after_loss = True
        alice.homeserver.advance(10.1)
        sent_unnoted = [one["delay_id"] for one in scheduled(alice)]

        # Two days later ordinary transaction ids are forgotten.
        monkeypatch.setattr("tests.homeserver.START_MS", START_MS + 2 * DAY_MS)
        alice.homeserver = alice.homeserver.restart()
        alice.homeserver.advance(3601)

        assert sent_unnoted == [delay_id]
        assert texts(alice, room_id) == ["once"]
        assert "event_id" in get_one(alice, delay_id)["finalised"]
        alice.homeserver.stop()

    def test_finalised_ones_are_forgotten_after_a_week(self, alice: User, room_id: str) -> None:
        delay_id = delay(alice, room_id, "x")
        act(alice, delay_id, "cancel")

        alice.homeserver.advance(6 * 24 * 3600)
        kept = alice.get(f"{PREFIX}/delayed_events/{delay_id}").status
        alice.homeserver.advance(2 * 24 * 3600)

        assert kept == 200
        assert alice.get(f"{PREFIX}/delayed_events/{delay_id}").status == 404
