import asyncio
from collections.abc import Callable

import pytest

from appservices.kit.consumer import MAX_FAILURES, Consumer
from appservices.kit.errors import HomeserverRefused, HomeserverUnavailable
from appservices.kit.inbox import Inbox
from homeserver.core.json_types import JsonObject
from tests.appservices.conftest import OpenDatabase
from tests.appservices.fakes import FakeTime, no_jitter


class Script:
    """Handles events, raising what the test planned for them first."""

    def __init__(self, **plans: list[Exception]) -> None:
        self.plans = plans
        self.seen: list[str] = []
        self._progress = asyncio.Condition()

    async def __call__(self, event: JsonObject) -> None:
        name = str(event["event_id"]).removeprefix("$")
        async with self._progress:
            self.seen.append(name)
            self._progress.notify_all()
        if self.plans.get(name):
            raise self.plans[name].pop(0)

    async def reached(self, name: str) -> None:
        async with self._progress:
            await self._progress.wait_for(lambda: name in self.seen)


Setup = Callable[[Script], tuple[Consumer, Inbox, FakeTime]]


@pytest.fixture
def setup(open_bot_database: OpenDatabase) -> Setup:
    def make(script: Script) -> tuple[Consumer, Inbox, FakeTime]:
        time = FakeTime()
        box = Inbox(open_bot_database())
        box.accept("1", [{"event_id": "$a"}, {"event_id": "$b"}])
        return Consumer(box, script, sleep=time.sleep, jitter=no_jitter), box, time

    return make


def test_events_are_handled_in_order_and_finished(setup: Setup) -> None:
    script = Script()
    consumer, box, _ = setup(script)

    asyncio.run(consumer.drain())

    assert script.seen == ["a", "b"]
    assert box.count_waiting() == 0


def test_unreachable_homeserver_keeps_the_event_and_its_order(setup: Setup) -> None:
    script = Script(a=[HomeserverUnavailable("down") for _ in range(5)])
    consumer, box, time = setup(script)

    asyncio.run(consumer.drain())

    assert script.seen == ["a"] * 6 + ["b"]
    assert time.slept == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert box.count_waiting() == 0


def test_refused_event_is_given_up_at_once(setup: Setup) -> None:
    script = Script(a=[HomeserverRefused(403, "M_FORBIDDEN", "no")])
    consumer, box, time = setup(script)

    asyncio.run(consumer.drain())

    assert script.seen == ["a", "b"]
    assert time.slept == []
    assert box.count_waiting() == 0


def test_event_that_always_fails_does_not_block_the_next(setup: Setup) -> None:
    script = Script(a=[RuntimeError("bug") for _ in range(9)])
    consumer, box, _ = setup(script)

    asyncio.run(consumer.drain())

    assert script.seen == ["a"] * MAX_FAILURES + ["b"]
    assert box.count_waiting() == 0


def test_wake_starts_the_next_round(setup: Setup) -> None:
    script = Script()
    consumer, box, _ = setup(script)

    async def play() -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            task = group.create_task(consumer.run())
            await script.reached("b")
            box.accept("2", [{"event_id": "$c"}])
            consumer.wake()
            await script.reached("c")
            task.cancel()

    asyncio.run(play())
    assert script.seen == ["a", "b", "c"]
