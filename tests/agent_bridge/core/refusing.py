"""`with refusing(Reason.X):` — the block must be refused for exactly that reason."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent_bridge.core.refusals import Reason, Refused


@contextmanager
def refusing(reason: Reason) -> Iterator[None]:
    with pytest.raises(Refused) as caught:
        yield
    assert caught.value.reason is reason, str(caught.value)
