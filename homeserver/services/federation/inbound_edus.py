"""Ephemeral data of other servers, handed to the feature it belongs to.

spec: server-server-api/#edus, v1.19. Invariant: one EDU that makes no sense is left out, and the
others of its transaction are not.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping

from twisted.internet.defer import CancelledError

from homeserver.core.errors import CoreError
from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from homeserver.errors import DatabaseUnavailable, MatrixError
from homeserver.metrics import BACKGROUND_FAILURES

logger = logging.getLogger(__name__)

ReceiveEDU = Callable[[ServerName, JsonObject], Awaitable[None]]
"""From the origin and the content. Raises CoreError or MatrixError for what makes no sense; must
itself check that the origin may say this of these users and rooms."""


class InboundEDUs:
    def __init__(self, receivers: Mapping[str, ReceiveEDU]) -> None:
        """`receivers`: by edu_type."""
        self._receivers = receivers

    async def receive(self, origin: ServerName, edu: JsonObject) -> None:
        """Raises DatabaseUnavailable alone: the transaction is then to be sent again."""
        edu_type, content = edu.get("edu_type"), edu.get("content")
        receive = self._receivers.get(edu_type) if isinstance(edu_type, str) else None
        if receive is None or not isinstance(content, dict):
            return
        try:
            await receive(origin, content)
        except (CoreError, MatrixError) as error:
            logger.info("EDU left out type=%s origin=%s: %s", edu_type, origin, error)
        except (CancelledError, DatabaseUnavailable):
            raise
        except Exception:
            # A fault here must not make the origin send the same transaction for ever.
            BACKGROUND_FAILURES.labels(task="EDUs of a transaction").inc()
            logger.exception("EDU left out type=%s origin=%s", edu_type, origin)
