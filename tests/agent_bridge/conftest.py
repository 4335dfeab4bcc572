"""A homeserver for the gate's and the signers' tests: ours, as a process of its own.

`MATRIX_TEST_BASE_URL` names another one with open registration, a Synapse for instance.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server_process import run_homeserver


@pytest.fixture(scope="session")
def matrix_server() -> Iterator[str]:
    """Its base URL."""
    given = os.environ.get("MATRIX_TEST_BASE_URL")
    if given is not None:
        yield given
        return
    with (
        tempfile.TemporaryDirectory(prefix="countersign-matrix-") as folder,
        run_homeserver(Path(folder)) as base_url,
    ):
        yield base_url
