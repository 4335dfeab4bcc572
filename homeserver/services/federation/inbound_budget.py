"""How much of what other servers send may be held in memory at the same time.

A server may hold as much as is still free. Invariants: all together hold no more than there is;
those that send much get equal shares, and leave as large a one for who has sent nothing yet.
"""

from collections import Counter
from dataclasses import dataclass

from homeserver.core.identifiers import ServerName
from homeserver.errors import LimitExceeded
from homeserver.metrics import INBOUND_HELD_BYTES

_RETRY_AFTER_MS = 10_000


class InboundBudget:
    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` as sent; once read they take several times as much."""
        self._free = max_bytes
        self._held: Counter[ServerName] = Counter()

    def hold(self, origin: ServerName, size: int) -> "Held":
        """Raises LimitExceeded."""
        if self._held[origin] + size > self._free:
            raise LimitExceeded(
                "There is too much to read from your server or others",
                retry_after_ms=_RETRY_AFTER_MS,
            )
        self._count(origin, size)
        return Held(self, origin, size)

    def _count(self, origin: ServerName, more: int) -> None:
        self._free -= more
        self._held[origin] += more
        if not self._held[origin]:
            del self._held[origin]
        INBOUND_HELD_BYTES.inc(more)

    def let_go(self, held: "Held") -> None:
        self._count(held.origin, -held.size)


@dataclass(slots=True)
class Held:
    """One transaction: it is held until nobody needs anything of it."""

    budget: InboundBudget
    origin: ServerName
    size: int
    users: int = 1

    def share(self) -> None:
        self.users += 1

    def let_go(self) -> None:
        self.users -= 1
        if not self.users:
            self.budget.let_go(self)
