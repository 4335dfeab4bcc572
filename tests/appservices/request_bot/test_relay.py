"""What happens when the homeserver, the gate or the bot itself is not there."""

import asyncio

import pytest

from appservices.kit.errors import HomeserverUnavailable
from appservices.kit.homeserver_client import MAX_ATTEMPTS, Answer
from appservices.request_bot.bot import DEFAULT_TTL_MS, GRACE_MS
from tests.appservices.conftest import OpenDatabase
from tests.appservices.request_bot.stage import ALICE, CHAT, DRAFT, REQUESTS, Stage

OUTAGE: list[Answer | HomeserverUnavailable | None] = [HomeserverUnavailable("down")] * MAX_ATTEMPTS


@pytest.mark.parametrize("loses_answers", [False, True])
@pytest.mark.parametrize("calls_before", range(2))
def test_outage_while_sending_loses_and_repeats_nothing(
    stage: Stage, calls_before: int, loses_answers: bool
) -> None:
    stage.homeserver.loses_answers = loses_answers
    stage.homeserver.faults = [*[None] * calls_before, *OUTAGE]
    stage.say("!run true", settle=False)

    assert not stage.settle()
    stage.restart()
    assert stage.settle()

    assert len(stage.list_requests()) == 1
    assert [sent.content["body"] for sent in stage.list_shown()] == ["Sent to the gate"]


@pytest.mark.parametrize("loses_answers", [False, True])
def test_outage_while_showing_loses_and_repeats_nothing(stage: Stage, loses_answers: bool) -> None:
    stage.say("!run true")
    stage.homeserver.loses_answers = loses_answers
    stage.homeserver.faults = [*OUTAGE]
    stage.report(stage.list_requests()[0]["request_id"], "done", settle=False)

    assert not stage.settle()
    stage.restart()
    assert stage.settle()

    assert stage.last_words() == "Done"
    assert len(stage.list_shown()) == 2


def test_restarted_bot_goes_on_with_open_requests(stage: Stage) -> None:
    stage.say("!run true")
    request_id = stage.list_requests()[0]["request_id"]
    stage.report(request_id, "pending", draft_id=DRAFT, tier="T1")

    stage.restart()
    stage.report(request_id, "done", exit_code=0)

    assert stage.last_words() == f"Done (exit code 0)\nDraft {DRAFT}"
    assert stage.list_shown()[-1].content["m.relates_to"] == {
        "rel_type": "m.replace",
        "event_id": stage.list_shown()[0].event_id,
    }


def test_silent_gate_does_not_hold_a_request_open(stage: Stage) -> None:
    stage.say("!run true")
    stage.time.now_ms += DEFAULT_TTL_MS + GRACE_MS + 1

    stage.settle()

    assert stage.last_words() == "No answer from the gate in time"
    assert stage.store.list_open(ALICE) == []


def test_late_gate_is_still_heard(stage: Stage) -> None:
    stage.say("!run --ttl 10s true")
    stage.time.now_ms += 10_000 + GRACE_MS + 1
    stage.settle()

    stage.report(stage.list_requests()[0]["request_id"], "running")

    assert stage.last_words() == "Running"
    assert len(stage.store.list_open(ALICE)) == 1


def test_pending_request_is_open_until_its_draft_expires(stage: Stage) -> None:
    stage.say("!run true")
    expires_ms = stage.time.now_ms + 2 * DEFAULT_TTL_MS
    request_id = stage.list_requests()[0]["request_id"]
    stage.report(request_id, "pending", draft_id=DRAFT, expires_ms=expires_ms)

    stage.time.now_ms = expires_ms + GRACE_MS
    stage.settle()
    assert stage.last_words().startswith("Waiting")
    stage.time.now_ms += 1
    stage.settle()
    assert stage.last_words().startswith("No answer")


def test_request_that_was_never_sent_is_not_sent_after_its_time(stage: Stage) -> None:
    stage.say("!run --ttl 10s true", settle=False)
    asyncio.run(stage.consumer.drain())
    stage.time.now_ms += 10_000 + GRACE_MS + 1

    stage.settle()

    assert stage.list_requests() == []
    assert stage.last_words() == "No answer from the gate in time"


def test_bot_outside_the_requests_room_says_so(stage: Stage) -> None:
    stage.homeserver.refused_rooms.add(REQUESTS)

    stage.say("!run true")

    assert stage.last_words() == "Not sent: the bot cannot write to the gate's room"
    assert stage.store.list_open(ALICE) == []


def test_request_nobody_could_follow_is_not_sent(stage: Stage) -> None:
    stage.homeserver.refused_rooms.add(CHAT)

    stage.say("!run true")

    assert stage.list_requests() == []
    assert stage.store.list_due() == []


def test_one_closed_room_does_not_stop_the_others(stage: Stage) -> None:
    stage.say("!run one")
    stage.say("!run two")
    first, second = (request["request_id"] for request in stage.list_requests())
    stage.homeserver.refused_rooms.add(CHAT)
    stage.report(first, "running")
    stage.homeserver.refused_rooms.clear()

    stage.report(second, "denied")

    assert stage.last_words() == "Denied"
    assert stage.store.list_due() == []


def test_closed_requests_are_kept_only_in_bounded_number(
    open_bot_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appservices.request_bot.requests_store.KEPT_CLOSED", 2)
    stage = Stage(open_bot_database)
    for _ in range(5):
        stage.say("!run true")
        stage.report(stage.list_requests()[-1]["request_id"], "done")
        stage.time.now_ms += 1

    stage.say("!run true")

    assert len(stage.store.list_in_room(CHAT)) == 3


def test_closed_request_is_kept_until_its_end_was_shown(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appservices.request_bot.requests_store.KEPT_CLOSED", 0)
    stage.say("!run true")
    stage.report(stage.list_requests()[0]["request_id"], "done", settle=False)
    stage.say("!run true", settle=False)

    stage.settle()

    assert "Done" in [str(sent.content["body"]).removeprefix("* ") for sent in stage.list_shown()]


def test_relay_sends_when_woken(stage: Stage) -> None:
    async def play() -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            loops = [group.create_task(stage.relay.run()), group.create_task(stage.consumer.run())]
            stage.say("!run true", settle=False)
            stage.consumer.wake()
            async with stage.homeserver.progress:
                await stage.homeserver.progress.wait_for(lambda: bool(stage.list_requests()))
            for loop in loops:
                loop.cancel()

    asyncio.run(play())

    assert len(stage.list_requests()) == 1
