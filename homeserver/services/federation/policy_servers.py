"""Asking policy servers to sign events.

spec: server-server-api/#asking-for-a-policy-server-signature-on-an-event, v1.19. Invariants: of
an answer, the one signature is used that the room's key bears out, and of a refusal the words; and
an event that comes by several ways is asked about once.
"""

import logging
import re
from dataclasses import dataclass

import orjson

from homeserver.background import Background
from homeserver.clock import Clock
from homeserver.core.events import Event, reference_hash
from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from homeserver.core.policy_servers import PolicyServer, find_policy_signature
from homeserver.errors import LimitExceeded, PolicyRefused, ServersFailed
from homeserver.services.expiring_cache import ExpiringCache
from homeserver.services.federation.requests import FederationRequests
from homeserver.services.shared_work import SharedWork
from homeserver.transport.federation_client import ErrorAnswer
from homeserver.transport.outbound import RequestFailed

logger = logging.getLogger(__name__)

_MAX_UNDER_WAY = 5_000
_MAX_REMEMBERED_BYTES = 8 * 1_048_576
_ENTRY_BYTES = 500
_SIGNED_SECONDS = 600.0
_REFUSED_SECONDS = 60.0
_MAX_RETRY_AFTER_MS = 60_000
"""Clients that are told to wait may do so with all that they send."""
_REFUSALS = (400, 403, 404)
"""The statuses of the operation that say no; any other is a failure to answer."""
_LIMITED = 429
_RETRY_AFTER_MS = 2_000
_SAFE_ERRCODES = (
    "M_BAD_JSON",
    "M_FORBIDDEN",
    "M_NOT_FOUND",
    "M_NOT_JSON",
    "M_TOO_LARGE",
    "M_UNKNOWN",
)
_NONE = "M_UNRECOGNIZED"
"""Says of the server that it is no policy server."""
_OWN_ERRCODE = re.compile(r"(?!M_)[A-Za-z0-9_.]{1,100}")
"""A name of the policy server's own."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: int
    errcode: str
    error: str
    extra: JsonObject


_Key = tuple[PolicyServer, str]
"""With what is signed of an event: in the first room versions its id is of its maker's choice."""


class PolicyServers:
    """See `engine.policy_checks.PolicySigners`."""

    def __init__(self, requests: FederationRequests, clock: Clock, background: Background) -> None:
        self._requests = requests
        self._answers: ExpiringCache[_Key, str | _Refusal] = ExpiringCache(
            clock, budget=_MAX_REMEMBERED_BYTES
        )
        self._asking: SharedWork[_Key, str | _Refusal] = SharedWork(
            "ask a policy server", background, max_under_way=_MAX_UNDER_WAY
        )

    async def sign(self, server: PolicyServer, event: Event) -> str:
        """Return its signature. Raises PolicyRefused; ServersFailed, LimitExceeded: no answer."""
        key = (server, reference_hash(event))
        answer = self._answers.find(key)
        if answer is None:
            answer = await self._asking.get(key, lambda: self._ask(key, event))
        if isinstance(answer, str):
            return answer
        raise PolicyRefused(
            answer.error, status=answer.status, errcode=answer.errcode, extra=dict(answer.extra)
        )

    async def _ask(self, key: _Key, event: Event) -> str | _Refusal:
        server = key[0]
        try:
            found = await self._requests.ask_policy_server_to_sign(server.name, event.pdu_bytes)
        except ErrorAnswer as error:
            if error.status == _LIMITED:
                raise _limited(error) from error
            if error.status not in _REFUSALS:
                raise ServersFailed(f"The room's policy server answered: {error}") from error
            answer: str | _Refusal = _passed_on(server.name, error)
        except RequestFailed as error:
            raise ServersFailed(f"The room's policy server cannot be asked: {error}") from error
        else:
            answer = find_policy_signature(event, server, found) or _Refusal(
                403,
                "M_FORBIDDEN",
                "The room's policy server has not signed this with the key that the room names",
                {},
            )
        seconds = _SIGNED_SECONDS if isinstance(answer, str) else _REFUSED_SECONDS
        size = 0 if isinstance(answer, str) else len(orjson.dumps(answer.extra))
        self._answers.put(key, answer, seconds=seconds, size=size + _ENTRY_BYTES)
        return answer


def _passed_on(name: ServerName, error: ErrorAnswer) -> _Refusal:
    """Return what a client is told: what the policy server says.

    NOTSPEC: not quite verbatim. An error code of the specification's that has nothing to do with
    signing could log clients out, or lead people to a page of the policy server's choice; and that
    of a server which is no policy server would say of this one that it cannot send events. What is
    nested too deeply to be written is left out.
    """
    errcode = error.errcode
    if errcode == _NONE:
        told = f"The room wants its events signed by {name}, which is no policy server"
        return _Refusal(403, "M_FORBIDDEN", told, {})
    if errcode not in _SAFE_ERRCODES and _OWN_ERRCODE.fullmatch(errcode) is None:
        errcode = "M_FORBIDDEN"
    extra: JsonObject = {
        name: value for name, value in error.body.items() if name not in ("errcode", "error")
    }
    try:
        orjson.dumps(extra)
    except orjson.JSONEncodeError:
        extra = {}
    return _Refusal(error.status, errcode, error.error, extra)


def _limited(error: ErrorAnswer) -> LimitExceeded:
    after = error.retry_after_seconds
    asked_ms = _RETRY_AFTER_MS if after is None else int(1000 * after)
    return LimitExceeded(error.error, retry_after_ms=min(asked_ms, _MAX_RETRY_AFTER_MS))
