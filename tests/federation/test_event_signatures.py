"""The signatures that events of other servers must have, checked many at a time."""

import pytest
from twisted.internet.defer import Deferred

from homeserver.core.errors import SignatureInvalid
from homeserver.core.events import Event, make_event
from homeserver.core.identifiers import EventID, RoomID, ServerName, UserID
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.core.signing import SigningKey
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.pdu_checks import CHECKED_AT_ONCE, PDUChecks
from homeserver.services.event_signatures import EventSignatures
from homeserver.services.own_keys import OwnKeys
from homeserver.services.passwords import InlineThreads
from homeserver.services.server_keys import FETCHES_AT_ONCE, MAX_FETCHES, ServerKeys
from homeserver.services.signature_pool import SignaturePool
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, key_of
from tests.results import result_of

A = ServerName("a.test")
B = ServerName("b.test")
VERSION = ROOM_VERSIONS["11"]
ROOM = RoomID("!room:b.test")
PARENT = EventID("$" + "A" * 43)


def message_of(server: str, text: str = "hello", *, key: SigningKey | None = None) -> Event:
    return make_event(
        VERSION,
        room_id=ROOM,
        type="m.room.message",
        sender=UserID(f"@user:{server}"),
        state_key=None,
        content={"body": text},
        depth=5,
        origin_server_ts=1,
        prev_events=[PARENT],
        auth_events=[],
        server_name=server,
        signing_key=key or key_of(ServerName(server)),
    )


@pytest.fixture
def keys(network: MemoryNetwork, a: Homeserver) -> ServerKeys:
    return ServerKeys(
        OwnKeys(A, key_of(A), a.clock, {}),
        a.database,
        a.clock,
        a.server.background,
        network.client_of(A, a.reactor),
    )


@pytest.fixture
def signatures(keys: ServerKeys, a: Homeserver) -> EventSignatures:
    return EventSignatures(keys, SignaturePool(InlineThreads()), a.server.background)


def verdicts_of(
    signatures: EventSignatures, events: list[Event], network: MemoryNetwork
) -> list[SignatureInvalid | None]:
    running = Deferred.fromCoroutine(signatures.verify_events(events))
    network.settle()
    return result_of(running)


def test_each_event_has_its_own_verdict(
    network: MemoryNetwork, signatures: EventSignatures, b: Homeserver, c: Homeserver
) -> None:
    del b, c
    wrong_key = key_of(ServerName("c.test"))
    events = [
        message_of("a.test"),
        message_of("b.test"),
        message_of("b.test", key=wrong_key),
        message_of("c.test"),
        message_of("nowhere.test"),
    ]

    verdicts = verdicts_of(signatures, events, network)

    assert [verdict is None for verdict in verdicts] == [True, True, False, True, False]


def test_many_events_of_a_server_make_it_be_asked_once(
    network: MemoryNetwork, signatures: EventSignatures, b: Homeserver
) -> None:
    del b
    events = [message_of("b.test", str(number)) for number in range(50)]

    assert verdicts_of(signatures, events, network) == [None] * 50
    assert [target for _, _, _, target in network.requests] == ["/_matrix/key/v2/server"]


def test_the_keys_for_all_parts_of_a_state_are_asked_for_before_the_first_is_checked(
    network: MemoryNetwork, signatures: EventSignatures, b: Homeserver
) -> None:
    """Each part would wait for those of its servers that hang."""
    del b
    hanging = [ServerName(f"hanging{number}.test") for number in range(3)]
    for name in hanging:
        network.hold(name, "/key/")
    pdus = [
        message_of("b.test" if number % CHECKED_AT_ONCE else hanging.pop(), str(number)).pdu
        for number in range(3 * CHECKED_AT_ONCE)
    ]
    checks = PDUChecks(signatures)

    checking = Deferred.fromCoroutine(
        checks.check_all(LiveRoom(0, ROOM, VERSION), pdus, limit=10_000)
    )
    network.settle()

    assert len(network.requests) == len(network.held) + 1
    network.advance(16)
    assert len(result_of(checking)) == len(pdus) - len(network.held)


def test_attack_5_events_of_many_servers_that_hang_do_not_keep_requests_waiting(
    network: MemoryNetwork, keys: ServerKeys, signatures: EventSignatures, b: Homeserver
) -> None:
    names = [ServerName(f"hanging{number}.test") for number in range(MAX_FETCHES)]
    for name in names:
        network.hold(name, "/key/")
    for start in range(0, MAX_FETCHES, FETCHES_AT_ONCE):  # of one room after another
        signatures.expect(names[start : start + FETCHES_AT_ONCE])
    network.settle()
    assert len(network.requests) == FETCHES_AT_ONCE

    finding = Deferred.fromCoroutine(
        keys.find_key(b.name, [key_of(B).key_id], None, for_events=False)
    )
    network.settle()

    assert result_of(finding).public_key == key_of(B).verify_key_base64
