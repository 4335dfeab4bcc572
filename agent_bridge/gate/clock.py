"""The two clocks the gate reads: wall time for what is signed, monotonic time for what expires.

Invariant: nothing else in the gate asks what time it is, so tests decide it.
"""

import time
from collections.abc import Callable

from agent_bridge.core.quorum import Instant

Clock = Callable[[], Instant]


def system_clock() -> Instant:
    """Milliseconds; the monotonic one counts while the machine sleeps."""
    return Instant(
        time.time_ns() // 1_000_000, time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    )
