"""Rate limits: one token bucket a requester (or network of an address) and class of operation.

spec: client-server-api/#rate-limiting, v1.19. Bounded: the oldest buckets go
when there are too many.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from homeserver.clock import Clock
from homeserver.errors import LimitExceeded
from homeserver.requester import Requester
from homeserver.transport.client_networks import network_of
from homeserver.transport.endpoint import Route

_MAX_BUCKETS = 100_000


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class RateLimits:
    def __init__(
        self,
        clock: Clock,
        *,
        per_second: float,
        burst: int,
        enabled: bool,
        more_often: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """`more_often`: operations that may be asked so many times as often as others."""
        self._clock = clock
        self._per_second = per_second
        self._burst = burst
        self._enabled = enabled
        self._more_often = more_often
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()

    def count_request(self, route: Route, requester: Requester | None, client_ip: str) -> None:
        """Take one token if the operation has a limit. Raises LimitExceeded."""
        if not route.declaration.rate_limited:
            return
        if not self._enabled or (requester is not None and requester.appservice_id is not None):
            return
        who = requester.user_id if requester is not None else network_of(client_ip)
        operation = route.declaration.operation_id
        factor = self._more_often.get(operation, 1)
        self.take((who, operation), self._per_second * factor, self._burst * factor)

    def take(self, key: tuple[str, str], per_second: float, burst: int) -> None:
        """Take one token of the bucket `key`. Raises LimitExceeded when there is none left."""
        if not self._enabled:
            return
        now = self._clock.monotonic()
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            bucket = _Bucket(float(burst), now)
        bucket.tokens = min(float(burst), bucket.tokens + (now - bucket.at) * per_second)
        bucket.at = now
        self._buckets[key] = bucket
        if len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)
        if bucket.tokens < 1:
            wait = (1 - bucket.tokens) / per_second
            raise LimitExceeded(
                "Too many requests; wait a little", retry_after_ms=int(wait * 1000) + 1
            )
        bucket.tokens -= 1
