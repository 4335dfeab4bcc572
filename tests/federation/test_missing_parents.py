"""Events whose origin does not say what they build upon; joins that are passed on to others."""

from urllib.parse import quote

from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from tests.federation.meeting import meet, texts
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User

MISSING = "/get_missing_events/"
STATE = "/state_ids/"


def asked(network: MemoryNetwork, *parts: str) -> list[str]:
    return [to for _, to, _, target in network.requests if any(part in target for part in parts)]


def test_what_the_origin_does_not_give_is_asked_of_another_server(
    network: MemoryNetwork, alice: User, bob: User, carol: User
) -> None:
    room_id = meet(alice, bob, carol)
    network.cut.add(frozenset({ServerName("a.test"), ServerName("b.test")}))
    alice.send(room_id, "not heard by b")
    network.settle()
    network.lose("c.test", MISSING)
    network.lose("c.test", STATE)
    network.heal()
    network.requests.clear()

    carol.send(room_id, "heard")
    network.advance(1)

    assert set(asked(network, MISSING)) >= {"a.test", "c.test"}
    assert texts(bob, room_id)[-2:] == ["not heard by b", "heard"]


def test_attack_5_events_that_nobody_knows_make_others_be_asked_once(
    network: MemoryNetwork, alice: User, bob: User, carol: User
) -> None:
    room_id = meet(alice, bob, carol)
    network.lose("c.test", MISSING)
    network.lose("c.test", STATE)
    network.cut.add(frozenset({ServerName("a.test"), ServerName("b.test")}))
    alice.send(room_id, "not heard by b")
    network.settle()
    network.requests.clear()

    for number in range(5):
        carol.send(room_id, f"{number}")
        network.settle()

    assert asked(network, MISSING).count("c.test") >= 5
    assert 1 <= asked(network, MISSING).count("a.test") <= 3


def test_a_join_that_was_not_passed_on_is_when_it_is_repeated(
    network: MemoryNetwork, a: Homeserver, alice: User, bob: User, carol: User
) -> None:
    """The process ends between the commit of a join and what says whom it must be told."""
    room_id = meet(alice, carol)
    lost: list[bool] = []
    run = a.database.run

    async def fail_once(function: object, *values: object) -> object:
        if getattr(function, "__name__", "") == "insert_outgoing" and not lost:
            lost.append(True)
            a.database.fail_at = 1
        try:
            return await run(function, *values)  # type: ignore[arg-type]  # any function
        finally:
            a.database.fail_at = None

    a.database.run = fail_once  # type: ignore[method-assign, assignment]  # a fault at one place
    answers: list[JsonObject] = []

    reply = bob.request("POST", f"/join/{quote(room_id)}", {}, query={"via": "a.test"})
    if reply.status != 200:
        answers.append(reply.json)
        reply = bob.request("POST", f"/join/{quote(room_id)}", {}, query={"via": "a.test"})
    network.advance(1)

    assert lost
    assert reply.status == 200
    joined = carol.get(f"/rooms/{quote(room_id)}/joined_members").json["joined"]
    assert bob.user_id in joined
