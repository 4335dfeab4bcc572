import os

import pytest

from agent_bridge.gate.sandbox_probe import SandboxReady, probe_sandbox


@pytest.fixture(scope="session")
def sandbox() -> SandboxReady:
    found = probe_sandbox()
    assert isinstance(found, SandboxReady), found
    return found


@pytest.fixture
def matrix_server() -> str:
    """The base URL of a homeserver with open registration."""
    return os.environ.get("MATRIX_TEST_BASE_URL", "http://127.0.0.1:8118")
