"""A fault at each SQL statement of what is tried, one after the other."""

from collections.abc import Iterator

import pytest

from tests.database import InlineDatabase

_MAX_STATEMENTS = 400


class Fault:
    """Within it the n-th SQL statement raises, if there are so many."""

    def __init__(self, database: InlineDatabase, number: int) -> None:
        self._database = database
        self.number = number
        self.was_reached = False

    def __enter__(self) -> None:
        self._database.fail_at = self.number

    def __exit__(self, *_: object) -> None:
        self.was_reached = self._database.fail_at is None
        self._database.fail_at = None


def each_fault(database: InlineDatabase, step: int = 1) -> Iterator[Fault]:
    """Give the faults, to be entered one by one; the last one is that which was not reached."""
    for number in range(1, _MAX_STATEMENTS, step):
        fault = Fault(database, number)
        yield fault
        if not fault.was_reached:
            return
    pytest.fail("there was no end of statements")
