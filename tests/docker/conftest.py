"""The images are built by `make images`; `make images-check` builds them and runs these tests."""

import os
import shutil
import subprocess

import pytest

CHECKED = "COUNTERSIGN_IMAGES_CHECK"


@pytest.fixture(scope="session", autouse=True)
def _docker() -> None:
    if shutil.which("docker") is None:
        pytest.skip("there is no docker command here")
    answered = subprocess.run(["docker", "info"], capture_output=True, check=False)
    if answered.returncode:
        pytest.skip("the docker command finds no daemon")
    if CHECKED not in os.environ:
        pytest.skip("the images may be older than the code: run make images-check")
