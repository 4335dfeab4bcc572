"""Calls to the homeserver with the appservice's token.

spec: application-service-api/#identity-assertion, client-server-api/#standard-error-response, v1.19
Invariant: a call either returns the homeserver's answer, or raises HomeserverRefused (final) or
HomeserverUnavailable (nothing is known; every call made here may safely be repeated).
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from appservices.kit.backoff import Jitter, Sleep, backoff_seconds
from appservices.kit.errors import HomeserverRefused, HomeserverUnavailable
from homeserver.core.canonical_json import decode_json, encode_canonical_json
from homeserver.core.errors import JsonInvalid
from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
MAX_ANSWER_BYTES = 4 * 1024 * 1024
LONGEST_RETRY_AFTER_SECONDS = 60.0
TIMEOUT_SECONDS = 60.0
_UNAUTHORIZED = 401
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500
_SUCCESS = range(200, 300)


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes


Exchange = Callable[[str, str, Mapping[str, str], bytes | None], Awaitable[Answer]]
"""One HTTP request: method, encoded URL, headers, body. Raises HomeserverUnavailable."""


class AiohttpExchange:
    """Redirects are not followed: they would carry the token elsewhere."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        try:
            async with self._session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            ) as response:
                answer = await response.content.read(MAX_ANSWER_BYTES + 1)
                while len(answer) <= MAX_ANSWER_BYTES and not response.content.at_eof():
                    answer += await response.content.read(MAX_ANSWER_BYTES + 1 - len(answer))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise HomeserverUnavailable(f"{type(error).__name__}: {error}") from error
        if len(answer) > MAX_ANSWER_BYTES:
            raise HomeserverUnavailable("answer too large")
        return Answer(response.status, answer)


class HomeserverClient:
    def __init__(
        self, base_url: str, as_token: str, exchange: Exchange, *, sleep: Sleep, jitter: Jitter
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {
            "Authorization": f"Bearer {as_token}",
            "Content-Type": "application/json",
        }
        self._exchange = exchange
        self._sleep = sleep
        self._jitter = jitter

    async def call(
        self,
        method: str,
        path: Sequence[str],
        body: JsonObject | None = None,
        *,
        acting_as: UserID | None = None,
    ) -> JsonObject:
        """Call below /_matrix/client; `path` holds unencoded segments, the version first.

        `acting_as` None means the sender of the registration.
        """
        url = "/".join(
            (self._base_url, "_matrix/client", *(quote(segment, safe="") for segment in path))
        )
        if acting_as is not None:
            url += "?" + urlencode({"user_id": acting_as})
        encoded = None if body is None else encode_canonical_json(body)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            pause = backoff_seconds(attempt, self._jitter())
            try:
                answer = await self._exchange(method, url, self._headers, encoded)
            except HomeserverUnavailable:
                if attempt == MAX_ATTEMPTS:
                    raise
            else:
                content = _read_object(answer.body)
                is_success = answer.status in _SUCCESS
                if is_success and content is not None:
                    return content
                if answer.status == _UNAUTHORIZED:
                    # Nothing is wrong with the call: the operator must register the token.
                    raise HomeserverUnavailable("the homeserver does not know our as_token")
                is_passing = answer.status >= _SERVER_ERROR or answer.status == _TOO_MANY_REQUESTS
                if not (is_success or is_passing):
                    raise _make_refusal(answer.status, content)
                pause = max(pause, _retry_after_seconds(content))
                if attempt == MAX_ATTEMPTS:
                    raise HomeserverUnavailable(f"no usable answer, status {answer.status}")
            logger.debug("homeserver call repeated method=%s attempt=%d", method, attempt)
            await self._sleep(pause)
        raise AssertionError("the last attempt returns or raises")


def _read_object(body: bytes) -> JsonObject | None:
    try:
        content = decode_json(body)
    except JsonInvalid:
        return None
    return content if isinstance(content, dict) else None


def _make_refusal(status: int, content: JsonObject | None) -> HomeserverRefused:
    fields = content or {}
    errcode, message = fields.get("errcode"), fields.get("error")
    return HomeserverRefused(
        status,
        errcode if isinstance(errcode, str) else "M_UNKNOWN",
        message if isinstance(message, str) else "no usable answer",
    )


def _retry_after_seconds(content: JsonObject | None) -> float:
    wait_ms = (content or {}).get("retry_after_ms")
    if not isinstance(wait_ms, int | float) or wait_ms < 0:
        return 0.0
    return min(wait_ms / 1000, LONGEST_RETRY_AFTER_SECONDS)
