"""Nothing is missed across gaps, failures and restarts."""

from collections.abc import Sequence

import pytest

from agent_bridge.matrix import (
    AccessTokenRefused,
    DecryptedEvent,
    ServerUnreachable,
    TimelineEvent,
)
from agent_bridge.matrix.client import MatrixClient
from agent_bridge.matrix.errors import RequestRefused
from agent_bridge.matrix.json_fields import object_in
from agent_bridge.matrix.transport import Request
from homeserver.core.json_types import JsonObject
from tests.agent_bridge.matrix.conftest import Stage
from tests.agent_bridge.matrix.people import meet, news, receive


def bodies(events: Sequence[TimelineEvent]) -> list[object]:
    return [event.content["body"] for event in events if isinstance(event, DecryptedEvent)]


async def test_a_limited_timeline_is_filled_in_order(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    texts = [f"message {number}" for number in range(250)]
    for text in texts:
        await alice.send_message(room_id, text, encrypt=True)

    batch = await bob.sync_once(0)

    assert bodies(batch.rooms[room_id].events) == texts
    assert not batch.rooms[room_id].gap_unfilled


async def test_a_gap_ends_at_the_last_acknowledged_event_when_the_server_ignores_the_token(
    stage: Stage,
) -> None:
    alice, bob, room_id = await meet(stage)
    await alice.send_message(room_id, "old", encrypt=True)
    await receive(bob, room_id)
    for number in range(15):
        await alice.send_message(room_id, f"new {number}", encrypt=True)
    stage.server.serve_messages = lambda room, query: stage.server.messages(
        room, {**query, "to": "0"}
    )

    batch = await bob.sync_once(0)

    assert bodies(batch.rooms[room_id].events) == [f"new {number}" for number in range(15)]
    assert not batch.rooms[room_id].gap_unfilled


async def test_a_gap_of_an_unacknowledged_batch_is_filled_again(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    for number in range(15):
        await alice.send_message(room_id, f"a {number}", encrypt=True)
    await bob.sync_once(0)
    for number in range(15):
        await alice.send_message(room_id, f"b {number}", encrypt=True)

    batch = await bob.sync_once(0)

    expected = [f"{part} {number}" for part in "ab" for number in range(15)]
    assert bodies(batch.rooms[room_id].events) == expected


async def test_a_gap_the_server_does_not_fill_is_said(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    for number in range(15):
        await alice.send_message(room_id, f"{number}", encrypt=True)

    def refuse(_room: str, _query: dict[str, str]) -> JsonObject:
        raise RequestRefused(403, "M_FORBIDDEN", "no", {})

    stage.server.serve_messages = refuse
    batch = await bob.sync_once(0)

    assert len(news(batch, room_id)) == 10
    assert batch.rooms[room_id].gap_unfilled


async def test_a_page_that_repeats_itself_for_ever_ends(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    for number in range(15):
        await alice.send_message(room_id, f"{number}", encrypt=True)
    page: JsonObject = {"chunk": [{"type": "m.x", "sender": "@x:y", "event_id": "$x"}]}
    turns = iter(range(10**6))
    stage.server.serve_messages = lambda _room, _query: {**page, "end": str(next(turns))}

    batch = await bob.sync_once(0)

    assert batch.rooms[room_id].gap_unfilled


async def test_departure_inside_a_gap_replaces_the_room_key(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    carol = await stage.enter("carol")
    await carol.join(room_id)
    await stage.sync(alice)
    await alice.send_message(room_id, "for three", encrypt=True)
    before = alice.last_share(room_id)
    await carol.leave(room_id)
    for number in range(15):
        await bob.send_message(room_id, f"{number}", encrypt=True)

    await stage.sync(alice)
    await alice.send_message(room_id, "for two", encrypt=True)

    after = alice.last_share(room_id)
    assert before is not None
    assert after is not None
    assert before.session_id != after.session_id
    assert after.shared == ((bob.user_id, "PHONE"),)


async def test_sync_forever_acknowledges_only_what_was_asked_past(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    await alice.send_message(room_id, "one", encrypt=True)

    async for batch in bob.sync_forever(0):
        assert bodies(news(batch, room_id)) == ["one"]
        break
    bob = await stage.restart(bob)
    batches = bob.sync_forever(0)
    again = await anext(batches)
    await anext(batches)
    bob = await stage.restart(bob)

    assert bodies(news(again, room_id)) == ["one"]
    assert news(await bob.sync_once(0), room_id) == []


async def test_sync_forever_rides_out_a_failing_server_and_ends_with_the_token(
    stage: Stage,
) -> None:
    alice, bob, room_id = await meet(stage)
    await alice.send_message(room_id, "one", encrypt=True)
    failures = iter(
        [
            ServerUnreachable("gone"),
            RequestRefused(502, "M_UNKNOWN", "", {}),
            None,
            AccessTokenRefused(401, "M_UNKNOWN_TOKEN", "", {}),
        ]
    )
    delays: list[float] = []

    async def sleep(seconds: float) -> None:
        delays.append(seconds)

    def fail(request: Request, _answer: JsonObject) -> None:
        if request.path[3:] == ("sync",) and (failure := next(failures)):
            raise failure

    stage.server.rewrite_answers.append(fail)
    patient = MatrixClient(bob._store, bob._transport, sleep=sleep)
    batches = patient.sync_forever(0)
    batch = await anext(batches)
    with pytest.raises(AccessTokenRefused):
        await anext(batches)

    assert bodies(news(batch, room_id)) == ["one"]
    assert len(delays) == 2


async def test_a_failed_key_query_fails_the_sync_and_the_next_one_delivers(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    await alice.send_message(room_id, "one", encrypt=True)

    def fail(request: Request, _answer: JsonObject) -> None:
        if request.path[3:] == ("keys", "query"):
            raise ServerUnreachable("gone")

    stage.server.rewrite_answers.append(fail)
    with pytest.raises(ServerUnreachable):
        await bob.sync_once(0)
    stage.server.rewrite_answers.clear()
    batch = await bob.sync_once(0)

    assert bodies(news(batch, room_id)) == ["one"]
    assert batch.problems == ()


async def test_what_is_kept_for_redelivery_goes_with_the_acknowledgement(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    await alice.send_message(room_id, "one", encrypt=True)
    kept = "SELECT count(*) FROM to_device_done"

    batch = await bob.sync_once(0)
    assert bob._store.find_row(kept) == (1,)
    await bob.acknowledge(batch)

    assert bob._store.find_row(kept) == (0,)


async def test_history_is_decrypted_like_the_timeline(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    for number in range(4):
        await alice.send_message(room_id, f"{number}", encrypt=True)
    await stage.sync(bob)

    first = await bob.history(room_id, limit=2)
    second = await bob.history(room_id, from_token=first.end, limit=2)

    assert bodies(first.events) == ["3", "2"]
    assert bodies(second.events) == ["1", "0"]


async def test_an_answer_of_the_wrong_shape_breaks_nothing(stage: Stage) -> None:
    _, bob, room_id = await meet(stage)

    def scramble(request: Request, answer: JsonObject) -> None:
        if request.path[3:] == ("sync",):
            answer["to_device"] = {"events": [5, {"type": "m.room.encrypted"}, {}]}
            answer["device_lists"] = ["x"]
            answer["device_one_time_keys_count"] = {"signed_curve25519": "many"}
            joined: JsonObject = {"timeline": {"events": [None, {"type": 3}, {"event_id": "$x"}]}}
            answer["rooms"] = {"join": {room_id: joined, "!x": 7}, "invite": {"!y": []}}

    stage.server.rewrite_answers.append(scramble)
    batch = await bob.sync_once(0)

    assert batch.rooms[room_id].events == ()
    assert batch.invites == {"!y": ()}
    assert len(batch.problems) == 1


async def test_an_invitation_comes_with_its_stripped_state(stage: Stage) -> None:
    bob = await stage.enter("bob")
    event: JsonObject = {"type": "m.room.name", "content": {"name": "Approvals"}}

    def invite(request: Request, answer: JsonObject) -> None:
        if request.path[3:] == ("sync",):
            object_in(answer, "rooms")["invite"] = {"!a:b": {"invite_state": {"events": [event]}}}

    stage.server.rewrite_answers.append(invite)

    assert (await bob.sync_once(0)).invites == {"!a:b": (event,)}
