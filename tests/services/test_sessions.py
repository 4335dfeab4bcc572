"""Sessions, where requests overlap."""

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.background import Background
from homeserver.core.identifiers import DeviceID, UserID
from homeserver.errors import UnknownToken
from homeserver.services.accounts import NewAccount, register_txn
from homeserver.services.devices import Devices
from homeserver.services.sessions import (
    READ_AGAIN_SECONDS,
    NewSession,
    Sessions,
    begin_session,
)
from homeserver.storage import accounts
from homeserver.storage.database import Database
from tests.database import InlineDatabase
from tests.homeserver import Homeserver, SteadyRandomness
from tests.results import result_of

ALICE = UserID("@alice:hs.test")
PHONE = DeviceID("PHONE")


class SlowDatabase:
    """Answers reads, already done, only when it is let."""

    def __init__(self, database: InlineDatabase) -> None:
        self._database = database
        self.run = database.run
        self.held: list[Callable[[], object]] | None = None

    def read(self, function: Any, /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        result = self._database.read(function, *args, **kwargs)
        if self.held is None:
            return result
        answer: Deferred[Any] = Deferred()
        self.held.append(lambda: result.chainDeferred(answer))
        return answer

    def close(self) -> None:
        return


def start(coroutine: Any) -> list[Any]:
    results: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    return results


def sessions_on(homeserver: Homeserver, database: Database) -> Sessions:
    """Sessions of their own, beside the server's."""
    randomness = SteadyRandomness()
    clock = homeserver.clock
    return Sessions(database, clock, randomness, Background(clock, randomness))


async def ignored(_user_id: UserID, _device_ids: Sequence[DeviceID]) -> None:
    return


def test_session_that_ends_while_it_is_read_is_refused_afterwards(
    homeserver: Homeserver, database: InlineDatabase
) -> None:
    slow = SlowDatabase(database)
    sessions = sessions_on(homeserver, slow)
    devices = Devices(slow, sessions, device_data=[], changed=ignored)
    grant = sessions.make_grant(NewSession(PHONE))
    database.run(register_txn, NewAccount(ALICE), homeserver.clock.now_ms(), grant)

    reads: list[Callable[[], object]] = []
    slow.held = reads
    overlapping = start(sessions.authenticate(grant.access_token, {}))
    slow.held = None
    start(devices.delete(ALICE, [PHONE]))
    reads[0]()

    assert overlapping[0].user_id == ALICE
    assert start(sessions.authenticate(grant.access_token, {}))[0].check(UnknownToken)


def test_session_is_looked_up_again_after_a_minute(
    homeserver: Homeserver, database: InlineDatabase
) -> None:
    sessions = sessions_on(homeserver, database)
    grant = sessions.make_grant(NewSession(PHONE))
    database.run(register_txn, NewAccount(ALICE), homeserver.clock.now_ms(), grant)
    assert start(sessions.authenticate(grant.access_token, {}))[0].device_id == PHONE
    account = result_of(database.read(accounts.find_account, ALICE))
    assert account is not None
    database.run(accounts.update_deactivated, account.user_nid, 1)  # nobody told `sessions`

    homeserver.advance(61)

    assert start(sessions.authenticate(grant.access_token, {}))[0].check(UnknownToken)


class CountingDatabase:
    """Counts what is read, by the function's name."""

    def __init__(self, database: InlineDatabase) -> None:
        self._database = database
        self.run = database.run
        self.reads: list[str] = []

    def read(self, function: Any, /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        self.reads.append(function.__name__)
        return self._database.read(function, *args, **kwargs)

    def close(self) -> None:
        return


def test_sessions_in_use_are_read_again_together_and_not_one_by_one(
    homeserver: Homeserver, database: InlineDatabase
) -> None:
    counting = CountingDatabase(database)
    sessions = sessions_on(homeserver, counting)
    grants = [sessions.make_grant(NewSession(DeviceID(name))) for name in ("A", "B", "C")]
    database.run(register_txn, NewAccount(ALICE), homeserver.clock.now_ms(), grants[0])
    account = result_of(database.read(accounts.find_account, ALICE))
    assert account is not None
    for grant in grants[1:]:
        database.run(begin_session, account.user_nid, grant)

    for _ in range(20):  # ten minutes, with a sync every 30 seconds
        for _ in range(3):
            homeserver.reactor.advance(READ_AGAIN_SECONDS / 2)
            start(sessions.read_again())
        for grant in grants:
            assert start(sessions.authenticate(grant.access_token, {}))[0].user_id == ALICE

    assert counting.reads.count("find_session") == len(grants)


def test_session_in_use_that_the_database_has_ended_is_noticed_when_read_again(
    homeserver: Homeserver, database: InlineDatabase
) -> None:
    sessions = sessions_on(homeserver, database)
    grant = sessions.make_grant(NewSession(PHONE))
    database.run(register_txn, NewAccount(ALICE), homeserver.clock.now_ms(), grant)
    for _ in range(2):
        assert start(sessions.authenticate(grant.access_token, {}))[0].device_id == PHONE
    account = result_of(database.read(accounts.find_account, ALICE))
    assert account is not None
    database.run(accounts.update_deactivated, account.user_nid, 1)  # nobody told `sessions`

    start(sessions.read_again())

    assert start(sessions.authenticate(grant.access_token, {}))[0].check(UnknownToken)


def test_session_that_ends_while_all_are_read_again_does_not_come_back(
    homeserver: Homeserver, database: InlineDatabase
) -> None:
    slow = SlowDatabase(database)
    sessions = sessions_on(homeserver, slow)
    devices = Devices(slow, sessions, device_data=[], changed=ignored)
    grant = sessions.make_grant(NewSession(PHONE))
    database.run(register_txn, NewAccount(ALICE), homeserver.clock.now_ms(), grant)
    for _ in range(2):
        start(sessions.authenticate(grant.access_token, {}))

    reads: list[Callable[[], object]] = []
    slow.held = reads
    start(sessions.read_again())
    slow.held = None
    start(devices.delete(ALICE, [PHONE]))
    reads[0]()

    assert start(sessions.authenticate(grant.access_token, {}))[0].check(UnknownToken)
