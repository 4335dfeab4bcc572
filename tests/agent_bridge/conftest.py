"""What the tests of gate, signer and their Matrix client share."""

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent_bridge.gate.drafts import ready_sandbox
from tests.agent_bridge.gate_daemon.stage import Stage


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine, in the event loop of its fixtures if they have one."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    test = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    runner = pyfuncitem.funcargs.get("runner")
    if isinstance(runner, asyncio.Runner):
        runner.run(test)
    else:
        asyncio.run(test)
    return True


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def stage(runner: asyncio.Runner, tmp_path: Path) -> Iterator[Stage]:
    """A gate to be opened; it is closed after the test."""
    stage = Stage(tmp_path, ready_sandbox())
    yield stage
    runner.run(stage.close())
