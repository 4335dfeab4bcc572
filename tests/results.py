"""Results that are there at once, because nothing in memory has to be waited for."""

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


def result_of(running: "Deferred[T] | Coroutine[Deferred[Any], Any, T]") -> T:
    """Raises what it has failed with, and AssertionError when it has not finished."""
    results: list[T | Failure] = []
    deferred = running if isinstance(running, Deferred) else Deferred.fromCoroutine(running)
    deferred.addBoth(results.append)
    assert results, "it should have finished at once"
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result
