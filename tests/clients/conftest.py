"""The server under test and the clients' stage, once for the folder.

`CLIENT_TESTS_BASE_URL` names a running server with open registration to use instead of ours.
"""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.clients.js_client import install_js_sdk, run_node
from tests.clients.stage import Stage
from tests.server_process import run_homeserver


@pytest.fixture(scope="session")
def homeserver_process() -> Iterator[str]:
    """Give the base URL of a homeserver on which anyone may register."""
    if base_url := os.environ.get("CLIENT_TESTS_BASE_URL"):
        yield base_url.rstrip("/")
        return
    # Not below pytest's folder, which each run makes root's alone: PostgreSQL runs as another user.
    with (
        tempfile.TemporaryDirectory(prefix="countersign-clients-") as folder,
        run_homeserver(Path(folder)) as own_base_url,
    ):
        yield own_base_url


@pytest.fixture(scope="session")
def base_url(homeserver_process: str) -> str:
    return homeserver_process


@pytest.fixture(scope="session")
def node_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("node") / "stderr.log"


@pytest.fixture(scope="session")
def stage(base_url: str, node_log: Path) -> Iterator[Stage]:
    install_js_sdk()
    with asyncio.Runner() as runner, node_log.open("wb") as log:
        resources = AsyncExitStack()
        try:
            node = runner.run(resources.enter_async_context(run_node(log)))
            yield Stage(base_url, runner, node)
        finally:
            runner.run(resources.aclose())
