"""Class 6: what is stored for a server that stays away does not grow without bound."""

import logging

import pytest
from prometheus_client import REGISTRY
from twisted.internet.defer import Deferred

from homeserver.commands.federation_text import destination_lines
from homeserver.core.identifiers import ServerName
from homeserver.services.federation.sender import store_edus
from homeserver.services.federation.stored_edus import (
    MAX_AGE_SECONDS,
    MAX_MESSAGES,
    TIDY_SECONDS,
    Limits,
    StoredEDUs,
    fair_share,
)
from homeserver.storage.outgoing_edus import TO_DEVICE, NewEDU
from homeserver.storage.query import Txn, list_tuples
from tests.api.signed_keys import upload_device_keys
from tests.federation.meeting import meet
from tests.federation.network import MemoryNetwork
from tests.federation.test_device_lists import devices_of
from tests.federation.test_health import destination
from tests.homeserver import Homeserver, User
from tests.results import result_of

B = ServerName("b.test")
EVIL = ServerName("evil.test")


def stored(a: Homeserver, server: str = "b.test") -> list[tuple[int, bytes]]:
    """Lane and content of what waits for a server, in order."""

    def read(txn: Txn) -> list[tuple[int, bytes]]:
        rows = list_tuples(
            txn,
            "SELECT lane, content FROM outgoing_edus WHERE server_name = %s ORDER BY edu_nid",
            (server,),
        )
        return [(lane, bytes(content)) for lane, content in rows]

    return result_of(a.database.read(read))


def store_messages(a: Homeserver, numbers: range, server: ServerName = B, size: int = 0) -> None:
    """Let messages to devices wait for a server, as far as it is concerned."""
    padding = b"x" * size
    rows = [
        NewEDU(server, TO_DEVICE, "m.direct_to_device", b'{"n":%d,"p":"%s"}' % (number, padding))
        for number in numbers
    ]
    a.database.run(store_edus, rows, a.clock.now_ms())
    a.server.federation_sender.note_stored_edus([server])
    a.settle()


def dropped_count() -> float:
    name = "countersign_federation_dropped_messages_total"
    return REGISTRY.get_sample_value(name) or 0.0


@pytest.fixture
def alice(network: MemoryNetwork, a: Homeserver, bob: User) -> User:
    """She shares a room with bob, whose server is away from now on."""
    alice = a.register("alice")
    meet(alice, bob)
    network.cut_off(B)
    return alice


def test_attack_6_changes_of_a_users_devices_are_reduced_to_the_last_and_the_rest_is_asked_for(
    network: MemoryNetwork, a: Homeserver, alice: User, bob: User
) -> None:
    devices = [alice, *(alice.login_again() for _ in range(20))]
    keys = {device.device_id: upload_device_keys(device) for device in devices}
    a.settle()
    before = len(stored(a))

    network.advance(TIDY_SECONDS)
    after = len(stored(a))
    network.heal()
    network.advance(4000)

    assert before > 20
    assert after <= 2
    assert stored(a) == []
    assert devices_of(bob, alice) == keys


def test_a_few_changes_are_told_one_by_one(
    network: MemoryNetwork, a: Homeserver, alice: User
) -> None:
    for device in (alice, alice.login_again(), alice.login_again()):
        upload_device_keys(device)
    a.settle()
    before = stored(a)

    network.advance(TIDY_SECONDS)

    assert len(before) >= 3
    assert stored(a) == before


def test_attack_6_of_messages_to_devices_so_many_wait_and_the_newest_are_kept(
    network: MemoryNetwork, a: Homeserver, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    del alice
    counted = dropped_count()
    store_messages(a, range(MAX_MESSAGES + 50))
    network.advance(1)

    with caplog.at_level(logging.WARNING):
        network.advance(TIDY_SECONDS)
    kept = stored(a)

    assert len(kept) == MAX_MESSAGES
    assert b'"n":50,' in kept[0][1]
    assert dropped_count() - counted == 50
    assert "b.test" in caplog.text
    assert "count=50" in caplog.text
    shown = destination(a, B)
    assert (shown["dropped_messages"], shown["dropped_ts"]) == (50, a.clock.now_ms())
    text = "\n".join(destination_lines(shown, a.clock.now_ms() + 3_600_000))
    assert "dropped   50 messages to devices, the last 1 h 0 min ago: too many, or too" in text


def test_attack_6_messages_to_devices_wait_for_a_bounded_time(
    network: MemoryNetwork, a: Homeserver, alice: User
) -> None:
    del alice
    store_messages(a, range(3))
    network.advance(MAX_AGE_SECONDS / 2)
    store_messages(a, range(3, 5))

    network.advance(MAX_AGE_SECONDS / 2)

    assert [content[:6] for _, content in stored(a)] == [b'{"n":3', b'{"n":4']


def tidy(a: Homeserver, **limits: int) -> None:
    edus = StoredEDUs(a.database, a.clock, Limits(**limits))
    tidied = Deferred.fromCoroutine(edus.tidy())
    a.settle()
    assert tidied.called


def test_attack_6_messages_to_devices_that_wait_take_a_bounded_number_of_bytes(
    network: MemoryNetwork, a: Homeserver, alice: User
) -> None:
    del alice
    store_messages(a, range(10), size=1000)
    network.advance(1)

    tidy(a, bytes_of_one=3500)

    assert [content[:6] for _, content in stored(a)] == [b'{"n":7', b'{"n":8', b'{"n":9']


def test_attack_6_all_that_waits_is_bounded_and_who_has_much_gives_way_to_who_has_little(
    network: MemoryNetwork, a: Homeserver, alice: User
) -> None:
    del alice
    store_messages(a, range(20), size=1000)
    store_messages(a, range(3), EVIL, size=1000)
    network.advance(1)

    tidy(a, bytes_of_all=8200)

    assert (len(stored(a)), len(stored(a, EVIL))) == (5, 3)


def test_a_server_that_answers_loses_nothing_while_it_is_told(
    network: MemoryNetwork, a: Homeserver, bob: User
) -> None:
    meet(a.register("alice"), bob)
    network.hold("b.test", "/send/")
    store_messages(a, range(30))

    tidy(a, messages_of_one=10)

    assert len(stored(a)) == 30


@pytest.mark.parametrize(
    ("sizes", "total", "share"),
    [
        ([], 10, 10),
        ([3, 4], 10, 4),
        ([5, 6], 10, 5),
        ([1, 9, 9], 10, 4),
        ([1, 2, 100], 10, 7),
        ([100] * 3, 10, 3),
    ],
)
def test_shares_are_as_large_as_all_may_be_together(
    sizes: list[int], total: int, share: int
) -> None:
    assert fair_share(sizes, total) == share
