"""Storage of accounts, devices, tokens and profiles, where API tests do not reach."""

from typing import Any

import pytest

from homeserver.core.identifiers import DeviceID, UserID
from homeserver.storage import access_tokens, accounts, devices, profiles
from homeserver.storage.access_tokens import Tokens
from homeserver.storage.devices import Device
from tests.database import InlineDatabase
from tests.results import result_of

ALICE = UserID("@alice:hs.test")
PHONE = DeviceID("PHONE")


def run(database: InlineDatabase, function: Any, *args: Any, **kwargs: Any) -> Any:
    return result_of(database.run(function, *args, **kwargs))


@pytest.fixture
def alice(database: InlineDatabase) -> int:
    user_nid = run(database, accounts.insert_account, ALICE, created_ts=1, password_hash="hash")
    assert isinstance(user_nid, int)
    return user_nid


def test_second_account_of_a_name_is_not_made(database: InlineDatabase, alice: int) -> None:
    assert run(database, accounts.insert_account, ALICE, created_ts=2) is None

    found = run(database, accounts.find_account, ALICE)
    assert (found.user_nid, found.password_hash) == (alice, "hash")


def test_deactivation_forgets_the_password_for_good(database: InlineDatabase, alice: int) -> None:
    run(database, accounts.update_deactivated, alice, 5)
    run(database, accounts.update_password_hash, alice, "another")

    found = run(database, accounts.find_account, ALICE)
    assert found.is_deactivated
    assert found.password_hash is None


def test_stored_device_says_whether_it_is_new(database: InlineDatabase, alice: int) -> None:
    first = run(database, devices.upsert_device, alice, Device(PHONE, "Name", 5, "ip"))
    second = run(database, devices.upsert_device, alice, Device(PHONE, "Other"))

    assert (first, second) == (True, False)
    assert run(database, devices.find_device, alice, PHONE) == Device(PHONE, "Name", 5, "ip")


def test_deleted_devices_take_their_tokens_along(database: InlineDatabase, alice: int) -> None:
    run(database, devices.upsert_device, alice, Device(PHONE))
    run(database, access_tokens.insert_tokens, alice, PHONE, Tokens(b"a", None, b"r"))

    gone = run(database, devices.delete_devices, alice, [PHONE, DeviceID("NONE")])

    assert gone == [PHONE]
    assert run(database, access_tokens.find_session, b"a") is None
    assert run(database, access_tokens.find_refresh_token, b"r") is None


def test_session_of_a_deactivated_user_is_not_found(database: InlineDatabase, alice: int) -> None:
    run(database, devices.upsert_device, alice, Device(PHONE))
    run(database, access_tokens.insert_tokens, alice, PHONE, Tokens(b"a", None, b"r"))
    assert run(database, access_tokens.find_session, b"a").device_id == PHONE

    run(database, accounts.update_deactivated, alice, 5)

    assert run(database, access_tokens.find_session, b"a") is None
    assert run(database, access_tokens.find_refresh_token, b"r") is None


def test_spent_refresh_tokens_are_forgotten_after_a_while(
    database: InlineDatabase, alice: int
) -> None:
    run(database, devices.upsert_device, alice, Device(PHONE))
    for number, replaces in ((b"1", None), (b"2", b"1"), (b"3", b"2")):
        tokens = Tokens(b"a" + number, 100, number)
        run(database, access_tokens.insert_tokens, alice, PHONE, tokens, replaces)

    spend = access_tokens.spend_refresh_token
    run(database, spend, b"1", alice, PHONE, spent_ts=10, keep_ts=0)
    run(database, spend, b"2", alice, PHONE, spent_ts=20, keep_ts=15)

    assert run(database, access_tokens.find_refresh_token, b"1") is None
    assert run(database, access_tokens.find_refresh_token, b"2").spent_ts == 20
    assert run(database, access_tokens.find_refresh_token, b"3").spent_ts is None


def test_spending_a_refresh_token_of_another_device_changes_nothing(
    database: InlineDatabase, alice: int
) -> None:
    laptop = DeviceID("LAPTOP")
    for device_id, token in ((PHONE, b"p"), (laptop, b"l")):
        run(database, devices.upsert_device, alice, Device(device_id))
        tokens = Tokens(b"a" + token, 100, token)
        run(database, access_tokens.insert_tokens, alice, device_id, tokens)

    spend = access_tokens.spend_refresh_token
    run(database, spend, b"l", alice, PHONE, spent_ts=10, keep_ts=0)

    assert run(database, access_tokens.find_refresh_token, b"l").spent_ts is None
    assert run(database, access_tokens.find_session, b"al").expires_ts == 100


def test_profile_of_nobody_differs_from_an_empty_one(database: InlineDatabase, alice: int) -> None:
    assert run(database, profiles.list_fields, UserID("@nobody:hs.test")) is None
    assert run(database, profiles.list_fields, ALICE) == {}
    assert run(database, profiles.lock_profile, ALICE) == alice
    assert run(database, profiles.lock_profile, UserID("@nobody:hs.test")) is None
