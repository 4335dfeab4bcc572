"""The clients' stage, once for the folder."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.clients.js_client import install_js_sdk, run_node
from tests.clients.stage import Stage


@pytest.fixture(scope="session")
def node_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("node") / "stderr.log"


@pytest.fixture(scope="session")
def stage(matrix_server: str, node_log: Path) -> Iterator[Stage]:
    install_js_sdk()
    with asyncio.Runner() as runner, node_log.open("wb") as log:
        resources = AsyncExitStack()
        try:
            node = runner.run(resources.enter_async_context(run_node(log)))
            yield Stage(matrix_server, runner, node)
        finally:
            runner.run(resources.aclose())
