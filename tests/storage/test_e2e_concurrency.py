"""Keys under real concurrency: several connections, real commits, and processes that die."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class

from homeserver.core.identifiers import DeviceID, UserID
from homeserver.services.cross_signing import _list_keys, _store_keys
from homeserver.services.device_lists import KeyChange
from homeserver.services.key_objects import CrossSigningUpload
from homeserver.storage import accounts, devices, one_time_keys, stream_epochs
from homeserver.storage.database import run_transaction
from homeserver.storage.one_time_keys import Claim, ClaimedKey, Key
from homeserver.storage.query import Txn

T = TypeVar("T")
NOW_MS = 1_700_000_000_000
ALICE = UserID("@alice-at-once:hs.test")
PHONE = DeviceID("PHONE")
CLAIM = Claim(ALICE, PHONE, "signed_curve25519")


@pytest.fixture
def connect(postgres_url: str) -> Iterator[Callable[[], Connection]]:
    """Opens connections that commit; what they stored is deleted afterwards."""
    opened: list[Connection] = []

    def make() -> Connection:
        connection = psycopg2.connect(postgres_url)
        connection.autocommit = True
        opened.append(connection)
        return connection

    def prepare(txn: Txn) -> None:
        user_nid = accounts.insert_account(txn, ALICE, created_ts=0)
        assert user_nid is not None
        devices.upsert_device(txn, user_nid, devices.Device(PHONE, None, None, None))

    def clear(txn: Txn) -> None:
        user = "(SELECT user_nid FROM users WHERE user_id = '@alice-at-once:hs.test')"
        for table in (
            "pending_device_updates", "device_list_streams", "cross_signing_keys",
            "device_list_changes", "devices", "accounts", "users",
        ):  # fmt: skip
            txn.cursor.execute(f"DELETE FROM {table} WHERE user_nid = {user}")

    connection = make()
    run_transaction(connection, prepare)
    yield make
    run_transaction(connection, clear)
    for connection in opened:
        connection.close()


def user_nid(txn: Txn) -> int:
    account = accounts.find_account(txn, ALICE)
    assert account is not None
    return account.user_nid


def offer(connection: Connection, count: int) -> None:
    keys = [Key("signed_curve25519", f"K{n}", b"{}") for n in range(count)]
    run_transaction(
        connection,
        lambda txn: one_time_keys.upsert_one_time_keys(txn, user_nid(txn), PHONE, keys),
    )


def take(txn: Txn) -> list[ClaimedKey]:
    return one_time_keys.claim_one_time_keys(txn, [CLAIM])


def test_attack_12_one_time_keys_are_given_out_once_under_concurrency(
    connect: Callable[[], Connection],
) -> None:
    claimers, each = 6, 20
    offer(connect(), claimers * each - 5)
    start = Barrier(claimers)

    def claim_all(connection: Connection) -> list[str]:
        start.wait(10)
        taken = [run_transaction(connection, take) for _ in range(each)]
        return [key.key_id for keys in taken for key in keys]

    with ThreadPoolExecutor(claimers) as pool:
        taken = list(pool.map(claim_all, [connect() for _ in range(claimers)]))

    key_ids = [key_id for by_claimer in taken for key_id in by_claimer]
    assert len(key_ids) == len(set(key_ids)) == claimers * each - 5


def test_attack_12_claim_that_is_not_committed_yet_is_passed_over(
    connect: Callable[[], Connection],
) -> None:
    offer(connect(), 2)
    slow = connect()
    with slow.cursor() as cursor:
        cursor.execute("BEGIN")
        first = take(Txn(cursor))

        second = run_transaction(connect(), take)
        third = run_transaction(connect(), take)
        cursor.execute("COMMIT")

    assert sorted(key.key_id for key in first + second) == ["K0", "K1"]
    assert third == []


def test_attack_12_key_of_a_claim_that_died_before_its_commit_is_offered_again(
    connect: Callable[[], Connection],
) -> None:
    offer(connect(), 1)
    killed = connect()
    with killed.cursor() as cursor:
        cursor.execute("BEGIN")
        assert take(Txn(cursor))
    killed.close()

    survivor = connect()
    retaken = run_transaction(survivor, take)
    while not retaken:  # the server notices the lost connection a moment later
        retaken = run_transaction(survivor, take)
    assert [key.key_id for key in retaken] == ["K0"]
    assert run_transaction(survivor, take) == []


def test_attack_12_of_two_first_cross_signing_uploads_one_must_authenticate(
    connect: Callable[[], Connection],
) -> None:
    start = Barrier(2)

    def upload(connection: Connection, public_key: str) -> KeyChange[bool]:
        seen = run_transaction(connection, lambda txn: _list_keys(txn, ALICE))
        start.wait(10)
        fresh = [CrossSigningUpload("master", public_key, {"key": public_key})]
        return run_transaction(connection, lambda txn: _store_keys(txn, 1, ALICE, fresh, seen))

    with ThreadPoolExecutor(2) as pool:
        stored = list(pool.map(upload, [connect(), connect()], ["one", "two"]))

    assert sorted(change.result for change in stored) == [False, True]


def test_epochs_do_not_meet_whatever_is_rolled_back(connect: Callable[[], Connection]) -> None:
    killed = connect()
    with killed.cursor() as cursor:
        cursor.execute("BEGIN")
        first = stream_epochs.take_epoch(Txn(cursor), NOW_MS)
        cursor.execute("ROLLBACK")

    second = run_transaction(connect(), lambda txn: stream_epochs.take_epoch(txn, NOW_MS))

    assert second - first == 2**32


def test_only_the_newest_claimed_keys_are_remembered(
    connect: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_time_keys, "_KEPT_CLAIMED", 2)
    connection = connect()
    offer(connection, 5)
    for _ in range(4):
        run_transaction(connection, take)

    run_transaction(
        connection, lambda txn: one_time_keys.delete_long_claimed(txn, user_nid(txn), PHONE)
    )

    keys = [Key("signed_curve25519", f"K{n}", b"{}") for n in range(5)]
    known = run_transaction(
        connection, lambda txn: one_time_keys.list_same_ids(txn, user_nid(txn), PHONE, keys)
    )
    assert [(key.key_id, key.is_claimed) for key in known] == [
        ("K2", True), ("K3", True), ("K4", False),
    ]  # fmt: skip
