"""Requests are repeated when that helps and is harmless, and answers are bounded."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from agent_bridge.matrix import transport as transport_module
from agent_bridge.matrix.errors import (
    AccessTokenRefused,
    RequestRefused,
    ResponseMalformed,
    ServerUnreachable,
)
from agent_bridge.matrix.json_fields import decode_untrusted_json
from agent_bridge.matrix.transport import Request, Transport

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

READ = Request("GET", ("_matrix", "x"), {}, timeout_seconds=5)
QUERY = Request("POST", ("_matrix", "x"), {}, {}, timeout_seconds=5)
CREATE = Request("POST", ("_matrix", "x"), {}, {}, repeatable=False, timeout_seconds=5)


class Script:
    """A server that gives one answer after the other; None cuts the connection."""

    def __init__(self, *answers: web.Response | None) -> None:
        self._answers = list(answers)
        self.requests: list[web.Request] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        answer = self._answers.pop(0)
        if answer is None:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        return answer


@asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[tuple[Transport, list[float]]]:
    """Serve on a free port and give a transport to it, with the delays it wanted to wait."""
    delays: list[float] = []

    async def sleep(seconds: float) -> None:
        delays.append(seconds)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _, port = runner.addresses[0][:2]
    try:
        async with Transport(
            f"http://127.0.0.1:{port}", access_token="secret", sleep=sleep
        ) as transport:
            yield transport, delays
    finally:
        await runner.cleanup()


def refusal(status: int, errcode: str, **fields: object) -> web.Response:
    return web.json_response({"errcode": errcode, "error": "no", **fields}, status=status)


async def test_an_answer_comes_back_with_the_token_sent_and_the_path_escaped() -> None:
    script = Script(web.json_response({"a": 1}))
    async with served(script.answer) as (transport, _):
        request = Request("GET", ("_matrix", "!room/..?:x", "#é"), {"from": "a b+c"})

        assert await transport.send(request) == {"a": 1}

    (seen,) = script.requests
    assert seen.raw_path == "/_matrix/%21room%2F..%3F%3Ax/%23%C3%A9?from=a+b%2Bc"
    assert seen.headers["Authorization"] == "Bearer secret"


async def test_a_failing_server_is_asked_again() -> None:
    script = Script(
        None,
        refusal(500, "M_UNKNOWN"),
        web.Response(status=502, text="<html>"),
        web.json_response({}),
    )
    async with served(script.answer) as (transport, delays):
        assert await transport.send(QUERY) == {}

    assert len(delays) == 3
    assert all(0 < delay <= 30 for delay in delays)


async def test_what_may_have_had_an_effect_is_not_repeated() -> None:
    async with served(Script(refusal(500, "M_UNKNOWN")).answer) as (transport, _):
        with pytest.raises(RequestRefused):
            await transport.send(CREATE)
    async with served(Script(None).answer) as (transport, _):
        with pytest.raises(ServerUnreachable):
            await transport.send(CREATE)


@pytest.mark.parametrize("request_", [READ, CREATE])
async def test_a_rate_limit_is_waited_out(request_: Request) -> None:
    limited = refusal(429, "M_LIMIT_EXCEEDED", retry_after_ms=2000)
    header = refusal(429, "M_LIMIT_EXCEEDED")
    header.headers["Retry-After"] = "3"
    script = Script(limited, header, web.json_response({"ok": True}))
    async with served(script.answer) as (transport, delays):
        assert await transport.send(request_) == {"ok": True}

    assert 2 < delays[0] < 3
    assert 3 < delays[1] < 5


async def test_a_server_cannot_make_us_wait_for_ever() -> None:
    limited = refusal(429, "M_LIMIT_EXCEEDED", retry_after_ms=10**12)
    async with served(Script(limited, web.json_response({})).answer) as (transport, delays):
        await transport.send(READ)

    assert delays[0] < 61


async def test_attempts_end() -> None:
    script = Script(*[refusal(503, "M_UNKNOWN") for _ in range(6)])
    async with served(script.answer) as (transport, _):
        with pytest.raises(RequestRefused):
            await transport.send(READ)

    assert len(script.requests) == 6


async def test_a_refusal_is_told_with_its_code_and_body() -> None:
    async with served(Script(refusal(401, "M_X", session="s")).answer) as (transport, _):
        with pytest.raises(RequestRefused) as refused:
            await transport.send(READ)
    async with served(Script(refusal(401, "M_UNKNOWN_TOKEN")).answer) as (transport, _):
        with pytest.raises(AccessTokenRefused):
            await transport.send(READ)

    assert (refused.value.status, refused.value.errcode) == (401, "M_X")
    assert refused.value.body["session"] == "s"


async def test_a_redirect_is_not_followed() -> None:
    redirect = web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}, text="{}")
    async with served(Script(redirect).answer) as (transport, _):
        with pytest.raises(RequestRefused):
            await transport.send(READ)


@pytest.mark.parametrize("text", ["", "[]", "nonsense", '{"a": NaN}', "[" * 100_000])
async def test_an_answer_that_is_not_a_json_object_is_malformed(text: str) -> None:
    async with served(Script(web.Response(text=text)).answer) as (transport, _):
        with pytest.raises(ResponseMalformed):
            await transport.send(READ)


def test_an_answer_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * 65536)
        except (ConnectionError, asyncio.CancelledError):
            return response

    async def scenario() -> None:
        async with served(endless) as (transport, _):
            with pytest.raises(ResponseMalformed, match="larger"):
                await transport.send(READ)

    monkeypatch.setattr(transport_module, "MAX_RESPONSE_BYTES", 1024 * 1024)
    asyncio.run(scenario())


async def test_a_silent_server_is_given_up() -> None:
    release = asyncio.Event()

    async def silent(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.json_response({})

    request = Request("POST", ("x",), {}, {}, repeatable=False, timeout_seconds=0.05)
    async with served(silent) as (transport, _):
        with pytest.raises(ServerUnreachable):
            await transport.send(request)
        release.set()


def test_a_lone_surrogate_does_not_make_a_document_unreadable() -> None:
    assert decode_untrusted_json(b'{"a": "x\\ud800y", "b": "\\ud83d\\ude00"}') == {
        "a": "x?y",
        "b": "\N{GRINNING FACE}",
    }
