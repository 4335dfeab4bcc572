"""Whether the homeserver reaches an application service.

spec: application-service-api/#pinging, v1.19.
"""

from collections.abc import Callable

from homeserver.clock import Clock
from homeserver.core.canonical_json import encode_json
from homeserver.errors import BadRequest, Forbidden, MatrixError
from homeserver.requester import Requester
from homeserver.services.appservices import Appservices
from homeserver.transport.outbound import HttpClient, RequestFailed

_TIMEOUT_SECONDS = 30.0
_OK = 200


class AppservicePing:
    def __init__(
        self,
        appservices: Appservices,
        http: HttpClient,
        clock: Clock,
        *,
        reached: Callable[[str], None],
    ) -> None:
        """`reached` is told the id of a service that has answered."""
        self._reached = reached
        self._appservices = appservices
        self._http = http
        self._clock = clock

    async def ping(
        self, requester: Requester, appservice_id: str, transaction_id: str | None
    ) -> int:
        """Return the milliseconds of the round trip.

        Raises Forbidden, M_URL_NOT_SET, M_CONNECTION_FAILED, M_CONNECTION_TIMEOUT, M_BAD_STATUS.
        """
        service = self._appservices.find(appservice_id)
        if service is None or requester.appservice_id != appservice_id:
            raise Forbidden("An application service pings itself alone")
        url = service.registration.url
        if not url:
            raise BadRequest("The registration has no url", errcode="M_URL_NOT_SET")
        started = self._clock.monotonic()
        try:
            answer = await self._http.request(
                "POST",
                f"{url.rstrip('/')}/_matrix/app/v1/ping",
                token=service.registration.hs_token,
                body=encode_json({"transaction_id": transaction_id} if transaction_id else {}),
                timeout_seconds=_TIMEOUT_SECONDS,
            )
        except RequestFailed as error:
            timed_out = "no answer" in str(error)
            raise MatrixError(
                f"{url}: {error}",
                status=504 if timed_out else 502,
                errcode="M_CONNECTION_TIMEOUT" if timed_out else "M_CONNECTION_FAILED",
            ) from error
        if answer.status != _OK:
            raise MatrixError(
                f"The service answered {answer.status}",
                status=502,
                errcode="M_BAD_STATUS",
                extra={
                    "status": answer.status,
                    "body": answer.body[:4096].decode("utf-8", "replace"),
                },
            )
        self._reached(appservice_id)
        return int((self._clock.monotonic() - started) * 1000)
