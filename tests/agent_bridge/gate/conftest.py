from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent_bridge.gate.drafts import Gate, make_gate


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = make_gate(tmp_path)
    yield made
    made.store.close()
