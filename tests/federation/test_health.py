"""Federation health: what administrators are shown of other servers, and what they can do."""

import base64
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from prometheus_client import REGISTRY

from homeserver.core.identifiers import ServerName
from homeserver.services.admin_access import console_token
from homeserver.services.federation.health import MEASURE_SECONDS
from homeserver.transport.outbound import Answer
from tests.federation.meeting import meet, texts
from tests.federation.network import MemoryNetwork
from tests.homeserver import START_MS, Homeserver, Reply, User, key_of

PATH = "/_countersign/admin/v1/federation"
B = ServerName("b.test")


def ask(server: Homeserver, path: str, method: str = "GET") -> Reply:
    """As `countersign federation` does on the server's own machine."""
    token = console_token(key_of(server.name), server.clock.now_ms())
    return server.request(method, f"{PATH}/{path}", token=token)


def destination(server: Homeserver, name: str) -> Any:
    reply = ask(server, f"destinations/{name}")
    assert reply.status == 200, reply.json
    return reply.json


def gauge(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"countersign_federation_{name}", labels) or 0.0


@dataclass(frozen=True)
class Together:
    """Users of several servers in one room."""

    alice: User
    bob: User
    room_id: str

    def send(self, text: str) -> None:
        self.alice.send(self.room_id, text)


@pytest.fixture
def room(a: Homeserver, b: Homeserver) -> Together:
    alice, bob = a.register("alice"), b.register("bob")
    return Together(alice, bob, meet(alice, bob))


def test_a_server_that_is_told_everything_is_well(a: Homeserver, room: Together) -> None:
    room.send("hello")
    a.settle()

    found = destination(a, B)

    assert (found["is_failing"], found["events_waiting"]) == (False, 0)
    assert found["last_success_ts"] == START_MS
    assert ask(a, "destinations").json["failing"] == 0


def test_a_failing_server_is_shown_with_cause_lag_and_next_try(
    network: MemoryNetwork, a: Homeserver, room: Together
) -> None:
    network.cut_off(B)
    network.advance(5)

    for number in range(3):
        room.send(f"missed {number}")
    network.settle()
    found = destination(a, B)

    now_ms = START_MS + 5_000
    assert (found["last_cause"], found["last_error"]) == ("connect", "the link is cut")
    assert found["failing_since_ts"] == now_ms
    assert found["next_try_ts"] == now_ms + 10_000
    assert (found["events_waiting"], found["oldest_waiting_ts"]) == (3, now_ms)


def test_what_no_longer_fits_into_memory_is_counted_in_the_database(
    network: MemoryNetwork, a: Homeserver, room: Together
) -> None:
    elsewhere = room.alice.create_room(preset="public_chat")
    network.cut_off(B)
    room.send("missed 0")
    network.advance(60)
    for number in range(1, 5):
        room.send(f"missed {number}")
        room.alice.send(elsewhere, "nothing that b.test must hear")
    network.settle()

    found = destination(a, B)

    assert found["failures"] >= 2
    assert (found["events_waiting"], found["oldest_waiting_ts"]) == (5, START_MS)


def test_failing_servers_are_listed_first(
    network: MemoryNetwork, a: Homeserver, c: Homeserver, alice: User, bob: User, carol: User
) -> None:
    room_id = meet(alice, bob, carol)
    network.cut_off(c.name)
    alice.send(room_id, "hello")
    network.settle()

    listed = ask(a, "destinations").json

    assert (listed["total"], listed["failing"], listed["events_waiting"]) == (2, 1, 1)
    assert [one["server_name"] for one in listed["destinations"]] == ["c.test", "b.test"]


def test_a_retry_does_not_wait_for_the_back_off(
    network: MemoryNetwork, a: Homeserver, room: Together
) -> None:
    network.cut_off(B)
    room.send("late")
    network.advance(100)
    network.heal()

    reply = ask(a, "destinations/b.test/retry", "POST")
    network.settle()

    assert reply.json == {"is_tried": True}
    assert texts(room.bob, room.room_id) == ["late"]
    found = destination(a, B)
    assert (found["is_failing"], found["events_waiting"], found["next_try_ts"]) == (False, 0, None)


def test_a_retry_of_a_server_that_lacks_nothing_says_so(a: Homeserver, room: Together) -> None:
    room.send("heard")
    a.settle()

    assert ask(a, "destinations/b.test/retry", "POST").json == {"is_tried": False}


