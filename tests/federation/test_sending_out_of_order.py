"""Events whose place is taken before they are stored, and that others overtake meanwhile."""

from urllib.parse import quote

import pytest

from homeserver.config import LimitsSection
from homeserver.core.identifiers import ServerName
from homeserver.services.federation.transmission import MAX_PDUS
from tests.database import hold
from tests.federation.asking import ask
from tests.federation.conftest import MakeServer
from tests.federation.meeting import meet, texts
from tests.federation.network import MemoryNetwork
from tests.homeserver import PendingReply, User


def begin_join(network: MemoryNetwork, bob: User, carol: User, room_id: str) -> PendingReply:
    """Her server does not tell his of it itself."""
    his = bob.homeserver
    ask(his, "c.test", "GET", "/query/profile", user_id=bob.user_id)  # gives it the key
    network.cut.add(frozenset({his.name, carol.homeserver.name}))
    joining = carol.start_request("POST", f"/join/{quote(room_id)}?via=a.test", {})
    network.settle()
    return joining


def members(user: User, room_id: str) -> set[str]:
    return set(user.get(f"/rooms/{quote(room_id)}/joined_members").json["joined"])


@pytest.mark.parametrize("has_died", [False, True])
def test_who_joins_is_told_of_though_something_later_was_told_first(
    network: MemoryNetwork,
    monkeypatch: pytest.MonkeyPatch,
    alice: User,
    bob: User,
    carol: User,
    *,
    has_died: bool,
) -> None:
    a = alice.homeserver
    room_id, other = meet(alice, bob), meet(alice, bob)
    let_go = hold(a.database, "insert_outgoing", monkeypatch, is_done=False)
    joining = begin_join(network, bob, carol, room_id)
    assert not joining.answered
    alice.send(other, "told at once")
    network.settle()
    network.cut.add(frozenset({a.name, bob.homeserver.name}))

    let_go()
    assert joining.reply().status == 200
    network.settle()
    if has_died:
        network.add(a.restart())
    network.advance(100)
    network.cut.discard(frozenset({a.name, bob.homeserver.name}))
    network.advance(3_600)

    assert carol.user_id in members(bob, room_id)


def test_who_joins_a_room_that_leaves_memory_meanwhile_is_told_of(
    make_server: MakeServer,
    network: MemoryNetwork,
    monkeypatch: pytest.MonkeyPatch,
    bob: User,
    carol: User,
) -> None:
    a = make_server("a.test", limits=LimitsSection(live_rooms_bytes=1))
    alice = a.register("alice")
    room_id, other = meet(alice, bob), alice.create_room()
    let_go = hold(a.database, "insert_outgoing", monkeypatch, is_done=False)
    joining = begin_join(network, bob, carol, room_id)
    alice.send(other, "puts the room out of memory")
    a.database.fail_on = "FROM rooms"

    let_go()
    network.settle()
    a.database.fail_on = None
    network.advance(3_600)

    assert joining.answered
    assert carol.user_id in members(bob, room_id)


def test_a_server_met_meanwhile_is_told_of_what_was_begun_before(
    network: MemoryNetwork,
    monkeypatch: pytest.MonkeyPatch,
    alice: User,
    bob: User,
    carol: User,
) -> None:
    """Its queue is forgotten while nothing waits in it, and begun anew by something later."""
    a = alice.homeserver
    room_id, other = meet(alice, bob), meet(alice, bob)
    network.advance(400)
    assert not a.server.federation_sender.list_queues()
    let_go = hold(a.database, "insert_outgoing", monkeypatch, is_done=False)
    joining = begin_join(network, bob, carol, room_id)
    network.cut.add(frozenset({a.name, bob.homeserver.name}))
    alice.send(other, "cannot be told")
    let_go()
    assert joining.reply().status == 200
    network.advance(400)

    network.add(a.restart())
    network.cut.discard(frozenset({a.name, bob.homeserver.name}))
    network.advance(3_600)

    assert carol.user_id in members(bob, room_id)


@pytest.mark.parametrize("is_lost", [False, True])
def test_who_joins_is_told_of_before_the_many_that_wait(
    network: MemoryNetwork,
    monkeypatch: pytest.MonkeyPatch,
    alice: User,
    bob: User,
    carol: User,
    *,
    is_lost: bool,
) -> None:
    a = alice.homeserver
    room_id, other = meet(alice, bob), meet(alice, bob)
    let_go = hold(a.database, "insert_outgoing", monkeypatch, is_done=False)
    joining = begin_join(network, bob, carol, room_id)
    network.hold("b.test", "/send/")
    for number in range(2 * MAX_PDUS):
        alice.send(other, f"{number}")
    if is_lost:
        let_one_through(network)
    let_go()
    assert joining.reply().status == 200

    let_one_through(network, is_lost=is_lost)  # what was under way before
    network.advance(11 if is_lost else 0)
    let_one_through(network)
    network.held.clear()
    network.add(a.restart())
    network.advance(3_600)

    assert carol.user_id in members(bob, room_id)


def test_who_catches_up_does_not_miss_what_was_said_while_something_earlier_was_on_its_way(
    network: MemoryNetwork,
    monkeypatch: pytest.MonkeyPatch,
    alice: User,
    bob: User,
    carol: User,
) -> None:
    a = alice.homeserver
    room_id, other = meet(alice, bob), meet(alice, bob)
    network.cut.add(frozenset({a.name, bob.homeserver.name}))
    alice.send(room_id, "he is behind")
    network.advance(100)
    let_go = hold(a.database, "insert_outgoing", monkeypatch, is_done=False)
    joining = begin_join(network, bob, carol, room_id)
    alice.send(other, "not to be missed")
    network.cut.discard(frozenset({a.name, bob.homeserver.name}))
    network.advance(3_600)
    assert texts(bob, other) == []

    let_go()
    network.advance(1)

    assert joining.answered
    assert texts(bob, other) == ["not to be missed"]
    assert carol.user_id in members(bob, room_id)


def let_one_through(network: MemoryNetwork, *, is_lost: bool = False) -> None:
    """Let the transaction through that waits; the next one waits again."""
    if is_lost:
        network.lose("b.test", "/send/")
    waiting = network.held.pop((ServerName("b.test"), "/send/"))
    network.hold("b.test", "/send/")
    for one in waiting:
        one.callback(None)
    network.settle()
    network.altered.clear()
