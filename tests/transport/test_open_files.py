"""How many connections there can be: the limit of open files, raised at the start."""

import subprocess
import sys

import pytest

_PROGRAM = """
import logging, resource
from homeserver.transport.open_files import raise_open_files
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
raise_open_files()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def run(soft: int, hard: int) -> tuple[int, str]:
    """Return the limit that a process has in the end, and what it has logged."""
    shell = f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$0" -c "$1"'
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable, _PROGRAM], capture_output=True, text=True, check=True
    )
    return int(done.stdout), done.stderr


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes() -> None:
    limit, logged = run(soft=1024, hard=8192)

    assert limit == 8192
    assert logged == ""


@pytest.mark.parametrize("soft", [512, 1024])
def test_what_to_do_about_a_low_limit_is_said_in_one_line(soft: int) -> None:
    limit, logged = run(soft, hard=1024)

    assert limit == 1024
    assert logged.startswith("WARNING ")
    assert logged.count("\n") == 1
    assert "1024" in logged
    assert "LimitNOFILE" in logged