def test_what_a_server_refuses_for_itself_is_listed(
    network: MemoryNetwork, a: Homeserver, room: Together
) -> None:
    def refuse(_method: str, _target: str, body: Any) -> Answer:
        is_bad = any(pdu["content"].get("body") == "poison" for pdu in body.get("pdus", ()))
        return (
            Answer(400, b'{"errcode":"M_BAD_JSON","error":"no"}') if is_bad else Answer(200, b"{}")
        )

    network.hostile[B] = refuse
    room.send("fine")
    room.send("poison")
    network.settle()

    found = destination(a, B)
    assert (found["dead_letters"], found["events_waiting"], found["is_failing"]) == (1, 0, False)
    [letter] = found["refused_items"]
    assert (letter["kind"], letter["error"]) == ("pdu", "400 M_BAD_JSON: no")
    assert json.loads(base64.b64decode(letter["item_base64"]))["content"]["body"] == "poison"


@pytest.mark.parametrize(
    ("status", "cause"), [(401, "key"), (403, "answer_4xx"), (502, "answer_5xx")]
)
def test_an_answer_that_is_an_error_is_told_by_its_kind(
    network: MemoryNetwork, a: Homeserver, room: Together, status: int, cause: str
) -> None:
    before = gauge("transactions_total", outcome=f"failed_{cause}")
    network.hostile[B] = lambda *_: Answer(status, b'{"errcode":"M_X","error":"no"}')

    room.send("hello")
    network.settle()

    found = destination(a, B)
    assert (found["last_cause"], found["last_error"]) == (cause, f"{status} M_X: no")
    assert gauge("transactions_total", outcome=f"failed_{cause}") == before + 1


def test_the_servers_that_are_behind_in_a_room_are_named(
    network: MemoryNetwork, a: Homeserver, c: Homeserver, alice: User, bob: User, carol: User
) -> None:
    room_id = meet(alice, bob, carol)
    quiet_id = meet(alice, bob, carol)
    network.cut_off(c.name)
    alice.send(room_id, "one")
    network.advance(60)
    alice.send(room_id, "two")
    network.settle()

    busy = ask(a, f"rooms/{quote(room_id)}").json
    quiet = ask(a, f"rooms/{quote(quiet_id)}").json

    assert busy["servers"] == 2
    assert [(one["server_name"], one["events_waiting"]) for one in busy["behind"]] == [
        ("c.test", 2)
    ]
    assert quiet == {"servers": 2, "behind": []}


def test_a_room_or_server_that_nobody_knows_is_not_found(a: Homeserver) -> None:
    assert ask(a, f"rooms/{quote('!none:a.test')}").status == 404
    assert ask(a, "destinations/never.test").status == 404
    assert ask(a, "destinations/never.test/retry", "POST").status == 404


def test_the_gauges_count_who_fails_and_what_waits(
    network: MemoryNetwork, a: Homeserver, room: Together
) -> None:
    network.advance(MEASURE_SECONDS - 1)
    network.cut_off(B)
    room.send("late")
    network.settle()

    a.reactor.advance(1)
    a.settle()

    assert gauge("failing_servers_count") == 1
    assert gauge("queued_items_count") >= 1


def test_administrators_see_it_with_their_own_token(a: Homeserver, alice: User) -> None:
    assert alice.get(f"{PATH}/destinations").status == 403

    a.database.run(make_admin, alice.user_id)

    assert alice.get(f"{PATH}/destinations").status == 200


def make_admin(txn: Any, user_id: str) -> None:
    txn.cursor.execute(
        "UPDATE accounts SET is_admin = true"
        " WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = %s)",
        (user_id,),
    )


def test_nobody_else_sees_it(a: Homeserver) -> None:
    now_ms = a.clock.now_ms()
    for token in (
        None,
        "made up",
        console_token(key_of(B), now_ms),
        console_token(key_of(a.name), now_ms - 3 * 3_600_000),
        console_token(key_of(a.name), now_ms + 2 * 3_600_000),
    ):
        reply = a.request("GET", f"{PATH}/destinations", token=token)
        assert reply.status == 401, token


def test_the_console_token_opens_nothing_else(a: Homeserver) -> None:
    token = console_token(key_of(a.name), a.clock.now_ms())

    assert a.request("GET", "/_matrix/client/v3/account/whoami", token=token).status == 401
