"""Stock clients of different make hold ordinary conversations with each other.

spec: client-server-api/#rooms-1, #syncing, #receipts, #typing-notifications, #profiles, v1.19
"""

import pytest

from tests.clients.sightings import Message, Named, Read, Typing
from tests.clients.stage import Stage, meet

PAIRS = [
    ("nio", "mautrix"),
    ("mautrix", "nio"),
    ("nio", "js"),
    ("js", "nio"),
    ("mautrix", "js"),
    ("js", "mautrix"),
]


@pytest.mark.parametrize(("host_kind", "guest_kind"), PAIRS)
def test_host_invites_guest_and_they_read_each_other(
    stage: Stage, host_kind: str, guest_kind: str
) -> None:
    async def scenario() -> None:
        async with stage.client(host_kind) as host, stage.client(guest_kind) as guest:
            room_id = await meet(host, guest)

            question = await host.send(room_id, "Good morning! ☕")
            await guest.view.wait_for(Message(room_id, host.user_id, "Good morning! ☕", question))
            answer = await guest.send(room_id, "And to you")
            await host.view.wait_for(Message(room_id, guest.user_id, "And to you", answer))

    stage.play(scenario)


@pytest.mark.parametrize(("host_kind", "guest_kind"), PAIRS)
def test_guest_sees_what_host_has_read_and_writes_and_is_called(
    stage: Stage, host_kind: str, guest_kind: str
) -> None:
    async def scenario() -> None:
        async with stage.client(host_kind) as host, stage.client(guest_kind) as guest:
            room_id = await meet(host, guest)
            text = await guest.send(room_id, "Anyone there?")
            await host.view.wait_for(Message(room_id, guest.user_id, "Anyone there?", text))

            await host.mark_read(room_id, text)
            await guest.view.wait_for(Read(room_id, host.user_id, text))
            await host.start_typing(room_id)
            await guest.view.wait_for(Typing(room_id, host.user_id))
            await host.set_display_name("Zoë the Host")
            await guest.view.wait_for(Named(room_id, host.user_id, "Zoë the Host"))

    stage.play(scenario)


@pytest.mark.parametrize("late_kind", ["nio", "mautrix", "js"])
def test_client_that_logs_in_later_sees_the_conversation_so_far(
    stage: Stage, late_kind: str
) -> None:
    async def scenario() -> None:
        async with stage.client("nio") as host:
            account = stage.new_account()
            room_id = await host.create_room(invite=[account.user_id])
            first = await host.send(room_id, "before you came")

            async with stage.client(late_kind, account) as guest:
                await guest.join(room_id)
                await guest.view.wait_for(Message(room_id, host.user_id, "before you came", first))

    stage.play(scenario)
