"""matrix-js-sdk hands in messages to be sent later, as calls do to say who has gone.

spec: MSC4140 beside v1.19
"""

from tests.clients.sightings import Message
from tests.clients.stage import Stage, meet
from tests.conftest import MAX_DELAY_MS

LONG_MS = 600_000


def test_js_sdk_delays_sends_and_cancels(stage: Stage) -> None:
    async def scenario() -> None:
        async with (
            stage.js(stage.new_account()) as host,
            stage.client("nio") as guest,
        ):
            room_id = await meet(host, guest)
            kept = await host.delay(room_id, "at once", LONG_MS)
            cancelled = [await host.delay(room_id, f"never {n}", LONG_MS) for n in range(2)]

            await host.manage_delayed("restartDelayed", kept)
            await host.manage_delayed("cancelDelayed", cancelled[0])
            await host.manage_delayed("cancelDelayedAsBefore", cancelled[1])
            waiting = await host.manage_delayed("outcomeOfDelayed", kept)
            await host.manage_delayed("sendDelayed", kept)
            event_id = await host.manage_delayed("outcomeOfDelayed", kept)
            outcomes = [await host.manage_delayed("outcomeOfDelayed", one) for one in cancelled]

            assert waiting is None
            assert outcomes == ["", ""]
            sent = Message(room_id, host.user_id, "at once", str(event_id))
            await guest.view.wait_for(sent)

    stage.play(scenario)


def test_js_sdk_is_seen_when_the_delay_is_over(stage: Stage) -> None:
    async def scenario() -> None:
        async with (
            stage.js(stage.new_account()) as host,
            stage.js(stage.new_account()) as guest,
        ):
            room_id = await meet(host, guest)
            delay_id = await host.delay(room_id, "I am gone", 500)

            await guest.view.wait_for_text(room_id, "I am gone")

            assert await host.manage_delayed("outcomeOfDelayed", delay_id)

    stage.play(scenario)


def test_js_sdk_reads_how_long_a_delay_may_be(stage: Stage) -> None:
    async def scenario() -> None:
        async with stage.js(stage.new_account()) as host:
            room_id = await host.create_room(invite=[])

            told = await host.delay_too_long(room_id, MAX_DELAY_MS + 1)

            assert told == ["M_MAX_DELAY_EXCEEDED", MAX_DELAY_MS]

    stage.play(scenario)
