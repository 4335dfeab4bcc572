"""HTTP to one homeserver: time-outs, bounded answers, retries with back-off.

spec: client-server-api/#api-standards, v1.19
Invariant: a request that may have had an effect is repeated only if repeating it is harmless.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from agent_bridge.matrix.errors import (
    AccessTokenRefused,
    RequestRefused,
    ResponseMalformed,
    ServerUnreachable,
)
from agent_bridge.matrix.json_fields import decode_untrusted_json, find_integer, find_text
from homeserver.core.json_types import JsonObject

logger = logging.getLogger(__name__)

Query = Mapping[str, str] | Sequence[tuple[str, str]]
Sleep = Callable[[float], Awaitable[None]]

MAX_RESPONSE_BYTES = 64 * 1024 * 1024

_TOO_MANY_REQUESTS = 429
_FIRST_BACK_OFF_SECONDS = 0.25
_LONGEST_BACK_OFF_SECONDS = 30.0
_LONGEST_SERVER_DELAY_SECONDS = 60.0
_CHUNK_BYTES = 65536

_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Request:
    """One call: path segments are encoded here; repeatable says a repeat after loss is harmless."""

    method: str
    path: tuple[str, ...]
    query: Query
    body: JsonObject | None = None
    authenticated: bool = True
    repeatable: bool = True
    timeout_seconds: float = 60.0


class Transport:
    """A connection pool to one homeserver, with our access token once there is one."""

    def __init__(
        self,
        base_url: str,
        *,
        access_token: str | None = None,
        attempts: int = 6,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.access_token = access_token
        self._attempts = attempts
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def send(self, request: Request) -> JsonObject:
        """Make the call and return the answer's object. Raises MatrixFailure."""
        attempt = 1
        while True:
            try:
                return await self._send_once(request)
            except RequestRefused as refusal:
                delay = _delay_after_refusal(request, refusal, attempt)
                if delay is None or attempt >= self._attempts:
                    raise
            except ServerUnreachable:
                if not request.repeatable or attempt >= self._attempts:
                    raise
                delay = back_off_seconds(attempt)
            logger.info("Repeating a request attempt=%d delay=%.2f", attempt, delay)
            attempt += 1
            await self._sleep(delay)

    async def _send_once(self, request: Request) -> JsonObject:
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        headers = {"Accept": "application/json", "User-Agent": "countersign"}
        data = None
        if request.body is not None:
            headers["Content-Type"] = "application/json"
            data = orjson.dumps(request.body)
        if request.authenticated and self.access_token is not None:
            headers["Authorization"] = f"Bearer {self.access_token}"
        try:
            async with self._session.request(
                request.method,
                _url(self.base_url, request.path),
                params=request.query,
                data=data,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=request.timeout_seconds),
            ) as response:
                status = response.status
                retry_after = response.headers.get("Retry-After")
                answer = await _read_bounded(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServerUnreachable(f"{request.method} failed: {error!r}") from error
        return _interpret(status, retry_after, answer)


def back_off_seconds(attempt: int) -> float:
    """Exponential with full jitter: attempt counts from 1."""
    longest = min(_LONGEST_BACK_OFF_SECONDS, _FIRST_BACK_OFF_SECONDS * 2**attempt)
    return _random.uniform(_FIRST_BACK_OFF_SECONDS, longest)


def _url(base_url: str, path: tuple[str, ...]) -> URL:
    segments = "/".join(quote(segment, safe="") for segment in path)
    return URL(f"{base_url}/{segments}", encoded=True)


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    total = 0
    async for part in response.content.iter_chunked(_CHUNK_BYTES):
        total += len(part)
        if total > MAX_RESPONSE_BYTES:
            raise ResponseMalformed(f"an answer is larger than {MAX_RESPONSE_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def _interpret(status: int, retry_after: str | None, answer: bytes) -> JsonObject:
    try:
        body = decode_untrusted_json(answer)
    except ValueError as error:
        if status >= 500:  # noqa: PLR2004  # a proxy's error page
            raise RequestRefused(status, "M_UNKNOWN", "no Matrix answer", {}) from error
        raise ResponseMalformed(f"status {status} without JSON") from error
    if not isinstance(body, dict):
        raise ResponseMalformed(f"status {status} without a JSON object")
    if 200 <= status < 300:  # noqa: PLR2004  # success as HTTP defines it
        return body
    errcode = find_text(body, "errcode") or "M_UNKNOWN"
    if status == _TOO_MANY_REQUESTS and retry_after is not None and retry_after.isdecimal():
        body = {"retry_after_ms": int(retry_after) * 1000, **body}
    kind = AccessTokenRefused if errcode == "M_UNKNOWN_TOKEN" else RequestRefused
    raise kind(status, errcode, find_text(body, "error") or "", body)


def _delay_after_refusal(request: Request, refusal: RequestRefused, attempt: int) -> float | None:
    """Return how long to wait before a repeat; None when there should be none."""
    if refusal.status == _TOO_MANY_REQUESTS:
        asked = (find_integer(refusal.body, "retry_after_ms") or 0) / 1000
        return max(min(asked, _LONGEST_SERVER_DELAY_SECONDS), 0.0) + back_off_seconds(attempt)
    if refusal.status >= 500 and request.repeatable:  # noqa: PLR2004  # server errors
        return back_off_seconds(attempt)
    return None
