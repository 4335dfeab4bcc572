"""Password hashes: argon2id, off the reactor, a bounded number at a time.

Invariant: checking a password costs the same whether the account has one or not.
"""

from base64 import b64encode
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from homeserver.config import PasswordSection
from homeserver.services.bounded_threads import BoundedThreads, Threads

P = ParamSpec("P")
T = TypeVar("T")

MAX_AT_ONCE = 2
MAX_WAITING = 100
_SALT_BYTES = 16
_HASH_BYTES = 32


class InlineThreads:
    """Computes at once, in the caller's thread: for tests and commands."""

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return maybeDeferred(function, *args, **kwargs)


class PooledThreads:
    """A few threads beside the reactor's; they end with the reactor."""

    def __init__(self, reactor: IReactorFromThreads, *, threads: int = MAX_AT_ONCE) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=threads, name="computations")
        self._pool.start()

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs)

    def close(self) -> None:
        self._pool.stop()


class Passwords:
    def __init__(self, section: PasswordSection, threads: Threads) -> None:
        self._hasher = PasswordHasher(
            time_cost=section.time_cost,
            memory_cost=section.memory_kib,
            parallelism=section.parallelism,
            salt_len=_SALT_BYTES,
            hash_len=_HASH_BYTES,
        )
        self._nobodys = _unmatchable(section)
        self._threads = BoundedThreads(
            threads,
            at_once=MAX_AT_ONCE,
            max_waiting=MAX_WAITING,
            refusal="Too many logins at once",
        )

    async def hash(self, password: str) -> str:
        """Raises LimitExceeded when too many are waiting."""
        return await self._threads.call(self._hasher.hash, password)

    async def verify(self, stored: str | None, password: str) -> bool:
        """Say whether `stored` is a hash of `password`; None takes as long and is never one.

        Raises LimitExceeded when too many are waiting.
        """
        return await self._threads.call(self._matches, stored or self._nobodys, password)

    def is_outdated(self, stored: str) -> bool:
        """Say whether `stored` was made with other costs than the configured ones."""
        return self._hasher.check_needs_rehash(stored)

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False


def _unmatchable(section: PasswordSection) -> str:
    def base64(data: bytes) -> str:
        return b64encode(data).decode().rstrip("=")

    return (
        f"$argon2id$v=19$m={section.memory_kib},t={section.time_cost},p={section.parallelism}"
        f"${base64(bytes(_SALT_BYTES))}${base64(bytes(_HASH_BYTES))}"
    )
