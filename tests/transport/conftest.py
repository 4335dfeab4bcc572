"""The reactor that these tests turn by hand, ended with them; a server that echoes."""

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet import reactor as _reactor

from tests.transport.echo import Echo


@pytest.fixture(scope="session", autouse=True)
def _reactor_ends() -> Iterator[None]:
    """End the reactor's threads: Python waits for them before it exits."""
    yield
    reactor: Any = _reactor
    if reactor.running:
        reactor.fireSystemEvent("shutdown")


@pytest.fixture
def echo() -> Echo:
    return Echo()
