"""Why another server could not be told something, in a closed set of words for people and metrics.

Invariant: what the words are derived from is how our own request went; nothing that the other
server writes becomes a cause.
"""

from enum import Enum

from homeserver.transport.federation_client import ErrorAnswer, ServerRefused
from homeserver.transport.outbound import Cause, RequestFailed

_UNAUTHORIZED = 401
_SERVER_ERRORS = 500


class FailureCause(Enum):
    DNS = "dns"
    WELL_KNOWN = "well_known"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    KEY = "key"
    """They cannot check our signature: most often they cannot fetch our key."""
    ANSWER_4XX = "answer_4xx"
    ANSWER_5XX = "answer_5xx"
    BAD_ANSWER = "bad_answer"
    """Something came that is not an answer: too large, or not the protocol."""
    NOT_ALLOWED = "not_allowed"
    """Our own configuration forbids it."""
    FAULT_HERE = "fault_here"


class FaultHere(RequestFailed):
    """The request was not made, by a defect of this server."""


_OF_REQUESTS = {
    Cause.DNS: FailureCause.DNS,
    Cause.WELL_KNOWN: FailureCause.WELL_KNOWN,
    Cause.CONNECT: FailureCause.CONNECT,
    Cause.TLS: FailureCause.TLS,
    Cause.TIMEOUT: FailureCause.TIMEOUT,
}


def cause_of(error: RequestFailed) -> FailureCause:
    if isinstance(error, ServerRefused):
        return FailureCause.NOT_ALLOWED
    if isinstance(error, FaultHere):
        return FailureCause.FAULT_HERE
    if isinstance(error, ErrorAnswer):
        if error.status == _UNAUTHORIZED:
            return FailureCause.KEY
        is_theirs = error.status >= _SERVER_ERRORS
        return FailureCause.ANSWER_5XX if is_theirs else FailureCause.ANSWER_4XX
    return _OF_REQUESTS.get(error.cause, FailureCause.BAD_ANSWER)
