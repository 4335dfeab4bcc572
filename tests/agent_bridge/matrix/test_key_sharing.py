"""Room keys rotate, Olm sessions heal, and the server always has keys of ours to give out."""

import pytest

from agent_bridge.matrix import DecryptedEvent, MatrixClient, ServerUnreachable
from agent_bridge.matrix.json_fields import object_in
from agent_bridge.matrix.transport import Request
from homeserver.core.identifiers import DeviceID, RoomID
from homeserver.core.json_types import JsonObject
from tests.agent_bridge.matrix.conftest import Stage
from tests.agent_bridge.matrix.people import meet, receive


def session_of(client: MatrixClient, room_id: RoomID) -> str | None:
    report = client.last_share(room_id)
    return None if report is None else report.session_id


async def test_a_room_key_is_replaced_after_a_hundred_messages(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    sessions = []

    for number in range(101):
        await alice.send_message(room_id, f"{number}", encrypt=True)
        sessions.append(session_of(alice, room_id))

    assert len(set(sessions[:100])) == 1
    assert sessions[100] not in sessions[:100]
    assert len(await receive(bob, room_id)) == 101


@pytest.mark.parametrize("step_ms", [7 * 24 * 3600 * 1000, -1])
async def test_a_room_key_is_replaced_after_a_week_or_when_the_clock_goes_back(
    stage: Stage, step_ms: int
) -> None:
    clock = [1_000_000_000_000]
    alice, _, room_id = await meet(stage)
    timed = MatrixClient(alice._store, alice._transport, now=lambda: clock[0])
    await timed.send_message(room_id, "one", encrypt=True)
    first = session_of(timed, room_id)
    clock[0] += step_ms

    await timed.send_message(room_id, "two", encrypt=True)

    assert session_of(timed, room_id) != first


async def test_a_room_may_ask_for_stricter_but_not_for_laxer_rotation(stage: Stage) -> None:
    alice, _, room_id = await meet(stage)
    content: JsonObject = {"rotation_period_msgs": 2, "rotation_period_ms": 10**15}
    event: JsonObject = {
        "type": "m.room.encryption",
        "sender": alice.user_id,
        "state_key": "",
        "content": content,
    }
    stage.server.place(room_id, event)
    await stage.sync(alice)

    limits = alice._rooms.rotation_limits(room_id)

    assert (limits.messages, limits.milliseconds) == (2, 7 * 24 * 3600 * 1000)


async def test_a_new_device_reads_from_the_next_message_on(stage: Stage) -> None:
    alice, _, room_id = await meet(stage)
    await alice.send_message(room_id, "before", encrypt=True)
    session = session_of(alice, room_id)
    spare = await stage.enter("bob", "SPARE")
    await stage.sync(alice)

    await alice.send_message(room_id, "after", encrypt=True)
    page = await spare.history(room_id, limit=2)
    await spare.sync_once(0)
    page = await spare.history(room_id, limit=2)

    assert session_of(alice, room_id) == session
    after, before = page.events
    assert isinstance(after, DecryptedEvent)
    assert not isinstance(before, DecryptedEvent)


async def test_a_room_key_is_replaced_when_a_device_goes(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    await stage.enter("bob", "SPARE")
    await stage.sync(alice)
    await alice.send_message(room_id, "one", encrypt=True)
    first = session_of(alice, room_id)
    del stage.server.device_keys[bob.user_id]["SPARE"]
    stage.server.announce_keys(bob.user_id)
    await stage.sync(alice)

    await alice.send_message(room_id, "two", encrypt=True)

    report = alice.last_share(room_id)
    assert report is not None
    assert report.session_id != first
    assert report.left_out == {(bob.user_id, "SPARE"): "revoked"}


async def test_a_room_key_is_replaced_when_somebody_left_and_came_back(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    await alice.send_message(room_id, "one", encrypt=True)
    first = session_of(alice, room_id)
    await bob.leave(room_id)
    await bob.join(room_id)
    await stage.sync(alice)

    await alice.send_message(room_id, "two", encrypt=True)

    assert session_of(alice, room_id) != first


async def test_who_may_have_got_a_key_is_known_even_when_sending_it_failed(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)

    def lose(request: Request, _answer: JsonObject) -> None:
        if request.path[3] == "sendToDevice":
            raise ServerUnreachable("the answer was lost")

    stage.server.rewrite_answers.append(lose)
    with pytest.raises(ServerUnreachable):
        await alice.send_message(room_id, "x", encrypt=True)
    stage.server.rewrite_answers.clear()

    shares = alice._crypto.outbound.list_shares(room_id)
    assert shares == {(bob.user_id, DeviceID("PHONE"), bob.curve25519_key): False}
    await alice.send_message(room_id, "again", encrypt=True)
    assert len(await receive(bob, room_id)) == 1


async def test_one_time_keys_are_topped_up(stage: Stage) -> None:
    alice, _, _ = await meet(stage)
    mine = stage.server.one_time_keys[alice.user_id, "PHONE"]
    for key_id in list(mine)[:20]:
        del mine[key_id]

    await stage.sync(alice)

    assert len(mine) == 25


async def test_a_used_fallback_key_is_replaced(stage: Stage) -> None:
    alice, _, _ = await meet(stage)
    first = set(stage.server.fallback_keys[alice.user_id, "PHONE"])
    stage.server.fallback_keys[alice.user_id, "PHONE"].clear()

    await stage.sync(alice)

    second = set(stage.server.fallback_keys[alice.user_id, "PHONE"])
    assert len(first) == len(second) == 1
    assert first.isdisjoint(second)


async def test_a_session_starts_from_the_fallback_key_when_nothing_else_is_left(
    stage: Stage,
) -> None:
    alice, bob, room_id = await meet(stage)
    stage.server.one_time_keys[bob.user_id, "PHONE"].clear()

    await alice.send_message(room_id, "hello", encrypt=True)
    (event,) = await receive(bob, room_id)

    assert isinstance(event, DecryptedEvent)


async def test_keys_whose_upload_failed_are_uploaded_again(stage: Stage) -> None:
    alice, _, _ = await meet(stage)
    mine = stage.server.one_time_keys[alice.user_id, "PHONE"]
    mine.clear()
    uploads: list[set[str]] = []

    def lose(request: Request, _answer: JsonObject) -> None:
        if request.path[3:] == ("keys", "upload"):
            assert request.body is not None
            uploads.append(set(object_in(request.body, "one_time_keys")))
            if len(uploads) == 1:
                raise ServerUnreachable("the answer was lost")

    stage.server.rewrite_answers.append(lose)
    await stage.sync(alice)
    mine.clear()
    await stage.sync(alice)

    assert uploads[0] == uploads[1]


async def test_a_broken_olm_session_is_replaced_once_an_hour(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    await alice.send_message(room_id, "one", encrypt=True)
    await bob.send_message(room_id, "two", encrypt=True)
    await stage.sync(alice, bob)
    await alice.send_message(room_id, "three", encrypt=True)
    bob._store.execute("DELETE FROM olm_sessions")
    clock = [1_000_000_000_000]
    forgetful = MatrixClient(bob._store, bob._transport, now=lambda: clock[0])

    async def alice_sends_a_key_bob_cannot_open() -> int:
        alice._crypto.outbound.discard(room_id)
        await alice.send_message(room_id, "unreadable", encrypt=True)
        before = len(stage.server.to_device[alice.user_id, "PHONE"])
        batch = await forgetful.sync_once(0)
        await forgetful.acknowledge(batch)
        assert len(batch.problems) == 1
        return len(stage.server.to_device[alice.user_id, "PHONE"]) - before

    assert await alice_sends_a_key_bob_cannot_open() == 1
    bob._store.execute("DELETE FROM olm_sessions")
    assert await alice_sends_a_key_bob_cannot_open() == 0
    clock[0] += 3600 * 1000 + 1
    assert await alice_sends_a_key_bob_cannot_open() == 1
    await stage.sync(alice)
    alice._crypto.outbound.discard(room_id)
    await alice.send_message(room_id, "readable again", encrypt=True)
    (event,) = await receive(bob, room_id)

    assert isinstance(event, DecryptedEvent)
