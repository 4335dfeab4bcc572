"""Delayed events: that they are sent in time and once, if the room still takes them."""

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
    scheduled,
    set_state,
    state_of,
    texts,
)
from tests.api.test_appservices import GHOST, REGISTRATION, ask, room_with_ghost
from tests.database import InlineDatabase
from tests.homeserver import START_MS, Homeserver, User


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
        room_id = alice.meet(bob)
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

        assert bob.post("/account/deactivate", {"auth": bob.proof()}).status == 200
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

    @pytest.mark.parametrize("membership", ["leave", "ban", "invite"])
    def test_what_was_made_of_another_user_but_not_noted_was_made_of_him(
        self, database: InlineDatabase, alice: User, bob: User, room_id: str, membership: str
    ) -> None:
        if membership != "invite":
            bob.join(room_id)
        member = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
        body = {"membership": membership}
        made = alice.request("PUT", member, body, query={DELAY: 10_000}).json
        database.fail_on = "finalised_ts = "
        alice.homeserver.advance(11)
        database.fail_on = None
        sent = alice.get(member, format="event").json
        assert sent["content"]["membership"] == membership

        alice.homeserver.advance(61)

        assert get_one(alice, made["delay_id"])["finalised"].get("event_id") == sent["event_id"]

    def test_finalised_ones_are_forgotten_after_a_week(self, alice: User, room_id: str) -> None:
        delay_id = delay(alice, room_id, "x")
        act(alice, delay_id, "cancel")

        alice.homeserver.advance(6 * 24 * 3600)
        kept = alice.get(f"{PREFIX}/delayed_events/{delay_id}").status
        alice.homeserver.advance(2 * 24 * 3600)

        assert kept == 200
        assert alice.get(f"{PREFIX}/delayed_events/{delay_id}").status == 404
