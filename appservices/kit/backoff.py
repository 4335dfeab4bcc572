"""How long to wait before the next attempt. Pure: the jitter is the caller's."""

from collections.abc import Awaitable, Callable

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 30.0
_LAST_DOUBLING = 16

Clock = Callable[[], int]
"""Unix time in milliseconds."""
Sleep = Callable[[float], Awaitable[None]]
Jitter = Callable[[], float]
"""A number from 0 (inclusive) to 1 (exclusive)."""


def backoff_seconds(failures: int, jitter: float) -> float:
    """Return the pause after this many failures in a row (from 1): doubling, half of it random."""
    doubled = FIRST_SECONDS * 2.0 ** min(failures - 1, _LAST_DOUBLING)
    return min(LONGEST_SECONDS, doubled) * (0.5 + jitter / 2)
