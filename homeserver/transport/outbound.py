"""Outbound HTTP: every call has a time-out and a bound on the answer."""

from dataclasses import dataclass
from typing import Any, Protocol

import treq
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.web.client import Agent, HTTPConnectionPool, ResponseFailed, ResponseNeverReceived
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers

_MAX_ANSWER_BYTES = 1_048_576


class RequestFailed(Exception):
    """There was no answer; the message names the cause."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes


class HttpClient(Protocol):
    """`OutboundHttp` in the server; tests have a fake."""

    async def request(
        self, method: str, url: str, *, token: str, body: bytes, timeout_seconds: float
    ) -> Answer: ...


class OutboundHttp:
    def __init__(self, reactor: Any) -> None:
        pool = HTTPConnectionPool(reactor, persistent=True)
        self._agent = Agent(reactor, connectTimeout=10, pool=pool)
        self._reactor = reactor

    async def request(
        self, method: str, url: str, *, token: str, body: bytes, timeout_seconds: float
    ) -> Answer:
        """Raises RequestFailed; a cancelled call stays cancelled, so that the server can stop."""
        client = treq.client.HTTPClient(self._agent)
        received: list[bytes] = []
        size = 0
        headers = Headers(
            {"Authorization": [f"Bearer {token}"], "Content-Type": ["application/json"]}
        )

        async def perform() -> int:
            response = await client.request(
                method, url, headers=headers, data=body, allow_redirects=False, unbuffered=True
            )

            def collect(chunk: bytes) -> None:
                nonlocal size
                size += len(chunk)
                if size <= _MAX_ANSWER_BYTES:
                    received.append(chunk)

            await treq.collect(response, collect)
            return int(response.code)

        try:
            performing = Deferred.fromCoroutine(perform())
            performing.addTimeout(timeout_seconds, self._reactor)
            status = await performing
        except (ConnectError, ConnectionDone, ConnectionLost, DNSLookupError) as error:
            raise RequestFailed(str(error)) from error
        except (ConnectTimeout, TimedOut) as error:
            raise RequestFailed(f"no answer in {timeout_seconds:g} s") from error
        except (ResponseFailed, ResponseNeverReceived, SchemeNotSupported) as error:
            raise RequestFailed(type(error).__name__) from error
        return Answer(status, b"".join(received))
