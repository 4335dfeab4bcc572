import asyncio

import pytest

from appservices.kit.errors import HomeserverRefused, HomeserverUnavailable
from appservices.kit.homeserver_client import MAX_ATTEMPTS, Answer
from homeserver.core.json_types import JsonObject
from tests.appservices.fakes import AS_TOKEN, BOT, FakeHomeserver, FakeTime, make_client, refusal

DOWN = HomeserverUnavailable("connection refused")


def call(homeserver: FakeHomeserver, time: FakeTime) -> JsonObject:
    path = ("v3", "rooms", "!a/b:hs.test", "send", "m.x", "1")
    return asyncio.run(make_client(homeserver, time).call("PUT", path, {}, acting_as=BOT))


def test_call_carries_the_token_the_user_and_an_encoded_path() -> None:
    homeserver = FakeHomeserver()

    call(homeserver, FakeTime())

    (made,) = homeserver.calls
    assert made.path == ("v3", "rooms", "!a/b:hs.test", "send", "m.x", "1")
    assert (made.token, made.acting_as) == (AS_TOKEN, BOT)


@pytest.mark.parametrize(
    "fault",
    [DOWN, Answer(502, b"<html>"), Answer(500, b"{}"), Answer(200, b"cut of"), Answer(200, b"[]")],
)
def test_passing_fault_is_overcome(fault: Answer | HomeserverUnavailable) -> None:
    homeserver, time = FakeHomeserver(faults=[fault, fault]), FakeTime()

    assert "event_id" in call(homeserver, time)
    assert time.slept == [0.5, 1.0]


def test_rate_limit_is_waited_out_up_to_a_minute() -> None:
    limits = [
        refusal(429, "M_LIMIT_EXCEEDED", retry_after_ms=2500),
        refusal(429, "M_LIMIT_EXCEEDED", retry_after_ms=10**9),
        refusal(429, "M_LIMIT_EXCEEDED"),
    ]
    homeserver, time = FakeHomeserver(faults=[*limits]), FakeTime()

    call(homeserver, time)

    assert time.slept == [2.5, 60.0, 2.0]


@pytest.mark.parametrize("fault", [DOWN, Answer(503, b""), refusal(401, "M_UNKNOWN_TOKEN")])
def test_lasting_fault_means_unavailable(fault: Answer | HomeserverUnavailable) -> None:
    homeserver, time = FakeHomeserver(faults=[fault] * 20), FakeTime()

    with pytest.raises(HomeserverUnavailable):
        call(homeserver, time)
    assert len(homeserver.calls) <= MAX_ATTEMPTS


@pytest.mark.parametrize(
    "answer", [refusal(403, "M_FORBIDDEN"), Answer(302, b""), Answer(404, b"x")]
)
def test_refusal_is_final(answer: Answer) -> None:
    homeserver, time = FakeHomeserver(faults=[answer]), FakeTime()

    with pytest.raises(HomeserverRefused) as caught:
        call(homeserver, time)
    assert caught.value.status == answer.status
    assert caught.value.errcode in {"M_FORBIDDEN", "M_UNKNOWN"}
    assert len(homeserver.calls) == 1
