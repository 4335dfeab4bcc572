import pytest

from agent_bridge.gate.sandbox_probe import SandboxReady, probe_sandbox


@pytest.fixture(scope="session")
def sandbox() -> SandboxReady:
    found = probe_sandbox()
    assert isinstance(found, SandboxReady), found
    return found
