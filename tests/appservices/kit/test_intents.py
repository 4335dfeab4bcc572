import asyncio

import pytest

from appservices.kit.errors import HomeserverRefused
from appservices.kit.intents import Intents, make_txn_id, sign_in
from appservices.kit.registration import Namespace, Namespaces, make_registration
from homeserver.core.identifiers import RoomID, UserID, parse_user_id
from tests.appservices.fakes import BOT, FakeHomeserver, FakeTime, make_client, refusal

ROOM = RoomID("!room:hs.test")
GHOST = parse_user_id("@_ghost_1:hs.test")


def make_intents(homeserver: FakeHomeserver) -> Intents:
    registration = make_registration(
        appservice_id="x",
        url="http://127.0.0.1:1",
        sender_localpart="_bot",
        namespaces=Namespaces(users=(Namespace(exclusive=True, regex="@_ghost_.*"),)),
    )
    return Intents(make_client(homeserver, FakeTime()), registration, BOT)


def test_ghost_is_registered_once_before_it_acts() -> None:
    homeserver = FakeHomeserver()
    intents = make_intents(homeserver)

    async def play() -> None:
        await intents.for_ghost(GHOST).join(ROOM)
        await intents.for_ghost(GHOST).set_display_name("Ghost")

    asyncio.run(play())

    assert homeserver.list_paths() == [
        ("POST", "v3", "register"),
        ("POST", "v3", "join", ROOM),
        ("PUT", "v3", "profile", GHOST, "displayname"),
    ]
    assert homeserver.calls[0].body == {
        "type": "m.login.application_service",
        "username": "_ghost_1",
        "inhibit_login": True,
    }
    assert [call.acting_as for call in homeserver.calls] == [None, GHOST, GHOST]


def test_ghost_that_exists_already_can_act() -> None:
    homeserver = FakeHomeserver(taken_names={"_ghost_1"})

    asyncio.run(make_intents(homeserver).for_ghost(GHOST).join(ROOM))

    assert homeserver.list_paths()[-1] == ("POST", "v3", "join", ROOM)


def test_ghost_that_cannot_be_registered_does_not_act() -> None:
    homeserver = FakeHomeserver(faults=[refusal(400, "M_EXCLUSIVE")])

    with pytest.raises(HomeserverRefused):
        asyncio.run(make_intents(homeserver).for_ghost(GHOST).join(ROOM))
    assert len(homeserver.calls) == 1


@pytest.mark.parametrize("user_id", ["@alice:hs.test", "@_ghost_1:elsewhere.test"])
def test_user_outside_the_namespace_gets_no_intent(user_id: UserID) -> None:
    with pytest.raises(ValueError, match="namespace"):
        make_intents(FakeHomeserver()).for_ghost(user_id)


def test_sender_acts_without_naming_itself() -> None:
    homeserver = FakeHomeserver()

    asyncio.run(make_intents(homeserver).sender.leave(ROOM))

    assert homeserver.list_paths() == [("POST", "v3", "rooms", ROOM, "leave")]
    assert homeserver.calls[0].acting_as is None


def test_message_sent_again_under_its_transaction_id_is_the_same_event() -> None:
    homeserver = FakeHomeserver()
    sender = make_intents(homeserver).sender
    txn_id = make_txn_id("answer", "$event")

    first = asyncio.run(sender.send(ROOM, "m.room.message", {"body": "x"}, txn_id))
    second = asyncio.run(sender.send(ROOM, "m.room.message", {"body": "x"}, txn_id))

    assert first == second
    assert len(homeserver.sent) == 1


def test_transaction_ids_depend_on_each_part() -> None:
    assert make_txn_id("a", "b") == make_txn_id("a", "b")
    assert len({make_txn_id("a", "b"), make_txn_id("ab"), make_txn_id("b", "a")}) == 3


@pytest.mark.parametrize("taken", [set(), {"_bot"}])
def test_sign_in_creates_the_sender_and_learns_its_id(taken: set[str]) -> None:
    homeserver = FakeHomeserver(taken_names=taken)
    client = make_client(homeserver, FakeTime())
    registration = make_registration(
        appservice_id="x",
        url="http://127.0.0.1:1",
        sender_localpart="_bot",
        namespaces=Namespaces(),
    )

    assert asyncio.run(sign_in(client, registration)) == BOT
